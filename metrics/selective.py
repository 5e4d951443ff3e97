"""How often a model errs where it answers only the films it is surest of: selective prediction.

Surest are those farthest from the threshold, in log-odds. Chow 1970, IEEE Transactions on Information Theory 16:41;
El-Yaniv & Wiener 2010, JMLR 11:1605.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics import measures
from metrics.intervals import _rows
from metrics.measures import _checked


def _answered(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float, weights: ArrayLike
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Weight answered and weight in error, (rows, distinct distances) each, from the surest films on."""
    labels, probabilities = _checked(labels=labels, probabilities=probabilities)
    wrong = (measures.decide(probabilities, threshold) != labels).astype(np.float64)
    distance = np.abs(measures.log_odds(probabilities) - measures.log_odds([threshold]))
    order = np.argsort(-distance, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(distance[order])), len(order) - 1)  # the last of each tie
    for part in _rows(weights, len(labels)):
        part = part[:, order]
        yield np.cumsum(part, axis=1)[:, ends], np.cumsum(part * wrong[order], axis=1)[:, ends]


def risks(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float, shares: ArrayLike, weights: ArrayLike
) -> NDArray[np.float64]:
    """Share of errors among the surest films, where these shares of the films are answered: the risk-coverage curve.

    labels: (N,) of 0/1; probabilities: (N,) in [0, 1]; threshold: in [0, 1]; shares: (S,) in (0, 1]; weights: (R, N),
    as intervals.patient_counts() makes them. Returns (R, S). Films at one distance are answered in parts, all alike.
    Raises ValueError on malformed input.
    """
    (shares,) = _checked(shares=shares)
    if not ((shares > 0) & (shares <= 1)).all():
        raise ValueError("shares must lie in (0, 1]")
    found = []
    for answered, wrong in _answered(labels, probabilities, threshold, weights):
        total = answered[:, -1:]
        x, y = (np.pad(part / total, ((0, 0), (1, 0))) for part in (answered, wrong))
        found += [np.interp(shares, *row) / shares for row in zip(x, y, strict=True)]
    return np.array(found)


def aurc(labels: ArrayLike, probabilities: ArrayLike, threshold: float, weights: ArrayLike) -> NDArray[np.float64]:
    """Area under the risk-coverage curve, (R,): the mean of the risk over all numbers of films that may be answered.

    Input as for risks(). Films at one distance are one step. 0 is best; an order that knows nothing has the share of
    errors. Geifman, Uziel & El-Yaniv 2019, ICLR (arXiv 1805.08206). Raises ValueError on malformed input.
    """
    found = []
    for answered, wrong in _answered(labels, probabilities, threshold, weights):
        risk = wrong / np.maximum(answered, 1e-300)  # 0 before the first film that was drawn; it weighs nothing there
        found.append(np.sum(np.diff(answered, axis=1, prepend=0.0) * risk, axis=1) / answered[:, -1])
    return np.concatenate(found)
