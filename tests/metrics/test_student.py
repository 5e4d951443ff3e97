"""student.py against SciPy."""

import math

import pytest
import scipy.stats

from metrics import student

pytestmark = pytest.mark.filterwarnings("error")
FREEDOM = (1, 1.3, 2, 7, 30.5, 600, 1e5)


@pytest.mark.parametrize("freedom", FREEDOM)
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.3, 1.7, 2.0, 8.0, 60.0])
def test_two_sided_is_scipys(freedom: float, t: float) -> None:
    expected = 2 * scipy.stats.t.sf(t, freedom)
    assert student.two_sided(t, freedom) == pytest.approx(expected, rel=1e-8, abs=1e-290)
    assert student.two_sided(-t, freedom) == student.two_sided(t, freedom)


@pytest.mark.parametrize("freedom", FREEDOM)
@pytest.mark.parametrize("level", [0.9, 0.4, 0.05, 0.05 / 14, 1e-9])
def test_quantile_is_scipys(freedom: float, level: float) -> None:
    assert student.quantile(level, freedom) == pytest.approx(scipy.stats.t.isf(level / 2, freedom), rel=1e-8)


def test_with_no_end_of_freedom_it_is_normal() -> None:
    assert student.quantile(0.05, math.inf) == pytest.approx(scipy.stats.norm.isf(0.025))
    assert student.two_sided(2.0, math.inf) == pytest.approx(2 * scipy.stats.norm.sf(2.0))
    assert student.two_sided(math.inf, 3.0) == 0


@pytest.mark.parametrize(("level", "freedom"), [(0.0, 5), (1.0, 5), (0.05, 0.5), (0.05, math.nan)])
def test_malformed_input_is_named(level: float, freedom: float) -> None:
    with pytest.raises(ValueError, match=r"^level must lie in \(0, 1\) and freedom be at least 1, found "):
        student.quantile(level, freedom)
