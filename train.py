"""Trains a network for pneumonia against normal: `python train.py --arch simple --data chest_xray`.

Writes runs/<name>/: model.pt (the best epoch by validation AUROC), last.pt (the last epoch), history.csv (a row an
epoch) and run.json (options, versions, data). Test images are never read here: evaluate.py does that.
"""

import argparse
import datetime
import importlib.metadata
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
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
from batches import NO_AUGMENT, Augment, Batches, pixel_statistics, table_on
from common import Problem
from data import Dataset, Split


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Classes are not weighted: AUROC, by which the epoch is chosen, does not depend
    on their balance, and unweighted cross-entropy keeps probabilities at the balance that the data has; where
    to cut them is the threshold's business, and that is fitted on validation."""

    epochs: int
    learning_rate: float  # the highest one
    batch_size: int = 64
    optimizer: str = "adamw"  # or "adam": without weight decay
    weight_decay: float = 0.01  # per unit of learning rate, as AdamW defines it
    warm_up: float = 0.1  # share of all steps in which the learning rate rises from 0
    decay: bool = True  # then falls to 0 along a cosine; False: stays
    augment: Augment = field(default_factory=Augment)


# What the published notebooks did, the same for all three networks.
SEED_RECIPE = Recipe(20, 1e-4, 64, "adam", 0.0, 0.0, False, replace(NO_AUGMENT, flip=True))
RECIPES = {
    "default": {
        "simple": Recipe(epochs=20, learning_rate=1e-3),
        "resnet34": Recipe(epochs=8, learning_rate=1e-3, weight_decay=0.05),
        "resnet34-pretrained": Recipe(epochs=8, learning_rate=3e-4, weight_decay=0.05),
    },
    "seed": dict.fromkeys(models.ARCHITECTURES, SEED_RECIPE),
}
QUICK_EPOCHS, QUICK_IMAGES = 2, 192


# -------------------------------------------------------------------------------------------------- the loop


def train(network: torch.nn.Module, recipe: Recipe, training: Batches, validation: Batches, keep: Callable) -> None:
    """Trains `network` in place; after each epoch calls keep(epoch's row of history, validation logits)."""
    optimizer = make_optimizer(network, recipe)
    steps = len(training) * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps, recipe))
    bar = tqdm(total=len(training.indices) * recipe.epochs, unit=" images", disable=not sys.stderr.isatty())
    with bar:
        for epoch in range(1, recipe.epochs + 1):
            start = time.perf_counter()
            rate = schedule.get_last_lr()[0]
            logits, labels = train_one_epoch(network, training, epoch, optimizer, schedule, bar)
            trained = time.perf_counter()
            validation_logits = infer.network_logits(network, validation, reduced=True)
            row = {"epoch": epoch, "learning_rate": rate}
            row |= scores("train", logits, labels)
            row |= scores("val", validation_logits, validation.labels.cpu().numpy())
            row["seconds"] = time.perf_counter() - start
            row["images_per_second"] = len(labels) / (trained - start)
            keep(row, validation_logits)


def train_one_epoch(
    network: torch.nn.Module,
    batches: Batches,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    bar: tqdm,
) -> tuple[np.ndarray, np.ndarray]:
    """One pass over the training images; returns the logits (N, 2) and labels (N,) as they were met."""
    network.train()
    kept = []
    for images, labels in batches.epoch(epoch):  # (B, 1, S, S), (B,)
        with infer.autocast(batches.device):
            logits = network(images)  # (B, 2)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        kept.append((logits.detach().float(), labels))  # stays on the device: reading it would be a sync point
        bar.update(len(labels))
    finite = torch.stack([logits.isfinite().all() for logits, _ in kept]).cpu()  # the epoch's sync point
    if not finite.all():
        step = int(finite.int().argmin()) + 1
        raise Problem(f"epoch {epoch}, step {step}: the network's output is not finite; try a lower --lr")
    return torch.cat([logits for logits, _ in kept]).cpu().numpy(), torch.cat([y for _, y in kept]).cpu().numpy()


def make_optimizer(network: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or Adam; weight decay on weights, not on biases and batch-norm parameters (vectors)."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer]
    return kind(groups, lr=recipe.learning_rate, fused=True)


def rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """The share of the highest learning rate at a step: a linear rise, then half a cosine down to 0."""
    rise = recipe.warm_up * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min((step - rise) / max(steps - rise, 1), 1))) if recipe.decay else 1.0


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


