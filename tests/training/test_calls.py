"""train.py as it is called: what is wrong with a call, what is printed, what is remembered of the options."""

import json
from argparse import Namespace

import pytest
import torch
from folders import make_folder

import evaluate
import explain
import export
import train
from films import sources
from training import checkpoints, stress_views

FAST = ["--data", "phantoms", "--size", "32"]


def run(tmp_path, cache, *options: str) -> int:
    return train.main([*FAST, "--cache", str(cache), "--out", str(tmp_path / "runs"), *options])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "one of the arguments --arch --all is required"),
        (["--arch", "simpel"], "invalid choice: 'simpel'"),
        (["--arch", "simple", "--epochs", "0"], "--epochs: must be between 1 and"),
        (["--arch", "simple", "--epochs", "many"], "'many' is not a whole number"),
        (["--arch", "simple", "--lr", "-1"], "--lr: must be a positive number"),
        (["--arch", "simple", "--batch-size", "1"], "--batch-size: must be between 2 and"),
        (["--arch", "simple", "--size", "8"], "--size: must be between 32 and"),
        (["--arch", "simple", "--name", "../x"], "--name is one plain folder name"),
        (["--all", "--name", "x"], "--name is one plain folder name"),
        (["--arch", "simple", "--weights", "x.pth"], "--weights is for resnet34-pretrained"),
        (["--arch", "simple", "--minutes", "0"], "--minutes: must be a positive number"),
        (["--arch", "simple", "--resize-from", "128"], "--resize-from is for ResNets"),
        (["--all", "--resize-from", "128"], "--resize-from is for ResNets"),
        (["--arch", "simple", "--split", "patients"], "invalid choice: 'patients'"),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_what_is_wrong(options, complaint, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(options)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_missing_folder_and_a_missing_device_are_wrong_calls(tmp_path, cache, capsys, monkeypatch):
    assert train.main(["--arch", "simple", "--data", str(tmp_path / "nowhere"), "--cache", str(cache)]) == 2
    assert capsys.readouterr().err == f"error: --data {tmp_path / 'nowhere'}: no such file or folder\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.main(["--arch", "simple", "--device", "cuda"]) == 2
    assert "--device cuda: PyTorch finds no such device here" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made_is_said(tmp_path, cache, capsys):
    assert run(tmp_path, cache, "--arch", "simple", "--quick", "--name", "x" * 300) == 1  # more than a name may have
    assert "error: cannot write to" in capsys.readouterr().err


def test_skipped_files_stand_in_the_record(tmp_path, cache, capsys):
    folder = make_folder(tmp_path / "x", count=30)
    (folder / "NORMAL" / "IM-0001-0001.jpeg").write_bytes(b"")
    arguments = ["--arch", "simple", "--data", str(folder), "--size", "32", "--cache", str(cache), "--quick",
                 "--out", str(tmp_path / "runs")]  # fmt: skip
    assert train.main(arguments) == 1
    assert "IM-0001-0001.jpeg: the file is empty" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert train.main([*arguments, "--skip-bad"]) == 0
    record = json.loads((tmp_path / "runs" / "quick-simple" / "run.json").read_text())
    assert record["data"]["skipped"] == [["NORMAL/IM-0001-0001.jpeg", "the file is empty"]]


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for option in ("--arch", "--all", "--data", "--split", "--recipe", "--epochs", "--batch-size", "--lr", "--seed",
                   "--name", "--out", "--quick", "--device", "--weights", "--cache", "--size", "--flip"):  # fmt: skip
        assert option in out


def test_what_numbers_are_of_is_said_and_a_smoke_run_says_little(tmp_path, cache, capsys):
    assert run(tmp_path, cache, "--arch", "simple", "--quick") == 0
    out = capsys.readouterr().out
    assert "stress validation, " not in out
    assert out.splitlines()[-2] == "a smoke run: its numbers mean nothing"
    assert run(tmp_path, cache, "--arch", "simple", "--epochs", "1", "--val", "random") == 0
    out = capsys.readouterr().out
    assert "smoke" not in out and "stress" not in out and "  validation loss " in out and " validation AUROC " in out
    assert run(tmp_path, cache, "--arch", "simple", "--epochs", "1", "--verbose") == 0
    rows = checkpoints.load_checkpoint(tmp_path / "runs" / "simple" / "model.pt")[0]["stress"]
    assert stress_views.table(rows) in capsys.readouterr().out


def test_without_test_films_no_test_is_proposed(tmp_path, cache, capsys):
    make_folder(tmp_path / "films", ("train",), count=30)
    call = ["--data", str(tmp_path / "films"), "--split", "official", "--arch", "simple", "--quick", "--size", "32"]
    assert train.main([*call, "--cache", str(cache), "--out", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "next: " not in out
    assert f"there are no test films here: python evaluate.py --all --runs {tmp_path / 'runs'} --data PATH names" in out


def test_a_model_remembers_what_its_class_folders_are_called(tmp_path, capsys, monkeypatch):
    source = make_folder(tmp_path / "films", count=30)
    (source / "NORMAL").rename(source / "healthy")
    (source / "PNEUMONIA").rename(source / "sick")
    common = ["--cache", str(tmp_path / "cache")]
    folders = ["--runs", str(tmp_path / "runs"), "--onnx", str(tmp_path / "onnx")]
    call = [
        "--data",
        str(source),
        "--arch",
        "simple",
        "--quick",
        "--size",
        "32",
        "--out",
        str(tmp_path / "runs"),
        *common,
    ]
    assert train.main(call) == 1 and "but healthy, sick; --classes" in capsys.readouterr().err
    assert train.main([*call, "--classes", "PNEUMONIA=sick", "NORMAL=healthy"]) == 0
    checkpoint, _ = checkpoints.load_checkpoint(tmp_path / "runs" / "quick-simple" / "model.pt")
    assert checkpoint["data"]["folders"] == {"NORMAL": ["healthy"], "PNEUMONIA": ["sick"]}
    assert explain.main([str(tmp_path / "runs" / "quick-simple"), "--count", "1", *common]) == 0
    assert export.main(["--all", *folders, *common]) == 0
    assert export.main(["verify", str(tmp_path / "onnx" / "quick-simple.onnx"), *folders[:2], *common]) == 0
    test = ["--all", *folders, "--report", str(tmp_path / "report"), *common]
    assert evaluate.main(test) == 0
    named = ["--data", str(source)]  # the very folder, and it is known again
    assert evaluate.main([*test, *named]) == 0
    asked = Namespace(data=str(source), classes=None)  # as export.py and explain.py ask
    assert sources.place_of(asked, checkpoint["data"]) == (str(source), (("healthy",), ("sick",)))
    (source / "sick").rename(source / "ill")
    capsys.readouterr()
    assert evaluate.main([*test, *named]) == 1
    assert capsys.readouterr().err.count("no folders named NORMAL and PNEUMONIA") == 1  # once for both models
    (tmp_path / "runs" / "quick-simple" / "model.pt").write_bytes(b"PK")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "films" / "sources.py"))  # no data/chest_xray beside it
    assert evaluate.main(test) == 1
    error = capsys.readouterr().err
    assert "quick-simple.onnx: a graph does not say where its films are" in error and "download" not in error
