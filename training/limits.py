"""What a network knows: how far a film is from its training films, and whether it is nearer another way up.

fit(...)        the entry "limits" of a checkpoint, from training and validation films
answers(...)    `unfamiliar` and `flags` of films, in float64: what a graph must say

Training films count as they are and framed otherwise: most networks are trained on them so. A film is two things here:
a thumbnail of 16 x 16, without its mean and deviation, and the network's last hidden layer. Thumbnails are taken for a
normal distribution (probabilistic PCA: Tipping and Bishop 1999, J. R. Stat. Soc. B 61:611). How likely a film would be
if it were turned, mirrored or negative needs no other fit: its thumbnail is turned back. Features of the hidden layer
are measured from the nearest class mean (Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution
Samples, NeurIPS).
"""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from basics.progress import Progress
from training import inference, stress_views
from training.batches import Batches

# Bits of `flags`. The last two are for clients to set: a graph sees grey levels, not the file.
FLAGS = {
    "nearly constant": 1,
    "negative": 2,
    "turned": 4,
    "upside down": 8,
    "mirrored": 16,
    "no bright middle": 32,
    "tiny": 64,
    "odd shape": 128,
    "half black": 256,
    "unfamiliar": 512,
    "coloured": 1024,
    "guessed levels": 2048,
}
BY_SHAPE = FLAGS["tiny"] | FLAGS["odd shape"]
# What the network is not made for. A mirrored film shows the same lungs, a tiny or narrow one shows them badly.
FORBIDDING = sum(FLAGS[name] for name in FLAGS if name not in ("mirrored", "tiny", "odd shape", "coloured",
                                                               "guessed levels"))  # fmt: skip
SIDE = 16  # of a thumbnail: 28 and 32 found no more
DIRECTIONS = 64  # of the thumbnails' distribution that have a variance of their own
FAINT = 8.0  # grey levels: a thumbnail that deviates by less is nearly constant
UNFAMILIAR, TURNED = 0.01, 0.003  # the share of validation films, one a patient, that may be beyond a limit
LEAST_RATIO = 1.05  # a film is called turned when its distance is that many times larger than turned back, at least
STRANGE = 2.0  # squared limits: what is that far away however turned is no turned film
SLACK = 0.1  # what no validation film may be beyond lies this part of the way from their median further out
MOST = 2000  # training films that are looked at again as they are, and as many framed otherwise
EVERY = 2  # of these, one in so many goes through the network
# A film that is framed otherwise is no stranger: without these, black above and below made a film look turned.
FRAMINGS = [look for look in stress_views.LOOKS.values() if (look.width, look.height) != (1, 1)]
LEAST = 1e-6  # variance, and squared distance, where all films are equal
SHRINKAGE = 0.05  # of the hidden layer's covariance, at least: less, and rounding to int8 would count as distance
NARROWEST, WIDEST = 0.5, 3.5  # width / height of a film


def ways() -> list[tuple[NDArray[np.int64], int, int]]:
    """Sixteen ways to show a film: its thumbnail's places in order, 1 or -1 where it is negative, and the flags.

    The first way is as it is. The places undo the way: thumbnail[places] is upright if the film is shown that way.
    """
    grid = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    turned, down = FLAGS["turned"], FLAGS["upside down"]
    around = grid[::-1, ::-1]
    shown = [(grid, 0), (around, down), (grid[::-1], down), (grid[:, ::-1], FLAGS["mirrored"]),
             (np.rot90(grid), turned), (np.rot90(grid, -1), turned), (grid.T, turned), (around.T, turned)]  # fmt: skip
    return [(places.ravel(), sign, bits | (FLAGS["negative"] if sign < 0 else 0))
            for sign in (1, -1) for places, bits in shown]  # fmt: skip


def way_bits() -> NDArray[np.int64]:
    return np.array([bits for _, _, bits in ways()])


def weights(ratio: float) -> NDArray[np.float64]:
    """(16,) what distances are multiplied by before the smallest is taken: a way must be nearer by more than `ratio`.

    Of ways that are equally near, as of a film of equal rows, the first one wins in any arithmetic.
    """
    return np.array([1.0] + [ratio * (1 + 0.001 * k) for k in range(15)])


