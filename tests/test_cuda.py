"""On a GPU: recorded steps against plain ones, our kernels against the modules, and what else only CUDA can show."""

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import models
import train
from devices import hardware, recording
from films.variation import ELSEWHERE
from graphs import building, doubts, sessions
from training import checkpoints, limits, loop, recipes
from training.batches import Batches, pixel_statistics, table_on

HERE = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here")
CUDA = torch.device("cuda", 0)
EVERYTHING = replace(ELSEWHERE, frames=0.5, spectra=0.5, border=0.1)  # all kinds of changes at once


@pytest.fixture(autouse=True)
def settings():
    hardware.set_precision()
    yield
    hardware.set_precision()
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def films() -> tuple[np.ndarray, np.ndarray]:
    """201 films of noise with soft blobs, of which ill ones have one blob more."""
    rng = np.random.default_rng(0)
    labels = np.arange(201) % 2
    images = rng.integers(0, 120, (201, 224, 224), np.uint8)
    images[labels == 1, 80:140, 60:120] += 60
    return images, labels


def trainer_of(architecture: str, films, batch_size: int, side: int, record: bool = True) -> loop.Trainer:
    images, labels = films
    table = table_on(images, CUDA)
    torch.manual_seed(0)
    network = models.build(architecture, 224).to(CUDA).to(memory_format=torch.channels_last)
    recipe = recipes.Recipe(epochs=2, learning_rate=1e-3, batch_size=batch_size, resize_from=side % 224)
    every = np.arange(len(labels))
    made = loop.Trainer(
        network, recipe,
        Batches(table, labels, every, batch_size, CUDA, (0.4, 0.2), EVERYTHING, shapes=1.29),
        Batches(table, labels, every[:90], 40, CUDA, (0.4, 0.2)),
    )  # fmt: skip
    if not record:
        for one in (made.take_step, made.training.recorded, made.answer_validation):
            one.record = None
    return made


def fitted(trainer: loop.Trainer) -> tuple[np.ndarray, dict[str, torch.Tensor], list[float]]:
    losses, logits = [], []
    trainer.fit(lambda row, answers: (losses.append(row["train_loss"]), logits.append(answers)))
    return logits[-1], {k: v.clone() for k, v in trainer.network.state_dict().items()}, losses


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("architecture", "batch_size", "side"),
    [("simple", 16, 224), ("simple", 20, 224), ("resnet34", 16, 224), ("resnet34", 16, 160), ("resnet34", 33, 128)],
)
def test_a_recorded_step_is_the_plain_one(architecture, batch_size, side, deterministic, films, capsys):
    """Bit for bit, both of them: the kernels are the same ones, in the same order."""
    hardware.set_precision(deterministic)
    recorded = trainer_of(architecture, films, batch_size, side)
    logits, weights, losses = fitted(recorded)
    assert recorded.take_step.recordings and recorded.training.recorded.recordings
    assert "note" not in capsys.readouterr().err  # a slow start prints its progress there
    other_logits, other_weights, other_losses = fitted(trainer_of(architecture, films, batch_size, side, record=False))
    np.testing.assert_array_equal(logits, other_logits)
    assert losses == other_losses and losses[1] < losses[0]
    for name, tensor in weights.items():
        assert torch.equal(tensor, other_weights[name]), name


def test_trainings_follow_each_other_in_one_process(films, capsys):
    losses = []
    for _ in range(4):
        trainer = trainer_of("simple", films, 16, 224)
        losses.append(fitted(trainer)[2])
        del trainer
        gc.collect()
    assert losses[0] == losses[1] == losses[2] == losses[3] and "note" not in capsys.readouterr().err


def test_our_kernels_are_the_modules():
    import kernel_checks

    kernel_checks.check_all(CUDA)


@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
def test_a_training_by_our_kernels_learns_as_one_by_the_modules(architecture, films):
    """In bf16, whose rounding is all that differs: the same losses within a tenth of the first one."""
    ours = trainer_of(architecture, films, 16, 224)
    assert type(ours.forward).__name__ == "Fused"
    plain = trainer_of(architecture, films, 16, 224, record=False)
    plain.forward = plain.network
    (_, _, mine), (_, _, theirs) = fitted(ours), fitted(plain)
    assert mine == pytest.approx(theirs, abs=0.1 * theirs[0])


def test_an_older_training_that_is_let_go_spoils_no_recording(films, capsys):
    """Graphs in reference cycles wait for the garbage collector, which must not come in the middle of a recording."""
    before = gc.get_threshold()
    gc.set_threshold(1)  # it would come at once
    try:
        for _ in range(3):
            trainer = trainer_of("simple", films, 16, 224)
            trainer.itself = trainer
            fitted(trainer)
            assert trainer.take_step.recordings
            del trainer
    finally:
        gc.set_threshold(*before)
    assert "note" not in capsys.readouterr().err


def test_work_that_waits_for_the_device_is_not_recorded_and_goes_on(capsys):
    captured = recording.Captured(lambda a: (a + a.sum().item(),), recording.recorder(CUDA))
    for step in range(5):
        given = torch.full((3,), float(step), device=CUDA)
        assert captured(given)[0].tolist() == [4.0 * step] * 3
    assert capsys.readouterr().err.count("note: CUDA graphs fail here") == 1
    assert not captured.recordings


def test_a_table_that_does_not_fit_is_streamed(films, monkeypatch):
    kept = fitted(trainer_of("simple", films, 16, 224))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 1))
    trainer = trainer_of("simple", films, 16, 224)
    assert trainer.training.stream and not trainer.training.table.is_cuda
    streamed = fitted(trainer)
    np.testing.assert_array_equal(streamed[0], kept[0])
    assert streamed[2] == kept[2]


