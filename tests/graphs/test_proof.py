"""verify.py through export.py: each precision of a trained network, its certificate, and a changed threshold."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from folders import make_folder
from onnx import helper, numpy_helper
from PIL import Image
from test_exporting import SIZE, edited, expected_of, scale_initializer

import data
import evaluate
import export
import predict
import train
from basics import disk, terms
from basics.problems import Problem
from graphs import building, proof, scoring, sessions


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The ledger of looks at test labels goes to runs/ of the folder that one is in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def phantoms(cache) -> data.Dataset:
    """Of the smallest size at which a ResNet's heat map still has several places, 2 x 2."""
    return data.load("phantoms", SIZE, cache)


@pytest.fixture(scope="module")
def three(cache, tmp_path_factory) -> Path:
    """A folder with runs/ and onnx/: a small network that has learned something, in all three precisions."""
    folder = tmp_path_factory.mktemp("three")
    options = ["--data", "phantoms", "--cache", str(cache), "--size", str(SIZE), "--out", str(folder / "runs")]
    quickly = ["--recipe", "seed", "--lr", "2e-3", "--batch-size", "16", "--epochs", "16"]  # int8 may swap few images
    assert train.main(["--arch", "simple", *quickly, *options]) == 0
    assert export_three(folder, cache, "onnx") == 0
    return folder


def export_three(folder: Path, cache: Path, out: str) -> int:
    arguments = [str(folder / "runs" / "simple" / "model.pt"), "--cache", str(cache), "--onnx", str(folder / out),
                 "--runs", str(folder / "runs")]  # fmt: skip
    return export.main([*arguments, "--precision", *terms.PRECISIONS])


NAMES = ("simple", "simple-fp16", "simple-int8")


def test_each_precision_is_certified_and_exported_to_the_same_bytes(three, cache):
    assert export_three(three, cache, "again") == 0
    for name, precision in zip(NAMES, terms.PRECISIONS, strict=True):
        content = (three / "onnx" / f"{name}.onnx").read_bytes()
        assert content == (three / "again" / f"{name}.onnx").read_bytes()
        certificate, again = (json.loads((three / out / f"{name}.json").read_text()) for out in ("onnx", "again"))
        drawn = ("unusual", "checks")  # by a seed of its own each time
        assert certificate["unusual"]["seed"] != again["unusual"]["seed"]
        assert all(certificate[key] == again[key] for key in certificate if key not in drawn)
        assert certificate["tolerances"]["int8"]["probability_max"] == scoring.INT8["probability_max"]
        assert certificate["sha256"] == hashlib.sha256(content).hexdigest()
        said = json.loads(certificate["metadata"]["precision"])
        assert said["name"] == precision and said.get("calibration_images", 128) == 128
        checks, scores = certificate["checks"], certificate["scores"]
        assert all(row["passed"] for row in checks + scores)
        assert {row["images"] for row in scores} == {"validation", "test"}
        odd = {"1 x 1", "31 x 997", "3000 x 2500", "black", "white", "noise"}
        assert odd <= {row["images"] for row in checks}
        assert all(row["grey_levels"] <= 1 for row in checks if row["images"] in odd)
        limit = {"fp32": 1e-4, "fp16": 5e-3, "int8": 1}[precision]
        assert 0 <= max(row["probability_max"] for row in checks) <= limit


def test_predict_and_evaluate_take_every_precision(three, cache, tmp_path, phantoms, capsys):
    Image.fromarray(phantoms.images[0]).save(tmp_path / "film.png")
    probabilities = []
    for name in NAMES:
        capsys.readouterr()
        graph = str(three / "onnx" / f"{name}.onnx")
        assert predict.main([graph, str(tmp_path / "film.png"), "--json", "--provider", "cpu"]) == 0
        row = json.loads(capsys.readouterr().out)
        assert row["model"].startswith(f"{name} SYNTHETIC ")
        probabilities.append(row["probability"])
    assert np.ptp(probabilities) < 0.1
    places = ["--runs", str(three / "runs"), "--onnx", str(three / "onnx"), "--report", str(tmp_path / "report")]
    assert evaluate.main(["--all", *places, "--cache", str(cache)]) == 0
    found = json.loads((tmp_path / "report" / "results.json").read_text())["models"]
    assert [row["name"] for row in found] == ["simple", *(f"{name}.onnx" for name in NAMES)]
    assert "another checkpoint" not in capsys.readouterr().out


