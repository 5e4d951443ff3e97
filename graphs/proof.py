"""The proof that a graph gives PyTorch's answers.

reference(...)     what PyTorch says of the validation and test images, and of odd and unusual ones
prove(...)         a graph against that, on every execution provider there is; prints tables, raises Problem
"""

import contextlib
import dataclasses
import secrets
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

import data
from basics.problems import Problem
from basics.progress import Progress
from films import images
from graphs import anatomy, building, doubts, scoring, sessions, unusual
from graphs.doubts import Doubts
from metrics import measures
from training import inference, limits
from training.averaging import Averaged
from training.batches import Batches

BATCH = 64  # of the pass over all images
SMALL_BATCHES, SMALL_BATCH_IMAGES = (1, 2), 128  # small batches are slow
# The largest difference allowed, of probabilities, and of logits as a part of the largest |logit|.
# fp32: the order of summation gives about 1e-6 on a CPU, cuDNN's algorithms more; one layer that is 1 % off, over 1e-3.
# fp16: 11 bits of mantissa are 5e-4 of each value, and the layers' errors add up.
TOLERANCE = {("fp32", "cpu"): 1e-4, ("fp32", "cuda"): 1e-3, ("fp16", "cpu"): 5e-3, ("fp16", "cuda"): 5e-3}
RESIZED = 1  # grey level: Pillow rounds twice, after rows and after columns, and the graph once
HALF = 0.51  # grey levels that rounding once may change, and what the order of summation adds
# Of resized noise a pixel or two lie so near to half a level that PyTorch and onnxruntime round them to different ones:
# 1e-5 on the networks that we looked at.
ROUNDED = 1e-3
ROUNDING = 1e-6  # of a probability in float32: validation films lie on the cut-offs


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
    lots: tuple[unusual.Lot, ...] = ()
    seed: int = 0  # that these, and batches, were drawn by
    bases: tuple[str, ...] = ()  # hashes of the squares that they were made of
    largest: float = 0.0  # |logit| of other images that count too
    known: dict | None = None  # the limits; None of a graph without them, as are the others
    cuts: tuple[float, float] = (0.0, 1.0)
    doubts: Doubts | None = None
    odd_doubts: Doubts | None = None

    @property
    def probabilities(self) -> np.ndarray:
        # Not all are PyTorch's: a graph that is held against itself may answer nan, which `coherent` refuses.
        return measures.positive_probability(np.nan_to_num(self.logits), self.temperature)

    @property
    def decisions(self) -> np.ndarray:
        return measures.decide(self.probabilities, self.threshold)

    @property
    def scale(self) -> float:
        """The largest |logit|."""
        return float(max(self.largest, *(np.abs(some).max(initial=0.0) for some in (self.logits, self.odd_logits))))


def odd_images(size: int) -> dict[str, np.ndarray]:
    """(H, W) uint8: what no X-ray looks like, and what resizing must cope with; the same on every machine."""
    rng = np.random.default_rng(0)
    shapes = {"1 x 1": (1, 1), "31 x 997": (31, 997), "3000 x 2500": (3000, 2500), "noise": (size, size)}
    noise = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    return noise | {"black": np.zeros((size, size), np.uint8), "white": np.full((size, size), 255, np.uint8)}


