"""The path that a user takes, on phantoms: train, export, evaluate; and evaluate.py's tables and files."""

import collections
import contextlib
import csv
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from folders import draw, make_folder

import data
import evaluate
import export
import models
import train
from devices import hardware
from evaluation import tables, tested_model, testing
from metrics import estimation, measures
from training import checkpoints

ROOT = Path(train.__file__).parent


class World:
    """A folder with runs/, onnx/ and report/, and the scripts called as from a shell, but in this process."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.said, self.noted, self.first = "", "", dict[str, Any]()  # when it was called first

    def train(self, *options: str) -> int:
        return train.main(["--data", "phantoms", "--size", "32", "--cache", str(self.cache),
                           "--out", str(self.folder / "runs"), *options])  # fmt: skip

    def folders(self) -> list[str]:
        return ["--runs", str(self.folder / "runs"), "--onnx", str(self.folder / "onnx"), "--cache", str(self.cache)]

    def export(self, *options: str) -> int:
        return export.main([*self.folders(), *options])

    def evaluate(self, *options: str) -> int:
        return evaluate.main([*self.folders(), "--report", str(self.folder / "report"), *options])

    def results(self) -> dict:
        return json.loads((self.folder / "report" / "results.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache) -> World:
    """All of it once: two networks, their graphs, and the report on the four."""
    made = World(tmp_path_factory.mktemp("world"), cache)
    assert made.train("--arch", "simple", "--epochs", "4") == 0
    assert made.train("--arch", "resnet34", "--epochs", "1") == 0
    assert made.export("--all") == 0
    made.noted = (made.folder / "runs" / "test-ledger.jsonl").read_text()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert made.evaluate("--all") == 0
    made.said, made.first = said.getvalue(), made.results()
    return made


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_report_is_complete(world):
    report = world.folder / "report"
    assert {"results.json", "results.csv", "predictions.csv"} <= {path.name for path in report.iterdir()}
    names = [model["name"] for model in world.results()["models"]]
    assert names == ["simple", "resnet34", "simple.onnx", "resnet34.onnx"]
    assert [model["kind"] for model in world.results()["models"]] == ["checkpoint", "checkpoint", "graph", "graph"]


def test_tables_agree_with_scikit_learn_on_the_predictions_that_were_written(world):
    """From predictions.csv alone, with independent code, to every number of results.json and results.csv."""
    predictions = rows(world.folder / "report" / "predictions.csv")
    table = {(row["model"], row["point"]): row for row in rows(world.folder / "report" / "results.csv")}
    for model in world.results()["models"]:
        mine = [row for row in predictions if row["model"] == model["name"]]
        truth = np.array([row["class"] == "PNEUMONIA" for row in mine])
        probability = np.array([float(row["probability"]) for row in mine])
        counted = (model["images"], model["patients"], model["positives"])
        assert counted == (len(mine), len({row["patient"] for row in mine}), truth.sum())
        whole = {
            "auroc": sklearn.metrics.roc_auc_score(truth, probability),
            "average_precision": sklearn.metrics.average_precision_score(truth, probability),
            "log_loss": sklearn.metrics.log_loss(truth, probability),
            "brier": sklearn.metrics.brier_score_loss(truth, probability),
        }
        for key, value in whole.items():
            assert model["estimates"][key]["value"] == pytest.approx(value, abs=1e-7), key
        for point, column in (("0.5", "decision_at_0.5"), ("validation", "decision_at_validation_threshold")):
            decision = np.array([row[column] == "PNEUMONIA" for row in mine])
            found = model["points"][point]
            tn, fp, fn, tp = sklearn.metrics.confusion_matrix(truth, decision, labels=[False, True]).ravel()
            assert (found["tn"], found["fp"], found["fn"], found["tp"]) == (tn, fp, fn, tp)
            expected = {
                "accuracy": (truth == decision).mean(),
                "sensitivity": sklearn.metrics.recall_score(truth, decision),
                "specificity": sklearn.metrics.recall_score(~truth, ~decision),
                "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truth, decision),
                "precision": sklearn.metrics.precision_score(truth, decision, zero_division=np.nan),
                "npv": sklearn.metrics.precision_score(~truth, ~decision, zero_division=np.nan),
                "f1": sklearn.metrics.f1_score(truth, decision),
                # 0/0 when all decisions are alike, which scikit-learn calls 0.
                "mcc": sklearn.metrics.matthews_corrcoef(truth, decision) if len(set(decision)) > 1 else math.nan,
            }
            assert set(found["estimates"]) == set(expected)
            for key, value in expected.items():
                assert (found["estimates"][key]["value"] is None) == math.isnan(value), key
                assert math.isnan(value) or found["estimates"][key]["value"] == pytest.approx(value), key
            for key in ("tn", "fp", "fn", "tp", "threshold"):
                assert float(table[model["name"], point][key]) == pytest.approx(found[key])
            for key, estimate in {**found["estimates"], **model["estimates"]}.items():
                for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high")):
                    value = math.nan if estimate[end] is None else estimate[end]
                    written = float(table[model["name"], point][key + suffix])
                    assert written == pytest.approx(value, nan_ok=True), (key, end)


def test_intervals_of_single_film_patients_are_wilsons(world):
    """Most phantoms' patients have one film: with the others left out, scipy gives the interval."""
    (model,) = [model for model in world.results()["models"] if model["name"] == "simple"]
    films = [row for row in rows(world.folder / "report" / "predictions.csv") if row["model"] == "simple"]
    count = collections.Counter(row["patient"] for row in films)
    single = [row for row in films if count[row["patient"]] == 1]
    right = np.array([row["decision_at_0.5"] == row["class"] for row in single])
    found = estimation.proportions(
        np.array([row["class"] == "PNEUMONIA" for row in single]).astype(int),
        np.array([float(row["probability"]) for row in single]), [row["patient"] for row in single], 0.5,
    )["accuracy"]  # fmt: skip
    interval = scipy.stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    # A patient per film: what is left of a design effect is n / (n - 1), which is never below 1.
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), abs=2e-3)
    whole = model["points"]["0.5"]["estimates"]["accuracy"]
    assert whole["low"] < whole["value"] < whole["high"]
    assert whole["high"] - whole["low"] < 1.5 * (interval.high - interval.low)


