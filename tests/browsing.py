"""What tests in a browser share: which one there is, and folders served to it."""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: `apt-get install chromium` brings one")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line for each request; the server's `asked` keeps them."""

    def log_message(self, format: str, *given: object) -> None:
        self.server.asked.append(getattr(self, "path", ""))


@contextlib.contextmanager
def served(folder: Path) -> Generator[http.server.ThreadingHTTPServer]:
    """A server of the folder on a port of its own."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def address(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def drop(page: Any, *paths: Path) -> None:
    """Files and folders from the desktop, as a hand drops them on a page of playwright's."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})
