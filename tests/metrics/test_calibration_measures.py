"""The calibration measures of metrics/measures.py against scikit-learn, SciPy, or sorting into bins by hand."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.linear_model
import sklearn.metrics
from test_measures import SEEDS, sample

from metrics import measures

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("seed", SEEDS)
def test_brier_agrees_with_sklearn(seed: int) -> None:
    labels, probabilities = sample(seed)
    assert measures.brier(labels, probabilities) == pytest.approx(
        sklearn.metrics.brier_score_loss(labels, probabilities)
    )
    assert measures.brier([1, 1], [1.0, 0.0]) == 0.5


@pytest.mark.parametrize("bins", [1, 3, 10])
@pytest.mark.parametrize("n", [30, 300])
def test_reliability_of_distinct_probabilities_is_equal_shares(n: int, bins: int) -> None:
    labels, probabilities = sample(0, n)
    order = np.argsort(probabilities)
    shares = [(probabilities[part].mean(), labels[part].mean(), len(part)) for part in np.split(order, bins)]
    got = measures.reliability(labels, probabilities, bins)
    for values, expected in zip(got, zip(*shares, strict=True), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    error = sum(n_bin * abs(p - y) for p, y, n_bin in shares) / n
    assert measures.calibration_error(labels, probabilities, bins) == pytest.approx(error)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("levels", [1, 4, 25])
def test_ties_share_a_bin_and_order_is_of_no_effect(seed: int, levels: int) -> None:
    labels, probabilities = sample(seed, 97, levels)
    groups = {}
    for value in np.unique(probabilities):  # the mid-rank of each value says which tenth it belongs to
        middle = np.mean(probabilities < value) + np.mean(probabilities == value) / 2
        groups.setdefault(math.floor(10 * middle + 1e-12), []).extend(labels[probabilities == value] - value)
    got = measures.calibration_error(labels, probabilities)
    assert got == pytest.approx(sum(abs(sum(gaps)) for gaps in groups.values()) / 97)
    assert [len(gaps) for gaps in groups.values()] == measures.reliability(labels, probabilities)[2].tolist()
    shuffled = np.random.default_rng(seed).permutation(97)
    assert measures.calibration_error(labels[shuffled], probabilities[shuffled]) == got


def test_calibration_error_by_hand() -> None:
    assert measures.calibration_error([0, 1, 1, 1], [0.5] * 4) == 0.25
    assert measures.calibration_error([0, 1], [0.0, 1.0]) == 0.0
    assert measures.calibration_error([0, 1], [1.0, 0.0]) == 1.0
    assert measures.calibration_error([0, 1], [1.0, 0.0], bins=1) == 0.0
    predicted, observed, n = measures.reliability([1], [0.3])
    assert (predicted.tolist(), observed.tolist(), n.tolist()) == ([0.3], [1.0], [1])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (4.0, -1.0), (0.2, 3.0), (-1.0, 0.5)])
def test_calibration_line_agrees_with_sklearn_and_scipy(seed: int, scale: float, shift: float) -> None:
    labels, probabilities = sample(seed)
    x = scale * scipy.special.logit(probabilities) + shift
    probabilities = scipy.special.expit(x)
    regression = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky")
    expected = regression.fit(x[:, None], labels).coef_[0, 0]
    large = scipy.optimize.brentq(lambda a: np.sum(labels - scipy.special.expit(a + x)), -50, 50, xtol=1e-13)
    assert measures.calibration_line(labels, probabilities) == pytest.approx((expected, large), rel=1e-6, abs=1e-8)


def test_calibration_line_finds_the_truth() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_000)
    labels = (rng.random(len(x)) < scipy.special.expit(0.5 * x)).astype(int)
    slope, intercept = measures.calibration_line(labels, scipy.special.expit(x))
    assert slope == pytest.approx(0.5, abs=0.02) and intercept == pytest.approx(0.0, abs=0.02)
    assert measures.calibration_line(labels, scipy.special.expit(x - 1))[1] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("labels", "probabilities", "defined"),
    [
        ([1, 1, 1], [0.1, 0.5, 0.9], (False, False)),
        ([0], [0.1], (False, False)),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], (False, True)),  # separable
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], (False, True)),
        ([0, 0, 1, 1], [0.1, 0.3, 0.3, 0.4], (False, True)),  # but for a tie
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3], (False, True)),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], (True, True)),
        ([0, 1, 0, 1], [0.0, 0.0, 1.0, 1.0], (True, True)),
        ([0, 1, 0, 1, 1], [0.0, 1e-300, 1e-15, 1.0, 0.5], (False, True)),  # the clipped ones tie
        ([0, 1, 0, 1, 1], [0.0, 1e-300, 0.6, 1.0, 0.5], (True, True)),
    ],
)
def test_calibration_line_marks_what_is_undefined(labels: list, probabilities: list, defined: tuple) -> None:
    assert tuple(math.isfinite(value) for value in measures.calibration_line(labels, probabilities)) == defined


def test_certain_and_wrong_is_clipped_as_documented() -> None:
    labels, edge = [0, 0, 0, 1, 1, 1], math.log(1e12)
    slope, intercept = measures.calibration_line(labels, [0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    assert slope == pytest.approx(math.log(2) / edge, rel=1e-5)  # the log-odds of 2 in 3 are log 2
    assert intercept == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_allclose(measures.log_odds([0.0, 0.5, 1.0]), [-edge, 0.0, edge], rtol=1e-4, atol=0)


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8])
def test_calibration_line_converges_when_nearly_separable(gap: float) -> None:
    """Two overlapping points, far from the others: a large slope, which the first derivatives confirm."""
    x = np.array([-2.0, -1.0, gap, 0.0, 1.0, 2.0])
    labels = np.array([0, 0, 0, 1, 1, 1])
    slope, _ = measures.calibration_line(labels, scipy.special.expit(x))
    rest = scipy.optimize.minimize_scalar(lambda b: np.logaddexp(0, -b * (x - gap / 2) * (2 * labels - 1)).sum())
    assert slope == pytest.approx(rest.x, rel=1e-3)
