"""Several checkpoints whose probabilities are averaged, as one: an ensemble.

unlike(...)     why some checkpoints cannot be averaged, or ""
combined(...)   the entries of the one that they make, as far as it has any
Averaged(...)   its network

Its logits are the logarithm of the mean of its members' calibrated probabilities. It has a temperature of its own,
since a mean of several is less sure than each of them (Rahaman and Thiery 2021, Uncertainty Quantification and Deep
Ensembles, NeurIPS), and thresholds of its own; both are validation's, as a single network's are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from basics import disk
from films import seen
from training import calibration

SAME = ("architecture", "classes", "size", "fit")  # of all members
ONE_MEMBERS = ("state", "training", "training_sha256", "weights_sha256", "history", "epoch", "stress", "limits")


class Averaged(nn.Module):
    """(N, 1, S, S) normalised images to (N, 2) logits: the log of the mean probability of several networks.

    Each member has normalisation (mean, deviation) and a temperature of its own; what enters is normalised as for the
    first of them.
    """

    def __init__(self, networks: Sequence[nn.Module], facts: Sequence[dict]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)
        self.temperatures = [float(one["temperature"]) for one in facts]
        self.normalisations = [tuple(one["normalisation"]) for one in facts]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = self.normalisations[0]
        parts = []
        for network, temperature, (own_mean, own_std) in zip(
            self.members, self.temperatures, self.normalisations, strict=True
        ):
            same = (own_mean, own_std) == (mean, std)
            own = images if same else (images * std + (mean - own_mean)) / own_std
            parts.append((network(own) / temperature).log_softmax(1))
        return torch.stack(parts).logsumexp(0) - float(np.log(len(parts)))


def log_mean(logits: Sequence[NDArray], temperatures: Sequence[float]) -> NDArray[np.float64]:
    """(N, 2) log of the mean of several softmaxes, from (N, 2) logits and a temperature for each."""
    parts = [np.asarray(some, np.float64) / temperature for some, temperature in zip(logits, temperatures, strict=True)]
    parts = [some - np.logaddexp.reduce(some, axis=1, keepdims=True) for some in parts]
    return np.logaddexp.reduce(np.stack(parts)) - np.log(len(parts))


def unlike(members: Sequence[dict]) -> str:
    """Why these checkpoints cannot be averaged, in words that follow "they"; "" where they can."""
    first = members[0]
    for key in SAME:
        if any(one[key] != first[key] for one in members):
            return f"differ in {key}: " + ", ".join(dict.fromkeys(str(one[key]) for one in members))
    answers = [found for one in members if (found := one.get("validation_answers"))]
    if len(answers) < len(members):
        return "kept no validation answers: some are of an earlier version"
    if any(one["data"]["fingerprint"] != first["data"]["fingerprint"] or one["split"] != first["split"]
           for one in members):  # fmt: skip
        return "were not validated on the same films"
    views = [[row["view"] for row in one.get("stress") or []] for one in members]
    same = all(of_one == views[0] and equal(own, answers[0]) for of_one, own in zip(views, answers, strict=True))
    return "" if same else "were validated in different ways (train.py --val)"


def equal(a: Any, b: Any) -> bool:
    """Whether two lists of answers are to the same films."""
    return all(torch.equal(a[key], b[key]) for key in ("labels", "patients"))


def combined(members: Sequence[dict], hashes: Sequence[str]) -> dict:
    """The entries of a checkpoint that validation decides, and those that all members share.

    hashes: SHA-256 of the members' files. The members are alike (see `unlike`). Its limits are those of the first one,
    whose hidden layer `unfamiliar` is measured in, with the answers of all.
    """
    temperatures = [one["temperature"] for one in members]

    def averaged(key: str) -> NDArray[np.float32]:
        return log_mean([one[key]["logits"].numpy() for one in members], temperatures).astype(np.float32)

    first, answers = members[0], members[0]["validation_answers"]
    made = {key: value for key, value in first.items() if key not in ONE_MEMBERS}
    record = seen.united([seen.of_checkpoint(one) for one in members])
    made |= {key: torch.from_numpy(values) for key, values in record.items()}
    made |= {
        "seed": None,
        "quick": any(one["quick"] for one in members),
        "initial_weights": "; ".join(dict.fromkeys(one["initial_weights"] for one in members)),
        "members": [{"checkpoint_sha256": sha256, **{key: one[key] for key in ("name", "temperature", "normalisation")}}
                    for one, sha256 in zip(members, hashes, strict=True)],
        **calibration.decisions(averaged("validation_answers"), answers["labels"].numpy(), answers["patients"].numpy()),
    }  # fmt: skip
    known = [one["limits"] for one in members if "limits" in one]
    if len(known) == len(members) and all(equal(one, known[0]) for one in known):
        made["limits"] = {**known[0], "logits": torch.from_numpy(averaged("limits"))}
    return made


def digest(hashes: Sequence[str]) -> str:
    """One SHA-256 of the members' files, in any order."""
    return disk.sha256_of(sorted(hashes))
