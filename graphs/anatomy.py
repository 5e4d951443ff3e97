"""What a graph is made of: a proof tries some films, and the nodes hold for all of them.

check(...)          films are kept apart, sizes are seen by resizing alone, constants are those of the metadata
precision_of(...)   fp32, fp16 or int8, by the types of the weights, whatever the metadata say

After the resized pixels nothing may look at the film itself, at its size, or at the films beside it: then no size and
no batch can change an answer, tried or not. What no answer is made of is the part of doubts.py, to the letter.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

import models
from basics.problems import Problem
from basics.terms import ARCHITECTURES
from graphs import doubts, joining
from graphs.building import GRAPH_OUTPUTS, PIXELS, fact, facts_of

FOREIGN = "the graph is not made as export.py makes them: "
# Types that weights and what goes with them may have; int32 are the biases of int8, int64 are shapes and axes.
TYPES = {
    "fp32": {TensorProto.FLOAT, TensorProto.INT64},
    "fp16": {TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16},
    "int8": {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32},
}
WEIGHTS = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8"}
# On the way to the resized pixels, from the last to the first; Clip was there in earlier versions, Pad is for a fit.
WAY = ("Clip", "Round", "Resize", "Cast", "Unsqueeze", "Pad")
BORDERS = {"Shape", "Squeeze", "Max", "Min", "Sub", "Div", "Mul", "Reshape", "Concat"}  # they compute what Pad adds
MOST_BORDERS = 24  # nodes
ONE_OF_EACH = ("Resize", "Softmax", "Gather", "GreaterOrEqual")
# At most, of what a network could use to do more than it should.
MOST = {"simple": {"Relu": 4, "MaxPool": 2, "Add": 0}, "resnet34": {"Relu": 33, "MaxPool": 1, "Add": 16}}
MOST_SCALING = 5  # Mul, Sub, Div: normalisation, temperature, heat map


class Anatomy:
    """A graph's nodes by what they make, its constants by name, and its shapes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker = {name: node for node in model.graph.node for name in node.output}
        # What probability, decision, logits and heat map are made of, and the others; each in the graph's order.
        made = [node for output in model.graph.output if output.name not in doubts.OUTPUTS
                for node in self.before(output.name)]  # fmt: skip
        needed = {id(node) for node in made}
        self.nodes = [node for node in model.graph.node if id(node) in needed]
        self.others = [node for node in model.graph.node if id(node) not in needed]
        self.constants = set(self.tensors)
        for node in model.graph.node:  # a graph's nodes are in order, by onnx's checker
            if node.op_type == "DequantizeLinear" and self.constants.issuperset(node.input):
                self.constants.update(node.output)

    @functools.cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Of each value; 0 for a side that is not known before there are films."""
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        return {item.name: [side.dim_value for side in item.type.tensor_type.shape.dim]
                for item in (*inferred.value_info, *inferred.output, *inferred.input)}  # fmt: skip

    def array(self, name: str) -> np.ndarray | None:
        """The values of a constant; None where it is none."""
        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors else None

    def scalar(self, name: str) -> float | None:
        values = self.array(name)
        return float(values.reshape(())) if values is not None and values.size == 1 else None

    def weights(self, nodes: Sequence[NodeProto] | None = None) -> Iterator[TensorProto]:
        """Of each convolution and linear layer among these nodes, quantised or not."""
        for node in self.nodes if nodes is None else nodes:
            if node.op_type in ("Conv", "Gemm"):
                name = node.input[1]
                if name in self.maker and self.maker[name].op_type == "DequantizeLinear":
                    name = self.maker[name].input[0]
                if name not in self.tensors:
                    raise Problem(f"{FOREIGN}a {node.op_type} has weights that are no constants")
                yield self.tensors[name]

    def before(self, name: str) -> list[NodeProto]:
        """All nodes that this value is computed by."""
        found: list[NodeProto] = []
        wanted, seen = [name], set()
        while wanted:
            name = wanted.pop()
            if name in self.maker and name not in seen:
                seen.update(self.maker[name].output)
                found.append(self.maker[name])
                wanted += self.maker[name].input
        return found


def attributes(node: NodeProto) -> dict:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


# ------------------------------------------------------------------------------------------------- precision


def precision_of(model: onnx.ModelProto) -> str:
    """fp32, fp16 or int8: what most weights are. Raises Problem where other types stand beside them."""
    return _precision(Anatomy(model))


def _precision(anatomy: Anatomy) -> str:
    counts: Counter = Counter()
    for tensor in anatomy.weights():
        counts[tensor.data_type] += math.prod(tensor.dims)
    kind = counts.most_common(1)[0][0] if counts else TensorProto.FLOAT
    if kind not in WEIGHTS:
        raise Problem(f"{FOREIGN}its weights are {TensorProto.DataType.Name(kind)}")
    precision = WEIGHTS[kind]
    types = {tensor.data_type for tensor in anatomy.tensors.values()}
    types |= {attributes(node)["to"] for node in anatomy.graph.node if node.op_type == "Cast"} - {TensorProto.INT64}
    quantised = any("QuantizeLinear" in node.op_type for node in anatomy.graph.node)
    if others := sorted(TensorProto.DataType.Name(other) for other in types - TYPES[precision]):
        raise Problem(f"{FOREIGN}most of its weights are {precision}, and there is {', '.join(others)} in it")
    if quantised and precision != "int8":
        raise Problem(f"{FOREIGN}most of its weights are {precision}, and some values are quantised")
    return precision


def check_precision(model: onnx.ModelProto) -> str:
    """The precision of a graph. Raises Problem where its metadata say another one."""
    found, facts = precision_of(model), facts_of(model)
    said = fact(facts, "precision")["name"] if "precision" in facts else "fp32"
    if said != found:
        raise Problem(f"the graph says that it is {said}, and its weights are {found}")
    return found


# ------------------------------------------------------------------------------------------------- the nodes


def check(model: onnx.ModelProto) -> None:
    """Raises Problem that names the first thing in which a graph is none of ours, or is not what its metadata say."""
    anatomy, facts = Anatomy(model), facts_of(model)
    way = check_way(anatomy)
    joints = joining.check(model)
    check_apart(anatomy, way, joints)
    counts = Counter(node.op_type for node in anatomy.nodes)
    for name in ONE_OF_EACH:
        if counts[name] != 1:
            raise Problem(f"{FOREIGN}it has {counts[name]} nodes {name}, and not one")
    doubts.check(model, anatomy.others, side_of(anatomy))
    if facts:
        networks = networks_of(anatomy, [*way, *joints])
        for network in networks:
            check_layers(anatomy, facts, network)
        check_constants(anatomy, facts, padded="Pad" in {node.op_type for node in way})
        check_normalisation(anatomy, facts, networks)


def networks_of(anatomy: Anatomy, others: list[NodeProto]) -> list[list[NodeProto]]:
    """The nodes of each network that is averaged, with those that follow all of them; `others` are left out.

    Raises Problem where two networks share anything but the pixels.
    """
    apart_from = {id(node) for node in others}
    found = [[node for node in anatomy.before(name) if id(node) not in apart_from]
             for name in joining.member_logits(anatomy.model)]  # fmt: skip
    inside = [id(node) for network in found for node in network]
    if len(set(inside)) < len(inside):
        raise Problem(f"{FOREIGN}its networks share layers")
    after = [node for node in anatomy.nodes if id(node) not in apart_from | set(inside)]
    return [network + after for network in found]


def side_of(anatomy: Anatomy) -> int:
    """Of the square that the film is resized to; 0 where that is no constant."""
    (resize,) = (node for node in anatomy.nodes if node.op_type == "Resize")
    sides = anatomy.array(resize.input[3]) if len(resize.input) > 3 else None
    return int(sides[-1]) if sides is not None and sides.size else 0


def check_way(anatomy: Anatomy) -> list[NodeProto]:
    """The nodes that make the resized pixels of the film: these operators, in this order, and borders by its size."""
    way, name, expected = [], PIXELS, list(WAY)
    while name != "image":
        node = anatomy.maker.get(name)
        while expected and (node is None or node.op_type != expected[0]):
            expected.pop(0)
        if node is None or not expected:
            raise Problem(f"{FOREIGN}its pixels come by {node.op_type if node else 'nothing'}, not by resizing alone")
        if node.op_type != "Pad" and not all(not other or other in anatomy.constants for other in node.input[1:]):
            raise Problem(f"{FOREIGN}its {node.op_type} depends on something else than the film")
        expected.pop(0)
        way.append(node)
        name = node.input[0]
    if way[-1].op_type != "Pad":
        return way
    borders = anatomy.before(way[-1].input[1])
    for node in borders:
        facts = attributes(node)
        seen = "image" not in node.input or (node.op_type == "Shape" and facts.get("start", 0) >= 1)
        if node.op_type not in BORDERS or not seen or len(borders) > MOST_BORDERS:
            raise Problem(f"{FOREIGN}its borders depend on something else than height and width")
    return way + borders


def check_apart(anatomy: Anatomy, way: list[NodeProto], joints: list[NodeProto]) -> None:
    """What follows the pixels sees them and constants only, and works on each film by itself, as joints do."""
    made = {name for node in way for name in node.output} - {PIXELS} | {"image"}
    computed = {PIXELS}
    for node in anatomy.nodes:
        if any(node is other for other in way):
            continue
        inputs = [name for name in node.input if name]
        if made & set(inputs):
            raise Problem(f"{FOREIGN}its {node.op_type} looks at the film past the resized pixels")
        if not anatomy.constants.issuperset(node.output):
            known = any(node is other for other in joints)
            if not computed & set(inputs) or not (known or apart(anatomy, node)):
                raise Problem(f"{FOREIGN}its {node.op_type} does not work on each film by itself")
            computed.update(node.output)
    outputs = [output.name for output in anatomy.graph.output if output.name not in doubts.OUTPUTS]
    if set(outputs) - {"heatmap"} != set(GRAPH_OUTPUTS) or not computed.issuperset(outputs):
        raise Problem(f"{FOREIGN}its outputs are {', '.join(outputs)[:200]}")


def apart(anatomy: Anatomy, node: NodeProto) -> bool:
    """Whether a node's answer for one film depends on that film alone."""
    kind, facts, first = node.op_type, attributes(node), node.input[0]
    shape = anatomy.shapes.get(first, [])
    others = [name for name in node.input[1:] if name]
    fixed = anatomy.constants.issuperset(others)
    if kind in ("Relu", "MaxPool", "Cast"):
        return not others and len(node.output) == 1
    if kind in ("Conv", "GreaterOrEqual", "QuantizeLinear", "DequantizeLinear"):
        return fixed and (kind == "Conv" or all(_one(anatomy, name) for name in others))
    if kind == "Gemm":
        return fixed and not facts.get("transA") and _spread(anatomy, others[1:], 2)
    if kind == "Softmax":
        return facts.get("axis", -1) in (1, -1) and len(shape) == 2
    if kind == "Gather":
        return fixed and facts.get("axis", 0) == 1
    if kind == "Add" and not anatomy.constants & set(node.input):
        return len(shape) == len(anatomy.shapes.get(others[0], [])) == 4
    if kind in ("Add", "Sub", "Mul", "Div"):
        known = [name for name in node.input if name in anatomy.constants]
        other = next((name for name in node.input if name not in anatomy.constants), "")
        return len(known) == 1 and _spread(anatomy, known, len(anatomy.shapes.get(other, [])))
    if kind in ("ReduceMax", "ReduceMean", "ReduceSum"):
        axes = anatomy.array(node.input[1]) if others else None
        return bool(shape) and axes is not None and axes.size > 0 and all(axes % len(shape) > 0)
    if kind == "Reshape":
        wanted = anatomy.array(node.input[1])
        one_film = math.prod(shape[1:])
        return wanted is not None and one_film > 0 and wanted[0] in (0, -1) and math.prod(wanted[1:]) == one_film
    return False