def test_int8_that_decides_otherwise_is_caught(three, phantoms, tmp_path):
    """A factor in the last hidden layer: each output still follows from the others."""
    expected = expected_of(three / "runs" / "simple" / "model.pt", phantoms)
    path = edited(three / "onnx" / "simple-int8.onnx", tmp_path / "x.onnx", scale_initializer("fc3.bias", -300.0))
    with pytest.raises(Problem, match="the graph scores differently from PyTorch on cpu, validation"):
        proof.prove(path, expected, ["cpu"])
    path = edited(three / "onnx" / "simple-int8.onnx", tmp_path / "x.onnx", scale_initializer("threshold", 0.5))
    with pytest.raises(Problem, match="the graph's answers differ"):
        proof.prove(path, expected, ["cpu"])


def squeeze(factor: float):
    """Odds nearer to those of the threshold, by the last layer: order and decisions stay, and it is in float32."""

    def edit(graph: onnx.ModelProto) -> None:
        facts = building.facts_of(graph)
        threshold, temperature = (float(building.fact(facts, key)) for key in ("threshold", "temperature"))
        middle = temperature * np.log(threshold / (1 - threshold))
        for tensor in graph.graph.initializer:
            if "fc3" in tensor.name:
                values = numpy_helper.to_array(tensor) * np.float32(factor)
                if "bias" in tensor.name:
                    values = values + np.array([0, (1 - factor) * middle], np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))

    return edit


def test_squeezed_probabilities_are_refused_in_each_precision(three, phantoms, cache, tmp_path, capsys):
    """All between .73 and .76, say: AUROC and each decision are right, and they are no probabilities any more."""
    expected = expected_of(three / "runs" / "simple" / "model.pt", phantoms)
    kept = json.loads((three / "onnx" / "simple-int8.json").read_text())
    for name in NAMES:
        path = edited(three / "onnx" / f"{name}.onnx", tmp_path / "x.onnx", squeeze(0.02))
        found = sessions.graph_outputs(sessions.open_graph(path), expected.images, 64)
        assert np.ptp(found["probability"]) < 0.1 < np.ptp(expected.probabilities)
        assert (found["decision"] != expected.decisions).sum() <= 1
        what = "scores differently.*brier by .*probability max by" if name == "simple-int8" else "answers differ"
        with pytest.raises(Problem, match=f"the graph.* {what}"):
            proof.prove(path, expected, ["cpu"])
        if name == "simple-int8":
            sealed = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            path.with_suffix(".json").write_text(json.dumps(kept | sealed))
            assert export.main(["verify", str(path), "--cache", str(cache)]) == 1
            assert "scores differently from PyTorch on cpu, validation: " in capsys.readouterr().err
        said = edited(path, tmp_path / "y.onnx", claim("int8" if name != "simple-int8" else "fp16"))
        with pytest.raises(Problem, match="the graph says that it is .*, and its weights are"):
            proof.prove(said, expected, ["cpu"])


def claim(precision: str):
    def edit(graph: onnx.ModelProto) -> None:
        helper.set_model_props(graph, building.facts_of(graph) | {"precision": json.dumps({"name": precision})})

    return edit


LABELS = np.arange(1000) % 2
MARGINS = np.where(LABELS == 1, 2.0, -2.0) + np.random.default_rng(0).normal(0, 1, 1000)


