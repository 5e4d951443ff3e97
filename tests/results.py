"""Results as evaluate.py hands them to the report and the figures, made by hand: noise with the labels mixed in."""

import hashlib
import math
from dataclasses import replace

import numpy as np

from evaluation import marks, referral
from evaluation.markup import number
from evaluation.result import Result
from evaluation.tables import Table
from metrics import measures

NAN = math.nan
PROMISE = {"alpha": 0.05, "lowest_pneumonia": 0.25, "highest_normal": 0.625, "patients": [40, 117]}
DECISIONS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "npv", "f1", "mcc")


def estimate(value: float, width: float = 0.021) -> dict:
    """A value within an interval that is not symmetric, so that a test notices a swap."""
    if math.isnan(value):
        return {"value": NAN, "low": NAN, "high": NAN}
    return {
        "value": value,
        "low": value - 1.31 * width,
        "high": min(value + 0.87 * width, 1.0) if value <= 1 else value + 0.87 * width,
    }


def point(labels: np.ndarray, probabilities: np.ndarray, threshold: float, promised: bool) -> dict:
    found = measures.classification(labels, probabilities, threshold)
    keys = ("accuracy", "sensitivity", "specificity")
    return {
        "threshold": threshold,
        "rule": None,
        **{key: found[key] for key in ("tn", "fp", "fn", "tp")},
        "estimates": {key: estimate(found[key]) for key in DECISIONS},
        "promised": {**{key: estimate(found[key] + 0.0123) for key in keys}, "images": 151, "patients": 117}
        if promised else None,
        "gap": {key: estimate(-0.0123, 0.03) for key in keys} if promised else None,
        "at_prevalence": {"prevalence": 0.1, **{key: value for key, value in
                          measures.at_prevalence(found["sensitivity"], found["specificity"], 0.1).items()}},
    }  # fmt: skip


def history(epochs: int, seed: int) -> list[dict]:
    noise = np.random.default_rng(seed).normal(0, 0.01, (epochs, 4))
    return [
        {"epoch": i + 1, "learning_rate": 1e-3, "train_loss": 0.6 / (i + 1) + abs(noise[i, 0]),
         "train_accuracy": 0.8, "train_auroc": 1 - 0.2 / (i + 1) - abs(noise[i, 1]),
         "val_loss": 0.5 / (i + 1) + 0.05 + abs(noise[i, 2]), "val_accuracy": 0.8,
         "val_auroc": 1 - 0.25 / (i + 1) - abs(noise[i, 3]), "seconds": 12.5, "images_per_second": 100.0}
        for i in range(epochs)
    ]  # fmt: skip


def checkpoint(name: str, architecture: str, seed: int, data: dict) -> dict:
    return {
        "name": name, "architecture": architecture, "classes": ["normal", "pneumonia"], "size": 224, "fit": "stretch",
        "normalisation": [0.4823, 0.2217], "initial_weights": "random",
        "data": {**data, "source": "/data/chest_xray", "skipped": []},
        "split": {"how": "patient", "seed": 0, "fingerprint": "4d5e6f7a8b9c",
                  "images": {"train": 1051, "validation": 151, "test": 300}},
        "recipe": {"name": "default", "epochs": 6, "learning_rate": 0.0013, "batch_size": 64, "optimizer": "adamw",
                   "weight_decay": 0.017, "warm_up": 0.1, "decay": True, "resize_from": 0,
                   "augment": {"shift": 0.06, "scale": 0.1, "rotation": 7.0, "flip": False}},
        "quick": False, "seed": seed, "processes": 1, "device": "CPU, 2 threads, bf16",
        "threshold_rule": "largest Youden's J on validation", "threshold": 0.4321, "temperature": 1.234,
        "versions": {"project": "0.1.0", "python": "3.11.7", "torch": "2.14.1+cpu", "git": "ad8a652"},
        "weights_sha256": hashlib.sha256(name.encode()).hexdigest(), "epoch": 5,
    }  # fmt: skip


