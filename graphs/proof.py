"""The proof that a graph gives PyTorch's answers, and the certificate that lets anybody repeat it without PyTorch's.

reference(...)     what PyTorch says of the validation and test images, and of odd ones
prove(...)         a graph against that, on every execution provider there is; prints tables, raises Problem
certificate(...)   all of it as one dict;  remembered(...) makes a reference of it again
"""

import dataclasses
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from tabulate import tabulate

import data
from basics.problems import Problem
from films import images
from graphs import building, sessions
from metrics import measures
from training import inference
from training.batches import Batches

BATCH = 64  # of the pass over all images
SMALL_BATCHES, SMALL_BATCH_IMAGES = (1, 2), 128  # small batches are slow
# The largest difference allowed, of probabilities, and of logits as a part of the largest |logit|.
# fp32: the order of summation gives about 1e-6 on a CPU, cuDNN's algorithms more; one layer that is 1 % off, over 1e-3.
# fp16: 11 bits of mantissa are 5e-4 of each value, and the layers' errors add up.
TOLERANCE = {("fp32", "cpu"): 1e-4, ("fp32", "cuda"): 1e-3, ("fp16", "cpu"): 5e-3, ("fp16", "cuda"): 5e-3}
# int8 has 256 levels a value: single probabilities move, and what counts is what moves with them. On n images one
# decision is 1/n of accuracy; where that is more, one is allowed.
INT8_AUROC, INT8_ACCURACY = 0.002, 0.005
RESIZED = 1  # grey level: Pillow rounds twice, after rows and after columns, and the graph once
# Of resized noise a pixel or two lie so near to half a level that PyTorch and onnxruntime round them to different ones:
# 1e-5 on the networks that we looked at.
ROUNDED = 1e-3
MEASURES = ("auroc", "accuracy", "sensitivity", "specificity")


@dataclass(frozen=True)
class Reference:
    """What PyTorch says: the answers that a graph must give."""

    images: np.ndarray  # (N, S, S) uint8
    files: list[str]
    sides: np.ndarray  # (N,) of "validation" and "test"
    labels: np.ndarray  # (N,)
    logits: np.ndarray  # (N, 2) float32
    odd_logits: np.ndarray  # of odd_images(), float32
    size: int
    fit: str
    temperature: float
    threshold: float

    @property
    def probabilities(self) -> np.ndarray:
        return measures.positive_probability(self.logits, self.temperature)

    @property
    def decisions(self) -> np.ndarray:
        return measures.decide(self.probabilities, self.threshold)

    @property
    def scale(self) -> float:
        """The largest |logit|."""
        return float(max(np.abs(self.logits).max(initial=0.0), np.abs(self.odd_logits).max(initial=0.0)))


def odd_images(size: int) -> dict[str, np.ndarray]:
    """(H, W) uint8: what no X-ray looks like, and what resizing must cope with; the same on every machine."""
    rng = np.random.default_rng(0)
    shapes = {"1 x 1": (1, 1), "31 x 997": (31, 997), "3000 x 2500": (3000, 2500), "noise": (size, size)}
    noise = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    return noise | {"black": np.zeros((size, size), np.uint8), "white": np.full((size, size), 255, np.uint8)}


def reference(network: torch.nn.Module, checkpoint: dict, dataset: data.Dataset, split: data.Split) -> Reference:
    """Goes through Batches and metrics/measures.py, as evaluate.py does: not through the module that is exported."""
    every = np.concatenate([split.validation, split.test])
    size = checkpoint["size"]
    squares = [torch_resized(network, checkpoint, image) for image in odd_images(size).values()]
    return Reference(
        dataset.images[every],
        [dataset.files[i] for i in every],
        np.repeat(["validation", "test"], [len(split.validation), len(split.test)]),
        dataset.labels[every],
        torch_logits(network, checkpoint, dataset.images[every]),
        torch_logits(network, checkpoint, np.stack(squares)),
        size,
        checkpoint["fit"],
        checkpoint["temperature"],
        checkpoint["threshold"],
    )


