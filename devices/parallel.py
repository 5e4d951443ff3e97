"""Training in several processes, as torchrun starts them: who is who, and what they tell each other.

Without torchrun there is one process, rank 0 of 1, and nothing here does anything.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.constants import default_pg_timeout

from basics.problems import Problem, UsageProblem, printable

Result = TypeVar("Result")
PATIENCE = 300.0  # seconds in which all processes have to meet
SILENCE = 10.0  # seconds of waiting before it is said; torchrun's processes need less
REMEDY = "start them with torchrun, or unset RANK WORLD_SIZE to train in one process"


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    text = os.environ.get("LOCAL_RANK", "0")
    if not (text.isascii() and text.isdigit()):
        raise UsageProblem(f"LOCAL_RANK={text!r} is no number of a process; torchrun sets it: unset it to train in one")
    return int(text)


def under_torchrun() -> bool:
    return bool(os.environ.get("WORLD_SIZE") and os.environ.get("RANK"))


@contextlib.contextmanager
def group(device: torch.device) -> Generator[None]:
    """Joins the processes that torchrun started, over NCCL on GPUs and over gloo on CPUs; only rank 0 prints."""
    if not under_torchrun():
        yield
        return
    store, own, processes = met()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=own, world_size=processes)
    try:
        with contextlib.ExitStack() as stack:
            if rank():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    finally:
        dist.destroy_process_group()


def meeting_point() -> tuple[int, int, str, int]:
    """(rank, number of processes, address, port) as the environment has them.

    Raises UsageProblem where some are missing or impossible, as they are under Slurm and MPI, or left over in a shell.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in names if not os.environ.get(name)]:
        verb = "is" if len(missing) == 1 else "are"
        raise UsageProblem(f"RANK and WORLD_SIZE say that there are several processes, but {' and '.join(missing)} "
                           f"{verb} not set: {REMEDY}")  # fmt: skip
    try:
        own, processes, port = (int(os.environ[name]) for name in names if name != "MASTER_ADDR")
    except ValueError:
        own, processes, port = 0, 0, 0
    if not (0 <= own < processes and 0 < port < 2**16):
        found = ", ".join(f"{name}={os.environ[name]!r}" for name in names)
        raise UsageProblem(f"{found} is no process of several: {REMEDY}")
    return own, processes, os.environ["MASTER_ADDR"], port


def met() -> tuple[dist.Store, int, int]:
    """The store in which all processes have met, the rank, and their number; says so where that takes long.

    Raises Problem where they do not come.
    """
    own, processes, address, port = meeting_point()
    where, minutes, found = printable(f"{address}:{port}"), f"{PATIENCE / 60:g} minutes", []
    # In a thread, since PyTorch's waiting hears no Ctrl-C; a daemon, so that it keeps no process alive.
    thread = threading.Thread(target=lambda: found.append(meet(own, address, port)), daemon=True)
    thread.start()
    thread.join(min(SILENCE, PATIENCE))
    if thread.is_alive():
        print(f"process {own} of {processes} waits for the others at {where}, up to {minutes}", file=sys.stderr)
    thread.join(PATIENCE + 5)  # PyTorch takes a little longer than it is told
    answer = found[0] if found else "nobody answers"
    if isinstance(answer, str):
        raise Problem(f"process {own} of {processes} has not met the others at {where} ({answer}): "
                      f"all have to come within {minutes}; {REMEDY}")  # fmt: skip
    answer.set_timeout(default_pg_timeout)  # later they may wait longer for each other, while one loads the data
    return answer, own, processes


def meet(own: int, address: str, port: int) -> dist.Store | str:
    """The store in which all processes have met, or why they have not."""
    end = time.monotonic() + PATIENCE
    while problem := unreachable(own, address, port):  # PyTorch would print a stack for each try
        if time.monotonic() > end:
            return problem
        time.sleep(0.5)
    try:
        return next(dist.rendezvous("env://", timeout=timedelta(seconds=max(1.0, end - time.monotonic()))))[0]
    except RuntimeError as error:
        return str(error).splitlines()[0]


def unreachable(own: int, address: str, port: int) -> str:
    """Why this process cannot get to where they meet, empty if it can: the first one listens there itself."""
    try:
        if own == 0:
            socket.getaddrinfo(address, port)
        else:
            socket.create_connection((address, port), timeout=5).close()
    except (OSError, UnicodeError) as error:  # the latter of what cannot be a name
        return str(error)
    return ""


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
