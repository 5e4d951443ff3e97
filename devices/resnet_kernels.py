"""ResNet-34's training step by kernels of our own: batch normalisation with all that stands beside it, and the stem.

Plainly, normalising, ReLU and the additions around them take a third of the step on a Hopper GPU, all of it waiting for
memory, and the stem, a convolution of one channel that no library is made for, a tenth. Here a layer's output is read
twice and written once on the way forward, and the stem's gradient is never written at all.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import nn

import models

ROWS = tl.constexpr(64)  # of a tile: places, over all images; its columns are channels
LONG = tl.constexpr(128)  # rows of the tiles that are summed over, by twice as many threads
CHANNELS = tl.constexpr(64)  # every layer of a ResNet has a multiple of them
PARTS = tl.constexpr(256)  # at most, that a sum over the rows is made of: two for each multiprocessor
FEW = tl.constexpr(16)  # channels for which one program adds up the parts
DEAD = tl.constexpr(255)  # in place of which pixel was the largest: none, because ReLU made it 0
TAPS = tl.constexpr(64)  # of the stem's kernel of 7 x 7, and masked ones


# ------------------------------------------------------------------------ batch normalisation, ReLU and what follows


@triton.jit(do_not_specialize=["m", "blocks", "each"])
def _sums(x, pivot, sums, m, blocks, each):
    """sums (parts, 2, C): of x - pivot and of its square, over `each` of the m rows of x (m, C)."""
    part, columns = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = blocks * CHANNELS
    middle = tl.load(pivot + columns)[None, :]
    total = tl.zeros((LONG, CHANNELS), tl.float32)
    squares = tl.zeros((LONG, CHANNELS), tl.float32)
    for start in range(part * each, (part + 1) * each, LONG):
        rows = start + tl.arange(0, LONG)
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
        value = tl.where(value < 0, 0.0, value)  # what is no number stays none
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["m", "blocks", "each"])
def _gradient_sums(x, saved, y, grad, masked, sums, m, blocks, each, AROUND: tl.constexpr, RELU: tl.constexpr):
    """sums (parts, 2, C): of the gradient after ReLU, and of its product with x normalised.

    Where something came around the block the gradient after ReLU is also its own, and is written to `masked`.
    """
    part, columns = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = blocks * CHANNELS
    mean, inverse = tl.load(saved + columns)[None, :], tl.load(saved + c + columns)[None, :]
    factor, shift = tl.load(saved + 2 * c + columns)[None, :], tl.load(saved + 3 * c + columns)[None, :]
    total = tl.zeros((LONG, CHANNELS), tl.float32)
    products = tl.zeros((LONG, CHANNELS), tl.float32)
    for start in range(part * each, (part + 1) * each, LONG):
        rows = start + tl.arange(0, LONG)
        inside = (rows < m)[:, None]
        at = rows[:, None] * c + columns[None, :]
        own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        found = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        if AROUND:
            found = tl.where(tl.load(y + at, mask=inside, other=0.0).to(tl.float32) > 0, found, 0.0)
            tl.store(masked + at, found.to(masked.dtype.element_ty), mask=inside)
        elif RELU:
            found = tl.where(own * factor + shift > 0, found, 0.0)
        total += found
        products += found * (own - mean) * inverse
    tl.store(sums + 2 * part * c + columns, tl.sum(total, 0))
    tl.store(sums + (2 * part + 1) * c + columns, tl.sum(products, 0))


@triton.jit(do_not_specialize=["m", "parts", "blocks"])
def _gradient_settled(sums, saved, terms, weight_grad, bias_grad, m, parts, blocks):
    """terms (2, C): the gradient of x is factor * gradient + first * x + second (Ioffe & Szegedy 2015)."""
    columns = tl.program_id(0) * FEW + tl.arange(0, FEW)
    c = blocks * CHANNELS
    total, products = _added_up(sums, columns, parts, c)
    mean, inverse, factor = tl.load(saved + columns), tl.load(saved + c + columns), tl.load(saved + 2 * c + columns)
    slope = -factor * products * inverse / m
    tl.store(terms + columns, slope)
    tl.store(terms + c + columns, -factor * total / m - slope * mean)
    tl.store(weight_grad + columns, products)
    tl.store(bias_grad + columns, total)


@triton.jit(do_not_specialize=["m", "blocks"])
def _gradient_applied(x, saved, terms, grad, x_grad, m, blocks, RELU: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = blocks * CHANNELS
    at, inside = rows[:, None] * c + columns[None, :], (rows < m)[:, None]
    own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    found = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    factor, shift = tl.load(saved + 2 * c + columns)[None, :], tl.load(saved + 3 * c + columns)[None, :]
    if RELU:
        found = tl.where(own * factor + shift > 0, found, 0.0)
    found = found * factor + own * tl.load(terms + columns)[None, :] + tl.load(terms + c + columns)[None, :]
    tl.store(x_grad + at, found.to(x_grad.dtype.element_ty), mask=inside)


class _Normalised(torch.autograd.Function):
    """relu(batch_norm(x) + around) of x (N, C, H, W) channels last; `around` None: nothing; `relu` False: without."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, around: torch.Tensor | None,
        norm: nn.BatchNorm2d, relu: bool,
    ) -> torch.Tensor:  # fmt: skip
        m, blocks, parts, each = tiling(x)
        sums = x.new_empty(parts, 2, x.shape[1], dtype=torch.float32)
        _sums[(parts, blocks)](x, norm.running_mean, sums, m, blocks, each, num_warps=8)
        saved = settled(sums, norm, m, parts)
        y = torch.empty_like(x)
        grid = triton.cdiv(m, ROWS.value), blocks
        _applied[grid](x, saved, x if around is None else around, y, m, blocks, around is not None, relu)
        ctx.save_for_backward(x, saved, None if around is None else y)
        ctx.relu = relu
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        x, saved, y = ctx.saved_tensors
        m, blocks, parts, each = tiling(x)
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        around = y is not None
        masked = torch.empty_like(x) if around else grad
        sums = x.new_empty(parts, 2, x.shape[1], dtype=torch.float32)
        _gradient_sums[(parts, blocks)](x, saved, y if around else x, grad, masked, sums, m, blocks, each, around,
                                        ctx.relu, num_warps=8)  # fmt: skip
        terms, weight_grad, bias_grad = gradient_settled(sums, saved, m, parts)
        x_grad = torch.empty_like(x)
        relu = ctx.relu and not around  # else `masked` has been through it
        _gradient_applied[(triton.cdiv(m, ROWS.value), blocks)](x, saved, terms, masked, x_grad, m, blocks, relu)
        return x_grad, weight_grad, bias_grad, masked if around else None, None, None


