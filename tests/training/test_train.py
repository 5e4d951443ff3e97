import csv
import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch
import torchvision
from folders import draw, make_folder
from sklearn.metrics import roc_auc_score

import data
import evaluate
import explain
import models
import train
from basics import progress, terms
from basics.problems import Problem
from devices import hardware
from devices.layers import compiled
from evaluation import testing
from films import augmentation, seen
from films.variation import NO_AUGMENT, Augment
from metrics import measures
from training import calibration, checkpoints, inference, loop, optimizer, recipes, run_folder, runs, stress_views
from training.batches import Batches, pixel_statistics, table_on

CPU = torch.device("cpu")
FAST = ["--data", "phantoms", "--size", "32"]


@pytest.fixture(scope="module")
def phantoms(cache) -> data.Dataset:
    """Smaller than those of the other rooms: here whole runs are trained on them."""
    return data.load("phantoms", 32, cache)


def run(tmp_path, cache, *options: str) -> int:
    return train.main([*FAST, "--cache", str(cache), "--out", str(tmp_path / "runs"), *options])


def history(folder) -> list[dict]:
    with open(folder / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


# ------------------------------------------------------------------------------------------------- the loop


def test_a_few_steps_on_phantoms_improve_the_network(phantoms):
    """Loss on images it was not trained on falls, and the network ranks better than chance."""
    split = data.split(phantoms)
    table = table_on(phantoms.images, CPU)
    statistics = pixel_statistics(table, split.train)
    torch.manual_seed(0)
    network = models.build("simple", 32)
    recipe = recipes.Recipe(epochs=6, learning_rate=1e-3, batch_size=32)
    rows = []
    loop.Trainer(
        network,
        recipe,
        Batches(table, phantoms.labels, split.train, 32, CPU, statistics, recipe.augment),
        Batches(table, phantoms.labels, split.validation, 32, CPU, statistics),
    ).fit(lambda row, logits: rows.append(row))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] < 0.75
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["val_auroc"] > 0.6


