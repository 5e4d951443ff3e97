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
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

COLUMNS = ("file", "probability", "decision", "threshold", "refer", "width", "height", "warning", "error", "heatmap",
           "model")  # fmt: skip
OUTPUTS = {"probability", "decision", "logits"}
FACTS = ("classes", "data", "threshold", "temperature", "size")  # of the graph's metadata
PROVIDERS = {name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_all_providers()}
PROVIDERS["directml"] = "DmlExecutionProvider"
SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")
MAX_PIXELS = 80_000_000  # above this it is a mistake or an attack
MAX_BYTES = 500_000_000  # of one file
HELD_BYTES = 128 << 20  # of decoded films that wait: for the network, and again for others of their size
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
    tqdm.write(printable(text), file=sys.stderr)  # above the progress bar where there is one


@contextlib.contextmanager
def naming(path: Path | None) -> Iterator[None]:
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

    def run(self, pixels: np.ndarray, *outputs: str) -> list[np.ndarray]:
        """The named outputs of raw (N, H, W) uint8 grey levels."""
        return self.session.run(list(outputs), {"image": np.ascontiguousarray(pixels)})


def open_model(path: Path, provider: str = "auto") -> Model:
    """The graph on the provider asked for; "auto" is CUDA where it works, else the CPU, and that is said.

    Raises Problem when export.py did not make the graph, or when the provider cannot run it.
    """
    there = onnxruntime.get_available_providers()
    wanted = PROVIDERS["cpu" if provider == "auto" else provider]
    if provider == "auto" and PROVIDERS["cuda"] in there:
        try:
            return load(path, PROVIDERS["cuda"])
        except Problem:
            say("note: CUDA does not work here; the CPU is used")
    if wanted not in there:
        raise Problem(f"--provider {provider}: this onnxruntime has only {', '.join(there)}")
    return load(path, wanted)


def load(path: Path, wanted: str) -> Model:
    """Opens a graph on exactly that provider, reads what it says of itself, and runs it once."""
    options = onnxruntime.SessionOptions()
    onnxruntime.set_default_logger_severity(4)
    options.log_severity_level = 4  # what goes wrong is raised, with the reason; the log would say it twice
    options.enable_mem_pattern = False  # a pattern is kept for every size of film: a leak where all sizes differ
    # Threads of the network that wait would take the processor from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # TF32 costs 3 digits; HEURISTIC does not search again for each new batch size.
    settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"} if wanted == PROVIDERS["cuda"] else {}
    try:
        if settings and hasattr(onnxruntime, "preload_dlls"):
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses
                onnxruntime.preload_dlls()
        content = path.read_bytes()  # onnxruntime opens no path that is not UTF-8, and the label is of these bytes
        session = onnxruntime.InferenceSession(content, options, providers=[(wanted, settings)])
        if (found := session.get_providers()[0]) != wanted:  # onnxruntime falls back without an error
            raise Problem(f"{path}: {wanted} was asked for, and onnxruntime runs it on {found}")
        facts = session.get_modelmeta().custom_metadata_map
        outputs = {output.name for output in session.get_outputs()}
        if missing := sorted(OUTPUTS - outputs) + sorted({"name", *FACTS} - set(facts)):
            raise Problem(f"{path}: not a graph that export.py made: it has no {', no '.join(missing)}")
        classes, data, *numbers = (json.loads(facts[key]) for key in FACTS)
        drawn = "SYNTHETIC " if data["synthetic"] else ""
        label = f"{facts['name']} {drawn}{hashlib.sha256(content).hexdigest()[:16]}"
        use = (f"{drawn}training data; " if drawn else "") + facts.get("intended_use", "not for clinical use")
        model = Model(session, label, [classes[0], classes[1]], *map(float, numbers), "heatmap" in outputs,
                      facts.get("fit", "stretch"), use)  # fmt: skip
        model.run(np.zeros((1, 8, 8), np.uint8), *outputs)  # a provider may fail only now
        return model
    except Problem:
        raise
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{path}: cannot be used on {wanted}: {first_line(error)}") from error


