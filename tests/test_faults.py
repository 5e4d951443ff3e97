"""Attacks on the running scripts: killed, out of disk, without rights, without a terminal, without a home.

`make faults` runs them with the full counts.
"""

import ast
import csv
import datetime
import functools
import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import processes
import pytest
from folders import make_folder
from PIL import Image
from processes import Disk

from basics import disk, problems
from evaluation import ledger
from films import cache
from training import checkpoints, run_folder

KILLS = int(os.environ.get("CXR_FAULTS") or 0)  # of each command: set by `make faults`, which takes half an hour
long_form = pytest.mark.skipif(not KILLS, reason="takes minutes: `make faults`")
ROOT = processes.ROOT


# ------------------------------------------------------------------------------------------ what is attacked


@dataclass(frozen=True)
class Attack:
    """A command, the folder that it writes to, and the names of files there that differ from call to call."""

    script: str
    arguments: list
    varying: tuple[str, ...] = ()
    repeat: tuple[str, ...] = ()  # more arguments when the command is repeated

    def start(self, said: Path, again: bool = False, prepare: processes.Prepare | None = None) -> processes.Started:
        return processes.Started(said, self.script, [*self.arguments, *(self.repeat if again else ())], prepare)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A folder with films/, runs/simple, onnx/simple.onnx and cache/."""
    folder = tmp_path_factory.mktemp("base")
    make_folder(folder / "films", count=8)
    for script, arguments in (
        ("train", ["--arch", "simple", "--data", "phantoms", "--size", 32, "--epochs", 2, "--device", "cpu",
                   "--out", folder / "runs", "--cache", folder / "cache"]),
        ("export", ["--all", "--runs", folder / "runs", "--onnx", folder / "onnx", "--cache", folder / "cache"]),
    ):  # fmt: skip
        done = processes.run(folder / "said", script, arguments)
        assert done.code == 0, done.err
    return folder


def attack_on(name: str, base: Path, place: Path) -> Attack:
    """One that writes to `place` alone."""
    checkpoint, model, films, cache = (
        base / part for part in ("runs/simple/model.pt", "onnx/simple.onnx", "films", "cache")
    )
    shared = ["--runs", place / "runs", "--cache", cache]
    return {
        "cache": Attack("data", ["show", "--data", films, "--size", 128, "--cache", place, "--out", place / "a.png"]),
        "train": Attack("train", ["--arch", "simple", "--data", "phantoms", "--size", 32, "--epochs", 2,
                                  "--device", "cpu", "--out", place, "--cache", cache]),
        "export": Attack("export", [checkpoint, "--onnx", place, *shared], (ledger.NAME,)),
        # The report says which look at the test images it is.
        "evaluate": Attack("evaluate", [checkpoint, model, "--report", place, *shared],
                           (ledger.NAME, "results.json", "report.md", "report.html", "simple.md", "simple.onnx.md")),
        "predict": Attack("predict", [model, films, "--csv", place / "a.csv", "--provider", "cpu", "--batch-size", 1],
                          repeat=("--resume",)),
        "heatmaps": Attack("predict", [model, films, "--json", "--heatmaps", place, "--provider", "cpu"]),
    }[name]  # fmt: skip


def files_in(folder: Path) -> dict[str, Path]:
    """The files under final names."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part"}
    return {str(name): path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)}


DRAWN = ("unusual", "checks")  # by a seed that is another one in each proof


def content_of(folder: Path, attack: Attack) -> dict[str, bytes]:
    return {name: steady(path) for name, path in files_in(folder).items() if path.name not in attack.varying}


def steady(path: Path) -> bytes:
    """What a file holds; of a certificate without what its proof has drawn."""
    content = path.read_bytes()
    if path.suffix != ".json" or b'"unusual"' not in content:
        return content
    return json.dumps({key: value for key, value in json.loads(content).items() if key not in DRAWN}).encode()


