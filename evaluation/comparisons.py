"""Differences between models on the same test images: the questions that are asked of them, and groups of seeds."""

import math
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from basics import terms
from evaluation import marks
from evaluation.result import Result
from metrics import differences, measures
from metrics.differences import Difference
from metrics.estimation import estimate

QUESTIONS = (
    ("Does depth help?", "simple", "resnet34"),
    ("Does pretraining help?", "resnet34", "resnet34-pretrained"),
)
POINTS = ("0.5", "validation")  # at which decisions are compared
LEVEL = 0.05  # of a test, after Holm's correction
SAID = ("AUROC", "accuracy, threshold from validation")  # in words; the others are in the table
CANNOT_TELL, NO_EVIDENCE = "these images cannot tell", "no evidence of a difference"
SMOKE = "smoke runs answer no question"
NOT_IN_IT = "the single run's seed is not in it"
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

    Where there are no two architectures nothing was asked, and nothing is said. A smoke run, whose numbers mean
    nothing, answers no question.
    p-values are corrected together (Holm): more was asked than one thing. What is not tested, having no p, is no part
    of that. Holm rejects whatever lies below LEVEL over their number, so that is the level of what is detectable.
    """
    found, notes = [], []
    groups = groups_of([result for result in results if not result.quick])
    several = len({members[0].architecture for _, members in groups_of(results)} & set(terms.ARCHITECTURES)) > 1
    if several and not groups:
        return [], [SMOKE]
    smoke = any(result.quick for result in results)
    for question, first, second in QUESTIONS:
        pairs = [(a, b) for a in groups for b in groups
                 if (a[1][0].architecture, b[1][0].architecture) == (first, second)]  # fmt: skip
        honest = [(a, b) for a, b in pairs if all(same_images(a[1][0], member) for member in (*a[1], *b[1]))]
        if not pairs and several:
            notes.append(f"{question} cannot be answered: it takes a run of {first} and one of {second}"
                         f"{', and smoke runs do not count' if smoke else ''}")  # fmt: skip
        elif pairs and not honest:
            notes.append(f"{question} cannot be answered: {first} and {second} were tested on different images")
        found += [compare(question, a, b) for a, b in honest]
    rows = [measure for pair in found for measure in pair["measures"]]
    corrected = differences.holm([measure["p"] for measure in rows]) if rows else []
    tests = sum(not math.isnan(measure["p"]) for measure in rows)
    for measure, p in zip(rows, corrected, strict=True):
        measure["p_holm"] = float(p)
        if not math.isnan(p):
            least = differences.detectable(measure["found"], LEVEL / tests)
            measure["detectable"] = math.nan if least > 1 and measure["measure"] != "log loss" else least
        del measure["found"]
    for pair in found:
        pair["sentence"] = sentence(pair)
    return found, notes


def compare(question: str, a: tuple[str, list[Result]], b: tuple[str, list[Result]]) -> dict:
    """Differences of b minus a, each a name and its results (several of them: seeds, whose means are compared)."""
    (from_name, first), (to_name, second) = a, b
    shown = first[0]
    areas = differences.of_auroc(shown.labels, probabilities(first), probabilities(second), shown.patient_ids)
    rows = [row("AUROC", areas, first, second)]
    for point in POINTS:
        right = [correct(members, point) for members in (first, second)]
        name = f"accuracy, threshold {'0.5' if point == '0.5' else 'from validation'}"
        counts = only_right(*right) if len(first) == len(second) == 1 else {}
        rows.append(row(name, on_some(shown, *right), first, second) | counts)
    for measure, label in (("sensitivity", 1), ("specificity", 0)):
        of_class = on_some(shown, *right, shown.labels == label)
        rows.append(row(f"{measure}, threshold from validation", of_class, first, second))
    for name, loss in (("log loss", log_losses), ("brier", squared_errors)):
        rows.append(row(name, on_some(shown, loss(first), loss(second)), first, second))

    def named(name: str, members: list[Result]) -> str:
        return name if len(members) == 1 else f"{name} ({len(members)} seeds)"

    return {
        "question": question,
        "mark": marks.before([*first, *second]),  # of these models alone: others may be of drawings
        "from": named(from_name, first),
        "to": named(to_name, second),
        "images": shown.images,
        "patients": shown.patients,
        "measures": rows,
    }


def row(measure: str, found: Difference, first: list[Result], second: list[Result]) -> dict:
    return {
        "measure": measure,
        "difference": estimate(found.value, (found.low, found.high)),
        "p": found.p,
        "detectable": math.nan,  # is known when all p-values are: answer()
        "found": found,
        "standard_error": found.standard_error,
        "degrees_of_freedom": found.freedom,
        "method": method(measure, len(first), len(second)),
    }


def method(measure: str, first: int, second: int) -> str:
    """How a difference was tested, in words: by patient, and what is said of seeds."""
    test = "DeLong by patient" if measure == "AUROC" else "by patient"
    if first == second == 1:
        return f"{test}; one run each"
    return f"{test} and seed" if min(first, second) > 1 else f"{test}; {NOT_IN_IT}"


def probabilities(members: list[Result]) -> NDArray:
    """(S, N) probabilities of models that differ in the seed."""
    return np.stack([member.probabilities for member in members])


def correct(members: list[Result], point: str) -> NDArray:
    """(S, N) bool: whether each model decides right at an operating point."""
    return np.stack([measures.decide(member.probabilities, member.points[point]["threshold"]) == member.labels
                     for member in members])  # fmt: skip


def log_losses(members: list[Result]) -> NDArray:
    """(S, N) log loss in nats of each answer."""
    margins = np.stack([measures.log_odds(member.probabilities) for member in members])
    return np.logaddexp(0.0, np.where(members[0].labels == 1, -margins, margins))


def squared_errors(members: list[Result]) -> NDArray:
    """(S, N) squared differences of probability and label: their mean is the Brier score."""
    return (probabilities(members) - members[0].labels) ** 2


def on_some(shown: Result, first: NDArray, second: NDArray, which: NDArray | None = None) -> Difference:
    """The difference of two means over those images, over all if none are named."""
    which = np.ones(len(shown.labels), bool) if which is None else which
    if not which.any():
        return Difference(*[math.nan] * 7)
    return differences.of_means(first[:, which], second[:, which], np.asarray(shown.patient_ids)[which])


def only_right(first: NDArray, second: NDArray) -> dict[str, int]:
    """How many images only one of two models gets right."""
    return {"only_from_right": int((first & ~second).sum()), "only_to_right": int((~first & second).sum())}


def sentence(pair: dict) -> str:
    """What the comparison says in words: on AUROC, and on accuracy at the threshold from validation."""
    said = []
    for measure in pair["measures"]:
        if measure["measure"] not in SAID:
            continue
        name, scale, digits, unit = in_words(measure)
        value, found = scale * measure["difference"]["value"], verdict(measure)
        said.append(f"{name}: {found}" if found == CANNOT_TELL else f"{name} {value:+.{digits}f}{unit}, {found}")
        if found != NO_EVIDENCE:
            continue
        if measure["standard_error"] == 0:
            said.append("no patient tells the models apart")
        elif math.isnan(measure["detectable"]):
            said.append("too few patients to have found any")
        else:
            least = f"{scale * measure['detectable']:.{digits}f}{unit}"
            said.append(f"a true difference of {least} would have been found in at least 4 of 5 such test sets")
    return "; ".join(said)


def in_words(measure: dict) -> tuple[str, float, int, str]:
    """(name, scale, digits, unit) as a difference is said: of AUROC as it is, of shares in points."""
    name = measure["measure"].split(",")[0]
    return (name, 1.0, 4, "") if name == "AUROC" else (name, 100.0, 1, " points")


def verdict(measure: dict) -> str:
    """What the test of one measure says, its p corrected by Holm."""
    if math.isnan(measure["p_holm"]):
        untested = NOT_IN_IT in measure["method"] and not math.isnan(measure["difference"]["value"])
        return f"not tested: {NOT_IN_IT}" if untested else CANNOT_TELL
    if measure["p_holm"] < LEVEL:
        return f"evidence of a difference (p = {measure['p_holm']:.2g} after Holm)"
    return NO_EVIDENCE


def ensembles(results: list[Result]) -> list[tuple[str, list[Result]]]:
    """(name, members) for each group of seeds whose answers can be averaged."""
    return [
        (f"{name} (ensemble of {len(members)})", members)
        for name, members in groups_of(results)
        if len(members) > 1 and all(same_images(members[0], member) for member in members[1:])
    ]
