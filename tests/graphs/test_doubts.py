"""What a graph says it does not know: the same in each precision and batch, and apart from its answers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from test_building import FACTS, noise, run
from test_exporting import edited, limits_of, shaken
from triggers import ordered

import data
import export
import train
from basics import terms
from basics.problems import Problem
from graphs import anatomy, building, doubts, precisions, proof
from metrics import conformal
from training import limits
from training.checkpoints import load_checkpoint, save_checkpoint

SHAPES = {"unfamiliar": ("float32", ()), "flags": ("int64", ()), "possible": ("bool", (2,)), "refer": ("int64", ())}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The ledger of looks at test labels goes to runs/ of the folder that one is in."""
    monkeypatch.chdir(tmp_path)


MADE: dict[str, tuple[dict, bytes]] = {}  # by architecture: an export takes seconds


def make(architecture: str, precision: str, phantoms: data.Dataset) -> tuple[dict, bytes, bytes]:
    """A checkpoint, its graph without that part, and with it."""
    if architecture not in MADE:
        network = shaken(architecture, 64)
        facts = FACTS | {"architecture": architecture, "limits": limits_of(network, phantoms)}
        MADE[architecture] = facts, building.to_graph(network, facts, "hash").SerializeToString()
    known, content = MADE[architecture]
    plain = precisions.to_precision(onnx.load_from_string(content), precision, noise(16, 64, 64))
    return known, plain.SerializeToString(), doubts.attached(plain, known, 0.1).SerializeToString()


@pytest.fixture(scope="module")
def simple(phantoms) -> tuple[dict, bytes, bytes]:
    return make("simple", "fp32", phantoms)


def graph_of(simple: tuple[dict, bytes, bytes]) -> onnx.ModelProto:
    return onnx.load_from_string(simple[2])


# --------------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("precision", terms.PRECISIONS)
@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
def test_answers_are_to_the_bit_those_of_a_graph_without_it(phantoms, architecture, precision):
    known, *both = make(architecture, precision, phantoms)
    plain, whole = (onnx.load_from_string(content) for content in both)
    onnx.checker.check_model(whole, full_check=True)
    assert anatomy.check_precision(whole) == precision
    anatomy.check(whole)
    pixels = np.concatenate([phantoms.images[:30], noise(3, 64, 64)])
    before, after = run(plain, pixels), run(whole, pixels)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    for name, (kind, shape) in SHAPES.items():
        assert (str(after[name].dtype), after[name].shape) == (kind, (33, *shape)), name
    assert {t.data_type for t in whole.graph.initializer if t.name.startswith(doubts.PART)} == {1, 7}  # float, int64
    found, cuts = doubts.known_of(whole)
    assert doubts.coherent(after, cuts) and found["orientation"] == np.float32(known["limits"]["orientation"])
    for name in ("mean", "directions", "hidden_whitening", "hidden_means"):
        assert torch.equal(found[name], known["limits"][name])


@pytest.mark.parametrize("size", [32, 33, 47, 63, 100])
def test_thumbnails_of_any_size_are_pytorchs(size):
    squares = noise(4, size, size)
    step = limits.step_of(size)
    some = squares[:, step // 2 :: step, step // 2 :: step].astype(np.float64)
    bins = doubts.bins(some.shape[1]).astype(np.float64)
    found = (bins.T @ some @ bins).reshape(4, -1)
    np.testing.assert_allclose(found, limits.thumbnails(torch.from_numpy(squares)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (31, 64), (1, 1), (300, 100), (40, 300), (90, 30), (3000, 8)])
def test_flags_of_height_and_width_are_exact(simple, shape):
    for pixels in (noise(3, *shape), np.zeros((3, *shape), np.uint8), np.full((3, *shape), 255, np.uint8)):
        flags = run(graph_of(simple), pixels)["flags"]
        np.testing.assert_array_equal(flags & limits.BY_SHAPE, limits.shape_flags(*shape, 64))


def test_a_class_is_possible_by_cut_offs_and_a_flag_forbids_answers(simple, phantoms):
    known, _, _ = simple
    found = run(graph_of(simple), np.concatenate([phantoms.images[:40], 255 - phantoms.images[:5]]))
    promise = json.loads(building.facts_of(graph_of(simple))["promise"])
    assert promise == doubts.promised(known, 0.1) and promise["alpha"] == 0.1
    cuts = promise["lowest_pneumonia"], promise["highest_normal"]
    np.testing.assert_array_equal(found["possible"], conformal.possible(found["probability"], cuts))
    assert (found["flags"][40:] & limits.FLAGS["negative"]).all() and found["refer"][40:].all()
    alone = limits.FLAGS["mirrored"] | limits.BY_SHAPE
    assert not limits.FORBIDDING & (alone | limits.FLAGS["coloured"] | limits.FLAGS["guessed levels"])


@pytest.mark.parametrize(("threshold", "other"), [(0.0, 0), (1.0, 1)])
def test_a_threshold_that_decides_for_a_class_that_is_not_possible_refers(simple, phantoms, threshold, other):
    graph = graph_of(simple)
    building.set_threshold(graph, threshold)
    found = run(graph, phantoms.images)
    alone = found["possible"][:, other] & ~found["possible"][:, 1 - other]
    assert alone.sum() > 5 and (found["decision"][alone] == 1 - other).all() and found["refer"][alone].all()
    assert doubts.coherent(found, doubts.known_of(graph)[1])
    found["refer"][alone] = 0
    assert not doubts.coherent(found, doubts.known_of(graph)[1])


def test_a_checkpoint_of_an_earlier_version_gives_a_graph_without_it(simple):
    plain = onnx.load_from_string(simple[1])
    assert doubts.attached(plain, FACTS, 0.05) is plain and doubts.known_of(plain) is None
    anatomy.check(plain)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", ["bins", "places", "signs", "weights", "way_flags", "column_flags", "strange",
                                  "rules", "rules_offset", "faint", "half_size", "zero", "steps", "widest",
                                  "by_way"])  # fmt: skip
