"""A checkpoint or a graph, opened for evaluation: what it says of itself, what it has seen, what it answers."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from basics import disk
from basics.problems import Problem
from basics.progress import Progress
from data import Dataset
from films import seen, sources
from graphs import sessions
from metrics import measures
from training import averaging, checkpoints, inference
from training.batches import Batches, table_on


@dataclass(frozen=True)
class Model:
    """A checkpoint or a graph, opened: what it says of itself, and its answers on request."""

    path: Path
    facts: dict  # the checkpoint's keys, or the same ones from the graph's metadata
    network: torch.nn.Module | None  # of a checkpoint
    session: onnxruntime.InferenceSession | None  # of a graph

    @property
    def name(self) -> str:
        return self.facts["name"] if self.network else self.path.name


def open_model(path: Path) -> Model:
    """Opens runs/<name>/model.pt or <name>.onnx. Raises Problem when it is neither, or damaged."""
    if path.suffix != ".onnx":
        checkpoint, network = checkpoints.load_checkpoint(path)
        return Model(path, checkpoint, network, None)
    session, facts = sessions.opened(path)
    return Model(path, facts | record_beside(path, facts), None, session)


def record_beside(path: Path, facts: dict) -> dict:
    """What a graph has seen, from the certificate beside it; else `unrecorded`, the reason why that is not known."""
    file = path.with_suffix(".json")
    try:
        certificate = disk.parse_json(file.read_bytes())
        if certificate["sha256"] != disk.sha256_of_file(path):
            raise ValueError("it certifies another graph")
        record = seen.unpacked(certificate["seen"])
        if seen.digest(record) != facts["seen"]["sha256"]:
            raise ValueError("the record in it is another graph's")
        return record
    except FileNotFoundError:
        reason = f"there is no {file.name} beside it"
    except KeyError as error:
        reason = f"{file.name} or the graph is of an earlier version: no {error.args[0]}"
    except (OSError, ValueError, TypeError) as error:
        reason = f"{file.name} cannot be used ({error})"
    return {"unrecorded": reason}


def with_record(model: Model, others: list[Model]) -> Model:
    """A graph that came without its record has that of the checkpoint it was made from, where that is here too.

    An ensemble's is of all its members, where all are here.
    """
    if "unrecorded" not in model.facts:
        return model
    made_from = model.facts.get("checkpoint_sha256")
    here = {disk.sha256_of_file(other.path): other.facts for other in others if other.network}
    hashes = [one["checkpoint_sha256"] for one in model.facts.get("members", [])] or [made_from]
    if not all(sha256 in here for sha256 in hashes) or (len(hashes) > 1 and averaging.digest(hashes) != made_from):
        return model
    facts = {key: value for key, value in model.facts.items() if key != "unrecorded"}
    return replace(model, facts=facts | seen.united([seen.of_checkpoint(here[sha256]) for sha256 in hashes]))


def logits(
    model: Model, dataset: Dataset, indices: np.ndarray, device: torch.device, reduced: bool = False
) -> np.ndarray:
    """(N, 2) float32 logits of some images of a table; `reduced` allows bf16, for a checkpoint."""
    if model.session:
        return graph_logits(model, dataset.images[indices])
    assert model.network is not None  # a model is one of the two
    network = model.network.to(device).to(memory_format=torch.channels_last)
    table = table_on(dataset.images, device)
    many = min(128, inference.EVALUATION_BATCH[device.type])  # a batch of a ResNet takes some seconds on a CPU
    batches = Batches(table, dataset.labels, indices, many, device, tuple(model.facts["normalisation"]))
    with Progress(len(indices), f"answers of {model.name}", leave=False, delay=2) as progress:
        return inference.network_logits(network, batches, reduced, moved=progress.update)


def graph_logits(model: Model, images: np.ndarray) -> np.ndarray:
    """(N, 2) float32 logits of raw images. Raises Problem where the graph fails, or is not what it says of itself."""
    assert model.session is not None  # the caller has looked
    try:
        found = sessions.graph_outputs(model.session, images, 64)
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{model.path}: onnxruntime cannot run it ({str(error).splitlines()[0]})") from error
    logits, probability = found["logits"], found["probability"]
    if logits.shape != (len(images), 2) or probability.shape != (len(images),) or logits.dtype != np.float32:
        raise Problem(f"{model.path}: it gives {logits.dtype} {logits.shape} logits for {len(images):,} images")
    if np.isfinite(logits).all():
        own = measures.positive_probability(logits, model.facts["temperature"])
        decided = found["probability"] >= np.float32(model.facts["threshold"])
        if not (np.abs(own - probability).max(initial=0) <= 1e-4 and np.array_equal(found["decision"], decided)):
            raise Problem(f"{model.path}: it does not answer with the temperature and threshold in its metadata")
    return logits


def source_of(model: Model, opened: list[Model], asked: str | None) -> str | None:
    """Where a model's images are: --data, else the folder its checkpoint was trained on.

    A graph carries no path of the machine it was trained on; a checkpoint of the same data lends it its own.
    """
    if asked is not None:
        return asked
    if "source" in model.facts["data"]:
        return model.facts["data"]["source"]
    if model.facts["data"]["synthetic"]:
        return "phantoms"
    mates = [m.facts["data"] for m in opened if "source" in m.facts["data"]]
    return next((m["source"] for m in mates if m["fingerprint"] == model.facts["data"]["fingerprint"]), None)


def classes_of(model: Model, opened: list[Model], args: argparse.Namespace) -> sources.ClassNames | None:
    """What the class folders of its images are called, as `source_of` finds where they are.

    Those of --data are the same for all models: what any of them remembers, where the usual names are not there.
    """
    if args.classes:
        return args.classes
    if args.data is not None:
        return sources.classes_there(args.data, [sources.remembered_classes(m.facts["data"]) for m in opened])
    facts = [m.facts["data"] for m in (model, *opened)]
    mates = [f for f in facts if "source" in f and f["fingerprint"] == model.facts["data"]["fingerprint"]]
    return sources.remembered_classes(mates[0]) if mates else None
