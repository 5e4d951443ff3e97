"""A checkpoint or a graph, opened for evaluation: what it says of itself, which images may test it, what it answers."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import data
from basics import disk
from basics.problems import Problem
from data import Dataset, Split
from graphs import sessions
from metrics import measures
from training import checkpoints, inference
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
    return Model(path, facts, None, session)


def test_side(model: Model, dataset: Dataset) -> Split:
    """The images that test this model: its own split's test side, or every image of a set that it knows nothing of.

    Raises Problem where there is none, or where it was trained on some of them.
    """
    facts = model.facts
    how = facts["split"]["how"]
    everything = np.arange(len(dataset.files))
    known = dataset.fingerprint == facts["data"]["fingerprint"] or overlap(model, dataset, everything)
    if known or (how == "official" and {"test"} < set(dataset.folders)):
        split = data.split_again(dataset, facts["split"])
    else:
        none = np.array([], np.int64)
        fingerprint = disk.sha256_of(["external", dataset.fingerprint])[:12]
        split = Split("external", 0, none, none, everything, fingerprint, ())
    if not len(split.test):
        raise Problem(f"{model.path}: {dataset.source} has no test images in the {how} split; "
                      "--data names a folder that has")  # fmt: skip
    leaked = overlap(model, dataset, split.test)
    if leaked and not (how == "image" and split.fingerprint == facts["split"]["fingerprint"]):
        raise Problem(f"{model.path}: {leaked} were seen in its training: no honest test")
    warnings = [f"{model.name}: {note}" for note in split.notes if note.startswith("WARNING")]
    return replace(split, notes=(*warnings, *relation(model, dataset, split)))


def overlap(model: Model, dataset: Dataset, indices: np.ndarray) -> str:
    """How many of these images and patients were seen in training, in words; "" if none were, or nothing is known."""
    said = []
    for what, keys, seen in (("images", dataset.pixel_hashes, "seen_images"),
                             ("patients", dataset.patients, "seen_patients")):  # fmt: skip
        if seen in model.facts:
            shared = np.intersect1d(data.hashed([keys[i] for i in indices]), model.facts[seen]).size
            if shared:
                said.append(f"{shared:,} of the test {what}")
    return " and ".join(said)


def relation(model: Model, dataset: Dataset, split: Split) -> list[str]:
    """Notes on how these test images relate to what the model was trained on."""
    facts, notes = model.facts, []
    if dataset.unknown_patients:
        notes.append(f"nothing says of {dataset.unknown_patients:,} images who their patient is: each counts as a "
                     "patient of its own, also in the intervals")  # fmt: skip
    if split.fingerprint != facts["split"]["fingerprint"]:
        if "seen_images" not in facts:
            notes.append(f"{model.name}: a graph does not carry what it was trained on: it may have seen these images")
        part = "every image" if split.how == "external" else f"the split {split.fingerprint}"
        notes.append(
            f'{model.name} was trained on the split {facts["split"]["fingerprint"]} of "{facts["data"]["name"]}", '
            f'and is tested on {part} of "{dataset.name}"'
        )
    if facts["quick"]:
        notes.append(f"{model.name} is from a smoke run (--quick): its numbers mean nothing")
    if facts["initial_weights"] != "random":
        notes.append(f"{model.name} started from {facts['initial_weights']}")
    return notes


def logits(
    model: Model, dataset: Dataset, indices: np.ndarray, device: torch.device, reduced: bool = False
) -> np.ndarray:
    """(N, 2) float32 logits of some images of a table; `reduced` allows bf16, for a checkpoint."""
    if model.session:
        return graph_logits(model, dataset.images[indices])
    assert model.network is not None  # a model is one of the two
    network = model.network.to(device).to(memory_format=torch.channels_last)
    table = table_on(dataset.images, device)
    batches = Batches(table, dataset.labels, indices, 128, device, tuple(model.facts["normalisation"]))
    return inference.network_logits(network, batches, reduced)


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
