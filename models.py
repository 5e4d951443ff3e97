"""The three networks, and the pretrained weights that one of them starts from.

Every network takes (N, 1, S, S) normalised float pixels and returns (N, 2) logits, normal and pneumonia.
"""

import hashlib
import pickle
import struct
import urllib.error
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basics.nesting import check_pickles, check_values
from basics.problems import Problem, UsageProblem, printable
from basics.terms import ARCHITECTURES

# torchvision's ResNet34_Weights.IMAGENET1K_V1; the name ends in the first digits of the file's SHA-256
IMAGENET_URL = "https://download.pytorch.org/models/resnet34-b627a593.pth"


class SimpleCNN(nn.Module):
    """The notebooks' network: 2 convolutions and 3 fully connected layers; 5,406,306 parameters at 224 pixels."""

    def __init__(self, size: int = 224) -> None:
        super().__init__()
        side = ((size - 4) // 2 - 4) // 2  # two rounds of: 5x5 convolution without padding, pooling by 2
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.after_first(nn.functional.max_pool2d(self.conv1(images).relu(), 2))

    def after_first(self, x: torch.Tensor) -> torch.Tensor:
        """From the pooled output of the first convolution, (N, 6, side, side), to logits."""
        return self.classified(nn.functional.max_pool2d(self.conv2(x).relu(), 2).flatten(1))

    def classified(self, x: torch.Tensor) -> torch.Tensor:
        """From the flattened output of the second convolution, (N, 16 * side * side), to logits."""
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al. 2016, Deep Residual Learning for Image Recognition)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += around
        return self.relu(x)


class ResNet34(nn.Module):
    """Table 1 of He et al. 2016, 34 layers; the names, and the weights of a seed, are those of torchvision's resnet34.

    Written here because importing torchvision takes as long as importing torch, in every start of every script.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(3, 64, 64, 1)
        self.layer2 = stage(4, 64, 128, 2)
        self.layer3 = stage(6, 128, 256, 2)
        self.layer4 = stage(3, 256, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                initialise(layer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 512, S / 32, S / 32), what is averaged and classified."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def blocks(self) -> list[BasicBlock]:
        """All sixteen, in order."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return [block for stage in stages for block in stage if isinstance(block, BasicBlock)]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc(self.avgpool(features).flatten(1))


