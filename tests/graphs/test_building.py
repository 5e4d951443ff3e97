"""graphs.py: heat map, resizing, precisions, metadata and threshold of a graph."""

import functools
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper
from PIL import Image
from test_exporting import shaken

import models
from basics.problems import Problem
from evaluation import tested_model
from films import images, reading
from graphs import building, exporting, precisions, sessions

FACTS = {
    "name": "net", "architecture": "resnet34", "classes": ["NORMAL", "PNEUMONIA"], "size": 64, "fit": "stretch",
    "normalisation": [0.5, 0.25], "temperature": 1.5, "threshold": 0.5, "threshold_rule": "none",
    "data": {"name": "noise", "fingerprint": "0", "synthetic": True}, "split": {}, "initial_weights": "random",
    "quick": True, "versions": {}, "seen_images": np.array([1]), "seen_patients": np.array([2]),
}  # fmt: skip


def run(graph: onnx.ModelProto, pixels: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": pixels}), strict=True))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def deep() -> tuple[torch.nn.Module, onnx.ModelProto]:
    network = shaken("resnet34", 64)
    return network, building.to_graph(network, FACTS, "hash")


def test_the_heat_map_is_each_places_share_of_the_log_odds(deep):
    network, graph = deep
    found = run(graph, noise(3, 64, 64))
    assert found["heatmap"].shape == (3, 2, 2) and found["heatmap"].dtype == np.float32
    odds = np.log(found["probability"].astype(float)) - np.log1p(-found["probability"].astype(float))
    bias = json.loads(building.facts_of(graph)["heatmap"])["bias"]
    np.testing.assert_allclose(found["heatmap"].mean((1, 2)) + bias, odds, atol=1e-4)
    # The same from the network's own layers: the linear layer applied to the features of one place.
    kept = []
    network.layer4.register_forward_hook(lambda *triple: kept.append(triple[2]))
    with torch.no_grad():
        network((torch.from_numpy(noise(3, 64, 64))[:, None] / 255 - 0.5) / 0.25)
        here = network.fc(kept[0][:, :, 1, 0]) / 1.5  # (3, 2)
    np.testing.assert_allclose(found["heatmap"][:, 1, 0] + bias, here[:, 1] - here[:, 0], rtol=1e-3, atol=1e-4)


def test_the_simple_network_has_no_heat_map():
    graph = building.to_graph(models.build("simple", 64), FACTS, "hash")
    assert [output.name for output in graph.graph.output] == building.GRAPH_OUTPUTS
    assert "heatmap" not in building.facts_of(graph)


@pytest.mark.parametrize("fit", images.FITS)
def test_pixels_of_many_sizes_are_those_that_images_decodes(fit):
    network = models.build("simple", 32)
    deployed = building.Deployed(network, FACTS | {"size": 32, "fit": fit})
    rng = np.random.default_rng(1)
    for _ in range(60):
        raw = rng.integers(0, 256, np.exp(rng.uniform(0, 6, 2)).astype(int), np.uint8)
        decoded = images.decode(raw, 32, fit).pixels.astype(int)
        resized = deployed.resize(torch.from_numpy(raw)[None])[0, 0].numpy()
        assert np.abs(resized - decoded).max() <= 1, raw.shape


def test_pixels_of_original_films_are_those_that_images_decodes(real_folder):
    folder = Path(real_folder).parent / "chest_xray_original"
    files = sorted(folder.glob("*/*.jp*g"))
    if not files:
        pytest.skip(f"{folder} holds no films of original size")
    network = models.build("simple", 224)
    for fit in images.FITS:
        graph = building.bare_graph(network, FACTS | {"size": 224, "fit": fit})
        graph.graph.output.append(onnx.helper.make_tensor_value_info(building.PIXELS, onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        for file in files[:: 1 if fit == "stretch" else 8]:
            raw = reading.read_picture(file.read_bytes())[0]
            found = session.run([building.PIXELS], {"image": raw[None]})[0][0, 0]
            decoded = images.decode(raw, 224, fit).pixels
            assert np.abs(found - decoded.astype(np.float32)).max() <= 1, file.name


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_keep_types_and_are_the_same_bytes_each_time(deep, precision):
    _, graph = deep
    before = graph.SerializeToString(deterministic=True)
    calibration = noise(16, 64, 64)
    made = precisions.to_precision(graph, precision, calibration)
    assert graph.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(made, full_check=True)
    content = made.SerializeToString(deterministic=True)
    assert content == precisions.to_precision(graph, precision, calibration).SerializeToString(deterministic=True)
    assert len(content) < len(before) * {"fp16": 0.51, "int8": 0.26}[precision]
    assert [item.version for item in made.opset_import] == [building.OPSET]
    plain, found = run(graph, calibration), run(made, calibration)
    assert {name: values.dtype for name, values in found.items()} == {n: v.dtype for n, v in plain.items()}
    margin, wanted = (np.diff(outputs["logits"])[:, 0] for outputs in (found, plain))
    scale = np.abs(plain["logits"]).max()
    # Of random weights on noise int8 is a rough likeness only; test_export.py judges it on a trained network.
    assert np.abs(margin - wanted).max() < scale * {"fp16": 0.005, "int8": 0.5}[precision]
    facts = building.facts_of(made)
    bias = building.fact(facts, "heatmap")["bias"]
    np.testing.assert_allclose(found["heatmap"].mean((1, 2)) + bias, margin / 1.5, atol=1e-4 * scale)
    assert facts["name"] == f"net-{precision}" and building.fact(facts, "precision")["name"] == precision
    odd = run(made, noise(1, 31, 97))
    assert odd["probability"].shape == (1,) and np.isfinite(odd["probability"]).all()


def test_what_surrounds_the_hidden_layers_stays_in_float32(deep):
    _, graph = deep
    for network_graph in (graph, building.to_graph(models.build("simple", 64), FACTS, "hash")):
        nodes, first, last = precisions.hidden_layers(network_graph.graph)
        assert {node.op_type for node in nodes} <= {"Conv", "Relu", "MaxPool", "ReduceMax", "Add", "Gemm", "Reshape"}
        assert nodes[0].input[0] == first and nodes[-1].output[0] == last and nodes[-1].op_type == "Relu"
        outside = [node.op_type for node in network_graph.graph.node if node not in nodes]
        assert {"Resize", "Softmax", "Gemm"} <= set(outside) and outside.count("Gemm") == 1


@pytest.mark.parametrize("size", [32, 63, 224])
def test_the_shortened_network_answers_as_the_network(size):
    network = models.build("simple", size).double()
    images = torch.randn(5, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(building.Shortened(network)(images), network(images), rtol=0, atol=1e-12)


def test_convolutions_of_few_filters_are_not_put_into_int8():
    graph = building.to_graph(models.build("simple", 64), FACTS, "hash")
    assert [node.op_type for node in precisions.worth_int8(graph.graph) if node.op_type in ("Conv", "Gemm")] == [
        "Gemm"
    ] * 2


def test_metadata_claim_a_licence_for_the_data_that_have_it():
    def facts(name: str) -> dict:
        return json.loads(building.metadata(FACTS | {"data": FACTS["data"] | {"name": name}}, "hash")["data"])

    assert facts("Kermany v2: 5,232 of 5,856 images, train only")["licence"]["licence"] == "CC BY 4.0"
    assert "MedMNIST" in facts("PneumoniaMNIST: train 4,708 images")["licence"]["source"]
    for name in ("40 images: 20 normal, 20 pneumonia", "SYNTHETIC: 600 phantoms drawn by this program, no X-rays",
                 "Kermany v2: 9 of 5,856 images by their file names, not a complete copy (...)"):  # fmt: skip
        assert facts(name)["licence"] is None
    said = building.metadata(FACTS, "hash")
    assert "not for clinical use" in said["intended_use"] and json.loads(said["precision"]) == {"name": "fp32"}


def test_a_new_threshold_changes_decisions_and_nothing_else():
    """Also where the old threshold equals another constant of the graph, which the exporter shares."""
    network = models.build("simple", 64).eval()
    graph = building.to_graph(network, FACTS | {"threshold": 0.5, "temperature": 0.5}, "hash")
    pixels = noise(20, 64, 64) >> np.arange(20, dtype=np.uint8)[:, None, None] // 3
    before = run(graph, pixels)
    threshold = float(np.median(before["probability"]))
    assert building.set_threshold(graph, threshold) == 0.5
    after = run(graph, pixels)
    np.testing.assert_array_equal(after["probability"], before["probability"])
    np.testing.assert_array_equal(after["decision"], before["probability"] >= np.float32(threshold))
    assert 0 < after["decision"].sum() < 20
    facts = building.facts_of(graph)
    assert facts["threshold_rule"] == "set by hand" and float(facts["threshold"]) == threshold
    del graph.metadata_props[:]
    with pytest.raises(Problem, match="not a graph that export.py made"):
        building.set_threshold(graph, 0.3)


def test_a_failure_of_the_exporter_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise torch.onnx.OnnxExporterError("Failed to export the model\nwith a long report")

    monkeypatch.setattr(torch.onnx, "export", broken)
    with pytest.raises(Problem, match=r"^PyTorch cannot export this network \(Failed to export the model\)$"):
        building.bare_graph(models.build("simple", 64), FACTS)


def test_films_are_read_as_they_lie_under_the_map():
    """predict.over_film for each way of making a film square: where one hot place of the square comes to lie."""
    from predict import over_film

    heat = np.zeros((10, 10), np.float32)
    heat[5, 2] = 1  # its centre at (0.25, 0.55) of the square
    for fit, place in {"stretch": (75, 82.5), "pad": (75, 90), "crop": (112.5, 82.5)}.items():
        for shape in ([300, 150], [150, 300]):
            wide = shape[0] > shape[1]
            found = over_film(heat if wide else heat.T, shape, fit)
            assert found.shape == (shape[1], shape[0])
            row, column = np.unravel_index(found.argmax(), found.shape)
            x, y = place if wide else place[::-1]
            assert abs(column - x) <= 15 and abs(row - y) <= 15, (fit, shape)
    # Images and maps are cut at the same places.
    pixels = np.asarray(Image.fromarray(noise(7, 9)).resize((90, 70), Image.Resampling.NEAREST))
    square = images.squared(pixels, "pad")
    np.testing.assert_allclose(over_film(square.astype(np.float32), [90, 70], "pad"), pixels)
    cut = over_film(images.squared(pixels, "crop").astype(np.float32), [90, 70], "crop")
    np.testing.assert_allclose(cut[:, 10:80], pixels[:, 10:80])
    assert not cut[:, :10].any() and not cut[:, 80:].any()


# ------------------------------------------------------------------------------------------------- examine


def tensor(**changes: object) -> TensorProto:
    """One number, which may be said to lie elsewhere."""
    made = numpy_helper.from_array(np.float32([1]), "one")
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def outside() -> TensorProto:
    made = tensor(data_location=TensorProto.EXTERNAL)
    made.ClearField("raw_data")
    made.external_data.add(key="location", value="beside.bin")
    return made


def half_outside() -> TensorProto:
    """With its numbers and a file: which of the two counts is for the reader to decide."""
    made = tensor()
    made.external_data.add(key="location", value="beside.bin")
    return made


def sparse(values: TensorProto) -> SparseTensorProto:
    indices = numpy_helper.from_array(np.array([0]), "where")
    return SparseTensorProto(values=values, indices=indices, dims=[4])


def a_graph() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "inner", [], [], [tensor()])


def a_function(domain: str) -> onnx.FunctionProto:
    node = helper.make_node("Identity", ["a"], ["b"])
    return helper.make_function(domain, "f", ["a"], ["b"], [node], [helper.make_opsetid("", 18)])


def constant_of(**attribute: object):
    """A node that nothing uses, with this attribute."""
    kinds = {"t": "TENSOR", "tensors": "TENSORS", "g": "GRAPH", "graphs": "GRAPHS", "sparse_tensor": "SPARSE_TENSOR",
             "sparse_tensors": "SPARSE_TENSORS"}  # fmt: skip
    (name,) = attribute
    item = onnx.AttributeProto(name="value", type=onnx.AttributeProto.AttributeType.Value(kinds[name]), **attribute)

    def edit(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, onnx.NodeProto(op_type="Constant", output=["unused"], attribute=[item]))

    return edit


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "step", [], [], [outside()]))


ELSEWHERE, INSIDE, FOREIGN = "weights in another file", "nodes with graphs or files in them", "not ONNX's own"
CRAFTED = {
    "initialiser": (lambda model: model.graph.initializer.append(outside()), ELSEWHERE),
    "initialiser with numbers": (lambda model: model.graph.initializer.append(half_outside()), ELSEWHERE),
    "sparse initialiser": (lambda model: model.graph.sparse_initializer.append(sparse(outside())), ELSEWHERE),
    "sparse here": (lambda model: model.graph.sparse_initializer.append(sparse(tensor())), "it has sparse weights"),
    "attribute": (constant_of(t=outside()), INSIDE),
    "attribute with numbers": (constant_of(t=half_outside()), INSIDE),
    "attribute's list": (constant_of(tensors=[tensor(), outside()]), INSIDE),
    "attribute's sparse": (constant_of(sparse_tensor=sparse(outside())), INSIDE),
    "attribute's sparse list": (constant_of(sparse_tensors=[sparse(outside())]), INSIDE),
    "attribute's graph": (constant_of(g=a_graph()), INSIDE),
    "attribute's graphs": (constant_of(graphs=[a_graph()]), INSIDE),
    "function": (lambda model: model.functions.append(a_function("")), FOREIGN),
    "foreign function": (lambda model: model.functions.append(a_function("example.evil")), FOREIGN),
    "operator": (lambda model: setattr(model.graph.node[0], "domain", "example.evil"), FOREIGN),
    "microsoft's operator": (lambda model: setattr(model.graph.node[0], "domain", "com.microsoft"), FOREIGN),
    "import": (lambda model: model.opset_import.append(helper.make_opsetid("example.evil", 1)), FOREIGN),
    "training": (training, "it has a training in it"),
}


@functools.cache
def small() -> bytes:
    known = FACTS | {"architecture": "simple"}
    return building.to_graph(models.build("simple", 64), known, "hash").SerializeToString()


@pytest.mark.parametrize("name", CRAFTED)
def test_all_of_a_file_is_looked_through(tmp_path, name):
    """Before onnxruntime sees it, by all who open a graph of ours; and one line says why it is refused."""
    change, reason = CRAFTED[name]
    model = onnx.load_from_string(small())
    path = tmp_path / "x.onnx"
    path.write_bytes(building.sealed(model))
    building.examine(path)
    change(model)
    path.write_bytes(building.sealed(model))
    (tmp_path / "beside.bin").write_bytes(b"\0\0\0\0")
    for opens in (building.examine, exporting.load, sessions.opened, tested_model.open_model):
        with pytest.raises(Problem, match=f"x.onnx: .*{reason}") as caught:
            opens(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
