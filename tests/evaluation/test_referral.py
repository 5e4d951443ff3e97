"""referral.py: what was promised and what was delivered, by hand; shifted films are said to be, others are not."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from results import make_result, make_results

from basics.problems import Problem
from evaluation import cards, figures, referral, report, summary, tables, testing
from metrics import conformal, intervals, measures

PROMISE = {"alpha": 0.05, "lowest_pneumonia": 0.5, "highest_normal": 0.25, "patients": [39, 120]}
# (label, probability, patient): what is possible by these cut-offs stands behind.
FILMS = (
    (0, 0.10, "a"),  # normal: answered, right
    (0, 0.25, "a"),  # normal, as the cut-off itself is in
    (0, 0.40, "b"),  # neither: referred, and normal is left out
    (0, 0.90, "c"),  # pneumonia: answered, wrong
    (0, 0.05, "d"),  # normal: right
    (1, 0.50, "e"),  # pneumonia: right
    (1, 0.30, "e"),  # neither
    (1, 0.99, "f"),  # right
    (1, 0.80, "g"),  # right
    (1, 0.20, "h"),  # normal: answered, wrong
)


def made_up(promise: dict = PROMISE) -> dict:
    labels, probabilities, patients = (list(column) for column in zip(*FILMS, strict=True))
    return referral.delivered(np.array(labels), np.array(probabilities), patients, promise)


def draw(random: np.random.Generator, patients: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities and patients of films, one to four a patient; shifted films look less ill."""
    whose = np.repeat(np.arange(patients), random.integers(1, 5, patients))
    ill, of_patient = random.random(patients) < 0.6, random.normal(size=patients)
    scores = np.where(ill, 2.0, -2.0)[whose] + of_patient[whose] + random.normal(size=len(whose)) - shift
    return ill[whose].astype(int), scipy.special.expit(scores), [f"p{i}" for i in whose]


