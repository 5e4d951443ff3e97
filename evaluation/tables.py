"""The tables of a report, from one result per model: the same cells are printed and written as HTML and Markdown."""

import math
from typing import NamedTuple

from basics import terms
from evaluation import marks, referral
from evaluation.markup import DASH, number, p_value, percent, with_interval
from evaluation.result import Result
from films import sources

# The published notebooks' test results: 468 images, some of them mirrored at random.
# source, model, n, accuracy, loss, TN, FP, FN, TP
NOTEBOOKS = (
    ("notebook 1", "resnet34", 468, 0.9551, 0.1324, 111, 2, 19, 336),
    ("notebook 1", "simple", 468, 0.9530, 0.1389, 100, 13, 9, 346),
    ("notebook 2", "resnet34-pretrained", 468, 0.9722, 0.0753, 131, 1, 12, 324),
    ("notebook 2", "resnet34", 468, 0.9466, 0.1660, 129, 3, 22, 314),
)
NOTEBOOKS_CAVEAT = (
    "The notebooks split by image, so that 24.6 % of their test images share a patient with training, and mirrored "
    "test images at random; notebook 1's draw holds 133 of its own training images. Not the same images as ours."
)
INTERVALS = (
    "In brackets: 95 % intervals, by patient (accuracy, sensitivity, specificity, PPV, NPV: Wilson; others: bootstrap)."
)
SHORT = "In %. In brackets: 95 % intervals by patient (Wilson), rounded outwards."
WHOLE = {  # heading and digits
    "auroc": ("AUROC", 4),
    "average_precision": ("average precision", 4),
    "log_loss": ("log loss", 4),
    "brier": ("Brier", 4),
    "calibration_error": ("calibration error", 3),
    "calibration_slope": ("calibration slope", 2),
    "calibration_intercept": ("calibration intercept", 2),
}
DECISIONS = ("accuracy", "sensitivity", "specificity")
MORE = {"balanced_accuracy": "balanced accuracy", "precision": "PPV", "npv": "NPV", "f1": "F1", "mcc": "MCC"}


class Table(NamedTuple):
    title: str
    headers: list[str]
    rows: list[list]
    notes: list[str]


def by_hand(results: list[Result]) -> list[str]:
    """A note on graphs that decide by another threshold than validation's."""
    own = [f"{r.name} ({number(r.decision['threshold'], 4)})" for r in results if r.decides != "validation"]
    return [f"At the graph's own threshold, not validation's: {', '.join(own)}."] if own else []


def summary(results: list[Result]) -> Table:
    headers = ["model", "accuracy", "sensitivity", "specificity", "AUROC", "FN", "FP", "images", "patients",
               "stress AUROC, mean", "worst", "epochs", "minutes", "device", "seed"]  # fmt: skip
    rows = []
    for result in results:
        if training := result.training:
            at = result.decision
            stress = [row["auroc"] for row in result.stress or ()]
            stressed = [number(sum(stress) / len(stress), 4), number(min(stress), 4)] if stress else ["-", "-"]
            rows.append([result.name, *(number(at["estimates"][key]["value"]) for key in DECISIONS),
                         number(result.estimates["auroc"]["value"], 4), at["fn"], at["fp"], result.images,
                         result.patients, *stressed, training["epochs"], number(training["minutes"], 1),
                         training["device"], training["seed"]])  # fmt: skip
    return Table("Summary (test images, threshold from validation)", headers, rows, [])


def deciding(results: list[Result], short: bool = False) -> Table:
    """The table of the screen: a row for each model, at the threshold by which it decides; short: in few columns."""
    cell, digits = (percent, 3) if short else (with_interval, 4)
    alarms = "false\nalarms" if short else "false alarms"
    rows = [
        [result.name, number(at["threshold"], 4), *(cell(at["estimates"][key]) for key in DECISIONS),
         at["fn"], at["fp"], number(result.estimates["auroc"]["value"], digits)]
        for result in results for at in (result.decision,)
    ]  # fmt: skip
    notes = [SHORT if short else INTERVALS, *by_hand(results)]
    headers = ["model", "threshold", *DECISIONS, "missed", alarms, "AUROC"]
    return Table(f"{marks.before(results)}Test results: decisions, by each model's own threshold", headers, rows, notes)


def decisions(results: list[Result]) -> Table:
    headers = ["model", "threshold", "", *DECISIONS, "TN", "FP", "FN", "TP"]
    rows = [
        [result.name, result.named(name), number(at["threshold"], 4),
         *(with_interval(at["estimates"][key]) for key in DECISIONS), at["tn"], at["fp"], at["fn"], at["tp"]]
        for result in results for name, at in result.points.items()
    ]  # fmt: skip
    return Table("Test results: decisions", headers, rows, [INTERVALS])


def more_decisions(results: list[Result]) -> Table:
    rows = [
        [result.name, result.named(name), *(with_interval(at["estimates"][key]) for key in MORE)]
        for result in results for name, at in result.points.items()
    ]  # fmt: skip
    return Table("Test results: more on decisions", ["model", "threshold", *MORE.values()], rows, [])


