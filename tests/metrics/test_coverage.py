"""Do intervals hold the truth, and tests find nothing in nothing, as often as they say? On simulated patients.

Patients have as many images as those of Kermany's collection: 1.43 in the mean, of one 30. Within a class scores are
normal with variance 1, of which the patient makes half, and two models share half; so the truth has a formula. What
has a formula itself is tried on 2,000 sets of images (one standard error is 0.5 % there), the bootstrap on a few, or on
CXR_COVERAGE=N of them.
"""

import math
import os
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest
import scipy.integrate
import scipy.special
from numpy.typing import NDArray

from metrics import differences, estimation, intervals, measures

SETS, REPLICATES = 2000, 399
LONG = int(os.environ.get("CXR_COVERAGE", "60"))
IMAGES = {1: 3025, 2: 297, 3: 156, 4: 56, 5: 47, 6: 35, 7: 21, 8: 13, 9: 6, 10: 4, 11: 4, 13: 1, 14: 2, 16: 1, 30: 1}
SHIFT = (1.6, 2.2)  # how far the positives of each model lie above its negatives
CUT = 0.9  # the score that decides
SOME = 0.6
BAND, SIZE = (0.93, 0.975), (0.04, 0.06)
cdf = NormalDist().cdf
pytestmark = pytest.mark.filterwarnings("error")


@cache
def patients_of(count: int) -> NDArray:
    """Patients (N,), the last with 30 images."""
    sizes = np.random.default_rng(5).choice(list(IMAGES), count, p=np.array(list(IMAGES.values())) / 3669)
    sizes[-1] = 30
    return np.repeat(np.arange(count), sizes)


def ill(random: np.random.Generator, patients: NDArray) -> NDArray:
    """Labels (N,): patients with more than four images have pneumonia, others with this chance."""
    many = np.bincount(patients) > 4
    return (many | (random.random(len(many)) < SOME))[patients].astype(int)


def share_of(count: int) -> float:
    """The share of images with pneumonia that is to be expected."""
    sizes = np.bincount(patients_of(count))
    return float((sizes * np.where(sizes > 4, 1, SOME)).sum() / sizes.sum())


def correlated(random: np.random.Generator, patients: NDArray, alike: float = 0.5) -> NDArray:
    """(N,) standard normal, with this correlation between images of one patient."""
    of_patient = random.normal(size=patients[-1] + 1)[patients]
    return math.sqrt(alike) * of_patient + math.sqrt(1 - alike) * random.normal(size=len(patients))


def simulate(random: np.random.Generator, count: int, shift: tuple[float, float] = SHIFT) -> tuple[NDArray, ...]:
    """Labels (N,), scores of two models (2, N) and patients (N,)."""
    patients = patients_of(count)
    labels, both = ill(random, patients), correlated(random, patients)
    own = np.stack([correlated(random, patients) for _ in shift])
    return labels, np.array(shift)[:, None] * labels + math.sqrt(0.5) * (both + own), patients


