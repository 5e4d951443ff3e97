"""From a checkpoint or a graph to logits: the one door through which every reported number goes.

network_logits(...)   a PyTorch network over Batches
open_graph(...)       an ONNX file on the execution provider that was asked for, and on no other
graph_outputs(...)    that graph over raw uint8 images
"""

import argparse
import contextlib
import ctypes
import hashlib
import io
import os
import platform
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

import common
import cpu_layers
import parallel
from batches import Batches
from common import Problem, UsageProblem
from gpu import Captured, Recorder, Work, own_kernels, recorder

if TYPE_CHECKING:
    import onnxruntime

DEVICES = ("auto", "cpu", "cuda", "mps")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
EVALUATION_BATCH = {"cpu": 64, "cuda": 512, "mps": 128}
GRAPH_OUTPUTS = ["probability", "decision", "logits"]
SEAL = "sha256"  # the last entry of a graph's metadata, see graphs.sealed


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", **common.choices(DEVICES), default="auto", help="default: CUDA, else MPS, else CPU")


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


def answering(
    network: torch.nn.Module, device: torch.device, reduced: bool = False, record: Recorder | None = None
) -> Captured:
    """From (B, 1, S, S) images to (logits (B, 2) float32,); if `reduced` in bf16 or fp16 inside, by what is fastest."""
    asked = fused(network, device) if reduced else network

    def answer(images: torch.Tensor) -> tuple[torch.Tensor]:
        with autocast(device, enabled=reduced):
            return (asked(images).float(),)

    return Captured(answer, record or recorder(device))


@torch.inference_mode()
def network_logits(
    network: torch.nn.Module, batches: Batches, reduced: bool = False, answer: Work | None = None
) -> np.ndarray:
    """Logits of a whole set, (N, 2) float32, in the set's order; leaves the network in the mode it was in.

    In float32, unless `reduced` allows bf16 or fp16 (faster, good enough to choose an epoch by). Where several
    processes share the set, each gets the logits of all of it. Who asks again and again keeps `answering(...)` of this
    network and hands it in.
    """
    was_training = network.training
    network.eval()
    answer = answer or answering(network, batches.device, reduced)
    kept = [torch.empty(0, 2, device=batches.device)]  # a process may have no image of a very small set
    for images, _ in batches.epoch():
        kept.append(answer(images)[0].clone())  # the next answer is written over this one
    network.train(was_training)
    logits = torch.cat(kept).cpu().numpy()  # the one synchronisation
    return parallel.gathered(logits) if batches.shard[1] > 1 else logits


def open_graph(path: Path, provider: str = "cpu") -> "onnxruntime.InferenceSession":
    """Opens an ONNX file on "cpu" or "cuda".

    onnxruntime falls back to the CPU without an error when CUDA cannot be used; here that is a Problem. A graph of
    which CUDA takes all but some nodes is opened, and that is said.
    """
    import onnxruntime  # a fifth of a second, which training should not pay

    if not path.is_file():
        raise Problem(f"{path}: no such file")
    check_seal(path)
    if provider == "cpu":
        return _session(path, provider, {})
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise Problem(f"{path}: this onnxruntime was built without {provider}; onnxruntime-gpu has CUDA")
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses; the provider is read back below
            onnxruntime.preload_dlls()
    try:
        return _session(path, provider, {"session.disable_cpu_ep_fallback": "1"})
    except Problem:
        session = _session(path, provider, {})
        print(f"note: {path}: onnxruntime runs some of its nodes on the CPU, the others on CUDA", file=sys.stderr)
        return session


def check_seal(path: Path) -> None:
    """Raises Problem when a graph carries a SHA-256 that is not that of its file."""
    body, mark, digest = path.read_bytes().rpartition(b"\n\x06" + SEAL.encode() + b"\x12@")
    if mark and hashlib.sha256(body[:-2]).hexdigest().encode() != digest:  # 2: the length of what follows
        raise Problem(f"{path}: it does not match the SHA-256 at its end: it was damaged or changed; export it again")


def _session(path: Path, provider: str, entries: dict[str, str]) -> "onnxruntime.InferenceSession":
    import onnxruntime

    wanted = PROVIDERS[provider]
    options = onnxruntime.SessionOptions()
    # What goes wrong is raised, with the reason; the logs would say it twice, and what does not matter too: cuDNN's
    # plans that cannot be, say, before one that can.
    options.log_severity_level = 4
    onnxruntime.set_default_logger_severity(4)
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    # TF32 is on by default and costs 3 digits; HEURISTIC does not search again for each new batch size.
    settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"} if provider == "cuda" else {}
    try:
        # As bytes: onnxruntime opens no path that is not UTF-8. Without the fallback, by which it would go over to the
        # CPU with a banner on stdout, in the middle of a folder too.
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=[(wanted, settings)], enable_fallback=0
        )
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{path}: onnxruntime cannot open it on {provider} ({str(error).splitlines()[0]})") from error
    if session.get_providers()[0] != wanted:
        raise Problem(f"{path}: {provider} was asked for, and onnxruntime runs it on {session.get_providers()[0]}")
    return session


def graph_outputs(
    session: "onnxruntime.InferenceSession", images: np.ndarray, batch_size: int, names: Sequence[str] = GRAPH_OUTPUTS
) -> dict[str, np.ndarray]:
    """probability (N,), decision (N,) and logits (N, 2), or other outputs, of raw (N, H, W) uint8 images."""
    parts = [
        session.run(names, {"image": np.ascontiguousarray(images[start : start + batch_size])})
        for start in range(0, len(images), batch_size)
    ]
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


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
        reason = common.printable(str(error).splitlines()[0])
        parallel.say(f"note: torch.compile fails here ({reason}); going on without it")
        fast = network
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return fast
