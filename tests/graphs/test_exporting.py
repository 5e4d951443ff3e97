import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import data
import export
import models
import train
from basics.problems import Problem
from films import images
from graphs import building, proof, scoring, sessions
from metrics import measures
from training import limits
from training.checkpoints import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
SIZE = 40


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The ledger of looks at test labels goes to runs/ of the folder that one is in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def phantoms(cache) -> data.Dataset:
    """Of the smallest size at which a ResNet's heat map still has several places, 2 x 2."""
    return data.load("phantoms", SIZE, cache)


def shaken(architecture: str, size: int) -> torch.nn.Module:
    """A network whose batch-norm statistics and parameters are not those of a fresh one, which hide errors."""
    torch.manual_seed(0)
    network = models.build(architecture, size)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return network.eval()


def limits_of(network: torch.nn.Module, phantoms: data.Dataset, normalisation=(0.5, 0.25)) -> dict:
    split = data.split(phantoms)
    patients = [phantoms.patients[i] for i in split.validation]
    table = torch.from_numpy(np.array(phantoms.images))
    films = limits.Films(table, phantoms.labels, split.train, split.validation, patients)
    return limits.fit(network, films, tuple(normalisation), CPU)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, cache, phantoms) -> dict[str, Path]:
    """A checkpoint of each kind of network, with a temperature and a threshold that are not 1 and 0.5."""
    out = tmp_path_factory.mktemp("runs")
    options = ["--data", "phantoms", "--cache", str(cache), "--size", str(SIZE), "--out", str(out), "--epochs", "2"]
    assert train.main(["--arch", "simple", *options]) == 0
    checkpoint, network = load_checkpoint(out / "simple" / "model.pt")
    split = data.split(phantoms)
    found = {}
    for architecture in ("simple", "resnet34"):
        if architecture == "resnet34":
            network = shaken(architecture, SIZE)
        content = {**checkpoint, "name": architecture, "architecture": architecture, "temperature": 1.7,
                   "state": network.state_dict()}  # fmt: skip
        content["limits"] = limits_of(network, phantoms, content["normalisation"])
        expected = proof.reference(network, {**content, "threshold": 0.5}, phantoms, split)
        content["threshold"] = float(np.median(expected.probabilities)) + 1e-3
        found[architecture] = out / architecture / "model.pt"
        save_checkpoint(found[architecture], content)
    return found


