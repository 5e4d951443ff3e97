"""What was tried for films from elsewhere and is in no recipe: kept so that the tables in docs/studies can be redone.

`python ablate.py --variants NAME ...` trains these beside the variants of a recipe.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import data
from data import Dataset, Split
from devices import hardware
from films.augmentation import Changes, change
from metrics import measures, prevalence
from studies import probes
from studies.letters import Painted
from training import calibration, inference, loop, run_folder, stress_views
from training.batches import Batches, pixel_statistics, table_on, toned_on
from training.optimizer import AdamW, groups_of
from training.recipes import Recipe
from training.request import Request


@dataclass(frozen=True)
class Candidate:
    """What is done otherwise than `train.py` does; the defaults change nothing."""

    picture: Callable[[torch.Tensor], torch.Tensor] | None = None  # of (B, 1, S, S) in [0, 1], before the network
    dropout: float = 0.0  # before every linear layer but the first of several
    smoothing: float = 0.0  # of the labels
    mixup: float = 0.0  # both parameters of the beta distribution; 0: none (Zhang et al. 2018)
    average: float = 0.0  # decay of an exponential moving average of the weights, per step
    weighted: bool = False  # classes count alike in the loss
    balanced: bool = False  # films of the rarer class are seen as often as the others, over and over
    hidden: float = 0.0  # share of each batch that is shown again without its middle, to be answered by the prevalence
    painted: bool = False  # letters and words on films of both classes, studies/letters.py
    by_frame: Callable[[NDArray, NDArray], NDArray] | None = None  # films are seen as often as this says
    slower: float = 1.0  # learning rate of each layer as a share of that of the next one
    staged: float = 0.0  # share of the training in which the last layer alone learns
    exchanged: stress_views.View | None = None  # what half of the films of each class are also made to look like
    zooms: tuple[float, ...] = ()  # answers are means over the film shown in these parts
    corrected: bool = False  # decided at 0.5 of probabilities corrected for the prevalence that EM finds in each view


# ------------------------------------------------------------------------------- pictures


def equalised(images: torch.Tensor, tiles: int = 1, limit: float = math.inf, bins: int = 256) -> torch.Tensor:
    """Histogram equalisation of (B, 1, S, S) in [0, 1]; with tiles and a limit, CLAHE.

    limit: a bin holds at most so many times the mean of all; the rest is spread over all. Between the middles of
    tiles, what they make of a grey level is interpolated (Zuiderveld, Graphics Gems IV, 1994).
    """
    count, _, side, _ = images.shape
    level = (images[:, 0] * (bins - 1)).round().long()
    pixel = torch.arange(side, device=images.device)
    tile = pixel * tiles // side
    where = tile[:, None] * tiles + tile  # (S, S)
    film = torch.arange(count, device=images.device)[:, None, None] * tiles**2
    counts = torch.bincount(((film + where) * bins + level).flatten(), minlength=count * tiles**2 * bins).float()
    counts = counts.view(-1, bins)
    highest = limit * counts.sum(1, keepdim=True) / bins
    excess = (counts - highest).clamp(min=0).sum(1, keepdim=True)
    counts = counts.minimum(highest) + excess / bins
    made = (counts.cumsum(1) / counts.sum(1, keepdim=True)).flatten()  # of each grey level, in each tile
    at = ((pixel + 0.5) * tiles / side - 0.5).clamp(0, tiles - 1)
    first = at.floor().long().clamp(max=max(tiles - 2, 0))
    share, shown = at - first, torch.zeros_like(images[:, 0])
    for row, of_row in ((first, 1 - share), ((first + 1).clamp(max=tiles - 1), share)):
        for column, of_column in ((first, 1 - share), ((first + 1).clamp(max=tiles - 1), share)):
            place = film + row[:, None] * tiles + column
            shown += of_row[:, None] * of_column * made[place * bins + level]
    return shown[:, None]


def standardised(images: torch.Tensor) -> torch.Tensor:
    """Each film with mean 0.5 and deviation 0.25, not clipped."""
    deviation, mean = torch.std_mean(images, (1, 2, 3), keepdim=True)
    return (images - mean) / (4 * deviation + 1e-6) + 0.5


def lung_box(images: torch.Tensor, reach: float = 2.2) -> torch.Tensor:
    """(B, 4): left, right, top and bottom of a box about the lungs, in [-1, 1], for (B, 1, S, S) in [0, 1].

    Lungs are darker than what surrounds them at the scale of half a film, have something brighter than the film's
    mean to their left and right, and lie away from its edge. The box is the mean of such places and `reach` of their
    deviations, either way.
    """
    side = images.shape[-1]
    near, far = boxed(images, side // 12 | 1), boxed(images, side // 2 | 1)
    mean = images.mean((1, 2, 3))[:, None, None]
    inside = (near.cummax(2).values > mean) & (near.flip(2).cummax(2).values.flip(2) > mean)
    at = (torch.arange(side, device=images.device) * 2 + 1) / side - 1
    away = 1 - at**2
    weight = (far - near).clamp(min=0) * inside * away * away[:, None]
    weight = weight / (weight.sum((1, 2), keepdim=True) + 1e-9)
    bounds = []
    for along in (weight.sum(1), weight.sum(2)):  # (B, S) over columns, then over rows
        middle = along @ at
        deviation = (along * (at - middle[:, None]) ** 2).sum(1).sqrt().clamp(min=0.3)
        bounds += [middle - reach * deviation, middle + reach * deviation]
    return torch.stack(bounds, 1)


def boxed(images: torch.Tensor, width: int) -> torch.Tensor:
    """(B, S, S): the mean over the box of so many pixels, an odd number, about each one; along one side at a time."""
    reach = width // 2
    across = F.avg_pool2d(images, (1, width), 1, (0, reach), count_include_pad=False)
    return F.avg_pool2d(across, (width, 1), 1, (reach, 0), count_include_pad=False)[:, 0]


def lungs(images: torch.Tensor) -> torch.Tensor:
    """Each film cut to its `lung_box`, and drawn to the full side again."""
    left, right, top, bottom = lung_box(images).T
    zero = torch.zeros_like(left)
    affine = torch.stack([
        torch.stack([(right - left) / 2, zero, (right + left) / 2], 1),
        torch.stack([zero, (bottom - top) / 2, (bottom + top) / 2], 1),
    ], 1)  # fmt: skip
    return moved(images, affine)


def moved(images: torch.Tensor, affine: torch.Tensor, mean: float = 0.0, deviation: float = 1.0) -> torch.Tensor:
    """As augmentation.change does, with (B, 2, 3) maps and nothing else."""
    tone = torch.tensor([[1.0, 0.0, 0.0]], device=images.device)
    return change(images, Changes(affine, tone.repeat(len(images), 1)), mean, deviation, toned_on(images.device))


# ------------------------------------------------------------------------------- frames


def lying(labels: NDArray, scores: NDArray) -> NDArray[np.float64]:
    """(N,) how often a film is seen, by its label and how ill its frame looks: five times where the two differ.

    As Liu et al. (2021, Just Train Twice) do with the errors of a first network.
    """
    cut = measures.youden_threshold(labels, scores)
    return np.where((scores >= cut) == (labels == 1), 1.0, 5.0)


def overlapping(labels: NDArray, scores: NDArray) -> NDArray[np.float64]:
    """(N,) overlap weights (Li, Morgan, Zaslavsky 2018), by which frames tell the classes apart no more."""
    weights = np.abs(labels - scores)
    for label in np.unique(labels):  # the prevalence stays
        weights[labels == label] /= weights[labels == label].mean()
    return weights


def resampled(indices: NDArray, weights: NDArray, seed: int) -> NDArray:
    """As many of the indices as there are, each about as often as its weight says (systematic sampling)."""
    ends = np.cumsum(weights) / weights.sum() * len(indices)
    return indices[np.searchsorted(ends, np.arange(len(indices)) + np.random.default_rng(seed).random())]


OTHER_LOOKS = (stress_views.NORMAL_AS_PNEUMONIA, stress_views.PNEUMONIA_AS_NORMAL)
NONE = Candidate()
CANDIDATES: dict[str, Candidate] = {
    "histogram equalisation": Candidate(picture=equalised),
    "CLAHE": Candidate(picture=lambda images: equalised(images, tiles=4, limit=2.0)),
    "each film standardised": Candidate(picture=standardised),
    "cut to the lungs": Candidate(picture=lungs),
    "label smoothing 0.1": Candidate(smoothing=0.1),
    "mixup 0.2": Candidate(mixup=0.2),
    "dropout 0.3": Candidate(dropout=0.3),
    "averaged weights": Candidate(average=0.99),
    "class weights": Candidate(weighted=True),
    "balanced sampling": Candidate(balanced=True),
    "unsure without lungs": Candidate(hidden=0.25),
    "letters painted": Candidate(painted=True),
    "films whose frame lies five times": Candidate(by_frame=lying),
    "overlap weights of frames": Candidate(by_frame=overlapping),
    "slower lower layers": Candidate(slower=0.7),
    "the last layer first": Candidate(staged=0.2),
    "looks of classes exchanged": Candidate(exchanged=OTHER_LOOKS),
    "answers over three zooms": Candidate(zooms=(0.9, 1.0, 1.1)),
    "prevalence by EM": Candidate(corrected=True),
}


def together(names: list[str]) -> Candidate:
    """All that these candidates do."""
    done: dict = {}
    for name in names:
        done |= {key: value for key, value in vars(CANDIDATES[name]).items() if value != vars(NONE)[key]}
    return Candidate(**done)


# ------------------------------------------------------------------------------- training


class Trainer(loop.Trainer):
    """The loop of train.py with a candidate's loss."""

    candidate = Candidate()
    generator: np.random.Generator
    class_weights: torch.Tensor | None = None
    prevalence: torch.Tensor  # of each class
    averaged: AveragedModel | None = None

    def training_step(self, images: torch.Tensor, labels: torch.Tensor, share: float) -> tuple[torch.Tensor]:
        logits = super().training_step(images, labels, share)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        return logits

    def answer(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share, others = 1.0, labels
        if self.candidate.mixup:
            share = float(self.generator.beta(self.candidate.mixup, self.candidate.mixup))
            order = torch.from_numpy(self.generator.permutation(len(labels))).to(labels.device)
            images, others = images.lerp(images[order], 1 - share), labels[order]
        with hardware.autocast(self.device):
            logits = self.forward(images)

        def loss(truth: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(logits.float(), truth, self.class_weights, reduction="sum",
                                   label_smoothing=self.candidate.smoothing)  # fmt: skip

        return logits, share * loss(labels) + (1 - share) * loss(others) + self.loss_without_lungs(images)

    def loss_without_lungs(self, images: torch.Tensor) -> torch.Tensor | float:
        """Of some films whose middle, from half to four fifths of the side, is grey: what they should get is the
        prevalence."""
        if not self.candidate.hidden:
            return 0.0
        some = images[: max(round(len(images) * self.candidate.hidden), 2)]
        side, grey = some.shape[-1], some.mean((1, 2, 3), keepdim=True)
        at = ((torch.arange(side, device=some.device) + 0.5) / side - 0.5).abs()
        half = torch.linspace(0.25, 0.4, len(some), device=some.device)[:, None]
        inside = (at < half)[:, None, :, None] & (at < half)[:, None, None, :]
        with hardware.autocast(self.device):
            logits = self.forward(torch.where(inside, grey, some).contiguous(memory_format=torch.channels_last))
        return -(logits.float().log_softmax(1) * self.prevalence).sum()


class Exchanging(Batches):
    """Batches in which half of the films of each class are also given what tells the other class: by chance, anew in
    each epoch, on top of the recipe's own changes and in the same resampling."""

    looks: stress_views.View | None = None  # None: plain batches

    def _drawn(self, number: int) -> tuple[torch.Tensor, Changes | None]:
        order, changes = super()._drawn(number)
        looks = self.looks
        if looks is None:
            return order, changes
        if changes is None:  # rather than leave the candidate out and call the result its own
            raise ValueError("a recipe that changes no film has no changes to add looks to")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number + 500_000)
        chosen = (torch.rand(len(order), generator=generator) < 0.5).to(self.device)
        own = self.labels[order.to(self.device)]

        def look(key: str, otherwise: float) -> torch.Tensor:
            both = torch.tensor([vars(look)[key] for look in looks], device=self.device)
            return both[own].where(chosen, torch.tensor(otherwise, device=self.device))

        affine, tone = changes.affine.clone(), changes.tone.clone()
        affine[:, 0, :2] *= look("width", 1)[:, None]  # of the film, whichever way the film is turned
        affine[:, 1, :2] *= look("height", 1)[:, None]
        tone[:, 0] *= look("contrast", 1)
        tone[:, 1] += look("brightness", 0)
        tone[:, 2] += look("curve", 0)
        detail = torch.zeros_like(tone[:, 0]) if changes.detail is None else changes.detail
        detail = (detail + look("detail", 0)).clamp(min=-1)
        return order, replace(changes, affine=affine, tone=tone, detail=detail, curved=True)


def fitted_with(candidate: Candidate, network: nn.Module, normalisation: tuple[float, float]) -> None:
    """Dropout, and what becomes of the picture, as hooks of the network."""
    if candidate.dropout:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        for layer in layers[1:] or layers:
            layer.register_forward_pre_hook(lambda layer, given: F.dropout(given[0], candidate.dropout, layer.training))
    picture = candidate.picture
    if picture is not None:
        mean, deviation = normalisation

        def before(_: nn.Module, given: tuple[torch.Tensor]) -> torch.Tensor:
            made = picture((given[0].float() * deviation + mean).clamp(0, 1))
            return ((made - mean) / deviation).contiguous(memory_format=torch.channels_last)

        network.register_forward_pre_hook(before)


class ByLayer(AdamW):
    """Layers with learning rates of their own: an optimizer for each, from the last layer to the first."""

    def __init__(self, candidate: Candidate, network: nn.Module, trainer: loop.Trainer) -> None:
        self.candidate, self.trainer = candidate, trainer
        layers = [layer for layer in network.children() if any(True for _ in layer.parameters())]
        decay = trainer.recipe.weight_decay
        self.layers = [AdamW(groups_of(layer.parameters(), decay), 0.0) for layer in reversed(layers)]
        self.parameters = [p for layer in self.layers for p in layer.parameters]
        self.param_groups = [group for layer in self.layers for group in layer.param_groups]
        self.skipped = self.layers[0].skipped  # what a scaler finds, it finds for all of them

    def set_rate(self, rate: float) -> None:
        waiting = self.trainer.progress(self.trainer.step) < self.candidate.staged
        for below, layer in enumerate(self.layers):
            layer.set_rate(rate * (0.0 if waiting and below else self.candidate.slower**below))

    def step(self) -> None:
        for layer in self.layers:
            vars(layer).update({name: vars(self)[name] for name in ("grad_scale", "found_inf") if name in vars(self)})
            layer.step()


class Zoomed(nn.Module):
    """The mean of a network's answers to the film shown in several parts."""

    def __init__(self, network: nn.Module, zooms: tuple[float, ...], normalisation: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.zooms, self.normalisation = network, zooms, normalisation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean, deviation = self.normalisation
        grey, as_is = images * deviation + mean, torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
        shown = [moved(grey, zoom * as_is, mean, deviation) for zoom in self.zooms]
        return torch.stack([self.network(each).float() for each in shown]).mean(0)


def train_candidate(
    candidate: Candidate,
    network: nn.Module,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    request: Request,
    looks_of_frames: tuple[NDArray, NDArray],
) -> dict:
    """Trains with a candidate, as train_run does without; returns "stress", "probes", "device" and "seconds".

    looks_of_frames: probes.frame_scores of the split. Nothing is written.
    """
    device, training, validation = hardware.pick_device(request.device), split.train, split.validation
    table, labels, truth = table_on(dataset.images, device), dataset.labels, dataset.labels[validation]
    normalisation = pixel_statistics(table, training)
    counts = np.bincount(labels[training], minlength=2)
    if candidate.balanced:
        rarer, commoner = (training[labels[training] == k] for k in np.argsort(counts))
        training = np.concatenate([np.resize(rarer, len(commoner)), commoner])
    frames, shown_frames = looks_of_frames
    if candidate.by_frame:
        training = resampled(training, candidate.by_frame(labels[training], frames), request.seed)
    shapes = data.shape_ratio(dataset, split.train)
    stress = stress_views.StressValidation(table, labels, split.train, validation, shapes)

    def batches(images: torch.Tensor) -> Batches:
        every = np.arange(len(truth))
        return Batches(images, truth, every, inference.EVALUATION_BATCH[device.type], device, normalisation)

    torch.manual_seed(request.seed)
    network = network.to(device).to(memory_format=torch.channels_last)
    fitted_with(candidate, network, normalisation)
    gathered = cast(torch.Tensor, Painted(table, request.seed)) if candidate.painted else table
    seen = Exchanging(gathered, labels, training, recipe.batch_size, device, normalisation, recipe.augment,
                      request.seed, shapes=shapes)  # fmt: skip
    seen.looks = candidate.exchanged
    # Some candidates draw a number in each step, or give layers rates of their own: no two steps are alike.
    alike = not (candidate.mixup or candidate.staged or candidate.average) and candidate.slower == 1
    trainer = Trainer(network, recipe, seen, batches(stress.mixed()), record=alike)
    trainer.candidate, trainer.generator = candidate, np.random.default_rng(request.seed)
    trainer.prevalence = torch.from_numpy(counts / counts.sum()).float().to(device)
    if candidate.weighted:
        trainer.class_weights = torch.from_numpy(counts.sum() / (2 * counts)).float().to(device)
    if candidate.slower != 1 or candidate.staged:
        trainer.optimizer = ByLayer(candidate, network, trainer)
    judged: nn.Module = network
    if candidate.average:
        judged = averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(candidate.average))
        trainer.averaged = averaged
    best: dict = {"rank": (-math.inf, -math.inf)}
    seconds = 0.0

    def keep(row: dict, logits: NDArray) -> None:
        nonlocal seconds
        seconds += row["seconds"]
        if candidate.average:
            logits = inference.network_logits(judged, trainer.validation, reduced=True)
            row = row | run_folder.scores("val", logits, truth)
        if run_folder.rank(row) > best["rank"]:
            best.update(rank=run_folder.rank(row), state={k: v.clone() for k, v in judged.state_dict().items()})

    trainer.fit(keep)
    judged.load_state_dict(best["state"])
    if candidate.zooms:
        judged = Zoomed(judged, candidate.zooms, normalisation)

    def answers(images: torch.Tensor) -> NDArray:
        return inference.network_logits(judged, batches(images), reduced=True)

    found = {view: answers(stress.show(view)) for view in stress.views}
    measured = rows(candidate, stress, found, truth)
    cut = measures.youden_threshold(labels[split.train], frames)
    decided = calibration.fit(np.concatenate([*found.values()]), np.tile(truth, len(found)))
    told = probes.probed(answers, stress.show("as it is"), truth, decided, shown_frames, cut)
    return {"stress": measured, "probes": told, "device": run_folder.describe(device), "seconds": seconds}


def rows(
    candidate: Candidate, stress: stress_views.StressValidation, found: dict[str, NDArray], truth: NDArray
) -> list[dict]:
    """Stress validation of a view's logits each, decided as train.py decides, or as the candidate does."""
    decided = calibration.fit(np.concatenate([*found.values()]), np.tile(truth, len(found)))
    if not candidate.corrected:
        return stress.measured(found, decided["temperature"], decided["threshold"])
    corrected, before = {}, truth.mean()
    for view, logits in found.items():
        expected = prevalence.estimated(measures.positive_probability(logits, decided["temperature"]), before)
        now, then = measures.log_odds([expected, before])
        shift = np.array([0, decided["temperature"] * (now - then)])  # as prevalence.corrected, of logits
        corrected[view] = logits + shift
    return stress.measured(corrected, decided["temperature"], 0.5)
