"""The documents: their numbers are those of the results, and nothing in a name becomes markup."""

import base64
import html
import io
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from results import NAN, estimate, make_comparisons, make_result, make_results, make_tables

from basics import problems
from evaluation import cards, figures, marks, markup, report, summary
from evaluation.result import Result
from evaluation.tables import Table

EVIL = 'a"><script>alert(1)</script>|`x` [y](http://evil.example) $z$ *w* &amp; \\ \x1b\u202e\n www.a.b c@d.e'
NOTES = ["first look at these test images", "first look at these test images", "WARNING: a | b"]
VERSIONS = {"project": "0.1.0", "numpy": "2.4.6"}


class Page(HTMLParser):
    """The tags, links, tables and texts of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.sources, self.links, self.tables, self.heads = set(), [], [], [], []
        self.captions, self.open, self.text, self.alternatives = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)
        found = dict(attributes)
        assert not any(name.startswith("on") for name in found)
        self.sources += [found["src"]] if "src" in found else []
        self.alternatives += [found["alt"]] if tag == "img" else []
        self.links += [found["href"]] if "href" in found else []
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th", "h1", "h2", "h3", "figcaption", "li"):
            self.open.append([tag, ""])
        if tag == "br":
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1][0] == tag:
            tag, text = self.open.pop()
            if tag in ("td", "th"):
                self.tables[-1][-1].append(text)
            elif tag == "figcaption":
                self.captions.append(text)
            elif tag != "li":
                self.heads.append(text)

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open:
            self.open[-1][1] += data


def plain(markdown: str) -> str:
    """What a reader sees of github()'s text."""
    return html.unescape(re.sub(r"\\([\\`*\[\]|$~_#=+.):-])", r"\1", markdown.replace("<!-- -->", "")))


