"""Attacks every file that the scripts open, with damage drawn from fixed seeds: `python tests/fuzzing.py`, `make fuzz`.

A case is its target's name and a number, and nothing else: `python tests/fuzzing.py checkpoints --only 137` repeats it.
Cases run in a child process with limited memory and a watchdog, so that a crash of a decoder written in C is seen, and
the next case runs in a new child. A case may end in the right answer or in an error that names the file; a traceback, a
crash, a hang, too much memory, an error that names no file and a wrong answer are failures. The damage itself is in
mutations.py (checkpoints, tables and archives), mutated_images.py and mutated_graphs.py.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unittest.mock
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from folders import make_folder
from mutated_graphs import mutated_graph
from mutated_images import dicoms, image_files, mutated_dicom, mutated_image
from mutations import (
    mutated_arrays,
    mutated_cache,
    mutated_certificate,
    mutated_checkpoint,
    mutated_ledger,
    mutated_manifest,
    mutated_record,
    mutated_state,
    mutated_zip,
)

import evaluate
import export
import predict
import train
from basics.problems import Problem
from evaluation import ledger, testing
from films import images
from training import checkpoints

MEMORY = 2 << 30  # bytes that a case may take beside what is loaded already
SECONDS = 10  # of processor time, which a busy machine does not change
WATCHDOG = 120  # of the wall clock: a case that waits for something uses no processor
FULL = {"images": 2000, "dicoms": 1000, "checkpoints": 500, "graphs": 500, "manifests": 300, "archives": 300,
        "caches": 300, "states": 300, "records": 300, "ledgers": 300, "certificates": 300}  # fmt: skip
SIZE = 32


class Wrong(Exception):
    """What is not allowed: a wrong answer, or an error that names no file."""


class World:
    """A small data set, a network trained on it, its graph with its certificate, and what they answer undamaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.films, self.runs, self.onnx, self.cache = (folder / name for name in ("films", "runs", "onnx", "cache"))
        make_folder(self.films, count=18)
        self.case = folder / "case"
        self.middle = self.trained()
        quietly(export.main, ["--all", "--onnx", str(self.onnx), *self.options()])
        self.checkpoint = self.runs / "simple" / "model.pt"
        self.graph, self.certificate = (self.onnx / f"simple{suffix}" for suffix in (".onnx", ".json"))
        self.film = sorted((self.films / "PNEUMONIA").iterdir())[0]
        self.images = image_files(self.film.read_bytes())
        self.dicoms = dicoms()
        self.right = self.probabilities(self.checkpoint)
        self.answer = self.predicted(self.graph)[0]

    def trained(self) -> bytes:
        """Trains, and returns last.pt as it was after the first of the two epochs."""
        kept, save = [], checkpoints.save_checkpoint

        def watched(path: Path, checkpoint: dict) -> dict:
            written = save(path, checkpoint)
            kept.extend([path.read_bytes()] if path.name == "last.pt" else [])
            return written

        with unittest.mock.patch.object(checkpoints, "save_checkpoint", watched):
            quietly(train.main, self.train_options())
        return kept[0]

    def train_options(self) -> list[str]:
        return ["--arch", "simple", "--epochs", "2", "--size", str(SIZE), "--data", str(self.films), "--cache",
                str(self.cache), "--out", str(self.runs), "--device", "cpu"]  # fmt: skip

    def options(self) -> list[str]:
        return ["--runs", str(self.runs), "--cache", str(self.cache), "--data", str(self.films)]

    def fresh(self) -> Path:
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        return self.case

    def probabilities(self, model: Path) -> np.ndarray:
        """What evaluate.py reports of a model's test images; empty where it refuses the model."""
        args = evaluate.parse([str(model), *self.options(), "--device", "cpu"])
        results, _, _ = testing.evaluate_all(args.models, args)
        return results[0].probabilities if results else np.array([])

    def predicted(self, graph: Path) -> list[dict]:
        """The rows of predict.py for the one film; none where it refuses the graph."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = predict.main([str(graph), str(self.film), "--json", "--provider", "cpu", "--workers", "1"])
        rows = [json.loads(line) for line in printed.getvalue().splitlines()]
        if code != int(not rows or any(row["error"] for row in rows)):
            raise Wrong(f"predict.py: exit code {code} and {rows}")
        return rows


def quietly(work: Callable, *arguments: object) -> tuple[int, str]:
    """The exit code of a script's main, and all that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = work(*arguments)
    return code, printed.getvalue()


