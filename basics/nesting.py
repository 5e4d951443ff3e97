"""How much a file from elsewhere stands for, found out before anything walks, prints or hashes what it holds.

Sixty lists, each of which holds the next one twice, are a small file and stand for 2^60 values. Here each is met once
and counted as often as it is referred to; what passes can be walked and printed in the plain way.
"""

import io
import pickletools
import tarfile
import zipfile
from pathlib import Path
from typing import IO

DEEPEST = 50  # levels
MOST = 1_000_000  # values of which a checkpoint may consist
LONGEST_KEY = 1_000  # characters
TUPLE = 1_000  # values in a tuple: a dict that has it as a key hashes all of them
BITS = 1_000  # of a whole number: Python prints none of many thousand digits
CONTAINERS, TEXTS, NUMBERS = (dict, list, tuple, set, frozenset), (str, bytes, bytearray), (int, float, complex)
ZIP, LEGACY = b"PK\x03\x04", 5  # what torch.save wrote before 2020 is five pickles, and then numbers
# All that is called where tensors and state dicts are unpickled. torch allows more: some makes much of little.
CALLED = {"collections OrderedDict", "torch Size", "torch.nn.parameter Parameter", "torch._utils _rebuild_tensor",
          "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
          "torch._utils _rebuild_meta_tensor_no_storage"}  # fmt: skip


def check_values(value: object, most: float = MOST) -> None:
    """Raises ValueError for what refers to itself, is nested too deeply, or stands for more than `most` values."""
    known: dict[int, tuple[float, int]] = {}  # by id: values and levels of a container; none while it is being counted

    def counted(value: object, depth: int) -> tuple[float, int]:
        if not isinstance(value, CONTAINERS):
            return weight(value), 0
        if id(value) in known:
            if not known[id(value)][1]:
                raise ValueError("something in it contains itself")
            return known[id(value)]
        known[id(value)] = 0, 0
        total, levels = 1.0, 1
        if isinstance(value, dict):
            total += sum(map(weight_of_key, value))
        for item in value.values() if isinstance(value, dict) else value:
            size, below = counted(item, depth + 1) if depth < DEEPEST else (0.0, DEEPEST)
            total, levels = total + size, max(levels, below + 1)
        if levels > DEEPEST:
            raise ValueError("nested too deeply")
        if total > most:
            raise ValueError(f"it stands for more than {most:,} values")
        known[id(value)] = total, levels
        return total, levels

    counted(value, 0)


def weight(value: object) -> float:
    """What a single value counts as: long texts and tensors, which have a name each, as some."""
    if isinstance(value, TEXTS):
        return 1 + len(value) // 50
    if isinstance(value, int) and value.bit_length() > BITS:
        raise ValueError("a whole number in it is too large")
    return 1 if value is None or isinstance(value, NUMBERS) else 100


def weight_of_key(key: object) -> float:
    """Keys become parts of names."""
    if not isinstance(key, str | int) or len(str(key)) > LONGEST_KEY:
        raise ValueError("a key in it is neither a short text nor a number")
    return weight(key)


def check_pickles(path: Path) -> None:
    """Raises ValueError, or an error of a damaged file, where following a torch file's instructions may not end."""
    if tarfile.is_tarfile(path):  # torch reads these too, of before 2017
        raise ValueError("a tar archive")
    with open(path, "rb") as stream:
        if stream.read(4) != ZIP:
            stream.seek(0)
            for _ in range(LEGACY):
                check_pickle(stream)
            return
    with zipfile.ZipFile(path) as archive:
        names = [name.lower() for name in archive.namelist()]  # torch finds names in either case
        if len(set(names)) < len(names):
            raise ValueError("two of its parts have the same name")
        for name in archive.namelist():
            if name.lower().endswith(".pkl"):
                check_pickle(io.BytesIO(archive.read(name)))


def check_pickle(stream: IO[bytes]) -> None:
    """Follows the instructions with sizes in place of values: those of tuples, 1 for all else, 0 for what is called.

    Lists and dicts are for check_values: they cannot be keys, and unpickling walks none of them.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    for instruction, argument, _ in pickletools.genops(stream):
        name, before = instruction.name, instruction.stack_before
        if name == "MARK":
            marks.append(len(stack))
            continue
        start = marks.pop() if pickletools.markobject in before else len(stack) - len(before)
        if pickletools.markobject in before:
            start -= before.index(pickletools.markobject)
        if start < 0:
            raise ValueError("it takes what is not there")
        taken, stack[start:] = stack[start:], []
        if name in ("REDUCE", "NEWOBJ") and taken[0]:
            raise ValueError("it calls what is no function")
        stack += made(name, argument, taken, memo) if instruction.stack_after else []
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]


def made(name: str, argument: object, taken: list[int], memo: dict[object, int]) -> list[int]:
    """The size of what one instruction leaves."""
    if name == "GLOBAL":
        if not (argument in CALLED or kind_of_numbers(str(argument))):
            raise ValueError("it holds something else than plain values and tensors")
        return [0]
    if name.startswith("TUPLE"):
        if sum(taken) >= TUPLE:
            raise ValueError(f"a tuple in it stands for more than {TUPLE:,} values")
        return [1 + sum(taken)]
    return [memo[argument] if name in ("BINGET", "LONG_BINGET") else 1]


def kind_of_numbers(name: str) -> bool:
    """torch.FloatStorage, torch.float32 and the like."""
    module, _, kind = name.partition(" ")
    return module in ("torch", "torch.storage") and (kind.endswith("Storage") or kind.islower())
