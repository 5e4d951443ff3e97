"""Speed beside what most people write, side by side in one run: `python bench.py data --data chest_xray`.

Each pair is measured in turn, plain, ours, plain, ours, ..., after a warm-up that is not counted; the table shows
medians with the smallest and the largest value, and the ratio of the medians.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from tabulate import tabulate

import batches
import common
import data
import infer
from common import Problem

MEAN, STD = 0.48, 0.24  # any will do: both sides normalise
CPU = torch.device("cpu")


# --------------------------------------------------------------------------------------------------- the data


def plain_loader(folder: Path, size: int, workers: int) -> torch.utils.data.DataLoader:
    """What most people write: ImageFolder, Resize, ToTensor, Normalize, and a DataLoader with worker processes."""
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((size, size)),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )
    images = torchvision.datasets.ImageFolder(str(folder), transform)
    return torch.utils.data.DataLoader(images, batch_size=64, shuffle=True, num_workers=workers)


def drain(epoch) -> int:
    """Takes every batch of an epoch; returns the number of images."""
    return sum(len(images) for images, _ in epoch)


def our_batches(dataset: data.Dataset, augment: batches.Augment | None) -> batches.Batches:
    every = np.arange(len(dataset.labels))
    return batches.Batches(batches.table_on(dataset.images, CPU), dataset.labels, every, 64, CPU, (MEAN, STD), augment)


def bench_data(args: argparse.Namespace) -> list[dict]:
    """First pass: from files to one epoch of normalised batches. Later epochs: the next one."""
    if not args.data or not Path(args.data).is_dir():
        raise Problem("bench.py data needs --data FOLDER: ImageFolder, which it is compared with, reads nothing else")
    folder = Path(args.data)
    workers = os.cpu_count() or 1  # as many as data.load has threads
    with tempfile.TemporaryDirectory() as scratch:
        kept = data.load(args.data, args.size, Path(scratch) / "kept")
        if len(torchvision.datasets.ImageFolder(str(folder)).samples) != len(kept.labels):
            raise Problem(f"{folder}: ImageFolder finds other images there than data.load: nothing to compare")
        plain = plain_loader(folder, args.size, workers)
        ours, augmented = our_batches(kept, None), our_batches(kept, batches.Augment())

        fresh = Path(scratch) / "fresh"

        def first_pass() -> int:
            return drain(our_batches(data.load(args.data, args.size, fresh), None).epoch())

        what = f"{len(kept.labels):,} images, median {np.median(kept.widths):.0f} x {np.median(kept.heights):.0f}"
        first = compare(f"first pass, {what}", lambda: drain(plain), first_pass, args.repeats, fresh)
        later = compare("later epochs", lambda: drain(plain), lambda: drain(ours.epoch()), args.repeats)
        changed = compare("later epochs, ours augmenting", lambda: drain(plain), lambda: drain(augmented.epoch(1)),
                          args.repeats)  # fmt: skip
    return [first, later, changed]


# ---------------------------------------------------------------------------------------------- measurement


def compare(
    what: str, plain: Callable[[], int], ours: Callable[[], int], repeats: int, leftover: Path | None = None
) -> dict:
    """Images/s of both, measured in turn `repeats` times after one uncounted turn; `leftover` is removed in between."""
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(repeats + 1):
        for name, work in (("plain", plain), ("ours", ours)):
            start = time.perf_counter()
            count = work()
            if turn:
                rates[name].append(count / (time.perf_counter() - start))
            if leftover:
                shutil.rmtree(leftover, ignore_errors=True)
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["plain"])
    return {"what": what, **rates, "ratio": ratio}


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("data",), help="data: decoding and batches, beside ImageFolder and DataLoader")
    parser.add_argument("--data", metavar="DIR", help="a folder of X-rays")
    parser.add_argument("--size", type=common.whole_number(32, 2048), default=224, help="side in pixels")
    parser.add_argument("--repeats", type=common.whole_number(1, 1000), default=5, help="counted turns (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measured value there as well")
    return parser.parse_args(argv)


def work(args: argparse.Namespace) -> int:
    infer.keep_freed_memory()
    rows = bench_data(args)
    device = infer.describe_device(CPU)
    print(f"{device}, {os.cpu_count()} workers, median of {args.repeats} (smallest to largest), images/s\n")
    print(tabulate([[row["what"], spread(row["plain"]), spread(row["ours"]), f"{row['ratio']:.1f}"] for row in rows],
                   ["", "plain", "ours", "ratio"], disable_numparse=True,
                   colalign=("left", "right", "right", "right")))  # fmt: skip
    if args.json:
        common.write_json(args.json, {"device": device, "repeats": args.repeats, "rows": rows})
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return common.run(lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
