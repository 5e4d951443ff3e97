"""scoring.py: every estimate agrees with scikit-learn, its interval holds it, and nothing is made up where 0/0 is."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.linear_model
import sklearn.metrics

from metrics import estimation, intervals, measures

POINTS = {"0.5": 0.5, "validation": 0.31, "sensitivity 95 %": 0.2, "sensitivity 99 %": 0.07}


def films(seed: int = 0, n: int = 160, levels: int | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities (of a few levels: ties) and patients, most of whom have one film and some four."""
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.6).astype(int)
    probabilities = 1 / (1 + np.exp(-random.normal(1.8 * labels - 0.7, 1.2)))
    if levels:
        probabilities = np.round(probabilities * levels) / levels
    own = np.arange(n)
    own[: n // 3] = own[: n // 3] // 4 * 4
    return labels, probabilities, [f"patient {label}-{k}" for label, k in zip(labels, own, strict=True)]


def of(labels, probabilities, patients, points=POINTS, **more) -> tuple[dict, dict]:
    sample = estimation.Sample(labels, patients, replicates=400)
    return estimation.describe(sample, probabilities, {name: {"threshold": at} for name, at in points.items()}, **more)


def assert_ordered(estimate: dict) -> None:
    assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"]


# ------------------------------------------------------------------------------------- against scikit-learn


@pytest.mark.parametrize("levels", [None, 8])
def test_estimates_at_all_operating_points_are_scikit_learns(levels):
    labels, probabilities, patients = films(1, levels=levels)
    _, points = of(labels, probabilities, patients)
    assert list(points) == list(POINTS)
    for name, threshold in POINTS.items():
        decisions = (probabilities >= threshold).astype(int)
        expected = {
            "accuracy": sklearn.metrics.accuracy_score(labels, decisions),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, decisions),
            "sensitivity": sklearn.metrics.recall_score(labels, decisions),
            "specificity": sklearn.metrics.recall_score(labels, decisions, pos_label=0),
            "precision": sklearn.metrics.precision_score(labels, decisions),
            "npv": sklearn.metrics.precision_score(labels, decisions, pos_label=0),
            "f1": sklearn.metrics.f1_score(labels, decisions),
            "mcc": sklearn.metrics.matthews_corrcoef(labels, decisions),
        }
        found = points[name]
        assert {key: estimate["value"] for key, estimate in found["estimates"].items()} == pytest.approx(expected)
        counts = sklearn.metrics.confusion_matrix(labels, decisions).ravel().tolist()
        assert [found[key] for key in ("tn", "fp", "fn", "tp")] == counts
        for estimate in found["estimates"].values() if name in ("0.5", "validation") else ():
            assert_ordered(estimate)  # at the others, too many replicates may have no negative decision


@pytest.mark.parametrize("levels", [None, 8])
def test_what_needs_no_threshold_is_scikit_learns(levels):
    labels, probabilities, patients = films(2, levels=levels)
    if levels:
        probabilities = probabilities.clip(0.01, 0.99)
    found, _ = of(labels, probabilities, patients)
    line = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10)
    line.fit(np.log(probabilities / (1 - probabilities))[:, None], labels)
    expected = {
        "auroc": sklearn.metrics.roc_auc_score(labels, probabilities),
        "average_precision": sklearn.metrics.average_precision_score(labels, probabilities),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities),
        "brier": sklearn.metrics.brier_score_loss(labels, probabilities),
        "calibration_slope": line.coef_[0, 0],
    }
    for key, value in expected.items():
        assert found[key]["value"] == pytest.approx(value, rel=1e-4 if key == "calibration_slope" else 1e-9), key
        assert_ordered(found[key])
    intercept = found["calibration_intercept"]
    assert intercept["low"] < intercept["value"] < intercept["high"]
    assert found["calibration_error"]["value"] == pytest.approx(measures.calibration_error(labels, probabilities))
    assert math.isnan(found["calibration_error"]["low"])  # resampling raises it: no interval would be valid
    assert set(found) == {*expected, "calibration_error", "calibration_intercept"}


def test_intervals_are_by_patient():
    """Each film four times over says nothing new: the intervals stay, where those of a film each would halve."""
    labels, probabilities, _ = films(3, 60)
    patients = [str(i) for i in range(60)]
    once, at_once = of(labels, probabilities, patients)
    again, at_again = of(np.tile(labels, 4), np.tile(probabilities, 4), patients * 4)
    lone, at_lone = of(np.tile(labels, 4), np.tile(probabilities, 4), [str(i) for i in range(240)])

    def width(estimate: dict) -> float:
        return estimate["high"] - estimate["low"]

    pairs = [(once[key], again[key], lone[key]) for key in ("auroc", "log_loss", "brier", "average_precision")]
    three = [points["0.5"]["estimates"] for points in (at_once, at_again, at_lone)]
    pairs += [tuple(found[key] for found in three) for key in ("accuracy", "sensitivity", "specificity", "f1")]
    for single, copied, independent in pairs:
        assert width(copied) == pytest.approx(width(single), rel=0.05)
        assert width(independent) < 0.65 * width(single)