class Recorder(torch.nn.Module):
    """Stands in for a network: remembers the mode that it was called in and what it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 2)
        self.matrix = torch.nn.Parameter(torch.zeros(2, 2))
        self.calls: list[tuple[bool, bool, torch.Tensor]] = []

    def forward(self, images):
        logits = self.layer(images.mean((1, 2, 3))[:, None]) @ (torch.eye(2) + self.matrix)
        self.calls.append((self.training, torch.is_inference_mode_enabled(), logits.detach().float()))
        return logits


def test_modes_true_mean_and_untouched_validation(phantoms):
    indices = np.arange(101)  # batches of 25 and 26: a mean of batch means would differ from the true mean
    table = table_on(phantoms.images, CPU)
    network = Recorder()
    recipe = recipes.Recipe(epochs=1, learning_rate=1e-2, batch_size=26)
    kept = []
    loop.Trainer(
        network,
        recipe,
        Batches(table, phantoms.labels, indices, 26, CPU, (0.5, 0.25), recipe.augment),
        Batches(table, phantoms.labels, indices, 64, CPU, (0.5, 0.25)),
    ).fit(lambda row, logits: kept.append((row, logits)))
    assert [call[:2] for call in network.calls] == [(True, False)] * 4 + [(False, True)] * 2
    assert network.training  # and back
    ((row, logits),) = kept
    batches = Batches(table, phantoms.labels, indices, 26, CPU, (0.5, 0.25), recipe.augment)
    labels = torch.cat([labels for _, labels in batches.epoch(1)])
    met = torch.cat([call[2] for call in network.calls[:4]])
    expected = torch.nn.functional.cross_entropy(met.double(), labels).item()
    assert row["train_loss"] == pytest.approx(expected, rel=1e-6)
    answered = torch.cat([call[2] for call in network.calls[4:]]).numpy()
    np.testing.assert_array_equal(logits, answered)
    log_probability = scipy.special.log_softmax(answered.astype(np.float64), axis=1)
    by_hand = -log_probability[np.arange(101), phantoms.labels[:101]].mean()
    assert row["val_loss"] == pytest.approx(by_hand, rel=1e-6)


def test_the_learning_rate_rises_and_falls_as_the_recipe_says():
    recipe = recipes.Recipe(epochs=1, learning_rate=1.0, warm_up=0.1)
    factors = [recipes.rate_factor(step / 1000, 1 / 1000, recipe) for step in range(1000)]
    assert factors[:100] == sorted(factors[:100]) and factors[0] == pytest.approx(1 / 101)
    assert factors[100] == 1 and factors[100:] == sorted(factors[100:], reverse=True)
    assert factors[550] == pytest.approx(0.5, abs=1e-3) and factors[-1] < 1e-5
    assert {recipes.rate_factor(step / 10, 1 / 10, recipes.SEED_RECIPE) for step in range(10)} == {1.0}


def test_images_grow_to_the_full_side_and_stay_there():
    recipe = recipes.Recipe(epochs=8, learning_rate=1, resize_from=128)
    sides = [recipes.side_of_epoch(epoch / 8, 224, recipe) for epoch in range(8)]
    assert sides == [128, 128, 160, 160, 192, 192, 224, 224]
    assert [recipes.side_of_epoch(e / 2, 64, recipe) for e in range(2)] == [64, 64]  # never above the full side
    assert {recipes.side_of_epoch(e / 8, 224, recipes.Recipe(8, 1)) for e in range(8)} == {224}


def test_compiled_answers_as_eager_and_leaves_no_trace_of_its_trial():
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    torch.manual_seed(0)
    network = models.build("resnet34").to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(4, 1, 32, 32).contiguous(memory_format=torch.channels_last)
    first = torch.nn.Sequential(network.conv1, network.bn1, torch.nn.ReLU())  # all of it would take a minute
    fast = compiled(first, torch.zeros_like(images))
    assert fast is not first
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(fast(images), first(images), atol=1e-4, rtol=1e-3)


def test_where_compiling_fails_training_goes_on_without(tmp_path, cache, monkeypatch, capsys):
    def fails(*arguments, **keywords):
        raise RuntimeError("no working compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fails)
    assert run(tmp_path, cache, "--arch", "simple", "--quick", "--compile") == 0
    assert "note: torch.compile fails here (no working compiler); going on without it\n" in capsys.readouterr().err


def test_fp16_scales_its_gradients_and_learns(phantoms, monkeypatch):
    """What a GPU without bf16 runs, on the CPU: autocast to fp16, and a scaler whose state is saved."""
    monkeypatch.setattr(hardware, "reduced_type", lambda device: torch.float16)
    table, split = table_on(phantoms.images, CPU), data.split(phantoms)
    shared = (CPU, pixel_statistics(table, split.train))
    torch.manual_seed(0)
    trainer = loop.Trainer(
        models.build("simple", 32),
        recipes.Recipe(epochs=6, learning_rate=2e-3, batch_size=32),
        Batches(table, phantoms.labels, split.train[::2], 32, *shared, NO_AUGMENT),
        Batches(table, phantoms.labels, split.validation[::2], 32, *shared),
    )
    rows = []
    trainer.fit(lambda row, logits: rows.append(row))
    assert trainer.scaler.is_enabled() and trainer.state()["scaler"]["scale"] > 1
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"], rows


def test_weight_decay_spares_vectors():
    made = optimizer.make_optimizer(models.build("resnet34"), recipes.RECIPES["default"]["resnet34"])
    matrices, vectors = made.param_groups
    assert matrices["weight_decay"] > 0 and all(p.dim() > 1 for p in matrices["params"])
    assert vectors["weight_decay"] == 0 and all(p.dim() == 1 for p in vectors["params"])


def test_the_seed_recipe_is_the_notebooks():
    for architecture in terms.ARCHITECTURES:
        recipe = recipes.RECIPES["seed"][architecture]
        assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size, recipe.epochs) == ("adam", 1e-4, 64, 20)
        assert recipe.augment == replace(NO_AUGMENT, flip=True)
        assert not recipe.decay and recipe.warm_up == 0 and recipe.weight_decay == 0
    assert not any(recipe.augment.flip for recipe in recipes.RECIPES["default"].values())


def test_an_output_that_is_not_finite_stops_the_run_and_names_the_step(phantoms):
    class Breaks(Recorder):
        def forward(self, images):
            logits = super().forward(images)
            return logits * float("nan") if len(self.calls) == 3 else logits

    table = table_on(phantoms.images, CPU)
    batches = Batches(table, phantoms.labels, np.arange(100), 20, CPU, (0.5, 0.25), Augment())
    with pytest.raises(Problem, match="epoch 1, step 3: the network's output is not finite"):
        loop.Trainer(Breaks(), recipes.Recipe(2, 1e-3), batches, batches).fit(lambda *_: None)


def test_the_best_epoch_is_the_highest_auroc_and_loss_breaks_ties():
    rows = [{"val_auroc": a, "val_loss": b} for a, b in ((0.9, 0.3), (0.95, 0.5), (0.95, 0.4), (0.95, 0.45))]
    assert max(rows, key=run_folder.rank) is rows[2]
    assert not run_folder.rank(rows[1]) > run_folder.rank(rows[1])  # an equal epoch does not replace the earlier one


def test_a_separated_validation_set_does_not_make_the_network_surer():
    logits = np.array([[2.0, 0.0], [0.5, 0.0], [0.0, 0.4], [0.0, 3.0]])
    decision = calibration.fit(logits, np.array([0, 0, 1, 1]))
    assert decision["temperature"] == 1.0
    labels = np.array([0, 1, 0, 1])
    decision = calibration.fit(logits, labels)
    assert decision["temperature"] == pytest.approx(measures.fit_temperature(logits, labels))


# ---------------------------------------------------------------------------------------------- whole runs


def test_a_run_leaves_what_it_promises(tmp_path, cache, phantoms, capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert run(tmp_path, cache, "--arch", "simple", "--epochs", "3", "--batch-size", "48", "--lr", "2e-3") == 0
    out, error = capsys.readouterr()
    stages = list(dict.fromkeys(line.split(":")[0] for line in error.splitlines() if "epoch " not in line))
    assert stages[-4:] == ["views of stress validation", "validation of the best epoch", "stress validation",
                      "films that it knows"]  # fmt: skip
    assert out.startswith("SYNTHETIC: 600 phantoms")
    assert out.count("epoch ") >= 3 and "\nnext: python evaluate.py --all" in out
    assert out.count("  stress loss 0") == 3 and re.search(
        r"^model +best epoch +stress accuracy +stress AUROC", out, re.M
    )
    rows = checkpoints.load_checkpoint(tmp_path / "runs" / "simple" / "model.pt")[0]["stress"]
    assert stress_views.in_short(rows) in out and "equalised" not in out.replace(stress_views.in_short(rows), "")
    folder = tmp_path / "runs" / "simple"
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "last.pt", "model.pt", "run.json"]
    rows = history(folder)
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "train_accuracy", "train_auroc", "val_loss",
                             "val_accuracy", "val_auroc", "seconds", "images_per_second", "skipped"]  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    split = data.split(phantoms)
    assert record["finished"] and record["data"]["synthetic"]
    assert record["data"]["fingerprint"] == phantoms.fingerprint
    assert record["split"]["fingerprint"] == split.fingerprint
    assert record["options"]["epochs"] == 3 and record["recipe"]["batch_size"] == 48
    assert record["recipe"]["learning_rate"] == 2e-3
    assert record["versions"]["torch"] == str(torch.__version__).split("+")[0]
    assert record["device"].startswith("CPU")

    checkpoint, network = checkpoints.load_checkpoint(folder / "model.pt")
    best = max(range(3), key=lambda i: (float(rows[i]["val_auroc"]), -float(rows[i]["val_loss"])))
    assert checkpoint["epoch"] == best + 1
    last, _ = checkpoints.load_checkpoint(folder / "last.pt")
    assert last["epoch"] == 3
    # What is stored can be found again from the weights: the epoch's AUROC, the temperature and the threshold.
    stress = stress_views.StressValidation(
        table_on(phantoms.images, CPU), phantoms.labels, split.train, split.validation
    )
    labels = phantoms.labels[split.validation]

    def answers(images):
        batches = Batches(images, labels, np.arange(len(labels)), 64, CPU, tuple(checkpoint["normalisation"]))
        return inference.network_logits(network, batches)

    logits = answers(stress.mixed())
    assert measures.auroc(labels, logits[:, 1] - logits[:, 0]) == pytest.approx(
        float(rows[best]["val_auroc"]), abs=0.02
    )
    logits = {name: answers(stress.show(name)) for name in stress.views}
    fitted = calibration.fit(np.concatenate(list(logits.values())), np.tile(labels, len(logits)))
    assert fitted["temperature"] == pytest.approx(checkpoint["temperature"], rel=0.02)  # they were fitted to bf16
    assert fitted["threshold"] == pytest.approx(checkpoint["threshold"], abs=0.02)
    for row in checkpoint["stress"][:-1]:
        margins = logits[row["view"]][:, 1] - logits[row["view"]][:, 0]
        assert row["auroc"] == pytest.approx(roc_auc_score(labels, margins), abs=0.01)
    used = np.concatenate([split.train, split.validation])
    assert checkpoint["seen_patients"].tolist() == seen.hashed([phantoms.patients[i] for i in used]).tolist()


def test_the_shapes_of_the_classes_reach_training_validation_and_explain(tmp_path, cache, capsys, monkeypatch):
    """Normal films of 50 x 40 and pneumonias of 60 x 40: these were 1.2 times as wide."""
    folder = make_folder(tmp_path / "films", count=30)
    for k, file in enumerate(sorted((folder / "PNEUMONIA").iterdir())):
        draw(file, k, (60, 40))
    met, plain = [], augmentation.reshaped
    monkeypatch.setattr(augmentation, "reshaped", lambda *given: met.append(given[2]) or plain(*given))
    call = ["--data", str(folder), "--cache", str(cache), "--arch", "simple", "--size", "32", "--epochs", "2"]
    assert train.main([*call, "--out", str(tmp_path / "runs")]) == 0
    checkpoint, _ = checkpoints.load_checkpoint(tmp_path / "runs" / "simple" / "model.pt")
    assert met == [checkpoint["data"]["shapes"]] * 2 == pytest.approx([1.2] * 2)
    assert [row["view"] for row in checkpoint["stress"]][-3:-1] == [*stress_views.shapes_exchanged(1.2)]
    capsys.readouterr()
    file = str(tmp_path / "runs" / "simple" / "model.pt")
    assert explain.main([file, "--cache", str(cache), "--count", "1"]) == 0
    assert stress_views.table(checkpoint["stress"]) in capsys.readouterr().out
    assert train.main([*call, "--fit", "pad", "--out", str(tmp_path / "padded")]) == 0
    checkpoint, _ = checkpoints.load_checkpoint(tmp_path / "padded" / "simple" / "model.pt")
    assert checkpoint["data"]["shapes"] == 1 and len(met) == 2, "where proportions were kept none is cut"


@pytest.fixture
def two_threads():
    """What a user's CPU has at least; the suite as a whole runs with one thread a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_same_seed_gives_the_same_history_and_another_seed_another(tmp_path, cache):
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert run(tmp_path, cache, "--arch", "simple", "--quick", "--seed", seed, "--name", name) == 0
    a, b, c = (
        [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in history(tmp_path / "runs" / f"quick-{n}")
        ]
        for n in "abc"
    )
    assert a == b
    assert a != c


