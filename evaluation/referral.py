"""Referral with a promise: films of which a model cannot tell the class at the promised level are left to a reader.

The cut-offs are validation's, of the films as they are; what they deliver is counted on the test films.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from basics.problems import Problem
from films.sources import CLASSES
from metrics import conformal, estimation, intervals, measures
from training import schema, stress_views

ALPHA = 0.05  # each class is left out for at most so many of its films
LEVEL = 0.025  # below it one does not believe that chance delivered so little: that of one side of a 95 % interval
NAMES = tuple(name.lower() for name in CLASSES)
MEASURES = {
    "coverage_normal": "normal is possible for normals",
    "coverage_pneumonia": "pneumonia is possible for pneumonias",
    "referred": "referred",
    "both_possible": "... as both are possible",
    "neither_possible": "... as neither is",
    "answered_accuracy": "accuracy of the answers",
    "answered_sensitivity": "sensitivity of the answers",
    "answered_specificity": "specificity of the answers",
}
COLUMNS = ("value", "low", "high", "films", "patients")  # of results.csv, for each of them
POSSIBLE = schema.record(
    alpha=schema.number(1e-6, 1 - 1e-6), lowest_pneumonia=schema.number(0, 1), highest_normal=schema.number(0, 1),
    patients=lambda value: schema.every(schema.whole(0, 10**6))(value) and len(value) == 2,
)  # fmt: skip


def promised(facts: dict) -> dict | None:
    """The promise that a graph carries, or that a checkpoint's validation answers make; None where it has neither.

    {"alpha", "lowest_pneumonia", "highest_normal", "patients"}, as conformal.promise() makes it. Raises Problem where
    what the file holds cannot be one.
    """
    if "promise" in facts:
        if not POSSIBLE(facts["promise"]):
            raise Problem(f"{facts['file']}: its promise is not alpha, two cut-offs from 0 to 1 and two counts")
        return facts["promise"]
    known = facts.get("limits", {})
    if "logits" in known:  # of a checkpoint: the same answers, in float32, as its graph's promise is made of
        probabilities = measures.positive_probability(known["logits"].numpy(), facts["temperature"])
        return conformal.promise(known["labels"].numpy(), probabilities, known["patients"].tolist(), ALPHA)
    if (answers := facts.get("validation_answers")) is None:  # of an earlier version
        return None
    try:
        probabilities = measures.positive_probability(answers["logits"].numpy(), facts["temperature"])
        return made(answers["labels"].numpy(), probabilities, answers["patients"].numpy(), facts.get("stress") or [])
    except ValueError as error:
        raise Problem(f"{facts['file']}: its validation answers cannot be used ({error})") from error


def made(labels: NDArray, probabilities: NDArray, patients: ArrayLike, stress: Sequence[dict]) -> dict:
    """The promise of validation answers, all views after one another, the films as they are first.

    Only these are like test films: a film that is shown otherwise is no draw from the same source.
    """
    views = max(len(stress_views.views_of(list(stress))), 1)
    if len(labels) % views:
        raise ValueError(f"{len(labels):,} of them in {views} views")
    films = len(labels) // views
    return conformal.promise(labels[:films], probabilities[:films], np.asarray(patients)[:films], ALPHA)


def delivered(labels: NDArray, probabilities: NDArray, patients: Sequence[str], promise: dict) -> dict:
    """The promise, and under "measures" what became of it on N test films, each with its n and its interval.

    Coverage is the share of a class's films for which that class is possible. `p` is conformal.chance() of its
    patients' first films: it knows, as the interval does not, that the cut-offs were drawn too. The films have shifted
    where both speak against the promise.
    """
    whose = np.asarray(patients)
    classes = conformal.possible(probabilities, (promise["lowest_pneumonia"], promise["highest_normal"]))
    answered, first = ~conformal.referred(classes), conformal.first_films(labels, whose)
    kept, every = classes[np.arange(len(labels)), labels], np.ones(len(labels), bool)
    found: dict[str, dict] = {}
    for label, name in enumerate(NAMES):
        mine = labels == label
        coverage = share(kept, mine, whose)
        tried = mine & first
        p = conformal.chance(int(np.sum(tried & ~kept)), int(tried.sum()), promise["patients"][label], promise["alpha"])
        short = coverage["high"] < 1 - promise["alpha"] and p < LEVEL
        found[f"coverage_{name}"] = {**coverage, "promised": 1 - promise["alpha"], "p": p, "shifted": bool(short)}
    found |= {
        "referred": share(~answered, every, whose),
        "both_possible": share(classes[:, 0] & classes[:, 1], every, whose),
        "neither_possible": share(~classes[:, 0] & ~classes[:, 1], every, whose),
        "answered_accuracy": share(kept, answered, whose),
        "answered_sensitivity": share(kept, answered & (labels == 1), whose),
        "answered_specificity": share(kept, answered & (labels == 0), whose),
    }
    return {**promise, "measures": found}


def share(counts: NDArray, which: NDArray, patients: NDArray) -> dict:
    """The share of some films that count, with n films and patients, and its interval by patient."""
    some, whose = counts[which], patients[which]
    value = some.mean() if len(some) else np.nan
    return {
        "films": len(some),
        "patients": len(np.unique(whose)),
        **estimation.estimate(value, intervals.clustered_wilson(some, whose)),
    }


def unknown(referral: dict) -> list[tuple[str, int]]:
    """(class, patients) where validation had too few patients for the promise, so that the class is always possible."""
    return [
        (name, n) for name, n in zip(NAMES, referral["patients"], strict=True)
        if conformal.left_out(n, referral["alpha"]) == 0
    ]  # fmt: skip


def columns(referral: dict | None) -> dict[str, float | int | str]:
    """The same numbers for results.csv, under the same names whether there is a promise or not; empty without one."""
    row: dict = {f"promise_{key}": referral[key] if referral else ""
                 for key in ("alpha", "lowest_pneumonia", "highest_normal")}  # fmt: skip
    for measure in MEASURES:
        found = referral["measures"][measure] if referral else {}
        row |= {measure if key == "value" else f"{measure}_{key}": found.get(key, "") for key in COLUMNS}
        if measure.startswith("coverage"):
            row |= {f"{measure}_{key}": found.get(key, "") for key in ("p", "shifted")}
    for label, name in enumerate(NAMES):
        row[f"promise_{name}_patients"] = referral["patients"][label] if referral else ""
    return row
