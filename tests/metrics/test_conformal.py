"""conformal.py: the promise is kept exactly as often as the theory says, by patient, and breaks where films shift.

What a formula gives is tried on every order of a few films, or on 2,000 simulated validation sets; CXR_COVERAGE=N tries
N of them where that is more.
"""

import itertools
import math
import os
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from metrics import conformal

SETS = max(2000, int(os.environ.get("CXR_COVERAGE", "0")))
ALPHAS = (0.05, 0.1, 0.2, 0.29, 0.5)
BOTH = np.array([0, 1])


def names(count: int) -> NDArray:
    return np.arange(count)


def possible_by_definition(labels, probabilities, patients, alpha: Fraction, asked: float) -> list[bool]:
    """Vovk's own words, film by film: a class is possible where the p-value of having it is above alpha."""
    found = []
    for label in (0, 1):
        seen, scores = set(), []
        for one, p, patient in zip(labels, probabilities, patients, strict=True):
            if one == label and patient not in seen:
                seen.add(patient)
                scores.append(p if label == 0 else -p)  # how unlike the class
        mine = asked if label == 0 else -asked
        as_strange = 1 + sum(score >= mine for score in scores)
        found.append(Fraction(as_strange, len(scores) + 1) > alpha)
    return found


# ------------------------------------------------------------------------------------------------- by hand


def test_cut_offs_of_a_small_set_by_hand():
    """Alpha 0.25: of 7 patients 2 of 8 may be left out, of 3 patients 1 of 4; a patient's later films do not count."""
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    probabilities = [0.125, 0.5, 0.25, 0.875, 0.9375, 0.75, 0.5, 0.625, 0.25, 0.0625, 0.8125, 0.0, 0.75]
    patients = ["a", "b", "c", "a", "d", "e", "f", "g", "h", "i", "j", "d", "b"]
    cuts = conformal.cut_offs(labels, probabilities, patients, 0.25)
    assert cuts == (0.25, 0.5)  # the second lowest of pneumonia, the highest of normal
    classes = conformal.possible([0.0, 0.249, 0.25, 0.5, 0.501, 1.0], cuts)
    assert classes.tolist() == [[True, False]] * 2 + [[True, True]] * 2 + [[False, True]] * 2
    assert conformal.referred(classes).tolist() == [False, False, True, True, False, False]
    assert conformal.referred(conformal.possible([0.4], (0.6, 0.3))).tolist() == [True]  # neither is possible
    assert conformal.promise(labels, probabilities, patients, 0.25) == {
        "alpha": 0.25, "lowest_pneumonia": 0.25, "highest_normal": 0.5, "patients": [3, 7]}  # fmt: skip


def test_a_patient_lends_each_class_one_film_the_first():
    first = conformal.first_films([0, 1, 0, 1, 1], ["a", "a", "a", "a", "b"])
    assert first.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(("patients", "alpha", "k"), [
    (18, 0.05, 0), (19, 0.05, 1), (38, 0.05, 1), (39, 0.05, 2), (99, 0.29, 29), (98, 0.29, 28), (99, 0.07, 7),
    (0, 0.5, 0), (1, 0.5, 1), (9, 0.1, 1), (8, 0.1, 0),
])  # fmt: skip
def test_how_many_may_be_left_out(patients, alpha, k):
    assert conformal.left_out(patients, alpha) == k == math.floor(Fraction(str(alpha)) * (patients + 1))


def test_a_class_of_too_few_patients_is_always_possible():
    labels, probabilities = np.repeat([0, 1], [18, 19]), np.linspace(0.01, 0.99, 37)
    cuts = conformal.cut_offs(labels, probabilities, names(37), 0.05)
    assert cuts.highest_normal == 1.0 and cuts.lowest_pneumonia == pytest.approx(probabilities[18], abs=1e-7)
    assert conformal.possible([0.0, 1.0], cuts)[:, 0].all()
    assert conformal.cut_offs([1] * 3, [0.5] * 3, names(3), 0.05) == (0.0, 1.0)
    many = conformal.cut_offs([1] * 60, np.full(60, 0.5), np.repeat(names(3), 20), 0.05)
    assert many == (0.0, 1.0)  # twenty films of each of three patients are three


