"""From what was asked for to run folders: the networks, the split, and one training after another."""

import copy
import gc
import itertools
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

import data
import models
from basics import terms
from basics.problems import Problem, UsageProblem, numbered
from data import Dataset, Split
from devices import hardware, parallel
from films import audit, seen
from training import board, calibration, checkpoints, inference, limits, run_folder, stress_views
from training.batches import Batches, pixel_statistics, table_on
from training.loop import Trainer
from training.recipes import QUICK_EPOCHS, QUICK_IMAGES, RECIPES, Recipe
from training.request import Request
from training.stopping import Stopped, stoppable

SUMMARY_DIGITS = ("", "", ".4f", ".4f", ".4f", ".1f")


def train_run(
    name: str,
    network: torch.nn.Module,
    origin: str,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    request: Request,
) -> dict:
    """Trains one network and leaves its run folder; returns the finished checkpoint without its weights."""
    gc.collect()  # an earlier training's graphs and weights refer to each other, and hold the device's memory
    device = hardware.pick_device(request.device)
    training, validation = split.train, split.validation
    if request.quick:
        training, validation = (data.thinned(dataset, side, QUICK_IMAGES) for side in (training, validation))
    torch.manual_seed(request.seed)
    network = parallel.share_batch_norm(network).to(device).to(memory_format=torch.channels_last)
    table = table_on(dataset.images, device)
    normalisation = pixel_statistics(table, training)
    labels, shard, shapes = dataset.labels, (parallel.rank(), parallel.world()), data.shape_ratio(dataset, split.train)
    batches = Batches(table, labels, training, recipe.batch_size, device, normalisation, recipe.augment, request.seed,
                      shard=shard, shapes=shapes)  # fmt: skip
    if min(batches.batch_sizes()) < parallel.world():
        raise UsageProblem(f"--batch-size: {parallel.world()} processes need batches of {parallel.world()} or more")
    checkpoint = run_folder.new_checkpoint(name, origin, dataset, split, request, recipe, normalisation, device)
    folder = request.out / name
    old = run_folder.resumable(folder, checkpoint) if request.resume else None
    if old and run_folder.finished(folder):
        print(f"{name}: finished already, nothing is left to do\n")
        return checkpoints.load_checkpoint(folder / "model.pt")[0]
    stress = (
        stress_views.StressValidation(table, labels, training, validation, shapes) if request.val == "stress" else None
    )
    shown = stress.mixed() if stress else table[torch.from_numpy(validation).to(table.device)]  # (N, S, S) uint8
    many = inference.EVALUATION_BATCH[device.type]
    exact = Batches(shown, labels[validation], np.arange(len(validation)), many, device, normalisation, shard=shard)
    trainer = Trainer(network, recipe, batches, exact, request.compile, request.minutes)
    if old:
        go_on(trainer, folder / "last.pt", old)
        now = ("device", "versions", "split", *seen.SHAPES)  # of an earlier version, these two may say less
        checkpoint = {**old, **{key: checkpoint[key] for key in now}}
        print(f"{folder / 'last.pt'}: going on after {numbered(trainer.epoch, 'epoch')} and "
              f"{numbered(trainer.step, 'step')}")  # fmt: skip
    else:
        run_folder.spare(folder, dataset.synthetic, request.quick)
        run_folder.fresh_folder(request.out, name)
        run_folder.write_record(folder, checkpoint, request, None)
    patients = [dataset.patients[i] for i in validation]
    epochs = numbered(trainer.epochs, "epoch")
    print(f"{name}: {models.parameter_count(network):,} parameters, {len(training):,} training and "
          f"{len(validation):,} validation images, {epochs} on {checkpoint['device']}")  # fmt: skip
    if stress:
        print(f"stress: each validation image in one of {len(stress.views)} views")
    with run_folder.Run(folder, checkpoint) as run, board.written(folder, request.tensorboard, trainer.epoch) as write:

        def keep(row: dict, logits: np.ndarray) -> None:
            run.keep(row, logits, labels[validation], network.state_dict(), trainer.state())
            write(row)

        trainer.fit(keep, lambda: run.save(network.state_dict(), trainer.state()))
        run.write_what_waits()
        decided = {}
        if parallel.rank() == 0:
            films = limits.Films(table, labels, training, validation, patients)
            with stoppable(f"after {numbered(trainer.epoch, 'epoch')}, all saved, in the validation of the best one"):
                decided = calibration.decided(run.best(), shown, stress, films, device)
    return finish(run, decided, request)


