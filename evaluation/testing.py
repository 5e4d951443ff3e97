"""Which model meets which test images, and all that is then said of it."""

import argparse
import csv
import itertools
import statistics
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

import data
import models
from basics import disk, terms
from basics.problems import Problem, UsageProblem
from data import Dataset, Split
from devices import hardware
from evaluation import comparisons, held_out, ledger, referral, report, shortcuts, summary, tables, tested_model
from evaluation.result import Result, shown
from evaluation.tested_model import Model
from films import seen
from metrics import estimation, measures, prevalence
from training import averaging, checkpoints

WORST = 4  # misses, and as many false alarms, that a report shows as pictures
OWN = "the graph's own"  # operating point of a graph whose threshold was changed after its export
NEAR = 0.1  # of a probability to the threshold


def evaluate(
    model: Model,
    dataset: Dataset,
    split: Split,
    device: torch.device,
    prevalence: float | None = None,
    by: str | None = None,
    audit: bool = False,
    left_out: str = "",
    logits: np.ndarray | None = None,
) -> Result:
    """All there is to say of a model on the test side of a split: what feeds every table and file.

    prevalence: a share, for which PPV and NPV are asked; by: a manifest's column, for subgroups; audit: shortcuts too;
    left_out: what was said of films that are not tested on; logits: its answers to these, where they are known.
    """
    facts = model.facts
    logits = logits_of(model, dataset, split.test, device) if logits is None else logits
    probabilities = measures.positive_probability(logits, facts["temperature"])
    points = facts.get("operating_points") or {
        "0.5": {"threshold": 0.5},
        "validation": {"threshold": facts["threshold"]},
    }
    if model.session and facts["threshold"] != points["validation"]["threshold"]:
        points = {**points, OWN: {"threshold": facts["threshold"]}}
    facts = {**facts, "kind": "checkpoint" if model.network else "graph", "file": str(model.path),
             "sha256": disk.sha256_of_file(model.path), "shown_name": model.name, "left_out": left_out}  # fmt: skip
    result = described(facts, dataset, split, probabilities, points, prevalence, by)
    if not audit:
        return result
    return replace(
        result, shortcut_audit=shortcut_audit(model, dataset, split, points[result.decides]["threshold"], device)
    )


def logits_of(
    model: Model, dataset: Dataset, indices: np.ndarray, device: torch.device, reduced: bool = False
) -> np.ndarray:
    """(N, 2) logits. Raises Problem where an answer is not finite."""
    logits = tested_model.logits(model, dataset, indices, device, reduced)
    if not np.isfinite(logits).all():
        bad = int(np.sum(~np.isfinite(logits).all(1)))
        raise Problem(f"{model.path}: its answers are not finite for {bad:,} of {len(indices):,} test images")
    return logits


def described(
    facts: dict,
    dataset: Dataset,
    split: Split,
    probabilities: np.ndarray,
    points: dict,
    prevalence: float | None,
    by: str | None,
) -> Result:
    """The result of a model, or of an ensemble, from its probabilities of the test images."""
    test = split.test
    labels, patients = dataset.labels[test], [dataset.patients[i] for i in test]
    sample = estimation.Sample(labels, patients)
    estimates, found = estimation.describe(sample, probabilities, points, prevalence)
    told = OWN if OWN in points or "operating_points" in facts else "validation"  # the point whose rule is in the facts
    rule = facts["threshold_rule"] if facts["kind"] == "graph" and "threshold_rule" in facts else None
    at: dict[str, dict] = {name: {**values, "rule": rule if name == told else None} for name, values in found.items()}
    decides = OWN if OWN in at else "validation"
    threshold = at[decides]["threshold"]
    decisions = measures.decide(probabilities, threshold)
    promise = referral.promised(facts)
    notes = list(split.notes)
    if facts["kind"] == "checkpoint" and (when := checkpoints.stopped(facts)):
        notes.append(
            f"WARNING: the training of {facts['shown_name']} was stopped {when}: the same train.py command with "
            f"--resume finishes it; its options are in {Path(facts['file']).with_name('run.json')}"
        )
    kept = ("state", "training", "history", *seen.SHAPES, "validation_answers", "limits")
    return Result(
        name=facts["shown_name"],
        kind=facts["kind"],
        file=facts["file"],
        sha256=facts["sha256"],
        architecture=facts["architecture"],
        seed=facts.get("seed"),
        initial_weights=facts["initial_weights"],
        quick=facts["quick"],
        data={"name": dataset.name, "fingerprint": dataset.fingerprint, "synthetic": dataset.synthetic},
        trained_on_synthetic=facts["data"]["synthetic"],
        recorded="seen_images" in facts,
        left_out=facts["left_out"],
        split={"how": split.how, "seed": split.seed, "fingerprint": split.fingerprint},
        temperature=facts["temperature"],
        images=len(test),
        patients=len(set(patients)),
        positives=int(labels.sum()),
        estimates=estimates,
        decides=decides,
        points=at,
        subgroups=subgroups(dataset, test, probabilities, decisions, threshold, by),
        corrected=corrected(sample, probabilities, facts.get("validation_answers")),
        aurc=estimation.aurc(sample, probabilities, threshold),
        referral=promise and referral.delivered(labels, probabilities, patients, promise),
        shortcut_audit=None,
        notes=notes,
        stress=facts.get("stress") or None,  # checkpoints of earlier versions, and of other --val, have none
        training=training_facts(facts) if facts["kind"] == "checkpoint" else None,
        checkpoint_sha256=facts.get("checkpoint_sha256"),
        files=[dataset.files[i] for i in test],
        labels=labels,
        probabilities=probabilities,
        patient_ids=patients,
        history=facts.get("history"),
        worst=worst_errors(dataset, test, probabilities, decisions),
        checkpoint={key: value for key, value in facts.items() if key not in kept},
    )


