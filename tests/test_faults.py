"""Attacks on the running scripts: killed, out of disk, without rights, without a terminal, without a home.

`make faults` runs them with the full counts.
"""

import ast
import csv
import dataclasses
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import processes
import pytest
from folders import make_folder
from PIL import Image

import ledger
import models
import train

KILLS = int(os.environ.get("CXR_FAULTS") or 3)  # `make faults` sets it, and does what takes minutes
ROOT = processes.ROOT


# ------------------------------------------------------------------------------------------ what is attacked


@dataclass(frozen=True)
class Attack:
    """A command, the folder that it writes to, and what of the text there the clock or the number of looks changes."""

    script: str
    arguments: list
    writes: Path  # the folder that an attack is on
    varying: tuple[str, ...] = ()  # files that differ from run to run
    beforehand: list = field(default_factory=list)  # folders that are removed before each try
    repeat: tuple[str, ...] = ()  # more arguments when the command is repeated


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A folder with films/, runs/simple, onnx/simple.onnx and cache/."""
    folder = tmp_path_factory.mktemp("base")
    make_folder(folder / "films", count=8)
    arguments = ["--arch", "simple", "--data", "phantoms", "--size", 64, "--quick", "--device", "cpu",
                 "--out", folder / "runs", "--cache", folder / "cache"]  # fmt: skip
    for script, options in (
        ("train", arguments),
        ("export", ["--all", "--runs", folder / "runs", "--onnx", folder / "onnx", "--cache", folder / "cache"]),
    ):
        done = processes.run(folder / "said", script, options)
        assert done.code == 0, done.err
    return folder


def attacks(base: Path, place: Path) -> dict[str, Attack]:
    """Each with `place` as its own folder."""
    runs, onnx_folder, cache = (base / name for name in ("runs", "onnx", "cache"))
    shared = ["--runs", place / "runs", "--cache", cache]
    model, films = onnx_folder / "simple.onnx", base / "films"
    return {
        "cache": Attack("data", ["show", "--data", films, "--size", 128, "--cache", place / "cache", "--out", place / "a.png"],
                        place),
        "train": Attack("train", ["--arch", "simple", "--data", "phantoms", "--size", 64, "--quick", "--device", "cpu",
                                  "--out", place, "--cache", cache], place),  # fmt: skip
        "export": Attack("export", [runs / "simple" / "model.pt", "--onnx", place, *shared], place, (ledger.NAME,)),
        "evaluate": Attack("evaluate", [runs / "simple" / "model.pt", model, "--report", place, *shared], place,
                           (ledger.NAME, "results.json", "report.md", "report.html", "simple.md", "simple.onnx.md")),
        "predict": Attack("predict", [model, films, "--csv", place / "a.csv", "--provider", "cpu", "--batch-size", 1],
                          place, repeat=("--resume",)),
        "heatmaps": Attack("predict", [model, films, "--json", "--heatmaps", place, "--provider", "cpu"], place),
    }  # fmt: skip


def one_thread() -> None:
    """A forked process has none of the threads that it was forked from."""
    import torch

    torch.set_num_threads(1)


def files_in(folder: Path) -> dict[str, Path]:
    """The files under final names."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.suffix != ".part"
    }


def assert_whole(path: Path, streamed: bool = False) -> None:
    """The file can be read to its end; predict.py's CSV, which is written row by row, may lack the end of its last."""
    assert path.stat().st_size or streamed, path
    if path.suffix == ".pt":
        models.load_checkpoint(path, unfinished=True)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".jsonl":
        assert path.read_bytes().endswith(b"\n")
        [json.loads(line) for line in path.read_text().splitlines()]
    elif path.suffix == ".csv":
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if streamed and lines and not lines[-1].endswith("\n"):
            lines.pop()
        assert all(line.endswith("\n") for line in lines)
        assert len({len(row) for row in csv.reader(lines)}) <= 1
    elif path.suffix == ".onnx":
        onnx.checker.check_model(path, full_check=True)
    elif path.suffix == ".npy":
        assert np.load(path).shape[1:] == (128, 128)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    elif path.suffix != ".lock":
        assert path.suffix == ".md", path


def content_of(folder: Path, attack: Attack) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files_in(folder).items() if path.name not in attack.varying}


# ---------------------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize("name", ["cache", "export", "evaluate", "predict", "heatmaps"])
def test_killed_at_random_moments_all_is_whole_and_a_repeat_gives_the_same(name, base, tmp_path):
    """Of training tests/test_resume.py says it."""
    attack = attacks(base, tmp_path / "undisturbed")[name]
    started = time.monotonic()
    undisturbed = processes.run(tmp_path / "said", attack.script, attack.arguments, one_thread)
    seconds = time.monotonic() - started
    assert undisturbed.code == 0, undisturbed.err
    expected = content_of(tmp_path / "undisturbed", attack)
    attack = attacks(base, tmp_path / "attacked")[name]
    moments, killed = random.Random(name), 0
    for _ in range(KILLS):
        more = attack.repeat if killed else ()
        process = processes.Started(tmp_path / "said", attack.script, [*attack.arguments, *more], one_thread)
        time.sleep(moments.uniform(0, seconds))
        process.process.kill()
        killed += process.done().code < 0
        for path in files_in(tmp_path / "attacked").values():
            assert_whole(path, streamed=name == "predict")
        if name == "cache" and moments.random() < 0.5:  # else a later try only opens it
            shutil.rmtree(tmp_path / "attacked", ignore_errors=True)
    assert killed >= KILLS / 2
    again = processes.run(tmp_path / "said", attack.script, [*attack.arguments, *attack.repeat], one_thread)
    assert again.code == 0, again.err
    assert content_of(tmp_path / "attacked", attack) == expected
    if name == "heatmaps":
        assert again.out.replace("attacked", "undisturbed") == undisturbed.out