def worst(labels: np.ndarray, probabilities: np.ndarray, files: list[str], threshold: float) -> list[dict]:
    """The four misses, and then the four false alarms, that are furthest on the wrong side of the threshold."""
    wrong = np.where(labels == 1, threshold - probabilities, probabilities - threshold)
    some = [i for label in (1, 0) for i in [i for i in np.argsort(-wrong) if wrong[i] > 0 and labels[i] == label][:4]]
    ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    return [{"file": files[i], "label": int(labels[i]), "probability": float(probabilities[i]),
             "pixels": ramp + np.uint8(i % 50)} for i in some]  # fmt: skip


def make_result(
    name: str = "simple",
    kind: str = "checkpoint",
    architecture: str = "simple",
    separation: float = 2.5,
    images: int = 300,
    seed: int = 0,
    synthetic: bool = False,
    epochs: int = 6,
    data_name: str = "Kermany v2: all 5,856 images",
) -> Result:
    """One result. `separation` is the distance of the classes in standard deviations of the log-odds."""
    labels = (np.arange(images) % 4 > 0).astype(np.int64)  # the same images for all models of a size
    patients = [f"p{i * 22 // 30:04d}" for i in range(images)]
    files = [f"{'NORMAL/IM' if not label else 'PNEUMONIA/person'}-{i:04d}.jpeg" for i, label in enumerate(labels)]
    common_part, own = (np.random.default_rng(s).normal(size=images) for s in (99, seed))
    log_odds = separation * (labels - 0.45) + 0.7 * common_part + 0.7 * own
    probabilities = 1 / (1 + np.exp(-1.6 * log_odds))
    thresholds = {"0.5": 0.5, "validation": 0.4321, "sensitivity 95 %": 0.2718, "sensitivity 99 %": 0.0577}
    data = {"name": "SYNTHETIC: 600 phantoms drawn by this program, no X-rays" if synthetic else data_name,
            "fingerprint": "0a1b2c3d4e5f", "synthetic": synthetic}  # fmt: skip
    slope, intercept = measures.calibration_line(labels, probabilities)
    clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
    loss = float(-np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped))))
    trained = kind == "checkpoint"
    return Result(
        name=name, kind=kind, file=f"runs/{name}/model.pt" if trained else f"onnx/{name}",
        sha256=hashlib.sha256(f"{name} file".encode()).hexdigest(), architecture=architecture,
        seed=seed if trained else None, initial_weights="random", quick=False, data=data,
        trained_on_synthetic=synthetic, recorded=True, left_out="", decides="validation",
        split={"how": "patient", "seed": 0, "fingerprint": "4d5e6f7a8b9c"},
        temperature=1.234, images=images, patients=len(set(patients)), positives=int(labels.sum()),
        estimates={
            "auroc": estimate(measures.auroc(labels, probabilities), 0.0123),
            "average_precision": estimate(measures.average_precision(labels, probabilities), 0.0077),
            "log_loss": estimate(loss), "brier": estimate(measures.brier(labels, probabilities)),
            "calibration_error": {"value": measures.calibration_error(labels, probabilities), "low": NAN, "high": NAN},
            "calibration_slope": estimate(slope, 0.2), "calibration_intercept": estimate(intercept, 0.2),
        },
        points={p: point(labels, probabilities, t, p != "0.5" and trained) for p, t in thresholds.items()},
        subgroups=[
            {"group": "bacterial pneumonia", "measure": "sensitivity", "images": 131, "patients": 97,
             "value": 0.9123, "low": 0.8512, "high": 0.9534},
            {"group": "normal, several films", "measure": "specificity", "images": 0, "patients": 0,
             "value": NAN, "low": NAN, "high": NAN},
        ],
        corrected={"validation": 0.742, "estimated": 0.641, "counted": 0.625,
                   "estimates": {key: estimate(0.9111) for key in DECISIONS}} if trained else None,
        aurc=estimate(0.0312, 0.011),
        referral=referral.delivered(labels, probabilities, patients, PROMISE) if trained else None,
        shortcut_audit=[{"change": "as it is", "strength": "", "auroc": 0.9312, "accuracy": 0.8745,
                     "sensitivity": 0.8567, "specificity": 0.9277},
                    {"change": "centre only", "strength": "60 %", "auroc": 0.7177, "accuracy": NAN, "sensitivity": NAN,
                     "specificity": NAN}]
        if trained else None,
        notes=[f"{name} was made by hand"],
        stress=[{"view": "as it is", "shortcuts": 0.926, "auroc": 0.9912, "accuracy": 0.951, "sensitivity": 0.94,
                 "specificity": 0.98},
                {"view": "tight", "shortcuts": 0.511, "auroc": 0.9512, "accuracy": 0.901, "sensitivity": 0.89,
                 "specificity": 0.93}]
        if trained else None,
        training={"epochs": epochs, "epochs_to_90": 3, "seconds_to_90": 37.5, "best_epoch": max(epochs - 1, 1),
                  "best_val_loss": 0.1377, "val_auroc": 0.9519, "parameters": 5406306, "multiply_adds": 131000000,
                  "images_per_second": 101.3, "minutes": 1.25, "device": "CPU, 2 threads, bf16", "seed": seed}
        if trained else None,
        checkpoint_sha256=None, files=files, labels=labels, probabilities=probabilities, patient_ids=patients,
        history=history(epochs, seed) if trained else None,
        worst=worst(labels, probabilities, files, 0.4321),
        checkpoint=checkpoint(name, architecture, seed, data) if trained else {},
    )  # fmt: skip


