"""Lower files never import higher ones: the files at the top have an order in which each needs only those before."""

import ast
import graphlib
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
FILES = {path.stem: path for path in sorted(ROOT.glob("*.py"))}


def imported(tree: ast.AST) -> set[str]:
    """Names of the files of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found & set(FILES)


@pytest.fixture(scope="module")
def needs() -> dict[str, set[str]]:
    return {name: imported(ast.parse(path.read_text(encoding="utf-8"))) for name, path in FILES.items()}


def order(graph: dict[str, set[str]]) -> list[str]:
    """Lowest first, by name where several may come next. Raises graphlib.CycleError, which names the circle."""
    sorter = graphlib.TopologicalSorter({name: sorted(graph[name]) for name in sorted(graph)})
    sorter.prepare()
    found = []
    while sorter.is_active():
        found += (ready := sorted(sorter.get_ready()))
        sorter.done(*ready)
    return found


def test_there_is_no_circle_of_imports(needs):
    found = order(needs)
    print("lowest first:", ", ".join(found))  # pytest -rP shows it
    assert sorted(found) == sorted(FILES)
    with pytest.raises(graphlib.CycleError):  # it would be found
        order(needs | {"common": {"train"}})


def test_what_stands_alone_imports_nothing_of_ours(needs):
    for name in ("predict", "common", "metrics"):
        assert not needs[name], name