@pytest.mark.parametrize("how", ["random", "block"])
def test_other_validation_is_the_films_as_they_are(tmp_path, cache, phantoms, capsys, how):
    assert run(tmp_path, cache, "--arch", "simple", "--epochs", "2", "--val", how) == 0
    assert "from validation\n" in capsys.readouterr().out
    checkpoint, network = checkpoints.load_checkpoint(tmp_path / "runs" / "simple" / "model.pt")
    split = data.split(phantoms, block=how == "block")
    assert checkpoint["split"]["fingerprint"] == split.fingerprint and checkpoint["stress"] == []
    labels = phantoms.labels[split.validation]
    batches = Batches(
        table_on(phantoms.images, CPU), phantoms.labels, split.validation, 64, CPU, tuple(checkpoint["normalisation"])
    )
    logits = inference.network_logits(network, batches)
    stored = {key: checkpoint[key] for key in ("temperature", "threshold")}
    assert calibration.fit(logits, labels) == pytest.approx(stored, rel=1e-4)
    assert torch.equal(checkpoint["validation_answers"]["labels"], torch.from_numpy(labels))


def test_of_several_learning_rates_the_best_is_kept_by_validation(tmp_path, cache, capsys):
    rates = ["1e-9", "2e-3", "1e-4"]
    assert run(tmp_path, cache, "--arch", "simple", "--epochs", "3", "--lr", *rates) == 0
    out, runs = capsys.readouterr().out, tmp_path / "runs"
    folders = {rate: runs / "sweep" / "simple" / f"lr-{float(rate):g}" for rate in rates}
    best = {rate: max(float(row["val_auroc"]) for row in history(folder)) for rate, folder in folders.items()}
    winner = max(best, key=best.get)
    assert f"simple: learning rate {float(winner):g} validates best" in out
    kept, _ = checkpoints.load_checkpoint(runs / "simple" / "model.pt")
    trained, _ = checkpoints.load_checkpoint(folders[winner] / "model.pt")
    assert kept["name"] == "simple" and kept["recipe"]["learning_rate"] == float(winner)
    assert all(torch.equal(kept["state"][key], value) for key, value in trained["state"].items())
    assert (runs / "simple" / "history.csv").read_text() == (folders[winner] / "history.csv").read_text()
    assert json.loads((runs / "simple" / "run.json").read_text())["name"] == "simple"
    found = testing.found_models(evaluate.parse(["--all", "--runs", str(runs), "--onnx", str(tmp_path / "onnx")]))
    assert found == [runs / "simple" / "model.pt"]  # the others are never tested
    lines = [line.split() for line in out.splitlines()]
    for rate in rates:
        assert any(line[:1] == [f"{float(rate):g}"] and f"{best[rate]:.4f}" in line for line in lines)


