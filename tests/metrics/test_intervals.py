"""intervals.py against metrics/measures.py on repeated images, brute-force sums, SciPy and counting by hand."""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.stats
from test_measures import SEEDS, sample

from metrics import intervals, measures

NAN = math.nan
pytestmark = pytest.mark.filterwarnings("error")


def bootstrap(labels, probabilities, threshold, weights) -> dict[str, np.ndarray]:
    """Every metric at one threshold, in every replicate."""
    return {
        **intervals.bootstrap_decisions(labels, probabilities, threshold, weights),
        **intervals.bootstrap_ranking(labels, probabilities, weights),
        **intervals.bootstrap_calibration(labels, probabilities, weights),
    }


def clustered(seed: int, n: int = 60, levels: int | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A sample in which patients have one to a handful of images, of both classes, in no order."""
    labels, probabilities = sample(seed, n, levels)
    names = [f"patient {k}" for k in np.random.default_rng(seed + 99).integers(0, n // 2, n)]
    return labels, probabilities, names


# --- bootstrap ----------------------------------------------------------------------------------------------


def test_patient_counts_draw_whole_patients_with_replacement() -> None:
    patients = ["b", "a", "b", "c", "a", "b"]
    weights = intervals.patient_counts(patients, 20_000, 3)
    assert weights.shape == (20_000, 6) and weights.dtype == np.int16
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 4]).all()
    drawn = weights[:, [1, 0, 3]]
    assert (drawn.sum(axis=1) == 3).all()
    seen, counts = np.unique(drawn, axis=0, return_counts=True)
    expected = [scipy.stats.multinomial.pmf(row, 3, [1 / 3] * 3) for row in seen]
    assert len(seen) == 10 and scipy.stats.chisquare(counts, 20_000 * np.array(expected)).pvalue > 1e-3
    assert (intervals.patient_counts(patients, 20_000, 3) == weights).all()
    assert (intervals.patient_counts(patients, 20_000, 4) != weights).any()


def repeated(labels: np.ndarray, probabilities: np.ndarray, row: np.ndarray, threshold: float) -> dict[str, float]:
    """Every metric of metrics/measures.py on images that are really there as often as the weights say."""
    labels, probabilities = np.repeat(labels, row), np.repeat(probabilities, row)
    shown = measures.classification(labels, probabilities, threshold)
    slope, intercept = measures.calibration_line(labels, probabilities)
    margin = measures.log_odds(probabilities)
    counts = {key: shown.pop(key) for key in ("n", "threshold", "tn", "fp", "fn", "tp")}
    assert counts["n"] == row.sum()
    return shown | {
        "average_precision": measures.average_precision(labels, probabilities),
        "log_loss": measures.log_loss(np.stack((0 * margin, margin), axis=1), labels),
        "brier": measures.brier(labels, probabilities),
        "calibration_error": measures.calibration_error(labels, probabilities),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "levels"), [(5, 2), (12, 3), (60, 8), (60, None), (300, 30)])
def test_bootstrap_is_every_metric_of_the_repeated_images(seed: int, n: int, levels: int | None) -> None:
    labels, probabilities, patients = clustered(seed, n, levels)
    weights = intervals.patient_counts(patients, 25, seed)
    for threshold in (0.5, 0.9):
        got = bootstrap(labels, probabilities, threshold, weights)
        for i, row in enumerate(weights):
            expected = repeated(labels, probabilities, row, threshold)
            assert set(got) == set(expected)
            found = {key: values[i] for key, values in got.items()}
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def test_bootstrap_in_parts_is_bootstrap_as_a_whole(monkeypatch) -> None:
    labels, probabilities, patients = clustered(0, 60, 8)
    weights = intervals.patient_counts(patients, 50, 0)
    whole = bootstrap(labels, probabilities, 0.5, weights)
    monkeypatch.setattr(intervals, "ENTRIES", 7 * 60)
    for key, values in bootstrap(labels, probabilities, 0.5, weights.astype(np.float32)).items():
        assert values.shape == (50,) and values.dtype == np.float64
        np.testing.assert_allclose(values, whole[key], rtol=1e-9)


def test_bootstrap_of_the_whole_sample_is_the_sample() -> None:
    labels, probabilities, _ = clustered(1, 300)
    got = bootstrap(labels, probabilities, 0.5, np.ones((1, 300)))
    expected = repeated(labels, probabilities, np.ones(300, dtype=int), 0.5)
    assert {key: values[0] for key, values in got.items()} == pytest.approx(expected, rel=1e-9)


def test_bootstrap_marks_what_is_undefined_in_a_replicate() -> None:
    weights = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    got = bootstrap([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], 0.8, weights)
    nan = {key: np.isnan(values).tolist() for key, values in got.items()}
    assert nan.pop("calibration_slope") == [True, True, True]
    assert nan.pop("sensitivity") == nan.pop("f1") == nan.pop("average_precision") == [True, False, False]
    assert nan.pop("precision") == [True, False, False] and nan.pop("specificity") == [False, True, False]
    for key in ("balanced_accuracy", "mcc", "auroc", "calibration_intercept"):
        assert nan.pop(key) == [True, True, False]
    assert nan and not np.any(list(nan.values()))


def test_interval_is_the_percentiles_of_what_is_defined() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 1000.0))
    assert intervals.interval(values) == pytest.approx((25.0, 975.0))
    assert intervals.interval(values, 0.5) == pytest.approx((250.0, 750.0))
    assert intervals.interval(values, 0.9999) == (1.0, 999.0)
    values = np.append(values[:95] * 0 + 3, [NAN] * 5)
    assert intervals.interval(values) == (3.0, 3.0)
    assert all(math.isnan(end) for end in intervals.interval(np.append(values, NAN)))
    assert all(math.isnan(end) for end in intervals.interval([NAN, NAN]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("statistic", [np.mean, np.var, scipy.stats.skew])
def test_bca_interval_agrees_with_scipy(seed: int, statistic) -> None:
    sample = np.random.default_rng(seed).exponential(size=40)
    expected = scipy.stats.bootstrap((sample,), statistic, n_resamples=9999, method="BCa", rng=seed)
    left_out = [statistic(np.delete(sample, i)) for i in range(40)]
    values = np.sort(expected.bootstrap_distribution)
    got = intervals.bca_interval(values, statistic(sample), left_out)
    # SciPy interpolates between other neighbours, which far out are far apart: compare which replicates were taken.
    assert np.searchsorted(values, got) == pytest.approx(np.searchsorted(values, expected.confidence_interval), abs=2)
    assert got != pytest.approx(intervals.interval(values), rel=0.02)


def test_bca_interval_without_bias_and_skewness_is_the_percentiles() -> None:
    values = np.arange(1.0, 1000.0)
    assert intervals.bca_interval(values, 500.0, [1.0, 2.0, 3.0], 0.9) == pytest.approx(intervals.interval(values, 0.9))
    assert intervals.bca_interval(values, 500.0, [2.0, 2.0]) == pytest.approx(intervals.interval(values))
    undefined = [(values, NAN, [1, 2]), (values, 0.5, [1, 2]), (values, 500, [1, NAN]), ([NAN], 500, [1, 2])]
    assert all(math.isnan(end) for arguments in undefined for end in intervals.bca_interval(*arguments))


def test_leave_one_out_drops_each_patient_once() -> None:
    assert intervals.leave_one_out(["b", "a", "b"]).tolist() == [[1, 0, 1], [0, 1, 0]]


# --- proportions --------------------------------------------------------------------------------------------


def by_loops(successes: np.ndarray, patients: list[str], z: float) -> float:
    """The images that are left, pair by pair."""
    share, n = successes.mean(), len(successes)
    groups = [successes[[name == one for name in patients]] - share for one in sorted(set(patients))]
    several = [group for group in groups if len(group) > 1]
    images = sum(len(group) for group in several)
    pairs = sum(a * b / (len(group) - 1) for group in several
                for i, a in enumerate(group) for j, b in enumerate(group) if i != j)  # fmt: skip
    excess = sum(len(group) ** 2 for group in groups) / n - 1
    added = z * z / 2 * excess / math.sqrt(images / n)
    alike = (pairs + added) / (share * (1 - share) * images + added)
    return n / (1 + min(max(alike, 0.0), 1.0) * excess)


@pytest.mark.parametrize("seed", SEEDS)
def test_clustered_wilson_by_loops(seed: int) -> None:
    labels, _, patients = clustered(seed)
    z = scipy.stats.norm.ppf(0.95)
    left = by_loops(labels, patients, z)
    for end in intervals.clustered_wilson(labels, patients, 0.9):  # the score test inverted: its own definition
        assert abs(labels.mean() - end) == pytest.approx(z * math.sqrt(end * (1 - end) / left))


def test_clustered_wilson_knows_copies_and_single_images() -> None:
    labels, _, _ = clustered(0)
    names = [f"{i}" for i in range(len(labels))]
    alone = intervals.clustered_wilson(labels, names)
    assert alone == pytest.approx(measures.wilson(int(labels.sum()), len(labels)))
    assert intervals.clustered_wilson(np.repeat(labels, 3), np.repeat(names, 3)) == pytest.approx(alone)
    swapped = intervals.clustered_wilson(1 - np.tile(labels, 2), names * 2)
    mine = intervals.clustered_wilson(np.tile(labels, 2), names * 2)
    assert mine == pytest.approx((1 - swapped[1], 1 - swapped[0]))


def test_one_error_does_not_make_fifty_patients_five_hundred() -> None:
    patients = np.repeat(np.arange(50), 10)
    right = np.ones(500, int)
    without = intervals.clustered_wilson(right, patients)
    right[123] = 0
    assert without[0] - 0.001 < intervals.clustered_wilson(right, patients)[0] <= without[0] < 0.93


def orders(patients: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """In which images fail one after the other: at random, patient by patient (any, largest, smallest), one of each."""
    n, sizes = len(patients), np.bincount(patients)
    place = np.concatenate([np.arange(size) for size in sizes])
    by = [random.random(len(sizes)), -sizes, sizes]
    return [random.permutation(n), np.lexsort((random.random(n), place)),
            *(np.lexsort((place, patients, key[patients])) for key in by)]  # fmt: skip


@pytest.mark.parametrize("sizes", [[10] * 50, [30, *[1] * 60], [2, 5, 1], [1] * 40, None, None, None])
def test_one_error_more_raises_no_limit(sizes: list | None) -> None:
    """Along thousands of nested sets of errors; without sizes: of patients as a public collection has them."""
    random = np.random.default_rng(len(sizes or []))
    for _ in range(2):
        counts = np.array(sizes or [30, *random.choice([1, 1, 1, 1, 2, 3, 5, 9], 100)])
        patients = np.repeat(np.arange(len(counts)), counts)
        for order in orders(patients, random):
            right, last = np.ones(len(patients), int), (1.0, 1.0)
            for image in order:
                ends = intervals.clustered_wilson(right, patients)
                assert ends[0] <= last[0] + 1e-12 and ends[1] <= last[1] + 1e-12
                right[image], last = 0, ends


def test_one_error_more_raises_no_limit_in_any_small_case() -> None:
    """Every way to spread 2 to 8 images over patients, every number of errors of each, every next error."""

    def parts(n: int, most: int) -> list[list[int]]:
        return [[]] if n == 0 else [[k, *rest] for k in range(min(n, most), 0, -1) for rest in parts(n - k, k)]

    for sizes in (sizes for n in range(2, 9) for sizes in parts(n, n) if len(sizes) > 1):
        patients = np.repeat(np.arange(len(sizes)), sizes)

        def ends(errors: tuple, sizes=sizes, patients=patients) -> tuple[float, float]:
            right = [k >= wrong for wrong, size in zip(errors, sizes, strict=True) for k in range(size)]
            return intervals.clustered_wilson(right, patients)

        found = {errors: ends(errors) for errors in itertools.product(*(range(size + 1) for size in sizes))}
        for errors, (low, high) in found.items():
            for k in range(len(sizes)):
                more = found.get((*errors[:k], errors[k] + 1, *errors[k + 1 :]))
                assert more is None or (more[0] <= low + 1e-12 and more[1] <= high + 1e-12)


def test_clustered_wilson_at_the_extremes() -> None:
    patients = ["a", "a", "a", "b", "c"]
    assert intervals.clustered_wilson([1] * 5, patients) == measures.wilson(25 / 11, 25 / 11)
    low, high = intervals.clustered_wilson([0] * 5, patients)
    assert low == 0 and high == pytest.approx(measures.wilson(0, 25 / 11)[1])
    assert intervals.clustered_wilson([True] * 4, list("abcd")) == measures.wilson(4, 4)
    for nothing in (([], []), ([1, 0], ["a", "a"]), ([1], ["a"])):
        assert all(math.isnan(end) for end in intervals.clustered_wilson(*nothing))


# --- AUROC --------------------------------------------------------------------------------------------------


def brute_delong(labels: np.ndarray, scores: np.ndarray, patients: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Obuchowski 1997 as printed, pair by pair; with a patient per image DeLong's, which it generalises."""
    ill, well = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    areas, v10, v01 = [], [], []
    for row in scores:
        psi = {(i, j): 1.0 if row[i] > row[j] else 0.5 if row[i] == row[j] else 0.0 for i in ill for j in well}
        areas.append(sum(psi.values()) / len(psi))
        v10.append({i: sum(psi[i, j] for j in well) / len(well) for i in ill})
        v01.append({j: sum(psi[i, j] for i in ill) / len(ill) for j in well})
    names = sorted(set(patients))

    def total(values: dict, name: str, area: float) -> float:
        return sum(value - area for image, value in values.items() if patients[image] == name)

    def s(one: list, r: int, two: list, t: int, size: int, images: int) -> float:
        sums = [total(one[r], name, areas[r]) * total(two[t], name, areas[t]) for name in names]
        return size / ((size - 1) * images) * sum(sums)

    i10, i01 = len({patients[i] for i in ill}), len({patients[j] for j in well})
    m, n, covariance = len(ill), len(well), np.empty((len(scores), len(scores)))
    for r in range(len(scores)):
        for t in range(len(scores)):
            s11 = s(v10, r, v01, t, len(names), 1) + s(v01, r, v10, t, len(names), 1)
            covariance[r, t] = s(v10, r, v10, t, i10, m) / m + s(v01, r, v01, t, i01, n) / n + s11 / (m * n)
    return np.array(areas), covariance


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("by_patient", [True, False])
def test_delong_agrees_with_brute_force(seed: int, levels: int | None, by_patient: bool) -> None:
    labels, first, patients = clustered(seed, 50, levels)
    scores = np.stack((first, sample(seed, 50)[1] ** 2, np.random.default_rng(seed).random(50)))
    areas, covariance = intervals.delong(labels, scores, patients if by_patient else None)
    expected = brute_delong(labels, scores, patients if by_patient else [str(i) for i in range(50)])
    np.testing.assert_allclose(areas, expected[0], rtol=1e-12)
    np.testing.assert_allclose(covariance, expected[1], rtol=1e-10, atol=1e-15)


def test_delong_without_patients_is_the_covariance_of_its_components() -> None:
    labels, first, _ = clustered(2, 80)
    scores = np.stack((first, np.random.default_rng(2).random(80)))
    won = (scores[:, labels == 1, None] > scores[:, None, labels == 0]).astype(float)
    m, n = won.shape[1:]
    expected = np.cov(won.mean(axis=2)) / m + np.cov(won.mean(axis=1)) / n
    np.testing.assert_allclose(intervals.delong(labels, scores)[1], expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_clustered_delong_is_near_the_jackknife_and_the_bootstrap_by_patient(seed: int) -> None:
    labels, probabilities, patients = clustered(seed, 600)
    others = np.clip(probabilities + np.random.default_rng(seed).normal(0, 0.2, 600), 0, 1)
    _, covariance = intervals.delong(labels, np.stack((probabilities, others)), patients)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    names = np.array(patients)
    drop = [names != name for name in set(patients)]
    left = [measures.auroc(labels[k], probabilities[k]) - measures.auroc(labels[k], others[k]) for k in drop]
    assert error == pytest.approx(math.sqrt(len(left) - 1) * np.std(left), rel=0.02)
    weights = intervals.patient_counts(patients, 2000, seed)
    a, b = (intervals.bootstrap_ranking(labels, p, weights)["auroc"] for p in (probabilities, others))
    assert np.std(a - b) == pytest.approx(error, rel=0.06)


def test_delong_of_copies_is_delong_of_the_originals() -> None:
    labels, probabilities, _ = clustered(4, 50)
    names = [f"{i}" for i in range(50)]
    once = intervals.delong(labels, probabilities[None], names)
    thrice = intervals.delong(np.repeat(labels, 3), np.repeat(probabilities, 3)[None], np.repeat(names, 3))
    np.testing.assert_allclose(thrice[1], once[1], rtol=1e-12)
    np.testing.assert_allclose(intervals.delong(labels, probabilities[None])[1], once[1], rtol=1e-12)


def test_auroc_interval_is_symmetric_in_the_log_odds() -> None:
    labels, probabilities, patients = clustered(0)
    (area,), ((variance,),) = intervals.delong(labels, probabilities[None], patients)
    ends = intervals.auroc_interval(labels, probabilities, patients, 0.9)
    parts = intervals.placements(labels, probabilities[None], patients).sums.sum(axis=0)[0]
    matter = sum(part**2 for part in parts) ** 2 / sum(part**4 for part in parts)
    t = scipy.stats.t.ppf(0.95, matter + 2)
    middle, half = math.log(area / (1 - area)), t * math.sqrt(variance) / (area * (1 - area))
    assert [math.log(end / (1 - end)) for end in ends] == pytest.approx([middle - half, middle + half])


def test_auroc_interval_of_a_perfect_ranking_counts_disjoint_pairs() -> None:
    labels, probabilities = [0] * 6 + [1] * 10, np.linspace(0, 1, 16)
    assert intervals.auroc_interval(labels, probabilities) == measures.wilson(6, 6)
    assert intervals.auroc_interval(labels, probabilities[::-1])[1] == measures.wilson(0, 6)[1]
    patients = list("aabbccddeeffgghh")  # three patients with negatives
    assert intervals.auroc_interval(labels, probabilities, patients) == measures.wilson(3, 3)
    assert intervals.auroc_interval([0, 1] * 2, [0.1, 0.8, 0.2, 0.9], list("aabb")) == measures.wilson(1, 1)


def test_undefined_auroc_intervals_are_nan() -> None:
    for labels, probabilities, patients in (
        ([1, 1, 1], [0.1, 0.2, 0.3], list("abc")),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.1], list("aaaa")),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], list("aaaa")),
        ([0, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], list("abcd")),
        ([0, 1, 0, 1], [0.5] * 4, list("abcd")),
    ):
        assert all(math.isnan(end) for end in intervals.auroc_interval(labels, probabilities, patients))


