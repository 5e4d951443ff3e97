"""How far the numbers of metrics/measures.py can be trusted: their intervals. Differences are in differences.py.

Images of one patient are alike, so the patient is the unit that is drawn: every variance is between patients, and
every function takes `patients`, one name per image. Thresholds, temperatures and models are taken as fixed; what
training them on other images would have changed is not in these intervals. Needs numpy alone. Raises ValueError on
input it cannot score; what cannot be estimated (0/0, or fewer than two patients) is nan, without a warning.
"""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics import measures, student
from metrics.measures import _checked

ENTRIES = 2**15  # of the weights, worked on at once: 256 kB as float64, which stays in a processor's cache
UNDEFINED = 0.05  # the share of replicates that may be undefined before an interval is


def codes_of(patients: ArrayLike, images: int | None = None) -> tuple[NDArray[np.int64], int]:
    """Patients as whole numbers, (N,), and how many there are. Raises ValueError on malformed input."""
    names = np.asarray(patients)
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise ValueError(f"patients must be a sequence of names, found {names.dtype} of shape {names.shape}")
    if images is not None and len(names) != images:
        raise ValueError(f"patients has {len(names)} entries for {images} images")
    distinct, codes = np.unique(names, return_inverse=True)
    return codes.astype(np.int64), len(distinct)


def _quantile(confidence: float) -> float:
    """z such that a standard normal lies within +-z with this probability."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), found {confidence}")
    return -NormalDist().inv_cdf((1 - confidence) / 2)


# ------------------------------------------------------------------------------------------------- bootstrap


def patient_counts(patients: ArrayLike, replicates: int, seed: int) -> NDArray[np.int16]:
    """Weights of the images in a bootstrap by patient: how often the image's patient was drawn.

    patients: (N,) names, one per image; replicates: R, at least 1. In each replicate as many patients as there
    are get drawn with replacement, each with all its images. Returns (R, N) int16, the same for the same seed;
    models that share the rows can be compared in pairs. Raises ValueError on malformed input or one patient.
    Efron 1979, Annals of Statistics; of clusters: Field & Welsh 2007, JRSS B.
    """
    codes, n = codes_of(patients)
    if n < 2:
        raise ValueError(f"resampling needs at least two patients, found {n}")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, found {replicates}")
    rng = np.random.default_rng(seed)
    weights = np.empty((replicates, len(codes)), dtype=np.int16)
    step = max(1, ENTRIES // n)
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        weights[start : start + rows] = counts[:, codes]
    return weights


def leave_one_out(patients: ArrayLike) -> NDArray[np.int16]:
    """Weights of the jackknife by patient, for bca_interval(): row k has 0 for the images of patient k, else 1.

    patients: (N,) names. Returns (patients, N) int16. Raises ValueError on malformed input or one patient.
    """
    codes, n = codes_of(patients)
    if n < 2:
        raise ValueError(f"leaving one out needs at least two patients, found {n}")
    return (codes != np.arange(n)[:, None]).astype(np.int16)


def _rows(weights: ArrayLike, images: int) -> Iterator[NDArray[np.float64]]:
    """The weights as float64, a few rows at a time. Raises ValueError on a wrong shape or a bad weight."""
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != images or not len(weights):
        raise ValueError(f"weights must have shape (R, {images}), found {weights.shape}")
    step = max(1, ENTRIES // images)
    for start in range(0, len(weights), step):
        part = weights[start : start + step].astype(np.float64)
        if not (np.isfinite(part).all() and part.min() >= 0 and part.any(axis=1).all()):
            raise ValueError("weights must be finite, not negative, and not all 0 in a row")
        yield part


def _divide(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def _joined(parts: list[dict[str, NDArray]]) -> dict[str, NDArray[np.float64]]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def bootstrap_decisions(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float, weights: NDArray
) -> dict[str, NDArray]:
    """What measures.classification() gives at a threshold, in every replicate.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]; weights: (R, N), as patient_counts makes them. Returns
    accuracy, balanced_accuracy, sensitivity, specificity, precision, npv, f1 and mcc, each (R,) float64, nan
    where 0/0 in that replicate. Raises ValueError on malformed input.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    cell = 2 * labels + measures.decide(probabilities, threshold)
    cells = (cell[:, None] == np.arange(4)).astype(np.float64)
    tn, fp, fn, tp = np.concatenate([part @ cells for part in _rows(weights, len(labels))]).T
    sensitivity, specificity = _divide(tp, tp + fn), _divide(tn, tn + fp)
    return {
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _divide(tp, tp + fp),
        "npv": _divide(tn, tn + fn),
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "mcc": _divide(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    }


def bootstrap_ranking(labels: ArrayLike, probabilities: ArrayLike, weights: NDArray) -> dict[str, NDArray]:
    """measures.auroc() and measures.average_precision() in every replicate.

    Input as for bootstrap_decisions. Returns auroc and average_precision, each (R,) float64; nan where a
    replicate lacks a class (average_precision: positives). Raises ValueError on malformed input.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)  # the last of each tie
    found, parts = labels[order].astype(np.float64), []
    for part in _rows(weights, len(labels)):
        part = part[:, order]
        tp, called = np.cumsum(part * found, axis=1)[:, ends], np.cumsum(part, axis=1)[:, ends]
        gained, fp = np.diff(tp, axis=1, prepend=0.0), called - tp
        positives, negatives = tp[:, -1], fp[:, -1]
        lost = fp - np.diff(fp, axis=1, prepend=0.0) / 2  # negatives above a positive, tied ones counted half
        wins = positives * negatives - np.sum(gained * lost, axis=1)
        precision = tp / np.maximum(called, 1e-300)  # 0 before the first image that was drawn; nothing is gained there
        parts.append(
            {
                "auroc": _divide(wins, positives * negatives),
                "average_precision": _divide(np.sum(gained * precision, axis=1), positives),
            }
        )
    return _joined(parts)


def bootstrap_calibration(
    labels: ArrayLike, probabilities: ArrayLike, weights: NDArray, bins: int = 10
) -> dict[str, NDArray]:
    """log_loss, brier, calibration_error, calibration_slope and calibration_intercept in every replicate.

    Input as for bootstrap_decisions. Each (R,) float64, as metrics has them; the log loss (nats) is that of
    measures.log_odds(probabilities), so the same as measures.log_loss() of the logits as long as these differ by
    less than 27 nats. calibration_error grows with noise and resampling adds noise, so that its replicates lie
    above the sample's own value: no interval here is one for it (77 to 96 % held the truth in simulations, 1 %
    with 40 patients). Raises ValueError on malformed input.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    order = np.argsort(probabilities, kind="stable")
    labels, probabilities = labels[order], probabilities[order]
    margin = measures.log_odds(probabilities)
    error = probabilities - labels
    terms = np.stack((np.logaddexp(0.0, np.where(labels == 1, -margin, margin)), error**2), axis=1)
    ends, parts = np.append(np.flatnonzero(np.diff(probabilities)), len(order) - 1), []
    for part in _rows(weights, len(labels)):
        part = part[:, order]
        total = part.sum(axis=1)
        loss, brier = (part @ terms).T / total
        slopes, intercepts = measures.calibration_lines(labels, probabilities, part)
        parts.append(
            {
                "log_loss": loss,
                "brier": brier,
                "calibration_error": _calibration_errors(error, part, ends, bins),
                "calibration_slope": slopes,
                "calibration_intercept": intercepts,
            }
        )
    return _joined(parts)


