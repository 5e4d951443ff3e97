"""What a trained network gets wrong on stress validation: tables, and the worst errors as pictures."""

import argparse
import io
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tabulate import tabulate

import data
from basics import disk, problems
from basics.problems import Problem
from devices import hardware
from graphs import building
from metrics import measures
from training import calibration, checkpoints, inference, stress_views
from training.batches import Batches, table_on

STRONGEST = 8.0  # log-odds at which the colour of a heat map is full, the same in all pictures


def opened(args: argparse.Namespace) -> tuple[dict, torch.nn.Module, data.Dataset, data.Split]:
    """The checkpoint, its network, its data and its split. Raises Problem where the data is another."""
    if args.model.suffix == ".onnx":
        raise Problem(f"{args.model}: a graph does not say which films validated it; name the run's model.pt")
    checkpoint, network = checkpoints.load_checkpoint(args.model)
    source = args.data or checkpoint["data"]["source"]
    dataset = data.load(source, checkpoint["size"], args.cache, checkpoint["fit"], args.skip_bad)
    split = data.split_again(dataset, checkpoint["split"])
    if not data.is_own(split, dataset, checkpoint):
        raise Problem(f"{args.model}: {dataset.source} is not the data that it was trained on; --data names that")
    return checkpoint, network, dataset, split


class Errors:
    """The errors of a network on the validation films of one view.

    probabilities (N,), wrong: the places of its errors, those that it was surest of first.
    """

    def __init__(self, shown: torch.Tensor, labels: NDArray, probabilities: NDArray, threshold: float) -> None:
        self.shown, self.labels, self.probabilities = shown, labels, probabilities
        decided = measures.decide(probabilities, threshold)
        wrong = np.flatnonzero(decided != labels)
        sure = np.abs(measures.log_odds(probabilities) - measures.log_odds([np.clip(threshold, 0, 1)]))
        self.wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
        self.missed = int((decided < labels).sum())


def answered(
    checkpoint: dict,
    network: torch.nn.Module,
    stress: stress_views.StressValidation,
    labels: NDArray,
    device: torch.device,
) -> tuple[dict[str, Errors], dict[str, NDArray]]:
    """The errors of each view, and the (N, 2) logits of each."""
    errors, logits, every = {}, {}, np.arange(len(labels))
    network = network.to(device).to(memory_format=torch.channels_last)
    for view in stress.views:
        shown = stress.show(view)
        batches = Batches(shown, labels, every, 128, device, tuple(checkpoint["normalisation"]))
        logits[view] = inference.network_logits(network, batches, reduced=True)
        probabilities = measures.positive_probability(logits[view], checkpoint["temperature"])
        errors[view] = Errors(shown, labels, probabilities, checkpoint["threshold"])
    return errors, logits


def decided_otherwise(logits: dict[str, NDArray], labels: NDArray) -> str:
    """A table: what other temperatures and thresholds, fitted to these films, would make of the (N, 2) logits."""
    all_logits, all_labels = np.concatenate([*logits.values()]), np.tile(labels, len(logits))
    everywhere, here = calibration.fit(all_logits, all_labels), calibration.fit(logits["as it is"], labels)
    temperature = everywhere["temperature"]
    probabilities = measures.positive_probability(all_logits, temperature)
    choices = [
        ("films as they are", "Youden's J", here["temperature"], here["threshold"]),
        ("all views", "Youden's J", temperature, everywhere["threshold"]),
        ("all views", "0.5", temperature, 0.5),
    ]
    for target in (0.95, 0.99):
        threshold = measures.threshold_at_sensitivity(all_labels, probabilities, target)
        choices.append(("all views", f"{target:.0%} sensitivity", temperature, threshold))
    lines = []
    for films, how, temperature, threshold in choices:
        losses = [measures.log_loss(found, labels, temperature) for found in logits.values()]
        rows = [
            measures.classification(labels, measures.positive_probability(found, temperature), threshold)
            for found in logits.values()
        ]
        accuracies = [row["accuracy"] for row in rows]
        lowest = [min(row[measure] for row in rows) for measure in ("sensitivity", "specificity")]
        spread = [
            [values[0], np.mean(values), extreme(values)] for values, extreme in ((losses, max), (accuracies, min))
        ]
        lines.append([films, how, temperature, threshold, *spread[0], *spread[1], *lowest])
    headers = ["fitted to", "threshold by", "T", "threshold", "log loss\nas they are", "\nmean", "\nworst",
               "accuracy\nas they are", "\nmean", "\nworst", "sensitivity\nworst", "specificity\nworst"]  # fmt: skip
    return tabulate(lines, headers, floatfmt=("", "", ".2f", ".4f", *[".3f"] * 8))