def corrected(sample: estimation.Sample, probabilities: np.ndarray, validated: dict | None) -> dict | None:
    """What correcting for the test images' own prevalence would change; None for a model that does not say its own.

    Answers that cannot tell have None for the estimate, and no others: {"estimated": None, "estimates": {}, ...}.
    This looks at all test images at once, without their labels: a row of its own, from which nothing else is made.
    """
    if validated is None:
        return None
    before = float(validated["labels"].double().mean())
    if not 0 < before < 1:
        return None
    found, estimates = None, {}
    if prevalence.told(probabilities, before):
        found = prevalence.estimated(probabilities, before)
        estimates = estimation.at_threshold(sample, prevalence.corrected(probabilities, before, found), 0.5)
    return {"validation": before, "estimated": found, "counted": float(sample.labels.mean()), "estimates": estimates}


def worst_errors(dataset: Dataset, test: np.ndarray, probabilities: np.ndarray, decisions: np.ndarray) -> list[dict]:
    """The misses that surprise most, then the false alarms that do."""
    labels, found = dataset.labels[test], []
    for label, surprise in ((1, 1 - probabilities), (0, probabilities)):
        wrong = np.flatnonzero((labels == label) & (decisions != labels))
        found += wrong[np.argsort(-surprise[wrong], kind="stable")][:WORST].tolist()
    return [
        {"file": dataset.files[test[i]], "label": int(labels[i]), "probability": float(probabilities[i]),
         "pixels": np.array(dataset.images[test[i]])}
        for i in found
    ]  # fmt: skip


def subgroups(
    dataset: Dataset,
    test: np.ndarray,
    probabilities: np.ndarray,
    decisions: np.ndarray,
    threshold: float,
    by: str | None,
) -> list[dict]:
    """Sensitivity and specificity where the data says what the images are, at the threshold by which it decides."""
    labels, patients = dataset.labels[test], [dataset.patients[i] for i in test]
    kinds = np.array([dataset.etiologies[i] for i in test])
    asked = [(f"{name} pneumonia", "sensitivity", kinds == key)
             for key, name in (("bacteria", "bacterial"), ("virus", "viral")) if (kinds == key).any()]  # fmt: skip
    areas = (dataset.widths * dataset.heights)[test]
    bounds = np.quantile(areas, (1 / 3, 2 / 3), method="lower")
    if areas.min() < bounds[0] < bounds[1] < areas.max():
        sizes = (("smallest third of the films", areas <= bounds[0]),
                 ("middle third", (areas > bounds[0]) & (areas <= bounds[1])),
                 ("largest third", areas > bounds[1]))  # fmt: skip
        asked += [(name, measure, which) for name, which in sizes for measure in ("sensitivity", "specificity")]
    near = np.abs(probabilities - threshold) <= NEAR
    asked += [(f"probability within {NEAR} of the threshold", "accuracy", near), ("farther from it", "accuracy", ~near)]
    if by is not None:
        values = column_of(dataset, by)[test]
        asked += [(f"{by} = {value}", measure, values == value) for value in sorted(set(values.tolist()))
                  for measure in ("sensitivity", "specificity")]  # fmt: skip
    return [estimation.subgroup(name, measure, which, labels, decisions, patients) for name, measure, which in asked]


