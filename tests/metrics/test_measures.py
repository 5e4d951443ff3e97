"""Each function of metrics/measures.py against an independent oracle: scikit-learn, SciPy, or counting by hand."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics

from metrics import measures

SEEDS = range(6)
NAN, INF = math.nan, math.inf


def sample(seed: int, n: int = 300, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels with both classes, and probabilities that inform on them; few levels make heavy ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.7).astype(int)
    labels[:2] = 0, 1
    probabilities = scipy.special.expit(rng.normal(1.2 * labels - 0.4, 1.5))
    return labels, probabilities if levels is None else np.round(probabilities * levels) / levels


def sample_logits(seed: int, n: int = 300, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of some logits, and those logits times scale (best T near scale)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 2)) * 1.5
    labels = (rng.random(n) < scipy.special.softmax(logits, axis=1)[:, 1]).astype(int)
    return logits * scale, labels


# --- probabilities and loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.5])
def test_positive_probability_is_the_softmax(seed: int, temperature: float) -> None:
    logits, _ = sample_logits(seed)
    expected = scipy.special.softmax(logits / temperature, axis=1)[:, 1]
    got = measures.positive_probability(logits, temperature)
    assert got.dtype == np.float64 and got.shape == (len(logits),)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.5])
def test_log_loss_agrees_with_sklearn(seed: int, temperature: float) -> None:
    logits, labels = sample_logits(seed)
    probabilities = scipy.special.softmax(logits / temperature, axis=1)
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=[0, 1])
    assert measures.log_loss(logits, labels, temperature) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("error")
def test_extreme_logits_stay_finite_and_right() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]])
    labels = np.array([1, 0, 0, 1, 1])
    assert measures.log_loss(logits, labels) == pytest.approx((2e4 + 2e4 + 0 + 0 + math.log(2)) / 5)
    assert measures.log_loss(logits, labels, 0.05) == pytest.approx((8e5 + math.log(2)) / 5)
    assert measures.positive_probability(logits).tolist() == [0.0, 1.0, 0.0, 1.0, 0.5]


def test_small_probabilities_keep_their_digits() -> None:
    logits = np.array([[40.0, 0.0], [700.0, 0.0]])
    np.testing.assert_allclose(measures.positive_probability(logits), np.exp([-40.0, -700.0]), rtol=1e-13)
    assert measures.log_loss(logits[:1], [0]) == pytest.approx(math.exp(-40.0), rel=1e-13)


def test_single_precision_logits_are_worked_on_in_double() -> None:
    logits, labels = sample_logits(0)
    single = logits.astype(np.float32)
    assert measures.positive_probability(single).dtype == np.float64
    assert measures.log_loss(single, labels) == measures.log_loss(single.astype(np.float64), labels)


# --- ranking ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("levels", [None, 1, 2, 5, 40])
def test_auroc_agrees_with_sklearn_and_with_counting_pairs(seed: int, levels: int | None) -> None:
    labels, scores = sample(seed, levels=levels)
    assert measures.auroc(labels, scores) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    gaps = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    assert measures.auroc(labels, scores) == pytest.approx(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


@pytest.mark.filterwarnings("error")
def test_auroc_at_its_extremes() -> None:
    assert measures.auroc([0, 0, 1, 1], [-3.0, 1.0, 2.0, 90.0]) == 1.0
    assert measures.auroc([1, 1, 0, 0], [-3.0, 1.0, 2.0, 90.0]) == 0.0
    assert measures.auroc([1, 0, 1, 0], [7, 7, 7, 7]) == 0.5
    assert math.isnan(measures.auroc([1, 1], [0.1, 0.2])) and math.isnan(measures.auroc([0], [0.1]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("levels", [None, 1, 2, 5, 40])
def test_average_precision_agrees_with_sklearn(seed: int, levels: int | None) -> None:
    labels, scores = sample(seed, levels=levels)
    expected = sklearn.metrics.average_precision_score(labels, scores)
    assert measures.average_precision(labels, scores) == pytest.approx(expected, rel=1e-12)
    assert measures.average_precision(labels[::-1], scores[::-1]) == measures.average_precision(labels, scores)


@pytest.mark.filterwarnings("error")
def test_average_precision_of_one_class() -> None:
    assert math.isnan(measures.average_precision([0, 0], [0.1, 0.2])) and measures.average_precision([1], [0.1]) == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("levels", [None, 1, 5, 40])
def test_roc_curve_agrees_with_sklearn(seed: int, levels: int | None) -> None:
    labels, scores = sample(seed, levels=levels)
    expected = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    fpr, tpr, thresholds = measures.roc_curve(labels, scores)
    for got, want in zip((fpr, tpr, thresholds), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13)
    assert len(fpr) == len(np.unique(scores)) + 1
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(measures.auroc(labels, scores))


@pytest.mark.filterwarnings("error")
def test_roc_curve_of_one_class_has_an_undefined_rate() -> None:
    fpr, tpr, thresholds = measures.roc_curve([1, 1], [0.2, 0.6])
    assert np.isnan(fpr).all() and tpr.tolist() == [0, 0.5, 1] and thresholds.tolist() == [INF, 0.6, 0.2]


# --- decisions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_confusion_agrees_with_sklearn(seed: int) -> None:
    labels, probabilities = sample(seed)
    counts = measures.confusion(labels, probabilities >= 0.6)
    assert list(counts) == sklearn.metrics.confusion_matrix(labels, probabilities >= 0.6).ravel().tolist()
    assert counts._fields == ("tn", "fp", "fn", "tp") and all(type(count) is int for count in counts)


def test_confusion_of_a_corner_keeps_all_four_counts() -> None:
    assert measures.confusion([0, 0, 0], [0, 0, 0]) == (3, 0, 0, 0)
    assert measures.confusion([0, 1, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1]) == (0, 3, 2, 1)


def test_decide_includes_the_threshold() -> None:
    half = 0.5
    decisions = measures.decide([0.0, np.nextafter(half, 0), half, np.nextafter(half, 1), 1.0], half)
    assert decisions.dtype == np.int64 and decisions.tolist() == [0, 0, 1, 1, 1]
    assert measures.decide([0.0, 1.0], 0.0).tolist() == [1, 1]
    assert measures.decide([0.0, 1.0], INF).tolist() == [0, 0]


def test_decide_compares_single_precision_with_an_unrounded_threshold() -> None:
    probability = np.array([0.5], dtype=np.float32)
    assert measures.decide(probability, 0.5 + 1e-12).tolist() == [0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("levels", [None, 10])
def test_classification_agrees_with_sklearn(seed: int, threshold: float, levels: int | None) -> None:
    labels, probabilities = sample(seed, n=80, levels=levels)
    decisions = (probabilities >= threshold).astype(int)
    tn, fp, fn, tp = sklearn.metrics.confusion_matrix(labels, decisions).ravel()
    expected = {
        "n": 80,
        "threshold": threshold,
        "accuracy": sklearn.metrics.accuracy_score(labels, decisions),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, decisions),
        "sensitivity": sklearn.metrics.recall_score(labels, decisions),
        "specificity": sklearn.metrics.recall_score(labels, decisions, pos_label=0),
        "precision": sklearn.metrics.precision_score(labels, decisions, zero_division=NAN),
        "npv": sklearn.metrics.precision_score(labels, decisions, pos_label=0, zero_division=NAN),
        "f1": sklearn.metrics.f1_score(labels, decisions, zero_division=NAN),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, decisions) if 0 < decisions.sum() < 80 else NAN,
        "auroc": sklearn.metrics.roc_auc_score(labels, probabilities),
        **{"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }
    got = measures.classification(labels, probabilities, threshold)
    assert list(got) == list(expected)
    assert got == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert {type(value) for value in got.values()} == {int, float}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "probabilities", "undefined"),
    [
        ([0, 0], [0.1, 0.2], {"sensitivity", "balanced_accuracy", "precision", "f1", "mcc", "auroc"}),
        ([0, 0], [0.1, 0.9], {"sensitivity", "balanced_accuracy", "mcc", "auroc"}),
        ([1, 1], [0.1, 0.2], {"specificity", "balanced_accuracy", "precision", "mcc", "auroc"}),
        ([0, 1], [0.1, 0.2], {"precision", "mcc"}),
        ([0, 1], [0.8, 0.9], {"npv", "mcc"}),
        ([0, 1], [0.1, 0.9], set()),
    ],
)
def test_classification_marks_what_is_undefined(
    labels: list[int], probabilities: list[float], undefined: set[str]
) -> None:
    row = measures.classification(labels, probabilities, 0.5)
    assert {name for name, value in row.items() if math.isnan(value)} == undefined


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("n", "levels"), [(2, 3), (12, 2), (40, 8), (60, None)])
@pytest.mark.parametrize("target", [1e-9, 0.5, 0.9, 0.95, 1.0])
def test_threshold_at_sensitivity_is_the_highest(seed: int, n: int, levels: int | None, target: float) -> None:
    labels, probabilities = sample(seed, n, levels)
    enough = [t for t in probabilities if measures.classification(labels, probabilities, t)["sensitivity"] >= target]
    below = probabilities[probabilities < max(enough)].max(initial=min(0.0, probabilities.min()))
    threshold = measures.threshold_at_sensitivity(labels, probabilities, target)
    assert threshold == pytest.approx((below + max(enough)) / 2) and type(threshold) is float
    same = measures.decide(probabilities, threshold) == measures.decide(probabilities, max(enough))
    assert same.all()


@pytest.mark.parametrize("top", [0.3, 0.5, 1.0, 5e-324])
def test_threshold_at_sensitivity_between_adjacent_floats_and_at_exact_shares(top: float) -> None:
    probabilities = np.array([np.nextafter(top, 0), top])
    threshold = measures.threshold_at_sensitivity([0, 1], probabilities, 1.0)
    assert measures.decide(probabilities, threshold).tolist() == [0, 1]
    for n in range(1, 60):  # k of n is enough for a target of k/n, and k - 1 is not
        ladder = np.arange(n) / n
        found = [measures.threshold_at_sensitivity([1] * n, ladder, k / n) for k in range(1, n + 1)]
        assert [int(np.sum(ladder >= t)) for t in found] == list(range(1, n + 1))


@pytest.mark.filterwarnings("error")
def test_at_prevalence_by_counting_and_where_undefined() -> None:
    labels, decisions = [1] * 40 + [0] * 160, [1] * 36 + [0] * 4 + [1] * 24 + [0] * 136
    row = measures.classification(labels, np.array(decisions) * 1.0, 0.5)
    found = measures.at_prevalence(row["sensitivity"], row["specificity"], 0.2)
    assert found == pytest.approx({"ppv": row["precision"], "npv": row["npv"], "films_per_missed": 200 / 4})
    assert measures.at_prevalence(1, 1, 0.5) == {"ppv": 1, "npv": 1, "films_per_missed": INF}
    assert measures.at_prevalence(0.9, 0.8, 0)["films_per_missed"] == INF
    assert measures.at_prevalence(0, 1, 0.25) == pytest.approx(
        {"ppv": NAN, "npv": 0.75, "films_per_missed": 4}, nan_ok=True
    )
    assert all(math.isnan(value) for value in measures.at_prevalence(NAN, 0.9, 0.5).values())


@pytest.mark.parametrize("levels", [None, 10])
def test_net_benefit_by_counting(levels: int | None) -> None:
    labels, probabilities = sample(3, 80, levels)
    thresholds = np.array([0.0, 0.1, 0.5, 0.7, 0.99])
    model, treat_all = measures.net_benefit(labels, probabilities, thresholds)
    for t, got, everyone in zip(thresholds, model, treat_all, strict=True):
        _, fp, _, tp = measures.confusion(labels, probabilities >= t)
        assert got == pytest.approx(tp / 80 - fp / 80 * t / (1 - t))
        assert everyone == pytest.approx(labels.mean() - (1 - labels.mean()) * t / (1 - t))


# --- intervals and tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 10), (388, 390), (5, 9000)])
def test_wilson_agrees_with_scipy(successes: int, n: int, confidence: float) -> None:
    expected = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    low, high = measures.wilson(successes, n, confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
    assert 0 <= low < high <= 1 and (low == 0) == (successes == 0) and (high == 1) == (successes == n)


def test_wilson_defaults_to_95_percent_and_is_undefined_without_trials() -> None:
    assert measures.wilson(7, 11) == measures.wilson(7, 11, 0.95)
    assert all(math.isnan(end) for end in measures.wilson(0, 0))


# --- choosing temperature and threshold ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [0.2, 1.0, 6.0])
def test_fit_temperature_agrees_with_scipy(seed: int, scale: float) -> None:
    logits, labels = sample_logits(seed, scale=scale)

    def loss(log_temperature: float) -> float:
        probabilities = scipy.special.log_softmax(logits / math.exp(log_temperature), axis=1)
        return -probabilities[np.arange(len(labels)), labels].mean()

    options = {"xatol": 1e-10}
    best = scipy.optimize.minimize_scalar(
        loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options=options
    )
    assert best.success
    got = measures.fit_temperature(logits, labels)
    assert got == pytest.approx(math.exp(best.x), rel=1e-5)
    assert 0.05 < got < 20 and type(got) is float


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [0.01, 1.0, 1e4])
def test_fit_temperature_stays_at_the_bounds(size: float) -> None:
    logits = size * np.array([[1.0, -1.0], [2.0, -1.0], [-1.0, 1.0], [-1.0, 3.0]])
    labels = np.array([0, 0, 1, 1])
    assert measures.fit_temperature(logits, labels) == 0.05
    assert measures.fit_temperature(logits, labels, (0.3, 7.0)) == 0.3
    assert measures.fit_temperature(logits, 1 - labels, (0.3, 7.0)) == 7.0


@pytest.mark.parametrize(("bounds", "expected"), [((1.5, 20.0), 1.5), ((0.05, 0.5), 0.5)])
def test_fit_temperature_takes_the_bound_nearest_to_an_optimum_outside(
    bounds: tuple[float, float], expected: float
) -> None:
    logits, labels = sample_logits(1)
    assert 0.5 < measures.fit_temperature(logits, labels) < 1.5
    assert measures.fit_temperature(logits, labels, bounds) == expected


def test_fit_temperature_leaves_uninformative_logits_alone() -> None:
    logits = np.full((4, 2), 3.0)
    assert measures.fit_temperature(logits, [0, 1, 1, 0]) == 1.0
    assert measures.fit_temperature(logits, [0, 1, 1, 0], (2.0, 5.0)) == 2.0


def youden(labels: np.ndarray, decisions: np.ndarray) -> Fraction:
    positive, negative = decisions[labels == 1], decisions[labels == 0]
    return Fraction(int(positive.sum()), len(positive)) - Fraction(int(negative.sum()), len(negative))


def assert_is_best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Try every way to split the probabilities; compare J exactly and the tie-break by exact midpoints."""
    distinct = sorted(set(probabilities.tolist()))
    options = [
        (youden(labels, probabilities >= upper), (Fraction(lower) + Fraction(upper)) / 2)
        for lower, upper in zip([0.0, *distinct[:-1]], distinct, strict=True)
    ]
    if distinct[-1] < 1:
        options.append((Fraction(0), (Fraction(distinct[-1]) + 1) / 2))  # nobody is called positive
    best = max(gain for gain, _ in options)
    threshold = measures.youden_threshold(labels, probabilities)
    assert type(threshold) is float and 0 <= threshold <= 1
    assert youden(labels, measures.decide(probabilities, threshold)) == best
    nearest = min(abs(middle - Fraction(1, 2)) for gain, middle in options if gain == best)
    assert abs(threshold - 0.5) == pytest.approx(float(nearest), abs=1e-15)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(("n", "levels"), [(2, 3), (6, 4), (12, 2), (40, 8), (60, None)])
