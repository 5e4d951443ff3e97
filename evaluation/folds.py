"""Several models of one training, as `train.py --folds` leaves them: how they do on all films that validated them.

Each film is answered by the model that was not trained on it, so that few films whose frame lies become more.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import data
from basics import problems
from basics.problems import UsageProblem
from devices import hardware
from evaluation import explanation, frames, markup
from evaluation.explanation import Validated
from metrics import estimation, measures
from training.batches import table_on

Models = Sequence[tuple[Path, dict]]  # files, and the checkpoints in them
ALIKE = ("architecture", "size", "fit", "data")
FOLDS = "several models must be folds of one training (train.py --folds)"
# Of the table of models, in its order; AUROC of whole films and of parts, and of the frame by a cheap model.
COLUMNS = {
    "whole": "AUROC",
    "accuracy": "accuracy",
    "sensitivity": "sensi-\ntivity",
    "specificity": "speci-\nficity",
    "hidden": "AUROC:\nmiddle\nhidden",
    "alone": "\nmiddle\nalone",
    "frame": "frame,\ncheap\nmodel",
}


def alike(models: Models) -> None:
    """Raises UsageProblem unless the models are of one architecture and size, and their films of one set."""
    first, wanted = models[0]
    for (path, checkpoint), key in itertools.product(models, ALIKE):
        found, of_first = ((facts["data"]["fingerprint"] if key == "data" else facts[key])
                           for facts in (checkpoint, wanted))  # fmt: skip
        if found != of_first:
            raise UsageProblem(f"{path} has another {key} than {first} ({found}, {of_first}): {FOLDS}")


def splits_apart(models: Models, dataset: data.Dataset) -> list[data.Split]:
    """The split of each model. Raises UsageProblem where a film validated two of them."""
    paths, splits = [path for path, _ in models], [explanation.own_split(*model, dataset) for model in models]
    for (one, own), (other, theirs) in itertools.combinations(zip(paths, splits, strict=True), 2):
        if count := len(np.intersect1d(own.validation, theirs.validation)):
            raise UsageProblem(f"{one} and {other} share {problems.numbered(count, 'validation film')}: {FOLDS}")
    return splits


def as_they_are(model: Validated) -> tuple[frames.Films, dict[str, Any]]:
    """A model's validation films, and a row of what it makes of them."""
    checkpoint, films = model.checkpoint, model.by_frame(model.logits(model.stress.show("as it is")))
    row = measures.classification(films.labels, films.whole, checkpoint["threshold"])
    areas = {part: found["value"] for part, found in frames.areas(films).items()}
    return films, {**row, **areas, "name": checkpoint["name"]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a model, and their mean, for a screen of 100 columns."""
    lines = [[problems.printable(row["name"]), f"{row['n']:,}", markup.number(row["threshold"], 4),
              *(markup.number(row[key]) for key in COLUMNS)] for row in rows]  # fmt: skip
    means = [markup.number(float(np.mean([row[key] for row in rows]))) for key in COLUMNS]
    lines.append(["mean", "", "", *means])
    return markup.screen_table(["films as they are", "films", "threshold", *COLUMNS.values()], lines)


def work(args: argparse.Namespace) -> int:
    hardware.set_precision()
    device = hardware.pick_device(args.device)
    opened = [explanation.opened(path) for path in args.models]
    models = [(path, checkpoint) for path, (checkpoint, _) in zip(args.models, opened, strict=True)]
    alike(models)
    checkpoint, _ = opened[0]
    dataset = explanation.loaded(args, checkpoint)
    splits, pixels = splits_apart(models, dataset), table_on(dataset.images, device)
    answered = [as_they_are(Validated(*each, dataset, split, pixels, device))
                for each, split in zip(opened, splits, strict=True)]  # fmt: skip
    films, rows = frames.Films.pooled([found for found, _ in answered]), [row for _, row in answered]
    print(f"{dataset.name}\n{checkpoint['architecture']}: {len(rows)} models, {len(films.labels):,} validation images, "
          f"each answered by the model that was not trained on it\n\n{table(rows)}")  # fmt: skip
    mean = {key: estimation.estimate(float(np.mean([row[key] for row in rows]))) for key in COLUMNS}
    name = f"{checkpoint['architecture']} (mean of {len(rows)} models)"
    explanation.say_of_frames(name, films, mean)
    return 0