@pytest.fixture(scope="module")
def exported(checkpoints, cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    for path in checkpoints.values():
        assert export.main([str(path), "--cache", str(cache), "--onnx", str(folder), "--runs", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def expected(checkpoints, phantoms) -> dict[str, proof.Reference]:
    return {name: expected_of(path, phantoms) for name, path in checkpoints.items()}


def expected_of(path: Path, phantoms: data.Dataset) -> proof.Reference:
    checkpoint, network = load_checkpoint(path)
    return proof.reference(network, checkpoint, phantoms, data.split(phantoms))


@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
def test_a_graph_gives_pytorchs_answers_and_says_what_it_is(exported, checkpoints, expected, architecture):
    graph = onnx.load(exported / f"{architecture}.onnx")
    assert [item.version for item in graph.opset_import if item.domain == ""] == [building.OPSET]
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    # Nodes that compute shapes would be left on the CPU when the graph runs on a GPU.
    assert not {node.op_type for node in graph.graph.node} & {"Shape", "Size", "NonZero"}
    facts = {item.key: item.value for item in graph.metadata_props}
    checkpoint, _ = load_checkpoint(checkpoints[architecture])
    assert json.loads(facts["classes"]) == ["NORMAL", "PNEUMONIA"]
    assert json.loads(facts["temperature"]) == 1.7
    assert json.loads(facts["threshold"]) == checkpoint["threshold"]
    assert json.loads(facts["normalisation"]) == checkpoint["normalisation"]
    assert json.loads(facts["data"])["synthetic"] is True
    assert facts["architecture"] == architecture
    certificate = json.loads((exported / f"{architecture}.json").read_text())
    assert [(row["provider"], row["images"], row["batch"]) for row in certificate["checks"]][:4] == [
        ("cpu", "validation", 64), ("cpu", "test", 64), ("cpu", "some", 1), ("cpu", "some", 2)]  # fmt: skip
    assert all(row["passed"] for row in certificate["checks"] + certificate["scores"])
    # The numbers of the certificate again, without our verifier: onnxruntime and scipy-free softmax by hand.
    expected = expected[architecture]
    session = onnxruntime.InferenceSession(exported / f"{architecture}.onnx", providers=["CPUExecutionProvider"])
    probability, decision, logits = session.run(building.GRAPH_OUTPUTS, {"image": expected.images})
    odds = np.exp((logits[:, 1].astype(np.float64) - logits[:, 0]) / 1.7)
    np.testing.assert_allclose(probability, odds / (1 + odds), atol=1e-6)
    np.testing.assert_array_equal(decision, probability >= np.float32(checkpoint["threshold"]))
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4 * np.abs(expected.logits).max())
    assert 0 < decision.sum() < len(decision)


def test_exporting_twice_gives_the_same_bytes_and_no_paths(exported, checkpoints, cache, tmp_path):
    assert export.main([str(checkpoints["simple"]), "--cache", str(cache), "--onnx", str(tmp_path)]) == 0
    content = (tmp_path / "simple.onnx").read_bytes()
    assert content == (exported / "simple.onnx").read_bytes()
    for trace in (str(Path(export.__file__).parent), str(checkpoints["simple"].parent), "Traceback", "site-packages"):
        assert trace.encode() not in content


@pytest.mark.parametrize("size", [(SIZE, SIZE), (31, 97), (300, 211), (1, 1), (SIZE, 500)])
def test_the_graph_resizes_as_data_does(exported, checkpoints, size):
    """Raw pixels of any size through the graph, against images.decode and PyTorch, which share no code with it."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8))
    image = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
    decoded = images.decode(np.asarray(image), SIZE).pixels
    checkpoint, network = load_checkpoint(checkpoints["simple"])
    raw = np.asarray(image)[None]
    resized = building.Deployed(network, checkpoint).resize(torch.from_numpy(raw.copy()))[0, 0].numpy()
    assert np.abs(resized - decoded.astype(float)).max() <= 1
    mean, std = checkpoint["normalisation"]
    with torch.no_grad():
        logits = network(torch.from_numpy((decoded[None, None] / 255.0 - mean) / std).float()).numpy()
    found = sessions.graph_outputs(sessions.open_graph(exported / "simple.onnx"), raw, 1)
    assert abs(found["probability"][0] - measures.positive_probability(logits, checkpoint["temperature"])[0]) < 5e-3


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("size", [(SIZE, SIZE), (300, 211), (31, 97), (1, 60)])
def test_other_fits_are_in_the_graph_too(checkpoints, tmp_path, fit, size):
    checkpoint, network = load_checkpoint(checkpoints["simple"])
    checkpoint["fit"] = fit
    onnx.save(building.to_graph(network, checkpoint, "hash"), tmp_path / "x.onnx")
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 12), np.uint8))
    raw = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    decoded = images.decode(raw, SIZE, fit).pixels
    mean, std = checkpoint["normalisation"]
    with torch.no_grad():
        logits = network(torch.from_numpy((decoded[None, None] / 255.0 - mean) / std).float()).numpy()
    found = sessions.graph_outputs(sessions.open_graph(tmp_path / "x.onnx"), raw[None], 1)
    assert abs(found["probability"][0] - measures.positive_probability(logits, checkpoint["temperature"])[0]) < 5e-3


def edited(source: Path, target: Path, edit) -> Path:
    graph = onnx.load(source)
    edit(graph)
    target.write_bytes(building.sealed(graph))
    return target


def scale_initializer(name_part: str, factor: float):
    def edit(graph: onnx.ModelProto) -> None:
        tensor = next(t for t in graph.graph.initializer if name_part in t.name)
        values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))

    return edit


@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_perturbed_weight_is_caught(exported, expected, tmp_path, architecture, factor):
    part = {"simple": "fc1.weight", "resnet34": "layer2.0.conv1.weight"}[architecture]
    names = [t.name for t in onnx.load(exported / f"{architecture}.onnx").graph.initializer]
    part = part if any(part in name for name in names) else next(n for n in names if n.endswith("weight"))
    path = edited(exported / f"{architecture}.onnx", tmp_path / "x.onnx", scale_initializer(part, factor))
    with pytest.raises(Problem, match="the graph's answers differ from PyTorch's on cpu, validation, batches of 64"):
        proof.prove(path, expected[architecture], ["cpu"])


@pytest.mark.parametrize(
    "change",
    [{"temperature": 1.0}, {"threshold": 0.9999}, {"normalisation": [0.45, 0.25]}],
    ids=["dropped temperature", "other threshold", "wrong normalisation"],
)
def test_a_graph_made_with_other_facts_is_caught(checkpoints, expected, tmp_path, change):
    checkpoint, network = load_checkpoint(checkpoints["simple"])
    graph = building.to_graph(network, {**checkpoint, **change}, "hash")
    onnx.save(graph, tmp_path / "x.onnx")
    with pytest.raises(Problem, match="the graph's answers differ"):
        proof.prove(tmp_path / "x.onnx", expected["simple"], ["cpu"])


def test_batch_norm_in_training_mode_and_swapped_classes_are_caught(checkpoints, expected):
    expected = dataclasses.replace(expected["resnet34"], doubts=None)
    every = np.arange(len(expected.images))
    good = {"logits": expected.logits, "probability": expected.probabilities, "decision": expected.decisions}
    assert proof.compare(good, expected, every, 1e-4, None)["passed"]
    _, network = load_checkpoint(checkpoints["resnet34"])
    checkpoint, _ = load_checkpoint(checkpoints["resnet34"])
    deployed = building.Deployed(network, checkpoint)
    deployed.network.train()
    with torch.no_grad():
        outputs = deployed(torch.from_numpy(expected.images))
        wrong = dict(zip(building.GRAPH_OUTPUTS, (t.numpy() for t in outputs[:3]), strict=True))
    assert not proof.compare(wrong, expected, every, 1e-4, None)["passed"]
    swapped = {**good, "logits": expected.logits[:, ::-1]}
    assert not proof.compare(swapped, expected, every, 1e-4, None)["passed"]
    flipped = {**good, "decision": 1 - expected.decisions}
    row = proof.compare(flipped, expected, every, 1e-4, None)
    assert not row["passed"] and len(row["flipped"]) == len(every)


def test_a_fixed_batch_dimension_is_caught(exported, expected, tmp_path):
    def fix(graph: onnx.ModelProto) -> None:
        dimension = graph.graph.input[0].type.tensor_type.shape.dim[0]
        dimension.Clear()
        dimension.dim_value = 1

    path = edited(exported / "simple.onnx", tmp_path / "x.onnx", fix)
    with pytest.raises(Problem):
        proof.prove(path, expected["simple"], ["cpu"])


def test_a_broken_export_exits_with_1_and_leaves_no_graph(exported, checkpoints, cache, tmp_path, monkeypatch, capsys):
    honest = building.to_graph

    def broken(*arguments):
        graph = honest(*arguments)
        scale_initializer("fc2.weight", 1.05)(graph)
        return graph

    monkeypatch.setattr(building, "to_graph", broken)
    (tmp_path / "simple.onnx").write_bytes(b"an earlier graph")
    arguments = [str(checkpoints["simple"]), "--cache", str(cache), "--onnx", str(tmp_path)]
    assert export.main(arguments) == 1
    captured = capsys.readouterr()
    assert "DIFFERENT" in captured.out
    assert f"error: {checkpoints['simple']}, fp32: the graph's answers differ from PyTorch's" in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "simple.onnx.old"]  # runs: the ledger
    assert (tmp_path / "simple.onnx.old").read_bytes() == b"an earlier graph"


def test_resizing_without_antialiasing_is_caught(exported, expected, tmp_path):
    def alias(graph: onnx.ModelProto) -> None:
        (resize,) = (node for node in graph.graph.node if node.op_type == "Resize")
        for item in resize.attribute:
            if item.name in ("antialias", "exclude_outside"):
                item.i = 0

    path = edited(exported / "simple.onnx", tmp_path / "x.onnx", alias)
    with pytest.raises(Problem, match=r"on cpu, 31 x 997, .*pixels off by \d+ grey levels"):
        proof.prove(path, expected["simple"], ["cpu"])


def test_a_heat_map_that_does_not_add_up_is_caught(exported, expected, tmp_path):
    path = edited(exported / "resnet34.onnx", tmp_path / "x.onnx", scale_initializer("evidence", 1.01))
    with pytest.raises(Problem, match="the graph's answers differ"):
        proof.prove(path, expected["resnet34"], ["cpu"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: CUDA does not fall back")
def test_a_silent_fall_back_from_cuda_is_a_failure(exported):
    with warnings.catch_warnings(), pytest.raises(Problem, match="cuda was asked for, and onnxruntime runs it on CPU"):
        warnings.simplefilter("ignore", UserWarning)  # onnxruntime's own warning that it falls back
        sessions.open_graph(exported / "simple.onnx", "cuda")


def test_a_provider_that_is_replaced_is_noticed(exported, monkeypatch):
    class Replaced:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Replaced)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(Problem, match="cuda was asked for, and onnxruntime runs it on CPUExecutionProvider"):
        sessions.open_graph(exported / "simple.onnx", "cuda")


def test_where_there_is_a_gpu_cuda_is_checked_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert proof.providers() == (["cpu", "cuda"], [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names, unchecked = proof.providers()
    assert names == ["cpu"] and "CUDA was not checked" in unchecked[0]


def test_errors_are_named(tmp_path, cache, capsys):
    with pytest.raises(SystemExit) as caught:
        export.main([])
    assert caught.value.code == 2
    assert export.main(["--all", "--runs", str(tmp_path)]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    (tmp_path / "x.pt").write_text("no checkpoint")
    assert export.main([str(tmp_path / "x.pt"), "--onnx", str(tmp_path)]) == 1
    assert "x.pt: not a whole checkpoint" in capsys.readouterr().err
    (tmp_path / "x.onnx").write_text("no graph")
    with pytest.raises(Problem, match="x.onnx: onnxruntime cannot open it on cpu"):
        sessions.open_graph(tmp_path / "x.onnx")
    with pytest.raises(Problem, match="none.onnx: no such file"):
        sessions.open_graph(tmp_path / "none.onnx")
    with pytest.raises(SystemExit) as caught:
        export.main(["--help"])
    assert caught.value.code == 0 and "--all" in capsys.readouterr().out


@pytest.mark.parametrize("facts", [{"synthetic": True, "quick": False}, {"synthetic": False, "quick": True},
                                   {"synthetic": True, "quick": True}])  # fmt: skip
def test_a_graph_of_drawings_or_of_a_smoke_run_takes_no_real_ones_place(checkpoints, cache, tmp_path, capsys, facts):
    checkpoint, _ = load_checkpoint(checkpoints["simple"])
    checkpoint |= {"quick": facts["quick"], "data": checkpoint["data"] | {"synthetic": facts["synthetic"]}}
    lesser = tmp_path / "lesser" / "model.pt"
    save_checkpoint(lesser, checkpoint)
    _, network = load_checkpoint(checkpoints["simple"])
    real = checkpoint | {"quick": False, "data": checkpoint["data"] | {"synthetic": False}}
    (tmp_path / "onnx").mkdir()
    there = tmp_path / "onnx" / "simple.onnx"
    there.write_bytes(building.sealed(building.to_graph(network, real, "hash")))
    before = there.read_bytes()
    arguments = [str(lesser), "--cache", str(cache)]
    assert export.main([*arguments, "--onnx", str(tmp_path / "onnx"), "--precision", "fp16", "fp32"]) == 1
    error = capsys.readouterr().err
    assert "simple.onnx is a graph of real films, and this one is of " in error and "--onnx names another" in error
    assert len(error.splitlines()) == 1 and there.read_bytes() == before
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["simple.onnx"] and not Path("runs").exists()
    assert export.main([*arguments, "--onnx", str(tmp_path / "other")]) == 0


def test_a_graph_of_drawings_takes_the_place_of_another_one_and_of_what_is_no_graph(
    checkpoints, cache, tmp_path, capsys
):
    tmp_path = tmp_path / "with a blank"  # what is printed to be copied has it in quotes
    tmp_path.mkdir()
    arguments = [str(checkpoints["simple"]), "--cache", str(cache), "--onnx", str(tmp_path)]
    (tmp_path / "simple.onnx").write_bytes(b"an earlier graph")
    assert export.main(arguments) == 0
    assert export.main(["threshold", str(tmp_path / "simple.onnx"), "0.25"]) == 0
    capsys.readouterr()
    assert export.main(arguments) == 0
    out = capsys.readouterr().out
    assert "\nnote: the threshold that was set in the earlier graph (0.25) is gone; validation's (0." in out
    assert f"\nnext: python predict.py '{tmp_path / 'simple.onnx'}' FILM_OR_FOLDER\n" in out
    assert out.endswith(f"and: python evaluate.py --all --onnx '{tmp_path}'\n")


def check(images: str, probability: float = 1e-8, batch: int | str = 1, **more) -> dict:
    return {"provider": "cpu", "images": images, "n": 2, "batch": batch, "probability_max": probability,
            "probability_mean": 0.0, "logit_relative": 0.0, "tolerance": 1e-4, "flipped": [], "passed": True,
            **more}  # fmt: skip


def test_the_table_has_a_row_for_each_group_and_for_each_check_that_differs():
    checks = [check("validation", batch=64), check("test", batch=64), check("some"), check("some", 2e-8, batch=2),
              *(check(name) for name in proof.odd_images(8)), check("portrait"), check("thin", 3e-8, batch="1 to 2"),
              check("dark"), check("flat", flipped=["x"]), check("original size"),
              check("some", batch="3 to 80")]  # fmt: skip
    rows = scoring.in_short(checks)
    assert [row["images"] for row in rows] == [
        "validation", "test", "small batches", "odd images; worst: 1 x 1", "films of other shapes; worst: thin",
        "other looks; worst: dark", "films at their own size", "other batches",
    ]  # fmt: skip
    assert [row["n"] for row in rows] == [2, 2, 4, 12, 4, 4, 2, 2]
    assert rows[2]["probability_max"] == 2e-8 and rows[4]["probability_max"] == 3e-8 and rows[5]["flipped"] == ["x"]
    assert set(scoring.ODD) == set(proof.odd_images(8)) and scoring.group_of(check("dark, new")) == "other looks"
    bad = [check("white", float("nan"), passed=False), check("black", passed=False)]
    rows = scoring.in_short([*checks, *bad])
    assert [row for row in rows if not row["passed"]] == bad and "odd images" not in [row["images"] for row in rows]


def test_with_verbose_every_check_has_its_row_and_the_certificate_has_them_anyway(exported, cache, tmp_path, capsys):
    certificate = json.loads((exported / "simple.json").read_text())
    common = ["--cache", str(cache), "--runs", str(tmp_path / "runs")]
    out = {}
    for options in ([], ["--verbose"]):
        assert export.main(["verify", str(exported / "simple.onnx"), *common, *options]) == 0
        out[len(options)] = capsys.readouterr().out
    assert sum(line.startswith("cpu ") for line in out[0].splitlines()) <= 10
    assert sum(line.startswith("cpu ") for line in out[1].splitlines()) >= 25 <= len(certificate["checks"])
