"""How fast the page of a graph is beside predict.py: `python -m studies.bench_page onnx/simple.onnx FILMS`.

The page runs in Chromium without a window; both read the same films on the same cores, in turns. Each says films a
second by itself, without its start: the page stays open, and its first turn, in which the browser still compiles, is
said apart. Playwright (requirements-test.txt) drives the browser.
"""

import argparse
import contextlib
import functools
import http.server
import io
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import predict
from basics import cli, problems
from basics.problems import Problem

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIMIT = 600  # seconds that a turn may take


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *given: object) -> None:
        """Says nothing of each request."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(prog="python -m studies.bench_page", description=__doc__.split("\n")[0])
    parser.add_argument("graph", type=cli.some_path, help="such as onnx/simple.onnx")
    parser.add_argument("films", metavar="FILMS", help="a folder of JPEG, PNG or DICOM files")
    parser.add_argument("--repeats", type=cli.whole_number(1, 100), default=5, help="counted turns; default: 5")
    return parser.parse_args(argv)


def rate_of(said: str) -> float:
    """Films a second, from the last line of predict.py or of the page. Raises Problem where it says none."""
    found = re.search(r"([\d,]+\.\d) fil(?:e|m)s/s", said)
    if not found:
        raise Problem(f"no rate in {said[-200:]!r}")
    return float(found[1].replace(",", ""))


def in_python(graph: Path, films: str) -> float:
    command = [sys.executable, str(ROOT / "predict.py"), str(graph), films, "--json", "--provider", "cpu"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
    return rate_of(done.stderr)


def in_browser(page: Any, files: list[str]) -> float:
    page.locator("#clear").evaluate("button => button.click()")  # also where there is nothing yet
    page.set_input_files("#files", files)
    page.locator("#status", has_text="films/s").wait_for(timeout=1000 * LIMIT)
    return rate_of(page.locator("#status").inner_text())


def work(args: argparse.Namespace) -> int:
    from graphs import page as pages

    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise Problem(f"{error}: pip install -r requirements-test.txt") from error
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise Problem("no Chromium here: apt-get install chromium brings one")
    files = list(predict.files_in(predict.meant(args.films)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = Path(folder, "site")
        with contextlib.redirect_stdout(io.StringIO()):  # where the folder is
            pages.write(args.graph, site)
        handler = functools.partial(Quiet, directory=str(site))
        with (
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
            playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as opened,
        ):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page = opened.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_selector("#drop:not([hidden])", timeout=1000 * LIMIT)
            first, *turns = [(in_browser(page, files), in_python(args.graph, args.films))
                             for _ in range(args.repeats + 1)]  # fmt: skip
            server.shutdown()
    for name, rates in zip(("page", "predict.py"), zip(*turns, strict=True), strict=True):
        print(f"{name}: {statistics.median(rates):.1f} films/s ({min(rates):.1f} to {max(rates):.1f})")
    print(f"page, first turn: {first[0]:.1f} films/s")
    ratios = [a / b for a, b in turns]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); {args.graph.name}, "
          f"{len(files):,} films, {args.repeats} turns")  # fmt: skip
    return 0


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
