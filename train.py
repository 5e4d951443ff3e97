"""Trains a network for pneumonia against normal: `python train.py --arch simple --data chest_xray`.

Writes runs/<name>/: model.pt (the best epoch by validation AUROC), last.pt (all that --resume needs), history.csv (a
row an epoch) and run.json (options, versions, data). Test images are never read here: evaluate.py does that.

On several GPUs: `torchrun --standalone --nproc-per-node 8 train.py ...`; parallel.py says what that changes.
"""

import argparse
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
import infer
import metrics
import models
import parallel
import records
import scoring
from batches import Batches, pixel_statistics, table_on
from common import Problem, UsageProblem
from data import Dataset, Split
from recipes import RECIPES, Recipe, make_optimizer, rate_factor, side_of_epoch
from stopping import StopAsked, Stopped, StopSignals

QUICK_EPOCHS, QUICK_IMAGES = 2, 192
EVALUATION_BATCH = {"cpu": 64, "cuda": 512, "mps": 128}


# -------------------------------------------------------------------------------------------------- the loop


class Trainer:
    """A network on its way: `fit` trains it in place; `state` is all that going on from here needs.

    The order of the images and their changes are drawn from (seed, epoch), so that the position in the data is two
    numbers. With `minutes`, there are as many of the recipe's epochs as fit, one at least, and after each one the
    learning rate is planned anew to end where the time does.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        recipe: Recipe,
        training: Batches,
        validation: Batches,
        compiling: bool = False,
        minutes: float | None = None,
    ) -> None:
        self.network, self.recipe, self.training, self.validation = network, recipe, training, validation
        self.device, self.size = training.device, training.table.shape[-1]
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.optimizer = make_optimizer(network, recipe)
        self.scaler = infer.grad_scaler(self.device)
        self.forward = parallel.replicated(network, self.device)
        if compiling:
            self.forward = compiled(self.forward, self.zeros_like_a_batch())
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
            answering = self.network if parallel.world() > 1 else self.forward
            validation_logits = infer.network_logits(answering, self.validation, reduced=True)
        if not np.isfinite(validation_logits).all():
            raise Problem(f"epoch {number}: the network's output for validation images is not finite; try a lower --lr")
        row = {"epoch": number, "learning_rate": rate}
        row |= scores("train", logits, labels)
        row |= scores("val", validation_logits, self.validation.all_labels)
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
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.step)
            with infer.autocast(self.device):
                logits = self.forward(images)  # (B, 2)
            # The mean over the whole batch: of all processes, whose gradients are averaged.
            loss = F.cross_entropy(logits.float(), labels, reduction="sum") * (parallel.world() / sizes[self.step])
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            end = self.ends[self.step]
            self.logits[end - len(labels) : end] = logits.detach()  # stays on the device: reading it is a sync point
            self.labels[end - len(labels) : end] = labels
            self.step += 1
            bar.update(sizes[self.step - 1])
            self.seconds = time.perf_counter() - start
            stop.check()

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
        fitting = int(max(self.deadline - time.monotonic(), 0) / seconds)
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
        self.logits[: len(state["logits"])] = state["logits"].to(self.device)
        self.labels[: len(state["labels"])] = state["labels"].to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) == 1 + torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["generators"][1:])


def compiled(network: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The network compiled and tried on a batch; the network itself, after one line, where compiling fails.

    The trial leaves neither gradients nor batch-norm statistics behind.
    """
    import torch._dynamo  # takes a second, which only those who compile should pay

    torch._dynamo.config.recompile_limit = 64  # a variant for each side of the images, of training and evaluation
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    try:
        fast = torch.compile(network, dynamic=False, mode="max-autotune" if images.is_cuda else None)
        with infer.autocast(images.device):
            fast(images).float().sum().backward()
    except (RuntimeError, OSError, ImportError) as error:
        reason = common.printable(str(error).splitlines()[0])
        parallel.say(f"note: torch.compile fails here ({reason}); going on without it")
        fast = network
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return fast


