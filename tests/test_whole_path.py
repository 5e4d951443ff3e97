"""The path that a user takes, on phantoms: train, export, evaluate; and evaluate.py's tables and files."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.stats
import sklearn.metrics
from folders import draw, make_folder

import data
import evaluate
import export
import figures
import metrics
import models
import train

ROOT = Path(train.__file__).parent


class World:
    """A folder with runs/, onnx/ and report/, and the scripts called as from a shell, but in this process."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def train(self, *options: str) -> int:
        return train.main(["--data", "phantoms", "--size", "64", "--cache", str(self.cache),
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
    assert made.evaluate("--all") == 0
    return made


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_report_is_complete(world):
    report = world.folder / "report"
    assert sorted(path.name for path in report.iterdir()) == sorted(
        ["results.json", "results.csv", "predictions.csv", *figures.NAMES]
    )
    for name in figures.NAMES:
        assert (report / name).read_bytes().startswith(b"\x89PNG")
    names = [model["name"] for model in world.results()["models"]]
    assert names == ["simple", "resnet34", "simple.onnx", "resnet34.onnx"]


def test_tables_agree_with_scikit_learn_on_the_predictions_that_were_written(world):
    """From predictions.csv alone, with independent code, to every number of results.json and results.csv."""
    predictions = rows(world.folder / "report" / "predictions.csv")
    table = {(row["model"], row["point"]): row for row in rows(world.folder / "report" / "results.csv")}
    for model in world.results()["models"]:
        mine = [row for row in predictions if row["model"] == model["name"]]
        truth = np.array([row["class"] == "PNEUMONIA" for row in mine])
        probability = np.array([float(row["probability"]) for row in mine])
        for point, column in (("0.5", "decision_at_0.5"), ("validation", "decision_at_validation_threshold")):
            decision = np.array([row[column] == "PNEUMONIA" for row in mine])
            found = model["points"][point]
            tn, fp, fn, tp = sklearn.metrics.confusion_matrix(truth, decision, labels=[False, True]).ravel()
            assert (found["tn"], found["fp"], found["fn"], found["tp"]) == (tn, fp, fn, tp)
            assert found["n"] == len(mine)
            assert found["accuracy"] == pytest.approx((truth == decision).mean())
            assert found["sensitivity"] == pytest.approx(sklearn.metrics.recall_score(truth, decision))
            assert found["specificity"] == pytest.approx(sklearn.metrics.recall_score(~truth, ~decision))
            assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(truth, probability), abs=1e-9)
            interval = scipy.stats.binomtest(int(tn + tp), len(mine)).proportion_ci(method="wilson")
            assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((interval.low, interval.high))
            for key in ("accuracy", "auroc", "tp", "fn"):
                assert float(table[model["name"], point][key]) == pytest.approx(found[key])
        assert model["loss"] == pytest.approx(sklearn.metrics.log_loss(truth, probability), abs=1e-7)


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
    comparisons = world.results()["comparisons"]
    assert [(c["question"], c["threshold"]) for c in comparisons] == [
        ("Does depth help?", "0.5"), ("Does depth help?", "validation")]  # fmt: skip
    for comparison, column in zip(comparisons, ("decision_at_0.5", "decision_at_validation_threshold"), strict=True):
        right = {name: np.array([row[column] == row["class"] for row in predictions if row["model"] == name])
                 for name in ("simple", "resnet34")}  # fmt: skip
        only_a = int((right["simple"] & ~right["resnet34"]).sum())
        only_b = int((~right["simple"] & right["resnet34"]).sum())
        assert (comparison["only_from_right"], comparison["only_to_right"]) == (only_a, only_b)
        assert comparison["p"] == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_b).pvalue)
        assert comparison["accuracy"] == pytest.approx(right["resnet34"].mean() - right["simple"].mean())


