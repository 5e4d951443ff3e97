"""Trains variants and candidates with several seeds each, and tells what stress validation says of them."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tabulate import tabulate

import data
from basics import disk, problems
from data import Dataset, Split
from devices import hardware
from studies import candidates, probes
from studies.candidates import CANDIDATES
from studies.variants import AND, VARIANTS
from training import runs, stress_views
from training.request import Request
from training.stopping import Stopped

COLUMNS = {
    "auroc": "AUROC, films as they are",
    "mean auroc": "mean of views",
    "worst auroc": "worst view",
    "exchanged auroc": "frames exchanged",
    "hidden auroc": "middle hidden",
    "accuracy": "accuracy, films as they are",
    "mean accuracy": "mean of views",
    "worst accuracy": "worst view",
    "matched accuracy": "frames matched",
}


def measured(done: dict) -> dict[str, float]:
    """AUROC and accuracy of a run: films as they are, mean and worst of the views, and what its frames do to it.

    done: what candidates.train_candidate returns.
    """
    rows, found = stress_views.views_of(done["stress"]), {}
    for measure in ("auroc", "accuracy"):
        values = [row[measure] for row in rows]
        found |= {f"{measure}": values[0], f"mean {measure}": float(np.mean(values)), f"worst {measure}": min(values)}
    exchanged = next(row for row in rows if row["view"] == "frames exchanged")
    return found | {
        "exchanged auroc": exchanged["auroc"],
        "hidden auroc": done["probes"]["auroc, middle hidden"],
        "matched accuracy": done["stress"][-1]["accuracy"],
    }


def logged(log: Path) -> dict[tuple[str, int], dict]:
    """What earlier calls have measured, by variant and seed."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return {(run["variant"], run["seed"]): run for run in map(disk.parse_json, lines)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise problems.Problem(f"{log}: cannot be gone on with ({error}); move it away") from error


def train_variants(args: argparse.Namespace) -> list[dict]:
    """A dict a run; each is a line of OUT/<architecture>.jsonl too, beside those of other variants and seeds."""
    dataset = data.load(args.data, args.size, args.cache, args.fit, args.skip_bad, args.classes)
    split = data.split(dataset, args.split, args.split_seed)
    print(f"{dataset.name}: {len(split.train):,} training, {len(split.validation):,} validation images")
    log, found = args.out / f"{args.arch}.jsonl", []
    known, frames = logged(log), probes.frame_scores(dataset, split)
    for seed in range(args.seeds):
        for variant in args.variants:
            found.append(run(variant, seed, dataset, split, args, known.get((variant, seed)), frames))
            known[variant, seed] = found[-1]
            disk.write_text(log, "".join(json.dumps(run) + "\n" for run in known.values()))
    return found


def run(
    variant: str, seed: int, dataset: Dataset, split: Split, args: argparse.Namespace, known: dict | None,
    frames: tuple[np.ndarray, np.ndarray],
) -> dict:  # fmt: skip
    """Trains one variant with one seed, or finds that this was done."""
    request = Request(arch=args.arch, architecture=args.arch, seed=seed, epochs=args.epochs,
                      weights=args.weights, size=args.size, fit=args.fit, split=args.split, split_seed=args.split_seed,
                      device=args.device)  # fmt: skip
    recipe, parts = runs.recipe_of(request), variant.split(AND)
    for part in parts:
        recipe = VARIANTS.get(part, VARIANTS["the recipe"])(recipe)
    network, origin = runs.prepare(request)
    facts = {"variant": variant, "seed": seed, "initial_weights": origin, "size": args.size, "fit": args.fit,
             "data": dataset.fingerprint, "split": split.fingerprint, "recipe": asdict(recipe)}  # fmt: skip
    if known and all(known.get(key) == value for key, value in facts.items()):
        print(f"{variant}, seed {seed}: measured already")
        return known
    print(f"{variant}, seed {seed}")
    candidate = candidates.together([part for part in parts if part in CANDIDATES])
    done = candidates.train_candidate(candidate, network, dataset, split, recipe, request, frames)
    return {**facts, **measured(done), **{key: done[key] for key in ("stress", "probes", "seconds", "device")}}


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
    hardware.keep_freed_memory()
    hardware.set_precision()
    try:
        runs = train_variants(args)
    except Stopped as stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return 128 + stopped.signum
    print(f"\n{args.arch}, {runs[0]['recipe']['epochs']} epochs but where said, size {args.size}, "
          f"{runs[0]['device']}\n\n{table(runs)}")  # fmt: skip
    return 0
