"""The training step's own CUDA kernels, in Triton: what PyTorch does in many passes over memory, in few.

fused(network)   the same network, from images to logits, by these kernels; None where they cannot be used

On one Hopper GPU the plain ResNet-34 spends a third of its step in batch normalisation, ReLU and the additions around
them, all of it waiting for memory, and the plain simple CNN most of its step in convolutions of 1 and 6 channels, which
no library is made for. The formulas are those of the modules in models.py, and the tests hold both against each other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import nn

import models

ROWS = tl.constexpr(64)  # of a tile: places, over all images; its columns are channels
CHANNELS = tl.constexpr(64)  # every layer of a ResNet has a multiple of them
PARTS = tl.constexpr(512)  # at most, that a sum over the rows is made of
FEW = tl.constexpr(16)  # channels for which one program adds up the parts
DEAD = tl.constexpr(255)  # in place of which pixel was the largest: none, because ReLU made it 0


# ------------------------------------------------------------------------ batch normalisation, ReLU and what follows


@triton.jit(do_not_specialize=["m", "blocks", "each"])
def _sums(x, pivot, sums, m, blocks, each):
    """sums (parts, 2, C): of x - pivot and of its square, over `each` of the m rows of x (m, C)."""
    part, columns = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = blocks * CHANNELS
    middle = tl.load(pivot + columns)[None, :]
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(part * each, (part + 1) * each, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < m)[:, None]
        value = tl.load(x + rows[:, None] * c + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - middle, 0.0)
        total += value
        squares += value * value
    tl.store(sums + 2 * part * c + columns, tl.sum(total, 0))
    tl.store(sums + (2 * part + 1) * c + columns, tl.sum(squares, 0))


@triton.jit
def _added_up(sums, columns, parts, c):
    """The two sums of _sums over all parts, for a few channels."""
    part = tl.arange(0, PARTS)[:, None]
    at = 2 * part * c + columns[None, :]
    first = tl.load(sums + at, mask=part < parts, other=0.0)
    second = tl.load(sums + at + c, mask=part < parts, other=0.0)
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit(do_not_specialize=["m", "parts", "blocks", "eps", "momentum"])
def _settled(sums, weight, bias, running_mean, running_var, saved, m, parts, blocks, eps, momentum):
    """saved (4, C): mean, 1 / deviation, and the factor and the shift that normalise; moves the running statistics."""
    columns = tl.program_id(0) * FEW + tl.arange(0, FEW)
    c = blocks * CHANNELS
    total, squares = _added_up(sums, columns, parts, c)
    pivot = tl.load(running_mean + columns)
    off = total / m
    variance = tl.maximum(squares / m - off * off, 0.0)
    mean = pivot + off
    inverse = 1 / tl.sqrt(variance + eps)
    factor = tl.load(weight + columns) * inverse
    tl.store(saved + columns, mean)
    tl.store(saved + c + columns, inverse)
    tl.store(saved + 2 * c + columns, factor)
    tl.store(saved + 3 * c + columns, tl.load(bias + columns) - mean * factor)
    tl.store(running_mean + columns, pivot + momentum * off)
    before = tl.load(running_var + columns)
    tl.store(running_var + columns, before + momentum * (variance * (m / (m - 1.0)) - before))


@triton.jit(do_not_specialize=["m", "blocks"])
def _applied(x, saved, around, y, m, blocks, AROUND: tl.constexpr, RELU: tl.constexpr):
    """y = x normalised, plus what came around the block, the negative part cut off."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = blocks * CHANNELS
    at, inside = rows[:, None] * c + columns[None, :], (rows < m)[:, None]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.load(saved + 2 * c + columns)[None, :] + tl.load(saved + 3 * c + columns)[None, :]
    if AROUND:
        value += tl.load(around + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["m", "h", "w"])
