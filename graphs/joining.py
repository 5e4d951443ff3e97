"""Several graphs as one: an ensemble, whose logits are the log of the mean of its members' probabilities.

joined(...)   the graphs of several networks -> one graph; films are resized once
check(...)    that what joins a graph's members is exactly what `joined` makes

The members keep their layers, each under names of its own. What joins them is written node by node, in float32 in each
precision: anatomy.py knows it to the letter.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from basics.problems import Problem
from graphs.building import GRAPH_OUTPUTS, PIXELS, fact, facts_of
from training import schema

PART = "ensemble."  # how the names of its constants and values begin
FOREIGN = "the graph is not made as export.py makes them: "


def logits_of(member: int) -> str:
    """The name of a member's logits, the first is 0."""
    return f"member{member}.logits"


def members_of(graph: onnx.ModelProto) -> int:
    """How many networks a graph averages, by the names of its values; 0 of a graph of one network."""
    made, count = outputs_of(graph.graph.node), 0
    while logits_of(count) in made:
        count += 1
    return count


def member_logits(graph: onnx.ModelProto) -> list[str]:
    """The names of all networks' logits."""
    return [logits_of(k) for k in range(members_of(graph))] or ["logits"]


def joined(graphs: Sequence[onnx.ModelProto], temperatures: Sequence[float]) -> onnx.ModelProto:
    """One graph of several in the same precision; what films are resized by, what follows the logits, and what it says
    of itself are those of the first. A heat map is left out: the log of a mean has none that is exact.

    temperatures: by which the members' logits become probabilities.
    """
    first = graphs[0]
    made = onnx.ModelProto()
    made.CopyFrom(first)
    parts = [own_nodes(graph, k) for k, graph in enumerate(graphs)]
    resizing, tail = before(first.graph, [PIXELS]), after_logits(first.graph)
    del made.graph.node[:], made.graph.value_info[:], made.graph.initializer[:], made.graph.output[:]
    made.graph.node.extend(resizing)
    for part in parts:
        made.graph.node.extend(part)
    made.graph.node.extend(nodes(len(graphs)))
    made.graph.node.extend(tail)
    used = {name for node in made.graph.node for name in node.input}
    tensors = {named(tensor.name, k): tensor for k, graph in enumerate(graphs) for tensor in graph.graph.initializer}
    for name in used & set(tensors):
        tensor = TensorProto()
        tensor.CopyFrom(tensors[name])
        tensor.name = name
        made.graph.initializer.append(tensor)
    made.graph.initializer.sort(key=lambda tensor: tensor.name)  # the same file each time
    for name, values in constants(temperatures).items():
        made.graph.initializer.append(numpy_helper.from_array(values, name))
    made.graph.output.extend(output for output in first.graph.output if output.name in GRAPH_OUTPUTS)
    return made


def named(name: str, member: int) -> str:
    """The name in the joined graph of a member's value: the first keeps its names."""
    if name == "logits":
        return logits_of(member)
    return name if member == 0 or name in ("", PIXELS) else f"member{member}.{name}"


def own_nodes(graph: onnx.ModelProto, member: int) -> list[NodeProto]:
    """A member's nodes from the resized pixels to its logits, under their names in the joined graph."""
    resizing = outputs_of(before(graph.graph, [PIXELS]))
    made = []
    for node in before(graph.graph, ["logits"]):
        if not resizing & set(node.output):
            own = NodeProto()
            own.CopyFrom(node)
            own.name = f"member{member}.{node.name}"
            own.input[:] = [named(name, member) for name in node.input]
            own.output[:] = [named(name, member) for name in node.output]
            made.append(own)
    return made


def before(graph: onnx.GraphProto, names: Sequence[str]) -> list[NodeProto]:
    """The nodes that these values are made by, in the graph's order."""
    wanted, found = set(names), []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            found.insert(0, node)
            wanted |= set(node.input)
    return found


