"""Where images come from: a folder, a zip of one, a CSV manifest, PneumoniaMNIST arrays, or the phantoms.

open_source(...)   what --data names -> Source: one Entry an image, with its label, side and patient
"""

import argparse
import collections
import contextlib
import csv
import functools
import io
import lzma
import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from basics.disk import sha256_of_file
from basics.problems import Problem, UsageProblem, numbered
from films import folders, patients, phantoms

CLASSES: tuple[str, str] = ("NORMAL", "PNEUMONIA")  # label 0 and label 1
ClassNames = tuple[tuple[str, ...], ...]  # by label: what folders of a class are called
SIDES = ("train", "val", "test")
# What they are called, in folders and manifests: "valid" is Roboflow's.
FOLDERS = {**{side: side for side in SIDES}, "validation": "val", "valid": "val", "training": "train"}
# What numpy and zipfile raise on damaged arrays; TokenError and AttributeError are numpy's, for a header that is none.
ARRAY_ERRORS = (ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError, SyntaxError, OverflowError,
                tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)  # fmt: skip

# Kermany et al. 2018, Mendeley Data rscbjbr9sj version 2. Kaggle's copy moves 16 training images to val/.
KERMANY_V2 = {
    ("train", "normal"): 1349,
    ("train", "bacteria"): 2538,
    ("train", "virus"): 1345,
    ("test", "normal"): 234,
    ("test", "bacteria"): 242,
    ("test", "virus"): 148,
}
KERMANY = "Kermany v2"  # how the name of that data begins, known by its files' names
# Of their normal films and their pneumonias at the original sizes, width / height: medians of 29 and 53 films.
KERMANY_SHAPES = 1.17, 1.51
PNEUMONIAMNIST = {"train": 4708, "val": 524, "test": 624}  # MedMNIST v2: the same 5,856 images, cropped


@dataclass(frozen=True)
class Entry:
    """One image: its name below the source, its label, where it belongs, and how to get at it.

    Attributes:
        file: path below the source, with forward slashes.
        label: 0 normal, 1 pneumonia.
        folder: "train", "val", "test", or "" where the source does not say.
        read: returns the bytes of the file, or pixels (H, W) uint8. Raises OSError or ValueError.
        identity: returns a text that changes when the content does. Raises OSError or ValueError.
        patient: key of the patient, None where the name says nothing.
        etiology: "normal", "bacteria", "virus" or "pneumonia".
    """

    file: str
    label: int
    folder: str
    read: Callable[[], bytes | np.ndarray]
    identity: Callable[[], str]
    patient: str | None
    etiology: str


@dataclass(frozen=True)
class Source:
    """Everything that --data names, before a pixel of it is decoded."""

    path: str  # absolute, or "phantoms"
    name: str  # one sentence for people
    entries: list[Entry]
    has_patients: bool = True  # False where nothing could say which images belong to one patient
    own_validation: bool = False  # its "val" side is a validation set of a useful size
    synthetic: bool = False
    notes: list[str] = field(default_factory=list)
    classes: ClassNames | None = None  # names of the class folders, where they are not the usual ones


def open_source(source: str | None, size: int, classes: ClassNames | None = None) -> Source:
    """Opens what --data names; None is data/chest_xray, here (`data.py download` puts it there) or beside the scripts.

    classes: by label, what the class folders are called, if not by the names of the classes. Raises UsageProblem when
    it is not there, of no known kind, or has no such folders; Problem when there is nothing usable in it.
    """
    if source is None:
        places = [folder / "data" / "chest_xray" for folder in (Path(), Path(__file__).resolve().parent.parent)]
        source = next((str(place) for place in places if place.is_dir()), None)
        if source is None:
            raise UsageProblem("no --data, and no data/chest_xray here or beside the scripts: `python data.py "
                               "download` gets the films, --data phantoms takes the built-in drawings")  # fmt: skip
    if not source:  # of a variable that is not set: Path("") would be the folder one is in
        raise UsageProblem("--data: the path is empty")
    if classes and (source == "phantoms" or Path(source).suffix.lower() in (".csv", ".npz")):
        raise UsageProblem(f"--classes is for folders and .zip files: {source} says itself what is normal")
    if source == "phantoms":
        return _phantoms(size)
    path = Path(source)
    kinds = {".csv": _manifest, ".npz": _pneumoniamnist}
    try:
        if not path.exists():
            raise UsageProblem(f"--data {source}: no such file or folder")
        if path.is_dir():
            return _folder(path, None, classes)
        if path.suffix.lower() == ".zip":
            return _zip(path, classes)
        if path.suffix.lower() not in kinds:
            raise UsageProblem(f"--data {source}: a folder, .zip, .csv or .npz is needed, and this file is none")
        return kinds[path.suffix.lower()](path)
    except OSError as error:
        raise Problem(f"{error.filename or source}: {error.strerror or error}") from error


