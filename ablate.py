"""What each part of a recipe is worth on films from elsewhere: `python ablate.py --arch simple --data chest_xray`.

Trains variants of the recipe with several seeds each, and prints what validation says of them: films as they are, and
stress validation. Test images are never read. Stopped, the same command goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

import candidates
import common
import data
import infer
import models
import train
from batches import Augment
from candidates import CANDIDATES
from data import Dataset, Split
from recipes import Recipe
from stopping import Stopped

MILD = Augment()  # what the recipes did before stress validation


def augmented(**changes: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, augment=replace(recipe.augment, **changes))


def as_mild(*fields: str) -> Callable[[Recipe], Recipe]:
    return augmented(**{field: getattr(MILD, field) for field in fields})


def longer(factor: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, epochs=max(round(recipe.epochs * factor), 1))


def times(**factors: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, **{name: getattr(recipe, name) * by for name, by in factors.items()})


FRAMING, TONE, DETAIL, SHAPE = (
    ("shift", "tightest", "widest", "aspect", "unmoved"),
    ("brightness", "contrast", "curve"),
    ("blur", "sharpen"),
    ("reshaped",),
)
VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    "the recipe": lambda recipe: recipe,
    "mild framing and tone": as_mild(*FRAMING, *TONE, *DETAIL, *SHAPE),
    "framing alone": as_mild(*TONE, *DETAIL, *SHAPE),
    "tone alone": as_mild(*FRAMING, *DETAIL, *SHAPE),
    "sharpness alone": as_mild(*FRAMING, *TONE, *SHAPE),
    "shape alone": as_mild(*FRAMING, *TONE, *DETAIL),
    "without framing": as_mild(*FRAMING),
    "without tone": as_mild(*TONE),
    "without sharpness": as_mild(*DETAIL),
    "without shape": as_mild(*SHAPE),
    "three films in ten reshaped": augmented(reshaped=0.3),
    "seven films in ten reshaped": augmented(reshaped=0.7),
    "no film unmoved": augmented(unmoved=0.0),
    "half of the films unmoved": augmented(unmoved=0.5),
    "as much blurring as sharpening": augmented(blur=1.0, sharpen=1.0),
    "and covered borders": augmented(border=0.2),
    "and mirror images": augmented(flip=True),
    "and rotation to 15 degrees": augmented(rotation=15.0),
    "parts of 0.55 to 1.1": augmented(tightest=0.55, widest=1.1),
    "parts of 0.7 to 1.3": augmented(tightest=0.7, widest=1.3),
    "wider or narrower by 1.8": augmented(aspect=1.8),
    "half as long": longer(0.5),
    "half as long again": longer(1.5),
    "twice as long": longer(2),
    "half the learning rate": times(learning_rate=0.5),
    "twice the learning rate": times(learning_rate=2),
    "no weight decay": times(weight_decay=0),
    "ten times the weight decay": times(weight_decay=10),
}


COLUMNS = {
    "auroc": "AUROC, films as they are",
    "mean auroc": "stress, mean",
    "worst auroc": "stress, worst",
    "accuracy": "accuracy, films as they are",
    "mean accuracy": "stress, mean",
    "worst accuracy": "stress, worst",
}


def measured(checkpoint: dict) -> dict[str, float]:
    """AUROC and accuracy of a run on the validation films as they are, and their mean and worst over all views."""
    rows = checkpoint["stress"]
    found = {}
    for measure in ("auroc", "accuracy"):
        values = [row[measure] for row in rows]
        found |= {f"{measure}": values[0], f"mean {measure}": float(np.mean(values)), f"worst {measure}": min(values)}
    return found


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = common.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", **common.choices(models.ARCHITECTURES), required=True, help="whose recipe")
    names = (*VARIANTS, *CANDIDATES)
    parser.add_argument("--variants", **common.choices(names), nargs="+", default=list(names),
                        metavar="NAME", help=f"default: all; of {', '.join(names)}")  # fmt: skip
    parser.add_argument("--seeds", type=common.whole_number(1, 100), default=3, metavar="N", help="default: 3")
    parser.add_argument("--epochs", type=common.whole_number(1), help="default: the recipe's")
    parser.add_argument("--weights", type=common.file_path, metavar="FILE", help="for resnet34-pretrained")
    parser.add_argument(
        "--out", type=common.folder_path, default=Path("runs/ablation"), metavar="DIR", help="default: %(default)s"
    )
    data.add_arguments(parser)
    data.add_split_arguments(parser)
    infer.add_device_argument(parser)
    return parser.parse_args(argv)


def logged(log: Path) -> dict[tuple[str, int], dict]:
    """What earlier calls have measured, by variant and seed."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return {(run["variant"], run["seed"]): run for run in map(common.parse_json, lines)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise common.Problem(f"{log}: cannot be gone on with ({error}); move it away") from error


