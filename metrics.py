"""The one place where labels and probabilities become numbers.

Class 1 is pneumonia (the positive class), class 0 is normal. Every function is pure, needs numpy alone and
raises ValueError on input it cannot score; a quantity that is undefined (0/0) is nan, without a warning.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BINARY = frozenset({"labels", "decisions", "correct_a", "correct_b"})


class Confusion(NamedTuple):
    """Counts of the 2x2 table of truth against decision."""

    tn: int
    fp: int
    fn: int
    tp: int


def _checked(**arrays: ArrayLike) -> tuple[NDArray, ...]:
    """Return 0/1 arrays as int64 and the others as float64; the keyword says what is checked, and how.

    Raises ValueError naming what is wrong: shape, emptiness, length unlike the first array's, type or values.
    """
    checked: list[NDArray] = []
    first = next(iter(arrays))
    for name, given in arrays.items():
        values = np.asarray(given)
        if name == "logits" and (values.ndim != 2 or values.shape[1] != 2):
            raise ValueError(f"logits must have shape (N, 2), found {values.shape}")
        if name != "logits" and values.ndim != 1:
            raise ValueError(f"{name} must be one-dimensional, found shape {values.shape}")
        if len(values) == 0:
            raise ValueError(f"{name} is empty")
        if checked and len(values) != len(checked[0]):
            raise ValueError(f"{name} has {len(values)} entries but {first} has {len(checked[0])}")
        if values.dtype.kind not in ("biu" if name in _BINARY else "biuf"):
            wanted = "integers 0 or 1" if name in _BINARY else "real numbers"
            raise ValueError(f"{name} must be {wanted}, found dtype {values.dtype}")
        if name in _BINARY:
            wrong, domain = values[(values != 0) & (values != 1)], "be 0 or 1"
        else:
            values = values.astype(np.float64)
            if not np.isfinite(values).all():
                raise ValueError(f"{np.sum(~np.isfinite(values))} of {values.size} {name} are not finite")
            bounded = values if name == "probabilities" else values[:0]
            wrong, domain = bounded[(bounded < 0) | (bounded > 1)], "lie in [0, 1]"
        if wrong.size:
            raise ValueError(f"{name} must {domain}, found {wrong[0].item()}")
        checked.append(values.astype(np.int64) if name in _BINARY else values)
    return tuple(checked)


def _margin(logits: NDArray, temperature: float) -> NDArray[np.float64]:
    """Log-odds of class 1, (N,): all that a two-class softmax depends on."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, found {temperature}")
    return (logits[:, 1] - logits[:, 0]) / temperature


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(x))  # never above 1, so nothing overflows
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _tally(labels: NDArray, scores: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Distinct scores in ascending order, with the number of negatives and of positives at each."""
    distinct, index = np.unique(scores, return_inverse=True)
    negatives = np.bincount(index[labels == 0], minlength=len(distinct))
    positives = np.bincount(index[labels == 1], minlength=len(distinct))
    return distinct, negatives, positives


def positive_probability(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probability of pneumonia, softmax(logits / temperature)[:, 1].

    logits: (N, 2), log-odds in nats; temperature: positive. Returns (N,) float64 in [0, 1].
    Raises ValueError on a wrong shape, logits that are not finite, or a bad temperature.
    """
    (logits,) = _checked(logits=logits)
    return _sigmoid(_margin(logits, temperature))


def log_loss(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Mean cross-entropy of softmax(logits / temperature), in nats, without clipping any probability.

    logits: (N, 2); labels: (N,) of 0/1. Raises ValueError on malformed input or a bad temperature.
    """
    labels, logits = _checked(labels=labels, logits=logits)
    margin = _margin(logits, temperature)
    return float(np.logaddexp(0.0, np.where(labels == 1, -margin, margin)).mean())


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a random positive outscores a random negative.

    labels: (N,) of 0/1; scores: (N,), larger means more likely positive, any unit. O(N log N).
    Returns nan if only one class is present. Raises ValueError on malformed input.
    Mann & Whitney 1947 (U statistic, ties at mid-rank, i.e. counted one half); Hanley & McNeil 1982.
    """
    labels, scores = _checked(labels=labels, scores=scores)
    _, negatives, positives = _tally(labels, scores)
    # Twice U, to stay in integers: a pair that is won counts 2, a tied pair 1.
    twice_u = int(np.sum(positives * (2 * np.cumsum(negatives) - negatives)))
    return _ratio(twice_u, 2 * int(negatives.sum()) * int(positives.sum()))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """ROC curve with one point per distinct score, after a first point (0, 0).

    labels: (N,) of 0/1; scores: (N,). Returns (fpr, tpr, thresholds), each float64 (distinct + 1,): the rates
    of "score >= threshold" for falling thresholds, the first of them inf, from (0, 0) to (1, 1).
    The rate of a class that is absent is nan throughout. Raises ValueError on malformed input.
    """
    labels, scores = _checked(labels=labels, scores=scores)
    distinct, negatives, positives = _tally(labels, scores)
    rates = []
    for counts in (negatives, positives):
        reached = np.concatenate(([0], np.cumsum(counts[::-1])))
        rates.append(reached / reached[-1] if reached[-1] else np.full(len(reached), np.nan))
    return rates[0], rates[1], np.concatenate(([np.inf], distinct[::-1]))


def confusion(labels: ArrayLike, decisions: ArrayLike) -> Confusion:
    """Confusion counts (tn, fp, fn, tp) as ints.

    labels, decisions: (N,) of 0/1. Raises ValueError on malformed input.
    """
    labels, decisions = _checked(labels=labels, decisions=decisions)
    return Confusion(*np.bincount(2 * labels + decisions, minlength=4).tolist())


def decide(probabilities: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Decisions at a threshold: 1 where probability >= threshold, else 0.

    probabilities: (N,) in [0, 1]; threshold: on the same scale (above 1, inf included, decides 0 for all).
    Returns (N,) int64. Raises ValueError on malformed probabilities or a threshold that is nan.
    """
    (probabilities,) = _checked(probabilities=probabilities)
    if math.isnan(threshold):
        raise ValueError("threshold is nan")
    # Float64 by now: single-precision probabilities would have had the threshold rounded to theirs.
    return (probabilities >= threshold).astype(np.int64)


def classification(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, float | int]:
    """Summary of a classifier at one threshold, for one row of a results table.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]. Returns n, threshold, accuracy, sensitivity,
    specificity, precision, f1 and auroc (fractions in [0, 1], nan where 0/0) and the ints tn, fp, fn, tp.
    Raises ValueError on malformed input.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    counts = confusion(labels, decide(probabilities, threshold))
    tn, fp, fn, tp = counts
    return {
        "n": len(labels),
        "threshold": float(threshold),
        "accuracy": _ratio(tp + tn, len(labels)),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "auroc": auroc(labels, probabilities),
        **counts._asdict(),
    }


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of a proportion.

    successes of n trials; confidence: in (0, 1). Returns fractions in [0, 1], (nan, nan) if n is 0.
    Raises ValueError if successes is not within [0, n] or confidence not within (0, 1). Wilson 1927, JASA.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, n], found {successes} of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), found {confidence}")
    if n == 0:
        return math.nan, math.nan
    z = -NormalDist().inv_cdf((1 - confidence) / 2)
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / shrink
    # The formula meets 0 and 1 exactly at the extremes; rounding would miss them.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[int, int, float]:
    """Exact McNemar test that two models err equally often on the same images.

    correct_a, correct_b: (N,) bool or 0/1, "was right" per image. Returns (only_a, only_b, p): images that
    only one model got right, and the two-sided binomial p-value on those, 1.0 if there are none.
    Raises ValueError on malformed input. McNemar 1947, Psychometrika.
    """
    correct_a, correct_b = _checked(correct_a=correct_a, correct_b=correct_b)
    only_a, only_b = int(np.sum(correct_a > correct_b)), int(np.sum(correct_a < correct_b))
    n = only_a + only_b
    term = tail = 1  # n choose 0; integers of any size, so no rounding until the last division
    for k in range(min(only_a, only_b)):
        term = term * (n - k) // (k + 1)
        tail += term
    return only_a, only_b, min(1.0, 2 * tail / 2**n)