def ranking(results: list[Result]) -> Table:
    headers = ["model", *(heading for heading, _ in WHOLE.values()), "images", "patients"]
    rows = [
        [result.name, *(with_interval(result.estimates[key], digits) for key, (_, digits) in WHOLE.items()),
         result.images, result.patients]
        for result in results
    ]  # fmt: skip
    notes = ["AUROC: DeLong's interval by patient; calibration error: 10 bins of equal mass, no interval is valid; "
             "a perfectly calibrated model has slope 1 and intercept 0."]  # fmt: skip
    return Table("Test results: ranking and calibration", headers, rows, notes)


def promises(results: list[Result]) -> Table:
    headers = ["model", "threshold", "measure", "validation promised", "test delivered", "gap (points)"]
    rows = []
    for result in results:
        for name, at in result.points.items():
            if at["promised"] or name == result.decides != "validation":
                promised, gap = at["promised"] or {}, at["gap"] or {}
                rows += [
                    [result.name, result.named(name), key, with_interval(promised.get(key)),
                     with_interval(at["estimates"][key]), with_interval(gap.get(key), 1, 100, sign=True)]
                    for key in DECISIONS
                ]  # fmt: skip
    notes = ["Thresholds were chosen on validation images; test images chose nothing. Of one that was set by hand "
             "nothing was promised."]  # fmt: skip
    return Table("Promised and delivered", headers, rows, notes)


def referrals(results: list[Result]) -> Table:
    """What each model promised of the classes that it leaves out, what it delivered, and what it leaves to a reader."""
    headers = ["model", "measure", "promised", "delivered", "n films", "n patients", "p, films alike", "shift"]
    rows, few = [], []
    for result in results:
        if told := result.referral:
            for key, found in told["measures"].items():
                of_class = "promised" in found
                shift = "THE FILMS HAVE SHIFTED" if found.get("shifted") else "no evidence" if of_class else DASH
                rows.append([result.name, referral.MEASURES[key], f"{found['promised']:.4g}" if of_class else DASH,
                             with_interval(found), found["films"], found["patients"], p_value(found.get("p")),
                             shift])  # fmt: skip
            few += [f"{result.name}: {n:,} validation patients are too few to ever leave out {name}."
                    for name, n in referral.unknown(told)]  # fmt: skip
    notes = ["Cut-offs from validation (class-conditional conformal prediction): each class is among the possible ones "
             "for at least the promised share of its films, one a patient. A film is answered where one class alone is "
             "possible, else referred. p: how often so few patients' first films are covered where films are like "
             "validation's, by the chance of both draws (beta-binomial). Shifted: the interval lies below the promise, "
             "and p below 0.025. Validation also chose the epoch, which makes promises a little too good.",
             *few]  # fmt: skip
    return Table("Referral: promised and delivered", headers, rows, notes)


def stressed(results: list[Result]) -> Table:
    """How the validation films fared that were shown in other ways: training/stress_views.py."""
    headers = ["model", "view", "AUROC of shortcuts alone", "AUROC", *DECISIONS]
    rows = [
        [result.name, row["view"], number(row["shortcuts"], 3), number(row["auroc"], 4),
         *(number(row[key], 3) for key in DECISIONS)]
        for result in results for row in result.stress or ()
    ]  # fmt: skip
    notes = ["Validation images, of which epoch, temperature and threshold were chosen; decisions at that threshold. "
             "Shortcuts: sharpness, tone and borders. Matched: films weighted so that shortcuts tell nothing, the mean "
             "of sensitivity and specificity in place of accuracy."]  # fmt: skip
    return Table("Stress validation", headers, rows, notes)


def prevalences(results: list[Result]) -> Table:
    headers = ["model", "threshold", "prevalence", "PPV", "NPV", "films read per missed case"]
    rows = []
    for result in results:
        for name, at in result.points.items():
            if found := at["at_prevalence"]:
                values = [f"{found['prevalence']:g}", number(found["ppv"]), number(found["npv"])]
                missed = found["films_per_missed"]
                values.append("none missed" if missed == math.inf else number(missed, 0))
                rows.append([result.name, result.named(name), *values])
    return Table("At another prevalence", headers, rows, ["From the sensitivity and specificity measured here."])


def corrected(results: list[Result]) -> Table:
    headers = ["model", "prevalence, validation", "test, estimated", "test, counted", *DECISIONS]
    rows = [
        [result.name, number(found["validation"]),
         "these answers cannot tell" if found["estimated"] is None else number(found["estimated"]),
         number(found["counted"]), *(with_interval(found["estimates"].get(key)) for key in DECISIONS)]
        for result in results if (found := result.corrected)
    ]  # fmt: skip
    notes = [
        "Not what the models do: probabilities corrected for the prevalence that makes those of all test images "
        "likeliest (EM; Saerens et al. 2002), decided at 0.5. This reads the test images, without labels, and "
        "holds where films of each class look as they did in validation; nothing else here is made from it."
    ]
    return Table("With the test images' prevalence estimated from themselves", headers, rows, notes)


