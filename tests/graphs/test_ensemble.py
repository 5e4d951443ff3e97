"""An ensemble as one graph: the mean of its members' probabilities, and what could pass for one."""

import functools
import json

import numpy as np
import onnx
import pytest
import scipy.optimize
import scipy.special
import torch
from onnx import helper, numpy_helper
from test_building import FACTS, noise, run
from test_exporting import limits_of, shaken

from basics import terms
from basics.problems import Problem
from graphs import anatomy, building, doubts, exporting, joining, precisions
from training import averaging

TEMPERATURES = (0.5, 1.5, 2.5)
NORMALISATIONS = ((0.5, 0.25), (0.4, 0.2), (0.5, 0.25))


def members_of(architecture: str, count: int) -> tuple[list[torch.nn.Module], list[dict]]:
    """Networks with different weights, temperatures and normalisations, as checkpoints of them say it."""
    networks, facts = [], []
    for k in range(count):
        network = shaken(architecture, 64)
        for name, values in network.named_parameters():
            if values.dim() > 1:
                values.data += 0.1 * k * values.std() * torch.randn(values.shape)
            elif name.endswith("bias"):
                values.data += 0.05 * k
        networks.append(network)
        facts.append(FACTS | {"architecture": architecture, "name": f"net-s{k}", "temperature": TEMPERATURES[k],
                              "normalisation": NORMALISATIONS[k]})  # fmt: skip
    return networks, facts


def entries(facts: list[dict], **more) -> dict:
    """Those of the ensemble's checkpoint that a graph is made of."""
    rows = [{"checkpoint_sha256": f"{k}", **{key: one[key] for key in ("name", "temperature", "normalisation")}}
            for k, one in enumerate(facts)]  # fmt: skip
    return facts[0] | {"name": "net-ensemble", "temperature": 0.8, "threshold": 0.3, "members": rows, **more}


def whole(networks: list, facts: list[dict], precision: str = "fp32", plain=None, **more) -> onnx.ModelProto:
    network, checkpoint = averaging.Averaged(networks, facts).eval(), entries(facts, **more)
    plain = plain or exporting.plain_graphs(network, checkpoint, "hash")
    return exporting.whole_graph(plain, checkpoint, precision, noise(16, 64, 64), 0.1)


@functools.cache
def exported(architecture: str, count: int) -> tuple[list, list[dict], list[onnx.ModelProto]]:
    """Members with the float32 graph of each: the export takes seconds."""
    networks, facts = members_of(architecture, count)
    return networks, facts, exporting.plain_graphs(averaging.Averaged(networks, facts), entries(facts), "hash")


@pytest.fixture(scope="module")
def simple() -> bytes:
    networks, facts, plain = exported("simple", 3)
    return whole(networks, facts, plain=plain).SerializeToString()


@pytest.mark.parametrize(("architecture", "count"), [("simple", 3), ("resnet34", 2)])
@pytest.mark.parametrize("precision", terms.PRECISIONS)
def test_its_probability_is_the_mean_of_its_members_sharpened_by_its_own_temperature(architecture, count, precision):
    networks, facts, plain = exported(architecture, count)
    graph = whole(networks, facts, precision, plain)
    onnx.checker.check_model(graph, full_check=True)
    anatomy.check(graph)
    assert anatomy.check_precision(graph) == precision
    assert [output.name for output in graph.graph.output] == building.GRAPH_OUTPUTS
    pixels = noise(5, 90, 70)
    alone = [run(precisions.to_precision(one, precision, noise(16, 64, 64)), pixels)["logits"] for one in plain]
    each = [scipy.special.softmax(found.astype(float) / own, 1)[:, 1]
            for found, own in zip(alone, TEMPERATURES, strict=False)]  # fmt: skip
    assert np.ptp(each, axis=0).min() > 1e-3  # the members differ
    expected = scipy.special.expit(scipy.special.logit(np.mean(each, 0)) / 0.8)
    found = run(graph, pixels)
    np.testing.assert_allclose(found["probability"], expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(found["logits"].astype(float))[:, 1], np.mean(each, 0), atol=1e-6)
    np.testing.assert_array_equal(found["decision"], found["probability"] >= np.float32(0.3))


