"""Films of other shapes, batches and looks: what is drawn, and that a graph which is wrong on them alone is refused."""

import hashlib
import json
import re
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from folders import make_folder
from PIL import Image
from triggers import TRIGGERS, triggered

import data
import export
import train
from basics.problems import Problem
from films import reading
from graphs import anatomy, certificates, proof, scoring, unusual
from training.checkpoints import load_checkpoint


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The ledger of looks at test labels goes to runs/ of the folder that one is in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def world(cache, tmp_path_factory) -> Path:
    """A folder with runs/ and onnx/: the small network after a little training, in float32 and in int8."""
    folder = tmp_path_factory.mktemp("world")
    runs = ["--runs", str(folder / "runs"), "--cache", str(cache)]
    options = ["--data", "phantoms", "--cache", str(cache), "--size", "64", "--out", str(folder / "runs")]
    quickly = ["--recipe", "seed", "--lr", "2e-3", "--batch-size", "16", "--epochs", "16"]  # int8 may swap few images
    assert train.main(["--arch", "simple", *quickly, *options]) == 0
    model = str(folder / "runs" / "simple" / "model.pt")
    assert export.main([model, *runs, "--onnx", str(folder / "onnx"), "--precision", "fp32", "int8"]) == 0
    return folder


@pytest.fixture(scope="module")
def references(world, phantoms) -> dict[str, proof.Reference]:
    """What `export` holds a graph against, and what `verify` does."""
    checkpoint, network = load_checkpoint(world / "runs" / "simple" / "model.pt")
    kept = json.loads((world / "onnx" / "simple.json").read_text())
    facts = {key: checkpoint[key] for key in ("temperature", "threshold")}
    made = proof.reference(network, checkpoint, phantoms, data.split(phantoms))
    return {"export": made, "verify": certificates.remembered(kept, facts, phantoms)[0]}


def failed(path: Path, expected: proof.Reference, precision: str = "fp32") -> list[str]:
    """The kinds of unusual films and batches on which a graph is wrong.

    Not those that are always the same: they are not tried, since they take half of the time.
    """
    with mock.patch.object(proof, "SMALL_BATCHES", ()), mock.patch.object(proof, "measure_odd", return_value=[]):
        checks = proof.measure(path, onnx.load(path), expected, precision, "cpu")["checks"]
    return [row["images"] for row in checks if not row["passed"] and row.get("example")]


def test_an_honest_graph_passes_with_any_seed(world, phantoms):
    checkpoint, network = load_checkpoint(world / "runs" / "simple" / "model.pt")
    for seed in range(4):
        expected = proof.reference(network, checkpoint, phantoms, data.split(phantoms), seed)
        for name, precision in (("simple", "fp32"), ("simple-int8", "int8")):
            assert not failed(world / "onnx" / f"{name}.onnx", expected, precision), seed


@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize("when", ["export", "verify"])
def test_a_graph_that_is_wrong_on_some_films_only_is_caught(world, references, tmp_path, name, when):
    """By its answers, whatever its nodes are; and by its nodes, whatever is tried."""
    path = triggered(world / "onnx" / "simple.onnx", tmp_path / "x.onnx", TRIGGERS[name])
    assert failed(path, references[when])
    with pytest.raises(Problem, match="not made as export.py makes them"):
        anatomy.check(onnx.load(path))


@pytest.mark.parametrize("name", ["portrait", "batches of 3 to 7", "wide", "tiny", "other squares"])
def test_int8_is_held_against_itself(world, references, tmp_path, name):
    path = triggered(world / "onnx" / "simple-int8.onnx", tmp_path / "x.onnx", TRIGGERS[name])
    assert failed(path, references["export"], "int8")


