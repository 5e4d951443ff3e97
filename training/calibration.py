"""What validation decides of a trained network: its temperature, its thresholds, and what they promise."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

import models
from basics.progress import Progress
from metrics import estimation, measures
from training import inference, limits, stress_views
from training.batches import Batches


def fit(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The temperature and, for the probabilities it gives, Youden's threshold; both from validation alone."""
    low, high = 0.05, 20.0
    temperature = measures.fit_temperature(logits, labels, (low, high))
    if temperature <= low:  # validation is separated completely, which does not say how sure one may be
        temperature = 1.0
    probabilities = measures.positive_probability(logits, temperature)
    return {"temperature": temperature, "threshold": measures.youden_threshold(labels, probabilities)}


def taken(
    answers: Callable[[torch.Tensor], np.ndarray],
    shown: torch.Tensor,
    stress: stress_views.StressValidation | None,
    labels: np.ndarray,
    patients: list[str],
) -> dict:
    """The entries of a checkpoint that validation decides.

    answers: from (N, S, S) uint8 images to (N, 2) logits; shown: the N validation images, with their labels and
    patients. With stress validation all of its views count alike, and `stress` says what each showed.
    """
    found = {name: answers(stress.show(name)) for name in stress.views} if stress else {"as it is": answers(shown)}
    logits, all_labels, all_patients = (
        np.concatenate([*found.values()]),
        np.tile(labels, len(found)),
        patients * len(found),
    )
    decided = decisions(logits, all_labels, np.array(all_patients))
    measured = stress.measured(found, decided["temperature"], decided["threshold"]) if stress else []
    return {**decided, "stress": measured}


def decisions(logits: NDArray, labels: NDArray, patients: NDArray) -> dict:
    """Temperature, threshold and operating points, from (N, 2) logits of validation images; and these answers."""
    decided = fit(logits, labels)
    probabilities = measures.positive_probability(logits, decided["temperature"])
    _, codes = np.unique(patients, return_inverse=True)  # not their names
    points = estimation.operating_points(labels, probabilities, [str(code) for code in codes], decided["threshold"])
    return {
        **decided,
        "operating_points": points,
        "validation_answers": {
            "logits": torch.from_numpy(logits),
            "labels": torch.from_numpy(labels),
            "patients": torch.from_numpy(codes),
        },
    }


def decided(
    checkpoint: dict,
    shown: torch.Tensor,
    stress: stress_views.StressValidation | None,
    films: limits.Films,
    device: torch.device,
) -> dict:
    """The checkpoint of the best epoch with what its answers for the validation images `shown`, or for all views of
    them, decide; and with the limits of what it knows."""
    labels = films.labels[films.validation]
    mean, std = checkpoint["normalisation"]
    best = models.build(checkpoint["architecture"], checkpoint["size"])
    best.load_state_dict(checkpoint["state"])
    best = best.to(device).to(memory_format=torch.channels_last)
    answer = inference.answering(best, device, reduced=stress is not None)
    total = len(labels) * (len(stress.views) if stress else 1)
    progress = Progress(total, "validation of the best epoch", leave=False, delay=2)

    def answers(images: torch.Tensor) -> np.ndarray:
        """The epoch was chosen by bf16 answers. These are float32, but for the many of the stress views."""
        batches = Batches(images, labels, np.arange(len(labels)), inference.EVALUATION_BATCH[device.type], device,
                          (mean, std))  # fmt: skip
        return inference.network_logits(best, batches, answer=answer, moved=progress.update)

    with progress:
        decided = taken(answers, shown, stress, labels, films.patients)
    return {**checkpoint, **decided, "limits": limits.fit(best, films, (mean, std), device)}
