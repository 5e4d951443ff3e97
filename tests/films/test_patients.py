import hashlib
import os
import stat
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from film_files import dicom
from folders import draw, make_folder

import data
import train
from basics import disk
from basics.problems import Problem
from films import audit, patients

# --------------------------------------------------------------------------------------------------- their names


@pytest.mark.parametrize(
    "same",
    ["Müller 7", unicodedata.normalize("NFD", "Müller 7"), " Müller 7  ", "\ufeffMüller 7", "Mül\u00adler\u00a07",
     "Müller\u202f7\u200b", "Mu\u200d\u0308ller\t7", "\u200eMüller 7\u200f\0", "Müller\u20077\r\n"],
)  # fmt: skip
def test_names_that_look_alike_are_one(same):
    assert patients.normalised(same) == "Müller 7"


@pytest.mark.parametrize("other", ["Muller 7", "müller 7", "Müller 07", "Müller  7", "Müller7", "Müller-7"])
def test_names_that_look_different_stay_apart(other):
    assert patients.normalised(other) == other


def test_nothing_visible_is_no_name():
    assert patients.normalised(" \u00a0\u200b\ufeff\0\t") == patients.normalised("") == ""


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [("P007", "p7", True), ("0012", "12", True), ("1.02", "1.2", True), ("STRASSE 1", "straße 01", True),
     ("P70", "p7", False), ("100", "10", False), ("0", "00", True), ("a0", "a", False)],
)  # fmt: skip
def test_names_without_case_and_leading_zeros(one, other, alike):
    assert (patients.folded(one) == patients.folded(other)) == alike


def manifest(folder: Path, names: list[str], delimiter: str = ",") -> str:
    """A file of films of these patients, one each; every other one is ill."""
    rows = [["path", "label", "patient"]]
    for i, name in enumerate(names):
        draw(folder / f"{i:03d}.png", i)
        rows.append([f"{i:03d}.png", str(i % 2), f'"{name}"'])
    (folder / "films.csv").write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    return str(folder / "films.csv")


def test_a_manifest_with_one_patient_in_two_forms_has_one_patient(tmp_path, cache):
    names = ["Zoë", unicodedata.normalize("NFD", "Zoë"), "Zoë\u00a0", "\u200bZoë", "Zoe", "zoë"]
    dataset = data.load(manifest(tmp_path, names), 32, cache)
    assert dataset.patients == ["Zoë"] * 4 + ["Zoe", "zoë"]
    with pytest.raises(Problem, match="line 3: no patient"):
        data.load(manifest(tmp_path, ["a", "\u200b"]), 32, cache)


def test_dicom_ids_in_two_forms_are_one_patient(tmp_path, cache):
    ids = ["P 1", "P\u00a01", "\u200bP 1", "P 1 ", "P 2", "p 1"]
    for label in data.CLASSES:
        write_dicoms(tmp_path / "x" / label, ids, seed=len(label), SpecificCharacterSet="ISO_IR 192")
    dataset = data.load(str(tmp_path / "x"), 32, cache)
    assert len(set(dataset.patients[:4])) == 1 and len(set(dataset.patients)) == 3
    (said,) = audit.odd_patients(dataset)
    assert said.startswith(
        "2 names of patients differ from another in nothing but case or leading zeros, such as patient-"
    )
    assert "(NORMAL/000.dcm)" in said and "(NORMAL/005.dcm)" in said and "P 1" not in said


def write_dicoms(folder: Path, ids: list[str], seed: int = 0, **header) -> None:
    pytest.importorskip("pydicom")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i, name in enumerate(ids):
        values = rng.integers(0, 4096, (40, 50)).astype(np.uint16)
        (folder / f"{i:03d}.dcm").write_bytes(dicom(values, PatientID=name, **header))


# ---------------------------------------------------------------------------------------------------- pseudonyms


def test_a_pseudonym_is_an_hmac():
    """RFC 4231, test cases 1 and 2."""
    assert patients.pseudonym(b"\x0b" * 20, "Hi There") == "patient-b0344c61d8db3853"
    assert patients.pseudonym(b"Jefe", "what do ya want for nothing?") == "patient-5bdcc146bf60754e"


def test_a_secret_is_made_once_and_is_its_owners(tmp_path):
    folder = tmp_path / "new" / "cache"
    secret = patients.secret(folder)
    assert len(secret) == 32 and patients.secret(folder) == secret != patients.secret(tmp_path / "other")
    (file,) = folder.iterdir()  # and nothing that it was made with
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_bytes(secret[:31])
    with pytest.raises(Problem, match="pseudonyms.key: not the secret"):
        patients.secret(folder)


def test_a_secret_on_a_disk_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    secret = patients.secret(tmp_path)
    assert patients.secret(tmp_path) == secret and len(list(tmp_path.iterdir())) == 1