def torch_logits(network: torch.nn.Module, checkpoint: dict, squares: np.ndarray) -> np.ndarray:
    cpu = torch.device("cpu")
    every, nothing = np.arange(len(squares)), np.zeros(len(squares), np.int64)
    batches = Batches(torch.from_numpy(squares), nothing, every, 32, cpu, tuple(checkpoint["normalisation"]))
    return inference.network_logits(network, batches)


def torch_resized(network: torch.nn.Module, checkpoint: dict, image: np.ndarray) -> np.ndarray:
    """(S, S) uint8, rounded once as the graph does it; `prove` compares the graph's own pixels with images.decode."""
    resized = building.Deployed(network, checkpoint).resize(torch.from_numpy(image)[None])
    return resized[0, 0].numpy().astype(np.uint8)


def providers() -> tuple[list[str], list[str]]:
    """The providers to check on, and a sentence for each that could not be."""
    if torch.cuda.is_available():  # then CUDA must work: open_graph refuses a silent fall-back to the CPU
        return ["cpu", "cuda"], []
    listed = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return ["cpu"], ["CUDA was not checked: there is no GPU here" + (", though onnxruntime has it" if listed else "")]


# ---------------------------------------------------------------------------------------------- measuring


def prove(path: Path, expected: Reference, names: list[str]) -> dict[str, list[dict]]:
    """onnx's checker, then every check on every provider; prints the tables. Raises Problem when anything fails."""
    try:
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError) as error:
        raise Problem(f"onnx.checker refuses the graph: {str(error).splitlines()[0]}") from error
    facts = building.facts_of(graph)
    precision = building.fact(facts, "precision")["name"] if "precision" in facts else "fp32"
    found: dict[str, list[dict]] = {"checks": [], "scores": []}
    for name in names:
        for key, rows in measure(path, graph, expected, precision, name).items():
            found[key] += rows
    show(found)
    judge(found)
    return found


def measure(path: Path, graph: onnx.ModelProto, expected: Reference, precision: str, provider: str) -> dict:
    """All checks of a graph on one provider, as rows. Raises Problem when it does not load or run there."""
    session = sessions.open_graph(path, provider)
    tolerance = TOLERANCE.get((precision, provider))
    bias = heatmap_bias(graph)
    every = np.arange(len(expected.images))
    full = answers(session, expected.images, BATCH, provider)
    checks, scores = [], []

    def row(images: str, batch: int, found: dict, wanted: Reference, some: np.ndarray, limit: float | None) -> None:
        checks.append({"provider": provider, "images": images, "batch": batch}
                      | compare(found, wanted, some, limit, bias))  # fmt: skip

    for side in dict.fromkeys(expected.sides):
        some = every[expected.sides == side]
        here = {name: values[some] for name, values in full.items()}
        row(side, BATCH, here, expected, some, tolerance)
        scores.append({"provider": provider, "images": side} | score(here, expected, some, precision))
    some = np.unique(np.linspace(0, len(every) - 1, min(SMALL_BATCH_IMAGES, len(every))).astype(int))
    for batch in SMALL_BATCHES:  # an int8 graph must agree with itself
        wanted = expected if tolerance else dataclasses.replace(expected, logits=full["logits"])
        what = "some" if tolerance else f"some, against {BATCH}"
        limit = tolerance or TOLERANCE["fp32", provider]
        row(what, batch, answers(session, expected.images[some], batch, provider), wanted, some, limit)
    checks += measure_odd(session, graph, expected, tolerance, provider, bias)
    return {"checks": checks, "scores": scores}


def answers(session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int, provider: str) -> dict:
    """All outputs for raw (N, H, W) pixels. Raises Problem where onnxruntime does."""
    try:
        return sessions.graph_outputs(session, pixels, batch, [output.name for output in session.get_outputs()])
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{provider}, batches of {batch}: {str(error).splitlines()[0]}") from error


