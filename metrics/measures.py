"""The one place where labels and probabilities become numbers.

Class 1 is pneumonia (the positive class), class 0 is normal. Every function is pure, needs numpy alone and
raises ValueError on input it cannot score; a quantity that is undefined (0/0) is nan, without a warning.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-12  # log_odds keeps probabilities this far from 0 and 1; nearer to 1 a double loses the digits of 1 - p
_BINARY = frozenset({"labels", "decisions", "successes"})


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


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _tally(labels: NDArray, scores: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Distinct scores in ascending order, with the number of negatives and of positives at each."""
    distinct, index = np.unique(scores, return_inverse=True)
    negatives = np.bincount(index[labels == 0], minlength=len(distinct))
    positives = np.bincount(index[labels == 1], minlength=len(distinct))
    return distinct, negatives, positives


def _midway(below: NDArray | float, above: NDArray) -> NDArray[np.float64]:
    """Thresholds that tell each `above` from its `below` with >=: the midpoints, wherever these lie between."""
    middle = below + (above - below) / 2
    # Between adjacent floats the midpoint rounds to a neighbour; only the upper one keeps `>=` apart there.
    return np.where(middle > below, middle, above)


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


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: the precision at each distinct score, weighted by the recall gained there.

    labels: (N,) of 0/1; scores: (N,), larger means more likely positive, any unit. A step function, without
    interpolation between scores; a tie is one step. Its chance level is the share of positives.
    Returns nan without positives. Raises ValueError on malformed input. Buckley & Voorhees 2000, SIGIR.
    """
    labels, scores = _checked(labels=labels, scores=scores)
    _, negatives, positives = _tally(labels, scores)
    found = np.cumsum(positives[::-1])
    called = np.cumsum((negatives + positives)[::-1])
    return _ratio(float(np.sum(positives[::-1] * found / called)), int(found[-1]))


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

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]. Returns n, threshold, accuracy, balanced_accuracy,
    sensitivity, specificity, precision, npv, f1 and auroc (fractions in [0, 1]), mcc (in [-1, 1]; Matthews
    1975, Biochimica et Biophysica Acta), all of them nan where 0/0, and the ints tn, fp, fn, tp.
    Raises ValueError on malformed input.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    counts = confusion(labels, decide(probabilities, threshold))
    tn, fp, fn, tp = counts
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    return {
        "n": len(labels),
        "threshold": float(threshold),
        "accuracy": _ratio(tp + tn, len(labels)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
        "auroc": auroc(labels, probabilities),
        **counts._asdict(),
    }


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of a proportion.

    successes of n trials, whole numbers or effective ones; confidence: in (0, 1). Returns fractions in [0, 1],
    (nan, nan) if n is 0. Raises ValueError if successes is not within [0, n] or confidence not within (0, 1).
    Wilson 1927, JASA.
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
    candidates = _midway(below, above)
    true_negatives = np.concatenate(([0], np.cumsum(negatives)))
    true_positives = n_positive - np.concatenate(([0], np.cumsum(positives)))
    # J times both class sizes, in integers, so that equal J compare equal.
    gain = true_positives * n_negative + true_negatives * n_positive
    if distinct[-1] == 1.0:  # then no threshold inside [0, 1] lies above all
        candidates, gain = candidates[:-1], gain[:-1]
    best = candidates[gain == gain.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def threshold_at_sensitivity(labels: ArrayLike, probabilities: ArrayLike, target: float) -> float:
    """Highest threshold for decide() whose sensitivity on these labels is at least target.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]; target: in (0, 1]. Every threshold above the next lower
    distinct probability (of either class; 0 if there is none) and up to the last positive that is needed gives
    the same decisions here; the midpoint of that range is returned, for the sake of images not seen yet.
    Raises ValueError on malformed input, a bad target, or labels without a positive.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    if not 0 < target <= 1:
        raise ValueError(f"target must lie in (0, 1], found {target}")
    distinct, _, positives = _tally(labels, probabilities)
    found = np.cumsum(positives[::-1])[::-1]  # true positives when the threshold is this probability
    if found[0] == 0:
        raise ValueError("a sensitivity needs positive labels, found none")
    # By division, not by target * positives: 19 of 20 is then 0.95 to the last bit.
    last = np.flatnonzero(found / found[0] >= target)[-1]
    below = distinct[last - 1] if last else min(0.0, distinct[0])
    return float(_midway(below, distinct[last]))


