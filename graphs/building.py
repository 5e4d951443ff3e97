"""From a network to an ONNX graph: what it computes, and what it says of itself.

to_graph(...)        a checkpoint's network -> graph in float32, with metadata
set_threshold(...)   another decision threshold, without a new export
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import models
from basics.disk import parse_json
from basics.problems import Problem, printable
from films import seen

# Opset 18 is the first whose Resize can antialias, and the one that onnxruntime's CUDA kernels cover best
# (microsoft/onnxruntime #19595, #27415). The exporter is torch's dynamo-based one, since the older one cannot express
# antialiasing; its known fault with batch normalisation (microsoft/onnxscript #2680) is mended in the pinned version,
# and the verification would show it.
OPSET = 18
GRAPH_OUTPUTS = ["probability", "decision", "logits"]
SEAL = "sha256"  # the last entry of a graph's metadata, see `sealed`
FIRST_RULE = "threshold_rule_of_export"  # the key of that, while another threshold is set
OF_THRESHOLD = ("threshold", "threshold_rule", FIRST_RULE)  # the keys that change with it
BY_HAND = "set by hand"  # the rule of a threshold that somebody chose
CALIBRATION_IMAGES = 128
FEW_FILTERS = 32  # of a convolution
OURS = ("", "ai.onnx")  # domains of operators
INSIDE = "it has nodes with graphs or files in them, and export.py makes none"
PIXELS = "pixels"  # name inside the graph of what `resize` returns
KERMANY = {
    "licence": "CC BY 4.0",
    "source": "Kermany, Zhang, Goldbaum: Mendeley Data rscbjbr9sj, version 2",
    "cite": "Kermany et al., Cell 172 (2018) 1122-1131, doi:10.1016/j.cell.2018.02.010",
}


class Deployed(nn.Module):
    """What the graph computes: raw pixels to calibrated probability, decision, logits and, of a ResNet, a heat map."""

    evidence: torch.Tensor

    def __init__(self, network: nn.Module, checkpoint: dict) -> None:
        super().__init__()
        self.network = Shortened(network) if isinstance(network, models.SimpleCNN) else network
        self.size, self.fit = checkpoint["size"], checkpoint["fit"]
        self.mean, self.std = checkpoint["normalisation"]
        self.temperature, self.threshold = checkpoint["temperature"], checkpoint["threshold"]
        self.mapped = False
        if has_heatmap(network):
            self.mapped = True
            normal, pneumonia = network.fc.weight.detach()
            self.register_buffer("evidence", ((pneumonia - normal) / self.temperature)[:, None, None])  # (512, 1, 1)

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """(N, H, W) uint8 to (N, 1, S, S) float of whole grey levels, as images.decode makes them."""
        return resized(image, self.size, self.fit)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # (x / 255 - mean) / std in two passes over memory, not three
        normalised = self.resize(image) * (1 / (255 * self.std)) - self.mean / self.std
        net = self.network
        features = net.features(normalised) if has_heatmap(net) else normalised  # (N, 512, S / 32, S / 32)
        logits = net.head(features) if has_heatmap(net) else net(features)  # (N, 2)
        probability = (logits / self.temperature).softmax(1)[:, 1]  # (N,)
        answers = probability, (probability >= self.threshold).long(), logits
        return (*answers, (features * self.evidence).sum(1)) if self.mapped else answers


class Shortened(nn.Module):
    """A simple network whose first convolution and pooling are one convolution of stride 2 and a largest value.

    Pooling keeps the largest of four neighbours. Each of the four is a filter of its own here, shifted in a kernel
    that is one pixel wider, and the largest is taken over filters. The sums are the same ones; but onnxruntime pads 6
    filters to 16 on a CPU and writes them for every pixel, where these are 24, padded to 32, for a quarter of the
    places. The whole graph takes four fifths of the time.
    """

    kernel: torch.Tensor
    bias: torch.Tensor

    def __init__(self, network: models.SimpleCNN) -> None:
        super().__init__()
        self.rest = network
        first = network.conv1.state_dict()
        kernel = first["weight"].new_zeros(4, *first["weight"].shape[:2], 6, 6)  # (4, 6, 1, 6, 6)
        for k, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            kernel[k, :, :, down : down + 5, right : right + 5] = first["weight"]
        self.register_buffer("kernel", kernel.flatten(0, 1))
        self.register_buffer("bias", first["bias"].repeat(4))

    def forward(self, normalised: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(normalised, self.kernel, self.bias, stride=2)  # (N, 24, side, side)
        return self.rest.after_first(x.unflatten(1, (4, 6)).amax(1).relu())


def has_heatmap(network: nn.Module) -> TypeGuard[models.ResNet34]:
    """Averaging and one linear layer at the end: there the class activation map is exact, and not an explanation.

    The log-odds are a mean over places of (a weighted sum of the features there), so that each place has its own share
    in them. Source: Zhou et al. 2016, Learning Deep Features for Discriminative Localization, CVPR.
    """
    return isinstance(network, models.ResNet34)


def resized(image: torch.Tensor, size: int, fit: str) -> torch.Tensor:
    """(N, H, W) uint8 to (N, 1, S, S) float of whole grey levels, rounded once."""
    return interpolated(image, size, fit).round()  # weighted means of grey levels: none is beyond them


def interpolated(image: torch.Tensor, size: int, fit: str) -> torch.Tensor:
    """(N, H, W) uint8 to (N, 1, S, S) float, not rounded."""
    pixels = squared(image, fit).unsqueeze(1).float()
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


def squared(image: torch.Tensor, fit: str) -> torch.Tensor:
    """images.squared for a batch, (N, H, W): as it is, on a black square, or cut to the centre square."""
    if fit == "stretch":
        return image
    height, width = image.shape[1:]
    side = torch.sym_max(height, width) if fit == "pad" else torch.sym_min(height, width)
    # A negative border cuts away: slicing to a length that is computed cannot be exported.
    sign = 1 if fit == "pad" else -1
    rows, columns = sign * (side - height), sign * (side - width)  # to add or to cut, half on either side
    top, left = rows // 2, columns // 2
    bottom, right = rows - top, columns - left
    border = (sign * left, sign * right, sign * top, sign * bottom)
    return F.pad(image, border)  # ty: ignore[invalid-argument-type]  # whole numbers; in the export, symbols for them


# ------------------------------------------------------------------------------------------------ the export


def to_graph(network: nn.Module, checkpoint: dict, checkpoint_hash: str) -> onnx.ModelProto:
    """The graph of a checkpoint's network in float32, with its metadata. Raises Problem when it cannot be exported."""
    graph = bare_graph(network, checkpoint)
    helper.set_model_props(graph, metadata(checkpoint, checkpoint_hash, network))
    return graph


