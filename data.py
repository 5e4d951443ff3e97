"""From a source of X-rays to one table of pixels, and from that to training, validation and test.

    load(...)   folder, zip, CSV manifest, PneumoniaMNIST arrays or phantoms -> Dataset, pixels memory-mapped
    split(...)  Dataset -> index arrays; no patient on two sides

As a script: `python data.py download` gets the data, `check` audits it, `show` draws what the network will see.
"""

import argparse
import collections
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from basics import cli, disk, problems
from basics.cli import whole_number
from basics.disk import sha256_of
from basics.problems import Problem, UsageProblem, numbered
from basics.terms import SPLITS
from films import audit, download, giveaways, images, looks, patients, sources
from films import cache as decoded
from films.sources import CLASSES, ClassNames, Entry, Source


@dataclass(frozen=True)
class Dataset:
    """All images of one source, in the order of their file names.

    Attributes:
        name: one sentence for people: what this is and how much of it is here.
        source: absolute path, or "phantoms".
        synthetic: True for phantoms.
        images: (N, S, S) uint8 grey levels, memory-mapped.
        labels: (N,) int64, 0 normal, 1 pneumonia.
        files: name of each image below `source`, with forward slashes.
        folders: "train", "val", "test", or "" where the source does not say.
        own_validation: the source's "val" side is a validation set of a useful size.
        patients: key of each image's patient; where nothing is known the file itself.
        common_patients: those of them that people elsewhere may have too, such as "1" and "P007": between two sources
            they say nothing.
        pseudonyms: those of them that stand for a DICOM PatientID, with what stands for it without case and leading
            zeros. They are others in another cache folder: nothing but what is shown may depend on them.
        has_patients: False where nothing could say which images belong to one patient.
        unknown_patients: number of images whose patient is not known.
        etiologies: "normal", "bacteria", "virus" or "pneumonia".
        pixel_hashes: hash of each image's decoded pixels at original size.
        looks: (N, 2, 4) uint64, see films/looks.py: nearly equal for one film in other pixels.
        widths, heights: (N,) int64, original size in pixels.
        modes: how each file stores its pixels.
        bad: (file, reason) of files that could not be read and were left out.
        fit: how images were made square.
        fingerprint: 12 hex digits that name the files and their content, and labels that the files do not tell.
        classes: by label, the names of the class folders, where they are not the usual ones.
    """

    name: str
    source: str
    synthetic: bool
    images: np.ndarray
    labels: np.ndarray
    files: list[str]
    folders: list[str]
    own_validation: bool
    patients: list[str]
    has_patients: bool
    unknown_patients: int
    etiologies: list[str]
    pixel_hashes: list[str]
    looks: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    modes: list[str]
    bad: list[tuple[str, str]]
    fit: str
    fingerprint: str
    common_patients: frozenset[str] = frozenset()
    pseudonyms: dict[str, str] = field(default_factory=dict)
    classes: ClassNames | None = None