def fit_temperature(logits: ArrayLike, labels: ArrayLike, bounds: tuple[float, float] = (0.05, 20.0)) -> float:
    """Temperature within bounds that minimises log_loss(logits, labels, temperature).

    logits: (N, 2); labels: (N,) of 0/1. Separable data gives the lower bound, data where every margin is
    wrong the upper one; logits that are equal throughout leave the choice free and give 1 (or the bound
    nearest to it). Raises ValueError on malformed input or bounds. Guo et al. 2017, ICML.
    """
    labels, logits = _checked(labels=labels, logits=logits)
    coldest, hottest = map(float, bounds)
    if not 0 < coldest < hottest < math.inf:
        raise ValueError(f"bounds must satisfy 0 < low < high < inf, found {bounds}")
    margin = _margin(logits, 1.0)
    wrong_way = np.where(labels == 1, -margin, margin)
    if not wrong_way.any():
        return min(max(1.0, coldest), hottest)

    def slope(inverse: float) -> float:
        return float(np.mean(wrong_way * _sigmoid(wrong_way * inverse)))

    # The loss is convex in 1/T, so its slope rises; halving on the slope's sign is good to full precision,
    # whereas comparing losses near the flat minimum would stop at about half the digits.
    low, high = 1 / hottest, 1 / coldest
    if slope(high) <= 0:
        return coldest
    if slope(low) >= 0:
        return hottest
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return min(max(1 / high, coldest), hottest)


def youden_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Threshold for decide() that maximises J = sensitivity + specificity - 1.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]. Candidates are the midpoints between neighbouring
    distinct probabilities, with 0 and 1 as outermost neighbours; of equally good ones the nearest to 0.5
    (then the lower) wins. Raises ValueError on malformed input or if only one class is present.
    Youden 1950, Cancer.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    distinct, negatives, positives = _tally(labels, probabilities)
    n_negative, n_positive = int(negatives.sum()), int(positives.sum())
    if not (n_negative and n_positive):
        raise ValueError(f"Youden's J needs both classes, found only label {labels[0]}")
    below, above = np.concatenate(([0.0], distinct)), np.concatenate((distinct, [1.0]))
    candidates = below + (above - below) / 2
    # Between adjacent floats the midpoint rounds to a neighbour; only the upper one keeps `>=` apart there.
    candidates = np.where(candidates > below, candidates, above)
    true_negatives = np.concatenate(([0], np.cumsum(negatives)))
    true_positives = n_positive - np.concatenate(([0], np.cumsum(positives)))
    # J times both class sizes, in integers, so that equal J compare equal.
    gain = true_positives * n_negative + true_negatives * n_positive
    if distinct[-1] == 1.0:  # then no threshold inside [0, 1] lies above all
        candidates, gain = candidates[:-1], gain[:-1]
    best = candidates[gain == gain.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])
