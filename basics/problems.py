"""What a person can mend, said in one line; every script runs its work under `run`."""

import io
import os
import sys
from collections.abc import Callable

from basics import progress


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
        with progress.command():
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


def numbered(count: int, thing: str, things: str = "") -> str:
    """ "1 image", "2 images"; `things` is the plural where it is another."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def printable(text: str) -> str:
    """The text with control characters and what cannot be encoded escaped, so that it stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
