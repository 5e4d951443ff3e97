"""The nodes of a graph: those that export.py makes are accepted in each form, and what could do more is refused."""

import functools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_building import FACTS, noise
from test_exporting import edited, shaken
from triggers import TRIGGERS, Writer, ordered, triggered

from basics import terms
from basics.problems import Problem
from films import images
from graphs import anatomy, building, precisions, sessions


@functools.cache
def plain(architecture: str, fit: str = "stretch") -> bytes:
    known = FACTS | {"architecture": architecture, "fit": fit}
    return building.to_graph(shaken(architecture, 64), known, "hash").SerializeToString()


@functools.cache
def in_precision(architecture: str, precision: str, fit: str) -> bytes:
    graph = onnx.load_from_string(plain(architecture, fit))
    return precisions.to_precision(graph, precision, noise(16, 64, 64)).SerializeToString()


def graph_of(architecture: str, precision: str = "fp32", fit: str = "stretch") -> onnx.ModelProto:
    return onnx.load_from_string(in_precision(architecture, precision, fit))


def changed(graph: onnx.ModelProto, **facts: object) -> onnx.ModelProto:
    """The same with other metadata."""
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    helper.set_model_props(graph, building.facts_of(graph) | said)
    return graph


def constant(graph: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)


def reader(graph: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.graph.node if name in node.input)


@pytest.mark.parametrize("precision", terms.PRECISIONS)
@pytest.mark.parametrize(("architecture", "fit"), [("simple", fit) for fit in images.FITS] + [("resnet34", "stretch")])
def test_every_graph_that_is_exported_is_accepted(architecture, fit, precision):
    graph = graph_of(architecture, precision, fit)
    assert anatomy.check_precision(graph) == precision
    anatomy.check(graph)


@pytest.mark.parametrize("precision", terms.PRECISIONS)
@pytest.mark.parametrize("name", TRIGGERS)
def test_no_node_sees_size_batch_or_film_past_the_pixels(tmp_path, name, precision):
    """In each precision, and where the trigger leaves the tried films alone."""
    (tmp_path / "x.onnx").write_bytes(building.sealed(graph_of("simple", precision)))
    path = triggered(tmp_path / "x.onnx", tmp_path / "y.onnx", TRIGGERS[name])
    with pytest.raises(Problem, match="the graph is not made as export.py makes them: its "):
        anatomy.check(onnx.load(path))


def by_other_films(w: Writer) -> str:
    """Whether another film of the batch has brighter resized pixels."""
    brightest = w.node("ReduceMax", "pixels", w.constant([0, 1, 2, 3]), keepdims=0)
    return w.node("Less", w.level("ReduceMax", "pixels"), brightest)


def test_a_graph_that_mixes_films_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(building.sealed(graph_of("simple")))
    path = triggered(tmp_path / "x.onnx", tmp_path / "y.onnx", by_other_films, sparing=False)
    with pytest.raises(Problem, match="its ReduceMax does not work on each film by itself"):
        anatomy.check(onnx.load(path))


@pytest.mark.parametrize(
    ("kind", "attributes", "inputs"),
    [
        ("Softmax", {"axis": 0}, ()),
        ("CumSum", {}, (np.array(0),)),
        ("ReduceMean", {"keepdims": 1}, (np.array([0]),)),
        ("Reshape", {}, (np.array([1, -1, 1, 64, 64]),)),
        ("Flatten", {"axis": 0}, ()),
        ("Slice", {}, (np.array([0]), np.array([9]), np.array([0]))),
        ("Sub", {}, (np.zeros((3, 1, 64, 64), np.float32),)),
        ("Transpose", {"perm": [1, 0, 2, 3]}, ()),
        ("Clip", {}, (np.float32(0), np.float32(9))),
        ("Dropout", {}, ()),
    ],
)
def test_a_node_between_pixels_and_network_that_could_mix_films_is_refused(kind, attributes, inputs):
    graph = graph_of("simple")
    first = reader(graph, building.PIXELS)
    first.input[0] = "between"
    names = [f"given {k}" for k in range(len(inputs))]
    graph.graph.initializer.extend(map(numpy_helper.from_array, inputs, names))
    node = helper.make_node(kind, [building.PIXELS, *names], ["between"], **attributes)
    ordered(graph.graph, [node])
    with pytest.raises(Problem, match=f"its {kind} does not work on each film by itself|nodes that scale"):
        anatomy.check(graph)


def test_pixels_come_by_resizing_alone():
    graph = graph_of("simple")
    resize = next(node for node in graph.graph.node if node.op_type == "Resize")
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    ordered(graph.graph, [helper.make_node("Mul", [resize.input[0], "half"], ["darker"])])
    next(node for node in graph.graph.node if node.op_type == "Resize").input[0] = "darker"
    with pytest.raises(Problem, match="its pixels come by Mul, not by resizing alone"):
        anatomy.check(graph)