def place_of(args: argparse.Namespace, facts: dict) -> tuple[str, ClassNames | None]:
    """Source and class folders: those that were typed, or else those that `facts`, a model's "data", remember."""
    if args.data is not None:
        return args.data, args.classes or classes_there(args.data, [remembered_classes(facts)])
    return facts["source"], args.classes or remembered_classes(facts)


def classes_there(source: str, remembered: Iterable[ClassNames | None]) -> ClassNames | None:
    """The first of the remembered names that a folder or .zip has; none where it has the usual ones, or neither."""
    known = dict.fromkeys(filter(None, remembered))
    for names in (None, *known) if known else ():
        with contextlib.suppress(Problem):  # whoever reads it with the usual names says what is wrong with it
            open_source(source, 32, names)
            return names
    return None


def remembered_classes(facts: dict) -> ClassNames | None:
    """The names of class folders that a model's "data" remember; none where they are the usual ones."""
    found = facts.get("folders")
    return found and tuple(tuple(found[name]) for name in CLASSES)


def classes_to_remember(classes: ClassNames | None) -> dict[str, dict]:
    """What `remembered_classes` reads, as an entry of a model's "data"."""
    return {"folders": {name: list(names) for name, names in zip(CLASSES, classes, strict=True)}} if classes else {}


# ----------------------------------------------------------------------------------------- names and facts


ILL, WELL = re.compile(r"person(\d+)_(bacteria|virus)_\d"), re.compile(r"(NORMAL2-)?IM-(\d+)-\d")


def patient_of(file: str) -> str | None:
    """The patient key in a file name of Kermany's data, or None.

    `person<id>_<bacteria|virus>_<n>`: bacterial and viral ids are two separate counters, so the key is both.
    `[NORMAL2-]IM-<id>-<n>`: the prefix belongs to the key for the same reason.
    """
    name = file.rsplit("/", 1)[-1]
    if match := ILL.match(name):
        return f"person{match[1]}_{match[2]}"
    if match := WELL.match(name):
        return f"{match[1] or ''}IM-{match[2]}"
    return None


def etiology_of(file: str, label: int) -> str:
    """ "normal", "bacteria", "virus", or "pneumonia" where the file name does not say which."""
    match = re.search(r"person\d+_(bacteria|virus)_", file)
    return "normal" if label == 0 else match[1] if match else "pneumonia"


def count_facts(folders: list[str], etiologies: list[str]) -> list[tuple[str, str, int, int | None]]:
    """(side, etiology, found, expected in Kermany's data); expected is None for what that does not have."""
    found = collections.Counter(zip(("train" if side == "val" else side for side in folders), etiologies, strict=True))
    sides = {side for side, _ in found}
    expected: collections.Counter = collections.Counter()
    for (side, etiology), count in KERMANY_V2.items():
        if sides == {""}:  # one folder: only the sums over both sides are known
            expected["", etiology] += count
        elif side in sides:
            expected[side, etiology] = count
    return [(side, etiology, found[side, etiology], expected.get((side, etiology)))
            for side, etiology in sorted({*found, *expected})]  # fmt: skip


def are_kermany(entries: list[Entry]) -> bool:
    """Whether all files have names of Kermany's data, each in the class that such a name has there.

    IM-0001-0001 alone is no sign of it: other programs call files so.
    """
    return all(patient_of(entry.file) and entry.etiology != "pneumonia" for entry in entries) and any(
        entry.label for entry in entries
    )


