"""Probabilities for X-rays from an exported graph, without PyTorch: `python predict.py onnx/simple.onnx films/`.

This file needs no other file of the project: copied beside an .onnx file it runs with onnxruntime, numpy, pillow and
tqdm (and pydicom for DICOM). However many films there are, only a few batches of them are in memory. Standard output
carries the rows, standard error everything else. Exit codes: 1 some files or the graph could not be used, 2 wrong call.
"""

import argparse
import collections
import contextlib
import csv
import functools
import hashlib
import io
import itertools
import json
import os
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

COLUMNS = ("file", "probability", "decision", "threshold", "refer", "width", "height", "warning", "error", "heatmap",
           "model")  # fmt: skip
HEADER = ",".join(COLUMNS).encode() + b"\n"  # of the CSV
OUTPUTS = {"probability", "decision", "logits"}
FACTS = ("classes", "data", "threshold", "temperature", "size")  # of the graph's metadata
PROVIDERS = {name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_all_providers()}
PROVIDERS["directml"] = "DmlExecutionProvider"
SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")
MAX_PIXELS = 80_000_000  # above this it is a mistake or an attack
MAX_SIDE = 10_000  # a graph that pads makes a square of the longer side
MAX_SCANS = 100  # of a progressive JPEG, which has about 10; each is a pass over the whole picture
MAX_BYTES = 500_000_000  # of one file
SEAL = b"\n\x06sha256\x12@"  # protobuf's mark of the last entry of a graph's metadata
HELD_BYTES = 256 << 20  # of decoded films that wait for others of their size, in all threads together
BATCH_PIXELS = 16 << 20  # of one batch: the graph's resizing takes some 12 bytes for each
# Matplotlib's viridis at 0, 1/16, ... 1, by van der Walt and Smith (CC0): even steps, also to the colour-blind.
VIRIDIS = np.frombuffer(bytes.fromhex(
    "44015448186a472d7b4240863b528b33638d2c728e26828e21918c1fa08828ae803fbc735ec96284d44baddc30d8e219fde725"
), np.uint8).reshape(-1, 3)  # fmt: skip
PANEL = 448  # pixels of the longer side of a film in an overlay
CELLS = 10  # to a side of the film; the grey patch of the occlusion covers 2 x 2 of them


class Problem(Exception):
    """Something the person at the keyboard can mend: what, and the exit code (1 if there is none)."""


def printable(text: str) -> str:
    """The text on one line: control characters and bytes that are no text are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def say(text: str) -> None:
    # Above the progress bar where there is one; in one piece, so that Ctrl-C leaves no line without an end.
    tqdm.write(printable(text) + "\n", file=sys.stderr, end="")


@contextlib.contextmanager
def naming(path: Path | None) -> Generator[None]:
    """What the system cannot write is said with the file's name, which it leaves out where the disk is full."""
    try:
        yield
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror or error}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Model:
    """An opened graph and what it says of itself; `label` is its name and the start of the file's SHA-256."""

    session: onnxruntime.InferenceSession
    label: str
    classes: list[str]  # the decision 1 is classes[1]
    threshold: float
    temperature: float
    size: float  # pixels of the square that the network sees
    heatmap: bool  # whether the graph has that output
    fit: str  # how the film becomes the square that such a heat map covers: "stretch", "pad" or "crop"
    use: str  # what it may be used for, and whether its training data were drawings
    turn: contextlib.AbstractContextManager  # held while it runs: a GPU takes one batch at a time, a CPU several

    def run(self, pixels: np.ndarray, *outputs: str) -> list[np.ndarray]:
        """The named outputs of raw (N, H, W) uint8 grey levels."""
        with self.turn:
            return [
                np.asarray(found) for found in self.session.run(list(outputs), {"image": np.ascontiguousarray(pixels)})
            ]


