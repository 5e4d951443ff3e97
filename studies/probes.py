"""What a network tells from a part of a film, and how it fares where the frame says the opposite of the label."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from data import Dataset, Split
from films import giveaways
from metrics import measures
from metrics.logistic import fit_logistic


def middle(side: int, device: torch.device, share: float = giveaways.FRAME_SHARE) -> torch.Tensor:
    """(S, S) bool: the middle of a square."""
    at = ((torch.arange(side, device=device) + 0.5) / side - 0.5).abs() < share / 2
    return at[:, None] & at


def without_middle(images: torch.Tensor) -> torch.Tensor:
    """(N, S, S) uint8 with their middles in the mean grey of each."""
    return torch.where(middle(images.shape[-1], images.device), mean_grey(images), images)


def middle_alone(images: torch.Tensor) -> torch.Tensor:
    """(N, S, S) uint8 with all but their middles in the mean grey of each."""
    return torch.where(middle(images.shape[-1], images.device), images, mean_grey(images))


def mean_grey(images: torch.Tensor) -> torch.Tensor:
    return images.float().mean((1, 2), keepdim=True).round().to(torch.uint8)


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
    as_is, hidden, alone = (
        measures.positive_probability(answers(films), decided["temperature"])
        for films in (shown, without_middle(shown), middle_alone(shown))
    )
    found = {
        "auroc, middle hidden": measures.auroc(truth, hidden),
        "auroc, middle alone": measures.auroc(truth, alone),
        "decided ill, middle hidden": float(measures.decide(hidden, decided["threshold"]).mean()),
    }
    right = measures.decide(as_is, decided["threshold"]) == truth
    for label, name, sign in ((0, "specificity", 1), (1, "sensitivity", -1)):
        mine = np.flatnonzero(truth == label)
        third = mine[np.argsort(-sign * scores[mine], kind="stable")[: len(mine) // 3]]
        lying = mine[(scores[mine] >= cut) != (label == 1)]
        found |= {name: right[mine].mean(), f"{name}, third": right[third].mean(), f"lying, {name}": len(lying)}
        found[f"{name}, lying"] = right[lying].mean() if len(lying) else np.nan
    return {key: float(value) for key, value in found.items()}
