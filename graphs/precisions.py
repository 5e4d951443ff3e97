"""Graphs of half and of a quarter of the size: fp16 for GPUs, int8 with ranges from training films."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphs.building import FEW_FILTERS, facts_of, without_traces


def to_precision(graph: onnx.ModelProto, precision: str, calibration: np.ndarray | None = None) -> onnx.ModelProto:
    """A float32 graph in another precision, under the name that goes with it.

    calibration: (N, S, S) uint8 training images, for int8. Inputs, outputs, resizing, normalisation and what follows
    the last hidden layer stay as they are, in float32.
    """
    if precision == "fp32":
        return graph
    about: dict[str, object] = {"name": precision}
    if precision == "fp16":
        made = to_fp16(graph)
    elif calibration is None:
        raise ValueError("int8 takes its ranges from calibration images, and none were given")
    else:
        made = to_int8(graph, calibration)
        about |= {"activations": "uint8", "weights": "int8, per channel", "calibration_images": len(calibration)}
    facts = facts_of(graph)
    if facts:
        facts |= {"name": f"{facts['name']}-{precision}", "precision": json.dumps(about)}
        helper.set_model_props(made, facts)
    return made


def hidden_layers(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], str, str]:
    """The nodes from the first convolution to the last ReLU, their input's name and their output's."""
    maker = {name: node for node in graph.node for name in node.output}
    last = "logits"
    while maker[last].op_type != "Relu":  # a linear layer and, before it, averaging
        last = maker[last].input[0]
    first = next(node for node in graph.node if node.op_type == "Conv").input[0]
    wanted, found = {last}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            found.insert(0, node)
            wanted |= set(node.input) - {first}
    return found, first, last


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Hidden layers in float16, but for the first: half the size, and faster where the hardware computes in it.

    The first convolution of a pretrained network has weights up to 12 that nearly cancel on smooth pixels. Rounding
    these alone moved probabilities by 0.005, more than all other layers together; and it is 0.01 % of the weights.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    nodes, _, last = hidden_layers(made.graph)
    relu = next(i for i, node in enumerate(nodes) if node.op_type == "Relu")
    first, nodes = nodes[relu].output[0], nodes[relu + 1 :]
    weights = {name for node in nodes for name in node.input}
    for tensor in made.graph.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in nodes:
        node.input[:] = [f"{first}_half" if name == first else name for name in node.input]
        names = {last: f"{last}_half"}  # inside; those who read it from outside get it in float32
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    before = helper.make_node("Cast", [first], [f"{first}_half"], "to_half", to=TensorProto.FLOAT16)
    after = helper.make_node("Cast", [f"{last}_half"], [last], "from_half", to=TensorProto.FLOAT)
    everything = list(made.graph.node)
    start, end = everything.index(nodes[0]), everything.index(nodes[-1])
    everything = [*everything[:start], before, *everything[start : end + 1], after, *everything[end + 1 :]]
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(everything)
    return made


def to_int8(graph: onnx.ModelProto, calibration: np.ndarray) -> onnx.ModelProto:
    """Hidden layers in int8: activations uint8 and weights int8 per channel, the pair that x86 has instructions for.

    The ranges of activations are the smallest and largest values met on the calibration images.
    """
    # Here and not above: it takes a second, and appends a folder of its own to sys.path.
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(calibration, -(-len(calibration) // 16)))

        # None is how onnxruntime wants to be told that there are no more, whatever its own hints say.
        def get_next(self) -> dict[str, np.ndarray] | None:  # ty: ignore[incompatible-method-override]
            batch = next(self.batches, None)
            return None if batch is None else {"image": np.ascontiguousarray(batch)}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "quantised"))
        onnx.save(graph, plain)  # given the graph itself, quant_pre_process takes the weights out of it
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        nodes = worth_int8(onnx.load(prepared).graph)
        quantization.quantize_static(
            prepared,
            quantised,
            Reader(),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=[node.name for node in nodes],
        )
        made = without_traces(onnx.load(quantised))
    made.ir_version = graph.ir_version
    del made.opset_import[:]  # it declares ten, and uses this one
    made.opset_import.extend(graph.opset_import)
    made.producer_name, made.producer_version = graph.producer_name, graph.producer_version
    del made.graph.value_info[:]
    return made


def worth_int8(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The hidden layers after the last convolution of few filters: there int8 is slower than float32.

    With both of its convolutions (6 and 16 filters) in int8, the simple network ran at 0.6 of its speed in float32.
    """
    nodes, _, _ = hidden_layers(graph)
    filters = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 4}
    few = [i for i, node in enumerate(nodes) if node.op_type == "Conv" and filters[node.input[1]] < FEW_FILTERS]
    return nodes[max(few, default=-1) + 1 :]