def _pooled(x, saved, y, chosen, m, h, w):
    """x (N, h, w, 64) normalised, ReLU, the largest of 3 x 3 at every second place: y, and which of the nine it was."""
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, CHANNELS)
    inside = rows < m
    factor, shift = tl.load(saved + 2 * CHANNELS + columns)[None, :], tl.load(saved + 3 * CHANNELS + columns)[None, :]
    down, across = (h + 1) // 2, (w + 1) // 2
    image, top, left = rows // (down * across), rows // across % down * 2 - 1, rows % across * 2 - 1
    largest = tl.zeros((ROWS, CHANNELS), tl.float32)
    which = tl.full((ROWS, CHANNELS), DEAD, tl.int32)
    for k in tl.static_range(9):
        i, j = top + k // 3, left + k % 3
        there = (inside & (i >= 0) & (i < h) & (j >= 0) & (j < w))[:, None]
        at = ((image * h + i) * w + j)[:, None] * CHANNELS + columns[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32) * factor + shift
        larger = there & (value > largest)
        largest, which = tl.where(larger, value, largest), tl.where(larger, k, which)
    at = rows[:, None] * CHANNELS + columns[None, :]
    tl.store(y + at, largest.to(y.dtype.element_ty), mask=inside[:, None])
    tl.store(chosen + at, which.to(tl.uint8), mask=inside[:, None])


@triton.jit
def _unpooled(grad, chosen, rows, columns, inside, h, w):
    """What the gradient of _pooled's y gives to rows of its x."""
    down, across = (h + 1) // 2, (w + 1) // 2
    image, i, j = rows // (h * w), rows // w % h, rows % w
    found = tl.zeros((ROWS, CHANNELS), tl.float32)
    for k in tl.static_range(4):  # the pools that a pixel can be in
        o, p = (i + 1) // 2 - k // 2, (j + 1) // 2 - k % 2
        di, dj = i - 2 * o + 1, j - 2 * p + 1
        there = (inside & (o >= 0) & (o < down) & (p >= 0) & (p < across) & (di <= 2) & (dj <= 2))[:, None]
        at = ((image * down + o) * across + p)[:, None] * CHANNELS + columns[None, :]
        which = tl.load(chosen + at, mask=there, other=DEAD).to(tl.int32)
        value = tl.load(grad + at, mask=there & (which == (3 * di + dj)[:, None]), other=0.0)
        found += value.to(tl.float32)
    return found


@triton.jit
def _gradient(value, grad, chosen, rows, columns, inside, c, h, w, RELU: tl.constexpr, POOL: tl.constexpr):
    """Of what was normalised: `value` is it, or what ReLU left of it and its sum."""
    if POOL:
        found = _unpooled(grad, chosen, rows, columns, inside, h, w)
    else:
        at = rows[:, None] * c + columns[None, :]
        found = tl.load(grad + at, mask=inside[:, None], other=0.0).to(tl.float32)
        if RELU:
            found = tl.where(value > 0, found, 0.0)
    return found


