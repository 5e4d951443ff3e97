"""A network by layers of our own, or compiled: the same answers, sooner."""

from typing import cast

import torch

from basics import problems
from devices import cpu_layers, parallel
from devices.hardware import autocast, reduced_type
from devices.recording import own_kernels


def fused(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network by layers of our own, where there are some for it and for the device; else itself.

    The same to rounding in the reduced type, and faster; what is reported and compared is computed by the network. A
    network with hooks is left as it is: nothing would call them.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        return network
    if device.type == "cpu":
        return cpu_layers.fused(network) or network
    kernels = own_kernels(device)
    if kernels is None or reduced_type(device) is torch.float32:
        return network
    return kernels.fused(network) or network


def compiled(network: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The network compiled and tried on a batch; the network itself, after one line, where compiling fails.

    The trial leaves neither gradients nor batch-norm statistics behind.
    """
    import torch._dynamo  # takes a second, which only those who compile should pay

    # A variant for each side of the images, of training and evaluation.
    torch._dynamo.config.recompile_limit = 64  # ty: ignore[invalid-assignment]
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    try:
        fast = cast(torch.nn.Module, torch.compile(network, dynamic=False))
        with autocast(images.device):
            fast(images).float().sum().backward()
    except (RuntimeError, OSError, ImportError) as error:
        reason = problems.printable(str(error).splitlines()[0])
        parallel.say(f"note: torch.compile fails here ({reason}); going on without it")
        fast = network
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return fast
