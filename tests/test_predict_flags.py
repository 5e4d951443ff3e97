"""predict.py and graphs that know what they do not know: flags, what is left possible, promises in words."""

import json
import re
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, PngImagePlugin
from predicting import FLAGS, FORBIDDING, bright_graph, call, doubtful_graph, film_of, table

import export
import predict
from graphs import building
from training import limits

FILMS = {  # (probability, flags, unfamiliar); the words of the row: decision, note
    "a good.png": (0.55, 0, 0.5, "NORMAL", ""),
    "b ill.png": (0.9, 0, 0.5, "PNEUMONIA", ""),
    "c upside.png": (0.9, 8, 0.5, "PNEUMONIA", "refer: upside down?"),
    "d plot.png": (0.55, 512, 2.4, "NORMAL", "refer: unfamiliar"),
    "e both.png": (0.75, 0, 0.5, "PNEUMONIA", "refer: both possible"),
    "f mirrored.png": (0.9, 16, 0.5, "PNEUMONIA", "mirrored?"),
    "g much.png": (0.65, 8 | 16 | 512, 1.5, "NORMAL", "refer: upside down? +3"),
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    return doubtful_graph(tmp_path_factory.mktemp("doubtful") / "doubtful.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for name, (probability, flags, unfamiliar, *_) in FILMS.items():
        film_of(root / name, probability, flags, unfamiliar)
    return root


def lines_of(capsys) -> tuple[list[str], list[str]]:
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def rows_of(capsys) -> list[dict]:
    return [json.loads(line) for line in lines_of(capsys)[0]]


def test_words_of_flags_are_those_of_training():
    assert {*predict.GUESSES, "coloured", "guessed levels"} <= set(limits.FLAGS)
    assert {name: limits.FLAGS[name] for name in FLAGS} == FLAGS


def test_a_row_says_whether_to_refer_and_why(graph, folder, capsys):
    assert call(graph, folder) == 0
    rows, said = lines_of(capsys)
    assert rows[0].split() == ["probability", "decision", "refer", "file"]
    for row, (name, (probability, _, _, decision, note)) in zip(rows[1:], FILMS.items(), strict=True):
        assert float(row[:11]) == pytest.approx(probability, abs=1e-3)
        assert (row[13:22].rstrip(), row[24:50].rstrip(), row[52:]) == (decision, note, str(folder / name))
    assert len(said) == 4  # no warnings: constant films, which predict.py itself would suspect
    counts = "3 NORMAL, 4 PNEUMONIA, 4 of them to be read by a person: 2 upside down, 1 unfamiliar, 1 both possible; "
    assert said[-1].startswith(f"{counts}0 errors, 0 warnings; ")


def test_of_errors_alone_nobody_is_told_to_read_a_film(graph, tmp_path, capsys):
    (tmp_path / "x.png").write_text("no picture")
    assert call(graph, tmp_path) == 1
    assert lines_of(capsys)[1][-1].startswith("0 NORMAL, 0 PNEUMONIA; 1 error, 0 warnings; ")


def test_films_and_certificates_in_the_place_of_the_graph_are_named(graph, folder, tmp_path, capsys):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "tiny.json").write_text("{}")
    for path in (folder / "a good.png", tmp_path / "IM0001", tmp_path / "tiny.json"):
        assert call(path, graph) == 2
        expected = f"error: {path}: that is no graph: the .onnx file comes first, and then the films"
        assert lines_of(capsys) == ([], [expected])


def test_what_is_left_of_onnxruntime_when_one_of_its_two_packages_was_removed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(SystemExit, match=r"^error: onnxruntime .*pip install --force-reinstall onnxruntime, or onnxru"):
        runpy.run_path(predict.__file__)


def test_csv_and_json_have_the_same_fields(graph, folder, tmp_path, capsys):
    assert call(graph, folder, "--json", "--csv", tmp_path / "x.csv") == 0
    rows, written = rows_of(capsys), table(tmp_path / "x.csv")
    assert [list(map(predict.text_of, row.values())) for row in rows] == [list(row.values()) for row in written]
    assert [row["refer"] for row in rows] == [note.startswith("refer") for *_, note in FILMS.values()]
    assert [row["unfamiliar"] for row in rows] == [unfamiliar for _, _, unfamiliar, *_ in FILMS.values()]
    assert [row["possible"] for row in rows] == ["NORMAL", "PNEUMONIA", "PNEUMONIA", "NORMAL", "both", "PNEUMONIA",
                                                 "both"]  # fmt: skip
    assert [row["flags"] for row in rows] == ["", "", "upside down", "unfamiliar", "", "mirrored",
                                              "upside down; mirrored; unfamiliar"]  # fmt: skip
    before = (tmp_path / "x.csv").read_bytes()
    assert call(graph, folder, "--csv", tmp_path / "x.csv", "--resume") == 0
    assert (tmp_path / "x.csv").read_bytes() == before
    (tmp_path / "x.csv").write_bytes(b"".join(before.splitlines(keepends=True)[:5]))
    assert call(graph, folder, "--csv", tmp_path / "x.csv", "--resume") == 0
    assert (tmp_path / "x.csv").read_bytes() == before


def test_strict_gives_no_answer_and_the_exit_code_says_so(graph, folder, tmp_path, capsys):
    path, heat = tmp_path / "x.csv", tmp_path / "heat"
    options = (graph, folder, "--strict", "--csv", path)
    assert call(*options, "--heatmaps", heat) == 3
    rows, said = lines_of(capsys)
    silent = [name for name, (_, flags, *_) in FILMS.items() if flags & FORBIDDING]
    assert [row[52:] for row in rows if row[:22].split() == ["-", "no", "answer"]] == [str(folder / n) for n in silent]
    assert [row[24:50].rstrip() for row in rows[3:5]] == ["refer: upside down?", "refer: unfamiliar"]
    assert said[-1].startswith("1 NORMAL, 3 PNEUMONIA, 3 without an answer, 4 of them to be read by a person: ")
    for row in table(path):
        refused = Path(row["file"]).name in silent
        assert [row[key] == "" for key in ("probability", "decision", "possible", "heatmap")] == [refused] * 4
        assert row["error"] == "" and (row["refer"] == "yes" or not refused)
    assert len(list(heat.iterdir())) == 4
    assert call(*options, "--resume") == 3  # nothing to do, and no answer is still none
    before = path.read_bytes()
    assert call(graph, folder, "--csv", path, "--resume") == 2
    assert "of another model, threshold, --refer or --strict" in capsys.readouterr().err and path.read_bytes() == before
    assert call(graph, folder / "a good.png", folder / "e both.png", "--strict") == 0
    (tmp_path / "bad.png").write_bytes(b"bad")
    assert call(graph, folder, tmp_path / "bad.png", "--strict") == 1  # a failure is the worse news


def test_strict_needs_a_graph_that_flags(folder, tmp_path, capsys):
    assert call(bright_graph(tmp_path / "earlier.onnx"), folder, "--strict") == 2
    assert lines_of(capsys) == ([], ["error: --strict: this graph flags no films, and export.py makes one that does of "
                                     "a new checkpoint"])  # fmt: skip


def test_an_earlier_graph_answers_as_before(folder, tmp_path, capsys):
    assert call(bright_graph(tmp_path / "earlier.onnx"), folder, "--refer", "0.06") == 0
    rows, said = lines_of(capsys)
    assert [row[24:29].rstrip() for row in rows[1:]] == ["", "", "", "", "refer", "", "refer"]
    assert [row[31:] for row in rows[1:]] == [str(folder / name) for name in FILMS]
    assert said[1].startswith("warning: ") and "to be read" not in said[-1]
    assert call(bright_graph(tmp_path / "earlier.onnx"), folder, "--json") == 0
    assert {(row["flags"], row["possible"], row["unfamiliar"], row["refer"]) for row in rows_of(capsys)} == {
        (None, None, None, False)
    }


def test_what_only_the_file_tells_becomes_a_flag(graph, tmp_path, capsys):
    colours = np.zeros((40, 50, 3), np.uint8) + np.array([250, 40, 40], np.uint8)
    colours[0, :2] = 0
    Image.fromarray(colours).save(tmp_path / "a photo.png")
    deep = np.full((40, 50), 100 * 16, np.uint16)
    deep[0, :2] = 0
    Image.fromarray(deep).save(tmp_path / "b guessed.png")
    told = PngImagePlugin.PngInfo()
    told.add(b"sBIT", b"\x0c")
    Image.fromarray(deep).save(tmp_path / "c told.png", pnginfo=told)
    assert call(graph, tmp_path, "--json") == 0
    captured = capsys.readouterr()
    rows = list(map(json.loads, captured.out.splitlines()))
    assert [row["flags"] for row in rows] == ["coloured", "guessed levels", ""]
    assert [row["warning"] for row in rows] == [None, None, "12 bits in a 16-bit PNG"]
    assert [row["refer"] for row in rows] == [False] * 3
    assert captured.err.count("warning: ") == 1 and "0 errors, 1 warning;" in captured.err
    graph = doubtful_graph(tmp_path / "x.onnx", flags={"bits": FLAGS, "forbidding": FORBIDDING | FLAGS["coloured"]})
    assert call(graph, tmp_path / "a photo.png", "--strict", "--json") == 3
    assert [(row["refer"], row["decision"]) for row in rows_of(capsys)] == [(True, None)]


def test_a_margin_refers_more(graph, folder, capsys):
    assert call(graph, folder, "--refer", "0.06", "--json", "--threshold", "0.93") == 0
    rows = rows_of(capsys)
    assert [row["refer"] for row in rows] == [False, True, True, True, True, True, True]
    assert call(graph, folder, "--refer", "0.06", "--threshold", "0.86") == 0
    rows, said = lines_of(capsys)
    assert [row[24:50].rstrip() for row in rows[1:3]] == ["", "refer: near threshold"]
    assert "1 near threshold" not in said[-1] and "2 near threshold" in said[-1]


def test_a_decision_that_is_not_left_possible_is_referred(graph, folder, capsys):
    """Another threshold decides so: below 0.6 pneumonia is not possible, by the promise."""
    assert call(graph, folder / "a good.png", folder / "b ill.png") == 0
    rows, said = lines_of(capsys)
    assert [row[13:50].split(maxsplit=1) for row in rows[1:]] == [["NORMAL"], ["PNEUMONIA"]]
    assert call(graph, folder / "a good.png", folder / "b ill.png", "--threshold", "0.5") == 0
    rows, said = lines_of(capsys)
    assert [" ".join(row[13:50].split()) for row in rows[1:]] == ["PNEUMONIA refer: NORMAL possible", "PNEUMONIA"]
    assert "0 NORMAL, 2 PNEUMONIA, 1 of them to be read by a person: 1 NORMAL possible; " in said[-1]


def test_what_is_promised_is_said_first(graph, folder, capsys):
    promise = ("promise for films like validation's: the true class is left possible in 95 of 100 normal ones and 95 "
               "of 100 pneumonias; both or neither: refer")  # fmt: skip
    point = ("found 97 of 100 pneumonias (95 % interval {} to 99), called 10 of 100 normal films ill (5 to 13), "
             "in validation")  # fmt: skip
    for options, threshold, expected in (
        ([], "0.7000", "misses and false alarms weigh alike: " + point.format(91)),
        (["--sensitivity", "0.95"], "0.6500", "sensitivity 95 %: " + point.format(93)),
        (["--sensitivity", "0.99"], "0.5500", "sensitivity 99 %: " + point.format(97)),
        (["--threshold", "0.5"], "0.5000", "what is more probable: " + point.format(93)),
        (["--threshold", "0.6"], "0.6000", None),
    ):
        assert call(graph, folder, *options) == 0
        said = lines_of(capsys)[1][:-1]
        assert re.fullmatch(
            rf"tiny \w{{16}}, threshold {threshold}, on the CPU; a smoke run: its answers mean nothing; research; "
            "not for clinical use",
            said[0],
        )
        assert said[1:] == [*([expected] if expected else []), promise] and max(map(len, said)) <= 150


def test_a_sensitivity_decides_by_the_threshold_of_that_name(graph, folder, capsys):
    thresholds = {"0.95": 0.65, "0.99": 0.55, "0.990": 0.55}
    for asked, threshold in thresholds.items():
        assert call(graph, folder, "--sensitivity", asked, "--json") == 0
        rows = rows_of(capsys)
        assert {row["threshold"] for row in rows} == {threshold}
        assert [row["decision"] == "PNEUMONIA" for row in rows] == [
            np.float32(row["probability"]) >= np.float32(threshold) for row in rows
        ]
        assert 0 < sum(row["decision"] == "NORMAL" for row in rows) < len(rows)


def test_a_sensitivity_that_validation_did_not_choose_is_named(graph, folder, tmp_path, capsys):
    earlier = bright_graph(tmp_path / "x.onnx")
    for model, there in ((graph, "but for 0.95 or 0.99"), (earlier, "nor for any other")):
        assert call(model, folder, "--sensitivity", "0.9") == 2
        expected = f"error: --sensitivity 0.9: no operating point for it in this graph, {there}"
        assert lines_of(capsys) == ([], [expected])
    with pytest.raises(SystemExit) as caught:
        call(graph, folder, "--sensitivity", "0.95", "--threshold", "0.5")
    assert caught.value.code == 2


def test_a_graph_is_set_to_a_sensitivity_by_name(folder, tmp_path, capsys):
    graph = doubtful_graph(tmp_path / "x.onnx")
    assert call(graph, folder, "--sensitivity", "0.99", "--json") == 0
    captured = capsys.readouterr()
    wanted, (_, said, *_) = list(map(json.loads, captured.out.splitlines())), captured.err.splitlines()
    assert export.main(["threshold", str(graph), "--sensitivity", "0.99"]) == 0
    printed = lines_of(capsys)[0]
    assert printed[0].startswith(f"{graph}: threshold 0.55, was 0.7; ") and printed[1:] == [said]
    facts = building.facts_of(building.examine(graph))
    assert (facts["threshold"], facts["threshold_rule"]) == ("0.55", "sensitivity 99 %")
    assert call(graph, folder, "--json") == 0
    captured = capsys.readouterr()
    rows = list(map(json.loads, captured.out.splitlines()))
    assert [row | {"model": ""} for row in rows] == [row | {"model": ""} for row in wanted]
    assert captured.err.splitlines()[1] == said
    content = graph.read_bytes()
    assert export.main(["threshold", str(graph), "--sensitivity=0.9"]) == 1
    expected = f"error: {graph}: --sensitivity 0.9: no operating point for it in this graph, but for 0.95 or 0.99"
    assert lines_of(capsys) == ([], [expected]) and graph.read_bytes() == content
    for words in (["0.3", "--sensitivity", "0.95"], []):
        with pytest.raises(SystemExit) as caught:
            export.main(["threshold", str(graph), *words])
        assert caught.value.code == 2 and graph.read_bytes() == content
    earlier = bright_graph(tmp_path / "earlier.onnx")
    assert export.main(["threshold", str(earlier), "--sensitivity", "0.95"]) == 1
    assert "--sensitivity 0.95: no operating point for it in this graph, nor for any other" in capsys.readouterr().err


def test_a_graph_that_contradicts_itself_gets_an_error(folder, tmp_path, capsys):
    """It refers only what is flagged and unclear at once."""
    assert call(doubtful_graph(tmp_path / "x.onnx", refers="And"), folder, "--json") == 1
    wrong = {Path(row["file"]).name: row["error"] for row in rows_of(capsys) if row["error"]}
    assert set(wrong) == {"c upside.png", "d plot.png", "e both.png"}
    assert re.fullmatch(r"the graph's probability is 0\.\d+, its decision is 1, its unfamiliar is 0\.5, its flags is "
                        r"8, its possible is \[False  True\], its refer is 0", wrong["c upside.png"])  # fmt: skip


def test_a_distance_that_is_no_number_is_no_answer(folder, tmp_path, capsys):
    graph = onnx.load(doubtful_graph(tmp_path / "x.onnx"))
    (hundred,) = (tensor for tensor in graph.graph.initializer if tensor.name == "hundred")
    hundred.CopyFrom(onnx.numpy_helper.from_array(np.float32(0), "hundred"))
    onnx.save(graph, tmp_path / "x.onnx")
    assert call(tmp_path / "x.onnx", folder / "a good.png", "--json") == 1
    (row,) = rows_of(capsys)
    assert row["probability"] is None and "its unfamiliar is inf" in row["error"]


@pytest.mark.parametrize(
    "changes",
    [{"flags": []}, {"flags": {"bits": [], "forbidding": 1}}, {"flags": {"bits": FLAGS}}, {"promise": {}},
     {"promise": {"alpha": "much"}}, {"operating_points": {"0.5": {}}}, {"operating_points": [1]},
     {"flags": {"bits": {"negative": "x"}, "forbidding": 1}}],
)  # fmt: skip
def test_odd_metadata_are_one_line(folder, tmp_path, capsys, changes):
    assert call(doubtful_graph(tmp_path / "x.onnx", **changes), folder) == 1
    rows, said = lines_of(capsys)
    assert rows == [] and len(said) == 1
    assert said[0].startswith(f"error: {tmp_path / 'x.onnx'}: cannot be used on CPUExecutionProvider: ")


def test_names_of_flags_cannot_write_on_the_terminal(folder, tmp_path, capsys):
    flags = {"bits": {**FLAGS, "upside\x1b[2J\ndown": 8}, "forbidding": FORBIDDING}
    flags["bits"].pop("upside down")
    assert call(doubtful_graph(tmp_path / "x.onnx", flags=flags), folder) == 0
    rows, said = lines_of(capsys)
    assert len(rows) == len(FILMS) + 1 and "\x1b" not in "".join(rows + said)


def test_a_point_without_intervals_promises_nothing(folder, tmp_path, capsys):
    nothing = {"value": 1.0, "low": float("nan"), "high": float("nan")}
    for more in ({}, {"sensitivity": nothing, "specificity": nothing}):
        points = {"validation": {"threshold": 0.7, **more}}
        assert call(doubtful_graph(tmp_path / "x.onnx", operating_points=points), folder) == 0
        said = lines_of(capsys)[1]
        assert len(said) == 3 and said[1].startswith("promise for films") and "nan" not in " ".join(said)
