"""examples/ray_predict.py must write the rows of predict.py, each once, also where a worker is killed.

What needs Ray is skipped without it: `pip install -r requirements-ray.txt` is too much for every run of the tests.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import film_files
import numpy as np
import pytest
from folders import draw
from PIL import Image
from predicting import SCRIPT, bright_graph, doubtful_graph, film_of

import predict

EXAMPLE = SCRIPT.parent / "examples" / "ray_predict.py"
TRAINED = SCRIPT.parent / "trained" / "simple.onnx"
NOT_FOUND = ("x_ray", "missing.png")  # Ray knows films by their suffix, and a link to nothing is nothing
needs_ray = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="Ray is not installed: pip install -r requirements-ray.txt"
)


@pytest.fixture
def environment():
    """Of a Ray of our own, without a GPU; the paths of its sockets must be short."""
    folder = tempfile.mkdtemp(prefix="ray")
    yield os.environ | {"RAY_TMPDIR": folder, "CUDA_VISIBLE_DEVICES": ""}
    shutil.rmtree(folder, ignore_errors=True)


def call(*arguments, env: dict | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=240)


def said(done: subprocess.CompletedProcess) -> list[str]:
    """What stood on stderr, without Ray's own lines."""
    return [line for line in done.stderr.splitlines() if not line.startswith("[")]


