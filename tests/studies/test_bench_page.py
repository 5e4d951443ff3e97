"""The page beside predict.py: the rates that both say, and their ratio."""

import re

import browsing
import pytest
from predicting import SCRIPT

from basics.problems import Problem
from graphs import page
from studies import bench_page


@pytest.mark.parametrize(("said", "rate"), [
    ("7 NORMAL, 0 errors, 0 warnings; 8.5 films/s", 8.5),
    ("note: 3 files\n7 NORMAL, 0 errors, 0 warnings; 1,136.7 files/s\n", 1136.7),
])  # fmt: skip
def test_rates_are_read_from_the_last_line(said, rate):
    assert bench_page.rate_of(said) == rate


def test_a_turn_that_fails_is_no_rate():
    with pytest.raises(Problem, match="no rate in 'error: x.onnx: damaged'"):
        bench_page.rate_of("error: x.onnx: damaged")


@browsing.needed
@pytest.mark.skipif(not (page.ROOT / "node_modules" / page.RUNTIME).is_dir(), reason="no node_modules: npm ci")
def test_both_read_the_same_films_and_a_ratio_is_printed(capsys):
    films = SCRIPT.parent / "examples" / "films"
    assert bench_page.main([str(SCRIPT.parent / "trained" / "simple.onnx"), str(films), "--repeats", "1"]) == 0
    browser, python, first, ratio = capsys.readouterr().out.splitlines()
    values = [float(re.search(r"[\d.]+", line)[0]) for line in (browser, python.removeprefix("predict.py"), ratio)]
    assert browser.endswith(")") and first.startswith("page, first turn: ")
    assert ratio.endswith("simple.onnx, 4 films, 1 turns")
    assert values[2] == pytest.approx(values[0] / values[1], abs=0.02)