def assert_whole(path: Path) -> None:
    """It can be read to its end. predict.py writes its CSV, a.csv, row by row: there the last may lack its end."""
    text = (
        path.read_text(encoding="utf-8") if path.suffix in (".csv", ".html", ".json", ".jsonl", ".md", ".txt") else "\n"
    )
    assert text.endswith("\n") or path.name in ("a.csv", "listing.json"), path
    if path.suffix == ".pt":
        checkpoints.load_checkpoint(path, unfinished=True)
    elif path.suffix == ".json":
        json.loads(text)
    elif path.suffix == ".jsonl":
        assert all(json.loads(line)["run"] for line in text.splitlines())
    elif path.suffix == ".csv":
        rows = list(csv.reader(line for line in text.splitlines(keepends=True) if line.endswith("\n")))
        assert len({len(row) for row in rows}) <= 1
    elif path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path), full_check=True)
        certificate = path.with_suffix(".json")
        assert not certificate.exists() or json.loads(certificate.read_text())["file"] == path.name
    elif path.suffix == ".npy":
        assert len(np.load(path)) == len(json.loads((path.parent / "listing.json").read_text())["films"])
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".html":
        assert text.rstrip().endswith("</html>")
    else:
        assert path.suffix in (".md", ".txt") and text


# ---------------------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize(
    "name", ["cache", "export", *(pytest.param(name, marks=long_form) for name in ("evaluate", "predict", "heatmaps"))]
)
def test_killed_at_random_moments_all_is_whole_and_a_repeat_gives_the_same(name, base, tmp_path):
    """tests/test_resume.py does it to training, tests/test_predict.py once to rows of CSV."""
    attack = attack_on(name, base, tmp_path / "undisturbed")
    started = time.monotonic()
    undisturbed = attack.start(tmp_path / "said").done()
    seconds = time.monotonic() - started
    assert undisturbed.code == 0, undisturbed.err
    expected = content_of(tmp_path / "undisturbed", attack)
    attack = attack_on(name, base, tmp_path / "attacked")
    moments, killed = random.Random(name), 0
    for _ in range(KILLS or 2):
        process = attack.start(tmp_path / "said", again=(tmp_path / "attacked").exists())
        time.sleep(moments.uniform(0, 0.8 * seconds))
        process.process.kill()
        if process.done().code == -signal.SIGKILL:
            killed += 1
        else:
            seconds *= 0.7  # it was done already: the undisturbed one had more to wait for
        for path in files_in(tmp_path / "attacked").values():
            assert_whole(path)
        if name == "cache" and moments.random() < 0.5:  # else a later try only opens it
            shutil.rmtree(tmp_path / "attacked", ignore_errors=True)
    assert killed
    again = attack.start(tmp_path / "said", again=(tmp_path / "attacked").exists()).done()
    assert again.code == 0, again.err
    assert content_of(tmp_path / "attacked", attack) == expected
    if name == "heatmaps":
        assert again.out.replace("attacked", "undisturbed") == undisturbed.out


def test_what_a_killed_export_leaves_is_no_model(base, tmp_path, capsys):
    import evaluate
    from evaluation import testing

    shutil.copytree(base / "runs", tmp_path / "runs")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / ".simple.x.part.onnx").write_bytes(b"half")
    found = testing.found_models(evaluate.parse(["--all", "--runs", f"{tmp_path}/runs", "--onnx", f"{tmp_path}/onnx"]))
    assert found == [tmp_path / "runs" / "simple" / "model.pt"]


def hanging_build(flag: Path) -> None:
    """A `prepare`: the fifth image makes the file `flag`, and waits until it is removed."""
    pass

    decode, count = cache.images.decode, iter(range(10**6))

    def slow(*arguments: object) -> object:
        if next(count) == 4:
            flag.touch()
            while flag.exists():
                time.sleep(0.01)
        return decode(*arguments)

    cache.images.decode = slow


def hidden(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir() if path.name.startswith("."))


def test_a_build_removes_what_killed_ones_left_and_a_second_one_waits_for_it(base, tmp_path):
    attack, cache = attack_on("cache", base, tmp_path / "cache"), tmp_path / "cache"
    dead = attack.start(tmp_path / "dead", prepare=functools.partial(hanging_build, tmp_path / "one"))
    dead.wait_for(tmp_path / "one")
    dead.process.kill()
    dead.done()
    (left,) = cache.glob("*.part")
    alive = attack.start(tmp_path / "alive", prepare=functools.partial(hanging_build, tmp_path / "two"))
    alive.wait_for(tmp_path / "two")
    assert not left.exists() and hidden(cache) == [".lock", ".part"]
    waiting = attack.start(tmp_path / "waiting")
    waiting.wait_for(waiting.err, "waiting for another process")
    assert hidden(cache) == [".lock", ".part"]  # the living one's
    (tmp_path / "two").unlink()
    assert alive.done().code == 0
    done = waiting.done()
    assert done.code == 0 and len(done.err.splitlines()) == 1
    assert hidden(cache) == [] and len(list(cache.glob("*/listing.json"))) == 1