def shape_rules() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(256,) the middle against the sides, and (256, 2) left against right and upper against lower half."""
    middle, halves = np.zeros((SIDE, SIDE)), np.zeros((2, SIDE, SIDE))
    start, half = SIDE * 3 // 8, SIDE // 2
    middle[:, start : SIDE - start] = 1 / (SIDE * (SIDE - 2 * start))
    middle[:, [0, -1]] = -1 / (2 * SIDE)
    halves[0, :, :half], halves[1, :half] = 1, 1
    return middle.ravel(), ((2 * halves - 1) / (SIDE * half)).reshape(2, -1).T


# ------------------------------------------------------------------------------------------------ measuring


def step_of(size: int) -> int:
    """Of a square's rows and columns every so manieth is looked at, 32 or some more: to read all takes longer."""
    return max(1, size // (2 * SIDE))


def thumbnails(squares: torch.Tensor) -> NDArray[np.float64]:
    """(N, S, S) uint8, on any device, to (N, 256) means of grey levels."""
    step = step_of(squares.shape[-1])
    some = squares[:, step // 2 :: step, step // 2 :: step]
    parts = [F.adaptive_avg_pool2d(part[:, None].float(), SIDE).flatten(1).cpu() for part in some.split(256)]
    return torch.cat(parts).numpy().astype(np.float64)


@contextlib.contextmanager
def taking(network: torch.nn.Module) -> Generator[list[torch.Tensor]]:
    """A list to which each pass appends (B, D), what the network's last layer takes."""
    taken: list[torch.Tensor] = []
    last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].detach()))
    try:
        yield taken
    finally:
        hook.remove()


def hidden_and_logits(network: torch.nn.Module, batches: Batches) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(N, D) what the last layer takes, and (N, 2) what it makes of it, in float32, of a network in eval mode."""
    logits = []
    progress = Progress(len(batches.indices), "films that it knows", leave=False, delay=2)
    with progress, taking(network) as taken, torch.inference_mode():
        for images, _ in batches.epoch():
            logits.append(network(images))
            progress.update(len(images))
    return torch.cat(taken).cpu().numpy().astype(np.float64), torch.cat(logits).cpu().numpy()


@dataclass(frozen=True)
class Look:
    """What thumbnails alone tell, of N films."""

    spread: NDArray[np.float64]  # (N,) grey levels
    distances: NDArray[np.float64]  # (N, 16) squared, for each of `ways`
    middle: NDArray[np.float64]  # (N,) how much brighter than the sides, in deviations
    halves: NDArray[np.float64]  # (N,) how much one half is brighter than it is in training films


def looked_at(known: dict, thumbs: NDArray[np.float64]) -> Look:
    centred = thumbs - thumbs.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).mean(1))
    plain = centred / np.maximum(spread, FAINT)[:, None]
    mean, directions = (known[key].numpy().astype(np.float64) for key in ("mean", "directions"))
    distances = np.empty((len(plain), len(ways())))
    for k, (places, sign, _) in enumerate(ways()):
        away = sign * plain[:, places] - mean
        distances[:, k] = (away**2).sum(1) - ((away @ directions) ** 2).sum(1)
    middle, halves = shape_rules()
    return Look(spread, distances, plain @ middle, np.abs((plain - mean) @ halves).max(1))


def hidden_distances(known: dict, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) squared, from the nearer class mean."""
    means, whitening = (known[key].numpy().astype(np.float64) for key in ("hidden_means", "hidden_whitening"))
    placed = np.sqrt(hidden + known["hidden_offset"]) @ whitening
    return np.min([((placed - mean) ** 2).sum(1) for mean in means], axis=0)


