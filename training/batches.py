"""From the table of pixels to batches on the device: gathered, augmented and normalised, whole batches at a time."""

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from gpu import Captured, own_kernels, recorder


@dataclass(frozen=True)
class Augment:
    """Bounds of the uniform distributions that random changes of an image are drawn from."""

    shift: float = 0.06  # fraction of the side, to either side
    tightest: float = 0.9  # the part of the film that is seen: its side, as a fraction of the film's ...
    widest: float = 1.1  # ... and of the other end; it may lie anywhere inside the film, or the film inside it
    aspect: float = 1.0  # factor: the part seen is up to so much wider or narrower than the film's own shape
    rotation: float = 7.0  # degrees, either way
    unmoved: float = 0.0  # share of images that none of this moves: they alone are not resampled, which softens
    brightness: float = 0.10  # of the range from black to white, either way
    contrast: float = 0.15  # fraction, about the image's own mean, either way
    curve: float = 0.0  # middle greys lighter or darker by up to a quarter of this: x + curve x (1 - x)
    blur: float = 0.0  # up to this share of the fine detail is taken away ...
    sharpen: float = 0.0  # ... or added
    border: float = 0.0  # each side may be covered up to this fraction of the film
    reshaped: float = 0.0  # share of the films of each class that are cut toward the shape of the other one
    flip: bool = False  # left-right with probability 1/2: it mirrors the heart, so it is off


# Framing, sharpness, tone and shape tell the classes apart in the public training films and need not elsewhere, so the
# recipes vary them more than films do: docs/quality.md has what each is worth.
ELSEWHERE = Augment(
    shift=0.03,
    tightest=0.6,
    widest=1.25,
    aspect=1.4,
    unmoved=0.3,
    brightness=0.15,
    contrast=0.3,
    curve=0.7,
    blur=0.5,  # less than is added: resampling has softened the image already
    sharpen=2.0,
    reshaped=0.5,
)
NO_AUGMENT = Augment(shift=0, tightest=1, widest=1, rotation=0, brightness=0, contrast=0)


@dataclass(frozen=True)
class Changes:
    """What is done to each of N images; a slice of it is what is done to some of them.

    affine: (N, 2, 3), from output to input coordinates, both in [-1, 1] (F.affine_grid's convention)
    tone: (N, 3), contrast, brightness and curve, as in `Augment`
    detail: (N,), share of the fine detail that is added; or None where no image has any
    cover: (N, 4), fractions of the film covered at its left, right, top and bottom; or None
    curved: False where no image has a curve: looking at the tensor would wait for the device
    """

    affine: torch.Tensor
    tone: torch.Tensor
    detail: torch.Tensor | None = None
    cover: torch.Tensor | None = None
    curved: bool = True

    def __getitem__(self, here: slice) -> "Changes":
        return self.each(lambda part: part[here])

    def to(self, device: torch.device) -> "Changes":
        return self.each(lambda part: part.to(device))

    def each(self, what: Callable[[torch.Tensor], torch.Tensor]) -> "Changes":
        detail, cover = (None if part is None else what(part) for part in (self.detail, self.cover))
        return replace(self, affine=what(self.affine), tone=what(self.tone), detail=detail, cover=cover)

    def tensors(self) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = []
        self.each(lambda part: parts.append(part) or part)
        return parts

    def holding(self, tensors: Iterable[torch.Tensor]) -> "Changes":
        """The same kind of changes with other tensors, in the order of `tensors()`."""
        parts = iter(tensors)
        return self.each(lambda _: next(parts))


