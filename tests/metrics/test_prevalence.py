"""Another prevalence: against Bayes by counting, the EM algorithm itself, and scipy's maximum of the likelihood."""

import re

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from metrics import measures, prevalence


def answers(seed: int, positives: int, negatives: int, calibrated_at: float) -> np.ndarray:
    """Probabilities, calibrated at that prevalence, of a reader whose log-likelihood ratios are normal.

    Scores are N(+-1, 1), so that the log-likelihood ratio of a score x is 2 x: exact calibration.
    """
    generator = np.random.default_rng(seed)
    scores = np.concatenate([generator.normal(1, 1, positives), generator.normal(-1, 1, negatives)])
    return 1 / (1 + np.exp(-(2 * scores + np.log(calibrated_at / (1 - calibrated_at)))))


def em(probabilities: np.ndarray, calibrated_at: float, rounds: int) -> float:
    """Saerens et al. 2002, equations 2.6 to 2.9, as they stand."""
    prior = np.array([1 - calibrated_at, calibrated_at])
    posteriors = np.stack([1 - probabilities, probabilities], 1)
    now = prior.copy()
    for _ in range(rounds):
        weighted = posteriors * (now / prior)
        now = (weighted / weighted.sum(1, keepdims=True)).mean(0)
    return float(now[1])


@pytest.mark.parametrize(("positives", "negatives"), [(390, 234), (50, 950), (740, 260), (999, 1), (5, 5)])
def test_estimated_is_where_em_ends_and_the_likelihood_is_highest(positives, negatives):
    probabilities = answers(positives, positives, negatives, 0.742)
    found = prevalence.estimated(probabilities, 0.742)

    def loss(share: float) -> float:
        return -np.log(probabilities * share / 0.742 + (1 - probabilities) * (1 - share) / 0.258).sum()

    assert found == pytest.approx(em(probabilities, 0.742, 5000), abs=1e-5)
    oracle = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-10})
    assert found == pytest.approx(oracle.x, abs=1e-5)


def test_estimated_finds_the_prevalence_of_a_large_sample_and_correcting_calibrates():
    probabilities = answers(0, 20_000, 80_000, 0.742)
    labels = np.repeat([1, 0], [20_000, 80_000])
    found = prevalence.estimated(probabilities, 0.742)
    assert found == pytest.approx(0.2, abs=0.005)
    slope, intercept = measures.calibration_line(labels, prevalence.corrected(probabilities, 0.742, found))
    assert (slope, intercept) == (pytest.approx(1, abs=0.02), pytest.approx(0, abs=0.04))
    before = measures.calibration_line(labels, probabilities)[1]
    assert before == pytest.approx(np.log(0.2 / 0.8) - np.log(0.742 / 0.258), abs=0.04)


def test_estimated_at_the_ends_of_what_there_is():
    rare = np.linspace(0.005, 0.02, 9)
    assert prevalence.estimated(rare, 0.7) == pytest.approx(0, abs=1e-9)
    assert prevalence.estimated(1 - rare, 0.7) == pytest.approx(1, abs=1e-9)
    assert prevalence.estimated([0.0, 0.0, 1.0] * 3, 0.5) == pytest.approx(1 / 3, abs=1e-9)


@pytest.mark.parametrize("offset", [0.0, -0.03, 0.03])
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-3, 0.01])
def test_answers_of_one_who_knows_nothing_leave_the_prevalence_as_it_was(noise, offset):
    """Even where they lie beside it, as those of a network that has learnt nothing may."""
    same = 0.742 + offset + noise * np.random.default_rng(0).normal(size=1000)
    assert not prevalence.told(same, 0.742) and prevalence.estimated(same, 0.742) == 0.742
    assert prevalence.corrected(same, 0.742, 0.742) == pytest.approx(same)


def test_answers_tell_as_soon_as_they_know_something():
    assert prevalence.told(answers(0, 390, 234, 0.742), 0.742)
    assert not prevalence.told([0.6, 0.8], 0.742)  # two films say nothing of a prevalence
    hardly = 1 / (1 + np.exp(-(np.log(0.742 / 0.258) + np.random.default_rng(0).normal(0, 0.5, 600))))
    assert prevalence.told(hardly, 0.742)


def test_corrected_is_bayes_theorem_by_counting():
    # Of 100 films in a cell 80 are pneumonias; then only every tenth pneumonia stays, of 1,000 of each class.
    films = {"pneumonia": 800, "normal": 200}
    rarer = films["pneumonia"] / 10
    expected = rarer / (rarer + films["normal"])
    after = 1000 / 10 / (1000 / 10 + 1000)
    assert prevalence.corrected([0.8], 0.5, after) == pytest.approx([expected])


def test_corrected_keeps_the_order_and_undoes_itself():
    probabilities = answers(1, 60, 40, 0.6)
    there = prevalence.corrected(probabilities, 0.6, 0.1)
    assert (np.argsort(there) == np.argsort(probabilities)).all() and (there < probabilities).all()
    assert prevalence.corrected(there, 0.1, 0.6) == pytest.approx(probabilities)
    assert prevalence.corrected(probabilities, 0.6, 0.6) == pytest.approx(probabilities)


@pytest.mark.filterwarnings("error")
def test_corrected_where_a_class_is_excluded():
    assert prevalence.corrected([0, 0.5, 1], 0.5, 0.0).tolist() == [0, 0, 0]
    assert prevalence.corrected([0, 0.5, 1], 0.5, 1.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("estimated", ([0.1, 1.2], 0.5), "probabilities must lie in [0, 1], found 1.2"),
        ("estimated", ([], 0.5), "probabilities is empty"),
        ("estimated", ([0.1], 1.0), "calibrated_at must lie between 0 and 1, found 1.0"),
        ("estimated", ([0.1], float("nan")), "calibrated_at must lie between 0 and 1, found nan"),
        ("corrected", ([0.1], 0.0, 0.5), "calibrated_at must lie between 0 and 1, found 0.0"),
        ("corrected", ([0.1], 0.5, 1.5), "expected must lie in [0, 1], found 1.5"),
        ("corrected", ([[0.1]], 0.5, 0.5), "probabilities must be one-dimensional, found shape (1, 1)"),
    ],
)
def test_malformed_input_is_named(function, arguments, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        getattr(prevalence, function)(*arguments)