def test_input_that_cannot_be_is_refused():
    for alpha in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="alpha must lie in"):
            conformal.cut_offs([0, 1], [0.1, 0.9], names(2), alpha)
    with pytest.raises(ValueError, match="patients has 3 entries for 2 images"):
        conformal.cut_offs([0, 1], [0.1, 0.9], names(3), 0.1)
    with pytest.raises(ValueError, match="probabilities must lie in"):
        conformal.cut_offs([0, 1], [0.1, 1.9], names(2), 0.1)
    with pytest.raises(ValueError, match="missed must lie in"):
        conformal.chance(5, 4, 100, 0.05)


# ------------------------------------------------------------------------------------------------ the definition


@pytest.mark.parametrize("alpha", ALPHAS)
def test_what_is_possible_is_what_the_definition_says(alpha):
    """With ties, several films a patient, patients with films of both classes, and few patients."""
    random = np.random.default_rng(1)
    for count in (1, 3, 20, 60, 150):
        labels, patients = random.integers(0, 2, count), random.integers(0, max(count // 2, 1), count)
        probabilities = random.integers(0, 33, count) / 32
        cuts = conformal.cut_offs(labels, probabilities, patients, alpha)
        asked = np.arange(65) / 64
        expected = [possible_by_definition(labels, probabilities, patients, Fraction(str(alpha)), p) for p in asked]
        assert conformal.possible(asked, cuts).tolist() == expected


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [2, 5, 19, 20, 41])
def test_of_all_films_that_may_be_the_new_one_exactly_k_are_left_out(alpha, count):
    """Each of n + 1 films is as likely the new one: it is kept in 1 - k / (n + 1), to the film."""
    scores = np.random.default_rng(2).permutation(np.arange(1, count + 2)) / 64
    for label in (0, 1):
        kept = 0
        for new in range(count + 1):
            cuts = conformal.cut_offs([label] * count, np.delete(scores, new), names(count), alpha)
            kept += conformal.possible(scores[[new]], cuts)[0, label]
        assert kept == count + 1 - conformal.left_out(count, alpha)
        assert kept / (count + 1) >= 1 - alpha - 1e-12


def test_ties_are_possible_so_that_more_is_kept_than_promised():
    labels, probabilities = np.repeat([0, 1], 50), np.repeat([0.25, 0.75, 0.5, 0.75], 25)
    cuts = conformal.cut_offs(labels, probabilities, names(100), 0.1)
    assert cuts == (0.5, 0.75) and conformal.possible(probabilities, cuts)[np.arange(100), labels].all()


def test_cut_offs_are_float32_and_lose_no_film_to_rounding():
    random = np.random.default_rng(3)
    for _ in range(50):
        labels, logits = random.integers(0, 2, 80), random.normal(0, 12, 80)
        probabilities = scipy.special.expit(logits)
        cuts = conformal.cut_offs(labels, probabilities, names(80), 0.1)
        assert all(float(np.float32(cut)) == cut and 0 <= cut <= 1 for cut in cuts)
        for p in probabilities[:20]:
            by_definition = np.array(possible_by_definition(labels, probabilities, names(80), Fraction(1, 10), p))
            in_double = conformal.possible([p], cuts)[0]
            in_single = conformal.possible(np.float32([p]), cuts)[0]
            in_a_graph = [np.float32(p) <= np.float32(cuts[1]), np.float32(p) >= np.float32(cuts[0])]
            assert (by_definition <= in_double).all() and (in_double <= in_single).all()
            assert in_single.tolist() == in_a_graph


# -------------------------------------------------------------------------------------------------- simulations


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.05), (60, 0.05), (135, 0.05), (40, 0.2)])
def test_what_one_validation_set_delivers_is_a_draw_from_a_beta_distribution(count, alpha):
    """Scores uniform on [0, 1]: the share that a cut-off keeps is the cut-off itself, or what is above it."""
    random, k = np.random.default_rng(4), conformal.left_out(count, alpha)
    delivered = np.empty((SETS, 2))
    for i in range(SETS):
        cuts = conformal.cut_offs(np.repeat(BOTH, count), random.random(2 * count), names(2 * count), alpha)
        delivered[i] = cuts.highest_normal, 1 - cuts.lowest_pneumonia
    expected = scipy.stats.beta(count + 1 - k, k)
    for shares in delivered.T:
        assert scipy.stats.kstest(shares, expected.cdf).pvalue > 1e-3
        assert shares.mean() == pytest.approx(1 - k / (count + 1), abs=4 * expected.std() / math.sqrt(SETS))
        assert shares.mean() >= 1 - alpha - 4 * expected.std() / math.sqrt(SETS)


