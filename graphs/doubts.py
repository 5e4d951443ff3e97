"""The part of a graph that says what it does not know: `unfamiliar`, `flags`, `possible` and `refer`.

attached(...)   a graph in any precision with that part, from the limits of its checkpoint
known_of(...)   the limits again, from a graph's constants
check(...)      that a graph's part is exactly the one that `attached` makes

It reads the resized pixels, what the last layer takes, probability and decision, and of the film its height and width.
Nothing else reads what it makes. Written node by node, in float32 in each precision: anatomy.py knows it to the letter.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from basics.problems import Problem
from graphs import joining
from graphs.building import PIXELS, fact, facts_of
from metrics import conformal, measures
from training import limits
from training.limits import DIRECTIONS, FLAGS, FORBIDDING, SIDE

ALPHA = 0.05  # the promise: the share of each class that may be held to be impossible
OUTPUTS = ["unfamiliar", "flags", "possible", "refer"]
PART = "doubts."  # how the names of its constants and values begin
CUTS = ("lowest_pneumonia", "highest_normal")  # constants, as `threshold` is one
FITTED = ("thumbnail", "hidden", "orientation", "middle", "halves")  # numbers, in the metadata too
COLUMNS = ("nearly constant", "no bright middle", "tiny", "odd shape", "half black", "unfamiliar")
TABLE = {"bits": FLAGS, "forbidding": FORBIDDING}  # of the metadata
FOREIGN = "the graph is not made as export.py makes them: "


def attached(graph: onnx.ModelProto, checkpoint: dict, alpha: float) -> onnx.ModelProto:
    """The graph with that part, and with what it says of it; as it is where the checkpoint has no limits.

    alpha: the share of films of each class whose class may be held to be impossible.
    """
    if "limits" not in checkpoint:
        return graph
    known, promise = checkpoint["limits"], promised(checkpoint, alpha)
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    cuts = promise["lowest_pneumonia"], promise["highest_normal"]
    for name, values in constants(known, cuts, checkpoint["size"]).items():
        made.graph.initializer.append(numpy_helper.from_array(values, name))
    made.graph.node.extend(nodes(hidden_name(graph)))
    for name, kind, shape in zip(OUTPUTS, (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT64),
                                 (("n",), ("n",), ("n", 2), ("n",)), strict=True):  # fmt: skip
        made.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    if facts := facts_of(graph):
        about = {key: known[key] for key in FITTED} | {"flagged": known["flagged"]}
        said = {"promise": promise, "limits": about, "flags": TABLE}
        helper.set_model_props(made, facts | {key: json.dumps(value) for key, value in said.items()})
    return made


def promised(checkpoint: dict, alpha: float) -> dict:
    """The two cut-offs, with what they promise, from validation films as they are."""
    known = checkpoint["limits"]
    probabilities = measures.positive_probability(known["logits"].numpy(), checkpoint["temperature"])
    return conformal.promise(known["labels"].numpy(), probabilities, known["patients"].tolist(), alpha)


def hidden_name(graph: onnx.ModelProto) -> str:
    """Of what the last layer takes, that of an ensemble's first member."""
    logits = joining.member_logits(graph)[0]
    return next(node.input[0] for node in graph.graph.node if logits in node.output)


# ---------------------------------------------------------------------------------------------- what it is made of


