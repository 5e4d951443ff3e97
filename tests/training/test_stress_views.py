"""Views of validation films: the baseline of shortcuts is measured by scikit-learn, and views undo what they claim."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from training import stress_views

LABELS = np.array([0, 1] * 150)
EVERY = np.arange(300)


@pytest.fixture(scope="module")
def films() -> torch.Tensor:
    """(300, 48, 48) uint8 whose classes differ in nothing but framing, sharpness and tone, as Kermany's do."""
    random, size = np.random.default_rng(0), 48
    images = np.zeros((300, size, size), np.uint8)
    for k, label in enumerate(LABELS):
        film = ndimage.gaussian_filter(random.normal(0, 1, (size, size)), 1.5 if label else 1.0)
        film = 120 + 60 * film / film.std()
        margin = int(random.integers(0, 5)) + (0 if label else 2)
        framed = np.zeros((size, size))
        framed[margin : size - margin, margin : size - margin] = film[margin : size - margin, margin : size - margin]
        images[k] = framed.clip(20 if label else 0, 255)
    return torch.from_numpy(images)


def test_a_view_of_nothing_is_the_films(films):
    assert torch.equal(
        stress_views.viewed(films, EVERY[5:9], LABELS, (stress_views.AS_IS, stress_views.AS_IS)), films[5:9]
    )
    assert torch.equal(stress_views.viewed(films, EVERY[5:9], LABELS, stress_views.exchanged(0)), films[5:9])


def test_a_view_shows_each_class_its_own_way(films):
    shown = stress_views.viewed(films, EVERY, LABELS, (stress_views.Look(contrast=0.5), stress_views.AS_IS)).float()
    plain = films.float()
    ratio = shown.std((1, 2)) / plain.std((1, 2))
    np.testing.assert_allclose(ratio[LABELS == 0], 0.5, atol=0.02)
    np.testing.assert_allclose(ratio[LABELS == 1], 1, atol=0.02)
    assert torch.equal(shown[LABELS == 1], plain[LABELS == 1])


def test_tight_and_wide_are_a_part_and_a_frame(films):
    bright = torch.full((1, 48, 48), 200, dtype=torch.uint8)
    one = np.array([1])
    wide = stress_views.viewed(bright, np.array([0]), one, (stress_views.LOOKS["wide"],) * 2)[0]
    rows = (wide[:, 24] > 0).sum().item()
    assert abs(rows - 48 / 1.25) <= 2 and wide[0].max() == 0
    marked = bright.clone()
    marked[0, :5] = 0  # what a view of the middle 75 % leaves out
    tight = stress_views.viewed(marked, np.array([0]), one, (stress_views.LOOKS["tight"],) * 2)[0]
    assert (tight == 200).all()


def test_the_baseline_is_scikit_learns_regression(films):
    found = stress_views.Shortcuts(films, EVERY[:200], LABELS)
    facts = stress_views.in_chunks(found.facts, films, EVERY)
    standard = (facts - facts[:200].mean(0)) / facts[:200].std(0)
    inputs = np.column_stack([standard, standard**2])
    oracle = LogisticRegression(C=1e3, max_iter=10_000, tol=1e-10).fit(inputs[:200], LABELS[:200])
    np.testing.assert_allclose(found.scores(films), oracle.decision_function(inputs), rtol=1e-2, atol=0.2)
    assert roc_auc_score(LABELS[200:], found.scores(films)[200:]) > 0.9


def test_facts_are_what_they_are_called(films):
    found = stress_views.Shortcuts.facts(films)
    pixels = films.numpy().astype(float)
    kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    laplacian = np.stack([ndimage.convolve(film, kernel)[1:-1, 1:-1] for film in pixels])
    np.testing.assert_allclose(found[:, 0], np.log1p(laplacian.std((1, 2), ddof=1)), rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], (pixels < 8).mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(found[:, 3], pixels.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[:, 6], pixels[:, :4].mean((1, 2)), rtol=1e-5, atol=1e-5)