def at_prevalence(sensitivity: float, specificity: float, prevalence: float) -> dict[str, float]:
    """What sensitivity and specificity mean where a share `prevalence` of the films shows pneumonia.

    All in [0, 1], the first two may be nan (undefined). Returns ppv and npv (Bayes; Altman & Bland 1994, BMJ),
    nan where 0/0, and films_per_missed: films read per missed case, 1 / (prevalence * (1 - sensitivity)), inf
    if none is missed. Raises ValueError on a value outside [0, 1].
    """
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity), ("prevalence", prevalence)):
        if not (0 <= value <= 1 or (math.isnan(value) and name != "prevalence")):
            raise ValueError(f"{name} must lie in [0, 1], found {value}")
    tp, fn = prevalence * sensitivity, prevalence * (1 - sensitivity)
    tn, fp = (1 - prevalence) * specificity, (1 - prevalence) * (1 - specificity)
    return {
        "ppv": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "films_per_missed": 1 / fn if fn else math.inf,
    }


def net_benefit(labels: ArrayLike, probabilities: ArrayLike, thresholds: ArrayLike) -> tuple[NDArray, NDArray]:
    """Net benefit of deciding by the model, and of calling every image positive, for a decision curve.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]; thresholds: (T,) in [0, 1). Returns (model, treat_all),
    each (T,), in true positives per image: TP/N - FP/N * t/(1 - t). To call no image positive has 0.
    Raises ValueError on malformed input. Vickers & Elkin 2006, Medical Decision Making.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    (thresholds,) = _checked(thresholds=thresholds)
    if outside := [t for t in thresholds.tolist() if not 0 <= t < 1]:
        raise ValueError(f"thresholds must lie in [0, 1), found {outside[0]}")
    distinct, negatives, positives = _tally(labels, probabilities)
    first = np.searchsorted(distinct, thresholds)  # the lowest probability that is called positive
    fp, tp = (np.append(np.cumsum(counts[::-1])[::-1], 0) for counts in (negatives, positives))
    odds = thresholds / (1 - thresholds)
    return (tp[first] - fp[first] * odds) / len(labels), (tp[0] - fp[0] * odds) / len(labels)


# ----------------------------------------------------------------------------------------------- calibration


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Brier score: mean squared difference of probability and label, 0 (perfect) to 1.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]. Raises ValueError on malformed input.
    Brier 1950, Monthly Weather Review.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    return float(np.mean((probabilities - labels) ** 2))


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> tuple[NDArray, NDArray, NDArray]:
    """Mean predicted probability, observed share of positives and number of images, per bin of equal mass.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]; bins: at least 1. Equal probabilities share the bin that
    their mid-rank falls into, so the order of the images is of no effect; bins that stay empty (ties, or fewer
    images than bins) are left out. Returns three arrays of one entry per bin, by rising probability.
    Raises ValueError on malformed input. Equal mass: Nixon et al. 2019, CVPR workshops.
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, found {bins}")
    distinct, negatives, positives = _tally(labels, probabilities)
    counts = negatives + positives
    # Twice the mid-rank, to stay in integers.
    place = bins * (2 * np.cumsum(counts) - counts) // (2 * len(labels))
    n, predicted, observed = (np.bincount(place, weights=w) for w in (counts, counts * distinct, positives))
    some = n > 0
    return predicted[some] / n[some], observed[some] / n[some], n[some].astype(np.int64)


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: |mean predicted - observed| per bin of reliability(), weighted by its images.

    Input as for reliability(). Returns a fraction in [0, 1]. Biased upwards: noise in the bins does not cancel,
    so that a perfectly calibrated model has about sqrt(bins / N) / 3, not 0.
    Raises ValueError on malformed input. Naeini, Cooper & Hauskrecht 2015, AAAI.
    """
    predicted, observed, n = reliability(labels, probabilities, bins)
    return float(np.sum(n * np.abs(predicted - observed)) / n.sum())


def log_odds(probabilities: ArrayLike) -> NDArray[np.float64]:
    """log(p / (1 - p)) in nats, (N,), of probabilities clipped to [EPSILON, 1 - EPSILON], so within +-27.7.

    Raises ValueError on malformed input.
    """
    (probabilities,) = _checked(probabilities=probabilities)
    clipped = np.clip(probabilities, EPSILON, 1 - EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def calibration_line(labels: ArrayLike, probabilities: ArrayLike) -> tuple[float, float]:
    """Calibration slope and intercept, (1, 0) for a perfectly calibrated model.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1], clipped as log_odds() says. The slope is that of a
    logistic regression of the label on the log-odds with a free intercept (below 1: over-confident). The
    intercept is calibration-in-the-large, in nats: fitted with the slope held at 1 (below 0: probabilities too
    high). Undefined, hence nan, are both with one class only, and the slope where some log-odds separates the
    classes or all are equal. Raises ValueError on malformed input. Van Calster et al. 2019, BMC Medicine.
    """
    slopes, intercepts = calibration_lines(labels, probabilities, np.ones((1, np.size(labels))))
    return float(slopes[0]), float(intercepts[0])


def calibration_lines(
    labels: ArrayLike, probabilities: ArrayLike, weights: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """calibration_line() for each of R weightings of the images.

    weights: (R, N), not negative; a weight of 2 counts an image twice. Returns (slopes, intercepts), each (R,).
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    x, weights = log_odds(probabilities), np.asarray(weights, dtype=np.float64)
    low, high = [], []
    for label in (0, 1):
        drawn = weights[:, labels == label] > 0
        low.append(np.where(drawn, x[labels == label], np.inf).min(axis=1, initial=np.inf))
        high.append(np.where(drawn, x[labels == label], -np.inf).max(axis=1, initial=-np.inf))
    slopes, intercepts = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    both = np.isfinite(low[0]) & np.isfinite(low[1])
    if both.any():
        intercepts[both] = _logistic(x, labels, weights[both], np.array([[0.0, 1.0]]), False)[:, 0]
    overlap = (high[0] > low[1]) & (high[1] > low[0])  # else the likelihood rises for ever
    if overlap.any():
        weights, centred, scale = weights[overlap], x - x.mean(), x.std()
        # From the fit to the average weighting it is a few steps to each.
        start = _logistic(centred / scale, labels, weights.mean(axis=0, keepdims=True), np.zeros((1, 2)), True)
        slopes[overlap] = _logistic(centred / scale, labels, weights, np.nan_to_num(start), True)[:, 1] / scale
    return slopes, intercepts