def tiling(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Of x (N, C, H, W): rows, blocks of channels, parts that the rows are cut into, and rows of each, whole tiles."""
    m, blocks = x.numel() // x.shape[1], x.shape[1] // CHANNELS.value
    each = triton.cdiv(triton.cdiv(m, max(PARTS.value // blocks, 1)), LONG.value) * LONG.value
    return m, blocks, triton.cdiv(m, each), each


def settled(sums: torch.Tensor, norm: nn.BatchNorm2d, m: int, parts: int) -> torch.Tensor:
    c = sums.shape[2]
    saved = sums.new_empty(4, c)
    _settled[(c // FEW.value,)](sums, norm.weight, norm.bias, norm.running_mean, norm.running_var, saved, m, parts,
                                c // CHANNELS.value, norm.eps, norm.momentum)  # fmt: skip
    return saved


def gradient_settled(sums: torch.Tensor, saved: torch.Tensor, m: int, parts: int) -> tuple[torch.Tensor, ...]:
    c = sums.shape[2]
    terms, weight_grad, bias_grad = sums.new_empty(2, c), sums.new_empty(c), sums.new_empty(c)
    _gradient_settled[(c // FEW.value,)](sums, saved, terms, weight_grad, bias_grad, m, parts, c // CHANNELS.value)
    return terms, weight_grad, bias_grad


def normalised(
    x: torch.Tensor, norm: nn.BatchNorm2d, around: torch.Tensor | None = None, relu: bool = True
) -> torch.Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    return _Normalised.apply(x, norm.weight, norm.bias, around, norm, relu)


# ----------------------------------------------------------------------------------------------------- the stem


@triton.jit
def _patches(images, rows, taps, m, size, side):
    """The pixels under the taps of a 7 x 7 kernel of stride 2 and padding 3, at places of the output (side, side).

    rows and taps are indices that broadcast against each other.
    """
    i = rows // side % side * 2 - 3 + taps // 7
    j = rows % side * 2 - 3 + taps % 7
    there = (rows < m) & (taps < 49) & (i >= 0) & (i < size) & (j >= 0) & (j < size)
    return tl.load(images + (rows // (side * side) * size + i) * size + j, mask=there, other=0.0)


@triton.jit(do_not_specialize=["m", "size", "side", "each"])
def _convolved(images, weight, pivot, y, sums, m, size, side, each):
    """y (m, 64), the convolution of images (N, size, size) with weight (64 taps, 64); and the sums of _sums of it."""
    part, columns = tl.program_id(0), tl.arange(0, CHANNELS)
    middle = tl.load(pivot + columns)[None, :]
    taps = tl.arange(0, TAPS)
    kernel = tl.load(weight + taps[:, None] * CHANNELS + columns[None, :])
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(part * each, (part + 1) * each, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < m)[:, None]
        patches = _patches(images, rows[:, None], taps[None, :], m, size, side).to(kernel.dtype)
        value = tl.dot(patches, kernel, input_precision="ieee").to(y.dtype.element_ty)
        tl.store(y + rows[:, None] * CHANNELS + columns[None, :], value, mask=inside)
        value = tl.where(inside, value.to(tl.float32) - middle, 0.0)
        total += value
        squares += value * value
    tl.store(sums + 2 * part * CHANNELS + columns, tl.sum(total, 0))
    tl.store(sums + (2 * part + 1) * CHANNELS + columns, tl.sum(squares, 0))


@triton.jit(do_not_specialize=["m", "side"])
def _pooled(x, saved, y, chosen, m, side):
    """x (N, side, side, 64) normalised, ReLU, the largest of 3 x 3 at every second place: y, and which of the nine."""
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, CHANNELS)
    inside = rows < m
    factor, shift = tl.load(saved + 2 * CHANNELS + columns)[None, :], tl.load(saved + 3 * CHANNELS + columns)[None, :]
    half = (side + 1) // 2
    image, top, left = rows // (half * half), rows // half % half * 2 - 1, rows % half * 2 - 1
    largest = tl.zeros((ROWS, CHANNELS), tl.float32)
    which = tl.full((ROWS, CHANNELS), DEAD, tl.int32)
    for k in tl.static_range(9):
        i, j = top + k // 3, left + k % 3
        there = (inside & (i >= 0) & (i < side) & (j >= 0) & (j < side))[:, None]
        at = ((image * side + i) * side + j)[:, None] * CHANNELS + columns[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32) * factor + shift
        larger = there & ((value > largest) | (value != value))  # what is no number stays none
        largest, which = tl.where(larger, value, largest), tl.where(larger, k, which)
    at = rows[:, None] * CHANNELS + columns[None, :]
    tl.store(y + at, largest.to(y.dtype.element_ty), mask=inside[:, None])
    tl.store(chosen + at, which.to(tl.uint8), mask=inside[:, None])


@triton.jit
def _unpooled(grad, chosen, rows, columns, m, side):
    """What the gradient of _pooled's y gives to rows of its x."""
    half = (side + 1) // 2
    image, i, j = rows // (side * side), rows // side % side, rows % side
    found = tl.zeros((ROWS, CHANNELS), tl.float32)
    for k in tl.static_range(4):  # the pools that a place can be in
        o, p = (i + 1) // 2 - k // 2, (j + 1) // 2 - k % 2
        di, dj = i - 2 * o + 1, j - 2 * p + 1
        there = ((rows < m) & (o >= 0) & (o < half) & (p >= 0) & (p < half) & (di <= 2) & (dj <= 2))[:, None]
        at = ((image * half + o) * half + p)[:, None] * CHANNELS + columns[None, :]
        which = tl.load(chosen + at, mask=there, other=DEAD).to(tl.int32)
        value = tl.load(grad + at, mask=there & (which == (3 * di + dj)[:, None]), other=0.0)
        found += value.to(tl.float32)
    return found


@triton.jit(do_not_specialize=["m", "side", "each"])
def _pooled_gradient_sums(x, saved, grad, chosen, sums, m, side, each):
    """_gradient_sums, of what is normalised, cut off and pooled."""
    part, columns = tl.program_id(0), tl.arange(0, CHANNELS)
    mean, inverse = tl.load(saved + columns)[None, :], tl.load(saved + CHANNELS + columns)[None, :]
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(part * each, (part + 1) * each, ROWS):
        rows = start + tl.arange(0, ROWS)
        own = tl.load(x + rows[:, None] * CHANNELS + columns[None, :], mask=(rows < m)[:, None], other=0.0)
        found = _unpooled(grad, chosen, rows, columns, m, side)
        total += found
        products += found * (own.to(tl.float32) - mean) * inverse
    tl.store(sums + 2 * part * CHANNELS + columns, tl.sum(total, 0))
    tl.store(sums + (2 * part + 1) * CHANNELS + columns, tl.sum(products, 0))


@triton.jit(do_not_specialize=["m", "size", "side", "each"])
def _kernel_gradient(images, x, saved, terms, grad, chosen, sums, m, size, side, each):
    """sums (parts, 64 taps, 64): the gradient of the stem's weights; that of x is made on the way, and not kept."""
    part, columns = tl.program_id(0), tl.arange(0, CHANNELS)
    factor = tl.load(saved + 2 * CHANNELS + columns)[None, :]
    slope, shift = tl.load(terms + columns)[None, :], tl.load(terms + CHANNELS + columns)[None, :]
    taps = tl.arange(0, TAPS)
    total = tl.zeros((TAPS, CHANNELS), tl.float32)
    for start in range(part * each, (part + 1) * each, ROWS):
        rows = start + tl.arange(0, ROWS)
        own = tl.load(x + rows[:, None] * CHANNELS + columns[None, :], mask=(rows < m)[:, None], other=0.0)
        found = _unpooled(grad, chosen, rows, columns, m, side) * factor + own.to(tl.float32) * slope + shift
        patches = _patches(images, rows[None, :], taps[:, None], m, size, side).to(own.dtype)
        total += tl.dot(patches, found.to(own.dtype), input_precision="ieee")
    at = taps[:, None] * CHANNELS + columns[None, :]
    tl.store(sums + part * TAPS * CHANNELS + at, total)


class _Stem(torch.autograd.Function):
    """max_pool2d(relu(batch_norm(conv2d(images, weight, stride=2, padding=3))), 3, 2, 1) of square images."""

    @staticmethod
    def forward(
        ctx: Any, images: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor,
        norm: nn.BatchNorm2d,
    ) -> torch.Tensor:  # fmt: skip
        n, _, size, _ = images.shape
        side, channels = (size + 1) // 2, len(weight)
        like = images.new_empty(0, dtype=models.convolved_type(images))
        x = channels_last((n, channels, side, side), like)
        m, _, parts, each = tiling(x)
        sums = images.new_empty(parts, 2, channels, dtype=torch.float32)
        table = F.pad(weight.flatten(1), (0, TAPS.value - 49)).T.to(like.dtype).contiguous()
        _convolved[(parts,)](images, table, norm.running_mean, x, sums, m, size, side, each)
        saved = settled(sums, norm, m, parts)
        half = (side + 1) // 2
        y = channels_last((n, channels, half, half), like)
        chosen = torch.empty_like(y, dtype=torch.uint8)
        _pooled[(triton.cdiv(n * half * half, ROWS.value),)](x, saved, y, chosen, n * half * half, side)
        ctx.save_for_backward(images, x, saved, chosen)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        images, x, saved, chosen = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        (_, channels, side, _), size = x.shape, images.shape[-1]
        m, _, parts, each = tiling(x)
        sums = saved.new_empty(parts, 2, channels)
        _pooled_gradient_sums[(parts,)](x, saved, grad, chosen, sums, m, side, each)
        terms, scale_grad, bias_grad = gradient_settled(sums, saved, m, parts)
        kernel = saved.new_empty(parts, TAPS.value, channels)
        _kernel_gradient[(parts,)](images, x, saved, terms, grad, chosen, kernel, m, size, side, each)
        weight_grad = kernel[:, :49].sum(0).T.reshape(channels, 1, 7, 7)
        return None, weight_grad, scale_grad, bias_grad, None


def channels_last(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """An empty tensor."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


# -------------------------------------------------------------------------------------------------- the network


class _Cast(torch.autograd.Function):
    """Tensors in another type, all of them in one launch, and their gradients in another one."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(made, tensors)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        made = [torch.empty_like(grad, dtype=torch.float32) for grad in grads]
        torch._foreach_copy_(made, grads)
        return None, *made


def resnet34(network: models.ResNet34, images: torch.Tensor) -> torch.Tensor:
    """Logits (N, 2) of images (N, 1, S, S), as network(images) in training mode; moves its running statistics."""
    blocks = network.blocks()
    layers = [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    weights = dict(
        zip(layers, _Cast.apply(models.convolved_type(images), *(layer.weight for layer in layers)), strict=True)
    )
    counters = [norm.num_batches_tracked for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)]
    torch._foreach_add_(counters, 1)

    def convolved(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weights[layer], None, layer.stride, layer.padding)

    norm = network.bn1
    x = _Stem.apply(images.contiguous(), network.conv1.weight, norm.weight, norm.bias, norm)
    for block in blocks:
        around = x
        if block.downsample is not None:
            around = normalised(convolved(block.downsample[0], x), block.downsample[1], relu=False)
        x = normalised(convolved(block.conv1, x), block.bn1)
        x = normalised(convolved(block.conv2, x), block.bn2, around)
    return network.head(x)