# ----------------------------------------------------------------------------------------- two at once, and clocks


def hanging_training(flag: Path) -> None:
    from training import runs

    def hang(*_: object) -> None:
        flag.touch()
        time.sleep(600)

    runs.train_run = hang


def test_of_two_trainings_under_one_name_the_second_is_refused_until_the_first_is_gone(base, tmp_path):
    attack = attack_on("train", base, tmp_path / "runs")
    first = attack.start(tmp_path / "first", prepare=functools.partial(hanging_training, tmp_path / "flag"))
    first.wait_for(tmp_path / "flag")
    second = attack.start(tmp_path / "second").done()
    place = tmp_path / "runs" / "simple"
    said = f"error: {place}: another process is training there; --name or --out gives this run a folder of its own\n"
    assert (second.code, second.err) == (1, said) and not place.exists()
    first.process.kill()
    assert first.done().code == -signal.SIGKILL
    assert attack.start(tmp_path / "second").done().code == 0 and run_folder.finished(place)
    assert list((tmp_path / "runs").iterdir()) == [place]


def test_where_locks_do_not_work_nobody_is_kept_out(tmp_path, monkeypatch):
    def unsupported(handle: int) -> None:
        raise OSError(95, "Operation not supported")

    with disk.lock(tmp_path / "lock", "busy") as held:
        assert held
        with pytest.raises(problems.Problem, match="busy"), disk.lock(tmp_path / "lock", "busy"):
            pass
    monkeypatch.setattr(disk, "_lock_file", unsupported)
    with disk.lock(tmp_path / "lock", "busy") as held:
        assert not held


def test_a_clock_that_stands_still_loses_no_earlier_run(tmp_path, monkeypatch):
    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, zone: datetime.tzinfo | None = None) -> "Stopped":
            return cls(2020, 1, 1, tzinfo=zone)

    monkeypatch.setattr(run_folder.datetime, "datetime", Stopped)
    for i in range(3):
        (run_folder.fresh_folder(tmp_path, "simple") / "model.pt").write_text(str(i))
    assert sorted(path.read_text() for path in (tmp_path / "old").glob("*/model.pt")) == ["0", "1"]


def test_no_script_measures_with_a_clock_that_can_be_set():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/[a-z]*.py")]:
        used = {(node.value.id, node.attr) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}  # fmt: skip
        assert not used & {("time", "time"), ("time", "time_ns")}, path


# ------------------------------------------------------------------------------------------------- disks


@pytest.fixture(scope="module")
def disks(tmp_path_factory) -> None:
    if not processes.disks_can_be_made(tmp_path_factory.mktemp("disks")):
        pytest.skip("this system does not let its users make file systems of their own")


def assert_said(done: processes.Done, place: Path, reason: str) -> None:
    assert done.code == 1 and "Traceback" not in done.err, done
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert errors and all(str(place) in line and reason in line for line in errors), done


# Bytes of room: the first writes fail, or later ones.
ROOMS = {"cache": (200_000,), "train": (400_000,), "export": (0, 8_192), "evaluate": (60_000,),
         "predict": (4_096,), "heatmaps": (100_000,)}  # fmt: skip


