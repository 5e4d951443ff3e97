import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import draw, make_folder

import data
from basics.problems import Problem, UsageProblem
from films import images, sources

# ------------------------------------------------------------------------------------- layouts and errors


@pytest.mark.parametrize("wrapped", ["", "chest_xray", "archive/chest_xray"])
@pytest.mark.parametrize("sides", [("",), ("train",), ("train", "test"), ("train", "val", "test")])
def test_layouts(tmp_path, cache, sides, wrapped):
    make_folder(tmp_path / wrapped, sides)
    (tmp_path / wrapped / "__MACOSX").mkdir()
    (tmp_path / wrapped / ".DS_Store").touch()
    dataset = data.load(str(tmp_path), 32, cache)
    assert len(dataset.files) == 32 * len(sides)
    assert dataset.labels.sum() == 16 * len(sides)
    assert set(dataset.folders) == set(sides)
    assert dataset.files == sorted(dataset.files)
    assert dataset.images.shape == (len(dataset.files), 32, 32)
    assert not dataset.synthetic


def test_class_folders_in_any_case_and_all_formats(tmp_path, cache):
    for i, (suffix, mode) in enumerate([("png", "L"), ("jpg", "RGB"), ("JPEG", "L"), ("png", "RGB"), ("png", "P")] * 3):
        draw(tmp_path / ("Normal" if i % 2 else "pneumonia") / f"{i}.{suffix}", i, mode=mode)
    dataset = data.load(str(tmp_path), 32, cache)
    assert len(dataset.files) == 15
    assert dataset.unknown_patients == 15
    assert len(set(dataset.patients)) == 15


def test_a_wrong_folder_is_a_wrong_call(tmp_path, cache):
    with pytest.raises(UsageProblem, match="nowhere: no such file or folder"):
        data.load(str(tmp_path / "nowhere"), 32, cache)
    with pytest.raises(Problem, match="no folders named NORMAL and PNEUMONIA"):
        data.load(str(tmp_path), 32, cache)
    draw(tmp_path / "NORMAL" / "IM-0001-0001.jpeg")
    (tmp_path / "PNEUMONIA").mkdir()
    with pytest.raises(Problem, match="no JPEG, PNG or DICOM image in any folder named PNEUMONIA"):
        data.load(str(tmp_path), 32, cache)