@dataclass(frozen=True)
class Split:
    """Index arrays into a Dataset, sorted; `fingerprint` is that of `contents`: other films, another fingerprint."""

    how: str
    seed: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    fingerprint: str
    notes: tuple[str, ...]
    block: bool = False
    fold: tuple[int, int] | None = None

    @property
    def sides(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose the data; every script that reads images has the same ones."""
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="folder, .zip, .csv manifest or PneumoniaMNIST .npz; 'phantoms' "
        "for the built-in drawings (default: data/chest_xray, which `data.py download` makes)",
    )
    parser.add_argument(
        "--cache", metavar="DIR", type=cli.folder_path, help="where decoded images are kept (default: ~/.cache)"
    )
    parser.add_argument("--skip-bad", action="store_true", help="go on without files that cannot be read")
    parser.add_argument("--classes", action=cli.Names, nargs=len(CLASSES), const=CLASSES, metavar="CLASS=NAME",
                        help="what the class folders of a folder or .zip are called, where not NORMAL and PNEUMONIA: "
                        "NORMAL=healthy,clear PNEUMONIA=sick")  # fmt: skip


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=whole_number(32, 2048), default=224, help="side of the images in pixels")
    parser.add_argument(
        "--fit",
        **cli.choices(images.FITS),
        default="stretch",
        help="how images are made square: stretch (default), pad with black, or crop to the centre",
    )
    parser.add_argument("--split", **cli.choices(SPLITS), default="patient",
                        help="patient (default): 70/10/20, patients kept whole; official: test/ is the test set; "
                        "image: by image, which leaks patients and is there to show what that does")  # fmt: skip
    parser.add_argument("--split-seed", type=whole_number(0), default=0, help="another number, another split")


# ------------------------------------------------------------------------------------------------ loading


def load(
    source: str | None,
    size: int = 224,
    cache: Path | None = None,
    fit: str = "stretch",
    skip_bad: bool = False,
    classes: ClassNames | None = None,
) -> Dataset:
    """Reads every image of a source once, makes it a grey square, and keeps the pixels in a memory-mapped cache.

    Args:
        source: see sources.open_source.
        size: side in pixels (bilinear, antialiased).
        cache: the folder of caches; ~/.cache/chest-xray by default.
        fit: "stretch", "pad" or "crop"; see images.decode.
        skip_bad: leave out files that cannot be read, instead of raising Problem that names them.
        classes: by label, what the folders of a class are called where that is not its name.

    Raises UsageProblem when the source is not there, Problem when it holds nothing usable or bad files.
    """
    opened = sources.open_source(source, size, classes)
    entries = opened.entries
    folder = (cache or decoded.default_folder()) / decoded.identity(entries, size, fit)
    table, listing = decoded.open_or_build(folder, entries, size, fit)
    bad = [(entries[i].file, reason) for i, reason in listing["bad"]]
    decoded.report_bad(bad, len(entries), opened.path, skip_bad)
    films = listing["films"]
    kept = [entries[film["index"]] for film in films]
    return _dataset(opened, kept, films, table, bad, fit)


def _dataset(opened: Source, kept: list[Entry], films: list[dict], table: np.ndarray, bad: list, fit: str) -> Dataset:
    known = [entry.patient or film["patient"] for entry, film in zip(kept, films, strict=True)]
    for note in opened.notes + decoded.warnings_of(kept, films):
        print(f"note: {note}", file=sys.stderr)
    content = [part for entry, film in zip(kept, films, strict=True) for part in (entry.file, film["content"])]
    if opened.classes:  # else the names of the files tell the labels
        content += [str(entry.label) for entry in kept]
    return Dataset(
        name=sources.name_without(opened, kept),
        source=opened.path,
        synthetic=opened.synthetic,
        images=table,
        labels=np.array([entry.label for entry in kept], np.int64),
        files=[entry.file for entry in kept],
        folders=[entry.folder for entry in kept],
        own_validation=opened.own_validation,
        patients=[key or entry.file for key, entry in zip(known, kept, strict=True)],
        has_patients=opened.has_patients or None not in known,
        unknown_patients=known.count(None),
        etiologies=[entry.etiology for entry in kept],
        pixel_hashes=[film["pixels"] for film in films],
        looks=looks.from_text([film["looks"] for film in films]),
        widths=np.array([film["width"] for film in films], np.int64),
        heights=np.array([film["height"] for film in films], np.int64),
        modes=[film["mode"] for film in films],
        bad=bad,
        fit=fit,
        fingerprint=sha256_of(content)[:12],
        classes=opened.classes,
        common_patients=_common_patients(kept, films),
        pseudonyms={film["patient"]: film["patient folded"] for entry, film in zip(kept, films, strict=True)
                    if film["patient"] and not entry.patient},
    )  # fmt: skip


def _common_patients(kept: list[Entry], films: list[dict]) -> frozenset[str]:
    """Those whose names say nothing between two sources; Kermany's do, where all films have such names."""
    kermany = sources.are_kermany(kept)
    named = [entry.patient for entry in kept if entry.patient and patients.common(entry.patient)
             and not (kermany and entry.patient == sources.patient_of(entry.file))]  # fmt: skip
    coded = [film["patient"] for entry, film in zip(kept, films, strict=True)
             if not entry.patient and film["patient common"]]  # fmt: skip
    return frozenset([*named, *coded])


def shape_ratio(dataset: Dataset, training: np.ndarray) -> float:
    """How much wider its pneumonias were than its normal films, beside their height, before they were made square.

    A ratio of medians over these films. 1 where squares give nothing of that away: with `fit` other than "stretch",
    without films of one class, and where all films were square already, unless their names say that they are Kermany's,
    of which the shapes before that are known.
    """
    shapes, labels = (dataset.widths / dataset.heights)[training], dataset.labels[training]
    if dataset.fit != "stretch" or len(set(labels)) < 2:
        return 1.0
    normal, pneumonia = (float(np.median(shapes[labels == label])) for label in range(len(CLASSES)))
    if (shapes == 1).all() and dataset.name.startswith(sources.KERMANY):
        normal, pneumonia = sources.KERMANY_SHAPES
    return pneumonia / normal


# ---------------------------------------------------------------------------------------------- splitting


def split(
    dataset: Dataset, how: str = "patient", seed: int = 0, block: bool = False, fold: tuple[int, int] | None = None
) -> Split:
    """Divides the images into training, validation and test.

    "patient": 70/10/20, classes stratified; a patient, and images with identical pixels, stay on one side.
    "official": test is the source's own; validation too where it has a useful one, else a tenth of the rest by patient.
    "image": 70/10/20 by image, as many public notebooks do; patients land on both sides.

    block: validation is of each class one stretch of patients in the order of their names, not some here and there;
    another seed, another stretch. fold: (k, K), validation is part k, from 0, of K parts of what is not test.

    The sides depend on the names and the seed alone, through SHA-256: not on the order of the files, a random
    generator's version or the machine. Raises Problem where no honest split of that kind exists.
    """
    if how not in SPLITS:
        raise UsageProblem(f"unknown split {how!r}: choose from {', '.join(SPLITS)}")
    sides = assign(dataset, how, seed, block, fold)
    notes = []
    if not len(sides["test"]):
        notes.append("there are no test images here: this split can be trained on, but not tested")
    for side, indices in sides.items():
        if (len(indices) and len(set(dataset.labels[indices])) < 2) or (side != "test" and not len(indices)):
            raise Problem(f"{dataset.source}: {_too_few(dataset, side, how)}")
    notes += _refuse_leaks(dataset, sides, how)
    if dataset.unknown_patients:
        images = numbered(dataset.unknown_patients, "image")
        notes.append(f"nothing says of {images} who their patient is: each counts as a patient of its own")
    return Split(how, seed, *sides.values(), contents(dataset, sides), tuple(notes), block, fold)


def contents(dataset: Dataset, sides: dict[str, np.ndarray]) -> str:
    """12 hex digits that name the films on each side and their labels, whatever the files are called."""
    listing = sorted(f"{dataset.pixel_hashes[i]}\t{dataset.labels[i]}\t{side}"
                     for side, indices in sides.items() for i in indices)  # fmt: skip
    return sha256_of(listing)[:12]


def _too_few(dataset: Dataset, side: str, how: str) -> str:
    """Why a side of the split lacks a class: many of the images may have one patient's name."""
    crowd = _crowd(dataset)
    if how == "image" or not crowd:
        return f"too few images: the {side} side of the split lacks a class"
    return f"{crowd}, and no patient may be on two sides; {audit.WHO}, and --split image divides them all the same"


def _crowd(dataset: Dataset) -> str:
    """Says that one patient has a fifth of the images or more, as much as a side of a split; "" if none has."""
    count, said = audit.crowd(dataset)
    return said if count >= max(audit.MANY, len(dataset.files) / 5) else ""


def split_again(dataset: Dataset, facts: dict) -> Split:
    """The split of a dataset that a checkpoint or a graph describes under `split`."""
    fold = facts.get("fold")  # checkpoints of earlier versions have neither of these two
    return split(dataset, facts["how"], facts["seed"], facts.get("block", False), fold and (fold[0], fold[1]))


def is_own(split: Split, dataset: Dataset, facts: dict) -> bool:
    """Whether a split of a dataset is the one that a checkpoint or a graph was made with.

    Earlier versions named a split after its files; the same data, split in the same way, is the same split.
    """
    return split.fingerprint == facts["split"]["fingerprint"] or dataset.fingerprint == facts["data"]["fingerprint"]


def assign(
    dataset: Dataset, how: str, seed: int, block: bool = False, fold: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """The sides of `split`, without its refusals: for looking at what is wrong with them."""
    every, folders = np.arange(len(dataset.labels)), np.array(dataset.folders)
    if how == "official" and not any(dataset.folders):
        raise Problem(f"--split official needs the source's own sides (train, test), and {dataset.source} has none")
    if how == "patient" and not dataset.has_patients:
        cures = ["give it a column `patient`"] * dataset.source.lower().endswith(".csv")
        cures += ["--split official can"] * any(dataset.folders)
        raise Problem(f"{dataset.source} does not say which images belong to one patient, so it cannot be split by "
                      f"patient; {'; '.join([*cures, '--split image can, but leaks'])}")  # fmt: skip
    if how == "official" and dataset.own_validation:
        if block or fold:
            raise UsageProblem(f"{dataset.source} has validation images of its own, so that --val block and --folds "
                               "cannot be combined with --split official")  # fmt: skip
        return {"train": every[(folders == "train") | (folders == "")], "validation": every[folders == "val"],
                "test": every[folders == "test"]}  # fmt: skip
    groups = dataset.files if how == "image" else _groups(dataset)
    if how == "official":
        test, rest, share = every[folders == "test"], every[folders != "test"], 0.1
        places = _places(dataset, rest, groups, seed)
    else:
        places = _places(dataset, every, groups, seed)
        test, rest, share = every[places < 0.2], every[places >= 0.2], 0.1 / 0.8
        places = (places[rest] - 0.2) / 0.8
    if block:
        places = (_places(dataset, rest, groups) - (0 if fold else seed * share)) % 1
    low, high = (fold[0] / fold[1], (fold[0] + 1) / fold[1]) if fold else (0, share)
    chosen = (places >= low) & (places < high)
    return {"train": rest[~chosen], "validation": rest[chosen], "test": test}


def _refuse_leaks(dataset: Dataset, sides: dict[str, np.ndarray], how: str) -> list[str]:
    """Notes on leaks between the sides. Raises Problem for one into the test side, unless the split is by image."""
    seen = np.concatenate([sides["train"], sides["validation"]])
    leak = describe_leak(dataset, {"seen": seen, "test": sides["test"]})
    if leak and how != "image":
        crowd = _crowd(dataset)
        raise Problem(f"{dataset.source}: {leak}; `python data.py check` lists them"
                      + (f"; {crowd}: {audit.WHO}" if crowd else ""))  # fmt: skip
    leak = describe_leak(dataset, sides)
    return [f"WARNING: {leak}; results on this split flatter the model"] if leak else []


def _groups(dataset: Dataset) -> list[str]:
    """For each image the name of its group: its patient, merged with patients that share identical pixels.

    Of a group with pseudonyms in it the smallest hash of its pixels, so that splits do not depend on a secret.
    """
    parent = {patient: patient for patient in dataset.patients}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            patient = parent[patient]
        return patient

    first_with: dict[str, str] = {}
    for patient, pixels in zip(dataset.patients, dataset.pixel_hashes, strict=True):
        a, b = root(patient), root(first_with.setdefault(pixels, patient))
        parent[max(a, b)] = min(a, b)
    groups = [root(patient) for patient in dataset.patients]
    renamed: dict[str, str] = {}
    secret = {group for group, patient in zip(groups, dataset.patients, strict=True) if patient in dataset.pseudonyms}
    for group, pixels in zip(groups, dataset.pixel_hashes, strict=True):
        if group in secret:
            renamed[group] = min(pixels, renamed.get(group, pixels))
    return [renamed.get(group, group) for group in groups]


def _places(dataset: Dataset, indices: np.ndarray, groups: list[str], seed: int | None = None) -> np.ndarray:
    """(len(indices),) where in its class an image is, from 0 to 1: whole groups one after another, class by class.

    In an order drawn by `seed`; without one by name, in which person2 comes before person10.
    """
    members: dict[str, list[int]] = collections.defaultdict(list)
    for position, i in enumerate(indices):
        members[groups[i]].append(position)
    places = np.zeros(len(indices))
    for label in range(len(CLASSES)):
        # A group with both labels (two readings of one film) is dealt with the class of its first image.
        mine = [name for name, found in members.items() if dataset.labels[indices[found[0]]] == label]
        mine.sort(key=by_number if seed is None else lambda name: [sha256_of([str(seed), name])])
        total, before = sum(len(members[name]) for name in mine), 0
        for name in mine:
            places[members[name]] = (before + len(members[name]) / 2) / total
            before += len(members[name])
    return places


def by_number(name: str) -> list:
    """A key that sorts the numbers in a name as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def describe_leak(dataset: Dataset, sides: dict[str, np.ndarray]) -> str:
    """Says how many patients, and sets of images with identical pixels, stand on more than one side; "" if none."""
    parts = []
    kinds = (("patient is", "patients are"), dataset.patients), (
        ("set of identical images is", "sets of identical images are"), dataset.pixel_hashes)  # fmt: skip
    for words, keys in kinds:
        shared = audit.shared_keys(keys, sides)
        if shared:
            example = shared[0] if keys is dataset.patients else dataset.files[keys.index(shared[0])]
            parts.append(f"{numbered(len(shared), *words)} on more than one side (such as {example})")
    return " and ".join(parts)


def thinned(dataset: Dataset, indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, both classes in proportion."""
    return np.sort(indices[giveaways.thinned(dataset.labels[indices], count)])


# -------------------------------------------------------------------------------------------- command line


def check_command(args: argparse.Namespace) -> int:
    """Audits a source; exit code 1 when something in it would make results wrong."""
    dataset = load(args.data, args.size, args.cache, args.fit, True, args.classes)
    how = args.split or ("patient" if dataset.has_patients else "official" if any(dataset.folders) else "image")
    facts = sources.count_facts(dataset.folders, dataset.etiologies)
    report = audit.check(dataset, assign(dataset, how, args.split_seed), how, facts, _groups(dataset))
    audit.print_report(report)
    if args.json:
        disk.write_json(args.json, report)
    return 1 if report["errors"] else 0


def show_command(args: argparse.Namespace) -> int:
    """Writes a contact sheet: images of each class, and beside them what training makes of them."""
    dataset = load(args.data, args.size, args.cache, args.fit, args.skip_bad, args.classes)
    import torch

    from films import augmentation, variation

    order = np.random.default_rng(args.seed)
    chosen = [order.permutation(np.flatnonzero(dataset.labels == label))[: args.count] for label in range(len(CLASSES))]
    some = np.concatenate(chosen)
    originals = np.array(dataset.images[some])
    changes = augmentation.draw_changes(
        variation.ELSEWHERE,
        torch.from_numpy(dataset.labels[some]),
        torch.Generator().manual_seed(args.seed),
        shape_ratio(dataset, np.arange(len(dataset.labels))),
    )
    changed = augmentation.change(torch.from_numpy(originals)[:, None].float() / 255, changes)[:, 0].numpy()
    sheet = audit.contact_sheet(
        originals, changed, [dataset.files[i] for i in some], dataset.labels[some], dataset.name
    )
    disk.write_bytes(args.out, sheet)
    print(f"{args.out}: {numbered(len(some), 'image')} of {dataset.source}, and the same as training sees them")
    return 0


def download_command(args: argparse.Namespace) -> int:
    download.download(args.source, args.size, args.out)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description="Gets, audits and shows the data.")
    commands = parser.add_subparsers(required=True, metavar="download | check | show")
    get = commands.add_parser("download", help="fetch the data set, verify and unpack it")
    get.add_argument(
        "--source",
        **cli.choices(sorted({name for name, _ in download.SOURCES})),
        default="kermany",
        help="default: kermany, 1.2 GB",
    )
    get.add_argument("--size", type=int, choices=(28, 64, 128, 224), default=224, help="of PneumoniaMNIST's images")
    get.add_argument("--out", type=cli.folder_path, default=Path("data"), metavar="DIR", help="default: data")
    get.set_defaults(command=download_command)
    check = commands.add_parser("check", help="audit a source: counts, leaks, duplicates, unreadable and odd images")
    check.add_argument("--json", type=cli.file_path, metavar="FILE", help="write the findings there as well")
    check.set_defaults(command=check_command)
    show = commands.add_parser("show", help="write a contact sheet of images as stored and as training sees them")
    show.add_argument(
        "--out", type=cli.file_path, default=Path("contact_sheet.png"), metavar="FILE", help="default: %(default)s"
    )
    show.add_argument("--count", type=whole_number(1, 50), default=6, help="images of each class")
    show.add_argument("--seed", type=whole_number(0), default=0, help="another number, other images")
    show.set_defaults(command=show_command)
    for command in (check, show):
        add_arguments(command)
        add_split_arguments(command)
    check.set_defaults(split=None)  # what the source allows
    return parser.parse_args(argv)


def work(args: argparse.Namespace) -> int:
    return args.command(args)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