def test_resampling_is_done_for_all_replicates_at_once():
    """A measure is called three times, with whole tables of weights: never once a replicate."""
    _, _, patients = films(4, 40)
    sample = estimation.Sample(np.arange(40) % 2, patients, replicates=300)
    shapes = []

    def measure(weights):
        shapes.append(weights.shape)
        return {"weight": weights.sum(1).astype(float)}

    value, drawn, left_out = sample.resampled(measure)["weight"]
    n = len(set(patients))
    assert shapes == [(1, 40), (300, 40), (n, 40)]
    assert value == 40 and drawn.shape == (300,) and left_out.shape == (n,)
    again = estimation.Sample(np.arange(40) % 2, patients, replicates=300)
    np.testing.assert_array_equal(again.drawn, sample.drawn)  # the same for every model
    assert estimation.REPLICATES == 2000


# ----------------------------------------------------------------------------------- promised and delivered


def test_gap_is_newcombes_published_example():
    """Newcombe 1998, Statistics in Medicine 17:873, example (a): 56/70 against 48/80, method 10."""
    parts = []
    for right, n in ((56, 70), (48, 80)):
        interval = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
        parts.append(estimation.estimate(right / n, (interval.low, interval.high)))
    found = estimation.gap(*parts)
    assert found["value"] == pytest.approx(0.2)
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.0524, 0.3339)
    back = estimation.gap(*parts[::-1])
    assert (back["value"], back["low"], back["high"]) == pytest.approx((-0.2, -found["high"], -found["low"]))


def test_a_gap_without_an_interval_on_one_side_has_none():
    found = estimation.gap(estimation.estimate(0.9), estimation.estimate(0.95, (0.9, 0.97)))
    assert found["value"] == pytest.approx(-0.05) and math.isnan(found["low"]) and math.isnan(found["high"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [None, 10])
def test_operating_points_reach_the_sensitivity_that_they_are_named_after(seed, levels):
    labels, probabilities, patients = films(seed, levels=levels)
    points = estimation.operating_points(labels, probabilities, patients, 0.4)
    assert list(points) == list(POINTS)
    assert (points["0.5"]["threshold"], points["validation"]["threshold"]) == (0.5, 0.4)
    for name, target in (("sensitivity 95 %", 0.95), ("sensitivity 99 %", 0.99)):
        threshold = points[name]["threshold"]
        reached = sklearn.metrics.recall_score(labels, probabilities >= threshold)
        assert reached >= target and points[name]["sensitivity"]["value"] == pytest.approx(reached)
        # The next higher probability would have been too high: no threshold keeps more specificity.
        above = np.unique(probabilities[probabilities >= threshold])[0] + 1e-9
        assert sklearn.metrics.recall_score(labels, probabilities >= above) < target or threshold == 0
    for point in points.values():
        assert (point["images"], point["patients"]) == (len(labels), len(set(patients)))
        assert set(point) == {"threshold", "images", "patients", *estimation.PROMISED}
        decisions = probabilities >= point["threshold"]
        assert point["specificity"]["value"] == pytest.approx(sklearn.metrics.recall_score(1 - labels, ~decisions))
        for key in estimation.PROMISED:
            assert_ordered(point[key])


def test_a_promise_is_repeated_and_its_gap_is_delivered_minus_promised():
    labels, probabilities, patients = films(5)
    promised = estimation.operating_points(*films(6), 0.4)
    sample = estimation.Sample(labels, patients, 200)
    _, points = estimation.describe(sample, probabilities, promised)
    for name, at in points.items():
        assert at["promised"] == {key: value for key, value in promised[name].items() if key != "threshold"}
        for key in estimation.PROMISED:
            delivered = at["estimates"][key]["value"]
            assert at["gap"][key]["value"] == pytest.approx(delivered - promised[name][key]["value"])
            assert at["gap"][key]["low"] < at["gap"][key]["value"] < at["gap"][key]["high"]
    _, without = of(labels, probabilities, patients)
    assert all(at["promised"] is None and at["gap"] is None for at in without.values())


def test_another_prevalence_by_counting_10000_films():
    labels, probabilities, patients = films(7)
    _, points = of(labels, probabilities, patients, prevalence=0.03)
    found = points["validation"]
    ill, well = 300, 9700
    tp = ill * found["estimates"]["sensitivity"]["value"]
    tn = well * found["estimates"]["specificity"]["value"]
    expected = {"prevalence": 0.03, "ppv": tp / (tp + well - tn), "npv": tn / (tn + ill - tp),
                "films_per_missed": 10_000 / (ill - tp)}  # fmt: skip
    assert found["at_prevalence"] == pytest.approx(expected)
    assert all(at["at_prevalence"] is None for at in of(labels, probabilities, patients)[1].values())


# ----------------------------------------------------------------------------------------- what is undefined


def test_one_class_only_leaves_undefined_what_needs_both():
    for label in (0, 1):
        labels, (_, probabilities, patients) = np.full(50, label), films(8, 50)
        found, points = of(labels, probabilities, patients, prevalence=0.1)
        for key in ("auroc", "calibration_slope", "calibration_intercept"):
            assert all(math.isnan(end) for end in found[key].values()), key
        assert found["log_loss"]["value"] == pytest.approx(
            sklearn.metrics.log_loss(labels, probabilities, labels=[0, 1])
        )
        estimates = points["0.5"]["estimates"]
        assert math.isnan(estimates["specificity" if label else "sensitivity"]["value"])
        assert math.isnan(estimates["balanced_accuracy"]["value"])
        rate = estimates["sensitivity" if label else "specificity"]
        assert rate["value"] == pytest.approx(estimates["accuracy"]["value"])
        assert math.isnan(points["0.5"]["at_prevalence"]["ppv"])


def test_one_patient_has_values_and_no_intervals():
    labels, probabilities, _ = films(9, 40)
    found, points = of(labels, probabilities, ["the same"] * 40)
    assert found["auroc"]["value"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, probabilities))
    assert points["0.5"]["estimates"]["accuracy"]["value"] == pytest.approx(((probabilities >= 0.5) == labels).mean())
    every = [*found.values(), *(estimate for at in points.values() for estimate in at["estimates"].values())]
    assert all(math.isnan(estimate["low"]) and math.isnan(estimate["high"]) for estimate in every)


