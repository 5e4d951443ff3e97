"""From the table of pixels to batches on the device: gathered, augmented and normalised, whole batches at a time."""

import math
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augment:
    """Half-widths of the uniform distributions that random changes of an image are drawn from."""

    shift: float = 0.06  # fraction of the side
    scale: float = 0.10  # fraction
    rotation: float = 7.0  # degrees
    brightness: float = 0.10  # of the range from black to white
    contrast: float = 0.15  # fraction, about the image's own mean
    flip: bool = False  # left-right with probability 1/2: it mirrors the heart, so it is off


NO_AUGMENT = Augment(0, 0, 0, 0, 0)


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
    ) -> None:
        self.table, self.device, self.augment, self.seed, self.shard = table, device, augment, seed, shard
        self.indices = torch.from_numpy(indices)
        self.all_labels = labels[indices]  # (N,), in the set's order
        self.labels = torch.from_numpy(self.all_labels).to(device)
        self.mean, self.std = normalisation
        self.batch_size = batch_size
        self.stream = table.device.type != device.type if stream is None else stream

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def batch_sizes(self) -> list[int]:
        """Of the batches of an epoch, over all processes."""
        return [len(part) for part in torch.arange(len(self.indices)).tensor_split(len(self))]

    def epoch(
        self, number: int = 0, skip: int = 0, side: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one epoch but for the first `skip`, made smaller to `side` pixels where it is given."""
        order, affine, tone = self._drawn(number)
        places = self.places()[skip:]
        rows = self.indices[order].to(self.table.device)  # one transfer an epoch, none a batch
        labels = self.labels[order.to(self.device)]
        gathered = (self.table.index_select(0, rows[here]) for here in places)  # (B, S, S) uint8
        if self.stream:
            gathered = in_background(gathered, pin=self.device.type == "cuda")
        offset = torch.tensor(-self.mean / self.std)
        for here, pixels in zip(places, gathered, strict=True):
            images = pixels.to(self.device, non_blocking=True).unsqueeze(1)  # (B, 1, S, S) uint8
            if side not in (None, images.shape[-1]):
                images = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
            if affine is None or tone is None:
                images = torch.add(offset, images, alpha=1 / (255 * self.std))  # one pass over memory, not four
            else:
                images = change(images * (1 / 255), affine[here], tone[here], self.mean, self.std)
            yield images.contiguous(memory_format=torch.channels_last), labels[here]

    def _drawn(self, number: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The order of an epoch, and the changes of its images in that order."""
        count = len(self.indices)
        if self.augment is None:
            return torch.arange(count), None, None
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(count, generator=generator)
        affine, tone = draw_changes(self.augment, count, generator)
        return order, affine.to(self.device), tone.to(self.device)

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


def draw_changes(augment: Augment, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random changes for `count` images: affine maps (count, 2, 3) and (contrast, brightness) (count, 2).

    An affine map takes output coordinates to input coordinates, both in [-1, 1] (F.affine_grid's convention).
    """
    uniform = torch.rand(count, 7, generator=generator) * 2 - 1
    angle = uniform[:, 0] * math.radians(augment.rotation)
    zoom = 1 / (1 + uniform[:, 1] * augment.scale)
    mirror = torch.where(uniform[:, 2] < 0, -1.0, 1.0) if augment.flip else torch.ones(count)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift = uniform[:, 3:5] * augment.shift * 2  # the side is 2 long in these coordinates
    affine = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], 1).view(count, 2, 3)
    tone = torch.stack([1 + uniform[:, 5] * augment.contrast, uniform[:, 6] * augment.brightness], 1)
    return affine, tone


def change(
    images: torch.Tensor, affine: torch.Tensor, tone: torch.Tensor, mean: float = 0.0, std: float = 1.0
) -> torch.Tensor:
    """Applies `draw_changes` to (B, 1, S, S) float images in [0, 1], then normalises them by mean and std.

    What comes from outside is black. Contrast turns about the mean of the image as it was before it was moved.
    """
    contrast, brightness = tone[:, :1, None, None], tone[:, 1:, None, None]
    centre = images.mean((1, 2, 3), keepdim=True)
    moved = F.grid_sample(
        images, sampling_grid(affine, images.shape[-1]), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    # (((x - centre) contrast + centre + brightness) clamped to [0, 1] - mean) / std, in three passes over memory
    offset = (centre * (1 - contrast) + brightness - mean) / std
    return moved.mul_(contrast / std).add_(offset).clamp_(-mean / std, (1 - mean) / std)


def sampling_grid(affine: torch.Tensor, side: int) -> torch.Tensor:
    """(B, side, side, 2) input coordinates of each output pixel: F.affine_grid(affine, ..., align_corners=False).

    A complex number stands for a pair (x, y), and a column's pair plus a row's pair is the pixel's: one addition a
    pixel, where F.affine_grid's matrix product is the slowest part of the whole augmentation on a CPU.
    """
    steps = (torch.arange(side, device=affine.device) * 2 + 1) / side - 1  # pixel centres in [-1, 1]
    along_x, along_y, origin = (torch.complex(affine[:, 0, k], affine[:, 1, k])[:, None] for k in range(3))
    columns, rows = along_x * steps, along_y * steps + origin  # (B, side) each
    return torch.view_as_real(columns[:, None, :] + rows[:, :, None])