def facts_of(labels: np.ndarray, margins: np.ndarray, patients: np.ndarray, views: int) -> dict:
    """A checkpoint's, with the validation answers of so many views, of which only the first is as these margins say."""
    others = np.random.default_rng(9).normal(0, 9, (views - 1) * len(labels))
    logits = np.concatenate([margins * 2.0, others])
    stress = [{"view": name} for name in ("as it is", "tight", "wide")[:views]] + [{"view": "frames matched, of 9"}]
    return {
        "file": "model.pt", "temperature": 2.0, "stress": stress if views > 1 else [],
        "validation_answers": {
            "logits": torch.from_numpy(np.stack([0 * logits, logits], 1).astype(np.float32)),
            "labels": torch.from_numpy(np.tile(labels, views)),
            "patients": torch.from_numpy(np.tile(patients, views)),
        },
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- by hand


def test_a_small_set_by_hand():
    found = made_up()
    assert {key: found[key] for key in PROMISE} == PROMISE
    shares = {key: (row["value"], row["films"], row["patients"]) for key, row in found["measures"].items()}
    assert shares == {
        "coverage_normal": (3 / 5, 5, 4), "coverage_pneumonia": (3 / 5, 5, 4), "referred": (2 / 10, 10, 8),
        "both_possible": (0.0, 10, 8), "neither_possible": (2 / 10, 10, 8), "answered_accuracy": (6 / 8, 8, 7),
        "answered_sensitivity": (3 / 4, 4, 4), "answered_specificity": (3 / 4, 4, 3),
    }  # fmt: skip
    kept, whose = np.array([1, 1, 0, 0, 1]), ["a", "a", "b", "c", "d"]
    normal, pneumonia = (found["measures"][f"coverage_{name}"] for name in referral.NAMES)
    assert (normal["low"], normal["high"]) == intervals.clustered_wilson(kept, whose)
    # Of first films 2 of 4 normals are left out, and 1 of 4 pneumonias; of 40 patients 2 may be, of 121 it is 6.
    assert normal["p"] == pytest.approx(scipy.stats.betabinom(4, 2, 38).sf(1))
    assert pneumonia["p"] == pytest.approx(scipy.stats.betabinom(4, 6, 115).sf(0))
    assert normal["shifted"] and normal["high"] < 0.95 and normal["p"] < 0.025
    assert not pneumonia["shifted"] and pneumonia["high"] < 0.95 and pneumonia["p"] > 0.025


def test_the_table_cell_by_cell():
    result = replace(make_result("simple"), referral=made_up())
    table = tables.referrals([result, replace(result, referral=None)])
    assert len(table.rows) == 8 and table.headers[:6] == [
        "model", "measure", "promised", "delivered", "n films", "n patients"]  # fmt: skip
    for row, (key, found) in zip(table.rows, result.referral["measures"].items(), strict=True):
        assert row[:2] == ["simple", referral.MEASURES[key]] and row[4:6] == [found["films"], found["patients"]]
        value, low, high = (float(part) for part in re.findall(r"[\d.]+", row[3]))
        assert (value, low, high) == pytest.approx((found["value"], found["low"], found["high"]), abs=5.1e-4)
    assert [row[2] for row in table.rows] == ["0.95"] * 2 + ["-"] * 6
    assert [row[7] for row in table.rows] == ["THE FILMS HAVE SHIFTED", "no evidence"] + ["-"] * 6
    assert float(table.rows[0][6]) == pytest.approx(result.referral["measures"]["coverage_normal"]["p"], abs=5.1e-5)


def test_the_sentence_is_short_and_says_what_has_shifted():
    told = made_up()
    ill, well = (told["measures"][f"coverage_{name}"] for name in ("pneumonia", "normal"))
    said = summary.of_referral(replace(make_result("simple", synthetic=True), referral=told), told)
    assert said == (
        f"SYNTHETIC: simple promises 0.95 of each class; delivers 0.600 [{ill['low']:.3f}, {ill['high']:.3f}] of "
        f"pneumonias and 0.600 [{well['low']:.3f}, {well['high']:.3f}] of normals, these films have shifted "
        f"(p = {well['p']:.4f}); refers 20.0 %"
    )


def test_too_few_validation_patients_are_said_to_be_and_never_leave_out_a_class():
    told = made_up({**PROMISE, "highest_normal": 1.0, "patients": [18, 120]})
    normal = told["measures"]["coverage_normal"]
    assert (normal["value"], normal["p"], normal["shifted"]) == (1.0, 1.0, False)
    result = replace(make_result(), referral=told)
    assert "; 18 validation patients are too few to leave out normal; refers 40.0 %" in summary.of_referral(
        result, told
    )
    assert tables.referrals([result]).notes[1:] == [
        "simple: 18 validation patients are too few to ever leave out normal."
    ]


def test_a_class_that_is_not_there_is_not_spoken_of():
    told = referral.delivered(np.ones(3, int), np.array([0.6, 0.7, 0.3]), list("abc"), PROMISE)
    assert told["measures"]["coverage_normal"]["films"] == 0
    said = summary.of_referral(make_result(), told)
    assert "of normals" not in said and "delivers 0.667 [" in said and tables.referrals([make_result()])
    assert told["measures"]["coverage_normal"]["p"] == 1 and not told["measures"]["coverage_normal"]["shifted"]


# ------------------------------------------------------------------------------------------ films that have shifted


def test_shifted_films_are_said_to_be_and_in_one_class_alone():
    random = np.random.default_rng(0)
    told = referral.delivered(*draw(random, 400, shift=1.5), conformal.promise(*draw(random, 400), 0.05))
    result = replace(make_result(), referral=told)
    said = summary.of_referral(result, told)
    assert re.search(r"delivers 0\.\d+ \[.*\] of pneumonias, these films have shifted \(p < 0.0001\) and", said)
    assert said.count("shifted") == 1
    assert [row[7] for row in tables.referrals([result]).rows[:2]] == ["no evidence", "THE FILMS HAVE SHIFTED"]


def test_films_that_have_not_shifted_are_hardly_ever_said_to_have():
    """An interval takes the cut-off as given, and would cry wolf: validation's draw is in p."""
    random, said, below = np.random.default_rng(1), [], []
    for _ in range(250):
        told = referral.delivered(*draw(random, 600), conformal.promise(*draw(random, 150), 0.05))
        for name in referral.NAMES:
            coverage = told["measures"][f"coverage_{name}"]
            said.append(coverage["shifted"])
            below.append(coverage["high"] < 0.95)
    assert np.mean(said) < 0.05 and np.mean(below) > 0.08


def test_where_the_coverage_of_all_films_is_kept_nothing_is_said():
    """Of 60 patients the first of 40 films is left out for 20: a p near 0, though 99 % of the films are covered."""
    whose = np.repeat(np.arange(60), 40)
    probabilities = np.where((np.arange(2400) % 40 == 0) & (whose < 20), 0.1, 0.9)
    told = referral.delivered(np.ones(2400, int), probabilities, [str(i) for i in whose], PROMISE)
    coverage = told["measures"]["coverage_pneumonia"]
    assert coverage["p"] < 1e-4 and coverage["high"] > 0.95 and not coverage["shifted"]


# ------------------------------------------------------------------------------------------ where promises are from


@pytest.mark.parametrize("views", [1, 3])
def test_a_checkpoints_promise_is_made_of_the_films_as_they_are(views):
    random = np.random.default_rng(2)
    labels, probabilities, _ = draw(random, 90)
    patients, margins = np.arange(len(labels)) // 2, scipy.special.logit(probabilities)
    found = referral.promised(facts_of(labels, margins, patients, views))
    expected = conformal.promise(labels, scipy.special.expit(margins.astype(np.float32)), patients, 0.05)
    assert found.pop("patients") == expected.pop("patients") and found == pytest.approx(expected, rel=1e-6)


def test_a_graphs_promise_is_what_it_carries_and_without_anything_there_is_none():
    assert referral.promised({"file": "x.onnx", "promise": PROMISE}) == PROMISE
    assert referral.promised({"file": "x.onnx"}) is None


@pytest.mark.parametrize("wrong", [
    None, 7, "x", {}, {**PROMISE, "alpha": 0}, {**PROMISE, "alpha": 1}, {**PROMISE, "lowest_pneumonia": -0.1},
    {**PROMISE, "highest_normal": float("nan")}, {**PROMISE, "patients": [1]}, {**PROMISE, "patients": [1, -1]},
    {**PROMISE, "patients": [True, 2]}, {key: PROMISE[key] for key in ("alpha", "patients")},
])  # fmt: skip
def test_a_promise_that_cannot_be_is_refused(wrong):
    with pytest.raises(Problem, match=r"x\.onnx: its promise is not alpha, two cut-offs"):
        referral.promised({"file": "x.onnx", "promise": wrong})


def test_a_checkpoint_that_kept_its_limits_promises_what_its_graph_does():
    """From float32 answers to the films as they are; those of validation are bf16."""
    labels, margins, patients = np.tile([0, 1], 60), np.linspace(-2, 2, 120), np.arange(120)
    facts = facts_of(labels, margins, patients, 3)
    logits = np.stack([0 * margins, margins + 0.01], 1).astype(np.float32)
    facts["limits"] = {"logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels),
                       "patients": torch.from_numpy(patients)}  # fmt: skip
    probabilities = measures.positive_probability(logits, facts["temperature"])
    found = referral.promised(facts)
    assert found == conformal.promise(labels, probabilities, patients.tolist(), referral.ALPHA)
    assert found != referral.promised({key: value for key, value in facts.items() if key != "limits"})


@pytest.mark.parametrize("change", [
    lambda kept: kept["logits"].__setitem__((0, 1), float("nan")),
    lambda kept: kept["labels"].__setitem__(0, 7),
    lambda kept: kept.update({key: value[:-1] for key, value in kept.items()}),
    lambda kept: kept.update({key: value[:0] for key, value in kept.items()}),
])  # fmt: skip
def test_validation_answers_that_cannot_be_are_refused(change):
    facts = facts_of(np.tile([0, 1], 30), np.linspace(-2, 2, 60), np.arange(60), 3)
    change(facts["validation_answers"])
    with pytest.raises(Problem, match=r"model\.pt: its validation answers cannot be used"):
        referral.promised(facts)


# ---------------------------------------------------------------------------------------- screen, files, documents


def test_screen_csv_json_and_documents_have_the_same_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "write", lambda *_: None)
    results = make_results()
    made = tables.tables(results[:2], [], [])
    testing.write_files(tmp_path, results, [], [], [], made)
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    with open(tmp_path / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for result, model in zip(results, models, strict=True):
        mine = [row for row in rows if row["model"] == result.name]
        assert {float(row["aurc"]) for row in mine} == {result.aurc["value"]} == {model["aurc"]["value"]}
        if result.referral is None:
            assert model["referral"] is None and {row["referred"] for row in mine} == {""}
            continue
        for row in mine:
            assert float(row["promise_lowest_pneumonia"]) == model["referral"]["lowest_pneumonia"]
            assert int(row["promise_normal_patients"]) == model["referral"]["patients"][0]
            for key, found in model["referral"]["measures"].items():
                ends = {key: "value", **{f"{key}_{end}": end for end in ("low", "high", "films", "patients")}}
                assert {column: float(row[column]) for column in ends} == {c: found[end] for c, end in ends.items()}
            assert float(row["coverage_normal_p"]) == model["referral"]["measures"]["coverage_normal"]["p"]
    summary.print_results(results, [], [], made, [])
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("promises 0.95 of each class") == 2 and "Referral: promised and delivered" not in out
    for text in (report.html_text(results, [], made, [], {}, {}), report.markdown_text(results, [], made, [], {}, [])):
        assert text.count("promises 0.95 of each class") == 2 and "Referral: promised and delivered" in text
    assert "## Referral: promised and delivered" in cards.model_card(results[0])


def test_without_a_promise_nothing_is_said_and_nothing_breaks(capsys):
    results = [replace(result, referral=None) for result in make_results()]
    made = tables.tables(results, [], [])
    assert not [table for table in made if "Referral" in table.title] and summary.of_referrals(results) == []
    summary.print_results(results, [], [], made, [], verbose=True)
    text = capsys.readouterr().out + report.html_text(results, [], made, [], {}, {}) + cards.model_card(results[0])
    assert "romises" not in text.replace("validation promised", "") and "Referral" not in text
    assert "conformal" not in figures.risk_coverage(results).texts[0].get_text()


# ------------------------------------------------------------------------------------------------- the figure


def test_the_curve_is_the_risk_and_the_marker_what_is_answered():
    result = make_result(images=200)
    axes = figures.risk_coverage([result]).axes[0]
    curve, point = axes.lines
    distance = np.abs(scipy.special.logit(result.probabilities) - scipy.special.logit(0.4321))
    wrong = ((result.probabilities >= 0.4321) != result.labels)[np.argsort(-distance)]
    expected = np.cumsum(wrong) / np.arange(1, 201)
    assert curve.get_xdata() == pytest.approx(np.arange(1, 201) / 200)
    assert curve.get_ydata() == pytest.approx(expected)
    found = result.referral["measures"]
    answered = ~conformal.referred(conformal.possible(result.probabilities, (0.25, 0.625)))
    assert point.get_xdata() == pytest.approx([answered.mean()]) == [1 - found["referred"]["value"]]
    assert point.get_ydata() == [1 - found["answered_accuracy"]["value"]]


def test_the_band_holds_its_curve_and_is_none_for_one_patient():
    shares, risk, (low, high) = figures.risk_curve(make_result())
    assert (low <= risk + 1e-12).all() and (risk <= high + 1e-12).all() and (high - low).max() > 0.01
    assert figures.risk_curve(replace(make_result(), patients=1, patient_ids=["p"] * 300))[2] is None
    assert shares[-1] == 1 and risk[-1] == pytest.approx(1 - make_result().decision["estimates"]["accuracy"]["value"])