def compare(
    found: dict[str, np.ndarray], expected: Reference, some: np.ndarray, tolerance: float | None, bias: float | None
) -> dict:
    """Differences of a graph's answers from PyTorch's for `some` of the images, and whether they are allowed.

    A decision may differ only where PyTorch's probability is closer to the threshold than probabilities may differ at
    all. Whatever the tolerance (None: any), a graph's outputs must agree with each other.
    """
    logits, probabilities = expected.logits[some], expected.probabilities[some]
    distance = np.abs(found["logits"] - logits).max(initial=0.0)
    shift = np.abs(found["probability"] - probabilities)
    flipped = found["decision"] != expected.decisions[some]
    good = coherent(found, expected, bias)
    if tolerance is not None:
        excused = np.abs(probabilities - expected.threshold) <= tolerance
        # `<=` is False for nan, which onnxruntime returns without an error
        good &= bool(distance <= tolerance * expected.scale and shift.max(initial=0.0) <= tolerance)
        good &= not (flipped & ~excused).any()
    return {
        "n": len(some),
        "probability_max": float(shift.max(initial=0.0)),
        "probability_mean": float(shift.mean()),
        "logit_max": float(distance),
        "logit_relative": float(distance / expected.scale),
        "tolerance": tolerance,
        "flipped": [expected.files[i] for i in some[flipped]],
        "passed": bool(good),
    }


def coherent(found: dict[str, np.ndarray], expected: Reference, bias: float | None) -> bool:
    """Whether probability, decision and heat map follow from the graph's own logits."""
    logits = found["logits"].astype(np.float64)
    if not np.isfinite(logits).all() or not np.isfinite(found["probability"]).all():
        return False
    odds = (logits[:, 1] - logits[:, 0]) / expected.temperature
    good = np.abs(found["probability"] - measures.positive_probability(logits, expected.temperature)).max() <= 1e-5
    good &= np.array_equal(found["decision"], found["probability"] >= np.float32(expected.threshold))
    if "heatmap" in found:
        heat = found["heatmap"].astype(np.float64)
        shares = heat.mean((1, 2)) + (np.nan if bias is None else bias)
        good &= np.abs(shares - odds).max() <= 1e-5 * max(1.0, np.abs(heat).max())
    return bool(good)


def heatmap_bias(graph: onnx.ModelProto) -> float | None:
    facts = building.facts_of(graph)
    return float(building.fact(facts, "heatmap")["bias"]) if "heatmap" in facts else None


def score(found: dict[str, np.ndarray], expected: Reference, some: np.ndarray, precision: str) -> dict:
    """AUROC, accuracy, sensitivity and specificity of PyTorch's answers and of the graph's; judged for int8 only."""
    labels = expected.labels[some]
    graph_side = found["probability"].astype(np.float64)
    if not np.isfinite(graph_side).all():
        return {"n": len(some), "passed": False}
    torch_side = expected.probabilities[some]
    pairs = {}
    for side, probabilities in (("torch", torch_side), ("graph", graph_side)):
        values = measures.classification(labels, probabilities, expected.threshold)
        pairs[side] = {name: values[name] for name in MEASURES}
    change = {name: abs(pairs["graph"][name] - pairs["torch"][name]) for name in MEASURES}
    allowed = max(INT8_ACCURACY, 1 / len(some)) + 1e-9
    # AUROC is nan where a side holds one class only: then accuracy decides
    bad = change["auroc"] > INT8_AUROC or not change["accuracy"] <= allowed
    return {"n": len(some), **pairs, "passed": precision != "int8" or not bad}


