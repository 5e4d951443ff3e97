"""evaluate.py and the model it tests: which images test it, what is written of it, and input that is wrong."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
from evaluating import World, knowing
from results import PROMISE, make_result
from scipy.special import expit, logit

import data
import evaluate
import export
from basics import progress
from basics.problems import Problem
from evaluation import comparisons, ledger, shortcuts, tables, tested_model, testing
from evaluation.result import Result
from metrics import conformal, estimation, measures
from training import checkpoints

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache) -> World:
    made = World(tmp_path_factory.mktemp("evaluate"), cache)
    assert made.train("--arch", "simple") == 0
    assert made.train("--arch", "simple", "--seeds", "2", "--seed", "3") == 0
    assert export.main([str(made.runs / "simple" / "model.pt"), *made.common]) == 0
    return made


def test_a_checkpoint_without_operating_points_still_works(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    checkpoint, network = checkpoints.load_checkpoint(world.runs / "simple" / "model.pt")
    del checkpoint["operating_points"], checkpoint["validation_answers"], checkpoint["limits"]
    checkpoints.save_checkpoint(tmp_path / "old.pt", {**checkpoint, "state": network.state_dict()})
    arguments = [str(tmp_path / "old.pt"), *world.common, "--report", str(world.folder / "report"), "--verbose"]
    assert evaluate.main(arguments) == 0
    found = world.model()
    assert list(found["points"]) == ["0.5", "validation"]
    assert found["points"]["validation"]["threshold"] == checkpoint["threshold"]
    assert all(at["promised"] is None and at["gap"] is None for at in found["points"].values())
    out, error = capsys.readouterr()
    assert re.findall(r"^(answers of simple|drawing): (\d+) of \2", error, re.M) == [  # what takes long says so
        ("answers of simple", str(found["images"])), ("drawing", "7")]  # fmt: skip
    assert "Promised and delivered" not in out and " promises " not in out and "Referral" not in out
    assert found["referral"] is None


def test_a_training_that_was_stopped_is_said_to_be_and_makes_no_graph(world, tmp_path, capsys):
    checkpoint, network = checkpoints.load_checkpoint(world.runs / "simple" / "model.pt")
    for key in ("operating_points", "validation_answers", "limits", "stress"):
        del checkpoint[key]  # what comes at the end
    checkpoint |= {"state": network.state_dict(), "history": checkpoint["history"][:1], "epoch": 1}
    checkpoints.save_checkpoint(tmp_path / "model.pt", checkpoint)
    call = [str(tmp_path / "model.pt"), *world.common]
    assert evaluate.main([*call, "--report", str(world.folder / "report")]) == 0
    said = ("WARNING: the training of simple was stopped after 1 of 2 epochs: the same train.py command with --resume "
            f"finishes it; its options are in {tmp_path / 'run.json'}")  # fmt: skip
    out = " ".join(capsys.readouterr().out.split())
    assert said in out and "note: WARNING" not in out
    assert any(said in note for note in world.results()["notes"])
    looks = (world.runs / ledger.NAME).read_text()
    for others in ([], [str(world.runs / "simple-s3"), "--ensemble"]):
        assert export.main([call[0], *others, *call[1:], "--onnx", str(tmp_path)]) == 1
        assert "model.pt: its training was stopped after 1 of 2 epochs" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))
    assert (world.runs / ledger.NAME).read_text() == looks  # no proof has read a label
    (tmp_path / "empty").mkdir()
    assert export.main([str(tmp_path / "empty"), *world.common]) == 1
    assert "this folder holds no model.pt" in capsys.readouterr().err


# --------------------------------------------------------------------------------- the graph's own threshold


@pytest.fixture
def by_hand(world, tmp_path) -> Path:
    """A graph whose threshold somebody has set to 0.3, with its certificate."""
    graph = tmp_path / "simple.onnx"
    for file in (graph, graph.with_suffix(".json")):
        shutil.copy(world.folder / "onnx" / file.name, file)
    assert export.main(["threshold", str(graph), "0.3"]) == 0
    return graph


def test_a_threshold_that_was_set_by_hand_is_what_the_graph_is_judged_by(world, by_hand, tmp_path, capsys):
    capsys.readouterr()
    arguments = [str(by_hand), *world.common, "--data", str(world.data), "--report", str(tmp_path / "r"), "--verbose"]
    assert evaluate.main(arguments) == 0
    (found,) = json.loads((tmp_path / "r" / "results.json").read_text())["models"]
    own = found["points"]["the graph's own"]
    assert found["decides"] == "the graph's own" and own["threshold"] == 0.3 and own["rule"] == "set by hand"
    assert own["promised"] is None and found["points"]["validation"]["threshold"] != 0.3
    with open(tmp_path / "r" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    called = [float(row["probability"]) >= 0.3 for row in rows]
    assert [row["decision"] for row in rows] == [data.CLASSES[ill] for ill in called]
    right = [row["decision"] == row["class"] for row in rows]
    assert own["estimates"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert own["tp"] + own["fp"] == sum(called)
    out = capsys.readouterr().out
    for title in ("decisions", "more on decisions", "Promised and delivered"):
        table = out.split(f"{title}\n")[1].split("\n\n")[0]
        assert "the graph's own (set by hand)" in table, title
    assert "At the graph's own threshold, not validation's: simple.onnx (0.3000)." in out
    assert "simple.onnx, by the graph's own (set by hand), 0.3000: finds " in " ".join(out.split())
    card = (tmp_path / "r" / "cards" / "simple.onnx.md").read_text()
    assert "pneumonia where the probability is at least 0.3000" in card and "the graph's own (set by hand)" in card
    page = (tmp_path / "r" / "report.html").read_text()
    assert "the threshold 0.3000, the graph&#x27;s own (set by hand)" in page


def test_an_untouched_graph_decides_by_validations_threshold(world, tmp_path):
    graph = str(world.folder / "onnx" / "simple.onnx")
    assert evaluate.main([graph, *world.common, "--data", str(world.data), "--report", str(tmp_path / "r")]) == 0
    (found,) = json.loads((tmp_path / "r" / "results.json").read_text())["models"]
    assert found["decides"] == "validation" and "the graph's own" not in found["points"]


# ------------------------------------------------------------------------------------------- seeds and ensembles


def test_seeds_are_averaged_and_their_ensemble_decides_by_validation_alone(world, capsys):
    both = ("simple-s3", "simple-s4")
    assert world.evaluate("--verbose", models=both) == 0
    name = "simple (ensemble of 2)"
    members = [[float(row["probability"]) for row in world.predictions(member)] for member in both]
    mine = [float(row["probability"]) for row in world.predictions(name)]
    temperature = world.model(name)["temperature"]
    assert mine == pytest.approx(expit(logit(np.mean(members, 0)) / temperature), abs=1e-7)
    stored, validation = [], []
    for member in both:
        checkpoint, _ = checkpoints.load_checkpoint(world.runs / member / "model.pt")
        answer = checkpoint["validation_answers"]
        stored.append(torch.softmax(answer["logits"].double() / checkpoint["temperature"], 1)[:, 1].numpy())
        validation.append(answer["labels"].numpy())
    mean = expit(logit(np.mean(stored, 0)) / temperature)
    points = world.model(name)["points"]
    for target in (95, 99):
        decided = mean >= points[f"sensitivity {target} %"]["threshold"]
        assert sklearn.metrics.recall_score(validation[0], decided) >= target / 100
    fpr, tpr, _ = sklearn.metrics.roc_curve(validation[0], mean, drop_intermediate=False)
    decided = mean >= points["validation"]["threshold"]
    youden = sklearn.metrics.balanced_accuracy_score(validation[0], decided)
    assert youden == pytest.approx((1 + np.max(tpr - fpr)) / 2)
    assert points["validation"]["promised"]["accuracy"]["value"] == pytest.approx((decided == validation[0]).mean())
    (group,) = world.results()["seeds"]
    areas = [world.model(member)["estimates"]["auroc"]["value"] for member in both]
    assert group["name"] == "simple" and group["members"] == list(both)
    assert group["estimates"]["auroc"] == pytest.approx({"mean": np.mean(areas), "sd": np.std(areas, ddof=1)})
    assert "Several seeds" in capsys.readouterr().out


def opened(world: World, names: tuple[str, ...], dataset: data.Dataset) -> tuple[dict, list[Result]]:
    made = [tested_model.open_model(world.runs / name / "model.pt") for name in names]
    split = data.split(world.dataset())
    results = [testing.evaluate(model, dataset, split, CPU) for model in made]
    logits = [testing.logits_of(model, dataset, split.test, CPU) for model in made]
    return {model.path: (model, dataset, split, given) for model, given in zip(made, logits, strict=True)}, results


def test_test_labels_choose_nothing(world):
    """With every test label turned round, thresholds and temperatures are the same, of models and of ensembles."""
    dataset = world.dataset()
    labels = dataset.labels.copy()
    test = data.split(dataset).test
    labels[test] = 1 - labels[test]
    thresholds = []
    for films in (dataset, replace(dataset, labels=labels)):
        known, results = opened(world, ("simple-s3", "simple-s4"), films)
        results += testing.ensembles(known, results)
        assert len(results) == 3
        thresholds.append([at["threshold"] for one in results for at in one.points.values()])
        thresholds[-1] += [one.temperature for one in results]
        thresholds[-1] += [one.corrected[key] for one in results for key in ("validation", "estimated")]
        thresholds[-1] += [one.referral[key] for one in results for key in PROMISE]
    assert thresholds[0] == thresholds[1]


def test_an_ensemble_has_no_learning_curve_and_no_weights_of_its_own(world):
    known, results = opened(world, ("simple-s3", "simple-s4"), world.dataset())
    (made,) = testing.ensembles(known, results)
    assert made.history is None and "weights_sha256" not in made.checkpoint
    assert all(result.history and result.checkpoint["weights_sha256"] for result in results)


def test_seeds_that_were_validated_on_other_images_make_no_ensemble(world):
    known, results = opened(world, ("simple-s3", "simple-s4"), world.dataset())
    model, *_ = known[world.runs / "simple-s4" / "model.pt"]
    kept = model.facts["validation_answers"]
    for stored in (None, {key: value[:-3] for key, value in kept.items()}):
        model.facts["validation_answers"] = stored
        assert testing.ensembles(known, results) == []


def test_what_is_promised_is_of_validation_films_as_they_are_and_delivered_on_test_films(world, capsys):
    """Recomputed from the checkpoint and from predictions.csv; an ensemble promises by its members' mean."""
    capsys.readouterr()
    both = ("simple-s3", "simple-s4")
    assert world.evaluate(models=both) == 0
    out, means = " ".join(capsys.readouterr().out.split()), []
    films = len(data.split(world.dataset()).validation)
    for member in (*both, "simple (ensemble of 2)"):
        if member in both:
            checkpoint, _ = checkpoints.load_checkpoint(world.runs / member / "model.pt")
            kept = {key: value[:films].numpy() for key, value in checkpoint["validation_answers"].items()}
            means.append(measures.positive_probability(kept["logits"], checkpoint["temperature"]))
        own = world.model(member)["temperature"]
        probabilities = means[-1] if member in both else expit(logit(np.mean(means, 0)) / own)
        promise = conformal.promise(kept["labels"], probabilities, kept["patients"], 0.05)
        found, rows = world.model(member)["referral"], world.predictions(member)
        assert {key: found[key] for key in PROMISE} == promise
        classes = conformal.possible([float(row["probability"]) for row in rows], tuple(promise.values())[1:3])
        assert found["measures"]["referred"]["value"] == pytest.approx(conformal.referred(classes).mean())
        assert found["measures"]["referred"]["films"] == len(rows)
        assert f"{member} promises 0.95 of each class; delivers " in out