def test_pytorch_and_numpy_give_the_graphs_logits():
    networks, facts, plain = exported("simple", 3)
    squares = noise(6, 64, 64)
    mean, std = facts[0]["normalisation"]
    normalised = (torch.from_numpy(squares)[:, None].float() / 255 - mean) / std
    with torch.no_grad():
        found = averaging.Averaged(networks, facts)(normalised).numpy()
        pixels = torch.from_numpy(squares)[:, None].float() / 255
        own = [network((pixels - mean) / std).numpy()
               for network, (mean, std) in zip(networks, NORMALISATIONS, strict=True)]  # fmt: skip
    np.testing.assert_allclose(found, run(whole(networks, facts, plain=plain), squares)["logits"], atol=1e-5)
    np.testing.assert_allclose(found, averaging.log_mean(own, TEMPERATURES), atol=1e-5)


def test_answers_are_finite_where_members_are_as_sure_as_can_be():
    networks, facts = members_of("simple", 2)
    for network in networks:
        network.fc3.weight.data *= 1e4
    found = run(whole(networks, facts), noise(4, 64, 64))
    assert np.abs(found["logits"]).max() > 200  # exp of it is 0 in float32
    assert all(np.isfinite(values).all() for values in found.values())


def test_its_limits_are_those_of_its_first_member_and_it_keeps_what_they_say(phantoms):
    networks, facts, plain = exported("simple", 3)
    known = limits_of(networks[0], phantoms)
    graph = whole(networks, facts, plain=plain, limits=known)
    pixels = phantoms.images[:20]
    found, alone = run(graph, pixels), run(whole(networks, facts, plain=plain), pixels)
    assert doubts.coherent(found, doubts.known_of(graph)[1])
    for name, values in alone.items():
        np.testing.assert_array_equal(found[name], values)
    single = doubts.attached(building.to_graph(networks[0], facts[0], "hash"), facts[0] | {"limits": known}, 0.1)
    np.testing.assert_allclose(found["unfamiliar"], run(single, pixels)["unfamiliar"], rtol=1e-5)


# ------------------------------------------------------------------------------------------------ what is refused


def constant(graph: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)


@pytest.mark.parametrize("name", ["temperature1", "log_count", "axis"])
def test_a_constant_that_is_not_what_the_metadata_say_is_refused(simple, name):
    graph = onnx.load_from_string(simple)
    tensor = constant(graph, joining.PART + name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values + 1).astype(values.dtype), tensor.name))
    with pytest.raises(Problem, match=r"other networks than it computes with|is not what it must be"):
        anatomy.check(graph)


@pytest.mark.parametrize("kind", ["LogSoftmax", "Exp", "ReduceMax", "Concat"])
def test_a_node_that_joins_otherwise_is_refused(simple, kind):
    graph = onnx.load_from_string(simple)
    node = next(node for node in graph.graph.node if node.op_type == kind and node.name.startswith(joining.PART))
    if kind == "Concat":
        node.input[:] = [node.input[0], node.input[0], node.input[2]]
    else:
        node.op_type = {"LogSoftmax": "Softmax", "Exp": "Abs", "ReduceMax": "ReduceMean"}[kind]
    with pytest.raises(Problem, match="the nodes that average its members are not exactly"):
        anatomy.check(graph)


def test_networks_that_share_a_layer_are_refused(simple):
    graph = onnx.load_from_string(simple)
    first, second = (next(node for node in graph.graph.node if joining.logits_of(k) in node.output) for k in (0, 1))
    second.input[0] = first.input[0]
    needed = joining.before(graph.graph, building.GRAPH_OUTPUTS)
    del graph.graph.node[:]
    graph.graph.node.extend(needed)
    with pytest.raises(Problem, match="its networks share layers"):
        anatomy.check(graph)


def test_a_member_that_normalises_otherwise_or_has_other_layers_is_refused(simple):
    graph = onnx.load_from_string(simple)
    facts = building.facts_of(graph)
    rows = json.loads(facts["members"])
    assert [row["name"] for row in rows] == ["net-s0", "net-s1", "net-s2"]
    rows[1]["normalisation"] = [0.5, 0.25]
    helper.set_model_props(graph, facts | {"members": json.dumps(rows)})
    with pytest.raises(Problem, match=r"normalises by 0\.5 and 0\.25, and does not"):
        anatomy.check(graph)
    helper.set_model_props(graph, facts | {"architecture": "resnet34"})
    with pytest.raises(Problem, match="says that it is resnet34"):
        anatomy.check(graph)


