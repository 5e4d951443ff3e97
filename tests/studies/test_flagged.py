"""How many films a graph flags: the table of `python -m studies.limits`."""

import re

import numpy as np
import pytest
from PIL import Image

import export
import train
from studies import limits


def test_parts_of_films():
    films = np.ones((2, 8, 8), np.uint8)
    shown = {name: change(films) for name, change in limits.FILMS.items()}
    assert all(len(changed) == 2 and changed.dtype == np.uint8 for changed in shown.values())
    assert shown["right half black"][0].sum(0).tolist() == [8] * 4 + [0] * 4
    assert shown["lower half black"][0].sum(1).tolist() == [8] * 4 + [0] * 4
    assert shown["middle quarter"].shape == (2, 4, 4)
    assert all(drawn.shape[1:] == (32, 32) and drawn.dtype == np.uint8 for drawn in limits.patterns(32).values())


def test_a_table_of_what_a_graph_flags(tmp_path, cache, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--data", "phantoms", "--cache", str(cache), "--size", "64", "--out", "runs", "--epochs", "1"]
    assert train.main(["--arch", "simple", *options]) == 0
    assert export.main(["runs/simple/model.pt", "--cache", str(cache)]) == 0
    (tmp_path / "others" / "stripes").mkdir(parents=True)
    stripes = np.tile(np.array([0, 255], np.uint8).repeat(4), (64, 8))
    Image.fromarray(stripes).save(tmp_path / "others" / "stripes" / "one.png")
    capsys.readouterr()
    assert limits.main(["onnx/simple.onnx", "--cache", str(cache), "--others", "others"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"validation films +62 ", out) and re.search(r"one grey +52 +100.0%", out)
    assert re.search(r"stripes +1 +100.0% +100.0%", out) and re.search(r"negative +62 +9\d|negative +62 +100", out)
    assert re.search(r"all: n = 62, AUROC 0\.\d+, accuracy 0\.\d+; those that it does not refer: n = \d+, AUROC", out)
    for wrong in (["none.onnx"], ["runs/simple/model.pt"]):
        assert limits.main([*wrong, "--cache", str(cache)]) == 1
    with pytest.raises(SystemExit):
        limits.main(["--help"])


def test_answers_are_counted_where_nothing_is_referred():
    found = {"probability": np.float32([0.1, 0.6, 0.4, 0.9]), "decision": np.array([0, 1, 0, 1]),
             "refer": np.array([0, 1, 1, 0])}  # fmt: skip
    said = limits.answered(np.array([0, 0, 1, 1]), found)
    assert "all: n = 4, AUROC 0.7500, accuracy 0.5000; " in said
    assert said.endswith("refer: n = 2, AUROC 1.0000, accuracy 1.0000")