def test_test_images_are_the_splits_and_graphs_agree_with_checkpoints(world, phantoms):
    predictions = rows(world.folder / "report" / "predictions.csv")
    expected = [phantoms.files[i] for i in data.split(phantoms).test]
    models_of = {}
    for row in predictions:
        models_of.setdefault(row["model"], []).append(row)
        assert row["synthetic"] == "True"
    for name, mine in models_of.items():
        assert [row["file"] for row in mine] == expected
        pairs = zip(mine, models_of[name.removesuffix(".onnx")], strict=True)
        assert max(abs(float(a["probability"]) - float(b["probability"])) for a, b in pairs) < 1e-4


def test_comparisons_agree_with_scipy(world):
    predictions = rows(world.folder / "report" / "predictions.csv")
    (comparison,) = world.results()["comparisons"]
    assert (comparison["question"], comparison["from"], comparison["to"]) == ("Does depth help?", "simple", "resnet34")
    measures = {measure["measure"]: measure for measure in comparison["measures"]}
    for name, column in (("0.5", "decision_at_0.5"), ("from validation", "decision_at_validation_threshold")):
        found = measures[f"accuracy, threshold {name}"]
        right = {name: np.array([row[column] == row["class"] for row in predictions if row["model"] == name])
                 for name in ("simple", "resnet34")}  # fmt: skip
        only_a = int((right["simple"] & ~right["resnet34"]).sum())
        only_b = int((~right["simple"] & right["resnet34"]).sum())
        assert (found["only_from_right"], found["only_to_right"]) == (only_a, only_b)
        whose = [row["patient"] for row in predictions if row["model"] == "simple"]
        sums = np.bincount(np.unique(whose, return_inverse=True)[1], right["resnet34"].astype(int) - right["simple"])
        differing = np.count_nonzero(sums)  # Durkalski's test, by patient, with Student's quantiles
        statistic = abs(sums.sum()) / np.sqrt((sums**2).sum()) if differing else 0.0
        assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(statistic, max(differing, 1)))
        assert found["difference"]["value"] == pytest.approx(right["resnet34"].mean() - right["simple"].mean())
    truth = np.array([row["class"] == "PNEUMONIA" for row in predictions if row["model"] == "simple"])
    score = {
        name: np.array([float(row["probability"]) for row in predictions if row["model"] == name])
        for name in ("simple", "resnet34")
    }
    for name, metric in (("AUROC", sklearn.metrics.roc_auc_score), ("log loss", sklearn.metrics.log_loss),
                         ("brier", sklearn.metrics.brier_score_loss)):  # fmt: skip
        expected = metric(truth, score["resnet34"]) - metric(truth, score["simple"])
        assert measures[name]["difference"]["value"] == pytest.approx(expected, abs=1e-7)