def clustered(random: np.random.Generator, patients: int, shift: float = 0.0) -> tuple[NDArray, NDArray, NDArray]:
    """Labels, probabilities and patients of films: 1 to 30 of a patient, who makes 0.8 of their variance.

    Whoever has many films is iller, so that films are not like patients' first films.
    """
    sizes = np.minimum(random.geometric(0.5, patients), 30)
    whose = np.repeat(np.arange(patients), sizes)
    ill = random.random(patients) < 0.7
    of_patient = math.sqrt(0.8) * random.normal(size=patients) + 0.2 * (sizes - 2)
    score = np.where(ill, 1.2 - shift, -1.2)[whose] + of_patient[whose]
    score += math.sqrt(0.2) * random.normal(size=len(whose))
    return ill[whose].astype(int), scipy.special.expit(score), whose


@pytest.mark.parametrize("patients", [60, 300])
def test_the_promise_is_kept_by_patient_whatever_the_clusters_are(patients):
    """One film a patient, tested on one film of each of 200 new patients. By film, too much is left out or kept."""
    random, alpha, sets = np.random.default_rng(5), 0.1, SETS // 2
    kept, by_film, promised = (np.empty((sets, 2)) for _ in range(3))
    for i in range(sets):
        validation, (labels, probabilities, whose) = clustered(random, patients), clustered(random, 200)
        new = conformal.first_films(labels, whose)
        counts = conformal.promise(*validation, alpha)["patients"]
        promised[i] = [1 - conformal.left_out(n, alpha) / (n + 1) for n in counts]
        for found, whose_films in ((kept, validation[2]), (by_film, np.arange(len(validation[0])))):
            classes = conformal.possible(probabilities, conformal.cut_offs(*validation[:2], whose_films, alpha))
            found[i] = [classes[new & (labels == label), label].mean() for label in (0, 1)]
    error = kept.std(axis=0) / math.sqrt(sets)
    assert (np.abs((kept - promised).mean(axis=0)) < 4 * error).all()
    assert (kept.mean(axis=0) > 1 - alpha - 4 * error).all()
    assert (np.abs(by_film.mean(axis=0) - (1 - alpha)) > 8 * error).any()  # what taking films for patients does


def test_where_films_shift_the_promise_is_broken_in_that_class_alone():
    random = np.random.default_rng(6)
    kept = np.empty((300, 2))
    for row in kept:
        validation, (labels, probabilities, whose) = clustered(random, 300), clustered(random, 200, shift=1.0)
        classes = conformal.possible(probabilities, conformal.cut_offs(*validation, 0.1))
        new = conformal.first_films(labels, whose)
        row[:] = [classes[new & (labels == label), label].mean() for label in (0, 1)]
    normal, pneumonia = kept.mean(axis=0)
    assert normal == pytest.approx(0.9, abs=0.02) and pneumonia < 0.75


# ------------------------------------------------------------------------------------------- the chance of so few


@pytest.mark.parametrize(("calibrated", "new", "alpha"), [(4, 3, 0.2), (5, 3, 0.4), (3, 4, 0.5), (6, 2, 0.3)])
def test_the_chance_is_that_of_all_orders_of_both_sets(calibrated, new, alpha):
    """Counted: every way in which the new films can lie among validation's."""
    k, missed = conformal.left_out(calibrated, alpha), []
    for places in itertools.combinations(range(calibrated + new), new):
        old = sorted(set(range(calibrated + new)) - set(places))
        missed.append(sum(place < old[k - 1] for place in places))
    for j in range(new + 1):
        expected = np.mean(np.array(missed) >= j)
        assert conformal.chance(j, new, calibrated, alpha) == pytest.approx(expected, rel=1e-12)


def test_the_chance_is_scipys_beta_binomial_and_1_without_a_promise():
    for calibrated, new, alpha in ((135, 270, 0.05), (392, 800, 0.05), (40, 3000, 0.1), (19, 1, 0.05)):
        k = conformal.left_out(calibrated, alpha)
        expected = scipy.stats.betabinom(new, k, calibrated + 1 - k)
        for missed in {0, 1, new // 20, new // 4, new}:
            found = conformal.chance(missed, new, calibrated, alpha)
            assert found == pytest.approx(expected.pmf(np.arange(missed, new + 1)).sum(), rel=1e-7)
    assert conformal.chance(7, 10, 18, 0.05) == conformal.chance(0, 0, 100, 0.05) == 1.0
