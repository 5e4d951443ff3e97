"""The table of variants: every variant changes what it names, and the numbers are those of the runs."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import ablate
from films.variation import Augment
from studies import candidates, variants
from training import loop, recipes
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
        ("without frames", {"frames"}),
        ("nine films in ten in frames of others", {"frames"}),
        ("half of the films with spectra of others", {"spectra"}),
        ("framing alone", {"brightness", "contrast", "curve", "blur", "sharpen", "reshaped", "frames"}),
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


CALL = ["--arch", "simple", "--data", "phantoms", "--size", "32", "--epochs", "1"]
TWO = ["the recipe", "without tone + balanced sampling"]


def test_the_table_is_of_the_runs_and_a_second_call_trains_nothing(tmp_path, cache, capsys, monkeypatch):
    call = [*CALL, "--cache", str(cache), "--seeds", "2", "--out", str(tmp_path / "out"), "--variants", *TWO]
    assert ablate.main(call) == 0
    table = capsys.readouterr().out
    runs = [json.loads(line) for line in (tmp_path / "out" / "simple.jsonl").read_text().splitlines()]
    assert [(run["variant"], run["seed"]) for run in runs] == [(name, seed) for seed in (0, 1) for name in TWO]
    for run in runs:
        views = run["stress"][:-1]
        assert run["worst auroc"] == min(row["auroc"] for row in views)
        assert run["mean accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in views]))
        assert run["auroc"] == views[0]["auroc"] and views[0]["view"] == "as it is"
        assert run["matched accuracy"] == run["stress"][-1]["accuracy"]
        assert run["hidden auroc"] == run["probes"]["auroc, middle hidden"]
        assert run["recipe"]["augment"]["contrast"] == (0.3 if run["variant"] == "the recipe" else 0.15)
    means = [np.mean([run["mean auroc"] for run in runs if run["variant"] == name]) for name in TWO]
    lines = [line for line in table.splitlines() if line.startswith(tuple(f"| {name}" for name in TWO))]
    for line, mean in zip(lines, means, strict=True):
        assert f" {mean:.4f} +- " in line
    monkeypatch.setattr(loop.Trainer, "fit", None)
    assert ablate.main(call) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == table.splitlines()[-4:]


def test_a_misspelt_variant_is_named(capsys):
    with pytest.raises(SystemExit):
        ablate.main([*CALL, "--variants", "without tone + balanced samplin"])
    assert "did you mean 'balanced sampling'?" in capsys.readouterr().err


def test_stopped_is_one_line_and_what_others_measured_stays_in_the_log(tmp_path, cache, capsys, monkeypatch):
    def stop(*_: object) -> None:
        raise Stopped(15, "stopped after 0 epochs and 3 steps")

    call = [*CALL, "--cache", str(cache), "--seeds", "1", "--out", str(tmp_path), "--variants", "the recipe"]
    monkeypatch.setattr(candidates, "train_candidate", stop)
    assert ablate.main(call) == 143
    assert capsys.readouterr().err == "stopped; the same command goes on\n"
    other = {"variant": "without tone", "seed": 0, "auroc": 0.5}
    (tmp_path / "simple.jsonl").write_text(json.dumps(other) + "\n")
    row = {"auroc": 0.9, "accuracy": 0.8}
    fake = {"stress": [{"view": view, **row} for view in ("as it is", "frames exchanged", "frames matched, of 9")],
            "probes": {"auroc, middle hidden": 0.6}, "seconds": 1.0, "device": "CPU"}  # fmt: skip
    monkeypatch.setattr(candidates, "train_candidate", lambda *_: fake)
    assert ablate.main(call) == 0
    lines = [json.loads(line) for line in (tmp_path / "simple.jsonl").read_text().splitlines()]
    assert lines[0] == other and [line["variant"] for line in lines] == ["without tone", "the recipe"]
    (tmp_path / "simple.jsonl").write_text("torn")
    assert ablate.main(call) == 1 and "simple.jsonl: cannot be gone on with" in capsys.readouterr().err
