"""stress.py: every change of an image does what it says, and the baseline without pixels is honest."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import sklearn.linear_model
import sklearn.preprocessing
from folders import draw
from PIL import Image

import data
from evaluation import shortcuts
from films import giveaways
from metrics import logistic

SIDE = 100


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Smooth structures and noise, all grey levels; not symmetric in any way."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    pixels = 128 + 70 * np.sin(9 * x + 2 * y) + 50 * np.cos(5 * y * y) + np.random.default_rng(0).normal(0, 9, x.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("what", shortcuts.CHANGES, ids=lambda what: f"{what[0]} {what[1]}".strip())
@pytest.mark.parametrize("side", [32, 101])
def test_every_change_keeps_the_shape_the_type_and_the_original(what, side, image):
    original = np.array(image[:side, :side] if side < SIDE else np.pad(image, ((0, 1), (0, 1)), mode="edge"))
    before = original.copy()
    changed = what[2](original, generator())
    assert changed.shape == (side, side) and changed.dtype == np.uint8
    np.testing.assert_array_equal(original, before)
    unseen = what[0] == "none" or (what[1] == "0.5 % of the side" and side == 32)  # a sixth of a pixel
    assert unseen == np.array_equal(changed, original)


def test_the_changes_are_named_once_each():
    names = [(change, strength) for change, strength, _ in shortcuts.CHANGES]
    assert len(set(names)) == len(names) == 19
    assert names[0] == ("none", "")


def test_borders_only_hides_the_centre_and_centre_only_the_borders(image):
    """60 % of 100 pixels: rows and columns 20 to 79 are the centre."""
    inside = np.zeros((SIDE, SIDE), bool)
    inside[20:80, 20:80] = True
    grey = round(float(image.mean()))
    borders, middle = shortcuts.borders_only(image, generator()), shortcuts.centre_only(image, generator())
    assert set(borders[inside].tolist()) == {grey} and set(middle[~inside].tolist()) == {grey}
    np.testing.assert_array_equal(borders[~inside], image[~inside])
    np.testing.assert_array_equal(middle[inside], image[inside])


@pytest.mark.parametrize("side", [32, 33, 64, 101, 224])
def test_the_centre_lies_in_the_middle_and_has_its_size(side):
    rows, columns = giveaways.centre(side)
    assert rows == columns
    assert rows.start == side - rows.stop  # as much on both sides
    assert abs((rows.stop - rows.start) / side - 0.6) < 1.5 / side


def test_corners_are_black_and_nothing_else_is_touched(image):
    changed = shortcuts.corners_blank(image, generator())
    black = np.zeros((SIDE, SIDE), bool)
    for rows in (slice(0, 25), slice(75, 100)):
        for columns in (slice(0, 25), slice(75, 100)):
            black[rows, columns] = True
    assert not changed[black].any()
    np.testing.assert_array_equal(changed[~black], image[~black])


@pytest.mark.parametrize("deviation", [5, 20])
def test_noise_has_its_deviation(deviation):
    grey = np.full((200, 200), 128, np.uint8)
    added = shortcuts.noise(deviation)(grey, generator()).astype(float) - 128
    assert added.std() == pytest.approx(math.hypot(deviation, math.sqrt(1 / 12)), rel=0.02)  # and what rounding adds
    assert abs(added.mean()) < 5 * deviation / 200
    white = shortcuts.noise(deviation)(np.full((200, 200), 255, np.uint8), generator())
    assert white.max() == 255 and white.min() > 255 - 6 * deviation  # cut off, not wrapped round to black


@pytest.mark.parametrize("radius", [0.5, 1, 2])
def test_blur_is_scipys_gaussian(radius, image):
    changed = shortcuts.blur(radius)(image, generator()).astype(int)
    sigma = radius / 100 * SIDE
    expected = scipy.ndimage.gaussian_filter(
        image.astype(float), sigma, mode="nearest", radius=max(round(3 * sigma), 1)
    )
    assert np.abs(changed - np.rint(expected)).max() <= 1
    flat = np.full((50, 50), 77, np.uint8)
    np.testing.assert_array_equal(shortcuts.blur(radius)(flat, generator()), flat)  # the edges lose nothing


def test_gamma_at_fixed_points():
    levels = np.array([[0, 64], [128, 255]], np.uint8)
    assert shortcuts.gamma(1)(levels, generator()).tolist() == levels.tolist()
    assert shortcuts.gamma(1.5)(levels, generator()).tolist() == [[0, 32], [91, 255]]  # 255 (64 / 255)^1.5 = 32.06
    assert shortcuts.gamma(0.6)(levels, generator()).tolist() == [[0, 111], [169, 255]]


@pytest.mark.parametrize("quality", [50, 10])
def test_jpeg_is_pillows(quality, image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    np.testing.assert_array_equal(shortcuts.jpeg(quality)(image, generator()), np.array(Image.open(stream)))


def test_rotation_turns_both_ways_by_chance_and_the_same_way_again(image):
    turn = shortcuts.rotation(10)
    ways = {
        way: np.asarray(Image.fromarray(image).rotate(way * 10, Image.Resampling.BILINEAR)).tobytes() for way in (-1, 1)
    }
    random = generator()
    found = [turn(image, random).tobytes() for _ in range(40)]
    assert set(found) == set(ways.values())
    assert 8 <= found.count(ways[1]) <= 32
    table = np.stack([image] * 12)
    again = shortcuts.changed_table(table, turn)
    np.testing.assert_array_equal(shortcuts.changed_table(table, turn), again)
    assert len({row.tobytes() for row in again}) == 2
    assert not turn(np.full((50, 50), 255, np.uint8), generator())[0, 0]  # what comes from outside is black


def test_noise_differs_between_images_and_is_the_same_in_the_next_run(image):
    table = np.stack([image, image])
    first = shortcuts.changed_table(table, shortcuts.noise(10))
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(shortcuts.changed_table(table, shortcuts.noise(10)), first)


# ------------------------------------------------------------------------------- what is known without a pixel


@pytest.mark.parametrize("separated", [False, True])
def test_fit_logistic_is_scikit_learns(separated):
    """Its ridge is on all weights, the constant's too: so a column of ones, and C = 1 / ridge."""
    random = np.random.default_rng(3)
    facts = random.normal(size=(200, 3))
    margin = facts @ [2.0, -1.0, 0.0] + 0.5
    labels = (margin + (0 if separated else random.logistic(size=200)) > 0).astype(int)
    found = logistic.fit_logistic(facts, labels)
    other = sklearn.linear_model.LogisticRegression(C=1e3, fit_intercept=False, tol=1e-10, max_iter=10_000)
    other.fit(np.column_stack([np.ones(200), facts]), labels)
    np.testing.assert_allclose(found, other.coef_[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def films(tmp_path_factory, cache) -> data.Dataset:
    """Pneumonia on wider films, as a hospital's own machine might have made them."""
    root = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(0)
    for i in range(60):
        draw(root / "NORMAL" / f"IM-{i:04d}-0001.jpeg", 2 * i, (int(random.integers(36, 56)), 40))
        draw(root / "PNEUMONIA" / f"person{i}_virus_1.jpeg", 2 * i + 1, (int(random.integers(46, 66)), 40))
    return data.load(str(root), 32, cache)


def test_the_baseline_is_scikit_learns_on_training_rows(films):
    training, tested = np.arange(0, 120, 2), np.arange(1, 120, 2)
    scores, names = shortcuts.outside_scores(films, training, tested)
    assert names == "aspect ratio, pixels, file size"
    sizes = np.log([(Path(films.source) / file).stat().st_size for file in films.files])
    table = np.stack([np.log(films.widths / films.heights), np.log(films.widths * films.heights), sizes], 1)
    scaled = sklearn.preprocessing.StandardScaler().fit(table[training]).transform(table)
    other = sklearn.linear_model.LogisticRegression(C=1e3, fit_intercept=False, tol=1e-10, max_iter=10_000)
    columns = np.column_stack([np.ones(120), scaled])
    other.fit(columns[training], films.labels[training])
    np.testing.assert_allclose(scores, other.decision_function(columns[tested]), rtol=1e-3, atol=1e-3)
    assert np.corrcoef(scores, films.labels[tested])[0, 1] > 0.4  # the shortcut is there to be found


def test_the_baseline_learns_nothing_from_the_tested_images(films):
    """Neither from their labels nor, as a test image comes alone, from the other tested images."""
    training, tested = np.arange(0, 120, 2), np.arange(1, 120, 2)
    scores, _ = shortcuts.outside_scores(films, training, tested)
    labels = films.labels.copy()
    labels[tested] = 1 - labels[tested]
    np.testing.assert_array_equal(shortcuts.outside_scores(replace(films, labels=labels), training, tested)[0], scores)
    widths = films.widths.copy()
    widths[tested[1:]] = 4000
    np.testing.assert_allclose(
        shortcuts.outside_scores(replace(films, widths=widths), training, tested)[0][0], scores[0], rtol=1e-12
    )
    labels = films.labels.copy()
    labels[training] = np.random.default_rng(0).permutation(labels[training])
    assert not np.allclose(shortcuts.outside_scores(replace(films, labels=labels), training, tested)[0], scores)


def test_without_anything_that_varies_there_is_no_baseline(films, phantoms):
    split = data.split(phantoms)
    assert shortcuts.outside_scores(phantoms, split.train, split.test) is None  # drawn at one size, without files
    assert shortcuts.outside_scores(films, np.array([], np.int64), np.arange(10)) is None  # an external set
    same = replace(films, widths=np.full(120, 50), source="elsewhere")
    assert shortcuts.outside_scores(same, np.arange(60), np.arange(60, 120)) is None
    # What varies in tested images alone cannot be learnt from.
    widths = np.full(120, 50)
    widths[119] = 80
    alone = replace(films, widths=widths, source="elsewhere")
    assert shortcuts.outside_scores(alone, np.arange(60), np.arange(60, 120)) is None