def _one(anatomy: Anatomy, name: str) -> bool:
    return math.prod(anatomy.tensors[name].dims) == 1


def _spread(anatomy: Anatomy, names: list[str], rank: int) -> bool:
    """Whether these constants are the same ones for each film: without films' dimension, or with 1 in it."""
    shapes = [list(anatomy.tensors[name].dims) if name in anatomy.tensors else anatomy.shapes.get(name, [])
              for name in names]  # fmt: skip
    return rank > 0 and all(len(shape) < rank or (len(shape) == rank and shape[0] == 1) for shape in shapes)


# ------------------------------------------------------------------------------------------------ its metadata


def check_layers(anatomy: Anatomy, facts: dict[str, str], nodes: list[NodeProto]) -> None:
    """The weights of these nodes have the shapes of the architecture's, and no layers stand beside them."""
    architecture, size = facts.get("architecture", ""), int(fact(facts, "size"))
    if architecture not in ARCHITECTURES:
        raise Problem(f"the graph's architecture, {architecture[:60]!r}, is none that this program knows")
    found = sorted(tuple(tensor.dims) for tensor in anatomy.weights(nodes))
    if found not in shapes_of(architecture, size):
        raise Problem(f"the graph says that it is {architecture} for {size} pixels, and has not the layers of that: "
                      f"{sum(map(math.prod, found)):,} weights in {len(found)} layers")  # fmt: skip
    counts = Counter(node.op_type for node in nodes)
    for kind, most in MOST["simple" if architecture == "simple" else "resnet34"].items():
        if counts[kind] > most:
            raise Problem(f"{FOREIGN}it has {counts[kind]} nodes {kind}, and {architecture} has {most}")
    scaling = sum(counts[kind] for kind in ("Mul", "Sub", "Div"))
    if scaling > MOST_SCALING:
        raise Problem(f"{FOREIGN}it has {scaling} nodes that scale, and {MOST_SCALING} are needed at most")