def test_an_ensemble_of_networks_that_are_too_sure_keeps_their_order(world):
    """Their probabilities are 0 and 1 in any arithmetic; its own are made of logits."""
    known, results = opened(world, ("simple-s3", "simple-s4"), world.dataset())
    for model, _, _, logits in known.values():
        logits *= 3000
        answers = model.facts["validation_answers"]
        model.facts["validation_answers"] = {**answers, "logits": answers["logits"] * 3000}
    (made,) = testing.ensembles(known, results)
    each = [scipy.special.log_softmax(logits.astype(float) / model.facts["temperature"], 1)
            for model, _, _, logits in known.values()]  # fmt: skip
    odds = np.diff(scipy.special.logsumexp(each, 0))[:, 0]
    assert np.min(each) < -40  # of what is that sure, 1 less the probability is 0 in float64
    np.testing.assert_allclose(made.probabilities, expit(odds / made.temperature), rtol=1e-9)


def test_the_graph_of_an_ensemble_is_the_ensemble_that_was_reported(world, tmp_path, capsys):
    paths = [str(world.runs / name) for name in ("simple-s4", "simple-s3")]  # another order than evaluate's
    options = ["--data", str(world.data), "--cache", str(world.cache), "--runs", str(world.runs)]
    assert export.main([*paths, "--ensemble", "--onnx", str(tmp_path), *options]) == 0
    graph = tmp_path / "simple-ensemble.onnx"
    assert export.main(["verify", str(graph), *options]) == 0
    capsys.readouterr()
    both = [str(world.runs / name / "model.pt") for name in ("simple-s3", "simple-s4")]
    call = [*world.common, "--data", str(world.data), "--report", str(world.folder / "report")]
    assert evaluate.main([*both, str(graph), *call]) == 0
    out = " ".join(capsys.readouterr().out.split())
    same = r"simple-ensemble.onnx answers as simple \(ensemble of 2\) does \(largest difference \de-0[6-9]"
    assert re.search(same, out)
    ensemble, made = world.model("simple (ensemble of 2)"), world.model("simple-ensemble.onnx")
    assert made["points"]["validation"]["threshold"] == ensemble["points"]["validation"]["threshold"]
    for key in PROMISE:
        assert made["referral"][key] == pytest.approx(ensemble["referral"][key])
    # Without its certificate it has the record of all its members, where they are there; with one missing it has none.
    graph.with_suffix(".json").rename(tmp_path / "kept")
    opened_models = [tested_model.open_model(Path(path)) for path in (*both, graph)]
    known = tested_model.with_record(opened_models[2], opened_models)
    assert "unrecorded" not in known.facts and set(known.facts["seen_images"].tolist()) == set(
        opened_models[0].facts["seen_images"].tolist() + opened_models[1].facts["seen_images"].tolist())  # fmt: skip
    assert "unrecorded" in tested_model.with_record(opened_models[2], opened_models[1:]).facts
    (tmp_path / "kept").rename(graph.with_suffix(".json"))
    # Its own films are known, and decisions by another threshold are its own.
    assert made["recorded"] and not made["left_out"]
    assert export.main(["threshold", str(graph), "0.3"]) == 0 and export.main(["verify", str(graph), *options]) == 0
    capsys.readouterr()
    assert evaluate.main([*both, str(graph), *call]) == 0
    assert "answers as" not in capsys.readouterr().out