def walk(path: str) -> Iterator[str]:
    """A file as it is; the images by their names below a folder, sorted. A folder that cannot be read is itself."""
    if not os.path.isdir(path):
        yield path
        return
    try:
        with os.scandir(path) as entries:  # a link to a folder may lead round in a circle
            found = sorted((e.name, e.is_dir()) for e in entries if not (e.is_symlink() and e.is_dir()))
    except OSError:
        yield path
        return
    for name, is_folder in found:
        if not (name.startswith(".") or name == "__MACOSX") and (is_folder or name.lower().endswith(SUFFIXES)):
            yield from walk(os.path.join(path, name))


@dataclass
class Film:
    """A file on its way through: its pixels until they have been used, then the answer."""

    file: str
    grey: np.ndarray | None = None  # (H, W) uint8
    width: int | None = None
    height: int | None = None
    warning: str | None = None
    error: str | None = None
    probability: float | None = None
    decision: int | None = None
    heatmap: str | None = None


def read_film(file: str, size: int) -> Film:
    """Reads, decodes and looks at one file; what goes wrong becomes the film's `error`."""
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # reading a pipe could hang
            raise ValueError(f"neither a readable folder nor a regular file of at most {MAX_BYTES:,} bytes")
        grey, saturation, notes = decode(Path(file).read_bytes())
    except Exception as error:  # decoders raise everything there is on broken files, and the other files must go on
        return Film(file, error=printable(getattr(error, "strerror", None) or first_line(error)))
    notes = "; ".join(notes + suspicions(grey, saturation, size))
    return Film(file, grey, grey.shape[1], grey.shape[0], notes or None)


def decode(content: bytes) -> tuple[np.ndarray, float, list[str]]:
    """(H, W) uint8 grey levels of a JPEG, PNG or DICOM file, its mean saturation (0 to 255), and warnings.

    The same pixels as images.py decodes before it resizes. Raises ValueError, or what a decoder raises.
    """
    if content[128:132] == b"DICM":
        return decode_dicom(content)
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            check_size(*image.size)
            if image.mode.startswith("I"):  # 16 bits: convert("L") would clip at 255 instead of scaling
                return (np.asarray(image, np.float32) / 257).round().astype(np.uint8), 0.0, []
            coloured = image.mode not in ("1", "L", "LA")
            if image.mode == "RGB":
                image.draft("L", None)  # a colour JPEG holds its grey channel apart: the colours need no decoding
            image.load()
            grey = np.asarray(image if image.mode == "L" else image.convert("L"))
            if not coloured:
                return grey, 0.0, []
            if image.mode == "L":
                return grey, saturation_of_jpeg(content), []
            small = np.asarray(image.resize((32, 32), reducing_gap=1.0).convert("RGB"), int)
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a JPEG, PNG or DICOM file" if content else "the file is empty") from error
    return grey, float((small.max(2) - small.min(2)).mean()), []


