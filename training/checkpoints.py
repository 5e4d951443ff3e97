"""The checkpoint file: plain values and tensors that carry a network and all that is known of it."""

import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import nn

from basics.disk import write_bytes
from basics.problems import Problem, printable
from models import _reason, build, read_plain
from training import schema

FORMAT = 1  # of the checkpoint file


def state_sha256(state: dict[str, torch.Tensor]) -> str:
    """A hash over names, types, shapes and values: torch.load does not notice a flipped byte, this does."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor).encode())
    return digest.hexdigest()


def tensors_in(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors in nested dicts and lists, under the path that leads to each."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {name: tensor for key, item in items for name, tensor in tensors_in(item, f"{path}.{key}").items()}


def save_checkpoint(path: Path, checkpoint: dict) -> dict:
    """Writes a checkpoint: plain values and tensors only, so that it loads with weights_only=True.

    Keys: see run_folder.new_checkpoint; last.pt also has `training`, the optimizer's state and the position in the
    data. The format number and the hashes of the tensors are added here; returns what was written.
    """
    full = {**checkpoint, "format": FORMAT, "weights_sha256": state_sha256(checkpoint["state"])}
    full.pop("training_sha256", None)  # of another state, which this one went on from
    if "training" in full:
        full["training_sha256"] = state_sha256(tensors_in(full["training"]))
    buffer = io.BytesIO()
    torch.save(full, buffer)
    write_bytes(path, buffer.getbuffer())
    return full


def read_archive(path: Path) -> object:
    """What torch.save wrote, on the CPU: plain values and tensors only. Raises Problem when it is not whole.

    torch.load does not look at the checksums of the archive; a flipped byte in a number would go unnoticed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("torch.save packs nothing, and this is packed")  # a little could unpack to a lot
            if damaged := archive.testzip():
                raise ValueError(f"the file was damaged: {damaged} does not match its checksum")
        return read_plain(path)
    except FileNotFoundError as error:
        smoke = path.parent.parent / f"quick-{path.parent.name}" / path.name
        raise Problem(f"{path}: no such file{f'; there is {smoke}' if smoke.is_file() else ''}") from error
    except IsADirectoryError as error:
        raise Problem(f"{path}: this folder holds no model.pt: a finished epoch of train.py leaves one") from error
    except Exception as error:  # on a damaged pickle, torch's unpickler raises everything there is
        raise Problem(f"{path}: not a whole checkpoint ({_reason(error)})") from error


def stopped(checkpoint: dict) -> str:
    """What to know of a checkpoint whose training was stopped: "after 1 of 2 epochs"; "" of any other."""
    planned = checkpoint.get("recipe", {}).get("epochs")
    done = len(checkpoint.get("history", []))
    # What validation decides of the best epoch comes last.
    whole = "operating_points" in checkpoint or not isinstance(planned, int) or done >= planned
    return "" if whole else f"after {done} of {planned} epochs"


def load_checkpoint(path: Path, unfinished: bool = False) -> tuple[dict, nn.Module]:
    """Reads a checkpoint and builds its network, in eval mode on the CPU.

    A run that was stopped in its first epoch left one without a threshold: it is read if `unfinished`.

    Raises Problem when the file is not there, is no checkpoint of this project, or was damaged.
    """
    checkpoint = read_archive(path)
    if not isinstance(checkpoint, dict) or "format" not in checkpoint or "state" not in checkpoint:
        raise Problem(f"{path}: not a checkpoint that train.py wrote")
    if checkpoint["format"] != FORMAT:
        found = printable(str(checkpoint["format"]))[:60]
        raise Problem(f"{path}: checkpoint format {found}, this program reads format {FORMAT}")
    _check_tensors(path, checkpoint)
    training = checkpoint.get("training")
    if training is not None and not isinstance(training, dict):
        raise Problem(f"{path}: not a checkpoint that train.py wrote")
    if training and "threshold" not in checkpoint and not unfinished:
        raise Problem(f"{path}: its training was stopped before the first epoch was complete; --resume goes on with it")
    schema.check(path, checkpoint, schema.UNFINISHED if unfinished else schema.CHECKPOINT)
    _check_state(path, checkpoint)
    if state_sha256(checkpoint["state"]) != checkpoint.get("weights_sha256"):
        raise Problem(f"{path}: the weights do not match their SHA-256: the file was damaged")
    if training and state_sha256(tensors_in(training)) != checkpoint.get("training_sha256"):
        raise Problem(f"{path}: the optimizer's state does not match its SHA-256: the file was damaged")
    network = build(checkpoint["architecture"], checkpoint["size"])
    network.load_state_dict(checkpoint["state"])
    return checkpoint, network.eval()


def _check_tensors(path: Path, checkpoint: dict) -> None:
    """Raises Problem for a tensor that is larger than the file: a shape of terabytes can be written over one number."""
    total = 0
    for name, tensor in tensors_in(checkpoint).items():
        odd = tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized
        if odd or (tensor.numel() and 0 in tensor.stride()):  # an empty one, of no patients, takes no step either
            raise Problem(f"{path}: {printable(name)} is no plain tensor")
        total += tensor.nbytes
    if total > path.stat().st_size:
        raise Problem(f"{path}: its tensors have {total:,} bytes, and the file {path.stat().st_size:,}")


def _check_state(path: Path, checkpoint: dict) -> None:
    """Raises Problem when the weights are not those of the network; the network is not built for it."""
    with torch.device("meta"):
        network = build(checkpoint["architecture"], checkpoint["size"])
    wanted = network.state_dict()
    state = checkpoint["state"]
    if not isinstance(state, dict) or set(state) != set(wanted):
        raise Problem(f"{path}: its weights do not fit {checkpoint['architecture']}: they have other names")
    for name, tensor in wanted.items():
        found = state[name]
        if not isinstance(found, torch.Tensor) or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise Problem(f"{path}: its weights do not fit {checkpoint['architecture']}: {name} is {kind}, "
                          f"not {tensor.dtype} {tuple(tensor.shape)}")  # fmt: skip
        if not found.isfinite().all():
            raise Problem(f"{path}: its weights are not all finite ({name})")
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    limits = checkpoint.get("limits")
    if limits is not None and not (schema.knowledge(limits) and len(limits["hidden_whitening"]) == last.in_features):
        raise Problem(f"{path}: its limits do not fit {checkpoint['architecture']}")
