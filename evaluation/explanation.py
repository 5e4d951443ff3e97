"""What a trained network gets wrong on stress validation: tables, and the worst errors as pictures."""

import argparse
import io
import textwrap
from collections.abc import Callable
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
from evaluation import frames, summary
from films import sources
from graphs import building
from metrics import measures
from metrics.estimation import Estimate
from training import calibration, checkpoints, inference, stress_views
from training.batches import Batches, table_on

STRONGEST = 8.0  # log-odds at which the colour of a ResNet's map is full, the same in all pictures
FAINTEST = 0.5  # that of what a grey patch takes away, in a picture where it is nowhere more
DRAWN = 4  # films
CELLS = 10  # to a side of the film; the grey patch covers 2 x 2 of them


def opened(path: Path) -> tuple[dict, torch.nn.Module]:
    """The checkpoint and its network."""
    if path.suffix == ".onnx":
        raise Problem(f"{path}: a graph does not say which films validated it; name the run's model.pt")
    return checkpoints.load_checkpoint(path)


def loaded(args: argparse.Namespace, checkpoint: dict) -> data.Dataset:
    """The films that a checkpoint was trained on, or those that were typed."""
    source, classes = sources.place_of(args, checkpoint["data"])
    return data.load(source, checkpoint["size"], args.cache, checkpoint["fit"], args.skip_bad, classes)


def own_split(path: Path, checkpoint: dict, dataset: data.Dataset) -> data.Split:
    """The split that a checkpoint was made with. Raises Problem where the data is another."""
    split = data.split_again(dataset, checkpoint["split"])
    if not data.is_own(split, dataset, checkpoint):
        raise Problem(f"{path}: {dataset.source} is not the data that it was trained on; --data names that")
    return split


class Validated:
    """A checkpoint and its validation films, which its network answers however they are shown.

    labels, patients: (N,) of these films, in the order of the split.
    """

    def __init__(
        self,
        checkpoint: dict,
        network: torch.nn.Module,
        dataset: data.Dataset,
        split: data.Split,
        table: torch.Tensor,
        device: torch.device,
    ) -> None:
        self.checkpoint, self.device = checkpoint, device
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.labels, self.images = dataset.labels[split.validation], dataset.images[split.validation]
        self.patients = np.array([dataset.patients[i] for i in split.validation])
        shapes = data.shape_ratio(dataset, split.train)
        self.stress = stress_views.StressValidation(table, dataset.labels, split.train, split.validation, shapes)

    def logits(self, shown: torch.Tensor, moved: Callable[[int], None] = lambda count: None) -> NDArray:
        """(N, 2), of the validation films as (N, S, S) uint8."""
        normalisation = tuple(self.checkpoint["normalisation"])
        batches = Batches(shown, self.labels, np.arange(len(self.labels)), 128, self.device, normalisation)
        return inference.network_logits(self.network, batches, reduced=True, moved=moved)

    def probabilities(self, logits: NDArray) -> NDArray[np.float64]:
        return measures.positive_probability(logits, self.checkpoint["temperature"])

    def by_frame(self, logits: NDArray, moved: Callable[[int], None] = lambda count: None) -> frames.Films:
        """The films, with what their frames say, and what the network sees in these; logits: of films as they are."""

        def answers(images: NDArray) -> NDArray:
            return self.probabilities(self.logits(torch.from_numpy(images), moved))

        whole, parts = self.probabilities(logits), frames.in_parts(answers, self.images)
        decisions = measures.decide(whole, self.checkpoint["threshold"])
        return frames.Films(self.labels, self.patients, self.stress.frame_odds, decisions, whole, **parts)


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


