"""One model's answers on one set of images, as estimates with 95 % intervals: {"value", "low", "high"}.

Intervals are by patient. Which one: Wilson's for proportions, DeLong's for AUROC, the bootstrap's (BCa) for the rest.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics import intervals, measures, selective

REPLICATES = 2000
PROMISED = ("accuracy", "sensitivity", "specificity")  # what an operating point is chosen for
TARGETS = {"sensitivity 95 %": 0.95, "sensitivity 99 %": 0.99}

Estimate = dict[str, float]


class Sample:
    """A set of images: whose they are, and the same resampled patients for every model that is tested on it."""

    def __init__(self, labels: NDArray, patients: ArrayLike, replicates: int = REPLICATES) -> None:
        self.labels, self.patients = np.asarray(labels), np.asarray(patients)
        self.several = len(np.unique(self.patients)) > 1  # with one patient there is nothing to resample
        if self.several:
            self.drawn = intervals.patient_counts(self.patients, replicates, seed=0)
            self.left_out = intervals.leave_one_out(self.patients)

    def resampled(self, measure: Callable[[NDArray], dict[str, NDArray]]) -> dict[str, tuple[float, NDArray, NDArray]]:
        """(value, replicates, leave-one-patient-out values) of each metric that `measure` gives for weights (R, N)."""
        value = measure(np.ones((1, len(self.labels)), np.int16))
        if not self.several:
            return {name: (float(found[0]), np.array([]), np.array([])) for name, found in value.items()}
        drawn, left_out = measure(self.drawn), measure(self.left_out)
        return {name: (float(found[0]), drawn[name], left_out[name]) for name, found in value.items()}


def estimate(value: float, bounds: tuple[float, float] = (math.nan, math.nan)) -> Estimate:
    return {"value": float(value), "low": float(bounds[0]), "high": float(bounds[1])}


def bca(value: float, drawn: NDArray, left_out: NDArray) -> Estimate:
    if not len(drawn):
        return estimate(value)
    return estimate(value, intervals.bca_interval(drawn, value, left_out))


def whole(sample: Sample, probabilities: NDArray) -> dict[str, Estimate]:
    """What does not depend on a threshold: AUROC, average precision, log loss (nats), Brier score and calibration.

    calibration_error has no interval: resampling raises it, so that no bootstrap interval would hold it.
    """
    labels = sample.labels
    ranked = sample.resampled(lambda weights: intervals.bootstrap_ranking(labels, probabilities, weights))
    calibrated = sample.resampled(lambda weights: intervals.bootstrap_calibration(labels, probabilities, weights))
    found = {name: bca(*parts) for name, parts in {**ranked, **calibrated}.items()}
    found["auroc"] = estimate(measures.auroc(labels, probabilities))
    if sample.several and not math.isnan(found["auroc"]["value"]):
        bounds = intervals.auroc_interval(labels, probabilities, sample.patients)
        found["auroc"] = estimate(found["auroc"]["value"], bounds)
    found["calibration_error"] = estimate(found["calibration_error"]["value"])
    return found


def at_threshold(sample: Sample, probabilities: NDArray, threshold: float) -> dict[str, Estimate]:
    """What does: accuracy, balanced accuracy, sensitivity, specificity, precision (PPV), NPV, F1 and MCC."""
    labels = sample.labels
    found = {
        name: bca(*parts)
        for name, parts in sample.resampled(
            lambda weights: intervals.bootstrap_decisions(labels, probabilities, threshold, weights)
        ).items()
    }
    return found | proportions(labels, probabilities, sample.patients, threshold)


def aurc(sample: Sample, probabilities: NDArray, threshold: float) -> Estimate:
    """Area under the risk-coverage curve, by distance to the threshold: selective.aurc()."""
    found = sample.resampled(lambda weights: {"aurc": selective.aurc(sample.labels, probabilities, threshold, weights)})
    return bca(*found["aurc"])


def proportions(labels: NDArray, probabilities: NDArray, patients: ArrayLike, threshold: float) -> dict[str, Estimate]:
    """Those of at_threshold that are shares of images, which needs no resampling."""
    decisions = measures.decide(probabilities, threshold)
    everything = np.ones(len(labels), bool)
    asked = {
        "accuracy": everything,
        "sensitivity": labels == 1,
        "specificity": labels == 0,
        "precision": decisions == 1,
        "npv": decisions == 0,
    }
    found = {}
    for name, which in asked.items():
        right = (decisions == labels)[which]
        value = right.mean() if len(right) else math.nan
        found[name] = estimate(value, intervals.clustered_wilson(right, np.asarray(patients)[which]))
    return found


def operating_points(
    labels: NDArray, probabilities: NDArray, patients: Sequence[str], threshold: float
) -> dict[str, dict]:
    """Thresholds that validation chooses, and what it promises of each: {name: {"threshold", "images", ...}}.

    labels, probabilities and patients are validation's; `threshold` is the one that was fitted there already.
    """
    thresholds = {"0.5": 0.5, "validation": threshold}
    thresholds |= {name: measures.threshold_at_sensitivity(labels, probabilities, to) for name, to in TARGETS.items()}
    counts = {"images": len(labels), "patients": len(set(patients))}
    points = {}
    for name, value in thresholds.items():
        promised = proportions(labels, probabilities, patients, value)
        points[name] = {"threshold": value, **counts, **{measure: promised[measure] for measure in PROMISED}}
    return points


def gap(delivered: Estimate, promised: Estimate) -> Estimate:
    """Test minus validation, two independent sets: the interval of a difference from the intervals of its parts.

    Newcombe 1998, Statistics in Medicine 17:873 (method 10), with intervals that respect patients in place of Wilson's.
    """
    difference = delivered["value"] - promised["value"]
    below = math.hypot(delivered["value"] - delivered["low"], promised["high"] - promised["value"])
    above = math.hypot(delivered["high"] - delivered["value"], promised["value"] - promised["low"])
    return estimate(difference, (difference - below, difference + above))


def describe(
    sample: Sample, probabilities: NDArray, points: dict[str, dict], prevalence: float | None = None
) -> tuple[dict[str, Estimate], dict[str, dict]]:
    """(`whole`, {operating point: its threshold, confusion counts, estimates, what was promised, the gap}).

    points: as operating_points() made them on validation; one with a threshold alone has no promise.
    """
    described = {}
    for name, point in points.items():
        counts = measures.confusion(sample.labels, measures.decide(probabilities, point["threshold"]))
        estimates = at_threshold(sample, probabilities, point["threshold"])
        promised = {key: value for key, value in point.items() if key != "threshold"} or None
        described[name] = {
            "threshold": float(point["threshold"]),
            **counts._asdict(),
            "estimates": estimates,
            "promised": promised,
            "gap": promised and {measure: gap(estimates[measure], promised[measure]) for measure in PROMISED},
            "at_prevalence": None,
        }
        if prevalence is not None:
            rates = (estimates[measure]["value"] for measure in ("sensitivity", "specificity"))
            described[name]["at_prevalence"] = {"prevalence": prevalence, **measures.at_prevalence(*rates, prevalence)}
    return whole(sample, probabilities), described


def subgroup(
    group: str, measure: str, which: NDArray, labels: NDArray, decisions: NDArray, patients: ArrayLike
) -> dict:
    """A proportion on some of the images, with its n: sensitivity, specificity or accuracy."""
    counted = which & {"sensitivity": labels == 1, "specificity": labels == 0, "accuracy": labels >= 0}[measure]
    right, whose = (decisions == labels)[counted], np.asarray(patients)[counted]
    value = right.mean() if len(right) else math.nan
    return {
        "group": group,
        "measure": measure,
        "images": int(counted.sum()),
        "patients": len(set(whose.tolist())),
        **estimate(value, intervals.clustered_wilson(right, whose)),
    }
