"""Compares trained models and exported graphs on the test images: `python evaluate.py --all`.

Prints tables and writes report/: results.csv, results.json, predictions.csv and figures. Nothing is fitted here: the
epoch, the temperature and the threshold of each model were chosen on validation images when it was trained.
"""

import argparse
import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from tabulate import tabulate, tabulate_formats

import common
import data
import figures
import infer
import metrics
import models
from batches import Batches, table_on
from common import Problem
from data import Dataset, Split

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
POINTS = ("0.5", "validation")  # the thresholds that decisions are reported at
QUESTIONS = (
    ("Does depth help?", "simple", "resnet34"),
    ("Does pretraining help?", "resnet34", "resnet34-pretrained"),
)


@dataclass(frozen=True)
class Model:
    """A checkpoint or a graph, opened: what it says of itself, and its answers on request."""

    path: Path
    facts: dict  # the checkpoint's keys, or the same ones from the graph's metadata
    network: torch.nn.Module | None  # of a checkpoint
    session: onnxruntime.InferenceSession | None  # of a graph

    @property
    def name(self) -> str:
        return self.facts["name"] if self.network else f"{self.facts['name']}.onnx"


def open_model(path: Path) -> Model:
    """Opens runs/<name>/model.pt or <name>.onnx. Raises Problem when it is neither, or damaged."""
    if path.suffix != ".onnx":
        checkpoint, network = models.load_checkpoint(path)
        return Model(path, checkpoint, network, None)
    session = infer.open_graph(path)
    facts = session.get_modelmeta().custom_metadata_map
    texts = ("name", "architecture", "fit", "threshold_rule", "initial_weights", "checkpoint_sha256", "intended_use")
    try:
        facts = {key: value if key in texts else json.loads(value) for key, value in facts.items()}
        missing = {"name", "architecture", "size", "fit", "temperature", "threshold", "data", "split"} - set(facts)
    except json.JSONDecodeError as error:
        raise Problem(f"{path}: its metadata was not written by export.py ({error})") from error
    if missing:
        raise Problem(f"{path}: not a graph that export.py made: no {', '.join(sorted(missing))} in its metadata")
    return Model(path, facts, None, session)


# ------------------------------------------------------------------------------------- one model, one result


def evaluate(model: Model, dataset: Dataset, split: Split, device: torch.device) -> dict:
    """All there is to say of a model on the test side of a split, as one dict that feeds every table and file.

    Raises Problem when it was trained on some of these images or patients.
    """
    facts, test = model.facts, split.test
    notes = check_provenance(model, dataset, split)
    if model.network:
        table = table_on(dataset.images, device)
        network = model.network.to(device, memory_format=torch.channels_last)
        batches = Batches(table, dataset.labels, test, 128, device, tuple(facts["normalisation"]))
        logits = infer.network_logits(network, batches)
    else:
        logits = infer.graph_outputs(model.session, dataset.images[test], 64)["logits"]
    labels = dataset.labels[test]
    probabilities = metrics.positive_probability(logits, facts["temperature"])
    points = {}
    for point, threshold in zip(POINTS, (0.5, facts["threshold"]), strict=True):
        found = metrics.classification(labels, probabilities, threshold)
        found["accuracy_low"], found["accuracy_high"] = metrics.wilson(found["tp"] + found["tn"], found["n"])
        points[point] = found
    result = {
        "name": model.name,
        "kind": "checkpoint" if model.network else "graph",
        "file": str(model.path),
        "sha256": common.sha256_of_file(model.path),
        "architecture": facts["architecture"],
        "initial_weights": facts["initial_weights"],
        "quick": facts["quick"],
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "synthetic": dataset.synthetic},
        "trained_on_synthetic": facts["data"]["synthetic"],
        "split": {"how": split.how, "seed": split.seed, "fingerprint": split.fingerprint},
        "temperature": facts["temperature"],
        "patients": len({dataset.patients[i] for i in test}),
        "loss": metrics.log_loss(logits, labels, facts["temperature"]),
        "points": points,
        "notes": notes,
        "training": training_facts(facts) if model.network else None,
        # Arrays: for the figures and predictions.csv, not for results.json.
        "files": [dataset.files[i] for i in test],
        "labels": labels,
        "probabilities": probabilities,
        "history": facts.get("history"),
        "checkpoint_sha256": facts.get("checkpoint_sha256"),
    }
    return result