def _calibration_errors(error: NDArray, weights: NDArray, ends: NDArray, bins: int) -> NDArray[np.float64]:
    """measures.calibration_error() per row of weights; images by rising probability, `ends` the last of each tie."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, found {bins}")
    reached = np.cumsum(weights, axis=1)[:, ends]
    mass = np.diff(reached, axis=1, prepend=0.0)
    gap = np.diff(np.cumsum(weights * error, axis=1)[:, ends], axis=1, prepend=0.0)
    # The bin of the mid-rank, as in measures.reliability(): whole numbers, so truncation is exact here too. Who was
    # not drawn has no gap, and may be counted in any bin.
    place = (bins * (2 * reached - mass) / (2 * reached[:, -1:])).astype(np.int64).clip(max=bins - 1)
    place += bins * np.arange(len(weights))[:, None]
    gaps = np.bincount(place.ravel(), weights=gap.ravel(), minlength=bins * len(weights))
    return np.abs(gaps).reshape(len(weights), bins).sum(axis=1) / reached[:, -1]


def interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high), in the unit of the values.

    values: (R,) replicates, nan where undefined; (nan, nan) if more than 5 % of them are, as the others are then
    a selection. Too narrow for metrics near 0 or 1 (simulated with 250 patients, 92 % for an AUROC of 0.99, 90 %
    for the calibration slope) and with few patients; bca_interval() holds there. Raises ValueError on malformed
    input. Efron 1981, Canadian Journal of Statistics.
    """
    _quantile(confidence)  # for its check
    defined = _defined(values)
    if not defined.size:
        return math.nan, math.nan
    # Of R replicates the p (R + 1)-th: the usual p (R - 1) + 1-th lies too far inwards, by half a percent at 400.
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2], method="weibull")
    return float(low), float(high)


