"""What devices/kernels.py computes against the modules of models.py and the lines of films/augmentation.py, in float64.

    check_all(device)   on CUDA
    python kernel_checks.py   on the CPU, by Triton's interpreter

Everything is in float32, so that what is left is rounding: 1e-5 for one operation. Through 34 layers a few ReLUs fall
on the other side of zero, and each moves gradients by some thousandths.
"""

import copy
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import nn

import models
from films import augmentation


def close(found: torch.Tensor, expected: torch.Tensor, what: str, bound: float = 1e-5) -> None:
    assert found.shape == expected.shape, what
    error = ((found.double() - expected).norm() / (expected.norm() + 1e-12)).item()
    assert error < bound, f"{what}: {error:.1e}"


def same(one, other, inputs: list[torch.Tensor], what: str, bound: float = 1e-5) -> None:
    """Two functions of the inputs, the second in float64: answers, and gradients of a random weighting of them."""
    ours = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    theirs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found, expected = one(*ours), other(*theirs)
    close(found, expected, what, bound)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5)).to(found.device)
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for i, (mine, other_one) in enumerate(zip(ours, theirs, strict=True)):
        close(mine.grad, other_one.grad, f"{what}, gradient {i}", bound)


def check_normalisation(device: torch.device) -> None:
    from devices import resnet_kernels as kernels

    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    for channels, side, around, relu in ((64, 9, True, True), (128, 5, False, True), (192, 4, False, False)):
        x, other = drawn(3, channels, side, side) * 2 + 0.7, drawn(3, channels, side, side)
        weight, bias = drawn(channels) + 1, drawn(channels)
        norm = nn.BatchNorm2d(channels).to(device)
        norm.weight.data, norm.bias.data = weight.clone(), bias.clone()
        norm.running_mean.copy_(drawn(channels))
        reference = copy.deepcopy(norm).double()
        inputs = [x, weight, bias, *([other] if around else [])]

        def one(x, weight, bias, around=None, norm=norm, relu=relu):
            x = x.contiguous(memory_format=torch.channels_last)
            if around is not None:
                around = around.contiguous(memory_format=torch.channels_last)
            return kernels._Normalised.apply(x, weight, bias, around, norm, relu)

        def two(x, weight, bias, around=None, norm=reference, relu=relu):
            y = F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, norm.momentum, norm.eps)
            y = y if around is None else y + around
            return y.relu() if relu else y

        what = f"normalisation, {channels} channels"
        same(one, two, inputs, what)
        close(norm.running_mean, reference.running_mean, f"{what}, running mean")
        close(norm.running_var, reference.running_var, f"{what}, running variance")


def check_stem(device: torch.device) -> None:
    from devices import resnet_kernels as kernels

    generator = torch.Generator().manual_seed(2)
    for size in (20, 33):
        images = torch.randn(3, 1, size, size, generator=generator).to(device)
        weight, scale, bias = (
            torch.randn(shape, generator=generator).to(device) for shape in ((64, 1, 7, 7), (64,), (64,))
        )
        norm = nn.BatchNorm2d(64).to(device)
        norm.weight.data, norm.bias.data = scale.clone(), bias.clone()
        reference = copy.deepcopy(norm).double()

        def one(weight, scale, bias, images=images, norm=norm):
            return kernels._Stem.apply(images, weight, scale, bias, norm)

        def two(weight, scale, bias, images=images, norm=reference):
            x = F.conv2d(images.double(), weight, stride=2, padding=3)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, scale, bias, True, norm.momentum, norm.eps)
            return F.max_pool2d(x.relu(), 3, 2, 1)

        same(one, two, [weight, scale, bias], f"stem, {size} pixels")
        close(norm.running_mean, reference.running_mean, "stem, running mean")
        close(norm.running_var, reference.running_var, "stem, running variance")


