"""Model cards as pages: what their markdown says, and nothing in a name becomes markup."""

from results import make_results
from test_report import EVIL, Page, markdown_tables, poisoned

from basics import problems
from evaluation import cards, report


def test_a_page_has_the_tables_of_the_markdown():
    for result in make_results():
        text = cards.model_card(result)
        found = Page(report.html_card(result, text))
        assert found.tables == markdown_tables(text) and len(found.tables) >= 4
        assert found.links[0] == "../report.html"


def test_names_never_become_markup_in_a_page():
    for result in poisoned():
        text = report.html_card(result, cards.model_card(result))
        found = Page(text)
        assert found.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "nav", "a", "ul",
                              "li", "div", "table", "thead", "tbody", "tr", "th", "td", "strong", "pre",
                              "code"}, found.tags  # fmt: skip
        assert "<script" not in text and "\x1b" not in text and "<!-- -->" not in text
        assert problems.printable(EVIL) in found.text
        assert [link for link in found.links if "evil" in link] == []