def column_of(dataset: Dataset, column: str) -> np.ndarray:
    """(N,) text of a manifest's column. Raises Problem where the source is no manifest, or has no such column.

    Names of columns and of files are read as films/sources.py reads them.
    """
    if not dataset.source.lower().endswith(".csv"):
        raise Problem(f"--by {column}: {dataset.source} is no .csv manifest, so it has no columns")
    with open(dataset.source, newline="", encoding="utf-8-sig") as stream:
        rows = [{name.strip().lower(): (value or "").strip() for name, value in row.items() if name}
                for row in csv.DictReader(stream, restval="")]  # fmt: skip
    key = column.strip().lower()
    if key not in rows[0]:
        raise Problem(f"--by {column}: {dataset.source} has the columns {', '.join(rows[0])}")
    values = {row["path"].replace("\\", "/"): row[key] for row in rows}
    return np.array([values[file] for file in dataset.files])


def training_facts(facts: dict) -> dict:
    """What the table of convergence needs: how fast the model got where, and how large it is."""
    history, best = facts["history"], facts["history"][facts["epoch"] - 1]
    reached = next((i for i, row in enumerate(history) if row["val_accuracy"] >= 0.9), None)
    network = models.build(facts["architecture"], facts["size"])
    return {
        "epochs": len(history),
        "epochs_to_90": None if reached is None else reached + 1,
        "seconds_to_90": None if reached is None else sum(row["seconds"] for row in history[: reached + 1]),
        "best_epoch": facts["epoch"],
        "best_val_loss": min(row["val_loss"] for row in history),
        "val_auroc": best["val_auroc"],
        "parameters": models.parameter_count(network),
        "multiply_adds": models.multiply_adds(network, facts["size"]),
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "minutes": sum(row["seconds"] for row in history) / 60,
        "device": facts["device"],
        "seed": facts["seed"],
    }


def shortcut_audit(model: Model, dataset: Dataset, split: Split, threshold: float, device: torch.device) -> list[dict]:
    """The shortcut audit: AUROC and decisions on changed test images, and without seeing any."""
    labels, found = dataset.labels[split.test], []

    def add(change: str, strength: str, scores: np.ndarray, decided: dict | None) -> None:
        row = {"change": change, "strength": strength, "auroc": measures.auroc(labels, scores)}
        for measure in tables.DECISIONS:
            row[measure] = None if decided is None else decided[measure]
        found.append(row)

    for change, strength, work in shortcuts.CHANGES:
        images = shortcuts.changed_table(dataset.images[split.test], work)
        changed = replace(dataset, images=images, labels=labels)
        logits = logits_of(model, changed, np.arange(len(labels)), device, reduced=True)
        probabilities = measures.positive_probability(logits, model.facts["temperature"])
        add(change, strength, probabilities, measures.classification(labels, probabilities, threshold))
        print(f"{model.name}: {change} {strength}, AUROC {found[-1]['auroc']:.4f}", file=sys.stderr)
    outside = shortcuts.outside_scores(dataset, split.train, split.test)
    if outside is not None:
        add("no pixels at all", f"a logistic regression on {outside[1]}, fitted on training", outside[0], None)
    return found


def ensembles(
    opened: dict[Path, tuple[Model, Dataset, Split, np.ndarray]],
    results: list[Result],
    prevalence: float | None = None,
    by: str | None = None,
) -> list[Result]:
    """A result for each group of seeds: the mean of their probabilities, by a temperature and thresholds of its own.

    It answers as the graph does that `export.py --ensemble` makes of the same checkpoints.
    """
    made = []
    for name, members in comparisons.ensembles(results):
        known = [opened[Path(member.file)] for member in members]
        of_members = [model.facts for model, *_ in known]
        if averaging.unlike(of_members):
            continue  # older runs did not keep their answers, or they validated on other images
        hashes = [member.sha256 for member in members]
        facts: dict = averaging.combined(of_members, hashes)
        facts = {**facts, "kind": "ensemble", "shown_name": name, "left_out": members[0].left_out,
                 "file": ", ".join(member.file for member in members), "sha256": averaging.digest(hashes)}  # fmt: skip
        logits = averaging.log_mean([given for *_, given in known], [one["temperature"] for one in of_members])
        probabilities = measures.positive_probability(logits, facts["temperature"])
        dataset, split = known[0][1], replace(known[0][2], notes=())
        made.append(described(facts, dataset, split, probabilities, facts["operating_points"], prevalence, by))
    return made


