"""Two processes on this machine against one: the same images, the same losses, the same network."""

import csv
import functools
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from torch.distributed.constants import default_pg_timeout

import data
import models
import train
from basics.problems import Problem, UsageProblem
from devices import parallel
from films.variation import Augment
from training.batches import Batches

CPU = torch.device("cpu")
HERE = Path(train.__file__).parent


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_share_each_batch_and_cover_each_image_once(phantoms, processes):
    table = torch.from_numpy(phantoms.images)
    places = np.arange(len(phantoms.labels))  # as labels: they show which image was met
    arguments = (table, places, np.arange(3, 104), 25, CPU, (0.5, 0.25))
    for augment in (Augment(), None):
        whole = [(x.clone(), y) for x, y in Batches(*arguments, augment, 7).epoch(2)]
        parts = [
            list(Batches(*arguments, augment, 7, shard=(process, processes)).epoch(2)) for process in range(processes)
        ]
        met = torch.cat([labels for part in parts for _, labels in part])
        assert sorted(met.tolist()) == list(range(3, 104))
        if augment:
            for i, (images, labels) in enumerate(whole):
                assert torch.equal(torch.cat([part[i][1] for part in parts]), labels)
                assert torch.equal(torch.cat([part[i][0] for part in parts]), images)  # the same random changes
        else:
            assert met.tolist() == list(range(3, 104))  # in order: what is gathered needs no sorting


def test_alone_nothing_is_shared():
    assert (parallel.rank(), parallel.world(), parallel.under_torchrun()) == (0, 1, False)
    network = models.build("resnet34")
    assert parallel.share_batch_norm(network) is network and type(network.bn1) is torch.nn.BatchNorm2d
    assert parallel.replicated(network, CPU) is network
    array = np.arange(3)
    assert parallel.gathered(array) is array


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return str(taken.getsockname()[1])


def one_of_several(monkeypatch, **variables: str) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, variables.get(name, value))


@pytest.mark.parametrize(("name", "value", "reason"), [
    ("MASTER_ADDR", "", "MASTER_ADDR is not set"), ("MASTER_PORT", "", "MASTER_PORT is not set"),
    ("RANK", "2", "RANK='2', WORLD_SIZE='2'"), ("RANK", "-1", "RANK='-1'"), ("WORLD_SIZE", "two", "WORLD_SIZE='two'"),
    ("MASTER_PORT", "65536", "MASTER_PORT='65536'"),
])  # fmt: skip
def test_what_is_missing_or_impossible_is_said_with_what_to_do(name, value, reason, monkeypatch):
    one_of_several(monkeypatch, **{name: value})
    with pytest.raises(UsageProblem, match=reason) as caught, parallel.group(CPU):
        pass
    assert str(caught.value).endswith("start them with torchrun, or unset RANK WORLD_SIZE to train in one process")
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(UsageProblem, match="LOCAL_RANK='x' is no number"):
        parallel.local_rank()


@pytest.mark.parametrize("left", ["RANK", "WORLD_SIZE"])
def test_one_of_the_two_alone_is_one_process(left, monkeypatch):
    one_of_several(monkeypatch, **{left: ""})
    with parallel.group(CPU):
        assert parallel.world() == 1


def test_a_shell_of_slurm_is_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, str(HERE / "train.py"), "--arch", "simple", "--device", "cpu", "--data", "phantoms",
               "--out", str(tmp_path / "runs")]  # fmt: skip
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: RANK and WORLD_SIZE say that there are several processes, but MASTER_ADDR and MASTER_PORT are not set: "
        "start them with torchrun, or unset RANK WORLD_SIZE to train in one process\n"
    )


@pytest.mark.parametrize(("rank", "reason"), [("0", "1/2 clients joined"), ("1", "refused")])
def test_who_waits_says_for_whom_and_gives_up(rank, reason, monkeypatch, capfd):
    port = free_port()
    one_of_several(monkeypatch, RANK=rank, MASTER_PORT=port)
    monkeypatch.setattr(parallel, "PATIENCE", 1.5)
    monkeypatch.setattr(parallel, "SILENCE", 0.1)
    with pytest.raises(Problem, match=f"process {rank} of 2 has not met the others at localhost:{port} .*{reason}"):
        parallel.met()
    expected = f"process {rank} of 2 waits for the others at localhost:{port}, up to 0.025 minutes\n"
    assert capfd.readouterr().err == expected  # and nothing of PyTorch's


def test_who_has_met_waits_longer_later(monkeypatch, capfd):
    """One process loads the data, or ImageNet's weights, while the others wait."""
    one_of_several(monkeypatch, WORLD_SIZE="1", MASTER_PORT=free_port())
    store, rank, processes = parallel.met()
    assert (rank, processes, capfd.readouterr().err) == (0, 1, "")
    assert store.timeout == default_pg_timeout > timedelta(seconds=parallel.PATIENCE)