def test_youden_threshold_is_best_of_all(seed: int, n: int, levels: int | None) -> None:
    assert_is_best_threshold(*sample(seed, n, levels))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("start", [0.0, 0.3, 0.5, 0.75, 1.0])
def test_youden_threshold_splits_adjacent_floats(seed: int, start: float) -> None:
    rng = np.random.default_rng(seed)
    ladder = [start]
    for _ in range(4):
        ladder.append(float(np.nextafter(ladder[-1], 0.4)))
    probabilities = rng.choice(ladder, size=10)
    labels = np.append([0, 1], rng.integers(0, 2, size=8))
    assert_is_best_threshold(labels, probabilities)


@pytest.mark.parametrize("top", [0.3, 0.5, 0.7, 1.0, 5e-324, float(np.float32(0.1))])
def test_youden_threshold_separates_two_adjacent_floats(top: float) -> None:
    probabilities = np.array([np.nextafter(top, 0), top])
    threshold = measures.youden_threshold([0, 1], probabilities)
    assert measures.decide(probabilities, threshold).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "probabilities", "expected"),
    [
        ([0, 1], [0.2, 0.6], 0.4),
        ([1, 0], [0.2, 0.4], 0.7),  # every split but all or none is harmful: J = 0 at 0.1 and 0.7
        ([1, 0], [0.6, 0.8], 0.3),
        ([1, 0], [0.8, 1.0], 0.4),  # nothing inside [0, 1] lies above 1.0
        ([1, 0], [0.0, 1.0], 0.0),
        ([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], 0.25),  # J = 1/2 at 0.25 and at 0.75: the lower
        ([0, 1, 0, 1], [0.1, 0.5, 0.6, 0.7], 0.65),
        ([0, 1], [0.5, 0.5], 0.25),
    ],
)
def test_youden_threshold_by_hand(labels: list[int], probabilities: list[float], expected: float) -> None:
    assert measures.youden_threshold(labels, probabilities) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_youden_threshold_needs_both_classes(label: int) -> None:
    with pytest.raises(ValueError, match=f"Youden's J needs both classes, found only label {label}"):
        measures.youden_threshold([label] * 3, [0.1, 0.2, 0.3])


