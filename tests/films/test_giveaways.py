"""What is seen is what is said to be seen; the model is somebody else's; planted shortcuts are found, and only they."""

import json
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal
import scipy.spatial.distance
import scipy.stats
import sklearn.kernel_ridge
import sklearn.preprocessing
from folders import draw

import data
from films import audit, giveaways, sources
from films import phantoms as drawings
from metrics import intervals, measures

SIDES = [32, 37, 64, 101, 224]
SEEN = giveaways.WITHOUT_LUNGS | giveaways.WITH_LUNGS


def backgrounds(count: int, side: int = 64, seed: int = 0) -> np.ndarray:
    """(count, side, side) uint8: clouds and noise, of which every place has the same."""
    random = np.random.default_rng(seed)
    clouds = scipy.ndimage.gaussian_filter(random.normal(size=(count, side, side)), (0, 5, 5), mode="wrap")
    return np.clip(110 + 250 * clouds + random.normal(0, 4, clouds.shape), 0, 255).astype(np.uint8)


def dataset(images: np.ndarray, labels: np.ndarray, **more) -> SimpleNamespace:
    """Two films a patient."""
    count = len(images)
    given = {"patients": [f"p{i // 2}" for i in range(count)], "has_patients": True, "source": "nowhere",
             "widths": np.full(count, 90), "heights": np.full(count, 80)}  # fmt: skip
    return SimpleNamespace(images=images, labels=labels, files=[f"{i}.png" for i in range(count)], **given | more)