@dataclass
class Run:
    """A network being trained: its folder, and everything of its checkpoint but the weights."""

    folder: Path
    network: torch.nn.Module
    recipe: Recipe
    checkpoint: dict
    history: list[dict] = field(default_factory=list)

    def keep(self, row: dict, validation_logits: np.ndarray, labels: np.ndarray) -> None:
        """After an epoch: prints it, writes last.pt and history.csv, and model.pt when it is the best so far."""
        best = not self.history or rank(row) > max(map(rank, self.history))
        self.history.append(row)
        tqdm.write(
            f"epoch {row['epoch']:>2}/{self.recipe.epochs}  lr {row['learning_rate']:.1e}  "
            f"train loss {row['train_loss']:.4f} acc {row['train_accuracy']:.3f}  "
            f"val loss {row['val_loss']:.4f} acc {row['val_accuracy']:.3f} AUROC {row['val_auroc']:.4f}  "
            f"{row['seconds']:.0f} s, {row['images_per_second']:.0f} images/s{'  best' if best else ''}"
        )
        self.checkpoint |= {"epoch": row["epoch"], "history": self.history, "seconds": self.seconds()}
        self.checkpoint |= fit_decision(validation_logits, labels)
        self.save("last.pt")
        if best:
            self.save("model.pt")
        common.write_text(self.folder / "history.csv", common.csv_text(self.history))

    def save(self, name: str) -> None:
        models.save_checkpoint(self.folder / name, {**self.checkpoint, "state": self.network.state_dict()})

    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.history)


def rank(row: dict) -> tuple[float, float]:
    """What the best epoch is the largest of: validation AUROC, then low validation loss."""
    return row["val_auroc"], -row["val_loss"]


def fit_decision(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The temperature and, for the probabilities it gives, Youden's threshold; both from validation alone."""
    low, high = 0.05, 20.0
    temperature = metrics.fit_temperature(logits, labels, (low, high))
    if temperature <= low:  # validation is separated completely, which does not say how sure one may be
        temperature = 1.0
    probabilities = metrics.positive_probability(logits, temperature)
    return {"temperature": temperature, "threshold": metrics.youden_threshold(labels, probabilities)}


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
    network = network.to(device, memory_format=torch.channels_last)
    table = table_on(dataset.images, device)
    normalisation = pixel_statistics(table, training)
    labels = dataset.labels
    folder = fresh_folder(Path(args.out), name)
    run = Run(
        folder, network, recipe, new_checkpoint(name, origin, dataset, split, args, recipe, normalisation, device)
    )
    common.write_json(folder / "run.json", run_record(run.checkpoint, args, None))
    print(f"{name}: {models.parameter_count(network):,} parameters, {len(training):,} training and "
          f"{len(validation):,} validation images, {recipe.epochs} epochs on {run.checkpoint['device']}")  # fmt: skip
    train(
        network,
        recipe,
        Batches(table, labels, training, recipe.batch_size, device, normalisation, recipe.augment, args.seed),
        exact := Batches(table, labels, validation, 128, device, normalisation),
        lambda row, logits: run.keep(row, logits, labels[validation]),
    )
    # The epoch was chosen with bf16 logits where the hardware has them; what people decide by is fitted in float32.
    checkpoint, best = models.load_checkpoint(folder / "model.pt")
    logits = infer.network_logits(best.to(device, memory_format=torch.channels_last), exact)
    checkpoint |= {**fit_decision(logits, labels[validation]), "history": run.history, "seconds": run.seconds()}
    probabilities = metrics.positive_probability(logits, checkpoint["temperature"])
    checkpoint["validation"] = metrics.classification(labels[validation], probabilities, checkpoint["threshold"])
    models.save_checkpoint(folder / "model.pt", checkpoint)
    common.write_json(folder / "run.json", run_record(checkpoint, args, run.seconds()))
    print(f"{folder / 'model.pt'}: epoch {checkpoint['epoch']}, temperature {checkpoint['temperature']:.3f}, "
          f"threshold {checkpoint['threshold']:.4f}, from validation\n")  # fmt: skip
    return checkpoint


def new_checkpoint(
    name: str,
    origin: str,
    dataset: Dataset,
    split: Split,
    args: argparse.Namespace,
    recipe: Recipe,
    normalisation: tuple[float, float],
    device: torch.device,
) -> dict:
    """Everything that evaluate.py and export.py need to know of a model, and what it saw."""
    seen = np.concatenate([split.train, split.validation])
    return {
        "name": name,
        "architecture": args.architecture,
        "classes": list(data.CLASSES),
        "size": args.size,
        "fit": dataset.fit,  # how images are made square
        "normalisation": list(normalisation),  # mean and standard deviation of pixels in [0, 1]
        "initial_weights": origin,
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "source": dataset.source,
            "synthetic": dataset.synthetic,
            "skipped": [list(pair) for pair in dataset.bad],  # files that could not be read, with --skip-bad
        },
        "split": {
            "how": split.how,
            "seed": split.seed,
            "fingerprint": split.fingerprint,
            "images": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        },
        "seen_images": data.hashed([dataset.pixel_hashes[i] for i in seen]),
        "seen_patients": data.hashed([dataset.patients[i] for i in seen]),
        "recipe": {"name": args.recipe, **asdict(recipe)},
        "quick": args.quick,
        "seed": args.seed,
        "device": infer.describe_device(device) + (", bf16" if infer.has_bf16(device) else ", float32"),
        "threshold_rule": "largest Youden's J on validation",
        "versions": versions(),
    }


