"""What devices/recording.py and the kernels promise, as far as a CPU can tell; test_cuda.py has the rest."""

import gc
import importlib.util
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import devices
import models
from devices import recording
from training import loop, recipes
from training.batches import Batches, pixel_statistics, table_on

CPU = torch.device("cpu")
TIMES = ("seconds", "images_per_second")


def repeating(results: int):
    """Stands in for a CUDA graph: is called with where its inputs are, and leaves its results in one place."""

    def record(work, own, constants):
        kept = tuple(torch.empty(0) for _ in range(results))

        def replay():
            for one, new in zip(kept, work(*own, **constants), strict=True):
                one.data = new

        return replay, kept

    return record


def test_what_is_replayed_is_what_is_called_plainly():
    calls = []

    def work(a, b, times):
        calls.append(a)
        return a * times + b, a.sum()

    captured = recording.Captured(work, repeating(2))
    for step in range(8):
        a, b = torch.full((3, 2), float(step)), torch.arange(6.0).view(3, 2)
        found = captured(a, b, times=2.0)
        assert torch.equal(found[0], 2 * a + b) and found[1] == a.sum()
        assert (calls[-1] is a) == (step < recording.WARM_UP)  # then from inputs of its own
        assert len(calls) == step + 1
    assert len(captured.recordings) == 1
    assert torch.equal(captured(torch.ones(3, 2), b, times=3.0)[0], 3 + b)  # another constant, another recording
    assert torch.equal(captured(torch.ones(2, 2), b[:2], times=3.0)[0], 3 + b[:2])  # another shape too
    assert len(captured.recordings) == 1 and len(captured.met) == 3


def test_a_recording_that_fails_is_said_once_and_everything_goes_on(capsys):
    def fails(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nand a long story")

    captured = recording.Captured(lambda a: (a + 1,), fails)
    for step in range(6):
        assert captured(torch.tensor([float(step)]))[0].item() == step + 1
    assert capsys.readouterr().err == (
        "note: CUDA graphs fail here (operation not permitted when stream is capturing); going on without them\n"
    )


def test_nothing_is_collected_while_something_is_recorded():
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with pytest.raises(ValueError), recording.nothing_collected():
                assert not gc.isenabled()
                raise ValueError
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


def test_full_memory_is_not_taken_for_a_recording_that_fails():
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    captured = recording.Captured(lambda a: (a + 1,), full)
    for _ in range(recording.WARM_UP):
        captured(torch.zeros(1))
    with pytest.raises(torch.OutOfMemoryError):
        captured(torch.zeros(1))


@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
def test_a_replayed_training_step_is_a_plain_one_bit_for_bit(architecture, phantoms, monkeypatch):
    """Inputs and results go through the places that a recording has. That nothing else is read from Python, such as a
    rate, is for a real recording to show: test_cuda.py."""
    split = data.split(phantoms)
    table = table_on(phantoms.images, CPU)
    shared = (CPU, pixel_statistics(table, split.train))
    recipe = recipes.Recipe(epochs=2, learning_rate=1e-3, batch_size=16, resize_from=32 * (architecture != "simple"))

    def trained() -> tuple[list[dict], dict, int]:
        torch.manual_seed(0)
        trainer = loop.Trainer(
            models.build(architecture, 64), recipe,
            Batches(table, phantoms.labels, split.train[::3], 16, *shared, recipe.augment),
            Batches(table, phantoms.labels, split.validation, 10, *shared),
        )  # fmt: skip
        rows = []
        trainer.fit(lambda row, _: rows.append({k: v for k, v in row.items() if k not in TIMES}))
        workers = (trainer.take_step, trainer.training.recorded, trainer.answer_validation)
        return rows, trainer.network.state_dict(), [len(worker.recordings) for worker in workers]

    plain, weights, none = trained()
    for name in ("training.loop.recorder", "training.batches.recorder", "training.inference.recorder"):
        monkeypatch.setattr(name, lambda device: repeating(1))
    replayed, others, recordings = trained()
    assert none == [0, 0, 0] and min(recordings) >= 1
    assert replayed == plain and len(plain) == 2
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


def test_kernels_agree_with_the_modules_in_tritons_interpreter():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not there")
    script = Path(__file__).parent.parent / "kernel_checks.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the kernels agree\n"), done.stderr[-2000:]


def test_without_triton_the_modules_are_used(monkeypatch, capsys):
    """Nor where it finds no compiler, which it says when a kernel is first launched."""
    stand_in = types.ModuleType("devices.kernels")

    def tried(device):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nand more")

    stand_in.tried = tried
    for found, reason in ((None, "import of devices.kernels halted"), (stand_in, "Failed to find C compiler")):
        recording._tried_kernels.cache_clear()
        monkeypatch.delattr(devices, "kernels", raising=False)
        monkeypatch.setitem(sys.modules, "devices.kernels", found)
        if found:
            monkeypatch.setattr(devices, "kernels", found, raising=False)
        assert [recording.own_kernels(torch.device("cuda")) for _ in range(2)] == [None, None]
        said = capsys.readouterr().err
        assert said.count("note: no kernels of our own here") == 1 and reason in said and said.count("\n") == 1
    assert recording.own_kernels(CPU) is None
    recording._tried_kernels.cache_clear()


def test_resnet34_is_torchvisions_bit_for_bit():
    import torchvision

    torch.manual_seed(3)
    ours = models.ResNet34(7)
    torch.manual_seed(3)
    theirs = torchvision.models.resnet34(num_classes=7)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    images = torch.rand(2, 3, 64, 64)
    for network in (ours, theirs):
        network.train()
    assert torch.equal(ours(images), theirs(images))
    assert torchvision.models.ResNet34_Weights.IMAGENET1K_V1.url == models.IMAGENET_URL
    assert np.isclose(sum(p.numel() for p in models.ResNet34().parameters()), 21_797_672)


def test_training_imports_neither_torchvision_nor_a_compiler_nor_a_runtime():
    """Counted in a fresh process: modules, not seconds."""
    code = (
        "import sys, train\n"
        "code = train.main(['--arch', 'simple', '--quick', '--data', 'phantoms', '--size', '32', *sys.argv[1:]])\n"
        "slow = ('torchvision', 'onnxruntime', 'matplotlib', 'torch._dynamo', 'torch._inductor', 'sympy', 'triton')\n"
        "print('imported', code, [name for name in slow if name in sys.modules])\n"
    )
    here = Path(__file__).parent.parent.parent
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-c", code, "--out", f"{scratch}/runs", "--cache", f"{scratch}/cache", "--device", "cpu"],
            capture_output=True, text=True, cwd=here,
        )  # fmt: skip
    assert "imported 0 []" in done.stdout, done.stdout[-500:] + done.stderr[-1500:]
