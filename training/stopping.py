"""Ctrl-C and SIGTERM: a long run ends at a good moment, with everything saved."""

import contextlib
import os
import signal
from collections.abc import Generator
from types import FrameType
from typing import Any

from devices import parallel


class Stopped(Exception):
    """A signal asked to stop, and what had to be saved is saved; its text says how to go on."""

    def __init__(self, signum: int, text: str) -> None:
        super().__init__(text)
        self.signum = signum


class StopAsked(Exception):
    """A signal arrived, and this is a good moment to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


GOING_ON = "the same command with --resume goes on from there"


class StopSignals:
    """Within it, Ctrl-C and SIGTERM wait for check(); a second one ends the process at once.

    Processes of torchrun are ended at once: one that stayed behind for its step would wait for the others in vain.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._waiting_is_pointless = False
        self._before: dict[int, Any] = {}  # handlers

    def __enter__(self) -> "StopSignals":
        if not parallel.under_torchrun():
            self._before = {number: signal.signal(number, self._noted) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _noted(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            os._exit(128 + signum)  # no file is under its final name before it is whole, so none can break
        self.signum = signum
        if self._waiting_is_pointless:
            raise StopAsked(signum)
        os.write(2, b"\nstopping after this step and saving; a second signal stops at once\n")

    def check(self) -> None:
        if self.signum is not None:
            raise StopAsked(self.signum)

    @contextlib.contextmanager
    def at_once(self) -> Generator[None]:
        """What is done inside changes no state, and can be cut short."""
        self.check()
        self._waiting_is_pointless = True
        try:
            yield
        finally:
            self._waiting_is_pointless = False


@contextlib.contextmanager
def stoppable(stage: str) -> Generator[None]:
    """What is done inside changes no state: Ctrl-C and SIGTERM cut it short. Raises Stopped, which names the stage."""
    try:
        with StopSignals() as stop, stop.at_once():
            yield
    except StopAsked as asked:
        raise Stopped(asked.signum, f"stopped {stage}; {GOING_ON}") from None