def bca_interval(
    values: ArrayLike, estimate: float, left_out: ArrayLike, confidence: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (low, high): interval(), with its percentiles moved.

    values: (R,) replicates; estimate: the metric of the sample itself; left_out: (patients,) the metric with
    the weights of leave_one_out(). The percentiles move by how far the replicates' median lies from the estimate
    and by the skewness of the patients' influence: worth it near 0 or 1, with few errors, for the calibration
    slope. (nan, nan) if more than 5 % of values or of left_out are undefined, the estimate is, or all replicates
    lie on one side of it. Raises ValueError on malformed input. Efron 1987, JASA.
    """
    z, normal = _quantile(confidence), NormalDist()
    values, left_out = _defined(values), _defined(left_out)
    if math.isnan(estimate) or not (values.size and left_out.size):
        return math.nan, math.nan
    below = float(np.mean(values < estimate) + np.mean(values == estimate) / 2)
    if below in (0.0, 1.0):
        return math.nan, math.nan
    influence, bias = left_out.mean() - left_out, normal.inv_cdf(below)
    spread = 6 * float(np.sum(influence**2)) ** 1.5
    acceleration = float(np.sum(influence**3)) / spread if spread else 0.0
    ends = []
    for moved in (bias - z, bias + z):
        stretch = 1 - acceleration * moved
        if stretch <= 0:  # the formula's own limit, met with a handful of patients
            return math.nan, math.nan
        ends.append(float(np.quantile(values, normal.cdf(bias + moved / stretch), method="weibull")))
    return ends[0], ends[1]


def _defined(values: ArrayLike) -> NDArray[np.float64]:
    """The values that are not nan; none at all when too many are."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"replicates must be one-dimensional and not empty, found shape {values.shape}")
    if np.isinf(values).any():
        raise ValueError(f"{np.isinf(values).sum()} of {len(values)} replicates are infinite")
    defined = values[~np.isnan(values)]
    return defined if len(defined) >= (1 - UNDEFINED) * len(values) else defined[:0]


# ------------------------------------------------------------------------------------------------ proportions


def clustered_wilson(successes: ArrayLike, patients: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval (low, high) of a proportion of images, with the images that clustering leaves.

    successes: (N,) bool or 0/1; patients: (N,) names. For a sensitivity, give the positive images only. N is divided
    by the design effect 1 + rho (e - 1), where e = sum(images per patient^2) / N is that of copies (Kish 1965, Survey
    Sampling). rho, how alike images of one patient are, is estimated from all pairs of them, a patient's weighted by
    1 / (n - 1) (Karlin, Cameron & Williams 1981, PNAS 78:2664), and drawn towards 1, since a few errors cannot show
    that errors do not come together: `added` is Wilson's own z^2 / 2 times (e - 1) / sqrt(share of images that have
    others beside them). With so much one more image that fails raises neither limit. One image each: Wilson's.
    (nan, nan) with no images or one patient. Raises ValueError on malformed input.
    """
    z = _quantile(confidence)
    if not np.size(successes):
        return math.nan, math.nan
    (successes,) = _checked(successes=successes)
    codes, n = codes_of(patients, len(successes))
    if n < 2:
        return math.nan, math.nan
    images, hits = np.bincount(codes).astype(float), np.bincount(codes, weights=successes)
    total, share = len(successes), float(successes.mean())
    several, others = images > 1, float(np.sum(images * (images - 1)))
    effect = 1.0
    if several.any():
        images, hits, missed = images[several], hits[several], (images - hits)[several]
        products = (hits - share * images) ** 2 - hits * (1 - share) ** 2 - missed * share**2
        alike, known = float(np.sum(products / (images - 1))), share * (1 - share) * float(images.sum())
        added = z * z / 2 * others / math.sqrt(total * images.sum())
        rho = min(max((alike + added) / (known + added), 0.0), 1.0)
        effect += rho * others / total
    return measures.wilson(share * (total / effect), total / effect, confidence)


# ------------------------------------------------------------------------------------------------------ AUROC


class Placements(NamedTuple):
    """What each patient adds to the AUROC of each of M models, less what is expected."""

    areas: NDArray[np.float64]  # (M,)
    sums: NDArray[np.float64]  # (2, M, patients): through the images without, and with pneumonia
    groups: tuple[int, int]  # patients who have images without, and with

    def covariance(self) -> NDArray[np.float64]:
        """(M, M), of the areas; nan where fewer than two patients have images of some class."""
        m, n = self.sums.shape[1:]
        if min(self.groups) < 2:
            return np.full((m, m), np.nan)
        apart = sum(g / (g - 1) * (s @ s.T) for g, s in zip(self.groups, self.sums, strict=True))
        cross = n / (n - 1) * (self.sums[0] @ self.sums[1].T)  # 0 unless a patient has images of both classes
        return apart + cross + cross.T


def placements(labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike | None = None) -> Placements:
    """How often each patient's images beat, or are beaten by, those of the other class. Input as for delong()."""
    rows = np.asarray(probabilities)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"probabilities must have shape (M, N), found {rows.shape}")
    checked = [_checked(labels=labels, probabilities=row) for row in rows]
    labels, probabilities = checked[0][0], np.stack([row for _, row in checked])
    codes, n = (np.arange(len(labels)), len(labels)) if patients is None else codes_of(patients, len(labels))
    areas = np.array([measures.auroc(labels, row) for row in probabilities])
    groups = [len(np.unique(codes[labels == label])) for label in (0, 1)]
    sums = np.zeros((2, len(probabilities), n))
    for label in (0, 1) if min(groups) else ():
        for model, row in enumerate(probabilities):
            own, other = row[labels == label], np.sort(row[labels != label])
            beaten = (np.searchsorted(other, own) + np.searchsorted(other, own, side="right")) / (2 * len(other))
            residual = (beaten if label else 1 - beaten) - areas[model]
            sums[label, model] = np.bincount(codes[labels == label], weights=residual, minlength=n) / len(own)
    return Placements(areas, sums, (groups[0], groups[1]))


