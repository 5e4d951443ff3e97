"""Runs that are killed, stopped, resumed, out of time or out of disk."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import processes
import pytest
import torch

import models
import train
from basics.problems import Problem
from films.variation import Augment
from training import checkpoints, inference, loop, recipes, run_folder, runs
from training.batches import Batches

HERE = Path(train.__file__).parent
TIMES = ("seconds", "images_per_second")
KILLS = int(os.environ.get("CXR_FAULTS") or 5)  # set by `make faults`


def options(out, cache, *more: str) -> list[str]:
    return ["--arch", "simple", "--data", "phantoms", "--size", "32", "--epochs", "5", "--batch-size", "16",
            "--device", "cpu", "--out", str(out), "--cache", str(cache), *more]  # fmt: skip


def start(script: str, arguments: list[str]) -> subprocess.Popen:
    """Python running this code in a process of its own, with the project's folder on its path."""
    setting = f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", setting + script, *arguments], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


RUN = "import train; sys.exit(train.main(sys.argv[1:]))"


def rows_of(folder: Path) -> list[dict]:
    """history.csv without what the clock says."""
    with open(folder / "history.csv", newline="") as stream:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(stream)]


def assert_same_run(folder: Path, reference: Path) -> None:
    assert rows_of(folder) == rows_of(reference)
    for name in ("model.pt", "last.pt"):
        (found, _), (expected, _) = (checkpoints.load_checkpoint(place / name) for place in (folder, reference))
        assert found["weights_sha256"] == expected["weights_sha256"]
        assert found["threshold"] == expected["threshold"] and found["temperature"] == expected["temperature"]
    assert found["training_sha256"] == expected["training_sha256"]  # optimizer, generators, position
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "last.pt", "model.pt", "run.json"]


@pytest.fixture(autouse=True)
def one_thread():
    """As in the processes that `start` makes: the number of threads changes the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache, phantoms) -> Path:
    """The folder of a run of `options`, in a process of its own as the killed ones are."""
    out = tmp_path_factory.mktemp("undisturbed")
    done = processes.run(out / "said", "train", options(out, cache))
    assert done.code == 0, done.err
    return out / "simple"


# ---------------------------------------------------------------------------------------------------- killed


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(tmp_path, cache, undisturbed):
    moments = random.Random(3)
    killed = 0
    for _ in range(KILLS):
        if run_folder.finished(tmp_path / "simple"):
            shutil.rmtree(tmp_path / "simple")
        started = processes.Started(tmp_path / "said", "train", options(tmp_path, cache, "--resume"))
        deadline = time.monotonic() + 60
        while not (tmp_path / "simple" / "run.json").exists() and started.process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # The first is killed at once; the later ones while they start, train, write, or end.
        time.sleep(moments.uniform(0, 0.2) + (1.5 if killed else 0.0) * moments.random())
        started.process.kill()
        killed += started.done().code == -signal.SIGKILL
        for file in (tmp_path / "simple").glob("[!.]*.pt"):
            checkpoints.load_checkpoint(file, unfinished=True)  # whole, whatever the moment
    assert killed >= 3
    done = processes.run(tmp_path / "said", "train", options(tmp_path, cache, "--resume"))
    assert done.code == 0, done.err
    assert_same_run(tmp_path / "simple", undisturbed)


def test_killed_between_model_and_last_the_best_epoch_is_not_lost(tmp_path, cache, undisturbed):
    """model.pt is written before last.pt: killed in between, the epoch is done again, with the same result."""
    script = """
import os, signal, train
from training import checkpoints
save = checkpoints.save_checkpoint
def dying(path, content):
    if path.name == "last.pt" and content["epoch"] >= 2:  # the second one is written for sure, the second epoch's not
        os.kill(os.getpid(), signal.SIGKILL)
    return save(path, content)