def measure_odd(
    session: onnxruntime.InferenceSession, graph: onnx.ModelProto, expected: Reference, tolerance: float | None,
    provider: str, bias: float | None,
) -> list[dict]:  # fmt: skip
    """Rows for odd sizes, black, white and noise: the answers, and the graph's own pixels beside images.decode's."""
    odd = odd_images(expected.size)
    names = list(odd)
    wanted = dataclasses.replace(expected, logits=expected.odd_logits, files=names)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        opened = onnx.ModelProto()
        opened.CopyFrom(graph)
        del opened.metadata_props[:]  # its SHA-256 would be wrong
        if not any(building.PIXELS in node.output for node in graph.graph.node):
            raise Problem(f"the graph has no tensor {building.PIXELS}: export.py did not make it")
        pixels = onnx.helper.make_tensor_value_info(building.PIXELS, onnx.TensorProto.FLOAT, None)
        opened.graph.output.append(pixels)
        onnx.save(opened, Path(folder) / "opened.onnx")
        inside = sessions.open_graph(Path(folder) / "opened.onnx", provider)
        for i, (name, image) in enumerate(odd.items()):
            limit = tolerance if tolerance is None or image.shape == (expected.size,) * 2 else max(tolerance, ROUNDED)
            row = compare(answers(session, image[None], 1, provider), wanted, np.array([i]), limit, bias)
            resized = np.asarray(inside.run([building.PIXELS], {"image": image[None]})[0])[0, 0]
            decoded = images.decode(image, expected.size, expected.fit).pixels
            levels = float(np.abs(resized - decoded.astype(np.float32)).max())
            row |= {"grey_levels": levels, "passed": row["passed"] and levels <= RESIZED}
            rows.append({"provider": provider, "images": name, "batch": 1} | row)
    return rows


# ------------------------------------------------------------------------------------------------ reporting


def show(found: dict[str, list[dict]]) -> None:
    """The tables of differences and of scores, PyTorch -> graph, and the files whose decision flipped."""
    headers = ["provider", "images", "n", "batch", "max |prob. diff.|", "mean", "max |logit diff.|, relative",
               "tolerance", "flipped", "verdict"]  # fmt: skip
    cells = [
        [row["provider"], row["images"], f"{row['n']:,}", row["batch"], f"{row['probability_max']:.1e}",
         f"{row['probability_mean']:.1e}", f"{row['logit_relative']:.1e}",
         "-" if row["tolerance"] is None else f"{row['tolerance']:.0e}", len(row["flipped"]),
         "same" if row["passed"] else "DIFFERENT"]
        for row in found["checks"]
    ]  # fmt: skip
    print(tabulate(cells, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 7, "left")))
    cells = [
        [row["provider"], row["images"], f"{row['n']:,}",
         *(f"{row['torch'][name]:.4f} -> {row['graph'][name]:.4f}" for name in MEASURES),
         "same" if row["passed"] else "DIFFERENT"]
        for row in found["scores"] if "torch" in row
    ]  # fmt: skip
    headers = ["provider", "images", "n", *("AUROC" if name == "auroc" else name for name in MEASURES), "verdict"]
    print()
    print(tabulate(cells, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 5, "left")))
    for row in found["checks"]:
        if row["flipped"] and row["batch"] == BATCH:
            print(f"flipped, {row['provider']}, {row['images']}: {', '.join(row['flipped'])}")


def judge(found: dict[str, list[dict]]) -> None:
    """Raises Problem that names the first check that failed."""
    for row in found["checks"]:
        if not row["passed"]:
            files = f", decisions flipped on {', '.join(row['flipped'][:3])}" if row["flipped"] else ""
            levels = f", pixels off by {row['grey_levels']:.0f} grey levels" if row.get("grey_levels", 0) > 1 else ""
            allowed = "" if row["tolerance"] is None else f", allowed {row['tolerance']:.0e}"
            raise Problem(
                f"the graph's answers differ from PyTorch's on {row['provider']}, {row['images']}, batches of "
                f"{row['batch']}: probability by {row['probability_max']:.1e}, logits by {row['logit_relative']:.1e} "
                f"of the largest{allowed}{files}{levels}"
            )
    for row in found["scores"]:
        if not row["passed"]:
            raise Problem(
                f"the graph scores differently from PyTorch on {row['provider']}, {row['images']}: AUROC may move by "
                f"{INT8_AUROC}, accuracy by {INT8_ACCURACY} or one image"
            )