def check_provenance(model: Model, dataset: Dataset, split: Split) -> list[str]:
    """Notes on how these test images relate to what the model was trained on. Raises Problem if it saw any."""
    facts, notes = model.facts, []
    same = split.fingerprint == facts["split"]["fingerprint"]
    if "seen_images" in facts:
        for what, keys, seen in (("images", dataset.pixel_hashes, "seen_images"),
                                 ("patients", dataset.patients, "seen_patients")):  # fmt: skip
            shared = np.intersect1d(data.hashed([keys[i] for i in split.test]), facts[seen]).size
            if shared and not (same and split.how == "image"):
                raise Problem(f"{model.path}: {shared:,} of the test {what} were seen in its training: no honest test")
    elif not same:
        notes.append(f"{model.name}: a graph does not carry what it was trained on; whether it saw these is unknown")
    if not same:
        notes.append(
            f'{model.name} was trained on the split {facts["split"]["fingerprint"]} of "{facts["data"]["name"]}", '
            f'and is tested on the split {split.fingerprint} of "{dataset.name}"'
        )
    notes += [f"{model.name}: {note}" for note in split.notes if note.startswith("WARNING")]
    if facts["quick"]:
        notes.append(f"{model.name} is from a smoke run (--quick): its numbers mean nothing")
    if facts["initial_weights"] != "random":
        notes.append(f"{model.name} started from {facts['initial_weights']}")
    return notes


def training_facts(facts: dict) -> dict:
    """What the second table needs: how fast the model got where, and how large it is."""
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


def compare(question: str, a: dict, b: dict, point: str) -> dict:
    """Differences b - a at one operating point, with McNemar's exact p; both on the same images."""
    x, y = a["points"][point], b["points"][point]
    right = [
        metrics.decide(model["probabilities"], model["points"][point]["threshold"]) == model["labels"]
        for model in (a, b)
    ]
    only_a, only_b, p = metrics.mcnemar_exact(*right)
    return {
        "question": question,
        "from": a["name"],
        "to": b["name"],
        "threshold": point,
        "accuracy": y["accuracy"] - x["accuracy"],
        "auroc": y["auroc"] - x["auroc"],
        "fn": y["fn"] - x["fn"],
        "fp": y["fp"] - x["fp"],
        "only_from_right": only_a,
        "only_to_right": only_b,
        "p": p,
    }


def answer(results: list[dict]) -> tuple[list[dict], list[str]]:
    """The two questions, for each pair of checkpoints tested on the same images; and what could not be asked."""
    comparisons, notes = [], []
    for question, first, second in QUESTIONS:
        pairs = [(a, b) for a in results for b in results
                 if (a["kind"], b["kind"], a["architecture"], b["architecture"]) ==
                 ("checkpoint", "checkpoint", first, second)]  # fmt: skip
        honest = [(a, b) for a, b in pairs if a["split"] == b["split"] and a["files"] == b["files"]]
        if not pairs:
            notes.append(f"{question} cannot be answered: it takes a run of {first} and one of {second}")
        elif not honest:
            notes.append(f"{question} cannot be answered: {first} and {second} were tested on different images")
        comparisons += [compare(question, a, b, point) for a, b in honest for point in POINTS]
    return comparisons, notes


