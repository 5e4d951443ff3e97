"""--minutes is the time of the whole run, however often it is stopped and resumed; by a clock that the test moves."""

import contextlib
import csv
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import models
import train
from films.variation import Augment
from training import checkpoints, loop, recipes, run_folder, runs
from training.batches import Batches
from training.stopping import StopAsked, Stopped

EPOCH = 10  # seconds, of two steps


class Ticking(Batches):
    """Five seconds a training batch; asks to stop at one of them."""

    clock: SimpleNamespace
    stop: tuple[int, int] | None = None

    def epoch(self, number=0, skip=0, side=None):
        for i, pair in enumerate(super().epoch(number, skip, side), skip):
            self.clock.now += EPOCH / 2 if self.augment else 0
            yield pair
            if self.augment and (number, i) == self.stop:
                self.stop = None
                raise StopAsked(signal.SIGTERM)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: made.now, perf_counter=lambda: made.now))
    return made


@pytest.fixture
def trained(phantoms, clock):
    """Trains for so many seconds at most, on from a state, until it is to stop: (state, epochs, seconds taken)."""

    def train_some(seconds: float | None, state: dict | None = None, stop: tuple[int, int] | None = None):
        table = torch.from_numpy(phantoms.images)
        common = (table, phantoms.labels, np.arange(64), 32, torch.device("cpu"), (0.5, 0.25))
        training, validation = Ticking(*common, Augment()), Ticking(*common)
        training.clock, training.stop, validation.clock = clock, stop, clock
        torch.manual_seed(0)
        minutes = None if seconds is None else seconds / 60
        trainer = loop.Trainer(
            models.build("simple", 64), recipes.Recipe(6, 1e-3, 32), training, validation, minutes=minutes
        )
        began = clock.now
        if state:
            trainer.load(state)
        with contextlib.suppress(Stopped):
            trainer.fit(lambda row, logits: None)
        return trainer, trainer.epoch, clock.now - began

    return train_some


@pytest.mark.parametrize(("seconds", "epochs"), [(35, 3), (45, 4), (21, 2), (600, 6), (None, 6)])
def test_what_was_spent_before_a_stop_counts_after_it(seconds, epochs, trained, clock):
    """Stopped in the second epoch, and again in the third; hours go by in between, which are nobody's."""
    state, total = None, 0.0
    for stop in ((2, 0), (3, 0), None):
        trainer, done, took = trained(seconds, state, stop)
        state, total = trainer.state(), total + took
        clock.now += 10_000
    assert (done, total) == (epochs, EPOCH * epochs)
    assert trainer.progress(0) == pytest.approx(1)  # and the schedule has come to its end


def test_what_was_lost_counts_and_a_run_without_time_ends(trained, clock):
    first, _, _ = trained(35, None, (2, 0))
    clock.now += 7  # a validation that was cut short, say
    state = first.state()
    assert state["spent"] == 22
    assert trained(35, state)[1:] == (2, 5)  # 13 seconds are left: the rest of this epoch, and not another one
    assert trained(26, state)[1:] == (1, 0)  # 4 are: less than what is left of it
    assert trained(10, state)[1:] == (1, 0)
    assert trained(35, {**state, "spent": 10.0**9})[1:] == (1, 0)
    assert trained(60, state)[1:] == (5, 35)  # more was given: more fits


def test_the_first_epoch_is_always_completed(trained):
    first, _, _ = trained(3, None, (1, 0))
    assert trained(3, first.state())[1:] == (1, 5)


def test_the_same_number_of_epochs_leaves_the_plan_as_it_was(trained):
    first, _, _ = trained(45, None, (2, 0))
    assert trained(45, first.state(), (2, 1))[0].anchor == first.anchor == (1 / 6, 1)


def test_states_of_earlier_versions_know_their_time_from_the_history():
    old = {"seconds": 3.0, "epoch": 2}
    rows = [{"seconds": 12.0}, {"seconds": 10.0}]
    assert run_folder.with_defaults(old, rows) == {"spent": 25.0, "pace": 10.0, "skipped": 0, **old}
    assert run_folder.with_defaults({"seconds": 3.0}, [])["pace"] is None
    new = {"seconds": 3.0, "spent": 40.0, "pace": 9.0, "skipped": 1}
    assert run_folder.with_defaults(new, rows) == new


