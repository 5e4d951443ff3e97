"""From image files to batches: decode once, split by patient, augment whole batches on the device.

    load(...)   folder of X-rays (or the built-in phantoms) -> Dataset, pixels in a memory-mapped cache
    split(...)  Dataset -> index arrays for training, validation and test; no patient on two sides
    Batches     index arrays -> normalised float batches on the device, augmented for training only
"""

import argparse
import collections
import contextlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

import phantoms
from common import Problem, UsageProblem, sha256_of, sha256_of_file, sync_folder, whole_number

CLASSES = ("NORMAL", "PNEUMONIA")  # label 0 and label 1
SPLITS = ("patient", "official", "image")
DECODER_VERSION = 1  # part of a cache's name: raise it when a decoded pixel changes
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
MAX_PIXELS = 80_000_000  # the largest film in the data has 6.4 million; above this it is a mistake or an attack

# Kermany et al. 2018, Mendeley Data rscbjbr9sj version 2. Kaggle's copy moves 16 training images to val/.
KERMANY_V2 = {
    ("train", "normal"): 1349,
    ("train", "bacteria"): 2538,
    ("train", "virus"): 1345,
    ("test", "normal"): 234,
    ("test", "bacteria"): 242,
    ("test", "virus"): 148,
}


@dataclass(frozen=True)
class Dataset:
    """All images of one source, in the order of their file names.

    Attributes:
        name: one sentence for people: what this is and how much of it is here.
        images: (N, S, S) uint8 grey levels, memory-mapped.
        labels: (N,) int64, 0 normal, 1 pneumonia.
        files: path of each image below `source`, with forward slashes.
        folders: "train", "val", "test", or "" where the source has no such folders.
        patients: patient key of each image; see `patient_of`.
        unknown_patients: number of images whose name says nothing of the patient.
        pixel_hashes: hash of each image's decoded pixels at original size.
        fingerprint: 12 hex digits that name the files and their content.
        source: absolute path of the folder, or "phantoms".
        synthetic: True for phantoms.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    files: list[str]
    folders: list[str]
    patients: list[str]
    unknown_patients: int
    pixel_hashes: list[str]
    fingerprint: str
    source: str
    synthetic: bool


@dataclass(frozen=True)
class Split:
    """Index arrays into a Dataset, sorted; `fingerprint` is the hash of the sorted file-and-side list."""

    how: str
    seed: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    fingerprint: str
    notes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose the data; every script that reads images has the same ones."""
    parser.add_argument("--data", metavar="DIR", help="folder of X-rays; 'phantoms' for the built-in drawings "
                        "(default: data/chest_xray beside the scripts, else the phantoms)")  # fmt: skip
    parser.add_argument("--cache", metavar="DIR", type=Path, help="where decoded images are kept (default: ~/.cache)")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=whole_number(32), default=224, help="side of the images in pixels")
    parser.add_argument("--split", choices=SPLITS, default="patient",
                        help="patient: 70/10/20, patients kept whole; official: test/ folder is the test set; "
                        "image: by image, which leaks patients and is there to show what that does")  # fmt: skip
    parser.add_argument("--split-seed", type=whole_number(0), default=0, help="another number, another split")


# ------------------------------------------------------------------------------------- finding the images


@dataclass(frozen=True)
class Entry:
    """One image file: where it is, its name below the root, the folder it stood in, and its label."""

    path: Path
    file: str
    folder: str
    label: int


def find_images(root: Path) -> tuple[Path, list[Entry], int]:
    """Finds the class folders below `root`: in train/, val/ and test/, or directly.

    Wrapping folders with nothing else in them (chest_xray/chest_xray) are walked through. Returns the folder
    that was used, its images in the order of their names, and the number of files that are no JPEG or PNG.
    """
    root = _unwrap(root)
    sides = _subfolders(root, ("train", "val", "test")) or {"": root}
    entries, others = [], 0
    for side, side_folder in sides.items():
        for name, class_folder in _subfolders(side_folder, tuple(c.lower() for c in CLASSES)).items():
            label = [c.lower() for c in CLASSES].index(name)
            for path in class_folder.rglob("*"):
                relative = path.relative_to(root)
                if path.is_dir() or any(part.startswith(".") for part in relative.parts):
                    continue
                if path.suffix.lower() not in IMAGE_SUFFIXES:
                    others += 1
                    continue
                entries.append(Entry(path, relative.as_posix(), side, label))
    entries.sort(key=lambda entry: entry.file)
    return root, entries, others