def cross_check(results: list[dict]) -> list[str]:
    """Says where rows cannot be compared, and where a graph is older or newer than the checkpoint beside it."""
    notes = []
    tested: dict[str, list[str]] = {}
    for result in results:
        key = f'{result["split"]["fingerprint"]} of "{result["data"]["name"]}"'
        tested.setdefault(key, []).append(result["name"])
    if len(tested) > 1:
        listing = "; ".join(f"split {key}: {', '.join(names)}" for key, names in tested.items())
        notes.append(f"WARNING: these models were not tested on the same images, do not compare their rows ({listing})")
    checkpoints = {result["name"]: result["sha256"] for result in results if result["kind"] == "checkpoint"}
    for result in results:
        made_from = checkpoints.get(re.sub(r"(-fp16|-int8)?\.onnx$", "", result["name"]))
        if result["kind"] == "graph" and made_from not in (None, result["checkpoint_sha256"]):
            notes.append(f"WARNING: {result['file']} was exported from another checkpoint than the one listed here")
    return notes


# ----------------------------------------------------------------------------------------------------- tables


def number(value: float | None, digits: int = 3) -> str:
    """A dash for what is undefined (0/0) or does not apply."""
    return "-" if value is None or value != value else f"{value:,.{digits}f}"


def summary_table(results: list[dict]) -> tuple[list[str], list[list]]:
    headers = ["model", "accuracy", "sensitivity", "specificity", "AUROC", "FN", "FP", "n", "epochs", "minutes",
               "device", "seed"]  # fmt: skip
    rows = []
    for result in results:
        if result["kind"] == "checkpoint":
            at, training = result["points"]["validation"], result["training"]
            rows.append([result["name"], *(number(at[key]) for key in ("accuracy", "sensitivity", "specificity")),
                         number(at["auroc"], 4), at["fn"], at["fp"], at["n"], training["epochs"],
                         number(training["minutes"], 1), training["device"], training["seed"]])  # fmt: skip
    return headers, rows


def test_table(results: list[dict]) -> tuple[list[str], list[list]]:
    headers = ["model", "threshold", "n", "accuracy", "95 % CI", "sensitivity", "specificity", "precision", "F1",
               "AUROC", "loss", "TN", "FP", "FN", "TP"]  # fmt: skip
    rows = []
    for result in results:
        for at in result["points"].values():
            rows.append([result["name"], number(at["threshold"], 4), at["n"], number(at["accuracy"]),
                         f"{number(at['accuracy_low'])}-{number(at['accuracy_high'])}",
                         *(number(at[key]) for key in ("sensitivity", "specificity", "precision", "f1")),
                         number(at["auroc"], 4), number(result["loss"], 4),
                         at["tn"], at["fp"], at["fn"], at["tp"]])  # fmt: skip
    return headers, rows


def convergence_table(results: list[dict]) -> tuple[list[str], list[list]]:
    headers = ["model", "epochs", "epochs to 90 %", "seconds to 90 %", "best epoch", "best val. loss", "parameters",
               "multiply-adds", "images/s"]  # fmt: skip
    rows = []
    for result in results:
        if training := result["training"]:
            rows.append(
                [
                    result["name"],
                    training["epochs"],
                    number(training["epochs_to_90"], 0),
                    number(training["seconds_to_90"], 0),
                    training["best_epoch"],
                    number(training["best_val_loss"], 4),
                    f"{training['parameters']:,}",
                    f"{training['multiply_adds'] / 1e6:,.0f} M",
                    number(training["images_per_second"], 0),
                ]
            )
    return headers, rows


def question_table(comparisons: list[dict]) -> tuple[list[str], list[list]]:
    headers = ["question", "comparison", "threshold", "accuracy (points)", "AUROC", "FN", "FP", "only first right",
               "only second right", "McNemar p"]  # fmt: skip
    return headers, [
        [c["question"], f"{c['from']} to {c['to']}", c["threshold"], f"{100 * c['accuracy']:+.2f}",
         f"{c['auroc']:+.4f}", f"{c['fn']:+d}", f"{c['fp']:+d}", c["only_from_right"], c["only_to_right"],
         "< 0.0001" if c["p"] < 1e-4 else f"{c['p']:.4f}"]
        for c in comparisons
    ]  # fmt: skip


