"""The test-set ledger: a line for each time that test labels were read, so that nobody forgets how often it was."""

import datetime
import errno
import json
import os
from pathlib import Path

from basics.disk import parse_json
from basics.problems import Problem

NAME = "test-ledger.jsonl"
LOOK = "evaluate.py"  # the purpose that counts: a proof only compares a graph with PyTorch, and chooses no number


def note(folder: Path, run: str, model: str, sha256: str, dataset: str, films: str, purpose: str) -> int:
    """Appends a line to folder/test-ledger.jsonl; returns how many looks there were at that test set, with this one.

    A line of another purpose than LOOK is kept and does not count; one that names none counts.
    `run` names the run of the script: one run is one look, at however many models. `films` names the test films by what
    they contain. Lines of earlier versions know them by the data's name alone, and count where that is the same.
    Raises Problem when the ledger cannot be read or written.
    """
    file = folder / NAME
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run": run,
        "model": model,
        "sha256": sha256,
        "data": dataset,
        "films": films,
        "purpose": purpose,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8", errors="backslashreplace") if file.exists() else ""
        earlier = read(text.splitlines(), file)
        looks = [look["run"] for look in [*earlier, entry]
                 if look["purpose"] == LOOK and (look["films"] or look["data"]) in (films, dataset)]  # fmt: skip
        # Nothing may be joined to a line that lacks its end.
        line = ("\n" if text and not text.endswith("\n") else "") + json.dumps(entry) + "\n"
        _append(file, line.encode())
    except OSError as error:
        raise Problem(f"cannot write {file}: {error.strerror or error}") from error
    return len(set(looks))


def _append(file: Path, line: bytes) -> None:
    """In one short write in append mode, so that two processes do not mix lines; whole or, on a full disk, not at all.

    Raises OSError.
    """
    with open(file, "ab", buffering=0) as stream:
        written = stream.write(line)
        if written < len(line):
            stream.truncate(stream.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(stream.fileno())


def read(lines: list[str], file: Path) -> list[dict]:
    """The entries of a ledger; a line that is none (torn by a crash) is a Problem that names it."""
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line)
            entries.append({"run": entry["run"], "data": entry["data"], "films": entry.get("films"),
                            "purpose": entry.get("purpose", LOOK)})  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Problem(f"{file}, line {number}: not a line of a ledger ({error}); mend or remove it") from error
    return entries


def in_words(look: int) -> str:
    return "first look at these test images" if look == 1 else f"look number {look} at these test images"