def bins(count: int) -> NDArray[np.float32]:
    """(count, 16) that averages columns as adaptive pooling does, from floor(i / 16) of all to ceil((i + 1) / 16)."""
    made = np.zeros((count, SIDE), np.float32)
    for i in range(SIDE):
        some = slice(i * count // SIDE, -(-(i + 1) * count // SIDE))
        made[some, i] = 1 / (some.stop - some.start)
    return made


def constants(known: dict, cuts: tuple[float, float], size: int) -> dict[str, np.ndarray]:
    """All constants of that part, by name; known: as limits.fit makes it."""
    ways, bits = limits.ways(), limits.way_bits()
    middle, halves = limits.shape_rules()
    mean = known["mean"].numpy()
    values, step = np.array([FLAGS[name] for name in COLUMNS]), limits.step_of(size)
    count = len(range(step // 2, size, step))
    floats = {
        "bins": bins(count),
        "bins_turned": bins(count).T,
        "faint": limits.FAINT,
        "mean": mean[:, None],
        "directions": known["directions"].numpy().T,  # (64, 256)
        "signs": [[[sign]] for _, sign, _ in ways],
        "weights": limits.weights(known["orientation"])[None],
        "way_flags": np.stack([bits, (bits & FORBIDDING) > 0], axis=1),  # (16, 2)
        "strange": limits.STRANGE * known["thumbnail"],
        "rules": np.concatenate([middle[:, None], halves], axis=1),
        "rules_offset": np.concatenate([[0], -mean.astype(np.float64) @ halves]),
        "middle": known["middle"],
        "halves": known["halves"],
        "thumbnail": known["thumbnail"],
        "hidden": known["hidden"],
        "hidden_offset": known["hidden_offset"],
        "hidden_whitening": known["hidden_whitening"].numpy(),
        "hidden_means": known["hidden_means"].numpy(),
        "column_flags": np.stack([values, (values & FORBIDDING) > 0], axis=1),
        "zero": 0, "one": 1, "half_size": size / 2, "narrowest": limits.NARROWEST, "widest": limits.WIDEST,
    }  # fmt: skip
    whole = {
        "row": [0], "rows": [1, 2], "axis": [1], "last": [2], "begin": [0], "end": [1], "first": 0, "second": 1,
        "from": [step // 2] * 2, "to": [size] * 2, "square": [2, 3], "steps": [step] * 2, "flat": [-1, SIDE * SIDE],
        "places": np.concatenate([places for places, _, _ in ways]), "by_way": [len(ways), SIDE * SIDE, -1],
        "by_class": [-1, 1, len(known["hidden_whitening"])],
    }  # fmt: skip
    made: dict[str, np.ndarray] = {}
    made |= {PART + name: np.array(value, np.float32, order="C") for name, value in floats.items()}
    made |= {PART + name: np.array(value, np.int64) for name, value in whole.items()}
    return made | {name: np.array(value, np.float32) for name, value in zip(CUTS, cuts, strict=True)}


class Writer:
    """Nodes, one after another."""

    def __init__(self) -> None:
        self.made: list[NodeProto] = []

    def node(self, kind: str, inputs: str, output: str, **attributes: Any) -> None:
        """inputs: names of values, separated by blanks: of this part, or with a = in front of the graph."""
        names = [name[1:] if name.startswith("=") else PART + name for name in inputs.split()]
        target = output[1:] if output.startswith("=") else PART + output
        self.made.append(helper.make_node(kind, names, [target], f"{PART}node_{len(self.made)}", **attributes))


def nodes(hidden: str) -> list[NodeProto]:
    """All nodes of that part; hidden: the name of what the last layer takes, (N, D)."""
    w = Writer()
    write_thumbnail(w)
    write_ways(w)
    write_unfamiliar(w, hidden)
    write_rules(w)
    write_shape(w)
    write_answers(w)
    return w.made


def write_thumbnail(w: Writer) -> None:
    """`plain` (N, 256), without its mean, over its deviation; and that, `spread` (N, 1)."""
    w.node("Slice", f"={PIXELS} from to square steps", "some")
    w.node("MatMul", "bins_turned some", "rows_averaged")  # (N, 1, 16, 32 or more)
    w.node("MatMul", "rows_averaged bins", "averaged")
    w.node("Reshape", "averaged flat", "thumbnails")
    w.node("ReduceMean", "thumbnails axis", "level", keepdims=1)
    w.node("Sub", "thumbnails level", "centred")
    w.node("Mul", "centred centred", "squares")
    w.node("ReduceMean", "squares axis", "variance", keepdims=1)
    w.node("Sqrt", "variance", "spread")
    w.node("Max", "spread faint", "divisor")
    w.node("Div", "centred divisor", "plain")


def write_ways(w: Writer) -> None:
    """`distances` (N, 16) of each way to show a film, and the flags of the nearest, `turned` (N, 2).

    |away|^2 - |away @ directions|^2, where away is what is left of a thumbnail that is turned back without the mean.
    """
    w.node("Transpose", "plain", "plain_turned", perm=[1, 0])  # films last: then Gather moves many values at once
    w.node("Gather", "plain_turned places", "turned_back_flat", axis=0)
    w.node("Reshape", "turned_back_flat by_way", "turned_back")  # (16, 256, N)
    w.node("Mul", "turned_back signs", "upright_if_so")
    w.node("Sub", "upright_if_so mean", "away")
    w.node("MatMul", "directions away", "along")  # (16, 64, N)
    for name in ("away", "along"):
        w.node("Mul", f"{name} {name}", f"{name}_squared")
        w.node("ReduceSum", f"{name}_squared axis", f"{name}_length", keepdims=0)
    w.node("Sub", "away_length along_length", "distances_turned")
    w.node("Transpose", "distances_turned", "distances", perm=[1, 0])
    w.node("Mul", "distances weights", "weighted")
    w.node("ArgMin", "weighted", "way", axis=1, keepdims=0)
    w.node("Gather", "way_flags way", "way_found", axis=0)
    w.node("ReduceMin", "distances axis", "nearest", keepdims=1)
    w.node("LessOrEqual", "nearest strange", "near")
    w.node("Cast", "near", "near_number", to=TensorProto.FLOAT)
    w.node("Mul", "way_found near_number", "turned")


def write_unfamiliar(w: Writer, hidden: str) -> None:
    """`unfamiliar` (N,), the larger one of two distances, each over its limit."""
    w.node("Gather", "distances row", "upright", axis=1)
    w.node("Div", "upright thumbnail", "by_thumbnail")
    w.node("Add", f"={hidden} hidden_offset", "raised")
    w.node("Sqrt", "raised", "roots")
    w.node("MatMul", "roots hidden_whitening", "whitened")
    w.node("Reshape", "whitened by_class", "placed")
    w.node("Sub", "placed hidden_means", "from_means")  # (N, 2, D)
    w.node("Mul", "from_means from_means", "from_means_squared")
    w.node("ReduceSum", "from_means_squared last", "by_mean", keepdims=0)
    w.node("ReduceMin", "by_mean axis", "hidden_distance", keepdims=1)
    w.node("Div", "hidden_distance hidden", "by_hidden")
    w.node("Max", "by_thumbnail by_hidden", "squared")
    w.node("Sqrt", "squared", "distance")
    w.node("Squeeze", "distance axis", "=unfamiliar")


def write_rules(w: Writer) -> None:
    """Of films as thumbnails: (N, 1) bool each."""
    w.node("Greater", "distance one", "is_unfamiliar")
    w.node("Less", "spread faint", "is_constant")
    w.node("Not", "is_constant", "varies")
    w.node("Gemm", "plain rules rules_offset", "ruled")
    w.node("Gather", "ruled row", "brighter", axis=1)
    w.node("Less", "brighter middle", "dull")
    w.node("And", "dull varies", "is_dull")
    w.node("Gather", "ruled rows", "tilted", axis=1)
    w.node("Abs", "tilted", "tilted_either_way")
    w.node("ReduceMax", "tilted_either_way axis", "tilt", keepdims=1)
    w.node("Greater", "tilt halves", "is_half")


def write_shape(w: Writer) -> None:
    """Of the film: (N, 1) bool each. One row and one column of it are counted: anything to the power of 0 is 1.

    ONNX's Shape, and what follows it, would run on the CPU.
    """
    for side, across, along in (("height", "last", "axis"), ("width", "axis", "last")):
        w.node("Slice", f"=image begin end {across}", f"{side}_line")
        w.node("Cast", f"{side}_line", f"{side}_levels", to=TensorProto.FLOAT)
        w.node("Pow", f"{side}_levels zero", f"{side}_ones")
        w.node("ReduceSum", f"{side}_ones {along}", f"{side}_by_line", keepdims=0)
    w.node("Min", "height_by_line width_by_line", "shorter")
    w.node("Less", "shorter half_size", "is_tiny")
    w.node("Mul", "height_by_line narrowest", "least_width")
    w.node("Less", "width_by_line least_width", "narrow")
    w.node("Mul", "height_by_line widest", "most_width")
    w.node("Greater", "width_by_line most_width", "wide")
    w.node("Or", "narrow wide", "is_odd")


def write_answers(w: Writer) -> None:
    """All flags as one number, what is possible, and whether to refer."""
    w.node("Concat", "is_constant is_dull is_tiny is_odd is_half is_unfamiliar", "columns", axis=1)
    w.node("Cast", "columns", "column_numbers", to=TensorProto.FLOAT)
    w.node("MatMul", "column_numbers column_flags", "ruled_out")
    w.node("Add", "ruled_out turned", "sums")  # (N, 2): flags, and how many of them forbid an answer
    w.node("Gather", "sums first", "flag_sum", axis=1)
    w.node("Cast", "flag_sum", "=flags", to=TensorProto.INT64)
    w.node("LessOrEqual", f"=probability ={CUTS[1]}", "normal")
    w.node("GreaterOrEqual", f"=probability ={CUTS[0]}", "pneumonia")
    w.node("Unsqueeze", "normal axis", "normal_column")
    w.node("Unsqueeze", "pneumonia axis", "pneumonia_column")
    w.node("Concat", "normal_column pneumonia_column", "=possible", axis=1)
    w.node("Xor", "normal pneumonia", "one_class")
    w.node("Not", "one_class", "undecided")
    w.node("Gather", "sums second", "forbidding", axis=1)
    w.node("Greater", "forbidding zero", "forbidden")
    w.node("Cast", "=decision", "decision_number", to=TensorProto.FLOAT)
    w.node("Greater", "decision_number zero", "decided")
    w.node("Xor", "pneumonia decided", "contradicted")  # of one class: a threshold may decide for the other
    w.node("Or", "undecided contradicted", "unclear")
    w.node("Or", "unclear forbidden", "referred")
    w.node("Cast", "referred", "=refer", to=TensorProto.INT64)


# --------------------------------------------------------------------------------------------------- read again


def known_of(graph: onnx.ModelProto) -> tuple[dict, tuple[float, float]] | None:
    """The limits and the two cut-offs, from a graph's constants; None where it has no such part.

    Raises Problem where a constant is missing, is of another shape, or is not finite.
    """
    if not set(OUTPUTS) & {output.name for output in graph.graph.output}:
        return None
    named = {tensor.name: tensor for tensor in graph.graph.initializer}

    def floats(name: str, *shape: int) -> NDArray[np.float32]:
        """0: a side of any length."""
        values = numpy_helper.to_array(named[name]) if name in named else np.zeros(0)
        same = values.ndim == len(shape) and all(n in (0, m) for n, m in zip(shape, values.shape, strict=True))
        if not same or values.dtype != np.float32 or not np.isfinite(values).all():
            raise Problem(f"{FOREIGN}its {name} is missing, or of another kind")
        return np.array(values, np.float32)

    known = {key: float(floats(PART + key)) for key in (*FITTED, "hidden_offset") if key != "orientation"}
    known["orientation"] = float(floats(f"{PART}weights", 1, len(limits.ways()))[0, 1])
    whitening = floats(f"{PART}hidden_whitening", 0, 0)
    fitted = {
        "mean": floats(f"{PART}mean", SIDE**2, 1)[:, 0],
        "directions": np.ascontiguousarray(floats(f"{PART}directions", DIRECTIONS, SIDE**2).T),
        "hidden_whitening": whitening,
        "hidden_means": floats(f"{PART}hidden_means", 2, whitening.shape[1]),
    }
    low, high = (float(floats(name)) for name in CUTS)
    return known | {key: torch.from_numpy(values) for key, values in fitted.items()}, (low, high)


def check(graph: onnx.ModelProto, rest: Sequence[NodeProto], size: int) -> None:
    """Raises Problem unless the `rest` of a graph's nodes and their constants are exactly those of this part.

    The fitted constants may be any, as weights may; all others follow from them, from the size and from this file.
    """
    facts, found = facts_of(graph), known_of(graph)
    if found is not None and not set(OUTPUTS) <= {output.name for output in graph.graph.output}:
        raise Problem(f"{FOREIGN}of {', '.join(OUTPUTS)} it has some, and not all")
    if found is None:
        if rest or {"promise", "limits", "flags"} & set(facts):
            raise Problem(f"{FOREIGN}it has nodes that no answer needs, or says more than it computes")
        return
    if size < SIDE:
        raise Problem(f"{FOREIGN}it does not resize to a square")
    wanted = nodes(hidden_name(graph))
    same = [node.SerializeToString(deterministic=True) for node in rest] == [
        node.SerializeToString(deterministic=True) for node in wanted
    ]
    if not same:
        raise Problem(f"{FOREIGN}the nodes that make {', '.join(OUTPUTS)} are not exactly those that it needs")
    made = constants(*found, size)
    named = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, values in made.items():
        stored = numpy_helper.to_array(named[name]) if name in named else np.zeros(0)
        if (stored.shape, stored.dtype) != (values.shape, values.dtype) or not np.allclose(stored, values, 1e-5, 1e-5):
            raise Problem(f"{FOREIGN}its {name} does not follow from its limits")
    if facts:
        check_facts(facts, *found)


def check_facts(facts: dict[str, str], known: dict, cuts: tuple[float, float]) -> None:
    """Raises Problem where the metadata say other limits, cut-offs or bits than the graph computes with."""
    try:
        promise, about = fact(facts, "promise"), fact(facts, "limits")
        said = {**{key: about[key] for key in FITTED}, **{key: promise[key] for key in CUTS}}
        table = fact(facts, "flags")
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(f"{FOREIGN}its metadata do not say its limits, its promise and its flags") from error
    if table != TABLE:
        raise Problem("the graph says that its flags have other bits than those that it sets")
    for key, value in ({key: known[key] for key in FITTED} | dict(zip(CUTS, cuts, strict=True))).items():
        if not abs(value - said[key]) <= 1e-6 * max(1.0, abs(value)):
            raise Problem(f"the graph says that its {key} is {said[key]:g}, and computes with {value:g}")


# ------------------------------------------------------------------------------------------ held against PyTorch

UNSURE = 5e-3  # that near to a limit, as a part of it, rounding may turn a flag
DISTANCE = 10.0  # tolerances of probability by which `unfamiliar` may differ, as a part of it, or of 1 if that is more


@dataclass(frozen=True)
class Doubts:
    """What is expected of N films of the network's own size."""

    distance: NDArray  # (N,) `unfamiliar`
    flags: NDArray[np.int64]  # (N,)
    unsure: NDArray[np.int64]  # (N,) flags of which thumbnails do not say for sure

    def __getitem__(self, some: NDArray[np.int64] | slice) -> "Doubts":
        return Doubts(self.distance[some], self.flags[some], self.unsure[some])


def unsure_of(known: dict, squares: NDArray[np.uint8]) -> NDArray[np.int64]:
    thumbs = limits.thumbnails(torch.from_numpy(np.array(squares)))
    return limits.flags_of(known, limits.looked_at(known, thumbs), UNSURE)[1]


def expected(known: dict, squares: NDArray[np.uint8], hidden: NDArray[np.float64]) -> Doubts:
    """From (N, S, S) pixels and (N, D) of the last hidden layer, in float64."""
    thumbs = limits.thumbnails(torch.from_numpy(np.array(squares)))
    return Doubts(*limits.answers(known, thumbs, hidden), unsure_of(known, squares))


def of_graph(found: dict[str, NDArray], unsure: NDArray[np.int64]) -> Doubts | None:
    """A graph's own answers, for others to be held against."""
    if not {"unfamiliar", "flags"} <= set(found):
        return None
    return Doubts(found["unfamiliar"], found["flags"] & ~limits.BY_SHAPE, unsure)


def differing(found: dict[str, NDArray], wanted: Doubts, shape: int, tolerance: float) -> tuple[NDArray, NDArray]:
    """(N,) by how much `unfamiliar` differs, as compare's tolerance counts it, and (N,) whether anything is wrong.

    shape: the flags of the films' height and width.
    """
    off = np.abs(found["unfamiliar"] - wanted.distance) / np.maximum(1, wanted.distance) / DISTANCE
    near = np.abs(wanted.distance - 1) <= DISTANCE * tolerance
    unsure = wanted.unsure | np.where(near, FLAGS["unfamiliar"], 0)
    turned = (found["flags"] ^ (wanted.flags | shape)) & ~unsure
    return off, ~(off <= tolerance) | (turned != 0)  # `<=` is False for nan


def coherent(found: dict[str, NDArray], cuts: tuple[float, float]) -> bool:
    """Whether `possible`, `refer` and a flag follow from a graph's own probability, decision, flags and distance."""
    if not set(OUTPUTS) <= set(found):
        return False
    possible = np.stack([found["probability"] <= np.float32(cuts[1]), found["probability"] >= np.float32(cuts[0])], 1)
    unfamiliar = (found["flags"] & FLAGS["unfamiliar"]) > 0
    return (
        np.array_equal(found["possible"], possible)
        and refers(found)
        and np.array_equal(unfamiliar, found["unfamiliar"] > 1)
    )


def refers(found: dict[str, NDArray]) -> bool:
    """Whether `refer` follows from a graph's own decision, `possible` and `flags`."""
    possible = found["possible"]
    decided = possible[np.arange(len(possible)), found["decision"]]
    return np.array_equal(found["refer"], (possible.sum(1) != 1) | ~decided | ((found["flags"] & FORBIDDING) > 0))


def other_classes(found: dict[str, NDArray], wanted: NDArray, cuts: tuple[float, float], tolerance: float) -> NDArray:
    """(N,) whether another class is possible than by PyTorch's probabilities, not within `tolerance` of a cut-off."""
    near = np.abs(wanted[:, None] - np.array(cuts[::-1])) <= tolerance
    return ((found["possible"] != conformal.possible(wanted, cuts)) & ~near).any(1)