def scored(margins: np.ndarray, precision: str = "int8") -> dict:
    """The row of a graph whose log-odds are these, where PyTorch's are MARGINS."""
    logits = np.stack([np.zeros(1000), margins], 1).astype(np.float32)
    found = {"logits": logits, "probability": 1 / (1 + np.exp(-margins.astype(np.float32)))}
    return scoring.score(LABELS, np.stack([np.zeros(1000), MARGINS], 1), found, 1.0, 0.5, precision)


@pytest.mark.parametrize(
    ("margins", "over"),
    [
        (MARGINS, []),
        (np.where(np.arange(1000) == 0, MARGINS + 1.2, MARGINS), []),  # one film by a quarter
        (np.where(np.arange(1000) == 0, 4 - MARGINS, MARGINS), ["probability_max"]),
        (MARGINS * 0.7, ["log_loss", "probability_mean"]),
        (MARGINS * 2, ["log_loss", "probability_mean"]),
        (MARGINS * 0.2, ["brier", "log_loss", "probability_mean", "probability_max"]),
        (np.where(LABELS == 1, MARGINS - 0.2, MARGINS), ["accuracy", "brier"]),
    ],
)
def test_what_int8_may_change(margins, over):
    row = scored(margins)
    assert row["passed"] == (not over) and set(over) <= set(row["over"]) and (over or not row["over"])
    assert scored(margins, "fp32")["passed"]  # whose probabilities have a tolerance each
    logits = np.stack([np.zeros(1000), margins], 1)
    chances, before = (1 / (1 + np.exp(-some)) for some in (margins, MARGINS))
    assert row["change"]["probability_max"] == pytest.approx(np.abs(chances - before).max(), abs=1e-6)
    assert row["change"]["probability_mean"] == pytest.approx(np.abs(chances - before).mean(), abs=1e-6)
    brier = abs(np.mean((chances - LABELS) ** 2) - np.mean((before - LABELS) ** 2))
    assert row["change"]["brier"] == pytest.approx(brier, abs=1e-6)
    losses = [np.mean(np.logaddexp(0, np.where(LABELS == 1, -some, some))) for some in (logits[:, 1], MARGINS)]
    assert row["change"]["log_loss"] == pytest.approx(abs(losses[0] - losses[1]), abs=1e-6)


def test_the_worst_that_int8_has_cost_is_within_the_bounds():
    """README's table: .24 of one film, 0.0002 of AUROC and 0.002 of accuracy, of resnet34-pretrained."""
    assert scoring.INT8["probability_max"] > 0.24
    assert scoring.INT8["auroc"] > 0.0002 and scoring.INT8["accuracy"] > 0.002


def test_int8_that_answers_nan_is_caught(three, phantoms, tmp_path):
    expected = expected_of(three / "runs" / "simple" / "model.pt", phantoms)
    path = edited(three / "onnx" / "simple-int8.onnx", tmp_path / "x.onnx", scale_initializer("fc3.bias", float("nan")))
    with pytest.raises(Problem, match="the graph's answers differ from PyTorch's on cpu, validation"):
        proof.prove(path, expected, ["cpu"])


def test_int8_asks_for_images_that_the_model_was_trained_on(three, cache, tmp_path, capsys):
    folder = make_folder(tmp_path / "x", count=30)
    model = str(three / "runs" / "simple" / "model.pt")
    arguments = [model, "--data", str(folder), "--cache", str(cache), "--onnx", str(tmp_path / "onnx")]
    assert export.main([*arguments, "--precision", "int8"]) == 1
    captured = capsys.readouterr()
    assert "takes its ranges from training images" in captured.err and not (tmp_path / "onnx").exists()
    assert export.main(arguments) == 0  # float32 can be compared on any images, and says that these are others
    assert "is not the data" in capsys.readouterr().out
    certificate = json.loads((tmp_path / "onnx" / "simple.json").read_text())
    assert certificate["data"]["split_is_the_models"] is False


# ------------------------------------------------------------------------------------------ verify, threshold


@pytest.fixture
def copied(three, tmp_path) -> Path:
    shutil.copytree(three / "onnx", tmp_path / "onnx")
    return tmp_path / "onnx"