def _subfolders(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """The sub-folders of `folder` with one of these names, in whatever case they are written."""
    found = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: found[name] for name in names if name in found}


def _unwrap(root: Path) -> Path:
    wanted = ("train", "val", "test", *(c.lower() for c in CLASSES))
    for _ in range(4):
        if _subfolders(root, wanted):
            return root
        inner = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))]
        if len(inner) != 1:
            break
        root = inner[0]
    raise Problem(f"{root}: no folders named {' and '.join(CLASSES)}, neither here nor in train/, val/ and test/")


def patient_of(file: str) -> str | None:
    """The patient key in a file name of Kermany's data, or None.

    `person<id>_<bacteria|virus>_<n>`: bacterial and viral ids are two separate counters, so the key is both.
    `[NORMAL2-]IM-<id>-<n>`: the prefix belongs to the key for the same reason.
    """
    name = file.rsplit("/", 1)[-1]
    if match := re.match(r"person(\d+)_(bacteria|virus)_\d", name):
        return f"person{match[1]}_{match[2]}"
    if match := re.match(r"(NORMAL2-)?IM-(\d+)-\d", name):
        return f"{match[1] or ''}IM-{match[2]}"
    return None


def kind_of(file: str, label: int) -> str:
    """"normal", "bacteria", "virus", or "pneumonia" where the file name does not say which."""
    match = re.search(r"person\d+_(bacteria|virus)_", file)
    return "normal" if label == 0 else match[1] if match else "pneumonia"


def describe(entries: list[Entry]) -> str:
    """One sentence: which known data set this is and whether it is whole; otherwise just the counts."""
    total = len(entries)
    if any(patient_of(entry.file) is None for entry in entries):
        ill = sum(entry.label for entry in entries)
        return f"{total:,} images: {total - ill:,} normal, {ill:,} pneumonia"
    known = sum(KERMANY_V2.values())
    sides = {"train" if entry.folder == "val" else entry.folder for entry in entries}
    if sides == {""}:  # one folder: only the sums over both sides are known
        expected = collections.Counter()
        for (_, kind), count in KERMANY_V2.items():
            expected[("", kind)] += count
    else:
        expected = {key: count for key, count in KERMANY_V2.items() if key[0] in sides}
    found = collections.Counter(
        ("train" if entry.folder == "val" else entry.folder, kind_of(entry.file, entry.label)) for entry in entries
    )
    name = f"Kermany v2: {total:,} of {known:,} images"
    wrong = [
        f"{side} {kind} {found[side, kind]:,} instead of {count:,}".strip()
        for (side, kind), count in expected.items()
        if found[side, kind] != count
    ]
    wrong += [f"{count:,} {side} {kind} that it does not have" for (side, kind), count in found.items()
              if (side, kind) not in expected]  # fmt: skip
    if wrong:
        return f"{name} by their file names, not a complete copy ({', '.join(wrong)})"
    if sides in ({"train", "test"}, {""}):
        return f"Kermany v2: all {known:,} images"
    return f"{name}, {sides.pop()} only"


# --------------------------------------------------------------------------------- decoding and the cache


