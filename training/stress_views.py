"""Stress validation: the validation films as they might look elsewhere, in framing, sharpness, tone, shape and frame.

In the public training films these tell the classes apart (`Shortcuts` measures how well the first three do,
films/giveaways.py the frame), and random validation rewards a network for using them. Here the same validation films
are shown in other ways, some of which take that advantage away or turn it round.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from basics.progress import Progress
from devices import parallel
from films import giveaways
from films.augmentation import Changes, affine_maps, change, framed, mixed_spectra
from metrics import measures
from metrics.logistic import fit_logistic
from training.batches import toned_on

CHUNK = 256  # images that are worked on at once
MEASURES = ("auroc", "accuracy", "sensitivity", "specificity")
MIDDLE, SEAM = 0.6, 0.1  # of the side: what is kept where a film gets another one's frame, and the seam's width
MATCHED = "frames matched"  # the row of weighted films
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


@dataclass(frozen=True)
class Lent:
    """What each film takes of another validation film: of one of the other class, or of its own."""

    own: bool = False
    frame: bool = False  # all but its middle
    matched: bool = False  # a frame takes on mean and deviation of the film
    spectrum: float = 0.0  # a share of the amplitude spectrum


LENT = {
    "frames exchanged": Lent(frame=True),
    "frames exchanged, greys matched": Lent(frame=True, matched=True),
    "frames of the own class": Lent(own=True, frame=True),
    "spectra exchanged": Lent(spectrum=0.5),
}


def lenders(labels: NDArray, own: bool) -> NDArray[np.int64]:
    """(N,) which film lends to each: one of the other class, or another one of its own; the same ones each time."""
    order, found = np.random.default_rng(0), np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        mine, others = (order.permutation(np.flatnonzero(which)) for which in (labels == label, labels != label))
        found[mine] = np.roll(mine, 1) if own or not len(others) else np.resize(others, len(mine))
    return found


def lent(table: torch.Tensor, indices: NDArray, donors: NDArray, what: Lent) -> torch.Tensor:
    """(N, S, S) uint8: these images of a table, each with what it takes of its donor, another row of the table."""
    shown = []
    for some in np.array_split(np.stack([indices, donors]), max(-(-len(indices) // CHUNK), 1), axis=1):
        images, others = (table[torch.from_numpy(rows).to(table.device)][:, None] * (1 / 255) for rows in some)
        if what.spectrum:
            images = mixed_spectra(images, others, torch.full((len(images),), what.spectrum, device=table.device))
        if what.frame:
            frame = torch.tensor([0, 0, MIDDLE / 2, MIDDLE / 2, SEAM, what.matched], device=table.device)
            images = framed(images, others, frame.repeat(len(images), 1))
        shown.append(images[:, 0].mul(255).round_().to(torch.uint8))
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
    than chance, "reversed" so far that it is as wrong as it was right. In four each film takes something from another
    one; the last two exchange shapes. Nothing is kept but how that is done: a view is made when it is asked for.

    shapes: how much wider pneumonias were than normal films before they were made square, see data.shape_ratio.
    """

    def __init__(
        self, table: torch.Tensor, labels: NDArray, training: NDArray, validation: NDArray, shapes: float = 1.0
    ) -> None:
        self.table, self.labels, self.validation = table, labels, validation
        self.baseline = Shortcuts(table, training, labels)
        sample = training[:: max(len(training) // SEARCHED, 1)]

        strengths, found = np.linspace(0, 1, 11), np.zeros(11)
        with Progress(
            11, "views of stress validation", "strengths", quiet=parallel.rank() > 0, leave=False, delay=2
        ) as progress:
            for k, strength in enumerate(strengths):
                scores = self.baseline.scores(viewed(table, sample, labels, exchanged(strength)))
                found[k] = measures.auroc(labels[sample], scores)
                progress.update()

        def meeting(target: float) -> View:
            """Where the baseline comes nearest to the target: where these looks tell nothing, that is no change."""
            return exchanged(float(strengths[np.abs(found - target).argmin()]))

        self.views: dict[str, View | Lent] = {name: (look, look) for name, look in LOOKS.items()}
        self.views["equalised"] = meeting(0.5)
        self.views["reversed"] = meeting(1 - found[0])
        self.views |= LENT
        self.views |= shapes_exchanged(shapes)
        self.lenders = {own: validation[lenders(labels[validation], own)] for own in (False, True)}
        self.frame_odds = self.odds_by_frame(training)

    def odds_by_frame(self, training: NDArray) -> NDArray[np.float64]:
        """(N,) log-odds of pneumonia by the frame alone, learnt from training films.

        Two numbers, a slope and an offset, are fitted to the validation films themselves: under overlap weights their
        mean is then the same in both classes, to the digit (Li, Morgan, Zaslavsky 2018).
        """
        features = [in_chunks(lambda films: giveaways.frame_features(films.cpu().numpy()), self.table, indices)
                    for indices in (training, self.validation)]  # fmt: skip
        scores = giveaways.CheapModel.fit(features[0], self.labels[training]).scores(features[1])
        offset, slope = fit_logistic(scores[:, None], self.labels[self.validation])
        return offset + slope * scores

    def show(self, name: str, here: NDArray | None = None) -> torch.Tensor:
        """(N, S, S) uint8, the N validation images, or those at the places `here` among them."""
        view, here = self.views[name], np.arange(len(self.validation)) if here is None else here
        if isinstance(view, Lent):
            return lent(self.table, self.validation[here], self.lenders[view.own][here], view)
        return viewed(self.table, self.validation[here], self.labels, view)

    def mixed(self) -> torch.Tensor:
        """(N, S, S) uint8: every validation image once, the views taking turns in each class."""
        turn = np.zeros(len(self.validation), int)
        for label in np.unique(self.labels):
            mine = self.labels[self.validation] == label
            turn[mine] = np.arange(mine.sum()) % len(self.views)
        shown = torch.empty((len(turn), *self.table.shape[1:]), dtype=torch.uint8, device=self.table.device)
        for k, name in enumerate(self.views):
            here = np.flatnonzero(turn == k)
            if len(here):
                shown[torch.from_numpy(here).to(shown.device)] = self.show(name, here)
        return shown

    def measured(self, logits: dict[str, NDArray], temperature: float, threshold: float) -> list[dict]:
        """A row a view and one for "frames matched", from the (N, 2) logits of each view.

        The last one weights the films as they are by how well their frames would pass for the other class (overlap
        weights; Li, Morgan, Zaslavsky 2018, J. Am. Stat. Assoc. 113:390): real films, whose frames tell nothing. Where
        frames tell nearly everything these are few, as few as its name says. Its accuracy is the mean of sensitivity
        and specificity.
        """
        labels = self.labels[self.validation]
        rows = []
        with Progress(len(logits), "stress validation", "views", leave=False, delay=2) as progress:
            for name, found in logits.items():
                rows.append(self.row(name, found, temperature, threshold))
                progress.update()
        probabilities = measures.positive_probability(logits["as it is"], temperature)
        weights = overlap_weights(labels, self.frame_odds)
        count = round(weights.sum() ** 2 / (weights**2).sum())  # as many films with equal weights are as uncertain
        row = matched(labels, probabilities, threshold, self.frame_odds)
        return [*rows, {"view": f"{MATCHED}, of {count}", **row}]

    def row(self, name: str, logits: NDArray, temperature: float, threshold: float) -> dict:
        """The measures of one view, from its (N, 2) logits, and the AUROC of the baseline that sees no lungs."""
        labels = self.labels[self.validation]
        measured = measures.classification(labels, measures.positive_probability(logits, temperature), threshold)
        shortcuts = measures.auroc(labels, self.baseline.scores(self.show(name)))
        return {"view": name, "shortcuts": shortcuts, **{key: float(measured[key]) for key in MEASURES}}


def overlap_weights(labels: NDArray, odds: NDArray) -> NDArray[np.float64]:
    """(N,) the chance of the other class, by (N,) log-odds of pneumonia."""
    pneumonia = 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
    return np.where(labels == 1, 1 - pneumonia, pneumonia)


def matched(labels: NDArray, probabilities: NDArray, threshold: float, odds: NDArray) -> dict[str, float]:
    """The measures of a row under overlap weights from these log-odds."""
    weights = overlap_weights(labels, odds)
    decisions = measures.decide(probabilities, threshold)
    right = [float(np.average((decisions == labels)[labels == k], weights=weights[labels == k])) for k in (0, 1)]
    return {
        "shortcuts": weighted_auroc(labels, odds, weights),
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


def views_of(rows: list[dict]) -> list[dict]:
    """The rows of `measured` in which every film counts alike: all but the matched one, which is of few films."""
    return [row for row in rows if not row["view"].startswith(MATCHED)]


def in_short(rows: list[dict]) -> str:
    """Two lines of the rows of `measured`: films as they are, and the view with the lowest AUROC."""
    as_they_are = next(row for row in rows if row["view"] == "as it is")
    worst = min(views_of(rows), key=lambda row: row["auroc"])
    lines = []
    for head, row in (("films as they are", as_they_are), (f"worst view ({worst['view']})", worst)):
        others = ", ".join(f"{key} {row[key]:.3f}" for key in MEASURES if key != "auroc")
        lines.append(f"stress validation, {head}: AUROC {row['auroc']:.4f}, {others}")
    return "\n".join(lines)


def table(rows: list[dict]) -> str:
    """The rows of `measured` for people, with mean and worst of the views."""
    numbers = np.array([[row[key] for key in MEASURES] for row in views_of(rows)])
    lines = [[row["view"], row["shortcuts"], *(row[key] for key in MEASURES)] for row in rows]
    lines += [["mean of views", "", *numbers.mean(0)], ["worst view", "", *numbers.min(0)]]
    headers = ["stress validation", "AUROC of shortcuts alone"]
    headers += ["AUROC" if key == "auroc" else key for key in MEASURES]
    return tabulate(lines, headers, floatfmt=("", ".3f", ".4f", ".3f", ".3f", ".3f"))
