import csv
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from film_files import dicom
from folders import draw, make_folder

import data
from basics.problems import Problem, UsageProblem
from films import sources


@pytest.mark.parametrize(
    ("file", "patient", "etiology"),
    [
        ("train/PNEUMONIA/person23_bacteria_77.jpeg", "person23_bacteria", "bacteria"),
        ("person23_virus_77.jpeg", "person23_virus", "virus"),
        ("person447_virus_921_1.jpeg", "person447_virus", "virus"),
        ("IM-0115-0001.jpeg", "IM-0115", "pneumonia"),
        ("IM-0011-0001-0001.jpeg", "IM-0011", "pneumonia"),
        ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115", "pneumonia"),
        ("film.png", None, "pneumonia"),
        ("person23_fungus_1.jpeg", None, "pneumonia"),
    ],
)
def test_names_carry_patient_and_etiology(file, patient, etiology):
    assert sources.patient_of(file) == patient
    assert sources.etiology_of(file, 1) == etiology
    assert sources.etiology_of(file, 0) == "normal"


@pytest.mark.parametrize(
    ("sides", "sentence"),
    [
        (("train", "test"), "Kermany v2: all 5,856 images"),
        (("train",), "Kermany v2: 5,232 of 5,856 images, train only"),
        (("test",), "Kermany v2: 624 of 5,856 images, test only"),
        (("",), "Kermany v2: all 5,856 images"),
    ],
)
def test_a_complete_kermany_is_recognised(sides, sentence):
    name = {"normal": "IM-{}-1.jpeg", "bacteria": "person{}_bacteria_1.jpeg", "virus": "person{}_virus_1.jpeg"}
    entries = []
    for (side, etiology), count in sources.KERMANY_V2.items():
        folder = "" if sides == ("",) else side
        if sides != ("",) and side not in sides:
            continue
        for i in range(count):
            file = name[etiology].format(i)
            folder = "val" if folder == "train" and i < 8 else side if folder else ""  # Kaggle moves some to val/
            entries.append(sources.Entry(file, int(etiology != "normal"), folder, None, None, "x", etiology))
    assert sources.describe(entries) == sentence
    incomplete = sources.describe(entries[1:])
    assert "not a complete copy" in incomplete and "instead of" in incomplete


# ------------------------------------------------------------------------------------------------------ zips


@pytest.mark.parametrize("sides", [("",), ("train", "test")])
def test_a_zip_gives_what_its_folder_gives(tmp_path, cache, sides):
    folder = make_folder(tmp_path / "x" / "chest_xray", sides)
    (tmp_path / "x" / "__MACOSX" / "NORMAL").mkdir(parents=True)
    (tmp_path / "x" / "__MACOSX" / "NORMAL" / "._IM-1-1.jpeg").write_text("junk")
    (folder / ".DS_Store").touch()
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "x")
    one, two = data.load(str(tmp_path / "x"), 32, cache), data.load(str(tmp_path / "x.zip"), 32, cache)
    assert one.files == two.files and one.patients == two.patients and one.folders == two.folders
    assert np.array_equal(one.images, two.images) and np.array_equal(one.labels, two.labels)
    assert one.fingerprint == two.fingerprint
    assert data.split(one).fingerprint == data.split(two).fingerprint


def test_a_changed_zip_never_meets_a_stale_cache(tmp_path, cache):
    folder = make_folder(tmp_path / "x")
    shutil.make_archive(str(tmp_path / "x"), "zip", folder)
    first = data.load(str(tmp_path / "x.zip"), 32, cache)
    draw(folder / first.files[0], 999)
    shutil.make_archive(str(tmp_path / "x"), "zip", folder)
    assert data.load(str(tmp_path / "x.zip"), 32, cache).fingerprint != first.fingerprint