def test_folds_train_on_everything_but_their_own_part(tmp_path, cache, phantoms, capsys):
    assert run(tmp_path, cache, "--arch", "simple", "--epochs", "1", "--folds", "3") == 0
    out = capsys.readouterr().out
    rows = []
    for k in range(3):
        checkpoint, _ = checkpoints.load_checkpoint(tmp_path / "runs" / f"simple-f{k}" / "model.pt")
        expected = data.split(phantoms, fold=(k, 3))
        assert checkpoint["split"]["fingerprint"] == expected.fingerprint
        assert data.split_again(phantoms, checkpoint["split"]).fingerprint == expected.fingerprint
        rows.append(float(history(tmp_path / "runs" / f"simple-f{k}")[0]["val_auroc"]))
    mean = next(line for line in out.splitlines() if line.startswith("mean of 3"))
    deviation = next(line for line in out.splitlines() if line.startswith("standard deviation"))
    assert f"{np.mean(rows):.4f}" in mean and f"{np.std(rows, ddof=1):.4f}" in deviation


def test_an_earlier_run_is_moved_aside_not_overwritten(tmp_path, cache, capsys):
    run(tmp_path, cache, "--arch", "simple", "--quick")
    before = (tmp_path / "runs" / "quick-simple" / "model.pt").read_bytes()
    capsys.readouterr()
    run(tmp_path, cache, "--arch", "simple", "--quick", "--seed", "1")
    assert "the earlier " in capsys.readouterr().out
    (old,) = (tmp_path / "runs" / "old").iterdir()
    assert (old / "model.pt").read_bytes() == before
    assert (tmp_path / "runs" / "quick-simple" / "model.pt").read_bytes() != before