def test_a_graph_keeps_the_promise_that_it_carries(world):
    model = tested_model.open_model(world.folder / "onnx" / "simple.onnx")
    dataset = world.dataset()
    without = {key: value for key, value in model.facts.items() if key != "promise"}
    assert testing.evaluate(replace(model, facts=without), dataset, data.split(dataset), CPU).referral is None
    carried = replace(model, facts={**without, "promise": {**PROMISE, "alpha": 0.2}})
    found = testing.evaluate(carried, dataset, data.split(dataset), CPU).referral
    assert found["alpha"] == 0.2 and found["measures"]["coverage_normal"]["promised"] == 0.8
    broken = replace(model, facts={**without, "promise": {**PROMISE, "alpha": 2}})
    with pytest.raises(Problem, match="its promise is not alpha"):
        testing.evaluate(broken, dataset, data.split(dataset), CPU)


def test_a_model_that_is_named_twice_is_evaluated_once(world):
    assert world.evaluate(models=("simple", "simple")) == 0
    assert [model["name"] for model in world.results()["models"]] == ["simple"]


# ------------------------------------------------------------------------------------------------- subgroups


def test_bacterial_and_viral_pneumonia_and_thirds_by_size(world, monkeypatch):
    dataset, split = world.dataset(), data.split(world.dataset())
    random = np.random.default_rng(0)
    kinds = ["bacteria" if kind == "virus" and random.random() < 0.5 else kind for kind in dataset.etiologies]
    widths = random.integers(100, 400, len(kinds))
    dataset = replace(dataset, etiologies=kinds, widths=widths)
    margins = random.normal(0, 2, len(kinds))
    knowing(monkeypatch, lambda _, indices: margins[indices])
    result = testing.evaluate(tested_model.open_model(world.runs / "simple" / "model.pt"), dataset, split, CPU)
    found = {(row["group"], row["measure"]): row for row in result.subgroups}
    right = (result.probabilities >= result.points["validation"]["threshold"]) == result.labels
    test = split.test
    for group, key in (("bacterial pneumonia", "bacteria"), ("viral pneumonia", "virus")):
        mine = np.array([kinds[i] == key for i in test])
        assert found[group, "sensitivity"]["value"] == pytest.approx(right[mine].mean())
        assert found[group, "sensitivity"]["images"] == mine.sum()
    thirds = ("smallest third of the films", "middle third", "largest third")
    counts = [sum(found[group, measure]["images"] for measure in ("sensitivity", "specificity")) for group in thirds]
    assert sum(counts) == len(test) and max(counts) - min(counts) <= 3
    small = np.argsort(widths[test])[: counts[0]]
    ill = small[result.labels[small] == 1]
    assert found[thirds[0], "sensitivity"]["value"] == pytest.approx(right[ill].mean())
    near = np.abs(result.probabilities - result.points["validation"]["threshold"]) <= 0.1
    assert found["probability within 0.1 of the threshold", "accuracy"]["images"] == near.sum()
    assert found["farther from it", "accuracy"]["value"] == pytest.approx(right[~near].mean())


