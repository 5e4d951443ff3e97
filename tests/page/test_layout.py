"""The page on phones and desks: it fits the window, what matters is in sight, its parts have names, and it is light."""

import gzip
import re

import browsing

from graphs import page as site

GRAPH, EXAMPLES = site.ROOT / "trained" / "simple.onnx", site.ROOT / "examples" / "films"
pytestmark = [browsing.needed, browsing.runtime]
LIGHTEST = 100_000  # bytes: of what shows, and, as hosts compress it, of all but graph, runtime, decoders and films


def test_the_page_is_light_and_its_parts_are_short(sites, opened):
    address, folder = sites(GRAPH)
    page = opened(address)
    asked = {url.removeprefix(address) for url in page.asked if url.startswith(address)}
    assert "app.js" in asked and not [name for name in asked if "asyncify" in name], "without a GPU nothing for one"
    other = ("vendor", "model", "examples", "reading")  # runtime, graph, films, and what reads them
    shows = [folder / (name or "index.html") for name in asked if not name.startswith(other)]
    assert len(shows) > 15 and sum(path.stat().st_size for path in shows) < LIGHTEST
    own = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in other[:3]]
    assert len(own) > 30 and sum(len(gzip.compress(path.read_bytes())) for path in own) < LIGHTEST
    for path in own:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 300, path.name
        assert "http://" not in text.replace("http://localhost:8000", "").replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
    html = (folder / "index.html").read_text(encoding="utf-8")
    policy = html.partition('Content-Security-Policy" content="')[2].partition('"')[0].split("; ")
    assert sorted(policy) == ["base-uri 'none'", "connect-src 'self'", "default-src 'none'", "form-action 'none'",
                              "img-src 'self'", "script-src 'self' 'wasm-unsafe-eval'", "style-src 'self'",
                              "worker-src 'self' blob:"]  # fmt: skip


def test_it_fits_the_window_and_every_part_has_a_name(sites, opened):
    page = opened(sites(GRAPH)[0], viewport={"width": 390, "height": 844})
    assert fits(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    page.set_input_files("#files", sorted(EXAMPLES.glob("*.jpeg")))
    browsing.finished(page, 4)
    page.wait_for_selector("#explain:not([hidden])")
    for width in (390, 800, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert fits(page), (width, scheme)
            colours = page.evaluate(
                "[document.documentElement, document.getElementById('detail')]"
                ".map((part) => (({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(part)))"
            )
            for ink, ground in colours:
                light, dark = (brightness(colour) for colour in (ink, ground))
                assert (light > dark) == (scheme == "dark") and abs(light - dark) > 120
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, select, input, canvas[role], progress')]
      .filter((part) => !(part.ariaLabel || part.textContent.trim() || part.labels?.length))
      .map((part) => part.outerHTML)""")
    assert nameless == []
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth && image.hasAttribute('alt'))")
    page.focus("#rows tr:nth-child(1) button")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#film-name") == page.inner_text("#rows tr:nth-child(2) button")
    assert page.get_attribute("#rows tr:nth-child(2)", "aria-current") == "true"
    assert re.fullmatch(
        r"Not for clinical use\. simple-int8 .* children aged 1 to 5, of one hospital\.", page.inner_text("header")
    )
    page.mouse.wheel(0, 5000)
    box = page.locator("header").bounding_box()
    assert box and box["y"] == 0, "what the model is stays in sight"


def brightness(colour: str) -> float:
    """Of "rgb(1, 2, 3)", 0 to 255."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_on_a_phone_a_film_is_opened_and_left_again(sites, opened):
    page = opened(sites(GRAPH)[0], viewport={"width": 390, "height": 844})
    page.set_input_files("#files", sorted(EXAMPLES.glob("*.jpeg")))
    browsing.finished(page, 4)
    for place in (1, 4, 4):  # the first is shown already, and the last one is opened again
        row = page.locator(f"#rows tr:nth-child({place}) button")
        row.click()
        assert page.inner_text("#film-name") == row.inner_text() and focused(page) == "detail"
        assert in_sight(page, "verdict") and in_sight(page, "back")
        page.click("#back")
        assert row.evaluate("button => button === document.activeElement")
        box = row.bounding_box()
        assert box and 90 < box["y"] < 800, "below what stays at the top"
    page.keyboard.press("ArrowUp")
    assert focused(page) == "" and page.inner_text("#film-name") == page.inner_text("#rows tr:nth-child(3) button")
    page.keyboard.press("Enter")
    assert focused(page) == "detail"
    page.wait_for_selector("#explain:not([hidden])")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused(page) == "back"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == page.inner_text("#film-name")


def test_on_a_desk_answer_film_and_slider_are_in_sight_together(sites, opened):
    page = opened(sites(GRAPH)[0], viewport={"width": 1400, "height": 900})
    page.set_input_files("#files", sorted(EXAMPLES.glob("*.jpeg")))
    browsing.finished(page, 4)
    page.click("#rows tr:nth-child(2) button")  # the one with the most to say
    assert page.is_hidden("#back") and focused(page) != "detail"
    page.click("#explain")
    page.wait_for_selector("#strength:not([hidden])")
    assert page.evaluate("scrollY || document.getElementById('detail').scrollTop") == 0
    assert all(in_sight(page, part) for part in ("film-name", "verdict", "film", "caption", "strength"))
    box = page.locator("#film").bounding_box()
    assert box and box["height"] > 240


def focused(page) -> str:
    return page.evaluate("document.activeElement.id")


def in_sight(page, part: str) -> bool:
    """Whether the whole of it can be seen, and nothing lies over it."""
    return page.evaluate(
        """id => {
          const part = document.getElementById(id), { left, top, right, bottom } = part.getBoundingClientRect()
          const ends = [[left + 3, top + 3], [right - 3, bottom - 3]]
          return ends.every(([x, y]) => part.contains(document.elementFromPoint(x, y)))
        }""",
        part,
    )
