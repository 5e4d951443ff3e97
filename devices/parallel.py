"""Training in several processes, as torchrun starts them: who is who, and what they tell each other.

Without torchrun there is one process, rank 0 of 1, and nothing here does anything.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

Result = TypeVar("Result")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def under_torchrun() -> bool:
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


@contextlib.contextmanager
def group(device: torch.device) -> Generator[None]:
    """Joins the processes that torchrun started, over NCCL on GPUs and over gloo on CPUs; only rank 0 prints."""
    if not under_torchrun():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        with contextlib.ExitStack() as stack:
            if rank():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    finally:
        dist.destroy_process_group()


def say(text: str) -> None:
    """A note on stderr, once and not once a process."""
    if rank() == 0:
        print(text, file=sys.stderr)


def first_here(work: Callable[[], Result]) -> Result:
    """Calls `work` in the first process of each machine, then in the others: they find what it left on disk."""
    if world() == 1:
        return work()
    if local_rank() != 0:
        dist.barrier()
        return work()
    try:
        return work()
    finally:  # after an error too: the others wait, and will meet the same one
        dist.barrier()


def gathered(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, one after the other in the order of their ranks; the same in every process."""
    if world() == 1:
        return array
    parts: list = [None] * world()
    dist.all_gather_object(parts, array)
    return np.concatenate(parts)


def replicated(network: nn.Module, device: torch.device) -> nn.Module:
    """The network such that backward() averages gradients over the processes; itself when there is one."""
    if world() == 1:
        return network
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(network, device_ids=devices)


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over the processes, the same in each; the gradients are summed likewise on the way back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return SumOverProcesses.forward(ctx, *grad_outputs)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes, so that their number changes nothing but rounding.

    The same formula as torch.nn.BatchNorm2d (Ioffe & Szegedy 2015) with sums that are added up over the processes;
    torch.nn.SyncBatchNorm does the same on GPUs only. In eval mode it is torch.nn.BatchNorm2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))  # (B, C, H, W); sums of bf16 lose digits
        own = x.new_tensor([x.shape[0] * x.shape[2] * x.shape[3]])
        sums = SumOverProcesses.apply(torch.cat([x.sum((0, 2, 3)), own]))
        count = sums[-1].detach()
        mean = (sums[:-1] / count)[:, None, None]
        variance = SumOverProcesses.apply((x - mean).square().sum((0, 2, 3))) / count
        assert self.running_mean is not None and self.running_var is not None, "share_batch_norm makes none without"
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised = (x - mean) * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(input.dtype)


def share_batch_norm(network: nn.Module) -> nn.Module:
    """Replaces every BatchNorm2d by a SharedBatchNorm with the same parameters, in place, where there are processes."""
    if world() == 1:
        return network
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared)
    return network
