"""Whether a network leans on the frame of a film, all but its middle: told by the films whose frame lies.

measured(films)    how many films it answers right, by what a cheap model makes of their frames
areas(films)       its AUROC on whole films, where it sees frames without middles, and middles without frames
table(...), sentences(...), without_lungs(...)   the same for people
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evaluation import markup, shortcuts
from films import giveaways
from metrics import differences, estimation, intervals, measures
from metrics.estimation import Estimate

Rows = dict[tuple[int, str], dict[str, Any]]  # what estimation.subgroup says, by a key of GROUPS

MEASURED = ("specificity", "sensitivity", "accuracy")  # of normal films, of pneumonias, of both
GROUPS = {
    (0, "all"): "normal, all",
    (0, "agrees"): "normal, frame looks normal",
    (0, "lies"): "normal, frame looks ill",
    (0, "third"): "normal, the third that look most ill",
    (1, "all"): "pneumonia, all",
    (1, "agrees"): "pneumonia, frame looks ill",
    (1, "lies"): "pneumonia, frame looks normal",
    (1, "third"): "pneumonia, the third that look most normal",
    (2, "lies"): "films whose frame lies",
}
PARTS = {"hidden": shortcuts.borders_only, "alone": shortcuts.centre_only}  # by fields of Films


@dataclass(frozen=True)
class Films:
    """Validation films, (N,) each, and what a network makes of them."""

    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    odds: NDArray[np.float64]  # log-odds of pneumonia by the frame alone, of a cheap model
    decisions: NDArray[np.int64]
    whole: NDArray[np.float64]  # the network's probabilities: of the films as they are,
    hidden: NDArray[np.float64]  # without their middles,
    alone: NDArray[np.float64]  # and of their middles alone

    @classmethod
    def pooled(cls, parts: Sequence[Self]) -> Self:
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def chance(odds: NDArray) -> NDArray[np.float64]:
    """(N,) of pneumonia, from log-odds of any size."""
    return 0.5 + 0.5 * np.tanh(0.5 * odds)


def groups(labels: NDArray, odds: NDArray) -> dict[tuple[int, str], NDArray[np.bool_]]:
    """(N,) for each of GROUPS: which films are in it. A frame with odds of exactly 0 neither agrees nor lies."""
    against = np.where(labels == 1, -odds, odds)  # how much a frame contradicts the label
    found = {}
    for label in (0, 1):
        mine = labels == label
        worst = np.argsort(np.where(mine, -against, np.inf), kind="stable")[: -(-int(mine.sum()) // 3)]
        third = np.zeros(len(labels), bool)
        third[worst] = True  # rounded up: a class that is there has one
        found |= {(label, "all"): mine, (label, "agrees"): mine & (against < 0), (label, "lies"): mine & (against > 0),
                  (label, "third"): third}  # fmt: skip
    return found | {(2, "lies"): against > 0}


def measured(films: Films) -> Rows:
    """The share of each group that was answered right, with its 95 % interval by patient; nan of an empty one."""
    return {
        key: estimation.subgroup(GROUPS[key], MEASURED[key[0]], which, films.labels, films.decisions, films.patients)
        for key, which in groups(films.labels, films.odds).items()
    }


def in_parts(answers: Callable[[NDArray], NDArray], images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """What a network makes of parts of (N, S, S) films: what is hidden has the mean grey of the film.

    answers: from films to (N,) probabilities.
    """
    return {part: answers(shortcuts.changed_table(images, change)) for part, change in PARTS.items()}


def areas(films: Films) -> dict[str, Estimate]:
    """The AUROC of the network on whole films and on parts of them, and that of the cheap model on frames."""
    scores = {"whole": films.whole, "hidden": films.hidden, "alone": films.alone, "frame": chance(films.odds)}
    return {name: area(films, found) for name, found in scores.items()}


def where_frames_lie(films: Films) -> dict[str, Estimate]:
    """The AUROC on whole films and on middles alone of the films whose frame lies, and what the second has more.

    All nan without both classes.
    """
    lying = groups(films.labels, films.odds)[2, "lies"]
    some = Films(*(getattr(films, field.name)[lying] for field in fields(films)))
    if len(set(some.labels.tolist())) < 2:
        return dict.fromkeys(("whole", "alone", "more"), estimation.estimate(math.nan))
    more = differences.of_auroc(some.labels, some.whole[None], some.alone[None], some.patients)
    return {"whole": area(some, some.whole), "alone": area(some, some.alone),
            "more": estimation.estimate(more.value, (more.low, more.high))}  # fmt: skip


def area(films: Films, scores: NDArray) -> Estimate:
    """AUROC of (N,) scores from 0 to 1, with its 95 % interval by patient."""
    ends = intervals.auroc_interval(films.labels, scores, films.patients)
    return estimation.estimate(measures.auroc(films.labels, scores), ends)


def worst(rows: Rows) -> dict[str, Any]:
    """The group of one class that fares worst; whole classes are none."""
    candidates = [row for (label, kind), row in rows.items() if label < 2 and kind != "all" and row["images"]]
    return min(candidates, key=lambda row: row["value"])


def counted(row: dict[str, Any]) -> str:
    """ "31 of 33 right, 93.9 [80, 99] %"."""
    if not row["images"]:
        return "0 films"
    return f"{round(row['value'] * row['images']):,} of {row['images']:,} right, {markup.percent(row)} %"


def sentences(rows: Rows) -> list[str]:
    """How each class fares where frames lie, and the worst group."""
    said = []
    for label, name, look in ((0, "normal films", "ill"), (1, "pneumonias", "normal")):
        lying, third, every = (rows[label, kind] for kind in ("lies", "third", "all"))
        more = "" if lying["images"] else f"; the third that look most so: {counted(third)}"
        said.append(f"{name} whose frame looks {look}: {counted(lying)}{more}; "
                    f"all {name}: {markup.number(100 * every['value'], 1)} %")  # fmt: skip
    return [*said, f"worst group: {worst(rows)['group']}; {counted(worst(rows))}"]


def without_lungs(name: str, found: dict[str, Estimate], lying: dict[str, Estimate]) -> list[str]:
    """What the frame alone tells a cheap model, what it tells a network, and whether it misleads that."""
    frame, whole, hidden, alone = (markup.with_interval(found[part]) for part in ("frame", "whole", "hidden", "alone"))
    said = [
        f"the frame (all but the middle {100 * giveaways.FRAME_SHARE:.0f} % of each side) by a cheap model: "
        f"AUROC {frame}",
        f"what {name} says without lungs, the middle hidden: AUROC {hidden}",
        f"by the middle alone: AUROC {alone}, by whole films {whole}",
    ]
    if math.isnan(lying["whole"]["value"]):
        return said
    whole, alone = (markup.with_interval(lying[part]) for part in ("whole", "alone"))
    # Where both are low these films are hard for other reasons too, such as lungs that look like the other class.
    verdict = "they mislead it" if lying["more"]["low"] > 0 else "no evidence that they mislead it"
    return [
        *said,
        f"where frames lie: by the middle alone {alone}, by whole films {whole}",
        f"hiding these frames changes that by {markup.with_interval(lying['more'], sign=True)}: {verdict}",
    ]


def table(rows: Rows) -> str:
    """A line a group, for a screen of 100 columns."""
    lines = [[row["group"], f"{row['images']:,}", f"{row['patients']:,}", row["measure"], markup.with_interval(row)]
             for row in rows.values()]  # fmt: skip
    return markup.screen_table(["by how the frame looks", "films", "patients", "right", "95 % by patient"], lines)
