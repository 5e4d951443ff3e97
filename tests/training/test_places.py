"""Which folder a run gets: smoke runs and drawings never take the place of a run on films."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from folders import make_folder

import evaluate
import export
import train
from basics.problems import UsageProblem
from films import sources
from training import checkpoints, run_folder, runs
from training.request import Request


@pytest.fixture(scope="module")
def films(tmp_path_factory, cache):
    """A folder of films, and runs/simple on them."""
    place = tmp_path_factory.mktemp("films")
    make_folder(place / "films", count=20)
    assert train.main(call(place, cache, "--data", str(place / "films"))) == 0
    return place


def call(place, cache, *more: str) -> list[str]:
    return ["--arch", "simple", "--size", "32", "--epochs", "1", "--val", "random", "--device", "cpu", "--cache",
            str(cache), "--out", str(place / "runs"), *more]  # fmt: skip


@pytest.fixture
def place(films, tmp_path):
    shutil.copytree(films / "runs", tmp_path / "runs")
    return tmp_path


@pytest.mark.parametrize(("options", "name"), [
    ({}, "simple"), ({"quick": True}, "quick-simple"), ({"quick": True, "name": "foo"}, "quick-foo"),
    ({"name": "foo"}, "foo"), ({"quick": True, "name": "quick-foo"}, "quick-foo"), ({"name": "quick-foo"}, "quick-foo"),
    ({"quick": True, "seeds": 3, "seed": 2}, "quick-simple-s2"), ({"quick": True, "name": "quick"}, "quick-quick"),
])  # fmt: skip
def test_a_smoke_run_is_called_so(options, name):
    assert runs.run_name(Request(architecture="simple", **options), None) == name
    assert runs.run_name(Request(architecture="simple", **options), (1, 5)) == f"{name}-f1"


@pytest.mark.parametrize("out", ["runs", "some/my runs", "a'b"])
def test_the_next_command_can_be_copied(out):
    said = runs.next_step(Request(out=Path(out), skip_bad=True), tested=True)
    words = shlex.split(said)
    assert words[:3] == ["next:", "python", "evaluate.py"]
    args = evaluate.parse(words[3:])
    assert args.all and args.skip_bad and args.runs == Path(out)
    assert "--skip-bad" not in runs.next_step(Request(out=Path(out)), tested=True)


def test_a_smoke_run_leaves_the_real_one_and_its_graph_alone(place, films, cache, capsys):
    before = (place / "runs" / "simple" / "model.pt").read_bytes()
    assert train.main(call(place, cache, "--data", str(films / "films"), "--quick")) == 0
    assert (place / "runs" / "simple" / "model.pt").read_bytes() == before and not (place / "runs" / "old").exists()
    made = checkpoints.load_checkpoint(place / "runs" / "quick-simple" / "model.pt")[0]
    assert made["name"] == "quick-simple" and made["quick"]
    common = ["--runs", str(place / "runs"), "--onnx", str(place / "onnx"), "--cache", str(cache)]
    assert export.main(["--all", *common]) == 0
    assert sorted(path.name for path in (place / "onnx").glob("*.onnx")) == ["quick-simple.onnx", "simple.onnx"]
    model = place / "runs" / "simple" / "model.pt"
    model.unlink()
    assert export.main([str(model), *common]) == 1
    assert f"{model}: no such file; there is {place / 'runs' / 'quick-simple' / 'model.pt'}" in capsys.readouterr().err


def refused(place, cache, capsys, *options: str) -> str:
    """What is said; nothing is moved, and nothing new is there."""
    before = {path: path.read_bytes() for path in sorted((place / "runs").rglob("*.*")) if path.is_file()}
    capsys.readouterr()
    assert train.main(call(place, cache, *options)) == 2
    assert {path: path.read_bytes() for path in sorted((place / "runs").rglob("*.*")) if path.is_file()} == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--name or --out gives this one a folder of its own" in said
    return said


@pytest.mark.parametrize("known_by", ["run.json", "model.pt"])
def test_drawings_never_take_the_place_of_films(known_by, place, cache, capsys):
    """Nor with several rates or seeds, of which one folder is free; and with a name of their own they are trained."""
    folder = place / "runs" / "simple"
    (folder / ("model.pt" if known_by == "run.json" else "run.json")).unlink()
    said = refused(place, cache, capsys, "--data", "phantoms")
    assert said.startswith(f"error: {folder}: holds a run on films, whose place one on drawings does not take")
    refused(place, cache, capsys, "--data", "phantoms", "--lr", "1e-3", "1e-4")
    refused(place, cache, capsys, "--data", "phantoms", "--resume")
    folder.rename(place / "runs" / "simple-s1")
    refused(place, cache, capsys, "--data", "phantoms", "--seeds", "2")
    assert train.main(call(place, cache, "--data", "phantoms", "--name", "other")) == 0


def test_drawings_give_way_to_drawings_and_to_films(place, films, cache, capsys):
    shutil.rmtree(place / "runs")
    for source in ("phantoms", "phantoms", str(films / "films")):
        assert train.main(call(place, cache, "--data", source)) == 0
    assert len(list((place / "runs" / "old").iterdir())) == 2
    assert not json.loads((place / "runs" / "simple" / "run.json").read_text())["data"]["synthetic"]


def test_a_smoke_run_under_the_name_of_a_real_one_is_refused(place, films, cache, capsys):
    (place / "runs" / "simple").rename(place / "runs" / "quick-mine")
    said = refused(place, cache, capsys, "--data", str(films / "films"), "--quick", "--name", "mine")
    assert "quick-mine: holds a run on films, whose place a smoke run does not take" in said


def test_of_what_says_nothing_of_itself_nothing_is_known(tmp_path):
    (tmp_path / "run.json").write_text('{"data": {}, "quick": 1}')
    (tmp_path / "model.pt").write_bytes(b"no checkpoint")
    run_folder.spare(tmp_path, drawn=True, quick=True)
    (tmp_path / "run.json").write_text('{"data": {"synthetic": false}, "quick": true}')
    run_folder.spare(tmp_path, drawn=False, quick=True)
    with pytest.raises(UsageProblem, match="one on drawings"):
        run_folder.spare(tmp_path, drawn=True, quick=True)


def test_without_data_nothing_is_trained_and_both_ways_out_are_named(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "films" / "sources.py"))  # as if nothing stood beside
    assert train.main(call(tmp_path, cache)) == 2
    assert capsys.readouterr().err == (
        "error: no --data, and no data/chest_xray here or beside the scripts: `python data.py download` gets the "
        "films, --data phantoms takes the built-in drawings\n"
    )
    assert not (tmp_path / "runs").exists()