def test_everything_printed_says_synthetic_and_carries_its_numbers(world, capsys):
    assert world.evaluate("--all", "--format", "github", "--verbose") == 0
    out = capsys.readouterr().out
    titles = re.findall(r"^(SYNTHETIC: .*)$", out, re.M)
    assert len(titles) >= 5
    for model in world.results()["models"][:2]:  # the graphs repeat them
        at = model["points"]["validation"]
        accuracy = at["estimates"]["accuracy"]
        bracket = f"{accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
        cells = [model["name"], "validation", f"{at['threshold']:.4f}", bracket]
        assert re.search(r"\|\s*".join(re.escape(cell) + r"\s*" for cell in cells), out), cells
    assert "Does pretraining help? cannot be answered" in out
    assert "notebook" not in out  # it takes all three networks, on the films that the notebooks had


def test_the_last_lines_say_how_it_went_and_a_proof_was_no_look(world):
    """As somebody reads them who looks at the end of the screen; their numbers come back from predictions.csv."""
    assert [json.loads(line)["purpose"] for line in world.noted.splitlines()] == ["export.py", "export.py"]
    assert world.first["notes"][0].startswith("first look at these test images")
    out = world.said
    assert max(map(len, [line for line in out.splitlines() if not line.startswith("report: ")])) <= 100
    assert out.splitlines()[-1] == f"report: {world.folder / 'report' / 'report.html'}"
    last = " ".join(out.split("\n\n")[-1].split())
    for name in ("simple", "resnet34"):
        films = [row for row in rows(world.folder / "report" / "predictions.csv") if row["model"] == name]
        truth, called = (np.array([row[key] == "PNEUMONIA" for row in films]) for key in ("class", "decision"))
        auroc = sklearn.metrics.roc_auc_score(truth, [float(row["probability"]) for row in films])
        said = re.search(rf"SYNTHETIC: {name}: finds ([\d,]+) of 1,000 pneumonias, calls ([\d,]+) of 1,000 normals "
                         r"ill; AUROC (\S+) \[.*?\]; (\d+) films of (\d+) patients", last)  # fmt: skip
        found = [float(number.replace(",", "")) for number in said.groups()]
        assert found[:2] == pytest.approx([1000 * called[truth].mean(), 1000 * called[~truth].mean()], abs=0.5)
        assert found[2] == pytest.approx(auroc, abs=5.1e-4)
        assert found[3:] == [len(films), len({row["patient"] for row in films})]
        assert re.search(rf"{name}.onnx answers as {name} does \(largest difference \S+\)", last)
    assert "SYNTHETIC: Does depth help? simple to resnet34: AUROC " in last
    assert all(f"SYNTHETIC: {name} promises 0.95 of each class; delivers " in last for name in ("simple", "resnet34"))
    assert len(out.split("\n\n")[-1].splitlines()) <= 18 and len(out.splitlines()) <= 36


def test_convergence_comes_from_the_history(world):
    history = rows(world.folder / "runs" / "simple" / "history.csv")
    (model,) = [model for model in world.results()["models"] if model["name"] == "simple"]
    training = model["training"]
    assert training["epochs"] == 4
    assert training["best_val_loss"] == pytest.approx(min(float(row["val_loss"]) for row in history))
    first = [i for i, row in enumerate(history) if float(row["val_accuracy"]) >= 0.9]
    assert training["epochs_to_90"] == (first[0] + 1 if first else None)
    assert training["parameters"] == models.parameter_count(models.build("simple", 32))


def test_epochs_to_90_percent():
    facts = {
        "architecture": "simple", "size": 32, "epoch": 3, "device": "CPU", "seed": 0,
        "history": [{"val_accuracy": a, "val_loss": 1 - a, "val_auroc": a, "seconds": 10.0, "images_per_second": 5.0}
                    for a in (0.5, 0.9, 0.95)],
    }  # fmt: skip
    found = testing.training_facts(facts)
    assert (found["epochs_to_90"], found["seconds_to_90"]) == (2, 20.0)
    assert found["best_val_loss"] == pytest.approx(0.05)
    facts["history"] = facts["history"][:1]
    facts["epoch"] = 1
    assert testing.training_facts(facts)["seconds_to_90"] is None
    assert tables.number(None) == tables.number(float("nan")) == "-"


def test_models_of_different_splits_are_said_not_to_compare(world, capsys, tmp_path):
    other = World(tmp_path, world.cache)
    for options in (["--epochs", "1"], ["--quick"]):
        assert other.train("--arch", "resnet34", *options, "--split-seed", "1", "--val", "random") == 0
    shutil.copytree(world.folder / "runs" / "simple", tmp_path / "runs" / "simple")
    capsys.readouterr()
    assert other.evaluate("--all") == 0
    out = capsys.readouterr().out
    assert "WARNING: these models were not tested on the same images" in out
    assert "simple and resnet34 were tested on different images" in out
    assert "SYNTHETIC: quick-resnet34, a smoke run whose numbers mean nothing: finds " in " ".join(out.split())
    assert other.results()["comparisons"] == []