def test_the_metadata_name_as_many_members_as_there_are(simple):
    graph = onnx.load_from_string(simple)
    facts = building.facts_of(graph)
    rows = json.loads(facts["members"])
    for said, words in ((rows[:2], "other networks than it computes with"), (None, "whose"),
                        ([{**rows[0], "normalisation": [0.5]}, *rows[1:]], "whose"),
                        ([{**rows[0], "normalisation": [0.5, 0]}, *rows[1:]], "whose"),
                        (["xy"] * 3, "whose")):  # fmt: skip
        helper.set_model_props(graph, {**{key: value for key, value in facts.items() if key != "members"},
                                       **({"members": json.dumps(said)} if said else {})})  # fmt: skip
        with pytest.raises(Problem, match=words):
            anatomy.check(graph)
    graph = onnx.load_from_string(exported("simple", 3)[2][0].SerializeToString())
    helper.set_model_props(graph, facts)
    with pytest.raises(Problem, match="says that it averages several networks, and has one"):
        anatomy.check(graph)


# ------------------------------------------------------------------------------------------- what can be averaged


def answers(count: int = 20, seed: int = 0, **more) -> dict:
    """A checkpoint's entries, with answers to `count` validation films."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(np.arange(count) % 2)
    logits = rng.normal(size=(count, 2)).astype(np.float32)
    logits[:, 1] += 2 * labels.numpy() - 1
    stored = {"logits": torch.from_numpy(logits), "labels": labels, "patients": torch.arange(count)}
    return FACTS | {"validation_answers": stored, "limits": {**stored, "hidden": 1.0}, "seed": seed,
                    "seen_images": torch.tensor([1, 2 + seed]), "seen_patients": torch.tensor([5]), **more}  # fmt: skip


def test_temperature_and_thresholds_are_those_of_the_mean_and_what_one_member_saw_all_have_seen():
    members = [answers(400, seed) for seed in (1, 2, 3)]
    made = averaging.combined(members, ["a", "b", "c"])
    labels = members[0]["validation_answers"]["labels"].numpy()
    each = [scipy.special.softmax(one["validation_answers"]["logits"].numpy() / 1.5, 1)[:, 1] for one in members]
    odds = scipy.special.logit(np.mean(each, 0))

    def loss(temperature: float) -> float:
        return float(np.mean(np.logaddexp(0, -np.where(labels, odds, -odds) / temperature)))

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    assert made["temperature"] == pytest.approx(best, rel=1e-3) and best < 0.9  # the mean is less sure than its members
    assert made["operating_points"]["validation"]["threshold"] == made["threshold"]
    assert made["seen_images"].tolist() == [1, 3, 4, 5] and made["seen_patients"].tolist() == [5]
    np.testing.assert_allclose(made["limits"]["logits"].numpy()[:, 1], np.log(np.mean(each, 0)), atol=1e-5)
    assert made["limits"]["hidden"] == 1.0
    assert averaging.digest(["a", "b"]) == averaging.digest(["b", "a"]) != averaging.digest(["a", "c"])


@pytest.mark.parametrize(("other", "words"), [
    (answers(size=96), "differ in size: 64, 96"),
    (answers(architecture="simple"), "differ in architecture: resnet34, simple"),
    (answers(18), "were validated in different ways"),
    (answers(stress=[{"view": "as it is"}]), "were validated in different ways"),
    (answers(split={"seed": 2}), "were not validated on the same films"),
    (answers(data={"fingerprint": "1"}), "were not validated on the same films"),
    ({key: value for key, value in answers().items() if key != "validation_answers"}, "kept no validation answers"),
])  # fmt: skip
def test_what_cannot_be_averaged_is_said(other, words):
    assert averaging.unlike([answers(), answers(seed=1)]) == ""
    assert averaging.unlike([answers(), other]).startswith(words)


def test_members_without_limits_make_an_ensemble_without_them():
    bare = {key: value for key, value in answers(seed=1).items() if key != "limits"}
    assert "limits" not in averaging.combined([answers(), bare], ["a", "b"])
