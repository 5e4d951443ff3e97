"""What tests in a browser share: which one there is, folders served to it, and pages opened in it."""

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
RUNTIME = Path(__file__).parents[1] / "node_modules" / "onnxruntime-web"
needed = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: `apt-get install chromium` brings one")
runtime = pytest.mark.skipif(not RUNTIME.is_dir(), reason="no node_modules: npm ci")


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
    # A busy browser takes a drop before the page has allowed it for none: so each event waits for what it causes.
    for kind, seen in (("dragEnter", "body"), ("dragOver", "body.over"), ("drop", "body:not(.over)")):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})
        page.wait_for_selector(seen)
    session.detach()


def finished(page, count: int) -> str:
    """What the page says when all films have their answers."""
    from playwright import sync_api

    try:
        page.wait_for_selector(f"body.rests:has(#rows tr:nth-child({count}):last-child)", timeout=60_000)
    except sync_api.TimeoutError:
        pytest.fail(f"{page.inner_text('#status')}; {page.locator('#rows').inner_text()}; {page.said}")
    return page.inner_text("#status")


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: requirements-test.txt has it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """A call that makes the page of a graph, and serves it once; the address, and the folder."""
    import export

    with contextlib.ExitStack() as stack:

        @functools.cache
        def made(graph: Path) -> tuple[str, Path]:
            folder = tmp_path_factory.mktemp("site") / "page"
            assert export.main(["page", str(graph), "--out", str(folder)]) == 0
            return address(stack.enter_context(served(folder))), folder

        yield made


@pytest.fixture
def opened(chromium):
    """A call that opens a page as soon as it takes films; at the end it has complained of nothing, and asked no other.

    A page that is expected to complain says so by `complains`.
    """
    pages = []

    def call(address: str, complains: bool = False, **options):
        page = chromium.new_context(**options).new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.context.on("request", lambda request: page.asked.append(request.url))
        pages.append((page, address, complains))
        page.goto(address)
        page.wait_for_selector("#trouble:not([hidden])" if complains else "#drop:not([hidden])")
        return page

    yield call
    for page, address, complains in pages:
        assert complains or page.said == []
        assert [url for url in page.asked if not url.startswith((address, f"blob:{address}"))] == []
        page.context.close()
