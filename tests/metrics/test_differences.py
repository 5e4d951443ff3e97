"""differences.py against sums by hand, SciPy and the tests that it generalises."""

import math
import re

import numpy as np
import pytest
import scipy.stats
from test_measures import sample

from metrics import differences, intervals, measures

NAN = math.nan
pytestmark = pytest.mark.filterwarnings("error")


def clustered(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities, and patients of one to a handful of images of both classes."""
    labels, probabilities = sample(seed, n)
    return labels, probabilities, [f"patient {k}" for k in np.random.default_rng(seed + 99).integers(0, n // 2, n)]


def noisy(probabilities: np.ndarray, seed: int, by: float = 0.2) -> np.ndarray:
    return np.clip(probabilities + np.random.default_rng(seed).normal(0, by, len(probabilities)), 0, 1)


# --- means --------------------------------------------------------------------------------------------------


def test_of_means_by_hand() -> None:
    """Patients a, a, b, b, c, d: sums of differences 2, 0, -1, 1."""
    first, second = [0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 1]
    found = differences.of_means([first], [second], list("aabbcd"))
    assert found.value == pytest.approx(2 / 6) and found.standard_error == pytest.approx(math.sqrt(4 + 1 + 1) / 6)
    assert found.freedom == 3  # b has one of each and says nothing
    assert found.piece == pytest.approx((8 + 1 + 1) / (4 + 1 + 1) / 6)
    t = scipy.stats.t.isf(0.025, 3)
    assert (found.low, found.high) == pytest.approx((2 / 6 - t * 6**0.5 / 6, 2 / 6 + t * 6**0.5 / 6))
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(2 / 6**0.5, 3))


@pytest.mark.parametrize(("only_first", "only_second"), [(3, 9), (20, 41), (130, 90), (7, 0), (5, 0), (20, 22)])
def test_with_an_image_each_it_is_mcnemars(only_first: int, only_second: int) -> None:
    right = np.array([[1] * only_first + [0] * only_second + [1] * 99, [0] * only_first + [1] * only_second + [1] * 99])
    found = differences.of_means(right[:1], right[1:], np.arange(right.shape[1]))
    squared = (only_first - only_second) ** 2 / (only_first + only_second)
    assert (found.value / found.standard_error) ** 2 == pytest.approx(squared)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(squared**0.5, only_first + only_second))
    exact = scipy.stats.binomtest(only_first, only_first + only_second).pvalue
    assert (found.p < 0.05) == (exact < 0.05)


@pytest.mark.parametrize("differ", range(1, 40))
def test_few_who_differ_are_no_evidence_unless_they_agree(differ: int) -> None:
    """Each of those who differ may do so either way: of all outcomes 6 % are evidence at most, of up to five none."""
    size = 0.0
    for wins in range(differ + 1):
        each = np.array([1] * wins + [-1] * (differ - wins) + [0] * 60)
        if differences.of_means(np.zeros((1, len(each))), each[None], np.arange(len(each))).p < 0.05:
            size += scipy.stats.binom.pmf(wins, differ, 0.5)
    assert size <= 0.06 and (differ > 5 or size == 0)


@pytest.mark.parametrize("seed", range(30))
def test_the_interval_excludes_0_exactly_where_p_is_small(seed: int) -> None:
    random = np.random.default_rng(seed)
    patients = random.integers(0, random.integers(2, 40), 60)
    seeds = (1, 1) if seed % 2 else (2, 3)
    groups = [random.random((count, 60)) < 0.5 + 0.3 * k for k, count in enumerate(seeds)]
    labels = np.arange(60) % 2
    for found in (differences.of_means(*groups, patients),
                  differences.of_auroc(labels, *(random.random((k, 60)) for k in seeds), patients)):  # fmt: skip
        assert (not found.low <= 0 <= found.high) == (found.p < 0.05)
        assert found.low < found.value < found.high


def test_copies_of_images_change_nothing() -> None:
    labels, a, patients = clustered(1)
    b = noisy(a, 1)
    once = differences.of_means([(a - labels) ** 2], [(b - labels) ** 2], patients)
    thrice = differences.of_means([np.tile((a - labels) ** 2, 3)], [np.tile((b - labels) ** 2, 3)], patients * 3)
    assert thrice == pytest.approx(once)
    area = differences.of_auroc(labels, [a], [b], patients)
    again = differences.of_auroc(np.tile(labels, 3), [np.tile(a, 3)], [np.tile(b, 3)], patients * 3)
    assert again == pytest.approx(area)


def test_where_no_patient_differs() -> None:
    same = differences.of_means([[1, 0, 1]], [[1, 0, 1]], list("abc"))
    assert (same.value, same.p, same.standard_error) == (0, 1, 0) and math.isnan(same.low) and math.isnan(same.freedom)
    assert all(math.isnan(x) for x in differences.of_means([[1, 0]], [[0, 1]], list("aa"))[1:])


# --- AUROC --------------------------------------------------------------------------------------------------


def test_of_auroc_is_second_minus_first() -> None:
    labels, a, patients = clustered(0)
    b = noisy(a, 0, 0.3)
    found = differences.of_auroc(labels, [a], [b], patients)
    assert found.value == pytest.approx(measures.auroc(labels, b) - measures.auroc(labels, a)) != 0
    _, covariance = intervals.delong(labels, np.stack((a, b)), patients)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    n = len(set(patients))
    assert found.standard_error == pytest.approx(error) and found.freedom == n
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(found.value) / error, n))
    assert (found.high - found.low) / 2 == pytest.approx(scipy.stats.t.isf(0.025, n) * error)
    back = differences.of_auroc(labels, [b], [a], patients)
    assert (back.low, back.high, back.p) == pytest.approx((-found.high, -found.low, found.p))


@pytest.mark.parametrize("seed", range(5))
def test_of_auroc_takes_rounding_for_no_variance(seed: int) -> None:
    labels, a, patients = clustered(seed, 501)
    found = differences.of_auroc(labels, [a], [a / 3], patients)
    assert (found.value, found.p, found.standard_error) == (0, 1, 0) and math.isnan(found.low)


@pytest.mark.parametrize(
    ("labels", "a", "b", "value", "p"),
    [
        ([0, 1, 0, 1, 1], [0.1, 0.4, 0.5, 0.6, 0.7], [0.2, 0.5, 0.6, 0.7, 0.8], 0.0, 1.0),  # the same ranks
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.8, 0.7], 0.0, 1.0),  # both perfect
        ([0, 0, 1, 1], [0.5] * 4, [0.1, 0.2, 0.3, 0.4], 0.5, NAN),
        ([1, 1, 1, 1], [0.5] * 4, [0.1, 0.2, 0.3, 0.4], NAN, NAN),
        ([0, 1, 1, 1], [0.5] * 4, [0.1, 0.2, 0.3, 0.4], 0.5, NAN),
    ],
)
def test_of_auroc_without_variance_cannot_tell(labels, a, b, value: float, p: float) -> None:
    found = differences.of_auroc(labels, [a], [b], np.arange(len(labels)))
    assert (found.value, found.p) == pytest.approx((value, p), nan_ok=True)
    assert math.isnan(found.low) and math.isnan(found.high)


# --- seeds --------------------------------------------------------------------------------------------------


def test_seeds_add_their_variance_and_their_degrees_of_freedom() -> None:
    labels, a, patients = clustered(3)
    first, second = (np.stack([noisy(a, 10 * k + i, by) for i in range(count)])
                     for k, (count, by) in enumerate(((3, 0.1), (4, 0.4))))  # fmt: skip
    found = differences.of_auroc(labels, first, second, patients)
    areas = [[measures.auroc(labels, row) for row in group] for group in (first, second)]
    assert found.value == pytest.approx(np.mean(areas[1]) - np.mean(areas[0]))
    _, covariance = intervals.delong(labels, np.concatenate((first, second)), patients)
    contrast = np.array([-1 / 3] * 3 + [1 / 4] * 4)
    parts = [contrast @ covariance @ contrast, np.var(areas[0], ddof=1) / 3, np.var(areas[1], ddof=1) / 4]
    assert found.standard_error == pytest.approx(math.sqrt(sum(parts)))
    uncertain = sum(part**2 / freedom for part, freedom in zip(parts, (len(set(patients)), 2, 3), strict=True))
    assert found.freedom == pytest.approx(min(sum(parts) ** 2 / uncertain, 6))
    means = differences.of_means(first, second, patients)
    each = second.mean(0) - first.mean(0)
    sums = [sum(each[i] for i in range(200) if patients[i] == one) for one in set(patients)]
    spread = np.var(first.mean(1), ddof=1) / 3 + np.var(second.mean(1), ddof=1) / 4
    assert means.standard_error == pytest.approx(math.sqrt(sum(s * s for s in sums) / 200**2 + spread))


def test_one_seed_against_several_has_no_p() -> None:
    labels, a, patients = clustered(4)
    several = np.stack([noisy(a, i) for i in range(3)])
    for found in (differences.of_auroc(labels, [a], several, patients),
                  differences.of_means(several, [a], patients),
                  differences.of_means([[0.5] * 200] * 2, [[0.5] * 200], patients)):  # fmt: skip
        assert math.isnan(found.p)
    alone = differences.of_means([several.mean(0)], [a], patients)
    found = differences.of_means(several, [a], patients)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))  # by patient only


# --- planning -----------------------------------------------------------------------------------------------


def known(error: float, freedom: float, piece: float = 0.0) -> differences.Difference:
    return differences.Difference(0.0, NAN, NAN, 0.5, error, freedom, piece)


def test_detectable_is_found_as_often_as_it_says() -> None:
    expected = scipy.stats.t.isf(0.025, 40) + scipy.stats.t.isf(0.2, 40)
    assert differences.detectable(known(0.01, 40), 0.05) == pytest.approx(0.01 * expected)
    more = differences.detectable(known(0.01, 40, 0.003), 0.05)
    assert more > 0.01 * expected and more == pytest.approx(expected * math.sqrt(0.01**2 + more * 0.003))
    for freedom, level in ((8, 0.05), (30, 0.05 / 14), (500, 0.05 / 14)):
        away = differences.detectable(known(1.0, freedom), level)
        power = scipy.stats.nct.sf(scipy.stats.t.isf(level / 2, freedom), freedom, away)
        assert 0.79 <= power < 0.87
    assert math.isnan(differences.detectable(known(0.0, NAN), 0.05))
    assert math.isnan(differences.detectable(known(NAN, NAN), 0.05))


def test_holm_by_hand_and_by_stepping_down() -> None:
    assert differences.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert differences.holm([0.9, 0.9]).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(differences.holm([NAN, 0.02, 0.5]), [NAN, 0.04, 0.5])  # what was not tested is no test
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 4
        for alpha in (0.01, 0.05, 0.3):
            kept = list(p)  # Holm's procedure itself: reject the smallest while it is small enough
            while kept and min(kept) <= alpha / len(kept):
                kept.remove(min(kept))
            assert [value not in kept for value in p] == (differences.holm(p) <= alpha).tolist()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("of_means", ([0, 1], [[0, 1]], ["a", "b"]), "groups must have shapes (S, N), found (2,) and (1, 2)"),
        ("of_means", ([[0, 1]], [[0, 1, 1]], ["a", "b"]), "groups must have shapes (S, N), found (1, 2) and (1, 3)"),
        ("of_means", ([[0, NAN]], [[0, 1]], ["a", "b"]), "1 of 2 values are not finite"),
        ("of_means", ([[0, 1]], [[0, 1]], ["a"]), "patients has 1 entries for 2 images"),
        ("of_auroc", ([0, 2], [[0, 1]], [[0, 1]], ["a", "b"]), "labels must be 0 or 1, found 2"),
        ("of_auroc", ([0, 1], [[0, 1.5]], [[0, 1]], ["a", "b"]), "probabilities must lie in [0, 1], found 1.5"),
        ("holm", ([0.5, 1.5],), "p_values must lie in [0, 1], found 1.5"),
        ("holm", ([],), "p_values must be one-dimensional and not empty, found shape (0,)"),
    ],
)
def test_malformed_input_is_named(function: str, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        getattr(differences, function)(*arguments)
