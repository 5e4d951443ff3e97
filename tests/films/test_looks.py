"""looks.py: one film in other pixels has nearly the same look, another film has not."""

import numpy as np
import pytest
from PIL import Image

from films import looks, phantoms


def resized(grey: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR))


def test_a_look_is_the_hash_of_the_film_where_nothing_has_to_be_made_smaller():
    film = phantoms.generate(1, 128)[0][0]
    whole, middle = looks.from_text([looks.looks_of(film)])[0]
    assert whole.tolist() == middle.tolist() == looks.perceptual_hash(film[None])[0].tolist()


@pytest.mark.parametrize("shape", [(300, 200), (64, 96), (1500, 2100), (224, 224)])
def test_other_sizes_and_shapes_look_the_same(shape):
    """The squares of films that were drawn out, too: what a network sees of a film has another shape than the film."""
    films = phantoms.generate(20, 224)[0]
    found = looks.from_text([looks.looks_of(film) for film in films])
    again = looks.from_text([looks.looks_of(resized(film, *shape)) for film in films])
    assert (np.bitwise_count(found ^ again)[:, 0].sum(1) <= looks.SAME_FILM).mean() >= 0.95
    assert looks.resembling(again, found[:, 0]).mean() >= 0.95


def test_a_film_cut_to_the_square_in_its_middle_is_known_by_it_and_the_other_way_round():
    """As in PneumoniaMNIST, which is Kermany's films cut so."""
    films = [resized(film, 300, 210) for film in phantoms.generate(20, 256)[0]]
    cut = [resized(film[:, 45:255], 64, 64) for film in films]
    of_films, of_cut = (looks.from_text([looks.looks_of(one) for one in some]) for some in (films, cut))
    assert looks.resembling(of_cut, of_films.reshape(-1, 4)).mean() >= 0.95
    assert looks.resembling(of_films, of_cut.reshape(-1, 4)).mean() >= 0.95


def test_other_films_look_different():
    films, _, files = phantoms.generate(60, 224)
    found = looks.from_text([looks.looks_of(film) for film in films])
    person = np.array([file.rsplit("/", 1)[-1].split("_")[0].rsplit("-", 1)[0] for file in files])
    distance = np.bitwise_count(found[:, None, 0] ^ found[None, :, 0]).sum(2)
    assert distance[person[:, None] != person[None]].min() > looks.SAME_FILM


def test_resembling_by_hand(monkeypatch):
    monkeypatch.setattr(looks, "CHUNK", 3)
    rng = np.random.default_rng(0)
    others = rng.integers(0, 2**64, (7, 4), np.uint64)
    near, far = others.copy(), others.copy()
    near[:, 1] ^= np.uint64(2**looks.SAME_FILM - 1)  # so many bits
    far[:, 2] ^= np.uint64(2 ** (looks.SAME_FILM + 1) - 1)
    for place in range(2):  # the whole film, or its middle
        films = np.stack([far, far], 1)
        films[3, place] = near[3]
        assert looks.resembling(films, others).tolist() == [i == 3 for i in range(7)]
        assert looks.resembling(films[:0], others).shape == (0,) and not looks.resembling(films, others[:0]).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (17, 16)])
def test_a_film_of_any_shape_has_a_look(shape):
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert len(bytes.fromhex(looks.looks_of(grey))) == 64
