"""What moves while work is long: a bar on a terminal, elsewhere a line every ten seconds."""

import contextlib
import sys
import time
from collections.abc import Generator
from typing import Any

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines


class Progress:
    """Says on stderr how far the work is: `update(n)` is called where n more are done. Nothing is said if `quiet`.

    `label` is what is being done, and may change on the way. `options` are tqdm's, for terminals.
    """

    quiet_since: float | None = None  # when the command that runs was last heard of; None: there is none

    def __init__(
        self, total: int, label: str = "", thing: str = "images", start: int = 0, quiet: bool = False, **options: Any
    ) -> None:
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=label or None, unit=f" {thing}", initial=start,
                        disable=quiet or not terminal, **options)  # fmt: skip
        self.total, self.label, self.thing, self.done = total, label, thing, start
        self.lines = not quiet and not terminal
        self.said, self.before = time.monotonic(), self.done

    def heard(self) -> None:
        """Something else was printed just now: the next line can wait."""
        self.said, self.before = time.monotonic(), self.done
        if Progress.quiet_since is not None:
            Progress.quiet_since = self.said

    def update(self, count: int = 1) -> None:
        self.done += count
        self.bar.update(count)
        now = time.monotonic()
        # A stage may be short, and the silence of those before it long already.
        since = self.said if Progress.quiet_since is None else Progress.quiet_since
        if self.lines and now - since >= EVERY:
            rate = (self.done - self.before) / max(now - self.said, 1e-9)
            pace = f", {rate:,.{0 if rate >= 10 else 1}f} {self.thing}/s" if rate else ""
            print(f"{self.label}: {self.done:,} of {self.total:,} {self.thing}{pace}", file=sys.stderr, flush=True)
            self.heard()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


@contextlib.contextmanager
def command() -> Generator[None]:
    """Within it the silence of short stages adds up."""
    Progress.quiet_since = time.monotonic()
    try:
        yield
    finally:
        Progress.quiet_since = None
