"""What the tests of predict.py share: a graph whose answers are known, and the ways to call the script."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import predict
from graphs import building

SCRIPT = Path(predict.__file__)


def facts(**changes) -> dict:
    """What a checkpoint says of itself, as far as the graph's metadata need it."""
    return {
        "name": "tiny", "architecture": "simple", "classes": ["NORMAL", "PNEUMONIA"], "size": 32, "fit": "stretch",
        "normalisation": [0.5, 0.25], "temperature": 1.5, "threshold": 0.5, "threshold_rule": "none",
        "data": {"name": "noise", "fingerprint": "0", "synthetic": True}, "split": {}, "initial_weights": "random",
        "quick": True, "versions": {}, **changes,
    }  # fmt: skip


def bright_graph(path: Path, heatmap: bool = False, metadata: dict | None = None) -> Path:
    """Log-odds that grow with the pixels above 200; the heat map is the film itself."""
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["x", "floor"], ["above"]),
        helper.make_node("Relu", ["above"], ["bright"]),
        helper.make_node("ReduceMean", ["bright", "axes"], ["positive"], keepdims=0),
        helper.make_node("Sub", ["positive", "positive"], ["negative"]),
        helper.make_node("Unsqueeze", ["positive", "last"], ["right"]),
        helper.make_node("Unsqueeze", ["negative", "last"], ["left"]),
        helper.make_node("Concat", ["left", "right"], ["logits"], axis=1),
        helper.make_node("Sigmoid", ["positive"], ["probability"]),
        helper.make_node("GreaterOrEqual", ["probability", "threshold"], ["yes"]),
        helper.make_node("Cast", ["yes"], ["decision"], to=TensorProto.INT64),
        helper.make_node("Div", ["x", "floor"], ["heatmap"]),
    ]
    values = {"floor": np.float32(200), "axes": np.array([1, 2]), "last": np.array([1]), "threshold": np.float32(0.7)}
    outputs = [("probability", TensorProto.FLOAT, ["n"]), ("decision", TensorProto.INT64, ["n"]),
               ("logits", TensorProto.FLOAT, ["n", 2]), ("heatmap", TensorProto.FLOAT, ["n", "h", "w"])]  # fmt: skip
    made = helper.make_model(
        helper.make_graph(
            nodes if heatmap else nodes[:-1], "bright",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w"])],
            [helper.make_tensor_value_info(*output) for output in outputs[: 4 if heatmap else 3]],
            [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    known = facts(threshold=0.7, temperature=1.0, data={"name": "x", "fingerprint": "0", "synthetic": False})
    helper.set_model_props(made, building.metadata(known, "hash") if metadata is None else metadata)
    onnx.save(made, path)
    return path


def table(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def call(*arguments, cpu: bool = True) -> int:
    return predict.main([str(a) for a in arguments] + (["--provider", "cpu"] if cpu else []))


def shell(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--provider", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, **options)
