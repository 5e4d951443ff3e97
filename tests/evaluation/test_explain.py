"""Errors on stress validation: the numbers are the checkpoint's own, the maps add up to what the network says."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss, recall_score

import data
import explain
import models
import predict
import train
from evaluation import explanation
from graphs import building
from metrics import measures
from training import checkpoints, stress_views


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    common = ["--data", "phantoms", "--size", "32", "--cache", str(cache), "--epochs", "2", "--out", str(out)]
    assert train.main(["--arch", "simple", *common]) == 0
    return out / "simple" / "model.pt"


def test_the_table_is_the_checkpoints_and_the_counts_are_of_its_decisions(run, cache, capsys, tmp_path):
    picture = tmp_path / "x.png"
    assert explain.main([str(run), "--cache", str(cache), "--out", str(picture), "--count", "2"]) == 0
    out, (checkpoint, _) = capsys.readouterr().out, checkpoints.load_checkpoint(run)
    assert stress_views.table(checkpoint["stress"]) in out
    own = re.search(r"^all views +Youden's J +(\S+) +(\S+)", out, re.MULTILINE).groups()
    assert [float(x) for x in own] == pytest.approx([checkpoint["temperature"], checkpoint["threshold"]], abs=0.005)
    kept = {key: value.numpy() for key, value in checkpoint["validation_answers"].items() if key != "patients"}
    probabilities = measures.positive_probability(kept["logits"], checkpoint["temperature"])
    wrong = (probabilities >= checkpoint["threshold"]) != kept["labels"]
    rows = re.findall(r"^(\S.*?) {2,}(\d+) {2,}(\d+)$", out, re.MULTILINE)
    assert [row[0] for row in rows] == [row["view"] for row in checkpoint["stress"][:-1]]
    for (_, missed, alarms), errors, labels in zip(
        rows, np.split(wrong, len(rows)), np.split(kept["labels"], len(rows)), strict=True
    ):
        assert (int(missed), int(alarms)) == ((errors & (labels == 1)).sum(), (errors & (labels == 0)).sum())
    assert Image.open(io.BytesIO(picture.read_bytes())).size[0] > 500


def test_validated_on_films_as_they_are_it_is_shown_the_other_views_too(cache, capsys, tmp_path):
    common = ["--data", "phantoms", "--size", "32", "--cache", str(cache), "--epochs", "1", "--out", str(tmp_path)]
    assert train.main(["--arch", "simple", "--val", "random", *common]) == 0
    file = tmp_path / "simple" / "model.pt"
    assert not checkpoints.load_checkpoint(file)[0]["stress"]
    assert explain.main([str(file), "--cache", str(cache)]) == 0
    assert "reversed" in capsys.readouterr().out and (tmp_path / "simple" / "errors.png").exists()


def test_errors_are_sorted_by_how_sure_the_network_was():
    labels, probabilities = np.array([1, 0, 1, 0, 1]), np.array([0.001, 0.95, 0.3, 0.2, 0.9])
    found = explanation.Errors(torch.zeros(5, 4, 4), labels, probabilities, 0.4)
    assert found.wrong.tolist() == [0, 1, 2] and found.missed == 2
    assert explanation.Errors(torch.zeros(5, 4, 4), labels, probabilities, 0.97).wrong.tolist() == [0, 2, 4]


def test_what_other_choices_would_make_of_the_same_answers():
    generator = np.random.default_rng(3)
    labels = generator.permutation(np.repeat([0, 1], (30, 70)))
    logits = {
        view: np.column_stack([np.zeros(100), generator.normal(shift + 3.0 * labels, 1.5)])
        for view, shift in (("as it is", -1.5), ("tight", 1.5), ("wide", -3.0))
    }
    lines = explanation.decided_otherwise(logits, labels).splitlines()
    rows = {
        tuple(cells[:2]): [float(cell) for cell in cells[2:]] for cells in (re.split(" {2,}", x) for x in lines[3:])
    }
    assert len(rows) == len(lines) - 3 == 5
    assert rows["all views", "0.5"][1] == 0.5
    assert rows["films as they are", "Youden's J"][0] != rows["all views", "Youden's J"][0]
    for temperature, threshold, *found in rows.values():
        probabilities = [1 / (1 + np.exp(-view[:, 1] / temperature)) for view in logits.values()]
        losses = [log_loss(labels, p) for p in probabilities]
        right = [accuracy_score(labels, p >= threshold) for p in probabilities]
        lowest = [min(recall_score(labels, p >= threshold, pos_label=k) for p in probabilities) for k in (1, 0)]
        expected = [losses[0], np.mean(losses), max(losses), right[0], np.mean(right), min(right), *lowest]
        assert found == pytest.approx(expected, abs=0.006)  # the temperature is printed to two places
    for target in (0.95, 0.99):
        temperature, threshold = rows["all views", f"{target:.0%} sensitivity"][:2]
        scores = np.concatenate([1 / (1 + np.exp(-view[:, 1] / temperature)) for view in logits.values()])
        assert recall_score(np.tile(labels, 3), scores >= threshold) == pytest.approx(target, abs=0.006)
    # What is fitted to all views does better in their mean, what is fitted to films as they are does better there.
    assert rows["all views", "Youden's J"][3] <= rows["films as they are", "Youden's J"][3]
    assert rows["films as they are", "Youden's J"][2] <= rows["all views", "Youden's J"][2]


def checkpoint_of(size: int) -> dict:
    return {
        "name": "x",
        "size": size,
        "fit": "stretch",
        "normalisation": [0.45, 0.2],
        "temperature": 1.7,
        "threshold": 0.4,
    }


def test_a_heat_map_adds_up_to_the_log_odds():
    torch.manual_seed(0)
    network, checkpoint = models.build("resnet34", 64).eval(), checkpoint_of(64)
    films = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    maps = explanation.heat_maps(checkpoint, network, films)
    with torch.inference_mode():
        logits = network((films[:, None] / 255 - 0.45) / 0.2)
    bias = (network.fc.bias[1] - network.fc.bias[0]).item() / 1.7
    # Bilinear from 2 x 2 places to 64 x 64 keeps the mean.
    assert maps.mean((1, 2)) + bias == pytest.approx(((logits[:, 1] - logits[:, 0]) / 1.7).numpy(), abs=1e-4)


def test_without_a_map_it_is_the_one_of_predict(tmp_path):
    torch.manual_seed(0)
    network, checkpoint = models.build("simple", 64).eval(), checkpoint_of(64)
    films = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8)
    deployed = building.Deployed(network, checkpoint)

    class Model:
        size, temperature = 64.0, checkpoint["temperature"]

        @staticmethod
        def run(pixels: np.ndarray, _: str) -> list[np.ndarray]:
            with torch.inference_mode():
                return [deployed(torch.from_numpy(pixels))[2].numpy()]

    maps = explanation.heat_maps(checkpoint, network, films)
    expected = np.stack([predict.occlusion(Model, film) for film in films.numpy()])
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-4


def test_films_that_are_drawn_differ_and_are_those_it_was_surest_of():
    labels, none = np.array([0, 1, 0, 1]), torch.zeros(4, 4, 4)
    errors = {
        "one": explanation.Errors(none, labels, np.array([0.99, 0.9, 0.8, 0.9]), 0.5),
        "two": explanation.Errors(none, labels, np.array([0.9, 0.9, 0.999, 0.3]), 0.5),
    }
    assert explanation.worst_films(errors, 9) == [2, 0, 3] and explanation.worst_films(errors, 2) == [2, 0]


def test_a_film_is_called_what_it_is_and_what_its_frame_says(phantoms):
    split = data.split(phantoms)
    odds = np.linspace(-40, np.log(0.93 / 0.07), len(split.validation))
    captions = [caption.split("\n") for caption in explanation.captioned(phantoms, split, odds)]
    labels = phantoms.labels[split.validation]
    assert [truth for truth, _, _ in captions] == [("normal", "pneumonia")[label] for label in labels]
    assert all(phantoms.files[i].endswith(name) for i, (_, name, _) in zip(split.validation, captions, strict=True))
    assert (captions[0][2], captions[-1][2]) == ("frame: 0.00 ill", "frame: 0.93 ill")


def test_red_is_for_pneumonia_and_views_without_errors_are_left_out():
    network, checkpoint = models.build("resnet34", 64).eval(), checkpoint_of(64)
    films, labels = torch.full((2, 64, 64), 128, dtype=torch.uint8), np.array([0, 1])
    errors = {"wrong": explanation.Errors(films, labels, np.array([0.9, 0.9]), 0.4),
              "right": explanation.Errors(films, labels, np.array([0.1, 0.9]), 0.4)}  # fmt: skip
    sizes = []
    for sign, stronger in ((1, 0), (-1, 2)):
        with torch.no_grad():
            network.fc.weight[1], network.fc.weight[0] = sign * 5.0, -sign * 5.0  # features are never negative
        picture = Image.open(io.BytesIO(explanation.draw(checkpoint, network, errors, ["a", "b"], 1, "title"))).convert(
            "RGB"
        )
        totals = np.asarray(picture, float).sum((0, 1))
        assert totals[stronger] > totals[2 - stronger] and building.has_heatmap(network)
        sizes.append(picture.size)
    assert sizes[0] == sizes[1]
    more = explanation.draw(checkpoint, network, errors | {"right": errors["wrong"]}, ["a", "b"], 1, "title")
    wider = Image.open(io.BytesIO(more)).size
    assert wider[0] > sizes[0][0] * 1.2 and wider[1] == sizes[0][1]  # a column more
    both = {"wrong": explanation.Errors(films, labels, np.array([0.9, 0.1]), 0.4)}
    higher = Image.open(io.BytesIO(explanation.draw(checkpoint, network, both, ["a", "b"], 2, "title"))).size
    assert higher[1] > sizes[0][1] * 1.5 and higher[0] == sizes[0][0]  # a row more


def test_wrong_calls_are_one_line(run, cache, capsys, tmp_path):
    graph = tmp_path / "x.onnx"
    graph.write_bytes(b"")
    other = ["--data", str(tmp_path / "nowhere")]
    for call, reason in (
        ([str(tmp_path / "no.pt")], "no.pt"),
        ([str(graph)], "name the run's model.pt"),
        ([str(run), *other], "nowhere"),
    ):
        assert explain.main([*call, "--cache", str(cache)]) > 0
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1, error