def unfamiliar(known: dict, look: Look, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the larger one of two distances, 1 at the limit."""
    squared = look.distances[:, 0] / known["thumbnail"], hidden_distances(known, hidden) / known["hidden"]
    return np.sqrt(np.maximum(*squared))


def flags_of(known: dict, look: Look, tolerance: float = 0.0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) the flags that thumbnails give, and those of which they are unsure: that near, as a part, to a limit."""
    weighted = look.distances * weights(known["orientation"])
    order = np.argsort(weighted, axis=1, kind="stable")
    first, second = (np.take_along_axis(weighted, order[:, k : k + 1], 1)[:, 0] for k in (0, 1))
    bits, nearest = way_bits()[order[:, 0]], look.distances.min(1)
    strange = nearest > STRANGE * known["thumbnail"]
    near = np.abs(nearest / (STRANGE * known["thumbnail"]) - 1) <= tolerance
    close = second <= first * (1 + tolerance)
    unsure = np.where(near, bits, 0) | np.where(close, bits | way_bits()[order[:, 1]], 0)
    flags = np.where(strange, 0, bits)
    faint = look.spread < FAINT
    for name, value, limit, found in (
        ("nearly constant", look.spread, FAINT, faint),
        ("no bright middle", look.middle, known["middle"], (look.middle < known["middle"]) & ~faint),
        ("half black", look.halves, known["halves"], look.halves > known["halves"]),
    ):
        flags = flags | np.where(found, FLAGS[name], 0)
        unsure = unsure | np.where(np.abs(value - limit) <= tolerance * max(1.0, abs(limit)), FLAGS[name], 0)
    return flags, unsure | np.where(unsure & FLAGS["nearly constant"], FLAGS["no bright middle"], 0)


def shape_flags(height: int, width: int, size: int) -> int:
    """Of a film of that many pixels, which the network sees as a square of `size`."""
    tiny = 2 * min(height, width) < size
    odd = width < NARROWEST * height or width > WIDEST * height
    return FLAGS["tiny"] * tiny | FLAGS["odd shape"] * odd


def answers(known: dict, thumbs: NDArray, hidden: NDArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(N,) `unfamiliar` and (N,) `flags` but for those of the shape."""
    look = looked_at(known, thumbs)
    distance = unfamiliar(known, look, hidden)
    return distance, flags_of(known, look)[0] | np.where(distance > 1, FLAGS["unfamiliar"], 0)


# -------------------------------------------------------------------------------------------------- fitting


def shrunk_covariance(centred: NDArray[np.float64], least: float = 0.0) -> NDArray[np.float64]:
    """(D, D) of (N, D), shrunk towards equal variances (Ledoit and Wolf 2004, J. Multivar. Anal. 88:365)."""
    count, dims = centred.shape
    plain = centred.T @ centred / count
    level = np.trace(plain) / dims
    apart = ((plain - level * np.eye(dims)) ** 2).sum()
    noise = ((centred**2).sum(1) ** 2).sum() / count**2 - (plain**2).sum() / count
    share = max(least, min(1.0, noise / apart if apart > 0 else 1.0))
    return (1 - share) * plain + (share * level + LEAST) * np.eye(dims)


def fit_thumbnails(thumbs: NDArray[np.float64]) -> dict:
    """The distribution of training films: where its variance is its own in DIRECTIONS, and one in all others.

    In units of the latter a squared distance is |away|^2 - |away @ directions|^2.
    """
    centred = thumbs - thumbs.mean(1, keepdims=True)
    plain = centred / np.maximum(np.sqrt((centred**2).mean(1)), FAINT)[:, None]
    mean = plain.mean(0)
    variances, axes = np.linalg.eigh(shrunk_covariance(plain - mean))
    variances, axes = variances[::-1], axes[:, ::-1]
    common = variances[DIRECTIONS:].mean()
    own = axes[:, :DIRECTIONS] * np.sqrt(1 - common / np.maximum(variances[:DIRECTIONS], common))
    return {"mean": torch.from_numpy(mean).float(), "directions": torch.from_numpy(own).float()}


def fit_hidden(hidden: NDArray[np.float64], labels: NDArray) -> dict:
    """Class means and a whitening matrix of square roots: what a ReLU leaves is skewed."""
    offset = 0.05 * float(hidden.mean()) + 1e-6
    roots = np.sqrt(hidden + offset)
    means = np.stack([roots[labels == k].mean(0) if (labels == k).any() else roots.mean(0) for k in (0, 1)])
    whitening = np.linalg.cholesky(np.linalg.inv(shrunk_covariance(roots - means[labels], SHRINKAGE)))
    return {
        "hidden_means": torch.from_numpy(means @ whitening).float(),
        "hidden_whitening": torch.from_numpy(whitening).float(),
        "hidden_offset": offset,
    }


def beyond_few(values: NDArray[np.float64], share: float) -> float:
    """What at most this share of the values is above; the film that it is taken from is not, rounded otherwise."""
    return float(np.sort(values)[::-1][int(share * len(values))]) * (1 + 1e-4)


def beyond_all(values: NDArray[np.float64]) -> float:
    return float(values.max() + SLACK * (values.max() - np.median(values)))


def fit_limits(known: dict, thumbs: NDArray, hidden: NDArray, first: NDArray) -> dict:
    """The limits, from validation films; `first` are the places of one film of each patient."""
    every = looked_at(known, thumbs)
    look, far = looked_at(known, thumbs[first]), hidden_distances(known, hidden[first])
    ratios = look.distances[:, 0] / np.maximum(look.distances[:, 1:].min(1), LEAST)
    parts = {"thumbnail": beyond_few(look.distances[:, 0], UNFAMILIAR), "hidden": beyond_few(far, UNFAMILIAR)}
    parts = {key: max(value, LEAST) for key, value in parts.items()}
    larger = np.maximum(look.distances[:, 0] / parts["thumbnail"], far / parts["hidden"])
    both = max(beyond_few(larger, UNFAMILIAR), LEAST)  # each of the two is beyond its own limit that often
    return {key: value * both for key, value in parts.items()} | {
        "orientation": max(LEAST_RATIO, beyond_few(ratios, TURNED)),
        "middle": -beyond_all(-every.middle),
        "halves": beyond_all(every.halves),
    }


def shares(flags: NDArray[np.int64]) -> dict[str, float]:
    """The share of films with each flag, and with any."""
    found = {name: float(((flags & bit) > 0).mean()) for name, bit in FLAGS.items()}
    return {"any": float((flags > 0).mean())} | {name: share for name, share in found.items() if share}


@dataclass(frozen=True)
class Films:
    """What limits are fitted to."""

    table: torch.Tensor  # (N, S, S) uint8, on any device
    labels: NDArray[np.int64]  # (N,)
    training: NDArray[np.int64]  # places in the table
    validation: NDArray[np.int64]
    patients: list[str]  # of the validation films


def framed(films: Films, places: NDArray[np.int64]) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """(N, S, S) uint8 of the films at these places, each in one of FRAMINGS, and their places in that order."""
    shares = [places[k :: len(FRAMINGS)] for k in range(len(FRAMINGS))]
    shown = [stress_views.viewed(films.table, some, films.labels, (look, look))
             for some, look in zip(shares, FRAMINGS, strict=True) if len(some)]  # fmt: skip
    return torch.cat(shown), np.concatenate(shares)


def small(table: torch.Tensor, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Thumbnails of the films at these places."""
    return np.concatenate([thumbnails(table[some]) for some in torch.from_numpy(places).to(table.device).split(256)])


def fit(
    network: torch.nn.Module, films: Films, normalisation: tuple[float, float], device: torch.device
) -> dict[str, object]:
    """The entry "limits" of a checkpoint: tensors on the CPU, and numbers. The network is put into eval mode."""

    def passed(table: torch.Tensor, labels: NDArray, places: NDArray) -> tuple[NDArray, NDArray]:
        many = inference.EVALUATION_BATCH[device.type]
        return hidden_and_logits(network, Batches(table, labels, places, many, device, normalisation))

    network.eval()
    validation = films.validation
    count = len(films.training)
    some = films.training[np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int))]
    shown, places = framed(films, some)
    thumbs = np.concatenate([small(films.table, some), thumbnails(shown)])
    parts = [passed(films.table, films.labels, some[::EVERY])[0],
             passed(shown, films.labels[places], np.arange(0, len(shown), EVERY))[0]]  # fmt: skip
    labels = np.concatenate([films.labels[some[::EVERY]], films.labels[places[::EVERY]]])
    known = fit_thumbnails(thumbs) | fit_hidden(np.concatenate(parts), labels)
    (hidden, logits), thumbs = passed(films.table, films.labels, validation), small(films.table, validation)
    _, first, codes = np.unique(films.patients, return_index=True, return_inverse=True)  # not their names
    known |= fit_limits(known, thumbs, hidden, first)
    return known | {
        "flagged": shares(answers(known, thumbs, hidden)[1]),
        "logits": torch.from_numpy(logits),
        "labels": torch.from_numpy(films.labels[validation]),
        "patients": torch.from_numpy(codes),
    }