LAUNCHED = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import train
from devices import hardware
hardware.has_bf16 = lambda device: False
sys.exit(train.main(sys.argv[1:]))
"""


def launched(folder: Path, count: int, arguments: list[str]) -> list[subprocess.Popen]:
    """As a user starts them."""
    script = folder / "script.py"
    script.write_text(LAUNCHED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count > 1 else []
    return [subprocess.Popen([sys.executable, *launcher, str(script), *arguments], stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})]  # fmt: skip


def one_of(rank: int, count: int, port: str, kind: str) -> None:
    """A `prepare`: what torchrun tells the processes that it starts."""
    from devices import hardware
    from training import runs

    hardware.has_bf16 = lambda device: False
    runs.QUICK_IMAGES = 96  # two steps; a ResNet in float64 takes its time
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    if kind == "float64":
        torch.set_default_dtype(torch.float64)

        class Doubled(Batches):
            def epoch(self, *arguments):
                return ((images.double(), labels) for images, labels in super().epoch(*arguments))

        runs.Batches = Doubled


def forked(folder: Path, count: int, arguments: list[str], kind: str) -> list[processes.Started]:
    """As torchrun would start them, but without the seconds that each of them takes to import PyTorch."""
    port = free_port()
    places = [folder / f"said by {rank} of {count}" for rank in range(count)]
    return [processes.Started(place, "train", arguments, functools.partial(one_of, rank, count, port, kind))
            for rank, place in enumerate(places)]  # fmt: skip


def ended(process: subprocess.Popen | processes.Started) -> processes.Done:
    if isinstance(process, processes.Started):
        return process.done()
    said, error = process.communicate(timeout=300)
    return processes.Done(process.returncode, said, error)


@pytest.mark.parametrize(
    ("architecture", "kind", "more"),
    [
        ("simple", "launched", []),
        # A fresh ResNet turns float32's rounding into 2 % of its gradient, and Adam's first steps are signs: at the
        # recipe's learning rate its losses agree for one step in float32, and for all of them in float64.
        ("resnet34", "float32", ["--epochs", "1", "--lr", "1e-6"]),
        ("resnet34", "float64", ["--epochs", "1"]),  # a second epoch is the simple network's to show
    ],
)
def test_two_processes_train_the_network_that_one_trains(architecture, kind, more, tmp_path, cache, phantoms):
    running, rows, weights = {}, [], []
    data.load("phantoms", 32, cache)  # else both would draw them
    for count in (1, 2):  # both at once: one of them alone leaves a core idle
        out = tmp_path / f"runs{count}"
        arguments = ["--arch", architecture, "--data", "phantoms", "--size", "32", "--quick", "--epochs", "2",
                     "--batch-size", "48", "--device", "cpu", "--val", "random", "--out", str(out), "--cache",
                     str(cache), *more]  # fmt: skip
        running[count, out] = (
            launched(tmp_path, count, arguments) if kind == "launched" else forked(tmp_path, count, arguments, kind)
        )
    for (count, out), started in running.items():
        done = [ended(process) for process in started]
        assert not any(one.code for one in done), done
        assert not any("Warning" in one.err for one in done), done
        assert sum(one.out.count("epoch  1/") for one in done) == 1  # one of them speaks
        with open(out / f"quick-{architecture}" / "history.csv", newline="") as stream:
            rows.append(list(csv.DictReader(stream)))
        checkpoint = torch.load(out / f"quick-{architecture}" / "last.pt", weights_only=True)
        assert checkpoint["processes"] == count and "float32" in checkpoint["device"]
        weights.append(checkpoint["state"])
    for one, two in zip(*rows, strict=True):
        for loss in ("train_loss", "val_loss"):
            assert float(one[loss]) == pytest.approx(float(two[loss]), abs=1e-4)
    if kind == "float64":
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name], rtol=1e-2, atol=1e-3, msg=name)


def test_a_batch_smaller_than_the_processes_is_a_wrong_call(tmp_path, cache, phantoms):
    arguments = ["--arch", "simple", "--data", "phantoms", "--size", "64", "--batch-size", "2",
                 "--device", "cpu", "--out", str(tmp_path / "runs"), "--cache", str(cache)]  # fmt: skip
    for done in map(ended, forked(tmp_path, 3, arguments, "float32")):
        assert done.code == 2
        assert "error: --batch-size: 3 processes need batches of 3 or more" in done.err
    assert not (tmp_path / "runs").exists()
