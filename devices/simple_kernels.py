"""The simple network's training step by kernels of our own: convolution, ReLU and pooling in one, both ways.

Plainly, a convolution from 1 channel to 6 is most of the step on a GPU, since libraries are made for many channels, and
what it writes, six numbers for each pixel, is read five times to become a quarter of it.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

import models
from devices.resnet_kernels import channels_last

ROWS = tl.constexpr(64)  # of a tile: places, over all images
DEAD = tl.constexpr(255)  # in place of which pixel was the largest: none, because ReLU made it 0
PARTS = 512  # at most, that a sum over the rows is made of
FILTERS = tl.constexpr(8)  # of the first convolution: six, and two of zeros, since tensor cores take eight channels
TAPS = tl.constexpr(32)  # of its kernel of 5 x 5, and masked ones


@triton.jit(do_not_specialize=["m", "size", "pooled"])
def _convolved(images, weight, bias, y, chosen, m, size, pooled):
    """y (m, 8): the largest of 2 x 2 of relu(5 x 5 convolution + bias) of images (N, size, size), and which it was.

    weight (25, 8), bias (8,); m places, N x pooled x pooled.
    """
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, FILTERS)
    inside = rows < m
    image, top, left = rows // (pooled * pooled), rows // pooled % pooled * 2, rows % pooled * 2
    corner = images + (image * size + top) * size + left
    a = tl.zeros((ROWS, FILTERS), tl.float32)
    b = tl.zeros((ROWS, FILTERS), tl.float32)
    c = tl.zeros((ROWS, FILTERS), tl.float32)
    d = tl.zeros((ROWS, FILTERS), tl.float32)
    for i in tl.static_range(6):
        for j in tl.static_range(6):
            value = tl.load(corner + i * size + j, mask=inside, other=0.0).to(tl.float32)[:, None]
            if i < 5 and j < 5:
                a += value * tl.load(weight + (i * 5 + j) * FILTERS + columns)[None, :]
            if i < 5 and j > 0:
                b += value * tl.load(weight + (i * 5 + j - 1) * FILTERS + columns)[None, :]
            if i > 0 and j < 5:
                c += value * tl.load(weight + (i * 5 + j - 5) * FILTERS + columns)[None, :]
            if i > 0 and j > 0:
                d += value * tl.load(weight + (i * 5 + j - 6) * FILTERS + columns)[None, :]
    largest, which = _largest(a, b, c, d, tl.load(bias + columns)[None, :])
    at = rows[:, None] * FILTERS + columns[None, :]
    tl.store(y + at, largest.to(y.dtype.element_ty), mask=inside[:, None])
    tl.store(chosen + at, which, mask=inside[:, None])


@triton.jit
def _largest(a, b, c, d, bias):
    """relu(the largest of four + bias), and which it was: the first of equal ones, or DEAD."""
    largest, which = a, tl.zeros_like(a).to(tl.int32)
    which, largest = tl.where(b > largest, 1, which), tl.where(b <= largest, largest, b)
    which, largest = tl.where(c > largest, 2, which), tl.where(c <= largest, largest, c)
    which, largest = tl.where(d > largest, 3, which), tl.where(d <= largest, largest, d)
    # What is no number stays none: a sum with it is none, and a largest value may have lost it.
    largest = largest + bias + 0 * (a + b + c + d)
    return tl.where(largest < 0, 0.0, largest), tl.where(largest > 0, which, DEAD).to(tl.uint8)


@triton.jit(do_not_specialize=["m", "size", "pooled", "each"])
def _convolved_gradient(images, grad, chosen, sums, m, size, pooled, each):
    """sums (parts, 8, 32): of one filter's 25 weights, and in the 26th place of its bias."""
    part, column = tl.program_id(0), tl.program_id(1)
    taps = tl.arange(0, TAPS)[None, :]
    offset = taps // 5 * size + taps % 5
    total = tl.zeros((ROWS, TAPS), tl.float32)
    for start in range(part * each, (part + 1) * each, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = rows < m
        which = tl.load(chosen + rows * FILTERS + column, mask=inside, other=DEAD).to(tl.int32)
        there = which < 4
        own = tl.load(grad + rows * FILTERS + column, mask=there, other=0.0).to(tl.float32)
        image, top, left = rows // (pooled * pooled), rows // pooled % pooled * 2, rows % pooled * 2
        corner = (image * size + top + which // 2) * size + left + which % 2
        value = tl.load(images + corner[:, None] + offset, mask=there[:, None] & (taps < 25), other=0.0).to(tl.float32)
        total += own[:, None] * tl.where(taps == 25, 1.0, value)
    tl.store(sums + (part * FILTERS + column) * TAPS + tl.arange(0, TAPS), tl.sum(total, 0))


class _ConvolvedPooled(torch.autograd.Function):
    """max_pool(relu(conv2d(images, weight, bias)), 2), one channel and 6 filters, with two channels of zeros behind."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, _, size, _ = images.shape
        pooled = (size - 4) // 2
        like = images.new_empty(0, dtype=models.convolved_type(images))
        y = channels_last((n, FILTERS.value, pooled, pooled), like)
        chosen = torch.empty_like(y, dtype=torch.uint8)
        empty = FILTERS.value - len(bias)
        table, shift = F.pad(weight.flatten(1), (0, 0, 0, empty)).T.contiguous(), F.pad(bias, (0, empty))
        m = n * pooled * pooled
        _convolved[(triton.cdiv(m, ROWS.value),)](images, table, shift, y, chosen, m, size, pooled)
        ctx.save_for_backward(images, chosen)
        ctx.weight_shape = weight.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        images, chosen = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        n, _, pooled, _ = grad.shape
        m, filters = n * pooled * pooled, ctx.weight_shape[0]
        parts, each = parts_of(m)
        sums = torch.empty(parts, FILTERS.value, TAPS.value, device=grad.device)
        _convolved_gradient[(parts, filters)](images, grad, chosen, sums, m, images.shape[-1], pooled, each)
        total = sums[:, :filters].sum(0)
        return None, total[:, :25].reshape(ctx.weight_shape), total[:, 25]


@triton.jit(do_not_specialize=["m", "h", "pooled"])
def _flattened(x, bias, y, chosen, m, h, pooled, C: tl.constexpr):
    """y (N, C, pooled, pooled): the largest of 2 x 2 of relu(x + bias), x (N, h, h, C), and which of them it was."""
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, C)
    inside = (rows < m)[:, None]
    image, top, left = rows // (pooled * pooled), rows // pooled % pooled * 2, rows % pooled * 2
    corner = x + ((image * h + top) * h + left)[:, None] * C + columns[None, :]
    a = tl.load(corner, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(corner + C, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(corner + h * C, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(corner + (h + 1) * C, mask=inside, other=0.0).to(tl.float32)
    largest, which = _largest(a, b, c, d, tl.load(bias + columns)[None, :])
    at = ((image * C)[:, None] + columns[None, :]) * (pooled * pooled) + (rows % (pooled * pooled))[:, None]
    tl.store(y + at, largest.to(y.dtype.element_ty), mask=inside)
    tl.store(chosen + at, which, mask=inside)


@triton.jit(do_not_specialize=["m", "h", "pooled", "each"])
def _flattened_gradient(grad, chosen, x_grad, sums, m, h, pooled, each, C: tl.constexpr):
    """The gradient of every pixel of x (m, C), and sums (parts, C) of it."""
    part, columns = tl.program_id(0), tl.arange(0, C)
    total = tl.zeros((ROWS, C), tl.float32)
    for start in range(part * each, (part + 1) * each, ROWS):
        rows = start + tl.arange(0, ROWS)
        image, i, j = rows // (h * h), rows // h % h, rows % h
        there = ((rows < m) & (i < 2 * pooled) & (j < 2 * pooled))[:, None]
        at = ((image * C)[:, None] + columns[None, :]) * (pooled * pooled) + (i // 2 * pooled + j // 2)[:, None]
        which = tl.load(chosen + at, mask=there, other=DEAD).to(tl.int32)
        own = tl.load(grad + at, mask=there & (which == (i % 2 * 2 + j % 2)[:, None]), other=0.0).to(tl.float32)
        tl.store(x_grad + rows[:, None] * C + columns[None, :], own.to(x_grad.dtype.element_ty),
                 mask=(rows < m)[:, None])  # fmt: skip
        total += own
    tl.store(sums + part * C + columns, tl.sum(total, 0))


class _PooledFlat(torch.autograd.Function):
    """max_pool(relu(x + bias), 2).flatten(1), x (N, C, H, H) channels last, C a power of two."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, c, h, _ = x.shape
        pooled = h // 2
        y = x.new_empty(n, c * pooled * pooled)
        chosen = torch.empty_like(y, dtype=torch.uint8)
        m = n * pooled * pooled
        _flattened[(triton.cdiv(m, ROWS.value),)](x, bias, y, chosen, m, h, pooled, c)
        ctx.save_for_backward(chosen)
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        (chosen,), (n, c, h, _) = ctx.saved_tensors, ctx.shape
        grad = grads[0].contiguous()
        x_grad = channels_last(ctx.shape, grad)
        m = n * h * h
        parts, each = parts_of(m)
        sums = torch.empty(parts, c, device=grad.device)
        _flattened_gradient[(parts,)](grad, chosen, x_grad, sums, m, h, h // 2, each, c)
        return x_grad, sums.sum(0)


def parts_of(m: int) -> tuple[int, int]:
    """Into how many parts m rows are cut, and the rows of each, whole tiles."""
    each = triton.cdiv(triton.cdiv(m, PARTS), ROWS.value) * ROWS.value
    return triton.cdiv(m, each), each


def simple(network: models.SimpleCNN, images: torch.Tensor) -> torch.Tensor:
    """Logits (N, 2) of images (N, 1, S, S), as network(images)."""
    x = _ConvolvedPooled.apply(images.contiguous(), network.conv1.weight, network.conv1.bias)
    second = network.conv2
    x = F.conv2d(x, F.pad(second.weight, (0, 0, 0, 0, 0, FILTERS.value - second.in_channels)))
    x = _PooledFlat.apply(x.contiguous(memory_format=torch.channels_last), second.bias)
    return network.classified(x)