def test_broken_zips_have_their_reason(tmp_path, cache):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(Problem, match="x.zip: not a whole zip file"):
        data.load(str(tmp_path / "x.zip"), 32, cache)
    shutil.make_archive(str(tmp_path / "y"), "zip", make_folder(tmp_path / "y"))
    content = bytearray((tmp_path / "y.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "y.zip") as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith(".jpeg"))
    content[member.header_offset + 60 + len(member.filename)] ^= 0xFF  # a byte of its compressed content
    (tmp_path / "y.zip").write_bytes(content)
    with pytest.raises(Problem, match="1 of 32 files cannot be read"):
        data.load(str(tmp_path / "y.zip"), 32, tmp_path / "cache")


# ------------------------------------------------------------------------------------------------- manifests


def manifest(folder: Path, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "films.csv").write_text(text, encoding="utf-8")
    return str(folder / "films.csv")


def films(folder: Path, count: int) -> list[str]:
    for i in range(count):
        draw(folder / "images" / f"film {i} ü.png", i)
    return [f"images/film {i} ü.png" for i in range(count)]


def test_a_manifest_with_everything(tmp_path, cache):
    rows = [f"{file},{('NORMAL', '1')[i % 2]},P{i // 4},{('train', 'val', 'test')[i // 20]},{('', 'Virus')[i % 2]}"
            for i, file in enumerate(films(tmp_path, 60))]  # fmt: skip
    text = "\ufeffPath,Label,Patient,Split,Etiology\n" + "\n".join(rows)
    dataset = data.load(manifest(tmp_path, text), 32, cache)
    assert len(dataset.files) == 60 and dataset.labels.sum() == 30
    assert dataset.has_patients and len(set(dataset.patients)) == 15 and dataset.unknown_patients == 0
    assert set(dataset.etiologies) == {"normal", "virus"}
    official = data.split(dataset, "official")
    assert [len(side) for side in official.sides.values()] == [20, 20, 20]  # its own validation is used as it is
    assert data.describe_leak(dataset, data.split(dataset, "patient").sides) == ""


def test_a_manifest_from_windows(tmp_path, cache):
    rows = [f"{file.replace('/', chr(92))},{i % 2},P{i}" for i, file in enumerate(films(tmp_path, 4))]
    dataset = data.load(manifest(tmp_path, "path,label,patient\n" + "\n".join(rows)), 32, cache)
    assert dataset.files == sorted(films(tmp_path, 4)) and not dataset.bad


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_manifest_of_a_spreadsheet_with_semicolons_or_tabs(tmp_path, cache, delimiter, start):
    files = films(tmp_path, 8)
    lines = ["path,label,patient,split,age", *(f'{f},{i % 2},"Doe, J{i // 2}",test,"1,5"' for i, f in enumerate(files))]
    rows = [delimiter.join(row) for row in csv.reader(lines)]
    dataset = data.load(manifest(tmp_path, start + "\r\n".join(rows) + "\r\n"), 32, cache)
    assert dataset.files == files and dataset.labels.tolist() == [0, 1] * 4 and set(dataset.folders) == {"test"}
    assert dataset.patients == [f"Doe, J{i // 2}" for i in range(8)]


def test_without_a_patient_column_only_the_image_split_is_possible(tmp_path, cache):
    text = "path,label\n" + "\n".join(f"{file},{i % 2}" for i, file in enumerate(films(tmp_path, 40)))
    dataset = data.load(manifest(tmp_path, text), 32, cache)
    assert not dataset.has_patients
    with pytest.raises(Problem, match="one patient.* a column `patient`; --split image can, but leaks"):
        data.split(dataset)
    assert len(data.split(dataset, "image").test) == 8


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,label\na.png,0\n", "no column 'path'"),
        ("path,class\na.png,0\n", "no column 'label'"),
        ("", "no column 'path'"),
        ("sep=;\npath;label\na.png;0\n", "no column 'path' in its first line, 'sep=;'; path and label are needed"),
        ("path|label\na.png|0\n", "no column 'path' in its first line, 'path|label'.*commas, semicolons or tabs"),
        ("path;label\u2028\u202e;patient\na.png;0;x\n", "no column 'label' in its first line, "),
        ("path;class\na.png;0\n", "no column 'label' in its first line, 'path;class'"),
        ("path;label\na.png;2\n", "line 2: label '2' is none of"),
        ("path,label\na.png,0\nb.png,2\n", "line 3: label '2' is none of"),
        ("path,label,split\na.png,0,tst\n", "line 2: split 'tst' is none of"),
        ("path,label,patient\na.png,0,\n", "line 2: no patient"),
        ("path,label\n,0\n", "line 2: no path"),
        ("path,label\na.png,0\na.png,1\n", "1 file is listed more than once"),
        ("path,label\na.png,0\nb.png,0\n", "both labels, 0 .normal. and 1 .pneumonia., are needed"),
        ("path,label\na.png,0\nb.png\n", "line 3: label '' is none of"),
    ],
)
def test_a_wrong_manifest_is_refused_by_line(tmp_path, cache, text, complaint):
    with pytest.raises(Problem, match=complaint):
        data.load(manifest(tmp_path, text), 32, cache)