checkpoints.save_checkpoint = dying
sys.exit(train.main(sys.argv[1:]))
"""
    process = start(script, options(tmp_path, cache))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoints.load_checkpoint(tmp_path / "simple" / "last.pt")[0]["epoch"] == 1
    assert train.main(options(tmp_path, cache, "--resume")) == 0
    assert_same_run(tmp_path / "simple", undisturbed)


# --------------------------------------------------------------------------------------------------- stopped


def signal_at(monkeypatch, epoch: int, batch: int, signum: int) -> None:
    """Makes the training batches send this process a signal when they are asked for one of them."""

    class Signalling(Batches):
        def epoch(self, number=0, skip=0, side=None):
            for i, pair in enumerate(super().epoch(number, skip, side), skip):
                if (number, i) == (epoch, batch) and self.augment:
                    os.kill(os.getpid(), signum)
                yield pair

    monkeypatch.setattr(runs, "Batches", Signalling)


@pytest.mark.parametrize(
    ("epoch", "batch", "signum", "code"), [(1, 3, signal.SIGINT, 130), (3, 25, signal.SIGTERM, 143)]
)
def test_a_signal_finishes_the_step_and_resuming_changes_no_bit(
    epoch, batch, signum, code, tmp_path, cache, undisturbed, monkeypatch, capsys
):
    signal_at(monkeypatch, epoch, batch, signum)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert train.main(options(tmp_path, cache)) == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    said = capsys.readouterr().err
    assert f"stopped after {epoch - 1} epochs and {batch + 1} steps" in said and "--resume" in said
    last, _ = checkpoints.load_checkpoint(tmp_path / "simple" / "last.pt", unfinished=True)
    assert (last["training"]["epoch"], last["training"]["step"]) == (epoch - 1, batch + 1)
    monkeypatch.undo()
    assert train.main(options(tmp_path, cache, "--resume")) == 0
    assert f"going on after {epoch - 1} epochs and {batch + 1} steps" in capsys.readouterr().out
    assert_same_run(tmp_path / "simple", undisturbed)


@pytest.mark.parametrize(("during", "place", "said"), [
    (2, (1, 27), "stopped after 1 epoch and 27 steps; "),
    (6, (5, 0), "stopped after 5 epochs, all saved, in the validation of the best one; "),
])  # fmt: skip
def test_a_signal_during_validation_loses_no_step(
    during, place, said, tmp_path, cache, undisturbed, monkeypatch, capsys
):
    answers = inference.network_logits
    called = []

    def interrupted(*arguments, **keywords):
        called.append(1)
        if len(called) == during:
            os.kill(os.getpid(), signal.SIGTERM)
        return answers(*arguments, **keywords)

    monkeypatch.setattr(inference, "network_logits", interrupted)
    assert train.main(options(tmp_path, cache)) == 143
    assert said + "the same command with --resume goes on from there\n" in capsys.readouterr().err
    last, _ = checkpoints.load_checkpoint(tmp_path / "simple" / "last.pt")
    assert (last["training"]["epoch"], last["training"]["step"]) == place
    monkeypatch.undo()
    assert train.main(options(tmp_path, cache, "--resume")) == 0
    assert_same_run(tmp_path / "simple", undisturbed)


def test_a_second_signal_ends_at_once_and_breaks_no_file(tmp_path, cache):
    script = """
import time, train
from training import batches, runs
class Slow(batches.Batches):
    def epoch(self, *arguments):
        for i, pair in enumerate(super().epoch(*arguments)):
            if self.augment and arguments[0] == 2:
                print("in the second epoch", flush=True)
                time.sleep(60)
            yield pair
