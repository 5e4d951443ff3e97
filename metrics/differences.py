"""How two models, or two groups of seeds, differ on the same images: an interval and a p-value by one procedure.

Images of one patient are alike, so every variance is between patients; where a group has several seeds, the variance
between them is added: other seeds would have given other models. Several of these differences are asked together, so
there is Holm's correction, and what would have been found in spite of it. Raises ValueError on malformed input.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics import intervals, student
from metrics.intervals import codes_of

CONFIDENCE = 0.95
SEEDS_AT_MOST = 3  # times one less than the seeds of a group: so that 2 against 2 find nothing in 5 % of nothing


class Difference(NamedTuple):
    """Second minus first; nan is what cannot be told. The interval excludes 0 exactly where p < 1 - CONFIDENCE."""

    value: float
    low: float
    high: float
    p: float  # two-sided, of no difference
    standard_error: float
    freedom: float  # degrees of freedom of the standard error
    piece: float  # how much a patient who differs adds to the difference, the mean weighted by variances


def of_means(first: ArrayLike, second: ArrayLike, patients: ArrayLike) -> Difference:
    """The difference of two means over images, such as accuracies, sensitivities or log losses.

    first, second: (S, N), what each of S seeds of a model has on each image, in any unit; patients: (N,) names. With d
    the difference of a patient's images, summed, the standard error is sqrt(sum(d^2)) / N, as if there were no
    difference: the test is that of Durkalski et al. 2003, Statistics in Medicine 22:2417 (by patient what McNemar's is
    by image), and the interval holds what lies within t standard errors. t is Student's: by the normal quantile four
    patients who differ could be evidence. Degrees of freedom: see _variance(). Where no patient differs p is 1, and
    there is no interval. One seed against several has an interval by patient alone, and no p.
    """
    first, second = _groups(first, second)
    codes, n = codes_of(patients, first.shape[1])
    each = second.mean(axis=0) - first.mean(axis=0)
    if n < 2:
        return Difference(float(each.mean()), *[math.nan] * 6)
    sums, groups = np.bincount(codes, weights=each) / len(each), [group.mean(axis=1) for group in (first, second)]
    return _decided(float(each.mean()), _variance(float(sums @ sums), sums, groups), sums, groups)


def of_auroc(labels: ArrayLike, first: ArrayLike, second: ArrayLike, patients: ArrayLike) -> Difference:
    """The difference of two AUROCs, or of two means of them.

    labels: (N,) of 0/1; first, second: (S, N), the probabilities of S seeds of a model; patients: (N,) names. The
    variance is DeLong's by patient of the contrast (intervals.delong()) plus that of the seeds. nan with one class
    only, and where a class has fewer than two patients; where nothing varies (all rank alike, or all perfectly) there
    is no interval, and a p of 1 for a difference of 0. One seed against several has no p.
    """
    first, second = _groups(first, second)
    found = intervals.placements(labels, np.concatenate((first, second)), patients)
    groups = [found.areas[: len(first)], found.areas[len(first) :]]
    value = float(groups[1].mean() - groups[0].mean())
    if min(found.groups) < 2:
        return Difference(value, *[math.nan] * 6)
    contrast = np.concatenate((np.full(len(first), -1 / len(first)), np.full(len(second), 1 / len(second))))
    covariance = found.covariance()
    # Less than the rounding of its terms is nothing.
    spread, rounding = float(contrast @ covariance @ contrast), 1e-14 * float(contrast**2 @ np.diag(covariance))
    parts = contrast @ found.sums.sum(axis=0)
    return _decided(value, _variance(spread if spread > rounding else 0.0, parts, groups), parts, groups)


def _groups(first: ArrayLike, second: ArrayLike) -> tuple[NDArray, NDArray]:
    found = [np.asarray(group, dtype=np.float64) for group in (first, second)]
    for group in found:
        if group.ndim != 2 or not group.size or group.shape[1] != found[0].shape[1]:
            raise ValueError(f"groups must have shapes (S, N), found {found[0].shape} and {found[1].shape}")
        if not np.isfinite(group).all():
            raise ValueError(f"{np.sum(~np.isfinite(group))} of {group.size} values are not finite")
    return found[0], found[1]


def _variance(patients: float, parts: NDArray, groups: list[NDArray]) -> tuple[float, float]:
    """The variance of a difference, and its degrees of freedom: of `patients`, and of seeds if both groups have them.

    parts: (patients,), what each adds to the difference: as many degrees of freedom as there are who differ. Those of
    the sum: Satterthwaite 1946, Biometrics Bulletin 2:110; but there is a limit, since by chance a few seeds lie close
    together, and then the sum seems as well known as that of the patients. What seeds differ in because there are so
    few patients is in both variances: the sum is rather too large than too small.
    """
    found, most = [(patients, int(np.count_nonzero(parts)))], math.inf
    if _seeds_vary(groups):
        found += [(float(group.var(ddof=1)) / len(group), len(group) - 1) for group in groups]
        most = SEEDS_AT_MOST * (min(len(group) for group in groups) - 1)
    whole, uncertain = sum(v for v, _ in found), sum(v * v / freedom for v, freedom in found if v > 0)
    return whole, min(whole * whole / uncertain, most) if uncertain > 0 else math.nan


def _seeds_vary(groups: list[NDArray]) -> bool:
    """Whether both groups have several seeds: only then is it known how much those matter."""
    return min(len(group) for group in groups) > 1


def _decided(value: float, variance: tuple[float, float], parts: NDArray, groups: list[NDArray]) -> Difference:
    """The interval and the test that a variance and its degrees of freedom make."""
    error, freedom = math.sqrt(variance[0]), variance[1]
    tested = _seeds_vary(groups) or max(len(group) for group in groups) == 1
    if error == 0:
        return Difference(value, math.nan, math.nan, 1.0 if tested and value == 0 else math.nan, 0.0, *[math.nan] * 2)
    half = student.quantile(1 - CONFIDENCE, freedom) * error
    p = student.two_sided(value / error, freedom) if tested else math.nan
    piece = float(np.sum(np.abs(parts) ** 3) / (parts @ parts)) if parts.any() else 0.0
    return Difference(value, value - half, value + half, p, error, freedom, piece)


def detectable(found: Difference, level: float, power: float = 0.8) -> float:
    """The true difference that a test at this level finds with this power, at least, on images like these.

    level: in (0, 1); for Holm's correction of M p-values an Mth of the whole, which always suffices. Models that differ
    more vary more in it: what is added to the difference is taken to come in pieces as large as those that there are,
    so that delta is the solution of delta^2 = (t + t')^2 (standard_error^2 + delta piece), where t and t' are Student's
    quantiles for level and power (Cohen 1988, Statistical Power Analysis). nan where nothing can be said.
    """
    if not found.standard_error > 0:
        return math.nan
    t = student.quantile(level, found.freedom) + student.quantile(2 * (1 - power), found.freedom)
    half = t * t * found.piece / 2
    return half + math.hypot(half, t * found.standard_error)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for having made M tests: reject where these are <= alpha.

    p_values: (M,) in [0, 1]; nan, where no test could be made, stays nan and does not count. Returns (M,) float64.
    Raises ValueError on malformed input. Holm 1979, Scandinavian Journal of Statistics.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or not len(p_values):
        raise ValueError(f"p_values must be one-dimensional and not empty, found shape {p_values.shape}")
    if wrong := [p for p in p_values.tolist() if p < 0 or p > 1]:
        raise ValueError(f"p_values must lie in [0, 1], found {wrong[0]}")
    made = np.flatnonzero(~np.isnan(p_values))
    order = made[np.argsort(p_values[made])]
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted
