"""Which films may test a model: those of its own test side, or of another set all that it has not seen.

test_side(model, dataset)   -> the split, with what was left out, and notes
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import data
from basics.problems import Problem
from data import Dataset, Split
from evaluation.tested_model import Model
from films import seen


def test_side(model: Model, dataset: Dataset) -> tuple[Split, str]:
    """The films that test this model, and a sentence on those of the set that were left out, or "".

    Its own split's test side, where the set is its own; of any other set every film that is not in the model's record,
    nor of a patient in it. Raises Problem where no film is left, or the record contradicts the split.
    """
    own = own_split(model, dataset)
    split, said = (own, "") if own else unseen(model, dataset)
    if not len(split.test):
        raise Problem(f"{model.path}: {dataset.source} has no test images in the {model.facts['split']['how']} split; "
                      "--data names a folder that has")  # fmt: skip
    if own and own.how != "image" and (count := int(familiar(model, dataset, True).films[own.test].sum())):
        raise Problem(f"{model.path}: {count:,} of the {len(own.test):,} test films, or other films of their patients, "
                      "were seen in its training: no honest test")  # fmt: skip
    warnings = [f"{model.name}: {note}" for note in split.notes if note.startswith("WARNING")]
    return replace(split, notes=(*warnings, *relation(model, dataset, split))), said


def own_split(model: Model, dataset: Dataset) -> Split | None:
    """The model's own split, where the set is the one that it was made with; else None."""
    split = split_again(model, dataset)
    return split if split and data.is_own(split, dataset, model.facts) else None


def split_again(model: Model, dataset: Dataset) -> Split | None:
    """A set divided as the model's was; None where that cannot be, which is said if the set is the model's own."""
    try:
        return data.split_again(dataset, model.facts["split"])
    except Problem:
        if dataset.fingerprint == model.facts["data"]["fingerprint"]:
            raise
        return None


def unseen(model: Model, dataset: Dataset) -> tuple[Split, str]:
    """All films of a set but those that the model has seen, in training or validation, and those of the same patients.

    Where it has seen all but the test side, that is still its own split: test films came later, or are fewer. A model
    of an official split is tested on the test side of a set that has one.
    """
    again, none = split_again(model, dataset), np.array([], np.int64)
    split = Split("external", 0, none, none, np.arange(len(dataset.files)), "", ())
    if again and trained_on(model, dataset, again):
        split = again
    elif model.facts["split"]["how"] == "official" and {"test"} < set(dataset.folders):
        split = replace(split, test=split.test[np.array(dataset.folders) == "test"])
    known = familiar(model, dataset, False)
    test, said = split.test[~known.films[split.test]], left_out(known, split.test)
    if said and not len(test):
        raise Problem(f"{model.path}: {said}, and no film of {dataset.source} is left: no honest test")
    sides = {**split.sides, "test": test}
    return replace(split, test=test, fingerprint=data.contents(dataset, sides)), said


def trained_on(model: Model, dataset: Dataset, split: Split) -> bool:
    """Whether the model has seen exactly the films of the split's training and validation."""
    record, used = seen.of_checkpoint(model.facts), np.concatenate([split.train, split.validation])
    films = seen.hashed([dataset.pixel_hashes[i] for i in used])
    return bool(record) and np.array_equal(films, record["seen_images"])


def familiar(model: Model, dataset: Dataset, own: bool) -> seen.Familiar:
    """Which films of a set a model has seen; drawings and films are never of the same patients.

    own: whether it is the model's own set, where copies on two sides are for `data.py check` to find.
    """
    record = seen.of_checkpoint(model.facts)
    nothing = np.zeros(len(dataset.files), bool)
    if not record or model.facts["data"]["synthetic"] != dataset.synthetic:
        return seen.Familiar(nothing, nothing, nothing, 0)
    return seen.of_dataset(dataset, record, looked_at=not (own or dataset.synthetic))


def left_out(known: seen.Familiar, candidates: NDArray[np.int64]) -> str:
    """How many of the candidates were left out and by what they were known; "" where none was."""
    count = int(known.films[candidates].sum())
    if not count:
        return ""
    same = known.pixels[candidates]
    ways = (("by their pixels", same), ("copies in other pixels", known.copies[candidates] & ~same),
            ("by their patients alone", (known.patients & ~known.pixels & ~known.copies)[candidates]))  # fmt: skip
    how = ", ".join(f"{found.sum():,} {way}" for way, found in ways if found.any())
    return (f"{count:,} of {len(candidates):,} films are of patients in this model's training or validation: left out "
            f"({how})")  # fmt: skip


def relation(model: Model, dataset: Dataset, split: Split) -> list[str]:
    """Notes on how these test images relate to what the model was trained on."""
    facts, notes = model.facts, []
    if dataset.unknown_patients:
        notes.append(f"nothing says of {dataset.unknown_patients:,} images who their patient is: each counts as a "
                     "patient of its own, also in the intervals")  # fmt: skip
    if split.how == "external":
        notes += strangers(model, dataset)
        notes.append(f'{model.name} was trained on the split {facts["split"]["fingerprint"]} of '
                     f'"{facts["data"]["name"]}", and is tested on {len(split.test):,} of {len(dataset.files):,} films '
                     f'of "{dataset.name}"')  # fmt: skip
    if "unrecorded" in facts:
        notes.append(f"WARNING: {model.name} may have seen these films: what it was trained on is in its certificate, "
                     f"and {facts['unrecorded']}")  # fmt: skip
    if facts["quick"]:
        notes.append(f"{model.name} is from a smoke run (--quick): its numbers mean nothing")
    if facts["initial_weights"] != "random":
        notes.append(f"{model.name} started from {facts['initial_weights']}")
    return notes


def strangers(model: Model, dataset: Dataset) -> list[str]:
    """Notes on what cannot be known of another set."""
    notes, names = [], familiar(model, dataset, False).names
    if names:
        notes.append(f"{model.name}: {names:,} patients here have names that patients in its training have too, such "
                     "as numbers of few digits; no film is the same, so they are taken for other people")  # fmt: skip
    small = int((np.minimum(dataset.widths, dataset.heights) < seen.SMALLEST).sum())
    if small and not dataset.synthetic:
        notes.append(f"{small:,} films are under {seen.SMALLEST} pixels wide or high: too small to say whether a model "
                     "has seen them in other pixels")  # fmt: skip
    if "seen_images" in model.facts and "seen_looks" not in model.facts:
        notes.append(f"{model.name} is of an earlier version: copies of its training films in other pixels are not "
                     "known again")  # fmt: skip
    return notes
