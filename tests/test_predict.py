"""predict.py: against onnxruntime directly, and what happens when files, pipes and processes break."""

import collections
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import film_files
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from folders import draw
from PIL import Image
from predicting import SCRIPT, bright_graph, call, facts, shell, table

import models
import predict
from basics import disk
from graphs import building


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """A graph of graphs/building.py with random weights, and a threshold between the probabilities of noise."""
    torch.manual_seed(0)
    network = models.build("simple", 32).eval()
    network.fc2.weight.data *= 100  # else all probabilities are near each other
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    onnx.save(building.to_graph(network, facts(), "hash"), path)
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 50), np.uint8)
    probability = predict.open_model(path, "cpu").run(noise, "probability")[0]
    onnx.save(building.to_graph(network, facts(threshold=float(np.median(probability))), "hash"), path)
    return path


@pytest.fixture(scope="module")
def bright(tmp_path_factory) -> Path:
    return bright_graph(tmp_path_factory.mktemp("bright") / "bright.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """30 films of three sizes in nested folders, with spaces and umlauts, and files that are to be passed over."""
    root = tmp_path_factory.mktemp("films")
    for i in range(30):
        place = root / ("b ä" if i % 3 else "a") / ("inner" if i % 2 else "")
        draw(place / f"film ü {i:02d}.png", i, [(50, 40), (40, 40), (64, 80)][i % 3 if i > 10 else 0])
    (root / "notes.txt").write_text("no image")
    draw(root / ".hidden" / "x.png")
    draw(root / "__MACOSX" / "x.png")
    return root


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_results_are_those_of_onnxruntime_in_sorted_order(batch_size, graph, folder, tmp_path, capsys):
    assert call(graph, folder, "--csv", tmp_path / "x.csv", "--batch-size", batch_size, "--workers", 3) == 0
    rows = table(tmp_path / "x.csv")
    expected = sorted(path for part in ("a", "b ä") for path in (folder / part).rglob("*.png"))
    assert [row["file"] for row in rows] == sorted(map(str, expected), key=lambda file: file.split(os.sep))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    threshold = json.loads(session.get_modelmeta().custom_metadata_map["threshold"])
    for row in rows:
        with Image.open(row["file"]) as image:
            pixels = np.asarray(image)[None]
        probability, decision, _ = session.run(None, {"image": pixels})
        assert float(row["probability"]) == pytest.approx(float(probability[0]), abs=1e-6)
        assert row["decision"] == ["NORMAL", "PNEUMONIA"][decision[0]]
        assert (int(row["height"]), int(row["width"])) == pixels.shape[1:]
        assert float(row["threshold"]) == threshold and row["refer"] == "no" and row["error"] == ""
        assert row["model"] == f"tiny SYNTHETIC {hashlib.sha256(graph.read_bytes()).hexdigest()[:16]}"
    assert len({row["decision"] for row in rows}) == 2
    captured = capsys.readouterr()
    printed = captured.out.splitlines()
    assert printed[0].split() == ["probability", "decision", "refer", "file"]
    for line, row in zip(printed[1:], rows, strict=True):
        assert line.split()[:2] == [f"{float(row['probability']):.4f}", row["decision"]]
        assert line.endswith(row["file"])
    assert "SYNTHETIC training data; research; not for clinical use" in captured.err


def test_json_lines_are_the_csv(graph, folder, tmp_path, capsys):
    assert call(graph, folder, "--json", "--refer", "0.1", "--csv", tmp_path / "x.csv") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = table(tmp_path / "x.csv")
    assert [list(map(predict.text_of, row.values())) for row in rows] == [list(row.values()) for row in written]
    assert list(rows[0]) == list(predict.COLUMNS)
    near = [abs(row["probability"] - row["threshold"]) <= 0.1 for row in rows]
    assert [row["refer"] for row in rows] == near and len(set(near)) == 2


def test_another_threshold_decides(graph, folder, capsys):
    assert call(graph, folder, "--json") == 0
    probabilities = [json.loads(line)["probability"] for line in capsys.readouterr().out.splitlines()]
    threshold = sorted(probabilities)[7]
    assert call(graph, folder, "--json", "--threshold", threshold) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["decision"] == "PNEUMONIA" for row in rows] == [p >= threshold for p in probabilities]
    assert sum(row["decision"] == "NORMAL" for row in rows) == 7
    assert {row["threshold"] for row in rows} == {threshold}


BROKEN = {
    "empty.png": (b"", "the file is empty"),
    "text.jpeg": (b"text", "not a jpeg, png or dicom file"),
    "cut.jpg": (film_files.encoded(Image.fromarray(film_files.film()), "JPEG")[:300], "truncated"),
    "bomb.png": (film_files.bomb(9_500), "9,500 x 9,500 pixels is more than the limit"),
    "bigger.png": (film_files.bomb(20_000), "more pixels than the limit"),
    "cut.dcm": (film_files.dicom(film_files.stored(12))[:300], "."),
}


def test_bad_files_are_named_and_the_others_go_on(graph, tmp_path, capsys):
    films = tmp_path / "films"
    for i in range(12):
        draw(films / f"{'abcdefghijkl'[i]}.png", i)
    for name, (content, _) in BROKEN.items():
        (films / name).write_bytes(content)
    (films / "odd\nname.png").write_bytes(b"")
    arguments = (graph, films, "--csv", tmp_path / "x.csv", "--batch-size", 5)
    assert call(*arguments) == 1
    error = capsys.readouterr().err
    rows = {Path(row["file"]).name: row for row in table(tmp_path / "x.csv")}
    for name, (_, reason) in BROKEN.items():
        (line,) = [line for line in error.splitlines() if line.startswith(f"error: {films / name}: ")]
        assert reason in line.lower() and rows[name]["error"] in line and rows[name]["probability"] == ""
    assert sum(row["error"] == "" for row in rows.values()) == 12
    assert "odd\\nname.png: the file is empty" in error and rows["odd\\nname.png"]["error"]
    before = (tmp_path / "x.csv").read_bytes()
    capsys.readouterr()
    assert call(*arguments, "--resume") == 1  # nothing to do, and the earlier errors still count
    done = f"nothing was left to do: {len(rows)} files done before; {len(rows) - 12} errors\n"
    assert capsys.readouterr().err.endswith(done)
    assert (tmp_path / "x.csv").read_bytes() == before


def test_films_are_found_by_what_they_are_and_the_rest_is_counted(graph, tmp_path, capsys):
    dicom = film_files.dicom(film_files.stored(12))
    films = tmp_path / "films"
    draw(films / "a" / "x.png")
    for name in ("IM0001", "1.2.840.113619", "y.dicom", "DICOMDIR", "a/dicomdir", "b.txt"):
        (films / name).write_bytes(dicom if name != "b.txt" else b"text")
    for name in ("c.TIF", "a/d.tif", "e.tif", "f.bmp", "README"):
        (films / name).write_bytes(b"II*\0" * 100)
    os.mkfifo(films / "pipe")
    (films / "more").symlink_to(films / "a")
    assert call(graph, films, "--json") == 0
    captured = capsys.readouterr()
    rows = [Path(json.loads(line)["file"]).name for line in captured.out.splitlines()]
    assert rows == ["1.2.840.113619", "IM0001", "x.png", "y.dicom"]
    assert captured.err.splitlines()[-2] == ("note: passed over in folders: 3 .tif, 2 DICOMDIR, 2 without a suffix, "
                                             "1 .txt, 1 .bmp, 1 other")  # fmt: skip
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "x.tiff").write_bytes(b"II*\0")
    assert call(graph, tmp_path / "scans") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'scans'}: no image in this folder; passed over: 1 .tiff\n"


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_to_themselves_and_deep_folders_stop_nothing(graph, tmp_path, capsys):
    for name in ("a.png", "b", "folder/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "d.png").symlink_to(tmp_path / "none")
    deep = tmp_path / "e"
    for _ in range(1200):  # beyond Python's recursion
        deep.mkdir()
        deep /= "e"
    draw(deep.parent / "x.png")
    draw(tmp_path / "f.png")
    try:
        assert call(graph, tmp_path, "--json") == 1
        errors = {row["file"]: row["error"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    finally:
        (deep.parent / "x.png").unlink()
        while deep.parent != tmp_path:  # what removes folders by recursion could not
            deep = deep.parent
            deep.rmdir()
    assert len(errors) == 6 and errors[f"{tmp_path}/f.png"] is None and "No such file" in errors[f"{tmp_path}/d.png"]
    assert all("symbolic links" in errors[f"{tmp_path}/{name}"] for name in ("a.png", "b", "folder/c"))
    assert [error for file, error in errors.items() if file.endswith("/e/x.png")] == [None]


def test_a_folder_within_itself_is_entered_once(tmp_path, monkeypatch):
    """As bind mounts make them."""
    draw(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "y.png").touch()
    honest, real, passed_over = os.stat, tmp_path / "a", collections.Counter()
    with monkeypatch.context() as patched:
        patched.setattr(
            predict.os, "stat", lambda path, **options: honest(real if Path(path).name == "b" else path, **options)
        )
        assert list(predict.walk(str(tmp_path), passed_over)) == [f"{real}/y.png"]
    assert passed_over == {"a folder seen before": 1}


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_to_folders_are_followed_once_and_never_in_a_circle(tmp_path):
    for name in ("elsewhere/x.png", "films/a/y.png", "films/b/z.png"):
        draw(tmp_path / name)
    films, passed_over = tmp_path / "films", collections.Counter()
    elsewhere = tmp_path / "elsewhere"
    for name, to in {"c": elsewhere, "d": elsewhere, "a/up": films, "a/b": films / "b", "b/a": films / "a"}.items():
        (films / name).symlink_to(to)
    assert list(predict.walk(str(films), passed_over)) == [f"{films}/{name}" for name in
                                                           ("a/b/z.png", "a/y.png", "c/x.png")]  # fmt: skip
    assert passed_over == {"a folder seen before": 4}


def test_a_pattern_that_the_shell_left_alone_is_understood(graph, tmp_path, capsys):
    for name in ("b.png", "a.png", "c.jpeg", "[x].png"):
        draw(tmp_path / name)
    for pattern, names in {"*.png": ["[x].png", "a.png", "b.png"], "[ab].png": ["a.png", "b.png"],
                           "[x].png": ["[x].png"]}.items():  # fmt: skip
        assert call(graph, tmp_path / pattern, "--json") == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [Path(row["file"]).name for row in rows] == names
    assert call(graph, tmp_path / "*.dcm") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / '*.dcm'}: no such file\n"


def test_a_checkpoint_is_no_graph_and_what_makes_one_is_said(folder, tmp_path, capsys):
    torch.save({"state": {}}, tmp_path / "model.pt")
    shutil.copy(tmp_path / "model.pt", tmp_path / "a model.onnx")
    (tmp_path / "cut.pth").write_bytes(b"")
    for name in ("model.pt", "a model.onnx", "cut.pth"):
        assert call(tmp_path / name, folder) == 2
        path = tmp_path / name
        assert capsys.readouterr().err == (
            f"error: {path}: that is a checkpoint: python export.py {shlex.quote(str(path))} makes a graph of it\n"
        )
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.writestr("x.png", b"")
    assert call(tmp_path / "films.zip", folder) == 1
    assert "export.py" not in capsys.readouterr().err


def test_explicit_files_are_tried_whatever_their_names(graph, tmp_path, capsys):
    draw(tmp_path / "film.png")
    (tmp_path / "film").write_bytes((tmp_path / "film.png").read_bytes())
    os.mkfifo(tmp_path / "pipe")
    assert call(graph, tmp_path / "film", tmp_path / "pipe") == 1
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 3 and "pipe: neither a" in captured.err


def many(folder: Path, count: int) -> Path:
    """A folder of `count` hard links to ten films; their long names fill a pipe soon."""
    for i in range(10):
        draw(folder / "originals" / f"{i}.png", i, (20, 20))
    for i in range(count):
        os.link(folder / "originals" / f"{i % 10}.png", folder / f"{i:05d}{'x' * 180}.png")
    return folder


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_that_is_resumed_equals_an_undisturbed_one(graph, tmp_path, number):
    films = many(tmp_path / "films", 700)
    (films / "00003bad.png").write_bytes(b"bad")
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    options = [graph, films, "--batch-size", 4, "--refer", "0.01"]
    assert shell(*options, "--csv", whole).returncode == 1
    command = [sys.executable, SCRIPT, *options, "--csv", stopped, "--provider", "cpu"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(9):
        process.stdout.readline()  # what we do not read fills the pipe: it cannot have finished
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert error.splitlines()[-1] == "interrupted; --resume goes on" and "Traceback" not in error
    content = stopped.read_bytes()
    assert content.endswith(b"\n") and whole.read_bytes().startswith(content) and len(table(stopped)) < 600
    stopped.write_bytes(content + whole.read_bytes()[len(content) :][:50])  # a torn line
    assert shell(*options, "--csv", stopped, "--resume").returncode == 1
    assert stopped.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_csv_has_one_writer_at_a_time(graph, tmp_path, capsys):
    films, path = many(tmp_path / "films", 700), tmp_path / "x.csv"
    command = [sys.executable, SCRIPT, graph, films, "--csv", path, "--batch-size", "4", "--provider", "cpu"]
    first = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first.stdout.readline()  # what we do not read fills the pipe: it cannot have finished
    first.stdout.readline()
    for option in ("--resume", "--overwrite"):
        assert call(graph, films, "--csv", path, option) == 1
        assert capsys.readouterr().err == f"error: {path}: another predict.py is writing to it\n"
    first.communicate(timeout=60)
    assert first.returncode == 0 and len({row["file"] for row in table(path)}) == len(table(path)) == 710
    before = path.read_bytes()
    assert call(graph, films, "--csv", path, "--resume") == 0 and path.read_bytes() == before


def test_a_csv_made_while_the_graph_was_opened_is_left_alone(graph, folder, tmp_path, capsys, monkeypatch):
    honest = predict.open_model

    def slow(*arguments):
        (tmp_path / "x.csv").write_text("mine")
        return honest(*arguments)

    monkeypatch.setattr(predict, "open_model", slow)
    assert call(graph, folder, "--csv", tmp_path / "x.csv") == 2
    assert (tmp_path / "x.csv").read_text() == "mine" and "another process" in capsys.readouterr().err


def test_no_name_becomes_a_formula_or_a_second_line(tmp_path, capsys, monkeypatch):
    name = '=HYPERLINK(1)\r\nx\x0b\u2028\0,"'
    known = facts(name=name, threshold=0.7, temperature=1.0)
    graph = bright_graph(tmp_path / "evil.onnx", metadata=building.metadata(known, "hash"))
    files = ["+1.png", "'=1.png", "-1.png", "=1+1.png", "@x.png", "a.png", "\t=1.png", "'b.png"]
    for i, file in enumerate(files):
        draw(tmp_path / "films" / file, i)
    monkeypatch.chdir(tmp_path / "films")
    arguments = (graph, "*.png", "--csv", tmp_path / "x.csv")
    assert call(*arguments) == 0
    rows, before = table(tmp_path / "x.csv"), (tmp_path / "x.csv").read_bytes()
    assert before.count(b"\n") == before.count(b"\r\n") + 9 == 9
    expected = {"'+1.png", "''=1.png", "'-1.png", "'=1+1.png", "'@x.png", "a.png", "\\t=1.png", "'b.png"}
    assert {row["file"] for row in rows} == expected
    assert {predict.text_in(row["file"]) for row in rows} == {predict.printable(file) for file in files}
    assert all(row["model"].startswith("'=HYPERLINK(1)\\r\\nx") and float(row["probability"]) >= 0 for row in rows)
    capsys.readouterr()
    assert call(*arguments, "--resume") == 0
    assert (
        tmp_path / "x.csv"
    ).read_bytes() == before and "to do: 8 files done before; 0 errors\n" in capsys.readouterr().err
    assert predict.FORMULA.pattern == disk.FORMULA.pattern


def test_a_csv_is_not_overwritten_or_mixed_up(graph, bright, folder, tmp_path, capsys):
    path = tmp_path / "x.csv"
    assert call(graph, folder, "--csv", path) == 0
    before = path.read_bytes()
    for options, reason in [
        ([graph], "--resume continues it, --overwrite replaces it"),
        ([graph, "--resume", "--threshold", "0.123"], "of another model, threshold, --refer or --strict"),
        ([graph, "--resume", "--refer", "0.3"], "of another model, threshold, --refer or --strict"),
        ([bright, "--resume"], "of another model, threshold, --refer or --strict"),
    ]:
        capsys.readouterr()
        assert call(*options, folder, "--csv", path) == 2
        assert reason in capsys.readouterr().err and path.read_bytes() == before
    assert call(bright, folder, "--csv", path, "--overwrite") == 0
    assert len(table(path)) == 30 and path.read_bytes() != before
    path.write_text("mine: do not cut")
    assert call(graph, folder, "--csv", path, "--resume") == 2
    assert path.read_text() == "mine: do not cut"
    earlier = before.replace(b",flags,possible,unfamiliar", b"")
    path.write_bytes(earlier)
    capsys.readouterr()
    assert call(graph, folder, "--csv", path, "--resume") == 2 and path.read_bytes() == earlier
    expected = f"{path} is of another predict.py, with other columns: name another --csv, or --overwrite replaces it"
    assert capsys.readouterr().err == f"error: {expected}\n"
    path.write_text("file,prob")  # only the beginning of a header
    assert call(graph, folder, "--csv", path, "--resume") == 0
    assert path.read_bytes() == before


def test_a_wrong_call_is_one_line_and_exit_code_2(graph, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for arguments, reason in [
        ((tmp_path / "none.onnx", folder), "none.onnx: no such file"),
        ((graph, tmp_path / "none"), "none: no such file"),
        ((graph, tmp_path / "empty"), "no image in this folder"),
    ]:
        assert call(*arguments) == 2
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1
    for options in (["--threshold", "2"], ["--refer", "x"], ["--batch-size", "0"], ["--workers", "1.5"],
                    ["--provider", "abacus"], ["--resume"], ["--csv", "x", "--resume", "--overwrite"]):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            call(graph, folder, *options)
        assert caught.value.code == 2
    for options in (["--csv", folder / "notes.txt" / "x.csv"], ["--csv", folder], ["--heatmaps", folder / "notes.txt"]):
        capsys.readouterr()
        assert call(graph, folder, *options) == 2
        error = capsys.readouterr().err
        assert ("notes.txt is a file" in error or "is a folder, not a file" in error) and error.count("\n") == 1


def test_a_graph_that_is_not_ours_is_one_line(tmp_path, folder, capsys):
    (tmp_path / "text.onnx").write_text("text")
    assert call(tmp_path / "text.onnx", folder) == 1
    error = capsys.readouterr().err
    assert "text.onnx: cannot be used on CPUExecutionProvider" in error and error.count("\n") == 1
    assert call(bright_graph(tmp_path / "x.onnx", metadata={"name": "x"}), folder) == 1
    assert "not a graph that export.py made: it has no classes, no data, no size" in capsys.readouterr().err


def test_providers(graph, folder, capsys, monkeypatch):
    there = onnxruntime.get_available_providers()
    absent = next(name for name, provider in predict.PROVIDERS.items() if provider not in there)
    assert call(graph, folder, "--provider", absent, cpu=False) == 1
    error = capsys.readouterr().err
    assert f"{predict.PROVIDERS[absent]} does not work; this onnxruntime has only {there[0]}" in error
    if torch.cuda.is_available():
        assert call(graph, folder, "--provider", "cuda", cpu=False) == 0
        return
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", *there])
    assert call(graph, folder, "--provider", "cuda", cpu=False) == 1
    assert "CUDAExecutionProvider" in capsys.readouterr().err
    assert call(graph, folder, cpu=False) == 0
    error = capsys.readouterr().err.splitlines()
    assert "on the CPU; " in error[0] and not any("CUDA" in line for line in error)
    monkeypatch.setattr(predict, "there_is_a_gpu", lambda: True)
    assert call(graph, folder, cpu=False) == 0
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "note: CUDA does not work here; the CPU is used" and "on the CPU; " in error[1]


def test_one_is_one_and_nothing_is_not_told(bright, tmp_path, capsys):
    draw(tmp_path / "a.png", 0)
    (tmp_path / "b.txt").write_text("text")
    assert call(bright, tmp_path, "--csv", tmp_path / "x.csv") == 0
    *_, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d NORMAL, \d PNEUMONIA, 0 errors, (1 warning|\d warnings); [\d.]+ files/s", last), last
    assert call(bright, tmp_path, "--csv", tmp_path / "x.csv", "--resume") == 0
    out, error = capsys.readouterr()
    assert out == "" and error.splitlines()[-1] == "nothing was left to do: 1 file done before; 0 errors"
    draw(tmp_path / "c.png", 1)
    assert call(bright, tmp_path, "--csv", tmp_path / "x.csv", "--resume") == 0
    assert "; 1 file done before; " in capsys.readouterr().err


def test_of_a_run_its_graph_is_what_can_be_opened(graph, folder, tmp_path, capsys):
    (tmp_path / "model.pt").touch()
    for path, said in ((tmp_path / "model.pt", "that is a checkpoint"), (tmp_path, "that is the folder of a run")):
        assert call(path, folder) == 2
        expected = f"error: {path}: {said}: python export.py {tmp_path / 'model.pt'} makes a graph of it\n"
        assert capsys.readouterr().err == expected
    assert call(graph.parent, folder) == 2
    assert capsys.readouterr().err.startswith(f"error: {graph.parent}: that is a folder: name the .onnx file, such as ")


def test_a_graph_that_fails_on_a_film_does_not_stop_the_others(graph, folder, capsys, monkeypatch):
    honest = predict.Model.run

    def failing(model, pixels, *outputs):
        if len(pixels) > 2 or (pixels.shape[1:] == (80, 64)):
            raise RuntimeError("out of memory")
        return honest(model, pixels, *outputs)

    monkeypatch.setattr(predict.Model, "run", failing)
    assert call(graph, folder, "--json") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["error"] for row in rows if row["height"] == 80] == ["the graph failed: out of memory"] * 7
    assert all(row["probability"] for row in rows if row["height"] != 80) and len(rows) == 30


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_head_and_a_terminal_that_knows_only_ascii(graph, tmp_path):
    films = many(tmp_path / "films", 700)
    command = f"{sys.executable} {SCRIPT} {graph} {films} --provider cpu | head -n 2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 2
    assert all(line.startswith(("tiny SYNTHETIC ", "warning: ")) for line in done.stderr.splitlines())
    name = os.fsdecode("ü \x1b[31m".encode() + b"\xff.png")
    draw(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for options in ([], ["--json"]):
        done = shell(graph, tmp_path / name, *options, env=env)
        assert done.returncode == 0 and done.stdout.isascii() and "\x1b" not in done.stdout
        assert "\\x1b[31m\\udcff.png" in (json.loads(done.stdout)["file"] if options else done.stdout)


def test_it_runs_alone_beside_the_graph(graph, folder, tmp_path):
    """Copied to a folder of its own, in a process that can import no file of the project, and no PyTorch."""
    shutil.copy(SCRIPT, tmp_path)
    shutil.copy(graph, tmp_path)
    ours = [path.stem for path in SCRIPT.parent.glob("*.py") if path.stem != "predict"]
    code = f"""
import sys
for name in {["torch", "torchvision", "onnx", "matplotlib", "pydicom", "scipy", "tabulate", *ours]}:
    sys.modules[name] = None  # importing it is an error
import predict
sys.exit(predict.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "tiny.onnx", str(folder), "--heatmaps", "heat", "--provider", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (0, 31), done.stderr
    assert len(list((tmp_path / "heat").iterdir())) == 30


@pytest.mark.skipif(sys.platform != "linux", reason="/proc: getrusage would give the peak of the process that forked")
def test_memory_does_not_grow_with_the_number_of_films(bright, tmp_path):
    peaks = []
    for count in (200, 2000):
        films = tmp_path / str(count)
        for i in range(10):
            draw(films / "x" / f"{i}.png", i, (200 + i % 2, 200))  # 40 kB each: 2,000 kept ones would be 80 MB
        for i in range(count):
            os.link(films / "x" / f"{i % 10}.png", films / f"{i:05d}.png")
        code = ("import sys, predict; assert predict.main(sys.argv[1:]) == 0;"
                "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)")  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, bright, films, "--provider", "cpu"],
            capture_output=True, text=True, cwd=SCRIPT.parent,
        )  # fmt: skip
        assert done.stdout.count("\n") == count + 11
        peaks.append(int(done.stderr.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 25, peaks
