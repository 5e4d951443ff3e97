"""What tells the classes apart without lungs: what a cheap model makes of all that lies around them.

frame_features(images), machine_features(images), ...   (N, S, S) uint8 -> (N, features), without the middle
CheapModel, out_of_fold(...)   Gaussian kernel ridge regression, and its scores of films that it was not fitted to
measured(dataset, ...)   one row for each kind of feature: AUROC, and its interval by patient

A network can use whatever a cheap model can. Nothing here is random, and nothing needs more than numpy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from basics.progress import Progress
from films import looks
from metrics import intervals, measures

FRAME_SHARE = 0.6  # of the side: the middle, which only rows with lungs see
TENTH = 0.8  # the middle that leaves the outermost tenth on each side
CELLS = 32  # along each side, of which means are taken; 16 told the classes apart as well, to .001
FINE, LETTER, BRIGHT = 112, 11, 70  # cells along each side, of a letter at most; grey levels above what is beside it
PLACES = 8  # along each side, in which letters are looked for
GREYS, WAVES, LINES = 32, 12, 45  # bins of the histogram, and of the spectrum of so many lines of a band

# Of ridges of 0.01, 0.1 and 1 and widths of half and all of the median, these were within .001 of the best on 4,000 of
# Kermany's films: without their middle, their outermost tenth, their middle alone, and whole.
RIDGE, WIDTH = 0.1, 1.0  # added to a kernel of at most 1; of the median distance
FOLDS = 5
FITTED_AT_MOST, MEASURED_AT_MOST = 4000, 3000  # films: about 2 s a fit, and 2 s a row
FILMS, PATIENTS = 50, 10  # of each class, below which nothing is measured
TELLING = 0.8  # AUROC above which a person should look

Features = NDArray[np.float32]
Dataset = Any  # that of data.py, which explains its fields


def centre(side: int, share: float = FRAME_SHARE) -> tuple[slice, slice]:
    """The middle of an image, `share` of its side wide and high."""
    low = round(side * (1 - share) / 2)
    return slice(low, side - low), slice(low, side - low)


# ------------------------------------------------------------------------------------------------ what is seen


def frame_features(images: NDArray[np.uint8], share: float = FRAME_SHARE) -> Features:
    """(N, S, S) uint8 -> (N, 1024) float32: means of 32 x 32 cells, the middle black."""

    def hidden(chunk: NDArray) -> NDArray:
        framed = np.array(chunk)
        framed[:, *centre(chunk.shape[1], share)] = 0
        return _cells(framed)

    return _by_chunk(hidden, images)


def edge_features(images: NDArray[np.uint8]) -> Features:
    """(N, 1024) float32, as frame_features, of the outermost tenth on each side."""
    return frame_features(images, TENTH)


def corner_features(images: NDArray[np.uint8]) -> Features:
    """(N, 1024) float32: means of cells of the four corners, a fifth of the side each: what the frame has of both."""
    low = centre(images.shape[1])[0].start
    at = np.r_[0:low, images.shape[1] - low : images.shape[1]]
    return _by_chunk(lambda chunk: _cells(chunk[:, at][:, :, at]), images)


def middle_features(images: NDArray[np.uint8]) -> Features:
    """(N, 1024) float32: means of cells of the middle alone."""
    return _by_chunk(lambda chunk: _cells(chunk[:, *centre(chunk.shape[1])]), images)


def whole_features(images: NDArray[np.uint8]) -> Features:
    """(N, 1024) float32: means of cells of the whole film."""
    return _by_chunk(_cells, images)


def annotation_features(images: NDArray[np.uint8]) -> Features:
    """(N, 133) float32: where in the frame what looks like a letter is, its contrast, and how much there is in all.

    Of 8 x 8 places the logarithm of its area and its highest contrast; of all the number of pieces (components less
    holes), area, area of a piece, mean and highest contrast.
    """

    def described(chunk: NDArray) -> NDArray:
        contrast, n = _letters(chunk), len(chunk)
        found = contrast > 0
        places = contrast.reshape(n, PLACES, FINE // PLACES, PLACES, FINE // PLACES)
        area, pieces = found.sum((1, 2)), _pieces(found)
        return np.column_stack([
            np.log1p((places > 0).sum((2, 4))).reshape(n, PLACES**2),
            places.max((2, 4)).reshape(n, PLACES**2),
            pieces, np.log1p(area), area / np.maximum(pieces, 1),
            contrast.sum((1, 2)) / np.maximum(area, 1), contrast.max((1, 2)),
        ])  # fmt: skip

    return _by_chunk(described, images)


def machine_features(images: NDArray[np.uint8]) -> Features:
    """(N, 60) float32, without any place: grey levels, waves, noise and sharpness of the bands around the middle.

    The histogram (square roots of its shares), the mean logarithm of the amplitude of lines along each side, by
    frequency, and logarithms of noise (Immerkaer 1996, Computer Vision and Image Understanding 64:300), of the
    Laplacian's deviation and of the mean step along and across the lines.
    """
    return _by_chunk(_machine, images)


def file_facts(dataset: Dataset) -> dict[str, NDArray[np.float64]]:
    """What can be known of films without seeing them, (N,) each: size and shape, as logarithms."""
    facts = {
        "aspect ratio": np.log(dataset.widths / dataset.heights),
        "pixels": np.log(dataset.widths * dataset.heights),
    }
    folder = Path(dataset.source)
    try:
        sizes = [max((folder / file).stat().st_size, 1) for file in dataset.files]
    except OSError:  # not a folder of files
        return facts
    return facts | {"file size": np.log(np.array(sizes, float))}


def _by_chunk(features: Callable[[NDArray], NDArray], images: NDArray) -> Features:
    return np.concatenate([features(np.asarray(chunk)).astype(np.float32) for chunk in looks.chunks(images)])


def _cells(chunk: NDArray, cells: int = CELLS) -> NDArray:
    sums = looks.cell_sums(chunk, cells, cells) / (chunk.shape[1] * chunk.shape[2])
    return sums.reshape(len(chunk), cells * cells)


def _letters(chunk: NDArray) -> NDArray[np.uint8]:
    """(n, FINE, FINE): contrast where something is bright, small, near the edge, and touches nothing bright; else 0.

    Contrast is what an opening by a square of a letter's size takes away (the white top-hat). What it leaves of bones
    is mostly longer than a letter.
    """
    low = FINE // 5 - 1  # of FINE cells: with images of any size none of them has a part of the middle
    inside = np.zeros((FINE, FINE), bool)
    inside[low:-low, low:-low] = True
    framed = np.array(chunk)
    framed[:, *centre(chunk.shape[1])] = 0
    grey = _cells(framed, FINE).round().astype(np.uint8).reshape(-1, FINE, FINE)
    margin = ((0, 0), (LETTER - 1, LETTER - 1), (LETTER - 1, LETTER - 1))
    lowest = _slid(np.minimum, np.pad(grey, margin, constant_values=255), LETTER)
    contrast = grey - _slid(np.maximum, lowest, LETTER)
    contrast[:, inside] = 0
    bright = contrast > BRIGHT
    bright[:, inside] = True  # what touches the middle may go on there
    inner, outer = _sums(bright, LETTER), _sums(bright, LETTER + 2)[:, 1:-1, 1:-1]
    alone = _slid(np.maximum, (inner > 0) & (inner == outer), LETTER)
    return np.where(bright & alone & ~inside, contrast, 0).astype(np.uint8)


def _slid(pick: np.ufunc, values: NDArray, width: int) -> NDArray:
    """(n, H, W) -> (n, H - width + 1, W - width + 1): the minimum or maximum in each square of that width."""
    for axis in (1, 2):
        reach = 1
        while reach < width:  # what is known of `reach` values gives it of up to twice as many
            step = min(reach, width - reach)
            length = values.shape[axis] - step
            values = pick(values.take(range(length), axis), values.take(range(step, length + step), axis))
            reach += step
    return values


def _sums(found: NDArray[np.bool_], width: int) -> NDArray[np.int32]:
    """(n, H + width - 1, W + width - 1): how many there are in each square of that width that meets the image."""
    margin = ((0, 0), (width, width - 1), (width, width - 1))
    total = np.pad(found.astype(np.int32), margin).cumsum(1, np.int32).cumsum(2, np.int32)
    down = total[:, width:] - total[:, :-width]
    return down[:, :, width:] - down[:, :, :-width]


def _pieces(found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) components less holes, from 2 x 2 squares (Gray 1971, IEEE Transactions on Computers C-20:551)."""
    full = np.pad(found, ((0, 0), (1, 1), (1, 1))).astype(np.int8)
    here, right, below, across = full[:, :-1, :-1], full[:, :-1, 1:], full[:, 1:, :-1], full[:, 1:, 1:]
    count, diagonal = here + right + below + across, (here == across) & (right == below) & (here != right)
    one, three, two = (count == 1).sum((1, 2)), (count == 3).sum((1, 2)), diagonal.sum((1, 2))
    return (one - three - 2 * two) / 4


