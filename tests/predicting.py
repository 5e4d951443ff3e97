"""What the tests of predict.py share: a graph whose answers are known, and the ways to call the script."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

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


FLAGS = {"negative": 2, "upside down": 8, "mirrored": 16, "unfamiliar": 512, "coloured": 1024, "guessed levels": 2048}
FORBIDDING = 2 | 8 | 512
POINTS = {name: {"threshold": threshold, "sensitivity": {"value": 0.97, "low": low, "high": 0.99},
                 "specificity": {"value": 0.9, "low": 0.875, "high": 0.95}, "images": 99, "patients": 99,
                 "accuracy": {"value": 0.9, "low": 0.88, "high": 0.95}}
          for name, threshold, low in (("0.5", 0.5, 0.93), ("validation", 0.7, 0.91), ("sensitivity 95 %", 0.65, 0.939),
                                       ("sensitivity 99 %", 0.55, 0.977))}  # fmt: skip


def doubtful_graph(path: Path, refers: str = "Or", **changes) -> Path:
    """bright_graph with what later graphs say too: a film's first pixel is its flags (times 8), its second how
    unfamiliar it is (over 100); both classes are possible from 0.6 to 0.8. refers: what joins the reasons to refer.
    """
    made = onnx.load(bright_graph(path))
    nodes = [
        helper.make_node("Slice", ["image", "begin", "ends", "axes"], ["corner"]),
        helper.make_node("Cast", ["corner"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["numbers", "pairs"], ["pair"]),
        helper.make_node("Split", ["pair"], ["eighth", "hundredths"], axis=1, num_outputs=2),
        helper.make_node("Squeeze", ["eighth", "last"], ["eighths"]),
        helper.make_node("Mul", ["eighths", "eight"], ["flags"]),
        helper.make_node("Squeeze", ["hundredths", "last"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "hundred"], ["unfamiliar"]),
        helper.make_node("LessOrEqual", ["probability", "highest"], ["normal"]),
        helper.make_node("GreaterOrEqual", ["probability", "lowest"], ["pneumonia"]),
        helper.make_node("Unsqueeze", ["normal", "last"], ["normals"]),
        helper.make_node("Unsqueeze", ["pneumonia", "last"], ["pneumonias"]),
        helper.make_node("Concat", ["normals", "pneumonias"], ["possible"], axis=1),
        helper.make_node("Xor", ["normal", "pneumonia"], ["one"]),
        helper.make_node("Not", ["one"], ["several"]),
        helper.make_node("Cast", ["decision"], ["decided"], to=TensorProto.BOOL),
        helper.make_node("Xor", ["pneumonia", "decided"], ["contradicted"]),
        helper.make_node("Or", ["several", "contradicted"], ["unclear"]),
        helper.make_node("BitwiseAnd", ["flags", "forbidding"], ["bits"]),
        helper.make_node("Cast", ["bits"], ["forbidden"], to=TensorProto.BOOL),
        helper.make_node(refers, ["unclear", "forbidden"], ["referred"]),
        helper.make_node("Cast", ["referred"], ["refer"], to=TensorProto.INT64),
    ]
    values = {"begin": np.array([0, 0]), "ends": np.array([1, 2]), "pairs": np.array([-1, 2]), "eight": np.array(8),
              "hundred": np.float32(100), "highest": np.float32(0.8), "lowest": np.float32(0.6),
              "forbidding": np.array(FORBIDDING)}  # fmt: skip
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(values[name]), name) for name in values)
    kinds = {"unfamiliar": TensorProto.FLOAT, "flags": TensorProto.INT64, "possible": TensorProto.BOOL,
             "refer": TensorProto.INT64}  # fmt: skip
    for name, kind in kinds.items():
        shape = ["n", 2] if name == "possible" else ["n"]
        made.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    said = {
        "flags": {"bits": FLAGS, "forbidding": FORBIDDING},
        "promise": {"alpha": 0.05, "lowest_pneumonia": 0.6, "highest_normal": 0.8, "patients": [99, 99]},
        "operating_points": POINTS,
    }
    facts = building.facts_of(made) | {key: json.dumps(value) for key, value in (said | changes).items()}
    helper.set_model_props(made, facts)
    onnx.save(made, path)
    return path


def film_of(path: Path, probability: float, flags: int = 0, unfamiliar: float = 0.5) -> Path:
    """A film that bright_graph gives this probability of at least 0.5, and doubtful_graph these flags."""
    marks = np.array([flags // 8, round(100 * unfamiliar)], np.uint8)
    total = round(float(np.log(probability / (1 - probability))) * 2000)
    above = total - int(np.maximum(marks.astype(int) - 200, 0).sum())
    pixels = np.full(2000, 200 + above // 1998, np.uint8)
    pixels[2 : 2 + above % 1998] += 1
    pixels[:2] = marks
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.reshape(40, 50)).save(path)
    return path


def table(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def call(*arguments, cpu: bool = True) -> int:
    return predict.main([str(a) for a in arguments] + (["--provider", "cpu"] if cpu else []))


def shell(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--provider", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, **options)