def notebook_table(results: list[dict]) -> tuple[list[str], list[list]]:
    headers = ["source", "model", "n", "accuracy", "loss", "TN", "FP", "FN", "TP"]
    rows = [[*row[:3], number(row[3]), number(row[4], 4), *row[5:]] for row in NOTEBOOKS]
    for result in results:
        if result["kind"] == "checkpoint":
            at = result["points"]["0.5"]
            rows.append(["this run, at 0.5" + (", SYNTHETIC" if result["data"]["synthetic"] else ""), result["name"],
                         at["n"], number(at["accuracy"]), number(result["loss"], 4),
                         at["tn"], at["fp"], at["fn"], at["tp"]])  # fmt: skip
    return headers, rows


def tables(results: list[dict], comparisons: list[dict]) -> list[tuple[str, list[str], list[list]]]:
    """(title, headers, rows) of every table with at least one row."""
    some = [
        ("Summary (test images, threshold from validation)", *summary_table(results)),
        ("Test results", *test_table(results)),
        ("Convergence (on validation, accuracy at 0.5)", *convergence_table(results)),
        ("The two questions (second minus first, test images)", *question_table(comparisons)),
        ("The notebooks that this project succeeds, beside this run", *notebook_table(results)),
    ]
    mark = "SYNTHETIC: " if any(result["data"]["synthetic"] for result in results) else ""
    return [(mark + title, headers, rows) for title, headers, rows in some if rows]


# ----------------------------------------------------------------------------------------------------- report

ARRAYS = ("files", "labels", "probabilities", "history")


def write_report(folder: Path, results: list[dict], comparisons: list[dict], notes: list[str]) -> None:
    """results.json, results.csv, predictions.csv and the figures; each is whole or not there."""
    plain = [{key: value for key, value in result.items() if key not in ARRAYS} for result in results]
    versions = {"project": common.VERSION, "torch": str(torch.__version__), "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}  # fmt: skip
    common.write_json(
        folder / "results.json",
        {"models": plain, "comparisons": comparisons, "notes": notes, "versions": versions},
    )
    rows = [
        {"model": r["name"], "point": point, "synthetic": r["data"]["synthetic"], "split": r["split"]["fingerprint"],
         "patients": r["patients"], "loss": r["loss"], **found}
        for r in results for point, found in r["points"].items()
    ]  # fmt: skip
    common.write_text(folder / "results.csv", common.csv_text(rows))
    common.write_text(
        folder / "predictions.csv", common.csv_text([row for result in results for row in predictions(result)])
    )
    for name, figure in figures.draw(results).items():
        common.write_bytes(folder / name, figure)


def predictions(result: dict) -> list[dict]:
    """One row per test image: what the model said of it."""
    decided = [metrics.decide(result["probabilities"], result["points"][point]["threshold"]) for point in POINTS]
    columns = (result["files"], result["labels"], result["probabilities"], *decided)
    return [
        {
            "model": result["name"],
            "file": file,
            "class": data.CLASSES[label],
            "probability": f"{probability:.9g}",
            "decision_at_0.5": data.CLASSES[at_half],
            "decision_at_validation_threshold": data.CLASSES[at_validation],
            "synthetic": result["data"]["synthetic"],
        }
        for file, label, probability, at_half, at_validation in zip(*columns, strict=True)
    ]


# ----------------------------------------------------------------------------------------------- command line


def source_of(model: Model, opened: list[Model], asked: str | None) -> str | None:
    """Where a model's images are: --data, else the folder its checkpoint was trained on.

    A graph carries no path of the machine it was trained on; a checkpoint of the same data lends it its own.
    """
    if asked is not None:
        return asked
    if "source" in model.facts["data"]:
        return model.facts["data"]["source"]
    if model.facts["data"]["synthetic"]:
        return "phantoms"
    mates = [m.facts["data"] for m in opened if "source" in m.facts["data"]]
    return next((m["source"] for m in mates if m["fingerprint"] == model.facts["data"]["fingerprint"]), None)


def evaluate_all(paths: list[Path], args: argparse.Namespace) -> tuple[list[dict], int]:
    """The results of all models that can be evaluated, and the number of those that cannot, each with its reason."""
    device = infer.pick_device(args.device)
    opened, results, loaded, failures = [], [], {}, 0
    for path in paths:
        try:
            opened.append(open_model(path))
        except Problem as problem:
            failures += 1
            print(f"error: {problem}", file=sys.stderr)
    for model in opened:
        try:
            key = (source_of(model, opened, args.data), model.facts["size"], model.facts["fit"])
            if key not in loaded:
                source, size, fit = key
                loaded[key] = data.load(source, size, args.cache, fit, args.skip_bad)
            split = data.split(loaded[key], model.facts["split"]["how"], model.facts["split"]["seed"])
            if not len(split.test):
                raise Problem(f"{model.path}: {loaded[key].source} has no test images in the {split.how} split; "
                              "--data names a folder that has")  # fmt: skip
            results.append(evaluate(model, loaded[key], split, device))
            print(f"{model.name}: {len(split.test):,} test images", file=sys.stderr)
        except Problem as problem:
            failures += 1
            print(f"error: {problem}", file=sys.stderr)
    return results, failures


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, help="runs/<name>/model.pt or onnx/<name>.onnx, any number")
    parser.add_argument("--all", action="store_true", help="every model.pt below --runs and graph in --onnx")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--onnx", type=Path, default=Path("onnx"), metavar="DIR", help="default: onnx")
    parser.add_argument("--report", type=Path, default=Path("report"), metavar="DIR", help="default: report")
    parser.add_argument(
        "--format",
        choices=tabulate_formats,
        default="simple",
        metavar="FORMAT",
        help="of the tables, any of tabulate's: github, latex, html, ... (default: simple)",
    )
    data.add_arguments(parser)
    infer.add_device_argument(parser)
    args = parser.parse_args(argv)
    if bool(args.models) == args.all:
        parser.error("name one or more models, or say --all")
    return args


