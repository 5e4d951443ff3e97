"""Numbers as they are printed, and tables of them."""

import pytest
from results import NAN, estimate

from evaluation import markup


@pytest.mark.parametrize(("value", "digits", "sign", "expected"), [
    (0.97449, 3, False, "0.974"), (1234.5678, 1, False, "1,234.6"), (-0.0004, 3, True, "0.000"),
    (0.5, 2, True, "+0.50"), (-0.5, 2, True, "-0.50"), (NAN, 3, False, "-"), (None, 3, True, "-"), (7, 0, False, "7"),
])  # fmt: skip
def test_number(value, digits, sign, expected):
    assert markup.number(value, digits, sign) == expected


def test_intervals_and_p():
    assert markup.with_interval({"value": 0.5, "low": 0.25, "high": 0.75}, 2) == "0.50 [0.25, 0.75]"
    assert markup.with_interval({"value": 0.5, "low": NAN, "high": 0.75}, 2) == "0.50"
    assert markup.with_interval(estimate(NAN)) == markup.with_interval(None) == "-"
    assert [markup.p_value(p) for p in (0.00009, 0.0001, NAN, None)] == ["< 0.0001", "0.0001", "-", "-"]


def test_columns_of_numbers_stand_to_the_right():
    rows = [["a", "1,234", "0.5 [0.4, 0.6]", "-", 7], ["1", "24.6 %", "0.1", "< 0.0001", -3]]
    assert markup.numeric(rows, 5) == [False, True, False, True, True]
    assert markup.numeric([], 2) == [False, False]
    assert markup.github_table(["a", "b"], [["x", 1]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
    assert '<td class="n">1</td>' in markup.html_table("t", ["a"], [[1]])
    assert '<td class="long">' in markup.html_table("t", ["a"], [["x" * 49]])