def test_a_graph_of_another_checkpoint_is_said(world, capsys, tmp_path):
    other = World(tmp_path, world.cache)
    shutil.copytree(world.folder / "onnx", tmp_path / "onnx")
    assert other.train("--arch", "simple", "--epochs", "2") == 0
    (tmp_path / "onnx" / "resnet34.onnx").unlink()
    capsys.readouterr()
    assert other.evaluate("--all") == 0
    assert "simple.onnx was exported from another checkpoint" in " ".join(capsys.readouterr().out.split())


def test_images_that_a_model_was_trained_on_are_no_test(world, capsys, tmp_path):
    path = world.folder / "runs" / "simple" / "model.pt"
    checkpoint, network = checkpoints.load_checkpoint(path)
    checkpoint["split"] = {**checkpoint["split"], "seed": 3}  # as if its settings had been lost
    checkpoints.save_checkpoint(tmp_path / "model.pt", {**checkpoint, "state": network.state_dict()})
    arguments = ["--runs", str(tmp_path), "--cache", str(world.cache), "--report", str(tmp_path / "r")]
    assert evaluate.main([str(tmp_path / "model.pt"), *arguments]) == 1
    said = r"model.pt: \d+ of the \d+ test films, or other films of their patients, were seen in its training"
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "test-ledger.jsonl").exists()  # no label was read
    assert not (tmp_path / "r").exists()


def test_a_split_without_test_images_can_be_trained_on_but_not_tested(cache, capsys, tmp_path):
    folder = make_folder(tmp_path / "x", ("train",), count=40)
    options = ["--data", str(folder), "--split", "official", "--size", "32", "--cache", str(cache)]
    assert train.main(["--arch", "simple", "--epochs", "2", *options, "--out", str(tmp_path / "runs")]) == 0
    assert "can be trained on, but not tested" in capsys.readouterr().err
    model = str(tmp_path / "runs" / "simple" / "model.pt")
    arguments = [model, "--runs", str(tmp_path), "--cache", str(cache), "--report", str(tmp_path / "report")]
    assert evaluate.main(arguments) == 1
    assert "has no test images in the official split; --data names a folder that has" in capsys.readouterr().err
    # With the test folder there the same model is tested, on images that it has not seen.
    for seed, file in enumerate(["NORMAL/IM-9001-0001.jpeg", "PNEUMONIA/person9001_virus_1.jpeg"]):
        draw(folder / "test" / file, 5000 + seed)
    assert evaluate.main(arguments) == 0
    assert "test by official: 2 images" in capsys.readouterr().out


def test_a_leak_stops_training_before_it_starts(cache, capsys, tmp_path):
    folder = make_folder(tmp_path / "x", ("train", "test"), count=40)
    draw(folder / "test" / "NORMAL" / "IM-0003-0009.jpeg", 6000)  # a film of a patient in train/
    options = ["--data", str(folder), "--size", "32", "--cache", str(cache), "--out", str(tmp_path / "runs")]
    assert train.main(["--arch", "simple", "--quick", "--split", "official", *options]) == 1
    error = capsys.readouterr().err
    assert "1 patient is on more than one side (such as IM-0003)" in error and "data.py check" in error
    assert not (tmp_path / "runs").exists()
    assert train.main(["--arch", "simple", "--epochs", "2", "--split", "image", *options]) == 0
    assert "WARNING" in capsys.readouterr().err
    model = str(tmp_path / "runs" / "simple" / "model.pt")
    arguments = ["--runs", str(tmp_path), "--cache", str(cache), "--report", str(tmp_path / "report")]
    assert evaluate.main([model, *arguments]) == 0
    assert re.search(r"note: simple: WARNING: \d+ patients are on more than one side", capsys.readouterr().out)