def test_everything_printed_says_synthetic_and_carries_its_numbers(world, capsys):
    assert world.evaluate("--all", "--format", "github") == 0
    out = capsys.readouterr().out
    titles = re.findall(r"^(SYNTHETIC: .*)$", out, re.M)
    assert len(titles) >= 5
    for model in world.results()["models"]:
        at = model["points"]["validation"]
        cells = [model["name"], f"{at['threshold']:.4f}", str(at["n"]), f"{at['accuracy']:.3f}"]
        assert re.search(r"\|\s*".join(re.escape(cell) + r"\s*" for cell in cells), out), cells
    assert "Does pretraining help? cannot be answered" in out
    assert "24.6 %" in out and "0.9551"[:5] in out


def test_convergence_comes_from_the_history(world):
    history = rows(world.folder / "runs" / "simple" / "history.csv")
    (model,) = [model for model in world.results()["models"] if model["name"] == "simple"]
    training = model["training"]
    assert training["epochs"] == 4
    assert training["best_val_loss"] == pytest.approx(min(float(row["val_loss"]) for row in history))
    first = [i for i, row in enumerate(history) if float(row["val_accuracy"]) >= 0.9]
    assert training["epochs_to_90"] == (first[0] + 1 if first else None)
    assert training["parameters"] == models.parameter_count(models.build("simple", 64))


def test_epochs_to_90_percent():
    facts = {
        "architecture": "simple", "size": 32, "epoch": 3, "device": "CPU", "seed": 0,
        "history": [{"val_accuracy": a, "val_loss": 1 - a, "val_auroc": a, "seconds": 10.0, "images_per_second": 5.0}
                    for a in (0.5, 0.9, 0.95)],
    }  # fmt: skip
    found = evaluate.training_facts(facts)
    assert (found["epochs_to_90"], found["seconds_to_90"]) == (2, 20.0)
    assert found["best_val_loss"] == pytest.approx(0.05)
    facts["history"] = facts["history"][:1]
    facts["epoch"] = 1
    assert evaluate.training_facts(facts)["seconds_to_90"] is None
    assert evaluate.number(None) == evaluate.number(float("nan")) == "-"


def test_models_of_different_splits_are_said_not_to_compare(world, capsys, tmp_path):
    other = World(tmp_path, world.cache)
    assert other.train("--arch", "resnet34", "--quick", "--split-seed", "1") == 0
    shutil.copytree(world.folder / "runs" / "simple", tmp_path / "runs" / "simple")
    capsys.readouterr()
    assert other.evaluate("--all") == 0
    out = capsys.readouterr().out
    assert "WARNING: these models were not tested on the same images" in out
    assert "simple and resnet34 were tested on different images" in out
    assert "resnet34 is from a smoke run (--quick)" in out
    assert other.results()["comparisons"] == []


def test_a_graph_of_another_checkpoint_is_said(world, capsys, tmp_path):
    other = World(tmp_path, world.cache)
    shutil.copytree(world.folder / "onnx", tmp_path / "onnx")
    assert other.train("--arch", "simple", "--quick") == 0
    (tmp_path / "onnx" / "resnet34.onnx").unlink()
    capsys.readouterr()
    assert other.evaluate("--all") == 0
    assert "simple.onnx was exported from another checkpoint" in capsys.readouterr().out


def test_images_that_a_model_was_trained_on_are_no_test(world, capsys, tmp_path):
    path = world.folder / "runs" / "simple" / "model.pt"
    checkpoint, network = models.load_checkpoint(path)
    checkpoint["split"] = {**checkpoint["split"], "seed": 3}  # as if its settings had been lost
    models.save_checkpoint(tmp_path / "model.pt", {**checkpoint, "state": network.state_dict()})
    assert (
        evaluate.main([str(tmp_path / "model.pt"), "--cache", str(world.cache), "--report", str(tmp_path / "r")]) == 1
    )
    assert re.search(r"model.pt: \d+ of the test images were seen in its training", capsys.readouterr().err)
    assert not (tmp_path / "r").exists()


