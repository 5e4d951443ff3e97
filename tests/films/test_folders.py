import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from film_files import dicom
from folders import draw, make_folder, make_kaggles_tree

import data
from basics.problems import Problem, UsageProblem
from films import folders, sources


def opened(path: Path, zipped: bool = False) -> sources.Source:
    """A folder, or a zip of it."""
    return sources.open_source(shutil.make_archive(str(path), "zip", path) if zipped else str(path), 32)


def names(source: sources.Source) -> list[str]:
    return [entry.file for entry in source.entries]


@pytest.mark.parametrize("zipped", [False, True])
def test_kaggles_tree_is_read_once_and_what_is_hidden_stays_silent(tmp_path, cache, capsys, zipped):
    plain = names(opened(make_folder(tmp_path / "plain", ("train", "val", "test"))))
    source = opened(make_kaggles_tree(tmp_path / "archive"), zipped)
    assert names(source) == plain and len(plain) == 96
    where = tmp_path / ("archive.zip" if zipped else "archive")
    assert source.notes == [f"96 pictures in {where} lie outside the folders that are used, and are not: "
                            "96 in chest_xray/chest_xray"]  # fmt: skip
    dataset = data.load(str(where), 32, cache)
    assert capsys.readouterr().err.splitlines() == [f"note: {source.notes[0]}"] and not dataset.bad
    assert dataset.name.startswith("Kermany v2: 96 of 5,856 images")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_validation_by_other_names(tmp_path, zipped, name):
    make_folder(tmp_path / "x", ("train", name, "test"))
    found = opened(tmp_path / "x", zipped)
    assert {e.file.split("/")[0]: e.folder for e in found.entries} == {"train": "train", name: "val", "test": "test"}
    assert found.notes == [] and len(found.entries) == 96