def prose(markdown: str) -> list[str]:
    """The lines without commands, and without where links to cards and figures lead."""
    text = re.sub(r"(?<!\\)\]\((cards/[^)]*\.md|[a-z_]+\.png)\)", "]", markdown)
    return [line for line in text.splitlines() if not line.startswith("    ")]


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables of a document, headers first, without the rows of dashes."""
    tables, inside = [], False
    for line in text.splitlines():
        if line.startswith("| "):
            cells = [plain(cell.strip()) for cell in re.split(r"(?<!\\)\|", line[1:])[:-1]]
            if not inside:
                tables.append([])
            tables[-1].append(cells)
        inside = line.startswith("| ")
    for table in tables:
        assert all(set(cell) <= set("-:") and len(cell) >= 3 for cell in table[1])
        assert len({len(row) for row in table}) == 1
    return [[table[0], *table[2:]] for table in tables]


def page(results: list[Result], tables: list | None = None, comparisons: list | None = None, **options) -> Page:
    tables = make_tables(results) if tables is None else tables
    comparisons = make_comparisons(marks.before(results)) if comparisons is None else comparisons
    return Page(report.html_text(results, comparisons, tables, NOTES, VERSIONS, options.get("drawn", {})))


def markdown(results: list[Result]) -> str:
    return report.markdown_text(results, make_comparisons(marks.before(results)), make_tables(results), NOTES, VERSIONS)


def texts_of(table: Table) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in (table.headers, *table.rows)]


def near(text: str, value: float, digits: int = 3) -> bool:
    """Whether a printed number is this one, to the last digit that is printed."""
    if np.isnan(value):
        return text == "-"
    return len(text.split(".")[1]) == digits and abs(float(text.replace(",", "")) - value) <= 0.501 * 10**-digits


def matches(cell: str, expected: dict, digits: int = 3) -> bool:
    """Whether a cell such as "0.974 [0.961, 0.983]" is this estimate."""
    numbers = re.findall(r"[-+]?[\d.,]+\d", cell)
    values = [expected["value"], expected["low"], expected["high"]]
    if np.isnan(values[1]):
        return near(cell, values[0], digits)
    return len(numbers) == 3 and all(near(n, v, digits) for n, v in zip(numbers, values, strict=True))


# ------------------------------------------------------------------------------------------- numbers and tables


def test_tables_in_html_and_markdown_are_those_given():
    results = make_results()
    tables = make_tables(results)
    found, text = page(results, tables), markdown(results)
    for table in tables:
        assert texts_of(table) in found.tables
        assert table.title in found.heads
        assert texts_of(table) in markdown_tables(text)
        assert f"## {markup.github(table.title)}\n" in text
        assert all(note in found.text and note in plain(text) for note in table.notes)
    for line in ("Kermany v2: all 5,856 images; test by patient: 300 images of 220 patients, 225 with pneumonia.",
                 "Versions: project 0.1.0, numpy 2.4.6."):  # fmt: skip
        assert line in found.text and line in plain(text)
    assert found.text.count(NOTES[0]) == plain(text).count(NOTES[0]) == 1  # said twice, printed once
    assert NOTES[2] in found.text and NOTES[2] in plain(text)


def test_answers_carry_names_and_numbers():
    results = make_results()
    for text in (page(results).text, plain(markdown(results))):
        assert ("simple to resnet34, 300 images of 220 patients: no evidence of a difference; a true difference "
                "of 2.1 points would have been found in at least 4 of 5 such test sets.") in text  # fmt: skip
        auroc, accuracy = (line for line in text.splitlines() if "by patient)" in line)
        assert ("AUROC: +0.0314 [+0.0052, +0.0488], p 0.0211, after Holm's correction 0.0422, detectable 0.0377 "
                "(DeLong by patient)") in auroc  # fmt: skip
        assert "accuracy, threshold 0.5: -0.67 [-3.29, +1.07] points, p 0.5512 (by patient)" in accuracy


def test_the_worst_misses_and_false_alarms_are_shown_side_by_side_and_called_that():
    results = make_results()
    found, rows = page(results), markdown_tables(markdown(results))
    (listed,) = [table[1:] for table in rows if table[0][-1] == "probability of pneumonia"]
    expected = [(r.name, w) for r in results[:3] for w in r.worst]  # the graph answers as its checkpoint does
    assert len(expected) > 20
    for (name, item), caption, row, source in zip(expected, found.captions, listed, found.sources, strict=True):
        error = "missed" if item["label"] else "false alarm"
        first, second, file = caption.split("\n", 2)
        assert (first, file) == (error, item["file"])
        assert near(second.removeprefix("probability "), item["probability"])
        assert row[:3] == [name, error, item["file"]] and near(row[3], item["probability"])
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))))
        assert np.array_equal(image, item["pixels"])
    assert [text.split(":")[0] for text in found.alternatives[:8]] == ["missed"] * 4 + ["false alarm"] * 4
    many = replace(results[0], worst=[{**results[0].worst[0], "label": label} for label in (0, 1) * 9])
    assert [caption.split("\n")[0] for caption in page([many]).captions] == ["missed"] * 4 + ["false alarm"] * 4


def test_what_matters_is_seen_and_the_rest_is_folded():
    results = make_results()
    text = report.html_text(results, make_comparisons(), make_tables(results), NOTES, VERSIONS,
                            {name: b"x" for name in figures.NAMES})  # fmt: skip
    found = Page(text)
    order = [head for head in found.heads if f">{head}</h2>" in text]
    assert order == ["In short", "ROC curves and decisions", "Worst errors", "Answers", "Notes", "Tables",
                     "More figures", "Models", "What these numbers are not"]  # fmt: skip
    seen = Page(re.sub(r"<details>.*?</details>", "", text, flags=re.S))
    assert (
        seen.tables == [] and len([alt for alt in seen.alternatives if "missed" not in alt and "alarm" not in alt]) == 2
    )
    for sentence in summary.of_models(results):
        assert f"{sentence}." in seen.text
        assert seen.text.index(sentence) < seen.text.index("Worst errors") < seen.text.index("Does depth help?")
    assert "p 0.0211" not in seen.text and "p 0.0211" in found.text
    assert text.count("<details><summary>") == text.count("<details>") == text.count("</details>")
    folded = [head for head in found.heads if f"<summary><h3>{markup.escaped(head)}</h3></summary>" in text]
    assert folded == [*(table.title for table in make_tables(results)), "Learning curves", "Precision and sensitivity",
                      "Reliability of the probabilities", "Decision curves", "Risk and share of films answered",
                      "Files"]  # fmt: skip


def test_every_image_says_what_it_shows():
    found = page(make_results(synthetic=True), drawn={name: b"x" for name in figures.NAMES})
    assert len(found.alternatives) == len(found.sources) > 20 and all(found.alternatives)
    assert found.alternatives[0] == "SYNTHETIC: ROC curves of simple, resnet34, ensemble of simple, resnet34"


def test_the_short_of_it_warns_before_the_numbers_are_seen():
    found = page(make_results(), drawn={})
    notes = found.text[found.text.index("In short") : found.text.index("Worst errors")]
    assert NOTES[2] in notes and NOTES[0] not in notes


def test_large_images_become_thumbnails_and_proportions_stay():
    image = Image.open(io.BytesIO(report.thumbnail(np.zeros((600, 300), np.uint8))))
    assert image.size == (88, 176)


def test_models_are_listed_with_their_hashes_and_linked_cards():
    results = make_results()
    found, text = page(results), markdown(results)
    for tables in (found.tables, markdown_tables(text)):
        (rows,) = [table[1:] for table in tables if table[0][-1] == "SHA-256"]
        assert [(row[0], row[5], row[6]) for row in rows] == [(r.name, r.file, r.sha256) for r in results]
        assert [row[3] for row in rows] == ["0", "1", "-", "-"]
    linked = [unquote(link) for link in found.links if not link.startswith("#")]
    files = list(report.card_files(results))
    assert linked == [file.removesuffix("md") + "html" for file in files]
    assert files == [unquote(x) for x in re.findall(r"\]\((cards/[^)]*)\)", text)]


@pytest.mark.parametrize("which", range(4))
def test_every_number_of_a_card_is_the_results(which):
    result = make_results()[which]
    tables = {tuple(table[0]): table[1:] for table in markdown_tables(cards.model_card(result))}
    ranking = dict(tables["measure", "value"])
    for name, key, digits in cards.RANKING:
        assert matches(ranking[name], result.estimates[key], digits), name
    decisions = {row[0]: row[1:] for row in tables["measure", *result.points]}
    for i, point in enumerate(result.points.values()):
        assert near(decisions["threshold"][i], point["threshold"], 4)
        assert [int(decisions[key.upper()][i]) for key in ("tn", "fp", "fn", "tp")] == [
            point[key] for key in ("tn", "fp", "fn", "tp")
        ]
        for name, key in cards.DECISIONS:
            assert matches(decisions[name][i], point["estimates"][key]), name
    promised = tables.get(("threshold from", "measure", "promised", "delivered", "delivered minus promised"), [])
    assert len(promised) == (9 if result.kind == "checkpoint" else 0)
    for name, key, before, after, gap in promised:
        point = result.points[name]
        assert matches(before, point["promised"][key]) and matches(after, point["estimates"][key])
        assert matches(gap, point["gap"][key])
    for name, share, ppv, npv, films in tables[
        "threshold from", "prevalence", "PPV", "NPV", "films read for one missed"
    ]:
        at = result.points[name]["at_prevalence"]
        assert share == "10 %" and near(ppv, at["ppv"]) and near(npv, at["npv"])
        assert films == ("none missed" if np.isinf(at["films_per_missed"]) else f"{at['films_per_missed']:,.0f}")
    for row, group in zip(tables["group", "measure", "images", "patients", "value"], result.subgroups, strict=True):
        assert row[:4] == [group["group"], group["measure"], str(group["images"]), str(group["patients"])]
        assert matches(row[4], group)


def test_a_card_says_what_the_checkpoint_says():
    result = make_results()[1]
    text = cards.model_card(result)
    said = {row[0]: row[1] for table in markdown_tables(text) if table[0] == ["fact", "value"] for row in table[1:]}
    known = result.checkpoint
    expected = {
        "file": "runs/resnet34/model.pt", "SHA-256 of the file": result.sha256,
        "SHA-256 of the weights": known["weights_sha256"], "input": "one channel, 224 x 224 pixels",
        "how films are made square": "stretch", "mean and deviation taken off the pixels": "0.4823, 0.2217",
        "temperature of the probabilities": "1.234", "parameters": "5,406,306",
        "decision": "pneumonia where the probability is at least 0.4321",
        "where that threshold is from": known["threshold_rule"], "trained on": known["data"]["name"],
        "images for training": "1,051", "images for validation (epoch, temperature, threshold)": "151",
        "its split": "by patient, seed 0, fingerprint 4d5e6f7a8b9c", "test images": "300", "patients in them": "220",
        "images with pneumonia": "225", "learning rate": "0.0013", "weight decay": "0.017", "decay": "yes",
        "augment": "shift 0.06, scale 0.1, rotation 7, flip no", "initial weights": "random", "seed": "1",
        "epochs run": "9", "epoch that was kept": "8", "validation AUROC of that epoch": "0.9519",
        "device": "CPU, 2 threads, bf16", "torch": "2.14.1+cpu", "git": "ad8a652",
    }  # fmt: skip
    assert {key: said.get(key) for key in expected} == expected
    assert f"    sha256sum runs/resnet34/model.pt    # {result.sha256}\n" in text
    assert "    python evaluate.py runs/resnet34/model.pt\n    python export.py runs/resnet34/model.pt\n" in text
    assert "75.0 % of the test images show pneumonia" in text and "One run, with seed 1" in text


def test_cards_claim_of_the_data_only_what_its_name_says():
    kermany = cards.model_card(make_result())
    assert "CC BY 4.0" in kermany and "AUROC 0.95" in kermany and "trained and tested on Kermany's films" in kermany
    medmnist = cards.model_card(make_result(data_name="PneumoniaMNIST: train 4,708, val 524, test 624 images"))
    assert "CC BY 4.0" not in medmnist and "children aged 1 to 5" in medmnist
    other = cards.model_card(make_result(data_name="1,000 images: 500 normal, 500 pneumonia"))
    assert "CC BY" not in other and "Kermany" not in other and "child" not in other
    elsewhere = make_result(data_name="1,000 images: 500 normal, 500 pneumonia")
    elsewhere.checkpoint["data"] = {
        "name": "Kermany v2: all 5,856 images",
        "fingerprint": "x",
        "skipped": [["a", "b"]],
    }
    text = cards.model_card(elsewhere)
    assert "It was trained on Kermany's films" in text and "| files in it that could not be read | 1 |" in text
    assert "Kermany" not in page([make_result(data_name="mine")]).text


def test_cards_without_a_checkpoint_leave_out_what_is_not_known():
    def bare(result: Result) -> Result:
        points = {name: point | {"at_prevalence": None} for name, point in result.points.items()
                  if not name.startswith("sensitivity")}  # fmt: skip
        return replace(result, shortcut_audit=None, subgroups=[], notes=[], points=points)

    ensemble, graph = map(bare, make_results()[2:])
    for result in (ensemble, graph):
        text = cards.model_card(result)
        for absent in ("trained on |", "Promised", "Changed", "Groups", "prevalence", "## Notes", "Versions", "seed 1"):
            assert absent not in text
    assert "python export.py" not in cards.model_card(graph) and "sha256sum" not in cards.model_card(ensemble)
    assert "smoke run" in cards.model_card(replace(graph, quick=True))
    by_image = cards.model_card(replace(graph, split={"how": "image", "seed": 0, "fingerprint": "x"}))
    assert "a patient may be in training and in the test" in by_image


# ------------------------------------------------------------------------------------------------ other people's text


def poisoned() -> list[Result]:
    """Results in which every text that comes from files is an attack."""
    result = make_result(EVIL)
    data = result.data | {"name": EVIL, "fingerprint": EVIL}
    checkpoint = result.checkpoint | {"data": data, "device": EVIL, "versions": {EVIL: EVIL}}
    checkpoint["recipe"][EVIL] = EVIL
    result = replace(result, file=EVIL, initial_weights=EVIL, architecture=EVIL, notes=[EVIL], data=data,
                     checkpoint=checkpoint)  # fmt: skip
    result.subgroups[0]["group"] = EVIL
    result.shortcut_audit[0]["change"] = EVIL
    result.worst[0]["file"] = EVIL
    return [result]


def test_names_never_become_markup_in_html():
    comparison = make_comparisons()[0] | {"from": EVIL, "sentence": EVIL}
    comparison["measures"][0] |= {"measure": EVIL, "method": EVIL}
    tables = [Table(EVIL, [EVIL], [[EVIL]], [EVIL])]
    text = report.html_text(poisoned(), [comparison], tables, [EVIL], {EVIL: EVIL}, {"roc.png": b"x"})
    found = Page(text)
    assert found.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "nav", "a", "ul",
                          "li", "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption", "br",
                          "strong", "details", "summary"}  # fmt: skip
    assert "<script" not in text and "\x1b" not in text and "\u202e" not in text
    shown = problems.printable(EVIL)
    assert found.text.count(shown) > 12 and shown in found.captions[0]
    assert all(link.startswith(("#", "cards/")) for link in found.links)


def test_names_never_become_markup_in_markdown_and_cards():
    results = poisoned()
    shown, evil_tables = problems.printable(EVIL), [Table(EVIL, [EVIL], [[EVIL]], [EVIL])]
    for text in (
        report.markdown_text(results, [], evil_tables, [EVIL], {EVIL: EVIL}),
        cards.model_card(results[0]),
    ):
        lines = "\n".join(prose(text))
        assert "<" not in lines.replace("<!-- -->", "") and "\x1b" not in text and "\u202e" not in text
        assert not re.search(r"www\.|(?<!\\)://|\S(?<!<!-- -->)@", lines)  # GitHub makes links of these
        assert not re.search(r"(?<!\\)[`$*](?!\*)", re.sub(r"\*\*", "", lines))
        assert not re.search(r"(?<!\\)\]\(", lines)
        assert plain(text).count(shown) > 5
        markdown_tables(text)  # every row has as many cells as its header
    commands = [line for line in cards.model_card(results[0]).splitlines() if line.startswith("    ")]
    assert len(commands) == 3 and all("'" in line for line in commands)  # quoted for a shell, and on one line


@pytest.mark.parametrize(("text", "expected"), [
    ("# a", r"\# a"), ("- a", r"\- a"), ("-0.5 a", "-0.5 a"), ("1. a", r"1\. a"), ("12 films", "12 films"),
    ("a_b _c_", r"a_b \_c\_"), ("--- x", r"\--- x"), ("a < b & c", "a &lt; b &amp; c"), ("", ""),
    ("    a", "&#32;   a"), (" # a", "&#32;# a"), ("a #", r"a \#"), ("##", r"\#\#"), ("<b>", "&lt;b&gt;"),
    ("www.example.org", r"www\.example.org"), ("(WWW.a", r"(WWW\.a"), ("https://x", r"https\://x"),
    ("see ftp://x.y", r"see ftp\://x.y"), ("a@b.c", "a<!-- -->@b.c"), ("mailto:@b.c", "mailto:<!-- -->@b.c"),
    ("@b", "@b"), ("`a`|b", r"\`a\`\|b"),
])  # fmt: skip
def test_text_in_markdown(text, expected):
    assert markup.github(text) == expected
    assert plain(expected) == text


NAMES = ["www.example.org", "https://x", "a@b.c", "<b>", "`code`", "a|b", "two\nlines"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_in_every_document(name):
    result = make_result(name)
    result.worst[0]["file"] = result.subgroups[0]["group"] = name
    checkpoint = result.checkpoint | {"data": result.data | {"name": name}, "versions": {name: name}, "device": name}
    result = replace(result, file=name, architecture=name, notes=[name], checkpoint=checkpoint)
    shown, own = problems.printable(name), [Table(name, [name], [[name]], [name])]
    found, plainly = page([result], own), page([make_result()], own)
    assert found.tags == plainly.tags and found.links[:-1] == plainly.links[:-1]
    assert [[shown], [shown]] in found.tables and shown in found.captions[0]
    for text in (report.markdown_text([result], [], own, [name], {name: name}), cards.model_card(result)):
        cells = [cell for table in markdown_tables(text) for row in table for cell in row]
        assert cells.count(shown) >= 4 and f"- {markup.github(name)}\n" in text
        assert not any(name in line for line in prose(text))


def test_cards_get_names_that_every_system_allows():
    names = [
        "simple",
        "Simple",
        "simple",
        "../../etc/passwd",
        "a/b\\c:d*?",
        ".hidden",
        "x" * 300,
        "肺炎",
        "..",
        "con.trol. ",
    ]
    one = make_result()
    files = list(report.card_files([replace(one, name=name) for name in names]))
    assert len({file.lower() for file in files}) == len(names)
    for file in files:
        stem = file.removeprefix("cards/").removesuffix(".md")
        assert stem and len(stem) < 110 and not re.search(r'[<>:"/\\|?*\x00-\x1f]', stem)
        assert not stem.startswith(".") and not stem.endswith((".", " "))
    assert files[:3] == ["cards/simple.md", "cards/Simple-2.md", "cards/simple-3.md"] and files[7] == "cards/肺炎.md"


# ----------------------------------------------------------------------------------------------- the page as a whole


def test_the_page_needs_nothing_else_and_runs_nothing():
    drawn = {name: b"\x89PNG" for name in figures.NAMES}
    text = report.html_text(make_results(), make_comparisons(), [], NOTES, VERSIONS, drawn)
    found = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert sum(base64.b64decode(source.split(",")[1]) == b"\x89PNG" for source in found.sources) == 7
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & found.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text and 'name="viewport"' in text and "@media print" in text
    assert "prefers-color-scheme: dark" in text and ".plot img { background: #fff; }" in text
    anchors = [link[1:] for link in found.links if link.startswith("#")]
    assert all(f'id="{anchor}"' in text for anchor in anchors) and len(anchors) == 8
    assert text.count('<div class="scroll"') == text.count("<table>")


def test_synthetic_results_are_marked_wherever_they_appear():
    results = make_results(synthetic=True)
    found = page(results)
    for head in [h for h in found.heads if h not in [r.name for r in results]]:
        assert head.startswith("SYNTHETIC: ") and head.count("SYNTHETIC") == 1
    text = markdown(results)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    assert heads and all(head.startswith("SYNTHETIC: ") for head in heads)
    assert all(alt.startswith("SYNTHETIC: ") for alt in re.findall(r"!\[(.*?)\]", text))
    assert marks.SYNTHETIC in found.text and marks.SYNTHETIC in text
    for result in results:
        card = cards.model_card(result)
        assert card.startswith("# SYNTHETIC: ") and f"**{marks.SYNTHETIC}**" in card
        assert "## SYNTHETIC: Results on the test images" in card and "CC BY" not in card
    real = make_results()
    assert "SYNTHETIC" not in page(real).text + markdown(real) + "".join(map(cards.model_card, real))


def test_a_model_of_drawings_is_marked_among_others():
    results = [make_result("real"), replace(make_result("drawn"), trained_on_synthetic=True)]
    found = page(results)
    assert f"{marks.TRAINED_ON_DRAWINGS} (drawn)" in found.text
    assert "SYNTHETIC: drawn" in found.heads and "real" in found.heads
    films = page(results, comparisons=make_comparisons())  # of two others, both of films
    assert "Answers" in films.heads and "SYNTHETIC: Does depth" not in films.text
    assert "SYNTHETIC: Answers" in found.heads and "SYNTHETIC: Does depth help?" in found.text
    assert marks.TRAINED_ON_DRAWINGS in cards.model_card(results[1])
    assert "SYNTHETIC" not in cards.model_card(results[0])


def test_what_is_undefined_is_a_dash():
    results = [replace(result, estimates={key: estimate(NAN) for key in result.estimates}) for result in make_results()]
    for result in results:
        for point in result.points.values():
            point["estimates"] = {key: estimate(NAN) for key in point["estimates"]}
            point["at_prevalence"] |= {"ppv": NAN, "npv": NAN, "films_per_missed": NAN}
    comparisons = make_comparisons()
    comparisons[0]["measures"][0] |= {"difference": estimate(NAN), "p": NAN, "p_holm": NAN, "detectable": NAN}
    text = page(results, comparisons=comparisons).text
    assert "AUROC: -, p - (DeLong by patient)" in text
    documents = [text, markdown(results), *map(cards.model_card, results)]
    assert not any(re.search(r"\b(nan|None|inf|True|False)\b", document) for document in documents)
    assert all("| AUROC | - |" in card and "| accuracy | - | - | - | - |" in card for card in documents[2:])


@pytest.mark.parametrize("count", [1, 8])
def test_one_and_eight_models(count):
    results = [make_result(f"model {i}", seed=i) for i in range(count)]
    found, text = page(results, comparisons=[]), markdown(results)
    assert found.tables and "Answers" not in found.heads
    assert [head for head in found.heads if head.startswith("model ")] == [r.name for r in results]
    assert all(result.name in text for result in results)
    perfect = replace(make_result(worst := "without errors"), worst=[])
    assert "No errors at the threshold 0.4321, validation." in page([perfect], comparisons=[]).text
    assert "Worst errors" not in report.markdown_text([perfect], [], [], [], {}) and worst


def test_write_leaves_all_documents_and_figures_whole(tmp_path):
    results = make_results()
    folder = tmp_path / "report"
    names = report.write(folder, results, make_comparisons(), make_tables(results), NOTES, VERSIONS)
    assert sorted(names) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert names[:2] == ["report.html", "report.md"] and set(figures.NAMES) < set(names)
    text = (folder / "report.md").read_text()
    for name in re.findall(r"\]\(([^)]*)\)", text):
        assert (folder / unquote(name)).is_file()
    found = Page((folder / "report.html").read_text())
    inside = [base64.b64decode(source.split(",")[1]) for source in found.sources]
    assert all(inside.count((folder / name).read_bytes()) == 1 for name in figures.NAMES)
    for name, result in report.card_files(results).items():
        assert (folder / name).read_text() == cards.model_card(result)
    assert (folder / "report.html").stat().st_size < 3e6
    (tmp_path / "file").write_text("x")
    with pytest.raises(problems.Problem, match="cannot write"):
        report.write(tmp_path / "file", results[:1], [], [], [], {})


def test_results_are_not_changed_by_being_written():
    results = [make_result()]
    before = json.dumps([asdict(result) for result in results], default=lambda a: a.tolist())
    markdown(results), page(results), cards.model_card(results[0])
    assert json.dumps([asdict(result) for result in results], default=lambda a: a.tolist()) == before