def load(source: str | None, size: int = 224, cache: Path | None = None) -> Dataset:
    """Reads every image of a source once, resizes it, and keeps the pixels in a memory-mapped cache.

    Args:
        source: a folder, "phantoms", or None for data/chest_xray beside the scripts, else the phantoms.
        size: side in pixels; images are stretched to it (bilinear, antialiased), grey, uint8.
        cache: the folder of caches; ~/.cache/chest-xray by default.

    Raises UsageProblem when the folder is not there, Problem when it holds nothing usable or bad images.
    """
    cache = cache or default_cache()
    if source is None:
        beside = Path(__file__).resolve().parent / "data" / "chest_xray"
        source = str(beside) if beside.is_dir() else "phantoms"
    if source == "phantoms":
        return _load_phantoms(size, cache)
    root = Path(source)
    if not root.exists():
        raise UsageProblem(f"--data {source}: no such folder")
    if not root.is_dir():
        raise UsageProblem(f"--data {source}: a folder is needed, and this is a file")
    try:
        root, entries, others = find_images(root)
    except PermissionError as error:
        raise Problem(f"{error.filename}: not allowed to read this folder") from error
    if others:
        print(f"note: {others:,} files below {root} are neither JPEG nor PNG and are not used", file=sys.stderr)
    for label, name in enumerate(CLASSES):
        if not any(entry.label == label for entry in entries):
            raise Problem(f"{root}: no JPEG or PNG image in any folder named {name}")
    return _load_folder(root, entries, size, cache)


def _load_folder(root: Path, entries: list[Entry], size: int, cache: Path) -> Dataset:
    hashes = _in_threads(lambda entry: sha256_of_file(entry.path), entries, "reading")
    content = [part for entry, digest in zip(entries, hashes, strict=True) for part in (entry.file, digest)]

    def fill(table: np.ndarray) -> list[str]:
        def decode_into(i: int) -> str:
            table[i], pixel_hash = decode(entries[i].path, size)
            return pixel_hash

        return _in_threads(decode_into, range(len(entries)), "decoding")

    key = sha256_of([f"decoder {DECODER_VERSION}", f"{size} pixels", *content])[:16]
    images, pixel_hashes = _cached(cache / key, (len(entries), size, size), fill)
    files = [entry.file for entry in entries]
    keys = [patient_of(file) for file in files]
    return Dataset(
        name=describe(entries),
        images=images,
        labels=np.array([entry.label for entry in entries], np.int64),
        files=files,
        folders=[entry.folder for entry in entries],
        patients=[key or file for key, file in zip(keys, files, strict=True)],
        unknown_patients=keys.count(None),
        pixel_hashes=pixel_hashes,
        fingerprint=sha256_of(content)[:12],
        source=str(root.resolve()),
        synthetic=False,
    )


def _load_phantoms(size: int, cache: Path) -> Dataset:
    count = 600

    def fill(table: np.ndarray) -> list[str]:
        print(f"drawing {count} phantoms", file=sys.stderr)
        table[:], labels, files = phantoms.generate(count, size)
        return [f"{label} {file}" for label, file in zip(labels, files, strict=True)]

    fingerprint = sha256_of([f"phantoms {phantoms.VERSION}", str(count)])[:12]
    key = sha256_of([fingerprint, f"{size} pixels"])[:16]
    images, listing = _cached(cache / f"phantoms-{key}", (count, size, size), fill)
    files = [line.split(" ", 1)[1] for line in listing]
    return Dataset(
        name=f"SYNTHETIC: {count} phantoms drawn by this program, no X-rays",
        images=images,
        labels=np.array([int(line[0]) for line in listing], np.int64),
        files=files,
        folders=[""] * count,
        patients=[patient_of(file) for file in files],
        unknown_patients=0,
        pixel_hashes=files,  # no two phantoms are alike, so a name does for a hash
        fingerprint=fingerprint,
        source="phantoms",
        synthetic=True,
    )


def default_cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chest-xray"
    except RuntimeError as error:
        raise Problem("there is no home folder to keep decoded images in: say --cache DIR") from error


