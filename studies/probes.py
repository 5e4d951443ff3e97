"""What a network tells from a part of a film, and how it fares where the frame says the opposite of the label."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from data import Dataset, Split
from evaluation import frames
from films import giveaways
from metrics import measures
from metrics.logistic import fit_logistic


def frame_scores(dataset: Dataset, split: Split) -> tuple[NDArray, NDArray]:
    """The chance that a film is pneumonia by its frame alone: of the training films, out of fold, and of validation."""
    features = giveaways.frame_features(dataset.images)
    own, labels = features[split.train], dataset.labels[split.train]
    training = giveaways.out_of_fold(own, labels, [dataset.patients[i] for i in split.train])
    validation = giveaways.CheapModel.fit(own, labels).scores(features[split.validation])
    offset, weight = fit_logistic(training[:, None], labels)
    return 1 / (1 + np.exp(-offset - weight * training)), 1 / (1 + np.exp(-offset - weight * validation))


def probed(
    answers: Callable[[torch.Tensor], NDArray], shown: torch.Tensor, truth: NDArray, decided: dict, scores: NDArray,
    cut: float,
) -> dict[str, float]:  # fmt: skip
    """From the (N, S, S) uint8 validation films, with how ill their frames look and from where on that is ill.

    answers: from films to (N, 2) logits; decided: temperature and threshold. "third" are the normal films whose frames
    look most ill, and the pneumonias whose frames look least so; "lying" those on the wrong side of the cut.
    """

    def probabilities(films: NDArray) -> NDArray:
        return measures.positive_probability(answers(torch.from_numpy(films).to(shown.device)), decided["temperature"])

    films = shown.cpu().numpy()
    parts = frames.in_parts(probabilities, films)
    found = {f"auroc, middle {part}": measures.auroc(truth, parts[part]) for part in ("hidden", "alone")}
    found["decided ill, middle hidden"] = float(measures.decide(parts["hidden"], decided["threshold"]).mean())
    right = measures.decide(probabilities(films), decided["threshold"]) == truth
    for label, name, sign in ((0, "specificity", 1), (1, "sensitivity", -1)):
        mine = np.flatnonzero(truth == label)
        third = mine[np.argsort(-sign * scores[mine], kind="stable")[: len(mine) // 3]]
        lying = mine[(scores[mine] >= cut) != (label == 1)]
        found |= {name: right[mine].mean(), f"{name}, third": right[third].mean(), f"lying, {name}": len(lying)}
        found[f"{name}, lying"] = right[lying].mean() if len(lying) else np.nan
    return {key: float(value) for key, value in found.items()}