def make_results(synthetic: bool = False) -> list[Result]:
    """Two checkpoints, an ensemble of them, and a graph of the first that answers alike."""
    simple = make_result("simple", synthetic=synthetic)
    deep = make_result("resnet34", architecture="resnet34", separation=3.2, seed=1, synthetic=synthetic, epochs=9)
    both = make_result("ensemble of simple, resnet34", "ensemble", "", 3.3, seed=2, synthetic=synthetic)
    graph = make_result("simple.onnx", "graph", synthetic=synthetic)
    nearly = simple.probabilities + 1e-6 * (simple.probabilities < 0.5)
    return [simple, deep, both, replace(graph, probabilities=nearly)]


def make_comparisons(mark: str = "") -> list[dict]:
    return [{
        "question": "Does depth help?", "mark": mark,
        "from": "simple", "to": "resnet34", "images": 300, "patients": 220,
        "measures": [
            {"measure": "AUROC", "difference": estimate(0.0314, 0.02), "p": 0.0211, "p_holm": 0.0422,
             "detectable": 0.0377, "method": "DeLong by patient"},
            {"measure": "accuracy, threshold 0.5", "difference": estimate(-0.0067, 0.02), "p": 0.5512,
             "p_holm": NAN, "detectable": NAN, "method": "by patient"},
        ],
        "sentence": "no evidence of a difference; a true difference of 2.1 points would have been found in at least "
                    "4 of 5 such test sets",
    }]  # fmt: skip


def make_tables(results: list[Result]) -> list[Table]:
    """As evaluation/tables.py makes them: texts and whole numbers, a title, footnotes."""
    rows = [[r.name, r.images, number(r.estimates["auroc"]["value"], 4), r.points["validation"]["fn"]]
            for r in results]  # fmt: skip
    mark = marks.before(results)
    return [
        Table(f"{mark}Summary (test images)", ["model", "n", "AUROC", "FN"], rows, ["FN: ill, called normal"]),
        Table(
            f"{mark}Odd | characters", ["a|b", "<b>"], [["x|y", "<script>alert(1)</script>"], ["-", "$1$ & *2*"]], []
        ),
    ]