def bare_graph(network: nn.Module, checkpoint: dict) -> onnx.ModelProto:
    """Exports a network in float32, without a trace of the machine it was exported on."""
    # Not 2 and not square: the exporter would take an example's 1, or equal sides, for a rule.
    example = torch.zeros(3, 200, 260, dtype=torch.uint8)
    axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    deployed = Deployed(network.float().eval(), checkpoint).eval()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the exporter reports its progress there
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=[*GRAPH_OUTPUTS, *(["heatmap"] if deployed.mapped else [])],
                dynamic_shapes=(axes,),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise Problem(f"PyTorch cannot export this network ({str(error).strip().splitlines()[0]})") from error
    assert program is not None  # only the older exporter returns nothing
    graph = program.model_proto
    opset = next(item.version for item in graph.opset_import if item.domain == "")
    if opset != OPSET:
        raise Problem(f"the exporter wrote opset {opset} where {OPSET} was asked for")
    size_by_constant(graph.graph, checkpoint["size"])
    name_parts(graph.graph)
    return without_traces(graph)


def without_traces(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Removes stack traces and paths of this machine, and what else the tools wrote down for themselves."""
    for item in (*graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output,
                 *graph.graph.initializer, graph.graph, graph):  # fmt: skip
        del item.metadata_props[:]
        item.doc_string = ""
    return graph


def size_by_constant(graph: onnx.GraphProto, size: int) -> None:
    """Tells Resize its two output sides as a constant, where the exporter computes all four from the input's shape.

    Nodes that compute shapes run on the CPU; without them a GPU can take the whole graph.
    """
    (resize,) = (node for node in graph.node if node.op_type == "Resize")
    graph.initializer.append(numpy_helper.from_array(np.array([size, size], np.int64), "sides"))
    resize.input[3] = "sides"
    resize.attribute.append(helper.make_attribute("axes", [2, 3]))
    while True:  # what fed the old sizes feeds nothing now
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = [node for node in graph.node if not used & set(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    known = used | {output for node in graph.node for output in node.output}
    for value in [value for value in graph.value_info if value.name not in known]:
        graph.value_info.remove(value)


def name_parts(graph: onnx.GraphProto) -> None:
    """Gives names to what is looked for later: the resized pixels, and the threshold, as a constant of its own.

    The exporter shares equal constants, so that to change a threshold of 0.5 in place could change something else.
    """
    (rounded,) = (node for node in graph.node if node.op_type == "Round")
    (decide,) = (node for node in graph.node if node.op_type == "GreaterOrEqual")
    (old,) = (tensor for tensor in graph.initializer if tensor.name == decide.input[1])
    graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(old), "threshold"))
    decide.input[1] = "threshold"
    if not any(old.name in node.input for node in graph.node):
        graph.initializer.remove(old)
    for value in [value for value in graph.value_info if value.name == rounded.output[0]]:
        graph.value_info.remove(value)
    for node in graph.node:
        node.input[:] = [PIXELS if name == rounded.output[0] else name for name in node.input]
    rounded.output[0] = PIXELS


# ------------------------------------------------------------------------------------------------ what it says


def metadata(checkpoint: dict, checkpoint_hash: str, network: nn.Module | None = None) -> dict[str, str]:
    """What the graph says of itself; values that are no text are JSON."""
    data = checkpoint["data"]
    facts = {
        "name": checkpoint["name"],
        "architecture": checkpoint["architecture"],
        "classes": checkpoint["classes"],
        "size": checkpoint["size"],
        "fit": checkpoint["fit"],
        "normalisation": checkpoint["normalisation"],
        "temperature": checkpoint["temperature"],
        "threshold": checkpoint["threshold"],
        "threshold_rule": checkpoint["threshold_rule"],
        "data": {key: data[key] for key in ("name", "fingerprint", "synthetic")} | {"licence": licence(data["name"])},
        "split": checkpoint["split"],
        "initial_weights": checkpoint["initial_weights"],
        "quick": checkpoint["quick"],
        "checkpoint_sha256": checkpoint_hash,
        "versions": {**checkpoint["versions"], "onnx": onnx.__version__},
        "precision": {"name": "fp32"},
        "intended_use": "research; not for clinical use",
    }
    if kept := seen.of_checkpoint(checkpoint):
        facts["seen"] = {"images": len(kept["seen_images"]), "patients": len(kept["seen_patients"]),
                         "sha256": seen.digest(kept)}  # fmt: skip
    if "operating_points" in checkpoint:  # checkpoints of earlier versions have none
        facts["operating_points"] = checkpoint["operating_points"]
    if checkpoint.get("stress"):
        facts["stress"] = checkpoint["stress"]
    if "members" in checkpoint:  # of an ensemble
        facts["members"] = checkpoint["members"]
    if network is not None and has_heatmap(network):
        normal, pneumonia = network.fc.bias.tolist()
        facts["heatmap"] = {
            "unit": "log-odds of pneumonia after temperature scaling, in nats: their mean over the map, plus `bias`, "
            "is the log-odds of `probability`",
            "bias": (pneumonia - normal) / checkpoint["temperature"],
            "covers": {
                "stretch": "the whole image",
                "pad": "the image in the middle of a square with the longer side",
                "crop": "the square in the middle of the image with the shorter side",
            }[checkpoint["fit"]],
        }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def licence(data_name: str) -> dict | None:
    """Of the training data, where their name (see sources.describe) says whose they are; else None."""
    if data_name.startswith("Kermany v2: ") and "not a complete copy" not in data_name:
        return KERMANY
    if data_name.startswith("PneumoniaMNIST: "):
        return {**KERMANY, "source": "MedMNIST v2, PneumoniaMNIST (Yang et al. 2023), from " + KERMANY["source"]}
    return None


def facts_of(graph: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in graph.metadata_props if item.key != SEAL}


def sealed(graph: onnx.ModelProto) -> bytes:
    """The content of the graph's file: at its end, as one more entry of the metadata, the SHA-256 of what is before it.

    Protobuf reads messages that follow each other as one. onnxruntime notices few flipped bytes; sessions.py and
    predict.py notice all of them, and need no protobuf for it.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(graph)
    helper.set_model_props(plain, facts_of(graph))
    body = plain.SerializeToString(deterministic=True)
    seal = onnx.ModelProto()
    seal.metadata_props.add(key=SEAL, value=hashlib.sha256(body).hexdigest())
    return body + seal.SerializeToString()


def examine(path: Path) -> onnx.ModelProto:
    """The graph of a file. Raises Problem when it is none that export.py could have made; onnxruntime comes after that.

    Weights in other files could be of any file or not belong to it, operators from elsewhere could do anything, and a
    graph inside a node (a loop) could take for ever. All of the file is looked through, wherever such a thing could
    stand. What remains is read by anatomy.py when a graph is proven.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise Problem(f"{path}: onnxruntime cannot open it: no ONNX file ({type(error).__name__})") from error
    for message, inside in parts_of(model):
        if reason := refusal(message, inside):
            raise Problem(f"{path}: {reason}")
    sides = {item.name: item.type.tensor_type.elem_type for item in model.graph.input}
    if sides != {"image": TensorProto.UINT8}:
        raise Problem(f"{path}: not a graph that export.py made: its inputs are {printable(', '.join(sides))[:200]}")
    return model


def parts_of(model: onnx.ModelProto) -> Iterator[tuple[Message, bool]]:
    """Each message in a file, however deep, and whether it stands inside of a node."""
    waiting: list[tuple[Message, bool]] = [(model, False)]
    while waiting:
        message, inside = waiting.pop()
        yield message, inside
        inside |= isinstance(message, onnx.NodeProto)
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting += [(item, inside) for item in ([value] if isinstance(value, Message) else value)]


def refusal(message: Message, inside: bool) -> str:
    """Why export.py made no file with this part in it; "" if it could have."""
    tensors = [message] if isinstance(message, TensorProto) else []
    if isinstance(message, onnx.SparseTensorProto):
        tensors = [message.values, message.indices]
    if any(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data for tensor in tensors):
        return INSIDE if inside else "it keeps weights in another file, and export.py keeps all in one"
    if isinstance(message, onnx.GraphProto) and inside:
        return INSIDE
    named = onnx.NodeProto | onnx.OperatorSetIdProto
    if isinstance(message, onnx.FunctionProto) or (isinstance(message, named) and message.domain not in OURS):
        return "it has operators that are not ONNX's own"
    if isinstance(message, onnx.SparseTensorProto):
        return "it has sparse weights, and export.py makes none"
    if isinstance(message, onnx.TrainingInfoProto):
        return "it has a training in it, and export.py makes none"
    return ""


def fact(facts: dict[str, str], key: str) -> Any:
    """A value of the metadata that is no text."""
    return parse_json(facts[key])


def set_threshold(graph: onnx.ModelProto, threshold: float, rule: str = BY_HAND) -> float:
    """Changes the threshold of a graph's `decision`, and nothing else but what it says of it; returns the old one.

    Raises Problem when export.py did not make the graph.
    """
    facts = facts_of(graph)
    found = [tensor for tensor in graph.graph.initializer if tensor.name == "threshold"]
    if len(found) != 1 or "threshold" not in facts:
        raise Problem("not a graph that export.py made: it has no constant of the name threshold")
    try:
        old = float(parse_json(facts["threshold"]))
    except (ValueError, TypeError, OverflowError) as error:
        raise Problem(f"the threshold in its metadata is no number ({error})") from error
    found[0].ClearField("float_data")
    found[0].MergeFrom(numpy_helper.from_array(np.array(threshold, np.float32), "threshold"))
    first = rule_of_export(facts)
    facts.pop(FIRST_RULE, None)  # who goes back has the very file that was exported
    kept = {} if rule == first else {FIRST_RULE: first}
    helper.set_model_props(graph, facts | {"threshold": json.dumps(threshold), "threshold_rule": rule} | kept)
    return old


def rule_of_export(facts: dict[str, str]) -> str:
    """What chose the threshold that a graph was exported with, whatever it was changed to since."""
    if FIRST_RULE in facts:
        return facts[FIRST_RULE]
    rule = facts.get("threshold_rule", "")
    changed = rule in ("", BY_HAND) or rule.startswith("sensitivity ")  # by an earlier version, which did not keep it
    return "validation" if changed else rule