@pytest.fixture(scope="module")
def manifest(world) -> Path:
    """A manifest of the world's films as people write them: spaces, capitals, and a short last line."""
    file = world.folder / "films.csv"
    lines = [" Path ,Label,patient, Scanner "]
    dataset = world.dataset()
    for i, name in enumerate(dataset.files):
        scanner = ("A", " B ", "")[i % 3]
        path = ("films/", "./films/", " films/")[i % 3] + name
        lines.append(f"{path},{dataset.labels[i]},{dataset.patients[i]},{scanner}".removesuffix(","))
    file.write_text("\n".join(lines) + "\n")
    return file


def test_by_a_column_of_the_manifest(world, manifest, tmp_path, capsys):
    run = World(tmp_path, world.cache)
    run.data = manifest
    assert run.train("--arch", "simple") == 0
    assert run.evaluate("--by", "scanner") == 0
    films = run.dataset()
    threshold = run.model()["points"]["validation"]["threshold"]
    groups = {(row["group"], row["measure"]): row for row in run.model()["subgroups"] if " = " in row["group"]}
    assert {group for group, _ in groups} == {"scanner = A", "scanner = B", "scanner = "}
    own = {name: i for i, name in enumerate(world.dataset().files)}
    for k, value in enumerate(("A", "B", "")):
        ill = [row for row in run.predictions() if row["class"] == "PNEUMONIA"]
        mine = [row for row in ill if own[row["file"].removeprefix("./").removeprefix("films/")] % 3 == k]
        hits = [float(row["probability"]) >= threshold for row in mine]
        assert groups[f"scanner = {value}", "sensitivity"]["images"] == len(hits)
        assert groups[f"scanner = {value}", "sensitivity"]["value"] == pytest.approx(np.mean(hits))
    assert films.source == str(manifest)
    looks = (run.runs / ledger.NAME).read_text().count("\n")
    capsys.readouterr()
    assert run.evaluate("--by", "hospital") == 1
    error = capsys.readouterr().err
    assert error == f"error: --by hospital: {manifest} has the columns path, label, patient, scanner\n"
    assert (run.runs / ledger.NAME).read_text().count("\n") == looks  # no label was read
    assert world.evaluate("--by", "scanner") == 1
    assert "is no .csv manifest, so it has no columns" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize("value", ["0", "1", "2", "-0.1", "nan", "half"])