def decode(path: Path, size: int) -> tuple[np.ndarray, str]:
    """Decodes one image file to grey and resizes it.

    Returns (size, size) uint8 and a hash of the pixels at original size. Raises ValueError with the file and
    the reason when it is no readable image.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{path}: {width} x {height} pixels is more than the limit of {MAX_PIXELS:,}")
            if image.mode.startswith("I"):  # 16 bits: convert("L") would clip at 255 instead of scaling
                grey = Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8))
            else:
                grey = image.convert("L")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: more pixels than the limit of {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a JPEG or PNG image") from error
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    pixel_hash = sha256_of([f"{width}x{height}", grey.tobytes()])[:16]
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR)), pixel_hash


def _in_threads(work: Callable, items: list | range, what: str) -> list:
    """work(item) for every item, in order, in threads (decoding and hashing release the interpreter lock).

    Files that fail are collected; Problem then names the first ten of them and says how many there are.
    """
    bad: list[str] = []

    def guarded(item: object) -> object:
        try:
            return work(item)
        except (ValueError, OSError) as error:
            bad.append(str(error))
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(tqdm(pool.map(guarded, items), total=len(items), desc=what, unit=" images",
                            disable=not sys.stderr.isatty(), leave=False, delay=1))  # fmt: skip
    if bad:
        more = "\n  ..." if len(bad) > 10 else ""
        listing = "\n  ".join(sorted(bad)[:10])
        raise Problem(f"{len(bad):,} of {len(items):,} files cannot be read; remove or replace them:\n  {listing}{more}")
    return results


def _cached(folder: Path, shape: tuple[int, int, int], fill: Callable) -> tuple[np.ndarray, list[str]]:
    """The table of pixels and its listing (one string an image) from `folder`, built there first if need be.

    A cache is built in a temporary folder and renamed when it is whole: a killed build leaves nothing under
    the final name, and of two processes that build the same one, the first to finish is used by both.
    """
    cached = _open_cache(folder, shape)
    if cached is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        except OSError as error:
            raise Problem(f"cannot write the cache {folder}: {error.strerror}; --cache DIR moves it") from error
        try:
            table = np.lib.format.open_memmap(temporary / "images.npy", "w+", np.uint8, shape)
            listing = fill(table)
            table.flush()
            del table
            (temporary / "listing.json").write_text(json.dumps(listing))
            with contextlib.suppress(FileExistsError, OSError):  # another process was first
                temporary.rename(folder)
                sync_folder(folder.parent)
        except OSError as error:
            raise Problem(f"cannot write the cache {folder}: {error.strerror}; --cache DIR moves it") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        cached = _open_cache(folder, shape)
    if cached is None:
        raise Problem(f"the cache {folder} could not be read back; --cache DIR moves it")
    return cached


def _open_cache(folder: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]] | None:
    try:
        # Copy-on-write, because torch wants a writable array; nothing of ours writes to it.
        images = np.load(folder / "images.npy", mmap_mode="c")
        listing = json.loads((folder / "listing.json").read_text())
    except (OSError, ValueError, EOFError):
        return None
    whole = images.shape == shape and images.dtype == np.uint8 and len(listing) == len(images)
    return (images, listing) if whole else None


# ---------------------------------------------------------------------------------------------- splitting


def split(dataset: Dataset, how: str = "patient", seed: int = 0) -> Split:
    """Divides the images into training, validation and test.

    "patient": 70/10/20, classes stratified; a patient, and images with identical pixels, stay on one side.
    "official": test is the test/ folder; a tenth of the rest, by patient, is validation.
    "image": 70/10/20 by image, as many public notebooks do; patients land on both sides.

    The sides depend on the names and the seed alone, through SHA-256: not on the order of the files, a
    random generator's version or the machine. Raises Problem where no honest split of that kind exists.
    """
    if how not in SPLITS:
        raise UsageProblem(f"unknown split {how!r}: choose from {', '.join(SPLITS)}")
    every = np.arange(len(dataset.labels))
    notes = []
    if how == "official":
        if not any(dataset.folders):
            raise Problem(f"--split official needs train/ and test/ folders, and {dataset.source} has none")
        in_test = np.array([folder == "test" for folder in dataset.folders])
        sides = _allot(dataset, every[~in_test], _groups(dataset), seed, (("validation", 0.1),))
        sides["test"] = every[in_test]
        if not in_test.any():
            notes.append("there is no test/ folder here: this split can be trained on, but not tested")
    else:
        groups = _groups(dataset) if how == "patient" else dataset.files
        sides = _allot(dataset, every, groups, seed, (("test", 0.2), ("validation", 0.1)))
    for side, indices in sides.items():
        if len(indices) and len(set(dataset.labels[indices])) < 2 or side != "test" and not len(indices):
            raise Problem(f"{dataset.source}: too few images: the {side} side of the split lacks a class")
    leak = describe_leak(dataset, sides)
    if leak and how == "official":
        raise Problem(f"{dataset.source}: {leak}; --split patient makes a split without that")
    if leak:
        notes.append(f"WARNING: {leak}; results on this split flatter the model")
    if dataset.unknown_patients:
        notes.append(
            f"{dataset.unknown_patients:,} file names say nothing of the patient: each counts as a patient of its own"
        )
    listing = sorted(f"{dataset.files[i]}\t{side}" for side, indices in sides.items() for i in indices)
    return Split(how, seed, sides["train"], sides["validation"], sides["test"], sha256_of(listing)[:12], tuple(notes))


def _groups(dataset: Dataset) -> list[str]:
    """For each image the name of its group: its patient, merged with patients that share identical pixels."""
    parent = {patient: patient for patient in dataset.patients}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            patient = parent[patient]
        return patient

    first_with: dict[str, str] = {}
    for patient, pixels in zip(dataset.patients, dataset.pixel_hashes, strict=True):
        a, b = root(patient), root(first_with.setdefault(pixels, patient))
        parent[max(a, b)] = min(a, b)
    return [root(patient) for patient in dataset.patients]


def _allot(
    dataset: Dataset, indices: np.ndarray, groups: list[str], seed: int, shares: tuple[tuple[str, float], ...]
) -> dict[str, np.ndarray]:
    """Deals whole groups to the sides in `shares`, class by class; what is left is training."""
    members: dict[str, list[int]] = collections.defaultdict(list)
    for i in indices:
        members[groups[i]].append(int(i))
    dealt: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in range(len(CLASSES)):
        # A group with both labels (two readings of one film) is dealt with the class of its first image.
        mine = [name for name, images in members.items() if dataset.labels[images[0]] == label]
        mine.sort(key=lambda name: sha256_of([str(seed), name]))
        total = sum(len(members[name]) for name in mine)
        position = 0
        for name in mine:
            middle = (position + len(members[name]) / 2) / max(total, 1)
            position += len(members[name])
            side, bound = "train", 0.0
            for candidate, share in shares:
                bound += share
                if middle < bound:
                    side = candidate
                    break
            dealt[side] += members[name]
    return {side: np.array(sorted(images), np.int64) for side, images in dealt.items()}


def describe_leak(dataset: Dataset, sides: dict[str, np.ndarray]) -> str:
    """Says how many patients, and images with identical pixels, stand on more than one side; "" if none."""
    parts = []
    for what, keys in (("patients", dataset.patients), ("sets of identical images", dataset.pixel_hashes)):
        where = collections.defaultdict(set)
        for side, indices in sides.items():
            for i in indices:
                where[keys[i]].add(side)
        shared = [key for key, found in where.items() if len(found) > 1]
        if shared:
            parts.append(f"{len(shared):,} {what} are on more than one side (such as {sorted(shared)[0]})")
    return " and ".join(parts)


def hashed(keys: list[str]) -> torch.Tensor:
    """(number of distinct keys,) int64, sorted: a compact record of what was seen, for `overlap`."""
    return torch.tensor(sorted({int(sha256_of([key])[:15], 16) for key in keys}), dtype=torch.int64)


# -------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Augment:
    """Half-widths of the uniform distributions that random changes of an image are drawn from."""

    shift: float = 0.06  # fraction of the side
    scale: float = 0.10  # fraction
    rotation: float = 7.0  # degrees
    brightness: float = 0.10  # of the range from black to white
    contrast: float = 0.15  # fraction, about the image's own mean
    flip: bool = False  # left-right with probability 1/2: it mirrors the heart, so it is off


NO_AUGMENT = Augment(0, 0, 0, 0, 0)


def table_on(dataset: Dataset, device: torch.device) -> torch.Tensor:
    """(N, S, S) uint8, on the device when it fits into half of the free memory, else the memory map."""
    table = torch.from_numpy(dataset.images)
    if device.type == "cuda" and table.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return table.to(device)
    return table


def pixel_statistics(table: torch.Tensor, indices: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the pixels of these images, in [0, 1], for normalisation."""
    histogram = torch.zeros(256, dtype=torch.int64, device=table.device)
    for chunk in torch.from_numpy(indices).split(64):
        histogram += torch.bincount(table[chunk.to(table.device)].flatten(), minlength=256)
    weights = histogram.double().cpu() / histogram.sum().item()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (weights * levels).sum().item()
    variance = (weights * (levels - mean) ** 2).sum().item()
    return mean, max(math.sqrt(variance), 1e-3)


