"""Folds of one training are taken together: each film by the model that was not trained on it; nothing else is."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import explain
import train
from basics.problems import UsageProblem
from evaluation import folds, shortcuts
from films import giveaways
from metrics import measures
from metrics.logistic import fit_logistic
from training import checkpoints


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    common = ["--arch", "simple", "--data", "phantoms", "--size", "32", "--cache", str(cache), "--epochs", "4"]
    assert train.main([*common, "--folds", "3", "--out", str(out)]) == 0
    assert train.main([*common, "--split-seed", "1", "--name", "other", "--out", str(out)]) == 0
    return out


def line_of(name: str, out: str) -> list[str]:
    """The cells after the first one, of the table of models."""
    return re.search(rf"^{name} +(.*)$", out, re.MULTILINE)[1].split()


def by_hand(path: Path, dataset: data.Dataset) -> tuple[np.ndarray, ...]:
    """Label, odds of the frame and decision of each validation film, from what the checkpoint kept."""
    checkpoint, _ = checkpoints.load_checkpoint(path)
    split = data.split_again(dataset, checkpoint["split"])
    labels = dataset.labels[split.validation]
    logits = checkpoint["validation_answers"]["logits"].numpy()[: len(labels)]  # of the first view, "as it is"
    odds = (logits[:, 1] - logits[:, 0]) / checkpoint["temperature"]
    decisions = 1 / (1 + np.exp(-odds.astype(float))) >= checkpoint["threshold"]
    frame = [giveaways.frame_features(dataset.images[side]) for side in (split.train, split.validation)]
    scores = giveaways.CheapModel.fit(frame[0], dataset.labels[split.train]).scores(frame[1])
    offset, slope = fit_logistic(scores[:, None], labels)
    return labels, offset + slope * scores, decisions


def test_pooled_numbers_are_those_of_both_models_by_hand(runs, cache, capsys):
    paths = [runs / "simple-f0" / "model.pt", runs / "simple-f2" / "model.pt"]
    assert explain.main([*map(str, paths), "--cache", str(cache)]) == 0
    out = capsys.readouterr().out
    dataset = data.load("phantoms", 32, cache)
    both = [by_hand(path, dataset) for path in paths]
    labels, odds, decisions = (np.concatenate(parts) for parts in zip(*both, strict=True))
    right, lies = decisions == labels, np.where(labels, odds < 0, odds > 0)
    assert f"2 models, {len(labels):,} validation images" in out
    groups = {
        "normal, all": labels == 0,
        "normal, frame looks normal": (labels == 0) & ~lies,
        "normal, frame looks ill": (labels == 0) & lies,
        "pneumonia, all": labels == 1,
        "pneumonia, frame looks normal": (labels == 1) & lies,
        "films whose frame lies": lies,
    }
    assert lies.any(), "a test of empty groups"
    for group, which in groups.items():
        films, share = re.search(rf"^{group} +([\d,]+) +\d+ +\w+ +(\S+)", out, re.MULTILINE).groups()
        assert int(films.replace(",", "")) == which.sum()
        assert share == (f"{right[which].mean():.3f}" if which.any() else "-")
    for path, (own, _, decided) in zip(paths, both, strict=True):  # a line for each, and their mean
        cells = line_of(path.parent.name, out)
        assert int(cells[0]) == len(own)
        rates = [(decided == own).mean(), decided[own == 1].mean(), 1 - decided[own == 0].mean()]
        assert [float(cell) for cell in cells[3:6]] == pytest.approx(rates, abs=6e-4)
    numbers = [np.array(line_of(name, out)[-7:], float) for name in ("simple-f0", "simple-f2", "mean")]
    assert numbers[2] == pytest.approx((numbers[0] + numbers[1]) / 2, abs=1.1e-3)
    hidden = re.search(r"simple \(mean of 2 models\) says without lungs, the middle hidden: AUROC (\S+)", out)[1]
    assert float(hidden) == numbers[2][4]
    assert max(map(len, out.split("\n")[1:])) <= 100 and "nan" not in out


def test_of_each_model_it_is_said_what_it_sees_of_the_frame_and_of_the_middle(runs, cache, capsys):
    paths = [runs / "simple-f0" / "model.pt", runs / "simple-f1" / "model.pt"]
    assert explain.main([*map(str, paths), "--cache", str(cache)]) == 0
    out, dataset = capsys.readouterr().out, data.load("phantoms", 32, cache)
    printed, expected = [], []
    for path in paths:
        checkpoint, network = checkpoints.load_checkpoint(path)
        films = data.split_again(dataset, checkpoint["split"]).validation
        mean, deviation = checkpoint["normalisation"]
        for change in (lambda image, _: image, shortcuts.borders_only, shortcuts.centre_only):
            shown = torch.from_numpy(shortcuts.changed_table(dataset.images[films], change))
            with torch.inference_mode():
                logits = network((shown[:, None] / 255 - mean) / deviation).numpy()
            expected.append(measures.auroc(dataset.labels[films], logits[:, 1] - logits[:, 0]))
        row = np.array(line_of(path.parent.name, out)[2:], float)
        printed += row[[0, 4, 5]].tolist()
    assert printed == pytest.approx(expected, abs=0.004)  # the command may answer in bf16
    assert min(abs(np.diff(expected[:3]))) > 0.01, "else one could pass for another"


def test_models_that_share_validation_films_are_refused(runs, cache, capsys):
    first, again = str(runs / "simple-f0"), str(runs / "other")
    for call in ([first, first], [first, str(runs / "simple-f1"), again]):
        assert explain.main([*call, "--cache", str(cache)]) == 2
        said = capsys.readouterr()
        assert re.search(r"share [\d,]+ validation films?: several models must be folds", said.err)
        assert said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize(
    ("key", "value"),
    [("architecture", "resnet34"), ("size", 64), ("fit", "pad"), ("data", {"fingerprint": "another"})],
)
def test_models_that_differ_in_more_than_their_films_are_refused(key, value):
    facts = {"architecture": "simple", "size": 32, "fit": "stretch", "data": {"fingerprint": "one"}}
    known = [(Path("a.pt"), facts), (Path("b.pt"), facts), (Path("c.pt"), facts | {key: value})]
    folds.alike(known[:2])
    with pytest.raises(UsageProblem, match=rf"^c\.pt has another {key} than a\.pt \("):
        folds.alike(known)


def test_there_is_no_picture_of_several(capsys):
    for option in (["--out", "x.png"], ["--count", "3"]):
        with pytest.raises(SystemExit) as done:
            explain.main(["a.pt", "b.pt", *option])
        assert done.value.code == 2 and "picture of one model" in capsys.readouterr().err
