"""Trains a network for pneumonia against normal: `python train.py --arch simple --data chest_xray`.

Writes runs/<name>/: model.pt (the best epoch by validation AUROC), last.pt (all that --resume needs), history.csv (a
row an epoch) and run.json (options, versions, data). Test images are never read here: evaluate.py does that.

On several GPUs: `torchrun --standalone --nproc-per-node 8 train.py ...`; parallel.py says what that changes.
"""

import argparse
import copy
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from tqdm import tqdm

import audit
import common
import data
import decisions
import infer
import models
import parallel
import records
import views
from batches import Batches, pixel_statistics, table_on
from common import Problem, UsageProblem
from data import Dataset, Split
from gpu import Captured, recorder
from recipes import RECIPES, Recipe, make_optimizer, rate_factor, side_of_epoch
from stopping import StopAsked, Stopped, StopSignals

QUICK_EPOCHS, QUICK_IMAGES = 2, 192
VALIDATIONS = ("stress", "random", "block")
SUMMARY = ["model", "best epoch", "validation accuracy", "AUROC", "loss", "minutes"]
SUMMARY_DIGITS = ("", "", ".4f", ".4f", ".4f", ".1f")


# -------------------------------------------------------------------------------------------------- the loop


class Trainer:
    """A network on its way: `fit` trains it in place; `state` is all that going on from here needs.

    The order of the images and their changes are drawn from (seed, epoch), so that the position in the data is two
    numbers. With `minutes`, there are as many of the recipe's epochs as fit, one at least, and after each one the
    learning rate is planned anew to end where the time does. On CUDA a step is launched as one graph, unless `record`
    is False: for steps of which each is another.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        recipe: Recipe,
        training: Batches,
        validation: Batches,
        compiling: bool = False,
        minutes: float | None = None,
        record: bool = True,
    ) -> None:
        self.network, self.recipe, self.training, self.validation = network, recipe, training, validation
        self.device, self.size = training.device, training.table.shape[-1]
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.optimizer = make_optimizer(network, recipe)
        self.scaler = infer.grad_scaler(self.device)
        self.forward = parallel.replicated(network, self.device)
        if compiling:
            self.forward = infer.compiled(self.forward, self.zeros_like_a_batch())
        elif parallel.world() == 1:
            self.forward = infer.fused(network, self.device)
        recording = recorder(self.device)
        alike = record and not self.scaler.is_enabled()  # the scaler looks at each step before it is taken
        self.take_step = Captured(self.training_step, recording if alike else None)
        answering = self.network if parallel.world() > 1 else self.forward
        self.answer_validation = infer.answering(answering, self.device, reduced=True, record=recording)
        self.epochs = recipe.epochs  # that are planned
        self.anchor = (0.0, 0)  # the progress and the epoch that the plan starts from
        self.epoch = self.step = 0  # complete epochs, and steps taken in the one under way
        self.seconds = 0.0  # spent in the epoch under way before it was resumed
        sizes = [here.stop - here.start for here in training.places()]
        self.ends = np.cumsum(sizes)  # where in the epoch each step's images end, of this process
        self.logits = torch.zeros(self.ends[-1], 2, device=self.device)  # of the epoch under way, as they were met
        self.labels = torch.zeros(self.ends[-1], dtype=torch.int64, device=self.device)

    def fit(self, keep: Callable[[dict, np.ndarray], None], save: Callable[[], None] = lambda: None) -> None:
        """Trains to the end; after each epoch calls keep(its row of history, validation logits).

        Ctrl-C and SIGTERM end it after the step under way: calls save() and raises Stopped. Raises Problem when the
        network's output is not finite.
        """
        count, quiet = len(self.training.indices), not sys.stderr.isatty() or parallel.rank() > 0
        bar = tqdm(total=self.epochs * count, initial=self.epoch * count, unit=" images", disable=quiet)
        with bar, StopSignals() as stop:
            try:
                while self.epoch < self.epochs:
                    row, logits = self.one_epoch(bar, stop)
                    keep(row, logits)
                    stop.check()
            except StopAsked as asked:
                save()
                raise Stopped(asked.signum, f"stopped after {self.epoch} epochs and {self.step} steps; "
                              "the same command with --resume goes on from there") from None  # fmt: skip

    def one_epoch(self, bar: tqdm, stop: StopSignals) -> tuple[dict, np.ndarray]:
        """Trains for one epoch and evaluates; returns its row of history and the validation logits."""
        start = time.perf_counter() - self.seconds
        number, side = self.epoch + 1, side_of_epoch(self.progress(0), self.size, self.recipe)
        rate = self.rate(0)
        self.train_one_epoch(number, side, bar, stop, start)
        logits = parallel.gathered(self.logits.cpu().numpy())  # the epoch's sync point
        labels = parallel.gathered(self.labels.cpu().numpy())
        self.check_finite(number)
        trained = time.perf_counter()
        with stop.at_once():
            validation_logits = infer.network_logits(self.network, self.validation, True, self.answer_validation)
        if not np.isfinite(validation_logits).all():
            raise Problem(f"epoch {number}: the network's output for validation images is not finite; try a lower --lr")
        row = {"epoch": number, "learning_rate": rate}
        row |= records.scores("train", logits, labels)
        row |= records.scores("val", validation_logits, self.validation.all_labels)
        row["seconds"] = time.perf_counter() - start
        row["images_per_second"] = len(labels) / (trained - start)
        self.epoch, self.step, self.seconds = number, 0, 0.0
        self.plan(row["seconds"] * (self.size / side) ** 2)
        return row, validation_logits

    def train_one_epoch(self, number: int, side: int, bar: tqdm, stop: StopSignals, start: float) -> None:
        """One pass over the training images, or what is left of it."""
        self.network.train()
        sizes = self.training.batch_sizes()
        for images, labels in self.training.epoch(number, self.step, side):  # (B, 1, side, side), (B,)
            self.optimizer.set_rate(self.rate(self.step))
            # The mean over the whole batch: of all processes, whose gradients are averaged.
            (logits,) = self.take_step(images, labels, share=parallel.world() / sizes[self.step])
            end = self.ends[self.step]
            self.logits[end - len(labels) : end] = logits  # stays on the device: reading it is a sync point
            self.labels[end - len(labels) : end] = labels
            self.step += 1
            bar.update(sizes[self.step - 1])
            self.seconds = time.perf_counter() - start
            stop.check()

    def training_step(self, images: torch.Tensor, labels: torch.Tensor, share: float) -> tuple[torch.Tensor]:
        """One step of the optimizer, by the sum of the losses times `share`; returns the logits (B, 2) before it.

        On CUDA this is launched as one graph (gpu.py): it must not wait for the device, nor depend on a number in
        Python that changes.
        """
        logits, loss = self.answer(images, labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss * share).backward()
        self.scaler.step(self.optimizer)  # ty: ignore[invalid-argument-type]  it takes whatever has groups and a step
        self.scaler.update()
        return (logits.detach(),)

    def answer(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, 2) of a batch, and the sum of its losses."""
        with infer.autocast(self.device):
            logits = self.forward(images)
        return logits, F.cross_entropy(logits.float(), labels, reduction="sum")

    def check_finite(self, number: int) -> None:
        bad = np.flatnonzero(~np.isfinite(self.logits.cpu().numpy()).all(1))
        if len(bad):
            step = int(np.searchsorted(self.ends, bad[0], "right")) + 1
            raise Problem(f"epoch {number}, step {step}: the network's output is not finite; try a lower --lr")

    # What the learning rate and the side of the images depend on:

    def progress(self, step: float) -> float:
        """Of the whole training, from 0 to 1, at a step of the epoch under way."""
        done, since = self.anchor
        return done + (1 - done) * (self.epoch - since + step / len(self.training)) / max(self.epochs - since, 1)

    def rate(self, step: int) -> float:
        progress = self.progress(step)
        return self.recipe.learning_rate * rate_factor(progress, self.progress(step + 1) - progress, self.recipe)

    def plan(self, seconds: float) -> None:
        """With a deadline: how many more epochs fit, if each takes `seconds`."""
        if self.deadline is None:
            return
        fitting = int(min(max(self.deadline - time.monotonic(), 0) / seconds, self.recipe.epochs))
        fitting = int(parallel.gathered(np.array([fitting])).min())  # clocks differ between processes
        self.anchor = (self.progress(0), self.epoch)
        self.epochs = min(self.epoch + fitting, self.recipe.epochs)

    def zeros_like_a_batch(self) -> torch.Tensor:
        side = side_of_epoch(0.0, self.size, self.recipe)
        here = self.training.places()[0]
        shape = (here.stop - here.start, 1, side, side)
        return torch.zeros(shape, device=self.device).contiguous(memory_format=torch.channels_last)

    def state(self) -> dict:
        """Tensors and plain values only; the weights are the network's own state."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "epochs": self.epochs,
            "anchor": list(self.anchor),
            "logits": self.logits[: self.ends[self.step - 1] if self.step else 0],
            "labels": self.labels[: self.ends[self.step - 1] if self.step else 0],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            # Nothing here draws from the global generators; a network with dropout would.
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load(self, state: dict) -> None:
        for name in ("epoch", "step", "seconds", "epochs"):
            setattr(self, name, state[name])
        self.anchor = tuple(state["anchor"])
        if not len(state["logits"]) == len(state["labels"]) <= len(self.logits):
            raise ValueError(f"answers for {len(state['logits']):,} of {len(self.logits):,} images")
        self.logits[: len(state["logits"])] = state["logits"].to(self.device)
        self.labels[: len(state["labels"])] = state["labels"].to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) == 1 + torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["generators"][1:])


# ------------------------------------------------------------------------------------- one run, start to end


def train_run(
    name: str,
    network: torch.nn.Module,
    origin: str,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    args: argparse.Namespace,
) -> dict:
    """Trains one network and leaves its run folder; returns the finished checkpoint without its weights."""
    gc.collect()  # an earlier training's graphs and weights refer to each other, and hold the device's memory
    device = infer.pick_device(args.device)
    training, validation = split.train, split.validation
    if args.quick:
        training, validation = (data.thinned(dataset, side, QUICK_IMAGES) for side in (training, validation))
    torch.manual_seed(args.seed)
    network = parallel.share_batch_norm(network).to(device).to(memory_format=torch.channels_last)
    table = table_on(dataset.images, device)
    normalisation = pixel_statistics(table, training)
    labels, shard, shapes = dataset.labels, (parallel.rank(), parallel.world()), data.shape_ratio(dataset, split.train)
    batches = Batches(table, labels, training, recipe.batch_size, device, normalisation, recipe.augment, args.seed,
                      shard=shard, shapes=shapes)  # fmt: skip
    if min(batches.batch_sizes()) < parallel.world():
        raise UsageProblem(f"--batch-size: {parallel.world()} processes need batches of {parallel.world()} or more")
    checkpoint = records.new_checkpoint(name, origin, dataset, split, args, recipe, normalisation, device)
    folder = Path(args.out) / name
    old = records.resumable(folder, checkpoint) if args.resume else None
    if old and records.finished(folder):
        print(f"{name}: finished already\n")
        return models.load_checkpoint(folder / "model.pt")[0]
    stress = views.StressValidation(table, labels, training, validation, shapes) if args.val == "stress" else None
    shown = stress.mixed() if stress else table[torch.from_numpy(validation).to(table.device)]  # (N, S, S) uint8
    exact = Batches(shown, labels[validation], np.arange(len(validation)), infer.EVALUATION_BATCH[device.type], device,
                    normalisation, shard=shard)  # fmt: skip
    trainer = Trainer(network, recipe, batches, exact, args.compile, args.minutes)
    if old:
        parameters = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
        records.check_training(folder / "last.pt", old, trainer.state(), parameters)
        network.load_state_dict(old.pop("state"))
        try:
            trainer.load(old.pop("training"))
        except (RuntimeError, ValueError, KeyError) as error:  # torch's own checks of generators and the scaler
            raise Problem(f"{folder / 'last.pt'}: cannot be gone on from ({str(error).splitlines()[0]}); "
                          "leave --resume out to start afresh") from error  # fmt: skip
        checkpoint = {**old, "device": checkpoint["device"], "versions": checkpoint["versions"]}
        print(f"{folder / 'last.pt'}: going on after {trainer.epoch} epochs and {trainer.step} steps")
    else:
        records.fresh_folder(Path(args.out), name)
        records.write_record(folder, checkpoint, args, None)
    patients = [dataset.patients[i] for i in validation]
    print(f"{name}: {models.parameter_count(network):,} parameters, {len(training):,} training and "
          f"{len(validation):,} validation images, {trainer.epochs} epochs on {checkpoint['device']}")  # fmt: skip
    with records.Run(folder, checkpoint) as run:
        trainer.fit(
            lambda row, logits: run.keep(row, logits, labels[validation], network.state_dict(), trainer.state()),
            lambda: run.save(network.state_dict(), trainer.state()),
        )
        run.write_what_waits()
        decided = {}
        if parallel.rank() == 0:
            decided = decisions.decided(run.best(), shown, stress, labels[validation], patients, device)
    return finish(run, decided, args)


def finish(run: records.Run, checkpoint: dict, args: argparse.Namespace) -> dict:
    """Writes what was decided, and says it."""
    if parallel.rank():
        return run.checkpoint
    file = run.folder / "model.pt"
    checkpoint |= {"history": run.history, "seconds": run.seconds()}
    checkpoint = models.save_checkpoint(file, checkpoint)
    records.write_record(run.folder, checkpoint, args, run.seconds())
    stress = "stress " if checkpoint["stress"] else ""
    if stress:
        print(views.table(checkpoint["stress"]))
    print(f"{file}: epoch {checkpoint['epoch']}, temperature {checkpoint['temperature']:.3f}, "
          f"threshold {checkpoint['threshold']:.4f}, from {stress}validation\n")  # fmt: skip
    return checkpoint


# -------------------------------------------------------------------------------------------- command line


def recipe_of(args: argparse.Namespace, architecture: str) -> Recipe:
    """The recipe for an architecture, with what the command line changes in it."""
    recipe = RECIPES[args.recipe][architecture]
    if args.quick:
        recipe = replace(recipe, epochs=QUICK_EPOCHS)
    changes = {"epochs": args.epochs, "batch_size": args.batch_size, "learning_rate": args.lr and args.lr[0],
               "resize_from": args.resize_from}  # fmt: skip
    recipe = replace(recipe, **{key: value for key, value in changes.items() if value is not None})
    return replace(recipe, augment=replace(recipe.augment, flip=True)) if args.flip else recipe


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = common.Parser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--arch", **common.choices(models.ARCHITECTURES), help="the network to train")
    which.add_argument("--all", action="store_true", help="all three, one after the other")
    data.add_arguments(parser)
    data.add_split_arguments(parser)
    infer.add_device_argument(parser)
    parser.add_argument(
        "--recipe",
        **common.choices(tuple(RECIPES)),
        default="default",
        help="seed: the published notebooks' settings (Adam 1e-4, batch 64, 20 epochs, flips)",
    )
    parser.add_argument("--epochs", type=common.whole_number(1), help="default: the recipe's")
    parser.add_argument("--batch-size", type=common.whole_number(2), help="default: the recipe's")
    parser.add_argument(
        "--minutes",
        type=common.positive_number,
        metavar="M",
        help="at most this long: as many of the epochs as fit (one at least), the learning rate scaled to them",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped, at its last state")
    parser.add_argument(
        "--resize-from",
        type=common.whole_number(0, 2048),
        metavar="PIXELS",
        help="ResNets: start on images of this side and end on the full one; 0: full throughout",
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                        help="torch.compile: up to a minute before the first step of each side")  # fmt: skip
    parser.add_argument("--deterministic", action="store_true", help="the same result again on CUDA too, more slowly")
    parser.add_argument("--lr", type=common.positive_number, nargs="+", metavar="RATE",
                        help="highest learning rate; default: the recipe's. Several: each is trained, and the one that "
                        "validates best is kept under the model's name, all of them under OUT/sweep")  # fmt: skip
    parser.add_argument("--val", **common.choices(VALIDATIONS), default="stress",
                        help="what epoch, temperature and threshold are chosen on: validation films as they might look "
                        "elsewhere (stress, default), as they are (random), or as they are, from patients with "
                        "neighbouring names (block)")  # fmt: skip
    parser.add_argument("--folds", type=common.whole_number(2, 100), metavar="K",
                        help="train K times, each time validating on another Kth of the patients")  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="also mirror images at random (it mirrors the heart)")
    parser.add_argument("--seed", type=common.whole_number(0), default=0, help="of weights, order and augmentation")
    parser.add_argument("--seeds", type=common.whole_number(1, 1000), metavar="N",
                        help="train N times, from --seed on; the runs are called NAME-s0, NAME-s1, ...")  # fmt: skip
    parser.add_argument("--weights", type=common.file_path, metavar="FILE",
                        help="ImageNet weights for resnet34-pretrained: a torchvision resnet34 state dict")  # fmt: skip
    parser.add_argument("--name", help="of the run's folder; default: the architecture")
    parser.add_argument("--out", type=common.folder_path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a smoke run: {QUICK_EPOCHS} epochs on {QUICK_IMAGES} images; its results mean nothing",
    )
    args = parser.parse_args(argv)
    if args.name is not None and (args.all or not records.is_folder_name(args.name)):
        parser.error("--name is one plain folder name other than 'old' and 'sweep', and goes with --arch")
    if args.weights and args.arch not in (None, "resnet34-pretrained"):
        parser.error("--weights is for resnet34-pretrained")
    smaller = [name for name in ([args.arch] if args.arch else models.ARCHITECTURES) if name == "simple"]
    if args.resize_from and smaller:
        parser.error("--resize-from is for ResNets: the linear layers of simple fit one size")
    return args


def prepare(architecture: str, seed: int, args: argparse.Namespace) -> tuple[torch.nn.Module, str]:
    """The network as training starts with it, and a sentence on where its weights come from."""
    torch.manual_seed(seed)
    network = models.build(architecture, args.size)
    if architecture == "resnet34-pretrained":
        return network, models.load_imagenet(network, args.weights)
    return network, "random"


def contradictions(dataset: Dataset) -> list[str]:
    found = audit.contradictions(dataset)
    example = dataset.files[found[0][0]] if found else ""
    return [f"WARNING: {len(found):,} sets of identical images carry both labels (such as {example})"] if found else []


def work(args: argparse.Namespace) -> int:
    infer.keep_freed_memory()
    infer.set_precision(args.deterministic)
    device = infer.pick_device(args.device)  # a wrong one is said before the data is read
    with parallel.group(device):
        infer.wake(device)
        try:
            return train_all(args)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return 128 + stopped.signum


def train_all(args: argparse.Namespace) -> int:
    """Trains what was asked for, one network after the other; returns the exit code."""
    networks, skipped = {}, {}
    seeds = range(args.seed, args.seed + (args.seeds or 1))
    for architecture in models.ARCHITECTURES if args.all else (args.arch,):
        try:  # all of them before the first is trained: nobody wants to read of a failed download next morning
            made = parallel.first_here(lambda which=architecture: prepare(which, seeds[0], args))
            networks |= {(architecture, seed): made if seed == seeds[0] else None for seed in seeds}
        except Problem as problem:
            if not args.all:
                raise
            skipped[architecture] = problem
            parallel.say(f"{architecture} is skipped: {problem}")
    dataset = parallel.first_here(lambda: data.load(args.data, args.size, args.cache, args.fit, args.skip_bad))
    print(dataset.name)
    for note in contradictions(dataset):
        parallel.say(note)
    rows: dict[str, list] = {architecture: [] for architecture, _ in networks}
    for fold in [(k, args.folds) for k in range(args.folds)] if args.folds else [None]:
        split = data.split(dataset, args.split, args.split_seed, args.val == "block", fold)
        counts = ", ".join(f"{len(indices):,} {side}" for side, indices in split.sides.items())
        print(f"split by {split.how}, seed {split.seed}, fingerprint {split.fingerprint}: {counts} images")
        for note in split.notes:
            parallel.say(note)
        for (architecture, seed), made in networks.items():
            network, origin = copy.deepcopy(made) or prepare(architecture, seed, args)  # not all in memory at once
            args.architecture, args.seed = architecture, seed
            name = (args.name or architecture) + (f"-s{seed}" if args.seeds else "") + (f"-f{fold[0]}" if fold else "")
            train = sweep if args.lr and len(args.lr) > 1 else train_run
            recipe = recipe_of(args, architecture)
            less = f"a smaller --batch-size than {recipe.batch_size}, or --size than {args.size}, needs less"
            with records.claimed(args.out / name), infer.enough_memory(less):
                checkpoint = train(name, network, origin, dataset, split, recipe, args)
            rows[architecture].append(summary_row(name, checkpoint))
    print(tabulate([line for found in rows.values() for line in with_mean(found)], SUMMARY, floatfmt=SUMMARY_DIGITS))
    for architecture, problem in skipped.items():
        parallel.say(f"{architecture} was skipped: {problem}")
    print(f"next: python evaluate.py --all{'' if args.out == Path('runs') else f' --runs {args.out}'}")
    return 1 if skipped else 0


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
    args: argparse.Namespace,
) -> dict:
    """Trains with each of several learning rates; the run that validates best gets the model's name.

    The runs themselves are where `evaluate.py --all` does not look: nobody is to choose among them by test images.
    """
    found, folder = {}, args.out / "sweep" / name
    for rate in args.lr:
        own = argparse.Namespace(**{**vars(args), "lr": [rate], "out": folder})
        this = replace(recipe, learning_rate=rate)
        found[rate] = train_run(f"lr-{rate:g}", copy.deepcopy(network), origin, dataset, split, this, own)
    rows = [[f"{rate:g}", *summary_row(name, checkpoint)[1:]] for rate, checkpoint in found.items()]
    print(tabulate(rows, ["learning rate", *SUMMARY[1:]], floatfmt=SUMMARY_DIGITS))
    best = max(found, key=lambda rate: records.rank(found[rate]["history"][found[rate]["epoch"] - 1]))
    print(f"{name}: learning rate {best:g} validates best; all runs stay under {folder}\n")
    kept = args.resume and records.finished(args.out / name)
    if parallel.rank() == 0 and not kept:
        records.adopt(folder / f"lr-{best:g}", args.out, name)
    return found[best]


def main(argv: list[str] | None = None) -> int:
    return common.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
