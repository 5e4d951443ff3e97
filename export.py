"""Turns a checkpoint into an ONNX graph that gives the same answers: `python export.py runs/simple/model.pt`.

The graph takes raw grey pixels, (N, H, W) uint8 of any size, and does the resizing, normalisation, temperature and
threshold itself, so that nobody has to write them again. It gets its name only after onnxruntime has given the same
logits and decisions as PyTorch on real validation images.
"""

import argparse
import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

import common
import data
import infer
import metrics
import models
from batches import Batches, table_on
from common import Problem

# Opset 18 is the first whose Resize can antialias, and the one that onnxruntime's CUDA kernels cover best
# (microsoft/onnxruntime #19595, #27415). The exporter is torch's dynamo-based one, since the older one cannot express
# antialiasing; its known fault with batch normalisation (microsoft/onnxscript #2680) is mended in the pinned version,
# and the verification below would show it.
OPSET = 18
BATCH_SIZES = (1, 2, 32)
SMALL_BATCH_IMAGES = 128  # batches of 1 and 2 are slow; batches of 32 go over all validation images
# On max |logit difference| / max |logit|. Summation order alone gives about 1e-6 on a CPU; cuDNN's algorithms more.
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}


class Deployed(nn.Module):
    """What the graph computes: raw pixels to calibrated probability, decision and logits."""

    def __init__(self, network: nn.Module, checkpoint: dict) -> None:
        super().__init__()
        self.network = network
        self.size, self.fit = checkpoint["size"], checkpoint["fit"]
        self.mean, self.std = checkpoint["normalisation"]
        self.temperature, self.threshold = checkpoint["temperature"], checkpoint["threshold"]

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """(N, H, W) uint8 to (N, 1, S, S) float of whole grey levels, as data.decode stores them."""
        pixels = squared(image, self.fit).unsqueeze(1).float()
        pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        return pixels.round().clamp(0, 255)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.network((self.resize(image) / 255 - self.mean) / self.std)  # (N, 2)
        probability = (logits / self.temperature).softmax(1)[:, 1]  # (N,)
        return probability, (probability >= self.threshold).long(), logits


def squared(image: torch.Tensor, fit: str) -> torch.Tensor:
    """images.squared for a batch, (N, H, W): as it is, on a black square, or cut to the centre square."""
    if fit == "stretch":
        return image
    height, width = image.shape[1:]
    side = torch.sym_max(height, width) if fit == "pad" else torch.sym_min(height, width)
    # A negative border cuts away: slicing to a length that is computed cannot be exported.
    sign = 1 if fit == "pad" else -1
    rows, columns = sign * (side - height), sign * (side - width)  # to add or to cut, half on either side
    top, left = rows // 2, columns // 2
    bottom, right = rows - top, columns - left
    return F.pad(image, (sign * left, sign * right, sign * top, sign * bottom))


def to_graph(network: nn.Module, checkpoint: dict, checkpoint_hash: str) -> onnx.ModelProto:
    """The graph of a checkpoint's network, with its metadata."""
    graph = bare_graph(network, checkpoint)
    onnx.helper.set_model_props(graph, metadata(checkpoint, checkpoint_hash))
    return graph


def bare_graph(network: nn.Module, checkpoint: dict) -> onnx.ModelProto:
    """Exports a network in float32, without a trace of the machine it was exported on."""
    # Not 2 and not square: the exporter would take an example's 1, or equal sides, for a rule.
    example = torch.zeros(3, 200, 260, dtype=torch.uint8)
    axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter reports its progress there
        program = torch.onnx.export(
            Deployed(network.float().eval(), checkpoint).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=infer.GRAPH_OUTPUTS,
            dynamic_shapes=(axes,),
            external_data=False,
            verbose=False,
        )
    graph = program.model_proto
    opset = next(item.version for item in graph.opset_import if item.domain == "")
    if opset != OPSET:
        raise Problem(f"the exporter wrote opset {opset} where {OPSET} was asked for")
    size_by_constant(graph.graph, checkpoint["size"])
    for item in (*graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output,
                 *graph.graph.initializer, graph.graph, graph):  # fmt: skip
        del item.metadata_props[:]  # stack traces and paths of this machine
        item.doc_string = ""
    return graph