@torch.inference_mode()
def heat_maps(checkpoint: dict, network: torch.nn.Module, films: torch.Tensor) -> NDArray | None:
    """(N, S, S) of (N, S, S) uint8: each place's share in the log-odds of pneumonia; None where there is no such map.

    With their mean and the network's bias the log-odds are complete: building.has_heatmap.
    """
    if not building.has_heatmap(network):
        return None
    maps = building.Deployed(network.cpu().eval(), checkpoint)(films.cpu())[3]
    size = tuple(films.shape[1:])
    return torch.nn.functional.interpolate(maps[:, None], size, mode="bilinear")[:, 0].numpy()


def draw(
    checkpoint: dict, network: torch.nn.Module, errors: dict[str, Errors], names: list[str], count: int, title: str
) -> bytes:
    """PNG of the worst `count` errors of each view, a row a view, each film beside itself under its heat map."""
    rows = {view: found for view, found in errors.items() if len(found.wrong)}
    width = 2 if building.has_heatmap(network) else 1
    figure = Figure(figsize=(2 + 1.75 * width * count, 0.7 + 2.05 * len(rows)), layout="constrained")
    figure.suptitle(title, color="#B00020" if title.startswith("SYNTHETIC") else "black", parse_math=False, fontsize=10)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (view, found) in zip(grid, rows.items(), strict=True):
        worst = found.wrong[:count]
        films = found.shown[torch.from_numpy(worst).to(found.shown.device)].cpu()
        maps = heat_maps(checkpoint, network, films)
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        line[0].set_ylabel(f"{view}\n{len(found.wrong)} errors", fontsize=8)
        for axes, film, place, k in zip(line, films.numpy(), worst, range(count), strict=False):
            both = np.concatenate([film] * width, 1)
            axes.imshow(both, cmap="gray", vmin=0, vmax=255)
            if maps is not None:
                level = np.clip(np.concatenate([np.zeros_like(maps[k]), maps[k]], 1) / STRONGEST, -1, 1)
                axes.imshow(level, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.6 * np.abs(level))
            truth = "missed" if found.labels[place] else "false alarm"
            label = f"{truth}, P = {found.probabilities[place]:.3f}\n{names[place][-44:]}"
            axes.set_title(label, fontsize=6.5, parse_math=False)
    stream = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 130}):
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def work(args: argparse.Namespace) -> int:
    hardware.set_precision()
    device = hardware.pick_device(args.device)
    checkpoint, network, dataset, split = opened(args)
    labels = dataset.labels[split.validation]
    table, shapes = table_on(dataset.images, device), data.shape_ratio(dataset, split.train)
    stress = stress_views.StressValidation(table, dataset.labels, split.train, split.validation, shapes)
    errors, logits = answered(checkpoint, network, stress, labels, device)
    decided = checkpoint["temperature"], checkpoint["threshold"]
    print(f"{dataset.name}\n{checkpoint['name']}: {len(labels):,} validation images, threshold "
          f"{checkpoint['threshold']:.4f}\n")  # fmt: skip
    print(stress_views.table(stress.measured(logits, *decided)))
    print(f"\nIf it were decided otherwise ({len(logits)} views, without the matched films):\n")
    print(decided_otherwise(logits, labels))
    counts = [[view, found.missed, len(found.wrong) - found.missed] for view, found in errors.items()]
    headers = ["errors", f"missed, of {labels.sum():,}", f"false alarms, of {(1 - labels).sum():,}"]
    print(f"\n{tabulate(counts, headers)}")
    if not any(len(found.wrong) for found in errors.values()):
        print("\nno errors to draw")
        return 0
    title = f"{'SYNTHETIC: ' * dataset.synthetic}{checkpoint['name']}: the errors that it was surest of, view by view"
    if building.has_heatmap(network):
        title += f"\nbeside each film what speaks for pneumonia (red) or normal (blue), full at {STRONGEST:g} log-odds"
    out = args.out or args.model.with_name("errors.png")
    names = [problems.printable(Path(dataset.files[i]).name) for i in split.validation]
    disk.write_bytes(out, draw(checkpoint, network, errors, names, args.count, title))
    print(f"\n{out}: the worst of them")
    return 0