def test_errors_are_named_and_the_others_go_on(world, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        evaluate.main([])
    assert caught.value.code == 2
    assert "name one or more models, or say --all" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.parse(["--all", "--runs", "my", "runs"])
    assert "--all takes every model, and 'runs' is no option: quote a path with blanks" in capsys.readouterr().err
    assert evaluate.main(["--all", "--runs", str(tmp_path), "--onnx", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    train.parse(shlex.split(re.search(r"python train.py (.*) makes the first", error)[1]))  # it works as it is written
    (tmp_path / "broken.onnx").write_bytes((world.folder / "onnx" / "simple.onnx").read_bytes()[:1000])
    (tmp_path / "broken.pt").write_bytes(b"PK")
    arguments = [str(tmp_path / "broken.onnx"), str(tmp_path / "broken.pt"), str(world.folder / "onnx" / "simple.onnx")]
    arguments += ["--runs", str(tmp_path), "--cache", str(world.cache), "--report", str(tmp_path / "r")]
    assert evaluate.main(arguments) == 1
    error = capsys.readouterr().err
    assert "broken.onnx: onnxruntime cannot open it" in error and "broken.pt: not a whole checkpoint" in error
    assert re.search(r"simple.onnx: \d+ test images", error)
    assert (tmp_path / "r" / "results.json").exists()


def test_a_graph_that_export_did_not_make_is_refused(world, capsys, tmp_path):
    graph = onnx.load(world.folder / "onnx" / "simple.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "x.onnx")
    assert evaluate.main([str(tmp_path / "x.onnx")]) == 1
    assert "x.onnx: not a graph that export.py made: no architecture" in capsys.readouterr().err


def test_the_scripts_run_as_scripts_from_another_folder(tmp_path):
    for script in ("train.py", "evaluate.py", "export.py"):
        command = [sys.executable, str(ROOT / script), "--help"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "40"}
        )
        assert done.returncode == 0 and done.stderr == "" and "--data" in done.stdout


def test_operating_points_use_the_calibrated_probability(world):
    """The stored threshold belongs to the temperature-scaled probability: on validation it gives back Youden's J."""
    phantoms = data.load("phantoms", 32, world.cache)
    checkpoint, _ = checkpoints.load_checkpoint(world.folder / "runs" / "simple" / "model.pt")
    model = tested_model.open_model(world.folder / "runs" / "simple" / "model.pt")
    validation = data.split(phantoms).validation
    logits = tested_model.logits(model, phantoms, validation, hardware.pick_device("cpu"))
    stored = checkpoint["validation_answers"]  # of all views, that of the films as they are first
    np.testing.assert_allclose(stored["logits"][: len(logits)].numpy(), logits, atol=0.1)  # they are bf16's
    labels, views = phantoms.labels[validation], len(stored["labels"]) // len(validation)
    assert views == len(checkpoint["stress"]) - 1 and (stored["labels"].numpy() == np.tile(labels, views)).all()
    labels = stored["labels"].numpy()
    probability = measures.positive_probability(stored["logits"].numpy(), checkpoint["temperature"])
    at = checkpoint["operating_points"]["validation"]
    assert at["threshold"] == checkpoint["threshold"]
    assert measures.youden_threshold(labels, probability) == pytest.approx(at["threshold"], rel=1e-6)
    decision = probability >= at["threshold"]
    assert at["accuracy"]["value"] == pytest.approx((decision == labels).mean())
    assert at["sensitivity"]["value"] == pytest.approx(sklearn.metrics.recall_score(labels, decision))
    assert at["specificity"]["value"] == pytest.approx(sklearn.metrics.recall_score(1 - labels, ~decision))


def test_what_was_promised_is_what_the_stored_validation_answers_give(world):
    """From the checkpoint alone, with scikit-learn; and the report repeats it."""
    for name in ("simple", "resnet34"):
        checkpoint, _ = checkpoints.load_checkpoint(world.folder / "runs" / name / "model.pt")
        stored = {key: tensor.numpy() for key, tensor in checkpoint["validation_answers"].items()}
        probability = scipy.special.softmax(stored["logits"].astype(float) / checkpoint["temperature"], axis=1)[:, 1]
        (model,) = [model for model in world.results()["models"] if model["name"] == name]
        assert list(model["points"]) == ["0.5", "validation", "sensitivity 95 %", "sensitivity 99 %"]
        for point, at in model["points"].items():
            promised = at["promised"]
            decision = probability >= at["threshold"]
            assert promised["accuracy"]["value"] == pytest.approx((decision == stored["labels"]).mean())
            sensitivity = sklearn.metrics.recall_score(stored["labels"], decision)
            assert promised["sensitivity"]["value"] == pytest.approx(sensitivity)
            counted = (promised["images"], promised["patients"])
            assert counted == (len(stored["labels"]), len(set(stored["patients"].tolist())))
            if point.startswith("sensitivity"):
                assert sensitivity >= float(point.split()[1]) / 100
            for key, gap in at["gap"].items():
                delivered = at["estimates"][key]["value"]
                assert gap["value"] == pytest.approx(delivered - promised[key]["value"], abs=1e-12)
