"""The graph in trained/: what the README's first command shows, and what stands beside it."""

import hashlib
import json
import re
from pathlib import Path

import predict

ROOT = Path(predict.__file__).parent
GRAPH = ROOT / "trained" / "simple.onnx"


def test_the_first_command_finds_both_classes_and_the_film_that_lies_on_its_side(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert predict.main(["trained/simple.onnx", "examples/films"]) == 0
    out, error = capsys.readouterr()
    lines = out.splitlines()
    assert error.endswith(f" files/s{predict.LEGEND}\n")  # what "refer: turned? +2" says is in words
    rows = {line.split("/")[-1]: line for line in lines if line.endswith(".jpeg")}
    assert len(rows) == 4
    for file, row in rows.items():
        sideways, ill = "sideways" in file, file.startswith("person")
        assert ("refer: turned?" in row) == sideways, row
        assert sideways or ("PNEUMONIA" in row) == ill, row


def test_its_certificate_is_of_this_file_and_names_no_machine():
    text = GRAPH.with_suffix(".json").read_text(encoding="utf-8")
    kept = json.loads(text)
    assert kept["sha256"] == hashlib.sha256(GRAPH.read_bytes()).hexdigest() and kept["file"] == GRAPH.name
    assert kept["data"]["source"] == "data/chest_xray" and not re.search(r'"/(work|home|root|tmp)', text)
    assert GRAPH.stat().st_size < 6e6


def test_its_page_says_what_the_metadata_say():
    facts = predict.open_model(GRAPH, "cpu").session.get_modelmeta().custom_metadata_map
    page = (GRAPH.parent / "README.md").read_text(encoding="utf-8")
    views = {row["view"]: row for row in json.loads(facts["stress"])}
    as_it_is, exchanged = views["as it is"], views["frames exchanged"]
    shown = [f"{as_it_is[key]:.3f}".lstrip("0") for key in ("auroc", "sensitivity", "specificity")]
    assert "AUROC {}, sensitivity {}, specificity {} on films as they are".format(*shown) in page
    every = [row["auroc"] for view, row in views.items() if not view.startswith("frames matched")]
    assert f"in {len(every)} views the mean AUROC is {sum(every) / len(every):.3f}".replace("0.", ".") in page
    assert f"the worst {min(every):.3f}".replace("0.", ".") in page
    assert f"AUROC {exchanged['auroc']:.3f}".replace("0.", ".") in page
    assert json.loads(facts["promise"])["alpha"] == 0.05
    flagged = json.loads(facts["limits"])["flagged"]["any"]
    assert f"{100 * flagged:.1f} % of the validation films" in page
