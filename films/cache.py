"""Decoded pixels on disk: one folder a source and size, built once, memory-mapped ever after.

identity(...)        what names the content of the entries
open_or_build(...)   the table of pixels and what is known of each image
"""

import collections
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from basics import disk, problems
from basics.disk import sha256_of
from basics.problems import Problem, numbered
from basics.progress import Progress
from films import images, patients
from films.sources import Entry

SUMS = "checksums.txt"
TASK = 16  # images that a thread takes at a time
LISTING_VERSION = 3  # part of a cache's name: raise it when a listing holds something else


def identity(entries: list[Entry], size: int, fit: str) -> str:
    """16 hex digits that name the content of all entries and what is made of it: another name, another cache."""
    found = in_threads(lambda i: _identity(entries[i]), len(entries), "reading")
    parts = [part for entry, text in zip(entries, found, strict=True) for part in (entry.file, text)]
    versions = f"decoder {images.DECODER_VERSION}, listing {LISTING_VERSION}"
    return sha256_of([versions, f"{size} pixels", fit, *parts])[:16]


def default_folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chest-xray"
    except RuntimeError as error:
        raise Problem("there is no home folder to keep decoded images in: say --cache DIR") from error


def _identity(entry: Entry) -> str:
    try:
        return entry.identity()
    except (OSError, ValueError) as error:  # decoding will say it again, by name
        return f"unreadable: {error}"


def in_threads(work: Callable, count: int, what: str) -> Iterator:
    """work(0), work(1), ... in order, in threads: decoding and hashing release the interpreter lock.

    A thread takes TASK items at a time, because handing one over costs as much as decoding a tenth of a small image;
    a few tasks are in flight, so that no thread waits for the consumer and memory stays bounded for any count.
    """
    workers = os.cpu_count() or 1
    waiting: collections.deque = collections.deque()
    with (
        warnings.catch_warnings(),  # for all threads: what matters is an error, and pydicom's could show a PatientID
        ThreadPoolExecutor(workers) as pool,
        Progress(count, what, leave=False, delay=1) as bar,
    ):
        warnings.simplefilter("ignore")

        def finish_oldest() -> list:
            done = waiting.popleft().result()
            bar.update(len(done))
            return done

        for start in range(0, count, TASK):
            items = range(start, min(start + TASK, count))
            waiting.append(pool.submit(lambda items: [work(i) for i in items], items))
            if len(waiting) > 4 * workers:
                yield from finish_oldest()
        while waiting:
            yield from finish_oldest()


def open_or_build(folder: Path, entries: list[Entry], size: int, fit: str) -> tuple[np.ndarray, dict]:
    """The table of pixels (N, size, size) uint8, memory-mapped, and its listing from `folder`, built there if need be.

    The listing is {"films": [{"index", "content", "pixels", "width", ...}], "bad": [(index, reason)]}; a film's row in
    the table is its place in the list, its index that of its entry. "patient" and "patient folded" are pseudonyms of a
    DICOM PatientID and of that without case and leading zeros, or null; the id itself is nowhere on disk. "patient
    common" is whether people elsewhere are likely to have that id.

    Files that could not be read are tried again each time: what was missing may be installed by now.

    A cache is built in a temporary folder and renamed when it is whole: a killed build leaves nothing under the final
    name. Of two processes that want the same one, the second waits for the first.
    """
    cached = _tried_again(_open(folder, size), entries, size, fit)
    if cached is None:
        try:
            with _alone(folder) as alone:
                cached = _tried_again(_open(folder, size), entries, size, fit)
                cached = cached or _rebuilt(folder, entries, size, fit, alone)
        except OSError as error:
            raise Problem(
                f"cannot write the cache {folder}: {error.strerror or error}; --cache DIR moves it"
            ) from error
    if cached is None:
        raise Problem(f"the cache {folder} could not be read back; --cache DIR moves it")
    return cached


def _tried_again(
    cached: tuple[np.ndarray, dict] | None, entries: list[Entry], size: int, fit: str
) -> tuple[np.ndarray, dict] | None:
    """The cache with today's reasons for its bad files; None without a cache, and where one of them can be read now."""
    if cached is None or not cached[1]["bad"]:
        return cached
    table, listing = cached
    indices, reasons = [i for i, _ in listing["bad"]], []
    for film, _ in in_threads(lambda k: _decoded(entries[indices[k]], size, fit), len(indices), "trying again"):
        if isinstance(film, images.Film):
            return None
        reasons.append(film)
    return table, {**listing, "bad": list(zip(indices, reasons, strict=True))}


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[bool]:
    """Waits until no other process builds this cache; yields whether that is certain: see disk.lock."""
    said = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                alone = stack.enter_context(disk.lock(folder.with_name(f".{folder.name}.lock"), "it is being built"))
                break
            except problems.Busy:
                if not said:
                    print(f"waiting for another process, which is building {folder}", file=sys.stderr)
                said = True
                time.sleep(0.1)
            except Problem as problem:
                raise Problem(f"{problem}; --cache DIR moves it") from problem
        yield alone


