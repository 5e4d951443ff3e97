"""What bench.py measures: data, inference and predict.py beside what most people write."""

import argparse
import collections
import contextlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from tabulate import tabulate

import data
import models
import predict
from basics import disk
from basics.problems import Problem
from devices import hardware
from films import variation
from graphs import building, precisions, sessions
from studies import bench_gpu, bench_training
from studies.bench_training import MEAN, STD, image_folder, plain_images, plain_loader, row_of
from training import batches

CPU = torch.device("cpu")


LATENCY_SECONDS = 1.0  # of one turn of inference


COUNTS = {"cpu": (1, 64), "cuda": (1, 16, 256)}  # batch sizes of inference


FOLDER_FILMS = {"simple": 4096, "resnet34": 256}  # of one turn of predict.py: 3 to 9 s on 2 cores


def drain(epoch: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Takes every batch of an epoch; returns the number of images."""
    return sum(len(images) for images, _ in epoch)


def our_batches(dataset: data.Dataset, augment: variation.Augment | None) -> batches.Batches:
    every = np.arange(len(dataset.labels))
    return batches.Batches(batches.table_on(dataset.images, CPU), dataset.labels, every, 64, CPU, (MEAN, STD), augment)


def bench_data(args: argparse.Namespace) -> list[dict]:
    """First pass: from files to one epoch of normalised batches. Later epochs: the next one."""
    folder, workers = image_folder(args), os.cpu_count() or 1  # as many as data.load has threads
    with tempfile.TemporaryDirectory() as scratch:
        kept = data.load(str(folder), args.size, Path(scratch) / "kept", classes=args.classes)
        images = plain_images(folder, args.size)
        if len(images.samples) != len(kept.labels):
            raise Problem(f"{folder}: ImageFolder finds other images there than data.load: nothing to compare")
        plain = plain_loader(images, workers)
        ours, augmented = our_batches(kept, None), our_batches(kept, variation.ELSEWHERE)
        fresh = Path(scratch) / "fresh"

        def first_pass() -> int:
            dataset = data.load(str(folder), args.size, fresh, classes=args.classes)
            return drain(our_batches(dataset, None).epoch())

        what = f"{len(kept.labels):,} images, median {np.median(kept.widths):.0f} x {np.median(kept.heights):.0f}"
        first = compare(f"first pass, {what}", lambda: drain(plain), first_pass, args.repeats, fresh)
        later = compare("later epochs", lambda: drain(plain), lambda: drain(ours.epoch()), args.repeats)
        changed = compare("later epochs, ours augmenting", lambda: drain(plain), lambda: drain(augmented.epoch(1)),
                          args.repeats)  # fmt: skip
    return [first, later, changed]


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
    return row_of(what, rates)


def bench_infer(args: argparse.Namespace) -> list[dict]:
    """Raw pixels to probability, at several batch sizes, of networks with random weights: speed asks for no others."""
    device = hardware.pick_device(args.device)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for architecture in args.arch:
            contestants = inference_sides(architecture, args.size, device, Path(scratch))
            for count in COUNTS.get(device.type, COUNTS["cpu"]):
                pixels = np.random.default_rng(0).integers(0, 256, (count, args.size, args.size), np.uint8)
                rows += latencies(architecture, count, contestants, pixels, args.repeats)
    return rows


def inference_sides(
    architecture: str, size: int, device: torch.device, scratch: Path
) -> dict[str, Callable[[np.ndarray], object]]:
    torch.manual_seed(0)
    network = models.build(architecture, size).eval()
    checkpoint = {"size": size, "fit": "stretch", "normalisation": [MEAN, STD], "temperature": 1.0, "threshold": 0.5}
    exported = building.bare_graph(network, checkpoint)
    noise = np.random.default_rng(0).integers(0, 256, (16, size, size), np.uint8)
    names = {"fp32": "float32", "fp16": "float16"} | ({} if device.type == "cuda" else {"int8": "int8"})
    files = {precision: scratch / f"{architecture}-{precision}.onnx" for precision in names}
    for precision, file in files.items():
        file.write_bytes(precisions.to_precision(exported, precision, noise).SerializeToString())
    deployed = building.Deployed(network, checkpoint).eval().to(device).to(memory_format=torch.channels_last)
    compiled = torch.compile(deployed, dynamic=False)

    def torch_side(module: Callable[..., Any], reduced: bool) -> Callable[[np.ndarray], object]:
        def answer(pixels: np.ndarray) -> object:
            with torch.inference_mode(), hardware.autocast(device, enabled=reduced):
                return module(torch.from_numpy(pixels).to(device))[0].cpu()

        return answer

    sides = {
        "PyTorch eager, float32": torch_side(deployed, False),
        "PyTorch compiled, float32": torch_side(compiled, False),
    }
    if hardware.reduced_type(device) is not torch.float32:
        sides["PyTorch eager, reduced"] = torch_side(deployed, True)
    for provider in ("cuda", "tensorrt") if device.type == "cuda" else ("cpu",):
        for precision, name in names.items():
            try:
                session = sessions.open_graph(files[precision], provider)
            except Problem as problem:
                print(f"note: no onnxruntime on {provider}: {problem}", file=sys.stderr)
                break
            sides[f"onnxruntime {provider}, {name}"] = lambda pixels, r=session.run: r(
                ["probability"], {"image": pixels}
            )
            if provider == "cuda":
                sides[f"onnxruntime {provider}, {name}, bound"] = bound(session)
    return sides


def bound(session: Any) -> Callable[[np.ndarray], object]:
    """The same with inputs and outputs that stay on the GPU between calls; what changes is copied into them."""
    import onnxruntime

    kept: dict[int, tuple[Any, Any]] = {}  # by batch size

    def answer(pixels: np.ndarray) -> object:
        if len(pixels) not in kept:
            binding, image = session.io_binding(), onnxruntime.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0)
            binding.bind_ortvalue_input("image", image)
            binding.bind_output("probability", "cuda")
            kept[len(pixels)] = binding, image
        binding, image = kept[len(pixels)]
        image.update_inplace(pixels)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    return answer


def latencies(
    architecture: str, count: int, sides: dict[str, Callable[[np.ndarray], object]], pixels: np.ndarray, repeats: int
) -> list[dict]:
    """A turn of each side after the other; one that cannot run (no compiler) is left out with a note."""
    seconds: dict[str, list[float]] = {}
    for name, side in sides.items():
        try:
            side(pixels)
        except (RuntimeError, OSError) as error:
            print(f"note: {name} does not run here ({str(error).splitlines()[0]})", file=sys.stderr)
        else:
            seconds[name] = []
    for turn in range(repeats + 1):
        for name, found in seconds.items():
            over = time.perf_counter() + LATENCY_SECONDS
            while True:
                start = time.perf_counter()
                sides[name](pixels)
                end = time.perf_counter()
                if turn:
                    found.append(end - start)
                if end > over:
                    break
    return [
        {"what": architecture, "side": name, "batch": count, "n": len(found),
         "median_ms": 1000 * statistics.median(found), "p99_ms": 1000 * float(np.percentile(found, 99)),
         "images_per_second": count / statistics.median(found)}
        for name, found in seconds.items()
    ]  # fmt: skip


def bench_predict(args: argparse.Namespace) -> list[dict]:
    """Images/s of predict.py from files to rows, beside its graph on the same films in memory, at batches of 16 and 64.

    The films are those of --data, or phantoms, as colour JPEGs of --size pixels. What decoding costs is processor time
    that the network does not have: both together reach no more than 1 / (1 / network + decoding / cores).
    """
    provider = "cuda" if hardware.pick_device(args.device).type == "cuda" else "cpu"
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch) / "cache"
        source = data.load(args.data or "phantoms", args.size, cache, classes=args.classes).images
        for architecture in args.arch:
            folder, graph = Path(scratch) / f"{architecture} films", Path(scratch) / f"{architecture}.onnx"
            write_jpegs(folder, source, FOLDER_FILMS[architecture])
            write_graph(graph, architecture, args.size)
            for batch in (16, 64):
                alone, whole = predict_sides(graph, folder, batch, provider)
                what = f"{architecture}, {FOLDER_FILMS[architecture]:,} JPEGs, batch {batch}"
                rows.append(compare(what, alone, whole, args.repeats))
    return rows


def write_jpegs(folder: Path, images: np.ndarray, count: int) -> None:
    """`count` files, in the three colour channels that most films on the web have; fewer images are linked to again."""
    folder.mkdir()
    for i in range(count):
        path = folder / f"{i:06d}.jpeg"
        if i < len(images):
            Image.fromarray(images[i]).convert("RGB").save(path)
        else:
            os.link(folder / f"{i % len(images):06d}.jpeg", path)


def write_graph(path: Path, architecture: str, size: int) -> None:
    """Random weights, under the metadata that predict.py asks for."""
    torch.manual_seed(0)
    checkpoint = {"size": size, "fit": "stretch", "normalisation": [MEAN, STD], "temperature": 1.0, "threshold": 0.5}
    graph = building.bare_graph(models.build(architecture, size).eval(), checkpoint)
    known = {"classes": ["NORMAL", "PNEUMONIA"], "data": {"synthetic": True}, **checkpoint}
    onnx.helper.set_model_props(graph, {"name": "bench"} | {key: json.dumps(known[key]) for key in predict.FACTS})
    onnx.save(graph, path)


def predict_sides(graph: Path, folder: Path, batch: int, provider: str) -> tuple[Callable[[], int], Callable[[], int]]:
    """The graph on all cores on films in memory, and predict.py as it is called, without the opening of the graph."""
    cores = os.cpu_count() or 1
    args = predict.parse([str(graph), str(folder), "--batch-size", str(batch), "--workers", str(min(cores, 16))])
    args.threshold = 0.5  # the graph's own
    network, model = predict.open_model(graph, provider), predict.open_model(graph, provider, cores - args.workers + 1)
    read = (predict.read_film(file).grey for file in predict.files_in(args.paths))
    pixels = np.stack([grey for grey in read if grey is not None])

    def alone() -> int:
        for start in range(0, len(pixels), batch):
            network.run(pixels[start : start + batch], "probability", "decision")
        return len(pixels)

    def whole() -> int:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            if predict.predict(args, model, io.StringIO(), collections.Counter()):
                raise Problem("predict.py failed on films that bench.py wrote")
        return len(pixels)

    return alone, whole


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return "-" if values[0] != values[0] else f"{values[0]:,.0f}"
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratio_table(rows: list[dict]) -> str:
    def gigabytes(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    headers = ["", "plain", "ours", "ratio"]
    cells = [[row["what"], spread(row["plain"]), spread(row["ours"]), f"{row['ratio']:.2f}"] for row in rows]
    if any("ours peak GB" in row for row in rows):
        headers += ["of what matrix products allow", "plain, peak GB", "ours, peak GB"]
        reached = [f"{statistics.median(row['ours']) / row['floor']:.0%}" if "floor" in row else "-" for row in rows]
        cells = [[*cell, share, gigabytes(row["plain peak GB"]), gigabytes(row["ours peak GB"])]
                 for cell, share, row in zip(cells, reached, rows, strict=True)]  # fmt: skip
    return tabulate(cells, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def latency_table(rows: list[dict]) -> str:
    headers = ["network", "", "batch", "median ms", "99th percentile ms", "images/s", "n"]
    return tabulate([[row["what"], row["side"], row["batch"], f"{row['median_ms']:.2f}", f"{row['p99_ms']:.2f}",
                      f"{row['images_per_second']:,.0f}", row["n"]] for row in rows],
                    headers, disable_numparse=True, colalign=("left", "left", *["right"] * 5))  # fmt: skip


def work(args: argparse.Namespace) -> int:
    hardware.keep_freed_memory()
    hardware.set_precision()
    device = hardware.describe_device(hardware.pick_device(args.device))
    on_cuda = hardware.pick_device(args.device).type == "cuda"
    args.workers = args.workers if args.workers is not None else os.cpu_count() or 1 if on_cuda else 2
    args.repeats = args.repeats or (3 if on_cuda else 5)
    found: dict[str, Any] = {}
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "data": bench_data, "train": bench_training.bench, "infer": bench_infer, "predict": bench_predict
    }  # fmt: skip
    if args.what == "gpu":
        found = bench_gpu.bench(args)
        print(f"\n{device}, {torch.__version__}, {os.cpu_count()} cores\n\n{bench_gpu.table(found)}")
    for part in {"all": parts, "infer": ("infer", "predict"), "gpu": ()}.get(args.what, (args.what,)):
        args.what = part
        found[part] = parts[part](args)
        how = f"median of {args.repeats} turns (smallest to largest)" if not args.until else "one run of each"
        print(f"\n{part}: {device}, {torch.__version__}, {how}; data, train and predict in images/s\n")
        print(latency_table(found[part]) if part == "infer" else ratio_table(found[part]))
    if args.json:
        disk.write_json(args.json, {"device": device, "repeats": args.repeats, **found})
    return 0