def check_networks(device: torch.device) -> None:
    """Whole networks, at even and odd sides: logits, all gradients, all buffers."""
    from devices import kernels

    for architecture, size, count in (("simple", 20, 3), ("simple", 33, 2), ("resnet34", 33, 2)):
        torch.manual_seed(0)
        network = models.build(architecture, size)
        if architecture == "resnet34" and device.type != "cuda":  # a block of each stage: the interpreter is slow
            for name in ("layer1", "layer2", "layer3", "layer4"):
                setattr(network, name, getattr(network, name)[:1])
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
        network = network.to(device).to(memory_format=torch.channels_last)
        reference, plain = copy.deepcopy(network).double(), copy.deepcopy(network)
        images, labels = torch.randn(count, 1, size, size).to(device), torch.arange(count).to(device) % 2
        fused = kernels.fused(network)
        found, expected = fused(images), reference(images.double())
        close(found, expected, f"{architecture}, logits", 1e-4)
        F.cross_entropy(found, labels).backward()
        F.cross_entropy(expected, labels).backward()
        bound = 1e-5 if architecture == "simple" else 0.03
        for (name, mine), other in zip(network.named_parameters(), reference.parameters(), strict=True):
            close(mine.grad, other.grad, f"{architecture}, gradient of {name}", bound)
        for (name, mine), other in zip(network.named_buffers(), reference.buffers(), strict=True):
            close(mine, other.double(), f"{architecture}, {name}", 1e-4)
        plain.load_state_dict(network.state_dict())
        network.eval()
        with torch.inference_mode():
            close(fused(images), plain.eval()(images).double(), f"{architecture}, in evaluation")


def networks_for(device: torch.device) -> tuple[str, ...]:
    return ("simple", "resnet34") if device.type == "cuda" else ("simple",)  # the interpreter takes a quarter minute


def check_reduced(device: torch.device) -> None:
    """In few bits both are off the truth by rounding, which the kernels do less often: they must not be further off.

    In bf16; in fp16 by the interpreter, which multiplies matrices of bf16 as if they were whole numbers (Triton 3.8).
    """
    from devices import kernels

    few_bits = torch.bfloat16 if device.type == "cuda" else torch.float16
    for architecture in networks_for(device):
        size, count = 32, 4
        torch.manual_seed(1)
        plain = models.build(architecture, size).to(device).to(memory_format=torch.channels_last)
        own, truth = copy.deepcopy(plain), copy.deepcopy(plain).double()
        images = torch.randn(count, 1, size, size).to(device)
        expected = truth(images.double())
        with torch.autocast(device.type, few_bits):
            found = [network(images).double() for network in (kernels.fused(own), plain)]
        ours, theirs = ((one - expected).norm() / expected.norm() for one in found)
        assert ours < 2 * theirs + 1e-2, f"{architecture} in {few_bits}: off by {ours:.4f}, the modules by {theirs:.4f}"


def check_no_number(device: torch.device) -> None:
    """A pixel that is no number is one in the logits too, in training and in evaluation: the loop stops by it."""
    from devices import kernels

    for architecture in networks_for(device):
        network = models.build(architecture, 24).to(device).to(memory_format=torch.channels_last)
        images = torch.zeros(2, 1, 24, 24, device=device)
        images[1, 0, 12, 12] = float("nan")
        with torch.no_grad():
            logits = kernels.fused(network)(images)
        assert not logits[1].isfinite().any(), architecture
    poisoned = models.build("simple", 24).to(device)
    poisoned.conv1.weight.data[0, 0, 4, 4] = float("nan")  # seen by the first of the four that a pool takes
    with torch.no_grad():
        assert not kernels.fused(poisoned.eval())(torch.ones(2, 1, 24, 24, device=device)).isfinite().any()


def check_tone(device: torch.device) -> None:
    from devices import kernels

    generator = torch.Generator().manual_seed(1)
    moved = torch.rand(5, 1, 37, 37, generator=generator)
    centre = moved.mean((1, 2, 3), keepdim=True) * 0.9
    tone = torch.rand(5, 3, generator=generator) * torch.tensor([0.6, 0.3, 1.4]) + torch.tensor([0.7, -0.15, -0.7])
    detail = torch.rand(5, generator=generator) * 2.5 - 0.5
    for some in (detail, None):
        for curved in (True, False):
            contrast, brightness, curve = (tone.double()[:, k, None, None, None] for k in range(3))
            expected = moved.double()
            if some is not None:
                expected = expected.lerp(augmentation.smoothed(expected), -some.double()[:, None, None, None]).clamp(
                    0, 1
                )
            if curved:
                expected = expected + curve * expected * (1 - expected)
            expected = (((expected - centre) * contrast + centre + brightness).clamp(0, 1) - 0.48) / 0.24
            given = (part if part is None else part.to(device) for part in (moved, centre, tone, some))
            close(kernels.toned(*given, curved, 0.48, 0.24).cpu(), expected, f"tone, curved: {curved}")


def check_all(device: torch.device) -> None:
    check_tone(device)
    check_normalisation(device)
    check_stem(device)
    check_networks(device)
    check_reduced(device)
    check_no_number(device)


if __name__ == "__main__":
    check_all(torch.device("cpu"))
    print("the kernels agree")