def describe(entries: list[Entry]) -> str:
    """One sentence: which known data set this is and whether it is whole; otherwise just the counts."""
    total, known = len(entries), sum(KERMANY_V2.values())
    if any(patient_of(entry.file) is None for entry in entries):
        ill = sum(entry.label for entry in entries)
        return f"{total:,} images: {total - ill:,} normal, {ill:,} pneumonia"
    wrong = [
        f"{side} {etiology} {found:,}".strip()
        + (" that it does not have" if wanted is None else f" instead of {wanted:,}")
        for side, etiology, found, wanted in count_facts([e.folder for e in entries], [e.etiology for e in entries])
        if found != wanted
    ]
    if wrong:
        return (f"{KERMANY}: {total:,} of {known:,} images by their file names, not a complete copy "
                f"({', '.join(wrong)})")  # fmt: skip
    sides = {"train" if entry.folder == "val" else entry.folder for entry in entries}
    if sides in ({"train", "test"}, {""}):
        return f"{KERMANY}: all {known:,} images"
    return f"{KERMANY}: {total:,} of {known:,} images, {sides.pop()} only"


def name_without(source: Source, kept: list[Entry]) -> str:
    """The source's name where only `kept` of its entries can be read."""
    count = len(source.entries) - len(kept)
    if not count:
        return source.name
    if source.name == describe(source.entries) and not source.name.startswith(KERMANY):
        return f"{describe(kept)}, and {count:,} that cannot be read"
    return f"{source.name}, of which {count:,} cannot be read"


# ----------------------------------------------------------------------------------------- folders and zips


def _zip(path: Path, classes: ClassNames | None) -> Source:
    try:
        return _folder(path, zipfile.ZipFile(path), classes)  # stays open: entries are read from it later
    except zipfile.BadZipFile as error:
        raise Problem(f"{path}: not a whole zip file ({error})") from error


def _folder(path: Path, archive: zipfile.ZipFile | None, classes: ClassNames | None) -> Source:
    found = folders.find(path, archive, classes or tuple((name,) for name in CLASSES), FOLDERS)
    entries = [
        Entry(name, label, side, functools.partial(folders.read, file, archive),
              functools.partial(folders.identity, file, archive), patient_of(name), etiology_of(name, label))
        for side, label, name, file in found.films
    ]  # fmt: skip
    entries.sort(key=lambda entry: entry.file)
    where = found.root.resolve() if isinstance(found.root, Path) else path.resolve()
    for label, name in enumerate(CLASSES):
        if not any(entry.label == label for entry in entries):
            names = " or ".join(classes[label]) if classes else name
            reason = f"{where}: no JPEG, PNG or DICOM image in any folder named {names}"
            raise Problem("; ".join([reason, *found.notes(), *([folders.REMEDY] if found.elsewhere else [])]))
    return Source(str(where), describe(entries), entries, notes=found.notes(), classes=classes)


# ------------------------------------------------------------------------------------ manifests and arrays