def scores(side: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss (nats), accuracy at 0.5 and AUROC; the loss is the mean over the images, not over the batches."""
    probabilities = metrics.positive_probability(logits)
    found = metrics.classification(labels, probabilities, 0.5)
    return {
        f"{side}_loss": metrics.log_loss(logits, labels),
        f"{side}_accuracy": found["accuracy"],
        f"{side}_auroc": found["auroc"],
    }


# ------------------------------------------------------------------------------------- one run, start to end


def train_run(
    name: str, network: torch.nn.Module, origin: str, dataset: Dataset, split: Split, args: argparse.Namespace
) -> dict:
    """Trains one network and leaves its run folder; returns the finished checkpoint without its weights."""
    device = infer.pick_device(args.device)
    recipe = recipe_of(args, args.architecture)
    training, validation = split.train, split.validation
    if args.quick:
        training, validation = thinned(training, dataset), thinned(validation, dataset)
    torch.manual_seed(args.seed)
    network = parallel.share_batch_norm(network).to(device, memory_format=torch.channels_last)
    table = table_on(dataset.images, device)
    normalisation = pixel_statistics(table, training)
    labels, shard = dataset.labels, (parallel.rank(), parallel.world())
    batches = Batches(table, labels, training, recipe.batch_size, device, normalisation, recipe.augment, args.seed,
                      shard=shard)  # fmt: skip
    if min(batches.batch_sizes()) < parallel.world():
        raise UsageProblem(f"--batch-size: {parallel.world()} processes need batches of {parallel.world()} or more")
    exact = Batches(table, labels, validation, EVALUATION_BATCH[device.type], device, normalisation, shard=shard)
    checkpoint = records.new_checkpoint(name, origin, dataset, split, args, recipe, normalisation, device)
    folder = Path(args.out) / name
    old = records.resumable(folder, checkpoint) if args.resume else None
    if old and records.finished(folder):
        print(f"{name}: finished already\n")
        return models.load_checkpoint(folder / "model.pt")[0]
    compiling = device.type == "cuda" if args.compile is None else args.compile
    trainer = Trainer(network, recipe, batches, exact, compiling, args.minutes)
    if old:
        network.load_state_dict(old.pop("state"))
        trainer.load(old.pop("training"))
        checkpoint = {**old, "device": checkpoint["device"], "versions": checkpoint["versions"]}
        print(f"{folder / 'last.pt'}: going on after {trainer.epoch} epochs and {trainer.step} steps")
    else:
        records.fresh_folder(Path(args.out), name)
        records.write_record(folder, checkpoint, args, None)
    print(f"{name}: {models.parameter_count(network):,} parameters, {len(training):,} training and "
          f"{len(validation):,} validation images, {trainer.epochs} epochs on {checkpoint['device']}")  # fmt: skip
    with records.Run(folder, checkpoint) as run:
        trainer.fit(
            lambda row, logits: run.keep(row, logits, labels[validation], network.state_dict(), trainer.state()),
            lambda: run.save(network.state_dict(), trainer.state()),
        )
    return finish(run, table, validation, dataset, args)


def finish(
    run: records.Run, table: torch.Tensor, validation: np.ndarray, dataset: Dataset, args: argparse.Namespace
) -> dict:
    """Fits what people decide by to the best epoch's answers in float32: it was chosen by bf16 ones."""
    if parallel.rank():
        return run.checkpoint
    device, labels, file = infer.pick_device(args.device), dataset.labels[validation], run.folder / "model.pt"
    checkpoint, best = models.load_checkpoint(file)
    exact = Batches(table, dataset.labels, validation, EVALUATION_BATCH[device.type], device,
                    tuple(checkpoint["normalisation"]))  # fmt: skip
    logits = infer.network_logits(best.to(device, memory_format=torch.channels_last), exact)
    checkpoint |= {**records.fit_decision(logits, labels), "history": run.history, "seconds": run.seconds()}
    probabilities = metrics.positive_probability(logits, checkpoint["temperature"])
    patients = [dataset.patients[i] for i in validation]
    checkpoint["operating_points"] = scoring.operating_points(labels, probabilities, patients, checkpoint["threshold"])
    _, codes = np.unique(patients, return_inverse=True)  # not their names
    checkpoint["validation_answers"] = {
        "logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels), "patients": torch.from_numpy(codes)
    }  # fmt: skip
    models.save_checkpoint(file, checkpoint)
    records.write_record(run.folder, checkpoint, args, run.seconds())
    print(f"{file}: epoch {checkpoint['epoch']}, temperature {checkpoint['temperature']:.3f}, "
          f"threshold {checkpoint['threshold']:.4f}, from validation\n")  # fmt: skip
    return checkpoint


def thinned(indices: np.ndarray, dataset: Dataset) -> np.ndarray:
    """At most QUICK_IMAGES of the indices, both classes in proportion."""
    ordered = indices[np.argsort(dataset.labels[indices], kind="stable")]
    step = max(len(ordered) / QUICK_IMAGES, 1)
    return np.sort(ordered[np.arange(0, len(ordered), step).astype(int)])


# -------------------------------------------------------------------------------------------- command line


def recipe_of(args: argparse.Namespace, architecture: str) -> Recipe:
    """The recipe for an architecture, with what the command line changes in it."""
    recipe = RECIPES[args.recipe][architecture]
    if args.quick:
        recipe = replace(recipe, epochs=QUICK_EPOCHS)
    changes = {"epochs": args.epochs, "batch_size": args.batch_size, "learning_rate": args.lr,
               "resize_from": args.resize_from}  # fmt: skip
    recipe = replace(recipe, **{key: value for key, value in changes.items() if value is not None})
    return replace(recipe, augment=replace(recipe.augment, flip=True)) if args.flip else recipe


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--arch", choices=models.ARCHITECTURES, help="the network to train")
    which.add_argument("--all", action="store_true", help="all three, one after the other")
    data.add_arguments(parser)
    data.add_split_arguments(parser)
    infer.add_device_argument(parser)
    parser.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
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
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on CUDA, where it pays")
    parser.add_argument("--deterministic", action="store_true", help="the same result again on CUDA too, more slowly")
    parser.add_argument("--lr", type=common.positive_number, help="highest learning rate; default: the recipe's")
    parser.add_argument("--flip", action="store_true", help="also mirror images at random (it mirrors the heart)")
    parser.add_argument("--seed", type=common.whole_number(0), default=0, help="of weights, order and augmentation")
    parser.add_argument("--seeds", type=common.whole_number(1, 1000), metavar="N",
                        help="train N times, from --seed on; the runs are called NAME-s0, NAME-s1, ...")  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="ImageNet weights for resnet34-pretrained: a torchvision resnet34 state dict")  # fmt: skip
    parser.add_argument("--name", help="of the run's folder; default: the architecture")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a smoke run: {QUICK_EPOCHS} epochs on {QUICK_IMAGES} images; its results mean nothing",
    )
    args = parser.parse_args(argv)
    if args.name and (args.all or args.name in ("old", ".", "..") or set(args.name) & set("/\\")):
        parser.error("--name is one plain folder name other than 'old', and goes with --arch")
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
    split = data.split(dataset, args.split, args.split_seed)
    print(dataset.name)
    print(f"split by {split.how}, seed {split.seed}, fingerprint {split.fingerprint}: {len(split.train):,} training, "
          f"{len(split.validation):,} validation, {len(split.test):,} test images")  # fmt: skip
    for note in (*split.notes, *contradictions(dataset)):
        parallel.say(note)
    rows = []
    for (architecture, seed), made in networks.items():
        network, origin = made or prepare(architecture, seed, args)  # not all of them in memory at once
        args.architecture, args.seed = architecture, seed
        name = (args.name or architecture) + (f"-s{seed}" if args.seeds else "")
        with records.claimed(args.out / name):
            checkpoint = train_run(name, network, origin, dataset, split, args)
        best = checkpoint["history"][checkpoint["epoch"] - 1]
        rows.append([checkpoint["name"], best["epoch"], best["val_accuracy"], best["val_auroc"], best["val_loss"],
                     checkpoint["seconds"] / 60])  # fmt: skip
    headers = ["model", "best epoch", "validation accuracy", "AUROC", "loss", "minutes"]
    print(tabulate(rows, headers, floatfmt=("", "", ".4f", ".4f", ".4f", ".1f")))
    for architecture, problem in skipped.items():
        parallel.say(f"{architecture} was skipped: {problem}")
    print(f"next: python evaluate.py --all{'' if args.out == Path('runs') else f' --runs {args.out}'}")
    return 1 if skipped else 0


def main(argv: list[str] | None = None) -> int:
    return common.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