def test_a_prevalence_is_a_share_of_some_and_not_of_all(value, capsys):
    with pytest.raises(SystemExit) as caught:
        evaluate.main(["--all", f"--prevalence={value}"])
    assert caught.value.code == 2
    assert "--prevalence" in capsys.readouterr().err


def test_another_prevalence_is_in_the_report_and_no_miss_is_null_in_json(world, monkeypatch, capsys):
    knowing(monkeypatch, lambda dataset, indices: 20 * dataset.labels[indices] - 10)
    assert world.evaluate("--prevalence", "0.0004", "--verbose") == 0
    found = world.model()["points"]["0.5"]["at_prevalence"]
    assert found == {"prevalence": 0.0004, "ppv": 1, "npv": 1, "films_per_missed": None}
    assert re.search(r"0\.5 +0\.0004 +1\.000 +1\.000 +none missed", capsys.readouterr().out)


def test_the_prevalence_of_the_test_images_is_estimated_in_a_row_of_its_own(world, monkeypatch, capsys):
    """A reader who is nearly always right finds the prevalence; without validation's answers there is no row."""
    generator = np.random.default_rng(0)
    knowing(
        monkeypatch, lambda dataset, indices: 30 * dataset.labels[indices] - 15 + generator.normal(size=len(indices))
    )
    assert world.evaluate("--verbose") == 0
    found, dataset = world.model(), world.dataset()
    split = data.split(dataset)
    assert found["corrected"]["validation"] == pytest.approx(dataset.labels[split.validation].mean())
    assert found["corrected"]["counted"] == pytest.approx(dataset.labels[split.test].mean())
    assert found["corrected"]["estimated"] == pytest.approx(dataset.labels[split.test].mean(), abs=1e-3)
    assert found["corrected"]["estimates"]["accuracy"]["value"] == 1
    assert "With the test images' prevalence estimated from themselves" in capsys.readouterr().out
    sample = estimation.Sample(np.array([0, 1]), ["a", "b"], 10)
    assert testing.corrected(sample, np.array([0.2, 0.7]), None) is None
    assert testing.corrected(sample, np.array([0.2, 0.7]), {"labels": torch.ones(3, dtype=torch.int64)}) is None
    nothing = testing.corrected(sample, np.array([0.75, 0.75]), {"labels": torch.tensor([0, 1, 1, 1])})
    assert nothing == {"validation": 0.75, "estimated": None, "counted": 0.5, "estimates": {}}


