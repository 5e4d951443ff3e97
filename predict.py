"""Probabilities for X-rays from an exported graph, without PyTorch: `python predict.py onnx/simple.onnx films/`.

This file needs no other file of the project: copied beside an .onnx file it runs with onnxruntime, numpy, pillow and
tqdm (and pydicom for DICOM). However many films there are, only a few batches of them are in memory. Standard output
carries the rows, standard error everything else. Exit codes: 1 some files or the graph could not be used, 2 wrong call,
3 some films got no answer (--strict).
"""

import argparse
import collections
import contextlib
import csv
import errno
import functools
import glob
import hashlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import stat
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

if not hasattr(onnxruntime, "get_all_providers"):  # onnxruntime-gpu has the same files, and one of the two was removed
    sys.exit("error: onnxruntime has lost its files: pip install --force-reinstall onnxruntime, or onnxruntime-gpu")

VERSION = "0.1.0"
COLUMNS = ("file", "probability", "decision", "threshold", "refer", "flags", "possible", "unfamiliar", "width",
           "height", "warning", "error", "heatmap", "model")  # fmt: skip
HEADER = ",".join(COLUMNS).encode() + b"\n"  # of the CSV
# What spreadsheets take for the beginning of a formula (OWASP, CSV Injection), with the apostrophes that defuse it.
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
OUTPUTS = {"probability", "decision", "logits"}
LATER = {"unfamiliar": (2,), "flags": (2,), "possible": (2, 2), "refer": (2,)}  # outputs: their shape for two films
GUESSES = ("negative", "turned", "upside down", "mirrored")  # flags that could be wrong; the others are measured
LEGEND = '; in the column refer, "?": it may be so, "+2": 2 more reasons or flags (--csv has all)'
LEFT = {(0, 0): "neither", (1, 0): "NORMAL", (0, 1): "PNEUMONIA", (1, 1): "both"}  # of the classes, by `possible`
POINTS = {"validation": "misses and false alarms weigh alike", "0.5": "what is more probable"}  # by name
FACTS = ("classes", "data", "threshold", "temperature", "size")  # of the graph's metadata
PROVIDERS = {name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_all_providers()}
PROVIDERS["directml"] = "DmlExecutionProvider"
SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")
MAX_PIXELS = 80_000_000  # the largest film in the data has 6.4 million; above this it is a mistake or an attack
MAX_SIDE = 10_000  # to "pad" makes a square of the longer side
MAX_SCANS = 100  # of a progressive JPEG, which has about 10; each is a pass over the whole picture
MARKER = re.compile(rb"\xff+([^\x00\xff])")  # of a part of a JPEG
EXIF = b"Exif\0\0"  # how such data begin in a JPEG
DICOM_PACKAGES = "pydicom pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg pyjpegls"  # as in requirements-dicom.txt
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow converts
COLOURS = ("Red", "Green", "Blue")
NEEDED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
          "PixelRepresentation")  # fmt: skip
MAX_BYTES = 500_000_000  # of one file
SEAL = b"\n\x06sha256\x12@"  # protobuf's mark of the last entry of a graph's metadata
HELD_BYTES = 256 << 20  # of decoded films that wait for others of their size, in all threads together
BATCH_PIXELS = 16 << 20  # of one batch: the graph's resizing takes some 12 bytes for each
# Matplotlib's viridis at 0, 1/16, ... 1, by van der Walt and Smith (CC0): even steps, also to the colour-blind.
VIRIDIS = np.frombuffer(bytes.fromhex(
    "44015448186a472d7b4240863b528b33638d2c728e26828e21918c1fa08828ae803fbc735ec96284d44baddc30d8e219fde725"
), np.uint8).reshape(-1, 3)  # fmt: skip
PANEL = 448  # pixels of the longer side of a film in an overlay
COLOURED = 15  # mean saturation, 0 to 255, above which it is a photograph
CELLS = 10  # to a side of the film; the grey patch of the occlusion covers 2 x 2 of them


class Problem(Exception):
    """Something the person at the keyboard can mend: what, and the exit code (1 if there is none)."""


def printable(text: str) -> str:
    """The text on one line: control characters and bytes that are no text are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def numbered(count: int, thing: str) -> str:
    """ "1 film", "2 films"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


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
    flags: dict[str, int]  # bits by name; none of an earlier graph, which has no output of LATER
    forbidding: int  # the bits that forbid an answer
    promise: str  # of what is left possible, in words
    points: dict[str, tuple[float, str]]  # operating points: threshold, and what validation found of it
    turn: contextlib.AbstractContextManager  # held while it runs: a GPU takes one batch at a time, a CPU several

    def run(self, pixels: np.ndarray, *outputs: str) -> list[np.ndarray]:
        """The named outputs of raw (N, H, W) uint8 grey levels."""
        with self.turn:
            return [
                np.asarray(found) for found in self.session.run(list(outputs), {"image": np.ascontiguousarray(pixels)})
            ]


def open_model(path: Path, provider: str = "auto", threads: int = 0) -> Model:
    """The graph on the provider asked for; "auto" is CUDA where it works, else the CPU.

    threads: of one batch on the CPU, the caller's among them; 0 is one for each core.
    Raises Problem when export.py did not make the graph, or when the provider cannot run it.
    """
    if is_checkpoint(path):
        raise Problem(f"{path}: that is a checkpoint: python export.py {shlex.quote(str(path))} makes a graph of it", 2)
    if is_film_or_text(path):
        raise Problem(f"{path}: that is no graph: the .onnx file comes first, and then the films", 2)
    if provider != "auto":
        return load(path, PROVIDERS[provider], threads)
    if PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        try:
            return load(path, PROVIDERS["cuda"], threads)
        except Problem:
            if there_is_a_gpu():
                say("note: CUDA does not work here; the CPU is used")
    return load(path, PROVIDERS["cpu"], threads)


def there_is_a_gpu() -> bool:
    """Whether NVIDIA's driver is here: onnxruntime-gpu offers CUDA without one too."""
    return os.path.exists("/dev/nvidiactl") or shutil.which("nvidia-smi") is not None


def is_checkpoint(path: Path) -> bool:
    """Whether torch.save made the file: by its name, or as a zip archive that has a pickle near its start."""
    if path.suffix.lower() in (".pt", ".pth"):
        return True
    with open(path, "rb") as stream:
        head = stream.read(300)
    return head.startswith(b"PK\x03\x04") and b"/data.pkl" in head