def reference(
    network: torch.nn.Module, checkpoint: dict, dataset: data.Dataset, split: data.Split, seed: int | None = None,
    alpha: float = doubts.ALPHA,
) -> Reference:  # fmt: skip
    """Goes through Batches and metrics/measures.py, as evaluate.py does: not through the module that is exported.

    seed: of the unusual films and batches; None draws one that nobody can have known. alpha: see doubts.attached.
    """
    seed = secrets.randbits(unusual.SEED_BITS) if seed is None else seed
    every = np.concatenate([split.validation, split.test])
    size = checkpoint["size"]
    bases = split.validation[unusual.choose_bases(seed, len(split.validation))]
    lots = unusual.draw(seed, size, [dataset.images[i] for i in bases])
    lots += unusual.originals(dataset, unusual.choose_originals(seed, dataset, every))
    squares = [torch_squares(lot.films, size, checkpoint["fit"]) for lot in lots]
    odd = [torch_squares(image[None], size, checkpoint["fit"]) for image in odd_images(size).values()]
    parts = torch_parts(network, checkpoint, [np.concatenate(odd), *squares])
    logits, hidden = torch_answers(network, checkpoint, dataset.images[every])
    made = Reference(
        dataset.images[every],
        [dataset.files[i] for i in every],
        np.repeat(["validation", "test"], [len(split.validation), len(split.test)]),
        dataset.labels[every],
        logits,
        parts[0][0],
        size,
        checkpoint["fit"],
        checkpoint["temperature"],
        checkpoint["threshold"],
        tuple(dataclasses.replace(lot, logits=part) for lot, (part, _) in zip(lots, parts[1:], strict=True)),
        seed,
        tuple(unusual.pixel_hash(dataset.images[i]) for i in bases),
    )
    if "limits" not in checkpoint:
        return made
    known, promise = checkpoint["limits"], doubts.promised(checkpoint, alpha)
    found = [doubts.expected(known, some, of_them)
             for some, (_, of_them) in zip([np.concatenate(odd), *squares], parts, strict=True)]  # fmt: skip
    return dataclasses.replace(
        made,
        known=known,
        cuts=(promise["lowest_pneumonia"], promise["highest_normal"]),
        doubts=doubts.expected(known, made.images, hidden),
        odd_doubts=found[0],
        lots=tuple(dataclasses.replace(lot, doubts=one) for lot, one in zip(made.lots, found[1:], strict=True)),
    )


def torch_parts(network: torch.nn.Module, checkpoint: dict, squares: list[np.ndarray]) -> list:
    """torch_answers of several sets of squares, which go through together."""
    ends = np.cumsum([len(some) for some in squares])[:-1]
    found = torch_answers(network, checkpoint, np.concatenate(squares))
    return list(zip(*(np.split(values, ends) for values in found), strict=True))


def torch_answers(network: torch.nn.Module, checkpoint: dict, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) logits and (N, D) of the last hidden layer, that of an ensemble's first member."""
    cpu = torch.device("cpu")
    every, nothing = np.arange(len(squares)), np.zeros(len(squares), np.int64)
    batches = Batches(torch.from_numpy(squares), nothing, every, 32, cpu, tuple(checkpoint["normalisation"]))
    taking = limits.taking(network.members[0] if isinstance(network, Averaged) else network)
    with Progress(len(squares), "PyTorch's answers", leave=False, delay=2) as progress, taking as taken:
        logits = inference.network_logits(network, batches, moved=progress.update)
    return logits, torch.cat(taken).numpy().astype(np.float64)


def torch_squares(films: np.ndarray, size: int, fit: str) -> np.ndarray:
    """(N, S, S) uint8 of (N, H, W), rounded once as the graph does it; `squares_of` compares with Pillow's."""
    return building.resized(torch.from_numpy(np.array(films)), size, fit)[:, 0].numpy().astype(np.uint8)


def providers() -> tuple[list[str], list[str]]:
    """The providers to check on, and a sentence for each that could not be."""
    if torch.cuda.is_available():  # then CUDA must work: open_graph refuses a silent fall-back to the CPU
        return ["cpu", "cuda"], []
    listed = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return ["cpu"], ["CUDA was not checked: there is no GPU here" + (", though onnxruntime has it" if listed else "")]


# ---------------------------------------------------------------------------------------------- measuring


