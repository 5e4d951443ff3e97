"""What a network knows: distances, flags and limits, on drawn films, and on real ones where there are any."""

import numpy as np
import pytest
import torch

import data
import models
from training import limits, schema
from training.limits import FLAGS, SIDE

CPU = torch.device("cpu")


def films_of(dataset: data.Dataset) -> limits.Films:
    split = data.split(dataset)
    patients = [dataset.patients[i] for i in split.validation]
    table = torch.from_numpy(np.array(dataset.images))
    return limits.Films(table, dataset.labels, split.train, split.validation, patients)


@pytest.fixture(scope="module")
def films(phantoms) -> limits.Films:
    return films_of(phantoms)


def fitted(films: limits.Films, size: int) -> dict:
    torch.manual_seed(0)
    return limits.fit(models.build("simple", size), films, (0.5, 0.25), CPU)


@pytest.fixture(scope="module")
def known(films) -> dict:
    return fitted(films, 64)


def seen(known: dict, squares: np.ndarray) -> np.ndarray:
    """The flags that thumbnails give."""
    thumbs = limits.thumbnails(torch.from_numpy(np.ascontiguousarray(squares)))
    return limits.flags_of(known, limits.looked_at(known, thumbs))[0]


def share(flags: np.ndarray, name: str) -> float:
    return float(((flags & FLAGS[name]) > 0).mean())


