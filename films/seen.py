"""What a model has seen, as a record that goes with it in a checkpoint or a certificate, and what of a set is in it.

record(dataset, indices)     hashes of films and of patients, and the looks of the films
packed(record)               the same as texts, for JSON;  unpacked(...) takes it back
of_dataset(dataset, record)  which films of another set a model has seen, and how one knows
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basics.disk import sha256_of
from films import looks

Dataset = Any  # that of data.py, which explains its fields
Record = dict[str, NDArray]
SHAPES = {"seen_images": (), "seen_patients": (), "seen_looks": (4,)}  # of a row of each part
SMALLEST = 64  # side in pixels of a film whose look says which one it is


@dataclass(frozen=True)
class Familiar:
    """(N,) for each film of a set: whether a model has seen the same pixels, the same film, or the same patient."""

    pixels: NDArray[np.bool_]
    copies: NDArray[np.bool_]  # by their looks: resized, or stored in another format
    patients: NDArray[np.bool_]  # by name, and all films of who has a film among the former two
    names: int  # of patients that the model knows too, but that prove nothing: such as "1" in another source

    @property
    def films(self) -> NDArray[np.bool_]:
        return self.pixels | self.copies | self.patients


def hashed(keys: list[str]) -> NDArray[np.int64]:
    """(number of distinct keys,) int64, sorted: a compact record of what a model saw, to test overlaps with."""
    return np.unique(_hashes(keys))


def _hashes(keys: list[str]) -> NDArray[np.int64]:
    known = {key: int(sha256_of([key])[:15], 16) for key in set(keys)}
    return np.array([known[key] for key in keys], np.int64)


def record(dataset: Dataset, indices: NDArray) -> Record:
    """seen_images (M,) and seen_patients (P,), int64 hashes, and seen_looks (L, 4) int64, of these films.

    A patient of whom nothing is known but a file's name is none.
    """
    known = [dataset.patients[i] for i in indices if dataset.patients[i] != dataset.files[i]]
    return {
        "seen_images": hashed([dataset.pixel_hashes[i] for i in indices]),
        "seen_patients": hashed(known),
        "seen_looks": np.unique(dataset.looks[indices].reshape(-1, 4), axis=0).view(np.int64),
    }


def of_checkpoint(facts: dict) -> Record:
    """The record in a checkpoint, or in what a graph says of itself; those of earlier versions have no looks."""
    return {name: np.asarray(facts[name]) for name in SHAPES if name in facts}


def united(records: list[Record]) -> Record:
    """The record of who has seen what any of them has; of parts that one lacks there is none."""
    return {name: np.unique(np.concatenate([one[name] for one in records]), axis=0)
            for name in records[0] if all(name in one for one in records)}  # fmt: skip


def digest(kept: Record) -> str:
    """SHA-256 of a record: a graph's metadata has it, so that no other record passes for its own."""
    return sha256_of([part for name in sorted(kept) for part in (name, _bytes(kept[name]))])


def _bytes(values: NDArray) -> bytes:
    return np.ascontiguousarray(values, "<i8").tobytes()


def packed(kept: Record) -> dict[str, str]:
    """A record as base64 of little-endian numbers of 8 bytes."""
    return {name: base64.b64encode(_bytes(values)).decode() for name, values in kept.items()}


def unpacked(kept: dict[str, str]) -> Record:
    """What packed() was given. Raises ValueError on anything else."""
    found = {}
    try:
        for name in kept:
            values = np.frombuffer(base64.b64decode(kept[name], validate=True), "<i8")
            found[name] = values.reshape(-1, *SHAPES[name])
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise ValueError(f"not a record of films ({type(error).__name__}: {error})") from error
    if not {"seen_images", "seen_patients"} <= set(found):
        raise ValueError("not a record of films: it lacks images or patients")
    return found


def of_dataset(dataset: Dataset, kept: Record, looked_at: bool = True) -> Familiar:
    """Which films of a set are in a record.

    Names of patients count where they are nobody else's, or where the set has a film of the record: then both are of
    one source. looked_at: whether looks count; those of drawings do not, which share their ribs.
    """
    pixels = np.isin(_hashes(dataset.pixel_hashes), kept["seen_images"])
    copies = np.zeros(len(pixels), bool)
    if looked_at and "seen_looks" in kept and len(kept["seen_looks"]):
        large = np.minimum(dataset.widths, dataset.heights) >= SMALLEST
        seen_looks = np.ascontiguousarray(kept["seen_looks"]).view(np.uint64)
        copies[large] = looks.resembling(dataset.looks[large], seen_looks)
    whose, unknown = np.array(dataset.patients), np.array(dataset.patients) == np.array(dataset.files)
    named = np.isin(_hashes(dataset.patients), kept["seen_patients"]) & ~unknown
    doubtful = np.isin(whose, list(dataset.common_patients)) & ~(pixels | copies).any()
    theirs = np.isin(whose, np.unique(whose[(pixels | copies) & ~unknown])) & ~unknown
    names = len(set(whose[named & doubtful].tolist()))
    return Familiar(pixels, copies, (named & ~doubtful) | theirs, names)