def test_fp16_scales_its_gradients_and_learns(films, monkeypatch):
    monkeypatch.setattr(hardware, "reduced_type", lambda device: torch.float16)
    trainer = trainer_of("resnet34", films, 16, 224)
    _, _, losses = fitted(trainer)
    assert trainer.scaler.is_enabled() and trainer.scaler.get_scale() > 1 and not trainer.take_step.recordings
    assert losses[1] < losses[0]


def test_full_memory_is_one_line_that_names_the_batch_size(tmp_path, cache, capsys):
    torch.cuda.empty_cache()
    held = torch.cuda.mem_get_info(CUDA)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.5e9 / held, 1.0))
    try:
        code = train.main(["--arch", "resnet34", "--data", "phantoms", "--size", "128", "--quick", "--batch-size",
                           "192", "--resize-from", "0", "--cache", str(cache), "--out", str(tmp_path)])  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note")]
    said = "error: the device's memory is full: a smaller --batch-size than 192, or --size than 128, needs less"
    assert code == 1 and lines == [said]


def command(tmp_path: Path, cache: Path, *more: str) -> list[str]:
    return ["train.py", "--arch", "simple", "--data", "phantoms", "--size", "64", "--epochs", "60", "--cache",
            str(cache), "--device", "cuda", "--deterministic", "--out", str(tmp_path), *more]  # fmt: skip


def test_killed_and_resumed_a_deterministic_run_ends_with_the_same_bits(tmp_path, cache):
    started = [subprocess.Popen([sys.executable, *command(tmp_path / name, cache)], cwd=HERE,
                                stdout=subprocess.PIPE, text=True) for name in ("whole", "killed")]  # fmt: skip
    last = tmp_path / "killed" / "simple" / "last.pt"
    while not last.exists():
        assert started[1].poll() is None
        time.sleep(0.01)
    os.kill(started[1].pid, signal.SIGKILL)
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0, -signal.SIGKILL]
    resumed = subprocess.run([sys.executable, *command(tmp_path / "killed", cache, "--resume")], cwd=HERE,
                             capture_output=True, text=True)  # fmt: skip
    assert resumed.returncode == 0 and "going on after" in resumed.stdout, resumed.stderr
    whole, killed = (
        checkpoints.load_checkpoint(tmp_path / name / "simple" / "model.pt")[0] for name in ("whole", "killed")
    )
    assert whole["weights_sha256"] == killed["weights_sha256"]
    times = ("seconds", "images_per_second")
    plain = [[{k: v for k, v in row.items() if k not in times} for row in one["history"]] for one in (whole, killed)]
    assert plain[0] == plain[1]


def test_one_process_of_torchrun_on_nccl(tmp_path, cache):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run([*run, *command(tmp_path, cache, "--quick")], cwd=HERE,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "quick-simple" / "model.pt").exists()


@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
def test_a_graph_on_cuda_answers_as_pytorch_on_the_cpu(architecture, tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    torch.manual_seed(0)
    network = models.build(architecture, 224).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    checkpoint = {"size": 224, "fit": "stretch", "normalisation": [0.48, 0.24], "temperature": 1.0, "threshold": 0.5}
    path = tmp_path / "graph.onnx"
    path.write_bytes(building.bare_graph(network, checkpoint).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (9, 300, 260), np.uint8)
    with torch.inference_mode():
        expected = building.Deployed(network, checkpoint).eval()(torch.from_numpy(pixels))[0].numpy()
    found = sessions.graph_outputs(sessions.open_graph(path, "cuda"), pixels, 4, ["probability"])["probability"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_limits_are_fitted_as_on_the_cpu_and_a_graph_knows_them_on_cuda(cache, tmp_path):
    phantoms = data.load("phantoms", 64, cache)
    split = data.split(phantoms)
    patients = [phantoms.patients[i] for i in split.validation]
    known = []
    for device in (torch.device("cpu"), CUDA):
        torch.manual_seed(0)
        network = models.build("simple", 64).to(device)
        table = table_on(phantoms.images, device)
        films = limits.Films(table, phantoms.labels, split.train, split.validation, patients)
        known.append(limits.fit(network, films, (0.48, 0.24), device))
    assert all(value.device.type == "cpu" for value in known[1].values() if isinstance(value, torch.Tensor))
    for key in ("thumbnail", "hidden", "orientation", "middle", "halves"):
        assert known[1][key] == pytest.approx(known[0][key], rel=0.02), key
    checkpoint = {"size": 64, "fit": "stretch", "normalisation": [0.48, 0.24], "temperature": 1.0, "threshold": 0.5}
    graph = doubts.attached(building.bare_graph(network.cpu(), checkpoint), checkpoint | {"limits": known[0]}, 0.05)
    path = tmp_path / "graph.onnx"
    path.write_bytes(graph.SerializeToString())
    pixels = np.concatenate([phantoms.images[:40], 255 - phantoms.images[:40], phantoms.images[:40, ::-1]])
    found = [sessions.graph_outputs(sessions.open_graph(path, provider), pixels, 16, doubts.OUTPUTS)
             for provider in ("cpu", "cuda")]  # fmt: skip
    np.testing.assert_allclose(found[1]["unfamiliar"], found[0]["unfamiliar"], rtol=1e-2)
    assert np.mean(found[1]["flags"] != found[0]["flags"]) <= 0.02


def test_statistics_and_split_are_of_the_device(cache):
    """What normalises is the same number on both devices."""
    phantoms = data.load("phantoms", 64, cache)
    split = data.split(phantoms)
    found = [pixel_statistics(table_on(phantoms.images, device), split.train) for device in (CUDA, torch.device("cpu"))]
    assert found[0] == found[1]
