"""Small files that stand for more than memory holds: each is refused in one line, by whatever opens it."""

import contextlib
import io
import itertools
import json
import pickle
import pickletools
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import models
from basics import disk, nesting
from basics.problems import Problem
from training import checkpoints

FACTS = {
    "format": checkpoints.FORMAT, "name": "x", "architecture": "simple", "classes": ["NORMAL", "PNEUMONIA"], "size": 32,
    "fit": "stretch", "normalisation": [0.5, 0.2], "initial_weights": "random", "recipe": {}, "quick": False, "seed": 0,
    "device": "CPU", "threshold_rule": "y", "seen_images": torch.tensor([1]), "seen_patients": torch.tensor([2]),
    "epoch": 0, "history": [], "threshold": 0.4, "temperature": 1.0, "versions": {},
    "split": {"how": "patient", "seed": 0, "fingerprint": "s"},
    "data": {"name": "films", "fingerprint": "d", "source": "films", "synthetic": False},
}  # fmt: skip


def doubled(levels: int, kind: type = list) -> object:
    value: object = "x"
    for _ in range(levels):
        value = {"a": value, "b": value} if kind is dict else kind([value, value])
    return value


def in_itself(kind: type) -> object:
    value = kind()
    if kind is dict:
        value["x"] = [value]
    else:
        value.append({"x": value})
    return value


def archive(path: Path, instructions: bytes) -> Path:
    """A torch file whose pickle is these instructions."""
    stream = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, instructions if name.endswith("data.pkl") else old.read(name))
    return path


def put(place: int) -> bytes:
    return b"r" + struct.pack("<I", place)


def get(place: int) -> bytes:
    return b"j" + struct.pack("<I", place)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TWICE = b"".join(get(i) + get(i) + b"\x86" + put(i + 1) for i in range(60))  # tuples of the last one, two times
LISTS = b"".join(b"](" + get(i) + get(i) + b"e" + put(i + 1) for i in range(60))
# What torch's own unpickler would hash, print, call or make, before anybody could look at what came of it.
INSTRUCTIONS = {
    "100,000 deep": (b"]" * 100_000 + b"a" * 99_999, "nested too deeply"),
    "deep under a key": (b"}" + text("format") + b"]" * 3000 + b"a" * 2999 + b"s", "nested too deeply"),
    "a tuple as a key": (b"})" + put(0) + b"".join(get(i) + get(i) + b"\x86" + put(i + 1) for i in range(60))
                         + b"K\x01s", "a tuple in it stands for more than 1,000 values"),
    "a set of a tuple": (b"cbuiltins\nset\n])" + put(0) + TWICE + b"a\x85R", "something else than plain values"),
    "lists that are called": (b"]" + put(0) + LISTS + b")R", "it calls what is no function"),
    "a class that is a list": (b"]" + put(0) + LISTS + b")\x81", "it calls what is no function"),
    "20 GB of zeros": (b"cbuiltins\nbytearray\n\x8a\x05" + (20 * 10**9).to_bytes(5, "little") + b"\x85R",
                       "something else than plain values"),
    "hex of hex": (b"c_codecs\nencode\n" * 40 + text("x") + text("utf-8") + b"\x86R" + (text("hex") + b"\x86R") * 39,
                   "something else than plain values"),
    "a number": (b"\x8a\xff" + b"\x01" * 255, "a whole number in it is too large"),
}  # fmt: skip
VALUES = {
    "lists": (doubled(60), "nested too deeply"),
    "fewer lists": (doubled(30), "it stands for more than 1,000,000 values"),
    "dicts": (doubled(30, dict), "it stands for more than 1,000,000 values"),
    "tuples": (doubled(30, tuple), "a tuple in it stands for more than 1,000 values"),
    "itself": (in_itself(list), "something in it contains itself"),
    "its dict": (in_itself(dict), "something in it contains itself"),
    "a long text, often": (["x" * 10_000] * 10_000, "it stands for more than 1,000,000 values"),
    "tensors": ([torch.zeros(0)] * 20_000, "it stands for more than 1,000,000 values"),
    "a long key": ({"x" * 2000: 1}, "a key in it is neither a short text nor a number"),
}