def _manifest(path: Path) -> Source:
    """A CSV file with columns path and label, and perhaps patient, split and etiology; paths are relative to it."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            text = stream.read()
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(path, text))
        columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
        rows = [(reader.line_num, {key: (row[name] or "").strip() for key, name in columns.items()}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Problem(f"{path}: not a CSV file in UTF-8 ({error})") from error
    entries = [_manifest_entry(path, line, row) for line, row in rows]
    twice = [file for file, count in collections.Counter(e.file for e in entries).items() if count > 1]
    if twice:
        are = "is" if len(twice) == 1 else "are"
        raise Problem(f"{path}: {numbered(len(twice), 'file')} {are} listed more than once (such as {twice[0]})")
    if {entry.label for entry in entries} != {0, 1}:
        raise Problem(f"{path}: both labels, 0 (normal) and 1 (pneumonia), are needed")
    entries.sort(key=lambda entry: entry.file)
    return Source(
        str(path.resolve()), describe(entries), entries, has_patients="patient" in columns,
        own_validation=any(entry.folder == "val" for entry in entries),
    )  # fmt: skip


def _delimiter(path: Path, text: str) -> str:
    """The comma, semicolon or tab that parts the names in the first line. Raises Problem where two of them lack."""
    first = io.StringIO(text, newline="").readline().rstrip("\r\n")  # splitlines ends lines where csv does not
    lacking = {}
    for delimiter in ",;\t":
        (names, *_) = [*csv.reader([first], delimiter=delimiter), []]
        found = {name.strip().lower() for name in names}
        lacking[delimiter] = [name for name in ("path", "label") if name not in found]
    best = min(lacking, key=lambda delimiter: len(lacking[delimiter]))
    if lacking[best]:
        raise Problem(f"{path}: no column '{lacking[best][0]}' in its first line, {first[:200]!r}; path and label are "
                      "needed, patient, split and etiology are used when there, with commas, semicolons or tabs "
                      "between them")  # fmt: skip
    return best


def _manifest_entry(path: Path, line: int, row: dict[str, str]) -> Entry:
    labels = {"0": 0, "1": 1} | {name.lower(): label for label, name in enumerate(CLASSES)}
    label, side = labels.get(row["label"].lower()), {**FOLDERS, "": ""}.get(row.get("split", "").lower())
    if not row["path"]:
        raise Problem(f"{path}, line {line}: no path")
    if label is None:
        raise Problem(f"{path}, line {line}: label {row['label']!r} is none of 0, 1, NORMAL, PNEUMONIA")
    if side is None:
        raise Problem(f"{path}, line {line}: split {row['split']!r} is none of train, val, test")
    patient = patients.normalised(row["patient"]) if "patient" in row else None
    if patient == "":
        raise Problem(f"{path}, line {line}: no patient, and other lines may be of the same one")
    name = row["path"].replace("\\", "/")  # manifests are made on Windows too
    file = path.parent / name
    etiology = row.get("etiology", "").lower() or etiology_of(name, label)
    return Entry(name, label, side, functools.partial(folders.read, file),
                 functools.partial(folders.identity, file), patient, etiology)  # fmt: skip


def _pneumoniamnist(path: Path) -> Source:
    """MedMNIST's arrays {train,val,test}_{images,labels}: uint8 (N, S, S) and (N, 1), label 1 is pneumonia."""
    digest = sha256_of_file(path)
    entries = []
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            _check_lengths(arrays.zip)
            for side in SIDES:
                pixels, labels = arrays[f"{side}_images"], arrays[f"{side}_labels"].reshape(-1)
                if pixels.ndim != 3 or pixels.dtype != np.uint8 or len(pixels) != len(labels) or set(labels) - {0, 1}:
                    raise Problem(f"{path}: {side}_images must be uint8 (N, S, S), {side}_labels (N, 1) of 0 and 1; "
                                  f"found {pixels.dtype} {pixels.shape} and {labels.shape}")  # fmt: skip
                for i, label in enumerate(labels.tolist()):
                    identity = functools.partial(str, f"{digest} {side} {i}")
                    entries.append(Entry(f"{side}/{i:05d}", label, side, functools.partial(pixels.__getitem__, i),
                                         identity, None, etiology_of("", label)))  # fmt: skip
    except ARRAY_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Problem(f"{path}: not PneumoniaMNIST's arrays ({reason})") from error
    counts = dict(collections.Counter(entry.folder for entry in entries))
    known = "PneumoniaMNIST" if counts == PNEUMONIAMNIST else "arrays like PneumoniaMNIST's"
    name = f"{known}: {', '.join(f'{side} {count:,}' for side, count in counts.items())} images"
    return Source(str(path.resolve()), name, entries, has_patients=False, own_validation=True)


def _check_lengths(archive: zipfile.ZipFile) -> None:
    """Raises ValueError where a header promises more than is there: numpy makes room for what is promised."""
    for member in archive.infolist():
        with archive.open(member) as stream:
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, kind = read[np.lib.format.read_magic(stream)](stream)
        if math.prod(shape) * kind.itemsize > member.file_size or min(shape, default=0) < 0:
            raise ValueError(f"{member.filename} is shorter than its header says")


def _phantoms(size: int, count: int = 600) -> Source:
    entries = [
        Entry(file, int(kind != "N"), "", functools.partial(phantoms.render, 0, patient, image, kind, size),
              functools.partial(str, f"phantom {phantoms.VERSION}"), patient_of(file),
              etiology_of(file, int(kind != "N")))
        for patient, image, kind, file in phantoms.roster(count, 0)
    ]  # fmt: skip
    entries.sort(key=lambda entry: entry.file)
    name = f"SYNTHETIC: {count} phantoms drawn by this program, no X-rays"
    return Source("phantoms", name, entries, synthetic=True)
