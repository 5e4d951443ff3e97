"""The two training loops that bench.py compares: what most people write, and ours; each in a process of its own."""

import argparse
import contextlib
import math
import multiprocessing
import multiprocessing.connection
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

import data
import models
from basics.problems import Problem
from basics.progress import Progress
from devices import hardware
from films import variation
from training import batches, inference, loop, recipes
from training.stopping import StopSignals

# On the way to an accuracy: as long as the plain loop took when it was tried, on images that start small.
SHORT = {"epochs": 3, "batch_size": 32, "augment": variation.NO_AUGMENT}
SHORT_FROM = 96
CUDA_UNTIL, CUDA_EPOCHS = 0.95, 6
MEAN, STD = 0.48, 0.24  # any will do: both sides normalise
TURN_IMAGES = {"simple": 2048, "resnet34": 512}  # of training in one turn: 20 to 50 s of the plain loop on 2 cores
CUDA_TURN_IMAGES = {"plain": 2048, "amp": 2048, "ours": 16384, "growing": 16384}  # about a second each


# ---------------------------------------------------------------------------------------------- the plain loop


def plain_images(folder: Path, size: int) -> torchvision.datasets.ImageFolder:
    """What most people write: ImageFolder, Resize, ToTensor, Normalize; three equal channels."""
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((size, size)),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )
    try:
        return torchvision.datasets.ImageFolder(str(folder), transform)
    except FileNotFoundError as error:
        raise Problem(f"--data {folder}: {str(error).splitlines()[0]}") from error


def plain_loader(
    images: torch.utils.data.Dataset, workers: int, shuffle: bool = True, pin: bool = False
) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(images, batch_size=64, shuffle=shuffle, num_workers=workers, pin_memory=pin)


def image_folder(args: argparse.Namespace) -> Path:
    """The folder that holds the classes' folders: ImageFolder, unlike data.load, does not look for it."""
    if not args.data or not Path(args.data).is_dir():
        raise Problem(
            f"bench.py {args.what} needs --data FOLDER: ImageFolder, which it is compared with, reads no other"
        )
    folder = Path(args.data)
    return folder / "train" if (folder / "train").is_dir() else folder