@triton.jit(do_not_specialize=["m", "blocks", "each", "h", "w"])
def _gradient_sums(
    x, saved, y, grad, chosen, masked, sums, m, blocks, each, h, w,
    AROUND: tl.constexpr, RELU: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """sums (parts, 2, C): of the gradient, and of its product with x normalised; `masked` is the gradient after ReLU."""
    part, columns = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = blocks * CHANNELS
    mean, inverse = tl.load(saved + columns)[None, :], tl.load(saved + c + columns)[None, :]
    factor, shift = tl.load(saved + 2 * c + columns)[None, :], tl.load(saved + 3 * c + columns)[None, :]
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(part * each, (part + 1) * each, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = rows < m
        at = rows[:, None] * c + columns[None, :]
        own = tl.load(x + at, mask=inside[:, None], other=0.0).to(tl.float32)
        if AROUND:
            value = tl.load(y + at, mask=inside[:, None], other=0.0).to(tl.float32)
        else:
            value = own * factor + shift
        found = _gradient(value, grad, chosen, rows, columns, inside, c, h, w, RELU, POOL)
        if AROUND:
            tl.store(masked + at, found.to(masked.dtype.element_ty), mask=inside[:, None])
        total += found
        products += found * (own - mean) * inverse
    tl.store(sums + 2 * part * c + columns, tl.sum(total, 0))
    tl.store(sums + (2 * part + 1) * c + columns, tl.sum(products, 0))


@triton.jit(do_not_specialize=["m", "parts", "blocks"])
def _gradient_settled(sums, saved, terms, weight_grad, bias_grad, m, parts, blocks):
    """terms (2, C): the gradient of x is factor x gradient + first x x + second (Ioffe & Szegedy 2015)."""
    columns = tl.program_id(0) * FEW + tl.arange(0, FEW)
    c = blocks * CHANNELS
    total, products = _added_up(sums, columns, parts, c)
    mean, inverse, factor = tl.load(saved + columns), tl.load(saved + c + columns), tl.load(saved + 2 * c + columns)
    slope = -factor * products * inverse / m
    tl.store(terms + columns, slope)
    tl.store(terms + c + columns, -factor * total / m - slope * mean)
    tl.store(weight_grad + columns, products)
    tl.store(bias_grad + columns, total)


@triton.jit(do_not_specialize=["m", "blocks", "h", "w"])
def _gradient_applied(x, saved, terms, grad, chosen, x_grad, m, blocks, h, w, RELU: tl.constexpr, POOL: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = blocks * CHANNELS
    inside = rows < m
    at = rows[:, None] * c + columns[None, :]
    own = tl.load(x + at, mask=inside[:, None], other=0.0).to(tl.float32)
    factor, shift = tl.load(saved + 2 * c + columns)[None, :], tl.load(saved + 3 * c + columns)[None, :]
    found = _gradient(own * factor + shift, grad, chosen, rows, columns, inside, c, h, w, RELU, POOL)
    found = found * factor + own * tl.load(terms + columns)[None, :] + tl.load(terms + c + columns)[None, :]
    tl.store(x_grad + at, found.to(x_grad.dtype.element_ty), mask=inside[:, None])


class _Normalised(torch.autograd.Function):
    """relu(batch_norm(x) + around), or max_pool(relu(batch_norm(x)), 3, 2, 1) with `pool`; x (N, C, H, W) channels last."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, around: torch.Tensor | None,
        norm: nn.BatchNorm2d, relu: bool, pool: bool,
    ) -> torch.Tensor:  # fmt: skip
        (n, c, h, w), m = x.shape, x.numel() // x.shape[1]
        blocks, parts, each = c // CHANNELS.value, *parts_of(m)
        sums = x.new_empty(parts, 2, c, dtype=torch.float32)
        saved = x.new_empty(4, c, dtype=torch.float32)
        _sums[(parts, blocks)](x, norm.running_mean, sums, m, blocks, each)
        _settled[(c // FEW.value,)](sums, weight, bias, norm.running_mean, norm.running_var, saved, m, parts, blocks,
                                    norm.eps, norm.momentum)  # fmt: skip
        chosen = None
        if pool:
            y = channels_last((n, c, (h + 1) // 2, (w + 1) // 2), x)
            chosen = torch.empty_like(y, dtype=torch.uint8)
            rows = y.numel() // c
            _pooled[(triton.cdiv(rows, ROWS.value),)](x, saved, y, chosen, rows, h, w)
        else:
            y = torch.empty_like(x)
            grid = triton.cdiv(m, ROWS.value), blocks
            _applied[grid](x, saved, x if around is None else around, y, m, blocks, around is not None, relu)
        ctx.save_for_backward(x, saved, y if around is not None else None, chosen)
        ctx.relu, ctx.around = relu, around is not None
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        x, saved, y, chosen = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        (_, c, h, w), m = x.shape, x.numel() // x.shape[1]
        blocks, parts, each = c // CHANNELS.value, *parts_of(m)
        sums = x.new_empty(parts, 2, c, dtype=torch.float32)
        terms, weight_grad, bias_grad = (x.new_empty(k, c, dtype=torch.float32) for k in (2, 1, 1))
        masked = torch.empty_like(x) if ctx.around else None
        pool, nothing = chosen is not None, x  # a pointer that is not followed
        _gradient_sums[(parts, blocks)](
            x, saved, nothing if y is None else y, grad, chosen if pool else nothing,
            nothing if masked is None else masked, sums, m, blocks, each, h, w, ctx.around, ctx.relu, pool,
        )  # fmt: skip
        _gradient_settled[(c // FEW.value,)](sums, saved, terms, weight_grad, bias_grad, m, parts, blocks)
        x_grad = torch.empty_like(x)
        _gradient_applied[(triton.cdiv(m, ROWS.value), blocks)](
            x, saved, terms, grad if masked is None else masked, chosen if pool else nothing, x_grad, m, blocks, h, w,
            ctx.relu and not ctx.around, pool,
        )  # fmt: skip
        return x_grad, weight_grad[0], bias_grad[0], masked, None, None, None


def channels_last(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """An empty tensor."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def parts_of(m: int) -> tuple[int, int]:
    """Into how many parts m rows are cut, and the rows of each, whole tiles."""
    each = triton.cdiv(triton.cdiv(m, PARTS.value), ROWS.value) * ROWS.value
    return triton.cdiv(m, each), each


def normalised(
    x: torch.Tensor, norm: nn.BatchNorm2d, around: torch.Tensor | None = None, relu: bool = True, pool: bool = False
) -> torch.Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    return _Normalised.apply(x, norm.weight, norm.bias, around, norm, relu, pool)


def stem(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """F.conv2d(images, weight, stride=2, padding=3) of one channel, as one of stride 1 over squares of 2 x 2 pixels.

    Those are four channels, and zeros make them eight: fewer than eight no tensor core takes.
    """
    odd = images.shape[-1] % 2
    squares = F.pixel_unshuffle(F.pad(images, (4, 2 + odd, 4, 2 + odd)), 2)
    kernel = F.pixel_unshuffle(F.pad(weight, (1, 0, 1, 0)), 2)  # (64, 4, 4, 4)
    squares, kernel = (F.pad(part, (0, 0, 0, 0, 0, 4)) for part in (squares, kernel))
    return F.conv2d(squares.contiguous(memory_format=torch.channels_last),
                    kernel.contiguous(memory_format=torch.channels_last))  # fmt: skip


def resnet34(network: models.ResNet34, images: torch.Tensor) -> torch.Tensor:
    x = normalised(stem(images, network.conv1.weight), network.bn1, pool=True)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            assert isinstance(block, models.BasicBlock)
            around = x
            if isinstance(block.downsample, nn.Sequential):
                convolution, norm = block.downsample
                around = normalised(convolution(x), norm, relu=False)
            x = normalised(block.conv1(x), block.bn1)
            x = normalised(block.conv2(x), block.bn2, around)
    return network.head(x)


# -------------------------------------------------------------------------------------------- the simple network

FILTERS, SIDE = tl.constexpr(8), tl.constexpr(5)  # of its first convolution, two of them zeros; of both kernels
TAPS = tl.constexpr(32)  # 25 of the kernel's, and masked ones


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
    which, largest = tl.where(b > largest, 1, which), tl.maximum(b, largest)
    which, largest = tl.where(c > largest, 2, which), tl.maximum(c, largest)
    which, largest = tl.where(d > largest, 3, which), tl.maximum(d, largest)
    largest = largest + bias
    return tl.maximum(largest, 0.0), tl.where(largest > 0, which, DEAD).to(tl.uint8)


@triton.jit(do_not_specialize=["m", "size", "pooled", "each"])
def _convolved_gradient(images, grad, chosen, sums, m, size, pooled, each):
    """sums (parts, 8, 32): of one filter's 25 weights, and in the 26th place of its bias."""
    part, column = tl.program_id(0), tl.program_id(1)
    taps = tl.arange(0, TAPS)[None, :]
    offset = taps // SIDE * size + taps % SIDE
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
        kind = images.device.type
        reduced = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype
        y = channels_last((n, FILTERS.value, pooled, pooled), images.new_empty(0, dtype=reduced))
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


def simple(network: models.SimpleCNN, images: torch.Tensor) -> torch.Tensor:
    x = _ConvolvedPooled.apply(images.contiguous(), network.conv1.weight, network.conv1.bias)
    second = network.conv2
    x = F.conv2d(x, F.pad(second.weight, (0, 0, 0, 0, 0, FILTERS.value - second.in_channels)))
    x = _PooledFlat.apply(x.contiguous(memory_format=torch.channels_last), second.bias)
    return network.classified(x)


# ------------------------------------------------------------------------------------------------- the way in


class Fused(nn.Module):
    """A network's answers by these kernels; parameters and buffers are the network's own."""

    def __init__(self, network: nn.Module, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.by_kernels = network, forward
        self.counters = [norm.num_batches_tracked for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.counters and not self.network.training:  # running statistics, which nothing here knows of
            return self.network(images)
        if images.numel() * 16 >= 2**31:  # the stem's output has 16 numbers for each pixel, and addresses have 32 bits
            return self.network(images)
        if self.counters:
            torch._foreach_add_(self.counters, 1)
        return self.by_kernels(self.network, images)


def fused(network: nn.Module) -> nn.Module | None:
    """The same network by these kernels, for training in bf16 on CUDA; None for another one than those of models.py."""
    if isinstance(network, models.ResNet34):
        return Fused(network, resnet34)
    return Fused(network, simple) if isinstance(network, models.SimpleCNN) else None
