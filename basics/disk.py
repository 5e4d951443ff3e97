"""Files that are never half-written, locks, hashes, and the formats that we write."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO, Any

from basics.nesting import check_values
from basics.problems import Busy, Problem

VERSION = "0.1.0"
# What spreadsheets take for the beginning of a formula (OWASP, CSV Injection), with the apostrophes that defuse it.
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


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
    tries = 100
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stream = open(path, "ab")  # noqa: SIM115
        except FileNotFoundError:  # whoever made the folder has removed it in between
            tries -= 1
            if not tries:  # no file can be made there, as in /proc
                raise
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
    """What is written there. Raises ValueError; also for what is nested too deeply for whoever walks it."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    check_values(value, math.inf)  # here nothing stands for more than its own text
    return value


def csv_text(rows: list[dict]) -> str:
    """Rows with the same keys as CSV, the keys as its header; no text in it is a formula."""
    stream, lines = io.StringIO(), []
    writer = csv.DictWriter(stream, list(rows[0]))  # it quotes what is part of its own end of a line: \r needs \r\n
    for row in ({key: key for key in rows[0]}, *rows):
        writer.writerow({key: defused(value) for key, value in row.items()})
        lines.append(stream.getvalue().removesuffix("\r\n"))
        stream.seek(stream.truncate(0))
    return "\n".join([*lines, ""])


def defused(value: object) -> object:
    """A text that a spreadsheet would run as a formula has one apostrophe more in front; numbers stay as they are.

    Whoever reads it takes one off where FORMULA.match finds one in front, and has every text as it was.
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


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
