"""examples/first_look.ipynb: its stored outputs are what its commands print, of the graph that is here."""

import json
import re
from pathlib import Path

import nbformat

import predict

ROOT = Path(predict.__file__).parent
NOTEBOOK = ROOT / "examples" / "first_look.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def text_of(cell: dict) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def test_every_cell_has_run_and_names_no_machine():
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert all(cell["outputs"] for cell in CELLS[1:]) and NOTEBOOK.stat().st_size < 250_000
    for cell in CELLS:
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        assert not re.search(r"/(work|home|root|tmp)/", text_of(cell)), cell["source"]
    assert sum(output["output_type"] == "execute_result" for cell in CELLS for output in cell["outputs"]) == 2


def test_its_predictions_are_those_of_the_graph_in_trained(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert predict.main(["trained/simple.onnx", "examples/films"]) == 0
    shown = next(text_of(cell) for cell in CELLS if "predict.py" in "".join(cell["source"]))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith(".jpeg")]
    assert len(rows) == 4 and all(row in shown for row in rows)


def test_drawings_are_called_drawings():
    after = CELLS[[("phantoms" in "".join(cell["source"])) for cell in CELLS].index(True) + 1 :]
    assert all("SYNTHETIC" in text_of(cell) or "synthetic-" in text_of(cell) for cell in after)