def subgroups(results: list[Result]) -> Table:
    rows = [
        [result.name, found["group"], found["measure"], with_interval(found), found["images"], found["patients"]]
        for result in results for found in result.subgroups
    ]  # fmt: skip
    headers = ["model", "images", "measure", "value", "n images", "n patients"]
    return Table("Subgroups (threshold from validation)", headers, rows, by_hand(results))


def seeds(groups: list[dict]) -> Table:
    columns = {"AUROC": ("", "auroc"), "log loss": ("", "log_loss")}
    columns |= {f"{key}, {point}": (point, key) for point in ("0.5", "validation") for key in DECISIONS}
    rows = [
        [group["name"], len(group["members"]),
         *(f"{number(group['estimates'][key]['mean'], 4)} ± {number(group['estimates'][key]['sd'], 4)}"
           for key in columns.values())]
        for group in groups
    ]  # fmt: skip
    notes = ["Mean and standard deviation over the seeds of training; thresholds: 0.5 and the one from validation."]
    return Table("Several seeds", ["model", "seeds", *columns], rows, notes)


def questions(comparisons: list[dict]) -> Table:
    headers = ["question", "comparison", "measure", "difference", "detectable", "p", "p (Holm)", "method"]
    rows = []
    for pair in comparisons:
        for found in pair["measures"]:
            points = found["measure"].startswith(("accuracy", "sensitivity", "specificity"))
            digits, scale = (1, 100) if points else (4, 1)
            rows.append([pair["mark"] + pair["question"], f"{pair['from']} to {pair['to']}",
                         found["measure"] + (" (points)" if points else ""),
                         with_interval(found["difference"], digits, scale, sign=True),
                         number(scale * found["detectable"], digits), p_value(found["p"]), p_value(found["p_holm"]),
                         found["method"]])  # fmt: skip
    notes = ["Second minus first, on the same test images, by patient: interval and p of a row are of one test. "
             "Detectable: a true difference that would have been found in at least 4 of 5 such test sets, after Holm's "
             "correction. Holm: corrected for all p-values of this table. A dash: not tested."]  # fmt: skip
    return Table(f"{marks.of_pairs(comparisons)}The questions", headers, rows, notes)


def convergence(results: list[Result]) -> Table:
    headers = ["model", "epochs", "epochs to 90 %", "seconds to 90 %", "best epoch", "best val. loss", "parameters",
               "multiply-adds", "images/s"]  # fmt: skip
    rows = []
    for result in results:
        if training := result.training:
            rows.append([result.name, training["epochs"], number(training["epochs_to_90"], 0),
                         number(training["seconds_to_90"], 0), training["best_epoch"],
                         number(training["best_val_loss"], 4), number(training["parameters"], 0),
                         f"{training['multiply_adds'] / 1e6:,.0f} M",
                         number(training["images_per_second"], 0)])  # fmt: skip
    return Table("Convergence (on validation, accuracy at 0.5)", headers, rows, [])


def shortcut_audit(results: list[Result]) -> Table:
    headers = ["model", "change", "strength", "AUROC", "accuracy", "sensitivity", "specificity"]
    rows = [
        [result.name, found["change"], found["strength"], number(found["auroc"], 4),
         *(number(found[key]) for key in DECISIONS)]
        for result in results for found in result.shortcut_audit or ()
    ]  # fmt: skip
    notes = ["Test images, changed; decisions at the threshold from validation. A model that ranks well on borders "
             "alone, or no better than what is known without a pixel, has learnt a shortcut.",
             *by_hand(results)]  # fmt: skip
    return Table("Shortcut audit", headers, rows, notes)


def notebooks(results: list[Result]) -> Table:
    """The published results beside these: no rows but where all three networks are here, on the same data as those."""
    headers = ["source", "model", "n", "accuracy", "loss", "TN", "FP", "FN", "TP"]
    mine = [result for result in results
            if result.kind == "checkpoint" and result.data["name"].startswith(sources.KERMANY)]  # fmt: skip
    rows = []
    if {result.architecture for result in mine} >= set(terms.ARCHITECTURES):
        rows = [[*row[:3], number(row[3]), number(row[4], 4), *row[5:]] for row in NOTEBOOKS]
        for result in mine:
            at = result.points["0.5"]
            rows.append(["this run, at 0.5", result.name, result.images, number(at["estimates"]["accuracy"]["value"]),
                         number(result.estimates["log_loss"]["value"], 4),
                         at["tn"], at["fp"], at["fn"], at["tp"]])  # fmt: skip
    return Table("The notebooks that this project succeeds, beside this run", headers, rows, [NOTEBOOKS_CAVEAT])


def tables(results: list[Result], comparisons: list[dict], groups: list[dict]) -> list[Table]:
    """Every table with at least one row, those that matter most first; the titles are marked."""
    asked = questions(comparisons)
    made = [
        summary(results),
        decisions(results),
        more_decisions(results),
        ranking(results),
        promises(results),
        referrals(results),
        stressed(results),
        prevalences(results),
        corrected(results),
        subgroups(results),
        seeds(groups),
        asked,
        convergence(results),
        shortcut_audit(results),
        notebooks(results),
    ]
    mark = marks.before(results)
    return [table if table is asked else table._replace(title=mark + table.title) for table in made if table.rows]