# ---------------------------------------------------------------------------------------------- whole runs


def options(out, cache, *more: str) -> list[str]:
    return ["--arch", "simple", "--data", "phantoms", "--size", "32", "--epochs", "4", "--batch-size", "32", "--device",
            "cpu", "--val", "random", "--out", str(out), "--cache", str(cache), *more]  # fmt: skip


@pytest.fixture
def stopped(tmp_path, cache, monkeypatch):
    """A run that was stopped in its second epoch."""

    class Signalling(Batches):
        def epoch(self, number=0, skip=0, side=None):
            for i, pair in enumerate(super().epoch(number, skip, side), skip):
                if (number, i) == (2, 5) and self.augment:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield pair

    with monkeypatch.context() as patch:
        patch.setattr(runs, "Batches", Signalling)
        assert train.main(options(tmp_path, cache)) == 143
    return tmp_path / "simple"


def history(folder) -> list[dict]:
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


@pytest.mark.parametrize("ahead", [False, True])
def test_resumed_without_time_a_run_finishes_with_what_it_has(ahead, stopped, tmp_path, cache):
    """Also where it was killed after model.pt was written and before last.pt was."""
    if ahead:
        best, _ = checkpoints.load_checkpoint(stopped / "model.pt")
        best["history"] = [*best["history"], {**best["history"][0], "epoch": 2}]
        checkpoints.save_checkpoint(stopped / "model.pt", {**best, "epoch": 2})
    assert train.main(options(tmp_path, cache, "--resume", "--minutes", "1e-9")) == 0
    assert run_folder.finished(stopped) and [row["epoch"] for row in history(stopped)] == ["1", "2"][: 1 + ahead]
    kept, _ = checkpoints.load_checkpoint(stopped / "model.pt")
    assert kept["epoch"] == len(kept["history"]) == 1 + ahead and kept["operating_points"]


def test_a_state_of_an_earlier_version_is_gone_on_from(stopped, tmp_path, cache):
    """It has no time, no pace, nothing about what was skipped; its split was named after files, not films."""
    last, _ = checkpoints.load_checkpoint(stopped / "last.pt", unfinished=True)
    for key in ("spent", "pace", "skipped"):
        del last["training"][key]
    last["history"] = [{key: value for key, value in row.items() if key != "skipped"} for row in last["history"]]
    last["split"] = {**last["split"], "fingerprint": "of the files"}
    del last["seen_looks"]
    checkpoints.save_checkpoint(stopped / "last.pt", last)
    assert train.main(options(tmp_path, cache, "--resume", "--split-seed", "1")) == 2
    assert train.main(options(tmp_path, cache, "--resume")) == 0
    assert train.main(options(tmp_path / "whole", cache)) == 0
    resumed, whole = (checkpoints.load_checkpoint(folder / "last.pt")[0]
                      for folder in (stopped, tmp_path / "whole" / "simple"))  # fmt: skip
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["training_sha256"] == whole["training_sha256"] and resumed["split"] == whole["split"]
    assert torch.equal(resumed["seen_looks"], whole["seen_looks"])
    assert [row["skipped"] for row in history(stopped)] == ["0.0"] * 4


@pytest.mark.parametrize(
    "change", [{"spent": -1.0}, {"spent": "x"}, {"pace": float("nan")}, {"skipped": -1}, {"skipped": 10**6}]
)
def test_a_time_or_a_count_that_cannot_be_is_refused(change, stopped, tmp_path, cache, capsys):
    last, _ = checkpoints.load_checkpoint(stopped / "last.pt", unfinished=True)
    last["training"] |= change
    checkpoints.save_checkpoint(stopped / "last.pt", last)
    capsys.readouterr()
    assert train.main(options(tmp_path, cache, "--resume")) == 1
    assert "last.pt: holds no state that this training can go on from" in capsys.readouterr().err