def work(args: argparse.Namespace) -> int:
    infer.keep_freed_memory()
    paths = args.models
    if args.all:
        order = {name: i for i, name in enumerate(models.ARCHITECTURES)}
        found = [*args.runs.glob("*/model.pt"), *args.onnx.glob("*.onnx")]
        stem = {path: path.parent.name if path.suffix == ".pt" else path.stem for path in found}
        paths = sorted(found, key=lambda p: (p.suffix == ".onnx", order.get(stem[p], len(order)), stem[p]))
    if not paths:
        raise Problem(f"no {args.runs}/*/model.pt and no {args.onnx}/*.onnx: python train.py makes the first")
    results, failures = evaluate_all(paths, args)
    if not results:
        return 1
    comparisons, unanswered = answer(results)
    notes = [*cross_check(results), *(note for result in results for note in result["notes"]), *unanswered]
    for dataset in dict.fromkeys(result["data"]["name"] for result in results):
        first = next(result for result in results if result["data"]["name"] == dataset)
        ill = int(first["labels"].sum())
        print(f"{dataset}; test by {first['split']['how']}: {len(first['labels']):,} images of "
              f"{first['patients']:,} patients, {ill:,} with pneumonia")  # fmt: skip
    for title, headers, rows in tables(results, comparisons):
        print(f"\n{title}\n")
        align = ["left", *["right"] * (len(headers) - 1)]
        print(tabulate(rows, headers, tablefmt=args.format, disable_numparse=True, colalign=align))
        if "notebooks" in title:
            print(f"\n{NOTEBOOKS_CAVEAT}")
    print()
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    write_report(args.report, results, comparisons, notes)
    print(f"report: {args.report}/results.csv, results.json, predictions.csv, {', '.join(figures.NAMES)}")
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return common.run(lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