def delong(
    labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC of M models on the same images, and the covariance of these estimates.

    labels: (N,) of 0/1; probabilities: (M, N) in [0, 1]; patients: (N,) names, who may have images of both
    classes; None takes every image as a patient of its own. Returns areas (M,) and covariance (M, M), nan with
    one class only; the covariance also where fewer than two patients have images of some class.
    O(M N log N). Raises ValueError on malformed input. DeLong, DeLong & Clarke-Pearson 1988, Biometrics;
    by patient: Obuchowski 1997, Biometrics; by ranks: Sun & Xu 2014, IEEE Signal Processing Letters.
    """
    found = placements(labels, probabilities, patients)
    return found.areas, found.covariance()


def auroc_interval(
    labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval (low, high) of the AUROC, symmetric in its log-odds so that it stays within 0 and 1.

    Input as for delong(), with probabilities (N,). The quantile is Student's t: near 1 a few patients make all of the
    variance, and with two degrees of freedom more than there are of these (sum(u^2)^2 / sum(u^4), where u is what each
    adds to the area; Satterthwaite 1946, Biometrics Bulletin 2:110) intervals hold the truth as often as they say. A
    perfect ranking has no variance to go by: there, pairs of a positive and a negative image in which no patient
    occurs twice are independent trials, all won, and the limit is Wilson's for as many as there must be: min(patients
    with positives, with negatives, half of all). An AUROC of 0 is treated alike. (nan, nan) with one class only, one
    patient, or all probabilities equal. Raises ValueError on malformed input.
    Pepe 2003, The Statistical Evaluation of Medical Tests, chapter 5.
    """
    _quantile(confidence)  # for its check
    (labels, probabilities) = _checked(labels=labels, probabilities=probabilities)
    codes, n = (np.arange(len(labels)), len(labels)) if patients is None else codes_of(patients, len(labels))
    found = placements(labels, probabilities[None], codes)
    area, variance = float(found.areas[0]), float(found.covariance()[0, 0])
    if area in (0.0, 1.0):
        pairs = min(len(np.unique(codes[labels == 0])), len(np.unique(codes[labels == 1])), n // 2)
        return measures.wilson(area * pairs, pairs, confidence)
    if not variance > 0:
        return math.nan, math.nan
    squares = found.sums.sum(axis=0)[0] ** 2
    t = student.quantile(1 - confidence, 2 + float(squares.sum()) ** 2 / float(np.sum(squares**2)))
    middle, half = math.log(area / (1 - area)), t * math.sqrt(variance) / (area * (1 - area))
    low, high = (0.5 + 0.5 * math.tanh(0.5 * end) for end in (middle - half, middle + half))
    return low, high
