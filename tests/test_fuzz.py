"""The short form of tests/fuzzing.py, and attacks of which the outcome is known; the long form is `make fuzz`."""

import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import fuzzing
import numpy as np
import onnx
import pytest
from film_files import dicom, stored
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import data
import evaluate
import export
import predict
import train
from evaluation import tested_model
from graphs import building

SHORT = {"images": 40, "dicoms": 20, "checkpoints": 24, "graphs": 40, "manifests": 30, "archives": 30, "caches": 10,
         "states": 12, "records": 8, "ledgers": 40, "certificates": 10}  # fmt: skip


def test_no_damage_makes_a_traceback_a_crash_or_a_wrong_answer():
    """In a process of its own: this one may have threads, which a child that is forked does not get."""
    script = f"import sys, fuzzing; sys.exit(fuzzing.main([], {SHORT}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert {row[0]: int(row[1]) for row in rows} == SHORT
    assert all(int(row[3]) for row in rows if row[0] != "caches")  # there was something to refuse
    assert sum(int(row[2]) for row in rows) > 50  # and not everything was refused


def test_the_harness_sees_what_it_is_there_to_see(monkeypatch):
    """In place of a case: a crash of C code, too much memory, an exit, an error that names no file, and good ones."""
    script = (
        "import os, sys, fuzzing\n"
        "from pathlib import Path\n"
        "work = [lambda: os.kill(os.getpid(), 11), lambda: bytes(3 << 30), lambda: sys.exit(3), lambda: 'right',\n"
        "        lambda: fuzzing.names('error: no', Path('x')), lambda: 'refused']\n"
        "number = iter(())\n"
        "real = fuzzing.one_case\n"
        "def one_case(world, target, n):\n"
        "    fuzzing.TARGETS['x'] = lambda world, rng: work[n]()\n"
        "    return real(world, 'x', n)\n"
        "fuzzing.one_case = one_case\n"
        "for outcome in fuzzing.attack(None, 'x', list(range(6))).values(): print(outcome.split('\\n')[-2:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    found = done.stdout.splitlines()
    assert len(found) == 6, done.stderr
    for line, expected in zip(
        found, ("crash: exit code -11", "MemoryError", "left with 3", "right", "wrong: ", "refused"), strict=True
    ):
        assert expected in line


# ------------------------------------------------------------------------------------------------ known attacks


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> fuzzing.World:
    return fuzzing.World(tmp_path_factory.mktemp("world"))


class Payload:
    """Unpickled by pickle, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_checkpoint_that_runs_code_is_refused_by_every_script(world, tmp_path, capsys):
    """The true weights, and a payload where a plain value is due, in an archive whose checksums are right."""
    made, folder = tmp_path / "made", tmp_path / "runs" / "simple"
    folder.mkdir(parents=True)
    content = io.BytesIO()
    with zipfile.ZipFile(world.checkpoint) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            evil = pickle.dumps({"format": 1, "state": {}, "name": Payload(made)}, protocol=2)
            new.writestr(name, evil if name.endswith("data.pkl") else old.read(name))
    for name in ("model.pt", "last.pt"):
        (folder / name).write_bytes(content.getvalue())
    model = str(folder / "model.pt")
    for main, arguments in (
        (evaluate.main, [model, *world.options()]),
        (export.main, [model, "--onnx", str(tmp_path), *world.options()]),
        (train.main, [*world.train_options(), "--resume", "--out", str(tmp_path / "runs")]),
        (train.main, ["--arch", "resnet34-pretrained", "--weights", model, "--data", "phantoms"]),
    ):
        assert main(arguments) == 1
        assert re.search(r"error: .*(model|last)\.pt: not a .*it holds something else", capsys.readouterr().err)
        assert not made.exists()
    pickle.loads(pickle.dumps(Payload(made)))
    assert made.exists()  # as it would have been


def as_external(model: onnx.ModelProto, where: str) -> None:
    tensor = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where)


def with_custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-1].domain = "example.other"
    model.opset_import.append(helper.make_opsetid("example.other", 1))


def with_endless_loop(model: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, [])],
        [value("on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, [])],
    )
    for name, content in (("yes", True), ("long", 2**62), ("none", np.float32(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(content), name))
    model.graph.node.append(helper.make_node("Loop", ["long", "yes", "none"], ["end"], body=body))
    model.graph.output.append(value("end", TensorProto.FLOAT, []))


ATTACKS = {
    "above": (lambda model, above: as_external(model, "../above.bin"), "weights in another file"),
    "absolute": (lambda model, above: as_external(model, str(above)), "weights in another file"),
    "beside": (lambda model, above: as_external(model, "beside.bin"), "weights in another file"),
    "custom": (lambda model, above: with_custom_operator(model), "operators that are not ONNX's own"),
    "facts": (lambda model, above: None, "not a graph that export.py made"),
    "input": (lambda model, above: setattr(model.graph.input[0], "name", "other"), "its inputs are other"),
    "loop": (lambda model, above: with_endless_loop(model), "nodes with graphs or files in them"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_foreign_graph_is_refused_with_its_reason(world, tmp_path, capsys, attack):
    """Though its own SHA-256 and its certificate are right: whoever changes one can change all."""
    change, reason = ATTACKS[attack]
    file, above = tmp_path / "in" / "x.onnx", tmp_path / "above.bin"
    file.parent.mkdir()
    model = onnx.load(world.graph)
    for place in (above, file.parent / "beside.bin"):
        place.write_bytes(max((tensor.raw_data for tensor in model.graph.initializer), key=len))
    change(model, above)
    helper.set_model_props(model, {} if attack == "facts" else building.facts_of(model))
    file.write_bytes(building.sealed(model))
    kept = json.loads(world.certificate.read_text()) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    file.with_suffix(".json").write_text(json.dumps(kept))
    for main, first in ((evaluate.main, []), (export.main, ["verify"])):
        assert main([*first, str(file), *world.options()]) == 1
        assert re.search(f"error: .*x.onnx: .*{reason}", capsys.readouterr().err)
    if attack != "loop":  # predict.py cannot look into a graph: it has no onnx
        assert predict.main([str(file), str(world.film), "--provider", "cpu"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "x.onnx: " in error and len(error) < 1000


@pytest.mark.parametrize("where", ["weights", "metadata", "seal"])
def test_a_flipped_bit_in_a_graph_without_a_certificate_is_noticed(world, tmp_path, capsys, where):
    content = bytearray(world.graph.read_bytes())
    weights = max((tensor.raw_data for tensor in onnx.load(world.graph).graph.initializer), key=len)
    places = {"weights": content.index(weights) + len(weights) // 2, "metadata": content.index(b"temperature") + 15,
              "seal": len(content) - 1}  # fmt: skip
    content[places[where]] ^= 1
    file = tmp_path / "x.onnx"
    file.write_bytes(content)
    for main, arguments in ((evaluate.main, world.options()), (predict.main, [str(world.film)])):
        assert main([str(file), *arguments]) == 1
        assert "x.onnx: it does not match the SHA-256 at its end" in capsys.readouterr().err


def test_metadata_that_are_not_the_graphs_are_noticed(world, tmp_path, capsys):
    """With another temperature, threshold or order of classes the answers would be wrong, and look right."""
    file = tmp_path / "x.onnx"
    for key, value in (("temperature", "3.0"), ("threshold", "0.01"), ("classes", '["PNEUMONIA", "NORMAL"]')):
        model = onnx.load(world.graph)
        helper.set_model_props(model, building.facts_of(model) | {key: value})
        file.write_bytes(building.sealed(model))
        for main, arguments in ((evaluate.main, world.options()), (predict.main, [str(world.film)])):
            assert main([str(file), *arguments]) == 1, key
            assert re.search("x.onnx: |the graph's probability is .*, its decision ", capsys.readouterr().err)


def test_a_graph_without_a_sum_still_answers(world, tmp_path):
    model = onnx.load(world.graph)
    helper.set_model_props(model, building.facts_of(model))
    onnx.save(model, tmp_path / "x.onnx")
    assert tested_model.open_model(tmp_path / "x.onnx").name == "x.onnx"
    assert world.predicted(tmp_path / "x.onnx")[0]["probability"] == world.answer["probability"]


# ------------------------------------------------------------------------------------------------------ privacy


PLANTED = {"PatientName": "Planted^Nomen", "PatientID": "PLANT-4711", "PatientBirthDate": "19010203",
           "PatientAddress": "Plantroad 99", "AccessionNumber": "ACC-PLANT", "InstitutionName": "Plant Hospital",
           "ReferringPhysicianName": "Doctor^Planted", "StudyID": "STUDY-PLANT"}  # fmt: skip


def planted_films(films: Path) -> list[str]:
    """DICOM films with that in their headers, and one that cannot be decoded."""
    rng = np.random.default_rng(0)
    for label in data.CLASSES:
        (films / label).mkdir(parents=True)
        for i in range(15):
            values = rng.integers(0, 4096, (40, 50)).astype(np.uint16)
            header = {**PLANTED, "PatientID": f"PLANT-4711-{label}-{i}"}
            (films / label / f"{i}.dcm").write_bytes(dicom(values, **header))
    (films / "NORMAL" / "bad.dcm").write_bytes(dicom(stored(12), **PLANTED)[:-100])
    return [part for value in PLANTED.values() for part in value.split("^")]


def test_no_identity_of_a_patient_is_written_or_printed(tmp_path, capfd, monkeypatch):
    """Planted in DICOM files; looked for in every byte that the scripts leave behind, and in their file names."""
    films, left = tmp_path / "films", tmp_path / "left"
    secrets = planted_films(films)
    monkeypatch.chdir(tmp_path)
    source = ["--data", str(films), "--cache", str(left / "cache")]
    where = ["--runs", str(left / "runs"), "--onnx", str(left / "onnx"), "--all", "--skip-bad"]
    assert data.main(["check", *source, "--size", "32", "--json", str(left / "check.json")]) in (0, 1)
    assert data.main(["show", *source, "--size", "32"]) == 1  # bad.dcm is named
    train_options = ["--arch", "simple", "--epochs", "2", "--size", "32", "--skip-bad", "--out", str(left / "runs")]
    assert train.main([*source, *train_options]) == 0
    assert export.main([*source, *where]) == 0
    assert evaluate.main([*source, *where, "--report", str(left / "report")]) == 0
    predicted = ["--csv", str(left / "p.csv"), "--json", "--heatmaps", str(left / "heat")]
    assert predict.main([str(left / "onnx" / "simple.onnx"), str(films), *predicted]) == 1
    printed = capfd.readouterr()
    everything = {"printed": (printed.out + printed.err).encode()}
    for file in (file for file in left.rglob("*") if file.is_file()):
        everything[str(file)] = str(file.relative_to(left)).encode() + file.read_bytes()
        if file.suffix == ".png":
            with Image.open(file) as image:
                everything[f"{file} text"] = repr(image.info).encode()
    assert len(everything) > 40 and b"bad.dcm" in everything["printed"]
    for name, content in everything.items():
        for secret in secrets:
            for form in (secret.encode(), secret.encode("utf-16-le")):
                assert form.lower() not in content.lower(), f"{secret} is in {name}"
    assert any(b"patient-" in content for content in everything.values())  # the pseudonyms are
