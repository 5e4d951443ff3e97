"""Stress validation: the validation films as they might look elsewhere, in framing, sharpness, tone and shape.

In the public training films these tell the classes apart (`Shortcuts` measures how well the first three do), and random
validation rewards a network for using them. Here the same validation films are shown in other ways, some of which take
that advantage away or turn it round.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from films.augmentation import Changes, affine_maps, change
from metrics import measures
from metrics.logistic import fit_logistic
from training.batches import toned_on

CHUNK = 256  # images that are worked on at once
MEASURES = ("auroc", "accuracy", "sensitivity", "specificity")
SEARCHED = 300  # training images on which the strength of "equalised" and "reversed" is found


@dataclass(frozen=True)
class Look:
    """How a film is shown; the meaning of each is that of variation.Augment and augmentation.Changes."""

    width: float = 1.0  # of the part that is seen, as a fraction of the film
    height: float = 1.0
    down: float = 0.0  # where its middle lies, in halves of the film's side
    contrast: float = 1.0
    brightness: float = 0.0
    curve: float = 0.0
    detail: float = 0.0


AS_IS = Look()
# Every film alike:
LOOKS = {
    "as it is": AS_IS,
    "tight": Look(0.75, 0.75),
    "wide": Look(1.25, 1.25),
    "narrow": Look(0.8, 1.1),
    "broad": Look(1.1, 0.8),
    "lower part": Look(0.85, 0.85, down=0.15),
    "soft": Look(detail=-0.9),
    "sharp": Look(detail=0.9),
    "dark": Look(curve=-0.6),
    "light": Look(curve=0.6),
    "flat": Look(contrast=0.7),
}
# Kermany's normals are framed wider, sharper and reach deeper black: each class made to look like the other one.
NORMAL_AS_PNEUMONIA = Look(0.8, 0.8, contrast=0.85, brightness=0.05, detail=-0.6)
PNEUMONIA_AS_NORMAL = Look(1.15, 1.15, contrast=1.1, brightness=-0.05, detail=0.5)

View = tuple[Look, Look]  # for normal and for pneumonia


def shapes_exchanged(ratio: float) -> dict[str, View]:
    """Each class as narrow as the other one is, in two ways; the ratio is data.shape_ratio's, 1 for no such views.

    One squeezes and stretches, so that there is black where a film ends; the other one cuts height from the films of
    the class that was narrower, and width from those of the other.
    """
    if ratio == 1:
        return {}
    by_cutting = [Look(1, 1 / ratio), Look(1 / ratio, 1)] if ratio > 1 else [Look(ratio, 1), Look(1, ratio)]
    return {
        "shapes exchanged": (Look(ratio**0.5, ratio**-0.5), Look(ratio**-0.5, ratio**0.5)),
        "shapes exchanged by cutting": (by_cutting[0], by_cutting[1]),
    }


def exchanged(strength: float) -> View:
    """Each class part of the way, from 0 to 1, to the look of the other."""

    def toward(look: Look) -> Look:
        fields = vars(AS_IS)
        return replace(look, **{key: fields[key] + strength * (vars(look)[key] - fields[key]) for key in fields})

    return toward(NORMAL_AS_PNEUMONIA), toward(PNEUMONIA_AS_NORMAL)


def viewed(table: torch.Tensor, indices: NDArray, labels: NDArray, view: View) -> torch.Tensor:
    """(N, S, S) uint8: these images of a table as the view shows them; labels are the whole table's."""
    shown = []
    for some in np.array_split(indices, max(-(-len(indices) // CHUNK), 1)):
        pixels = table[torch.from_numpy(some).to(table.device)]
        if view == (AS_IS, AS_IS):
            shown.append(pixels)
            continue
        which = torch.from_numpy(labels[some])

        def each(key: str, which: torch.Tensor = which) -> torch.Tensor:
            return torch.tensor([vars(look)[key] for look in view], dtype=torch.get_default_dtype())[which]

        changes = Changes(
            affine_maps(
                torch.stack([each("width"), each("height")], 1),
                torch.zeros_like(each("down")),
                torch.stack([torch.zeros_like(each("down")), each("down")], 1),
            ),
            torch.stack([each("contrast"), each("brightness"), each("curve")], 1),
            each("detail"),
            curved=any(look.curve for look in view),
        )
        images = change(pixels[:, None] * (1 / 255), changes.to(table.device), toned=toned_on(table.device))
        shown.append(images[:, 0].mul_(255).round_().to(torch.uint8))
    return torch.cat(shown)


class Shortcuts:
    """A baseline that sees nothing of a film but its sharpness, its tone and its borders.

    A logistic regression on these numbers and their squares. Its AUROC says how much a set of images gives away to a
    network that never looks at a lung.
    """

    def __init__(self, table: torch.Tensor, indices: NDArray, labels: NDArray) -> None:
        facts = in_chunks(self.facts, table, indices)
        self.mean, self.deviation = facts.mean(0), facts.std(0) + 1e-9
        self.weights = fit_logistic(self.inputs(facts), labels[indices])

    @staticmethod
    def facts(images: torch.Tensor) -> NDArray[np.float64]:
        """(N, 8) of (N, S, S) uint8: sharpness, shares of black and of white, mean, deviation, means of the borders."""
        pixels = images.float()
        tenth = max(pixels.shape[-1] // 10, 1)
        inner = pixels[:, 1:-1, 1:-1]
        laplacian = 4 * inner - pixels[:, :-2, 1:-1] - pixels[:, 2:, 1:-1] - pixels[:, 1:-1, :-2] - pixels[:, 1:-1, 2:]
        columns = [
            laplacian.std((1, 2)).log1p(),
            (pixels < 8).float().mean((1, 2)),
            (pixels > 240).float().mean((1, 2)),
            pixels.mean((1, 2)),
            pixels.std((1, 2)),
            pixels[:, :, :tenth].mean((1, 2)) + pixels[:, :, -tenth:].mean((1, 2)),
            pixels[:, :tenth].mean((1, 2)),
            pixels[:, -tenth:].mean((1, 2)),
        ]
        return torch.stack(columns, 1).double().cpu().numpy()

    def inputs(self, facts: NDArray) -> NDArray:
        standard = (facts - self.mean) / self.deviation
        return np.column_stack([standard, standard**2])

    def scores(self, images: torch.Tensor) -> NDArray[np.float64]:
        """(N,) log-odds of pneumonia for (N, S, S) uint8."""
        facts = in_chunks(self.facts, images, np.arange(len(images)))
        return self.inputs(facts) @ self.weights[1:] + self.weights[0]


def in_chunks(measure: Callable[[torch.Tensor], NDArray], table: torch.Tensor, indices: NDArray) -> NDArray:
    parts = np.array_split(indices, max(-(-len(indices) // CHUNK), 1))
    return np.concatenate([measure(table[torch.from_numpy(some).to(table.device)]) for some in parts])


class StressValidation:
    """All views of some validation images, and what each gives away.

    Two views exchange the looks of the classes: "equalised" so far that the baseline, on training images, is no better
    than chance, "reversed" so far that it is as wrong as it was right. The last two exchange their shapes. Nothing is
    kept but how that is done: a view is made when it is asked for.

    shapes: how much wider pneumonias were than normal films before they were made square, see data.shape_ratio.
    """

    def __init__(
        self, table: torch.Tensor, labels: NDArray, training: NDArray, validation: NDArray, shapes: float = 1.0
    ) -> None:
        self.table, self.labels, self.validation = table, labels, validation
        self.baseline = Shortcuts(table, training, labels)
        sample = training[:: max(len(training) // SEARCHED, 1)]

        strengths = np.linspace(0, 1, 11)
        found = np.array([
            measures.auroc(labels[sample], self.baseline.scores(viewed(table, sample, labels, exchanged(strength))))
            for strength in strengths
        ])  # fmt: skip

        def meeting(target: float) -> View:
            """Where the baseline comes nearest to the target: where these looks tell nothing, that is no change."""
            return exchanged(float(strengths[np.abs(found - target).argmin()]))

        self.views: dict[str, View] = {name: (look, look) for name, look in LOOKS.items()}
        self.views["equalised"] = meeting(0.5)
        self.views["reversed"] = meeting(1 - found[0])
        self.views |= shapes_exchanged(shapes)

    def show(self, name: str) -> torch.Tensor:
        """(N, S, S) uint8, N validation images."""
        return viewed(self.table, self.validation, self.labels, self.views[name])

    def mixed(self) -> torch.Tensor:
        """(N, S, S) uint8: every validation image once, the views taking turns in each class."""
        turn = np.zeros(len(self.validation), int)
        for label in np.unique(self.labels):
            mine = self.labels[self.validation] == label
            turn[mine] = np.arange(mine.sum()) % len(self.views)
        shown = torch.empty((len(turn), *self.table.shape[1:]), dtype=torch.uint8, device=self.table.device)
        for k, view in enumerate(self.views.values()):
            here = np.flatnonzero(turn == k)
            if len(here):
                shown[torch.from_numpy(here).to(shown.device)] = viewed(
                    self.table, self.validation[here], self.labels, view
                )
        return shown

    def measured(self, logits: dict[str, NDArray], temperature: float, threshold: float) -> list[dict]:
        """A row a view and one for "matched", from the (N, 2) logits of each view.

        "matched" weights the films as they are by how well the baseline would take them for the other class (overlap
        weights; Li, Morgan, Zaslavsky 2018, J. Am. Stat. Assoc. 113:390): real films, of which nothing but their
        lungs should tell the classes apart. Its accuracy is the mean of sensitivity and specificity.
        """
        labels = self.labels[self.validation]
        rows = [self.row(name, found, temperature, threshold) for name, found in logits.items()]
        probabilities = measures.positive_probability(logits["as it is"], temperature)
        scores = self.baseline.scores(self.show("as it is"))
        rows.append({"view": "matched", **matched(labels, probabilities, threshold, scores)})
        return rows

    def row(self, name: str, logits: NDArray, temperature: float, threshold: float) -> dict:
        """The measures of one view, from its (N, 2) logits, and the AUROC of the baseline that sees no lungs."""
        labels = self.labels[self.validation]
        measured = measures.classification(labels, measures.positive_probability(logits, temperature), threshold)
        shortcuts = measures.auroc(labels, self.baseline.scores(self.show(name)))
        return {"view": name, "shortcuts": shortcuts, **{key: float(measured[key]) for key in MEASURES}}


def matched(labels: NDArray, probabilities: NDArray, threshold: float, scores: NDArray) -> dict[str, float]:
    """The measures of a row under overlap weights from the baseline's scores."""
    pneumonia = 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
    weights = np.where(labels == 1, 1 - pneumonia, pneumonia)
    decisions = measures.decide(probabilities, threshold)
    right = [float(np.average((decisions == labels)[labels == k], weights=weights[labels == k])) for k in (0, 1)]
    return {
        "shortcuts": weighted_auroc(labels, scores, weights),
        "auroc": weighted_auroc(labels, probabilities, weights),
        "accuracy": sum(right) / 2,
        "sensitivity": right[1],
        "specificity": right[0],
    }


def weighted_auroc(labels: NDArray, scores: NDArray, weights: NDArray) -> float:
    """The chance, by weight, that a positive scores higher than a negative one, ties counting half."""
    _, place = np.unique(scores, return_inverse=True)
    negative = np.bincount(place, weights * (labels == 0))
    positive = np.bincount(place, weights * (labels == 1))
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / (positive.sum() * negative.sum()))


def in_short(rows: list[dict]) -> str:
    """Two lines of the rows of `measured`: films as they are, and the row with the lowest AUROC."""
    as_they_are = next(row for row in rows if row["view"] == "as it is")
    worst = min(rows, key=lambda row: row["auroc"])
    lines = []
    for head, row in (("films as they are", as_they_are), (f"worst view ({worst['view']})", worst)):
        others = ", ".join(f"{key} {row[key]:.3f}" for key in MEASURES if key != "auroc")
        lines.append(f"stress validation, {head}: AUROC {row['auroc']:.4f}, {others}")
    return "\n".join(lines)


def table(rows: list[dict]) -> str:
    """The rows of `measured` for people, with their mean and worst."""
    numbers = np.array([[row[key] for key in MEASURES] for row in rows])
    lines = [[row["view"], row["shortcuts"], *values] for row, values in zip(rows, numbers, strict=True)]
    lines += [["mean", "", *numbers.mean(0)], ["worst", "", *numbers.min(0)]]
    headers = ["stress validation", "AUROC of shortcuts alone"]
    headers += ["AUROC" if key == "auroc" else key for key in MEASURES]
    return tabulate(lines, headers, floatfmt=("", ".3f", ".4f", ".3f", ".3f", ".3f"))