def is_film_or_text(path: Path) -> bool:
    """Whether a file is what follows a graph, or lies beside one: by its name, or by DICOM's mark."""
    with open(path, "rb") as stream:
        return path.suffix.lower() in (*SUFFIXES, ".json") or stream.read(132)[128:] == b"DICM"


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
        if reads_other_files(memoryview(content), "model"):
            raise Problem(f"{path}: it keeps weights in another file, and export.py keeps all in one")
        # From its content: onnxruntime opens no path that is not UTF-8.
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
        threshold, temperature, size = map(float, numbers)
        flags, forbidding, promise, points = told(facts, outputs)
        drawn = "SYNTHETIC " if data["synthetic"] else ""
        label = printable(f"{facts['name']} {drawn}{hashlib.sha256(content).hexdigest()[:16]}")
        use = (f"{drawn}training data; " if drawn else "") + facts.get("intended_use", "not for clinical use")
        if json.loads(facts.get("quick", "false")) is True:
            use = f"a smoke run: its answers mean nothing; {use}"
        model = Model(session, label, [classes[0], classes[1]], threshold, temperature, size, "heatmap" in outputs,
                      facts.get("fit", "stretch"), use, flags, forbidding, promise, points,
                      contextlib.nullcontext() if wanted == PROVIDERS["cpu"] else threading.Lock())  # fmt: skip
        check_answers(model, dict(zip(outputs, model.run(np.zeros((2, 8, 8), np.uint8), *outputs), strict=True)))
        return model
    except Problem:
        raise
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{path}: cannot be used on {wanted}: {first_line(error)}") from error