def in_pairs(count: int, seed: int = 0) -> np.ndarray:
    return np.repeat(np.random.default_rng(seed).permutation(np.arange(count // 2) % 2), 2)


def found(films: SimpleNamespace) -> dict[str, dict]:
    rows = giveaways.measured(films, np.arange(len(films.labels)))
    return {row["seen"]: row for row in rows}


# ------------------------------------------------------------------------------------------------ what is seen


@pytest.mark.parametrize("side", SIDES)
def test_without_lungs_nothing_changes_with_the_middle_and_everything_with_the_frame(side):
    images, random = backgrounds(6, side), np.random.default_rng(1)
    other = images.copy()
    middle = giveaways.centre(side)
    for change in (0, 255, random.integers(0, 256, images[:, *middle].shape)):
        other[:, *middle] = change
        for name, (_, features) in giveaways.WITHOUT_LUNGS.items():
            np.testing.assert_array_equal(features(other), features(images), name)
    assert (giveaways.middle_features(other) != giveaways.middle_features(images)).any(1).all()
    other = 255 - images
    other[:, *middle] = images[:, *middle]
    np.testing.assert_array_equal(giveaways.middle_features(other), giveaways.middle_features(images))
    for name in set(giveaways.WITHOUT_LUNGS) - {"annotations"}:
        assert (SEEN[name][1](other) != SEEN[name][1](images)).any(1).all(), name


@pytest.mark.parametrize("name", SEEN)
def test_features_are_of_each_film_alone(name, monkeypatch):
    images, features = backgrounds(9), SEEN[name][1]
    before, whole = images.copy(), features(images)
    monkeypatch.setattr("films.looks.CHUNK", 4)
    parts = np.concatenate([features(images[3:]), features(images[:3])])
    np.testing.assert_allclose(np.roll(parts, 3, 0), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(images, before)
    assert whole.dtype == np.float32 and np.isfinite(whole).all() and features(images[:0]).shape == (0, whole.shape[1])


def test_cells_are_means():
    images = backgrounds(4, 64)
    hidden = images.astype(float)
    hidden[:, 13:51, 13:51] = 0  # 0.2 of 64 is 12.8
    frame = hidden.reshape(4, 32, 2, 32, 2).mean((2, 4)).reshape(4, -1)
    np.testing.assert_allclose(giveaways.frame_features(images), frame, rtol=1e-5)
    hidden = images.astype(float)
    hidden[:, 6:58, 6:58] = 0
    edge = hidden.reshape(4, 32, 2, 32, 2).mean((2, 4)).reshape(4, -1)
    np.testing.assert_allclose(giveaways.edge_features(images), edge, rtol=1e-5)
    images = backgrounds(4, 80)  # of which four corners of 16 pixels make one image of 32
    corners = np.delete(np.delete(images, np.s_[16:64], 1), np.s_[16:64], 2).reshape(4, -1)
    np.testing.assert_allclose(giveaways.corner_features(images), corners, rtol=1e-5)


@pytest.mark.parametrize("side", [32, 64, 101])
def test_the_machine_has_no_place(side):
    """Upside down and left for right, a film is of the same machine; and each pixel of the frame counts once."""
    images = backgrounds(5, side)
    turned = images[:, ::-1, ::-1]
    features = giveaways.machine_features(images)
    assert features.shape == (5, 60)
    np.testing.assert_allclose(giveaways.machine_features(turned), features, rtol=1e-3, atol=1e-4)
    outside = np.ones((side, side), bool)
    outside[giveaways.centre(side)] = False
    shares = [np.histogram(image[outside], np.arange(0, 257, 8))[0] / outside.sum() for image in images]
    np.testing.assert_allclose(features[:, :32], np.sqrt(shares), rtol=1e-5)


@pytest.mark.parametrize("deviation", [3.0, 10.0, 25.0])
def test_the_noise_level_is_that_of_the_noise(deviation):
    random = np.random.default_rng(2)
    images = np.clip(128 + random.normal(0, deviation, (3, 224, 224)), 0, 255).round().astype(np.uint8)
    noise = np.expm1(giveaways.machine_features(images)[:, 32 + 24]) * np.sqrt(np.pi / 2) / 6  # Immerkaer's formula
    np.testing.assert_allclose(noise, deviation, rtol=0.03)


def test_a_wave_is_found_along_its_side_and_at_its_frequency():
    at = np.arange(100) / 100
    wave = np.broadcast_to((128 + 60 * np.sin(2 * np.pi * 30 * at)).astype(np.uint8), (1, 100, 100))
    across, down = giveaways.machine_features(wave)[0, 32:56].reshape(12, 2).T
    own = [30 * 0.8 in part for part in np.array_split(np.arange(1, 40), 12)]  # of steps, 79 in a line
    assert across.argmax() == own.index(True) and down.max() < across.max() / 4
    np.testing.assert_allclose(
        giveaways.machine_features(wave.transpose(0, 2, 1))[0, 32:56].reshape(12, 2).T, [down, across], atol=0.05
    )


@pytest.mark.parametrize("width", [1, 2, 7, 11])
def test_squares_are_scipys(width):
    images, random = backgrounds(3, 40), np.random.default_rng(3)
    for pick, other in ((np.minimum, scipy.ndimage.minimum_filter1d), (np.maximum, scipy.ndimage.maximum_filter1d)):
        whole = other(other(images, width, 1, origin=-(width // 2)), width, 2, origin=-(width // 2))
        np.testing.assert_array_equal(giveaways._slid(pick, images, width), whole[:, : 41 - width, : 41 - width])
    some = random.random((3, 40, 40)) < 0.2
    sums = np.stack([np.rint(scipy.signal.fftconvolve(one, np.ones((width, width)))) for one in some.astype(float)])
    np.testing.assert_array_equal(giveaways._sums(some, width), sums)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_pieces_are_components_less_holes(share):
    some = np.random.default_rng(4).random((20, 30, 30)) < share
    expected = []
    for image in some:
        components = scipy.ndimage.label(image, np.ones((3, 3)))[1]
        expected.append(components - (scipy.ndimage.label(np.pad(~image, 1, constant_values=True))[1] - 1))
    assert giveaways._pieces(some).tolist() == expected
    assert giveaways._pieces(np.zeros((1, 5, 5), bool)).tolist() == [0]


def test_letters_are_small_bright_alone_and_near_the_edge():
    grey = np.full((8, 112, 112), 60, np.uint8)
    grey[1, 5:12, 5:10] = 200  # a letter
    grey[2, 5:12, 0:4] = 200  # one at the edge
    grey[3, 5:30, 5:8] = 200  # too long
    grey[4, 5:12, 5:10] = 120  # too faint
    grey[5, 50:56, 50:56] = 200  # in the middle
    grey[6, 50:56, 17:30] = 200  # into the middle
    grey[7, 5:12, 5:10] = grey[7, 5:12, 14:19] = grey[7, 100:104, 20:24] = 200  # three, one of them elsewhere
    contrast = giveaways._letters(grey)
    assert [int((one > 0).sum()) for one in contrast] == [0, 35, 28, 0, 0, 0, 0, 86]
    assert set(np.unique(contrast).tolist()) == {0, 140}
    features = giveaways.annotation_features(grey)
    assert features[:, 128].tolist() == [0, 1, 1, 0, 0, 0, 0, 3]
    np.testing.assert_allclose(features[7, 129:], [np.log1p(86), 86 / 3, 140, 140], rtol=1e-6)
    assert np.flatnonzero(features[1, :64]).tolist() == [0] and features[1, 64] == 140
    assert np.flatnonzero(features[7, :64]).tolist() == [0, 1, 57]


# --------------------------------------------------------------------------------------------------- the model


@pytest.fixture(scope="module")
def known() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    features = (random.normal(size=(300, 7)) * [1, 50, 3, 1e-3, 1, 1, 0] + 9).astype(np.float32)
    labels = (features[:, 0] + 0.02 * features[:, 1] + random.normal(size=300) > 9.3).astype(int)
    return features, labels, (random.normal(size=(40, 7)) * [1, 50, 3, 1e-3, 1, 1, 5] + 9).astype(np.float32)


def test_the_model_is_a_dense_solve_and_scikit_learns(known):
    features, labels, others = known
    scaler = sklearn.preprocessing.StandardScaler().fit(features[:, :6].astype(float))
    films, tested = (scaler.transform(table[:, :6].astype(float)) for table in (features, others))
    width = np.median(scipy.spatial.distance.pdist(films, "sqeuclidean"))

    def kernel(one: np.ndarray) -> np.ndarray:
        return np.exp(-scipy.spatial.distance.cdist(one, films, "sqeuclidean") / (2 * width))

    factor = scipy.linalg.cho_factor(kernel(films) + 0.1 * np.eye(300))
    scores = kernel(tested) @ scipy.linalg.cho_solve(factor, labels - labels.mean())
    model = giveaways.CheapModel.fit(features, labels)
    np.testing.assert_allclose(model.scores(others), scores, rtol=1e-6, atol=1e-8)
    ridge = sklearn.kernel_ridge.KernelRidge(kernel="rbf", alpha=0.1, gamma=1 / (2 * width))
    np.testing.assert_allclose(scores, ridge.fit(films, labels - labels.mean()).predict(tested), rtol=1e-6, atol=1e-8)
    assert model.scores(others).dtype == np.float64 and model.scores(others[:0]).shape == (0,)


def test_parts_count_alike_in_distances(known):
    """One column against a hundred copies of another one: as two columns."""
    features, labels, others = known
    parts = [np.concatenate([table[:, :1], np.repeat(table[:, 1:2], 100, 1)], 1) for table in (features, others)]
    found = giveaways.CheapModel.fit(parts[0], labels, [1, 100]).scores(parts[1])
    expected = giveaways.CheapModel.fit(features[:, :2], labels).scores(others[:, :2])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert not np.allclose(giveaways.CheapModel.fit(parts[0], labels).scores(parts[1]), expected, atol=0.01)


def test_many_films_are_thinned_and_long_tables_scored_in_parts(known, monkeypatch):
    features, labels, others = known
    monkeypatch.setattr(giveaways, "FITTED_AT_MOST", 100)
    some = giveaways.thinned(labels, 100)
    expected = giveaways.CheapModel.fit(features[some], labels[some]).scores(others)
    model = giveaways.CheapModel.fit(features, labels)
    np.testing.assert_array_equal(model.scores(others), expected)
    np.testing.assert_allclose(model.scores(np.tile(others, (60, 1))), np.tile(expected, 60), rtol=1e-9)


@pytest.mark.parametrize("constant", [True, False])
def test_what_says_nothing_scores_nothing(known, constant):
    """Films without a letter, most of them or all, are no reason for a division by zero."""
    _, labels, _ = known
    features = np.zeros((300, 3), np.float32)
    if not constant:
        features[:20, 1] = 1
    scores = giveaways.out_of_fold(features, labels, range(300))
    assert np.isfinite(scores).all() and (not constant or not scores.any())
    assert not giveaways.CheapModel.fit(known[0], np.ones(300, int)).scores(known[2]).any()  # of one class


@pytest.mark.parametrize(("count", "films"), [(4000, 4185), (50, 300), (300, 300), (400, 300), (7, 300)])
def test_thinned_keeps_the_proportion(count, films):
    labels = np.random.default_rng(6).permutation(np.arange(films) % 3 > 0).astype(int)
    kept = giveaways.thinned(labels, count)
    assert len(kept) == min(count, films) == len(set(kept.tolist())) and (np.diff(kept) > 0).all()
    assert abs(labels[kept].mean() - labels.mean()) <= 1 / len(kept)


def test_folds_never_share_a_patient_and_each_has_both_classes():
    random = np.random.default_rng(7)
    groups = [f"p{i}" for i in random.integers(0, 150, 600)]
    of_group = {name: int(random.integers(0, 4) > 0) for name in sorted(set(groups))}
    labels = np.array([of_group[name] for name in groups])
    labels[0] = 1 - labels[0]  # two readings of one film
    fold = giveaways.folds_of(labels, groups)
    assert all(len({fold[i] for i in range(600) if groups[i] == name}) == 1 for name in of_group)
    counts = np.array([[((fold == k) & (labels == label)).sum() for k in range(5)] for label in (0, 1)])
    assert (counts.min(1) > 0.8 * counts.mean(1)).all() and (counts.max(1) < 1.2 * counts.mean(1)).all()
    order = random.permutation(600)
    np.testing.assert_array_equal(giveaways.folds_of(labels[order], [groups[i] for i in order]), fold[order])
    numbers = np.unique(groups, return_inverse=True)[1]
    np.testing.assert_array_equal(giveaways.folds_of(labels, numbers.tolist()), fold)


def test_a_film_has_no_part_in_its_own_score(known):
    features, labels, _ = known
    groups = np.arange(300) // 3
    labels = labels[groups * 3]
    scores = giveaways.out_of_fold(features, labels, groups.tolist())
    fold = giveaways.folds_of(labels, groups.tolist())
    mine = fold == 2
    changed = features.copy()
    changed[mine] = features[mine][::-1] * 3
    model = giveaways.CheapModel.fit(features[~mine], labels[~mine])
    np.testing.assert_array_equal(scores[mine], model.scores(features[mine]))
    others = giveaways.out_of_fold(changed, labels, groups.tolist())[mine]
    np.testing.assert_array_equal(others, model.scores(changed[mine]))


def test_the_pooled_auroc_is_that_of_the_folds(known):
    features, labels, _ = known
    scores, fold = giveaways.out_of_fold(features, labels, range(300)), giveaways.folds_of(labels, range(300))
    each = [measures.auroc(labels[fold == k], scores[fold == k]) for k in range(5)]
    assert measures.auroc(labels, scores) == pytest.approx(np.mean(each), abs=0.01) and np.mean(each) > 0.8


# ----------------------------------------------------------------------------------------- planted shortcuts


LETTER = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]], bool)


def test_a_letter_in_the_corner_of_one_class():
    """The other class has the same letter above the middle: the machine is the same."""
    images, labels = backgrounds(240), in_pairs(240)
    for image, label in zip(images, labels, strict=True):
        column = 4 if label else 28
        image[4:10, column : column + 4][LETTER] = 255
    rows = found(dataset(images, labels))
    for name in ("the frame", "the edge", "the corners", "annotations"):
        assert rows[name]["AUROC"] > 0.97 and rows[name]["low"] > 0.9, rows
    for name in ("the machine", "the middle"):
        assert rows[name]["AUROC"] < 0.65 and rows[name]["low"] < 0.55, rows
    assert "the file" not in rows
    assert rows["together"]["AUROC"] > 0.97


def test_another_noise_in_each_class():
    images, labels = backgrounds(240), in_pairs(240)
    noise = np.random.default_rng(8).normal(0, 1, images.shape) * np.where(labels, 3, 6)[:, None, None]
    rows = found(dataset(np.clip(images + noise, 0, 255).astype(np.uint8), labels))
    assert rows["the machine"]["AUROC"] > 0.97
    assert rows["together"]["AUROC"] > 0.9
    assert all(rows[name]["AUROC"] < 0.7 for name in ("the frame", "the corners", "annotations", "the middle")), rows


def test_a_shape_or_a_file_size_for_each_class(tmp_path):
    labels, random = in_pairs(160), np.random.default_rng(9)
    films = dataset(backgrounds(160, 32), labels)
    films.widths = random.integers(80, 100, 160) + 15 * labels
    rows = found(films)
    assert rows["the file"]["AUROC"] > 0.8 and rows["the file"]["what that is"] == "aspect ratio, pixels"
    some = giveaways.measured(films, np.arange(2, 160))
    assert {row["films"] for row in some} == {158}
    films.widths, films.source = np.full(160, 90), str(tmp_path)
    for file, label in zip(films.files, labels, strict=True):
        (tmp_path / file).write_bytes(b"x" * int(100 + 50 * label + random.integers(0, 40)))
    rows = found(films)
    assert rows["the file"]["AUROC"] > 0.97 and rows["the file"]["what that is"] == "file size"


def test_shuffled_labels_are_told_by_nothing():
    """Intervals take the models as fixed: of 95 % a little less hold the truth."""
    images, widths = backgrounds(240), np.random.default_rng(12).integers(80, 99, 240)
    for image, label in zip(images, in_pairs(240, seed=11), strict=True):
        image[2:8, 2:6][LETTER] = 255 * label  # a shortcut to other labels
    shuffled = [found(dataset(images, in_pairs(240, seed=seed), widths=widths)) for seed in range(20, 28)]
    for name in shuffled[0]:
        assert np.mean([rows[name]["AUROC"] for rows in shuffled]) == pytest.approx(0.5, abs=0.05), name
    every = [row for rows in shuffled for row in rows.values()]
    assert len(every) == 8 * 9
    assert np.mean([row["low"] < 0.5 < row["high"] for row in every]) > 0.8


# ------------------------------------------------------------------------------------------------- the rows


def test_rows_are_plain_the_worst_first_and_those_with_lungs_last():
    images, labels = backgrounds(160, 32), in_pairs(160)
    images[labels == 1, :4] //= 2
    films = dataset(images, labels)
    rows = giveaways.measured(films, np.arange(160))
    assert rows == giveaways.measured(films, np.arange(160))  # nothing is random
    assert [row["seen"] for row in rows[-2:]] == ["the middle", "the whole film"]
    assert [row["lungs"] for row in rows] == ["no"] * 6 + ["yes"] * 2
    areas = [row["AUROC"] for row in rows[:-2]]
    assert areas == sorted(areas, reverse=True)
    for row in rows:
        assert {type(value) for value in row.values()} <= {str, float, int, type(None)} and row["films"] == 160
        assert row["low"] is None or row["low"] <= row["AUROC"] <= row["high"]
    assert {row["folds"] for row in rows} == {"5 by patient"}
    films.has_patients = False
    assert {row["folds"] for row in giveaways.measured(films, np.arange(160))} == {"5 by image"}
    sentence = giveaways.said(rows)
    assert sentence.startswith(f"{giveaways.worst(rows)['seen']} alone tells the classes apart with AUROC ")
    assert sentence.endswith("]; a network may use that: see docs/quality.md")


def test_the_sentence_without_an_interval_and_of_several():
    row = {"seen": "annotations", "AUROC": 0.5, "low": None, "high": None}
    assert giveaways.said([row]) == "annotations alone tell the classes apart with AUROC 0.500"
    together, row = {**row, "seen": "together", "AUROC": 1.0}, {**row, "low": 0.4, "high": 0.6}
    assert giveaways.said([together, row]) == "annotations alone tell the classes apart with AUROC 0.500 [0.400, 0.600]"


def test_few_films_or_patients_are_not_measured():
    images, labels = backgrounds(100, 32), np.arange(100) % 2
    films = dataset(images, labels, patients=[f"p{i}" for i in range(100)])
    assert not giveaways.too_few(labels, films.patients) and found(films)
    assert giveaways.measured(films, np.arange(99)) == []
    assert giveaways.too_few(labels[:99], films.patients[:99]).startswith("not measured: that takes 50 images of each")
    few = [f"p{min(i, 18)}" if i % 2 == 0 else f"q{i}" for i in range(100)]  # of class 0 ten
    assert not giveaways.too_few(labels, few) and giveaways.too_few(
        labels, [name.replace("p18", "p16") for name in few]
    )
    assert giveaways.too_few(labels[:0], [])


def test_many_films_are_measured_in_part(monkeypatch):
    """Of both classes, though those in the first half of the list are all normal."""
    monkeypatch.setattr(giveaways, "MEASURED_AT_MOST", 80)
    rows = giveaways.measured(dataset(backgrounds(160, 32), np.arange(160) // 80), np.arange(160))
    assert {row["films"] for row in rows} == {80} and all(0 < row["AUROC"] < 1 for row in rows)


def test_intervals_are_by_patient():
    images, labels = backgrounds(160, 32), in_pairs(160)
    images[labels == 1, :4] = images[labels == 1, :4] * 0.9
    films = dataset(images, labels)
    scores = giveaways.out_of_fold(giveaways.frame_features(images), labels, films.patients)
    ranks = scipy.stats.rankdata(scores) / 160
    row, ends = found(films)["the frame"], intervals.auroc_interval(labels, ranks, films.patients)
    assert (row["AUROC"], row["low"], row["high"]) == pytest.approx((measures.auroc(labels, scores), *ends), abs=6e-5)
    assert ends != pytest.approx(intervals.auroc_interval(labels, ranks), abs=1e-3)


def test_what_is_known_of_files_are_fields_of_a_dataset():
    assert {"images", "labels", "patients", "has_patients", "files", "source", "widths", "heights"} <= {
        field.name for field in fields(data.Dataset)
    }


# ------------------------------------------------------------------------------------- in the data audit


@pytest.fixture(scope="module")
def marked() -> tuple[SimpleNamespace, dict[str, np.ndarray]]:
    """200 drawings, a mark in the corner of each pneumonia; every fifth patient is tested."""
    images, labels, files = drawings.generate(200, 32)
    images[labels == 1, 2:6, 2:6] = 255
    table = SimpleNamespace(
        name="SYNTHETIC", source="/films", synthetic=True, images=images, labels=labels, files=list(files),
        patients=[sources.patient_of(file) for file in files], has_patients=True, unknown_patients=0,
        pixel_hashes=[f"{i:04x}" for i in range(200)], widths=np.full(200, 1200), heights=np.full(200, 800),
        modes=["L"] * 200, bad=[], pseudonyms={},
    )  # fmt: skip
    place = {patient: k % 5 for k, patient in enumerate(dict.fromkeys(table.patients))}
    folds = np.array([place[patient] for patient in table.patients])
    bounds = {"train": (2, 4), "validation": (1, 1), "test": (0, 0)}
    return table, {side: np.flatnonzero((low <= folds) & (folds <= high)) for side, (low, high) in bounds.items()}


def test_what_tells_the_classes_apart_without_lungs(marked, capsys):
    table, sides = marked
    report = audit.check(table, sides, "patient")
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    rows = report["giveaways"]
    assert [row["seen"] for row in rows[-2:]] == ["the middle", "the whole film"]
    assert rows[0]["AUROC"] > 0.97 and rows[0]["films"] == 200 - len(sides["test"])
    audit.print_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "SYNTHETIC"
    said = lines.index(f"Without lungs: {report['giveaways_note']}")
    assert " alone tell" in lines[said] and lines[said].endswith("]; a network may use that: see docs/quality.md")
    assert lines[said + 1].split()[0] == "seen" and lines[said + 3].split()[0] in rows[0]["seen"]
    assert f"without lungs, {report['giveaways_note']}" in report["warnings"] and report["errors"] == []


def test_test_films_have_no_part_in_that(marked):
    """Nor does a film that is on no side; groups are what is given."""
    table, sides = marked
    before = audit.check(table, sides, "patient")["giveaways"]
    other = SimpleNamespace(**vars(table) | {"images": table.images.copy(), "labels": table.labels.copy()})
    other.images[sides["test"]] = 7
    other.labels[sides["test"]] = 1 - table.labels[sides["test"]]
    assert audit.check(other, sides, "patient")["giveaways"] == before
    assert audit.check(other, {**sides, "test": sides["test"][:0]}, "patient")["giveaways"] == before
    assert audit.check(table, sides, "patient", groups=[str(i) for i in range(200)])["giveaways"] != before


def test_few_films_are_said_not_to_be_measured(marked, capsys):
    table, sides = marked
    report = audit.check(table, {**sides, "train": sides["train"][:50]}, "patient")
    assert report["giveaways"] == [] and not any("without lungs" in line for line in report["warnings"])
    audit.print_report(report)
    assert "\nWithout lungs: not measured: that takes 50 images of each class, of 10 " in capsys.readouterr().out


def test_check_keeps_films_with_the_same_pixels_in_one_fold(tmp_path, cache, monkeypatch):
    """Also where two patients have them."""
    for i in range(12):
        draw(tmp_path / f"{i}.png", min(i, 10))  # the last two are one
    rows = "".join(f"{i}.png,{i % 2},p{i}\n" for i in range(12))
    (tmp_path / "films.csv").write_text("path,label,patient\n" + rows)
    seen = []
    monkeypatch.setattr(giveaways, "measured", lambda dataset, chosen, groups: seen.append((dataset, groups)) or [])
    data.main(["check", "--data", str(tmp_path / "films.csv"), "--size", "32", "--cache", str(cache)])
    ((films, groups),) = seen
    of_file = dict(zip(films.files, groups, strict=True))
    assert of_file["10.png"] == of_file["11.png"] and len(set(groups)) == 11


# ---------------------------------------------------------------------------------------------- real films


def test_on_real_films_the_frame_gives_the_class_away(real_folder, cache):
    films = data.load(real_folder, 224, cache)
    split = data.split(films)
    chosen = data.thinned(films, np.concatenate([split.train, split.validation]), 1500)
    labels, patients = films.labels[chosen], [films.patients[i] for i in chosen]
    scores = giveaways.out_of_fold(giveaways.frame_features(films.images[chosen]), labels, patients)
    fold = giveaways.folds_of(labels, patients)
    each = [measures.auroc(labels[fold == k], scores[fold == k]) for k in range(5)]
    assert measures.auroc(labels, scores) > 0.95
    assert measures.auroc(labels, scores) == pytest.approx(np.mean(each), abs=0.003)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert measures.auroc(
        shuffled, giveaways.out_of_fold(giveaways.machine_features(films.images[chosen]), shuffled, patients)
    ) == pytest.approx(0.5, abs=0.06)