def test_the_proof_is_repeated_without_the_checkpoint(copied, cache, tmp_path, capsys):
    every = [str(copied / f"{name}.onnx") for name in NAMES]
    assert export.main(["verify", *every, "--cache", str(cache)]) == 0
    looks = (tmp_path / "runs" / "test-ledger.jsonl").read_text().splitlines()
    assert len(looks) == len(every) and all('"export.py verify"' in look for look in looks)
    out = capsys.readouterr().out
    assert out.count("181 of 181 different images of its certificate found in phantoms") == 3
    assert out.count("the same answers as PyTorch's") == 3
    beside = copied / "simple.json"
    kept = json.loads(beside.read_text())
    first = next(iter(kept["reference"]["test"]))
    kept["reference"]["test"][first] = "1.5 2.5"
    beside.write_text(json.dumps(kept))
    assert export.main(["verify", every[0], "--cache", str(cache)]) == 1
    assert "differ from PyTorch's on cpu, test" in capsys.readouterr().err


def test_a_certificate_of_an_earlier_version_verifies_what_it_can(copied, cache, capsys):
    for name in NAMES:
        kept = json.loads((copied / f"{name}.json").read_text())
        (copied / f"{name}.json").write_text(
            json.dumps({k: v for k, v in kept.items() if k not in ("unusual", "seen")})
        )
        assert export.main(["verify", str(copied / f"{name}.onnx"), "--cache", str(cache), "--verbose"]) == 0
        out = capsys.readouterr().out
        assert "its certificate is of an earlier version, and has no films of other shapes and looks; " in out
        assert re.search(r"; \d\d are drawn anew, and held against their squares", out) and "portrait, new" in out


