"""summary.py: what is read without scrolling is short, right, and says first why it may mean nothing."""

import csv
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from results import make_comparisons, make_result, make_results

from evaluation import comparisons, markup, report, summary, tables, testing
from evaluation.result import Result, repeats, shown

LONG = ("resnet34-pretrained", "a name of forty letters, and it has them", "resnet34-pretrained-of-many-films-seed-3")


def counts(result: Result) -> tuple[float, float]:
    """Pneumonias found and normals called ill, of 1,000 each, from the answers alone."""
    called = result.probabilities >= result.decision["threshold"]
    return 1000 * called[result.labels == 1].mean(), 1000 * called[result.labels == 0].mean()


def said(capsys, results: list[Result], asked: list[dict] | None = None, verbose: bool = False, **more) -> str:
    """What is printed of these results."""
    made = tables.tables(shown(results), asked or [], [])
    arguments = {"unanswered": [], "notes": [], **more}
    summary.print_results(results, asked or [], arguments["unanswered"], made, arguments["notes"],
                          more.get("form", "simple"), verbose)  # fmt: skip
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ sentences


def test_a_sentence_has_the_numbers_of_predictions_csv(tmp_path, monkeypatch):
    """Recomputed from the file by other means: rates of 1,000, films, patients."""
    monkeypatch.setattr(report, "write", lambda *_: None)
    results = make_results()
    testing.write_files(tmp_path, results, [], [], [], [])
    with open(tmp_path / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for result in results[:3]:
        mine = [row for row in rows if row["model"] == result.name]
        rates = []
        for truth in ("PNEUMONIA", "NORMAL"):
            called = [row["decision"] == "PNEUMONIA" for row in mine if row["class"] == truth]
            rates.append(round(1000 * sum(called) / len(called)))
        area = result.estimates["auroc"]
        assert summary.of_model(result) == (
            f"{result.name}: finds {rates[0]} of 1,000 pneumonias, calls {rates[1]} of 1,000 normals ill; "
            f"AUROC {area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]; "
            f"{len(mine)} films of {len({row['patient'] for row in mine})} patients"
        )


def test_a_model_is_judged_by_the_threshold_by_which_it_decides():
    result = make_result("simple.onnx", "graph")
    strict = result.points["sensitivity 95 %"]
    result = replace(result, decides="the graph's own",
                     points={**result.points, "the graph's own": {**strict, "rule": "set by hand"}})  # fmt: skip
    found, alarms = counts(result)
    assert (f"simple.onnx, by the graph's own (set by hand), 0.2718: finds {found:.0f} of 1,000 pneumonias, "
            f"calls {alarms:.0f} of 1,000 normals ill;") in summary.of_model(result)  # fmt: skip


@pytest.mark.parametrize(("some", "others", "expected"), [
    (910, 90, "910"), (1, 2, "333"), (0, 7, "0"), (7, 0, "1,000"), (9_999, 1, "more than 999"),
    (1, 9_999, "fewer than 1"), (0, 0, ""),
])  # fmt: skip
def test_all_and_none_are_said_only_where_it_is_all_or_none(some, others, expected):
    assert summary.per_thousand(some, others) == expected


def test_classes_that_are_not_there_are_said_to_be_absent():
    result = make_result()
    at = result.points["validation"]
    at |= {"tp": 0, "fn": 0}
    assert ": meets no pneumonia, calls " in summary.of_model(result)
    at |= {"tn": 0, "fp": 0}
    assert ": meets no pneumonia, meets no normal film; " in summary.of_model(result)


def test_marks_and_smoke_runs_come_before_the_numbers():
    assert summary.of_model(make_result(synthetic=True)).startswith("SYNTHETIC: simple: finds ")
    assert summary.of_model(replace(make_result(), trained_on_synthetic=True)).startswith("SYNTHETIC: simple: ")
    graph = replace(make_result("x.onnx", "graph", synthetic=True), recorded=False)
    assert summary.of_model(graph).startswith("SYNTHETIC: UNKNOWN TRAINING FILMS: x.onnx: finds ")
    quick = summary.of_model(replace(make_result("quick-simple"), quick=True))
    assert quick.startswith("quick-simple, a smoke run whose numbers mean nothing: finds ")


def test_a_graph_that_answers_as_its_checkpoint_is_one_line():
    results = make_results()
    assert [(graph.name, twin.name) for graph, twin in repeats(results)] == [("simple.onnx", "simple")]
    sentences = summary.of_models(results)
    assert len(sentences) == 4 and sentences[3] == "simple.onnx answers as simple does (largest difference 1e-06)"
    for other in (replace(results[3], decides="0.5"), replace(results[3], name="simple-int8.onnx"),
                  replace(results[3], probabilities=np.clip(results[0].probabilities + 0.002, 0, 1)),
                  replace(results[3], files=results[3].files[::-1])):  # fmt: skip
        assert repeats([*results[:3], other]) == []
        assert summary.of_models([*results[:3], other])[3].startswith(f"{other.name}")


def test_answers_are_short_and_say_what_the_test_says():
    (pair,) = make_comparisons()
    accuracy = {**pair["measures"][0], "measure": "accuracy, threshold from validation", "p_holm": 0.2}
    pair["measures"].append(accuracy)
    assert summary.of_pair({**pair, "mark": "SYNTHETIC: "}) == (
        "SYNTHETIC: Does depth help? simple to resnet34: AUROC +0.0314 [+0.0052, +0.0488], evidence of a difference "
        "(p = 0.042 after Holm); accuracy +3.1 [+0.5, +4.9] points, no evidence of a difference "
        "among so many (p = 0.2 after Holm)"
    )
    accuracy |= {"p_holm": np.nan, "method": f"by patient; {comparisons.NOT_IN_IT}"}
    assert summary.of_pair(pair).endswith("points, not tested: the single run's seed is not in it")
    accuracy |= {"difference": {"value": np.nan, "low": np.nan, "high": np.nan}}
    assert summary.of_pair(pair).endswith("; accuracy, these images cannot tell")


# ----------------------------------------------------------------------------------------------------- the screen


@pytest.mark.parametrize("synthetic", [False, True])
def test_no_line_of_the_screen_is_wider_than_100_columns(capsys, synthetic):
    results = [
        *make_results(synthetic),
        *(make_result(name, seed=i, synthetic=synthetic) for i, name in enumerate(LONG)),
    ]
    results[4] = replace(results[4], left_out="12 of 300 films are of patients in this model's training or validation: "
                         "left out (2 by their pixels, 10 copies in other pixels)")  # fmt: skip
    notes = ["WARNING: " + "these models were not tested on the same images " * 4, "look number 3 at these films " * 5]
    text = said(
        capsys, results, make_comparisons(), notes=notes, unanswered=["Does it? cannot be answered: " + "so " * 50]
    )
    assert max(map(len, text.splitlines())) <= 100
    summary.print_last(testing.Path("r") / "report.html", 17, verbose=False)
    last = capsys.readouterr().out.splitlines()
    assert max(map(len, last)) <= 100 and last[-1] == "report: r/report.html"
    words = " ".join(text.split())
    for result in shown(results):
        assert summary.of_model(result) in words
    rows = text.split("AUROC\n")[1].split("\n\n")[0].splitlines()
    names = "".join(re.split(r" {2,}", row)[0] for row in rows)
    assert all(name.replace(" ", "") in names.replace(" ", "") for name in LONG)  # whole, in lines


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_the_table_fits_the_terminal_and_names_what_it_leaves_out(columns):
    results = [make_result(name, seed=i) for i, name in enumerate(LONG)]
    whole = tables.deciding(results, short=True)
    table, gone = summary.fitting(whole, columns)
    lines = markup.screen_table(table.headers, table.rows).splitlines()
    assert max(map(len, lines)) <= columns
    assert bool(gone) == (columns < 100)
    assert [head.replace("\n", " ") for head in whole.headers if head not in table.headers] == [
        head for head in ("threshold", "accuracy", "missed", "false alarms", "AUROC") if head in gone
    ]
    assert ["".join(row[0].split()) for row in table.rows] == ["".join(name.split()) for name in LONG]
    if columns == 200:
        assert [row[0] for row in table.rows] == list(LONG)
        assert table == whole._replace(rows=[[str(cell) for cell in row] for row in whole.rows])


def test_usual_names_fit_whole_into_100_columns():
    names = ("simple", "resnet34", "resnet34-pretrained")
    table, gone = summary.fitting(tables.deciding([make_result(name) for name in names], short=True), 100)
    assert [row[0] for row in table.rows] == list(names) and gone == []


def test_the_width_is_the_terminals_or_100(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert summary.width() == 72
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert summary.width() == 100


def test_one_table_is_printed_and_all_of_them_where_they_are_asked_for(capsys):
    results = make_results()
    said_already = ["a started from weights", "a was trained on the split x", "first look at these test images",
                    "a is from a smoke run", "Does it help? cannot be answered: no", comparisons.SMOKE]  # fmt: skip
    warnings = ["WARNING: x started from y", "look number 2 at these films", "12 films are too small to tell"]
    notes = [*warnings, *said_already]
    short = said(capsys, results, make_comparisons(), notes=notes)
    assert re.findall(r"^(?:SYNTHETIC: )?Test results: .*$", short, re.M) == [
        "Test results: decisions, by each model's own threshold"
    ]
    assert re.findall(r"^(?:note: |(?=WARNING))(.*)$", short, re.M) == warnings
    whole = said(capsys, results, make_comparisons(), notes=notes, verbose=True)
    for table in tables.tables(shown(results), make_comparisons(), []):
        assert f"\n{table.title}\n" in whole and f"\n{table.title}\n" not in short
    assert re.findall(r"^(?:note: |(?=WARNING))(.*)$", whole, re.M) == notes
    for text in (short, whole):  # the sentences are what is left on the screen
        ending = " ".join(text.split("\n\n")[-1].split())
        assert ending == " ".join(
            [*summary.of_models(results), *summary.of_referrals(results), summary.of_pair(make_comparisons()[0])]
        )
    assert "simple.onnx" not in short.split("AUROC\n")[1].split("\n\n")[0]  # it repeats its checkpoint


def test_a_format_for_machines_has_whole_names_and_numbers(capsys):
    text = said(capsys, [make_result(LONG[2])], form="github")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {LONG[2]} ")]
    at = make_result(LONG[2]).points["validation"]["estimates"]["accuracy"]
    assert f"{at['value']:.3f} [{at['low']:.3f}, {at['high']:.3f}]" in row


def test_a_single_model_is_told_nothing_of_questions(capsys):
    asked, unanswered = comparisons.answer([make_result()])
    text = said(capsys, [make_result()], asked, unanswered=unanswered)
    assert "answered" not in text and "help?" not in text
    assert len(text.split("\n\n")[-1].splitlines()) <= 4  # of the model, and of its promise


def test_what_was_left_out_is_said_once(capsys):
    result = replace(make_result(), left_out="12 of 300 films are known: left out")
    text = said(capsys, [result], notes=summary.left_out([result]))
    assert text.count("simple: 12 of 300 films are known: left out\n") == 1 and "note: " not in text


def test_control_characters_in_a_name_stay_text(capsys):
    text = said(capsys, [make_result("a\x1b[31m\nb")])
    assert "\x1b" not in text and r"a\x1b[31m\nb: finds" in text


@pytest.mark.parametrize(("name", "room", "lines"), [
    ("simple", 6, ["simple"]), ("resnet34-pretrained-s3", 12, ["resnet34-", "pretrained-", "s3"]),
    ("resnet34-pretrained-s3", 22, ["resnet34-pretrained-s3"]), ("肺炎肺炎", 8, ["肺炎肺炎"]),
    ("肺炎肺炎", 7, ["肺炎肺", "炎"]), ("ab", 1, ["a", "b"]),
    ("quick-simple (ensemble of 2)", 12, ["quick-simple", "(ensemble of", "2)"]),
    ("quick-resnet34_of_films", 10, ["quick-", "resnet34_", "of_films"]),
])  # fmt: skip
def test_names_get_as_many_lines_as_they_need(name, room, lines):
    assert markup.wrapped(name, room).split("\n") == lines and max(map(markup.columns, lines)) <= room


@pytest.mark.parametrize("wide", [80, 100])
def test_no_two_names_look_alike_on_the_screen(wide):
    names = [f"quick-resnet34-pretrained{end}" for end in ("-s0", "-s1", "-s1.onnx", "-s1-int8.onnx",
                                                           " (ensemble of 2)")]  # fmt: skip
    table, _ = summary.fitting(tables.deciding([make_result(name) for name in names], short=True), wide)
    lines = markup.screen_table(table.headers, table.rows).splitlines()
    assert max(map(len, lines)) <= wide
    room = len(next(line for line in lines if line.startswith("---")).split()[0])
    shown = "".join(line[:room].strip() for line in lines[3:]).replace(" ", "")
    assert shown == "".join(names).replace(" ", "")


def test_a_table_of_the_screen_is_aligned():
    text = markup.screen_table(["a", "b"], [["x-\ny", 1], ["z", 20]])
    assert text.splitlines() == ["a    b", "--  --", "x-   1", "y", "z   20"]
    text = markup.screen_table(["a", "long\nb"], [["肺", 1], ["xyz", "2,000"]])
    assert text.splitlines() == ["      long", "a        b", "---  -----", "肺       1", "xyz  2,000"]


def test_a_table_that_was_asked_for_is_printed(capsys):
    results = [make_result("simple")]
    made = tables.tables(results, [], [])
    for words in ("At another prevalence", "Subgroups", "Shortcut audit"):
        summary.print_results(results, [], [], made, [], wanted=[words])
        out = capsys.readouterr().out
        titles = [table.title for table in made if f"\n{table.title}\n" in out]
        assert titles == [table.title for table in made if words in table.title] != []
