"""selective.py: the risk-coverage curve and its area, against a hand-computed set and a loop over films."""

import math

import numpy as np
import pytest

from metrics import intervals, measures, selective


def one(count: int) -> np.ndarray:
    return np.ones((1, count))


def test_a_small_set_by_hand():
    """Log-odds 4, -3, 2, -1 from the threshold 0.5, from the surest on: right, wrong, right, wrong."""
    probabilities = [1 / (1 + math.exp(-margin)) for margin in (-1, 4, 2, -3)]
    labels = [1, 1, 1, 1]
    found = selective.risks(labels, probabilities, 0.5, [0.125, 0.25, 0.5, 0.75, 1.0], one(4))
    assert found == pytest.approx(np.array([[0, 0, 1 / 2, 1 / 3, 1 / 2]]))
    assert selective.aurc(labels, probabilities, 0.5, one(4)) == pytest.approx([(0 + 1 / 2 + 1 / 3 + 1 / 2) / 4])


def test_the_order_is_by_the_distance_to_the_threshold_in_log_odds():
    """At the threshold 0.9 a probability of 0.99 is 2.4 nats away, and one of 0.5 is 2.2, though 0.4 of probability."""
    found = selective.risks([0, 0], [0.99, 0.5], 0.9, [0.5, 1.0], one(2))
    assert found == pytest.approx(np.array([[1.0, 0.5]]))


def test_films_at_one_distance_are_answered_in_parts_and_are_one_step_of_the_area():
    labels, probabilities = [0, 1, 1, 0], [0.75, 0.75, 0.75, 0.25]
    assert selective.risks(labels, probabilities, 0.5, [0.2, 0.7, 1], one(4)) == pytest.approx(np.full((1, 3), 0.25))
    assert selective.aurc(labels, probabilities, 0.5, one(4)) == pytest.approx([0.25])


def test_weights_count_films_as_often_as_copies_do():
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 2, 60), random.integers(0, 40, 60) / 40
    weights = intervals.patient_counts(np.arange(60) // 2, 20, 0)
    shares = np.linspace(0.05, 1, 20)
    risks, areas = (selective.risks(labels, probabilities, 0.4, shares, weights),
                    selective.aurc(labels, probabilities, 0.4, weights))  # fmt: skip
    for row, risk, area in zip(weights, risks, areas, strict=True):
        copies = (np.repeat(labels, row), np.repeat(probabilities, row), 0.4)
        assert risk == pytest.approx(selective.risks(*copies, shares, one(row.sum()))[0])
        assert area == pytest.approx(selective.aurc(*copies, one(row.sum()))[0])


def test_the_area_is_the_mean_risk_of_a_loop_over_films():
    random = np.random.default_rng(1)
    labels, probabilities = random.integers(0, 2, 200), random.random(200)
    distance = abs(np.log(probabilities / (1 - probabilities)) - math.log(0.3 / 0.7))
    wrong = (probabilities >= 0.3) != labels
    risks = [np.mean(wrong[np.argsort(-distance)][:n]) for n in range(1, 201)]
    assert selective.aurc(labels, probabilities, 0.3, one(200)) == pytest.approx([np.mean(risks)])
    at = selective.risks(labels, probabilities, 0.3, np.arange(1, 201) / 200, one(200))
    assert at[0] == pytest.approx(risks)
    decided = measures.decide(probabilities, 0.3)
    assert at[0, -1] == pytest.approx(np.mean(decided != labels))  # with every film answered: all errors


def test_shares_that_cannot_be_are_refused():
    for shares in ([0.0], [1.1], [math.nan]):
        with pytest.raises(ValueError, match="shares"):
            selective.risks([0, 1], [0.2, 0.7], 0.5, shares, one(2))