def test_borders_depend_on_height_and_width_alone():
    graph = graph_of("simple", fit="pad")
    shape = next(node for node in graph.graph.node if node.op_type == "Shape")
    next(item for item in shape.attribute if item.name == "start").i = 0
    next(item for item in shape.attribute if item.name == "end").i = 1
    with pytest.raises(Problem, match="its borders depend on something else than height and width"):
        anatomy.check(graph)


# ------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("said", terms.PRECISIONS)
@pytest.mark.parametrize("found", terms.PRECISIONS)
@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
def test_a_graph_cannot_choose_its_tolerance(architecture, found, said):
    graph = changed(graph_of(architecture, found), precision={"name": said})
    if said == found:
        assert anatomy.check_precision(graph) == found
        return
    with pytest.raises(Problem, match=f"says that it is {said}, and its weights are {found}"):
        anatomy.check_precision(graph)


def test_a_little_of_another_precision_does_not_make_a_graph_that(tmp_path):
    """One value in float16, one that is quantised, one constant in int8: most weights are still float32."""
    half, whole = graph_of("simple"), graph_of("simple")
    for graph, kind in ((half, TensorProto.FLOAT16), (whole, TensorProto.DOUBLE)):
        node = next(node for node in graph.graph.node if node.op_type == "Relu")
        name, node.output[0] = node.output[0], "before"
        ordered(graph.graph, [helper.make_node("Cast", ["before"], ["other"], to=kind),
                              helper.make_node("Cast", ["other"], [name], to=TensorProto.FLOAT)])  # fmt: skip
        with pytest.raises(Problem, match="most of its weights are fp32, and there is"):
            anatomy.check_precision(graph)
    quantised = graph_of("simple")
    quantised.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int8), "unused"))
    with pytest.raises(Problem, match="most of its weights are fp32, and there is INT8 in it"):
        anatomy.check_precision(changed(quantised, precision={"name": "int8"}))


@pytest.mark.parametrize(("found", "said"), [("fp32", "int8"), ("fp32", "fp16"), ("int8", "fp32"), ("fp16", "int8")])
def test_evaluate_and_predictions_refuse_it_too(tmp_path, found, said):
    path = tmp_path / "x.onnx"
    path.write_bytes(building.sealed(changed(graph_of("simple", found), precision={"name": said})))
    with pytest.raises(Problem, match=f"x.onnx: the graph says that it is {said}, and its weights are {found}"):
        sessions.opened(path)


# ------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"normalisation": [0.5, 0.26]}, "says that it normalises by 0.5 and 0.26, and does not"),
        ({"normalisation": [0.49, 0.25]}, "says that it normalises by 0.49 and 0.25, and does not"),
        ({"temperature": 1.6}, "its temperature is 1.6, and computes with 1.5"),
        ({"threshold": 0.51}, "its threshold is 0.51, and computes with 0.5"),
        ({"size": 65}, "says that its size is 65, and does not resize to that"),
        ({"size": 224}, "says that it is simple for 224 pixels, and has not the layers of that"),
        ({"fit": "pad"}, "says that its fit is 'pad', and does not fit films so"),
        ({"architecture": "resnet34"}, "says that it is resnet34 for 64 pixels, and has not the layers"),
        ({"architecture": "vgg"}, "architecture, 'vgg', is none that this program knows"),
    ],
)
def test_metadata_are_held_against_what_the_graph_computes_with(facts, reason):
    with pytest.raises(Problem, match=reason):
        anatomy.check(changed(graph_of("simple"), **facts))


def test_more_layers_than_the_architectures_are_refused():
    graph = graph_of("simple")
    node = next(node for node in graph.graph.node if node.op_type == "Relu")
    name, node.output[0] = node.output[0], "before"
    ordered(graph.graph, [helper.make_node("Relu", ["before"], [name])])
    with pytest.raises(Problem, match="it has 5 nodes Relu, and simple has 4"):
        anatomy.check(graph)


def test_a_graph_without_metadata_is_looked_at_as_far_as_it_can_be(tmp_path):
    graph = graph_of("simple")
    del graph.metadata_props[:]
    assert anatomy.check_precision(graph) == "fp32"
    anatomy.check(graph)


def test_other_weights_are_no_other_anatomy(tmp_path):
    path = Path(tmp_path / "x.onnx")
    path.write_bytes(building.sealed(graph_of("simple")))

    def twice(graph: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in graph.graph.initializer if "fc2.weight" in tensor.name)
        tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))

    anatomy.check(onnx.load(edited(path, tmp_path / "y.onnx", twice)))
