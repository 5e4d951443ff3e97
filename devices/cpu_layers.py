"""On a CPU: layers that oneDNN and PyTorch are slow at, as matrix products and comparisons of whole planes.

fused(network)   the same network, from images to logits; None where nothing here is of use

The simple network's first convolution, from 1 channel to 6, and its pooling took two thirds of its step. ResNet-34's
last convolutions have many channels and few places, at which oneDNN's gradient of the weights takes two to five times
as long by AMX as the matrix product that it is.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import models

FEW_PLACES, MANY_CHANNELS = 14 * 14, 256  # where the product was measured to be faster


# -------------------------------------------------------------------------------------------- the simple network


class _ConvolvedPooled(torch.autograd.Function):
    """max_pool2d(relu(conv2d(images, weight, bias)), 2) of one channel and a kernel of 5 x 5.

    The four pixels that a pool takes the largest of see 6 x 6 pixels together. Those are 36 planes of the image, made
    of its even and odd rows and columns, and four times six filters of them are one matrix product. As in pooling, of
    equal pixels the first one gets the gradient. Numbers that are only copied or compared are taken as whole numbers
    of the same bits, for which PyTorch is several times as fast as for bf16.
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, filters, pooled = len(images), len(weight), (images.shape[-1] - 4) // 2
        planes = planes_of(images, pooled)  # (N, 36, P * P)
        kernel = torch.cat([F.pad(weight, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)]).flatten(1)
        four = torch.matmul(kernel, planes).view(n, 4, filters, pooled * pooled)
        largest = torch.maximum(four[:, 0], four[:, 1])
        for k in (2, 3):
            torch.maximum(largest, four[:, k], out=largest)
        y = (largest + bias[:, None]).relu_()
        ctx.save_for_backward(planes, four, largest, y)
        return y.view(n, filters, pooled, pooled)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        planes, four, largest, y = ctx.saved_tensors
        filters = y.shape[1]
        alive = torch.ops.aten.threshold_backward(grads[0].reshape(y.shape), y, 0)
        left, shared = bits(alive).clone(), torch.empty_like(four)  # what no pixel has taken yet, and what each takes
        chosen = torch.empty_like(left)
        for k in range(4):
            torch.eq(bits(four)[:, k], bits(largest), out=chosen)
            torch.mul(left, chosen, out=bits(shared)[:, k])
            left -= bits(shared)[:, k]
        kernel = torch.matmul(shared.flatten(1, 2), planes.transpose(1, 2)).sum(0, dtype=torch.float32)
        kernel = kernel.view(4, filters, 1, 6, 6)
        weight = sum(kernel[k, :, :, k // 2 : k // 2 + 5, k % 2 : k % 2 + 5] for k in range(4))
        return None, weight, alive.sum((0, 2), dtype=torch.float32)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def planes_of(images: torch.Tensor, pooled: int) -> torch.Tensor:
    """(N, 36, pooled * pooled): each of 6 x 6 pixels at every second place of (N, 1, S, S)."""
    n, half = len(images), pooled + 2
    quarters = images[:, 0, : 2 * half, : 2 * half].reshape(n, half, 2, half, 2).permute(0, 2, 4, 1, 3).contiguous()
    image, down, across, row, column = quarters.stride()
    shape = (n, 3, 2, 3, 2, pooled, pooled)  # a pixel's place in the 6 x 6, halved and its remainder, twice
    return quarters.as_strided(shape, (image, row, down, column, across, row, column)).reshape(n, 36, -1)


def simple(network: models.SimpleCNN, images: torch.Tensor) -> torch.Tensor:
    """Logits (N, 2) of images (N, 1, S, S), as network(images)."""
    first, kind = network.conv1, models.convolved_type(images)
    assert first.bias is not None
    x = _ConvolvedPooled.apply(*(tensor.to(kind) for tensor in (images, first.weight, first.bias)))
    return network.after_first(x.contiguous(memory_format=torch.channels_last))


# ------------------------------------------------------------------------------------------------------ ResNet-34


class _Convolved(torch.autograd.Function):
    """conv2d(x, weight, stride=stride, padding=1) with a kernel of 3 x 3, whose weights' gradient is one product."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        (x, weight), stride = ctx.saved_tensors, ctx.stride
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        x_grad, _, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride, stride], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
        )
        (n, channels, h, w), before = grad.shape, x.shape[1]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (N, H + 2, W + 2, C)
        image, row, column, one = padded.stride()
        shape = (n, h, w, 3, 3, before)
        patches = padded.as_strided(shape, (image, stride * row, stride * column, row, column, one))
        product = grad.permute(0, 2, 3, 1).reshape(-1, channels).T @ patches.reshape(n * h * w, 9 * before)
        return x_grad, product.view(channels, 3, 3, before).permute(0, 3, 1, 2), None


def convolved(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    stride = layer.stride[0]
    places = -(-x.shape[2] // stride) * -(-x.shape[3] // stride)
    if places > FEW_PLACES or layer.out_channels < MANY_CHANNELS:
        return layer(x)
    kind = models.convolved_type(x)
    return _Convolved.apply(x.to(kind), layer.weight.to(kind), stride)


def resnet34(network: models.ResNet34, images: torch.Tensor) -> torch.Tensor:
    """Logits (N, 2) of images (N, 1, S, S), as network(images) in training mode."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    for block in network.blocks():
        around = x if block.downsample is None else block.downsample(x)
        x = block.relu(block.bn1(convolved(block.conv1, x)))
        x = block.bn2(convolved(block.conv2, x))
        x += around
        x = block.relu(x)
    return network.head(x)


# ---------------------------------------------------------------------------------------------------- the way in


class OnCpu(nn.Module):
    """A network's answers by these layers; parameters and buffers are the network's own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[2] != images.shape[3]:
            return self.network(images)
        if isinstance(self.network, models.SimpleCNN):
            return simple(self.network, images)
        if isinstance(self.network, models.ResNet34) and self.network.training:
            return resnet34(self.network, images)
        return self.network(images)


def fused(network: nn.Module) -> nn.Module | None:
    """The same network by these layers; None for another one, and for a ResNet on a CPU without AMX."""
    if isinstance(network, models.ResNet34):
        return OnCpu(network) if torch.cpu.get_capabilities().get("amx_bf16") else None
    return OnCpu(network) if isinstance(network, models.SimpleCNN) else None
