"""What a checkpoint or a graph says of itself, and what each of it must be: the files may come from anywhere.

check(file, facts, needed)   raises Problem that names the first value that is missing, or that cannot be
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from basics.problems import Problem, printable
from films import images
from films.sources import CLASSES

Rule = Callable[[Any], bool]  # of a value that may be anything

GRAPH = ("name", "architecture", "size", "fit", "temperature", "threshold", "data", "split", "quick", "initial_weights")
UNFINISHED = ("name", "architecture", "classes", "size", "fit", "normalisation", "initial_weights", "data", "split",
              "seen_images", "seen_patients", "recipe", "quick", "seed", "device", "threshold_rule", "versions",
              "epoch", "history")  # fmt: skip
CHECKPOINT = (*UNFINISHED, "temperature", "threshold")


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """Finite, from `low` to `high`; True is no number."""

    def possible(value: Any) -> bool:
        plain = isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= 1e300
        return plain and low <= value <= high

    return possible


def whole(low: int = 0, high: int = 2**63 - 1) -> Rule:
    return lambda value: type(value) is int and low <= value <= high


def text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 5000


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def one_of(*values: object) -> Rule:
    return lambda value: any(type(value) is type(other) and value == other for other in values)


def nothing_or(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def every(rule: Rule) -> Rule:
    """A list of such values."""
    return lambda value: isinstance(value, list | tuple) and all(map(rule, value))


def table(rule: Rule) -> Rule:
    """A dict from texts to such values."""
    return lambda value: isinstance(value, dict) and all(text(key) and rule(item) for key, item in value.items())


def record(optional: tuple[str, ...] = (), /, **rules: Rule) -> Rule:
    """A dict with such values; others may be there too."""

    def possible(value: Any) -> bool:
        return isinstance(value, dict) and all(
            rule(value[key]) if key in value else key in optional for key, rule in rules.items()
        )

    return possible


def integers(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.dim() == 1


def finite(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and bool(value.isfinite().all())


def like(example: torch.Tensor) -> Rule:
    """A tensor of that shape and type, and finite."""

    def possible(value: Any) -> bool:
        same = isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (example.shape, example.dtype)
        return same and bool(value.isfinite().all())

    return possible


def same_length(value: Any) -> bool:
    parts = {
        "logits": lambda part: part.dim() == 2 and part.shape[1] == 2 and part.dtype == torch.float32,
        "labels": lambda part: part.dim() == 1 and part.dtype == torch.int64,
        "patients": lambda part: part.dim() == 1 and part.dtype == torch.int64,
    }
    if not record(**dict.fromkeys(parts, lambda part: isinstance(part, torch.Tensor)))(value):
        return False
    return all(rule(value[key]) for key, rule in parts.items()) and len({len(value[key]) for key in parts}) == 1


def plain_name(value: Any) -> bool:
    """export.py names a file after it."""
    return text(value) and value.isprintable() and Path(value).name == value and value != ".."


def number_or_nan(value: Any) -> bool:
    """What is undefined, such as the AUROC of one class, is nan."""
    return number()(value) or (isinstance(value, float) and math.isnan(value))


def knowledge(value: Any) -> bool:
    """What limits.fit makes: tensors that fit together, and finite numbers."""
    tensors = ("mean", "directions", "hidden_means", "hidden_whitening", "logits")
    numbers = dict.fromkeys(("thumbnail", "hidden", "hidden_offset"), number(1e-30)) | dict.fromkeys(
        ("orientation", "halves", "middle"), number()
    )
    plain = record(**numbers, **dict.fromkeys(tensors, finite), flagged=table(number(0, 1)), labels=integers,
                   patients=integers)  # fmt: skip
    if not plain(value):
        return False
    mean, directions, means, whitening, logits = (value[key].shape for key in tensors)
    fitting = len(mean) == 1 and len(directions) == len(means) == len(whitening) == len(logits) == 2
    return (fitting and directions[0] == mean[0] == 256 and directions[1] == 64
            and means == (2, whitening[0]) and whitening[0] == whitening[1]
            and logits == (len(value["labels"]), 2) and len(value["patients"]) == len(value["labels"]) > 0
            and bool(((value["labels"] == 0) | (value["labels"] == 1)).all()))  # fmt: skip


def numbers_of_limits(value: Any) -> bool:
    """What a graph says of them."""
    numbers = dict.fromkeys(("thumbnail", "hidden", "orientation", "halves", "middle"), number())
    return record(flagged=table(number(0, 1)), **numbers)(value)


def leaf(value: Any) -> bool:
    return value is None or text(value) or flag(value) or number()(value)


MEASURED = record(value=number_or_nan, low=number_or_nan, high=number_or_nan)
PROMISED = ("images", "patients", "accuracy", "sensitivity", "specificity")
POINT = record(PROMISED, threshold=number(0, 1), images=whole(), patients=whole(),
               **dict.fromkeys(PROMISED[2:], MEASURED))  # fmt: skip
STRESS = ("shortcuts", "auroc", "accuracy", "sensitivity", "specificity")
EPOCH = record(("skipped",), epoch=whole(1), skipped=number(0, 1), **dict.fromkeys(
    ("learning_rate", "train_loss", "train_accuracy", "train_auroc", "val_loss", "val_accuracy", "val_auroc", "seconds",
     "images_per_second"), number_or_nan))  # fmt: skip


def part(value: Any) -> bool:
    """Which part of how many."""
    return isinstance(value, list | tuple) and every(whole())(value) and len(value) == 2 and value[0] < value[1]


def points(value: Any) -> bool:
    """Of each, all that validation promised, or none of it."""
    return table(POINT)(value) and {"0.5", "validation"} <= set(value) and all(
        len(set(PROMISED) & set(point)) in (0, len(PROMISED)) for point in value.values())  # fmt: skip


def normalisation(value: Any) -> bool:
    return every(number(0, 1))(value) and len(value) == 2 and value[1] > 0


FOLDERS = record(**dict.fromkeys(CLASSES, every(text)))

RULES: dict[str, tuple[Rule, str]] = {
    "name": (plain_name, "a plain file name"),
    "architecture": (one_of("simple", "resnet34", "resnet34-pretrained"), "one that this program knows"),
    "classes": (one_of(list(CLASSES)), " and ".join(CLASSES) + ", in this order"),
    "size": (whole(32, 2048), "a side in pixels, 32 to 2048"),
    "fit": (one_of(*images.FITS), "one of " + ", ".join(images.FITS)),
    "normalisation": (normalisation, "a mean and a deviation, 0 to 1"),
    "temperature": (number(1e-3, 1e3), "a number above 0"),
    "threshold": (number(0, 1), "a number from 0 to 1"),
    "data": (record(("source", "skipped", "shapes", "folders"), name=text, fingerprint=text, synthetic=flag,
                    source=text, skipped=every(every(text)), shapes=number(0), folders=FOLDERS),
             "a description of data"),
    "split": (record(("images", "block", "fold"), how=one_of("patient", "official", "image"), seed=whole(),
                     block=flag, fold=nothing_or(part), fingerprint=text, images=table(whole())),
              "a description of a split"),
    "seen_images": (integers, "a list of hashes"),
    "seen_patients": (integers, "a list of hashes"),
    "seen_looks": (lambda value: isinstance(value, torch.Tensor) and value.dtype == torch.int64
                   and value.dim() == 2 and value.shape[1] == 4, "a list of looks"),
    "seen": (record(images=whole(), patients=whole(), sha256=text), "a description of a record"),
    "recipe": (table(lambda value: leaf(value) or table(leaf)(value)), "a description of a recipe"),
    "quick": (flag, "true or false"),
    "seed": (whole(), "a whole number"),
    "processes": (whole(1), "a whole number"),
    "device": (text, "text"),
    "initial_weights": (text, "text"),
    "threshold_rule": (text, "text"),
    "versions": (table(text), "names with versions"),
    "epoch": (whole(), "a whole number"),
    "seconds": (number(0), "a number of seconds"),
    "history": (every(EPOCH), "a row for each epoch"),
    "operating_points": (points, "thresholds with what validation promised"),
    "validation": (one_of("stress", "random", "block"), "a kind of validation"),
    "stress": (every(record(view=text, **dict.fromkeys(STRESS, number_or_nan))), "a row for each view"),
    "validation_answers": (same_length, "logits, labels and patients of as many images"),
    "limits": (lambda value: knowledge(value) or numbers_of_limits(value), "the limits of what a model knows"),
    "flags": (record(bits=table(whole()), forbidding=whole()), "a table of flags"),
    "promise": (record(alpha=number(0, 1), lowest_pneumonia=number(0, 1), highest_normal=number(0, 1)),
                "a share and two probabilities"),
    "members": (every(record(name=text, checkpoint_sha256=text, temperature=number(1e-3, 1e3),
                             normalisation=normalisation)), "a row for each network that is averaged"),
    "precision": (record(name=one_of("fp32", "fp16", "int8")), "one that this program knows"),
    "heatmap": (record(bias=number()), "a description of a heat map"),
}  # fmt: skip


def check(file: Path, facts: dict, needed: tuple[str, ...]) -> None:
    """Raises Problem when one of `needed` is missing, or when anything known here is what it cannot be."""
    if missing := [key for key in needed if key not in facts]:
        raise Problem(f"{file}: it has no {', no '.join(missing[:3])}: this version of the scripts did not write it")
    for key, (possible, what) in RULES.items():
        if key in facts and not possible(facts[key]):
            found = printable(repr(facts[key]))
            raise Problem(f"{file}: its {key} is {found if len(found) < 60 else found[:60] + '...'}, and not {what}")
    if "epoch" in facts and "history" in facts and not facts["epoch"] <= len(facts["history"]):
        raise Problem(f"{file}: its epoch is {facts['epoch']}, of {len(facts['history'])} in its history")