def go_on(trainer: Trainer, file: Path, old: dict) -> None:
    """Puts a trainer where an earlier one was; `file` is what the checkpoint `old` was read from."""
    parameters = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
    run_folder.check_training(file, old, trainer.state(), parameters)
    trainer.network.load_state_dict(old.pop("state"))
    try:
        trainer.load(old.pop("training"))
    except (RuntimeError, ValueError, KeyError) as error:  # torch's own checks of generators and the scaler
        raise Problem(f"{file}: cannot be gone on from ({str(error).splitlines()[0]}); "
                      "leave --resume out to start afresh") from error  # fmt: skip


def finish(run: run_folder.Run, checkpoint: dict, request: Request) -> dict:
    """Writes what was decided, and says it."""
    if parallel.rank():
        return run.checkpoint
    checkpoint = run.finish(checkpoint, request)
    rows = checkpoint["stress"]
    if rows:
        print(stress_views.table(rows) if request.verbose else stress_views.in_short(rows))
    print(f"{run.folder / 'model.pt'}: epoch {checkpoint['epoch']}, temperature {checkpoint['temperature']:.3f}, "
          f"threshold {checkpoint['threshold']:.4f}, from {'stress ' if rows else ''}validation\n")  # fmt: skip
    return checkpoint


def recipe_of(request: Request) -> Recipe:
    """The recipe of its architecture, with what was asked to be otherwise."""
    recipe = RECIPES[request.recipe][request.architecture]
    if request.quick:
        recipe = replace(recipe, epochs=QUICK_EPOCHS)
    changes = {"epochs": request.epochs, "batch_size": request.batch_size, "resize_from": request.resize_from,
               "learning_rate": request.lr and request.lr[0]}  # fmt: skip
    recipe = replace(recipe, **{key: value for key, value in changes.items() if value is not None})
    return replace(recipe, augment=replace(recipe.augment, flip=True)) if request.flip else recipe


def prepare(request: Request) -> tuple[torch.nn.Module, str]:
    """The network as training starts with it, and a sentence on where its weights come from."""
    torch.manual_seed(request.seed)
    network = models.build(request.architecture, request.size)
    if request.architecture == "resnet34-pretrained":
        return network, models.load_imagenet(network, request.weights)
    return network, "random"


def contradictions(dataset: Dataset) -> list[str]:
    found = audit.contradictions(dataset)
    example = dataset.files[found[0][0]] if found else ""
    sets = numbered(len(found), "set of identical images carries", "sets of identical images carry")
    return [f"WARNING: {sets} both labels (such as {example})"] if found else []


def train_all(request: Request) -> int:
    """Trains what was asked for, wherever that is; returns the exit code."""
    hardware.keep_freed_memory()
    hardware.set_precision(request.deterministic)
    device = hardware.pick_device(request.device)  # a wrong one is said before the data is read
    with parallel.group(device):
        hardware.wake(device)
        try:
            return one_after_the_other(request)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return 128 + stopped.signum


def prepared(request: Request) -> tuple[dict, dict[str, Problem]]:
    """By architecture and seed, the network that the first seed starts with, and None for later ones; and what fails.

    All of them before the first is trained: nobody wants to read of a failed download next morning.
    """
    networks, skipped = {}, {}
    seeds = range(request.seed, request.seed + (request.seeds or 1))
    for architecture in terms.ARCHITECTURES if request.arch is None else (request.arch,):
        first = replace(request, architecture=architecture, seed=seeds[0])
        try:
            made = parallel.first_here(lambda first=first: prepare(first))
            networks |= {(architecture, seed): made if seed == seeds[0] else None for seed in seeds}
        except Problem as problem:
            if not request.all:
                raise
            skipped[architecture] = problem
            parallel.say(f"{architecture} is skipped: {problem}")
    return networks, skipped