def test_films_of_the_certificate_are_made_again(copied, cache, capsys):
    assert export.main(["verify", str(copied / "simple.onnx"), "--cache", str(cache)]) == 0
    out = capsys.readouterr().out
    again = re.search(r"of other shapes and looks (\d+) of (\d+) are made again", out)
    assert again and again[1] == again[2] and int(again[1]) > 50
    kept = json.loads((copied / "simple.json").read_text())
    one = next(iter(kept["unusual"]["drawn"].values()))
    for wrong, said in (("1.5 2.5 " * (len(one["logits"].split()) // 2), "differ from PyTorch's on cpu, "),
                        ("1.5", "the certificate is damaged"), ("nan 1", "the certificate is damaged"),
                        (7, "the certificate is damaged")):  # fmt: skip
        one["logits"] = wrong
        (copied / "simple.json").write_text(json.dumps(kept))
        assert export.main(["verify", str(copied / "simple.onnx"), "--cache", str(cache)]) == 1
        assert said in capsys.readouterr().err


FACTS = ("intended_use", "architecture", "normalisation", "operating_points", "stress", "data", "split", "versions",
         "threshold_rule", "checkpoint_sha256", "quick", "seen", "precision", "name", "classes")  # fmt: skip


@pytest.mark.parametrize("key", FACTS)
def test_metadata_that_were_changed_by_hand_are_refused_key_by_key(copied, cache, capsys, key):
    """Though the graph's own sum and that in the certificate were made right."""
    graph, beside = copied / "simple.onnx", copied / "simple.json"

    def edit(model: onnx.ModelProto) -> None:
        facts = building.facts_of(model)
        helper.set_model_props(model, facts | {key: facts.get(key, "{}").replace("0", "1") + " "})

    edited(graph, graph, edit)
    kept = json.loads(beside.read_text()) | {"sha256": hashlib.sha256(graph.read_bytes()).hexdigest()}
    beside.write_text(json.dumps(kept))
    before = graph.read_bytes()
    for command in (["verify", str(graph), "--cache", str(cache)], ["threshold", str(graph), "0.3"]):
        assert export.main(command) == 1
        error = capsys.readouterr().err
        assert f"simple.onnx: its metadata are not those of its certificate: {key} is " in error
        assert len(error.splitlines()) == 1 and graph.read_bytes() == before
    del kept["metadata"]
    beside.write_text(json.dumps(kept))
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 1
    assert "its certificate has no metadata" in capsys.readouterr().err


def test_a_fact_more_or_less_is_refused(copied, cache, capsys):
    graph, beside = copied / "simple.onnx", copied / "simple.json"
    for change, said in ((lambda facts: facts | {"approved": "yes"}, "approved is yes, and nothing there"),
                         (lambda facts: {k: v for k, v in facts.items() if k != "stress"}, "stress is nothing, and "),
                         ):  # fmt: skip
        path = copied / "x.onnx"
        edited(
            graph, path, lambda model, change=change: helper.set_model_props(model, change(building.facts_of(model)))
        )
        kept = json.loads(beside.read_text()) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        path.with_suffix(".json").write_text(json.dumps(kept))
        assert export.main(["verify", str(path), "--cache", str(cache)]) == 1
        assert said in capsys.readouterr().err


def test_images_that_are_missing_are_counted(copied, cache, phantoms, tmp_path, capsys):
    split = data.split(phantoms)
    some = [*split.validation[::20], *split.test[::30], *split.train[::80]]
    assert set(phantoms.labels[some]) == {0, 1}
    for i in some:
        file = tmp_path / "few" / ("NORMAL", "PNEUMONIA")[phantoms.labels[i]] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantoms.images[i]).save(file)
    graph = str(copied / "simple.onnx")
    assert export.main(["verify", graph, "--data", str(tmp_path / "few"), "--cache", str(cache)]) == 0
    assert re.search(r"8 of 181 .* in .*few; the others are not checked", capsys.readouterr().out)
    other = make_folder(tmp_path / "other", count=3)
    assert export.main(["verify", graph, "--data", str(other), "--cache", str(cache)]) == 1
    assert "none of the 181 images of the certificate is there" in capsys.readouterr().err
    kept = json.loads((copied / "simple.json").read_text())
    kept["data"]["source"] = "/nowhere/chest_xray"
    (copied / "simple.json").write_text(json.dumps(kept))
    assert export.main(["verify", graph, "--cache", str(cache)]) == 1
    assert "/nowhere/chest_xray, which is not here; --data names" in capsys.readouterr().err


def test_a_graph_without_its_own_certificate_is_refused(copied, cache, capsys):
    graph = copied / "simple.onnx"
    edited(graph, graph, scale_initializer("fc2.weight", 1.5))
    for command in (["verify", str(graph), "--cache", str(cache)], ["threshold", str(graph), "0.3"]):
        assert export.main(command) == 1
        assert "simple.onnx is not the graph that simple.json certifies" in capsys.readouterr().err
    (copied / "simple.json").write_text("{}")
    assert export.main(["verify", str(graph)]) == 1
    assert "not a certificate that export.py wrote" in capsys.readouterr().err
    (copied / "simple.json").unlink()
    assert export.main(["verify", str(graph), str(copied / "none.onnx")]) == 1
    error = capsys.readouterr().err
    assert "simple.json: no such file" in error and "none.onnx: no such file" in error
    kept = json.loads((copied / "simple-fp16.json").read_text())
    del kept["reference"]["odd"]
    (copied / "simple-fp16.json").write_text(json.dumps(kept))
    assert export.main(["verify", str(copied / "simple-fp16.onnx"), "--cache", str(cache)]) == 1
    assert "the certificate is damaged (KeyError" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_is_changed_with_the_certificate(copied, cache, phantoms, capsys, name):
    graph, old = copied / f"{name}.onnx", sessions.open_graph(copied / f"{name}.onnx")
    as_exported = graph.read_bytes()
    before = sessions.graph_outputs(old, phantoms.images, 64)
    assert export.main(["threshold", str(graph), "0.9"]) == 0
    assert f"{name}.onnx: threshold 0.9, was " in capsys.readouterr().out
    after = sessions.graph_outputs(sessions.open_graph(graph), phantoms.images, 64)
    np.testing.assert_array_equal(after["probability"], before["probability"])
    np.testing.assert_array_equal(after["decision"], before["probability"] >= np.float32(0.9))
    facts = old.get_modelmeta().custom_metadata_map
    kept = json.loads((copied / f"{name}.json").read_text())
    assert kept["threshold_changes"][0]["from"] == json.loads(facts["threshold"])
    assert (kept["metadata"]["threshold"], kept["metadata"]["threshold_rule"]) == ("0.9", "set by hand")
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 0
    assert export.main(["threshold", str(graph), "0.25"]) == 0
    changes = json.loads((copied / f"{name}.json").read_text())["threshold_changes"]
    assert [change["to"] for change in changes] == [0.9, 0.25]
    written = [(path, path.read_bytes()) for path in (graph, copied / f"{name}.json")]
    capsys.readouterr()
    assert export.main(["threshold", str(graph), "0.25"]) == 0
    assert capsys.readouterr().out.startswith(f"{graph}: threshold 0.25: already so, nothing written")
    assert all(path.read_bytes() == content for path, content in written)
    assert export.main(["threshold", str(graph), "validation"]) == 0  # back to what it was exported with
    assert f"{name}.onnx: threshold {json.loads(facts['threshold']):g}, was 0.25; " in capsys.readouterr().out
    assert graph.read_bytes() == as_exported  # so its rule is that of the export again
    assert export.main(["threshold", str(graph), "validation"]) == 0
    assert "already so, nothing written" in capsys.readouterr().out and graph.read_bytes() == as_exported
    changes = json.loads((copied / f"{name}.json").read_text())["threshold_changes"]
    assert [change["to"] for change in changes] == [0.9, 0.25, json.loads(facts["threshold"])]
    back = sessions.open_graph(graph)
    assert back.get_modelmeta().custom_metadata_map["threshold"] == facts["threshold"]
    again = sessions.graph_outputs(back, phantoms.images, 64)
    np.testing.assert_array_equal(again["decision"], before["decision"])


def test_a_change_of_threshold_that_was_broken_off_can_be_repeated(copied, cache, monkeypatch, capsys):
    graph = copied / "simple.onnx"
    honest = disk.write_bytes

    def killed(path: Path, content: bytes) -> None:
        if path.suffix == ".onnx":
            raise KeyboardInterrupt
        honest(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_bytes", killed)
        assert export.main(["threshold", str(graph), "0.9"]) == 130
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 1
    assert "a change of its threshold was broken off" in capsys.readouterr().err
    cut = (copied / "simple.json").read_bytes()
    assert export.main(["threshold", str(graph), "validation"]) == 0  # it is taken back
    assert json.loads((copied / "simple.json").read_text())["threshold_changes"] == []
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 0
    (copied / "simple.json").write_bytes(cut)
    assert export.main(["threshold", str(graph), "0.9"]) == 0
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 0
    assert len(json.loads((copied / "simple.json").read_text())["threshold_changes"]) == 1


def test_a_threshold_of_a_graph_alone_and_wrong_ones(copied, tmp_path, capsys):
    (copied / "simple.json").unlink()
    assert export.main(["threshold", str(copied / "simple.onnx"), "0.9"]) == 0
    assert "there is no certificate beside it" in capsys.readouterr().out
    for wrong in ("1.5", "nan", "half"):
        with pytest.raises(SystemExit) as caught:
            export.main(["threshold", str(copied / "simple.onnx"), wrong])
        assert caught.value.code == 2
    (tmp_path / "text.onnx").write_text("no graph")
    for name, why in (("text.onnx", "onnxruntime cannot open it: no ONNX file"), ("none.onnx", "no such file")):
        assert export.main(["threshold", str(tmp_path / name), "0.5"]) == 1
        assert f"{name}: {why}" in capsys.readouterr().err