def test_a_constant_that_does_not_follow_from_the_limits_is_refused(simple, name):
    graph = graph_of(simple)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == doubts.PART + name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[-1] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(Problem, match=f"its doubts.{name} does not follow from its limits"):
        anatomy.check(graph)


@pytest.mark.parametrize("name", ["mean", "hidden_means", "hidden_whitening", "thumbnail", "directions", "middle"])
@pytest.mark.parametrize("how", ["gone", "nan", "shape"])
def test_a_constant_that_is_none_is_refused(simple, name, how):
    graph = graph_of(simple)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == doubts.PART + name)
    values = numpy_helper.to_array(tensor)
    if how == "gone":
        graph.graph.initializer.remove(tensor)
    else:
        wrong = values * np.float32("nan") if how == "nan" else values[None]
        tensor.CopyFrom(numpy_helper.from_array(wrong.astype(np.float32), tensor.name))
    with pytest.raises(Problem, match=f"its doubts.{name} is missing, or of another kind"):
        anatomy.check(graph)


def test_nodes_of_that_part_are_known_to_the_letter(simple):
    count = len(doubts.nodes("x"))
    for k in range(count):
        graph = graph_of(simple)
        node = next(node for node in graph.graph.node if node.name == f"doubts.node_{k}")
        node.input[0] = "image" if node.input[0] != "image" else building.PIXELS
        with pytest.raises(Problem, match="not exactly those that it needs"):
            anatomy.check(graph)
    graph = graph_of(simple)
    graph.graph.node.append(helper.make_node("Identity", ["image"], ["unused"]))
    with pytest.raises(Problem, match="not exactly those that it needs"):
        anatomy.check(graph)


@pytest.mark.parametrize("name", ["probability", "decision", "logits"])
def test_an_answer_that_depends_on_that_part_is_refused(simple, name):
    """It would be one that sees height and width."""
    graph = graph_of(simple)
    maker = next(node for node in graph.graph.node if name in node.output)
    maker.output[0] = "before"
    kind = 7 if name == "decision" else 1
    ordered(graph.graph, [helper.make_node("Cast", [f"{doubts.PART}is_tiny"], ["tiny"], to=kind),
                          helper.make_node("Add", ["before", "tiny"], [name])])  # fmt: skip
    with pytest.raises(Problem, match="the graph is not made as export.py makes them"):
        anatomy.check(graph)


def test_some_of_its_outputs_alone_are_refused(simple):
    for name in doubts.OUTPUTS:
        graph = graph_of(simple)
        graph.graph.output.remove(next(output for output in graph.graph.output if output.name == name))
        with pytest.raises(Problem, match="not made as export.py makes them"):
            anatomy.check(graph)


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("promise", {"lowest_pneumonia": 0.5}, "its lowest_pneumonia is 0.5, and computes with"),
        ("limits", {"thumbnail": 1.0}, "its thumbnail is 1, and computes with"),
        ("flags", {"forbidding": 0}, "its flags have other bits"),
        ("flags", None, "do not say its limits, its promise and its flags"),
    ],
)
def test_metadata_are_those_that_it_computes_with(simple, key, change, reason):
    graph = graph_of(simple)
    facts = building.facts_of(graph)
    if change is None:
        del facts[key]
    else:
        facts[key] = json.dumps(json.loads(facts[key]) | change)
    helper.set_model_props(graph, facts)
    with pytest.raises(Problem, match=reason):
        anatomy.check(graph)
    plain = onnx.load_from_string(simple[1])
    helper.set_model_props(plain, facts)
    with pytest.raises(Problem, match="says more than it computes"):
        anatomy.check(plain)


# ------------------------------------------------------------------------------------------ export, proof, verify


