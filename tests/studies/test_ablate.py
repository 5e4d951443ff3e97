"""The table of variants: every variant changes what it names, and the numbers are those of the runs."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import ablate
from films.variation import Augment
from studies import variants
from training import checkpoints, loop, recipes, runs
from training.stopping import Stopped

RECIPE = recipes.RECIPES["default"]["simple"]


@pytest.mark.parametrize(
    ("variant", "changed"),
    [
        ("the recipe", set()),
        ("without framing", {"shift", "tightest", "widest", "aspect", "unmoved"}),
        ("no film unmoved", {"unmoved"}),
        ("without tone", {"brightness", "contrast", "curve"}),
        ("without sharpness", {"blur", "sharpen"}),
        ("without shape", {"reshaped"}),
        ("framing alone", {"brightness", "contrast", "curve", "blur", "sharpen", "reshaped"}),
        ("seven films in ten reshaped", {"reshaped"}),
        ("and covered borders", {"border"}),
        ("and mirror images", {"flip"}),
    ],
)
def test_a_variant_changes_what_it_names_and_nothing_else(variant, changed):
    before, after = asdict(RECIPE), asdict(variants.VARIANTS[variant](RECIPE))
    augment = (before.pop("augment"), after.pop("augment"))
    assert before == after
    assert {key for key in augment[0] if augment[0][key] != augment[1][key]} == changed


def test_lengths_rates_and_the_mild_variant():
    assert variants.VARIANTS["twice as long"](RECIPE).epochs == 2 * RECIPE.epochs
    assert variants.VARIANTS["half as long"](RECIPE).epochs == RECIPE.epochs / 2
    assert variants.VARIANTS["twice the learning rate"](RECIPE) == replace(RECIPE, learning_rate=2e-3)
    assert variants.VARIANTS["no weight decay"](RECIPE) == replace(RECIPE, weight_decay=0)
    assert variants.VARIANTS["mild framing and tone"](RECIPE).augment == Augment()


def test_the_table_is_of_the_runs_and_a_second_call_trains_nothing(tmp_path, cache, capsys, monkeypatch):
    call = ["--arch", "simple", "--data", "phantoms", "--size", "32", "--cache", str(cache), "--epochs", "2", "--seeds",
            "2", "--out", str(tmp_path / "out"), "--variants", "the recipe", "without tone"]  # fmt: skip
    assert ablate.main(call) == 0
    table = capsys.readouterr().out[-2000:]
    runs = [json.loads(line) for line in (tmp_path / "out" / "simple.jsonl").read_text().splitlines()]
    assert [(run["variant"], run["seed"]) for run in runs] == [
        ("the recipe", 0), ("without tone", 0), ("the recipe", 1), ("without tone", 1)]  # fmt: skip
    for run in runs:
        folder = tmp_path / "out" / "simple" / run["variant"].replace(" ", "-") / f"s{run['seed']}"
        checkpoint, _ = checkpoints.load_checkpoint(folder / "model.pt")
        assert run["worst auroc"] == min(row["auroc"] for row in checkpoint["stress"])
        assert run["mean accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in checkpoint["stress"]]))
        assert run["auroc"] == checkpoint["stress"][0]["auroc"]
        assert checkpoint["recipe"]["augment"]["contrast"] == (0.15 if run["variant"] == "without tone" else 0.3)
    means = [
        np.mean([run["mean auroc"] for run in runs if run["variant"] == v]) for v in ("the recipe", "without tone")
    ]
    lines = [line for line in table.splitlines() if line.startswith(("| the recipe", "| without tone"))]
    for line, mean in zip(lines, means, strict=True):
        assert f" {mean:.4f} +- " in line
    monkeypatch.setattr(loop.Trainer, "fit", None)
    assert ablate.main(call) == 0
    assert capsys.readouterr().out[-2000:].splitlines()[-4:] == table.splitlines()[-4:]


def test_stopped_is_one_line_and_what_others_measured_stays_in_the_log(tmp_path, cache, capsys, monkeypatch):
    def stop(*_: object) -> None:
        raise Stopped(15, "stopped after 0 epochs and 3 steps")

    call = ["--arch", "simple", "--data", "phantoms", "--size", "32", "--cache", str(cache), "--seeds", "1", "--out",
            str(tmp_path), "--variants", "the recipe"]  # fmt: skip
    monkeypatch.setattr(runs, "train_run", stop)
    assert ablate.main(call) == 143
    assert capsys.readouterr().err == "stopped; the same command goes on\n"
    other = {"variant": "without tone", "seed": 0, "auroc": 0.5}
    (tmp_path / "simple.jsonl").write_text(json.dumps(other) + "\n")
    fake = {"stress": [{"auroc": 0.9, "accuracy": 0.8}], "seconds": 1.0, "recipe": {"epochs": 1}, "device": "CPU"}
    monkeypatch.setattr(runs, "train_run", lambda *_: fake)
    assert ablate.main(call) == 0
    lines = [json.loads(line) for line in (tmp_path / "simple.jsonl").read_text().splitlines()]
    assert lines[0] == other and [line["variant"] for line in lines] == ["without tone", "the recipe"]
    (tmp_path / "simple.jsonl").write_text("torn")
    assert ablate.main(call) == 1 and "simple.jsonl: cannot be gone on with" in capsys.readouterr().err
