"""What a trained network gets wrong on stress validation: tables, and the worst errors as pictures."""

import argparse
import io
from pathlib import Path

import matplotlib.cm
import matplotlib.colors
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tabulate import tabulate

import data
from basics import disk, problems
from basics.problems import Problem
from basics.progress import Progress
from devices import hardware
from films import sources
from graphs import building
from metrics import measures
from training import calibration, checkpoints, inference, stress_views
from training.batches import Batches, table_on

STRONGEST = 8.0  # log-odds at which the colour of a ResNet's map is full, the same in all pictures
FAINTEST = 0.5  # that of what a grey patch takes away, in a picture where it is nowhere more
CELLS = 10  # to a side of the film; the grey patch covers 2 x 2 of them


def opened(args: argparse.Namespace) -> tuple[dict, torch.nn.Module, data.Dataset, data.Split]:
    """The checkpoint, its network, its data and its split. Raises Problem where the data is another."""
    if args.model.suffix == ".onnx":
        raise Problem(f"{args.model}: a graph does not say which films validated it; name the run's model.pt")
    checkpoint, network = checkpoints.load_checkpoint(args.model)
    source, classes = sources.place_of(args, checkpoint["data"])
    dataset = data.load(source, checkpoint["size"], args.cache, checkpoint["fit"], args.skip_bad, classes)
    split = data.split_again(dataset, checkpoint["split"])
    if not data.is_own(split, dataset, checkpoint):
        raise Problem(f"{args.model}: {dataset.source} is not the data that it was trained on; --data names that")
    return checkpoint, network, dataset, split


class Errors:
    """The errors of a network on the validation films of one view.

    probabilities (N,), wrong: the places of its errors, those that it was surest of first; sure (N,): how sure it was.
    """

    def __init__(self, shown: torch.Tensor, labels: NDArray, probabilities: NDArray, threshold: float) -> None:
        self.shown, self.labels, self.probabilities = shown, labels, probabilities
        decided = measures.decide(probabilities, threshold)
        wrong = np.flatnonzero(decided != labels)
        self.sure = np.abs(measures.log_odds(probabilities) - measures.log_odds([np.clip(threshold, 0, 1)]))
        self.wrong = wrong[np.argsort(-self.sure[wrong], kind="stable")]
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
    with Progress(len(labels) * len(stress.views), "validation", leave=False, delay=2) as progress:
        for view in stress.views:
            shown = stress.show(view)
            batches = Batches(shown, labels, every, 128, device, tuple(checkpoint["normalisation"]))
            logits[view] = inference.network_logits(network, batches, reduced=True, moved=progress.update)
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
def heat_maps(checkpoint: dict, network: torch.nn.Module, films: torch.Tensor) -> NDArray:
    """(N, H, W) of (N, S, S) uint8: what each place adds to the log-odds of pneumonia.

    Of a ResNet its share in them: with their mean and the network's bias they are complete, see building.has_heatmap.
    Of another network, by how much they fall where a grey patch covers the film.
    """
    deployed = building.Deployed(network.cpu().eval(), checkpoint)
    if building.has_heatmap(network):
        maps = deployed(films.cpu())[3]
        return torch.nn.functional.interpolate(maps[:, None], tuple(films.shape[1:]), mode="bilinear")[:, 0].numpy()
    return np.stack([covered(deployed, film) for film in films.cpu().numpy()])


def covered(deployed: building.Deployed, film: NDArray) -> NDArray:
    """(CELLS, CELLS) of one (S, S) film, as `predict.py --heatmaps` finds it for graphs."""
    edges = np.linspace(0, len(film), CELLS + 1).astype(int)
    places = [(i, j) for i in range(CELLS - 1) for j in range(CELLS - 1)]
    films = np.repeat(film[None], len(places) + 1, axis=0)  # the last one stays as it is
    for copy, (i, j) in zip(films, places, strict=False):
        copy[edges[i] : edges[i + 2], edges[j] : edges[j + 2]] = round(float(film.mean()))
    logits = deployed(torch.from_numpy(films))[2].numpy()
    odds = (logits[:, 1] - logits[:, 0]) / deployed.temperature
    total, count = np.zeros((2, CELLS, CELLS))
    for fall, (i, j) in zip(odds[-1] - odds[:-1], places, strict=True):
        total[i : i + 2, j : j + 2] += fall
        count[i : i + 2, j : j + 2] += 1
    return total / count