def table_on(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """(N, S, S) uint8 on the device when it fits into half of the free memory, else the memory map as it is."""
    table = torch.from_numpy(images)
    if device.type == "cuda" and table.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return table.to(device)
    return table


def pixel_statistics(table: torch.Tensor, indices: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the pixels of these images, in [0, 1], for normalisation."""
    histogram = torch.zeros(256, dtype=torch.int64, device=table.device)
    for chunk in torch.from_numpy(indices).split(64):
        histogram += torch.bincount(table[chunk.to(table.device)].flatten(), minlength=256)
    weights = histogram.double().cpu() / histogram.sum().item()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (weights * levels).sum().item()
    variance = (weights * (levels - mean) ** 2).sum().item()
    return mean, max(math.sqrt(variance), 1e-3)


class Batches:
    """Batches of some images of a table.

    `epoch(k)` yields (images, labels): (B, 1, S, S) float32 channels-last, (B,) int64, on the device. With `augment`
    the order and the changes are drawn anew from (seed, k), on the CPU, so that they are the same on any device and
    need no state to be saved. Without it, images come as they are, in order. Batches differ in size by one at most,
    so that none is too small for batch normalisation and a compiled network meets two shapes, not more.

    Several processes share the work: with `shard` (r, n) this is the part of process r of n. Of a training batch it is
    a part of each, cut from the same draws, so that n changes nothing; of an evaluation, one stretch of the images.

    Where the table is not on the device, rows are gathered by a background thread into pinned memory while the device
    works; which of the two it is changes no value. `stream` decides that for tests; None is as described.
    """

    def __init__(
        self,
        table: torch.Tensor,
        labels: np.ndarray,
        indices: np.ndarray,
        batch_size: int,
        device: torch.device,
        normalisation: tuple[float, float],
        augment: Augment | None = None,
        seed: int = 0,
        stream: bool | None = None,
        shard: tuple[int, int] = (0, 1),
        shapes: float = 1.0,
    ) -> None:
        self.table, self.device, self.augment, self.seed, self.shard = table, device, augment, seed, shard
        self.shapes = shapes  # see data.shape_ratio
        self.indices = torch.from_numpy(indices)
        self.all_labels = labels[indices]  # (N,), in the set's order
        self.labels = torch.from_numpy(self.all_labels).to(device)
        self.mean, self.std = normalisation
        self.batch_size = batch_size
        self.stream = table.device.type != device.type if stream is None else stream
        self.recorded = Captured(self._change, recorder(device))
        self._kind: Changes  # which changes there are: the same ones in every epoch
        self._next: tuple[int, tuple] = (-1, ())  # the number of an epoch, and what was drawn for it ahead of time

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def batch_sizes(self) -> list[int]:
        """Of the batches of an epoch, over all processes."""
        return [len(part) for part in torch.arange(len(self.indices)).tensor_split(len(self))]

    def epoch(
        self, number: int = 0, skip: int = 0, side: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one epoch but for the first `skip`, made smaller to `side` pixels where it is given."""
        order, changes = self._drawn(number)
        places = self.places()[skip:]
        rows = self.indices[order].to(self.table.device)  # one transfer an epoch, none a batch
        labels = self.labels[order.to(self.device)]
        gathered = (self.table.index_select(0, rows[here]) for here in places)  # (B, S, S) uint8
        if self.stream:
            gathered = in_background(gathered, pin=self.device.type == "cuda")
        side = side or self.table.shape[-1]
        for here, pixels in zip(places, gathered, strict=True):
            pixels = pixels.to(self.device, non_blocking=True)
            if changes is None:
                yield self._plain(pixels, side), labels[here]
            else:
                self._kind = changes
                yield self.recorded(pixels, *changes[here].tensors(), side=side)[0], labels[here]
        if self.device.type == "cuda" and self.augment is not None:  # while the device works on what it was given
            self._next = number + 1, self._draw(number + 1)

    def _plain(self, pixels: torch.Tensor, side: int) -> torch.Tensor:
        images = sized(pixels, side)
        images = torch.add(torch.tensor(-self.mean / self.std), images, alpha=1 / (255 * self.std))  # one pass, not 4
        return images.contiguous(memory_format=torch.channels_last)

    def _change(self, pixels: torch.Tensor, *changes: torch.Tensor, side: int) -> tuple[torch.Tensor]:
        images = change(sized(pixels, side) * (1 / 255), self._kind.holding(changes), self.mean, self.std)
        return (images.contiguous(memory_format=torch.channels_last),)

    def _drawn(self, number: int) -> tuple[torch.Tensor, Changes | None]:
        """The order of an epoch, and the changes of its images in that order, on the device."""
        drawn_before, drawn = self._next
        order, changes = drawn if drawn_before == number else self._draw(number)
        return order, None if changes is None else changes.to(self.device)

    def _draw(self, number: int) -> tuple[torch.Tensor, Changes | None]:
        count = len(self.indices)
        if self.augment is None:
            return torch.arange(count), None
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(count, generator=generator)
        if self.augment == NO_AUGMENT:
            return order, None
        own = torch.from_numpy(self.all_labels)[order]
        return order, draw_changes(self.augment, own, generator, self.shapes)

    def places(self) -> list[slice]:
        """Where in an epoch's order the batches of this process are."""
        process, processes = self.shard
        everything = torch.arange(len(self.indices))
        if self.augment is None:
            own = everything.tensor_split(processes)[process]
            parts = own.tensor_split(max(math.ceil(len(own) / self.batch_size), 1))
        else:
            parts = [part.tensor_split(processes)[process] for part in everything.tensor_split(len(self))]
        return [slice(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def sized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """(B, S, S) uint8 as (B, 1, side, side): the same, or floats of the same range where it has to be made smaller."""
    images = pixels.unsqueeze(1)
    if side == images.shape[-1]:
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)


def in_background(gathered: Iterable[torch.Tensor], pin: bool, ahead: int = 3) -> Iterator[torch.Tensor]:
    """The same tensors, made by a background thread up to `ahead` before they are asked for; pinned if `pin`.

    An error in the thread is raised here. A consumer that stops early stops the thread.
    """
    waiting: queue.Queue = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for tensor in gathered:
                if stopped.is_set():
                    return
                # A pinned tensor is freed only when the copies that read it have ended: the allocator sees to it.
                put(tensor.pin_memory() if pin else tensor)
            put(None)
        except BaseException as error:  # carried to the thread that waits, whatever it is
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


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
        curved=augment.curve != 0,
    )


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


def change(images: torch.Tensor, changes: Changes, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """Applies changes to (B, 1, S, S) float images in [0, 1], then normalises them by mean and std.

    What comes from outside is black. Contrast turns about the mean of the image as it was before it was moved.
    """
    contrast, brightness, curve = (changes.tone[:, k, None, None, None] for k in range(3))
    centre = images.mean((1, 2, 3), keepdim=True)
    if changes.cover is not None:
        images = covered(images, changes.cover)
    moved = F.grid_sample(
        images, sampling_grid(changes.affine, images.shape[-1]), mode="bilinear", padding_mode="zeros",
        align_corners=False,
    )  # fmt: skip
    if kernels := own_kernels(images.device):
        return kernels.toned(moved, centre, changes.tone, changes.detail, changes.curved, mean, std)
    if changes.detail is not None:
        moved = moved.lerp(smoothed(moved), -changes.detail[:, None, None, None]).clamp_(0, 1)
    if changes.curved:
        moved = torch.addcmul(moved, curve * moved, 1 - moved)
    # (((x - centre) contrast + centre + brightness) clamped to [0, 1] - mean) / std, in three passes over memory
    offset = (centre * (1 - contrast) + brightness - mean) / std
    return moved.mul_(contrast / std).add_(offset).clamp_(-mean / std, (1 - mean) / std)


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