def test_processes_that_make_a_secret_at_once_have_the_same_one(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from films import patients\n"
        "print(flush=True); sys.stdin.readline()\n"
        "for i in range(40): print(patients.secret(Path(sys.argv[2]) / str(i)).hex())"
    )
    command = [sys.executable, "-c", code, os.path.dirname(data.__file__), str(tmp_path)]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for child in children:
        child.stdout.readline()
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate()[0].split() for child in children]
    assert outputs[0] == outputs[1] == outputs[2] and len(set(outputs[0])) == 40


def test_who_was_second_takes_the_firsts_secret(tmp_path, monkeypatch):
    link = os.link

    def late(temporary: str, file: Path) -> None:
        file.write_bytes(b"1" * 32)
        link(temporary, file)

    monkeypatch.setattr(os, "link", late)
    assert patients.secret(tmp_path) == b"1" * 32


@pytest.fixture
def hospital(tmp_path) -> str:
    """60 patients with seven-digit numbers, of whom every third has a second film."""
    for k, label in enumerate(data.CLASSES):
        write_dicoms(tmp_path / "films" / label, [f"{1234500 + 100 * k + i * 3 // 4}" for i in range(40)], seed=k)
    return str(tmp_path / "films")


def test_pseudonyms_stay_in_their_cache_folder(hospital, tmp_path):
    one, again = (data.load(hospital, size, tmp_path / "one") for size in (32, 48))
    other = data.load(hospital, 32, tmp_path / "other")
    assert one.patients == again.patients and len(set(one.patients)) == 60 and set(one.pseudonyms) == set(one.patients)
    assert not set(one.patients) & set(other.patients)
    guesses = [str(number).encode() for number in range(1234500, 1234640)]
    hashes = {hashlib.sha256(start + guess).hexdigest()[:16]
              for guess in guesses for start in (b"", b"patient ", b"chest X-ray patient ")}  # fmt: skip
    assert not hashes & {name.removeprefix("patient-") for name in one.patients}
    for file in (file for file in (tmp_path / "one").rglob("*") if file.is_file()):
        assert not any(guess in file.read_bytes() for guess in guesses)


def test_the_same_films_are_split_the_same_under_other_pseudonyms(hospital, tmp_path):
    one, other = (data.load(hospital, 32, tmp_path / folder) for folder in ("one", "other"))
    for seed in range(3):
        for block in (False, True):
            for fold in (None, (1, 5)):
                first, second = (data.split(dataset, "patient", seed, block, fold) for dataset in (one, other))
                assert first.fingerprint == second.fingerprint
                assert data.describe_leak(one, first.sides) == data.describe_leak(other, second.sides) == ""
    assert data.split(one).fingerprint != data.split(one, seed=1).fingerprint


def test_a_group_that_holds_a_pseudonym_is_dealt_by_its_pixels(phantoms):
    """Patients of three kinds that one identical film ties together: the order of their names must not matter."""
    found = []
    for hidden in ("patient-00", "patient-ff", "zzz"):
        names, pixels = list(phantoms.patients), list(phantoms.pixel_hashes)
        names[5], names[70], pixels[70] = hidden, hidden + "x", pixels[5]
        pixels[90] = pixels[5]
        tied = replace(phantoms, patients=names, pixel_hashes=pixels, pseudonyms={hidden: "", hidden + "x": ""})
        found.append(data.split(tied).fingerprint)
    assert len(set(found)) == 1


def test_other_data_are_split_as_ever(phantoms, tmp_path, cache):
    def places(dataset: data.Dataset, *how) -> str:
        """12 hex digits of which file is on which side."""
        sides = data.split(dataset, *how).sides
        listing = sorted(f"{dataset.files[i]}\t{side}" for side, indices in sides.items() for i in indices)
        return disk.sha256_of(listing)[:12]

    assert places(phantoms) == "6e74da1a3760"
    assert places(phantoms, "patient", 0, True) == "1922572e80c0"
    assert places(phantoms, "patient", 0, False, (1, 5)) == "06f50acf7d62"
    names = [f"{n}" for n in range(60)]
    dataset = data.load(manifest(tmp_path, names), 32, cache)
    assert dataset.pseudonyms == {} and places(dataset) == "7bb3d3f55f00"


# --------------------------------------------------------------------------------- one name for many, many for one


def test_one_patient_id_for_everybody_is_said(tmp_path, cache, capsys):
    for label in data.CLASSES:
        write_dicoms(tmp_path / "x" / label, ["ANONYMOUS"] * 40, seed=len(label))
    dataset = data.load(str(tmp_path / "x"), 32, cache)
    one = r"80 of 80 images have one PatientID \(patient-\w{16}\)"
    for how in ("patient", "official"):
        with pytest.raises(
            Problem, match=f"{one}, and no patient may be on two sides; .* .csv manifest .* --split image"
        ):
            data.split(replace(dataset, folders=["train"] * 80), how)
    apart = replace(dataset, folders=["train", "val", "test", "test"] * 20, own_validation=True)
    with pytest.raises(Problem, match=f"1 patient is on more than one side .*; {one}"):
        data.split(apart, "official")
    assert len(data.split(dataset, "image").test) == 16
    assert data.main(["check", "--data", str(tmp_path / "x"), "--size", "32", "--cache", str(cache)]) == 1
    assert "80 of 80 images have one PatientID (patient-" in capsys.readouterr().out