def spoil(folder: Path) -> None:
    """Four bad files: cut, empty, text, and a link that leads nowhere."""
    whole = (folder / "NORMAL" / "IM-0001-0001.jpeg").read_bytes()
    (folder / "NORMAL" / "IM-0001-0001.jpeg").write_bytes(whole[: len(whole) // 2])
    (folder / "NORMAL" / "IM-0002-0001.jpeg").write_bytes(b"")
    (folder / "PNEUMONIA" / "person1_virus_1.jpeg").write_text("no image")
    (folder / "PNEUMONIA" / "person2_virus_1.jpeg").unlink()
    (folder / "PNEUMONIA" / "person2_virus_1.jpeg").symlink_to("nowhere.jpeg")


def test_bad_files_are_named_with_their_reason(tmp_path):
    folder = make_folder(tmp_path / "x")
    spoil(folder)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(Problem) as caught:
            data.load(str(folder), 32, tmp_path / "cache")
        text = str(caught.value)
        assert "4 of 32 files cannot be read" in text and "--skip-bad" in text
        assert "NORMAL/IM-0001-0001.jpeg: " in text and "runcated" in text
        assert "NORMAL/IM-0002-0001.jpeg: the file is empty" in text
        assert "PNEUMONIA/person1_virus_1.jpeg: not a JPEG, PNG or DICOM file" in text
        assert "PNEUMONIA/person2_virus_1.jpeg: No such file" in text


def test_skip_bad_goes_on_without_them_and_keeps_the_record(tmp_path, capsys):
    folder = make_folder(tmp_path / "x")
    whole = data.load(str(folder), 32, tmp_path / "cache")
    spoil(folder)
    dataset = data.load(str(folder), 32, tmp_path / "cache", skip_bad=True)
    assert "4 of 32 files cannot be read and are left out" in capsys.readouterr().err
    assert len(dataset.files) == 28 and len(dataset.bad) == 4
    for i, file in enumerate(dataset.files):  # rows stay with their files
        j = whole.files.index(file)
        assert np.array_equal(dataset.images[i], whole.images[j])
        assert dataset.labels[i] == whole.labels[j] and dataset.pixel_hashes[i] == whole.pixel_hashes[j]


@pytest.mark.parametrize("zipped", [False, True])
def test_files_that_are_left_out_are_counted_also_when_the_cache_is_read_again(tmp_path, capsys, zipped):
    for i in range(40):
        draw(tmp_path / "x" / ("NORMAL" if i % 2 else "PNEUMONIA") / f"film {i}.png", i)
    for i in range(3):
        (tmp_path / "x" / "NORMAL" / f"bad {i}.png").write_text("no image")
    source = shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "x") if zipped else str(tmp_path / "x")
    found = [data.load(source, 32, tmp_path / "cache", skip_bad=True) for _ in range(3)]
    for dataset in found:
        assert dataset.name == "40 images: 20 normal, 20 pneumonia, and 3 that cannot be read"
        assert [file for file, _ in dataset.bad] == [f"NORMAL/bad {i}.png" for i in range(3)]
        assert len(dataset.files) == 40 and dataset.fingerprint == found[0].fingerprint
        assert np.array_equal(dataset.images, found[0].images)
    assert capsys.readouterr().err.count("3 of 43 files cannot be read and are left out") == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_kermanys_data_keep_their_name_without_what_cannot_be_read(tmp_path):
    folder = make_folder(tmp_path / "x")
    whole = data.load(str(folder), 32, tmp_path / "cache").name
    spoil(folder)
    dataset = data.load(str(folder), 32, tmp_path / "cache", skip_bad=True)
    assert dataset.name == f"{whole}, of which 4 cannot be read" and whole.startswith("Kermany v2: 32 of 5,856 images")


def test_only_the_first_ten_of_many_bad_files_are_listed(tmp_path):
    folder = make_folder(tmp_path / "x")
    for i in range(25):
        (folder / "NORMAL" / f"bad{i:02d}\n.jpeg").write_text("no image")
    with pytest.raises(Problem) as caught:
        data.load(str(folder), 32, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert len(lines) == 12 and lines[-1] == "  and 15 more"
    assert lines[1] == "  NORMAL/bad00\\n.jpeg: not a JPEG, PNG or DICOM file"


# ------------------------------------------------------------------------------------------------- the cache


def test_a_second_load_decodes_nothing(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "x")
    first = data.load(str(folder), 32, tmp_path / "cache")
    monkeypatch.setattr(images, "decode", None)
    second = data.load(str(folder), 32, tmp_path / "cache")
    assert (first.images == second.images).all()
    assert first.fingerprint == second.fingerprint
    assert first.pixel_hashes == second.pixel_hashes


def test_a_changed_source_never_meets_a_stale_cache(tmp_path):
    folder = make_folder(tmp_path / "x")
    first = data.load(str(folder), 32, tmp_path / "cache")
    path = folder / first.files[0]
    before = path.stat()
    changed = bytearray(path.read_bytes())
    changed[-20] ^= 1  # same name, length and time of change
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert data.load(str(folder), 32, tmp_path / "cache").fingerprint != first.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert data.load(str(folder), 48, tmp_path / "cache").images.shape[1] == 48


def test_a_damaged_cache_is_built_again(tmp_path):
    folder = make_folder(tmp_path / "x")
    first = np.array(data.load(str(folder), 32, tmp_path / "cache").images)
    (built,) = (tmp_path / "cache").iterdir()
    (built / "images.npy").write_bytes((built / "images.npy").read_bytes()[:-100])
    assert (data.load(str(folder), 32, tmp_path / "cache").images == first).all()
    (built / "listing.json").unlink()
    assert (data.load(str(folder), 32, tmp_path / "cache").images == first).all()


@pytest.mark.parametrize("name", ["images.npy", "listing.json"])
def test_a_flipped_bit_in_a_cache_is_noticed(tmp_path, name):
    folder, cache = make_folder(tmp_path / "films"), tmp_path / "cache"
    before = data.load(str(folder), 32, cache)
    pixels, (file,) = np.array(before.images), cache.glob(f"*/{name}")
    content = bytearray(file.read_bytes())
    at = content.index(b'"patient": null') + 11 if name.endswith("json") else len(content) // 2
    content[at] ^= 1
    file.write_bytes(content)
    after = data.load(str(folder), 32, cache)
    assert np.array_equal(after.images, pixels) and after.patients == before.patients


def failing(monkeypatch, what: str, largest: int = 0) -> list[int]:
    """Lets decoding fail with that reason, of files up to so many bytes; counts its calls."""
    decode, calls = images.decode, [0]

    def fail(content: bytes, size: int, fit: str) -> images.Film:
        calls[0] += 1
        if what and len(content) <= largest:
            raise ValueError(what)
        return decode(content, size, fit)

    monkeypatch.setattr(images, "decode", fail)
    return calls


def test_what_could_not_be_read_is_tried_again_and_comes_in(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "x")
    largest = sorted(file.stat().st_size for file in folder.rglob("*.jpeg"))[2]
    with monkeypatch.context() as today:
        failing(today, "no decoder for it", largest)
        before = data.load(str(folder), 32, tmp_path / "cache", skip_bad=True)
        assert 3 <= len(before.bad) < 32 and {reason for _, reason in before.bad} == {"no decoder for it"}
    with monkeypatch.context() as tomorrow:
        calls = failing(tomorrow, "it wants another decoder", largest)
        same = data.load(str(folder), 32, tmp_path / "cache", skip_bad=True)
        assert calls == [len(before.bad)]  # the others come from the cache
        assert {reason for _, reason in same.bad} == {"it wants another decoder"} and same.files == before.files
    whole = data.load(str(folder), 32, tmp_path / "cache")
    assert len(whole.files) == 32 and not whole.bad and len(list((tmp_path / "cache").iterdir())) == 1
    assert np.array_equal(whole.images, data.load(str(folder), 32, tmp_path / "other").images)
    assert failing(monkeypatch, "") == [0] and data.load(str(folder), 32, tmp_path / "cache").files == whole.files


def test_a_kind_of_warning_is_one_note_however_many_files_have_it(tmp_path, monkeypatch, capsys):
    folder, decode = make_folder(tmp_path / "x"), images.decode

    def warn(content: bytes, size: int, fit: str) -> images.Film:
        film = decode(content, size, fit)
        kind = int(film.pixel_hash, 16) % 3
        return replace(film, warning=("", "an odd one", f"its own: {film.pixel_hash}")[kind])

    monkeypatch.setattr(images, "decode", warn)
    dataset = data.load(str(folder), 32, tmp_path / "cache")
    kinds = [int(digest, 16) % 3 for digest in dataset.pixel_hashes]
    first = dataset.files[kinds.index(1)]
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == f"note: {kinds.count(1)} files, such as {first}: an odd one"
    assert notes[1] == f"note: {dataset.files[kinds.index(2)]}: its own: {dataset.pixel_hashes[kinds.index(2)]}"
    hidden = kinds.count(2) + 1 - 10
    assert len(notes) == min(10, kinds.count(2) + 1) + (hidden > 0)


def test_a_cache_that_cannot_be_put_in_its_place_is_said(tmp_path):
    folder = make_folder(tmp_path / "x")
    data.load(str(folder), 32, tmp_path / "cache")
    (built,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(built)
    built.write_text("a file where the folder is due")
    with pytest.raises(Problem, match="cannot write the cache .*--cache DIR moves it"):
        data.load(str(folder), 32, tmp_path / "cache")
    assert built.read_text() == "a file where the folder is due"


def test_two_processes_may_build_one_cache_at_once(tmp_path):
    folder = make_folder(tmp_path / "x", count=40)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import data\n"
        "d = data.load(sys.argv[2], 224, Path(sys.argv[3])); print(int(d.images.astype(int).sum()))"
    )
    command = [sys.executable, "-c", code, os.path.dirname(data.__file__), str(folder), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1  # no temporary folder is left


# --------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("seed", range(5))
def test_the_patient_split_is_a_partition_without_leaks(phantoms, seed):
    split = data.split(phantoms, "patient", seed)
    everything = np.concatenate(list(split.sides.values()))
    assert sorted(everything) == list(range(len(phantoms.labels)))
    for keys in (phantoms.patients, phantoms.pixel_hashes):
        seen = [{keys[i] for i in indices} for indices in split.sides.values()]
        assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    for indices, share in zip(split.sides.values(), (0.7, 0.1, 0.2), strict=True):
        assert abs(len(indices) / len(everything) - share) < 0.02
        assert abs(phantoms.labels[indices].mean() - phantoms.labels.mean()) < 0.03


def test_a_split_depends_on_its_seed_and_on_nothing_else(phantoms, tmp_path, cache):
    assert data.split(phantoms).fingerprint == data.split(phantoms).fingerprint
    assert data.split(phantoms, seed=1).fingerprint != data.split(phantoms).fingerprint
    assert data.split(phantoms, "image").fingerprint != data.split(phantoms).fingerprint
    one = data.load(str(make_folder(tmp_path / "one")), 32, cache)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert data.split(data.load(str(tmp_path / "two"), 48, cache)).fingerprint == data.split(one).fingerprint


def test_identical_pixels_stay_together(tmp_path, cache):
    folder = make_folder(tmp_path, count=30)
    for i in range(0, 30, 2):  # neighbouring patients share a film
        shutil.copy(folder / "NORMAL" / f"IM-{i:04d}-0001.jpeg", folder / "NORMAL" / f"IM-{i + 1:04d}-0002.jpeg")
    dataset = data.load(str(folder), 32, cache)
    for seed in range(5):
        assert data.describe_leak(dataset, data.split(dataset, "patient", seed).sides) == ""
    assert "sets of identical images" in data.describe_leak(dataset, data.split(dataset, "image").sides)


def test_the_image_split_counts_the_patients_on_both_sides(phantoms):
    split = data.split(phantoms, "image")
    where = {}
    for side, indices in split.sides.items():
        for i in indices:
            where.setdefault(phantoms.patients[i], set()).add(side)
    shared = sum(len(found) > 1 for found in where.values())
    assert shared > 10
    assert f"WARNING: {shared:,} patients are on more than one side" in split.notes[0]


def test_the_official_split_tests_on_the_test_folder(tmp_path, cache):
    dataset = data.load(str(make_folder(tmp_path, ("train", "val", "test"))), 32, cache)
    split = data.split(dataset, "official")
    assert {dataset.folders[i] for i in split.test} == {"test"}
    assert {dataset.folders[i] for i in np.concatenate([split.train, split.validation])} == {"train", "val"}
    assert abs(len(split.validation) / (len(split.train) + len(split.validation)) - 0.1) < 0.05
    assert data.describe_leak(dataset, split.sides) == ""


@pytest.mark.parametrize("how", ["patient", "official"])
@pytest.mark.parametrize("block", [False, True])
def test_folds_are_validation_once_each_and_leave_the_test_side_alone(tmp_path, cache, how, block):
    dataset = data.load(str(make_folder(tmp_path, ("train", "test"), count=40)), 32, cache)
    whole = data.split(dataset, how)
    folds = [data.split(dataset, how, 0, block, (k, 4)) for k in range(4)]
    rest = sorted([*whole.train, *whole.validation])
    assert sorted(np.concatenate([fold.validation for fold in folds])) == rest
    for fold in folds:
        assert (fold.test == whole.test).all()
        assert sorted([*fold.train, *fold.validation]) == rest
        assert data.describe_leak(dataset, fold.sides) == ""
        assert abs(len(fold.validation) / len(rest) - 0.25) < 0.06
        facts = {"how": how, "seed": 0, "block": block, "fold": [fold.fold[0], 4]}
        assert data.split_again(dataset, facts).fingerprint == fold.fingerprint
    assert len({fold.fingerprint for fold in folds}) == 4


def test_block_validation_is_one_stretch_of_names(phantoms):
    split = data.split(phantoms, block=True)
    rest = np.concatenate([split.train, split.validation])
    assert abs(len(split.validation) / len(phantoms.labels) - 0.1) < 0.02
    for label in (0, 1):
        names = sorted({phantoms.patients[i] for i in rest if phantoms.labels[i] == label}, key=data.by_number)
        chosen = [names.index(phantoms.patients[i]) for i in split.validation if phantoms.labels[i] == label]
        assert sorted(set(chosen)) == list(range(min(chosen), max(chosen) + 1))
    assert set(data.split(phantoms, block=True, seed=1).validation) != set(split.validation)


def test_names_are_ordered_by_their_numbers():
    names = ["person10_virus", "person2_virus", "person2_bacteria", "IM-0115"]
    assert sorted(names, key=data.by_number) == ["IM-0115", "person2_bacteria", "person2_virus", "person10_virus"]


def test_the_official_split_refuses_a_leak_and_a_folder_without_sides(tmp_path, cache, phantoms):
    folder = make_folder(tmp_path, ("train", "test"))
    shutil.copy(folder / "train/NORMAL/IM-0001-0001.jpeg", folder / "test/NORMAL/IM-9999-0001.jpeg")
    with pytest.raises(Problem, match="1 set of identical images is on more than one side"):
        data.split(data.load(str(folder), 32, cache), "official")
    with pytest.raises(Problem, match="needs the source's own sides"):
        data.split(phantoms, "official")


def test_too_few_images_and_unknown_splits_are_refused(tmp_path, cache, phantoms):
    dataset = data.load(str(make_folder(tmp_path, count=1)), 32, cache)
    with pytest.raises(Problem, match="too few images"):
        data.split(dataset)
    with pytest.raises(UsageProblem, match="unknown split"):
        data.split(phantoms, "patients")


def test_unknown_names_are_said(tmp_path, cache):
    for i in range(40):
        draw(tmp_path / ("NORMAL" if i % 2 else "PNEUMONIA") / f"film {i}.png", i)
    split = data.split(data.load(str(tmp_path), 32, cache))
    assert split.notes == ("nothing says of 40 images who their patient is: each counts as a patient of its own",)


# ------------------------------------------------------------------------------------------------- real data


def test_real_data_is_recognised_and_split_by_patient(real_folder, tmp_path_factory):
    dataset = data.load(real_folder, 64, tmp_path_factory.mktemp("real"))
    assert dataset.name.startswith("Kermany v2: ")
    assert dataset.unknown_patients == 0
    if len(dataset.files) == 5232:
        assert dataset.name == "Kermany v2: 5,232 of 5,856 images, train only"
        assert len(set(dataset.patients)) == 3669  # the published count of training patients
    for seed in range(3):
        split = data.split(dataset, "patient", seed)
        assert data.describe_leak(dataset, split.sides) == ""
    assert "patients are on more than one side" in data.split(dataset, "image").notes[0]


def test_an_incomplete_copy_is_said(tmp_path):
    text = sources.open_source(str(make_folder(tmp_path, ("train",))), 32).name
    assert text.startswith("Kermany v2: 32 of 5,856 images by their file names, not a complete copy")
    assert "train normal 16 instead of 1,349" in text


# --------------------------------------------------------------------------------------------- command line


def test_check_finds_a_leak_and_its_exit_code_tells(tmp_path, cache, capsys):
    folder = make_folder(tmp_path / "x", ("train", "test"))
    arguments = ["check", "--data", str(folder), "--size", "64", "--cache", str(cache), "--split", "official"]
    assert data.main([*arguments, "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["errors"] == []
    shutil.copy(folder / "train/NORMAL/IM-0001-0001.jpeg", folder / "test/NORMAL/IM-9999-0001.jpeg")
    assert data.main([*arguments, "--json", str(tmp_path / "found.json")]) == 1
    assert len(json.loads((tmp_path / "found.json").read_text())["errors"]) == 1
    assert "IM-9999-0001.jpeg" in capsys.readouterr().out


def test_check_audits_what_cannot_be_split_by_patient(tmp_path, cache, capsys):
    for i in range(40):
        draw(tmp_path / f"{i}.png", i)
    (tmp_path / "films.csv").write_text("path,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(40)))
    assert data.main(["check", "--data", str(tmp_path / "films.csv"), "--size", "64", "--cache", str(cache)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("ok")


def test_the_shapes_of_the_classes_are_medians_where_films_were_stretched(phantoms):
    """The median of three shapes is one of them, so that the ratio is known; films that are left out do not count."""
    labels, every = np.array([0, 1] * 3 + [1]), np.arange(6)
    sizes = {"widths": np.array([200, 220, 120, 300, 100, 90, 999]), "heights": np.array([100] * 7)}
    dataset = replace(phantoms, labels=labels, name="7 images", **sizes)
    assert data.shape_ratio(dataset, every) == pytest.approx(2.2 / 1.2)
    assert data.shape_ratio(replace(dataset, labels=1 - labels), every) == pytest.approx(1.2 / 2.2)
    for fit in ("pad", "crop"):
        assert data.shape_ratio(replace(dataset, fit=fit), every) == 1
    assert data.shape_ratio(dataset, every[::2]) == 1, "of one class"


def test_of_squares_only_kermanys_have_known_shapes(phantoms):
    every = np.arange(len(phantoms.labels))
    assert (phantoms.widths == phantoms.heights).all() and data.shape_ratio(phantoms, every) == 1
    kermany = replace(phantoms, name="Kermany v2: 5,232 of 5,856 images, train only")
    assert data.shape_ratio(kermany, every) == pytest.approx(1.51 / 1.17)
    wide = replace(kermany, widths=kermany.widths + 1 + (kermany.labels == 0))
    assert data.shape_ratio(wide, every) < 1, "where the files have shapes, it is theirs that count"


def test_show_writes_a_picture(tmp_path, cache, capsys):
    out = tmp_path / "sheet.png"
    assert data.main(["show", "--data", "phantoms", "--size", "64", "--cache", str(cache), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.startswith(f"{out}: 12 images of phantoms")


def test_wrong_calls(capsys, tmp_path):
    for arguments in (
        [],
        ["chek"],
        ["download", "--source", "nih"],
        ["check", "--size", "0"],
        ["show", "--count", "x"],
    ):
        with pytest.raises(SystemExit) as caught:
            data.main(arguments)
        assert caught.value.code == 2
    assert data.main(["check", "--data", str(tmp_path / "nowhere")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_a_build_of_many_images_takes_little_memory(tmp_path):
    """4,000 images make a table of 200 MB; the process that builds it must not grow by anything like that."""
    folder = make_folder(tmp_path / "x", count=20)
    for i, path in enumerate(sorted((folder / "NORMAL").iterdir()) * 150):
        os.link(path, folder / "NORMAL" / f"copy {i}.jpeg")
    code = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import data\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "d = data.load(sys.argv[2], 224, Path(sys.argv[3]))\n"
        "print(len(d.files), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, os.path.dirname(data.__file__), str(folder), str(tmp_path / "cache")]
    count, grown = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert count > 4000
    assert grown < 100_000  # kB


def test_no_data_means_what_stands_beside_the_scripts_and_nothing_else(cache, monkeypatch, tmp_path, phantoms, capsys):
    monkeypatch.setattr(
        sources, "__file__", str(tmp_path / "films" / "sources.py")
    )  # as if nothing stood beside the scripts
    for command in (["check"], ["show", "--out", str(tmp_path / "sheet.png")]):
        assert data.main([*command, "--cache", str(cache)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "`python data.py download`" in said and "--data phantoms" in said
    make_folder(tmp_path / "data" / "chest_xray")
    assert not data.load(None, 64, cache).synthetic
    assert phantoms.synthetic and phantoms.name.startswith("SYNTHETIC")