@pytest.mark.parametrize("name", ROOMS)
def test_a_full_disk_is_said_and_loses_nothing(name, base, tmp_path, disks):
    """With what an earlier call left on it, and without."""
    place = tmp_path / "disk"
    attack = attack_on(name, base, place)
    every = [
        room for first in ROOMS[name] for room in ({first} if not KILLS else range(first, 2 * first + 1, 7 * 4096))
    ]
    for i, room in enumerate(every):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if i % 2 and name not in ("cache", "predict"):
            assert attack.start(tmp_path / "said").done().code == 0
        before = content_of(place, attack)
        done = attack.start(tmp_path / "said", prepare=Disk(place, room, tmp_path / f"result{i}")).done()
        if done.code == 0 and KILLS:
            continue
        assert_said(done, place, "No space left on device")
        after = files_in(tmp_path / f"result{i}")
        for path in after.values():
            assert_whole(path)
        kept = {name.split("/")[-1] for name in after}  # train.py moves an earlier run to old/
        assert {name.split("/")[-1] for name in before} <= kept
        hidden = [path for path in (tmp_path / f"result{i}").rglob(".*") if path.suffix != ".lock"]
        assert not hidden, hidden


@pytest.mark.parametrize("name", ["cache", "train", "export", "predict", "heatmaps"])
def test_a_disk_that_cannot_be_written_is_said(name, base, tmp_path, disks):
    (tmp_path / "disk").mkdir()
    attack = attack_on(name, base, tmp_path / "disk" / "in")
    disk = Disk(tmp_path / "disk", 10**6, tmp_path / "result", read_only=True)
    assert_said(attack.start(tmp_path / "said", prepare=disk).done(), tmp_path / "disk" / "in", "Read-only file system")


@pytest.mark.parametrize("name", ["train", "heatmaps", pytest.param("evaluate", marks=long_form)])
def test_a_file_where_a_folder_is_due_is_said(name, base, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = attack_on(name, base, tmp_path / "file").start(tmp_path / "said").done()
    assert done.code == 2 and "Traceback" not in done.err
    assert f"{tmp_path / 'file'}" in done.err and (tmp_path / "file").read_text() == "mine"


# ----------------------------------------------------------------------------------- where the output goes, and names


def into_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def onto_a_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def into_nothing() -> None:
    processes.sys.stdout = processes.sys.stderr = None  # as Python has them after 1>&- 2>&-


COMMANDS = ("cache", "evaluate", "predict", "train --help", "evaluate --help", "export --help", "bench --help")


@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_nobody_takes_ends_quietly(name, base, tmp_path):
    attack = attack_on(name, base, tmp_path) if name in ROOMS else Attack(*name.split()[:1], name.split()[1:])
    done = attack.start(tmp_path / "said", prepare=into_a_broken_pipe).done()
    assert done.code == 1 and "Error" not in done.err and "error" not in done.err.replace("0 errors", ""), done
    if name == "evaluate":  # what took minutes is not lost with the table
        assert (tmp_path / "report.html").exists()
    if os.path.exists("/dev/full") and (name != "evaluate" or KILLS):
        done = attack.start(tmp_path / "said", again=True, prepare=onto_a_full_disk).done()
        assert done.code == 1 and "Traceback" not in done.err
        assert done.err.splitlines()[-1].startswith("error: cannot ") and "No space left" in done.err


def test_closed_output_stops_nothing(base, tmp_path):
    for name in ("cache", "predict"):
        assert attack_on(name, base, tmp_path).start(tmp_path / "said", prepare=into_nothing).done().code == 0


def test_names_that_are_no_text_and_a_terminal_that_shows_ascii(base, tmp_path):
    """In another system's encoding, or in any language where LC_ALL=C: the same code path of Python."""
    place = tmp_path / os.fsdecode(b"M\xfcller & S\xc3\xb6hne 1")
    try:
        make_folder(place / "films", count=20)
        film = place / "films" / "NORMAL" / "IM-0000-0001.jpeg"
        film = film.rename(film.with_name(os.fsdecode(b"IM-0000-0001 \xff\xc3\xbc.jpeg")))
    except OSError as error:
        pytest.skip(f"no such names here: {error}")
    runs, graphs, cache, report = (place / name for name in ("runs", "onnx", "cache", "report"))
    for script, arguments in (
        ("train", ["--arch", "simple", "--data", place / "films", "--split", "patient", "--size", 32, "--epochs", 2,
                   "--device", "cpu", "--out", runs, "--cache", cache]),
        ("export", ["--all", "--runs", runs, "--onnx", graphs, "--cache", cache]),
        ("evaluate", ["--all", "--runs", runs, "--onnx", graphs, "--cache", cache, "--report", report]),
        ("data", ["show", "--data", place / "films", "--cache", cache, "--out", place / "a.png"]),
        ("predict", [graphs / "simple.onnx", film, "--csv", place / "a.csv", "--heatmaps", place / "heat"]),
    ):  # fmt: skip
        done = processes.run(tmp_path / "said", script, arguments, encoding="ascii")
        assert done.code == 0, done.err
    for path in files_in(place).values():
        if "films" not in path.parts:
            assert_whole(path)


# ----------------------------------------------------------------------------------------------------- Ctrl-C


def interrupted_in(module: str, function: str) -> None:
    """A `prepare`: Ctrl-C is pressed when that is called first."""
    import importlib

    found = importlib.import_module(module)
    original, count = getattr(found, function), iter(range(10**6))

    def call(*arguments: object, **keywords: object) -> object:
        if next(count) == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **keywords)

    setattr(found, function, call)


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [("cache", "films.images", "decode"), ("export", "graphs.proof", "measure_odd"), ("heatmaps", "predict", "overlay"),
     ("bench", "graphs.precisions", "to_precision"),
     pytest.param("evaluate", "evaluation.report", "html_text", marks=long_form)],
)  # fmt: skip
def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(name, module, function, base, tmp_path):
    place = tmp_path / "place"
    scratch = Attack("bench", ["infer", "--arch", "simple", "--size", 32, "--json", place / "a.json"])
    attack = scratch if name == "bench" else attack_on(name, base, place)
    done = attack.start(tmp_path / "said", prepare=functools.partial(interrupted_in, module, function)).done()
    assert done.code == 130 and "Traceback" not in done.err, done
    assert done.err.splitlines()[-1] == "interrupted"
    for path in files_in(place).values():
        assert_whole(path)
    assert not [path for path in place.rglob(".*") if path.suffix != ".part"]