def test_answers_that_are_not_finite_are_named_and_the_others_go_on(world, monkeypatch, capsys):
    sound = tested_model.logits

    def broken(model, dataset, indices, device, reduced=False):
        found = sound(model, dataset, indices, device)
        if model.name == "simple-s3":
            found[[1, 4], [0, 1]] = np.nan, np.inf
        return found

    monkeypatch.setattr(tested_model, "logits", broken)
    assert world.evaluate(models=("simple-s3", "simple")) == 1
    test = len(data.split(world.dataset()).test)
    error = capsys.readouterr().err
    assert f"simple-s3/model.pt: its answers are not finite for 2 of {test} test images" in error
    assert [model["name"] for model in world.results()["models"]] == ["simple"]


@pytest.mark.parametrize("margin", [0.0, -30.0, 400.0])
def test_a_model_that_always_answers_the_same_is_reported_as_that(world, monkeypatch, capsys, margin):
    knowing(monkeypatch, lambda _, indices: np.full(len(indices), margin))
    assert world.evaluate("--prevalence", "0.1", "--verbose", models=("simple", "simple-s3", "simple-s4")) == 0
    found = world.model()
    assert found["estimates"]["auroc"] == {"value": 0.5, "low": None, "high": None}
    at = found["points"]["0.5"]
    assert (at["fp"] + at["tp"] == 0) == (margin < 0)
    assert at["estimates"]["precision" if margin < 0 else "npv"]["value"] is None
    assert not re.search(r"\bnan\b", capsys.readouterr().out)