def names(said: str, file: Path) -> None:
    """An error has to say which file it is about, and to be no page of text."""
    lines = [line for line in said.splitlines() if "error" in line]
    if not lines or file.name not in " ".join(lines):
        raise Wrong(f"no error names {file.name}: {said[-300:]!r}")
    if any(len(line) > 2000 for line in lines):
        raise Wrong(f"an error of {max(map(len, lines))} characters: {lines[0][:200]!r}")


# ------------------------------------------------------------------------------------------------- the targets
#
# Each is given the world and a generator, does one case, and returns "right" or "refused", or raises.


def attack_images(world: World, rng: random.Random, files: dict | None = None, damage: Callable = mutated_image) -> str:
    """One film of a folder is damaged: images.decode, data.load with and without --skip-bad, predict.py."""
    import data

    folder = world.fresh()
    name, content = damage(rng, files or world.images)
    make_folder(folder, count=1)
    bad = folder / "PNEUMONIA" / name
    bad.write_bytes(content)
    fit = rng.choice(images.FITS)
    try:
        film = images.decode(content, SIZE, fit)
    except ValueError as error:
        film, reason = None, str(error)
        if "\n" in reason or not reason.strip():
            raise Wrong(f"a reason that is not one line: {error!r}") from error
    options = [str(folder), SIZE, folder / "cache", fit]
    try:
        whole = data.load(*options)
    except Problem as problem:
        if film or bad.name not in str(problem):
            raise Wrong(f"refused: {problem}") from problem
    else:
        if not film or len(whole.files) != 5 or whole.images.shape != (5, SIZE, SIZE):
            raise Wrong("loaded what cannot be decoded")
    rest = data.load(*options, skip_bad=True)
    if len(rest.files) != 4 + bool(film) or [file for file, _ in rest.bad] != [f"PNEUMONIA/{name}"][bool(film) :]:
        raise Wrong(f"--skip-bad left {rest.files}")
    world.film, kept = bad, world.film
    try:
        (row,) = world.predicted(world.graph)
    finally:
        world.film = kept
    if (row["error"] is None) != bool(film):
        raise Wrong(f"predict.py says {row['error']!r}, films/images.py {'a film' if film else 'no film'}")
    if not film and row["error"] != predict.printable(reason):
        raise Wrong(f"predict.py says {row['error']!r}, films/images.py {reason!r}")
    if film:
        grey = predict.decode(content)[0]
        same = images.decode(np.ascontiguousarray(grey), SIZE, fit)
        if same.pixel_hash != film.pixel_hash or not 0 <= row["probability"] <= 1:
            raise Wrong("predict.py and films/images.py decode it to other pixels")
    return "right" if film else "refused"


def attack_dicoms(world: World, rng: random.Random) -> str:
    return attack_images(world, rng, world.dicoms, mutated_dicom)


def attack_checkpoints(world: World, rng: random.Random) -> str:
    """evaluate.py and export.py on a damaged model.pt."""
    file = world.fresh() / "damaged.pt"
    file.write_bytes(mutated_checkpoint(rng, world.checkpoint.read_bytes()))
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        found = world.probabilities(file)
    if not len(found):
        names(printed.getvalue(), file)
        code, said = quietly(export.main, [str(file), "--onnx", str(world.case), *world.options()])
        names(said, file)
        if code != 1 or list(world.case.glob("*.onnx")):
            raise Wrong(f"export.py: exit code {code}: {said[-300:]}")
        return "refused"
    if not np.array_equal(found, world.right):
        raise Wrong(f"evaluate.py reports {found[:3]}, not {world.right[:3]}")
    arguments = [str(file), *world.options(), "--report", str(world.case / "report"), "--device", "cpu"]
    code, said = quietly(evaluate.main, arguments)
    if code:
        names(said, file)
        return "refused"
    code, said = quietly(export.main, [str(file), "--onnx", str(world.case), *world.options()])
    graphs = list(world.case.glob("*.onnx"))
    if code or len(graphs) != 1 or world.predicted(graphs[0])[0]["probability"] != world.answer["probability"]:
        raise Wrong(f"export.py: exit code {code}, {graphs}: {said[-300:]}")
    return "right"


