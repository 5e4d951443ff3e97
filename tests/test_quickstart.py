"""examples/quickstart.ipynb: run from start to end on drawings, as somebody would who opens it."""

import importlib
import json
import re
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest

import train

ROOT = Path(train.__file__).parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_what_came_of_it():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS)


def test_what_the_scripts_are_called_with_is_not_overwritten_by_them():
    """%run leaves the names of a script in the notebook: `import data` there would take the place of a `data` here."""
    source = "".join("".join(cell["source"]) + "\n" for cell in CELLS)
    ours = set(re.findall(r"^ *(\w+) = |^for (\w+) in|import \w+ as (\w+)", source, re.M))
    ours = {name for names in ours for name in names if name}
    assert {"trial", "films_in", "networks", "shown", "graph", "figure"} <= ours
    for script in re.findall(r"%run (\w+)\.py", source):
        assert not ours & set(vars(importlib.import_module(script))), script


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, list]:
    """What each cell showed, by the cell's id."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "examples").mkdir()
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    for init in ROOT.glob("*/__init__.py"):
        shutil.copytree(init.parent, folder / init.parent.name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICKSTART", "phantoms")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3",
                                resources={"metadata": {"path": str(folder / "examples")}}).execute()  # fmt: skip
    assert {"runs", "onnx", "report", "heat"} <= {path.name for path in folder.iterdir()}
    return {cell["id"]: cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code"}


def text_of(shown: list) -> str:
    return "".join(output["text"] for output in shown if output["output_type"] == "stream")


def pictures_in(shown: list) -> int:
    return sum("image/png" in output.get("data", {}) for output in shown)


def test_no_cell_fails_and_nothing_is_fetched(outputs):
    for name, shown in outputs.items():
        for output in shown:  # a script that fails in %run leaves an error here, and the cell goes on
            assert output["output_type"] != "error", (name, output["evalue"])
        assert not re.search(r"^error: ", text_of(shown), re.M), name
    assert outputs["clone"] == outputs["install"] == []


def test_tables_and_figures_are_shown(outputs):
    assert "epoch  1/2" in text_of(outputs["train"]) and ", from validation" in text_of(outputs["train"])
    assert "simple.onnx: " in text_of(outputs["export"]) and "same" in text_of(outputs["export"])
    evaluated = text_of(outputs["evaluate"])
    assert "SYNTHETIC: Test results: decisions" in evaluated and "sensitivity" in evaluated
    (report,) = (output["data"]["text/markdown"] for output in outputs["report"] if "text/markdown" in output["data"])
    assert "SYNTHETIC" in report and report.count("| --- |") >= 3
    assert pictures_in(outputs["data"]) == pictures_in(outputs["predict"]) == 1
    assert pictures_in(outputs["report"]) >= 5
    assert "film.png" in text_of(outputs["predict"])