# ---------------------------------------------------------------------------------------------- certificate


def pixel_hash(image: np.ndarray) -> str:
    """Of an (S, S) square: names an image by what the network sees, not by its file."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:16]


def certificate(expected: Reference, found: dict[str, list[dict]]) -> dict:
    """What was measured, and PyTorch's logits by image hash: enough to measure again without the checkpoint."""

    def text(logits: np.ndarray) -> str:
        return " ".join(str(value) for value in logits.astype(np.float32))  # the shortest that is this float32

    sides: dict[str, dict[str, str]] = {side: {} for side in dict.fromkeys(expected.sides.tolist())}
    for side, image, logits in zip(expected.sides.tolist(), expected.images, expected.logits, strict=True):
        sides[side][pixel_hash(image)] = text(logits)
    odd = zip(odd_images(expected.size), expected.odd_logits, strict=True)
    return {
        **found,
        "tolerances": {
            "fp32 and fp16": {f"{precision} on {provider}": value for (precision, provider), value in TOLERANCE.items()}
            | {"of": "|difference| of probability, and of logits as a part of the largest |logit|; a decision may "
               "differ only where PyTorch's probability is that close to the threshold"},
            "int8": {"auroc": INT8_AUROC, "accuracy": INT8_ACCURACY, "or": "one image, where that is more"},
            "resizing": {"grey levels beside Pillow": RESIZED, "probability and logits of resized noise": ROUNDED},
        },
        "reference": {
            "is": "PyTorch's logits of normal and pneumonia, in float32 on the CPU, by the first 16 hex digits of the "
            "SHA-256 of the image's pixels as the network sees them",
            **sides,
            "odd": {name: text(logits) for name, logits in odd},
        },
    }  # fmt: skip


def remembered(kept: dict, facts: dict, dataset: data.Dataset) -> tuple[Reference, int]:
    """The reference of a certificate for those of its images that are in a dataset, and how many it has in all.

    Raises Problem when none of them is, or when the certificate is damaged.
    """
    try:
        stored = {side: dict(kept["reference"][side]) for side in ("validation", "test") if side in kept["reference"]}
        odd = np.array([kept["reference"]["odd"][name].split() for name in odd_images(dataset.images.shape[1])])
        known = {name: (side, logits) for side, table in stored.items() for name, logits in table.items()}
        found = [(i, *known[name]) for i, name in enumerate(map(pixel_hash, dataset.images)) if name in known]
        logits = np.array([text.split() for _, _, text in found], np.float32).reshape(-1, 2)
        odd = odd.astype(np.float32)
        if odd.shape[1:] != (2,) or not (np.isfinite(odd).all() and np.isfinite(logits).all()):
            raise ValueError("its logits are not two finite numbers an image")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Problem(f"the certificate is damaged ({type(error).__name__}: {error})") from error
    if not found:
        raise Problem(f"{dataset.source}: none of the {len(known):,} images of the certificate is there; "
                      "--data names the folder that has them")  # fmt: skip
    places = np.array([i for i, _, _ in found])
    here = Reference(
        dataset.images[places],
        [dataset.files[i] for i in places],
        np.array([side for _, side, _ in found]),
        dataset.labels[places],
        logits,
        odd,
        dataset.images.shape[1],
        dataset.fit,
        float(facts["temperature"]),
        float(facts["threshold"]),
    )
    order = np.argsort(here.sides != "validation", kind="stable")
    return dataclasses.replace(
        here,
        images=here.images[order],
        files=[here.files[i] for i in order],
        sides=here.sides[order],
        labels=here.labels[order],
        logits=here.logits[order],
    ), len(known)