def rows_of(folder: Path) -> dict[str, dict]:
    from pyarrow import parquet

    rows = [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    assert len({row["file"] for row in rows}) == len(rows), "a film has two rows"
    return {row["file"]: row for row in rows}


def expected_of(capsys, *arguments) -> dict[str, dict]:
    """The rows of predict.py."""
    capsys.readouterr()
    predict.main([*map(str, arguments), "--json", "--provider", "cpu"])
    return {row["file"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


@pytest.fixture
def films(tmp_path) -> Path:
    """Of all sizes, formats and flags, probabilities on both sides; broken, missing, and what is to be passed over."""
    folder = tmp_path / "films"
    for i, flags in enumerate((0, 2, 8, 16, 18, 512, 0, 0)):
        film_of(folder / f"{'a' if i % 2 else 'b ä'}" / f"{i}.png", 0.52 + 0.055 * i, flags, 0.1 * i)
    for i in range(20):
        size = [(50, 40), (40, 50), (64, 80)][i % 3]
        pixels = Image.fromarray(film_files.film(size, i))
        (folder / "c").mkdir(exist_ok=True)
        pixels.save(folder / "c" / f"{i}.{'jpeg' if i % 2 else 'png'}")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(film_files.film((60, 30))).save(folder / "turned.jpeg", exif=exif)
    draw(folder / "colour.png", 1, (50, 40), "RGB")
    Image.merge("RGB", [Image.fromarray(film_files.film(seed=seed)) for seed in (1, 2, 3)]).save(folder / "colour.jpeg")
    Image.fromarray(film_files.film().astype(np.uint16) * 15).save(folder / "deep.png")
    for name in ("x_ray", "x.dcm"):
        (folder / name).write_bytes(film_files.dicom(film_files.stored(12)))
    (folder / "empty.png").touch()
    (folder / "text.jpeg").write_text("text")
    (folder / "cut.jpeg").write_bytes(film_files.encoded(Image.fromarray(film_files.film()), "JPEG")[:300])
    (folder / "bomb.png").write_bytes(film_files.bomb(9_500))
    (folder / "odd\nname.png").write_bytes(b"")
    (folder / "missing.png").symlink_to("nowhere")
    (folder / "notes.txt").write_text("no film")
    draw(folder / ".hidden" / "x.png")
    draw(folder / "__MACOSX" / "x.png")
    return folder


def test_help_and_wrong_calls_need_no_ray(tmp_path, films):
    """In a Python that has none: nothing may look for it before the arguments are known to be right."""
    blocked = "import sys, runpy; sys.modules['ray'] = None; sys.argv = sys.argv[1:]; sys.path.insert(0, '')"
    graph = bright_graph(tmp_path / "x.onnx")
    for arguments, code, reason in (
        (["--help"], 0, ""),
        ([], 2, "the following arguments are required: model, FILMS, ROWS"),
        ([graph, films, "rows", "--workers", "many"], 2, "--workers: "),
        ([graph, films, "rows", "--refer", "2"], 2, "--refer: '2' is not a number"),
        ([graph, films, "rows", "--refers", "2"], 2, "unrecognized arguments: --refers"),
        ([graph, films, "rows"], 1, "pip install -r requirements-ray.txt"),
    ):
        command = [sys.executable, "-c", f"{blocked}; runpy.run_path(sys.argv[0], run_name='__main__')", EXAMPLE]
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        lines = done.stderr.splitlines()
        assert (not lines and "--workers N" in done.stdout) if not code else len(lines) == 1 and reason in lines[0]
    assert not (tmp_path / "rows").exists()


@needs_ray
@pytest.mark.parametrize("where", ["", "file://"])  # the second is a store, for Arrow
def test_rows_are_those_of_predict(films, tmp_path, environment, capsys, where):
    for graph, options in ((doubtful_graph(tmp_path / "x.onnx"), ["--refer", "0.1"]), (TRAINED, ["--strict"])):
        rows = tmp_path / f"{graph.stem}-rows"
        done = call(graph, f"{where}{films}", rows, *options, "--workers", 1, env=environment)
        assert done.returncode == 1, done.stderr
        expected = expected_of(capsys, graph, films, *options)
        expected = {name: row for name, row in expected.items() if Path(name).name not in NOT_FOUND}
        found = rows_of(rows)
        assert set(found) == set(expected) and len(found) > 30
        for name, row in found.items():
            assert list(row) == list(predict.COLUMNS)
            for column in ("probability", "unfamiliar"):  # batches may be of other films
                assert row.pop(column) == pytest.approx(expected[name].pop(column), abs=1e-5)
            assert row == expected[name]
        errors = sum(bool(row["error"]) for row in found.values())
        assert errors == 5 and f"{len(found)} films, " in said(done)[-1] and f", {errors} errors: " in said(done)[-1]
        assert len({row["flags"] for row in found.values()}) > 2
    before = sorted(rows.iterdir())
    again = call(TRAINED, films, rows, env=environment)
    assert again.returncode == 1 and "already exists" in said(again)[-1], again.stderr
    assert sorted(rows.iterdir()) == before


@needs_ray
def test_rows_are_complete_after_a_worker_was_killed(tmp_path, environment, capsys):
    films = tmp_path / "films"
    films.mkdir()
    Image.fromarray(np.full((1500, 1500), 210, np.uint8)).save(films / "0.png")
    for i in range(1, 400):
        os.link(films / "0.png", films / f"{i}.png")
    graph = bright_graph(tmp_path / "x.onnx")
    command = [sys.executable, EXAMPLE, graph, films, tmp_path / "rows", "--workers", "1"]
    run = subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        killed = worker_at_work(run)
        os.kill(killed, signal.SIGKILL)
        assert len(rows_of(tmp_path / "rows")) < 400
        assert worker_at_work(run, but=killed) != killed
        output = run.communicate(timeout=180)[0].decode()
    finally:
        run.kill()
    assert run.returncode == 0, output
    found = rows_of(tmp_path / "rows")
    assert set(found) == {str(films / f"{i}.png") for i in range(400)}
    (expected,) = expected_of(capsys, graph, films / "0.png").values()
    assert all(row == expected | {"file": name} for name, row in found.items())


def worker_at_work(run: subprocess.Popen, but: int = 0) -> int:
    """The process of a worker that has computed for a second since onnxruntime is there, which it imports."""
    before: dict[int, int] = {}
    for _ in range(60_000):
        assert run.poll() is None, "it ended before its worker was seen"
        for pid in descendants(run.pid) - {but}:
            try:
                place = Path("/proc", str(pid))
                if b"MapWorker" in (place / "cmdline").read_bytes() and "onnxruntime" in (place / "maps").read_text():
                    ticks = int((place / "stat").read_text().rpartition(")")[2].split()[11])
                    if ticks - before.setdefault(pid, ticks) >= os.sysconf("SC_CLK_TCK"):
                        return pid
            except (FileNotFoundError, ProcessLookupError):
                continue
        time.sleep(0.01)
    raise AssertionError("no worker was seen")


def descendants(pid: int) -> set[int]:
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found - {pid}
