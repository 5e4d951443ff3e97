"""The training step's own CUDA kernels, in Triton: what PyTorch does in many passes over memory, in few.

fused(network)   the same network, from images to logits
toned(...)       what films/augmentation.py does after an image was moved

Nothing here is needed: it is the modules of models.py and the lines of films/augmentation.py again, faster on an NVIDIA
GPU, and the tests hold each against the other.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import nn

import models
from devices.resnet_kernels import resnet34
from devices.simple_kernels import simple

PIXELS = tl.constexpr(1024)  # of an image, that one program makes


class Fused(nn.Module):
    """A network's answers by these kernels; parameters and buffers are the network's own."""

    def __init__(self, network: nn.Module, by_kernels: Callable[[Any, torch.Tensor], torch.Tensor], eval: bool) -> None:
        super().__init__()
        self.network, self.by_kernels, self.eval_too = network, by_kernels, eval

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n, _, h, w = images.shape
        # A stem's output has 16 numbers for each pixel, and addresses have 32 bits.
        if h != w or 16 * n * h * w >= 2**31 or not (self.network.training or self.eval_too):
            return self.network(images)
        return self.by_kernels(self.network, images)


def fused(network: nn.Module) -> nn.Module | None:
    """The same network by these kernels; None for another one than those of models.py.

    In evaluation a ResNet is left as it is: its running statistics make normalising a matter of one pass.
    """
    if isinstance(network, models.ResNet34):
        return Fused(network, resnet34, eval=False)
    return Fused(network, simple, eval=True) if isinstance(network, models.SimpleCNN) else None


@triton.jit(do_not_specialize=["side", "mean", "std"])
def _toned(moved, centre, tone, detail, out, side, mean, std, DETAIL: tl.constexpr, CURVED: tl.constexpr):
    image = tl.program_id(0)
    at = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    inside, i, j = at < side * side, at // side, at % side
    start = moved + image * side * side
    value = tl.load(start + at, mask=inside, other=0.0)
    if DETAIL:  # binomial weights over 5 x 5 pixels, those at the border repeated beyond it
        smooth = tl.zeros((PIXELS,), tl.float32)
        for k in tl.static_range(5):
            row = tl.minimum(tl.maximum(i + k - 2, 0), side - 1) * side
            across = tl.zeros((PIXELS,), tl.float32)
            for q in tl.static_range(5):
                column = tl.minimum(tl.maximum(j + q - 2, 0), side - 1)
                across += (6.0 if q == 2 else (1.0 if q % 4 == 0 else 4.0)) * tl.load(
                    start + row + column, mask=inside, other=0.0
                )
            smooth += (6.0 if k == 2 else (1.0 if k % 4 == 0 else 4.0)) * across
        value += tl.load(detail + image) * (value - smooth * (1 / 256))
        value = tl.minimum(tl.maximum(value, 0.0), 1.0)
    contrast, brightness = tl.load(tone + 3 * image), tl.load(tone + 3 * image + 1)
    if CURVED:
        value += tl.load(tone + 3 * image + 2) * value * (1 - value)
    middle = tl.load(centre + image)
    value = (value - middle) * contrast + middle + brightness
    value = (tl.minimum(tl.maximum(value, 0.0), 1.0) - mean) / std
    tl.store(out + image * side * side + at, value, mask=inside)


def tried(device: torch.device) -> None:
    """Launches one of them. Raises what Triton raises where it finds no compiler, or none for this device."""
    one = torch.zeros(1, 1, 8, 8, device=device)
    toned(one, one[..., :1, :1], torch.zeros(1, 3, device=device), torch.zeros(1, device=device), True, 0.0, 1.0)


def toned(
    moved: torch.Tensor, centre: torch.Tensor, tone: torch.Tensor, detail: torch.Tensor | None, curved: bool,
    mean: float, std: float,
) -> torch.Tensor:  # fmt: skip
    """Images (B, 1, S, S) with detail, curve, contrast and brightness changed, then normalised: augmentation.toned."""
    out, side = torch.empty_like(moved, memory_format=torch.contiguous_format), moved.shape[-1]
    grid = len(moved), triton.cdiv(side * side, PIXELS.value)
    _toned[grid](moved.contiguous(), centre, tone.contiguous(), tone if detail is None else detail.contiguous(), out,
                 side, mean, std, detail is not None, curved)  # fmt: skip
    return out
