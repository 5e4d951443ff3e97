"""Two processes on this machine against one: the same images, the same losses, the same network."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import train
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


SCRIPT = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import torch, train
from devices import hardware
from training import batches, runs
hardware.has_bf16 = lambda device: False
class Doubled(batches.Batches):
    def epoch(self, *arguments):
        return ((images.double(), labels) for images, labels in super().epoch(*arguments))
if sys.argv.pop(1) == "float64":
    torch.set_default_dtype(torch.float64)
    runs.Batches = Doubled
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("architecture", "kind", "more"),
    [
        ("simple", "float32", []),
        # A fresh ResNet turns float32's rounding into 2 % of its gradient, and Adam's first steps are signs: at the
        # recipe's learning rate its losses agree for one step in float32, and for all of them in float64.
        ("resnet34", "float32", ["--lr", "1e-6"]),
        ("resnet34", "float64", []),
    ],
)
def test_two_processes_train_the_network_that_one_trains(architecture, kind, more, tmp_path, cache, phantoms):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running, rows, weights = {}, [], []
    for processes in (1, 2):  # both at once: one of them alone leaves a core idle
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes > 1 else []
        out = tmp_path / f"runs{processes}"
        command = [sys.executable, *launcher, str(script), kind, "--arch", architecture, "--data", "phantoms",
                   "--size", "32", "--quick", "--epochs", "2", "--batch-size", "48", "--device", "cpu",
                   "--val", "random", "--out", str(out), "--cache", str(cache), *more]  # fmt: skip
        running[processes, out] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    for (processes, out), process in running.items():
        said, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        assert "Warning" not in error
        assert said.count("epoch  1/2") == 1  # one of them speaks
        with open(out / architecture / "history.csv", newline="") as stream:
            rows.append(list(csv.DictReader(stream)))
        checkpoint = torch.load(out / architecture / "last.pt", weights_only=True)
        assert checkpoint["processes"] == processes and "float32" in checkpoint["device"]
        weights.append(checkpoint["state"])
    for one, two in zip(*rows, strict=True):
        for loss in ("train_loss", "val_loss"):
            assert float(one[loss]) == pytest.approx(float(two[loss]), abs=1e-4)
    if kind == "float64":
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name], rtol=1e-2, atol=1e-3, msg=name)


def test_a_batch_smaller_than_the_processes_is_a_wrong_call(tmp_path, cache, phantoms):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3",
               str(HERE / "train.py"), "--arch", "simple", "--data", "phantoms", "--size", "64", "--batch-size", "2",
               "--device", "cpu", "--out", str(tmp_path / "runs"), "--cache", str(cache)]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: --batch-size: 3 processes need batches of 3 or more" in done.stderr
    assert not (tmp_path / "runs").exists()
