"""predict.py opens no graph whose weights are in another file, which could be any file of the machine."""

from pathlib import Path

import onnx
import pytest
from folders import draw
from predicting import bright_graph

import predict


def test_the_ways_to_tensors_are_those_of_onnx():
    """By onnx's own description of its messages: all fields through which a model leads to a tensor."""
    names = {"model": onnx.ModelProto, "training": onnx.TrainingInfoProto, "function": onnx.FunctionProto,
             "graph": onnx.GraphProto, "node": onnx.NodeProto, "attribute": onnx.AttributeProto,
             "sparse": onnx.SparseTensorProto, "tensor": onnx.TensorProto}  # fmt: skip
    known = {kind.DESCRIPTOR.full_name: name for name, kind in names.items()}
    for name, kind in names.items():
        fields = {field.number: known[field.message_type.full_name] for field in kind.DESCRIPTOR.fields
                  if field.message_type is not None and field.message_type.full_name in known}  # fmt: skip
        assert predict.INSIDE.get(name, {}) == fields, name
    by_name = onnx.TensorProto.DESCRIPTOR.fields_by_name
    assert {by_name["external_data"].number, by_name["data_location"].number} == predict.EXTERNAL


@pytest.mark.parametrize("where", ["initializer", "attribute", "list", "sparse", "branch", "function", "training"])
def test_a_graph_that_keeps_weights_in_another_file_is_refused(tmp_path, monkeypatch, capsys, where):
    """The other file is there, in the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    Path("beside.bin").write_bytes(bytes(1 << 16))
    draw(tmp_path / "film.png")
    graph = onnx.load(bright_graph(tmp_path / "bright.onnx"))
    tensor = onnx.helper.make_tensor("other", onnx.TensorProto.FLOAT, [2], [0.0, 1.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside.bin")
    inside = onnx.helper.make_graph([], "inside", [], [], [tensor])
    node = graph.graph.node.add(op_type="Constant", output=["unused"])
    if where == "initializer":
        graph.graph.initializer.append(tensor)
    elif where == "attribute":
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    elif where == "list":
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)
    elif where == "sparse":
        graph.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif where == "branch":
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(inside)
    elif where == "function":
        graph.functions.add(name="f").node.add(op_type="Constant").attribute.add(name="value").t.CopyFrom(tensor)
    else:
        graph.training_info.add().initialization.CopyFrom(inside)
    file = tmp_path / "other.onnx"
    file.write_bytes(graph.SerializeToString())
    assert predict.main([str(file), "film.png"]) == 1
    assert "it keeps weights in another file, and export.py keeps all in one" in capsys.readouterr().err