def saturation_of_jpeg(content: bytes) -> float:
    """Mean saturation (0 to 255) of the first rows of a JPEG: decoding all colours would double the cost of a film."""
    start = content.find(b"\xff\xda")  # where the pixels start; an end marker after a quarter of them ends the picture
    head = content[: start + (len(content) - start) // 4] + b"\xff\xd9"
    with contextlib.suppress(Exception), Image.open(io.BytesIO(head), formats=("JPEG",)) as image:
        image.draft("RGB", (32, 32))
        red, green, blue = np.moveaxis(np.asarray(image)[: image.height // 4 + 1], 2, 0)  # one colour fills the rest
        return float((np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)).mean())
    return 0.0


def check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels is {'more than the limit' if width * height else 'none'}")


def decode_dicom(content: bytes) -> tuple[np.ndarray, float, list[str]]:
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
    return grey, 0.0, [f"the first of {frames} frames is used"] if frames > 1 else []


def suspicions(grey: np.ndarray, saturation: float, size: int) -> list[str]:
    """What is unlike a frontal chest film, by statistics that cost microseconds.

    Films are bright in the middle and dark at the sides. `contrast`, in standard deviations, was above 0.3 on 99.9 % of
    5,232 films; inverted, 98.3 % of them were below -1.3, and turned by 90 degrees 94 % were between these.
    """
    height, width = grey.shape
    small = grey[:: max(1, height // 32), :: max(1, width // 32)].astype(np.float32)
    spread = float(small.std())
    columns = small.mean(0)
    edge, start = max(1, len(columns) // 16), len(columns) * 3 // 8
    sides = (columns[:edge].mean() + columns[-edge:].mean()) / 2
    contrast = (columns[start : len(columns) - start].mean() - sides) / max(spread, 1e-9)
    tests = {
        "coloured: a photograph?": saturation > 15,
        f"only {width} x {height} pixels, where the network sees {size:.0f}": min(height, width) < size / 2,
        f"width / height is {width / height:.2f}: part of a film?": not 0.5 <= width / height <= 3.5,
        "nearly constant: no picture?": spread < 8,
        "bright sides and dark middle: inverted?": spread >= 8 and contrast < -1.3,
        "no bright middle between dark sides: turned, or no chest film?": spread >= 8 and -1.3 <= contrast < 0.3,
    }
    return [text for text, so in tests.items() if so]


def films(files: Iterable[str], size: int, workers: int, ahead: int) -> Iterator[Film]:
    """Decoded films in the order of `files`; as many in advance as are below HELD_BYTES when all are like the last."""
    files, waiting, room = iter(files), collections.deque(), workers
    pool = ThreadPoolExecutor(workers)  # Pillow decodes without holding Python's lock
    try:
        while True:
            while len(waiting) < room and (file := next(files, None)) is not None:
                waiting.append(pool.submit(read_film, file, size))
            if not waiting:
                return
            film = waiting.popleft().result()
            room = ahead if film.grey is None else max(workers, min(ahead, HELD_BYTES // film.grey.nbytes))
            yield film
    finally:
        pool.shutdown(cancel_futures=True)


def in_batches(found: Iterable[Film], batch_size: int, run: Callable[[list[Film]], None]) -> Iterator[list[Film]]:
    """Yields films in order after `run` has had them, one size at a time; of mixed sizes four batches at once."""
    block, groups, held = [], collections.defaultdict(list), 0
    for film in itertools.chain(found, [None]):
        block += [film] if film else []
        if film and film.grey is not None:
            groups[film.grey.shape].append(film)
            held += film.grey.nbytes
        if not film or held > HELD_BYTES or len(block) >= batch_size * (4 if len(groups) > 1 else 1):
            for (height, width), group in groups.items():
                count = max(1, min(batch_size, BATCH_PIXELS // (height * width)))
                for start in range(0, len(group), count):
                    run(group[start : start + count])
            yield block
            block, groups, held = [], collections.defaultdict(list), 0


def answer(model: Model, threshold: float | None, heatmaps: Path | None, group: list[Film]) -> None:
    """Runs films of one size through the graph, writes their overlays, and lets go of their pixels."""
    outputs = ["probability", "decision", *(["heatmap"] if heatmaps and model.heatmap else [])]
    try:
        results = model.run(np.stack([film.grey for film in group]), *outputs)
    except Exception as error:  # out of memory, say: perhaps not with one alone
        if len(group) == 1:
            group[0].grey, group[0].error = None, printable(f"the graph failed: {first_line(error)}")
            return
        results = None
    for i, film in enumerate(group):
        if results is None:
            answer(model, threshold, heatmaps, [film])
        elif 0 <= (probability := results[0][i]) <= 1:
            film.probability = float(str(probability))  # the shortest number that is this float32
            film.decision = int(results[1][i] if threshold is None else probability >= np.float32(threshold))
            if heatmaps:
                heat = results[2][i] if model.heatmap else occlusion(model, film.grey)
                # The hash keeps apart what has one name in two folders; no character leads out of the folder.
                stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(film.file).stem)[:50]
                name = f"{stem}-{hashlib.sha256(os.fsencode(film.file)).hexdigest()[:10]}.png"
                with naming(heatmaps / name):
                    overlay(film, heat, model).save(heatmaps / f"{name}.part", "PNG")
                    os.replace(heatmaps / f"{name}.part", heatmaps / name)
                film.heatmap = printable(str(heatmaps / name))
        else:
            film.error = f"the graph's probability is {probability}"
        film.grey = None


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
    square = np.asarray(Image.fromarray(heat).resize([side, side] if side else shape, Image.Resampling.BICUBIC))
    if not side:
        return square
    left, top = (abs(side - length) // 2 for length in shape)
    if fit == "pad":
        return square[top : top + shape[1], left : left + shape[0]]
    film = np.zeros(shape[::-1], np.float32)
    film[top : top + side, left : left + side] = square
    return film


def overlay(film: Film, heat: np.ndarray, model: Model) -> Image.Image:
    """The film, the film under `heat` (H', W') where that is above 0, a colour bar, and what the graph says."""
    shape = [max(1, round(side * PANEL / max(film.width, film.height))) for side in (film.width, film.height)]
    plain = Image.fromarray(film.grey).resize(shape, Image.Resampling.BICUBIC).convert("RGB")
    heat = np.nan_to_num(np.asarray(heat, np.float32))
    top = max(float(heat.max()), 1.0)  # to show less at full strength would make noise look like findings
    level = np.clip(over_film(heat, shape, model.fit if model.heatmap else "stretch") / top, 0, 1)
    weight = (0.6 * np.minimum(level * 2, 1))[..., None]  # the film shows through
    mixed = np.asarray(plain) * (1 - weight) + viridis(level) * weight
    kind = "class activation" if model.heatmap else "fall of the log-odds where covered"
    texts = (printable(os.path.basename(film.file)), f"right: {kind}", model.use,
             f"{model.classes[film.decision]}, P({model.classes[1]}) = {film.probability:.3f}")  # fmt: skip
    texts = [text if len(text) < 60 else f"{text[:30]}...{text[-25:]}" for text in texts]
    font, bar, left = ImageFont.load_default(14), max(shape[1], 60), 30 + 2 * shape[0]
    width = max(left + 80, 20 + int(max(font.getlength(text) for text in texts)))
    canvas = Image.new("RGB", (width, 110 + bar))
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate((*texts, f"{top:.3g}", "0")):
        place = [(10, 10 + 20 * i), (left + 22, 100), (left + 22, 88 + bar)][max(0, i - len(texts) + 1)]
        draw.text(place, text, "white", font)
    ramp = np.repeat(viridis(np.linspace(1, 0, bar))[:, None], 16, axis=1)
    for pixels, x in ((plain, 10), (mixed, 20 + shape[0]), (ramp, left)):
        canvas.paste(Image.fromarray(np.asarray(pixels).round().astype(np.uint8)), (x, 100))
    return canvas


def row_of(film: Film, model: Model, threshold: float, margin: float | None) -> dict:
    """A film under COLUMNS; None where there is nothing."""
    row = vars(film) | {"file": printable(film.file), "threshold": threshold, "refer": None, "model": model.label}
    if film.probability is not None:
        row["decision"] = model.classes[film.decision]
        row["refer"] = margin is not None and abs(film.probability - threshold) <= margin
    return {column: row[column] for column in COLUMNS}


def earlier_files(path: Path, expected: Callable[[float | None], list[str]]) -> collections.Counter:
    """How often each file is in a CSV, and under None how many of these failed; cuts off a torn last line.

    expected: a probability to what a row of this call then has as model, threshold and refer.
    Raises Problem when it is not a file that this call would have begun.
    """
    earlier = collections.Counter()
    with open(path, "rb+") as stream:
        lines = stream.readlines()
        torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        rows = csv.DictReader(line.decode("utf-8", "replace") for line in lines)
        if tuple(rows.fieldnames or COLUMNS) != COLUMNS or not (lines or ",".join(COLUMNS).encode().startswith(torn)):
            raise Problem(f"{path} is not of predict.py; --overwrite replaces it", 2)
        for row in rows:
            with contextlib.suppress(TypeError, ValueError):
                probability = float(row["probability"]) if row["probability"] else None
                if [row["model"], row["threshold"], row["refer"]] == expected(probability):
                    earlier.update([row["file"], *([None] if row["error"] else [])])
                    continue
            raise Problem(f"{path} is of another model, --threshold or --refer; --overwrite replaces it", 2)
        stream.truncate(sum(map(len, lines)))
    return earlier


def texts_of(row: dict) -> list[str]:
    return [{"None": "", "True": "yes", "False": "no"}.get(str(value), str(value)) for value in row.values()]


def table_line(row: dict, model: Model) -> str:
    """A row in columns of fixed width, with the file last since its width is not known in advance."""
    probability = f"{row['probability']:.4f}" if isinstance(row["probability"], float) else row["probability"] or "-"
    decision = f"{row['decision'] or 'error':<{max(8, *map(len, model.classes))}}"
    return f"{probability:>11}  {decision}  {'refer' if row['refer'] else '':<5}  {row['file']}"


def number(text: str, kind: type = float, low: float = 0, high: float = 1) -> float:
    with contextlib.suppress(ValueError):
        if low <= (value := kind(text)) <= high:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a{' whole' if kind is int else ''} number, {low} to {high}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
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
    add("--batch-size", type=whole, metavar="N", help="default: 16 on the CPU, 64 elsewhere")
    add("--workers", type=whole, metavar="N", help="decoding threads (default: one less than cores, at most 16)")
    args = parser.parse_args(argv)
    if (args.resume or args.overwrite) and (not args.csv or args.resume == args.overwrite):
        parser.error("--resume and --overwrite say what to do with --csv: name it, and one of them")
    return args


def work(args: argparse.Namespace) -> int:
    for path in args.paths:
        if next(walk(path) if os.path.lexists(path) else iter(()), None) is None:
            raise Problem(f"{path}: no image in this folder" if os.path.isdir(path) else f"{path}: no such file", 2)
    if not args.model.is_file():
        raise Problem(f"{args.model}: no such file", 2)
    if args.csv and args.csv.exists() and not (args.resume or args.overwrite):
        raise Problem(f"{args.csv} exists already: --resume continues it, --overwrite replaces it", 2)
    model = open_model(args.model, args.provider)
    threshold = model.threshold if args.threshold is None else args.threshold
    provider = model.session.get_providers()[0].removesuffix("ExecutionProvider")
    say(f"{model.label}, threshold {threshold:.4f}, on {provider}; {model.use}")

    def expected(probability: float | None) -> list[str]:
        row = row_of(Film("", probability=probability, decision=0), model, threshold, args.refer)
        return texts_of({key: row[key] for key in ("model", "threshold", "refer")})

    earlier = collections.Counter()
    if args.resume and args.csv.exists():
        earlier = earlier_files(args.csv, expected)
    for folder in filter(None, (args.csv and args.csv.parent, args.heatmaps)):
        folder.mkdir(parents=True, exist_ok=True)
    stream = open(args.csv or os.devnull, "a" if args.resume else "w", newline="", encoding="utf-8")  # noqa: SIM115
    try:
        stream.write("" if stream.tell() else ",".join(COLUMNS) + "\n")
        return predict(args, model, threshold, stream, earlier)
    finally:
        with naming(args.csv):  # what could not be written is tried again
            stream.close()


def predict(args: argparse.Namespace, model: Model, threshold: float, stream: io.TextIOBase,
            earlier: collections.Counter) -> int:  # fmt: skip
    """Writes the rows of all files that are not in `earlier`; returns the exit code, which speaks of these too."""
    batch_size = args.batch_size or (16 if "CPU" in model.session.get_providers()[0] else 64)
    counts = collections.Counter(error=earlier.pop(None, 0))
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    total = sum(1 for path in args.paths for _ in walk(path)) - earlier.total() if shown else None
    started, skipped = time.monotonic(), earlier.total()

    def files() -> Iterator[str]:
        for file in (file for path in args.paths for file in walk(path)):
            if not skipped or earlier[printable(file)] < 1:
                yield file
            else:
                earlier[printable(file)] -= 1

    run = functools.partial(answer, model, args.threshold, args.heatmaps)
    source = films(files(), model.size, args.workers or max(1, min(16, (os.cpu_count() or 1) - 1)), 3 * batch_size)
    if not args.json:
        print(table_line(dict(zip(COLUMNS, COLUMNS, strict=True)), model))
    with contextlib.closing(source), tqdm(total=total, unit=" films", disable=not shown) as bar:
        for done in in_batches(source, batch_size, run):
            rows = [row_of(film, model, threshold, args.refer) for film in done]
            with naming(args.csv):
                csv.writer(stream, lineterminator="\n").writerows(map(texts_of, rows))
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
