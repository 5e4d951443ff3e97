"""What every script needs: errors for people, files that are never half-written, and hashes."""

import argparse
import contextlib
import csv
import difflib
import errno
import hashlib
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

VERSION = "0.1.0"


class Problem(Exception):
    """Something the person at the keyboard can mend; its text says what, in which file, and what to do."""


class UsageProblem(Problem):
    """A wrong call (exit code 2), as opposed to work that failed (exit code 1)."""


class Busy(Problem):
    """Another process is at it."""


def run(work: Callable[[], int]) -> int:
    """Calls `work` and turns what a person can foresee into one line on stderr and an exit code.

    Returns what `work` returns; 2 for a wrong call, 1 for work that failed, 130 for Ctrl-C. Anything else
    is a defect of ours and keeps its traceback.
    """
    for name in ("stdout", "stderr"):  # None where whoever called has closed them
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show
    try:
        code = _exit_code(work)
    except SystemExit as done:  # of argparse, which has printed the help or what is wrong with the call
        raise SystemExit(_flushed(done.code if isinstance(done.code, int) else 0)) from None
    return _flushed(code)


def _exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except UsageProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print("error: the device's memory is full: others may be using it; --device cpu needs none", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the output was piped to `head`: nobody is listening any more
        return 1
    except OSError as error:
        where = f"cannot use {error.filename}" if error.filename else "cannot write the output"
        print(f"error: {printable(where)}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _flushed(code: int) -> int:
    """The exit code when standard output has been written: 1 where it cannot be, which is said if anybody listens."""
    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left, and written at the exit
        if not isinstance(error, BrokenPipeError):
            print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return code or 1


# ------------------------------------------------------------------------------------------ command lines


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line, as `run` does, without argparse's ten lines of usage before it."""

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


# ---------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yields a temporary path beside `path`; on success its file is synced and renamed to `path`, else removed.

    Whoever is killed in the middle leaves the old file (or none) under the final name, never half of one.
    Raises Problem when the file cannot be written (no space, no permission, a folder in its place).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=f".part{path.suffix}")
        os.close(handle)
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that nobody else may read
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut; Windows cannot open folders and does not need it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(path: Path, busy: str) -> Generator[bool]:
    """Keeps other processes out until the block or this process ends; the system sees to it, even after kill -9.

    Yields whether anybody is kept out: there are network disks without locks. That the file is there means nothing. A
    folder that was made for it goes again if nothing else has come into it.
    Raises Busy(busy) while another process is inside, and Problem where the file cannot be written.
    """
    made = not path.parent.exists()
    try:
        stream, held = _locked(path)
    except BlockingIOError as error:
        raise Busy(busy) from error
    except OSError as error:
        raise Problem(f"cannot write to {path.parent}: {error.strerror or error}") from error
    try:
        yield held
    finally:
        with contextlib.suppress(OSError):  # Windows removes nothing that is open, and an empty file does no harm
            path.unlink()
        stream.close()
        if made:
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()


def _locked(path: Path) -> tuple[IO, bool]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stream = open(path, "ab")  # noqa: SIM115
        except FileNotFoundError:  # whoever made the folder has removed it in between
            continue
        try:
            _lock_file(stream.fileno())
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                return stream, True
            stream.close()  # whoever held it before has removed it in between
        except FileNotFoundError:
            stream.close()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return stream, False
            stream.close()
            raise BlockingIOError from error


def _lock_file(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8; of a file name that is no text, the bytes are escaped, in JSON's way."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Writes `value` as JSON; NaN and infinity become null, because JSON has neither."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """What is written there. Raises ValueError; also for what is nested too deeply for Python's own reader."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def printable(text: str) -> str:
    """The text with control characters and what cannot be encoded escaped, so that it stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def csv_text(rows: list[dict]) -> str:
    """Rows with the same keys as CSV, the keys as its header."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def sha256_of(parts: Iterable[bytes | str]) -> str:
    """The SHA-256 of the parts in order, as 64 hex digits; each part is preceded by its length.

    Of a file name that is no text (another system's encoding, or LC_ALL=C), its bytes count: the same everywhere.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
        digest.update(raw)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