def prove(path: Path, expected: Reference, names: list[str], verbose: bool = False) -> dict[str, list[dict]]:
    """onnx's checker, then every check on every provider; prints the tables. Raises Problem when anything fails."""
    graph = building.examine(path)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Problem(f"onnx.checker refuses the graph: {str(error).splitlines()[0]}") from error
    precision = anatomy.check_precision(graph)
    found: dict[str, list[dict]] = {"checks": [], "scores": []}
    for name in names:
        for key, rows in measure(path, graph, expected, precision, name).items():
            found[key] += rows
    scoring.show(found, BATCH, verbose)
    scoring.judge(found, expected.seed)
    anatomy.check(graph)
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
        scores.append({"provider": provider, "images": side} | scoring.score(
            expected.labels[some], expected.logits[some], here, expected.temperature, expected.threshold, precision,
            others(here, expected, some),
        ))  # fmt: skip
    some = np.unique(np.linspace(0, len(every) - 1, min(SMALL_BATCH_IMAGES, len(every))).astype(int))
    for batch in SMALL_BATCHES:  # an int8 graph must agree with itself
        wanted = expected if tolerance else itself(expected, full)
        what = "some" if tolerance else f"some, against {BATCH}"
        limit = tolerance or TOLERANCE["fp32", provider]
        row(what, batch, answers(session, expected.images[some], batch, provider), wanted, some, limit)
    with inner(graph, provider) as inside:
        checks += measure_odd(session, inside, expected, tolerance, provider, bias)
        checks += measure_lots(session, inside, expected, tolerance, provider, bias)
    checks.append(measure_batches(session, expected, full, tolerance, provider, bias))
    return {"checks": checks, "scores": scores}


def answers(session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int, provider: str) -> dict:
    """All outputs for raw (N, H, W) pixels. Raises Problem where onnxruntime does."""
    try:
        return sessions.graph_outputs(session, pixels, batch, [output.name for output in session.get_outputs()])
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{provider}, batches of {batch}: {str(error).splitlines()[0]}") from error


def itself(expected: Reference, full: dict[str, np.ndarray]) -> Reference:
    """A graph's own answers, as those that it must give again."""
    own = doubts.of_graph(full, expected.doubts.unsure) if expected.doubts else None
    return dataclasses.replace(expected, logits=full["logits"], doubts=own)


def others(found: dict[str, np.ndarray], expected: Reference, some: np.ndarray) -> np.ndarray | None:
    """(n,) whether a film has other flags than PyTorch's, or other possible classes; None where there are none."""
    if expected.doubts is None or not set(doubts.OUTPUTS) <= set(found):
        return None
    flags = found["flags"] != expected.doubts.flags[some]
    return flags | doubts.other_classes(found, expected.probabilities[some], expected.cuts, ROUNDING)


def compare(
    found: dict[str, np.ndarray], expected: Reference, some: np.ndarray, tolerance: float | None, bias: float | None,
    shape: int = 0,
) -> dict:  # fmt: skip
    """Differences of a graph's answers from PyTorch's for `some` of the images, and whether they are allowed.

    A decision may differ only where PyTorch's probability is closer to the threshold than probabilities may differ at
    all. Whatever the tolerance (None: any), a graph's outputs must agree with each other. shape: flags of the films'
    height and width.
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
    unlike: dict[str, object] = {}
    if expected.doubts is not None:
        good &= set(doubts.OUTPUTS) <= set(found)
    if expected.doubts is not None and good:
        off, wrong = doubts.differing(found, expected.doubts[some], shape, tolerance or np.inf)
        wrong |= doubts.other_classes(found, probabilities, expected.cuts, tolerance or np.inf)
        good &= tolerance is None or not wrong.any()
        unlike = {"unfamiliar_max": float(off.max(initial=0.0) * doubts.DISTANCE)}
    return {
        "n": len(some),
        "probability_max": float(shift.max(initial=0.0)),
        "probability_mean": float(shift.mean()),
        "logit_max": float(distance),
        "logit_relative": float(distance / expected.scale),
        "tolerance": tolerance,
        "flipped": [expected.files[i] for i in some[flipped]],
        **unlike,
        "passed": bool(good),
    }


def coherent(found: dict[str, np.ndarray], expected: Reference, bias: float | None) -> bool:
    """Whether probability, decision, heat map and what is possible follow from the graph's own logits."""
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
    if set(doubts.OUTPUTS) & set(found):
        good &= doubts.coherent(found, expected.cuts)
    return bool(good)


def heatmap_bias(graph: onnx.ModelProto) -> float | None:
    facts = building.facts_of(graph)
    return float(building.fact(facts, "heatmap")["bias"]) if "heatmap" in facts else None