@pytest.mark.parametrize("which", ["one class", "one patient", "one image"])
def test_a_poor_test_set_gives_dashes_and_no_traceback(world, which):
    """Nothing that data.py lets through has one class only; what would still has to be right."""
    dataset, split = world.dataset(), data.split(world.dataset())
    if which == "one class":
        split = replace(split, test=split.test[dataset.labels[split.test] == 0])
    elif which == "one patient":
        dataset = replace(dataset, patients=["the same"] * len(dataset.patients))
    else:
        split = replace(split, test=split.test[:1])
    results = [
        testing.evaluate(tested_model.open_model(world.runs / name / "model.pt"), dataset, split, CPU, prevalence=0.1)
        for name in ("simple-s3", "simple-s4")
    ]
    results[1] = replace(results[1], architecture="resnet34")  # so that a question is asked
    asked, _ = comparisons.answer(results)
    assert len(asked) == 1
    shown = tables.tables(results, asked, comparisons.seed_groups(results))
    ranking = next(table for table in shown if table.title == "Test results: ranking and calibration")
    area = ranking.rows[0][1]
    assert area == "-" if which != "one patient" else re.fullmatch(r"0\.\d{4}", area)
    probabilities, labels = results[0].probabilities, results[0].labels
    right = ((probabilities >= 0.5) == labels).mean()
    assert results[0].points["0.5"]["estimates"]["accuracy"]["value"] == pytest.approx(right)
    if which != "one class":
        assert math.isnan(results[0].points["0.5"]["estimates"]["accuracy"]["low"])


def test_a_wrong_call_is_said_once_and_before_anything_is_read(world, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = (world.runs / ledger.NAME).read_text()
    for wrong in (["--device", "cuda"], ["--data", str(tmp_path / "nowhere")]):
        assert world.evaluate(*wrong, models=("simple", "simple-s3")) == 2
        error = capsys.readouterr().err
        assert error.count("error: ") == error.count("\n") == 1 and wrong[0] in error
    assert (world.runs / ledger.NAME).read_text() == before


# ------------------------------------------------------------------------------------------- ledger and audit


def test_each_run_is_one_look_and_says_so(world, tmp_path, capsys):
    arguments = [str(world.runs / name / "model.pt") for name in ("simple", "simple-s3")]
    arguments += ["--runs", str(tmp_path / "r"), "--cache", str(world.cache), "--report", str(tmp_path / "report")]
    arguments += ["--verbose"]
    for words in ("first look at these test images", "look number 2 at these test images"):
        capsys.readouterr()
        assert evaluate.main(arguments) == 0
        assert capsys.readouterr().out.count(f"note: {words} (films ") == 1
    assert len((tmp_path / "r" / ledger.NAME).read_text().splitlines()) == 4
    with open(tmp_path / "r" / ledger.NAME, "a") as stream:
        stream.write('{"time": ')
    capsys.readouterr()
    assert evaluate.main(arguments) == 1  # nothing is tested that cannot be noted
    assert "line 5: not a line of a ledger" in capsys.readouterr().err


def test_the_audit_has_a_row_for_every_change(world, capsys):
    assert world.evaluate("--audit", "--verbose") == 0
    found = world.model()
    rows = [(row["change"], row["strength"]) for row in found["shortcut_audit"]]
    assert rows[:19] == [(change, strength) for change, strength, _ in shortcuts.CHANGES]
    plain = found["shortcut_audit"][0]
    # Here bf16 is allowed; a decision or two may turn.
    assert plain["auroc"] == pytest.approx(found["estimates"]["auroc"]["value"], abs=0.02)
    accuracy = found["points"]["validation"]["estimates"]["accuracy"]["value"]
    assert plain["accuracy"] == pytest.approx(accuracy, abs=2.1 / found["images"])
    (outside,) = found["shortcut_audit"][19:]
    assert outside["change"] == "no pixels at all" and "file size" in outside["strength"]
    assert 0 <= outside["auroc"] <= 1 and outside["accuracy"] is None
    out = capsys.readouterr().out
    assert "Shortcut audit" in out and out.count("borders only") == 1


def test_no_name_in_a_csv_is_a_formula(tmp_path):
    result = make_result("=1+1")
    result = replace(result, files=["@x.png", *result.files[1:]], patient_ids=["-7", *result.patient_ids[1:]])
    testing.write_files(tmp_path, [result], [], [], [], [])
    for name, expected in {"predictions": ["'=1+1", "'@x.png", "'-7"], "results": ["'=1+1", "0.5", "False"]}.items():
        text = (tmp_path / f"{name}.csv").read_text()
        assert text.splitlines()[1].split(",")[:3] == expected