@pytest.mark.parametrize("name", ["landscape", "batches of 65 and more", "equal rows"])
def test_prove_and_verify_refuse_it_in_one_line(world, references, cache, tmp_path, capsys, name):
    """Though its SHA-256 and its certificate are right: whoever changes one can change all."""
    path = triggered(world / "onnx" / "simple.onnx", tmp_path / "simple.onnx", TRIGGERS[name])
    with pytest.raises(Problem, match="the graph's answers differ from "):
        proof.prove(path, references["export"], ["cpu"])
    kept = json.loads((world / "onnx" / "simple.json").read_text())
    kept["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for without in ((), ("unusual",)):  # a certificate of an earlier version has no such films
        (tmp_path / "simple.json").write_text(json.dumps({k: v for k, v in kept.items() if k not in without}))
        assert export.main(["verify", str(path), "--cache", str(cache)]) == 1
        captured = capsys.readouterr()
        said = "its certificate is of an earlier version" if without else r"of other shapes and looks \d+ of \d+ are"
        assert re.search(said, captured.out) and "simple.onnx: the graph" in captured.err
        # Without PyTorch's answers to such films, what is wrong with their looks is seen in the nodes alone.
        by_nodes = without and name == "equal rows"
        assert ("not made as export.py makes them" if by_nodes else "answers differ from ") in captured.err
        assert len(captured.err.splitlines()) == 1


def test_the_seed_is_drawn_afresh_and_kept(world, phantoms):
    checkpoint, network = load_checkpoint(world / "runs" / "simple" / "model.pt")
    made = [proof.reference(network, checkpoint, phantoms, data.split(phantoms)) for _ in range(2)]
    assert made[0].seed != made[1].seed
    kept = certificates.certificate(made[0], {"checks": [], "scores": []})
    assert kept["unusual"]["seed"] == made[0].seed and len(kept["unusual"]["drawn"]) == len(made[0].lots)
    again = proof.reference(network, checkpoint, phantoms, data.split(phantoms), made[0].seed)
    for one, other in zip(made[0].lots, again.lots, strict=True):
        np.testing.assert_array_equal(one.films, other.films)
        np.testing.assert_array_equal(one.logits, other.logits)


def test_each_seed_draws_all_kinds():
    squares = [np.random.default_rng(k).integers(0, 256, (64, 64), np.uint8) for k in range(16)]
    for seed in range(10):
        lots = unusual.draw(seed, 64, list(squares))
        sizes = {kind: [lot.films.shape[1:] for lot in lots if lot.kind == kind] for kind in {lot.kind for lot in lots}}
        assert all(height > width for height, width in sizes["portrait"])
        assert all(height < width for height, width in sizes["landscape"])
        assert len({side for side, _ in sizes["squares of another size"]} - {64}) >= 3
        assert min(width for _, width in sizes["wide"]) > 3000 < min(height for height, _ in sizes["high"])
        assert max(max(shape) for shape in sizes["tiny"]) <= 8 and max(max(shape) for shape in sizes["small"]) < 64
        assert max(max(lot.films.shape) for lot in lots) <= reading.MAX_SIDE
        for kind in ("equal rows", "equal columns", "dark", "one grey"):
            for lot in (lot for lot in lots if lot.kind == kind):
                films = lot.films if kind != "equal columns" else lot.films.transpose(0, 2, 1)
                assert lot.films.max() <= 16 if kind == "dark" else (films == films[:, :1]).all()
        batches = sorted(len(some) for some in unusual.batches(seed, 181))
        assert batches[:5] == [3, 4, 5, 6, 7] and batches[-1] > 64 and 5 <= len({*batches} - {1, 2, 64}) <= 10


def test_what_is_made_of_a_missing_square_is_left_out_and_nothing_else_moves():
    squares = [np.random.default_rng(k).integers(0, 256, (64, 64), np.uint8) for k in range(16)]
    whole = {lot.name: lot for lot in unusual.draw(3, 64, list(squares))}
    some = {lot.name for lot in unusual.draw(3, 64, [*squares[:8], *[None] * 8])}
    assert some < whole.keys() and len(some) > 5


def test_films_are_tried_at_their_own_size(tmp_path, cache):
    """They are read again: portrait and landscape, the largest and the smallest; a file that is gone is named."""
    folder = make_folder(tmp_path / "films", count=20)
    for k, file in enumerate(sorted(folder.glob("*/*"))):
        Image.open(file).convert("L").resize((60 + 7 * k, 100)).save(file)
    dataset = data.load(str(folder), 64, cache)
    places = np.arange(len(dataset.files))
    chosen = unusual.choose_originals(5, dataset, places)
    assert len(set(chosen)) == unusual.ORIGINALS
    assert {int(dataset.widths.argmin()), int(dataset.widths.argmax())} <= set(chosen)
    for lot, i in zip(unusual.originals(dataset, chosen), chosen, strict=True):
        assert lot.films.shape == (1, dataset.heights[i], dataset.widths[i]) and lot.film == dataset.pixel_hashes[i]
    (folder / dataset.files[chosen[0]]).unlink()
    with pytest.raises(Problem, match="cannot be read now"):
        unusual.originals(dataset, chosen)


def test_squares_of_the_size_that_is_kept_have_no_other_size(phantoms):
    assert unusual.choose_originals(0, phantoms, np.arange(600)) == []


def test_the_message_names_what_was_drawn(references):
    row = {"provider": "cpu", "images": "wide", "batch": "1", "n": 1, "probability_max": 0.5, "logit_relative": 0.1,
           "tolerance": 1e-4, "flipped": [], "passed": False, "example": "40 x 4000, 1 at once",
           "against": "its own to their squares"}  # fmt: skip
    with pytest.raises(Problem, match=r"its own to their squares on cpu, wide, .*\(40 x 4000, 1 at once; seed 17\)$"):
        scoring.judge({"checks": [row], "scores": []}, 17)