def test_a_manifest_that_is_no_text_or_names_missing_files(tmp_path, cache):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(Problem, match="x.csv: not a CSV file in UTF-8"):
        data.load(str(tmp_path / "x.csv"), 32, cache)
    with pytest.raises(Problem, match="2 of 2 files cannot be read.*\n.*a.png: No such file"):
        data.load(manifest(tmp_path, "path,label\na.png,0\nb.png,1\n"), 32, cache)


# ---------------------------------------------------------------------------------------------------- arrays


def arrays(path: Path, size: int = 28, count: int = 20, **changes) -> str:
    rng = np.random.default_rng(0)
    content = {}
    for side in ("train", "val", "test"):
        content[f"{side}_images"] = rng.integers(0, 256, (count, size, size), np.uint8)
        content[f"{side}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(path, **{**content, **changes})
    return str(path)


@pytest.mark.parametrize("size", [28, 64])
def test_pneumoniamnist_uses_its_own_sides(tmp_path, cache, size):
    dataset = data.load(arrays(tmp_path / "x.npz", size), 64, cache)
    split = data.split(dataset, "official")
    assert [len(side) for side in split.sides.values()] == [20, 20, 20]
    assert {dataset.folders[i] for i in split.validation} == {"val"}
    if size == 64:
        with np.load(tmp_path / "x.npz") as content:
            assert np.array_equal(dataset.images[split.test], content["test_images"])
            assert np.array_equal(dataset.labels[split.test], content["test_labels"][:, 0])
    with pytest.raises(Problem, match="--split official can; --split image can, but leaks"):
        data.split(dataset, "patient")


@pytest.mark.parametrize(
    "changes",
    [
        {"val_images": np.zeros((20, 28, 28, 3), np.uint8)},
        {"test_images": np.zeros((20, 28, 28), np.float32)},
        {"train_labels": np.full((20, 1), 2)},
        {"train_labels": np.zeros((19, 1), int)},
    ],
)
def test_other_arrays_are_refused(tmp_path, cache, changes):
    with pytest.raises(Problem, match="x.npz: .*_images must be uint8"):
        data.load(arrays(tmp_path / "x.npz", **changes), 64, cache)


def test_broken_arrays_are_refused(tmp_path, cache):
    np.savez(tmp_path / "x.npz", images=np.zeros(3))
    with pytest.raises(Problem, match="x.npz: not PneumoniaMNIST's arrays"):
        data.load(str(tmp_path / "x.npz"), 64, cache)
    (tmp_path / "y.npz").write_bytes(Path(arrays(tmp_path / "z.npz")).read_bytes()[:500])
    with pytest.raises(Problem, match="y.npz: not PneumoniaMNIST's arrays"):
        data.load(str(tmp_path / "y.npz"), 64, cache)
    arrays(tmp_path / "pickled.npz", train_images=np.array([{}], dtype=object))
    with pytest.raises(Problem, match="pickled.npz: not PneumoniaMNIST's arrays"):
        data.load(str(tmp_path / "pickled.npz"), 64, cache)


# ------------------------------------------------------------------------------------------- bad surroundings


def test_what_is_no_source_is_a_wrong_call(tmp_path, cache):
    (tmp_path / "x.txt").touch()
    with pytest.raises(UsageProblem, match="a folder, .zip, .csv or .npz is needed"):
        data.load(str(tmp_path / "x.txt"), 32, cache)
    with pytest.raises(UsageProblem, match="no such file or folder"):
        data.load(str(tmp_path / "x.zip"), 32, cache)


def test_odd_names_and_stray_files(tmp_path, cache, capsys):
    folder = make_folder(tmp_path / "a folder, ü")
    draw(folder / "NORMAL" / "new\nline.png", 900)
    draw(folder / "NORMAL" / "胸部 X.jpeg", 902)
    draw(folder / "NORMAL" / "deeper" / "still" / "x.png", 904)
    (folder / "NORMAL" / "Thumbs.db").touch()
    (folder / "NORMAL" / ".hidden.png").touch()
    (folder / "NORMAL" / "animation.gif").touch()
    dataset = data.load(str(folder), 32, cache)
    assert len(dataset.files) == 35
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"note: 2 files in {folder} are no JPEG, PNG or DICOM and are not used: 1 .db, 1 .gif"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang_and_a_circle_of_links_ends(tmp_path, cache):
    folder = make_folder(tmp_path / "x")
    os.mkfifo(folder / "NORMAL" / "pipe.jpeg")
    (folder / "NORMAL" / "circle").symlink_to(folder)
    with pytest.raises(Problem, match="pipe.jpeg: not a regular file"):
        data.load(str(folder), 32, cache)


def test_a_folder_that_may_not_be_read(tmp_path, cache):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    folder = make_folder(tmp_path / "x")
    (folder / "NORMAL").chmod(0)
    try:
        with pytest.raises(Problem, match="NORMAL: Permission denied"):
            data.load(str(folder), 32, cache)
    finally:
        (folder / "NORMAL").chmod(0o755)


# ----------------------------------------------------------------------------------------------------- DICOM


def test_dicom_patients_are_kept_together_and_never_named(tmp_path):
    """Twelve patients a class with three films each; neither cache nor data set may hold an id or a name."""
    for i in range(72):
        label, patient = ("NORMAL", "PNEUMONIA")[i % 2], i // 6
        path = tmp_path / "x" / label / f"{i}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(i).integers(0, 4096, (40, 50)).astype(np.uint16)
        path.write_bytes(dicom(values, PatientID=f"PLANTED-{label}-{patient}", PatientName="Planted^Name"))
    dataset = data.load(str(tmp_path / "x"), 32, tmp_path / "cache")
    assert dataset.has_patients and dataset.unknown_patients == 0 and len(set(dataset.patients)) == 24
    for i, file in enumerate(dataset.files):
        number = int(Path(file).stem)
        mates = {
            int(Path(dataset.files[j]).stem) // 6 for j, p in enumerate(dataset.patients) if p == dataset.patients[i]
        }
        assert mates == {number // 6}
    assert data.describe_leak(dataset, data.split(dataset, "patient").sides) == ""
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            assert b"PLANTED" not in path.read_bytes() and b"Planted" not in path.read_bytes()
    assert "PLANTED" not in repr(dataset) and "Planted" not in repr(dataset)


def test_installing_pydicom_is_noticed(tmp_path, monkeypatch):
    for i in range(4):
        path = tmp_path / "x" / ("NORMAL", "PNEUMONIA")[i % 2] / f"{i}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(np.random.default_rng(i).integers(0, 4096, (40, 50)).astype(np.uint16)))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pydicom", None)
        with pytest.raises(Problem, match="4 of 4 files cannot be read.*\n.*pip install pydicom .* reads them"):
            data.load(str(tmp_path / "x"), 32, tmp_path / "cache")
    assert len(data.load(str(tmp_path / "x"), 32, tmp_path / "cache").files) == 4