def one_after_the_other(request: Request) -> int:
    networks, skipped = prepared(request)
    dataset = parallel.first_here(
        lambda: data.load(request.data, request.size, request.cache, request.fit, request.skip_bad, request.classes)
    )
    print(dataset.name)
    for note in contradictions(dataset) + [f"WARNING: {line}" for line in audit.odd_patients(dataset)]:
        parallel.say(note)
    rows: dict[str, list] = {architecture: [] for architecture, _ in networks}
    folds = [(k, request.folds) for k in range(request.folds)] if request.folds else [None]
    for (architecture, seed), fold in itertools.product(networks, folds):  # before the first of them is trained
        name = run_name(replace(request, architecture=architecture, seed=seed), fold)
        run_folder.spare(request.out / name, dataset.synthetic, request.quick)
    tested = []
    for fold in folds:
        split = data.split(dataset, request.split, request.split_seed, request.val == "block", fold)
        counts = ", ".join(f"{len(indices):,} {side}" for side, indices in split.sides.items())
        print(f"split by {split.how}, seed {split.seed}, fingerprint {split.fingerprint}: {counts} images")
        tested.append(len(split.test) > 0)
        for note in split.notes:
            parallel.say(note)
        for (architecture, seed), made in networks.items():
            own = replace(request, architecture=architecture, seed=seed)
            network, origin = copy.deepcopy(made) or prepare(own)  # not all in memory at once
            name = run_name(own, fold)
            train = sweep if request.lr and len(request.lr) > 1 else train_run
            recipe = recipe_of(own)
            less = f"a smaller --batch-size than {recipe.batch_size}, or --size than {request.size}, needs less"
            with run_folder.claimed(request.out / name), hardware.enough_memory(less):
                checkpoint = train(name, network, origin, dataset, split, recipe, own)
            rows[architecture].append(summary_row(name, checkpoint))
    lines = [line for found in rows.values() for line in with_mean(found)]
    print(tabulate(lines, ["model", *summary_heads(request)], floatfmt=SUMMARY_DIGITS))
    for architecture, problem in skipped.items():
        parallel.say(f"{architecture} was skipped: {problem}")
    if request.quick:
        print("a smoke run: its numbers mean nothing")
    print(next_step(request, tested=all(tested)))
    return 1 if skipped else 0


def next_step(request: Request, tested: bool) -> str:
    """The command that tests what was trained, as it can be copied; without test films of its own it needs others."""
    where = [] if request.out == Path("runs") else ["--runs", str(request.out)]
    skipping = ["--skip-bad"] if request.skip_bad else []  # the same films cannot be read then either
    command = shlex.join(["python", "evaluate.py", "--all", *where, *skipping])
    if tested:
        return f"next: {command}"
    return f"there are no test films here: {command} --data PATH names some from elsewhere"


def run_name(request: Request, fold: tuple[int, int] | None) -> str:
    """Of a run's folder, and of the model; that of a smoke run says so."""
    name = request.name or request.architecture
    if request.quick and not name.startswith("quick-"):
        name = f"quick-{name}"
    return name + (f"-s{request.seed}" if request.seeds else "") + (f"-f{fold[0]}" if fold else "")


def summary_heads(request: Request) -> list[str]:
    what = run_folder.shown_as(request.val)
    return ["best epoch", f"{what} accuracy", f"{what} AUROC", f"{what} loss", "minutes"]


def summary_row(name: str, checkpoint: dict) -> list:
    best = checkpoint["history"][checkpoint["epoch"] - 1]
    return [name, best["epoch"], best["val_accuracy"], best["val_auroc"], best["val_loss"], checkpoint["seconds"] / 60]


def with_mean(rows: list[list]) -> list[list]:
    """The rows of one architecture; where there are several, then their mean and standard deviation."""
    if len(rows) < 2:
        return rows
    values = np.array([row[2:5] for row in rows])
    return [*rows, [f"mean of {len(rows)}", "", *values.mean(0), ""],
            ["standard deviation", "", *values.std(0, ddof=1), ""]]  # fmt: skip


def sweep(
    name: str,
    network: torch.nn.Module,
    origin: str,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    request: Request,
) -> dict:
    """Trains with each of several learning rates; the run that validates best gets the model's name.

    The runs themselves are where `evaluate.py --all` does not look: nobody is to choose among them by test images.
    """
    found, folder = {}, request.out / "sweep" / name
    for rate in request.lr or []:
        own = replace(request, lr=[rate], out=folder)
        this = replace(recipe, learning_rate=rate)
        found[rate] = train_run(f"lr-{rate:g}", copy.deepcopy(network), origin, dataset, split, this, own)
    rows = [[f"{rate:g}", *summary_row(name, checkpoint)[1:]] for rate, checkpoint in found.items()]
    print(tabulate(rows, ["learning rate", *summary_heads(request)], floatfmt=SUMMARY_DIGITS))
    best = max(found, key=lambda rate: run_folder.rank(found[rate]["history"][found[rate]["epoch"] - 1]))
    print(f"{name}: learning rate {best:g} validates best; all runs stay under {folder}\n")
    kept = request.resume and run_folder.finished(request.out / name)
    if parallel.rank() == 0 and not kept:
        run_folder.adopt(folder / f"lr-{best:g}", request.out, name)
    return found[best]