@pytest.fixture(scope="module")
def world(cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    options = ["--data", "phantoms", "--cache", str(cache), "--size", "64", "--out", str(folder / "runs")]
    quickly = ["--recipe", "seed", "--lr", "2e-3", "--batch-size", "16", "--epochs", "4"]
    assert train.main(["--arch", "simple", *quickly, *options]) == 0
    assert exported(folder, cache) == 0
    return folder


def exported(folder: Path, cache: Path, out: str = "onnx", *more: str) -> int:
    places = ["--cache", str(cache), "--runs", str(folder / "runs"), "--onnx", str(folder / out)]
    return export.main([str(folder / "runs" / "simple" / "model.pt"), *places, *more])


def test_a_promise_is_chosen(world, cache, capsys):
    assert exported(world, cache, "bold", "--promise", "0.2") == 0
    promises = [json.loads(building.facts_of(onnx.load(world / out / "simple.onnx"))["promise"])
                for out in ("onnx", "bold")]  # fmt: skip
    assert [promise["alpha"] for promise in promises] == [0.05, 0.2]
    assert promises[0]["lowest_pneumonia"] <= promises[1]["lowest_pneumonia"]
    assert promises[0]["highest_normal"] >= promises[1]["highest_normal"]
    for wrong in ("0", "1", "2", "half"):
        with pytest.raises(SystemExit) as caught:
            export.parse(["x.pt", "--promise", wrong])
        assert caught.value.code == 2


@pytest.mark.parametrize("name", ["hidden_whitening", "directions", "thumbnail", "halves", "lowest_pneumonia"])
def test_a_graph_with_other_limits_than_its_checkpoint_is_caught(world, phantoms, tmp_path, name):
    """By its answers, whatever its nodes and its metadata are."""
    checkpoint, network = load_checkpoint(world / "runs" / "simple" / "model.pt")
    expected = proof.reference(network, checkpoint, phantoms, data.split(phantoms))

    def edit(graph: onnx.ModelProto) -> None:
        tensor = next(t for t in graph.graph.initializer if t.name in (name, doubts.PART + name))
        values = numpy_helper.to_array(tensor) * np.float32(0.7)
        tensor.CopyFrom(numpy_helper.from_array(np.array(values, np.float32), tensor.name))

    path = edited(world / "onnx" / "simple.onnx", tmp_path / "x.onnx", edit)
    with pytest.raises(Problem, match="the graph's answers differ from PyTorch's on cpu, "):
        proof.prove(path, expected, ["cpu"])
    (plain := onnx.load(world / "onnx" / "simple.onnx")).graph.output.pop()
    (tmp_path / "y.onnx").write_bytes(building.sealed(plain))
    with pytest.raises(Problem):
        proof.prove(tmp_path / "y.onnx", expected, ["cpu"])


def test_the_certificate_keeps_what_is_verified(world, cache, tmp_path, capsys):
    shutil.copytree(world / "onnx", tmp_path / "onnx")
    graph, beside = tmp_path / "onnx" / "simple.onnx", tmp_path / "onnx" / "simple.json"
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 0
    assert "unfamiliar differs by at most" in capsys.readouterr().out
    honest = beside.read_text()
    first = next(iter(json.loads(honest)["doubts"]["images"]))
    for wrong, said in (("9.5 512", "answers differ from PyTorch's on cpu"), ("0.5", "the certificate is damaged"),
                        ("nan 0", "the certificate is damaged")):  # fmt: skip
        kept = json.loads(honest)
        kept["doubts"]["images"][first] = wrong
        beside.write_text(json.dumps(kept))
        assert export.main(["verify", str(graph), "--cache", str(cache)]) == 1
        assert said in capsys.readouterr().err
    kept = {key: value for key, value in json.loads(honest).items() if key != "doubts"}
    beside.write_text(json.dumps(kept))
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 1
    assert "the certificate is damaged (KeyError: 'doubts')" in capsys.readouterr().err
    beside.write_text(honest)
    before = run(onnx.load(graph), noise(5, 50, 60))
    assert export.main(["threshold", str(graph), "0.9"]) == 0
    after = run(onnx.load(graph), noise(5, 50, 60))
    assert all(np.array_equal(before[name], after[name]) for name in doubts.OUTPUTS)
    assert export.main(["verify", str(graph), "--cache", str(cache)]) == 0


def test_a_checkpoint_without_limits_is_exported_with_a_note(world, cache, tmp_path, capsys):
    checkpoint, _ = load_checkpoint(world / "runs" / "simple" / "model.pt")
    older = {key: value for key, value in checkpoint.items() if key != "limits"}
    path = tmp_path / "runs" / "simple" / "model.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, older)
    assert exported(tmp_path, cache) == 0
    out = capsys.readouterr().out
    assert out.count("is of an earlier version, which kept no limits") == 1
    graph = onnx.load(tmp_path / "onnx" / "simple.onnx")
    assert [output.name for output in graph.graph.output] == building.GRAPH_OUTPUTS
    assert not {"promise", "limits", "flags"} & set(building.facts_of(graph))
    assert export.main(["verify", str(tmp_path / "onnx" / "simple.onnx"), "--cache", str(cache)]) == 0
    known = checkpoint["limits"]
    of_another = known | {"hidden_means": torch.zeros(2, 5), "hidden_whitening": torch.zeros(5, 5)}
    of_a_graph = {key: value for key, value in known.items() if not isinstance(value, torch.Tensor)}
    for wrong in (of_another, of_a_graph, {}):
        save_checkpoint(path, {**checkpoint, "limits": wrong})
        assert exported(tmp_path, cache) == 1
        assert re.search("its limits (do not fit simple|is {})", capsys.readouterr().err)
