"""The phantoms: reproducible, named like the real films, and without a giveaway outside the lungs."""

import re
from functools import cache

import numpy as np
import pytest

from films import phantoms

PNEUMONIA = re.compile(r"^person(\d+)_(bacteria|virus)_(\d+)")
NORMAL = re.compile(r"^(NORMAL2-)?IM-(\d+)-(\d+)")


@cache
def films(count: int = 200, size: int = 96) -> tuple[np.ndarray, np.ndarray, list[str]]:
    return phantoms.generate(count, size, seed=0)


def patient_key(name: str) -> tuple[str, str]:
    base = name.split("/")[-1]
    if found := PNEUMONIA.match(base):
        return found[2], found[1]
    found = NORMAL.match(base)
    return found[1] or "", found[2]


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Share of (ill, normal) pairs in which the ill film scores higher; ties count half."""
    ill, normal = score[label == 1][:, None], score[label == 0][None, :]
    return float((ill > normal).mean() + 0.5 * (ill == normal).mean())


def test_shapes_types_and_range():
    images, labels, names = films()
    assert images.shape == (200, 96, 96) and images.dtype == np.uint8
    assert labels.shape == (200,) and labels.dtype == np.int64
    assert isinstance(names, list) and len(names) == 200
    assert (images.min(axis=(1, 2)) < 60).all() and (images.max(axis=(1, 2)) > 150).all()
    assert (images.std(axis=(1, 2)) > 25).all()


def test_same_seed_same_films_and_other_seed_other_films():
    first, again, other = (phantoms.generate(8, 96, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and first[2] == again[2]
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_short_run_is_the_beginning_of_a_long_one(count):
    images, labels, names = films()
    short = phantoms.generate(count, 96, 0)
    assert np.array_equal(short[0], images[:count])
    assert np.array_equal(short[1], labels[:count]) and short[1].dtype == np.int64
    assert short[2] == names[:count]


def test_names_follow_the_real_scheme():
    _, labels, names = films()
    assert len(set(names)) == len(names)
    for name, label in zip(names, labels, strict=True):
        folder, base = name.split("/")
        assert folder == ("PNEUMONIA" if label else "NORMAL")
        assert (PNEUMONIA if label else NORMAL).match(base) and base.endswith(".png")
    etiology = [patient_key(name)[0] for name in names]
    assert 1.2 < etiology.count("bacteria") / etiology.count("virus") < 3.5
    assert {"", "NORMAL2-"} <= set(etiology)


@pytest.mark.parametrize("count", [6, 20, 200])
def test_every_prefix_holds_both_classes(count):
    labels = films()[1][:count]
    assert 0 < labels.mean() < 1


def test_some_patients_have_several_films_in_either_class():
    roster = phantoms.roster(2000, 0)
    per_patient = {}
    for patient, _, kind, name in roster:
        per_patient.setdefault(patient_key(name), []).append((patient, kind))
    assert all(len(set(rows)) == 1 for rows in per_patient.values())  # one key is one patient
    for ill in (False, True):
        counts = [len(rows) for rows in per_patient.values() if (rows[0][1] != "N") == ill]
        assert 0.13 < np.mean(np.array(counts) > 1) < 0.23 and max(counts) <= 4
    assert 0.55 < np.mean([kind != "N" for _, _, kind, _ in roster]) < 0.65


def test_no_two_films_are_alike():
    images = films()[0]
    assert len({image.tobytes() for image in images}) == len(images)


def test_films_of_one_patient_share_anatomy():
    def film(patient: int, image: int) -> np.ndarray:
        return phantoms.render(0, patient, image, "N", 64)[16:48].astype(float).ravel()

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return np.corrcoef(a, b)[0, 1]

    same = np.mean([alike(film(p, 0), film(p, 1)) for p in range(30)])
    other = np.mean([alike(film(p, 0), film(p + 1, 1)) for p in range(30)])
    assert same > other + 0.01


@pytest.mark.parametrize("kind", ["B", "V"])
def test_disease_changes_nothing_outside_the_lungs(kind):
    brighter = []
    for patient in range(25):
        normal, ill = (phantoms.render(0, patient, 0, k, 96).astype(int) for k in ("N", kind))
        change = ill - normal
        assert not change[:5].any() and not change[-9:].any()  # neck, abdomen
        assert not change[:, :4].any() and not change[:, -4:].any()  # arms, air
        brighter.append(change.sum() > 0 and change.max() > 8)
    assert np.mean(brighter) > 0.9


def test_the_surroundings_do_not_give_the_class_away():
    images, labels, _ = films(600, 64)
    images = images.astype(np.float32)
    regions = {
        "top": images[:, :5].reshape(600, -1),
        "bottom": images[:, -6:].reshape(600, -1),
        "sides": np.concatenate([images[:, :, :3], images[:, :, -3:]], axis=2).reshape(600, -1),
    }
    for name, pixels in regions.items():
        grain = np.abs(np.diff(pixels, axis=1)).mean(axis=1)
        spread = (pixels.mean(1), pixels.std(1), pixels.min(1), pixels.max(1), np.median(pixels, 1))
        for k, statistic in enumerate((*spread, grain)):
            assert 0.4 < auroc(statistic, labels) < 0.6, (name, k)


def test_lung_brightness_helps_but_does_not_decide():
    images, labels, _ = films(600, 64)
    assert 0.5 < auroc(images[:, 14:42, 12:52].mean(axis=(1, 2)), labels) < 0.85


@pytest.mark.parametrize("size", [64, 100, 256])
def test_other_sizes_work(size):
    images, _, names = phantoms.generate(3, size, 0)
    assert images.shape == (3, size, size) and names == films()[2][:3]
