import argparse
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from basics import cli, disk, problems
from basics.problems import Problem, UsageProblem

ROOT = Path(problems.__file__).parent.parent


def test_run_turns_problems_into_one_line_and_an_exit_code(capsys):
    def fails(problem):
        def work():
            raise problem

        return work

    assert problems.run(lambda: 0) == 0
    assert problems.run(fails(UsageProblem("no such folder"))) == 2
    assert problems.run(fails(Problem("the disk is full"))) == 1
    assert problems.run(fails(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "error: no such folder\nerror: the disk is full\ninterrupted\n"
    with pytest.raises(ZeroDivisionError):  # a defect of ours keeps its traceback
        problems.run(lambda: 1 // 0)


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many", "99999999999"])
def test_whole_number_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.whole_number(1)(text)


@pytest.mark.parametrize("text", ["0", "-1e-3", "nan", "inf", "fast"])
def test_positive_number_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError):
        cli.positive_number(text)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pt"
    disk.write_text(path, "old")
    with pytest.raises(RuntimeError), disk.atomic_path(path) as temporary:
        temporary.write_text("half of the new one")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pt"
    disk.write_text(path, "old")
    code = (
        "import sys, pathlib, time; sys.path.insert(0, sys.argv[1]); from basics import disk\n"
        "with disk.atomic_path(pathlib.Path(sys.argv[2])) as t: t.write_text('half'); "
        "print(1, flush=True); time.sleep(60)"
    )
    root = str(ROOT)
    with subprocess.Popen([sys.executable, "-c", code, root, str(path)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.kill()
    assert path.read_text() == "old"


def test_what_cannot_be_written_is_a_problem_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot write .*file/model.pt"):
        disk.write_text(tmp_path / "file" / "model.pt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Problem, match="cannot write .*folder: Is a directory"):
        disk.write_text(tmp_path / "folder", "x")
    full = tmp_path / "full"
    with pytest.raises(Problem, match="No space left"), disk.atomic_path(full):
        raise OSError(28, "No space left on device")
    assert not full.exists()


def test_json_has_null_where_a_number_is_undefined(tmp_path):
    disk.write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5], "b": (None, True)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": [None, True]}


def test_no_text_in_a_csv_is_a_formula_and_numbers_stay_numbers():
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''-1"]
    harmless = ["'", "'a", "a=1", "", " =1", "a\rb", "a\r\nb", "0.5"]
    texts = formulas + harmless
    text = disk.csv_text([{"text": text, "number": number} for text in texts for number in (-0.5, -1, None)])
    assert text.startswith("text,number\n'=1+1,-0.5\n'=1+1,-1\n'=1+1,\n'+1,-0.5\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["number"] for row in rows] == ["-0.5", "-1", ""] * len(texts)
    assert [row["text"] for row in rows[::3]] == [*(f"'{formula}" for formula in formulas), *harmless]
    assert [re.sub(r"^'(?='*[=+\-@\t\r\n＝])", "", row["text"]) for row in rows[::3]] == texts


def test_hashes_keep_parts_apart(tmp_path):
    assert disk.sha256_of(["ab", "c"]) != disk.sha256_of(["a", "bc"])
    (tmp_path / "empty").touch()
    assert disk.sha256_of_file(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_importing_any_script_does_no_work():
    root = str(ROOT)
    paths = [
        *ROOT.glob("*.py"),
        *(path for init in ROOT.glob("*/__init__.py") for path in init.parent.glob("[!_]*.py")),
    ]
    names = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    assert len(names) > 50
    code = f"import sys; sys.path.insert(0, {root!r}); import {', '.join(names)}"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.perf_counter() - start < 60


def test_a_name_that_is_no_text_can_be_written_and_hashed(tmp_path):
    name = os.fsdecode(b"film-\xff.jpeg")
    disk.write_json(tmp_path / "x.json", {"file": name})
    assert disk.parse_json((tmp_path / "x.json").read_bytes()) == {"file": name}
    assert disk.sha256_of([name]) != disk.sha256_of(["film-.jpeg"])


@pytest.mark.parametrize("place", ["x", "x/y"])
def test_a_lock_where_no_file_can_be_made_is_an_error_and_no_endless_try(tmp_path, monkeypatch, place):
    """As in /proc, where a folder is there, and no file can be opened in it for writing: ENOENT."""
    tried = []

    def nothing(path, *_):
        tried.append(path)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("builtins.open", nothing)
    with pytest.raises(Problem, match="cannot write to .*: No such file"), disk.lock(tmp_path / place, "busy"):
        pass
    assert 1 < len(tried) <= 100