@contextlib.contextmanager
def inner(graph: onnx.ModelProto, provider: str) -> Generator[onnxruntime.InferenceSession]:
    """The part of the graph that resizes, which answers with its pixels."""
    nodes = anatomy.Anatomy(graph).before(building.PIXELS)
    if not nodes:
        raise Problem(f"the graph has no tensor {building.PIXELS}: export.py did not make it")
    part = onnx.ModelProto()
    part.CopyFrom(graph)
    del part.metadata_props[:]  # its SHA-256 would be wrong
    del part.graph.node[:], part.graph.output[:], part.graph.value_info[:], part.graph.initializer[:]
    used = {name for node in nodes for name in node.input}
    part.graph.node.extend(node for node in graph.graph.node if any(node is other for other in nodes))
    part.graph.initializer.extend(tensor for tensor in graph.graph.initializer if tensor.name in used)
    part.graph.output.append(onnx.helper.make_tensor_value_info(building.PIXELS, onnx.TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(part, Path(folder) / "resizing.onnx")
        yield sessions.open_graph(Path(folder) / "resizing.onnx", provider)


def squares_of(inside: onnxruntime.InferenceSession, films: np.ndarray, expected: Reference) -> tuple:
    """The graph's own pixels, (N, S, S), how far they are from images.decode's, and whether they are as PyTorch's.

    A pixel may be rounded otherwise only where it lies between two levels.
    """
    pixels = np.asarray(inside.run([building.PIXELS], {"image": np.ascontiguousarray(films)})[0])
    decoded = np.stack([images.decode(film, expected.size, expected.fit).pixels for film in films])
    if pixels.shape != (len(films), 1, *decoded.shape[1:]):
        raise Problem(f"the graph's resized pixels are {pixels.shape}, and {decoded.shape} with 1 channel are needed")
    levels = float(np.abs(pixels[:, 0] - decoded.astype(np.float32)).max())
    exact = building.interpolated(torch.from_numpy(np.array(films)), expected.size, expected.fit).numpy()
    return pixels[:, 0], levels, levels <= RESIZED and bool(np.abs(pixels - exact).max() <= HALF)


def measure_odd(
    session: onnxruntime.InferenceSession, inside: onnxruntime.InferenceSession, expected: Reference,
    tolerance: float | None, provider: str, bias: float | None,
) -> list[dict]:  # fmt: skip
    """Rows for odd sizes, black, white and noise: the answers, and the graph's own pixels beside images.decode's."""
    odd = odd_images(expected.size)
    wanted = dataclasses.replace(expected, logits=expected.odd_logits, files=list(odd), doubts=expected.odd_doubts)
    rows = []
    for i, (name, image) in enumerate(odd.items()):
        limit = tolerance if tolerance is None or image.shape == (expected.size,) * 2 else max(tolerance, ROUNDED)
        shape = limits.shape_flags(*image.shape, expected.size)
        row = compare(answers(session, image[None], 1, provider), wanted, np.array([i]), limit, bias, shape)
        _, levels, same = squares_of(inside, image[None], expected)
        row |= {"grey_levels": levels, "passed": row["passed"] and same}
        rows.append({"provider": provider, "images": name, "batch": 1} | row)
    return rows


def measure_lots(
    session: onnxruntime.InferenceSession, inside: onnxruntime.InferenceSession, expected: Reference,
    tolerance: float | None, provider: str, bias: float | None,
) -> list[dict]:  # fmt: skip
    """A row for each kind of unusual film, by two comparisons, in both of which nothing is rounded otherwise.

    The graph's answers to a lot with its own answers to the squares that it makes of it, BATCH at a time; and its
    answers to PyTorch's squares with PyTorch's own, where these are known, and int8 does not differ from them.
    """
    found = [answers(session, lot.films, len(lot.films), provider) for lot in expected.lots]
    own = [squares_of(inside, lot.films, expected) for lot in expected.lots]
    theirs = [torch_squares(lot.films, expected.size, expected.fit) for lot in expected.lots]
    to_own = many(session, [pixels.astype(np.uint8) for pixels, _, _ in own], provider)
    # Of nearly all, these are the same squares.
    to_theirs = [to_own[k] if np.array_equal(own[k][0], theirs[k]) else answers(session, theirs[k], BATCH, provider)
                 for k in range(len(theirs))]  # fmt: skip
    rows: dict[str, list[dict]] = {}
    for k, lot in enumerate(expected.lots):
        count, height, width = lot.films.shape
        about = {"batch": count, "example": f"{height} x {width}, {count} at once"}
        unsure = doubts.unsure_of(expected.known, own[k][0].astype(np.uint8)) if expected.known else None
        wanted = dataclasses.replace(
            expected, logits=to_own[k]["logits"], files=[about["example"]] * count, largest=expected.scale,
            doubts=None if unsure is None else doubts.of_graph(to_own[k], unsure),
        )  # fmt: skip
        shape = limits.shape_flags(height, width, expected.size)
        row = compare(found[k], wanted, np.arange(count), tolerance or TOLERANCE["fp32", provider], bias, shape)
        _, levels, same = own[k]
        row |= {"grey_levels": levels, "passed": row["passed"] and same, "against": "its own to their squares"} | about
        if lot.logits is not None:
            wanted = dataclasses.replace(wanted, logits=lot.logits, doubts=lot.doubts)
            limit = tolerance if lot.same_squares or not tolerance else max(tolerance, ROUNDED)
            row = together([compare(to_theirs[k], wanted, np.arange(count), limit, bias) | about, row | {"n": 0}])
        rows.setdefault(lot.kind + (", new" if lot.logits is None else ""), []).append(row | about)
    checks: list[dict] = [{"provider": provider, "images": kind} | together(some) for kind, some in rows.items()]
    bound = scoring.INT8["probability_max"]
    for check in checks:  # int8 may answer otherwise to such films, but not as if they were others
        if tolerance is None and check["passed"] and not check["probability_mean"] <= bound:
            check |= {"passed": False, "tolerance": bound, "example": f"by {check['probability_mean']:.2f} on average"}
    return checks


def many(session: onnxruntime.InferenceSession, squares: list[np.ndarray], provider: str) -> list[dict]:
    """All outputs for lots of squares, which go through together."""
    if not squares:
        return []
    found = answers(session, np.concatenate(squares), BATCH, provider)
    ends = np.cumsum([len(lot) for lot in squares])
    return [{name: values[end - len(lot) : end] for name, values in found.items()}
            for lot, end in zip(squares, ends, strict=True)]  # fmt: skip


def measure_batches(
    session: onnxruntime.InferenceSession, expected: Reference, full: dict, tolerance: float | None, provider: str,
    bias: float | None,
) -> dict:  # fmt: skip
    """One row for batches of many sizes: against PyTorch, or, of an int8 graph, against itself in batches of 64."""
    wanted = expected if tolerance else itself(expected, full)
    limit = tolerance or TOLERANCE["fp32", provider]
    rows = []
    for some in unusual.batches(expected.seed, len(expected.images)):
        found = answers(session, expected.images[some], len(some), provider)
        row = compare(found, wanted, some, limit, bias)
        rows.append(row | {"batch": len(some), "example": f"{len(some)} at once"})
    return {"provider": provider, "images": "some" if tolerance else f"some, against {BATCH}"} | together(rows)


def together(rows: list[dict]) -> dict:
    """One row of several: the largest differences, all flipped decisions, and the first one that failed."""
    sizes, counts = sorted({row["batch"] for row in rows}), [row["n"] for row in rows]
    failed = next((row for row in rows if not row["passed"]), {})
    worst = {}
    for key in ("probability_max", "logit_max", "logit_relative", "unfamiliar_max", "tolerance", "grey_levels"):
        values = [row[key] for row in rows if row.get(key) is not None]
        worst |= {key: max(values, key=lambda value: (np.isnan(value), value))} if values else {}
    if any(row["tolerance"] is None for row in rows):  # then the largest differences are those that may be any
        worst |= {"tolerance": None}
    return worst | {
        "batch": str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        "n": sum(counts),
        "probability_mean": float(sum(row["probability_mean"] * row["n"] for row in rows) / sum(counts)),
        "flipped": [name for row in rows for name in row["flipped"]],
        "example": failed.get("example", ""),
        "against": failed.get("against", "PyTorch's"),
        "passed": all(row["passed"] for row in rows),
    }