def attack_graphs(world: World, rng: random.Random) -> str:
    """evaluate.py, export.py verify and predict.py on a damaged .onnx, with and without its certificate."""
    file = world.fresh() / "damaged.onnx"
    content = mutated_graph(rng, world.graph.read_bytes(), world.case)
    file.write_bytes(content)
    if rng.random() < 0.5:
        shutil.copy(world.certificate, file.with_suffix(".json"))
    code, said = quietly(export.main, ["verify", str(file), *world.options()])
    if (code == 0) != (content == world.graph.read_bytes() and file.with_suffix(".json").exists()):
        raise Wrong(f"export.py verify: exit code {code}: {said[-300:]}")
    if code:
        names(said, file)
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        found = world.probabilities(file)
    if len(found) and not np.allclose(found, world.right, atol=1e-4):
        raise Wrong(f"evaluate.py reports {found[:3]}, not {world.right[:3]}")
    if not len(found):
        names(printed.getvalue(), file)
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        rows = world.predicted(file)
    if not rows or rows[0]["error"]:
        names(printed.getvalue(), file if not rows else world.film)
        return "refused"
    for key in ("probability", "decision", "threshold"):
        if rows[0][key] != world.answer[key] and not (
            key == "probability" and abs(rows[0][key] - world.answer[key]) < 1e-4
        ):
            raise Wrong(f"predict.py's {key} is {rows[0][key]}, not {world.answer[key]}")
    return "right" if len(found) else "refused"


def attack_sources(world: World, rng: random.Random, name: str, content: bytes) -> str:
    """A manifest, zip or .npz: data.load gives whole tables or names the file."""
    import data

    file = world.fresh() / name
    make_folder(world.case, count=2)
    file.write_bytes(content)
    for skip in (False, True):
        try:
            found = data.load(str(file), SIZE, world.case / "cache", "stretch", skip)
        except Problem as problem:
            if not any(part in str(problem) for part in (file.name, world.case.name)):
                raise Wrong(f"no file in: {problem}") from problem
            continue
        if len(found.images) != len(found.files) or set(found.labels.tolist()) - {0, 1} or (found.bad and not skip):
            raise Wrong(f"{len(found.images)} images, {len(found.files)} files")
        return "right"
    return "refused"


def attack_manifests(world: World, rng: random.Random) -> str:
    return attack_sources(world, rng, "films.csv", mutated_manifest(rng))