def test_no_positive_decision_has_no_precision():
    labels, _, patients = films(10, 60)
    probabilities = np.linspace(0.01, 0.2, 60)
    _, points = of(labels, probabilities, patients, {"0.5": 0.5})
    estimates = points["0.5"]["estimates"]
    assert (points["0.5"]["tp"], points["0.5"]["fp"]) == (0, 0)
    for key in ("precision", "mcc"):
        assert all(math.isnan(end) for end in estimates[key].values()), key
    assert estimates["sensitivity"]["value"] == 0 and estimates["sensitivity"]["high"] > 0.03
    assert estimates["specificity"]["value"] == 1 and estimates["specificity"]["low"] < 0.97
    assert estimates["f1"]["value"] == 0


@pytest.mark.parametrize("answer", [0.0, 0.3, 0.5, 1.0])
def test_a_model_that_always_answers_the_same_has_no_better_than_chance(answer):
    labels, _, patients = films(11, 60)
    found, points = of(labels, np.full(60, answer), patients, {"0.5": 0.5})
    assert found["auroc"]["value"] == 0.5 and math.isnan(found["auroc"]["low"])
    assert math.isnan(found["calibration_slope"]["value"])
    assert found["brier"]["value"] == pytest.approx(np.mean((labels - answer) ** 2))
    assert found["average_precision"]["value"] == pytest.approx(labels.mean())
    share = labels.mean() if answer >= 0.5 else 1 - labels.mean()
    assert points["0.5"]["estimates"]["accuracy"]["value"] == pytest.approx(share)
    assert points["0.5"]["estimates"]["balanced_accuracy"]["value"] == 0.5


def test_a_perfect_model_has_intervals_that_admit_it_may_not_be():
    labels, _, patients = films(12, 60)
    found, points = of(labels, np.where(labels == 1, 0.999, 0.001), patients, {"0.5": 0.5})
    for estimate in (found["auroc"], points["0.5"]["estimates"]["accuracy"], points["0.5"]["estimates"]["sensitivity"]):
        assert estimate["value"] == 1 and 0.7 < estimate["low"] < 0.99 and estimate["high"] == 1


# ------------------------------------------------------------------------------------------------- subgroups


@pytest.mark.parametrize("measure", ["sensitivity", "specificity", "accuracy"])
def test_a_subgroup_is_scored_on_its_own_images(measure):
    labels, probabilities, patients = films(13)
    decisions = (probabilities >= 0.5).astype(int)
    which = np.random.default_rng(0).random(len(labels)) < 0.5
    found = estimation.subgroup("some", measure, which, labels, decisions, patients)
    mine = which & {"sensitivity": labels == 1, "specificity": labels == 0, "accuracy": labels > -1}[measure]
    whose = [patient for patient, chosen in zip(patients, mine, strict=True) if chosen]
    assert (found["images"], found["patients"]) == (mine.sum(), len(set(whose)))
    assert found["value"] == pytest.approx((decisions == labels)[mine].mean())
    bounds = intervals.clustered_wilson((decisions == labels)[mine], whose)
    assert (found["low"], found["high"]) == bounds
    assert (found["group"], found["measure"]) == ("some", measure)


def test_an_empty_subgroup_has_no_value():
    labels, probabilities, patients = films(14, 30)
    found = estimation.subgroup("none", "accuracy", np.zeros(30, bool), labels, (probabilities >= 0.5) + 0, patients)
    assert (found["images"], found["patients"]) == (0, 0) and math.isnan(found["value"])
