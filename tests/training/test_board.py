"""What TensorBoard reads is what history.csv has, also of a run that was stopped and resumed."""

import csv
import importlib.util

import pytest

import train
from training import loop
from training.stopping import Stopped

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def shown(folder) -> dict[str, list[tuple[int, float]]]:
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_each_row_of_history_is_shown(tmp_path, cache, monkeypatch, capsys):
    call = ["--arch", "simple", "--data", "phantoms", "--size", "32", "--cache", str(cache), "--epochs", "3", "--out",
            str(tmp_path), "--tensorboard"]  # fmt: skip
    plain, stop_in = loop.Trainer.one_epoch, [2]

    def one_epoch(self, *given):
        if self.epoch + 1 == stop_in[0]:
            raise Stopped(15, "stopped")
        return plain(self, *given)

    monkeypatch.setattr(loop.Trainer, "one_epoch", one_epoch)
    assert train.main(call) == 143
    assert [step for step, _ in shown(tmp_path / "simple" / "tensorboard")["auroc/val"]] == [1]
    stop_in[0] = 0
    assert train.main([*call, "--resume"]) == 0
    with open(tmp_path / "simple" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = shown(tmp_path / "simple" / "tensorboard")
    assert {"loss/train", "auroc/train", "accuracy/val", "learning_rate", "images_per_second"} <= set(found)
    assert len(found) == len(rows[0]) - 1, "all but the number of the epoch"
    for tag, column in (("loss/train", "train_loss"), ("auroc/val", "val_auroc"), ("learning_rate", "learning_rate")):
        assert [step for step, _ in found[tag]] == [1, 2, 3]
        assert [value for _, value in found[tag]] == pytest.approx([float(row[column]) for row in rows], rel=1e-5)


def test_without_the_package_it_is_said_before_anything_else(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        train.main(["--arch", "simple", "--tensorboard"])
    assert stopped.value.code == 2
    assert "--tensorboard needs a package that is not here: pip install tensorboard" in capsys.readouterr().err
