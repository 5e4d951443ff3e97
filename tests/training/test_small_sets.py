"""Hardly any images: batches of one, one image to validate on, batches larger than the set."""

import numpy as np
import pytest
import torch
from folders import make_folder

import evaluate
import export
import models
import train
from basics.problems import Problem
from films.variation import Augment
from training import loop, recipes, run_folder
from training.batches import Batches

CPU = torch.device("cpu")


def trainer_of(phantoms, training: int, validation: int, batch_size: int) -> loop.Trainer:
    table = torch.from_numpy(phantoms.images[:, ::2, ::2].copy())  # 32 pixels: a ResNet ends on one place an image
    common = (table, phantoms.labels)
    torch.manual_seed(0)
    return loop.Trainer(
        models.build("resnet34", 32),
        recipes.Recipe(1, 1e-4, batch_size),
        Batches(*common, np.arange(training), batch_size, CPU, (0.5, 0.25), Augment()),
        Batches(*common, np.arange(300, 300 + validation), 64, CPU, (0.5, 0.25)),
    )


@pytest.mark.parametrize(("training", "validation", "batch_size"), [(5, 3, 2), (3, 1, 2), (2, 2, 2), (7, 1, 1000)])
def test_a_resnet_trains_on_hardly_any_images(training, validation, batch_size, phantoms):
    rows, answers = [], []
    trainer_of(phantoms, training, validation, batch_size).fit(
        lambda row, logits: (rows.append(row), answers.append(logits))
    )
    assert np.isfinite([rows[0]["train_loss"], rows[0]["val_loss"]]).all() and answers[0].shape == (validation, 2)


def test_one_training_image_is_too_few(phantoms):
    with pytest.raises(Problem, match="one training image is too few"):
        trainer_of(phantoms, 1, 2, 2)


def test_an_odd_number_of_films_in_batches_of_two_is_trained_on(tmp_path, cache):
    films = make_folder(tmp_path / "films", count=7)
    options = ["--arch", "resnet34", "--data", str(films), "--size", "32", "--batch-size", "2", "--epochs", "1",
               "--cache", str(cache), "--out", str(tmp_path / "runs"), "--device=cpu", "--val=random"]  # fmt: skip
    odd = []
    for seed in range(3):
        assert train.main([*options, "--split-seed", str(seed)]) == 0
        record = run_folder.description(tmp_path / "runs" / "resnet34")
        odd.append(record["split"]["images"]["train"] % 2)
    assert any(odd)


def test_films_of_unknown_patients_are_trained_on_and_all_that_comes_after(tmp_path, cache, capsys, monkeypatch):
    """The record of the patients that were seen is empty then, and an empty tensor is a whole one."""
    monkeypatch.chdir(tmp_path)  # runs/ and report/ lie here
    films = make_folder(tmp_path / "films", count=60)
    for i, path in enumerate(sorted(films.rglob("*.jpeg"))):
        path.rename(path.with_name(f"study{i}.jpeg"))
    options = ["--data", str(films), "--cache", str(cache)]
    run = ["--arch", "simple", "--size", "32", "--epochs", "1", "--out", str(tmp_path / "runs"), "--device=cpu"]
    model, graphs = str(tmp_path / "runs" / "simple" / "model.pt"), str(tmp_path / "onnx")
    assert train.main([*options, *run]) == train.main([*options, *run, "--resume"]) == 0, capsys.readouterr().err
    assert export.main([model, *options, "--onnx", graphs]) == 0, capsys.readouterr().err
    assert evaluate.main([model, f"{graphs}/simple.onnx", *options]) == 0, capsys.readouterr().err
