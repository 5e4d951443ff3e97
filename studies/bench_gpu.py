"""One table for one GPU: what feeds it, the loop by batch size, and train.py from its start to its end."""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

import data
import models
from basics.problems import Problem
from basics.progress import Progress
from devices import hardware, recording
from studies import bench_training
from training import batches, inference, loop, recipes
from training.stopping import StopSignals

EPOCHS = 4  # that are timed, after one that is not
BATCHES = (64, 256, 512)
HEADERS = ["", "images/s", "of what matrix products allow", "peak GB"]


def trainer_of(
    architecture: str, dataset: data.Dataset, args: argparse.Namespace, batch_size: int,
    kernels: bool = True, recorded: bool = True,
) -> loop.Trainer:  # fmt: skip
    """train.py's loop by the default recipe, at the full side, on nine tenths of the images.

    Without `kernels` the network is its modules; without `recorded` each launch is one of its own.
    """
    device = hardware.pick_device(args.device)
    recipe = replace(recipes.RECIPES["default"][architecture], resize_from=0, epochs=10**6, batch_size=batch_size)
    every = np.arange(len(dataset.labels))
    chosen, held_out = every[every % 10 > 0], every[every % 10 == 0]
    table, shared = batches.table_on(dataset.images, device), (device, (bench_training.MEAN, bench_training.STD))
    torch.manual_seed(0)
    network = models.build(architecture, args.size).to(device).to(memory_format=torch.channels_last)
    trainer = loop.Trainer(
        network, recipe,
        batches.Batches(table, dataset.labels, chosen, batch_size, *shared, recipe.augment, shapes=1.29),
        batches.Batches(table, dataset.labels, held_out, inference.EVALUATION_BATCH[device.type], *shared),
    )  # fmt: skip
    if not kernels:
        trainer.forward = network
    trainer.take_step.record = recording.recorder(device) if recorded else None
    if not recorded:
        trainer.training.recorded.record = None
    return trainer


def rate(count: int, work: Callable[[int], object]) -> tuple[float, float]:
    """Images/s of work(number of the epoch), each on `count` images; and the most memory in GB held at once."""
    gc.collect()  # of the row before, whose parts refer to each other
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work(1)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for number in range(2, 2 + EPOCHS):
        work(number)
    torch.cuda.synchronize()
    return EPOCHS * count / (time.perf_counter() - start), torch.cuda.max_memory_reserved() / 1e9


def loop_of(trainer: loop.Trainer, size: int) -> Callable[[int], None]:
    def work(number: int) -> None:
        with Progress(0, quiet=True) as bar:
            trainer.train_one_epoch(number, size, bar, StopSignals(), 0.0)
        trainer.step = 0

    return work


def rates(architecture: str, dataset: data.Dataset, args: argparse.Namespace) -> list[list]:
    floor = bench_training.floor_rate(architecture, args.size, hardware.pick_device(args.device))
    rows = []

    def row(what: str, trainer: loop.Trainer, work: Callable[[int], object], share: bool = True) -> None:
        found, held = rate(len(trainer.training.indices), work)
        rows.append([f"{architecture}: {what}", found, found / floor if share else None, held])

    small = f"batches of {BATCHES[0]}"
    for what, kernels, recorded in (
        (f"{small}, PyTorch's modules, launched one by one", False, False),
        (f"{small}, PyTorch's modules, recorded", False, True),
        (f"{small}, our kernels, launched one by one", True, False),
    ):
        trainer = trainer_of(architecture, dataset, args, BATCHES[0], kernels, recorded)
        row(what, trainer, loop_of(trainer, args.size))
    for batch_size in BATCHES:
        trainer = trainer_of(architecture, dataset, args, batch_size)
        row(f"batches of {batch_size}", trainer, loop_of(trainer, args.size))

    def fed(number: int) -> None:
        for _ in trainer.training.epoch(number):
            pass

    trainer = trainer_of(architecture, dataset, args, BATCHES[0])
    row(f"{small} alone, without a network", trainer, fed, share=False)
    return rows


def whole_command(architecture: str, split: str, args: argparse.Namespace, folder: Path) -> tuple[float, dict]:
    """Seconds of `train.py --arch ...` by its default recipe, and its run.json."""
    here = Path(__file__).resolve().parent.parent
    more = [] if args.cache is None else ["--cache", str(args.cache)]
    if args.classes:
        more += [
            "--classes",
            *(f"{name}={','.join(names)}" for name, names in zip(data.CLASSES, args.classes, strict=True)),
        ]
    options = {"arch": architecture, "data": args.data or "phantoms", "size": args.size, "device": args.device,
               "split": split}  # fmt: skip
    named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, str(here / "train.py"), *named, "--out", str(folder), *more]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise Problem(f"train.py failed: {(done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1]}")
    return seconds, json.loads((folder / architecture / "run.json").read_text())


def bench(args: argparse.Namespace) -> dict[str, list]:
    if hardware.pick_device(args.device).type != "cuda":
        raise Problem("there is no GPU here that PyTorch can use: nothing is measured")
    dataset = data.load(args.data or "phantoms", args.size, args.cache, classes=args.classes)
    print(dataset.name)
    found: dict[str, list] = {"rates": [], "commands": []}
    for architecture in args.arch:
        found["rates"] += rates(architecture, dataset, args)
    with tempfile.TemporaryDirectory() as scratch:
        for architecture in args.arch:
            split = "official" if any(dataset.folders) else "patient"  # what leaves most for training
            seconds, run = whole_command(architecture, split, args, Path(scratch))
            what = f"train.py --arch {architecture} --split {split}, {run['recipe']['epochs']} epochs"
            found["commands"].append([what, seconds, run["seconds"]])
    return found


def table(found: dict[str, list]) -> str:
    """For people; a share is of the images/s that large matrix products would allow."""

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = [[what, cell(value, ",.0f"), cell(share, ".0%"), cell(held, ".2f")]
             for what, value, share, held in found["rates"]]  # fmt: skip
    commands = [[what, f"{whole:.1f}", f"{epochs:.1f}"] for what, whole, epochs in found["commands"]]
    parts = (lines, HEADERS), (commands, ["whole command", "seconds", "of them epochs"])
    return "\n\n".join(
        tabulate(cells, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))
        for cells, headers in parts
    )
