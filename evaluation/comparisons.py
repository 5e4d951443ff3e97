"""Differences between models on the same test images: the questions that are asked of them, and groups of seeds."""

import math
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evaluation.result import Result
from metrics import intervals, measures
from metrics.estimation import Estimate, Sample, estimate

QUESTIONS = (
    ("Does depth help?", "simple", "resnet34"),
    ("Does pretraining help?", "resnet34", "resnet34-pretrained"),
)
POINTS = ("0.5", "validation")  # at which decisions are compared
LEVEL = 0.05  # of a test, after Holm's correction
SEED_NAME = re.compile(r"(.+)-s(\d+)$")  # as `train.py --seeds` names its runs


def groups_of(results: list[Result]) -> list[tuple[str, list[Result]]]:
    """(name, checkpoints): runs that differ in the seed alone, by their names, together; all others on their own."""
    found: dict[tuple, list[Result]] = {}
    for i, result in enumerate(result for result in results if result.kind == "checkpoint"):
        seeded = SEED_NAME.match(result.name)
        key = (seeded[1], result.architecture, result.initial_weights, result.quick) if seeded else (i,)
        found.setdefault(key, []).append(result)
    groups = []
    for key, members in found.items():
        if 1 < len(members) == len({member.seed for member in members}):
            groups.append((key[0], members))
        else:  # one run twice, or two runs of one name, are no seeds
            groups += [(member.name, [member]) for member in members]
    return groups


def seed_groups(results: list[Result]) -> list[dict]:
    """Mean and standard deviation over the seeds of one architecture, of every estimate; groups of two and more."""
    found = []
    for name, members in groups_of(results):
        if len(members) < 2 or not all(same_images(members[0], member) for member in members[1:]):
            continue
        spread = {}
        shared = set.intersection(*(set(readers(member)) for member in members))  # older runs have fewer points
        for key, read in readers(members[0]).items():
            if key not in shared:
                continue
            values = np.array([read(member) for member in members])
            spread[key] = {"mean": float(values.mean()), "sd": float(values.std(ddof=1))}
        found.append({"name": name, "members": [member.name for member in members], "estimates": spread})
    return found


def readers(result: Result) -> dict[tuple[str, str], Callable[[Result], float]]:
    """How to read each estimate of a result: (operating point, or "", and measure) to its value."""
    found: dict = {("", key): lambda r, k=key: r.estimates[k]["value"] for key in result.estimates}
    for point, described in result.points.items():
        for key in described["estimates"]:
            found[point, key] = lambda r, p=point, k=key: r.points[p]["estimates"][k]["value"]
    return found


def same_images(a: Result, b: Result) -> bool:
    """Files of one name are not one image: the data's fingerprint knows their content."""
    return a.split == b.split and a.files == b.files and a.data["fingerprint"] == b.data["fingerprint"]


def answer(results: list[Result]) -> tuple[list[dict], list[str]]:
    """The two questions, for each pair of models tested on the same images; and what could not be asked.

    p-values are corrected together (Holm): more was asked than one thing.
    """
    found, notes = [], []
    groups = groups_of(results)
    for question, first, second in QUESTIONS:
        pairs = [(a, b) for a in groups for b in groups
                 if (a[1][0].architecture, b[1][0].architecture) == (first, second)]  # fmt: skip
        honest = [(a, b) for a, b in pairs if all(same_images(a[1][0], member) for member in (*a[1], *b[1]))]
        if not pairs:
            notes.append(f"{question} cannot be answered: it takes a run of {first} and one of {second}")
        elif not honest:
            notes.append(f"{question} cannot be answered: {first} and {second} were tested on different images")
        found += [compare(question, a, b) for a, b in honest]
    corrected = iter(intervals.holm([measure["p"] for pair in found for measure in pair["measures"]]) if found else [])
    for pair in found:
        for measure in pair["measures"]:
            measure["p_holm"] = float(next(corrected))
        pair["sentence"] = sentence(pair)
    return found, notes


def compare(question: str, a: tuple[str, list[Result]], b: tuple[str, list[Result]]) -> dict:
    """Differences of b minus a, each a name and its results (several of them: seeds, whose means are compared)."""
    (from_name, first), (to_name, second) = a, b
    shown = first[0]
    sample = Sample(shown.labels, shown.patient_ids)
    alone = len(first) == len(second) == 1
    measures = [auroc_of_two(first[0], second[0], sample) if alone else auroc_of_seeds(first, second, sample)]
    for point in POINTS:
        measures.append(accuracy_at(point, first, second, sample, alone))
    for measure in ("sensitivity", "specificity"):
        name = f"{measure}, threshold from validation"
        measures.append(by_bootstrap(name, measure, "validation", first, second, sample))
    for measure in ("log_loss", "brier"):
        measures.append(by_bootstrap(measure.replace("_", " "), measure, "", first, second, sample))

    def named(name: str, members: list[Result]) -> str:
        return name if len(members) == 1 else f"{name} ({len(members)} seeds)"

    return {
        "question": question,
        "from": named(from_name, first),
        "to": named(to_name, second),
        "images": shown.images,
        "patients": shown.patients,
        "measures": measures,
    }


def row(measure: str, difference: Estimate, p: float, detectable: float, method: str, **more: int) -> dict:
    return {"measure": measure, "difference": difference, "p": p, "detectable": detectable, "method": method, **more}