def test_training_says_what_is_odd_of_the_patients_before_it_splits_them(tmp_path, cache, capsys):
    names = ["everybody"] * 80 + ["P1", "p01"]
    source = [
        "--data",
        manifest(tmp_path, names),
        "--size",
        "32",
        "--cache",
        str(cache),
        "--out",
        str(tmp_path / "runs"),
    ]
    assert train.main([*source, "--arch", "simple", "--quick", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "82 images: 41 normal, 41 pneumonia\n"
    large, alike, error = captured.err.splitlines()
    assert large.startswith("WARNING: 80 of 82 images have one patient (everybody): if that is not one person, ")
    assert alike.startswith("WARNING: 2 names of patients differ from another in nothing but case or leading zeros, ")
    assert error.startswith(f"error: {tmp_path / 'films.csv'}: 80 of 82 images have one patient (everybody), and no ")


def test_a_patient_with_a_tenth_of_all_images_is_said(phantoms):
    names = list(phantoms.patients)
    assert audit.odd_patients(phantoms) == []
    shared = [i for i in range(600) if phantoms.labels[i] == 0][:60]
    for i in shared[:-1]:
        names[i] = "P1"
    assert audit.odd_patients(replace(phantoms, patients=names)) == []
    names[shared[-1]] = "P1"
    assert audit.odd_patients(replace(phantoms, patients=names)) == [
        "60 of 600 images have one patient (P1): if that is not one person, a .csv manifest with a column patient says "
        "who is who"
    ]
    assert audit.odd_patients(replace(phantoms, patients=names, has_patients=False)) == []


def test_of_few_images_a_tenth_means_nothing(tmp_path, cache):
    dataset = data.load(str(make_folder(tmp_path, count=3)), 32, cache)
    assert audit.crowd(dataset)[0] == 2 and audit.odd_patients(dataset) == []


def test_a_patient_with_many_films_of_both_classes_is_said(phantoms):
    names = list(phantoms.patients)
    for label, count in ((0, 10), (1, 9)):
        for i in np.flatnonzero(phantoms.labels == label)[:count]:
            names[i] = "both"
    assert audit.odd_patients(replace(phantoms, patients=names)) == []
    names[np.flatnonzero(phantoms.labels == 1)[9]] = "both"
    assert audit.odd_patients(replace(phantoms, patients=names)) == [
        "1 patient has 10 images or more of each class, such as both with 10 normal and 10 pneumonia: if that is not "
        "one person, a .csv manifest with a column patient says who is who"
    ]


def test_names_equal_but_for_case_or_zeros_are_said_and_stay_apart(tmp_path, cache):
    dataset = data.load(manifest(tmp_path, ["P007", "p7", "P07", "Q1", "q1", "R1"]), 32, cache)
    assert len(set(dataset.patients)) == 6
    assert audit.odd_patients(dataset) == [
        "5 names of patients differ from another in nothing but case or leading zeros, such as P007 (000.png) and P07 "
        "(002.png): each counts as a patient of its own"
    ]


def test_names_of_files_are_no_names_of_patients(tmp_path, cache):
    for i, name in enumerate(("film 1", "film 01", "FILM 1", "film 001")):
        draw(tmp_path / data.CLASSES[i % 2] / f"{name}.png", i)
    dataset = data.load(str(tmp_path), 32, cache)
    assert dataset.unknown_patients == 4 and audit.odd_patients(dataset) == [] and audit.crowd(dataset) == (0, "")


def test_names_that_people_elsewhere_have_too():
    for name in ("1", "007", "P0012", "person12_virus", "anonymous", "00000013", "A1-B2-C3", "MRN-20031"):
        assert patients.common(name), name
    for name in ("123456", "MRN-200319", "2003-11-2-17", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "P100001"):
        assert not patients.common(name), name


@pytest.mark.parametrize(("ids", "common"), [("{}", True), ("{:07d}1", True), ("2003{:04d}9", False)])
def test_a_dicom_patient_id_of_few_digits_is_a_common_name(tmp_path, cache, ids, common):
    """The id is not kept; whether it is common is."""
    for k, label in enumerate(data.CLASSES):
        write_dicoms(tmp_path / label, [ids.format(100 * k + i) for i in range(6)], seed=k)
    dataset = data.load(str(tmp_path), 32, cache)
    assert dataset.common_patients == (frozenset(dataset.patients) if common else frozenset())