SHOWN = {
    "upside down": [lambda x: x[:, ::-1], lambda x: x[:, ::-1, ::-1]],
    "turned": [lambda x: np.rot90(x, 1, (1, 2)), lambda x: np.rot90(x, -1, (1, 2)), lambda x: x.transpose(0, 2, 1)],
    "negative": [lambda x: 255 - x],
    "half black": [lambda x: x * (np.arange(x.shape[2]) < x.shape[2] // 2),
                   lambda x: x * (np.arange(x.shape[1]) >= x.shape[1] // 2)[:, None]],
}  # fmt: skip


def test_drawn_films_that_are_shown_otherwise_are_named(films, known):
    shown = films.table[films.validation].numpy()
    assert np.mean(seen(known, shown) > 0) <= 0.05
    for name, ways in SHOWN.items():
        for way in ways:
            assert share(seen(known, way(shown).astype(np.uint8)), name) >= 0.95, name
    assert share(seen(known, shown[:, :, ::-1]), "mirrored") >= 0.8
    turned_negative = seen(known, 255 - np.rot90(shown, 1, (1, 2)))
    assert share(turned_negative, "negative") >= 0.95 and share(turned_negative, "turned") >= 0.95


def test_what_is_no_film_is_unfamiliar_or_nearly_constant(films, known):
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 256, (20, 8, 8), np.uint8), np.ones((8, 8), np.uint8))
    boards = np.stack(
        [(np.add.outer(np.arange(64) // k, np.arange(64) // k) % 2 * 255).astype(np.uint8) for k in range(4, 17)]
    )
    hidden = np.full((1, 84), 0.1)
    for images in (blocks, boards):
        flags = limits.answers(known, limits.thumbnails(torch.from_numpy(images)), hidden.repeat(len(images), 0))[1]
        assert share(flags, "unfamiliar") == 1
    for level in (0, 100, 255):
        assert seen(known, np.full((1, 64, 64), level, np.uint8)) == FLAGS["nearly constant"]


def test_one_per_cent_of_validation_films_is_unfamiliar(films, known):
    assert known["flagged"]["any"] <= 0.05 and known["flagged"].get("unfamiliar", 0) <= 0.02
    values = np.arange(1000.0)
    assert 989 < limits.beyond_few(values, 0.01) < 990 and (values > 989).mean() == 0.01
    assert 49 < limits.beyond_few(values[:50], 0.01) < 50 and limits.beyond_all(values) > 999


def test_it_is_the_same_each_time(films, known):
    again = fitted(films, 64)
    for key, value in known.items():
        assert torch.equal(value, again[key]) if isinstance(value, torch.Tensor) else value == again[key], key


def test_each_way_is_undone_by_its_places():
    film = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(float)
    grid = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    undone = [np.array_equal(shown(film).ravel()[limits.ways()[k][0]], film.ravel())
              for k, shown in enumerate((np.asarray, lambda x: x[::-1, ::-1], np.flipud, np.fliplr,
                                         lambda x: np.rot90(x, -1), np.rot90, np.transpose,
                                         lambda x: x[::-1, ::-1].T))]  # fmt: skip
    assert all(undone)
    assert limits.way_bits()[0] == 0 and (limits.way_bits()[8:] & FLAGS["negative"]).all()
    assert all(np.array_equal(np.sort(places), grid.ravel()) for places, _, _ in limits.ways())
    assert len({tuple(places) for places, _, _ in limits.ways()}) == 8


@pytest.mark.parametrize(
    ("shape", "found"),
    [((64, 64), []), ((31, 64), ["tiny"]), ((32, 32), []), ((31, 31), ["tiny"]), ((100, 49), ["odd shape"]),
     ((100, 50), []), ((64, 224), []), ((64, 225), ["odd shape"]), ((20, 300), ["tiny", "odd shape"])],
)  # fmt: skip
def test_flags_of_the_shape(shape, found):
    assert limits.shape_flags(*shape, 64) == sum(FLAGS[name] for name in found)


def test_flags_near_a_limit_are_unsure(films, known):
    thumbs = limits.thumbnails(films.table[films.validation])
    look = limits.looked_at(known, thumbs)
    assert not limits.flags_of(known, look, 1e-9)[1].any()
    at = {**known, "middle": float(look.middle[3]), "halves": float(look.halves[5])}
    at["orientation"] = float(look.distances[7, 0] / look.distances[7, 1:].min()) * (1 - 1e-4)
    unsure = limits.flags_of(at, look, 5e-3)[1]
    assert unsure[3] & FLAGS["no bright middle"] and unsure[5] & FLAGS["half black"] and unsure[7]
    assert np.mean(unsure > 0) < 0.3


def test_limits_of_few_equal_and_one_sided_films_are_numbers():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 256, (8, 40, 40), np.uint8))
    for table in (noise, noise[:1].repeat(8, 1, 1), torch.zeros_like(noise)):
        for labels in (np.array([0, 1] * 4), np.zeros(8, int)):
            few = limits.Films(table, labels, np.arange(6), np.array([6, 7]), ["a", "b"])
            made = fitted(few, 40)
            assert schema.knowledge(made), {key: value for key, value in made.items() if isinstance(value, float)}
            assert np.isfinite(limits.answers(made, limits.thumbnails(table), rng.random((8, 84)))[0]).all()


def test_what_is_no_knowledge_is_refused(known):
    assert schema.knowledge(known)
    wrong = {"mean": torch.zeros(255), "directions": torch.full((256, 64), torch.nan), "logits": torch.zeros(3, 2),
             "hidden_means": torch.zeros(2, 5), "hidden_whitening": torch.zeros(84, 83), "thumbnail": 0.0,
             "hidden": "1", "labels": torch.full((62,), 2), "patients": torch.zeros(1, dtype=torch.int64),
             "orientation": float("nan"), "flagged": {"any": 2.0}}  # fmt: skip
    for key, value in wrong.items():
        assert not schema.knowledge({**known, key: value}), key
        assert not schema.knowledge({name: item for name, item in known.items() if name != key}), key
    assert not schema.knowledge(None) and not schema.knowledge([1])


def test_real_films_that_are_shown_otherwise_are_named(real_folder, cache):
    """By thumbnails alone: an untrained network's features tell nothing."""
    films = films_of(data.load(real_folder, 64, cache))
    known = fitted(films, 64)
    shown = films.table[films.validation].numpy()
    assert np.mean(seen(known, shown) > 0) <= 0.015
    for name, ways in SHOWN.items():
        for way in ways:
            assert share(seen(known, way(shown).astype(np.uint8)), name) >= 0.98, name
    assert share(seen(known, shown[:, :, ::-1]), "mirrored") >= 0.8
