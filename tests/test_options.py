"""Every option of every script, with wrong values: one line on stderr, exit code 2, and nothing done."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import ablate
import bench
import data
import evaluate
import explain
import export
import predict
import train
from basics import disk, terms

HUGE = str(10**30)
WHOLE = ("-1", "1.5", "1e99", HUGE, "nan", "", "many")
POSITIVE = ("-1", "0", "1e999", "nan", "inf", "", "many")
SHARE = ("-0.1", "1.5", "1e99", HUGE, "nan", "", "many")
SEED = WHOLE
COUNT = ("0", *WHOLE)
FOLDER = ("", "file", "file/x")  # a file where a folder is due, or should be
FILE = ("", "folder", "file/x")
DATA = ("", "file", "file/x", "nowhere")
DEVICE = ("", "gpu", "cuda:0")
SIZE = ("8", "4096", *COUNT)
SPLIT = {"--split": ("", "patients", "Patient"), "--split-seed": SEED, "--size": SIZE, "--fit": ("", "strech")}
SOURCE = {"--data": DATA, "--cache": FOLDER, "--classes": ()}
RESULTS = {"--runs": FOLDER, "--onnx": FOLDER}

# (script, words before the option, option: wrong values)
SCRIPTS: dict[str, tuple[Callable, list[str], dict[str, tuple[str, ...]]]] = {
    "train.py": (train.main, ["--arch", "simple"], {
        "--arch": ("", "simpel", "resnet50"), **SOURCE, **SPLIT, "--device": DEVICE, "--recipe": ("", "sede"),
        "--epochs": COUNT, "--batch-size": ("1", *COUNT), "--minutes": POSITIVE, "--resize-from": ("128", *SEED),
        "--lr": POSITIVE, "--seed": SEED, "--seeds": COUNT, "--weights": FILE, "--out": FOLDER,
        "--val": ("", "stres"), "--folds": ("1", *COUNT),
        "--name": ("", " ", "old", "sweep", "..", "a/b", "a\\b", "a\nb")}),
    "ablate.py": (ablate.main, ["--arch", "simple"], {
        "--arch": ("", "simpel"), "--variants": ("", "the recip"), "--seeds": COUNT, "--epochs": COUNT,
        "--weights": FILE, "--out": FOLDER, **SOURCE, **SPLIT, "--device": DEVICE}),
    "explain.py": (explain.main, ["x.pt"], {
        **SOURCE, "--out": FILE, "--count": ("13", *COUNT), "--device": DEVICE, "--data": ()}),
    "evaluate.py": (evaluate.main, ["x.pt"], {
        **RESULTS, "--report": FOLDER, "--prevalence": ("0", "1", *SHARE), "--format": ("", "githbu"),
        "--cache": FOLDER, "--device": DEVICE, "--data": (), "--by": (), "--classes": ()}),
    "export.py": (export.main, ["x.pt"], {**RESULTS, "--precision": ("", "fp8", "FP32"), "--cache": FOLDER,
                                          "--data": (), "--classes": (), "--promise": ("0", "1", *SHARE)}),
    "export.py verify": (export.main, ["verify", "x.onnx"], {"--runs": FOLDER, "--cache": FOLDER, "--data": (),
                                                             "--classes": ()}),
    "export.py threshold": (export.main, ["threshold", "x.onnx"], {"--sensitivity": SHARE}),
    "export.py page": (export.main, ["page", "x.onnx"], {"--out": FOLDER}),
    "data.py download": (data.main, ["download"], {
        "--source": ("", "kermanyy"), "--size": ("100", *COUNT), "--out": FOLDER}),
    "data.py check": (data.main, ["check"], {**SOURCE, **SPLIT, "--json": FILE}),
    "data.py show": (data.main, ["show"], {
        **SOURCE, **SPLIT, "--out": FILE, "--count": ("51", *COUNT), "--seed": SEED}),
    "bench.py": (bench.main, ["infer"], {
        "--data": (), "--classes": (), "--arch": ("", "resnet50"), "--size": SIZE, "--repeats": COUNT,
        "--workers": WHOLE, "--until": ("0", *SHARE), "--patience": POSITIVE, "--cache": FOLDER, "--json": FILE,
        "--device": DEVICE}),
    "predict.py": (predict.main, ["x.onnx", "film.png"], {
        "--threshold": SHARE, "--sensitivity": SHARE, "--refer": SHARE, "--provider": ("", "gpu"),
        "--batch-size": COUNT, "--workers": COUNT, "--csv": (), "--heatmaps": ()}),
}  # fmt: skip


def call(main: Callable, arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as left:
        return left.code


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A folder to be in, with a file and a folder to mistake for one another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    return tmp_path


def said(error: str) -> str:
    """What stood on stderr: one line."""
    assert error.count("\n") == 1 and error.startswith("error: "), error
    return error.rstrip()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_value_is_one_line_and_exit_code_2(script, folder, capsys):
    main, words, options = SCRIPTS[script]
    for option, value in ((option, value) for option, values in options.items() for value in values):
        assert call(main, [*words, f"{option}={value}"]) == 2, (option, value)
        captured = capsys.readouterr()
        assert option in said(captured.err), (option, value, captured.err)
        assert captured.out == ""
    assert sorted(path.name for path in folder.iterdir()) == ["file", "folder"]  # nothing was begun


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_with_a_value_stands_in_the_table(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main, words, options = SCRIPTS[script]
    assert call(main, [*words, "--help"]) == 0
    shown = set(re.findall(r"^  (--[\w-]+) [^\s-]", capsys.readouterr().out, re.M))
    assert shown == set(options)


@pytest.mark.parametrize(
    "classes",
    ["NORMAL=a", "NORMAL=a NORMAL=b", "NORMAL=a PNEUMONIA=a", "NORMAL=A,b PNEUMONIA=a", "NORMAL= PNEUMONIA=b", "a b",
     "NORMAL=a, PNEUMONIA=b", "NORMAL=a PNEUMONIA=b COVID=c"],
)  # fmt: skip
def test_names_of_classes_are_told_apart(classes, capsys):
    assert call(train.main, ["--arch", "simple", "--data", "folder", "--classes", *classes.split()]) == 2
    said(capsys.readouterr().err)


def test_names_of_classes_come_in_the_order_of_the_labels():
    args = train.parse(["--arch", "simple", "--classes", "pneumonia=sick,very sick", "NORMAL=healthy"])
    assert args.classes == (("healthy",), ("sick", "very sick"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_says_its_version(script, capsys):
    main, words, _ = SCRIPTS[script]
    assert call(main, [*words, "--version"]) == 0
    assert capsys.readouterr().out.endswith(f" {disk.VERSION}\n") and predict.VERSION == disk.VERSION


@pytest.mark.parametrize("value", [*SHARE, "inf"])
def test_a_wrong_threshold_leaves_the_graph_alone(value, folder, capsys):
    assert call(export.main, ["threshold", "file", value]) == 2
    assert re.search(r"\bP: (must be from 0 to 1|'\w*' is not a number)|required: P", said(capsys.readouterr().err))
    assert (folder / "file").read_text() == "text"


@pytest.mark.parametrize(
    ("main", "arguments", "meant"),
    [
        (train.main, ["--arch", "resnet43"], "resnet34"),
        (train.main, ["--arch", "Resnet34_pretrained"], "resnet34-pretrained"),
        (train.main, ["--all", "--recipe", "sede"], "seed"),
        (evaluate.main, ["--all", "--format", "githbu"], "github"),
        (export.main, ["--all", "--precision", "fp32", "in8"], "int8"),
        (data.main, ["download", "--source", "kermanyy"], "kermany"),
        (bench.main, ["trian"], "train"),
    ],
)
def test_of_a_misspelt_name_the_right_one_is_suggested(main, arguments, meant, capsys):
    assert call(main, arguments) == 2
    assert f"invalid choice: {arguments[-1]!r}, did you mean {meant!r}?" in said(capsys.readouterr().err)


def test_of_a_name_like_no_other_all_are_listed(capsys):
    assert call(train.main, ["--arch", "vgg"]) == 2
    assert f"choose from {', '.join(terms.ARCHITECTURES)};" in said(capsys.readouterr().err)


@pytest.mark.parametrize("name", ["file", "folder", "empty", "none", "folder.onnx", "file.onnx", "none.onnx"])
def test_what_is_no_model_is_named_once_and_exits_with_1(name, folder, capsys):
    (folder / "folder.onnx").mkdir()
    (folder / "empty").touch()
    (folder / "file.onnx").write_text("text")
    calls = [(evaluate.main, [name]), (export.main, [name]), (export.main, ["verify", name]),
             (export.main, ["threshold", name, "0.5"])]  # fmt: skip
    for main, arguments in calls:
        assert call(main, arguments) == 1, arguments
        error = said(capsys.readouterr().err)
        assert error.startswith(f"error: {name}") and error.count(f"{name}:") <= 1, error


def test_an_empty_path_is_not_the_folder_one_is_in(capsys):
    for main, arguments in ((evaluate.main, [""]), (export.main, [""]), (export.main, ["verify", ""]),
                            (export.main, ["threshold", "", "0.5"])):  # fmt: skip
        assert call(main, arguments) == 2
        assert "the path is empty" in said(capsys.readouterr().err)


@pytest.mark.parametrize("model", ["run", "run/model.pt"])
def test_a_checkpoint_in_place_of_a_graph_is_said_with_the_command_that_makes_one(model, folder, capsys):
    (folder / "run").mkdir()
    (folder / "run" / "model.pt").touch()
    for arguments in (["verify", model], ["threshold", model, "0.5"]):
        assert call(export.main, arguments) == 1
        expected = f"error: {model}: that is a checkpoint: python export.py run/model.pt makes a graph of it"
        assert said(capsys.readouterr().err) == expected


def test_the_folder_of_a_run_stands_for_its_checkpoint(folder, capsys):
    (folder / "run").mkdir()
    (folder / "run" / "model.pt").touch()
    for main in (export.main, explain.main):
        assert call(main, ["run"]) == 1
        assert said(capsys.readouterr().err).startswith("error: run/model.pt: not a whole checkpoint")
    assert call(explain.main, ["folder"]) == 2 and "folder is a folder" in said(capsys.readouterr().err)


def test_a_graph_in_place_of_a_checkpoint_is_said(folder, capsys):
    (folder / "x.onnx").touch()
    assert call(export.main, ["x.onnx"]) == 1
    assert "that is a graph: " in said(capsys.readouterr().err)
    assert call(explain.main, ["x.onnx"]) == 1
    assert "name the run's model.pt" in said(capsys.readouterr().err)


# Beginnings that Python's unpickler trips over in different ways.
@pytest.mark.parametrize(
    "content", [b"text", b"b u file s q", b"X", b"]", b"j;\xa8|", b"PK\x03\x04", b"\x80"], ids=repr
)
def test_no_text_is_taken_for_a_checkpoint_or_for_weights(content, folder, capsys):
    (folder / "x.pt").write_bytes(content)
    assert call(evaluate.main, ["x.pt"]) == 1
    assert "error: x.pt: not a whole checkpoint (" in said(capsys.readouterr().err)
    assert call(train.main, ["--arch", "resnet34-pretrained", "--size", "32", "--weights", "x.pt"]) == 1
    assert "error: --weights x.pt: not a torch state dict (" in said(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("option", "code"), [("--minutes=1e308", 0), ("--lr=1e308", 1), ("--batch-size=2147483647", 0)]
)
def test_huge_values_that_are_allowed_work_or_fail_in_one_line(option, code, cache, capsys):
    assert call(train.main, ["--arch", "simple", "--quick", "--data", "phantoms", "--size", "64", "--device", "cpu",
                             "--cache", str(cache), option]) == code  # fmt: skip
    assert capsys.readouterr().err == (
        "error: epoch 1, step 2: the network's output is not finite; try a lower --lr\n" if code else ""
    )


def test_bench_says_that_a_folder_holds_no_classes_before_it_starts_a_process(capsys):
    assert call(bench.main, ["train", "--data", "folder"]) == 1
    assert said(capsys.readouterr().err).startswith("error: --data folder: ")
