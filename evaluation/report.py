"""The documents of an evaluation: report.html, report.md with its figures, and a card for each model (.md and .html).

Numbers come from the results and tables as they are; nothing is computed here but how they are written. Names of
models and of files are other people's text: in every document they are shown, and never markup.
"""

import base64
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
from markdown_it import MarkdownIt
from PIL import Image

from basics import disk
from evaluation import cards, figures, marks, style, summary
from evaluation.markup import (
    DASH,
    NO_ADDRESS,
    escaped,
    github,
    github_table,
    html_table,
    number,
    p_value,
    with_interval,
)
from evaluation.result import Result, shown
from evaluation.tables import Table

TITLE = "Pneumonia on chest X-rays: test report"
THUMBNAIL = 176  # longest side in pixels
CAPTIONS = {
    "learning_curves.png": "Learning curves",
    "roc.png": "ROC curves",
    "precision_recall.png": "Precision and sensitivity",
    "reliability.png": "Reliability of the probabilities",
    "confusion.png": "Decisions",
    "decision_curves.png": "Decision curves",
    "risk_coverage.png": "Risk and share of films answered",
}
OPEN = ("roc.png", "confusion.png")  # figures that are seen first; the others are folded
EACH = 4  # misses, and as many false alarms, of each model
ERRORS = {1: "missed", 0: "false alarm"}  # by the label of a film that is decided wrongly


def write(
    folder: Path, results: list[Result], comparisons: list[dict], tables: list[Table], notes: list[str], versions: dict
) -> list[str]:
    """Writes all documents and figures into the folder, each whole or not at all; returns their names in it.

    Raises Problem when one cannot be written. Files of an earlier report that this one does not have are left alone.
    """
    drawn = figures.draw(results)
    for name, content in drawn.items():
        disk.write_bytes(folder / name, content)
    named = card_files(results)
    pages = [name.removesuffix(".md") + ".html" for name in named]
    for name, page, result in zip(named, pages, named.values(), strict=True):
        card = cards.model_card(result)
        disk.write_text(folder / name, card)
        disk.write_text(folder / page, html_card(result, card))
    disk.write_text(folder / "report.md", markdown_text(results, comparisons, tables, notes, versions, list(drawn)))
    disk.write_text(folder / "report.html", html_text(results, comparisons, tables, notes, versions, drawn))
    return ["report.html", "report.md", *drawn, *named, *pages]


def card_files(results: list[Result]) -> dict[str, Result]:
    """{path in the report's folder: result}; a name that is no plain file name on every system is changed to one."""
    found: dict[str, Result] = {}
    taken = set()
    for result in results:
        # Windows refuses some characters, a leading dot hides the file, and its disks do not tell A from a.
        stem = re.sub(r"[^\w .,+()=-]", "_", result.name).strip(". ")[:100] or "model"
        name, again = stem, 2
        while name.lower() in taken:
            name, again = f"{stem}-{again}", again + 1
        taken.add(name.lower())
        found[f"cards/{name}.md"] = result
    return found


# ------------------------------------------------------------------------------------------ what all documents say


def answers(comparisons: list[dict]) -> Iterator[tuple[str, str, list[str]]]:
    """(question, answer in a sentence, one line for each measure)."""
    for c in comparisons:
        who = f"{c['from']} to {c['to']}, {c['images']:,} images of {c['patients']:,} patients"
        yield c["mark"] + c["question"], f"{who}: {c['sentence']}", [measured(m) for m in c["measures"]]


def measured(measure: dict) -> str:
    """A difference with its interval, p, and what would have been found: shares in points, the others as they are."""
    points = measure["measure"].startswith(("accuracy", "balanced accuracy", "sensitivity", "specificity"))
    scale, unit = (100, " points") if points else (1, "")
    digits = 2 if points else 4
    parts = [
        f"{measure['measure']}: {with_interval(measure['difference'], digits, scale, sign=True)}{unit}",
        f"p {p_value(measure['p'])}",
    ]
    if not math.isnan(measure["p_holm"]):
        parts.append(f"after Holm's correction {p_value(measure['p_holm'])}")
    if not math.isnan(measure["detectable"]):
        parts.append(f"detectable {number(measure['detectable'] * scale, digits)}{unit}")
    return f"{', '.join(parts)} ({measure['method']})"


def sentences(results: list[Result]) -> list[str]:
    return [*summary.of_models(results), *summary.of_referrals(results)]


