"""An ONNX file opened on the execution provider that was asked for, and on no other; and what it answers."""

import contextlib
import hashlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from basics import disk
from basics.problems import Problem
from basics.progress import Progress
from graphs import anatomy, building
from graphs.building import GRAPH_OUTPUTS, SEAL
from training import schema

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


TEXTS = ("name", "architecture", "fit", "threshold_rule", building.FIRST_RULE, "initial_weights", "checkpoint_sha256",
         "intended_use", "licence", SEAL)  # fmt: skip


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


def opened(path: Path) -> tuple["onnxruntime.InferenceSession", dict[str, Any]]:
    """A graph that export.py made, on the CPU, and what it says of itself. Raises Problem when it is another's."""
    if not path.is_file():
        raise Problem(f"{path}: no such file")
    model = building.examine(path)
    try:
        anatomy.check_precision(model)
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from problem
    session = open_graph(path)
    facts = session.get_modelmeta().custom_metadata_map
    try:
        facts = {key: value if key in TEXTS else disk.parse_json(value) for key, value in facts.items()}
    except ValueError as error:
        raise Problem(f"{path}: its metadata was not written by export.py ({error})") from error
    if missing := set(schema.GRAPH) - set(facts):
        raise Problem(f"{path}: not a graph that export.py made: no {', '.join(sorted(missing))} in its metadata")
    schema.check(path, facts, schema.GRAPH)
    return session, facts


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
    parts = []
    with Progress(len(images), "the graph's answers", leave=False, delay=2) as progress:
        for start in range(0, len(images), batch_size):
            parts.append(session.run(names, {"image": np.ascontiguousarray(images[start : start + batch_size])}))
            progress.update(len(images[start : start + batch_size]))
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}