def test_equalised_takes_the_shortcuts_away_and_reversed_turns_them(films):
    stress = stress_views.StressValidation(films, LABELS, EVERY[:200], EVERY[200:])
    by_view = {name: roc_auc_score(LABELS[200:], stress.baseline.scores(stress.show(name))) for name in stress.views}
    assert by_view["as it is"] > 0.9
    assert abs(by_view["equalised"] - 0.5) < 0.25 < by_view["as it is"] - by_view["equalised"]
    assert by_view["reversed"] < 0.25


def test_where_the_looks_tell_nothing_the_classes_are_not_exchanged(films):
    """Exchanging looks that do not differ would tell the classes apart, where nothing did before."""
    alike = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (300, 32, 32)).astype(np.uint8))
    stress = stress_views.StressValidation(alike, LABELS, EVERY[:200], EVERY[200:])
    assert stress.views["equalised"] == (stress_views.AS_IS, stress_views.AS_IS)


@pytest.mark.parametrize("ratio", [1.51 / 1.17, 1.17 / 1.51])
def test_shapes_are_exchanged(ratio):
    """Of a disc in each film: each class is drawn as the other one's shape would be, from 1 to the ratio or back."""
    at = torch.arange(96) - 47.5
    discs = (255 * (at[:, None] ** 2 + at**2 < 20**2)).to(torch.uint8).repeat(2, 1, 1)
    for view in stress_views.shapes_exchanged(ratio).values():
        shown = stress_views.viewed(discs, np.arange(2), np.arange(2), view) > 127
        drawn = [(disc.any(0).sum() / disc.any(1).sum()).item() for disc in shown]  # width / height
        assert drawn == pytest.approx([1 / ratio, ratio], rel=0.06)
    by_margins, by_cutting = stress_views.shapes_exchanged(ratio).values()
    assert by_margins[0].width * by_margins[0].height == pytest.approx(1), "as much is seen as before"
    assert max(max(look.width, look.height) for look in by_cutting) == 1, "nothing is shown but film"


def test_shapes_are_views_where_they_differ(films):
    given = (films, LABELS, EVERY[:200], EVERY[200:])
    plain, shaped = stress_views.StressValidation(*given), stress_views.StressValidation(*given, shapes=1.3)
    assert [*shaped.views] == [*plain.views, "shapes exchanged", "shapes exchanged by cutting"]
    assert all(torch.equal(plain.show(name), shaped.show(name)) for name in plain.views)


def test_mixed_shows_every_image_once_and_each_view_to_both_classes(films):
    validation = EVERY[200:]
    stress = stress_views.StressValidation(films, LABELS, EVERY[:200], validation)
    mixed = stress.mixed()
    shown = {name: stress.show(name) for name in stress.views}
    for label in (0, 1):
        for k, at in enumerate(np.flatnonzero(LABELS[validation] == label)):
            assert torch.equal(mixed[at], shown[list(shown)[k % len(shown)]][at])


def test_films_lend_to_the_other_class_or_to_their_own():
    labels = np.array([0] * 5 + [1] * 12)
    other, own = (stress_views.lenders(labels, same) for same in (False, True))
    assert (labels[other] != labels).all() and (labels[own] == labels).all()
    assert (own != np.arange(17)).all() and len(set(own)) == 17
    assert len(set(other[:5])) == 5 and set(other[5:]) == set(range(5)), "as evenly as it can be"
    np.testing.assert_array_equal(stress_views.lenders(labels, False), other)
    assert stress_views.lenders(np.ones(3, int), False).tolist() != [0, 1, 2], "one class alone lends to itself"


def test_a_lent_frame_is_the_donors_and_the_middle_the_films_own():
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 100, 100)).astype(np.uint8))
    shown = stress_views.lent(films, np.array([0, 1]), np.array([3, 2]), stress_views.LENT["frames exchanged"])
    assert torch.equal(shown[:, 25:75, 25:75], films[:2, 25:75, 25:75])
    frame = torch.ones(100, 100, dtype=torch.bool)
    frame[15:85, 15:85] = False  # the seam ends there
    assert torch.equal(shown[:, frame], films[[3, 2]][:, frame])
    mixed = stress_views.lent(films, np.array([0]), np.array([3]), stress_views.LENT["spectra exchanged"])
    assert (mixed[0].float() - films[0]).abs().mean() > 1


