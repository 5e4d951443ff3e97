"""Damage for tests/fuzzing.py: .onnx files with other facts, sides, weights, operators and versions."""

import json
import random
from pathlib import Path

import numpy as np
import onnx
from mutations import JUNK, mutated_bytes
from onnx import TensorProto, helper, numpy_helper

from graphs import building


def mutated_graph(rng: random.Random, content: bytes, folder: Path) -> bytes:
    """Damaged bytes, or another graph that is still protobuf; external data is laid into `folder`."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, content)
    model = onnx.load_from_string(content)
    change = rng.choice(
        (without_a_fact, wrong_fact, other_sides, other_weights, external, other_operators, other_versions)
    )
    change(rng, model, folder)
    if rng.random() < 0.8:  # whoever means harm can make the right sum
        return building.sealed(model)
    helper.set_model_props(model, building.facts_of(model))
    return model.SerializeToString()


def without_a_fact(rng: random.Random, model: onnx.ModelProto, folder: Path) -> None:
    facts = {item.key: item.value for item in model.metadata_props}
    if rng.random() < 0.1:
        facts = {}
    else:
        del facts[rng.choice(list(facts))]
    helper.set_model_props(model, facts)


def wrong_fact(rng: random.Random, model: onnx.ModelProto, folder: Path) -> None:
    facts = {item.key: item.value for item in model.metadata_props}
    key = rng.choice([*facts, "temperature", "threshold", "size", "classes", "data", "split", "fit"])
    wrong = (json.dumps(rng.choice(JUNK)), "[" * 100_000, "{", "", "9" * 5000, '["PNEUMONIA", "NORMAL"]', "0.25")
    helper.set_model_props(model, facts | {key: rng.choice(wrong)})


def other_sides(rng: random.Random, model: onnx.ModelProto, folder: Path) -> None:
    """Inputs and outputs of other names, types, shapes and numbers."""
    graph = model.graph
    side = rng.choice([graph.input[0], *graph.output])
    kind = rng.randrange(6)
    if kind == 0:
        side.name = "other"
    elif kind == 1:
        side.type.tensor_type.elem_type = rng.choice((TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64))
    elif kind == 2:
        side.type.tensor_type.shape.dim[0].dim_value = rng.choice((1, 7))
    elif kind == 3:
        graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))
    elif kind == 4:
        graph.output.remove(rng.choice(list(graph.output)))
    else:
        del side.type.tensor_type.shape.dim[:]


def other_weights(rng: random.Random, model: onnx.ModelProto, folder: Path) -> None:
    tensor = rng.choice([item for item in model.graph.initializer])
    kind = rng.randrange(5)
    if kind == 0:
        values = numpy_helper.to_array(tensor).copy()
        values[...] = float("nan") if values.dtype.kind == "f" else 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    elif kind == 1:
        model.graph.initializer.remove(tensor)
    elif kind == 2:
        tensor.dims[:] = rng.choice(([10**6, 10**6], [-1], [0], [2**62, 4], [3]))
    elif kind == 3:
        tensor.data_type = rng.choice((0, 2, 7, 8, 10, 16, 99))
    else:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]


def external(rng: random.Random, model: onnx.ModelProto, folder: Path) -> None:
    """Weights in another file: beside the graph, above it, anywhere; and not there."""
    tensor = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    (folder / "beside.bin").write_bytes(tensor.raw_data)
    (folder.parent / "above.bin").write_bytes(tensor.raw_data)
    where = rng.choice(
        ("beside.bin", "../above.bin", str(folder.parent / "above.bin"), "/etc/passwd", "/dev/zero", "missing.bin", "")
    )
    length = str(rng.choice((len(tensor.raw_data), 2**40, -1)))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", where), ("offset", "0"), ("length", length)):
        tensor.external_data.add(key=key, value=value)


def other_operators(rng: random.Random, model: onnx.ModelProto, folder: Path) -> None:
    """Operators of nobody, circles, endless loops, and a value that asks for terabytes."""
    graph = model.graph
    node = rng.choice(list(graph.node))
    kind = rng.randrange(7)
    if kind == 0:
        node.domain = "example.evil"
        model.opset_import.append(helper.make_opsetid("example.evil", 1))
    elif kind == 1:
        node.op_type = rng.choice(("Evil", "Loop", "If", "Scan", "Einsum", "Conv", "Gather"))
    elif kind == 2:
        node.input[0] = node.output[0]
    elif kind == 3:
        graph.node.remove(node)
    elif kind == 4:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
        )
        graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        graph.initializer.append(numpy_helper.from_array(np.array(2**62), "long"))
        graph.node.append(helper.make_node("Loop", ["long", "yes"], [], body=body))
    elif kind == 5:
        graph.initializer.append(numpy_helper.from_array(np.array([10**6, 10**6]), "much"))
        graph.node.append(helper.make_node("ConstantOfShape", ["much"], ["vast"]))
        graph.output.append(helper.make_tensor_value_info("vast", TensorProto.FLOAT, None))
    else:
        sides = next(item for item in graph.initializer if item.name == "sides")
        sides.CopyFrom(numpy_helper.from_array(np.array(rng.choice(([0, 0], [10**6, 10**6], [-5, 3]))), "sides"))


def other_versions(rng: random.Random, model: onnx.ModelProto, folder: Path) -> None:
    kind = rng.randrange(3)
    if kind == 0:
        model.opset_import[0].version = rng.choice((0, 1, 7, 13, 17, 99, 2**40))
    elif kind == 1:
        model.ir_version = rng.choice((0, 1, 3, 99, 2**40))
    else:
        del model.opset_import[:]
