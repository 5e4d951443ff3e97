"""From the table of pixels to batches on the device: gathered, augmented and normalised, whole batches at a time."""

import itertools
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
    need no state to be saved; the batches differ in size by one at most, so that none is too small for batch
    normalisation. Without it, images come as they are, in order.

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
    ) -> None:
        self.table, self.device, self.augment, self.seed = table, device, augment, seed
        self.indices = torch.from_numpy(indices)
        self.labels = torch.from_numpy(labels[indices]).to(device)
        self.mean, self.std = normalisation
        self.batch_size = batch_size
        self.stream = table.device.type != device.type if stream is None else stream

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def epoch(self, number: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        count = len(self.indices)
        if self.augment is None:
            order, affine, tone = torch.arange(count), None, None
            parts = order.split(self.batch_size)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            order = torch.randperm(count, generator=generator)
            affine, tone = (p.to(self.device) for p in draw_changes(self.augment, count, generator))
            parts = order.tensor_split(len(self))
        rows = self.indices[order].to(self.table.device)  # one transfer an epoch, none a batch
        order = order.to(self.device)
        offset = torch.tensor(-self.mean / self.std)
        bounds = np.cumsum([0, *map(len, parts)]).tolist()
        places = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
        gathered = (self.table.index_select(0, rows[here]) for here in places)  # (B, S, S) uint8
        if self.stream:
            gathered = in_background(gathered, pin=self.device.type == "cuda")
        for here, pixels in zip(places, gathered, strict=True):
            images = pixels.to(self.device, non_blocking=True).unsqueeze(1)  # (B, 1, S, S) uint8
            if affine is None:
                images = torch.add(offset, images, alpha=1 / (255 * self.std))  # one pass over memory, not four
            else:
                images = change(images.float().div_(255), affine[here], tone[here]).sub_(self.mean).div_(self.std)
            yield images.contiguous(memory_format=torch.channels_last), self.labels[order[here]]


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


def change(images: torch.Tensor, affine: torch.Tensor, tone: torch.Tensor) -> torch.Tensor:
    """Applies `draw_changes` to (B, 1, S, S) float images in [0, 1]; what comes from outside is black."""
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    contrast, brightness = tone[:, :1, None, None], tone[:, 1:, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((images - mean) * contrast + mean + brightness).clamp_(0, 1)
