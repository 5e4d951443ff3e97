"""The same probabilities where pneumonia is rarer or commoner than in the films that they were calibrated on."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics.measures import _checked, log_odds

ALIKE = 0.1  # nats: a reader whose log-odds differ by less within a class has an AUROC below Phi(0.1 / sqrt(2)) = 0.53


def corrected(probabilities: ArrayLike, calibrated_at: float, expected: float) -> NDArray[np.float64]:
    """Probabilities (N,) that hold at the prevalence `calibrated_at`, as they would be at the one that is expected.

    By Bayes' theorem: the odds change by the ratio of the prevalences' odds. Holds where the films of each class look
    as they did. Prevalences in [0, 1], the first not 0 or 1. Raises ValueError on malformed input.
    """
    _check(calibrated_at, expected)
    values = _checked(probabilities=probabilities)[0]
    pneumonia, normal = values * expected / calibrated_at, (1 - values) * (1 - expected) / (1 - calibrated_at)
    whole = pneumonia + normal  # 0 where the model excludes the only class that there is: it stays with that class
    return np.where(whole > 0, pneumonia / np.where(whole > 0, whole, 1), expected)


def told(probabilities: ArrayLike, calibrated_at: float) -> bool:
    """Whether a model's answers can tell prevalences apart at all: those of one that knows nothing cannot.

    Input as for estimated(). They cannot where they are all alike (their log-odds have a standard deviation below
    ALIKE), nor where the likelihood is so flat that a 95 % interval about `calibrated_at` would be all that there is
    from 0 to 1. Its curvature there is sum((p - calibrated_at)^2) / (calibrated_at (1 - calibrated_at))^2, Fisher's
    information. Raises ValueError on malformed input.
    """
    _check(calibrated_at, calibrated_at)
    values = _checked(probabilities=probabilities)[0]
    distance = math.sqrt(float(np.sum((values - calibrated_at) ** 2)))
    return bool(2 * 1.96 * calibrated_at * (1 - calibrated_at) < distance and np.std(log_odds(values)) >= ALIKE)


def estimated(probabilities: ArrayLike, calibrated_at: float) -> float:
    """The prevalence among films without labels that makes a model's answers for them likeliest, in [0, 1].

    probabilities: (N,), of films that look, class for class, as those did that the model was calibrated on; the
    prevalence there is `calibrated_at`, between 0 and 1, which is also the answer where told() says that there is
    none. This is where the EM algorithm of Saerens, Latinne, Decaestecker 2002 (Neural Computation 14:21) ends: at
    the maximum of a concave likelihood, found here by halving an interval. Raises ValueError on malformed input.
    """
    _check(calibrated_at, calibrated_at)
    values = _checked(probabilities=probabilities)[0]
    if not told(values, calibrated_at):
        return calibrated_at
    # A film's likelihood is p x ratio of the prevalences + (1 - p) x ratio of their complements.
    slopes = values / calibrated_at - (1 - values) / (1 - calibrated_at)
    starts = (1 - values) / (1 - calibrated_at)

    def rising(prevalence: float) -> bool:
        return bool(np.sum(slopes / (starts + prevalence * slopes)) > 0)

    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) else (low, middle)
    return (low + high) / 2


def _check(calibrated_at: float, expected: float) -> None:
    if not 0 < calibrated_at < 1:
        raise ValueError(f"calibrated_at must lie between 0 and 1, found {calibrated_at}")
    if not 0 <= expected <= 1:
        raise ValueError(f"expected must lie in [0, 1], found {expected}")