def open_model(path: Path, provider: str = "auto", threads: int = 0) -> Model:
    """The graph on the provider asked for; "auto" is CUDA where it works, else the CPU, and that is said.

    threads: of one batch on the CPU, the caller's among them; 0 is one for each core.
    Raises Problem when export.py did not make the graph, or when the provider cannot run it.
    """
    if provider != "auto":
        return load(path, PROVIDERS[provider], threads)
    if PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        try:
            return load(path, PROVIDERS["cuda"], threads)
        except Problem:
            say("note: CUDA does not work here; the CPU is used")
    return load(path, PROVIDERS["cpu"], threads)


def load(path: Path, wanted: str, threads: int) -> Model:
    """Opens a graph on exactly that provider, reads what it says of itself, and runs it once."""
    options = onnxruntime.SessionOptions()
    onnxruntime.set_default_logger_severity(4)
    options.log_severity_level = 4  # what goes wrong is raised, with the reason; the log would say it twice
    options.enable_mem_pattern = False  # a pattern is kept for every size of film: a leak where all sizes differ
    options.intra_op_num_threads = threads
    # Threads of the network that wait would take the processor from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # TF32 costs 3 digits; HEURISTIC does not search again for each new batch size.
    settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"} if wanted == PROVIDERS["cuda"] else {}
    try:
        if settings and hasattr(onnxruntime, "preload_dlls"):
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses
                onnxruntime.preload_dlls()
        content = path.read_bytes()
        body, mark, digest = content.rpartition(SEAL)
        if mark and hashlib.sha256(body[:-2]).hexdigest().encode() != digest:  # 2: the length of the entry
            raise Problem(f"{path}: it does not match the SHA-256 at its end: it was damaged or changed")
        # From its content, not by its name: then it may not read other files.
        # Without onnxruntime's fallback, which goes over to the CPU in the middle of a folder, with a banner on stdout.
        session = onnxruntime.InferenceSession(content, options, providers=[(wanted, settings)], enable_fallback=0)
        if session.get_providers()[0] != wanted:  # onnxruntime falls back without an error
            there = ", ".join(onnxruntime.get_available_providers())
            raise Problem(f"{wanted} does not work; this onnxruntime has only {there}")
        facts = session.get_modelmeta().custom_metadata_map
        outputs = {output.name for output in session.get_outputs()}
        if missing := sorted(OUTPUTS - outputs) + sorted({"name", *FACTS} - set(facts)):
            raise Problem(f"{path}: not a graph that export.py made: it has no {', no '.join(missing)}")
        classes, data, *numbers = (json.loads(facts[key]) for key in FACTS)
        drawn = "SYNTHETIC " if data["synthetic"] else ""
        label = f"{facts['name']} {drawn}{hashlib.sha256(content).hexdigest()[:16]}"
        use = (f"{drawn}training data; " if drawn else "") + facts.get("intended_use", "not for clinical use")
        model = Model(session, label, [classes[0], classes[1]], *map(float, numbers), "heatmap" in outputs,
                      facts.get("fit", "stretch"), use,
                      contextlib.nullcontext() if wanted == PROVIDERS["cpu"] else threading.Lock())  # fmt: skip
        check_answers(model, dict(zip(outputs, model.run(np.zeros((2, 8, 8), np.uint8), *outputs), strict=True)))
        return model
    except Problem:
        raise
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{path}: cannot be used on {wanted}: {first_line(error)}") from error


def check_answers(model: Model, found: dict[str, np.ndarray]) -> None:
    """Raises ValueError when a graph's answers for two films are not what it says of itself."""
    if model.classes != ["NORMAL", "PNEUMONIA"]:
        raise ValueError("its classes are not NORMAL and PNEUMONIA, in this order")
    if not (0 <= model.threshold <= 1 and 0 < model.temperature < 1e6 and 1 <= model.size <= 1e4):
        raise ValueError("its threshold, temperature or size is impossible")
    probability, decision, logits = found["probability"], found["decision"], found["logits"].astype(float)
    if (probability.shape, decision.shape, logits.shape) != ((2,), (2,), (2, 2)) or not np.isfinite(logits).all():
        raise ValueError("it does not give finite answers, one for each film")
    odds = np.clip((logits[:, 1] - logits[:, 0]) / model.temperature, -500, 500)
    if np.abs(probability - 1 / (1 + np.exp(-odds))).max() > 1e-5:  # both are float32 in every precision
        raise ValueError("its probability does not follow from its logits and its temperature")
    if not np.array_equal(decision, probability >= np.float32(model.threshold)):
        raise ValueError("it does not decide by its threshold")


