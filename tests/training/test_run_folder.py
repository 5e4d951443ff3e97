"""What is written of a run, when, and in which order."""

import json
import signal
import threading

import pytest
import torch

from basics import problems
from training import checkpoints, run_folder
from training.stopping import Stopped


class Slow:
    """Stands in for checkpoints.save_checkpoint: writes when it is let, and remembers what."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int]] = []
        self.let = threading.Event()
        self.begun = threading.Event()
        self.fails = False

    def __call__(self, path, checkpoint):
        self.begun.set()
        assert self.let.wait(10)
        if self.fails:
            raise problems.Problem(f"cannot write {path}: No space left on device")
        self.written.append((path.name, int(checkpoint["state"]["weight"].item())))
        return checkpoint


@pytest.fixture
def slow(monkeypatch) -> Slow:
    stand_in = Slow()
    monkeypatch.setattr(checkpoints, "save_checkpoint", stand_in)
    return stand_in


def keep(run: run_folder.Run, epoch: int, auroc: float) -> None:
    row = {"epoch": epoch, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 1.0, "val_loss": 1.0,
           "val_accuracy": 1.0, "val_auroc": auroc, "seconds": 0.1, "images_per_second": 1.0,
           "skipped": 0.0}  # fmt: skip
    weight = torch.tensor(float(epoch))
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.5, 0.0]]).numpy()
    run.keep(row, logits, torch.tensor([0, 1, 1, 0]).numpy(), {"weight": weight}, {"epochs": 9})
    weight += 100  # training goes on, and must not change what was kept


def test_where_epochs_are_short_the_newest_state_and_the_best_one_are_written(tmp_path, slow):
    """While the first is being written four more epochs end; the third is the best."""
    run = run_folder.Run(tmp_path, {})
    with run:
        keep(run, 1, 0.5)
        assert slow.begun.wait(10)
        for epoch, auroc in ((2, 0.4), (3, 0.9), (4, 0.6), (5, 0.7)):
            keep(run, epoch, auroc)
        slow.let.set()
    assert slow.written == [("model.pt", 1), ("last.pt", 1), ("model.pt", 3), ("last.pt", 5)]
    assert run.best()["state"]["weight"].item() == 3 and "training" not in run.best()
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + 5


def test_writing_takes_a_tenth_of_the_time(tmp_path, slow, monkeypatch):
    waited = []
    run = run_folder.Run(tmp_path, {})
    monkeypatch.setattr(run._ending, "wait", lambda seconds: waited.append(seconds))
    clock = iter([0.0, 2.0, 100.0, 107.0])
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: next(clock))
    slow.let.set()
    with run:
        keep(run, 1, 0.5)
        run.check(wait=True)
        keep(run, 2, 0.4)
        run.check(wait=True)
    assert waited == [18.0, 30.0]  # nine times as long, and half a minute at most


def test_a_save_that_fails_is_said_to_whoever_stops_a_run(tmp_path, slow):
    slow.fails = True
    slow.let.set()
    with pytest.raises(problems.Problem, match="No space left"), run_folder.Run(tmp_path, {}) as run:
        keep(run, 1, 0.5)
        raise Stopped(signal.SIGINT, "stopped; the same command with --resume goes on from there")
    with pytest.raises(ValueError, match="another"), run_folder.Run(tmp_path, {}) as run:
        keep(run, 1, 0.5)
        raise ValueError("another error is on its way already")


def test_the_record_has_the_hash_of_the_model_that_lies_beside_it(tmp_path, cache, monkeypatch):
    """After a resume too, in which the best epoch comes later than what was resumed."""
    import train
    from training import loop

    options = ["--arch", "simple", "--data", "phantoms", "--size", "32", "--epochs", "3", "--device", "cpu"]
    options += ["--cache", str(cache), "--out", str(tmp_path)]
    one_epoch = loop.Trainer.one_epoch

    def interrupted(self, *arguments):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return one_epoch(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "one_epoch", interrupted)
    assert train.main(options) == 130
    monkeypatch.undo()
    assert train.main([*options, "--resume"]) == 0
    record = json.loads((tmp_path / "simple" / "run.json").read_text())
    checkpoint, _ = checkpoints.load_checkpoint(tmp_path / "simple" / "model.pt")
    assert record["weights_sha256"] == checkpoint["weights_sha256"] == checkpoints.state_sha256(checkpoint["state"])
    assert (
        record["format"] == checkpoints.FORMAT
        and "training_sha256" not in record
        and "training_sha256" not in checkpoint
    )