def _rebuilt(folder: Path, entries: list[Entry], size: int, fit: str, alone: bool) -> tuple[np.ndarray, dict] | None:
    """Builds and opens the cache in place of one that is damaged or lacks what can be read by now."""
    if folder.exists():
        shutil.rmtree(folder)
    if alone:  # what killed builds have left is as large as the cache, and of use to nobody
        for leftover in folder.parent.glob(f".{folder.name}.*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part") as temporary:
        whole = Path(temporary) / "cache"
        whole.mkdir()
        _build(whole, entries, size, fit, folder.parent)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, where locks do not work, and made the same
                raise
    disk.sync_folder(folder.parent)
    return _open(folder, size)


def _build(folder: Path, entries: list[Entry], size: int, fit: str, caches: Path) -> None:
    """Writes images.npy, a row for each image that can be read, and listing.json; caches: the folder of all of them.

    Rows are written to the file, not to a memory map: what a process has written to a map counts as its own memory.
    """

    films, bad, secret = [], [], b""
    with open(folder / "images.npy", "wb") as stream:
        stream.write(_npy_header(len(entries), size))
        found = in_threads(lambda i: _decoded(entries[i], size, fit), len(entries), "decoding")
        for i, (film, content) in enumerate(found):
            if isinstance(film, str):
                bad.append((i, film))
                continue
            stream.write(film.pixels)
            if (who := film.patient) and not secret:
                secret = patients.secret(caches)
            films.append({"index": i, "content": content, "pixels": film.pixel_hash, "looks": film.looks,
                          "width": film.width, "height": film.height, "mode": film.mode, "warning": film.warning,
                          "patient": who and patients.pseudonym(secret, who),
                          "patient common": who and patients.common(who),
                          "patient folded": who and patients.pseudonym(secret, patients.folded(who))})  # fmt: skip
        stream.seek(0)
        stream.write(_npy_header(len(films), size))
        stream.flush()
        os.fsync(stream.fileno())
    disk.write_text(folder / "listing.json", json.dumps({"films": films, "bad": bad}))
    disk.write_text(folder / SUMS, _sums(folder))


def _decoded(entry: Entry, size: int, fit: str) -> tuple[images.Film | str, str]:
    """The film, or the reason why there is none; and the hash of its content, or ""."""
    try:
        content = entry.read()
        raw = content if isinstance(content, bytes) else np.ascontiguousarray(content).data
        return images.decode(content, size, fit), hashlib.sha256(raw).hexdigest()[:16]
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error), ""


def _sums(folder: Path) -> str:
    """CRC-32 of both files: SHA-256 would take a quarter of a second for 5,000 films, and nobody attacks a cache."""
    lines = []
    for name in ("images.npy", "listing.json"):
        total = 0
        with open(folder / name, "rb") as stream:
            while part := stream.read(1 << 20):
                total = zlib.crc32(part, total)
        lines.append(f"{total:08x}  {name}\n")
    return "".join(lines)


def _npy_header(count: int, size: int) -> bytes:
    """The header of an .npy file, which numpy pads to the same length for any count."""
    stream = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(stream, shape)
    return stream.getvalue()


def _open(folder: Path, size: int) -> tuple[np.ndarray, dict] | None:
    """None where it is not there or was damaged: a disk's flipped bit would be another label, or another film."""
    try:
        if (folder / SUMS).read_text() != _sums(folder):
            return None
        listing = json.loads((folder / "listing.json").read_text(encoding="utf-8"))
        if not listing["films"]:
            return np.zeros((0, size, size), np.uint8), listing
        # Copy-on-write, because torch wants a writable array; nothing of ours writes to it.
        table = np.load(folder / "images.npy", mmap_mode="c")
        whole = table.shape == (len(listing["films"]), size, size) and table.dtype == np.uint8
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    return (table, listing) if whole else None


def warnings_of(entries: list[Entry], films: list[dict]) -> list[str]:
    """What the decoder warned of, a line for each kind with the first file that has it."""
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for entry, film in zip(entries, films, strict=True):
        if film["warning"]:
            kinds[film["warning"]].append(problems.printable(entry.file))
    lines = [f"{files[0]}: {text}" if len(files) == 1 else f"{len(files):,} files, such as {files[0]}: {text}"
             for text, files in sorted(kinds.items(), key=lambda kind: -len(kind[1]))]  # fmt: skip
    return lines[:10] + ([f"and {numbered(len(lines) - 10, 'more kind')} of warnings"] if len(lines) > 10 else [])


def report_bad(bad: list[tuple[str, str]], total: int, source: str, skip: bool) -> None:
    """Says which files could not be read; raises Problem unless they are to be skipped and others are left."""
    if not bad:
        return
    listing = "".join(f"\n  {problems.printable(file)}: {reason}" for file, reason in bad[:10])
    more = f"\n  and {len(bad) - 10:,} more" if len(bad) > 10 else ""
    text = f"{source}: {len(bad):,} of {numbered(total, 'file')} cannot be read{{}}:{listing}{more}"
    if not skip or len(bad) == total:
        raise Problem(text.format("; mend or remove them, or go on without them by --skip-bad"))
    print("note: " + text.format(" and are left out"), file=sys.stderr)