# The fields of onnx.proto3 that lead from a model to its tensors: message, number of the field, message in it.
INSIDE = {"model": {7: "graph", 20: "training", 25: "function"}, "training": {1: "graph", 2: "graph"},
          "function": {7: "node", 11: "attribute"}, "graph": {1: "node", 5: "tensor", 15: "sparse"},
          "node": {5: "attribute"}, "sparse": {1: "tensor", 2: "tensor"},
          "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}}  # fmt: skip
EXTERNAL = {13, 14}  # of a tensor: external_data, data_location


def reads_other_files(content: memoryview, message: str) -> bool:
    """Whether a tensor in an ONNX file, or in a part of one, is said to lie in another file: it could be any file.

    Reads protobuf's wire format, of which a field is a number with a kind, and then a number, 8 bytes, 4 bytes, or a
    length and so many bytes. Raises IndexError or ValueError on what is none.
    """
    at = 0
    while at < len(content):
        key, at = varint(content, at)
        field, kind = key >> 3, key & 7
        if message == "tensor" and field in EXTERNAL:
            return True
        if kind == 0:
            _, at = varint(content, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = varint(content, at)
            inner = INSIDE.get(message, {}).get(field)
            if inner and reads_other_files(content[at : at + length], inner):
                return True
            at += length
        else:
            raise ValueError(f"no ONNX file: a field of kind {kind}")
    return False


def varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of protobuf's, 7 bits a byte and 10 bytes at most, and where what follows it begins."""
    value = 0
    for k in range(10):
        value |= (content[at + k] & 127) << 7 * k
        if content[at + k] < 128:
            return value, at + k + 1
    raise ValueError("no ONNX file: a number without an end")


def told(facts: dict[str, str], outputs: set[str]) -> tuple[dict[str, int], int, str, dict[str, tuple[float, str]]]:
    """What graphs say beside an answer, as in Model; earlier ones little of it. Raises what odd metadata lead to."""
    flags, promise, points = (json.loads(facts.get(key, "{}")) for key in ("flags", "promise", "operating_points"))
    points = {name: (float(point["threshold"]), promised(name, point)) for name, point in points.items()}
    if not set(LATER) <= outputs:
        return {}, 0, "", points
    bits = {printable(name): int(bit) for name, bit in flags["bits"].items()}
    kept = f"{100 * (1 - promise['alpha']):g} of 100"
    left = f"the true class is left possible in {kept} normal ones and {kept} pneumonias; both or neither: refer"
    return bits, int(flags["forbidding"]), f"promise for films like validation's: {left}", points


def promised(name: str, point: dict) -> str:
    """An operating point in words: the rates that validation found, and their intervals rounded outwards; or ""."""
    if "sensitivity" not in point:
        return ""
    found = [100 * point["sensitivity"][end] for end in ("value", "low", "high")]
    alarms = [100 - 100 * point["specificity"][end] for end in ("value", "high", "low")]
    return "" if np.isnan(found + alarms).any() else (
        f"{POINTS.get(name, name)}: found {found[0]:.0f} of 100 pneumonias (95 % interval {np.floor(found[1]):.0f} to "
        f"{np.ceil(found[2]):.0f}), called {alarms[0]:.0f} of 100 normal films ill ({np.floor(alarms[1]):.0f} to "
        f"{np.ceil(alarms[2]):.0f}), in validation")  # fmt: skip


def sensitivities(points: Iterable[str]) -> str:
    """Those that there are operating points for, as --sensitivity takes them: "0.95 or 0.99"; "" for none."""
    found = [re.fullmatch(r"sensitivity (\d+(?:\.\d+)?) %", name) for name in points]
    return " or ".join(f"{float(percent[1]) / 100:g}" for percent in found if percent)


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
    if odd := [name for name in LATER if model.flags and found[name].shape != LATER[name]]:
        raise ValueError(f"its {odd[0]} is not one for each film")


def walk(path: str, passed_over: collections.Counter | None = None) -> Iterator[str]:
    """The films below a folder, sorted by their names. A file is itself, and so is what cannot be read.

    Links are followed, and each folder is entered once. Everything else there is counted in `passed_over`, by its
    suffix.
    """
    passed_over = collections.Counter() if passed_over is None else passed_over
    levels: list[Iterator] = [iter([path])]  # of the folders that we are in, what is left
    seen = set()  # folders, by device and inode: links may lead round in a circle
    while levels:
        entry = next(levels[-1], None)
        kind = kind_of(entry) if isinstance(entry, os.DirEntry) else "folder"
        if entry is None:
            levels.pop()
        elif kind == "film":
            yield entry.path
        elif kind != "folder":
            passed_over[kind] += 1
        else:
            try:
                with os.scandir(entry) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
                status = os.stat(entry)
            except OSError:
                yield os.fspath(entry)
                continue
            place = (status.st_dev, status.st_ino or os.fspath(entry))  # 0 where a disk has no inodes
            if place in seen:
                passed_over["a folder seen before"] += 1
            else:
                seen.add(place)
                levels.append(inner for inner in entries if inner.name[0] != "." and inner.name != "__MACOSX")


def kind_of(entry: os.DirEntry) -> str:
    """What is in a folder: "folder" or "film", the latter by its suffix or DICOM's mark, or else as what it counts."""
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        if entry.is_dir():
            return "folder"
        if entry.name.upper() == "DICOMDIR":  # DICOM's table of contents
            return "DICOMDIR"
        if suffix not in SUFFIXES and entry.is_file():  # to open a pipe could hang
            with open(entry, "rb", buffering=0) as stream:
                return "film" if stream.read(132)[128:] == b"DICM" else suffix or "without a suffix"
    except OSError:  # its row says why it cannot be read
        return "film"
    return "film" if suffix in SUFFIXES else suffix or "without a suffix"


def counted(passed_over: collections.Counter) -> str:
    """What was passed over, in words: the five most frequent kinds, and how many others."""
    texts = [f"{count:,} {kind}" for kind, count in passed_over.most_common(5)]
    others = passed_over.total() - sum(count for _, count in passed_over.most_common(5))
    return ", ".join(texts + ([numbered(others, "other")] if others else []))


@dataclass
class Film:
    """A file on its way through: its row, as far as it is known, and its pixels until they have been used."""

    file: str
    row: dict  # of COLUMNS; None where there is nothing
    grey: np.ndarray | None = None  # (H, W) uint8
    saturation: float = 0.0  # mean, 0 to 255
    guessed: bool = False  # how many bits its levels have: the file does not say so


def content_of(file: str) -> bytes:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # reading a pipe could hang
        raise ValueError(f"neither a readable folder nor a regular file of at most {MAX_BYTES:,} bytes")
    with open(file, "rb") as stream:
        return stream.read()


def read_film(file: str, read: Callable[[str], bytes] = content_of) -> Film:
    """Reads and decodes one file; what goes wrong becomes the row's `error`."""
    film = Film(file, dict.fromkeys(COLUMNS) | {"file": printable(file)})
    try:
        content = read(file)
        film.grey, film.saturation, warning = decode(content)
        film.row |= {"height": film.grey.shape[0], "width": film.grey.shape[1], "warning": warning or None}
        film.guessed = warning.endswith("in a 16-bit PNG") and not significant_bits(content)
    except Exception as error:  # decoders raise everything there is on broken files, and the other files must go on
        film.row["error"] = printable(getattr(error, "strerror", None) or first_line(error))
    return film


def decode(content: bytes) -> tuple[np.ndarray, float, str]:
    """(H, W) uint8 grey levels of a JPEG, PNG or DICOM file, its mean saturation (0 to 255), and a warning or "".

    The same pixels as films/images.py decodes before it resizes: what reads them, from `Unusable` to `number_of`, is
    films/reading.py, word for word. Raises ValueError with the reason.
    """
    if content[128:132] == b"DICM":
        grey, _, warning, _ = read_dicom(content)
        return grey, 0.0, warning
    grey, mode, warning, small = read_picture(content)
    if small is not None:
        return grey, mean_saturation(small), warning
    return grey, saturation_of_jpeg(content) if mode == "RGB" else 0.0, warning


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


class Unusable(ValueError):
    """One line about the part of a DICOM file that cannot be used."""


def one_line(said: object) -> str:
    """A text, or what an error says, on one line that a terminal can show."""
    text = "".join(character if character.isprintable() else " " for character in str(said))
    return " ".join(text.split())[:300] or type(said).__name__


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels is more than the limit of {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width:,} x {height:,} pixels is more than the limit of {MAX_SIDE:,} to a side")
    if width <= 0 or height <= 0:
        raise ValueError("it has no pixels")


def check_scans(content: bytes) -> None:
    """Raises ValueError for a JPEG of more than MAX_SCANS scans; what follows its end, such as a video, does not count.

    Markers are followed as libjpeg does it: ITU-T T.81, B.1.1.
    """
    if content.count(b"\xff\xda") <= MAX_SCANS:  # of nearly all files: nothing has to be followed
        return
    scans, place = 0, 2
    while match := MARKER.search(content, place):
        place, kind = match.end(), match[1][0]
        if kind == 0xD9:  # end of image
            return
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # these have no length
            continue
        scans += kind == 0xDA
        if scans > MAX_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
        place += int.from_bytes(content[place : place + 2], "big")


def read_picture(content: bytes) -> tuple[np.ndarray, str, str, Image.Image | None]:
    """(H, W) uint8 grey levels of a JPEG or PNG, its mode, a warning or "", and 32 x 32 pixels of its colours.

    It is turned as its EXIF data say; transparency is ignored. There are no colours where there was no need to decode
    any, as in a JPEG of mode "RGB". Raises ValueError with the reason.
    """
    if content[:2] == b"\xff\xd8":
        check_scans(content)
    small, warning = None, ""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            check_size(*image.size)
            mode = image.mode
            if mode == "RGB":
                image.draft("L", None)  # a colour JPEG holds its grey channel apart: the colours need no decoding
            image.load()
            if mode.startswith("I"):  # 16 bits: convert("L") would clip at 255 instead of scaling
                grey, warning = grey_of_16_bits(np.asarray(image), content)
            else:
                grey = np.asarray(image if image.mode == "L" else image.convert("L"))  # convert would copy
                if image.mode not in ("1", "L", "LA"):
                    small = image.resize((32, 32), reducing_gap=1.0)
            return upright(grey, orientation_of(image.info.get("exif"))), mode, warning, small
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        if content[:2] == b"\xff\xd8" and EXIF in content:  # enough damage there keeps Pillow from the picture
            return read_picture(content.replace(EXIF, b"none\0\0"))
        raise ValueError("not a JPEG, PNG or DICOM file" if content else "the file is empty") from error
    except (OSError, SyntaxError, EOFError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(one_line(error)) from error


def orientation_of(exif: bytes | None) -> int:
    """The orientation in EXIF data, 1 to 8; 1, upright, where there are none or they are damaged (Exif 2.32, 4.6.4)."""
    data = (exif or b"").removeprefix(EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 10:
        return 1
    (place,) = struct.unpack_from(f"{order}L", data, 4)
    if place + 2 > len(data):
        return 1
    (count,) = struct.unpack_from(f"{order}H", data, place)
    for start in range(place + 2, min(place + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, values, value = struct.unpack_from(f"{order}HHLH", data, start)
        if tag == 0x0112:
            return value if (kind, values) == (3, 1) and 1 <= value <= 8 else 1
    return 1


def upright(grey: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W) or turned (W, H) pixels as EXIF's orientation wants them shown."""
    if orientation >= 5:
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return np.ascontiguousarray(grey)


def grey_of_16_bits(values: np.ndarray, content: bytes) -> tuple[np.ndarray, str]:
    """(H, W) values of a 16-bit PNG as uint8, and a warning where fewer bits are in use, such as a detector's 12."""
    largest = int(values.max())
    bits = significant_bits(content)
    if not bits or largest >= 2**bits:
        bits = next(bits for bits in (10, 12, 14, 16) if largest < 2**bits)
    levels = (np.arange(2**bits) * (255 / (2**bits - 1))).round().astype(np.uint8)
    return levels[values], f"{bits} bits in a 16-bit PNG" if bits < 16 else ""


def significant_bits(content: bytes) -> int:
    """What the sBIT chunk of a grey PNG says, 0 where there is none or it is impossible (PNG, 11.3.3.4)."""
    place = 8
    while (kind := content[place + 4 : place + 8]) not in (b"", b"IDAT"):
        if kind == b"sBIT":
            bits = int.from_bytes(content[place + 8 : place + 9], "big")
            return bits if bits <= 16 else 0
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return 0


def read_dicom(content: bytes) -> tuple[np.ndarray, str, str, str]:
    """(H, W) uint8 grey levels of a DICOM file, its mode, a warning or "", and the PatientID or "".

    Nothing else of the header leaves this function. Raises ValueError with the reason.
    """
    header = open_dicom(content)
    with naming_part("header"):
        frames = int(header.get("NumberOfFrames") or 1)
        patient = str(header.get("PatientID") or "")
    pixels, colours = decoded(header)
    photometric = header.PhotometricInterpretation
    with naming_part("pixels"):
        values = stored_values(pixels, header)
        if values.ndim == 3:
            grey = grey_of_colours(values, int(header.BitsStored), colours)
        elif photometric == "PALETTE COLOR":
            grey = by_level(values, lambda levels: grey_of_palette(levels, header))
        elif photometric in ("MONOCHROME1", "MONOCHROME2"):
            grey = by_level(values, lambda levels: grey_of_levels(levels, header))
        else:
            raise ValueError("its one channel is neither MONOCHROME nor PALETTE COLOR")
    return grey, f"DICOM {photometric}", f"the first of {frames} frames is used" if frames > 1 else "", patient


@contextlib.contextmanager
def naming_part(part: str) -> Generator[None]:
    """What goes wrong with a part of a DICOM file becomes one line that names the part."""
    try:
        yield
    except Unusable:  # a part of this part has been named
        raise
    except Exception as error:  # pydicom and its decoders raise everything there is on damaged files
        raise Unusable(f"a DICOM file whose {part} cannot be used ({one_line(error)})") from error


def open_dicom(content: bytes) -> Any:
    """The header of a DICOM file with a picture of a size that can be read, its kind of pixels without spaces."""
    try:
        import pydicom
    except ImportError as error:
        raise ValueError(f"a DICOM file: pip install {DICOM_PACKAGES} reads them") from error
    if int(pydicom.__version__.partition(".")[0]) < 3:
        raise ValueError(f"pydicom {pydicom.__version__} is too old: pip install -U pydicom")
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE  # its warnings would show a PatientID
    with naming_part("header"):
        header = pydicom.dcmread(io.BytesIO(content))
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if "PixelData" not in header:
            raise Unusable(
                f"a DICOM file with no picture in it ({one_line(getattr(kind, 'name', 'of no known kind'))})"
            )
        if missing := [name for name in NEEDED if header.get(name) is None]:
            raise Unusable(f"a DICOM file without {', '.join(missing)}")
        width, height = int(header.Columns), int(header.Rows)
        if header.SamplesPerPixel not in (1, 3) or header.BitsAllocated not in (1, 8, 16, 32):
            raise ValueError(f"{header.SamplesPerPixel} samples of {header.BitsAllocated} bits to a pixel")
        header.PhotometricInterpretation = str(header.PhotometricInterpretation).strip().upper()
    check_size(width, height)
    return header


def decoded(header: Any) -> tuple[np.ndarray, str]:
    """The first frame, (H, W) or (H, W, 3), with all bits that are allocated, and what its three channels are."""
    from pydicom.pixels import get_decoder

    with naming_part("transfer syntax"):
        if not (syntax := header.file_meta.get("TransferSyntaxUID")):
            raise Unusable("a DICOM file without TransferSyntaxUID")
        name = one_line(syntax.name)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"a DICOM file in {name}, which pydicom does not decode") from error
    packages = "; ".join(decoder.missing_dependencies)
    if not decoder.is_available:
        raise ValueError(f"a DICOM file in {name} ({packages}): pip install {DICOM_PACKAGES} decodes it")
    part = f"pixels in {name}"
    if "jpeg" in packages and "rle" not in packages:  # Pillow alone decodes some of them
        part += f" (pip install {DICOM_PACKAGES} may help: {packages})"
    with naming_part(part):
        # pydicom would cut unused bits off in some syntaxes only, and knows colours of 8 bits alone.
        options: Any = {"correct_unused_bits": False, "as_rgb": header.BitsAllocated == 8}
        pixels, facts = decoder.as_array(header, index=0, **options)
        colours = facts["photometric_interpretation"]
    return pixels, str(getattr(colours, "value", colours))


def stored_values(pixels: np.ndarray, header: Any) -> np.ndarray:
    """The BitsStored bits that end at HighBit, as integers; the others may hold anything (DICOM PS3.5, 8.1.1)."""
    bits, allocated, signed = int(header.BitsStored), int(header.BitsAllocated), header.PixelRepresentation == 1
    high = header.get("HighBit")
    values = pixels.astype(np.int64 if allocated > 16 else np.int32)
    shift = max(0, int(high) - bits + 1) if high is not None and int(high) < allocated else 0
    syntax = header.file_meta.TransferSyntaxUID
    jpeg = syntax.is_encapsulated and syntax.name != "RLE Lossless"
    if jpeg and -(2**bits) <= values.min() <= values.max() < 2**bits:
        shift = 0  # a JPEG has a precision of its own, and may hold only the bits that count
    values = (values >> shift) & (2**bits - 1)
    return values - ((values >> (bits - 1)) << bits) if signed else values


def grey_of_colours(values: np.ndarray, bits: int, colours: str) -> np.ndarray:
    """(H, W, 3) to (H, W) uint8: the brightness of what is shown, which is not stretched."""
    if colours.startswith("YBR_FULL"):
        grey = values[..., 0].astype(np.float32)
    elif colours == "RGB":
        grey = sum(np.float32(weight) * values[..., i] for i, weight in enumerate(LUMA))
    else:
        raise ValueError(f"its colours are {colours}")
    return np.clip(np.asarray(grey) * (255 / (2**bits - 1)), 0, 255).round().astype(np.uint8)


def by_level(values: np.ndarray, shown: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`shown` of each value, worked out once for each level: a film has millions of pixels, and thousands of levels.

    shown: (N,) integers, ascending, to (N,) uint8.
    """
    low, span = int(values.min()), int(values.max()) - int(values.min())
    if span >= 2**20:
        levels, places = np.unique(values, return_inverse=True)
        return shown(levels)[places].reshape(values.shape)
    present = np.zeros(span + 1, bool)
    present[values - low] = True
    table = np.zeros(span + 1, np.uint8)
    table[present] = shown(np.flatnonzero(present) + low)
    return table[values - low]


def grey_of_levels(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) stored values to (N,) uint8: modality, VOI, then MONOCHROME1; padding is black (PS3.3, C.7.6.3, C.11)."""
    with naming_part("pixel padding"):
        padding = is_padding(levels, header)
    with np.errstate(over="ignore"):
        shares = in_window(rescaled(levels, header), padding, header)
    grey = (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)
    if header.PhotometricInterpretation == "MONOCHROME1":  # low values are meant to be shown bright
        grey = 255 - grey
    return np.where(padding, np.uint8(0), grey)


def is_padding(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) bool: which stored values fill what is no film; none where all would (PS3.3, C.7.5.1.1.2)."""
    bits, signed = int(header.BitsStored), header.PixelRepresentation == 1
    ends = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        for value in words_of(header, name)[:1]:
            end = int(value) & 0xFFFF if bits <= 16 else int(value)  # US and SS are confused, in both directions
            if signed and bits <= 16:
                end -= 2**16 if end >= 2**15 else 2**bits if end >= 2 ** (bits - 1) else 0
            ends.append(end)
    if not words_of(header, "PixelPaddingValue"):
        return np.zeros(levels.shape, bool)
    padding = (levels >= min(ends)) & (levels <= max(ends))
    return padding & ~padding.all()


def rescaled(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) stored values through the modality LUT, or slope and intercept (PS3.3, C.11.1)."""
    with naming_part("modality LUT"):
        if item := item_with_lut(header, "ModalityLUTSequence"):
            return looked_up(levels, words_of(item, "LUTDescriptor"), lut_data(item), header)[0]
    with naming_part("rescale"):
        slope, intercept = (number_of(header, name) for name in ("RescaleSlope", "RescaleIntercept"))
        if slope == 0 or not np.isfinite([slope or 1, intercept or 0]).all():
            raise ValueError(f"slope {slope}, intercept {intercept}")
        values = levels * (1.0 if slope is None else slope) + (intercept or 0.0)
        if np.abs(values).max() > 1e100:
            raise ValueError(f"values up to {np.abs(values).max():.3g}")
        return values


def in_window(values: np.ndarray, padding: np.ndarray, header: Any) -> np.ndarray:
    """(N,) values to shares of full brightness: the first VOI LUT, else the first window, else all that is no padding.

    Clipping to 0 and 1 is left to the caller. Source: PS3.3, C.11.2.
    """
    with naming_part("VOI LUT"):
        if item := item_with_lut(header, "VOILUTSequence"):
            entries, bits = looked_up(values, words_of(item, "LUTDescriptor"), lut_data(item), header)
            return entries / (2**bits - 1)
    with naming_part("window"):
        centre, width = (number_of(header, name) for name in ("WindowCenter", "WindowWidth"))
        if centre is not None and width is not None:
            return window(values, centre, width, str(header.get("VOILUTFunction") or "LINEAR").strip().upper())
    low, high = values[~padding].min(), values[~padding].max()
    return (values - low) / max(float(high) - float(low), 1e-9)


def window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Shares of full brightness, beyond 0 and 1 outside the window (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if not np.isfinite([centre, width]).all() or width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"centre {centre:g}, width {width:g}")
    if function == "LINEAR":
        if width == 1:
            return (values > centre - 0.5).astype(np.float64)
        return (values - (centre - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    raise ValueError(f"its function is {function}")


def grey_of_palette(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) stored values to (N,) uint8: the brightness of their colours (PS3.3, C.7.6.3.1.5)."""
    grey = np.zeros(levels.shape)
    with naming_part("palette"):
        for weight, colour in zip(LUMA, COLOURS, strict=True):
            data = header.get(f"{colour}PaletteColorLookupTableData")
            if not data:
                raise ValueError("it is missing, or in segments")
            descriptor = words_of(header, f"{colour}PaletteColorLookupTableDescriptor")
            entries, bits = looked_up(levels, descriptor, data, header)
            grey += weight * (255 / (2**bits - 1)) * entries
    return np.clip(grey, 0, 255).round().astype(np.uint8)


def item_with_lut(header: Any, name: str) -> Any:
    """The first item of a sequence that has anything of a lookup table, else None."""
    for item in header.get(name) or ():
        if words_of(item, "LUTDescriptor") or lut_data(item):
            return item
    return None


def lut_data(item: Any) -> Any:
    """The LUTData as they are in the file: pydicom, which converts them, cannot where the descriptor is empty."""
    element = item.get_item("LUTData", keep_deferred=True)
    return None if element is None else element.value


def looked_up(values: np.ndarray, descriptor: list[int], data: Any, header: Any) -> tuple[np.ndarray, int]:
    """(N,) values through a lookup table, and how many bits its entries have (PS3.3, C.11.1.1 and C.7.6.3.1.5).

    descriptor: number of entries (0 is 65,536), the value of the first one, bits. data: bytes, or integers of 16 bits.
    """
    if len(descriptor) != 3 or not data:
        raise ValueError(f"{len(descriptor)} of 3 values in its descriptor" if data else "it has no data")
    count, first, bits = descriptor[0] & 0xFFFF or 65536, descriptor[1], descriptor[2] & 0xFFFF
    if bits != 8 and not 10 <= bits <= 16:
        raise ValueError(f"entries of {bits} bits")
    if first > 32767 and values.min() < 0:  # a negative value that was written without its sign
        first -= 65536
    if isinstance(data, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        table = np.frombuffer(data + bytes(len(data) % 2), f"{order}u2").astype("<u2")
    else:
        table = np.atleast_1d(np.asarray(data, np.int64)).astype("<u2")
    if bits == 8 and len(table) < count:  # two to a word, the first one in its lower half
        table = table.view(np.uint8)
    if len(table) < count:
        raise ValueError(f"{len(table):,} of {count:,} entries")
    table = table[:count]
    if bits == 8 and table.max() > 255:  # in the upper half of words
        table = table >> 8
    places = np.clip(np.rint(values), first, first + count - 1) - first
    return table[places.astype(np.int64)], bits


def words_of(header: Any, name: str) -> list[int]:
    """The integers of an element; none where it is missing or empty."""
    value = header.get(name)
    if isinstance(value, bytes):  # pydicom leaves what it does not know to be signed or not
        return np.frombuffer(value, "<u2").tolist()
    return [] if value is None or value == "" else [int(number) for number in np.atleast_1d(value)]


def number_of(header: Any, name: str) -> float | None:
    """The first number of an element, None where it is missing or empty."""
    value = header.get(name)
    first = next(iter(value), None) if value is not None and np.ndim(value) else value
    return None if first is None or not str(first).strip() else float(first)


def examined(films: list[Film], pixels: np.ndarray, size: float) -> None:
    """What is unlike a frontal chest film is added to the warnings of (N, H, W) films of one size.

    Films are bright in the middle and dark at the sides. `contrast`, in standard deviations, was above 0.3 on 99.9 % of
    5,232 films; inverted, 98.3 % of them were below -1.3, and turned by 90 degrees 94 % were between these.
    """
    _, height, width = pixels.shape
    small = pixels[:, :: max(1, height // 32), :: max(1, width // 32)].astype(np.float32)
    spread = small.std((1, 2))
    columns = small.mean(1)  # (N, W')
    edge, start = max(1, columns.shape[1] // 16), columns.shape[1] * 3 // 8
    sides = (columns[:, :edge].mean(1) + columns[:, -edge:].mean(1)) / 2
    contrast = (columns[:, start : columns.shape[1] - start].mean(1) - sides) / np.maximum(spread, 1e-9)
    tests = {
        "coloured: a photograph?": np.array([film.saturation for film in films]) > COLOURED,
        f"only {width} x {height} pixels, where the network sees {size:.0f}": min(height, width) < size / 2,
        f"width / height is {width / height:.2f}: part of a film?": not 0.5 <= width / height <= 3.5,
        "nearly constant: no picture?": spread < 8,
        "bright sides and dark middle: inverted?": (spread >= 8) & (contrast < -1.3),
        "no bright middle between dark sides: turned, or no chest film?":
            (spread >= 8) & (contrast >= -1.3) & (contrast < 0.3),
    }  # fmt: skip
    for i, film in enumerate(films):
        texts = [text for text, so in tests.items() if np.broadcast_to(so, len(films))[i]]
        film.row["warning"] = "; ".join(filter(None, [film.row["warning"], *texts])) or None


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


def read_and_answer(model: Model, args: argparse.Namespace, files: list[str], stopped: threading.Event,
                    read: Callable[[str], bytes] = content_of) -> list[Film]:  # fmt: skip
    """Films of one size share a batch; before all threads together hold more than HELD_BYTES, what is there runs."""
    done, groups, held = [], collections.defaultdict(list), 0
    for i, file in enumerate(files, 1):
        film = read_film(file, read)
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
                pixels = np.stack([film.grey for film in batch if film.grey is not None])
                for film in batch:
                    film.grey = None
                if not model.flags:
                    examined(batch, pixels, model.size)
                answer(model, args, batch, pixels)
        groups, held = collections.defaultdict(list), 0
    return done


def answer(model: Model, args: argparse.Namespace, films: list[Film], pixels: np.ndarray) -> None:
    """Runs films of one size through the graph, one by one where it fails for all, and writes their overlays."""
    outputs = ["probability", "decision", *(LATER if model.flags else [])]
    outputs += ["heatmap"] if args.heatmaps and model.heatmap else []
    try:
        found = dict(zip(outputs, model.run(pixels, *outputs), strict=True))
    except Exception as error:  # out of memory, say: perhaps not with one alone
        if len(films) == 1:
            films[0].row["error"] = printable(f"the graph failed: {first_line(error)}")
        for i in range(len(films) if len(films) > 1 else 0):
            answer(model, args, films[i : i + 1], pixels[i : i + 1])
        return
    for i, film in enumerate(films):
        own = {name: values[i] for name, values in found.items()}
        fill(film, model, args, own)
        if args.heatmaps and film.row["decision"]:
            # The hash keeps apart what has one name in two folders; no character leads out of the folder.
            stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(film.file).stem)[:50]
            path = args.heatmaps / f"{stem}-{hashlib.sha256(os.fsencode(film.file)).hexdigest()[:10]}.png"
            heat = own["heatmap"] if "heatmap" in own else occlusion(model, pixels[i])
            with naming(path):
                overlay(film.row, pixels[i], heat, model).save(f"{path}.part", "PNG")
                os.replace(f"{path}.part", path)
            film.row["heatmap"] = printable(str(path))


def fill(film: Film, model: Model, args: argparse.Namespace, own: dict[str, Any]) -> None:
    """Writes a graph's outputs for a film into its row, but no answer that does not follow from the others.

    With --strict none that its flags forbid, either.
    """
    row, probability = film.row, own["probability"]
    right = 0 <= probability <= 1 and own["decision"] == (probability >= np.float32(model.threshold))
    if model.flags:
        clear = sum(own["possible"]) == 1 and bool(own["possible"][int(own["decision"])])
        refer = not clear or int(own["flags"]) & model.forbidding != 0
        right = right and own["refer"] == refer and np.isfinite(own["unfamiliar"])
    if not right:
        row["error"] = "the graph's " + ", its ".join(f"{key} is {own[key]}" for key in own if key != "heatmap")
        return
    row["probability"] = float(str(probability))  # the shortest number that is this float32
    row["decision"] = model.classes[int(probability >= np.float32(args.threshold))]
    if model.flags:
        flags = int(own["flags"])  # of grey levels, which is all that a graph sees
        flags |= model.flags.get("coloured", 0) * (film.saturation > COLOURED)
        flags |= model.flags.get("guessed levels", 0) * film.guessed
        row["flags"] = "; ".join(name for name, bit in model.flags.items() if flags & bit)
        row["possible"] = LEFT[int(own["possible"][0]), int(own["possible"][1])]
        row["unfamiliar"] = float(str(own["unfamiliar"]))
        row["warning"] = None if film.guessed else row["warning"]
    row["refer"] = bool(reasons(row, model, args))
    if args.strict and forbidden(row, model):
        row["probability"] = row["decision"] = row["possible"] = None


def forbidden(row: dict, model: Model) -> list[str]:
    """The flags of a row that forbid an answer."""
    return [name for name in (row["flags"] or "").split("; ") if model.flags.get(name, 0) & model.forbidding]


def reasons(row: dict, model: Model, args: argparse.Namespace) -> list[str]:
    """Why a person should read a film, the weightiest first; also where the decision is not what is left possible."""
    unclear = [f"{row['possible']} possible"] if row["possible"] and row["possible"] != row["decision"] else []
    if args.refer is not None and row["probability"] not in (None, ""):  # a row of a CSV is text
        unclear += ["near threshold"] * (abs(float(row["probability"]) - args.threshold) <= args.refer)
    return forbidden(row, model) + unclear


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
    caution = ", refer" * bool(row["refer"]) + ": " * bool(row["flags"]) + (row["flags"] or "").partition(";")[0]
    texts = (os.path.basename(row["file"]), f"right: {kind}", model.use,
             f"{row['decision']}, P({model.classes[1]}) = {row['probability']:.3f}{caution}")  # fmt: skip
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


def cell(value: object) -> str:
    """A value in the CSV, on one line; an apostrophe in front of a text keeps spreadsheets from running it."""
    text = printable(text_of(value))
    return f"'{text}" if isinstance(value, str) and FORMULA.match(text) else text


def text_in(cell: str) -> str:
    """The text that became this cell."""
    return cell.removeprefix("'") if FORMULA.match(cell) else cell


def table_line(model: Model, probability: str, decision: str, refer: str, file: str) -> str:
    """Columns of fixed width, with the file last since its width is not known in advance."""
    width = 26 if model.flags else 5  # of "refer", with reasons or alone
    return f"{probability:>11}  {decision:<9}  {refer[:width]:<{width}}  {file}"


def line_of(row: dict, model: Model, args: argparse.Namespace) -> str:
    """A row in the table."""
    probability = "-" if row["probability"] is None else f"{row['probability']:.4f}"
    decision = row["decision"] or ("error" if row["error"] else "no answer")
    return table_line(model, probability, decision, note_of(row, model, args), row["file"])


def note_of(row: dict, model: Model, args: argparse.Namespace) -> str:
    """The first reason to refer, or else the first flag, and how many more there are, with the marks of LEGEND."""
    why = reasons(row, model, args) if row["refer"] else []
    words = [*dict.fromkeys([*why, *filter(None, (row["flags"] or "").split("; "))])]
    note = words[0] + "?" * (words[0] in GUESSES) + f" +{len(words) - 1}" * (len(words) > 1) if words else ""
    return "refer: " * bool(why) + note


@contextlib.contextmanager
def rows_file(args: argparse.Namespace, model: Model) -> Generator[tuple[io.TextIOBase, collections.Counter]]:
    """The --csv, for the next row, and its earlier files; it is ours alone until the end. Nowhere if there is none."""
    place, earlier = args.csv or Path(os.devnull), collections.Counter()
    regular = place.is_file() or not place.exists()
    stream = open(place, "a+" if regular else "w", newline="", encoding="utf-8")  # noqa: SIM115
    try:
        if regular:
            keep_others_out(stream, place)
            if args.resume:
                earlier = earlier_files(stream, args, model)
            elif args.overwrite:
                stream.truncate(0)
        if not regular or not stream.seek(0, os.SEEK_END):
            stream.write(HEADER.decode())
        elif not args.resume:
            raise Problem(f"{place} was made by another process just now", 2)
        yield stream, earlier
    finally:
        with naming(place):  # what could not be written is tried again
            stream.close()


def keep_others_out(stream: io.TextIOWrapper, path: Path) -> None:
    """Until the stream is closed or this process ends; the system sees to it. There are network disks without locks.

    Raises Problem while another process is inside.
    """
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(stream.fileno(), 2**31 - 2, os.SEEK_SET)  # nobody could read what is locked: far behind the end
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise Problem(f"{path}: another predict.py is writing to it") from error


def earlier_files(stream: io.TextIOWrapper, args: argparse.Namespace, model: Model) -> collections.Counter:
    """How often each file is in a CSV, and under 1 and 3 how many failed or got no answer; cuts off a torn last line.

    Raises Problem when it is not a file that this call would have begun.
    """
    earlier = collections.Counter()
    content = args.csv.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    whose = "of another predict.py, with other columns" if content.startswith(HEADER[:30]) else "not of predict.py"
    foreign = Problem(f"{args.csv} is {whose}: name another --csv, or --overwrite replaces it", 2)
    if not (whole or HEADER).startswith(HEADER) or not (whole or HEADER.startswith(content)):
        raise foreign
    try:
        for row in csv.DictReader(whole.decode("utf-8", "replace").splitlines()):
            with contextlib.suppress(TypeError, ValueError):
                refer, silent = None if row["error"] else bool(reasons(row, model, args)), not row["decision"]
                expected = [model.label, text_of(args.threshold), text_of(refer)]
                same = silent == bool(row["error"] or (args.strict and forbidden(row, model)))
                if same and [text_in(row["model"]), row["threshold"], row["refer"]] == expected:
                    earlier.update([text_in(row["file"]), *([1 if row["error"] else 3] if silent else [])])
                    continue
            raise Problem(f"{args.csv} is of another model, threshold, --refer or --strict; --overwrite replaces it", 2)
    except csv.Error as error:
        raise foreign from error
    stream.truncate(len(whole))
    return earlier


def number(text: str, kind: type = float, low: float = 0, high: float = 1) -> float:
    with contextlib.suppress(ValueError):
        if low <= (value := kind(text)) <= high:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a{' whole' if kind is int else ''} number from {low} to {high}")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        say(f"error: {message}; {self.prog} --help lists the options")
        raise SystemExit(2)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Probabilities for X-rays from an exported graph. Not for clinical use.",
        epilog=f"Folders are searched for {', '.join(SUFFIXES)} and for DICOM files of any name; "
        "files named here are tried whatever their names.",
    )
    add, whole = parser.add_argument, functools.partial(number, kind=int, low=1, high=1024)
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    add("model", type=Path, help="an .onnx file that export.py made")
    add("paths", nargs="+", metavar="IMAGE_OR_FOLDER")
    add("--csv", type=Path, metavar="FILE", help="write rows there too, batch by batch")
    add("--resume", action="store_true", help="go on with an earlier --csv: its files are skipped")
    add("--overwrite", action="store_true", help="replace an earlier --csv")
    add("--json", action="store_true", help="print JSON lines, one object a file, instead of the table")
    add("--heatmaps", type=Path, metavar="DIR", help="write a PNG a film: where the graph sees it (slow without a GPU)")
    point = parser.add_mutually_exclusive_group()
    point.add_argument("--threshold", type=number, metavar="P", help="decide by it (default: the graph's own)")
    point.add_argument("--sensitivity", type=number, metavar="S", help="decide by the threshold that validation chose "
                       "to find that share of pneumonias: 0.95 or 0.99")  # fmt: skip
    add("--refer", type=number, metavar="MARGIN", help="refer films this close to the threshold too; a graph with a "
        "promise, told in the first lines, refers those of which it leaves not exactly one class possible")  # fmt: skip
    add("--strict", action="store_true", help="no answer, and exit code 3, where a flag forbids it: upside down, say")
    add("--provider", choices=["auto", *sorted(PROVIDERS)], default="auto", metavar="NAME",
        help="auto (CUDA where it works, else CPU), cpu, cuda or another of onnxruntime's")  # fmt: skip
    add("--batch-size", type=whole, metavar="N", help="at most; default: 16 on the CPU, 64 elsewhere")
    add("--workers", type=whole, metavar="N", help="batches at a time (default: one for each core, at most 16)")
    args = parser.parse_args(argv)
    if (args.resume or args.overwrite) and (not args.csv or args.resume == args.overwrite):
        parser.error("--resume and --overwrite say what to do with --csv: name it, and one of them")
    return args


def files_in(paths: list[str], passed_over: collections.Counter | None = None) -> Iterator[str]:
    return itertools.chain.from_iterable(walk(path, passed_over) for path in paths)


def meant(path: str) -> list[str]:
    """The path, or what fits it as a pattern, which not every shell replaces. Raises Problem where there is no film."""
    found = [path] if os.path.lexists(path) else sorted(glob.glob(path))
    if not found:
        raise Problem(f"{path}: no such file", 2)
    for name in found:
        passed_over = collections.Counter()
        if next(walk(name, passed_over), None) is None:
            others = f"; passed over: {counted(passed_over)}" if passed_over else ""
            raise Problem(f"{name}: no image in this folder{others}", 2)
    return found


def what_is_there(model: Path) -> str:
    """In place of a graph, and what to do; train.py leaves a folder with a model.pt in it."""
    if not model.is_dir():
        return "no such file"
    if (checkpoint := model / "model.pt").is_file():
        return f"that is the folder of a run: python export.py {shlex.quote(str(checkpoint))} makes a graph of it"
    graphs = sorted(model.glob("*.onnx"))
    return "that is a folder: name the .onnx file" + (f", such as {graphs[0]}" if graphs else "")


def work(args: argparse.Namespace) -> int:
    args.paths = [name for path in args.paths for name in meant(path)]
    if not args.model.is_file():
        raise Problem(f"{args.model}: {what_is_there(args.model)}", 2)
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
    said = settle(args, model)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    with rows_file(args, model) as (stream, earlier):
        where = "the CPU" if provider == "CPU" else provider
        for line in (f"{model.label}, threshold {args.threshold:.4f}, on {where}; {model.use}", *said):
            say(line)
        return predict(args, model, stream, earlier)


def settle(args: argparse.Namespace, model: Model) -> list[str]:
    """Sets the threshold; returns what the graph promises, on lines of at most 150 characters."""
    if args.strict and not model.flags:
        raise Problem("--strict: this graph flags no films, and export.py makes one that does of a new checkpoint", 2)
    if args.sensitivity is not None:
        if (name := f"sensitivity {100 * args.sensitivity:g} %") not in model.points:
            there = f"but for {found}" if (found := sensitivities(model.points)) else "nor for any other"
            raise Problem(f"--sensitivity {args.sensitivity:g}: no operating point for it in this graph, {there}", 2)
        args.threshold, said = model.points[name]
    else:
        args.threshold = model.threshold if args.threshold is None else args.threshold
        said = next((text for threshold, text in model.points.values() if threshold == args.threshold), "")
    return [line for line in (said, model.promise) if line]


def predict(args: argparse.Namespace, model: Model, stream: io.TextIOBase, earlier: collections.Counter) -> int:
    """Writes the rows of all files that are not in `earlier`; returns the exit code, which speaks of these too."""
    counts, why = collections.Counter(error=earlier.pop(1, 0), silent=earlier.pop(3, 0)), collections.Counter()
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    total = sum(1 for _ in files_in(args.paths)) - earlier.total() if shown else None
    started, skipped, passed_over = time.monotonic(), earlier.total(), collections.Counter()

    def files() -> Iterator[str]:
        for file in files_in(args.paths, passed_over):
            if not skipped or earlier[printable(file)] < 1:
                yield file
            else:
                earlier[printable(file)] -= 1

    left, marked = files(), False
    if (first := next(left, None)) is None:
        return nothing_left(skipped, counts, passed_over)
    left = itertools.chain([first], left)
    source = in_chunks(left, args.batch_size, args.workers, functools.partial(read_and_answer, model, args))
    if not args.json:
        print(table_line(model, "probability", "decision", "refer", "file"))
    with contextlib.closing(source), tqdm(total=total, unit=" films", disable=not shown) as bar:
        for done in source:
            rows = [film.row for film in done]
            with naming(args.csv):
                csv.writer(stream, lineterminator="\n").writerows(map(cell, row.values()) for row in rows)
                stream.flush()
            print("\n".join(json.dumps(row) if args.json else line_of(row, model, args) for row in rows), flush=True)
            marked = marked or (not args.json and any(set("?+") & set(note_of(row, model, args)) for row in rows))
            for row, kind in ((row, kind) for row in rows for kind in ("error", "warning") if row[kind]):
                say(f"{kind}: {row['file']}: {row[kind]}")
                counts[kind] += 1
            counts.update([row["decision"] or "silent" for row in rows if not row["error"]], files=len(rows))
            why.update(reasons(row, model, args)[0] for row in rows if row["refer"])
            bar.update(len(rows))
    if passed_over:
        say(f"note: passed over in folders: {counted(passed_over)}")
    classes = ", ".join(f"{counts[name]:,} {name}" for name in model.classes)
    if model.flags:
        classes += f", {counts['silent']:,} without an answer" if counts["silent"] else ""
        if any(counts[name] for name in (*model.classes, "silent")):
            classes += f", {why.total():,} of them to be read by a person{': ' * bool(why)}{counted(why)}"
    before = f"{numbered(skipped, 'file')} done before; " if skipped else ""
    failed = f"{numbered(counts['error'], 'error')}, {numbered(counts['warning'], 'warning')}"
    say(f"{classes}{';' if model.flags else ','} {failed}; {before}"
        f"{counts['files'] / (time.monotonic() - started):,.1f} files/s{LEGEND * marked}")  # fmt: skip
    return code_of(counts)


def nothing_left(skipped: int, counts: collections.Counter, passed_over: collections.Counter) -> int:
    """Says that all files were done before, and how; returns the exit code."""
    if passed_over:
        say(f"note: passed over in folders: {counted(passed_over)}")
    silent = f", {counts['silent']:,} without an answer" if counts["silent"] else ""
    failed = numbered(counts["error"], "error")
    say(f"nothing was left to do: {numbered(skipped, 'file')} done before; {failed}{silent}")
    return code_of(counts)


def code_of(counts: collections.Counter) -> int:
    return 1 if counts["error"] else 3 if counts["silent"] else 0


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
