"""fp16: steps whose gradients are not finite are skipped by the scaler; they are counted, said, and use up nothing."""

import csv
import itertools
import os
import signal

import numpy as np
import pytest
import torch

import models
import train
from basics.problems import Problem
from devices import hardware
from films.variation import Augment
from training import checkpoints, loop, recipes, runs
from training.batches import Batches

CPU = torch.device("cpu")
STEPS = 4  # an epoch


@pytest.fixture(autouse=True)
def half(monkeypatch):
    """What a GPU without bf16 computes in, on the CPU."""
    monkeypatch.setattr(hardware, "reduced_type", lambda device: torch.float16)


def trainer_of(phantoms, infinite: range | list[int], epochs: int = 4, minutes: float | None = None) -> loop.Trainer:
    """The gradients of these steps, counted from 0 over all epochs, are infinite."""
    torch.manual_seed(0)
    network, step = models.build("simple", 32), itertools.count()
    network.fc3.bias.register_hook(lambda gradient: gradient * (float("inf") if next(step) in infinite else 1))
    table = torch.from_numpy(phantoms.images[:64, ::2, ::2].copy())
    common = (table, phantoms.labels, np.arange(16 * STEPS), 16, CPU, (0.5, 0.25))
    recipe = recipes.Recipe(epochs, 1e-3, 16, warm_up=0.1)
    return loop.Trainer(network, recipe, Batches(*common, Augment()), Batches(*common), minutes=minutes)


def test_skipped_steps_are_counted_and_their_part_of_the_schedule_is_left(phantoms):
    """The first of four epochs has two of its four steps: an eighth of the schedule. The others share the rest."""
    trainer = trainer_of(phantoms, [0, 2, 9])
    rows, places, rates = [], [], []
    rate = trainer.rate
    trainer.rate = lambda step: rates.append(rate(step)) or rates[-1]
    trainer.fit(lambda row, logits: (rows.append(row), places.append(trainer.progress(0))))
    assert [row["skipped"] for row in rows] == [0.5, 0, 0.25, 0]
    first, second = 1 / 8, 1 / 8 + 7 / 8 / 3
    assert places == pytest.approx([first, second, second + (1 - second) / 2 * 3 / 4, 1])
    assert {state["step"].item() for state in trainer.optimizer.state.values()} == {4 * STEPS - 3}
    assert rates[-1] < 0.1 * max(rates)  # it ends where the recipe ends
    plain = trainer_of(phantoms, [])
    plain.fit(lambda row, logits: None)
    assert plain.anchor == (0.0, 0) and plain.progress(0) == 1, "without any, the plan is what it was"


@pytest.mark.parametrize(("infinite", "epoch"), [(range(100), 1), (range(STEPS, 100), 2)])
def test_an_epoch_of_which_no_step_counted_ends_the_training(infinite, epoch, phantoms):
    trainer, rows = trainer_of(phantoms, infinite), []
    said = (
        f"epoch {epoch}: the gradients of all {STEPS} steps were not finite in fp16, and none counted; try a lower --lr"
    )
    with pytest.raises(Problem, match=said):
        trainer.fit(lambda row, logits: rows.append(row))
    assert [row["epoch"] for row in rows] == list(range(1, epoch))


def options(out, cache, *more: str) -> list[str]:
    return ["--arch", "simple", "--data", "phantoms", "--size", "32", "--epochs", "3", "--batch-size", "32", "--device",
            "cpu", "--val", "random", "--out", str(out), "--cache", str(cache), *more]  # fmt: skip


def test_stopped_among_skipped_steps_and_resumed_a_run_is_the_same(tmp_path, cache, monkeypatch, capsys):
    """The scale begins far too high: in each of the first steps it is halved, and the step skipped."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(hardware, "grad_scaler", lambda device: scaler(device.type, init_scale=2.0**26))
    assert train.main(options(tmp_path / "whole", cache)) == 0
    rows = list(csv.DictReader((tmp_path / "whole" / "simple" / "history.csv").read_text().splitlines()))
    counts = [float(row["skipped"]) * 14 for row in rows]  # 420 images in 14 batches
    assert 4 <= counts[0] < 14 and counts[0] == pytest.approx(round(counts[0])) and counts[2] == 0
    assert f"{float(rows[0]['skipped']):.1%} of the steps skipped" in capsys.readouterr().out

    class Signalling(Batches):
        def epoch(self, number=0, skip=0, side=None):
            for i, pair in enumerate(super().epoch(number, skip, side), skip):
                if (number, i) == (1, 2) and self.augment:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield pair

    with monkeypatch.context() as patch:
        patch.setattr(runs, "Batches", Signalling)
        assert train.main(options(tmp_path / "parts", cache)) == 143
    last, _ = checkpoints.load_checkpoint(tmp_path / "parts" / "simple" / "last.pt", unfinished=True)
    assert last["training"]["skipped"] == last["training"]["step"] == 3
    assert train.main(options(tmp_path / "parts", cache, "--resume")) == 0
    found, expected = (
        checkpoints.load_checkpoint(tmp_path / place / "simple" / "last.pt")[0] for place in ("parts", "whole")
    )
    for key in ("weights_sha256", "training_sha256", "temperature", "threshold"):
        assert found[key] == expected[key]
    for one, other in zip(found["history"], expected["history"], strict=True):
        for key in ("learning_rate", "train_loss", "val_loss", "skipped"):
            assert one[key] == other[key]
    assert found["training"]["anchor"] == expected["training"]["anchor"]


def test_where_nothing_is_learnt_the_run_is_one_line_and_exit_code_1(tmp_path, cache, monkeypatch, capsys):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(hardware, "grad_scaler", lambda device: scaler(device.type, init_scale=2.0**120))
    assert train.main(options(tmp_path, cache)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: epoch 1: the gradients of all 14 steps were not finite")
    assert not (tmp_path / "simple" / "model.pt").exists()