class Batches:
    """Batches of some images of a table: gathered, augmented and normalised on the device, whole at a time.

    `epoch(k)` yields (images, labels): (B, 1, S, S) float32 channels-last, (B,) int64. With `augment` the
    order and the changes are drawn anew from (seed, k), on the CPU, so that they are the same on any device
    and need no state to be saved; the batches differ in size by one at most, so that none is too small for
    batch normalisation. Without it, images come as they are, in order.
    """

    def __init__(
        self,
        table: torch.Tensor,
        labels: np.ndarray,
        indices: np.ndarray,
        batch_size: int,
        device: torch.device,
        normalisation: tuple[float, float],
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.table, self.device, self.augment, self.seed = table, device, augment, seed
        self.indices = torch.from_numpy(indices)
        self.labels = torch.from_numpy(labels[indices]).to(device)
        self.mean, self.std = normalisation
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def epoch(self, number: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        count = len(self.indices)
        if self.augment is None:
            order, affine, tone = torch.arange(count), None, None
            parts = order.split(self.batch_size)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            order = torch.randperm(count, generator=generator)
            affine, tone = (p.to(self.device) for p in draw_changes(self.augment, count, generator))
            parts = order.tensor_split(len(self))
        rows = self.indices[order].to(self.table.device)  # one transfer an epoch, none a batch
        order = order.to(self.device)
        start = 0
        for part in parts:
            here = slice(start, start + len(part))
            start = here.stop
            pixels = self.table[rows[here]].to(self.device, non_blocking=True).unsqueeze(1)  # (B, 1, S, S) uint8
            images = pixels.float().div_(255)
            if affine is not None:
                images = change(images, affine[here], tone[here])
            images = images.sub_(self.mean).div_(self.std)
            yield images.contiguous(memory_format=torch.channels_last), self.labels[order[here]]


def draw_changes(augment: Augment, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random changes for `count` images: affine maps (count, 2, 3) and (contrast, brightness) (count, 2).

    An affine map takes output coordinates to input coordinates, both in [-1, 1] (F.affine_grid's convention).
    """
    uniform = torch.rand(count, 7, generator=generator) * 2 - 1
    angle = uniform[:, 0] * math.radians(augment.rotation)
    zoom = 1 / (1 + uniform[:, 1] * augment.scale)
    mirror = torch.where(uniform[:, 2] < 0, -1.0, 1.0) if augment.flip else torch.ones(count)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift = uniform[:, 3:5] * augment.shift * 2  # the side is 2 long in these coordinates
    affine = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], 1).view(count, 2, 3)
    tone = torch.stack([1 + uniform[:, 5] * augment.contrast, uniform[:, 6] * augment.brightness], 1)
    return affine, tone


def change(images: torch.Tensor, affine: torch.Tensor, tone: torch.Tensor) -> torch.Tensor:
    """Applies `draw_changes` to (B, 1, S, S) float images in [0, 1]; what comes from outside is black."""
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    contrast, brightness = tone[:, :1, None, None], tone[:, 1:, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((images - mean) * contrast + mean + brightness).clamp_(0, 1)