def test_frames_are_exchanged_for_those_of_the_other_class(films):
    """Where the frame alone tells the classes, here by its brightness, it tells the opposite then."""
    framed = films.clone()
    framed[:, :8] = torch.from_numpy(40 + 120 * LABELS)[:, None, None].to(torch.uint8)
    stress = stress_views.StressValidation(framed, LABELS, EVERY[:200], EVERY[200:])
    top = {name: roc_auc_score(LABELS[200:], stress.show(name)[:, :3].float().mean((1, 2))) for name in stress.views}
    assert top["as it is"] == top["frames of the own class"] == 1 and top["frames exchanged"] == 0


def test_under_overlap_weights_the_frame_tells_nothing(films):
    """The mean of its log-odds is the same in both classes (Li, Morgan, Zaslavsky 2018, theorem 3)."""
    labels = np.where(np.random.default_rng(0).random(300) < 0.2, 1 - LABELS, LABELS)  # else nothing overlaps
    odds = stress_views.StressValidation(films, labels, EVERY[:150], EVERY[150:]).frame_odds
    truth, pneumonia = labels[150:], 1 / (1 + np.exp(-odds))
    assert odds[truth == 1].mean() > odds[truth == 0].mean() + 0.5
    weights = np.where(truth == 1, 1 - pneumonia, pneumonia)
    np.testing.assert_allclose(stress_views.overlap_weights(truth, odds), weights)
    means = [np.average(odds[truth == k], weights=weights[truth == k]) for k in (0, 1)]
    assert means[0] == pytest.approx(means[1], abs=0.01)


def test_matched_is_the_weighted_measure_of_scikit_learn():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 400)
    scores = labels + random.normal(0, 1.5, 400)
    probabilities = 1 / (1 + np.exp(-(labels + random.normal(0, 1, 400).round(1))))
    found = stress_views.matched(labels, probabilities, 0.6, scores)
    propensity = 1 / (1 + np.exp(-scores))
    weights = np.where(labels == 1, 1 - propensity, propensity)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, probabilities, sample_weight=weights), abs=1e-12)
    assert found["shortcuts"] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    right = (probabilities >= 0.6) == (labels == 1)
    sides = [np.average(right[labels == k], weights=weights[labels == k]) for k in (0, 1)]
    assert found["accuracy"] == pytest.approx(np.mean(sides))
    assert (found["specificity"], found["sensitivity"]) == pytest.approx(tuple(sides))


def test_a_row_a_view_and_their_mean_and_worst(films):
    stress = stress_views.StressValidation(films, LABELS, EVERY[:200], EVERY[200:])
    answers = {name: torch.randn(100, 2, generator=torch.Generator().manual_seed(3)).numpy() for name in stress.views}
    rows = stress.measured(answers, 2.0, 0.4)
    assert [row["view"] for row in rows[:-1]] == [*stress.views] and rows[:-1] == stress_views.views_of(rows)
    assert rows[-1]["view"].startswith("frames matched, of ")
    logits = answers["dark"]
    probabilities = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0]) / 2))
    dark = next(row for row in rows if row["view"] == "dark")
    assert dark["auroc"] == pytest.approx(roc_auc_score(LABELS[200:], probabilities))
    assert dark["accuracy"] == pytest.approx(((probabilities >= 0.4) == LABELS[200:]).mean())
    lines = stress_views.table(rows).splitlines()
    assert len(lines) == 2 + len(rows) + 2
    worst = min(row["auroc"] for row in rows[:-1])
    assert f"{worst:.4f}" in lines[-1] and lines[-1].startswith("worst view")
    assert f"{np.mean([row['auroc'] for row in rows[:-1]]):.4f}" in lines[-2] and lines[-2].startswith("mean of views")
    short = stress_views.in_short(rows).splitlines()
    name = min(rows[:-1], key=lambda row: row["auroc"])["view"]
    assert short[0].startswith(f"stress validation, films as they are: AUROC {rows[0]['auroc']:.4f}, accuracy ")
    assert short[1].startswith(f"stress validation, worst view ({name}): AUROC {worst:.4f}, ") and len(short) == 2