def train_variants(args: argparse.Namespace) -> list[dict]:
    """A dict a run; each is a line of OUT/<architecture>.jsonl too, beside those of other variants and seeds."""
    dataset = data.load(args.data, args.size, args.cache, args.fit, args.skip_bad)
    split = data.split(dataset, args.split, args.split_seed)
    print(f"{dataset.name}: {len(split.train):,} training, {len(split.validation):,} validation images")
    log, runs = args.out / f"{args.arch}.jsonl", []
    known = logged(log)
    for seed in range(args.seeds):
        for variant in args.variants:
            runs.append(run(variant, seed, dataset, split, args, known.get((variant, seed))))
            known[variant, seed] = runs[-1]
            common.write_text(log, "".join(json.dumps(run) + "\n" for run in known.values()))
    return runs


def run(variant: str, seed: int, dataset: Dataset, split: Split, args: argparse.Namespace, known: dict | None) -> dict:
    """Trains one variant with one seed, or finds that this was done."""
    options = train.parse(["--arch", args.arch, "--resume", "--seed", str(seed)])
    for option in ("epochs", "weights", "size", "fit", "split", "split_seed", "device"):
        setattr(options, option, getattr(args, option))
    options.architecture, options.out = args.arch, args.out / args.arch / variant.replace(" ", "-")
    recipe = VARIANTS.get(variant, VARIANTS["the recipe"])(train.recipe_of(options, args.arch))
    network, origin = train.prepare(args.arch, seed, options)
    facts = {"variant": variant, "seed": seed, "initial_weights": origin, "size": args.size, "fit": args.fit,
             "data": dataset.fingerprint, "split": split.fingerprint, "recipe": asdict(recipe)}  # fmt: skip
    if known and all(known.get(key) == value for key, value in facts.items()):
        print(f"{variant}, seed {seed}: measured already")
        return known
    print(f"{variant}, seed {seed}")
    if variant in CANDIDATES:
        done = candidates.train_candidate(CANDIDATES[variant], network, dataset, split, recipe, options)
    else:
        done = train.train_run(f"s{seed}", network, origin, dataset, split, recipe, options)
    return {**facts, **measured(done), "seconds": done["seconds"], "device": done["device"]}


def table(runs: list[dict]) -> str:
    """Means over the seeds and, after a +-, their standard deviations, in Markdown; accuracies at the threshold.

    Differences to the recipe are taken seed by seed, since all variants of a seed begin with the same weights.
    """
    lines, recipe = [], {run["seed"]: run for run in runs if run["variant"] == "the recipe"}
    for variant in dict.fromkeys(run["variant"] for run in runs):
        mine = [run for run in runs if run["variant"] == variant]
        cells = [with_deviation([run[column] for run in mine]) for column in COLUMNS]
        less = [run["mean auroc"] - recipe[run["seed"]]["mean auroc"] for run in mine if run["seed"] in recipe]
        cells.insert(2, with_deviation(less, "+") if less and variant != "the recipe" else "")
        lines.append([variant, *cells, len(mine)])
    headers = ["variant", *COLUMNS.values(), "seeds"]
    headers.insert(3, "less the recipe's")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def with_deviation(values: list[float], sign: str = "") -> str:
    deviation = f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.4f}{deviation}"


def work(args: argparse.Namespace) -> int:
    infer.keep_freed_memory()
    infer.set_precision()
    try:
        runs = train_variants(args)
    except Stopped as stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return 128 + stopped.signum
    print(f"\n{args.arch}, {runs[0]['recipe']['epochs']} epochs but where said, size {args.size}, "
          f"{runs[0]['device']}\n\n{table(runs)}")  # fmt: skip
    return 0


def main(argv: list[str] | None = None) -> int:
    return common.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