def test_offline_pretrained_is_skipped_in_all_and_the_exit_code_tells(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(models, "IMAGENET_URL", "http://127.0.0.1:9/resnet34-b627a593.pth")
    assert run(tmp_path, cache, "--arch", "resnet34-pretrained", "--quick") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 or "Downloading" in error
    assert "error: the ImageNet weights could not be downloaded" in error and "--weights" in error
    assert run(tmp_path, cache, "--all", "--quick", "--val", "random") == 1
    error = capsys.readouterr().err
    assert "resnet34-pretrained was skipped: the ImageNet weights could not be downloaded" in error
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["quick-resnet34", "quick-simple"]


def test_pretrained_starts_from_the_weights_that_were_given(tmp_path, cache):
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet34(num_classes=5).state_dict(), tmp_path / "w.pth")
    more = ["--quick", "--val", "random", "--weights", str(tmp_path / "w.pth")]
    assert run(tmp_path, cache, "--arch", "resnet34-pretrained", *more) == 0
    record = json.loads((tmp_path / "runs" / "quick-resnet34-pretrained" / "run.json").read_text())
    assert record["initial_weights"].startswith("weights w.pth, SHA-256 ")


def test_quick_takes_a_few_images_of_both_classes(phantoms):
    split = data.split(phantoms)
    few = data.thinned(phantoms, split.train, train.QUICK_IMAGES)
    assert len(few) <= train.QUICK_IMAGES and set(few) <= set(split.train)
    assert math.isclose(phantoms.labels[few].mean(), phantoms.labels[split.train].mean(), abs_tol=0.02)


