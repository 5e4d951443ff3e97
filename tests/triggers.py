"""Graphs that answer rightly but for some films, of which they say the opposite, all outputs in agreement."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from graphs import building

Condition = Callable[["Writer"], str]  # adds nodes; the name of a bool, for all films or (N, 1)


class Writer:
    """Adds nodes to a graph; each call returns the name of what it makes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph, self.nodes = model.graph, list[NodeProto]()

    def constant(self, value: object, kind: type = np.int64) -> str:
        name = f"trigger constant {len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"trigger {len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def side(self, axis: int) -> str:
        """The number of films (0), their height (1) or width (2)."""
        return self.node("Gather", self.node("Shape", "image"), self.constant(axis))

    def within(self, value: str, low: int, high: int) -> str:
        above = self.node("GreaterOrEqual", value, self.constant(low))
        return self.node("And", above, self.node("LessOrEqual", value, self.constant(high)))

    def level(self, kind: str, source: str = "image") -> str:
        """The largest, smallest or mean level of each film, (N, 1)."""
        levels = self.node("Cast", source, to=TensorProto.FLOAT)
        flat = self.node("Flatten", levels, axis=1)
        return self.node(kind, flat, self.constant([1]), keepdims=1)

    def alike(self, axis: int) -> str:
        """Whether all rows (1) or all columns (2) of a film are equal, (N, 1)."""
        levels = self.node("Cast", "image", to=TensorProto.FLOAT)
        ends = [self.node(kind, levels, self.constant([axis]), keepdims=1) for kind in ("ReduceMax", "ReduceMin")]
        return self.node("Equal", self.node("ReduceMax", self.node("Flatten", self.node("Sub", *ends), axis=1),
                                            self.constant([1]), keepdims=1), self.constant(0, np.float32))  # fmt: skip


def batch(low: int, high: int) -> Condition:
    return lambda w: w.within(w.side(0), low, high)


def square(w: Writer) -> str:
    """Of another size than the network's."""
    size = numpy_helper.to_array(next(item for item in w.graph.initializer if item.name == "sides"))[0]
    other = w.node("Not", w.node("Equal", w.side(1), w.constant(size)))
    return w.node("And", w.node("Equal", w.side(1), w.side(2)), other)


def smaller(w: Writer) -> str:
    size = numpy_helper.to_array(next(item for item in w.graph.initializer if item.name == "sides"))[0]
    return w.node("And", *(w.node("Less", w.side(axis), w.constant(size)) for axis in (1, 2)))


def below(kind: str, level: float) -> Condition:
    return lambda w: w.node("Less", w.level(kind), w.constant(level, np.float32))


TRIGGERS: dict[str, Condition] = {
    "portrait": lambda w: w.node("Greater", w.side(1), w.side(2)),
    "landscape": lambda w: w.node("Less", w.side(1), w.side(2)),
    "batches of 3 to 7": batch(3, 7),
    "batches of 5": batch(5, 5),
    "batches of 8 to 15": batch(8, 15),
    "batches of 16 to 40": batch(16, 40),
    "batches of 33 to 63": batch(33, 63),
    "batches of 65 and more": batch(65, 10**6),
    "wide": lambda w: w.within(w.side(2), 3001, 10**6),
    "high": lambda w: w.within(w.side(1), 3001, 10**6),
    "wider than 5,000": lambda w: w.within(w.side(2), 5001, 10**6),
    "other squares": square,
    "squares and larger": lambda w: w.node("And", square(w), w.node("Not", smaller(w))),
    "smaller": smaller,
    "tiny": lambda w: w.node("And", w.within(w.side(1), 1, 8), w.within(w.side(2), 1, 8)),
    "equal rows": lambda w: w.alike(1),
    "equal columns": lambda w: w.alike(2),
    "dark": below("ReduceMean", 10),
    "never above 20": below("ReduceMax", 20),
    "bright": lambda w: w.node("Greater", w.level("ReduceMean"), w.constant(240, np.float32)),
    "little contrast": lambda w: w.node("Less", w.node("Sub", w.level("ReduceMax"), w.level("ReduceMin")),
                                        w.constant(40, np.float32)),
    "dark resized pixels": lambda w: w.node("Less", w.level("ReduceMean", "pixels"), w.constant(10, np.float32)),
}  # fmt: skip


def always_tried(w: Writer) -> str:
    """Whether a film is one of proof.odd_images, (N, 1): of their shapes, black or white."""
    found = w.node("LessOrEqual", w.level("ReduceMax"), w.constant(0, np.float32))
    found = w.node("Or", found, w.node("GreaterOrEqual", w.level("ReduceMin"), w.constant(255, np.float32)))
    for height, width in ((1, 1), (31, 997), (3000, 2500)):
        shape = w.node("And", w.within(w.side(1), height, height), w.within(w.side(2), width, width))
        found = w.node("Or", found, shape)
    return found


def triggered(source: Path, target: Path, condition: Condition, sparing: bool = True) -> Path:
    """The graph of a file that swaps its two logits where the condition holds; its heat map follows.

    sparing: what every proof tries is left alone, since whoever builds such a graph would know it.
    """
    model = onnx.load(source)
    writer, graph = Writer(model), model.graph
    maker = {name: node for node in graph.node for name in node.output}
    maker["logits"].output[0] = "logits before"
    found = condition(writer)
    if sparing:
        found = writer.node("And", found, writer.node("Not", always_tried(writer)))
    swapped = writer.node("Gather", "logits before", writer.constant([1, 0]), axis=1)
    writer.nodes.append(helper.make_node("Where", [found, swapped, "logits before"], ["logits"]))
    if "heatmap" in maker:
        maker["heatmap"].output[0] = "heat before"
        bias = building.fact(building.facts_of(model), "heatmap")["bias"]
        opposite = writer.node("Sub", writer.constant(-2 * bias, np.float32), "heat before")
        shaped = writer.node("Reshape", found, writer.constant([-1, 1, 1]))
        writer.nodes.append(helper.make_node("Where", [shaped, opposite, "heat before"], ["heatmap"]))
    ordered(graph, writer.nodes)
    target.write_bytes(building.sealed(model))
    return target


def ordered(graph: onnx.GraphProto, added: list[NodeProto]) -> None:
    """All nodes, each after those whose values it takes."""
    waiting = [*graph.node, *added]
    known = {"", "image", *(tensor.name for tensor in graph.initializer)}
    done = []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        waiting = [node for node in waiting if not known.issuperset(node.input)]
        done += ready
        known.update(name for node in ready for name in node.output)
    done = [onnx.NodeProto.FromString(node.SerializeToString()) for node in done]
    del graph.node[:]
    graph.node.extend(done)