def _logistic(x: NDArray, labels: NDArray, weights: NDArray, start: NDArray, free_slope: bool) -> NDArray[np.float64]:
    """Maximum-likelihood (intercept, slope), (R, 2), of R weighted logistic regressions; nan if not reached.

    Newton's method with steps shortened to log(1 + r) / r, where r is the largest change of a log-odds: for
    the logistic loss that converges from any start. Sun & Tran-Dinh 2019, Mathematical Programming.
    """
    fitted, rows = np.full((len(weights), 2), np.nan), np.arange(len(weights))
    theta = np.repeat(start, len(weights), axis=0) if len(start) == 1 else start
    powers, ends = np.stack((np.ones_like(x), x, x * x), axis=1), np.array([x.min(), x.max()])
    aim = weights @ (labels[:, None] * powers[:, :2])
    for _ in range(100):
        share = 0.5 + 0.5 * np.tanh(0.5 * (theta[:, :1] + theta[:, 1:] * x))  # a sigmoid that cannot overflow
        mass = weights * share
        gradient = aim - mass @ powers[:, :2]
        h0, h1, h2 = ((mass - mass * share) @ powers).T
        if free_slope:
            solvable = (determinant := h0 * h2 - h1 * h1) > 0
            step = np.stack((h2 * gradient[:, 0] - h1 * gradient[:, 1], h0 * gradient[:, 1] - h1 * gradient[:, 0]), 1)
        else:
            solvable = (determinant := h0) > 0
            step = gradient * [1.0, 0.0]
        step /= np.where(solvable, determinant, 1.0)[:, None]
        change = np.abs(step[:, :1] + step[:, 1:] * ends).max(axis=1)
        theta = theta + step * (np.log1p(change) / np.maximum(change, 1e-300))[:, None]
        done = solvable & (change < 1e-6)  # the error is now below its square
        fitted[rows[done]] = theta[done]
        left = solvable & ~done
        if not left.any():
            break
        if not left.all():
            rows, theta, weights, aim = rows[left], theta[left], weights[left], aim[left]
    return fitted