@pytest.mark.parametrize("zipped", [False, True])
def test_names_equal_but_for_case_are_one_class(tmp_path, zipped):
    make_folder(tmp_path / "x", ("train", "Train"), count=3)
    if len(list((tmp_path / "x").iterdir())) < 2:
        pytest.skip("this disk does not tell case")
    shutil.move(tmp_path / "x" / "Train" / "NORMAL", tmp_path / "x" / "train" / "Normal")
    found = opened(tmp_path / "x", zipped)
    assert len(found.entries) == 16 and sum(entry.label for entry in found.entries) == 8 and found.notes == []
    assert {entry.file.rpartition("/")[0] for entry in found.entries} == {
        "train/NORMAL", "train/Normal", "train/PNEUMONIA", "Train/PNEUMONIA",
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_that_are_not_used_are_counted_with_their_place(tmp_path, zipped):
    folder = make_folder(tmp_path / "x", ("train", "test"), count=3)
    for i in range(7):
        draw(folder / "train" / "COVID" / "deep" / f"{i}.png", i)
    for i, place in enumerate(("", "NORMAL", "train", "test/OTHER", "a\n", "z1", "z2")):
        draw(folder / place / f"more {i}.png", i)
    draw(folder / "NORMAL" / "x.TIFF", 3)
    (folder / "notes.txt").write_text("no picture")
    (folder / "PNEUMONIA").mkdir()  # beside train/ and test/ it is no class
    (folder / "PNEUMONIA" / "IM000001").write_bytes(b"\0" * 128 + b"DICM")
    found = opened(folder, zipped)
    assert len(found.entries) == 16
    where = tmp_path / ("x.zip" if zipped else "x")
    (note,) = found.notes
    where = f"16 pictures in {where} lie outside the folders that are used, and are not: "
    assert note == where + (
        "7 in train/COVID, 2 in NORMAL, 1 in PNEUMONIA, 1 in a\\n, 1 in test/OTHER and 4 more folders"
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_film_is_counted_by_suffix(tmp_path, zipped):
    folder = make_folder(tmp_path / "x")
    for i, name in enumerate(("a.tif", "b.TIF", "c.bmp", "d.webp", "e.gif", "f.txt", "README", "g.7z", "h.tif")):
        (folder / ("NORMAL", "PNEUMONIA")[i % 2] / name).write_bytes(b"no film")
    found = opened(folder, zipped)
    assert len(found.entries) == 32
    (note,) = found.notes
    assert note.startswith("9 files in ") and " are no JPEG, PNG or DICOM and are not used: 3 .tif, 1 " in note
    assert note.endswith(" and 2 more kinds")
    shutil.rmtree(folder / "NORMAL")
    (folder / "NORMAL").mkdir()
    (folder / "NORMAL" / "a.tif").write_bytes(b"no film")
    with pytest.raises(Problem, match="in any folder named NORMAL; 5 files .* are not used: .*2 .tif"):
        opened(folder, zipped)


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    folder = make_folder(tmp_path / "x", ("train",), count=3)
    for i in range(4):
        draw(tmp_path / "elsewhere" / "deep" / f"{i}.png", i)
        draw(tmp_path / "third" / f"{i}.png", i)
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    (folder / "train" / "NORMAL" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "train" / "NORMAL" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (folder / "train" / "NORMAL" / "ill").symlink_to(folder / "train" / "PNEUMONIA")
    (folder / "train" / "NORMAL" / "top").symlink_to(folder)
    (folder / "test").symlink_to(folder / "train")
    (folder / "COVID").symlink_to(tmp_path / "third")
    (folder / "round").symlink_to(folder)
    draw(folder / "loose.png")
    found = opened(folder)
    normal = [entry for entry in found.entries if entry.file.startswith("train/") and not entry.label]
    assert len(normal) == 4 + 4 and not any("ill/" in entry.file or "top/" in entry.file for entry in normal)
    assert {entry.folder for entry in found.entries} == {"train", "test"} and len(found.entries) == 2 * 12
    (note,) = found.notes
    assert note == f"5 pictures in {folder} lie outside the folders that are used, and are not: 4 in COVID, 1 loose"
    assert all(entry.read() for entry in found.entries)


@pytest.mark.parametrize("zipped", [False, True])
def test_dicom_is_known_by_its_content_and_an_index_is_none(tmp_path, cache, zipped):
    pytest.importorskip("pydicom")
    files = ("IM000001", "1.2.840.113619.2.5.1762583153", "x.dicom", "y.DICOM", "z.dcm", "w.ima")
    for i, (label, name) in enumerate((label, name) for label in sources.CLASSES for name in files):
        path = tmp_path / "x" / label / "disc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(np.random.default_rng(i).integers(0, 4096, (40, 50)), PatientID=f"P{i}"))
    shutil.copy(path, tmp_path / "x" / "NORMAL" / "DICOMDIR")
    shutil.copy(path, tmp_path / "x" / "NORMAL" / "dicomdir")
    found = opened(tmp_path / "x", zipped)
    assert sorted(names(found)) == sorted(f"{label}/disc/{name}" for label in sources.CLASSES for name in files)
    dataset = data.load(found.path, 32, cache)
    assert len(set(dataset.patients)) == 12 and dataset.unknown_patients == 0 and not dataset.bad


def test_a_zip_with_backslashes_gives_what_one_with_slashes_gives(tmp_path, cache):
    folder = make_folder(tmp_path / "x" / "chest_xray", ("train", "test"))
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("chest_xray\\train\\", b"")
        for file in sorted(folder.rglob("*.jpeg")):
            name = str(file.relative_to(tmp_path / "x")).replace("/", "\\")
            archive.writestr(zipfile.ZipInfo(name), file.read_bytes())
    one, two = data.load(str(tmp_path / "x.zip"), 32, cache), data.load(str(tmp_path / "y.zip"), 32, cache)
    assert two.files == one.files and len(two.files) == 64 and two.fingerprint == one.fingerprint
    assert np.array_equal(two.images, one.images) and two.folders == one.folders


def test_a_zip_of_a_thousand_folders_in_each_other_and_of_names_that_are_both(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("NORMAL", "NORMAL/a.png", "NORMAL/a.png/b.png", "/PNEUMONIA//./c.png", "a/" * 20_000 + "d.png"):
            archive.writestr(name, b"no film")
    found = sources.open_source(str(tmp_path / "x.zip"), 32)
    assert names(found) == ["NORMAL/a.png/b.png", "PNEUMONIA/c.png"]
    assert found.notes[0].endswith("1 in a")


def test_an_encrypted_member_without_a_suffix_is_named_with_its_reason(tmp_path, cache):
    shutil.make_archive(str(tmp_path / "x"), "zip", make_folder(tmp_path / "x"))
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("NORMAL/IM000001", b"secret")
        place = archive.getinfo("NORMAL/IM000001").header_offset
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[place + 6] |= 1  # the flag of a password, in the member's header and in the last one of the directory
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(Problem, match="1 of 33 files cannot be read.*\n.*NORMAL/IM000001: .*password"):
        data.load(str(tmp_path / "x.zip"), 32, cache)


def test_a_closed_folder_beside_the_films_is_said_and_stops_nobody(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "x")
    (folder / "lost+found").mkdir()
    iterdir = Path.iterdir

    def closed(path: Path) -> object:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    found = opened(folder)
    assert len(found.entries) == 32
    assert found.notes == [f"1 folder in {folder} cannot be looked into, such as lost+found/ (Permission denied)"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_read_and_a_large_file_is_not_read_whole(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "x")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "NORMAL" / "pipe")
    (folder / "NORMAL" / "large").write_bytes(b"\0" * 5000)
    monkeypatch.setattr(folders, "MAX_BYTES", 4000)
    found = opened(folder)
    (pipe,) = (entry for entry in found.entries if entry.file.endswith("pipe"))
    with pytest.raises(ValueError, match="not a regular file"):
        pipe.read()
    assert len(found.notes) == 1 and found.notes[0].endswith("1 without a suffix")
    with pytest.raises(ValueError, match="5,000 bytes is more than the limit of 4,000"):
        folders.read(folder / "NORMAL" / "large")


HEALTHY = (("healthy", "Clear"), ("sick",))  # names of the class folders


def renamed(root: Path, sides: tuple[str, ...] = ("train", "test")) -> Path:
    """make_folder's tree with other names: half of the normal films in a folder of their own."""
    for side in sides:
        for i in range(12):
            draw(root / side / ("HEALTHY" if i % 2 else "clear") / f"a{side}{i}.png", 2 * i)
            draw(root / side / "Sick" / f"b{side}{i}.png", 2 * i + 1)
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_other_names_are_told_and_then_found(tmp_path, cache, zipped):
    root = renamed(tmp_path / "outer" / "films")
    where = Path(shutil.make_archive(str(root), "zip", tmp_path / "outer")) if zipped else tmp_path / "outer"
    with pytest.raises(Problem) as caught:
        data.load(str(where), 32, cache)
    assert str(caught.value) == (
        f"{where}: no folders named NORMAL and PNEUMONIA, neither here nor in train/, val/ and test/, but HEALTHY, "
        f"Sick, clear; {folders.REMEDY}")  # fmt: skip
    assert "--classes" in folders.REMEDY and "NORMAL=healthy PNEUMONIA=sick" in folders.REMEDY
    dataset = data.load(str(where), 32, cache, classes=HEALTHY)
    assert len(dataset.files) == 48 and dataset.labels.sum() == 24
    assert {file.split("/")[1] for file, label in zip(dataset.files, dataset.labels, strict=True) if label} == {"Sick"}
    with pytest.raises(Problem, match="in any folder named none or nowhere; "):
        data.load(str(where), 32, cache, classes=(("none", "nowhere"), ("sick",)))


def test_other_classes_for_the_same_films_are_other_labels_and_another_fingerprint(tmp_path):
    root, cache = make_folder(tmp_path / "films"), tmp_path / "cache"
    plain = data.load(str(root), 32, cache)
    same, turned = (data.load(str(root), 32, cache, classes=names)
                    for names in ((("normal",), ("pneumonia",)), (("PNEUMONIA",), ("NORMAL",))))  # fmt: skip
    assert plain.files == same.files == turned.files and len(list(cache.glob("[!.]*"))) == 1  # one cache for all three
    assert (plain.labels == same.labels).all() and (plain.labels == 1 - turned.labels).all()
    assert data.load(str(root), 32, cache).labels.tolist() == plain.labels.tolist()
    assert len({plain.fingerprint, same.fingerprint, turned.fingerprint}) == 3
    assert data.split(plain).fingerprint == data.split(same).fingerprint != data.split(turned).fingerprint


def test_classes_are_for_folders(tmp_path, cache):
    (tmp_path / "x.csv").write_text("path,label\n")
    for source in ("phantoms", str(tmp_path / "x.csv"), str(tmp_path / "x.npz")):
        with pytest.raises(UsageProblem, match="--classes is for folders and .zip files: "):
            data.load(source, 32, cache, classes=HEALTHY)


def test_a_class_that_is_missing_has_its_remedy(tmp_path, cache):
    draw(tmp_path / "NORMAL" / "a.png")
    draw(tmp_path / "sick" / "b.png")
    with pytest.raises(Problem, match="named PNEUMONIA; 1 picture in .* lies outside .* 1 in sick; --classes"):
        data.load(str(tmp_path), 32, cache)
