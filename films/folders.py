"""What lies in a folder, or in a zip of one: films by class and side, and what is left out.

find(...)                 a folder, on disk or in a zip -> Found
read(...), identity(...)  the bytes of a file that may be anything, and what changes with them
"""

import collections
import contextlib
import hashlib
import io
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Container, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from basics.problems import Problem, numbered, printable
from films import images

Tree = dict[str, Any]  # of a zip: name -> Tree, or ZipInfo of a file
Folder = Path | Tree
File = Path | zipfile.ZipInfo
Places = set[tuple[int, int]]  # folders that one has been in, by device and inode
MAX_BYTES = 500_000_000  # of one image file; above this it is a mistake or an attack
PICTURES = (".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".heic")  # shown as pictures everywhere, and not read
WRAPPERS = 4  # folders around the one that is used, itself included
REMEDY = (
    "--classes says what the class folders are called, such as NORMAL=healthy PNEUMONIA=sick, or a .csv lists films"
)
NAMED = 5  # folders, or suffixes, in a note


@dataclass(frozen=True)
class Found:
    """What a folder or a zip holds.

    Attributes:
        path: of what was looked into.
        root: the folder that was used, which may be inside others that hold nothing else.
        films: (side, label, name, file) of each film; names are below `root`.
        others: suffix -> how many files with it lie among the films and are none.
        elsewhere: folder -> how many pictures it holds that are not used, because it is no folder of a class.
        closed: folders, outside of those, that could not be looked into.
    """

    path: Path
    root: Folder
    films: list[tuple[str, int, str, File]]
    others: collections.Counter[str]
    elsewhere: collections.Counter[str]
    closed: list[str]

    def notes(self) -> list[str]:
        """What a person should know of what is not used, in sentences."""
        found = []
        if self.others:
            files, are = numbered(self.others.total(), "file"), "is" if self.others.total() == 1 else "are"
            found.append(f"{files} in {self.path} {are} no JPEG, PNG or DICOM and {are} not used: "
                         f"{_listed(self.others, 'kind')}")  # fmt: skip
        if self.elsewhere:
            lie, are = ("lies", "is") if self.elsewhere.total() == 1 else ("lie", "are")
            found.append(f"{numbered(self.elsewhere.total(), 'picture')} in {self.path} {lie} outside the folders that "
                         f"are used, and {are} not: {_listed(self.elsewhere, 'folder')}")  # fmt: skip
        if self.closed:
            found.append(f"{numbered(len(self.closed), 'folder')} in {self.path} cannot be looked into, such as "
                         f"{self.closed[0]}")  # fmt: skip
        return found


def _listed(counts: collections.Counter[str], what: str) -> str:
    """ "10 in COVID, 1 in other and 3 more folders", the most first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {name}" for name, count in ordered[:NAMED]]
    more = f" and {numbered(len(counts) - NAMED, f'more {what}')}" if len(counts) > NAMED else ""
    return printable(", ".join(shown) + more)


def find(
    path: Path, archive: zipfile.ZipFile | None, classes: tuple[tuple[str, ...], ...], sides: dict[str, str]
) -> Found:
    """Finds the class folders of a folder or of a zip, in the folders of sides or directly, and what is in them.

    archive: the zip, open, that `path` is. classes: names of their folders, by label. sides: name of a folder ->
    "train", "val" or "test". All in whatever case; of folders that differ in nothing else each is taken. Raises Problem
    if there is none.
    """
    labels = {name.lower(): label for label, names in enumerate(classes) for name in names}
    start = _tree_of(archive) if archive else path
    chain = _unwrapped(start, {*labels, *sides})
    if not chain or not any(_subfolders(hall, labels) for hall in _halls(chain[-1], sides)):
        raise Problem(no_classes(path, chain[-1] if chain else start, classes, sides))
    halls = [(sides[name.lower()], f"{name}/", folder) for name, folder in _subfolders(chain[-1], sides)
             if _subfolders(folder, labels)] or [("", "", chain[-1])]  # fmt: skip
    used = [(side, labels[name.lower()], above + name, folder)
            for side, above, hall in halls for name, folder in _subfolders(hall, labels)]  # fmt: skip
    ways = {_place(folder) for folder in [*chain, *(hall for *_, hall in halls)]}
    known = ways | {_place(folder) for *_, folder in used}  # a link from one class leads neither up nor into another
    films, others, visited = [], collections.Counter(), set(known)
    for side, label, above, folder in used:
        here = set(known)
        for name, file in _files(folder, above, here):
            if _is_film(name, file, archive, closed=True):  # whoever reads it will say why that is not possible
                films.append((side, label, name, file))
            else:
                others[PurePosixPath(name).suffix.lower() or "without a suffix"] += 1
        visited |= here
    return Found(path, chain[-1], films, others, *_elsewhere(start, archive, ways, visited - ways))


def _halls(folder: Folder, sides: dict[str, str]) -> list[Folder]:
    """Where class folders may be: a folder itself and those of its sides."""
    return [folder, *(inner for _, inner in _subfolders(folder, sides))]


def no_classes(path: Path, folder: Folder, classes: tuple[tuple[str, ...], ...], sides: dict[str, str]) -> str:
    """Says that no class folder is there, which folders are, and what to do."""
    missing = f"{path}: no folders named {' and '.join(' or '.join(names) for names in classes)}"
    missing += ", neither here nor in train/, val/ and test/"
    for _ in range(WRAPPERS):  # down to the first folder with more than one, or with one of files
        inner = _inside(folder)[1]
        if len(inner) != 1 or not _inside(next(iter(inner.values())))[1]:
            break
        folder = next(iter(inner.values()))
    inner = dict.fromkeys(name for hall in _halls(folder, sides) for name in _inside(hall)[1])
    names = [name for name in inner if name.lower() not in sides]
    if not names:
        return missing
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{missing}, but {printable(', '.join(names[:NAMED]))}{more}; {REMEDY}"


def _unwrapped(start: Folder, wanted: set[str]) -> list[Folder]:
    """The folders from `start` down to the first that has a wanted one in it, through such as hold one folder alone."""
    chain = [start]
    while len(chain) <= WRAPPERS:
        if _subfolders(chain[-1], wanted):
            return chain
        _, inner = _inside(chain[-1])
        if len(inner) != 1:
            break
        chain += inner.values()
    return []


def _elsewhere(
    start: Folder, archive: zipfile.ZipFile | None, ways: Places, visited: Places
) -> tuple[collections.Counter[str], list[str]]:
    """How many pictures lie in folders that were not visited, by the topmost such folder, and folders that are closed.

    ways: the folders that lead to those which are used; what lies loose in them counts as loose.
    """
    counts, closed, visited = collections.Counter(), [], visited | {_place(start)}
    waiting: list[tuple[str, str, Folder]] = [("", "", start)]  # name, the topmost folder that is not used, folder
    while waiting:
        above, top, folder = waiting.pop()
        try:
            files, inner = _inside(folder)
            places = {name: _place(item) for name, item in inner.items()}
        except OSError as error:
            closed.append(f"{printable(above)} ({error.strerror or error})")
            continue
        where = f"in {top}" if top else f"loose in {above}" if above else "loose"
        counts[where] += sum(name.lower().endswith(PICTURES) or _is_film(name, file, archive, closed=False)
                             for name, file in files.items())  # fmt: skip
        for name, place in places.items():
            if place not in visited:
                visited.add(place)
                path = above + name
                waiting.append((f"{path}/", top or ("" if place in ways else path), inner[name]))
    return +counts, closed


# ------------------------------------------------------------------------------------------- what is in a folder


def _tree_of(archive: zipfile.ZipFile) -> Tree:
    """The members of a zip as folders; some programs on Windows write their names with backslashes."""
    tree: Tree = {}
    for member in archive.infolist():
        *folders, name = member.filename.replace("\\", "/").split("/")
        inner = tree
        for folder in folders:
            if folder in ("", "."):
                continue
            if not isinstance(inner.get(folder), dict):
                inner[folder] = {}
            inner = inner[folder]
        if name and not isinstance(inner.get(name), dict):
            inner[name] = member
    return tree


def _inside(folder: Folder) -> tuple[dict[str, File], dict[str, Folder]]:
    """The files and the folders in a folder, by name and in its order, but for what systems and programs hide there."""
    found = folder if isinstance(folder, dict) else {item.name: item for item in folder.iterdir()}
    files: dict[str, File] = {}
    folders: dict[str, Folder] = {}
    for name, item in sorted(found.items()):
        if name.startswith(".") or name == "__MACOSX":
            continue
        if isinstance(item, dict) or (isinstance(item, Path) and item.is_dir()):
            folders[name] = item
        else:
            files[name] = item
    return files, folders


def _subfolders(folder: Folder, names: Container[str]) -> list[tuple[str, Folder]]:
    """(name, folder) of the sub-folders with one of these names, in whatever case they are written."""
    return [(name, item) for name, item in _inside(folder)[1].items() if name.lower() in names]


def _place(folder: Folder) -> tuple[int, int]:
    if isinstance(folder, dict):
        return -1, id(folder)
    status = folder.stat()
    return status.st_dev, status.st_ino


def _files(folder: Folder, above: str, seen: Places) -> Iterator[tuple[str, File]]:
    """(name, file) of the files below a folder, and where links lead; no folder twice, so that circles end.

    above: what their names begin with. seen: folders that are not entered; those that are come to it.
    """
    waiting = [(above, folder)]
    while waiting:
        above, folder = waiting.pop()
        files, inner = _inside(folder)
        yield from ((f"{above}/{name}", file) for name, file in files.items())
        for name, item in inner.items():
            if (place := _place(item)) not in seen:
                seen.add(place)
                waiting.append((f"{above}/{name}", item))


def _is_film(name: str, file: File, archive: zipfile.ZipFile | None, closed: bool) -> bool:
    """By its suffix; else by DICOM's mark, as on discs from hospitals, whose files are called IM000001 or 1.2.840.1.

    closed: what to say of a file that cannot be looked into.
    """
    name = name.lower()
    if name.endswith(images.SUFFIXES):
        return True
    if name.endswith(PICTURES) or name.rpartition("/")[2] == "dicomdir":
        return False
    try:
        return _head(file, archive)[128:] == b"DICM"
    except (OSError, ValueError):
        return closed


def _head(file: File, archive: zipfile.ZipFile | None) -> bytes:
    if isinstance(file, Path):
        with _regular(file) as stream:
            return stream.read(132)
    assert archive is not None  # whose member it is
    with _reasons(), archive.open(file) as stream:
        return stream.read(132)


# --------------------------------------------------------------------------------------------- the bytes of files


@contextlib.contextmanager
def _regular(path: Path) -> Generator[io.FileIO]:
    """A regular file, open. Raises ValueError for a pipe or device, on which reading could hang."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a regular file")
        yield stream


def read(file: File, archive: zipfile.ZipFile | None = None) -> bytes:
    """The bytes of a regular file on disk, or of one in a zip. Raises OSError or ValueError with the reason."""
    if isinstance(file, Path):
        with _regular(file) as stream:
            _check_size(os.fstat(stream.fileno()).st_size)
            return stream.readall()
    assert archive is not None  # whose member it is
    _check_size(file.file_size)
    with _reasons():
        return archive.read(file)


def identity(file: File, archive: zipfile.ZipFile | None = None) -> str:
    """A text that changes with the bytes of the file; of one in a zip it is the zip's own checksum."""
    if isinstance(file, Path):
        return hashlib.sha256(read(file)).hexdigest()
    return f"{file.CRC:08x} {file.file_size}"


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes is more than the limit of {MAX_BYTES:,}")


@contextlib.contextmanager
def _reasons() -> Generator[None]:
    """What zipfile raises for a wrong checksum, a password, a method, or what unpacks it, as ValueError."""
    try:
        yield
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(str(error)) from error
