"""Heat maps of predict.py: whether they lie where a planted square is, and how the overlays are drawn."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from folders import draw
from PIL import Image, ImageDraw
from predicting import bright_graph, call

import predict


@pytest.fixture(scope="module")
def bright(tmp_path_factory) -> Path:
    return bright_graph(tmp_path_factory.mktemp("bright") / "bright.onnx")


def spotted(path: Path, size: tuple[int, int], corner: tuple[int, int], side: int) -> None:
    pixels = np.full((size[1], size[0]), 100, np.uint8)
    pixels[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_occlusion_finds_a_planted_square(bright):
    model = predict.open_model(bright, "cpu")
    pixels = np.full((120, 200), 100, np.uint8)
    pixels[24:48, 140:180] = 250
    heat = predict.occlusion(model, pixels)
    assert heat.shape == (10, 10)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert row in (2, 3) and column in (7, 8)
    assert np.abs(heat[6:]).max() < 0.05 * heat.max()
    logits = model.run(pixels[None], "logits")[0][0]  # one patch over the whole square takes all of its log-odds
    assert heat.max() <= (logits[1] - logits[0]) * 1.02


@pytest.mark.parametrize("own", [True, False], ids=["the graph's", "occlusion"])
def test_heatmaps(tmp_path, own, capsys):
    model = bright_graph(tmp_path / "x.onnx", heatmap=own)
    for name in ("a/film.png", "b/film.png", "b/../c/fi:lm.png"):
        spotted(tmp_path / name, (300, 150), (200, 30), 40)
    files = [tmp_path / "a", tmp_path / "b" / "film.png", tmp_path / "b" / ".." / "c" / "fi:lm.png"]
    heat = tmp_path / "heat"
    assert call(model, *files, "--heatmaps", heat, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["heatmap"] for row in rows) == sorted(str(path) for path in heat.iterdir())
    assert len({row["heatmap"] for row in rows}) == 3
    pixels = np.asarray(Image.open(rows[0]["heatmap"])).astype(int)
    colour = pixels.max(2) - pixels.min(2)
    plain = colour[:, : 10 + predict.PANEL]
    assert plain.max() == 0  # the left panel is the film, and the texts are grey
    shown = colour[:, 20 + predict.PANEL : 20 + 2 * predict.PANEL]
    rows_, columns = np.nonzero(shown > 0.8 * shown.max())
    scale = predict.PANEL / 300
    assert 190 * scale < columns.mean() < 250 * scale
    assert 20 * scale < rows_.mean() - (pixels.shape[0] - 10 - 150 * scale) < 80 * scale
    assert colour[:, 30 + 2 * predict.PANEL :].max() > 200  # the bar


def test_an_overlay_of_any_proportions_has_its_texts(bright, tmp_path, capsys):
    for i, size in enumerate([(20, 400), (400, 20), (1, 1)]):
        draw(tmp_path / f"{'long' * 40}{i}.png", i, size)
    assert call(bright, tmp_path, "--heatmaps", tmp_path / "heat") == 0
    for path in (tmp_path / "heat").iterdir():
        with Image.open(path) as image:
            assert image.width >= 250 and image.height >= 150
            pixels = np.asarray(image.convert("L"))
        assert pixels[:10].max() == 0 and pixels[:, :5].max() == 0 and pixels[:, -5:].max() == 0
        assert pixels[10:90].max() > 200


def test_an_overlay_says_why_a_person_should_read_the_film(bright, monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, *rest: drawn.append(text))
    row = {"file": "x", "decision": "NORMAL", "probability": 0.25}
    model, grey = predict.open_model(bright, "cpu"), np.zeros((40, 50), np.uint8)
    for said in (
        {"refer": True, "flags": "upside down; half black"}, {"refer": True, "flags": ""},
        {"refer": False, "flags": "mirrored"}, {"refer": False, "flags": None},
    ):  # fmt: skip
        predict.overlay(row | said, grey, np.zeros((4, 4)), model)
    assert [text for text in drawn if text.startswith("NORMAL")] == [
        f"NORMAL, P(PNEUMONIA) = 0.250{end}" for end in (", refer: upside down", ", refer", ": mirrored", "")
    ]


def test_the_colour_map_is_viridis():
    steps = np.linspace(0, 1, 256)
    expected = matplotlib.colormaps["viridis"](steps)[:, :3] * 255
    assert np.abs(predict.viridis(steps) - expected).max() < 6