def plain_training(architecture: str, args: argparse.Namespace, amp: bool = False) -> Iterator[int | dict]:
    """The loop that most people write. Yields the images of a turn, or with --until its epochs' results.

    amp: with what is advised most often: autocast, channels last, pinned memory, a fused optimizer.
    """
    folder, device = image_folder(args), hardware.pick_device(args.device)
    images = plain_images(folder, args.size)
    network = plain_network(architecture, args.size).to(device)
    if amp:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4 if architecture == "simple" else 1e-3, fused=amp or None)
    loss_of = torch.nn.CrossEntropyLoss()
    chosen = turn_of(len(images), "amp" if amp else "plain", architecture, device)
    validation = None
    if args.until:
        dataset = data.load(str(folder), args.size, args.cache, classes=args.classes)
        split = data.split(dataset, "patient")
        place = {Path(path).relative_to(folder).as_posix(): i for i, (path, _) in enumerate(images.samples)}
        chosen, held_out = ([place[dataset.files[i]] for i in side] for side in (split.train, split.validation))
        validation = plain_loader(torch.utils.data.Subset(images, held_out), args.workers, shuffle=False)
    loader = plain_loader(torch.utils.data.Subset(images, chosen), args.workers, pin=amp and device.type == "cuda")
    while True:
        network.train()
        running_loss = 0.0
        for inputs, labels in loader:
            inputs, labels = inputs.to(device, non_blocking=amp), labels.to(device, non_blocking=amp)
            if amp:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with hardware.autocast(device, enabled=amp):
                loss = loss_of(network(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        if validation is None:
            yield len(chosen)
            continue
        network.eval()
        right = 0
        with torch.no_grad():
            for inputs, labels in validation:
                right += (network(inputs.to(device)).argmax(1).cpu() == labels).sum().item()
        yield {"val_accuracy": right / len(held_out)}


def plain_network(architecture: str, size: int) -> torch.nn.Module:
    """As ImageFolder's three channels want it: torchvision's own resnet34, and the notebooks' simple network."""
    if architecture != "simple":
        return torchvision.models.resnet34(num_classes=2)
    network = models.build("simple", size)
    network.conv1 = torch.nn.Conv2d(3, 6, 5)
    return network


def turn_of(count: int, side: str, architecture: str, device: torch.device) -> list[int]:
    """Of so many images, those of a turn: spread over both classes."""
    wanted = CUDA_TURN_IMAGES[side] if device.type == "cuda" else TURN_IMAGES[architecture]
    return np.linspace(0, count - 1, min(wanted, count)).astype(int).tolist()


# ---------------------------------------------------------------------------------------------------- our loop


def our_training(architecture: str, args: argparse.Namespace, growing: bool = False) -> Iterator[int | dict]:
    """train.py's loop and default recipe.

    With --until a short version of it, on films as they are: the plain loop trains on those. Else a turn is at the full
    side, or, if `growing`, an equal share at the side of each of the recipe's epochs.
    """
    hardware.keep_freed_memory()
    hardware.set_precision()
    device = hardware.pick_device(args.device)
    dataset = data.load(str(image_folder(args)), args.size, args.cache, classes=args.classes)
    recipe = recipes.RECIPES["default"][architecture]
    chosen = held_out = np.array(turn_of(len(dataset.labels), "ours", architecture, device))
    sides = [args.size]
    if growing:
        sides = [recipes.side_of_epoch(epoch / recipe.epochs, args.size, recipe) for epoch in range(recipe.epochs)]
        chosen = chosen[:: len(sides)]
    if args.until:
        split = data.split(dataset, "patient")
        chosen, held_out = split.train, split.validation
        short = {**SHORT, "epochs": CUDA_EPOCHS} if device.type == "cuda" else SHORT
        recipe = replace(recipe, **short, resize_from=SHORT_FROM if recipe.resize_from else 0)
    else:
        recipe = replace(recipe, resize_from=0, epochs=10**6)
    table = batches.table_on(dataset.images, device)
    shared = (device, (MEAN, STD))
    training = batches.Batches(table, dataset.labels, chosen, recipe.batch_size, *shared, recipe.augment)
    validation = batches.Batches(table, dataset.labels, held_out, inference.EVALUATION_BATCH[device.type], *shared)
    network = models.build(architecture, args.size).to(device).to(memory_format=torch.channels_last)
    trainer = loop.Trainer(network, recipe, training, validation)
    with Progress(0, quiet=True) as bar:
        while trainer.epoch < trainer.epochs:
            if args.until:
                yield trainer.one_epoch(bar, StopSignals())[0]
                continue
            for side in sides:
                trainer.train_one_epoch(trainer.epoch + 1, side, bar, StopSignals(), 0.0)
                trainer.epoch, trainer.step = trainer.epoch + 1, 0
            if device.type == "cuda":
                torch.cuda.synchronize()
            yield len(chosen) * len(sides)


def growing_training(architecture: str, args: argparse.Namespace) -> Iterator[int | dict]:
    return our_training(architecture, args, growing=True)


def amp_training(architecture: str, args: argparse.Namespace) -> Iterator[int | dict]:
    return plain_training(architecture, args, amp=True)


LOOPS = {"plain": plain_training, "amp": amp_training, "ours": our_training, "growing": growing_training}


# ------------------------------------------------------------------------------------------------ taking turns


def child(
    side: str,
    architecture: str,
    args: argparse.Namespace,
    pipe: multiprocessing.connection.Connection,
    start_method: str,
) -> None:
    """A process of its own for each side: takes a turn whenever it is told to, and says what came of it."""
    # A process that was spawned would spawn its DataLoader's workers, which takes seconds where forking takes none.
    multiprocessing.set_start_method(start_method, force=True)
    torch.manual_seed(0)
    loop = LOOPS[side](architecture, args)
    while pipe.recv():
        start = time.perf_counter()
        try:
            result = next(loop, None)
        except Problem as problem:  # said by whoever asked for the turn, in one line
            pipe.send((problem, 0.0, None))
            return
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        held = torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else None
        pipe.send((result, time.perf_counter() - start, held))


class Contestant:
    """One side's process, and the most memory that it held: of the GPU, or where it uses none of the machine, together
    with its worker processes."""

    def __init__(self, side: str, architecture: str, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=child, args=(side, architecture, args, theirs, multiprocessing.get_start_method())
        )
        self.process.start()
        self.peak: int | None = None
        self.on_gpu = False

    def turn(self) -> tuple[Any, float]:
        """(what the loop yielded, seconds). Raises the loop's own Problem, or one when its process died."""
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(over,))
        watching.start()
        try:
            self.pipe.send(True)
            while not self.pipe.poll(0.5):
                if not self.process.is_alive():
                    raise Problem("a measured process ended early; its error stands above")
            result, seconds, held = self.pipe.recv()
            if isinstance(result, Problem):
                raise result
            if held is not None:
                self.on_gpu, self.peak = True, held
            return result, seconds
        except (EOFError, BrokenPipeError) as error:
            raise Problem("a measured process ended early; its error stands above") from error
        finally:
            over.set()
            watching.join()
            self._look()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.2):
            self._look()

    def _look(self) -> None:
        pid = self.process.pid
        held = None if pid is None or self.on_gpu else resident(pid)
        if held is not None:
            self.peak = max(self.peak or 0, held)

    def end(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self.pipe.send(False)
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def resident(pid: int) -> int | None:
    """Bytes of memory of a process and its children, shared pages counted once; None where Linux's /proc is not."""
    total, waiting = 0, [pid]
    try:
        while waiting:
            here = Path("/proc") / str(waiting.pop())
            lines = (here / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
            waiting += [
                int(child) for task in (here / "task").iterdir() for child in (task / "children").read_text().split()
            ]
    except OSError:  # no /proc, or a process that has just ended
        return None
    return total


def bench(args: argparse.Namespace) -> list[dict]:
    """Images/s of each architecture, and on CUDA, where it takes seconds, the time to 95 % validation accuracy too."""
    plain_images(image_folder(args), args.size)  # said here, not by a process that was started for it
    on_cuda = hardware.pick_device(args.device).type == "cuda"
    rows = []
    for architecture in args.arch:
        if not args.until:
            grows = recipes.RECIPES["default"][architecture].resize_from
            rows += among(
                ["plain", *["amp"] * on_cuda, "ours", *["growing"] * bool(grows)], throughput, architecture, args
            )
        if args.until or on_cuda:
            asked = argparse.Namespace(**{**vars(args), "until": args.until or CUDA_UNTIL})
            rows += among(["plain", *["amp"] * on_cuda, "ours"], until, architecture, asked)
    return rows


def among(
    names: list[str], measure: Callable[..., list[dict]], architecture: str, args: argparse.Namespace
) -> list[dict]:
    """What `measure` finds of these sides, each in a process of its own."""
    sides = {side: Contestant(side, architecture, args) for side in names}
    try:
        return measure(architecture, sides, args)
    finally:
        for side in sides.values():
            side.end()


def memory(plain: Contestant, ours: Contestant) -> dict[str, float | None]:
    peaks = {"plain peak GB": plain.peak, "ours peak GB": ours.peak}
    return {name: None if peak is None else peak / 1e9 for name, peak in peaks.items()}


def matrix_rate(device: torch.device) -> float:
    """Operations per second of large matrix products in the type that convolutions are trained in, best of 5."""
    kind = hardware.reduced_type(device)
    a = torch.randn(4096, 4096).to(device, kind)

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        (a @ a).flatten()[0].item()  # waits for the result
        return time.perf_counter() - start

    once()
    return 2 * 4096**3 / min(once() for _ in range(5))


def floor_rate(architecture: str, size: int, device: torch.device) -> float:
    """Images/s of training at that rate: a multiplication and an addition each, once forward and twice backward."""
    operations = 3 * 2 * models.multiply_adds(models.build(architecture, size), size)
    return matrix_rate(device) / operations


def throughput(architecture: str, sides: dict[str, Contestant], args: argparse.Namespace) -> list[dict]:
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(args.repeats + 1):
        for name, side in sides.items():
            count, seconds = side.turn()
            if turn:
                rates[name].append(count / seconds)
    floor = floor_rate(architecture, args.size, hardware.pick_device(args.device))
    rows = [row_of(f"training {architecture}, {args.size} pixels", {"plain": rates["plain"], "ours": rates["ours"]},
                   floor=floor, **memory(sides["plain"], sides["ours"]))]  # fmt: skip
    if "amp" in sides:
        rows.append(row_of(f"training {architecture}, plain with AMP", {"plain": rates["amp"], "ours": rates["ours"]},
                           floor=floor, **memory(sides["amp"], sides["ours"])))  # fmt: skip
    if "growing" in sides:
        start = recipes.RECIPES["default"][architecture].resize_from
        rows.append(row_of(f"training {architecture}, ours {start} to {args.size} pixels as in its recipe",
                           {"plain": rates["plain"], "ours": rates["growing"]},
                           **memory(sides["plain"], sides["growing"])))  # fmt: skip
    return rows


def until(architecture: str, sides: dict[str, Contestant], args: argparse.Namespace) -> list[dict]:
    """Seconds of training and validating until an epoch ends at that validation accuracy; once for each side."""
    spent = {}
    for name, side in sides.items():
        seconds, best = 0.0, 0.0
        while best < args.until and seconds < args.patience * 60:
            result, took = side.turn()
            if result is None:  # the recipe is over
                break
            seconds, best = seconds + took, max(best, result["val_accuracy"])
            print(
                f"{architecture}, {name}: {seconds:.0f} s, validation accuracy {result['val_accuracy']:.3f}", flush=True
            )
        spent[name] = seconds if best >= args.until else math.nan
    return [{"what": f"seconds to {args.until:.0%}, {architecture}{', plain with AMP' * (name == 'amp')}",
             "plain": [spent[name]], "ours": [spent["ours"]], "ratio": spent[name] / spent["ours"],
             **memory(sides[name], sides["ours"])} for name in spent if name != "ours"]  # fmt: skip


def row_of(what: str, rates: dict[str, list[float]], **more: object) -> dict:
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["plain"])
    return {"what": what, **rates, "ratio": ratio, **more}