# --- malformed input ----------------------------------------------------------------------------------------

LOGITS = [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("auroc", ([0, 2], [0.1, 0.2]), "labels must be 0 or 1, found 2"),
        ("auroc", ([-1, 1], [0.1, 0.2]), "labels must be 0 or 1, found -1"),
        ("auroc", ([0.0, 1.0], [0.1, 0.2]), "labels must be integers 0 or 1, found dtype float64"),
        ("auroc", ([[0, 1]], [0.1, 0.2]), "labels must be one-dimensional, found shape (1, 2)"),
        ("auroc", (1, [0.1]), "labels must be one-dimensional, found shape ()"),
        ("auroc", ([], []), "labels is empty"),
        ("auroc", ([0, 1, 1], [0.1, 0.2]), "scores has 2 entries but labels has 3"),
        ("auroc", ([0, 1], [[0.1, 0.2]]), "scores must be one-dimensional, found shape (1, 2)"),
        ("auroc", ([0, 1], ["a", "b"]), "scores must be real numbers, found dtype <U1"),
        ("auroc", ([0, 1] * 50, [NAN, INF, -INF] + [0.0] * 97), "3 of 100 scores are not finite"),
        ("roc_curve", ([0, 1], [0.1, NAN]), "1 of 2 scores are not finite"),
        ("confusion", ([0, 1], [0, 3]), "decisions must be 0 or 1, found 3"),
        ("confusion", ([0, 1], [0.2, 0.8]), "decisions must be integers 0 or 1, found dtype float64"),
        ("decide", ([0.1, 1.2], 0.5), "probabilities must lie in [0, 1], found 1.2"),
        ("decide", ([-0.1, 1.0], 0.5), "probabilities must lie in [0, 1], found -0.1"),
        ("decide", ([0.1, NAN], 0.5), "1 of 2 probabilities are not finite"),
        ("decide", ([], 0.5), "probabilities is empty"),
        ("decide", ([0.1], NAN), "threshold is nan"),
        ("classification", ([0, 1], [0.1, 1.2], 0.5), "probabilities must lie in [0, 1], found 1.2"),
        ("classification", ([0, 1], [0.1], 0.5), "probabilities has 1 entries but labels has 2"),
        ("youden_threshold", ([0, 1], [0.1, 1.2]), "probabilities must lie in [0, 1], found 1.2"),
        ("average_precision", ([0, 1], [0.1, NAN]), "1 of 2 scores are not finite"),
        ("brier", ([0, 1], [0.1, 1.2]), "probabilities must lie in [0, 1], found 1.2"),
        ("reliability", ([0, 1], [0.1, 0.2], 0), "bins must be at least 1, found 0"),
        ("calibration_error", ([0, 1], [0.1, NAN]), "1 of 2 probabilities are not finite"),
        ("calibration_line", ([0, 2], [0.1, 0.2]), "labels must be 0 or 1, found 2"),
        ("calibration_line", ([], []), "labels is empty"),
        ("threshold_at_sensitivity", ([0, 0], [0.1, 0.2], 0.9), "a sensitivity needs positive labels, found none"),
        ("threshold_at_sensitivity", ([0, 1], [0.1, 0.2], 0.0), "target must lie in (0, 1], found 0.0"),
        ("threshold_at_sensitivity", ([0, 1], [0.1, 0.2], NAN), "target must lie in (0, 1], found nan"),
        ("at_prevalence", (0.9, 1.1, 0.5), "specificity must lie in [0, 1], found 1.1"),
        ("at_prevalence", (0.9, 0.9, NAN), "prevalence must lie in [0, 1], found nan"),
        ("net_benefit", ([0, 1], [0.1, 0.2], [0.5, 1.0]), "thresholds must lie in [0, 1), found 1.0"),
        ("positive_probability", ([0.1, 0.2],), "logits must have shape (N, 2), found (2,)"),
        ("positive_probability", ([[1.0, 2.0, 3.0]],), "logits must have shape (N, 2), found (1, 3)"),
        ("positive_probability", (np.zeros((0, 2)),), "logits is empty"),
        ("positive_probability", ([[0.0, INF], [0.0, 1.0]],), "1 of 4 logits are not finite"),
        ("positive_probability", (LOGITS, 0.0), "temperature must be positive and finite, found 0.0"),
        ("positive_probability", (LOGITS, INF), "temperature must be positive and finite, found inf"),
        ("log_loss", (LOGITS, [0, 1], -1.0), "temperature must be positive and finite, found -1.0"),
        ("log_loss", (LOGITS, [0, 1, 1]), "logits has 2 entries but labels has 3"),
        ("fit_temperature", (LOGITS, [0, 4]), "labels must be 0 or 1, found 4"),
        ("fit_temperature", (LOGITS, [0, 1], (2.0, 1.0)), "bounds must satisfy 0 < low < high < inf"),
        ("fit_temperature", (LOGITS, [0, 1], (0.0, 1.0)), "bounds must satisfy 0 < low < high < inf"),
        ("wilson", (5, 3), "successes must lie in [0, n], found 5 of 3"),
        ("wilson", (-1, 3), "successes must lie in [0, n], found -1 of 3"),
        ("wilson", (1, 3, 95), "confidence must lie in (0, 1), found 95"),
    ],
)
def test_malformed_input_is_named(function: str, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        getattr(measures, function)(*arguments)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.int64])
def test_any_integer_labels_give_the_same_numbers(kind: type) -> None:
    labels, probabilities = sample(0)
    expected = measures.classification(labels.tolist(), probabilities.tolist(), 0.5)
    assert measures.classification(labels.astype(kind), probabilities, 0.5) == expected