def run_record(checkpoint: dict, args: argparse.Namespace, seconds: float | None) -> dict:
    """run.json: the checkpoint's plain values and the command line; `seconds` is null until the run is finished."""
    plain = {key: value for key, value in checkpoint.items()
             if key not in ("state", "history", "seen_images", "seen_patients", "seconds")}  # fmt: skip
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    return {"finished": seconds is not None, "seconds": seconds, "options": options, **plain}


def versions() -> dict[str, str]:
    """Versions of what computes the result, and the git revision of these files where they are in git."""
    found = {"project": common.VERSION, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pillow"):
        found[package] = importlib.metadata.version(package)
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    if (here / ".git").exists():
        try:
            found["git"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            found["git"] = f"unknown ({type(error).__name__})"
    return found


def thinned(indices: np.ndarray, dataset: Dataset) -> np.ndarray:
    """At most QUICK_IMAGES of the indices, both classes in proportion."""
    ordered = indices[np.argsort(dataset.labels[indices], kind="stable")]
    step = max(len(ordered) / QUICK_IMAGES, 1)
    return np.sort(ordered[np.arange(0, len(ordered), step).astype(int)])


def fresh_folder(out: Path, name: str) -> Path:
    """out/name, empty; an earlier run of that name is moved to out/old/, never overwritten."""
    folder = out / name
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
            (out / "old").mkdir(parents=True, exist_ok=True)
            folder.rename(out / "old" / f"{name}-{stamp}")
            print(f"the earlier {folder} is now {out / 'old' / f'{name}-{stamp}'}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"cannot write to {folder}: {error.strerror}; --out DIR writes elsewhere") from error
    return folder


# -------------------------------------------------------------------------------------------- command line


def recipe_of(args: argparse.Namespace, architecture: str) -> Recipe:
    """The recipe for an architecture, with what the command line changes in it."""
    recipe = RECIPES[args.recipe][architecture]
    if args.quick:
        recipe = replace(recipe, epochs=QUICK_EPOCHS)
    changes = {"epochs": args.epochs, "batch_size": args.batch_size, "learning_rate": args.lr}
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
    parser.add_argument("--lr", type=common.positive_number, help="highest learning rate; default: the recipe's")
    parser.add_argument("--flip", action="store_true", help="also mirror images at random (it mirrors the heart)")
    parser.add_argument("--seed", type=common.whole_number(0), default=0, help="of weights, order and augmentation")
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
    return args


def prepare(architecture: str, args: argparse.Namespace) -> tuple[torch.nn.Module, str]:
    """The network as training starts with it, and a sentence on where its weights come from."""
    torch.manual_seed(args.seed)
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
    infer.pick_device(args.device)  # a wrong one is said before the data is read
    networks, skipped = {}, {}
    for architecture in models.ARCHITECTURES if args.all else (args.arch,):
        try:  # all of them before the first is trained: nobody wants to read of a failed download next morning
            networks[architecture] = prepare(architecture, args)
        except Problem as problem:
            if not args.all:
                raise
            skipped[architecture] = problem
            print(f"{architecture} is skipped: {problem}", file=sys.stderr)
    dataset = data.load(args.data, args.size, args.cache, args.fit, args.skip_bad)
    split = data.split(dataset, args.split, args.split_seed)
    print(dataset.name)
    print(f"split by {split.how}, seed {split.seed}, fingerprint {split.fingerprint}: {len(split.train):,} training, "
          f"{len(split.validation):,} validation, {len(split.test):,} test images")  # fmt: skip
    for note in (*split.notes, *contradictions(dataset)):
        print(note, file=sys.stderr)
    rows = []
    for architecture, (network, origin) in networks.items():
        args.architecture = architecture
        checkpoint = train_run(args.name or architecture, network, origin, dataset, split, args)
        best = checkpoint["history"][checkpoint["epoch"] - 1]
        rows.append([checkpoint["name"], best["epoch"], best["val_accuracy"], best["val_auroc"], best["val_loss"],
                     checkpoint["seconds"] / 60])  # fmt: skip
    headers = ["model", "best epoch", "validation accuracy", "AUROC", "loss", "minutes"]
    print(tabulate(rows, headers, floatfmt=("", "", ".4f", ".4f", ".4f", ".1f")))
    for architecture, problem in skipped.items():
        print(f"{architecture} was skipped: {problem}", file=sys.stderr)
    print(f"next: python evaluate.py --all{'' if args.out == Path('runs') else f' --runs {args.out}'}")
    return 1 if skipped else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return common.run(lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