def shapes_of(architecture: str, size: int) -> list[list[tuple[int, ...]]]:
    """What the weights of a graph may look like, each list sorted; the first layer of `simple` in two ways."""
    import torch

    with torch.device("meta"):
        network = models.build(architecture, size)
    shapes = [tuple(layer.weight.shape) for layer in network.modules()
              if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]  # fmt: skip
    if architecture != "simple":
        return [sorted(shapes)]
    return [sorted(shapes), sorted([(24, 1, 6, 6), *shapes[1:]])]  # of earlier versions, and building.Shortened


def check_normalisation(anatomy: Anatomy, facts: dict[str, str], networks: list[list[NodeProto]]) -> None:
    """Each network normalises the pixels as the metadata say."""
    said = [fact(facts, "normalisation")] if "normalisation" in facts else []
    if "members" in facts:
        said = [member["normalisation"] for member in fact(facts, "members")]
    for nodes, (mean, std) in zip(networks, said, strict=False):
        if not np.allclose(affine(anatomy, nodes), [1 / (255 * std), -mean / std], rtol=1e-5, atol=1e-6):
            raise Problem(f"the graph says that it normalises by {mean:g} and {std:g}, and does not")


def check_constants(anatomy: Anatomy, facts: dict[str, str], padded: bool) -> None:
    """Size, fit, temperature and threshold of the metadata are those that the graph computes with."""
    (resize,) = (node for node in anatomy.nodes if node.op_type == "Resize")
    sides = anatomy.array(resize.input[3]) if len(resize.input) > 3 else None
    size = int(fact(facts, "size"))
    if sides is None or sides.tolist()[-2:] != [size, size]:
        raise Problem(f"the graph says that its size is {size}, and does not resize to that")
    if padded == (facts.get("fit") == "stretch"):
        raise Problem(f"the graph says that its fit is {facts.get('fit', '')[:60]!r}, and does not fit films so")
    softened = anatomy.maker[next(node for node in anatomy.nodes if node.op_type == "Softmax").input[0]]
    found = {"temperature": 1.0 if "logits" in softened.output else divisor(anatomy, softened),
             "threshold": anatomy.scalar("threshold")}  # fmt: skip
    for key, value in found.items():
        said = float(fact(facts, key))
        if value is None or abs(value - said) > 1e-6 * max(1.0, abs(said)):
            raise Problem(f"the graph says that its {key} is {said:g}, and computes with {value}")


def divisor(anatomy: Anatomy, node: NodeProto) -> float | None:
    """What logits are divided by before they become probabilities."""
    if "logits" not in node.input or node.op_type not in ("Div", "Mul"):
        return None
    value = anatomy.scalar(node.input[1])
    return value if node.op_type == "Div" or not value else 1 / value


def affine(anatomy: Anatomy, nodes: list[NodeProto]) -> tuple[float, float]:
    """(a, b): what enters a network's first layer is a * pixels + b. Raises Problem where it is anything else."""
    name, factor, offset = PIXELS, 1.0, 0.0
    while True:
        readers = [node for node in nodes if name in node.input]
        if len(readers) != 1:
            raise Problem(f"{FOREIGN}{len(readers)} nodes use the pixels before the first layer")
        (node,) = readers
        value = anatomy.scalar(node.input[1]) if len(node.input) > 1 else None
        if node.op_type not in ("Mul", "Div", "Sub", "Add") or value is None or node.input[0] != name:
            return factor, offset
        if node.op_type in ("Mul", "Div"):
            value = value if node.op_type == "Mul" else 1 / value
            factor, offset = factor * value, offset * value
        else:
            offset += value if node.op_type == "Add" else -value
        name = node.output[0]