def after_logits(graph: onnx.GraphProto) -> list[NodeProto]:
    """The nodes that make probability and decision of the logits."""
    earlier = outputs_of(before(graph, ["logits"]))
    return [node for node in before(graph, ["probability", "decision"]) if not earlier & set(node.output)]


def outputs_of(nodes: Sequence[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output}


def constants(temperatures: Sequence[float]) -> dict[str, np.ndarray]:
    made = {f"{PART}temperature{k}": np.array(value, np.float32) for k, value in enumerate(temperatures)}
    return made | {f"{PART}axis": np.array([1], np.int64),
                   f"{PART}log_count": np.array(math.log(len(temperatures)), np.float32)}  # fmt: skip


def nodes(count: int) -> list[NodeProto]:
    """`logits` (N, 2) from those of `count` members. The largest is taken out first: exp of little is 0, its log not
    finite."""
    made: list[NodeProto] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = output if output == "logits" else PART + output
        made.append(helper.make_node(kind, inputs, [name], f"{PART}node_{len(made)}", **attributes))
        return name

    columns = []
    for k in range(count):
        scaled = node("Div", [logits_of(k), f"{PART}temperature{k}"], f"scaled{k}")
        logs = node("LogSoftmax", [scaled], f"logs{k}", axis=1)
        columns.append(node("Unsqueeze", [logs, f"{PART}axis"], f"column{k}"))
    every = node("Concat", columns, "every", axis=1)  # (N, count, 2)
    largest = node("ReduceMax", [every, f"{PART}axis"], "largest", keepdims=1)
    away = node("Sub", [every, largest], "away")
    shares = node("Exp", [away], "shares")
    total = node("ReduceSum", [shares, f"{PART}axis"], "total", keepdims=1)
    log = node("Log", [total], "log")
    again = node("Add", [log, largest], "sum")
    flat = node("Squeeze", [again, f"{PART}axis"], "log_sum")
    node("Sub", [flat, f"{PART}log_count"], "logits")
    return made


def check(graph: onnx.ModelProto) -> list[NodeProto]:
    """The nodes that join a graph's members; none of a graph of one network.

    Raises Problem unless they, and their constants, are exactly those that `joined` makes of what the metadata say.
    """
    count, facts = members_of(graph), facts_of(graph)
    found = [node for node in graph.graph.node if any(name.startswith(PART) for name in (*node.input, *node.output))]
    if not count:
        if found or "members" in facts:
            raise Problem(f"{FOREIGN}it says that it averages several networks, and has one")
        return []
    same = [node.SerializeToString(deterministic=True) for node in found] == [
        node.SerializeToString(deterministic=True) for node in nodes(count)
    ]
    if not same or count < 2:
        raise Problem(f"{FOREIGN}the nodes that average its members are not exactly those that it needs")
    named_tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    given = [named_tensors.get(f"{PART}temperature{k}", np.zeros(0)) for k in range(count)]
    if not all(value.shape == () and value.dtype == np.float32 and 0 < value < np.inf for value in given):
        raise Problem(f"{FOREIGN}its members have no temperatures")
    for name, wanted in constants([float(value) for value in given]).items():
        stored = named_tensors.get(name, np.zeros(0))
        if (stored.shape, stored.dtype) != (wanted.shape, wanted.dtype) or not np.array_equal(stored, wanted):
            raise Problem(f"{FOREIGN}its {name} is not what it must be")
    if facts:
        check_facts(facts, [float(value) for value in given])
    return found


def check_facts(facts: dict[str, str], temperatures: Sequence[float]) -> None:
    try:
        members = fact(facts, "members")
        if not schema.RULES["members"][0](members):
            raise ValueError(members)
        said = [float(one["temperature"]) for one in members]
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(f"{FOREIGN}its metadata do not say whose answers it averages") from error
    if len(said) != len(temperatures) or not np.allclose(said, temperatures, rtol=1e-6):
        raise Problem("the graph says that it averages other networks than it computes with, or by other temperatures")
