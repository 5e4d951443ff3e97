"""verify.py through export.py: each precision of a trained network, its certificate, and a changed threshold."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import make_folder
from PIL import Image
from test_exporting import edited, expected_of, scale_initializer

import data
import evaluate
import export
import predict
import train
from basics import disk, terms
from basics.problems import Problem
from graphs import proof, sessions


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The ledger of looks at test labels goes to runs/ of the folder that one is in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def three(cache, tmp_path_factory) -> Path:
    """A folder with runs/ and onnx/: a small network that has learned something, in all three precisions."""
    folder = tmp_path_factory.mktemp("three")
    options = ["--data", "phantoms", "--cache", str(cache), "--size", "64", "--out", str(folder / "runs")]
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
        certificate = json.loads((three / "onnx" / f"{name}.json").read_text())
        assert certificate == json.loads((three / "again" / f"{name}.json").read_text())
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