def auroc_of_two(a: Result, b: Result, sample: Sample) -> dict:
    found = intervals.compare_auroc(sample.labels, a.probabilities, b.probabilities, sample.patients)
    difference = estimate(found["difference"], (found["low"], found["high"]))
    return row("AUROC", difference, found["p"], found["detectable"], "DeLong, by patient")


def auroc_of_seeds(first: list[Result], second: list[Result], sample: Sample) -> dict:
    return by_bootstrap("AUROC", "auroc", "", first, second, sample)


def accuracy_at(point: str, first: list[Result], second: list[Result], sample: Sample, alone: bool) -> dict:
    name = f"accuracy, threshold {'0.5' if point == '0.5' else 'from validation'}"
    found = by_bootstrap(name, "accuracy", point, first, second, sample)
    if not alone or not sample.several:
        return found
    right = [measures.decide(r.probabilities, r.points[point]["threshold"]) == sample.labels
             for r in (first[0], second[0])]  # fmt: skip
    only_a, only_b, p = measures.mcnemar_exact(*right)
    detectable = intervals.mcnemar_detectable(len(sample.labels), (only_a + only_b) / len(sample.labels))
    method = "McNemar exact, by image; interval: bootstrap by patient"
    more = {"only_from_right": only_a, "only_to_right": only_b}
    return found | row(name, found["difference"], p, detectable, method, **more)


def by_bootstrap(
    name: str, measure: str, point: str, first: list[Result], second: list[Result], sample: Sample
) -> dict:
    """A paired difference of means over seeds: each replicate draws patients, and seeds where there are several."""
    generator = np.random.default_rng(1)
    values, replicates, left_out = zip(*(mean_over_seeds(measure, point, members, sample, generator)
                                         for members in (first, second)), strict=True)  # fmt: skip
    drawn, value = replicates[1] - replicates[0], values[1] - values[0]
    if not sample.several:
        return row(name, estimate(value), math.nan, math.nan, "one patient: no interval")
    p = intervals.bootstrap_p(drawn)
    if math.isnan(p):
        return row(name, estimate(value), math.nan, math.nan, "bootstrap by patient: undefined")
    defined = drawn[np.isfinite(drawn)]
    if not defined.any():  # the same on every image: no replicate differs, which gives no interval
        return row(name, estimate(value), 1.0, math.nan, "bootstrap by patient")
    difference = estimate(value, intervals.bca_interval(drawn, value, left_out[1] - left_out[0]))
    detectable = intervals.detectable_difference(float(defined.std(ddof=1)))
    seeds = " and seed" if max(len(first), len(second)) > 1 else ""
    return row(name, difference, p, detectable, f"bootstrap by patient{seeds}")


def mean_over_seeds(
    measure: str, point: str, members: list[Result], sample: Sample, generator: np.random.Generator
) -> tuple[float, NDArray, NDArray]:
    """(value, replicates, leave-one-patient-out values) of a measure's mean over models that differ in the seed.

    Of n seeds each replicate draws n - 1: the mean of n would vary too little by (n - 1) / n, a half of two seeds.
    Rao & Wu 1988, JASA 83:231.
    """

    def of(member: Result) -> tuple[float, NDArray, NDArray]:
        given = (sample.labels, member.probabilities)
        if measure == "auroc":
            return sample.resampled(lambda weights: intervals.bootstrap_ranking(*given, weights))[measure]
        if measure in ("log_loss", "brier"):
            return sample.resampled(lambda weights: intervals.bootstrap_calibration(*given, weights))[measure]
        threshold = member.points[point]["threshold"]
        return sample.resampled(lambda weights: intervals.bootstrap_decisions(*given, threshold, weights))[measure]

    found = [of(member) for member in members]
    drawn = np.stack([replicates for _, replicates, _ in found])  # (seeds, R)
    if len(members) > 1:
        which = generator.integers(0, len(members), (len(members) - 1, drawn.shape[1]))
        drawn = np.take_along_axis(drawn, which, axis=0)
    return (
        float(np.mean([value for value, _, _ in found])),
        drawn.mean(0),
        np.mean([left for *_, left in found], axis=0),
    )


def sentence(pair: dict) -> str:
    """What the comparison says in words: on AUROC, and on accuracy at the threshold from validation."""
    said = []
    for measure in pair["measures"]:
        if measure["measure"] not in ("AUROC", "accuracy, threshold from validation"):
            continue
        difference, scale, unit = measure["difference"], 1.0, ""
        if measure["measure"] != "AUROC":
            scale, unit = 100.0, " points"
        name = measure["measure"].split(",")[0]
        if math.isnan(measure["p_holm"]):
            said.append(f"{name}: these images cannot tell")
            continue
        value = f"{name} {scale * difference['value']:+.{4 if scale == 1 else 1}f}{unit}"
        if measure["p_holm"] < LEVEL:
            said.append(f"{value}, evidence of a difference (p = {measure['p_holm']:.2g} after Holm)")
        elif math.isnan(measure["detectable"]):
            said.append(f"{value}, no evidence of a difference; too few images to have found any")
        else:
            unseen = f"{scale * measure['detectable']:.{4 if scale == 1 else 1}f}{unit}"
            said.append(f"{value}, no evidence of a difference; differences under {unseen} would go unseen")
    return "; ".join(said)


def ensembles(results: list[Result]) -> list[tuple[str, list[Result]]]:
    """(name, members) for each group of seeds whose answers can be averaged."""
    return [
        (f"{name} (ensemble of {len(members)})", members)
        for name, members in groups_of(results)
        if len(members) > 1 and all(same_images(members[0], member) for member in members[1:])
    ]