def size_by_constant(graph: onnx.GraphProto, size: int) -> None:
    """Tells Resize its two output sides as a constant, where the exporter computes all four from the input's shape.

    Nodes that compute shapes run on the CPU; without them a GPU can take the whole graph.
    """
    (resize,) = (node for node in graph.node if node.op_type == "Resize")
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([size, size], np.int64), "sides"))
    resize.input[3] = "sides"
    resize.attribute.append(onnx.helper.make_attribute("axes", [2, 3]))
    while True:  # what fed the old sizes feeds nothing now
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = [node for node in graph.node if not used & set(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    known = used | {output for node in graph.node for output in node.output}
    for value in [value for value in graph.value_info if value.name not in known]:
        graph.value_info.remove(value)


def metadata(checkpoint: dict, checkpoint_hash: str) -> dict[str, str]:
    """What the graph says of itself; values that are no text are JSON."""
    facts = {
        "name": checkpoint["name"],
        "architecture": checkpoint["architecture"],
        "classes": checkpoint["classes"],
        "size": checkpoint["size"],
        "fit": checkpoint["fit"],
        "normalisation": checkpoint["normalisation"],
        "temperature": checkpoint["temperature"],
        "threshold": checkpoint["threshold"],
        "threshold_rule": checkpoint["threshold_rule"],
        "data": {key: checkpoint["data"][key] for key in ("name", "fingerprint", "synthetic")},
        "split": checkpoint["split"],
        "initial_weights": checkpoint["initial_weights"],
        "quick": checkpoint["quick"],
        "checkpoint_sha256": checkpoint_hash,
        "versions": {**checkpoint["versions"], "onnx": onnx.__version__},
        "intended_use": "research; not for clinical use",
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


# ----------------------------------------------------------------------------------------------- verification


@dataclass(frozen=True)
class Reference:
    """What PyTorch says of the validation images: the answers that a graph must give."""

    images: np.ndarray  # (N, S, S) uint8
    files: list[str]
    logits: np.ndarray  # (N, 2) float32
    probabilities: np.ndarray  # (N,)
    decisions: np.ndarray  # (N,)
    threshold: float


def reference(network: nn.Module, checkpoint: dict, dataset: data.Dataset, indices: np.ndarray) -> Reference:
    """Goes through Batches and metrics.py, as evaluate.py does: not through the module that is exported."""
    device = torch.device("cpu")
    table = table_on(dataset.images, device)
    batches = Batches(table, dataset.labels, indices, 32, device, tuple(checkpoint["normalisation"]))
    logits = infer.network_logits(network, batches)
    probabilities = metrics.positive_probability(logits, checkpoint["temperature"])
    return Reference(
        dataset.images[indices],
        [dataset.files[i] for i in indices],
        logits,
        probabilities,
        metrics.decide(probabilities, checkpoint["threshold"]),
        checkpoint["threshold"],
    )


def verify(path: Path, expected: Reference, provider: str) -> list[dict]:
    """Runs a graph on the provider in batches of 1, 2 and 32; returns a row of differences for each.

    Raises Problem when the graph does not load or run there.
    """
    session = infer.open_graph(path, provider)
    rows = []
    for batch_size in BATCH_SIZES:
        count = len(expected.images) if batch_size == max(BATCH_SIZES) else SMALL_BATCH_IMAGES
        some = np.unique(np.linspace(0, len(expected.images) - 1, min(count, len(expected.images))).astype(int))
        try:
            found = infer.graph_outputs(session, expected.images[some], batch_size)
        except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
            raise Problem(f"{provider}, batches of {batch_size}: {str(error).splitlines()[0]}") from error
        rows.append({"provider": provider, "batch": batch_size} | compare(found, expected, some, TOLERANCE[provider]))
    return rows


def compare(found: dict[str, np.ndarray], expected: Reference, some: np.ndarray, tolerance: float) -> dict:
    """Largest differences of a graph's answers from PyTorch's, and whether they are within the tolerance.

    The relative difference is max |logit difference| / max |logit|. A decision may differ only where PyTorch's
    probability is closer to the threshold than probabilities differ at all.
    """
    difference = np.abs(found["logits"] - expected.logits[some]).max(initial=0.0)
    relative = float(difference / np.abs(expected.logits[some]).max())
    shift = np.abs(found["probability"] - expected.probabilities[some])
    flipped = found["decision"] != expected.decisions[some]
    excused = np.abs(expected.probabilities[some] - expected.threshold) <= tolerance
    # `<=` is False for nan, which onnxruntime returns without an error
    good = relative <= tolerance and float(shift.max()) <= tolerance and not (flipped & ~excused).any()
    return {
        "images": len(some),
        "logit_difference": float(difference),
        "relative": relative,
        "tolerance": tolerance,
        "probability_difference": float(shift.max()),
        "flipped": [expected.files[i] for i in some[flipped]],
        "passed": bool(good),
    }


def providers() -> tuple[list[str], list[str]]:
    """The providers to check on, and a sentence for each that could not be."""
    if torch.cuda.is_available():  # then CUDA must work: open_graph refuses a silent fall-back to the CPU
        return ["cpu", "cuda"], []
    listed = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return ["cpu"], ["CUDA was not checked: there is no GPU here" + (", though onnxruntime has it" if listed else "")]


# ----------------------------------------------------------------------------------------------- command line


def export(path: Path, args: argparse.Namespace) -> Path:
    """Exports and verifies one checkpoint. Raises Problem, and leaves no graph of that name, if it differs."""
    checkpoint, network = models.load_checkpoint(path)
    source = args.data or checkpoint["data"]["source"]
    dataset = data.load(source, checkpoint["size"], args.cache, checkpoint["fit"], args.skip_bad)
    split = data.split(dataset, checkpoint["split"]["how"], checkpoint["split"]["seed"])
    if split.fingerprint != checkpoint["split"]["fingerprint"]:
        print(f"note: {source} is not the data {path} was trained on; its validation images serve all the same")
    expected = reference(network, checkpoint, dataset, split.validation)
    target = args.onnx / f"{checkpoint['name']}.onnx"
    checkpoint_hash = common.sha256_of_file(path)
    graph = to_graph(network, checkpoint, checkpoint_hash)
    names, unchecked = providers()
    with refused_on_failure(target), common.atomic_path(target) as temporary:
        temporary.write_bytes(graph.SerializeToString(deterministic=True))
        rows = check(temporary, expected, names)
    report = {
        "file": target.name,
        "sha256": common.sha256_of_file(target),
        "metadata": metadata(checkpoint, checkpoint_hash),
        "opset": OPSET,
        "data": dataset.name,
        "images": "validation",
        "checks": rows,
        "not_checked": unchecked,
        "versions": {
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "torch": str(torch.__version__),
        },
    }
    common.write_json(target.with_suffix(".json"), report)
    print("\n".join(unchecked))
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, opset {OPSET}"
          f"{', SYNTHETIC training data' if dataset.synthetic else ''}\n")  # fmt: skip
    return target


@contextlib.contextmanager
def refused_on_failure(target: Path):
    """A graph that failed leaves nothing under its name; an earlier one of that name is kept as .onnx.old."""
    try:
        yield
    except Problem:
        if target.exists():
            target.replace(target.with_suffix(".onnx.old"))
        raise


def check(path: Path, expected: Reference, names: list[str]) -> list[dict]:
    """onnx's checker, then `verify` on every provider; prints the table. Raises Problem when anything fails."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Problem(f"onnx.checker refuses the graph: {str(error).splitlines()[0]}") from error
    rows = [row for name in names for row in verify(path, expected, name)]
    headers = ["provider", "batch", "images", "max |logit diff.|", "relative", "tolerance", "max |prob. diff.|",
               "decisions flipped", "verdict"]  # fmt: skip
    print(tabulate(
        [[row["provider"], row["batch"], row["images"], f"{row['logit_difference']:.1e}", f"{row['relative']:.1e}",
          f"{row['tolerance']:.0e}", f"{row['probability_difference']:.1e}", len(row["flipped"]),
          "same" if row["passed"] else "DIFFERENT"] for row in rows],
        headers, disable_numparse=True, colalign=("left", *["right"] * 7, "left")))  # fmt: skip
    failed = [row for row in rows if not row["passed"]]
    if failed:
        files = f", decisions flipped on {', '.join(failed[0]['flipped'][:3])}" if failed[0]["flipped"] else ""
        raise Problem(
            f"the graph's answers differ from PyTorch's on {failed[0]['provider']}, batches of {failed[0]['batch']}: "
            f"relative difference of logits {failed[0]['relative']:.1e}, allowed {failed[0]['tolerance']:.0e}{files}"
        )
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="*", type=Path, help="such as runs/simple/model.pt")
    parser.add_argument("--all", action="store_true", help="every model.pt below --runs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--onnx", type=Path, default=Path("onnx"), metavar="DIR", help="default: onnx")
    data.add_arguments(parser)
    args = parser.parse_args(argv)
    if bool(args.checkpoints) == args.all:
        parser.error("name one or more checkpoints, or say --all")
    return args


def work(args: argparse.Namespace) -> int:
    paths = sorted(args.runs.glob("*/model.pt")) if args.all else args.checkpoints
    if not paths:
        raise Problem(f"no checkpoint {args.runs}/*/model.pt: python train.py makes one")
    failures = 0
    for path in paths:
        print(path)
        try:
            export(path, args)
        except Problem as problem:  # the others can still be exported; the exit code tells
            failures += 1
            print(f"error: {path}: {problem}", file=sys.stderr)
    if failures < len(paths):
        print("next: python evaluate.py --all")
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return common.run(lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
