"""What training and stress validation change in films: framing, shape, sharpness, tone; whole batches at a time."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from films.variation import Augment

WHOLE = 9.0  # half of a middle that is all of the film, and more


@dataclass(frozen=True)
class Changes:
    """What is done to each of N images; a slice of it is what is done to some of them.

    affine: (N, 2, 3), from output to input coordinates, both in [-1, 1] (F.affine_grid's convention)
    tone: (N, 3), contrast, brightness and curve, as in `Augment`
    detail: (N,), share of the fine detail that is added; or None where no image has any
    cover: (N, 4), fractions of the film covered at its left, right, top and bottom; or None
    frame: (N, 6), what is kept of the film where another one is its frame, as in `framed`; or None
    spectrum: (N,), share of another film's amplitude spectrum; or None
    donor: (N,), which film of the set is that other one; None where neither of the two is changed
    curved: False where no image has a curve: looking at the tensor would wait for the device
    """

    affine: torch.Tensor
    tone: torch.Tensor
    detail: torch.Tensor | None = None
    cover: torch.Tensor | None = None
    frame: torch.Tensor | None = None
    spectrum: torch.Tensor | None = None
    donor: torch.Tensor | None = None
    curved: bool = True

    def __getitem__(self, here: slice) -> "Changes":
        return self.each(lambda part: part[here])

    def to(self, device: torch.device) -> "Changes":
        return self.each(lambda part: part.to(device))

    def each(self, what: Callable[[torch.Tensor], torch.Tensor]) -> "Changes":
        parts = {name: part for name, part in vars(self).items() if isinstance(part, torch.Tensor)}
        return replace(self, **{name: what(part) for name, part in parts.items()})

    def tensors(self) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = []
        self.each(lambda part: parts.append(part) or part)
        return parts

    def holding(self, tensors: Iterable[torch.Tensor]) -> "Changes":
        """The same kind of changes with other tensors, in the order of `tensors()`."""
        parts = iter(tensors)
        return self.each(lambda _: next(parts))


def draw_changes(augment: Augment, labels: torch.Tensor, generator: torch.Generator, shapes: float = 1.0) -> Changes:
    """Random changes for images of these (N,) labels; `shapes` is data.shape_ratio's."""
    count = len(labels)
    uniform = torch.rand(count, 15, generator=generator) * 2 - 1
    part = (augment.tightest + augment.widest) / 2 + uniform[:, 0] * (augment.widest - augment.tightest) / 2
    stretch = torch.exp(uniform[:, 1] * math.log(augment.aspect) / 2)
    seen = torch.stack([part * stretch, part / stretch], 1)  # (count, 2): width and height
    mirror = torch.where(uniform[:, 2] < 0, -1.0, 1.0) if augment.flip else torch.ones(count)
    # The side is 2 long in these coordinates. What is left of the film, or of the part, is room to move in.
    place = uniform[:, 3:5] * (2 * augment.shift + (1 - seen).abs())
    tone = torch.stack(
        [1 + uniform[:, 5] * augment.contrast, uniform[:, 6] * augment.brightness, uniform[:, 7] * augment.curve], 1
    )
    amount = uniform[:, 8]
    detail = torch.where(amount < 0, amount * augment.blur, amount * augment.sharpen)
    affine = affine_maps(seen, uniform[:, 9] * math.radians(augment.rotation), place)
    unmoved = uniform[:, 14] < 2 * augment.unmoved - 1
    affine = torch.where(unmoved[:, None, None], torch.eye(2, 3), affine)
    affine[:, :, 0] *= mirror[:, None]
    if augment.reshaped and shapes != 1:
        chosen, amounts = torch.rand(2, count, generator=generator)
        affine = reshaped(affine, labels, shapes, amounts * (chosen < augment.reshaped))
    return Changes(
        affine,
        tone,
        detail if augment.blur or augment.sharpen else None,
        uniform[:, 10:14].clamp(min=0) * augment.border if augment.border else None,  # half of the sides are free
        **draw_donors(augment, count, generator),
        curved=augment.curve != 0,
    )


def draw_donors(augment: Augment, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """What `count` films take from others, drawn without a look at any label: a donor whose class depended on the
    film's would be a clue itself."""
    if not augment.frames and not augment.spectra:
        return {}
    drawn = {"donor": torch.randint(count, (count,), generator=generator)}
    if augment.frames:
        uniform = torch.rand(count, 7, generator=generator)
        middle = 0.1 * (uniform[:, :2] - 0.5)
        half = 0.25 + 0.15 * uniform[:, 2:4]  # half to four fifths of the side
        half = torch.where(uniform[:, 6:] < augment.frames, half, WHOLE)
        soft = 0.02 + 0.13 * uniform[:, 4:5]
        drawn["frame"] = torch.cat([middle, half, soft, (uniform[:, 5:6] < 0.5).float()], 1)
    if augment.spectra:
        chosen, share = torch.rand(2, count, generator=generator)
        drawn["spectrum"] = share * (chosen < augment.spectra)
    return drawn


def reshaped(affine: torch.Tensor, labels: torch.Tensor, shapes: float, amounts: torch.Tensor) -> torch.Tensor:
    """The (N, 2, 3) maps of films of these (N,) labels, cut toward the shape of the other class.

    The films of the class that was wider lose width, and those of the other one height, each about the middle of what
    is seen of them, by amounts (N,) from 0, nothing, to 1, all that the shapes differ by. Drawn into a square again,
    what is left is broader, or narrower, than it was.
    """
    left = max(shapes, 1 / shapes) ** -amounts
    wider = labels == int(shapes > 1)
    seen = torch.stack([torch.where(wider, left, 1.0), torch.where(wider, 1.0, left)], 1)
    return torch.cat([affine[:, :, :2] * seen[:, :, None], affine[:, :, 2:]], 2)


def affine_maps(seen: torch.Tensor, angle: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """(N, 2, 3) maps for a part of the film: its width and height, its angle in radians, its middle, in [-1, 1]."""
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # (N, 2, 2)
    return torch.cat([turned * seen[:, :, None], place[:, :, None]], 2)


def toned(
    moved: torch.Tensor, centre: torch.Tensor, tone: torch.Tensor, detail: torch.Tensor | None, curved: bool,
    mean: float, std: float,
) -> torch.Tensor:  # fmt: skip
    """What `change` does to (B, 1, S, S) images once they are moved; centre (B, 1, 1, 1), the rest as in Changes."""
    contrast, brightness, curve = (tone[:, k, None, None, None] for k in range(3))
    if detail is not None:
        moved = moved.lerp(smoothed(moved), -detail[:, None, None, None]).clamp_(0, 1)
    if curved:
        moved = torch.addcmul(moved, curve * moved, 1 - moved)
    # (((x - centre) contrast + centre + brightness) clamped to [0, 1] - mean) / std, in three passes over memory
    offset = (centre * (1 - contrast) + brightness - mean) / std
    return moved.mul_(contrast / std).add_(offset).clamp_(-mean / std, (1 - mean) / std)


def change(
    images: torch.Tensor, changes: Changes, mean: float = 0.0, std: float = 1.0,
    toned: Callable[..., torch.Tensor] = toned, others: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Applies changes to (B, 1, S, S) float images in [0, 1], then normalises them by mean and std.

    What comes from outside is black. Contrast turns about the mean of the image as it was before it was moved. A kernel
    may stand in for `toned`. others: (B, 1, S, S), the donors of frames and spectra.
    """
    if others is not None:
        if changes.spectrum is not None:
            images = mixed_spectra(images, others, changes.spectrum)
        if changes.frame is not None:
            images = framed(images, others, changes.frame)
    centre = images.mean((1, 2, 3), keepdim=True)
    if changes.cover is not None:
        images = covered(images, changes.cover)
    moved = F.grid_sample(
        images, sampling_grid(changes.affine, images.shape[-1]), mode="bilinear", padding_mode="zeros",
        align_corners=False,
    )  # fmt: skip
    return toned(moved, centre, changes.tone, changes.detail, changes.curved, mean, std)


def framed(images: torch.Tensor, others: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """The middles of (B, 1, S, S) images in the frames of others, the seam between them soft.

    frame (B, 6): place of the middle and half of its size, each across and down; width of the seam; all in parts of the
    side. And 1 where the frame takes on mean and deviation of the image, 0 where it stays as it is.
    """
    side = images.shape[-1]
    at = (torch.arange(side, device=images.device) + 0.5) / side - 0.5
    x, y, half_x, half_y, soft, matched = (frame[:, k, None] for k in range(6))
    across, down = (
        ((half - (at - middle).abs()) / soft + 0.5).clamp(0, 1) for middle, half in ((x, half_x), (y, half_y))
    )  # (B, S) each: 1 inside, 0 outside
    deviation, mean = torch.std_mean(images, (1, 2, 3))
    other_deviation, other_mean = torch.std_mean(others, (1, 2, 3))
    factor = (deviation / (other_deviation + 1e-6))[:, None]
    scale = torch.where(matched > 0, factor, 1.0)
    offset = torch.where(matched > 0, mean[:, None] - other_mean[:, None] * factor, 0.0)
    frames = torch.addcmul(offset[:, :, None, None], others, scale[:, :, None, None]).clamp_(0, 1)
    return frames.lerp(images, (across[:, None, :] * down[:, :, None])[:, None])


def mixed_spectra(images: torch.Tensor, others: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S) images with a share (B,) of the amplitude spectrum of others, each with its own phase.

    The phase keeps what is where, the amplitude holds much of a machine's look (Xu et al., CVPR 2021).
    """
    own, other = torch.fft.rfft2(images), torch.fft.rfft2(others)
    amplitude = own.abs()
    factor = 1 + share[:, None, None, None] * (other.abs() / (amplitude + 1e-6) - 1)
    return torch.fft.irfft2(own * factor, s=images.shape[-2:]).clamp_(0, 1)


def covered(images: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S) images with black bars: cover (B, 4) says how wide, at the left, right, top and bottom."""
    side = images.shape[-1]
    at = (torch.arange(side, device=images.device) + 0.5) / side
    left, right, top, bottom = cover.T[:, :, None]
    columns, rows = (at >= left) & (at <= 1 - right), (at >= top) & (at <= 1 - bottom)  # (B, S)
    return images * (columns[:, None, None, :] & rows[:, None, :, None])


def smoothed(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S) images without their fine detail: binomial weights over 5 x 5 pixels, a deviation of one pixel.

    By sums of shifted images: F.conv2d of a single channel takes twenty times as long on a CPU.
    """
    wide = F.pad(images, (2, 2, 2, 2), mode="replicate")
    for dimension in (3, 2):
        a, b, c, d, e = (wide.narrow(dimension, k, images.shape[dimension]) for k in range(5))
        wide = (a + e).add_(b + d, alpha=4).add_(c, alpha=6)
    return wide.mul_(1 / 256)


def sampling_grid(affine: torch.Tensor, side: int) -> torch.Tensor:
    """(B, side, side, 2) input coordinates of each output pixel: F.affine_grid(affine, ..., align_corners=False).

    A complex number stands for a pair (x, y), and a column's pair plus a row's pair is the pixel's: one addition a
    pixel, where F.affine_grid's matrix product is the slowest part of the whole augmentation on a CPU.
    """
    steps = (torch.arange(side, device=affine.device) * 2 + 1) / side - 1  # pixel centres in [-1, 1]
    along_x, along_y, origin = (torch.complex(affine[:, 0, k], affine[:, 1, k])[:, None] for k in range(3))
    columns, rows = along_x * steps, along_y * steps + origin  # (B, side) each
    return torch.view_as_real(columns[:, None, :] + rows[:, :, None])
