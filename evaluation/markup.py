"""Numbers and texts as they are printed, in HTML and in GitHub's markdown, where nothing in them is markup."""

import html
import math
import re
import unicodedata
from collections.abc import Sequence

from basics.problems import printable

NO_ADDRESS = "<!-- -->@"  # an @ of which GitHub makes no e-mail address
DASH = "-"  # for what is undefined (0/0) or does not apply
_COUNT = re.compile(r"[<>]? ?[-+]?[\d,]+(\.\d+)?( ?%| M| GB| MB| s)?|-")


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with thousands separators and this many digits after the point; a dash for None and nan."""
    if value is None or math.isnan(value):
        return DASH
    value = round(value, digits) + 0.0  # so that -0.0004 is not printed as -0.000
    return f"{value:{'+' if sign and value else ''},.{digits}f}"


def with_interval(estimate: dict[str, float] | None, digits: int = 3, scale: float = 1, sign: bool = False) -> str:
    """A value with its 95 % interval, such as "0.954 [0.938, 0.966]"; without it where that is undefined."""
    if estimate is None:
        return DASH
    value, low, high = (number(scale * estimate[key], digits, sign) for key in ("value", "low", "high"))
    return value if DASH in (low, high) else f"{value} [{low}, {high}]"


def percent(estimate: dict[str, float]) -> str:
    """A share with its 95 % interval in few letters, such as "95.4 [93, 97]"; the ends are rounded outwards."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    shown = number(value, 1)
    return shown if math.isnan(low + high) else f"{shown} [{math.floor(low)}, {math.ceil(high)}]"


def p_value(p: float | None) -> str:
    return "< 0.0001" if p is not None and p < 1e-4 else number(p, 4)


def is_number(cell: str | int) -> bool:
    """Whether a cell is one number, or the dash that stands for one: such columns are aligned to the right."""
    return _COUNT.fullmatch(str(cell)) is not None


def numeric(rows: Sequence[Sequence[str | int]], columns: int) -> list[bool]:
    """For each column whether every cell in it is a number."""
    return [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(columns)]


# ---------------------------------------------------------------------------------------------------- the screen


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(name: str, room: int) -> str:
    """A name in lines of so many columns, all of it: what tells models apart may be anywhere.

    A line ends after a hyphen, an underscore or a blank where it can.
    """
    lines = [""]
    for part in re.split(r"(?<=[-_ ])", name):
        if lines[-1] and columns(lines[-1] + part.rstrip()) > room:
            lines.append("")
        for c in part:
            if lines[-1] and c != " " and columns(lines[-1] + c) > room:
                lines.append("")
            lines[-1] += c
    return "\n".join(line.rstrip() for line in lines)


def screen_table(headers: list[str], rows: Sequence[Sequence[str | int]]) -> str:
    """A table in few columns of a terminal: first cells to the left, others to the right.

    Headings and first cells may have lines.
    """
    heads = [head.split("\n") for head in headers]
    deep = max(map(len, heads))
    lines = [[head[i - deep + len(head)] if i >= deep - len(head) else "" for head in heads] for i in range(deep)]
    body = [[name, *(map(str, row[1:]) if i == 0 else [""] * (len(row) - 1))]
            for row in rows for i, name in enumerate(str(row[0]).split("\n"))]  # fmt: skip
    wide = [max(columns(line[i]) for line in lines + body) for i in range(len(headers))]
    lines += [["-" * width for width in wide], *body]
    padded = [[" " * (width - columns(text)) for text, width in zip(line, wide, strict=True)] for line in lines]
    return "\n".join(
        "  ".join([line[0] + pads[0], *(pad + text for text, pad in zip(line[1:], pads[1:], strict=True))]).rstrip()
        for line, pads in zip(lines, padded, strict=True)
    )


# ------------------------------------------------------------------------------------------------------- HTML


def escaped(text: object) -> str:
    """Any text, names of files included, as HTML that shows it: on one line, and safe between double quotes too."""
    return html.escape(printable(str(text)))


def html_table(
    title: str, headers: list[str], rows: Sequence[Sequence[str | int]], notes: list[str] | None = None
) -> str:
    """A heading that unfolds the table, in a box of its own, which scrolls where the page is narrow, and its footnotes.

    The heading is no <caption>: that would be as narrow as the table, and scroll away with it.
    """
    right = ["" if not number else ' class="n"' for number in numeric(rows, len(headers))]
    head = "".join(f'<th scope="col"{side}>{escaped(h)}</th>' for h, side in zip(headers, right, strict=True))
    body = "\n".join(
        "<tr>" + "".join(html_cell(value, side) for value, side in zip(row, right, strict=True)) + "</tr>"
        for row in rows
    )
    foot = "".join(f'<p class="foot">{escaped(note)}</p>\n' for note in notes or [])
    return (
        f"<details><summary><h3>{escaped(title)}</h3></summary>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(title)}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        f"</table>\n</div>\n{foot}</details>\n"
    )


def html_cell(value: str | int, side: str) -> str:
    """A cell; a long text may be broken into lines, numbers may not."""
    side = side or (' class="long"' if len(str(value)) > 48 else "")
    return f"<td{side}>{escaped(value)}</td>"


# --------------------------------------------------------------------------------------------------- markdown


def github(text: object) -> str:
    """Any text as GitHub's markdown that shows it: no HTML, table cells, links, code, emphasis or formulas in it.

    Addresses stay text too (GitHub Flavored Markdown Spec, 6.9, extended autolinks).
    """
    text = printable(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|$~])", r"\\\1", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # inside a word it means nothing
    text = re.sub(r"(?i)(?<=www)(?=\.)|(?=://)", r"\\", text)
    text = re.sub(r"(?<=\S)@", NO_ADDRESS, text)  # of an e-mail: there an escape or an entity changes nothing
    text = re.sub(r"(?=#\s*$)", r"\\", text)  # at the end of a heading it would be dropped
    # At the start of a paragraph these would make a heading, a list, a rule or code of it.
    text = re.sub(r"^ ", "&#32;", text)
    text = re.sub(r"^(?=[#=]|[-+](\s|$)|--)", r"\\", text)
    return re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1\\", text)


def github_table(headers: list[str], rows: Sequence[Sequence[str | int]]) -> str:
    """The table that github() cells make, numbers to the right; ends with a newline."""
    right = numeric(rows, len(headers))
    lines = [[github(h) for h in headers], ["---:" if number else "---" for number in right]]
    lines += [[cell(value) for value in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: object) -> str:
    """A table's cell: there a dash, a plus or a number begins nothing."""
    text = str(value)
    return text if is_number(text) and "<" not in text and ">" not in text else github(text)