def worst_films(errors: dict[str, Errors], count: int) -> list[int]:
    """The places of `count` different films, those that it was surest to be wrong of in any view."""
    sure = {}
    for found in errors.values():
        for place in found.wrong:
            sure[int(place)] = max(sure.get(int(place), 0.0), float(found.sure[place]))
    return sorted(sure, key=lambda place: -sure[place])[:count]


def draw(
    checkpoint: dict, network: torch.nn.Module, errors: dict[str, Errors], names: list[str], count: int, title: str
) -> bytes:
    """PNG of `count` films with the worst errors: a row for each, above it as it was shown, below under its heat map.

    A column for each view that has errors.
    """
    views = {view: found for view, found in errors.items() if len(found.wrong)}
    films = worst_films(views, count)
    figure = Figure(figsize=(2.2 + 1.12 * len(views), 1.1 + 2.45 * len(films)), layout="constrained")
    figure.suptitle(title, color="#B00020" if title.startswith("SYNTHETIC") else "black", parse_math=False, fontsize=10)
    grid = figure.subplots(2 * len(films), len(views), squeeze=False)
    places = torch.tensor(films)
    shown = {view: found.shown[places.to(found.shown.device)].cpu() for view, found in views.items()}
    maps = {view: heat_maps(checkpoint, network, shown[view]) for view in views}
    strongest = max(FAINTEST, *(float(np.abs(heat).max()) for heat in maps.values()))
    full = STRONGEST if building.has_heatmap(network) else strongest
    for column, (view, found) in zip(grid.T, views.items(), strict=True):
        draw_view(column, found, films, shown[view].numpy(), maps[view], full)
        errors_in_words = problems.numbered(len(found.wrong), "error")
        column[0].set_title(f"{view}\n{errors_in_words}\n\n{column[0].get_title()}", fontsize=6.5)
    for k, place in enumerate(films):
        truth = "pneumonia" if next(iter(views.values())).labels[place] else "normal"
        grid[2 * k, 0].set_ylabel(f"{truth}\n{names[place][-22:]}", fontsize=6.5, parse_math=False)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-full, full), "RdBu_r")
    figure.colorbar(scale, ax=grid, label="evidence for pneumonia (log-odds)", aspect=40, fraction=0.02, pad=0.01)
    stream = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 130}):
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def draw_view(column: NDArray, found: Errors, films: list[int], shown: NDArray, maps: NDArray, full: float) -> None:
    """The films in one view, two axes each; titles say what the network makes of them, in red where it is wrong."""
    for k, place in enumerate(films):
        upper, lower = column[2 * k : 2 * k + 2]
        draw_film(upper, shown[k], None, full)
        draw_film(lower, shown[k], maps[k], full)
        wrong = place in found.wrong
        mark = ("missed, " if found.labels[place] else "false alarm, ") if wrong else ""
        label = f"{mark}P = {found.probabilities[place]:.3f}"
        upper.set_title(label, fontsize=6.5, color="#B00020" if wrong else "black")


def draw_film(axes: Axes, film: NDArray, heat: NDArray | None, full: float) -> None:
    """One (S, S) film, and above it a heat map that covers all of it, where there is one."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(False)
    extent = (0, film.shape[1], film.shape[0], 0)
    axes.imshow(film, cmap="gray", vmin=0, vmax=255, extent=extent)
    if heat is not None:
        level = np.clip(heat / full, -1, 1)
        axes.imshow(level, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.7 * np.abs(level), extent=extent)


def work(args: argparse.Namespace) -> int:
    hardware.set_precision()
    device = hardware.pick_device(args.device)
    checkpoint, network, dataset, split = opened(args)
    labels = dataset.labels[split.validation]
    table, shapes = table_on(dataset.images, device), data.shape_ratio(dataset, split.train)
    stress = stress_views.StressValidation(table, dataset.labels, split.train, split.validation, shapes)
    errors, logits = answered(checkpoint, network, stress, labels, device)
    decided = checkpoint["temperature"], checkpoint["threshold"]
    print(f"{dataset.name}\n{checkpoint['name']}: {problems.numbered(len(labels), 'validation image')}, threshold "
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
    title = f"{'SYNTHETIC: ' * dataset.synthetic}{checkpoint['name']}: films that it was surest to be wrong of, by view"
    how = "class activation" if building.has_heatmap(network) else "where a grey patch makes the log-odds fall"
    title += f"\nbelow each film what speaks for pneumonia (red) or normal (blue): {how}"
    out = args.out or args.model.with_name("errors.png")
    names = [problems.printable(Path(dataset.files[i]).name) for i in split.validation]
    disk.write_bytes(out, draw(checkpoint, network, errors, names, args.count, title))
    print(f"\n{out}: films with the worst of them, in every view that has errors")
    return 0
