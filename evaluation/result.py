"""All that is found of one model, or of an ensemble, on its test images: what every table, file and figure is made of.

Points, subgroups and the like stay dicts here: they are written to results.json as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metrics.estimation import Estimate

# For figures, cards and predictions.csv.
NOT_IN_JSON = ("files", "labels", "probabilities", "patient_ids", "history", "worst", "checkpoint")
ALIKE = 1e-3  # of probabilities, up to which a graph answers as its checkpoint does


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class Result:
    """N test images. The order of the fields is that of the keys in results.json."""

    name: str  # that tables show
    kind: Literal["checkpoint", "graph", "ensemble"]
    file: str  # an ensemble's: its members', with commas between
    sha256: str  # of the file
    architecture: str
    seed: int | None  # of training; an ensemble has none
    initial_weights: str  # "random", or whose they were
    quick: bool  # a smoke run: its numbers mean nothing
    data: dict  # tested on: name, fingerprint, synthetic
    trained_on_synthetic: bool
    recorded: bool  # the films that it was trained on are known: a graph may come without its certificate
    left_out: str  # a sentence on films of the set that it has seen, and is not tested on; or ""
    split: dict  # tested on: how, seed, fingerprint
    temperature: float  # that logits are divided by; an ensemble's are the log of its members' mean probability
    images: int  # N
    patients: int
    positives: int  # images with pneumonia
    estimates: dict[str, Estimate]  # what depends on no threshold: estimation.whole()
    decides: str  # the operating point by which the model itself decides
    # By operating point: threshold, rule (where it is from), tn, fp, fn, tp, estimates, promised, gap, at_prevalence.
    points: dict[str, dict]
    subgroups: list[dict]  # group, measure, images, patients, value, low, high
    corrected: dict | None  # for the test images' prevalence: validation, estimated, counted (shares), estimates
    aurc: Estimate  # area under the risk-coverage curve, by distance to the threshold by which it decides
    # What it promises of the classes that it leaves out, and "measures", what it delivers: referral.delivered().
    referral: dict | None
    shortcut_audit: list[dict] | None  # with --audit: change, strength, auroc, accuracy, sensitivity, specificity
    notes: list[str]  # sentences on these test images
    stress: list[dict] | None  # validation images seen in other ways: view, shortcuts, auroc, accuracy, ...
    training: dict | None  # of a checkpoint: testing.training_facts()
    checkpoint_sha256: str | None  # of a graph: the checkpoint it was made from
    # What follows is not for results.json.
    files: list[str]  # (N,) below the data's source
    labels: NDArray[np.int64]  # (N,) 0 normal, 1 pneumonia
    probabilities: NDArray[np.float64]  # (N,) calibrated, of pneumonia
    patient_ids: list[str]  # (N,)
    history: list[dict] | None  # a row for each epoch; graphs and ensembles have none
    worst: list[dict]  # misses, then false alarms, that surprise most: file, label, probability, pixels (S, S) uint8
    checkpoint: dict  # what the model, or an ensemble's first member, says of itself; no weights, no list of images

    @property
    def decision(self) -> dict:
        """The operating point by which the model itself decides."""
        return self.points[self.decides]

    def named(self, point: str) -> str:
        """An operating point's name, with where its threshold is from if that is not the name itself."""
        rule = self.points[point]["rule"]
        return f"{point} ({rule})" if rule else point

    def for_json(self) -> dict:
        """The fields that results.json holds, in their order; values are not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in NOT_IN_JSON}


def repeats(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """(graph, twin) where a graph answers as the checkpoint of its name does, or as the ensemble of the checkpoints
    that it was made of, and decides by the same threshold."""
    checkpoints = {result.name: result for result in results if result.kind == "checkpoint"}
    ensembles = {result.sha256: result for result in results if result.kind == "ensemble"}
    pairs = [(result, checkpoints.get(result.name.removesuffix(".onnx")) or ensembles.get(result.checkpoint_sha256))
             for result in results if result.kind == "graph" and result.decides == "validation"]  # fmt: skip
    return [(graph, twin) for graph, twin in pairs if twin is not None and answers_alike(graph, twin)]


def answers_alike(a: Result, b: Result) -> bool:
    return list(a.files) == list(b.files) and np.allclose(a.probabilities, b.probabilities, rtol=0, atol=ALIKE)


def shown(results: Sequence[Result]) -> list[Result]:
    """All models but the graphs that repeat their checkpoint: in tables and figures those would only be it again."""
    again = [graph for graph, _ in repeats(results)]
    return [result for result in results if not any(result is graph for graph in again)]