def walk(path: str) -> Iterator[str]:
    """The images by their names below a folder, sorted. A file, or a folder that cannot be read, is itself."""
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        yield path
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_dir(follow_symlinks=False):  # a link to a folder may lead round in a circle
            yield from walk(entry.path)
        elif entry.name.lower().endswith(SUFFIXES) and not entry.is_dir():
            yield entry.path


@dataclass
class Film:
    """A file on its way through: its row, as far as it is known, and its pixels until they have been used."""

    file: str
    row: dict  # of COLUMNS; None where there is nothing
    grey: np.ndarray | None = None  # (H, W) uint8
    saturation: float = 0.0  # mean, 0 to 255


def read_film(file: str) -> Film:
    """Reads and decodes one file; what goes wrong becomes the row's `error`."""
    film = Film(file, dict.fromkeys(COLUMNS) | {"file": printable(file)})
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # reading a pipe could hang
            raise ValueError(f"neither a readable folder nor a regular file of at most {MAX_BYTES:,} bytes")
        with open(file, "rb") as stream:
            film.grey, film.saturation, film.row["warning"] = decode(stream.read())
        film.row["height"], film.row["width"] = film.grey.shape
    except Exception as error:  # decoders raise everything there is on broken files, and the other files must go on
        film.row["error"] = printable(getattr(error, "strerror", None) or first_line(error))
    return film


def decode(content: bytes) -> tuple[np.ndarray, float, str | None]:
    """(H, W) uint8 grey levels of a JPEG, PNG or DICOM file, its mean saturation (0 to 255), and a warning.

    The same pixels as films/images.py decodes before it resizes. Raises ValueError, or what a decoder raises.
    """
    if content[128:132] == b"DICM":
        return decode_dicom(content)
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            check_size(*image.size)
            if image.mode.startswith("I"):  # 16 bits: convert("L") would clip at 255 instead of scaling
                return (np.asarray(image, np.float32) / 257).round().astype(np.uint8), 0.0, None
            coloured = image.mode not in ("1", "L", "LA")
            if image.mode == "RGB":
                image.draft("L", None)  # a colour JPEG holds its grey channel apart: the colours need no decoding
            image.load()
            grey = np.asarray(image if image.mode == "L" else image.convert("L"))
            if not coloured:
                return grey, 0.0, None
            if image.mode == "L":
                return grey, saturation_of_jpeg(content), None
            small = image.resize((32, 32), reducing_gap=1.0)
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a JPEG, PNG or DICOM file" if content else "the file is empty") from error
    return grey, mean_saturation(small), None


def mean_saturation(image: Image.Image) -> float:
    rgb = np.asarray(image.convert("RGB"), np.int16)
    return float((rgb.max(2) - rgb.min(2)).mean())