def cross_check(results: list[Result]) -> list[str]:
    """Says where rows cannot be compared, and where a graph is older or newer than the checkpoint beside it."""
    notes = []
    tested: dict[tuple, list[str]] = {}
    for result in results:
        key = (result.split["fingerprint"], result.data["fingerprint"], result.data["name"])
        tested.setdefault(key, []).append(result.name)
    if len(tested) > 1:
        listing = "; ".join(f'split {split} of "{name}": {", ".join(names)}'
                            for (split, _, name), names in tested.items())  # fmt: skip
        notes.append(f"WARNING: these models were not tested on the same images, do not compare their rows ({listing})")
    checkpoints = {result.name: result.sha256 for result in results if result.kind == "checkpoint"}
    for result in results:
        made_from = checkpoints.get(result.checkpoint["name"])
        if result.kind == "graph" and made_from not in (None, result.checkpoint_sha256):
            notes.append(f"WARNING: {result.file} was exported from another checkpoint than the one listed here")
    return notes


def write_files(folder: Path, results: list[Result], asked: list[dict], groups: list[dict], notes: list[str],
                made: list[tables.Table]) -> None:  # fmt: skip
    """results.json, results.csv, predictions.csv, and report.py's documents; each is whole or not there."""
    versions = {"project": disk.VERSION, "torch": str(torch.__version__), "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}  # fmt: skip
    seeds = [{**group, "estimates": {", ".join(filter(None, key)): value for key, value in group["estimates"].items()}}
             for group in groups]  # fmt: skip
    models = [result.for_json() for result in results]
    disk.write_json(
        folder / "results.json",
        {"models": models, "comparisons": asked, "seeds": seeds, "notes": notes, "versions": versions},
    )
    disk.write_text(folder / "results.csv", disk.csv_text([row for r in results for row in csv_rows(r)]))
    disk.write_text(folder / "predictions.csv", disk.csv_text([row for r in results for row in predictions(r)]))
    report.write(folder, results, asked, made, notes, versions)


def csv_rows(result: Result) -> list[dict]:
    """A row for each operating point: counts, and each estimate in three columns."""
    rows = []
    for point, at in result.points.items():
        row = {"model": result.name, "point": point, "synthetic": result.data["synthetic"],
               "recorded": result.recorded,
               "split": result.split["fingerprint"], "images": result.images, "patients": result.patients,
               "threshold": at["threshold"], **{key: at[key] for key in ("tn", "fp", "fn", "tp")}}  # fmt: skip
        for name, found in itertools.chain(at["estimates"].items(), result.estimates.items(), [("aurc", result.aurc)]):
            row |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
        rows.append(row | referral.columns(result.referral))
    return rows


def predictions(result: Result) -> list[dict]:
    """One row per test image: what the model said of it, and what it decided."""
    decided = [measures.decide(result.probabilities, result.points[point]["threshold"])
               for point in (result.decides, *comparisons.POINTS)]  # fmt: skip
    columns = (result.files, result.patient_ids, result.labels, result.probabilities, *decided)
    return [
        {
            "model": result.name,
            "file": file,
            "patient": patient,
            "class": data.CLASSES[label],
            "probability": f"{probability:.9g}",
            "decision": data.CLASSES[own],
            "decision_at_0.5": data.CLASSES[at_half],
            "decision_at_validation_threshold": data.CLASSES[at_validation],
            "synthetic": result.data["synthetic"],
            "recorded": result.recorded,
        }
        for file, patient, label, probability, own, at_half, at_validation in zip(*columns, strict=True)
    ]


def evaluate_all(paths: list[Path], args: argparse.Namespace) -> tuple[list[Result], list[str], int]:
    """The results of all models that can be evaluated, how often their test images were read, and failures (said)."""
    opened, results, loaded, known, looks, failures, said = [], [], {}, {}, {}, 0, set()
    run = uuid.uuid4().hex
    device = hardware.pick_device(args.device)  # a wrong one is said before the data is read
    for path in dict.fromkeys(paths):
        try:
            opened.append(tested_model.open_model(path))
        except Problem as problem:
            failures += 1
            print(f"error: {problem}", file=sys.stderr)
    opened = [tested_model.with_record(model, opened) for model in opened]
    for model in opened:
        try:
            key = (tested_model.source_of(model, opened, args.data), model.facts["size"], model.facts["fit"],
                   tested_model.classes_of(model, opened, args))  # fmt: skip
            if key not in loaded:
                loaded[key] = films_of(model, *key, args)
            split, left_out = held_out.test_side(model, loaded[key])
            if left_out:
                print(f"{model.name}: {left_out}", file=sys.stderr)
            if args.by is not None:
                column_of(loaded[key], args.by)  # a wrong one is said before a label is read
            sha256 = disk.sha256_of_file(model.path)
            films = data.contents(loaded[key], {"test": split.test})
            look = ledger.note(args.runs, run, model.name, sha256, loaded[key].name, films, "evaluate.py")
            looks[films] = f"{ledger.in_words(look)} (films {films}), of this --runs folder: {args.runs / ledger.NAME}"
            logits = logits_of(model, loaded[key], split.test, device)
            results.append(evaluate(model, loaded[key], split, device, args.prevalence, args.by, args.audit, left_out,
                                    logits))  # fmt: skip
            known[model.path] = (model, loaded[key], split, logits)
            print(f"{model.name}: {len(split.test):,} test images", file=sys.stderr)
        except Problem as problem:
            if isinstance(problem, UsageProblem) and args.data is not None:  # the same for every model
                raise
            failures += 1
            if str(problem) not in said:  # what is wrong with the films may be the same for every model
                print(f"error: {problem}", file=sys.stderr)
            said.add(str(problem))
    return results + ensembles(known, results, args.prevalence, args.by), list(looks.values()), failures


def films_of(
    model: Model, source: str | None, size: int, fit: str, classes: tuple | None, args: argparse.Namespace
) -> Dataset:
    """The films that test a model. Raises Problem where they cannot be read, or where nothing says which they are."""
    try:
        return data.load(source, size, args.cache, fit, args.skip_bad, classes)
    except UsageProblem as problem:
        if source is not None:
            raise
        raise Problem(f"{model.path}: a graph does not say where its films are: --data names them, or the model.pt "
                      "that it was made from does") from problem  # fmt: skip


def found_models(args: argparse.Namespace) -> list[Path]:
    """Checkpoints, then graphs; each in the order of the architectures. Raises Problem when there are none."""
    order = {name: i for i, name in enumerate(terms.ARCHITECTURES)}
    found = [*args.runs.glob("[!.]*/model.pt"), *args.onnx.glob("[!.]*.onnx")]  # no leftovers of what was killed
    stem = {path: path.parent.name if path.suffix == ".pt" else path.stem for path in found}
    paths = sorted(found, key=lambda p: (p.suffix == ".onnx", order.get(stem[p], len(order)), stem[p]))
    if not paths:
        raise Problem(f"no {args.runs}/*/model.pt and no {args.onnx}/*.onnx: python train.py --arch simple makes "
                      "the first")  # fmt: skip
    return paths


def work(args: argparse.Namespace) -> int:
    hardware.keep_freed_memory()
    hardware.set_precision()
    results, looks, failures = evaluate_all(found_models(args) if args.all else args.models, args)
    if not results:
        return 1
    asked, unanswered = comparisons.answer(results)
    of_models = [note for result in results for note in result.notes]
    notes = list(dict.fromkeys(
        [*summary.left_out(results), *looks, *cross_check(results), *of_models, *unanswered]))  # fmt: skip
    groups = comparisons.seed_groups(results)
    made = tables.tables(shown(results), asked, groups)
    write_files(args.report, results, asked, groups, notes, made)  # before it is printed: `| head` ends the printing
    wanted = [title for title, given in (("At another prevalence", args.prevalence), ("Subgroups", args.by),
                                         ("Shortcut audit", args.audit)) if given]  # fmt: skip
    summary.print_results(results, asked, unanswered, made, notes, args.format, args.verbose, wanted)
    summary.print_last(args.report / "report.html", len(made), args.verbose)
    return 1 if failures else 0