def _machine(chunk: NDArray) -> NDArray:
    """The bands, (n, 4, low, S - low), go round the middle and have each corner once; lines are along their edge."""
    n, low = len(chunk), centre(chunk.shape[1])[0].start
    turned = chunk.transpose(0, 2, 1)
    bands = np.stack([
        chunk[:, :low, :-low], turned[:, :low, low:], chunk[:, -low:, low:], turned[:, -low:, :-low]
    ], 1)  # fmt: skip
    level = (bands // (256 // GREYS)).reshape(n, np.prod(bands.shape[1:])) + GREYS * np.arange(n)[:, None]
    shares = np.bincount(level.ravel(), minlength=n * GREYS).reshape(n, GREYS) / level.shape[1]
    grey = bands.astype(np.float32)
    # Of steps, since greys jump where a line's end meets its beginning; a window would see the middle of a line best.
    steps = np.diff(grey[:, :, :: -(-low // LINES)])
    waves = np.log1p(np.abs(np.fft.rfft(steps))).mean(2)[:, :, 1:]
    waves = (waves[:, :2] + waves[:, 2:]) / 2
    spectrum = [part.mean(2) for part in np.array_split(waves, WAVES, axis=2)]
    across = grey[:, :, :-2] - 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
    along = grey[..., :-2] - 2 * grey[..., 1:-1] + grey[..., 2:]
    noise = across[..., :-2] - 2 * across[..., 1:-1] + across[..., 2:]
    laplacian = across[..., 1:-1] + along[:, :, 1:-1]
    sizes = [np.abs(noise).mean((1, 2, 3)), laplacian.std((1, 2, 3))]
    sizes += [np.abs(np.diff(grey, axis=axis)).mean((1, 2, 3)) for axis in (2, 3)]
    return np.column_stack([np.sqrt(shares), *spectrum, np.log1p(np.stack(sizes, 1))])


# --------------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class CheapModel:
    """Kernel ridge regression of the label on standardised features, with a Gaussian kernel.

    Its width is the median distance between films. Saunders, Gammerman & Vovk 1998, ICML; Gretton et al. 2012, JMLR
    13:723, for the width.
    """

    varies: NDArray[np.bool_]  # (F,): the other features say nothing
    mean: NDArray[np.float64]  # of those that vary
    scale: NDArray[np.float64]
    films: NDArray[np.float64]  # (M, those that vary), standardised
    weights: NDArray[np.float64]  # (M,)
    width: float  # squared

    @classmethod
    def fit(cls, features: NDArray, labels: NDArray, parts: Sequence[int] = ()) -> Self:
        """features: (N, F); labels: (N,) of 0 and 1. Of more than FITTED_AT_MOST films only so many.

        parts: how many columns belong to each kind of feature, where these are to count alike in distances.
        """
        some = thinned(labels, FITTED_AT_MOST)
        features, labels = features[some].astype(np.float64), labels[some]
        mean, deviation = features.mean(0), features.std(0)
        varies = deviation > 1e-6 * (1 + np.abs(mean))
        kind = np.repeat(np.arange(len(parts) or 1), parts or len(varies))[varies]
        mean, scale = mean[varies], 1 / (deviation[varies] * np.sqrt(np.bincount(kind)[kind]))
        films = (features[:, varies] - mean) * scale
        distances = _squared_distances(films, films)
        apart = distances[:: max(len(films) // 500, 1)]
        apart = apart[apart > 1e-9]  # films with the same features say nothing of the width
        width = WIDTH**2 * float(np.median(apart)) if len(apart) else 1.0
        kernel = np.exp(distances / (-2 * width))
        kernel[np.diag_indices(len(kernel))] += RIDGE
        # Less the share of pneumonias, which is not added again: folds with other shares stay comparable.
        weights = np.linalg.solve(kernel, (labels - labels.mean()) * varies.any())  # 0, and no rounding, for nothing
        return cls(varies, mean, scale, films, weights, width)

    def scores(self, features: NDArray) -> NDArray[np.float64]:
        """(N,): by how much likelier pneumonia is than among the fitted films, about."""
        found = [np.zeros(0)]
        for start in range(0, len(features), 1000):
            films = (features[start : start + 1000, self.varies] - self.mean) * self.scale
            found.append(np.exp(_squared_distances(films, self.films) / (-2 * self.width)) @ self.weights)
        return np.concatenate(found)


def _squared_distances(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """(N, M) between rows of (N, F) and (M, F)."""
    return np.maximum((one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * (one @ other.T), 0)


def folds_of(labels: NDArray, groups: Sequence[str] | Sequence[int], folds: int = FOLDS) -> NDArray[np.int64]:
    """(N,) the fold of each film: a group is in one fold, and each class is spread over all.

    Groups are dealt from the largest to the smallest, in the order of their names: neither the order of the films nor
    a random generator matters. A group with both labels counts as pneumonia.
    """
    codes, count = intervals.codes_of(np.asarray(groups), len(labels))
    sizes, ill = np.bincount(codes, minlength=count), np.bincount(codes, labels, count) > 0
    fold = np.empty(count, np.int64)
    fold[np.lexsort((np.arange(count), -sizes, ill))] = np.arange(count) % folds
    return fold[codes]


def out_of_fold(
    features: NDArray,
    labels: NDArray,
    groups: Sequence[str] | Sequence[int],
    folds: int = FOLDS,
    parts: Sequence[int] = (),
    moved: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """(N,) scores, each by a model that was fitted to films of other groups. Input as for CheapModel and folds_of.

    `moved` is called after each of the folds.
    """
    fold, scores = folds_of(labels, groups, folds), np.zeros(len(labels))
    for k in np.unique(fold):
        model = CheapModel.fit(features[fold != k], labels[fold != k], parts)
        scores[fold == k] = model.scores(features[fold == k])
        moved()
    return scores


def thinned(labels: NDArray, count: int) -> NDArray[np.int64]:
    """Indices of at most `count` films, sorted, both classes in proportion."""
    ordered = np.argsort(labels, kind="stable")
    kept = min(count, len(ordered))
    return np.sort(ordered[np.arange(kept) * len(ordered) // kept])


# ------------------------------------------------------------------------------------------------- the measure

# Name -> what that is, and its features. Corners and edge are parts of the frame, so that TOGETHER needs neither.
WITHOUT_LUNGS: dict[str, tuple[str, Callable[[NDArray], Features]]] = {
    "the frame": (f"all but the middle {100 * FRAME_SHARE:.0f} % of each side", frame_features),
    "the edge": ("the outermost tenth on each side", edge_features),
    "the corners": ("a fifth of each side", corner_features),
    "annotations": ("small and bright things in the frame: place, size, contrast", annotation_features),
    "the machine": ("grey levels, spectrum, noise, sharpness of the frame", machine_features),
}
WITH_LUNGS: dict[str, tuple[str, Callable[[NDArray], Features]]] = {
    "the middle": (f"{100 * FRAME_SHARE:.0f} % of each side, for comparison", middle_features),
    "the whole film": ("for comparison", whole_features),
}
TOGETHER = ("the frame", "annotations", "the machine", "the file")


def measured(
    dataset: Dataset, chosen: NDArray[np.int64], groups: Sequence[str] | Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """How well each part of the films tells the classes apart, out of fold: without lungs the worst first, then with.

    chosen: indices of films, none of the test side. groups: for all films of the dataset what stays in one fold, and is
    drawn as one for the intervals; by default the patient. Rows hold AUROC and its 95 % interval, `low` to `high`, None
    where there is none. No rows where there are `too_few` films.
    """
    groups = dataset.patients if groups is None else groups
    if too_few(dataset.labels[chosen], [groups[i] for i in chosen]):
        return []
    chosen = chosen[thinned(dataset.labels[chosen], MEASURED_AT_MOST)]
    labels, own = dataset.labels[chosen], [groups[i] for i in chosen]
    tables, what = _features(dataset, chosen)
    kinds = {name: tables[name] for name in TOGETHER if name in tables}
    parts = [table.shape[1] for table in kinds.values()]
    total = FOLDS * (len(tables) + 1)
    with Progress(total, "what tells without lungs", "fits", leave=False, delay=2) as progress:
        scores = {name: out_of_fold(table, labels, own, moved=progress.update) for name, table in tables.items()}
        every = np.concatenate(list(kinds.values()), 1)
        scores["together"] = out_of_fold(every, labels, own, parts=parts, moved=progress.update)
    what["together"] = ", ".join(kinds)
    folds = f"{FOLDS} by {'patient' if dataset.has_patients else 'image'}"
    rows = [_row(name, what[name], labels, scores[name], own) for name in scores]
    for row in rows:
        row["folds"] = folds
    without = [row for row in rows if row["lungs"] == "no"]
    return sorted(without, key=lambda row: -row["AUROC"]) + [row for row in rows if row["lungs"] == "yes"]


def _features(dataset: Dataset, chosen: NDArray[np.int64]) -> tuple[dict[str, Features], dict[str, str]]:
    """What is seen of these films, by the names of the rows, and in words what each is."""
    seen = WITHOUT_LUNGS | WITH_LUNGS
    parts: dict[str, list[Features]] = {name: [] for name in seen}
    for chunk in looks.chunks(dataset.images, chosen, "looking around the lungs"):
        for name, (_, features) in seen.items():
            parts[name].append(features(chunk))
    tables, what = {name: np.concatenate(parts[name]) for name in seen}, {name: seen[name][0] for name in seen}
    facts = {name: values[chosen] for name, values in file_facts(dataset).items()}
    varying = {name: values for name, values in facts.items() if np.ptp(values) > 0}
    if varying:
        tables["the file"] = np.stack(list(varying.values()), 1).astype(np.float32)
        what["the file"] = ", ".join(varying)
    return tables, what


def _row(name: str, what: str, labels: NDArray, scores: NDArray, patients: Sequence) -> dict[str, Any]:
    # Intervals take the models as fixed: of labels shuffled 60 times, 82 to 90 % held 0.5 (1,000 films, three rows).
    area = measures.auroc(labels, scores)
    ends = intervals.auroc_interval(labels, 0.5 + 0.5 * np.tanh(scores), patients)
    low, high = (None if np.isnan(end) else round(end, 4) for end in ends)
    return {"seen": name, "what that is": what, "lungs": "yes" if name in WITH_LUNGS else "no",
            "AUROC": round(area, 4), "low": low, "high": high, "films": len(labels)}  # fmt: skip


def too_few(labels: NDArray, groups: Sequence[str] | Sequence[int]) -> str:
    """Says why nothing is measured where a class has fewer than FILMS films or PATIENTS patients; else ""."""
    names = np.asarray(groups)
    own = [names[labels == label] for label in (0, 1)]
    if all(len(films) >= FILMS and len(set(films.tolist())) >= PATIENTS for films in own):
        return ""
    return f"not measured: that takes {FILMS} images of each class, of {PATIENTS} patients, beside the test images"


def worst(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row that tells most of the class without lungs, "together" apart."""
    return next(row for row in rows if row["seen"] != "together")


def said(rows: list[dict[str, Any]]) -> str:
    """A sentence on the worst row."""
    row = worst(rows)
    ends = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    more = "; a network may use that: see docs/quality.md" if row["AUROC"] > TELLING else ""
    tell = "tell" if row["seen"].endswith("s") else "tells"
    return f"{row['seen']} alone {tell} the classes apart with AUROC {row['AUROC']:.3f}{ends}{more}"
