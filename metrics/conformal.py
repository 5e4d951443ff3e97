"""Which classes a film may be of, such that the true one is left out no more often than was promised.

Class-conditional (Mondrian) split conformal prediction: Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random
World, chapter 4; Vovk 2012, ACML (PMLR 25:475). Each class has a cut-off of its own, from validation's films of that
class alone, so that the promise holds in each class, at any prevalence. It holds with any number of patients, for one
film of a new patient whose films come about as validation's did; where they do not, nothing is promised.

Images of one patient are alike, so a patient lends each class one film, the first in the given order. The promise is
kept on the average over validation sets: with n patients of the class, the share that one set's cut-off delivers is a
draw from a Beta distribution, Beta(n + 1 - k, k), where k = left_out(n, alpha); chance() reckons with that.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics.intervals import codes_of
from metrics.measures import _checked


class CutOffs(NamedTuple):
    """Both are float32 numbers, so that a graph in float32 has them as they are."""

    lowest_pneumonia: float  # pneumonia is possible from here on
    highest_normal: float  # normal is possible up to here


def left_out(patients: int, alpha: float) -> int:
    """k: how many of patients + 1 of a class may be left out, the largest with k / (patients + 1) <= alpha.

    0 where there are too few patients for alpha: the class is always possible then. Raises ValueError on a bad alpha.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), found {alpha}")
    # By division, not by alpha * (patients + 1): 29 of 100 is then 0.29 to the last bit.
    return int(np.sum(np.arange(1, patients + 1) / (patients + 1) <= alpha))


def first_films(labels: ArrayLike, patients: ArrayLike) -> NDArray[np.bool_]:
    """(N,) whether a film is its patient's first one of its class. Raises ValueError on malformed input."""
    (labels,) = _checked(labels=labels)
    codes, _ = codes_of(patients, len(labels))
    first = np.zeros(len(labels), bool)
    first[np.unique(2 * codes + labels, return_index=True)[1]] = True
    return first


def cut_offs(labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, alpha: float) -> CutOffs:
    """Between which probabilities each class is possible: the true one is, for at least 1 - alpha of its films.

    labels: (N,) of 0/1, probabilities: (N,) of pneumonia in [0, 1], patients: (N,) names, all of validation. The k-th
    lowest of pneumonia's films, the k-th highest of normal's, k = left_out(). A class of too few patients,
    n + 1 < 1 / alpha, is always possible: its cut-off is 0 or 1. Films tied with a cut-off are possible, and cut-offs
    are rounded outwards to float32: what is possible by a float64 probability is possible by its float32 too, and the
    promise holds in both; more is possible only within half a float32 step of a cut-off.
    Raises ValueError on malformed input or an alpha outside (0, 1).
    """
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    first = first_films(labels, patients)
    normal, pneumonia = (np.sort(probabilities[first & (labels == label)]) for label in (0, 1))
    k_normal, k_pneumonia = left_out(len(normal), alpha), left_out(len(pneumonia), alpha)
    lowest = float(pneumonia[k_pneumonia - 1]) if k_pneumonia else 0.0
    highest = float(normal[-k_normal]) if k_normal else 1.0
    return CutOffs(_float32_beyond(lowest, 0.0), _float32_beyond(highest, 1.0))


def _float32_beyond(value: float, end: float) -> float:
    """The float32 nearest to a value in [0, 1], on the side where `end` lies."""
    rounded = np.float32(value)
    inside = float(rounded) > value if end == 0 else float(rounded) < value
    return float(np.nextafter(rounded, np.float32(end))) if inside else float(rounded)


def possible(probabilities: ArrayLike, cuts: tuple[float, float]) -> NDArray[np.bool_]:
    """(N, 2) whether normal, and whether pneumonia, is possible: one of them, both, or neither.

    probabilities: (N,) of pneumonia in [0, 1]; cuts: as cut_offs() gives them. Raises ValueError on malformed input.
    """
    (probabilities,) = _checked(probabilities=probabilities)
    lowest_pneumonia, highest_normal = cuts
    return np.stack((probabilities <= highest_normal, probabilities >= lowest_pneumonia), axis=1)


def referred(classes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) whether a film is left to a reader: not exactly one of its (N, 2) classes is possible."""
    return classes.sum(axis=1) != 1


def promise(labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, alpha: float) -> dict:
    """What a graph carries of its promise: alpha, the two cut-offs, and [normal, pneumonia] patients behind them.

    Input as for cut_offs().
    """
    labels = np.asarray(labels)
    cuts, first = cut_offs(labels, probabilities, patients, alpha), first_films(labels, patients)
    return {"alpha": alpha, **cuts._asdict(), "patients": [int(np.sum(first & (labels == k))) for k in (0, 1)]}


def chance(missed: int, patients: int, calibrated: int, alpha: float) -> float:
    """How probable it is that so many of a class, or more, are left out where new films are like validation's.

    missed: of the new patients of the class, one film each, for how many it was left out; calibrated: validation's
    patients of the class. The draw of both sets is in it: a beta-binomial distribution, exact where no probabilities
    are tied, too high else. 1 where the class is always possible. Raises ValueError on impossible counts.
    Vovk 2012 gives the Beta distribution that it comes from.
    """
    k = left_out(calibrated, alpha)
    if not 0 <= missed <= patients:
        raise ValueError(f"missed must lie in [0, {patients}], found {missed}")
    if k == 0 or missed == 0:
        return 1.0
    # Of all orders of both sets' films: j new ones before validation's k-th, the others behind it.
    tail = [math.exp(_log_choose(j + k - 1, j) + _log_choose(patients - j + calibrated - k, patients - j)
                     - _log_choose(patients + calibrated, patients)) for j in range(missed, patients + 1)]  # fmt: skip
    return min(math.fsum(tail), 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