def attack_archives(world: World, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return attack_sources(world, rng, "films.zip", mutated_zip(rng, world.film.read_bytes()))
    return attack_sources(world, rng, "films.npz", mutated_arrays(rng))


def attack_caches(world: World, rng: random.Random) -> str:
    """A damaged cache is built again: the pixels and all that is known of them are those of the files."""
    import data

    folder = world.fresh()
    make_folder(folder / "films", count=2)
    options = (str(folder / "films"), SIZE, folder / "cache")
    before = data.load(*options)
    pixels = np.array(before.images)
    (made,) = (folder / "cache").iterdir()
    mutated_cache(rng, made)
    after = data.load(*options)
    same = np.array_equal(after.images, pixels)
    for key in ("files", "labels", "patients", "pixel_hashes", "widths", "heights", "modes", "bad", "fingerprint"):
        same &= np.array_equal(getattr(before, key), getattr(after, key))
    if not same:
        raise Wrong("the damaged cache was used")
    return "right"


def resumed(world: World, folder: Path, file: Path) -> str:
    """train.py --resume on a damaged run: goes on to the end, or names the file and leaves it as it is."""
    before = file.read_bytes()
    options = [*world.train_options(), "--resume", "--out", str(folder)]
    code, said = quietly(train.main, options)
    if code:
        names(said, file)
        if file.read_bytes() != before:
            raise Wrong(f"{file.name} was refused and changed")
        return "refused"
    found = world.probabilities(folder / "simple" / "model.pt")
    if not np.array_equal(found, world.right):
        raise Wrong(f"the resumed run answers {found[:3]}, not {world.right[:3]}")
    return "right"


def attack_states(world: World, rng: random.Random) -> str:
    """--resume from a damaged last.pt; without run.json, as after a kill, half of the time."""
    folder = world.fresh()
    shutil.copytree(world.runs / "simple", folder / "simple")
    (folder / "simple" / "run.json").unlink()
    file = folder / "simple" / "last.pt"
    file.write_bytes(mutated_state(rng, world.middle))
    return resumed(world, folder, file)


def attack_records(world: World, rng: random.Random) -> str:
    """--resume beside a damaged run.json and history.csv."""
    folder = world.fresh()
    shutil.copytree(world.runs / "simple", folder / "simple")
    for file in (folder / "simple" / "history.csv", folder / "simple" / "run.json"):
        file.write_bytes(mutated_record(rng, file.read_bytes()))
    return resumed(world, folder, file)


def attack_ledgers(world: World, rng: random.Random) -> str:
    """A damaged ledger is named and stays as it is; else a line is added and the others stay."""
    file = world.fresh() / ledger.NAME
    before = mutated_ledger(rng, (world.runs / ledger.NAME).read_bytes())
    file.write_bytes(before)
    try:
        look = ledger.note(world.case, "a run", "simple", "0" * 64, "films", "another split", "evaluate.py")
    except Problem as problem:
        names(f"error: {problem}", file)
        if file.read_bytes() != before:
            raise Wrong("a ledger that was refused was changed") from problem
        return "refused"
    if look != 1 or not file.read_bytes().startswith(before):
        raise Wrong(f"look {look}, or lines were lost")
    return "right"


def attack_certificates(world: World, rng: random.Random) -> str:
    """export.py verify and threshold with a damaged certificate: the graph is proven by it, or it is refused."""
    graph = world.fresh() / "simple.onnx"
    shutil.copy(world.graph, graph)
    beside = graph.with_suffix(".json")
    beside.write_bytes(mutated_certificate(rng, world.certificate.read_bytes()))
    code, said = quietly(export.main, ["verify", str(graph), *world.options()])
    if code:
        names(said, graph)
    before = graph.read_bytes()
    changed, said = quietly(export.main, ["threshold", str(graph), "0.25"])
    if changed:
        names(said, beside)
        if graph.read_bytes() != before:
            raise Wrong("a graph that was refused was changed")
    return "refused" if code else "right"


TARGETS = {name.removeprefix("attack_"): work for name, work in list(globals().items())
           if name.startswith("attack_") and name != "attack_sources"}  # fmt: skip


# ------------------------------------------------------------------------------------------------- the harness


def one_case(world: World, target: str, number: int) -> str:
    """ "right", "refused", or what failed."""
    spent = time.process_time()
    folder = os.getcwd()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = TARGETS[target](world, random.Random(f"{target} {number}"))
    except Wrong as wrong:
        return f"wrong: {wrong}"
    except SystemExit as left:
        return f"left with {left.code}"
    except BaseException:
        return "traceback: " + traceback.format_exc()[-1500:]
    finally:
        os.chdir(folder)
    spent = time.process_time() - spent
    return found if spent <= SECONDS else f"slow: {spent:.0f} s of processor time"


def serve(world: World, target: str, numbers: list[int], out: int) -> None:
    """A child's life: the cases in order, a line of JSON each; then the largest memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(silence), "w") for _ in range(2))
    for number in numbers:
        os.write(out, (json.dumps(one_case(world, target, number)) + "\n").encode())


def attack(world: World, target: str, numbers: list[int]) -> dict[int, str]:
    """The outcome of each case; a child that dies or hangs costs its case and is replaced."""
    found: dict[int, str] = {}
    waiting = list(numbers)
    while waiting:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                serve(world, target, waiting, writing)
            finally:
                os._exit(0)
        os.close(writing)
        text, hung = b"", False
        while True:
            ready, _, _ = select.select([reading], [], [], WATCHDOG)
            part = os.read(reading, 1 << 16) if ready else b""
            text += part
            if not part:
                hung = not ready
                break
        if hung:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        lines = [json.loads(line) for line in text.split(b"\n")[:-1]]
        found |= dict(zip(waiting, lines, strict=False))
        waiting = waiting[len(lines) :]
        if waiting:
            why = os.waitstatus_to_exitcode(status)
            found[waiting.pop(0)] = f"hang: over {WATCHDOG} s" if hung else f"crash: exit code {why}"
    return found


def summary(target: str, found: dict[int, str]) -> list:
    counts = Counter(outcome if outcome in ("right", "refused") else "failures" for outcome in found.values())
    return [target, len(found), counts["right"], counts["refused"], counts["failures"]]


def main(argv: list[str] | None = None, counts: dict[str, int] = FULL) -> int:
    """`counts`: cases of each target. Returns 1 when there was a failure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--count", type=int, help="cases of each target (default: the long form's)")
    parser.add_argument("--from", type=int, default=0, dest="start", metavar="N", help="the first case's number")
    parser.add_argument("--only", type=int, metavar="N", help="one case, in this process, with all that it prints")
    args = parser.parse_args(argv if counts is FULL else [])
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(unknown)}")
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        if args.only is not None:
            print(one_case(world, args.targets[0], args.only))
            return 0
        print(f"{'target':<14}{'cases':>8}{'right':>8}{'refused':>9}{'failures':>10}{'seconds':>9}", flush=True)
        for target in args.targets or TARGETS:
            started = time.monotonic()
            found = attack(world, target, list(range(args.start, args.start + (args.count or counts[target]))))
            _, cases, right, refused, failed = summary(target, found)
            seconds = time.monotonic() - started
            print(f"{target:<14}{cases:>8,}{right:>8,}{refused:>9,}{failed:>10,}{seconds:>9.0f}", flush=True)
            for number, outcome in found.items():
                if outcome not in ("right", "refused"):
                    print(f"--- {target} {number}: {outcome.strip()}")
            failures += failed
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