def assert_refused(path: Path, reason: str) -> None:
    """As a checkpoint and as weights, by its name, and at once."""
    begun = time.process_time()
    for opened in (lambda: checkpoints.load_checkpoint(path, unfinished=True), lambda: models._read_state(path)):
        with pytest.raises(Problem, match=f"{path.name}: not a .*{reason}") as caught:
            opened()
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_that_do_not_end_are_refused(name, tmp_path):
    instructions, reason = INSTRUCTIONS[name]
    assert_refused(archive(tmp_path / "x.pt", b"\x80\x02" + instructions + b"."), reason)


@pytest.mark.parametrize("where", ["extra", "training", "history", "recipe", "format", "state"])
@pytest.mark.parametrize("name", VALUES)
def test_values_that_stand_for_too_many_are_refused_wherever_they_are(name, where, tmp_path):
    value, reason = VALUES[name]
    torch.save({**FACTS, "state": {}, where: {"x": value} if where == "training" else value}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 50_000
    assert_refused(tmp_path / "x.pt", reason)


def test_a_second_record_of_the_same_name_hides_nothing(tmp_path):
    """Of two, zipfile reads the last one, and torch may read the first; it does not tell data.pkl from DATA.PKL."""
    good = b"\x80\x02}."
    for name in ("archive/data.pkl", "archive/DATA.PKL"):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as made, pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            made.writestr("archive/data.pkl", b"\x80\x02" + INSTRUCTIONS["lists that are called"][0] + b".")
            made.writestr(name, good)
        assert_refused(tmp_path / "x.pt", "two of its parts have the same name")


def test_weights_of_both_formats_are_read_and_looked_into(tmp_path):
    state = OrderedDict(a=torch.ones(2), b=torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)))
    for new in (True, False):
        torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
        found = models._read_state(tmp_path / "w.pth")
        assert list(found) == ["a", "b"] and torch.equal(found["a"], torch.ones(2)) and len(found["b"]) == 3
    torch.save({"x": doubled(30)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(Problem, match="w.pth: not a torch state dict .it stands for more"):
        models._read_state(tmp_path / "w.pth")


def test_values_are_counted_as_often_as_they_are_referred_to():
    shared = [1, 2, 3]  # 4 with the list itself
    for value, count in (([1] * 9, 10), ([shared, shared], 9), ({"a": shared, "b": (shared,)}, 12), ({1, 2}, 3)):
        nesting.check_values(value, count)
        with pytest.raises(ValueError, match="stands for more"):
            nesting.check_values(value, count - 1)
    nesting.check_values([shared, [shared], {"x": shared}])  # again and again, but not in itself
    deep: list = []
    for _ in range(nesting.DEEPEST - 1):
        deep = [deep]
    nesting.check_values(deep)
    for value in ([deep], [0, [[deep], deep]], [deep, [deep]]):
        with pytest.raises(ValueError, match="nested too deeply"):
            nesting.check_values(value)


def test_what_pickle_writes_of_plain_values_is_followed_to_its_end():
    """All of protocol 2 that torch.save needs; the oracle is that pickle reads it."""
    values = [None, True, 0, 300, -1, 2**40, 1.5, "text", [], [1, [2]], {}, {"a": {1: [()]}}, (1,), (1, 2, 3, 4), ((),)]
    for value in (*values, dict(enumerate(values)), [values, values]):
        written = pickle.dumps(value, protocol=2)
        nesting.check_pickle(io.BytesIO(written))
        assert pickle.loads(written) == value
    for lost in range(1, 40):  # and what was damaged ends in an error, not in one of ours
        damaged = pickletools.optimize(pickle.dumps(values, protocol=2))[:-lost] + b"."
        with contextlib.suppress(ValueError, LookupError):
            nesting.check_pickle(io.BytesIO(damaged))


@pytest.mark.parametrize("wrapped", list(itertools.product(["[", '{"a":'], [60, 900, 100_000])))
def test_json_that_is_nested_deeper_than_anybody_walks_is_no_json(wrapped):
    opened, levels = wrapped
    written = opened * levels + "1" + {"[": "]", '{"a":': "}"}[opened] * levels
    with pytest.raises(ValueError, match="nested too deeply"):
        disk.parse_json(written)


def test_json_may_be_as_long_as_it_is():
    assert disk.parse_json(json.dumps({"a": [list(range(2000))] * 600}))["a"][599][1999] == 1999