# ------------------------------------------------------------------------------------------ Python, and memory


def test_the_oldest_python_that_we_promise_can_read_all_files():
    """Quotes within quotes of f-strings, which this does not see, are for ruff: ruff.toml names the version."""
    files = [path for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 11))
    assert 'target-version = "py311"' in (ROOT / "ruff.toml").read_text()


def noting_memory(file: Path) -> None:
    """A `prepare`: after each epoch the resident bytes are noted."""
    from training import run_folder

    keep = run_folder.Run.keep

    def noting(self: run_folder.Run, *arguments: object) -> None:
        keep(self, *arguments)
        self.wait()
        with open(file, "a") as stream:
            stream.write(f"{processes.memory_of(os.getpid())}\n")

    run_folder.Run.keep = noting


def assert_flat(resident: list[int]) -> None:
    """Within 5 % from the first third on."""
    warm = resident[len(resident) // 3 :]
    print(f"resident, MB: {min(warm) / 1e6:.1f} to {max(warm) / 1e6:.1f} in {len(warm)} samples")
    assert max(warm) <= 1.05 * min(warm)


@long_form
def test_training_does_not_grow(base, tmp_path):
    arguments = ["--arch", "resnet34", "--data", "phantoms", "--size", 64, "--quick", "--epochs", 30,
                 "--device", "cpu", "--resize-from", 0, "--out", tmp_path, "--cache", base / "cache"]  # fmt: skip
    done = processes.run(tmp_path, "train", arguments, functools.partial(noting_memory, tmp_path / "bytes"))
    assert done.code == 0, done.err
    assert_flat([int(line) for line in (tmp_path / "bytes").read_text().split()])


@long_form
def test_predicting_does_not_grow(base, tmp_path):
    films = sorted((base / "films" / "NORMAL").iterdir())
    (tmp_path / "films").mkdir()
    for i in range(20_000):
        os.link(films[i % len(films)], tmp_path / "films" / f"{i}.jpeg")
    arguments = [base / "onnx" / "simple.onnx", tmp_path / "films", "--csv", tmp_path / "a.csv", "--provider", "cpu"]
    process, resident = processes.Started(tmp_path, "predict", arguments), []
    while process.process.is_alive():
        resident.append(processes.memory_of(process.process.pid))
        time.sleep(0.2)
    assert process.done().code == 0
    with open(tmp_path / "a.csv") as stream:
        assert sum(1 for _ in stream) == 20_001
    assert_flat(resident[:-2])  # the last ones, while it ends
