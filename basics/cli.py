"""What people may type: a parser that says in one line what is wrong with a call, and types of arguments."""

import argparse
import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from basics.disk import VERSION
from basics.problems import printable
from basics.terms import DEVICES


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line, as `run` does, without argparse's ten lines of usage before it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; {self.prog} --help lists the options\n")


def choices(names: Sequence[str]) -> dict[str, Any]:
    """Arguments for `add_argument`: one of the names; of a misspelt one the error says which was meant."""

    def parse(text: str) -> str:
        if text in names:
            return text
        close = difflib.get_close_matches(text.lower(), names, 1)
        meant = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r}, {meant}")

    return {"type": parse, "choices": names}


class Names(argparse.Action):
    """What others call it: A=x,y B=z is (("x", "y"), ("z",)) where `const` is ("A", "B"), in whatever order."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        wanted, found = [*(self.const or ())], {}
        for text in values:
            name, _, names = text.partition("=")
            found[name.strip().upper()] = tuple(part.strip() for part in names.split(","))
        every = [name.lower() for names in found.values() for name in names]
        if sorted(found) != sorted(wanted) or "" in every or len(set(every)) < len(every):
            example = f"{wanted[0]}=healthy,clear {wanted[1]}=sick"
            raise argparse.ArgumentError(self, f"names each class once, as in {example}; not {' '.join(values)}")
        setattr(namespace, self.dest, tuple(found[name] for name in wanted))


def whole_number(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type: an integer from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be between {low} and {high}, not {value}")
        return value

    return parse


def positive_number(text: str) -> float:
    """An argparse type: a finite float above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return value


def probability(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return value


def some_path(text: str) -> Path:
    """An argparse type: a path. An empty one, of a variable that is not set, would mean the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    path = Path(text)
    above = next(part for part in (*path.parents, Path()) if os.path.exists(part))
    if not os.path.isdir(above):
        raise argparse.ArgumentTypeError(f"{above} is a file, not a folder")
    return path


def folder_path(text: str) -> Path:
    """An argparse type: a folder, which need not be there yet; a file in its place is said before any work is done."""
    path = some_path(text)
    if os.path.exists(path) and not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is a file, not a folder")
    return path


def add_folders(parser: argparse.ArgumentParser, *names: str) -> None:
    """Options for folders that are called as the option is, unless somebody says otherwise: --runs, --onnx, ..."""
    for name in names:
        parser.add_argument(f"--{name}", type=folder_path, default=Path(name), metavar="DIR", help=f"default: {name}")


def file_path(text: str) -> Path:
    """An argparse type: a file to read or to write; a folder in its place is said before any work is done."""
    path = some_path(text)
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is a folder, not a file")
    return path


def checkpoint_path(text: str) -> Path:
    """An argparse type: a checkpoint, or the folder of a run, of which it is the model.pt."""
    path = some_path(text)
    inside = path / "model.pt"
    return inside if os.path.isfile(inside) else path


def checkpoint_file(text: str) -> Path:
    """An argparse type: as checkpoint_path, where no other folder will do."""
    return file_path(os.fspath(checkpoint_path(text)) if text else text)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", **choices(DEVICES), default="auto", help="default: CUDA, else MPS, else CPU")
