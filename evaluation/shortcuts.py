"""The shortcut audit: how a model fares on images that lack what a reader would look at, or are of poorer quality.

A network that still ranks well when it sees the borders alone has learnt something other than lungs. Nothing here is
fitted on test images.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

import data
from films import giveaways
from metrics.logistic import fit_logistic

Change = Callable[[NDArray, np.random.Generator], NDArray]  # (S, S) uint8 to the same


def borders_only(image: NDArray, _: np.random.Generator) -> NDArray:
    changed = image.copy()
    changed[giveaways.centre(len(image))] = round(image.mean())
    return changed


def centre_only(image: NDArray, _: np.random.Generator) -> NDArray:
    changed = np.full_like(image, round(image.mean()))
    changed[giveaways.centre(len(image))] = image[giveaways.centre(len(image))]
    return changed


def corners_blank(image: NDArray, _: np.random.Generator) -> NDArray:
    """Markers and burnt-in letters are mostly in the corners: a quarter of the side each."""
    changed, part = image.copy(), len(image) // 4
    for rows in (slice(0, part), slice(-part, None)):
        for columns in (slice(0, part), slice(-part, None)):
            changed[rows, columns] = 0
    return changed


def noise(deviation: float) -> Change:
    """deviation: in grey levels."""
    return lambda image, generator: to_grey(image + generator.normal(0, deviation, image.shape))


def blur(radius: float) -> Change:
    """Gaussian; radius: its standard deviation, in hundredths of the side."""

    def changed(image: NDArray, _: np.random.Generator) -> NDArray:
        sigma = radius / 100 * len(image)
        reach = max(round(3 * sigma), 1)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = (kernel / kernel.sum())[None, None, None, :]
        pixels = torch.from_numpy(image)[None, None].float()
        for sides, weights in (((reach, reach, 0, 0), kernel), ((0, 0, reach, reach), kernel.transpose(2, 3))):
            pixels = F.conv2d(F.pad(pixels, sides, mode="replicate"), weights)
        return to_grey(pixels[0, 0].numpy())

    return changed


def gamma(exponent: float) -> Change:
    return lambda image, _: to_grey(255 * (image / 255.0) ** exponent)


def jpeg(quality: int) -> Change:
    def changed(image: NDArray, _: np.random.Generator) -> NDArray:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream))

    return changed


def rotation(degrees: float) -> Change:
    """Clockwise or counter-clockwise, by chance; what comes from outside is black."""

    def changed(image: NDArray, generator: np.random.Generator) -> NDArray:
        angle = degrees * generator.choice((-1, 1))
        return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))

    return changed


def to_grey(pixels: NDArray) -> NDArray[np.uint8]:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


# (what, how strong, the change); the first is the image as it is.
CHANGES: tuple[tuple[str, str, Change], ...] = (
    ("none", "", lambda image, _: image),
    ("borders only", "centre grey, 60 % of the side", borders_only),
    ("centre only", "60 % of the side", centre_only),
    ("corners black", "a quarter of the side", corners_blank),
    *(("blur", f"{radius} % of the side", blur(radius)) for radius in (0.5, 1, 2)),
    *(("noise", f"{deviation} grey levels", noise(deviation)) for deviation in (5, 10, 20)),
    *(("gamma", f"{exponent}", gamma(exponent)) for exponent in (0.8, 0.6, 1.5)),
    *(("JPEG", f"quality {quality}", jpeg(quality)) for quality in (50, 20, 10)),
    *(("rotation", f"{degrees} degrees", rotation(degrees)) for degrees in (2, 5, 10)),
)


def changed_table(images: NDArray, change: Change) -> NDArray[np.uint8]:
    """(N, S, S) uint8 of the changed images; random changes are the same each time."""
    generator = np.random.default_rng(0)
    return np.stack([change(image, generator) for image in images])


def outside_facts(dataset: data.Dataset, training: NDArray) -> tuple[NDArray, list[str]]:
    """What can be known of a film without seeing it, (N, facts): size and shape; and the names of these facts.

    Standardised by the training images' mean and deviation; what does not vary among those is left out.
    """
    columns = giveaways.file_facts(dataset)
    varying = {name: values for name, values in columns.items() if np.ptp(values[training]) > 0}
    if not varying:
        return np.zeros((len(dataset.files), 0)), []
    table = np.stack(list(varying.values()), 1)
    return (table - table[training].mean(0)) / table[training].std(0), list(varying)


def outside_scores(dataset: data.Dataset, training: NDArray, tested: NDArray) -> tuple[NDArray, str] | None:
    """(scores of the tested images, which facts) of a baseline that never sees a pixel; None if nothing varies.

    It is fitted on the training images.
    """
    if not len(training):
        return None
    facts, names = outside_facts(dataset, training)
    if not names:
        return None
    weights = fit_logistic(facts[training], dataset.labels[training])
    return facts[tested] @ weights[1:] + weights[0], ", ".join(names)