def answered(model: Validated) -> tuple[dict[str, Errors], dict[str, NDArray], frames.Films]:
    """The errors of each view, the (N, 2) logits of each, and the films with their frames."""
    errors, logits, views = {}, {}, model.stress.views
    count = len(model.labels) * (len(views) + len(frames.PARTS))
    with Progress(count, "validation", leave=False, delay=2) as progress:
        for view in views:
            shown = model.stress.show(view)
            logits[view] = model.logits(shown, progress.update)
            probabilities = model.probabilities(logits[view])
            errors[view] = Errors(shown, model.labels, probabilities, model.checkpoint["threshold"])
        return errors, logits, model.by_frame(logits["as it is"], progress.update)


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
    checkpoint: dict, network: torch.nn.Module, errors: dict[str, Errors], captions: list[str], count: int, title: str
) -> bytes:
    """PNG of `count` films with the worst errors: a row for each, above it as it was shown, below under its heat map.

    A column for each view that has errors. captions: what stands beside each film.
    """
    views = {view: found for view, found in errors.items() if len(found.wrong)}
    films = worst_films(views, count)
    width, height = 1.7 + 1.12 * len(views), 1.4 + 2.45 * len(films)  # inches
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, color="#B00020" if title.startswith("SYNTHETIC") else "black", parse_math=False, fontsize=10,
                    y=1 - 0.1 / height, va="top")  # fmt: skip
    # Places in inches: to let Matplotlib find them takes longer than all the rest.
    places_of_axes = {"left": 0.7 / width, "right": 1 - 0.95 / width, "top": 1 - 1.3 / height, "bottom": 0.05 / height}
    grid = figure.subplots(2 * len(films), len(views), squeeze=False,
                           gridspec_kw=places_of_axes | {"wspace": 0.06, "hspace": 0.16})  # fmt: skip
    places = torch.tensor(films)
    shown = {view: found.shown[places.to(found.shown.device)].cpu() for view, found in views.items()}
    maps = {view: heat_maps(checkpoint, network, shown[view]) for view in views}
    strongest = max(FAINTEST, *(float(np.abs(heat).max()) for heat in maps.values()))
    full = STRONGEST if building.has_heatmap(network) else strongest
    for column, (view, found) in zip(grid.T, views.items(), strict=True):
        draw_view(column, found, films, shown[view].numpy(), maps[view], full)
        errors_in_words = problems.numbered(len(found.wrong), "error")
        column[0].set_title(f"{textwrap.fill(view, 16)}\n{errors_in_words}\n\n{column[0].get_title()}", fontsize=6.5)
    for k, place in enumerate(films):
        grid[2 * k, 0].set_ylabel(captions[place], fontsize=6.5, parse_math=False)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-full, full), "RdBu_r")
    beside = figure.add_axes((1 - 0.8 / width, 0.3 / height, 0.12 / width, 1 - 2.1 / height))
    figure.colorbar(scale, cax=beside, label="evidence for pneumonia (log-odds)")
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


def captioned(dataset: data.Dataset, split: data.Split, odds: NDArray) -> list[str]:
    """Of each validation film its class, the end of its name, and how likely it is ill by its frame alone."""
    names = [problems.printable(Path(dataset.files[i]).name)[-22:] for i in split.validation]
    truth = ["pneumonia" if label else "normal" for label in dataset.labels[split.validation]]
    return [f"{what}\n{name}\nframe: {ill:.2f} ill"
            for what, name, ill in zip(truth, names, frames.chance(odds), strict=True)]  # fmt: skip


def say_of_frames(name: str, films: frames.Films, areas: dict[str, Estimate]) -> None:
    """Whether the network leans on frames: sentences, and the table that they are taken from."""
    rows = frames.measured(films)
    said = [*frames.sentences(rows), *frames.without_lungs(name, areas, frames.where_frames_lie(films))]
    print()
    summary.say(said, summary.width())
    print(f"\n{frames.table(rows)}")


def work(args: argparse.Namespace) -> int:
    hardware.set_precision()
    device, (path,) = hardware.pick_device(args.device), args.models
    checkpoint, network = opened(path)
    dataset = loaded(args, checkpoint)
    split = own_split(path, checkpoint, dataset)
    model = Validated(checkpoint, network, dataset, split, table_on(dataset.images, device), device)
    labels, (errors, logits, films) = model.labels, answered(model)
    measured = model.stress.measured(logits, checkpoint["temperature"], checkpoint["threshold"])
    print(f"{dataset.name}\n{checkpoint['name']}: {problems.numbered(len(labels), 'validation image')}, threshold "
          f"{checkpoint['threshold']:.4f}\n")  # fmt: skip
    print(stress_views.table(measured))
    say_of_frames(checkpoint["name"], films, frames.areas(films))
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
    out = args.out or path.with_name("errors.png")
    captions = captioned(dataset, split, films.odds)
    disk.write_bytes(out, draw(checkpoint, network, errors, captions, args.count or DRAWN, title))
    print(f"\n{out}: films with the worst of them, in every view that has errors")
    return 0