runs.Batches = Slow
sys.exit(train.main(sys.argv[1:]))
"""
    process = start(script, options(tmp_path, cache))
    while "in the second epoch" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    while not (tmp_path / "simple" / "last.pt").exists():  # a thread writes it
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    while "a second signal stops at once" not in (line := process.stderr.readline()):
        assert line
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - begun < 20
    for name in ("last.pt", "model.pt"):
        assert checkpoints.load_checkpoint(tmp_path / "simple" / name)[0]["epoch"] == 1


# --------------------------------------------------------------------------------- resuming what cannot be


def test_resume_starts_afresh_skips_what_is_finished_and_refuses_another_run(tmp_path, cache, capsys):
    few = options(tmp_path, cache, "--quick", "--resume")
    assert train.main(few) == 0  # nothing to go on with: a job that is queued again and again needs one command
    before = (tmp_path / "quick-simple" / "model.pt").read_bytes()
    capsys.readouterr()
    assert train.main(few) == 0
    assert "simple: finished already, nothing is left to do\n" in capsys.readouterr().out
    assert (tmp_path / "quick-simple" / "model.pt").read_bytes() == before
    for other, what in (
        (["--seed", "1"], "another --seed (0, not 1)"),
        (["--lr", "0.5"], "another recipe, learning_rate (0.001, not 0.5)"),
        (["--split-seed", "1"], "another split ("),
        (["--arch", "resnet34", "--name", "simple"], "another architecture (simple, not resnet34)"),
    ):
        assert train.main([*few, *other]) == 2
        error = capsys.readouterr().err
        assert f"error: --resume: {tmp_path / 'quick-simple' / 'last.pt'} was trained with {what}" in error
    assert (tmp_path / "quick-simple" / "model.pt").read_bytes() == before


def test_a_damaged_last_is_said_and_stays(tmp_path, cache, capsys):
    assert train.main(options(tmp_path, cache, "--quick")) == 0
    file = tmp_path / "quick-simple" / "last.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert train.main(options(tmp_path, cache, "--quick", "--resume")) == 1
    assert f"error: {file}: " in capsys.readouterr().err
    assert file.read_bytes() == content


def test_a_first_epoch_that_was_stopped_is_no_model_yet(tmp_path, cache, monkeypatch, capsys):
    signal_at(monkeypatch, 1, 0, signal.SIGTERM)
    assert train.main(options(tmp_path, cache)) == 143
    with pytest.raises(Problem, match="stopped before the first epoch was complete; --resume goes on with it"):
        checkpoints.load_checkpoint(tmp_path / "simple" / "last.pt")


# --------------------------------------------------------------------------------------------- other trouble


def test_a_full_disk_is_said_and_the_old_checkpoint_stays_whole(tmp_path, cache, monkeypatch):
    resource = pytest.importorskip("resource")
    assert resource
    signal_at(monkeypatch, 2, 0, signal.SIGTERM)
    assert train.main(options(tmp_path, cache)) == 143
    monkeypatch.undo()
    before = {name: (tmp_path / "simple" / name).read_bytes() for name in ("last.pt", "model.pt", "history.csv")}
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({10**5}, {10**5}))\n" + RUN
    process = start(limited, options(tmp_path, cache, "--resume"))
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert f"error: cannot write {tmp_path / 'simple'}" in errors and "Traceback" not in errors
    assert {name: (tmp_path / "simple" / name).read_bytes() for name in before} == before
    assert not list((tmp_path / "simple").glob(".*"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path, cache, monkeypatch, capsys):
    class Poisoned(Batches):
        def epoch(self, number=0, skip=0, side=None):
            for i, (images, labels) in enumerate(super().epoch(number, skip, side)):
                yield images * (float("nan") if self.augment and (number, i) == (2, 4) else 1), labels

    monkeypatch.setattr(runs, "Batches", Poisoned)
    assert train.main(options(tmp_path, cache)) == 1
    assert "error: epoch 2, step 5: the network's output is not finite; try a lower --lr" in capsys.readouterr().err
    for name in ("last.pt", "model.pt"):
        checkpoint, network = checkpoints.load_checkpoint(tmp_path / "simple" / name)
        assert checkpoint["epoch"] == 1
        assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(("minutes", "epochs"), [(0.01, 1), (35 / 60, 3), (10, 6)])
def test_minutes_takes_the_epochs_that_fit_and_ends_the_schedule_with_them(minutes, epochs, phantoms, monkeypatch):
    clock = SimpleNamespace(now=100.0)

    class Ticking(Batches):
        def epoch(self, *arguments):
            clock.now += 10 if self.augment else 0
            return super().epoch(*arguments)

    fake = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now)
    monkeypatch.setattr(loop, "time", fake)
    common = (torch.from_numpy(phantoms.images), phantoms.labels, np.arange(64), 32, torch.device("cpu"), (0.5, 0.25))
    rates, rows = [], []
    recipe = recipes.Recipe(6, 1e-3, 32)
    trainer = loop.Trainer(models.build("simple", 64), recipe, Ticking(*common, Augment()), Ticking(*common),
                            minutes=minutes)  # fmt: skip
    rate = trainer.rate
    monkeypatch.setattr(trainer, "rate", lambda step: rates.append(rate(step)) or rates[-1])
    trainer.fit(lambda row, logits: rows.append(row))
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    if epochs > 1:
        assert trainer.progress(0) == pytest.approx(1)
        assert rates[-1] < 0.4e-3 and max(rates) > 0.5e-3  # two steps an epoch: the last is near the cosine's end


def test_deterministic_runs_and_is_undone(tmp_path, cache):
    try:
        assert train.main(options(tmp_path, cache, "--quick", "--deterministic")) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