def test_a_split_without_test_images_can_be_trained_on_but_not_tested(cache, capsys, tmp_path):
    folder = make_folder(tmp_path / "x", ("train",), count=40)
    options = ["--data", str(folder), "--split", "official", "--size", "32", "--cache", str(cache)]
    assert train.main(["--arch", "simple", "--quick", *options, "--out", str(tmp_path / "runs")]) == 0
    assert "can be trained on, but not tested" in capsys.readouterr().err
    model = str(tmp_path / "runs" / "simple" / "model.pt")
    arguments = [model, "--cache", str(cache), "--report", str(tmp_path / "report")]
    assert evaluate.main(arguments) == 1
    assert "has no test images in the official split; --data names a folder that has" in capsys.readouterr().err
    # With the test folder there the same model is tested, on images that it has not seen.
    for seed, file in enumerate(["NORMAL/IM-9001-0001.jpeg", "PNEUMONIA/person9001_virus_1.jpeg"]):
        draw(folder / "test" / file, 5000 + seed)
    assert evaluate.main(arguments) == 0
    assert "was trained on the split" in capsys.readouterr().out


def test_a_leak_stops_training_before_it_starts(cache, capsys, tmp_path):
    folder = make_folder(tmp_path / "x", ("train", "test"), count=40)
    draw(folder / "test" / "NORMAL" / "IM-0003-0009.jpeg", 6000)  # a film of a patient in train/
    options = ["--data", str(folder), "--size", "32", "--cache", str(cache), "--out", str(tmp_path / "runs")]
    assert train.main(["--arch", "simple", "--quick", "--split", "official", *options]) == 1
    error = capsys.readouterr().err
    assert "1 patients are on more than one side (such as IM-0003)" in error and "data.py check" in error
    assert not (tmp_path / "runs").exists()
    assert train.main(["--arch", "simple", "--quick", "--split", "image", *options]) == 0
    assert "WARNING" in capsys.readouterr().err
    model = str(tmp_path / "runs" / "simple" / "model.pt")
    assert evaluate.main([model, "--cache", str(cache), "--report", str(tmp_path / "report")]) == 0
    assert re.search(r"note: simple: WARNING: \d+ patients are on more than one side", capsys.readouterr().out)


def test_errors_are_named_and_the_others_go_on(world, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        evaluate.main([])
    assert caught.value.code == 2
    assert "name one or more models, or say --all" in capsys.readouterr().err
    assert evaluate.main(["--all", "--runs", str(tmp_path), "--onnx", str(tmp_path)]) == 1
    assert "python train.py makes the first" in capsys.readouterr().err
    (tmp_path / "broken.onnx").write_bytes((world.folder / "onnx" / "simple.onnx").read_bytes()[:1000])
    (tmp_path / "broken.pt").write_bytes(b"PK")
    arguments = [str(tmp_path / "broken.onnx"), str(tmp_path / "broken.pt"), str(world.folder / "onnx" / "simple.onnx")]
    assert evaluate.main([*arguments, "--cache", str(world.cache), "--report", str(tmp_path / "r")]) == 1
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


def test_operating_points_use_the_calibrated_probability(world, phantoms):
    """The stored threshold belongs to the temperature-scaled probability: on validation it gives back Youden's J."""
    checkpoint, _ = models.load_checkpoint(world.folder / "runs" / "simple" / "model.pt")
    split = data.split(phantoms)
    model = evaluate.open_model(world.folder / "runs" / "simple" / "model.pt")
    on_validation = data.Split(split.how, split.seed, split.train, split.test, split.validation, "x", ())
    model.facts.pop("seen_images"), model.facts.pop("seen_patients")
    result = evaluate.evaluate(model, phantoms, on_validation, evaluate.infer.pick_device("cpu"))
    at = result["points"]["validation"]
    for key in ("accuracy", "sensitivity", "specificity", "tp", "fp"):
        assert at[key] == pytest.approx(checkpoint["validation"][key])
    best = metrics.youden_threshold(result["labels"], result["probabilities"])
    assert best == pytest.approx(at["threshold"], rel=1e-6)
