"""tables.py: what is printed, results.csv and results.json hold the same numbers, cell by cell."""

import csv
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from results import PROMISE

from basics import disk
from evaluation import comparisons, referral, report, summary, tables, testing
from evaluation import result as result_module
from evaluation.result import NOT_IN_JSON, Result
from metrics import estimation
from metrics.estimation import estimate

STRESS = [
    {"view": "as it is", "shortcuts": 0.926, "auroc": 0.96240, "accuracy": 0.9, "sensitivity": 0.9, "specificity": 0.9},
    {"view": "tight", "shortcuts": 0.5118, "auroc": 0.90020, "accuracy": 0.8, "sensitivity": 0.7, "specificity": 1.0},
]


def result(name: str, seed: int, kind: str = "checkpoint", n: int = 90, **more) -> Result:
    """All that the tables and files need, from made-up answers; most patients have one film."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3 // 2
    patients = [f"{i - (i % 10 == 3)}" for i in range(n)]
    probabilities = 1 / (1 + np.exp(-random.normal(2.2 * labels - 1.4, 1.0)))
    promised = estimation.operating_points(labels, probabilities[::-1], patients, 0.37)
    sample = estimation.Sample(labels, patients, 100)
    estimates, found = estimation.describe(sample, probabilities, promised, prevalence=0.02)
    points = {point: {**at, "rule": None} for point, at in found.items()}
    decisions = (probabilities >= 0.37).astype(int)
    groups = [estimation.subgroup("some", measure, labels >= 0, labels, decisions, patients)
              for measure in ("sensitivity", "specificity")]  # fmt: skip
    corrected = {"validation": 0.742, "estimated": 0.4321, "counted": 0.3333,
                 "estimates": estimation.at_threshold(sample, probabilities**2, 0.5)}  # fmt: skip
    training = {"epochs": 5, "epochs_to_90": None, "seconds_to_90": None, "best_epoch": 3, "best_val_loss": 0.25,
                "val_auroc": 0.9, "parameters": 1_234_567, "multiply_adds": 9.1e7, "images_per_second": 1234.4,
                "minutes": 2.5, "device": "CPU", "seed": seed}  # fmt: skip
    audit = [{"change": "none", "strength": "", "auroc": 0.91234, "accuracy": 0.8, "sensitivity": 0.7,
              "specificity": math.nan}, {"change": "no pixels at all", "strength": "x", "auroc": 0.5,
              "accuracy": None, "sensitivity": None, "specificity": None}]  # fmt: skip
    trained = kind == "checkpoint"
    made = Result(
        name=name, kind=kind, file=f"runs/{name}", sha256="0" * 64, architecture=name.split("-s")[0], seed=seed,
        initial_weights="random", quick=False,
        data={"name": "made-up films", "fingerprint": "abc", "synthetic": False}, trained_on_synthetic=False,
        recorded=True, left_out="", decides="validation",
        split={"how": "patient", "seed": 0, "fingerprint": "def"}, temperature=1.0, images=n,
        patients=len(set(patients)), positives=int(labels.sum()), estimates=estimates, points=points,
        subgroups=groups, corrected=corrected if trained else None,
        aurc=estimation.aurc(sample, probabilities, 0.37),
        referral=referral.delivered(labels, probabilities, patients, PROMISE) if trained else None,
        shortcut_audit=audit, notes=[],
        stress=STRESS if trained else None, training=training if trained else None, checkpoint_sha256=None,
        files=[f"{i}.png" for i in range(n)], labels=labels, probabilities=probabilities, patient_ids=patients,
        history=[], worst=[], checkpoint={"name": name},
    )  # fmt: skip
    return replace(made, **more)


@pytest.fixture(scope="module")
def shown() -> SimpleNamespace:
    results = [result("simple-s0", 0), result("simple-s1", 1), result("resnet34", 2), result("simple.onnx", 0, "graph")]
    asked, notes = comparisons.answer(results)
    groups = comparisons.seed_groups(results)
    made = {table.title: table for table in tables.tables(results, asked, groups)}
    return SimpleNamespace(results=results, asked=asked, groups=groups, notes=notes, tables=made)


def parsed(cell: str) -> float:
    return math.nan if cell == "-" else float(cell.removeprefix("< "))


def sign(value: float) -> str:
    """How a difference begins: zero has no sign, also where it is rounded from below."""
    return "+" if value > 0 else "-" if value < 0 else "0"


def interval(cell: str) -> tuple[float, float, float]:
    match = re.fullmatch(r"([-+]?[\d.]+|-)(?: \[([-+]?[\d.]+), ([-+]?[\d.]+)\])?", cell)
    assert match, cell
    return tuple(math.nan if part in (None, "-") else float(part) for part in match.groups())


def assert_cell(cell: str, expected: dict, digits: int, scale: float = 1) -> None:
    given = [scale * expected[key] for key in ("value", "low", "high")]
    assert interval(cell) == pytest.approx(given, abs=0.5001 * 10**-digits, nan_ok=True), (cell, expected)


# ------------------------------------------------------------------------------------------------ single cells


def test_numbers_and_dashes():
    assert tables.number(None) == tables.number(math.nan) == "-"
    assert tables.number(0) == "0.000" and tables.number(1234567, 0) == "1,234,567"
    assert tables.number(0.12345, 2, sign=True) == "+0.12" and tables.number(-0.5, 1, sign=True) == "-0.5"
    assert tables.with_interval(estimate(0.954, (0.938, 0.9664))) == "0.954 [0.938, 0.966]"
    assert tables.with_interval(estimate(0.954)) == "0.954"
    assert tables.with_interval(estimate(math.nan)) == "-"
    assert tables.with_interval(estimate(-0.01, (-0.02, 0.005)), 1, 100, sign=True) == "-1.0 [-2.0, +0.5]"
    assert [tables.p_value(p) for p in (math.nan, 0.0, 0.00009, 0.0001, 0.04567, 1.0)] == [
        "-", "< 0.0001", "< 0.0001", "0.0001", "0.0457", "1.0000"]  # fmt: skip


# --------------------------------------------------------------------------------- tables against the results


def test_every_table_is_rectangular_and_named_once(shown):
    assert list(shown.tables) == [
        "Summary (test images, threshold from validation)", "Test results: decisions",
        "Test results: more on decisions", "Test results: ranking and calibration", "Promised and delivered",
        "Referral: promised and delivered", "Stress validation", "At another prevalence",
        "With the test images' prevalence estimated from themselves", "Subgroups (threshold from validation)",
        "Several seeds", "The questions",
        "Convergence (on validation, accuracy at 0.5)", "Shortcut audit"]  # fmt: skip
    for table in shown.tables.values():
        assert {len(row) for row in table.rows} == {len(table.headers)}
        assert "nan" not in str(table.rows)


def test_decisions_cell_by_cell(shown):
    first = shown.tables["Test results: decisions"].rows
    second = shown.tables["Test results: more on decisions"].rows
    pairs = [(one, name, at) for one in shown.results for name, at in one.points.items()]
    assert len(first) == len(second) == len(pairs) == 16
    for one, other, (model, name, at) in zip(first, second, pairs, strict=True):
        assert one[:2] == other[:2] == [model.name, name]
        assert float(one[2]) == pytest.approx(at["threshold"], abs=5.1e-5)
        for cell, key in zip(one[3:6], ("accuracy", "sensitivity", "specificity"), strict=True):
            assert_cell(cell, at["estimates"][key], 3)
        assert one[6:] == [at["tn"], at["fp"], at["fn"], at["tp"]]
        for cell, key in zip(other[2:], ("balanced_accuracy", "precision", "npv", "f1", "mcc"), strict=True):
            assert_cell(cell, at["estimates"][key], 3)


def test_summary_ranking_and_notebooks_cell_by_cell(shown):
    checkpoints = shown.results[:3]
    for row, model in zip(
        shown.tables["Summary (test images, threshold from validation)"].rows, checkpoints, strict=True
    ):
        at = model.points["validation"]
        assert row[0] == model.name and row[5:9] == [at["fn"], at["fp"], model.images, model.patients]
        values = [at["estimates"][key]["value"] for key in ("accuracy", "sensitivity", "specificity")]
        assert [float(cell) for cell in row[1:4]] == pytest.approx(values, abs=5.1e-4)
        assert float(row[4]) == pytest.approx(model.estimates["auroc"]["value"], abs=5.1e-5)
        assert row[9:] == ["0.9313", "0.9002", 5, "2.5", "CPU", model.seed]
    stressed = shown.tables["Stress validation"].rows
    assert [row[0] for row in stressed] == [model.name for model in checkpoints for _ in STRESS]
    assert stressed[1][1:] == ["tight", "0.512", "0.9002", "0.800", "0.700", "1.000"]
    table = shown.tables["Test results: ranking and calibration"]
    assert table.headers[1:4] == ["AUROC", "average precision", "log loss"]
    for row, model in zip(table.rows, shown.results, strict=True):
        for cell, (key, digits) in zip(row[1:8], (
            ("auroc", 4), ("average_precision", 4), ("log_loss", 4), ("brier", 4), ("calibration_error", 3),
            ("calibration_slope", 2), ("calibration_intercept", 2)), strict=True):  # fmt: skip
            assert_cell(cell, model.estimates[key], digits)
        assert row[8:] == [model.images, model.patients]


def three(data_name: str) -> list[Result]:
    """A network of each architecture, on data of that name; and a graph."""
    own = {"data": {"name": data_name, "fingerprint": "abc", "synthetic": False}}
    names = ("simple", "resnet34", "resnet34-pretrained")
    return [*(result(name, i, **own) for i, name in enumerate(names)), result("simple.onnx", 0, "graph", **own)]


def test_the_notebooks_stand_beside_all_three_networks_on_kermanys_films():
    results = three("Kermany v2: all 5,856 images")
    table = tables.notebooks(results)
    for row, model in zip(table.rows[4:], results[:3], strict=True):
        at = model.points["0.5"]
        assert row[:3] == ["this run, at 0.5", model.name, 90]
        assert row[5:] == [at["tn"], at["fp"], at["fn"], at["tp"]]
        assert float(row[3]) == pytest.approx((at["tn"] + at["tp"]) / 90, abs=5.1e-4)
    for source, _, n, accuracy, _, *counts in tables.NOTEBOOKS:  # their accuracy is that of their own counts
        assert sum(counts) == n == 468 and accuracy == pytest.approx((counts[0] + counts[3]) / n, abs=5.1e-5), source
    assert table.title in [one.title for one in tables.tables(results, [], [])]
    for others in (results[:2], results[1:], three("1,000 images: 500 normal, 500 pneumonia"),
                   [*results[:2], *three("PneumoniaMNIST: train 4,708")[2:]]):  # fmt: skip
        assert tables.notebooks(others).rows == []
        assert table.title not in [one.title for one in tables.tables(others, [], [])]


@pytest.mark.parametrize("short", [False, True])
def test_the_table_of_the_screen_has_a_row_for_each_model_cell_by_cell(shown, short):
    own = result("by-hand.onnx", 4, "graph")
    at = {**own.points["0.5"], "threshold": 0.3, "rule": "set by hand"}
    own = replace(own, decides="the graph's own", points={**own.points, "the graph's own": at})
    results = [*shown.results, own]
    table = tables.deciding(results, short)
    assert table.headers == ["model", "threshold", "accuracy", "sensitivity", "specificity", "missed",
                             "false\nalarms" if short else "false alarms", "AUROC"]  # fmt: skip
    for row, model in zip(table.rows, results, strict=True):
        at = model.points["the graph's own" if model is own else "validation"]
        assert row[:2] == [model.name, f"{at['threshold']:.4f}"] and row[5:7] == [at["fn"], at["fp"]]
        assert float(row[7]) == pytest.approx(model.estimates["auroc"]["value"], abs=5.1e-4 if short else 5.1e-5)
        for cell, key in zip(row[2:5], ("accuracy", "sensitivity", "specificity"), strict=True):
            found = at["estimates"][key]
            if not short:
                assert_cell(cell, found, 3)
                continue
            value, low, high = interval(cell)
            assert value == pytest.approx(100 * found["value"], abs=0.051)
            assert 0 <= 100 * found["low"] - low < 1 and 0 <= high - 100 * found["high"] < 1  # outwards
    assert table.notes[1:] == ["At the graph's own threshold, not validation's: by-hand.onnx (0.3000)."]


def test_promises_prevalences_and_subgroups_cell_by_cell(shown):
    expected = [(one, name, key, at) for one in shown.results for name, at in one.points.items()
                for key in ("accuracy", "sensitivity", "specificity")]  # fmt: skip
    for row, (model, name, key, at) in zip(shown.tables["Promised and delivered"].rows, expected, strict=True):
        assert row[:3] == [model.name, name, key]
        assert_cell(row[3], at["promised"][key], 3)
        assert_cell(row[4], at["estimates"][key], 3)
        assert_cell(row[5], at["gap"][key], 1, 100)
        gap = at["estimates"][key]["value"] - at["promised"][key]["value"]
        assert row[5].startswith(sign(round(100 * gap, 1)))
    for row, (model, name, _, at) in zip(shown.tables["At another prevalence"].rows, expected[::3], strict=True):
        assert row[:3] == [model.name, name, "0.02"]
        ill, well = (at["estimates"][key]["value"] for key in ("sensitivity", "specificity"))
        ppv = 0.02 * ill / (0.02 * ill + 0.98 * (1 - well))
        assert float(row[3]) == pytest.approx(ppv, abs=5.1e-4)
        assert row[5] == "none missed" if ill == 1 else float(row[5].replace(",", "")) == round(1 / (0.02 * (1 - ill)))
    checkpoints = [one for one in shown.results if one.kind == "checkpoint"]
    corrected = shown.tables["With the test images' prevalence estimated from themselves"].rows
    for row, model in zip(corrected, checkpoints, strict=True):
        assert row[:4] == [model.name, "0.742", "0.432", "0.333"]
        for cell, key in zip(row[4:], ("accuracy", "sensitivity", "specificity"), strict=True):
            assert_cell(cell, model.corrected["estimates"][key], 3)
    rows = iter(shown.tables["Subgroups (threshold from validation)"].rows)
    for model in shown.results:
        for group in model.subgroups:
            row = next(rows)
            assert row[:3] == [model.name, "some", group["measure"]] and row[4:] == [
                group["images"],
                group["patients"],
            ]
            assert_cell(row[3], group, 3)


def test_answers_that_cannot_tell_a_prevalence_say_so(shown):
    told = {"validation": 0.742, "estimated": None, "counted": 0.333, "estimates": {}}
    model = replace(shown.results[0], corrected=told)
    (row,) = tables.corrected([model]).rows
    assert row == [model.name, "0.742", "these answers cannot tell", "0.333", "-", "-", "-"]


def test_questions_and_seeds_cell_by_cell(shown):
    rows = iter(shown.tables["The questions"].rows)
    for pair in shown.asked:
        for found in pair["measures"]:
            row, points = next(rows), found["measure"].startswith(("accuracy", "sensitivity", "specificity"))
            assert row[0] == pair["question"] and row[1] == f"{pair['from']} to {pair['to']}"
            assert row[2] == found["measure"] + " (points)" * points
            digits, scale = (1, 100) if points else (4, 1)
            assert_cell(row[3], found["difference"], digits, scale)
            shown_difference = float(re.match(r"[-+]?[\d.,]+", row[3])[0])
            assert row[3].startswith(sign(shown_difference)) and row[7] == found["method"]
            assert parsed(row[4]) == pytest.approx(scale * found["detectable"], abs=0.51 * 10**-digits, nan_ok=True)
            for cell, p in zip(row[5:7], (found["p"], found["p_holm"]), strict=True):
                assert parsed(cell) == pytest.approx(p, abs=1e-4, nan_ok=True)
    assert next(rows, None) is None
    (row,) = shown.tables["Several seeds"].rows
    headers = shown.tables["Several seeds"].headers
    assert row[:2] == ["simple", 2]
    keys = {"AUROC": ("", "auroc"), "log loss": ("", "log_loss"), "sensitivity, 0.5": ("0.5", "sensitivity"),
            "accuracy, validation": ("validation", "accuracy")}  # fmt: skip
    for heading, key in keys.items():
        mean, deviation = row[headers.index(heading)].split(" ± ")
        expected = shown.groups[0]["estimates"][key]
        assert (float(mean), float(deviation)) == pytest.approx((expected["mean"], expected["sd"]), abs=5.1e-5)


def test_shortcuts_and_convergence_have_dashes_for_what_is_not_there(shown):
    rows = shown.tables["Shortcut audit"].rows
    assert rows[0] == ["simple-s0", "none", "", "0.9123", "0.800", "0.700", "-"]
    assert rows[1] == ["simple-s0", "no pixels at all", "x", "0.5000", "-", "-", "-"]
    rows = shown.tables["Convergence (on validation, accuracy at 0.5)"].rows
    assert rows[0] == ["simple-s0", 5, "-", "-", 3, "0.2500", "1,234,567", "91 M", "1,234"] and len(rows) == 3


def test_only_synthetic_results_are_marked_and_empty_tables_left_out():
    model = result("simple", 1, data={"name": "SYNTHETIC", "fingerprint": "x", "synthetic": True}, shortcut_audit=None)
    for at in model.points.values():
        at["promised"] = at["gap"] = at["at_prevalence"] = None
    made = tables.tables([model], [], [])
    assert all(table.title.startswith("SYNTHETIC: ") for table in made)
    words = " ".join(table.title for table in made)
    for absent in ("Promised", "another prevalence", "seeds", "questions", "Shortcuts"):
        assert absent not in words


# -------------------------------------------------------------------------------- print, CSV and JSON agree


def test_print_csv_and_json_agree_cell_by_cell(shown, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "write", lambda *_: None)  # the documents have tests of their own
    made = list(shown.tables.values())
    summary.print_results(shown.results, shown.asked, shown.notes, made, ["one note"], "github", verbose=True)
    out = capsys.readouterr().out
    testing.write_files(tmp_path, shown.results, shown.asked, shown.groups, ["one note"], made)
    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert set(written) == {"models", "comparisons", "seeds", "notes", "versions"}
    with open(tmp_path / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    points = [(one, name, at) for one in written["models"] for name, at in one["points"].items()]
    for row, (model, name, at) in zip(rows, points, strict=True):
        assert (row["model"], row["point"], row["split"]) == (model["name"], name, "def")
        assert int(row["images"]) == model["images"] and float(row["threshold"]) == at["threshold"]
        for key, found in {**at["estimates"], **model["estimates"]}.items():
            for column, end in ((key, "value"), (f"{key}_low", "low"), (f"{key}_high", "high")):
                assert float(row[column]) == pytest.approx(math.nan if found[end] is None else found[end], nan_ok=True)
    blocks = dict(re.findall(r"\n([^\n|]+)\n\n((?:\|[^\n]*\n)+)", out))
    first = tables.deciding(result_module.shown(shown.results))
    expected = {first.title: first, **shown.tables}
    assert list(blocks) == list(expected)
    for title, block in blocks.items():
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
        assert lines[0] == expected[title].headers
        assert lines[2:] == [[str(cell) for cell in row] for row in expected[title].rows]
    assert out.startswith(
        f"made-up films; test by patient: 90 images of {written['models'][0]['patients']} patients, 30"
    )
    assert "\nnote: one note\n" in out


def test_what_is_for_figures_and_cards_is_not_in_the_json(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda *_: None)
    testing.write_files(tmp_path, shown.results, shown.asked, shown.groups, [], [])
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    for model, one in zip(models, shown.results, strict=True):
        assert not set(NOT_IN_JSON) & set(model)
        assert set(model) == set(vars(one)) - set(NOT_IN_JSON)
        assert list(model) == list(one.for_json())
    (seeds,) = json.loads((tmp_path / "results.json").read_text())["seeds"]
    assert {"auroc", "0.5, accuracy", "validation, accuracy"} <= set(seeds["estimates"])


def test_predictions_say_what_was_decided(shown):
    model = shown.results[2]
    rows = testing.predictions(model)
    assert [row["file"] for row in rows] == model.files and [row["patient"] for row in rows] == model.patient_ids
    for row, label, probability in zip(rows, model.labels, model.probabilities, strict=True):
        assert row["class"] == ("PNEUMONIA" if label else "NORMAL")
        assert float(row["probability"]) == pytest.approx(probability, rel=1e-8)
        assert (row["decision_at_0.5"] == "PNEUMONIA") == (probability >= 0.5)
        assert (row["decision_at_validation_threshold"] == "PNEUMONIA") == (probability >= 0.37)


def test_json_knows_neither_nan_nor_infinity(tmp_path):
    disk.write_json(tmp_path / "x.json", {"a": [math.nan, math.inf, np.float64(-math.inf), 1.5], "b": ("x", None)})
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert found == {"a": [None, None, None, 1.5], "b": ["x", None]}
