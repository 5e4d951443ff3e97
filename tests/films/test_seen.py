"""seen.py: the record of what a model has seen goes through JSON unchanged, and knows films, copies and people."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from films import seen


def films(names: str, whose: list[str] | None = None, look: int = 0, common: tuple[str, ...] = ()) -> SimpleNamespace:
    """A set of films, each a letter: equal letters, equal pixels; `look` more makes other looks of other letters."""
    files = [f"{name}{i}.png" for i, name in enumerate(names)]
    rows = [np.random.default_rng(ord(name) + look).integers(0, 2**64, (2, 4), np.uint64) for name in names]
    return SimpleNamespace(
        files=files, pixel_hashes=[f"{name}{look}" for name in names], looks=np.array(rows),
        patients=whose or files, common_patients=frozenset(common),
        widths=np.full(len(names), 100), heights=np.full(len(names), 90),
    )  # fmt: skip


def every(dataset: SimpleNamespace) -> np.ndarray:
    return np.arange(len(dataset.files))


def test_a_record_goes_through_json(phantoms):
    record = seen.record(phantoms, np.arange(0, 100))
    again = seen.unpacked(json.loads(json.dumps(seen.packed(record))))
    assert list(again) == list(seen.SHAPES)
    for name, values in record.items():
        assert again[name].dtype == np.int64 and (again[name] == values).all()
    assert seen.digest(again) == seen.digest(record) != seen.digest(seen.record(phantoms, np.arange(0, 99)))
    assert len(record["seen_images"]) == len(set(phantoms.pixel_hashes[:100]))
    assert len(record["seen_patients"]) == len(set(phantoms.patients[:100]))


@pytest.mark.parametrize(
    "damaged",
    [{}, {"seen_images": ""}, {"seen_images": "!", "seen_patients": ""}, {"seen_images": "AAAA", "seen_patients": ""},
     {"seen_images": 5, "seen_patients": ""}, {"seen_images": "", "seen_patients": "", "other": ""},
     {"seen_images": "", "seen_patients": "", "seen_looks": "AAAAAAAAAAA="}],
)  # fmt: skip
def test_a_damaged_record_is_none(damaged):
    with pytest.raises(ValueError):
        seen.unpacked(damaged)


def test_a_file_that_says_nothing_of_its_patient_is_nobody():
    one = films("abc")
    assert len(seen.record(one, every(one))["seen_patients"]) == 0
    other = films("xyz", look=1)
    other.files = other.patients = list(one.files)  # the same names
    assert not seen.of_dataset(other, seen.record(one, every(one))).films.any()


def test_pixels_copies_and_people():
    one = films("abc", ["p1", "p1", "p2"])
    record = seen.record(one, every(one))
    same = seen.of_dataset(films("axy", ["q1", "q1", "q2"], common=("q1", "q2")), record)
    assert same.pixels.tolist() == [True, False, False] and same.films.tolist() == [True, True, False]
    copy = films("axy", ["q1", "q2", "q3"])
    copy.pixel_hashes = ["other", "pixels", "here"]
    assert seen.of_dataset(copy, record).copies.tolist() == [True, False, False]
    assert not seen.of_dataset(copy, record, looked_at=False).films.any()
    copy.widths[:] = 63  # too small to tell
    assert not seen.of_dataset(copy, record).films.any()


def test_common_names_count_where_a_film_is_the_same():
    one = films("abc", ["1", "1", "2"], common=("1", "2"))
    record = seen.record(one, every(one))
    strangers = seen.of_dataset(films("xyz", ["1", "2", "3"], common=("1", "2", "3")), record)
    assert not strangers.films.any() and strangers.names == 2
    together = seen.of_dataset(films("cyz", ["2", "1", "3"], common=("1", "2", "3")), record)
    assert together.films.tolist() == [True, True, False] and together.names == 0
    proper = seen.of_dataset(films("xyz", ["1", "2", "3"]), record)  # names that are nobody else's
    assert proper.patients.tolist() == [True, True, False]