def saturation_of_jpeg(content: bytes) -> float:
    """Of the first rows of a JPEG: decoding all colours would double the cost of a film."""
    start = content.find(b"\xff\xda")  # where the pixels start; an end marker after a quarter of them ends the picture
    head = content[: start + (len(content) - start) // 4] + b"\xff\xd9"
    with contextlib.suppress(Exception), Image.open(io.BytesIO(head), formats=("JPEG",)) as image:
        image.draft("YCbCr", (32, 32))
        image.load()
        if any(abs(level - 128) > 3 for level in np.ravel(image.getextrema()[1:])):  # 128 is no colour
            return mean_saturation(image.crop((0, 0, image.width, image.height // 4 + 1)))  # one colour fills the rest
    return 0.0


def check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS or not 0 < max(width, height) <= MAX_SIDE:
        raise ValueError(f"{width:,} x {height:,} pixels is {'more than the limit' if width * height else 'none'}")


def decode_dicom(content: bytes) -> tuple[np.ndarray, float, str | None]:
    """`decode` for DICOM. Nothing of the header but what the pixels mean is used."""
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise ValueError("a DICOM file: pip install pydicom reads them") from error
    header = pydicom.dcmread(io.BytesIO(content))
    check_size(int(header.Columns), int(header.Rows))
    pixels = header.pixel_array
    frames = int(header.get("NumberOfFrames", 1) or 1)
    pixels = pixels[0] if frames > 1 else pixels
    if header.get("SamplesPerPixel", 1) == 3:
        pixels = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow converts
    if pixels.ndim != 2:
        raise ValueError(f"a DICOM file with pixels of shape {pixels.shape}: no picture")
    # Rescaled, then the first window (DICOM PS3.3, C.11.1 and C.11.2), else all values.
    values = np.asarray(apply_modality_lut(pixels, header), np.float64)
    if "VOILUTSequence" in header:
        values = np.asarray(apply_voi_lut(values.astype(pixels.dtype), header, prefer_lut=True), np.float64)
    low, high = values.min(), values.max()
    if "VOILUTSequence" not in header and header.get("WindowWidth") and header.get("WindowCenter") is not None:
        width, centre = (float(np.atleast_1d(header.get(name))[0]) for name in ("WindowWidth", "WindowCenter"))
        shift = 0.5 if header.get("VOILUTFunction", "LINEAR") == "LINEAR" else 0.0
        low, high = centre - shift - (width / 2 - shift), centre - shift + (width / 2 - shift)
    grey = (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).round().astype(np.uint8)
    if str(header.get("PhotometricInterpretation", "MONOCHROME2")) == "MONOCHROME1":  # low values are meant as bright
        grey = 255 - grey
    return grey, 0.0, f"the first of {frames} frames is used" if frames > 1 else None


def examined(films: list[Film], size: float) -> np.ndarray:
    """Takes (N, H, W) pixels out of films of one size; what is unlike a frontal chest film is added to their warnings.

    Films are bright in the middle and dark at the sides. `contrast`, in standard deviations, was above 0.3 on 99.9 % of
    5,232 films; inverted, 98.3 % of them were below -1.3, and turned by 90 degrees 94 % were between these.
    """
    pixels = np.stack([film.grey for film in films if film.grey is not None])
    _, height, width = pixels.shape
    small = pixels[:, :: max(1, height // 32), :: max(1, width // 32)].astype(np.float32)
    spread = small.std((1, 2))
    columns = small.mean(1)  # (N, W')
    edge, start = max(1, columns.shape[1] // 16), columns.shape[1] * 3 // 8
    sides = (columns[:, :edge].mean(1) + columns[:, -edge:].mean(1)) / 2
    contrast = (columns[:, start : columns.shape[1] - start].mean(1) - sides) / np.maximum(spread, 1e-9)
    tests = {
        "coloured: a photograph?": np.array([film.saturation for film in films]) > 15,
        f"only {width} x {height} pixels, where the network sees {size:.0f}": min(height, width) < size / 2,
        f"width / height is {width / height:.2f}: part of a film?": not 0.5 <= width / height <= 3.5,
        "nearly constant: no picture?": spread < 8,
        "bright sides and dark middle: inverted?": (spread >= 8) & (contrast < -1.3),
        "no bright middle between dark sides: turned, or no chest film?":
            (spread >= 8) & (contrast >= -1.3) & (contrast < 0.3),
    }  # fmt: skip
    for i, film in enumerate(films):
        texts = [text for text, so in tests.items() if np.broadcast_to(so, len(films))[i]]
        film.grey, film.row["warning"] = None, "; ".join(filter(None, [film.row["warning"], *texts])) or None
    return pixels


def in_chunks(files: Iterable[str], batch_size: int, workers: int,
              work: Callable[[list[str], threading.Event], list[Film]]) -> Generator[list[Film]]:  # fmt: skip
    """Yields the films of `files` in their order, a batch of them at a time, four where sizes differ.

    Each thread takes a chunk of files through all of `work`, decoding and network. Beside one network on all cores,
    threads that only decode would make its threads wait for each other.
    """
    files, waiting, count = iter(files), collections.deque(), batch_size
    pool, stopped = ThreadPoolExecutor(workers), threading.Event()
    try:
        while True:
            while len(waiting) < 2 * workers and (chunk := list(itertools.islice(files, count))):
                waiting.append(pool.submit(work, chunk, stopped))
            if not waiting:
                return
            done = waiting.popleft().result()
            sizes = {(film.row["height"], film.row["width"]) for film in done if film.row["width"]}
            count = batch_size * (4 if len(sizes) > 1 else 1)
            yield done
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def read_and_answer(model: Model, args: argparse.Namespace, files: list[str], stopped: threading.Event) -> list[Film]:
    """Films of one size share a batch; before all threads together hold more than HELD_BYTES, what is there runs."""
    done, groups, held = [], collections.defaultdict(list), 0
    for i, file in enumerate(files, 1):
        film = read_film(file)
        film.row |= {"threshold": args.threshold, "model": model.label}
        done.append(film)
        if film.grey is not None:
            groups[film.grey.shape].append(film)
            held += film.grey.nbytes
        if held <= HELD_BYTES // args.workers and i < len(files):
            continue
        for (height, width), group in groups.items():
            count = max(1, min(args.batch_size, BATCH_PIXELS // (height * width)))
            for start in range(0, len(group), count):
                if stopped.is_set():  # nobody waits for the films any more
                    return done
                batch = group[start : start + count]
                answer(model, args, batch, examined(batch, model.size))
        groups, held = collections.defaultdict(list), 0
    return done


def answer(model: Model, args: argparse.Namespace, films: list[Film], pixels: np.ndarray) -> None:
    """Runs films of one size through the graph, one by one where it fails for all, and writes their overlays."""
    outputs = ["probability", "decision", *(["heatmap"] if args.heatmaps and model.heatmap else [])]
    try:
        probabilities, decisions, *heats = model.run(pixels, *outputs)
    except Exception as error:  # out of memory, say: perhaps not with one alone
        if len(films) == 1:
            films[0].row["error"] = printable(f"the graph failed: {first_line(error)}")
        for i in range(len(films) if len(films) > 1 else 0):
            answer(model, args, films[i : i + 1], pixels[i : i + 1])
        return
    own = decisions
    if args.threshold != model.threshold:
        decisions = probabilities >= np.float32(args.threshold)
    for i, film in enumerate(films):
        if not (0 <= probabilities[i] <= 1 and own[i] == (probabilities[i] >= np.float32(model.threshold))):
            film.row["error"] = f"the graph's probability is {probabilities[i]}, its decision {own[i]}"
            continue
        film.row["probability"] = float(str(probabilities[i]))  # the shortest number that is this float32
        film.row["decision"] = model.classes[int(decisions[i])]
        film.row["refer"] = refers(film.row["probability"], args)
        if args.heatmaps:
            # The hash keeps apart what has one name in two folders; no character leads out of the folder.
            stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(film.file).stem)[:50]
            path = args.heatmaps / f"{stem}-{hashlib.sha256(os.fsencode(film.file)).hexdigest()[:10]}.png"
            heat = heats[0][i] if heats else occlusion(model, pixels[i])
            with naming(path):
                overlay(film.row, pixels[i], heat, model).save(f"{path}.part", "PNG")
                os.replace(f"{path}.part", path)
            film.row["heatmap"] = printable(str(path))


def refers(probability: float, args: argparse.Namespace) -> bool:
    return args.refer is not None and abs(probability - args.threshold) <= args.refer


def occlusion(model: Model, grey: np.ndarray) -> np.ndarray:
    """(CELLS, CELLS) float32: by how much the log-odds of classes[1] fall where a grey patch covers the film.

    82 passes through the network for each film, with the film no larger than the network sees it.
    """
    scale = min(1.0, model.size / min(grey.shape), (4 * model.size**2 / grey.size) ** 0.5)
    shape = [max(1, round(side * scale)) for side in grey.shape[::-1]]
    grey = np.asarray(Image.fromarray(grey).resize(shape, Image.Resampling.BILINEAR))
    rows, columns = (np.linspace(0, side, CELLS + 1).astype(int) for side in grey.shape)
    places = [(i, j) for i in range(CELLS - 1) for j in range(CELLS - 1)]
    covered = np.repeat(grey[None], len(places) + 1, axis=0)  # the last one stays as it is
    for copy, (i, j) in zip(covered, places, strict=False):
        copy[rows[i] : rows[i + 2], columns[j] : columns[j + 2]] = round(float(grey.mean()))
    logits = np.concatenate([model.run(covered[i : i + 16], "logits")[0] for i in range(0, len(covered), 16)])
    odds = (logits[:, 1] - logits[:, 0]) / model.temperature
    total, count = np.zeros((2, CELLS, CELLS), np.float32)
    for fall, (i, j) in zip(odds[-1] - odds[:-1], places, strict=True):
        total[i : i + 2, j : j + 2] += fall
        count[i : i + 2, j : j + 2] += 1
    return total / count


def viridis(values: np.ndarray) -> np.ndarray:
    """(...) of 0 to 1 to (..., 3) of 0 to 255."""
    steps = np.linspace(0, 1, len(VIRIDIS))
    return np.stack([np.interp(values, steps, channel) for channel in VIRIDIS.T], -1)


def over_film(heat: np.ndarray, shape: list[int], fit: str) -> np.ndarray:
    """A heat map of the network's square, resized to lie on a film drawn with `shape` (width, height) pixels.

    The square is the whole film, or with "pad" a larger one around it, or with "crop" the middle of it; then what the
    network did not see is 0.
    """
    side = {"pad": max(shape), "crop": min(shape)}.get(fit)
    width, height = (side, side) if side else shape
    left, top = int((width - shape[0]) / 2), int((height - shape[1]) / 2)  # below 0 where the film is the larger one
    square = Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(square.crop((left, top, left + shape[0], top + shape[1])))


def overlay(row: dict, grey: np.ndarray, heat: np.ndarray, model: Model) -> Image.Image:
    """The film, the film under `heat` (H', W') where that is above 0, a colour bar, and what the graph says."""
    shape = [max(1, round(side * PANEL / max(grey.shape))) for side in grey.shape[::-1]]
    plain = np.asarray(Image.fromarray(grey).resize(shape, Image.Resampling.BICUBIC))[..., None].repeat(3, 2)
    heat = np.nan_to_num(np.asarray(heat, np.float32))
    top = max(float(heat.max()), 1.0)  # to show less at full strength would make noise look like findings
    level = np.clip(over_film(heat, shape, model.fit if model.heatmap else "stretch") / top, 0, 1)
    weight = (0.6 * np.minimum(level * 2, 1))[..., None]  # the film shows through
    mixed = plain * (1 - weight) + viridis(level) * weight
    kind = "class activation" if model.heatmap else "fall of the log-odds where covered"
    texts = (os.path.basename(row["file"]), f"right: {kind}", model.use,
             f"{row['decision']}, P({model.classes[1]}) = {row['probability']:.3f}")  # fmt: skip
    texts = [text if len(text) < 60 else f"{text[:30]}...{text[-25:]}" for text in texts]
    font, bar, left = ImageFont.load_default(14), max(shape[1], 60), 30 + 2 * shape[0]
    width = max(left + 80, 20 + int(max(font.getlength(text) for text in texts)))
    canvas = Image.new("RGB", (width, 110 + bar))
    draw = ImageDraw.Draw(canvas)
    for place, text in [((left + 22, 100), f"{top:.3g}"), ((left + 22, 88 + bar), "0"),
                        *(((10, 10 + 20 * i), text) for i, text in enumerate(texts))]:  # fmt: skip
        draw.text(place, text, "white", font)
    ramp = np.repeat(viridis(np.linspace(1, 0, bar))[:, None], 16, axis=1)
    for pixels, x in ((plain, 10), (mixed, 20 + shape[0]), (ramp, left)):
        canvas.paste(Image.fromarray(pixels.round().astype(np.uint8)), (x, 100))
    return canvas


def text_of(value: object) -> str:
    return {"None": "", "True": "yes", "False": "no"}.get(str(value), str(value))


def table_line(row: dict, model: Model) -> str:
    """A row in columns of fixed width, with the file last since its width is not known in advance."""
    probability = f"{row['probability']:.4f}" if isinstance(row["probability"], float) else row["probability"] or "-"
    decision = f"{row['decision'] or 'error':<{max(8, *map(len, model.classes))}}"
    return f"{probability:>11}  {decision}  {'refer' if row['refer'] else '':<5}  {row['file']}"


def earlier_files(path: Path, model: Model, args: argparse.Namespace) -> collections.Counter:
    """How often each file is in a CSV, and under None how many of these failed; cuts off a torn last line.

    Raises Problem when it is not a file that this call would have begun.
    """
    earlier = collections.Counter()
    with open(path, "rb+") as stream:
        content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        if not (whole or HEADER).startswith(HEADER) or not (whole or HEADER.startswith(content)):
            raise Problem(f"{path} is not of predict.py; --overwrite replaces it", 2)
        for row in csv.DictReader(whole.decode("utf-8", "replace").splitlines()):
            with contextlib.suppress(TypeError, ValueError):
                refer = refers(float(row["probability"]), args) if row["probability"] else None
                expected = [model.label, text_of(args.threshold), text_of(refer)]
                if [row["model"], row["threshold"], row["refer"]] == expected:
                    earlier.update([row["file"], *([None] if row["error"] else [])])
                    continue
            raise Problem(f"{path} is of another model, --threshold or --refer; --overwrite replaces it", 2)
        stream.truncate(len(whole))
    return earlier


def number(text: str, kind: type = float, low: float = 0, high: float = 1) -> float:
    with contextlib.suppress(ValueError):
        if low <= (value := kind(text)) <= high:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a{' whole' if kind is int else ''} number, {low} to {high}")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        say(f"error: {message}; {self.prog} --help lists the options")
        raise SystemExit(2)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Probabilities for X-rays from an exported graph. Not for clinical use.",
        epilog=f"Folders are searched for {', '.join(SUFFIXES)}; files named here are tried whatever their names.",
    )
    add, whole = parser.add_argument, functools.partial(number, kind=int, low=1, high=1024)
    add("model", type=Path, help="an .onnx file that export.py made")
    add("paths", nargs="+", metavar="IMAGE_OR_FOLDER")
    add("--csv", type=Path, metavar="FILE", help="write rows there too, batch by batch")
    add("--resume", action="store_true", help="go on with an earlier --csv: its files are skipped")
    add("--overwrite", action="store_true", help="replace an earlier --csv")
    add("--json", action="store_true", help="print JSON lines, one object a file, instead of the table")
    add("--heatmaps", type=Path, metavar="DIR", help="write a PNG a film: where the graph sees it (slow without a GPU)")
    add("--threshold", type=number, metavar="P", help="decide by it (default: the graph's own)")
    add("--refer", type=number, metavar="MARGIN", help="mark films this close to the threshold")
    add("--provider", choices=["auto", *sorted(PROVIDERS)], default="auto", metavar="NAME",
        help="auto (CUDA where it works, else CPU), cpu, cuda or another of onnxruntime's")  # fmt: skip
    add("--batch-size", type=whole, metavar="N", help="at most; default: 16 on the CPU, 64 elsewhere")
    add("--workers", type=whole, metavar="N", help="batches at a time (default: one for each core, at most 16)")
    args = parser.parse_args(argv)
    if (args.resume or args.overwrite) and (not args.csv or args.resume == args.overwrite):
        parser.error("--resume and --overwrite say what to do with --csv: name it, and one of them")
    return args


def files_in(paths: list[str]) -> Iterator[str]:
    return itertools.chain.from_iterable(map(walk, paths))


def work(args: argparse.Namespace) -> int:
    for path in args.paths:
        if not os.path.lexists(path) or next(walk(path), None) is None:
            raise Problem(f"{path}: no image in this folder" if os.path.isdir(path) else f"{path}: no such file", 2)
    if not args.model.is_file():
        raise Problem(f"{args.model}: no such file", 2)
    folders = [folder for folder in (args.csv and args.csv.parent, args.heatmaps) if folder]
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise Problem(f"{folder} is a file, not a folder", 2)
    if args.csv and args.csv.is_dir():
        raise Problem(f"--csv {args.csv}: is a folder, not a file", 2)
    if args.csv and args.csv.exists() and not (args.resume or args.overwrite):
        raise Problem(f"{args.csv} exists already: --resume continues it, --overwrite replaces it", 2)
    cores = os.cpu_count() or 1
    workers = args.workers or min(cores, 16)
    found = sum(1 for _ in itertools.islice(files_in(args.paths), workers * (args.batch_size or 64)))
    args.workers = min(workers, found)
    # Each worker computes too; what it leaves of the cores joins in.
    model = open_model(args.model, args.provider, max(1, cores - args.workers + 1))
    provider = model.session.get_providers()[0].removesuffix("ExecutionProvider")
    args.batch_size = min(args.batch_size or (16 if provider == "CPU" else 64), -(-found // args.workers))
    args.threshold = model.threshold if args.threshold is None else args.threshold
    say(f"{model.label}, threshold {args.threshold:.4f}, on {provider}; {model.use}")
    earlier = earlier_files(args.csv, model, args) if args.resume and args.csv.exists() else collections.Counter()
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    stream = open(args.csv or os.devnull, "a" if args.resume else "w", newline="", encoding="utf-8")  # noqa: SIM115
    try:
        stream.write("" if stream.tell() else HEADER.decode())
        return predict(args, model, stream, earlier)
    finally:
        with naming(args.csv):  # what could not be written is tried again
            stream.close()


def predict(args: argparse.Namespace, model: Model, stream: io.TextIOBase, earlier: collections.Counter) -> int:
    """Writes the rows of all files that are not in `earlier`; returns the exit code, which speaks of these too."""
    counts = collections.Counter(error=earlier.pop(None, 0))
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    total = sum(1 for _ in files_in(args.paths)) - earlier.total() if shown else None
    started, skipped = time.monotonic(), earlier.total()

    def files() -> Iterator[str]:
        for file in files_in(args.paths):
            if not skipped or earlier[printable(file)] < 1:
                yield file
            else:
                earlier[printable(file)] -= 1

    source = in_chunks(files(), args.batch_size, args.workers, functools.partial(read_and_answer, model, args))
    if not args.json:
        print(table_line(dict(zip(COLUMNS, COLUMNS, strict=True)), model))
    with contextlib.closing(source), tqdm(total=total, unit=" films", disable=not shown) as bar:
        for done in source:
            rows = [film.row for film in done]
            with naming(args.csv):
                csv.writer(stream, lineterminator="\n").writerows(map(text_of, row.values()) for row in rows)
                stream.flush()
            print("\n".join(json.dumps(row) if args.json else table_line(row, model) for row in rows), flush=True)
            for row, kind in ((row, kind) for row in rows for kind in ("error", "warning") if row[kind]):
                say(f"{kind}: {row['file']}: {row[kind]}")
                counts[kind] += 1
            counts.update([row["decision"] for row in rows], files=len(rows))
            bar.update(len(rows))
    classes = ", ".join(f"{counts[name]:,} {name}" for name in model.classes)
    say(f"{classes}, {counts['error']:,} errors, {counts['warning']:,} warnings; {skipped:,} files were done before; "
        f"{counts['files'] / (time.monotonic() - started):,.0f} files/s")  # fmt: skip
    return 1 if counts["error"] else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    for name in ("stdout", "stderr"):  # None where whoever called has closed them
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders' and onnxruntime's: what matters is an error, or read back
            return work(args)
    except Problem as problem:
        say(f"error: {problem.args[0]}")
        return problem.args[1] if problem.args[1:] else 1
    except OSError as error:
        if not error.filename:  # standard output is full, or was piped to `head`: what is left of it goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            say(f"error: cannot use {error.filename or 'the output'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted" + ("; --resume goes on" if args.csv else ""))
        return 130


if __name__ == "__main__":
    sys.exit(main())