def truth(shift: float, cut: float, share: float, steep: float = 1.0, prior: float = 0.0) -> dict[str, float]:
    """The measures of a model whose log-odds are steep (score - cut) + prior, where this share has pneumonia."""
    sensitivity, specificity = cdf(shift - cut), cdf(cut)
    positive, negative = share * sensitivity, (1 - share) * (1 - specificity)
    tp, fp, fn, tn = positive, negative, share - positive, 1 - share - negative

    def over(middle: float, of_score: Callable[[float], float]) -> float:
        def weighted(x: float) -> float:
            return math.exp(-((x - middle) ** 2) / 2) / math.sqrt(2 * math.pi) * of_score(x)

        return scipy.integrate.quad(weighted, middle - 9, middle + 9)[0]

    def mean(loss: Callable[[float], float]) -> float:
        right = over(shift, lambda x: loss(steep * (x - cut) + prior))
        return share * right + (1 - share) * over(0.0, lambda x: loss(-steep * (x - cut) - prior))

    def precision(x: float) -> float:
        found = share * cdf(shift - x)
        return found / (found + (1 - share) * cdf(-x)) if found else 1.0

    return {
        "accuracy": tp + tn,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "precision": tp / (tp + fp),
        "npv": tn / (tn + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
        "auroc": cdf(shift / math.sqrt(2)),
        "average_precision": over(shift, precision),
        "log_loss": mean(lambda margin: math.log1p(math.exp(-margin))),
        "brier": mean(lambda margin: 1 / (1 + math.exp(margin)) ** 2),
    }


def compared(labels: NDArray, scores: NDArray, patients: NDArray) -> dict[str, differences.Difference]:
    """Every difference that a report prints, of the second model minus the first."""
    right = (scores >= CUT) == labels
    margins = np.where(labels == 1, scores - CUT, CUT - scores)
    losses, errors = np.logaddexp(0, -margins), scipy.special.expit(-margins) ** 2
    return {
        "auroc": differences.of_auroc(labels, *scipy.special.expit(scores)[:, None], patients),
        "accuracy": differences.of_means(right[:1], right[1:], patients),
        "sensitivity": differences.of_means(*right[:, None, labels == 1], patients[labels == 1]),
        "specificity": differences.of_means(*right[:, None, labels == 0], patients[labels == 0]),
        "log_loss": differences.of_means(losses[:1], losses[1:], patients),
        "brier": differences.of_means(errors[:1], errors[1:], patients),
    }


def covered(ends: list[tuple[float, float]], value: float) -> float:
    return float(np.mean([low <= value <= high for low, high in ends]))


def within(found: dict[str, float], band: tuple[float, float]) -> bool:
    return all(band[0] <= share <= band[1] for share in found.values())


def test_the_truth_is_what_a_large_sample_shows() -> None:
    labels, scores, _ = simulate(np.random.default_rng(0), 200_000)
    probabilities = scipy.special.expit(scores[0] - CUT)
    margins = np.where(labels == 1, scores[0] - CUT, CUT - scores[0])
    shown = measures.classification(labels, probabilities, 0.5)
    shown["average_precision"] = measures.average_precision(labels, probabilities)
    shown |= {"log_loss": np.logaddexp(0, -margins).mean(), "brier": measures.brier(labels, probabilities)}
    expected = truth(SHIFT[0], CUT, share_of(200_000))
    assert {key: shown[key] for key in expected} == pytest.approx(expected, abs=0.005)


def test_the_patients_are_as_those_of_the_collection() -> None:
    patients = patients_of(20_000)
    assert np.bincount(patients).mean() == pytest.approx(1.43, abs=0.06) and np.bincount(patients).max() == 30


# ------------------------------------------------------------------------------------------------- one model


@pytest.mark.parametrize("count", [100, 600])
@pytest.mark.parametrize("shift", [1.6, 3.3])
def test_coverage_of_proportions_and_auroc(count: int, shift: float) -> None:
    """Rates of 0.79 and 0.95, AUROCs of 0.87 and 0.99. With few errors intervals are rather too wide."""
    random, cut = np.random.default_rng(20), shift / 2
    ends: dict[str, list] = {key: [] for key in ("accuracy", "sensitivity", "specificity", "precision", "npv", "auroc")}
    for _ in range(SETS):
        labels, (scores, _), patients = simulate(random, count, (shift, shift))
        probabilities = scipy.special.expit(scores)
        found = estimation.proportions(labels, probabilities, patients, scipy.special.expit(cut))
        found["auroc"] = estimation.estimate(0, intervals.auroc_interval(labels, probabilities, patients))
        for key, of_key in ends.items():
            of_key.append((found[key]["low"], found[key]["high"]))
    expected = truth(shift, cut, share_of(count))
    shares = {key: covered(of_key, expected[key]) for key, of_key in ends.items()}
    assert within(shares, (BAND[0], 1.0)), shares
    auroc_by_image = []
    random = np.random.default_rng(20)
    for _ in range(200):
        labels, (scores, _), _ = simulate(random, count, (shift, shift))
        auroc_by_image.append(intervals.auroc_interval(labels, scipy.special.expit(scores)))
    assert covered(auroc_by_image, expected["auroc"]) < BAND[0]  # what taking images for patients does


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("sizes", ["one", "ten", "real"])
def test_coverage_of_clustered_wilson_from_40_patients_on(sizes: str, alike: float) -> None:
    random, count, sets = np.random.default_rng(21), 40, max(500, LONG)
    patients = {"one": np.arange(count), "ten": np.repeat(np.arange(count), 10), "real": patients_of(count)}[sizes]
    for share in (0.5, 0.8, 0.95, 0.99):
        cut = NormalDist().inv_cdf(share)
        ends = [intervals.clustered_wilson(correlated(random, patients, alike) < cut, patients) for _ in range(sets)]
        assert covered(ends, share) >= 0.93 - 3 * math.sqrt(0.93 * 0.07 / sets), share


@pytest.mark.parametrize(("alike", "widest"), [(0.0, 1.4), (0.5, 1.3), (0.95, 1.15)])
def test_clustered_wilson_is_not_needlessly_wide(alike: float, widest: float) -> None:
    """Beside intervals from the spread of the share itself, which nobody knows: at a share of 0.95, 600 patients."""
    random, patients, cut = np.random.default_rng(28), patients_of(600), NormalDist().inv_cdf(0.95)
    right = [correlated(random, patients, alike) < cut for _ in range(500)]
    ends = np.array([intervals.clustered_wilson(one, patients) for one in right])
    oracle = 2 * 1.96 * np.std([one.mean() for one in right])
    assert 1.0 <= np.mean(ends[:, 1] - ends[:, 0]) / oracle <= widest


def test_coverage_of_the_gap() -> None:
    """Test minus validation, two sets of other patients of one kind: the true gap is 0."""
    random, threshold = np.random.default_rng(22), scipy.special.expit(1)
    ends: dict[str, list] = {key: [] for key in estimation.PROMISED}
    for _ in range(SETS):
        validation, test = (simulate(random, count, (2.0, 2.0)) for count in (150, 300))
        promised, delivered = (
            estimation.proportions(labels, scipy.special.expit(scores[0]), patients, threshold)
            for labels, scores, patients in (validation, test)
        )
        for key, of_key in ends.items():
            gap = estimation.gap(delivered[key], promised[key])
            of_key.append((gap["low"], gap["high"]))
    shares = {key: covered(of_key, 0.0) for key, of_key in ends.items()}
    assert within(shares, (BAND[0], 1.0)), shares


@pytest.mark.parametrize("shift", [1.6, 3.3])
def test_coverage_of_the_bootstrap(shift: float) -> None:
    """BCa of what the reports give it for. In few sets chance is larger: three standard errors below 92 %."""
    random, cut, prior = np.random.default_rng(23), shift / 2, math.log(share_of(300) / (1 - share_of(300)))
    ends: dict[str, list] = {}
    for seed in range(LONG):
        labels, (scores, _), patients = simulate(random, 300, (shift, shift))
        # With the log-odds of the classes' densities probabilities are calibrated: slope 1, intercept 0.
        log_odds = shift * (scores - cut) + prior
        given = (labels, scipy.special.expit(log_odds))
        threshold = scipy.special.expit(prior)
        weights = (intervals.patient_counts(patients, REPLICATES, seed), intervals.leave_one_out(patients),
                   np.ones((1, len(labels))))  # fmt: skip
        drawn, left_out, whole = (
            intervals.bootstrap_decisions(*given, threshold, some)
            | intervals.bootstrap_ranking(*given, some)
            | intervals.bootstrap_calibration(*given, some)
            for some in weights
        )
        for key in drawn:
            ends.setdefault(key, []).append(intervals.bca_interval(drawn[key], whole[key][0], left_out[key]))
    expected = truth(shift, cut, share_of(300), shift, prior) | {"calibration_slope": 1.0, "calibration_intercept": 0.0}
    shares = {key: covered(ends[key], expected[key])
              for key in ("balanced_accuracy", "f1", "mcc", "average_precision", "log_loss", "brier",
                          "calibration_slope", "calibration_intercept")}  # fmt: skip
    assert within(shares, (0.92 - 3 * math.sqrt(0.92 * 0.08 / LONG), 1.0)), shares


# ------------------------------------------------------------------------------------------------ two models


def test_size_of_every_paired_test() -> None:
    """Two models that are equally good: as many findings as the level says, and by image many more."""
    random, p, by_image = np.random.default_rng(24), {}, []
    for _ in range(SETS):
        labels, scores, patients = simulate(random, 600, (2.0, 2.0))
        for key, found in compared(labels, scores, patients).items():
            p.setdefault(key, []).append(found.p)
        right = (scores >= CUT) == labels
        by_image.append(differences.of_means(right[:1], right[1:], np.arange(len(labels))).p)
    sizes = {key: float(np.mean(np.array(of_key) < 0.05)) for key, of_key in p.items()}
    assert within(sizes, SIZE), sizes
    assert np.mean(np.array(by_image) < 0.05) > 0.07


def test_coverage_of_every_paired_difference() -> None:
    random, ends = np.random.default_rng(25), {}
    for _ in range(SETS):
        labels, scores, patients = simulate(random, 600)
        for key, found in compared(labels, scores, patients).items():
            ends.setdefault(key, []).append((found.low, found.high))
    first, second = (truth(shift, CUT, share_of(600)) for shift in SHIFT)
    shares = {key: covered(of_key, second[key] - first[key]) for key, of_key in ends.items()}
    assert within(shares, BAND), shares


@pytest.mark.parametrize("alike", [0.5, 0.95])
def test_size_with_200_patients_of_10_images(alike: float) -> None:
    random, p, patients = np.random.default_rng(26), [], np.repeat(np.arange(200), 10)
    for _ in range(SETS):
        right = np.stack([correlated(random, patients, alike) for _ in range(2)]) < 1.5
        p.append(differences.of_means(right[:1], right[1:], patients).p)
    assert SIZE[0] - 0.01 <= np.mean(np.array(p) < 0.05) <= SIZE[1]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_size_with_seeds_that_differ_much(seeds: int) -> None:
    """Groups of equally good seeds: few of them find a little less than 5 %, and never much more."""
    random, patients, p = np.random.default_rng(27), patients_of(250), {}
    labels = ill(random, patients)
    for _ in range(SETS):
        skill = random.normal(2.0, 0.6, (2, seeds, 1))
        scores = skill * (labels - 0.5) + correlated(random, patients) + random.normal(0, 0.2, (2, seeds, len(labels)))
        areas = differences.of_auroc(labels, *scipy.special.expit(scores), patients)
        right = differences.of_means(*((scores >= 0) == labels), patients)
        for key, found in (("auroc", areas), ("accuracy", right)):
            p.setdefault(key, []).append(found.p)
    sizes = {key: float(np.mean(np.array(of_key) < 0.05)) for key, of_key in p.items()}
    assert within(sizes, (0.025, SIZE[1])), sizes