def models_table(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    headers = ["model", "kind", "architecture", "seed", "initial weights", "file", "SHA-256"]
    return headers, [
        [r.name, r.kind, r.architecture or DASH, DASH if r.seed is None else str(r.seed),
         r.initial_weights, r.file, r.sha256]
        for r in results
    ]  # fmt: skip


def used_versions(versions: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def caveats(results: list[Result]) -> list[str]:
    """What is said under every report, and what is known of these data only."""
    lines = ["Nothing here is a medical device, and nothing here should be used to decide about a patient."]
    return [*marks.of_all(results), *lines, *(cards.KERMANY_LIMITS if any(map(cards.films, results)) else ())]


def worst(result: Result) -> list[tuple[str, dict]]:
    """(missed or false alarm, the film) of the worst of each, misses first."""
    return [(error, item) for label, error in ERRORS.items()
            for item in [item for item in result.worst if item["label"] == label][:EACH]]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- HTML


def html_text(
    results: list[Result],
    comparisons: list[dict],
    tables: list[Table],
    notes: list[str],
    versions: dict,
    drawn: dict[str, bytes] | None = None,
) -> str:
    """The report as one HTML file that needs nothing else: no script, no request, images inside.

    drawn: what figures.draw(results) gave, so as not to draw it again.
    """
    drawn = figures.draw(results) if drawn is None else drawn
    mark = marks.before(results)
    title = escaped(mark + TITLE)
    folded = [name for name in drawn if name not in OPEN]
    sections = [
        ("short", "In short", html_short(results, notes)),
        ("curves", "ROC curves and decisions", "".join(html_figure(results, n, drawn[n]) for n in OPEN if n in drawn)),
        ("worst", "Worst errors", "".join(map(html_worst, shown(results)))),
        ("answers", "Answers", html_answers(comparisons)),
        ("notes", "Notes", html_list(dict.fromkeys(notes))),
        ("tables", "Tables", html_tables(tables)),
        ("figures", "More figures", "".join(html_folded(results, name, drawn[name]) for name in folded)),
        ("models", "Models", html_models(results, versions)),
        ("limits", "What these numbers are not", html_list(caveats(results))),
    ]
    sections = [section for section in sections if section[2]]
    links = " · ".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    own = {"answers": marks.of_pairs(comparisons)}
    first, *others = (f'<h2 id="{name}">{own.get(name, mark)}{heading}</h2>\n{content}'
                      for name, heading, content in sections)  # fmt: skip
    banner = "".join(f'<p class="banner">{escaped(mark)}</p>\n' for mark in marks.of_all(results))
    return html_page(title, f"<h1>{title}</h1>\n{banner}{first}<nav>{links}</nav>\n{''.join(others)}")


def html_page(title: str, content: str) -> str:
    """A page of its own, both given as HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{style.POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{style.STYLE}</style>\n</head>\n<body>\n{content}</body>\n</html>\n"
    )


def html_card(result: Result, card: str) -> str:
    """A card's markdown as a page; tables scroll in boxes of their own."""
    made = MarkdownIt("commonmark", {"html": False}).enable("table").render(card.replace(NO_ADDRESS, "@"))
    made = made.replace("<table>", '<div class="scroll" tabindex="0">\n<table>').replace("</table>", "</table>\n</div>")
    back = '<nav><a href="../report.html">all models</a></nav>\n'
    return html_page(escaped(f"{marks.before([result])}Model card: {result.name}"), back + made)


def html_short(results: list[Result], notes: list[str]) -> str:
    """What was tested, how each model did, and what has to be known of it before."""
    about = "".join(f"<p>{escaped(line)}.</p>\n" for line in summary.tested_on(results))
    said = "".join(f"<p>{escaped(line)}.</p>\n" for line in sentences(results))
    first = html_list(dict.fromkeys(note for note in notes if summary.warns(note)))
    return f'{about}<div class="answer">\n{said}</div>\n{first}'


def html_answers(comparisons: list[dict]) -> str:
    return "".join(
        f'<div class="answer">\n<p><strong>{escaped(question)}</strong> {escaped(answer)}.</p>\n'
        f"<details><summary>Each measure</summary>\n{html_list(lines)}</details>\n</div>\n"
        for question, answer, lines in answers(comparisons)
    )


def html_list(lines: list[str] | dict[str, None]) -> str:
    return "<ul>\n" + "".join(f"<li>{escaped(line)}</li>\n" for line in lines) + "</ul>\n" if lines else ""


def html_tables(tables: list[Table]) -> str:
    return "".join(html_table(table.title, table.headers, table.rows, table.notes) for table in tables)


def html_figure(results: list[Result], name: str, content: bytes) -> str:
    caption = escaped(f"{marks.before(results)}{CAPTIONS[name]} of {', '.join(r.name for r in shown(results))}")
    return f'<figure class="plot" tabindex="0"><img src="{data_uri(content)}" alt="{caption}"></figure>\n'


def html_folded(results: list[Result], name: str, content: bytes) -> str:
    heading = f"<h3>{marks.before(results)}{CAPTIONS[name]}</h3>"
    return f"<details><summary>{heading}</summary>\n{html_figure(results, name, content)}</details>\n"


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def thumbnail(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def html_worst(result: Result) -> str:
    """The films on which a model was furthest wrong, misses beside false alarms, with what it said of them."""
    head = f"<h3>{marks.before([result])}{escaped(result.name)}</h3>\n"
    threshold = f"{number(result.decision['threshold'], 4)}, {result.named(result.decides)}"
    if not result.worst:
        return f"{head}<p>No errors at the threshold {escaped(threshold)}.</p>\n"
    sides = "".join(
        '<div class="worst">\n' + "".join(html_film(e, item) for e, item in worst(result) if e == error) + "</div>\n"
        for error in dict.fromkeys(error for error, _ in worst(result))
    )
    return f'{head}<p>At the threshold {escaped(threshold)}.</p>\n<div class="sides">\n{sides}</div>\n'


def html_film(error: str, item: dict) -> str:
    file, said = escaped(item["file"]), f"probability {number(item['probability'])}"
    return (f'<figure><img src="{data_uri(thumbnail(item["pixels"]))}" alt="{error}: {file}, {said}">\n'
            f"<figcaption><strong>{error}</strong><br>{said}<br>{file}</figcaption></figure>\n")  # fmt: skip


def html_models(results: list[Result], versions: dict) -> str:
    table = html_table(f"{marks.before(results)}Files", *models_table(results))
    links = "".join(
        f'<li><a href="{quote(card.removesuffix(".md"))}.html">{escaped(r.name)}</a></li>\n'
        for card, r in card_files(results).items()
    )
    foot = f'<p class="foot">Versions: {escaped(used_versions(versions))}.</p>\n' if versions else ""
    return f"{table}<p>Their cards, in files of their own:</p>\n<ul>\n{links}</ul>\n{foot}"


# ------------------------------------------------------------------------------------------------------- markdown


def markdown_text(
    results: list[Result],
    comparisons: list[dict],
    tables: list[Table],
    notes: list[str],
    versions: dict,
    drawn: list[str] | None = None,
) -> str:
    """The report for a README: the same tables and, beside it in the folder, the figures.

    drawn: the names of the figures that there are; None: all that these results allow.
    """
    if drawn is None:
        history = any(result.history for result in results)
        drawn = [name for name in figures.NAMES if history or name != "learning_curves.png"]
    mark = marks.before(results)
    parts = [f"# {mark}{TITLE}\n", *(f"**{github(text)}**\n" for text in marks.of_all(results))]
    parts += [f"{github(line)}.\n" for line in summary.tested_on(results)]
    parts.append(markdown_list(sentences(results)))
    for question, answer, lines in answers(comparisons):
        parts.append(f"**{github(question)}** {github(answer)}.\n\n{markdown_list(lines)}")
    if notes:
        parts.append(f"## {mark}Notes\n\n{markdown_list(dict.fromkeys(notes))}")
    for table in tables:
        parts.append(f"## {github(table.title)}\n\n{github_table(table.headers, table.rows)}")
        parts += [f"{github(note)}\n" for note in table.notes]
    parts.append(f"## {mark}Figures\n")
    parts += [f"![{mark}{CAPTIONS[name]}]({name})\n" for name in drawn]
    parts += [*markdown_worst(results), *markdown_models(results, versions)]
    parts.append(f"## {mark}What these numbers are not\n\n{markdown_list(caveats(results))}")
    return "\n".join(parts)


def markdown_list(lines: list[str] | dict[str, None]) -> str:
    return "".join(f"- {github(line)}\n" for line in lines)


def markdown_worst(results: list[Result]) -> list[str]:
    rows = [
        [r.name, error, item["file"], number(item["probability"])]
        for r in shown(results) for error, item in worst(r)
    ]  # fmt: skip
    if not rows:
        return []
    headers = ["model", "error", "file", "probability of pneumonia"]
    title = f"## {marks.before(results)}Worst errors\n"
    return [f"{title}\n{github_table(headers, rows)}", "Their pictures are in report.html.\n"]


def markdown_models(results: list[Result], versions: dict) -> list[str]:
    lines = github_table(*models_table(results))
    links = "".join(f"- [{github(r.name)}]({quote(card)})\n" for card, r in card_files(results).items())
    foot = [f"Versions: {github(used_versions(versions))}.\n"] if versions else []
    return [f"## {marks.before(results)}Models\n\n{lines}", f"Their cards:\n\n{links}", *foot]
