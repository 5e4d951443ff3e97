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
import sklearn.metrics
import torch
from folders import draw, make_folder
from results import make_result

import data
import evaluate
import export
import train
from basics import problems
from evaluation import comparisons, ledger, shortcuts, tables, tested_model, testing
from evaluation.result import Result
from metrics import estimation
from training import checkpoints

CPU = torch.device("cpu")


class World:
    """A folder of films, runs on it, and evaluate.py as from a shell."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.runs = folder, cache, folder / "runs"
        self.data = make_folder(folder / "films", count=60)
        self.common = ["--runs", str(self.runs), "--onnx", str(folder / "onnx"), "--cache", str(cache)]

    def train(self, *options: str) -> int:
        return train.main(["--size", "32", "--cache", str(self.cache), "--quick", "--out", str(self.runs),
                           "--data", str(self.data), *options])  # fmt: skip

    def evaluate(self, *options: str, models: tuple[str, ...] = ("simple",)) -> int:
        paths = [] if "--all" in options else [str(self.runs / name / "model.pt") for name in models]
        return evaluate.main([*paths, *self.common, "--report", str(self.folder / "report"), *options])

    def results(self) -> dict:
        def never(what: str) -> None:
            raise AssertionError(f"{what} is no JSON")

        return json.loads((self.folder / "report" / "results.json").read_text(), parse_constant=never)

    def model(self, name: str = "simple") -> dict:
        (found,) = [model for model in self.results()["models"] if model["name"] == name]
        return found

    def predictions(self, name: str = "simple") -> list[dict]:
        with open(self.folder / "report" / "predictions.csv", newline="") as stream:
            return [row for row in csv.DictReader(stream) if row["model"] == name]

    def dataset(self, source: Path | None = None) -> data.Dataset:
        return data.load(str(source or self.data), 32, self.cache)


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache) -> World:
    made = World(tmp_path_factory.mktemp("evaluate"), cache)
    assert made.train("--arch", "simple") == 0
    assert made.train("--arch", "simple", "--seeds", "2", "--seed", "3") == 0
    assert export.main([str(made.runs / "simple" / "model.pt"), *made.common]) == 0
    return made


def knowing(monkeypatch, margins) -> None:
    """Models answer these log-odds: margins(dataset, indices) -> (N,)."""

    def logits(model, dataset, indices, device, reduced=False):
        given = np.asarray(margins(dataset, indices), np.float32)
        return np.stack([np.zeros_like(given), given], 1)

    monkeypatch.setattr(tested_model, "logits", logits)


# ---------------------------------------------------------------------------------------- which images test it


def test_a_model_is_tested_on_its_own_splits_test_side(world):
    assert world.evaluate() == 0
    split = data.split(world.dataset())
    assert [row["file"] for row in world.predictions()] == [world.dataset().files[i] for i in split.test]
    found = world.model()
    assert found["split"] == {"how": "patient", "seed": 0, "fingerprint": split.fingerprint}
    assert list(found["points"]) == ["0.5", "validation", "sensitivity 95 %", "sensitivity 99 %"]


def test_a_set_that_the_model_knows_nothing_of_is_tested_on_whole(world, tmp_path, capsys):
    """No image is left out and nothing is fitted: the thresholds stay what validation chose."""
    assert world.evaluate() == 0
    own = world.model()
    other = make_folder(tmp_path / "other", ("x",), count=1)
    for i in range(30):  # other people, other pixels
        draw(tmp_path / "other" / "NORMAL" / f"IM-{7000 + i}-0001.jpeg", 9000 + i)
        draw(tmp_path / "other" / "PNEUMONIA" / f"person{7000 + i}_bacteria_1.jpeg", 9500 + i)
    shutil.rmtree(other / "x")
    capsys.readouterr()
    assert world.evaluate("--data", str(other)) == 0
    found, out = world.model(), capsys.readouterr().out
    assert found["images"] == 60 and found["split"]["how"] == "external"
    assert "and is tested on every image of" in out
    for point, at in own["points"].items():
        assert found["points"][point]["threshold"] == at["threshold"]
        assert found["points"][point]["promised"] == at["promised"]
    assert found["temperature"] == own["temperature"]
    # A graph says the same of them, and that it cannot know whether it has seen them.
    arguments = [str(world.folder / "onnx" / "simple.onnx"), *world.common, "--data", str(other)]
    assert evaluate.main([*arguments, "--report", str(world.folder / "report")]) == 0
    assert "a graph does not carry what it was trained on" in capsys.readouterr().out
    graph = world.model("simple.onnx")
    assert (
        graph["images"] == 60 and graph["points"]["validation"]["threshold"] == own["points"]["validation"]["threshold"]
    )
    assert graph["estimates"]["auroc"]["value"] == pytest.approx(found["estimates"]["auroc"]["value"], abs=1e-3)


def test_a_set_that_shares_films_or_people_with_training_is_refused(world, tmp_path, capsys):
    split = data.split(world.dataset())
    for name, copied in (("pixels", "IM-8000-0001.jpeg"), ("person", None)):
        other = tmp_path / name
        for i in range(40):
            draw(other / "NORMAL" / f"IM-{7000 + i}-0001.jpeg", 9000 + i)
            draw(other / "PNEUMONIA" / f"person{7000 + i}_bacteria_1.jpeg", 9500 + i)
        seen = next(world.dataset().files[i] for i in split.train if world.dataset().labels[i] == 0)
        if copied:
            for n in range(1, 9):  # one film in eight patients' names, so that one of them is on the test side
                shutil.copy(world.data / seen, other / "NORMAL" / f"IM-{8000 + n}-0001.jpeg")
        else:
            draw(other / Path(seen).parent / Path(seen).name.replace("-0001", "-0009"), 9999)
        code = world.evaluate("--data", str(other))
        error = capsys.readouterr().err
        # Either a split of its own keeps what was seen off the test side, or the test is refused.
        assert code == 0 or re.search(r"error: .*1 of the test (images|patients) were seen in its training", error)
        if code == 0:
            assert world.model()["images"] < 40 and world.model()["split"]["how"] == "patient"
    model = tested_model.open_model(world.runs / "simple" / "model.pt")
    with pytest.raises(problems.Problem, match=r"of the test images and \d+ of the test patients were seen"):
        moved = replace(model, facts={**model.facts, "split": {**model.facts["split"], "seed": 5}})
        tested_model.test_side(moved, world.dataset())


def test_official_models_take_a_test_folder_that_came_later_and_a_set_that_is_nothing_else(cache, tmp_path, capsys):
    folder = make_folder(tmp_path / "x", ("train",), count=40)
    run = World(tmp_path / "w", cache)
    run.data = folder
    assert run.train("--arch", "simple", "--split", "official") == 0
    assert run.evaluate() == 1
    assert "has no test images in the official split" in capsys.readouterr().err
    only = tmp_path / "only"
    for i in range(8):
        for root in (folder, only):
            draw(root / "test" / "NORMAL" / f"IM-{9000 + i}-0001.jpeg", 5000 + i)
            draw(root / "test" / "PNEUMONIA" / f"person{9000 + i}_virus_1.jpeg", 6000 + i)
    assert run.evaluate() == 0
    first = run.model()
    assert (first["images"], first["split"]["how"]) == (16, "official")
    assert run.evaluate("--data", str(only)) == 0
    assert (run.model()["images"], run.model()["split"]["how"]) == (16, "external")
    assert run.model()["estimates"] == first["estimates"]
    assert export.main(["--all", *run.common, "--data", str(folder)]) == 0
    graph = [str(run.folder / "onnx" / "simple.onnx"), *run.common, "--report", str(run.folder / "report")]
    assert evaluate.main([*graph, "--data", str(folder)]) == 0
    assert run.model("simple.onnx")["images"] == 16


def test_external_sets_of_equal_names_are_two_test_sets(world, tmp_path):
    model = tested_model.open_model(world.runs / "simple" / "model.pt")
    prints = set()
    for k in range(2):
        for i in range(3):
            draw(tmp_path / str(k) / "NORMAL" / f"IM-{7000 + i}-0001.jpeg", 100 * k + 9000 + i)
            draw(tmp_path / str(k) / "PNEUMONIA" / f"person{7000 + i}_virus_1.jpeg", 100 * k + 9500 + i)
        prints.add(tested_model.test_side(model, world.dataset(tmp_path / str(k))).fingerprint)
    assert len(prints) == 2


def test_a_checkpoint_without_operating_points_still_works(world, tmp_path, capsys):
    checkpoint, network = checkpoints.load_checkpoint(world.runs / "simple" / "model.pt")
    del checkpoint["operating_points"], checkpoint["validation_answers"]
    checkpoints.save_checkpoint(tmp_path / "old.pt", {**checkpoint, "state": network.state_dict()})
    assert evaluate.main([str(tmp_path / "old.pt"), *world.common, "--report", str(world.folder / "report")]) == 0
    found = world.model()
    assert list(found["points"]) == ["0.5", "validation"]
    assert found["points"]["validation"]["threshold"] == checkpoint["threshold"]
    assert all(at["promised"] is None and at["gap"] is None for at in found["points"].values())
    assert "Promised and delivered" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- seeds and ensembles


def test_seeds_are_averaged_and_their_ensemble_decides_by_validation_alone(world, capsys):
    both = ("simple-s3", "simple-s4")
    assert world.evaluate(models=both) == 0
    name = "simple (ensemble of 2)"
    members = [[float(row["probability"]) for row in world.predictions(member)] for member in both]
    mine = [float(row["probability"]) for row in world.predictions(name)]
    assert mine == pytest.approx(np.mean(members, 0), abs=1e-8)
    stored, validation = [], []
    for member in both:
        checkpoint, _ = checkpoints.load_checkpoint(world.runs / member / "model.pt")
        answer = checkpoint["validation_answers"]
        stored.append(torch.softmax(answer["logits"].double() / checkpoint["temperature"], 1)[:, 1].numpy())
        validation.append(answer["labels"].numpy())
    mean = np.mean(stored, 0)
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
    return {model.path: (model, dataset, split) for model in made}, results


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
    assert world.evaluate("--prevalence", "0.0004") == 0
    found = world.model()["points"]["0.5"]["at_prevalence"]
    assert found == {"prevalence": 0.0004, "ppv": 1, "npv": 1, "films_per_missed": None}
    assert re.search(r"0\.5 +0\.0004 +1\.000 +1\.000 +none missed", capsys.readouterr().out)


def test_the_prevalence_of_the_test_images_is_estimated_in_a_row_of_its_own(world, monkeypatch, capsys):
    """A reader who is nearly always right finds the prevalence; without validation's answers there is no row."""
    generator = np.random.default_rng(0)
    knowing(
        monkeypatch, lambda dataset, indices: 30 * dataset.labels[indices] - 15 + generator.normal(size=len(indices))
    )
    assert world.evaluate() == 0
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
    assert world.evaluate("--prevalence", "0.1", models=("simple", "simple-s3", "simple-s4")) == 0
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
    for words in ("first look at these test images", "look number 2 at these test images"):
        capsys.readouterr()
        assert evaluate.main(arguments) == 0
        assert capsys.readouterr().out.count(f"note: {words} (split ") == 1
    assert len((tmp_path / "r" / ledger.NAME).read_text().splitlines()) == 4
    with open(tmp_path / "r" / ledger.NAME, "a") as stream:
        stream.write('{"time": ')
    capsys.readouterr()
    assert evaluate.main(arguments) == 1  # nothing is tested that cannot be noted
    assert "line 5: not a line of a ledger" in capsys.readouterr().err


def test_the_audit_has_a_row_for_every_change(world, capsys):
    assert world.evaluate("--audit") == 0
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
