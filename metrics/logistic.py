"""Logistic regression on a few columns, for baselines that see no pixels."""

import numpy as np
from numpy.typing import NDArray


def fit_logistic(facts: NDArray, labels: NDArray, rounds: int = 50) -> NDArray:
    """Weights (facts + 1,) of a logistic regression with a little ridge, by Newton's method (Hastie et al. 2009)."""
    inputs = np.column_stack([np.ones(len(facts)), facts])
    weights = np.zeros(inputs.shape[1])
    ridge = 1e-3 * np.eye(len(weights))
    for _ in range(rounds):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        slope = inputs.T @ (labels - probability) - ridge @ weights
        curvature = (inputs.T * (probability * (1 - probability))) @ inputs + ridge
        weights = weights + np.linalg.solve(curvature, slope)
    return weights
