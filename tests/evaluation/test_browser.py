"""report.html in a browser: nothing wider than the window, no error in the console, a text for every picture."""

import contextlib
import html
import json
import re
import subprocess
from collections.abc import Generator
from pathlib import Path

import browsing
import pytest
from browsing import BROWSER
from results import make_comparisons, make_results, make_tables

from evaluation import report

pytestmark = browsing.needed
WIDTHS = (390, 800, 1400)
# Frames are as wide as is asked for, where a window has a least width.
LOOKING = """<!doctype html><meta charset="utf-8"><title>looking</title><body>%s<script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, wide = page.documentElement.scrollWidth;
    page.querySelectorAll("details").forEach(part => part.open = true);
    const opened = page.documentElement.scrollWidth;
    const over = [...page.body.querySelectorAll("*")].filter(part => {
      const box = part.getBoundingClientRect(), style = getComputedStyle(part);
      for (let up = part.parentElement; up; up = up.parentElement)
        if (["auto", "scroll", "hidden"].includes(getComputedStyle(up).overflowX)) return false;
      return box.width && style.position !== "absolute" && box.right > frame.clientWidth + 1;
    }).slice(0, 5).map(part => part.tagName + ": " + part.textContent.slice(0, 60));
    const images = [...page.images];
    return {width: frame.clientWidth, wide, opened, over, images: images.length,
            broken: images.filter(image => !image.naturalWidth).length,
            silent: images.filter(image => !image.alt.trim()).length, text: page.body.innerText.length,
            dark: matchMedia("(prefers-color-scheme: dark)").matches,
            background: getComputedStyle(page.body).backgroundColor};
  });
  document.body.textContent = "found " + JSON.stringify(found) + " end";
});
</script>"""


@contextlib.contextmanager
def served(folder: Path) -> Generator[str]:
    """The address of a page in which report.html, and then each card, is as wide as each of WIDTHS."""
    pages = ["report.html", *(f"cards/{card.name}" for card in sorted(folder.glob("cards/*.html")))]
    frames = "".join(
        f'<iframe src="{page}" width="{width}" height="900"></iframe>' for page in pages for width in WIDTHS
    )
    (folder / "looking.html").write_text(LOOKING % frames, encoding="utf-8")

    with browsing.served(folder) as server:
        yield f"{browsing.address(server)}looking.html"


def looked_at(address: str, profile: Path, dark: bool = False) -> tuple[list[dict], list[str]]:
    """What each frame shows, and what the console says."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
               "--virtual-time-budget=20000", "--enable-logging=stderr", "--dump-dom"]  # fmt: skip
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([str(BROWSER), *options, address], capture_output=True, text=True, timeout=120)
    written = re.search(r"found (\[.*\]) end", done.stdout, re.S)
    assert written, done.stdout[-1000:] + done.stderr[-1000:]
    return json.loads(html.unescape(written[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a report of three networks is served."""
    folder, results = tmp_path_factory.mktemp("report"), make_results()
    report.write(folder, results, make_comparisons(), make_tables(results), ["a note"], {"numpy": "2"})
    with served(folder) as address:
        yield address


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_fits_its_window_and_says_what_its_pictures_show(address, dark, tmp_path):
    found, complaints = looked_at(address, tmp_path, dark)
    assert complaints == [] and [frame["width"] for frame in found] == [*WIDTHS] * 5
    for k, frame in enumerate(found):
        assert frame["over"] == [] and frame["wide"] <= frame["width"] and frame["opened"] <= frame["width"], frame
        assert frame["broken"] == frame["silent"] == 0 and frame["text"] > 2000, frame
        assert (frame["images"] > 6) == (k < len(WIDTHS)), "cards have no pictures"
        assert frame["dark"] == dark
        levels = [int(level) for level in re.findall(r"\d+", frame["background"])[:3]]
        assert (sum(levels) < 3 * 128) == dark, frame["background"]


def test_a_page_with_these_faults_is_found_out(tmp_path):
    (tmp_path / "report.html").write_text(
        '<!doctype html><body><details><p style="width: 900px">wide</p></details><img src="none.png">'
        "<script>missing()</script>", encoding="utf-8")  # fmt: skip
    with served(tmp_path) as address:
        found, complaints = looked_at(address, tmp_path / "profile")
    assert [bool(frame["over"]) for frame in found] == [True, True, False]
    assert found[0]["wide"] <= 390 < found[0]["opened"], "it is seen when it is unfolded"
    assert all(frame["broken"] == frame["silent"] == 1 for frame in found)
    assert any("missing is not defined" in line for line in complaints)