# --- malformed input ----------------------------------------------------------------------------------------

ONES = np.ones((2, 2))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("patient_counts", (["a", "a"], 10, 0), "resampling needs at least two patients, found 1"),
        ("patient_counts", ([], 10, 0), "patients must be a sequence of names, found float64 of shape (0,)"),
        ("patient_counts", ([0.5, NAN], 10, 0), "patients must be a sequence of names, found float64"),
        ("patient_counts", (["a", "b"], 0, 0), "replicates must be at least 1, found 0"),
        ("leave_one_out", (["a", "a"],), "leaving one out needs at least two patients, found 1"),
        ("bca_interval", ([1.0], 1.0, [1.0], 0.0), "confidence must lie in (0, 1), found 0.0"),
        ("bca_interval", ([1.0], 1.0, []), "replicates must be one-dimensional and not empty, found shape (0,)"),
        ("bootstrap_decisions", ([0, 1], [0.1, 1.2], 0.5, ONES), "probabilities must lie in [0, 1], found 1.2"),
        ("bootstrap_decisions", ([0, 1], [0.1, NAN], 0.5, ONES), "1 of 2 probabilities are not finite"),
        ("bootstrap_decisions", ([0, 1], [0.1, 0.2], NAN, ONES), "threshold is nan"),
        (
            "bootstrap_decisions",
            ([0, 1], [0.1, 0.2], 0.5, np.ones((2, 3))),
            "weights must have shape (R, 2), found (2, 3)",
        ),
        (
            "bootstrap_decisions",
            ([0, 1], [0.1, 0.2], 0.5, -ONES),
            "weights must be finite, not negative, and not all 0",
        ),
        ("bootstrap_decisions", ([0, 1], [0.1, 0.2], 0.5, NAN * ONES), "weights must be finite"),
        (
            "bootstrap_decisions",
            ([0, 1], [0.1, 0.2], 0.5, 0 * ONES),
            "weights must be finite, not negative, and not all 0",
        ),
        ("bootstrap_ranking", ([0, 2], [0.1, 0.2], ONES), "labels must be 0 or 1, found 2"),
        ("bootstrap_calibration", ([0, 1], [0.1, 0.2], ONES, 0), "bins must be at least 1, found 0"),
        ("interval", ([],), "replicates must be one-dimensional and not empty, found shape (0,)"),
        ("interval", ([1.0, math.inf],), "1 of 2 replicates are infinite"),
        ("interval", ([1.0], 95), "confidence must lie in (0, 1), found 95"),
        ("clustered_wilson", ([0, 2], ["a", "b"]), "successes must be 0 or 1, found 2"),
        ("clustered_wilson", ([0, 1], ["a"]), "patients has 1 entries for 2 images"),
        ("clustered_wilson", ([0, 1], ["a", "b"], 1.0), "confidence must lie in (0, 1), found 1.0"),
        ("delong", ([0, 1], [0.1, 0.2]), "probabilities must have shape (M, N), found (2,)"),
        ("delong", ([0, 1], [[0.1, 0.2, 0.3]]), "probabilities has 3 entries but labels has 2"),
        ("delong", ([0, 1], [[0.1, 0.2]], ["a"]), "patients has 1 entries for 2 images"),
        ("auroc_interval", ([0, 1], [0.1, -0.2]), "probabilities must lie in [0, 1], found -0.2"),
    ],
)
def test_malformed_input_is_named(function: str, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        getattr(intervals, function)(*arguments)
