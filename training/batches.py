"""From the table of pixels to batches on the device: gathered, augmented and normalised, whole batches at a time."""

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from devices.recording import Captured, own_kernels, recorder
from films.augmentation import Changes, change, draw_changes, toned
from films.variation import NO_AUGMENT, Augment


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


def toned_on(device: torch.device) -> Callable[..., torch.Tensor]:
    """Our own kernel for the tone of films where there is one, else what it stands in for."""
    kernels = own_kernels(device)
    return kernels.toned if kernels else toned


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
        count, batches = len(self.indices), math.ceil(len(self.indices) / self.batch_size)
        # Of 5 images in batches of 2 one would be alone, which batch normalisation cannot train on: 3 and 2.
        return batches if self.augment is None else max(min(batches, count // 2), 1)

    def batch_sizes(self) -> list[int]:
        """Of the batches of an epoch, over all processes."""
        return [len(part) for part in torch.arange(len(self.indices)).tensor_split(len(self))]

    def epoch(
        self, number: int = 0, skip: int = 0, side: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one epoch but for the first `skip`, made smaller to `side` pixels where it is given."""
        order, changes = self._drawn(number)
        places = self.places()[skip:]
        rows = self.indices[order].to(self.table.device)[:, None]  # one transfer an epoch, none a batch
        labels = self.labels[order.to(self.device)]
        if changes is not None and changes.donor is not None:
            donors = self.indices.to(self.device)[changes.donor].to(rows.device)  # no wait where the table is there
            rows = torch.cat([rows, donors[:, None]], 1)
        gathered = (self.table.index_select(0, rows[here].T.flatten()) for here in places)  # (B or 2 B, S, S) uint8
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
        kind, images = self._kind.holding(changes), sized(pixels, side) * (1 / 255)
        images, others = (images, None) if kind.donor is None else images.chunk(2)
        images = change(images, kind, self.mean, self.std, toned_on(self.device), others)
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
