"""Which device computes, in which precision, and what is set once for each process."""

import contextlib
import ctypes
import os
import platform
import sys
import threading
from collections.abc import Generator

import torch

from basics.problems import Problem, UsageProblem
from devices import parallel
from devices.recording import own_kernels


def pick_device(name: str) -> torch.device:
    """The device of that name, or the best one there is for "auto". Raises UsageProblem if it is not there."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # else to ask is to start CUDA, before the data is read
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[name]:
        raise UsageProblem(f"--device {name}: PyTorch finds no such device here; --device auto takes what there is")
    return torch.device(name, parallel.local_rank()) if name == "cuda" else torch.device(name)


def wake(device: torch.device) -> None:
    """Starts what CUDA and its libraries do once a process, a second or two of it, while others look for the data."""

    def work() -> None:
        with contextlib.suppress(RuntimeError):  # whoever needs it meets the same error, and says it
            image = torch.zeros(8, 8, 8, 8, device=device, dtype=reduced_type(device), requires_grad=True)
            torch.nn.functional.conv2d(image, image).sum().backward()
            (image[0, 0] @ image[0, 0]).cpu()
            own_kernels(device)

    if device.type == "cuda":
        threading.Thread(target=work).start()  # no daemon: CUDA must not be cut short while it starts


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed for the next allocation, instead of giving it back to the system.

    By default every tensor above 32 MB is mapped anew, and each of its pages costs a fault when it is first touched.
    Elsewhere than on Linux with glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def enough_memory(what_helps: str) -> Generator[None]:
    """Turns a full device into one line for people."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Problem(f"the device's memory is full: {what_helps}") from error


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    name = cpu or platform.processor() or platform.machine()
    return f"CPU, {name}, {torch.get_num_threads()} threads" if device.type == "cpu" else f"{device.type}, {name}"


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; where it is emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return bool(able.get("amx_bf16") or able.get("avx512_bf16"))
    return False


def reduced_type(device: torch.device) -> torch.dtype:
    """What convolutions are trained in: bf16 where the hardware has it, fp16 on older GPUs, float32 elsewhere."""
    if has_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def autocast(device: torch.device, enabled: bool = True) -> torch.autocast:
    """`reduced_type` for what is computed inside; one code path for all three."""
    reduced = reduced_type(device)
    if not enabled or reduced is torch.float32:
        return torch.autocast(device.type, torch.bfloat16, enabled=False)
    return torch.autocast(device.type, reduced)


def grad_scaler(device: torch.device) -> torch.amp.GradScaler:
    """Keeps small fp16 gradients from vanishing; does nothing for bf16 and float32, whose exponents are wide enough."""
    return torch.amp.GradScaler(device.type, enabled=reduced_type(device) is torch.float16)


def set_precision(deterministic: bool = False) -> None:
    """Says what PyTorch leaves to defaults: float32 is float32, not TF32; which kernels, by speed or by repeatability.

    TF32 has the 10-bit mantissa of fp16. What is meant to be fast runs in bf16 anyway, and what is not (the numbers
    that are reported, the answers that a graph is compared with) is meant to be exact.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False  # it searches anew for each side and batch size, for seconds
    if deterministic != torch.are_deterministic_algorithms_enabled():  # to ask for what is so imports the compiler
        torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first call