def stage(blocks: int, channels_in: int, channels: int, stride: int) -> nn.Sequential:
    later = [BasicBlock(channels, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(channels_in, channels, stride), *later)


def initialise(convolution: nn.Conv2d) -> None:
    """He et al. 2015, Delving Deep into Rectifiers: deviations that keep the gradients' size from layer to layer."""
    if not convolution.weight.is_meta:  # where shapes are all that is asked for, this would import the compiler
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def convolved_type(images: torch.Tensor) -> torch.dtype:
    """What a convolution of these images would answer in: autocast's type within it, else their own."""
    kind = images.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype


def build(architecture: str, size: int = 224) -> nn.Module:
    """A freshly initialised network; `resnet34-pretrained` is `resnet34` until `load_imagenet` fills it.

    Raises ValueError for an unknown name.
    """
    if architecture == "simple":
        return SimpleCNN(size)
    if architecture in ("resnet34", "resnet34-pretrained"):
        network = ResNet34(classes=2)
        network.conv1 = nn.Conv2d(1, 64, 7, 2, padding=3, bias=False)
        initialise(network.conv1)
        return network
    raise ValueError(f"unknown architecture {architecture!r}: choose from {', '.join(ARCHITECTURES)}")


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of convolutions and linear layers for one image of (size, size) pixels."""
    from torch.utils.flop_counter import FlopCounterMode  # imports half of torch

    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, size, size, device=device))
    network.train(was_training)
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two


def load_imagenet(network: nn.Module, weights: Path | None = None) -> str:
    """Fills a `resnet34` with ImageNet weights, all but its `fc`; returns a sentence on where they came from.

    The weights are torchvision's, downloaded with its hash check, or those of `weights`: a state dict of
    torchvision's resnet34 with an RGB stem, any number of classes, any float type.

    Raises Problem when the download fails, or when the file is another network's, by its first mismatch.
    """
    if weights is None:
        name = Path(IMAGENET_URL).name
        try:
            state = torch.hub.load_state_dict_from_url(
                IMAGENET_URL, map_location="cpu", check_hash=True, weights_only=True
            )
        except (urllib.error.URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
            reason = getattr(error, "reason", None) or error
            raise Problem(
                f"the ImageNet weights could not be downloaded from {IMAGENET_URL} ({reason}): "
                f"connect to the internet, or fetch {name} elsewhere and say --weights {name}"
            ) from error
        where = f"ImageNet weights {name}"
    else:
        state = _read_state(weights)
        where = f"weights {weights.name}, SHA-256 {hashlib.sha256(weights.read_bytes()).hexdigest()[:12]}"
    network.load_state_dict(adapt_imagenet(state, network, str(weights or IMAGENET_URL)))
    return where


def read_plain(path: Path) -> Any:
    """What torch.save wrote, on the CPU: plain values and tensors, no more of them than can be walked and printed.

    Raises whatever torch's unpickler does where the file is another one: there is nothing that it does not raise.
    """
    check_pickles(path)
    value = torch.load(path, map_location="cpu", weights_only=True)
    check_values(value)
    return value


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = read_plain(path)
    except FileNotFoundError as error:
        raise UsageProblem(f"--weights {path}: no such file") from error
    except Exception as error:  # on a damaged pickle, torch's unpickler raises everything there is
        raise Problem(f"--weights {path}: not a torch state dict ({_reason(error)})") from error
    if not isinstance(state, dict):
        raise Problem(f"--weights {path}: not a torch state dict, but a {type(state).__name__}")
    return state


def _reason(error: Exception) -> str:
    """Why torch.load failed, in one line, without its advice to load files that may run code."""
    if isinstance(error, pickle.UnpicklingError | LookupError | TypeError | AttributeError | struct.error):
        return "it holds something else than plain values and tensors, or was damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]


def adapt_imagenet(state: dict[str, torch.Tensor], network: nn.Module, file: str) -> dict[str, torch.Tensor]:
    """Makes an RGB ImageNet state dict of resnet34 fit a network with a one-channel stem and 2 outputs.

    The stem is folded by summing over its colour channels. A convolution is linear in its channels, so for a
    grey image the folded stem answers exactly as the RGB stem does when it is given that image three times,
    each copy normalised in the same way. (ImageNet's three normalisations differ from their mean by 0.04 of
    the range at most; what is folded here does not keep that difference.) `fc` keeps the network's own values.

    Raises Problem that names the first tensor that is missing, unexpected, or of another shape.
    """
    own = network.state_dict()
    adapted = {}
    for name, tensor in own.items():
        if name.startswith("fc."):
            adapted[name] = tensor
            continue
        found = state.get(name)
        if not isinstance(found, torch.Tensor):
            raise Problem(f"{file}: no tensor {name}: this is not a torchvision resnet34")
        expected = (64, 3, 7, 7) if name == "conv1.weight" else tuple(tensor.shape)
        if tuple(found.shape) != expected:
            raise Problem(f"{file}: {name} has shape {tuple(found.shape)}, a torchvision resnet34 has {expected}")
        if found.is_floating_point() and not found.isfinite().all():
            raise Problem(f"{file}: {name} holds values that are not finite")
        found = found.to(tensor.dtype)
        adapted[name] = found.sum(1, keepdim=True) if name == "conv1.weight" else found
    for name in state:
        if name not in own:
            raise Problem(f"{file}: unexpected tensor {printable(str(name))[:60]}: this is not a torchvision resnet34")
    return adapted