def test_several_seeds_are_several_runs_on_one_split(tmp_path, cache, capsys):
    assert run(tmp_path, cache, "--arch", "simple", "--quick", "--seeds", "2", "--seed", "4") == 0
    folders = [tmp_path / "runs" / f"quick-simple-s{seed}" for seed in (4, 5)]
    assert sorted((tmp_path / "runs").iterdir()) == folders
    (first, one), (second, two) = (checkpoints.load_checkpoint(folder / "model.pt") for folder in folders)
    assert (first["name"], second["name"]) == ("quick-simple-s4", "quick-simple-s5")
    assert (first["seed"], second["seed"]) == (4, 5)
    assert first["split"] == second["split"]
    assert first["weights_sha256"] != second["weights_sha256"]
    assert not torch.equal(next(one.parameters()), next(two.parameters()))
    out = capsys.readouterr().out
    assert out.count(", from validation\n") == 2 and "stress" not in out  # whose 19 views take longer than all else
    # A seed of several is the run of that seed alone.
    assert run(tmp_path, cache, "--arch", "simple", "--quick", "--seed", "5", "--name", "alone") == 0
    assert (
        checkpoints.load_checkpoint(tmp_path / "runs" / "quick-alone" / "model.pt")[0]["weights_sha256"]
        == (second["weights_sha256"])
    )


def test_seeds_of_all_architectures_are_named_and_prepared_one_by_one(tmp_path, monkeypatch, cache):
    names, prepared = [], []
    monkeypatch.setattr(runs, "prepare", lambda request: prepared.append(request.seed) or (None, "random"))

    def one_run(name, *_):
        names.append((name, len(prepared)))
        row = {"epoch": 1, "val_accuracy": 0.5, "val_auroc": 0.5, "val_loss": 1.0}
        return {"name": name, "epoch": 1, "seconds": 1.0, "history": [row]}

    monkeypatch.setattr(runs, "train_run", one_run)
    assert run(tmp_path, cache, "--all", "--quick", "--seeds", "3") == 0
    assert [name for name, _ in names] == [f"quick-{name}-s{seed}" for name in terms.ARCHITECTURES for seed in range(3)]
    # The first of each before any training, the others when it is their turn: not all are in memory at once.
    assert prepared == [0, 0, 0, 1, 2, 1, 2, 1, 2] and names[0][1] == 3 and names[1][1] == 4


@pytest.mark.parametrize("count", ["0", "-1", "1001", "two"])
def test_a_wrong_number_of_seeds_is_a_wrong_call(count, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--arch", "simple", f"--seeds={count}"])
    assert caught.value.code == 2
    assert "--seeds" in capsys.readouterr().err
