"""What is asked of a network whose films lack their middles, and of films whose frames lie."""

import numpy as np
import pytest
import torch

import data
from studies import probes

LABELS = np.array([0] * 6 + [1] * 6)


def test_groups_by_how_the_frame_looks():
    """Of six normal films two frames look ill, of six pneumonias one looks normal."""
    scores = np.array([0.9, 0.7, 0.4, 0.3, 0.2, 0.1, 0.2, 0.6, 0.7, 0.8, 0.9, 0.95])
    right = np.array([0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1])
    sure = np.where(right == 1, LABELS, 1 - LABELS) * 2.0 - 1
    films = torch.full((12, 20, 20), 9, dtype=torch.uint8)
    found = probes.probed(
        lambda shown: np.stack([-sure, sure], 1), films, LABELS, {"temperature": 1.0, "threshold": 0.5}, scores, 0.5
    )
    assert found["specificity"] == pytest.approx(5 / 6) and found["sensitivity"] == pytest.approx(4 / 6)
    assert (found["lying, specificity"], found["specificity, lying"]) == (2, 0.5)
    assert (found["lying, sensitivity"], found["sensitivity, lying"]) == (1, 0)
    assert found["specificity, third"] == 0.5 and found["sensitivity, third"] == 0
    # Of 36 pairs: 4 x 5 are right; ties, of two right or two wrong answers' like, count half.
    assert (
        found["auroc, middle hidden"] == found["auroc, middle alone"] == pytest.approx((4 * 5 + 0.5 * (4 + 2 * 5)) / 36)
    )


def test_frames_tell_nothing_of_labels_that_are_drawn_by_chance(phantoms):
    split = data.split(phantoms)
    training, validation = probes.frame_scores(phantoms, split)
    assert len(training) == len(split.train) and len(validation) == len(split.validation)
    assert (training >= 0).all() and (training <= 1).all()
    assert training.mean() == pytest.approx(phantoms.labels[split.train].mean(), abs=0.02), "they are calibrated"
