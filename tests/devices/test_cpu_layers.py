import copy

import pytest
import torch
import torch.nn.functional as F

import models
from devices import cpu_layers, layers


@pytest.mark.parametrize(
    ("architecture", "size"), [("simple", 32), ("simple", 36), ("simple", 37), ("resnet34", 33), ("resnet34", 64)]
)
def test_layers_as_products_are_the_modules(architecture, size):
    """In float64: the oracle is the modules, with PyTorch's own convolutions, pooling and gradients."""
    torch.manual_seed(0)
    plain = models.build(architecture, size).double()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    own = copy.deepcopy(plain)
    fast = cpu_layers.OnCpu(own)
    images, labels = torch.randn(3, 1, size, size, dtype=torch.float64), torch.tensor([0, 1, 1])
    found, expected = fast(images), plain(images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    F.cross_entropy(found, labels).backward()
    F.cross_entropy(expected, labels).backward()
    for (name, mine), theirs in zip(own.named_parameters(), plain.parameters(), strict=True):
        difference = (mine.grad - theirs.grad).norm() / theirs.grad.norm()
        assert difference < 1e-6, name  # the first convolution's are added up in float32
    for mine, theirs in zip(own.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("architecture", ["simple", "resnet34"])
def test_in_bf16_they_are_as_near_to_the_truth_as_the_modules(architecture):
    torch.manual_seed(0)
    plain = models.build(architecture, 64)
    own, truth = copy.deepcopy(plain), copy.deepcopy(plain).double()
    images = torch.randn(16, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    errors = {}
    expected = truth(images.double())
    for name, network in (("modules", plain), ("own", cpu_layers.OnCpu(own))):
        with torch.autocast("cpu", torch.bfloat16):
            errors[name] = (network(images).double() - expected).norm() / expected.norm()
    assert errors["own"] < 2 * errors["modules"] + 1e-3, errors


def test_of_equal_pixels_the_first_gets_the_gradient_and_none_where_relu_cut_it_off():
    """As torch's pooling does: on an image of equal pixels all four of a pool are equal."""
    weight, bias = torch.full((2, 1, 5, 5), 0.1), torch.tensor([0.5, -100.0])
    found = []
    for own in (True, False):
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        images = torch.ones(1, 1, 12, 12)
        images[0, 0, 0, 0] = 3.0  # seen by the first place of the first pool alone
        y = cpu_layers._ConvolvedPooled.apply(images, w, b) if own else F.max_pool2d(F.conv2d(images, w, b).relu(), 2)
        (y * torch.arange(1.0, 1 + y[0].numel()).view_as(y)).sum().backward()
        found.append((y.detach(), w.grad, b.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert found[0][1][1].abs().sum() == 0 and found[0][2][1] == 0


def test_what_nothing_here_is_for_stays_as_it_is(monkeypatch):
    other = torch.nn.Linear(2, 2)
    cpu = torch.device("cpu")
    assert layers.fused(other, cpu) is other
    resnet = models.build("resnet34", 32)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False})
    assert layers.fused(resnet, cpu) is resnet  # its gradients are slow by AMX alone
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert isinstance(layers.fused(resnet, cpu), cpu_layers.OnCpu)
    simple = models.build("simple", 32)
    assert isinstance(layers.fused(simple, cpu), cpu_layers.OnCpu)
    simple.fc2.register_forward_pre_hook(lambda layer, given: given)  # it would not be called
    assert layers.fused(simple, cpu) is simple
