"""Fetches the public data sets: resumes what was interrupted, trusts nothing but the hash, unpacks with care.

download(...)  name of a data set -> its folder or file below `out`
fetch(...)     the same for any Source
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import shlex
import shutil
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from tqdm import tqdm

from basics.disk import VERSION, sync_folder, write_json
from basics.problems import Problem, UsageProblem


@dataclass(frozen=True)
class Source:
    """One file on a server.

    Attributes:
        url: its address, http or https.
        file: the name it gets in the output folder.
        algorithm, digest: its hash; the last word on whether it arrived.
        folder: what the zip is unpacked to; "" where the file is used as it is.
    """

    url: str
    file: str
    algorithm: str
    digest: str
    folder: str = ""


# Kermany et al. 2018, Mendeley Data rscbjbr9sj version 2. The hash is the one that another public project pins for
# this zip; we have not checked it ourselves.
KERMANY = Source(
    "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
    "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
    "ChestXRay2017.zip",
    "sha256",
    "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
    folder="chest_xray",
)
# MedMNIST v2, Zenodo record 10519652, with the hashes of that record.
PNEUMONIAMNIST = {
    28: ("pneumoniamnist.npz", "28209eda62fecd6e6a2d98b1501bb15f"),
    64: ("pneumoniamnist_64.npz", "8f4eceb4ccffa70c672198ea285246c6"),
    128: ("pneumoniamnist_128.npz", "05b46931834c231683c68f40c47b2971"),
    224: ("pneumoniamnist_224.npz", "d6a3c71de1b945ea11211b03746c1fe1"),
}
SOURCES = {("kermany", size): KERMANY for size in PNEUMONIAMNIST} | {
    ("pneumoniamnist", size): Source(
        f"https://zenodo.org/records/10519652/files/{file}?download=1", file, "md5", digest
    )
    for size, (file, digest) in PNEUMONIAMNIST.items()
}

LAYOUT = [f"{side}/{name}" for side in ("train", "test") for name in ("NORMAL", "PNEUMONIA")]
BLOCK = 1 << 18  # bytes read and written at a time
TIMEOUT = 30  # seconds without a byte before a connection counts as dropped
PAUSES = (1, 2, 4, 8, 16)  # seconds before each further try
MAX_FILE = 5_000_000_000  # bytes; the zip has 1.2 GB
MAX_MEMBERS = 200_000  # files and folders in a zip
MAX_UNPACKED = 20_000_000_000  # bytes
MAX_RATIO, RATIO_FROM = 200, 100_000_000  # a member larger than RATIO_FROM may shrink this much: JPEGs hardly do
UNPACKED_PER_ZIP = 2.2  # bytes that a byte of zip may become: for the space check, before its directory is here


class _Dropped(Exception):
    """The transfer failed in a way that another try may mend."""


def download(source: str, size: int, out: Path) -> Path:
    """Fetches a data set by name: "kermany" (`size` is ignored) or "pneumoniamnist".

    Returns the folder of images or the .npz below `out`. Raises UsageProblem when there is no such data set, and
    Problem as `fetch` does.
    """
    if (source, size) not in SOURCES:
        names = ", ".join(sorted({name for name, _ in SOURCES}))
        sizes = ", ".join(map(str, PNEUMONIAMNIST))
        raise UsageProblem(f"no data set {source!r} of size {size}: there are {names}; sizes {sizes}")
    return fetch(SOURCES[source, size], out)


def fetch(source: Source, out: Path) -> Path:
    """Brings one source into `out` unless it is there, and says what to do next.

    What arrived before an interruption is kept as `<file>.part`, and the next call goes on from there. A complete
    file that somebody put into `out` is recognised by its hash. A zip is deleted once it is unpacked.

    Raises Problem when the server, the connection, the disk, the hash or the zip is at fault, when something else
    lies under the name, or while another process fetches the same file.
    """
    archive = out / source.file
    final = out / source.folder if source.folder else archive
    try:
        if _is_there(source, final):
            print(f"{final}: already there, nothing to do")
            return final
        out.mkdir(parents=True, exist_ok=True)
        with _lock(Path(f"{archive}.lock")):
            if not _is_there(source, final):  # another process may have finished in between
                if not _is_right_file(source, archive):
                    _download(source, archive)
                _discard(Path(f"{archive}.part"))
                if source.folder:
                    _unpack(archive, final)
                    archive.unlink()
    except OSError as error:  # those of the network are _Dropped or Problem by now: this is the disk
        reason = _one_line(error.strerror or error)
        raise Problem(
            f"{_one_line(error.filename or out)}: {reason}; "
            "what has arrived is kept, and once this is mended the same command goes on from there"
        ) from error
    what = "1 file"
    if source.folder:
        count = sum(path.is_file() for path in final.rglob("*"))
        what = f"{count:,} files ({source.file} is unpacked and deleted)"
    print(f"{final}: {what}; next: python data.py check --data {shlex.quote(str(final))}")
    return final


def _is_there(source: Source, final: Path) -> bool:
    """Whether the result exists; raises Problem when something else has its name."""
    if not source.folder:
        return _is_right_file(source, final)
    if not os.path.lexists(final):
        return False
    if not _has_layout(final):
        raise Problem(f"{final} is there without {', '.join(LAYOUT)}: move it away and repeat the command")
    return True  # it got this name when it was complete


def _has_layout(folder: Path) -> bool:
    return all((folder / inner).is_dir() for inner in LAYOUT)


def _is_right_file(source: Source, path: Path) -> bool:
    """Whether the complete file lies at `path`; raises Problem when it is another one: not ours to delete."""
    if not os.path.lexists(path):
        return False
    found = _hash_of(path, source.algorithm)
    if found != source.digest:
        raise Problem(
            f"{path} is there but is not the file of {source.url}: its {source.algorithm} is {found}, "
            f"expected {source.digest}; move it away and repeat the command"
        )
    return True


def _hash_of(path: Path, algorithm: str) -> str:
    with open(path, "rb") as stream:  # MD5 guards against accidents only; some systems forbid it otherwise
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _one_line(text: object) -> str:
    """Text from elsewhere, fit for a terminal: no line breaks, no escape codes, not endless."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))[:300]


def _check_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Problem(
            f"{folder}: {what} needs {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free; "
            "make room, or choose another disk with --out"
        )


# ---------------------------------------------------------------------------------------------- the lock


@contextlib.contextmanager
def _lock(path: Path) -> Generator[None]:
    """Keeps a second download of the same file out; raises Problem while another process holds the lock.

    Two processes that find the same stale lock at the same instant may both get in; then the hash refuses what
    they wrote together.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        _remove_stale_lock(path)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


def _remove_stale_lock(path: Path) -> None:
    try:
        pid = int(path.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:  # its owner was killed before it could write its number
        pid = 0
    if pid != os.getpid() and _is_alive(pid):
        raise Problem(f"process {pid} is downloading this already: wait for it, or delete {path} if it is not")
    path.unlink(missing_ok=True)  # Windows refuses while the owner lives, because it holds the file open


def _is_alive(pid: int) -> bool:
    if os.name != "posix" or pid <= 0:  # os.kill(pid, 0) would end the process on Windows
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        pass
    return True


# ------------------------------------------------------------------------------------------ the transfer


def _download(source: Source, archive: Path) -> None:
    """Brings the file to `archive`, going on with what an earlier call left; raises Problem."""
    part = Path(f"{archive}.part")
    for pause in (0, *PAUSES):
        time.sleep(pause)
        try:
            _attempt(source, part)
            break
        except _Dropped as error:
            trouble = str(error)
    else:
        known, have = _read_state(source, part)
        total = f" of {known['total']:,}" if known.get("total") else ""
        raise Problem(
            f"{source.url}: {trouble} ({len(PAUSES) + 1} tries); {have:,}{total} bytes have arrived, and the same "
            f"command goes on from there. {_by_hand(source, archive)}"
        )
    found = _hash_of(part, source.algorithm)
    if found != source.digest:
        _discard(part)  # else the next call would find it complete, for ever
        raise Problem(
            f"{source.url}: what arrived is not the right file: its {source.algorithm} is {found}, expected "
            f"{source.digest}; it is removed, and the same command starts afresh"
        )
    with open(part, "rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(part, archive)
    sync_folder(archive.parent)


def _by_hand(source: Source, archive: Path) -> str:
    return f"Or download {source.file} with a browser, move it to {archive}, and repeat the command"


def _attempt(source: Source, part: Path) -> None:
    """One request for what is missing; returns when all has arrived. Raises _Dropped or Problem."""
    known, have = _read_state(source, part)
    if known and have == known["total"]:  # killed between the last byte and the rename
        return
    response = _open(source, part, known, have)
    if response is None:
        return
    with response:
        start, told = _position(source, response)
        changed = any(told[key] and known.get(key) and told[key] != known[key] for key in told)
        if response.status == 206 and (start != have or changed):
            _discard(part)
            raise _Dropped("the file has changed on the server")
        total = told["total"]
        if total is not None:
            unpacked = int(total * UNPACKED_PER_ZIP) if source.folder else 0
            _check_space(part.parent, total - have + unpacked, f"{source.file} with what it unpacks to")
        if start == 0:  # also when the server does not know ranges, or the file has changed
            _discard(part)
            write_json(_state_of(part), told)  # before the first byte: a part without it is not trusted
        _receive(response, part, start, total)


def _state_of(part: Path) -> Path:
    return Path(f"{part}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_of(part).unlink(missing_ok=True)


def _read_state(source: Source, part: Path) -> tuple[dict, int]:
    """What the server said of the file when the part was begun, and the part's size; ({}, 0) if of no use."""
    try:
        known = json.loads(_state_of(part).read_bytes())
        have = part.stat().st_size
    except (FileNotFoundError, ValueError):
        return {}, 0
    if known["url"] != source.url or (known["total"] is not None and have > known["total"]):
        return {}, 0
    return known, have


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but only within the web: urllib itself would go to ftp."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(source: Source, part: Path, known: dict, have: int) -> http.client.HTTPResponse | None:
    """The server's answer, or None when it says that nothing is missing. Raises _Dropped or Problem."""
    headers = {"User-Agent": f"chest-xray-download/{VERSION}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        strong = known["etag"] and not known["etag"].startswith("W/")  # weak ones are not allowed here
        if validator := known["etag"] if strong else known["modified"]:
            headers["If-Range"] = validator
    opener = urllib.request.build_opener(_WebOnly)
    try:
        return opener.open(urllib.request.Request(source.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None
            _discard(part)
            raise _Dropped("the server has not got the rest of the file") from error
        answer = f"the server answers {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        if error.code >= 500 or error.code == 429:
            raise _Dropped(answer) from error
        if 300 <= error.code < 400:
            answer += f", a redirect that is not followed (to {_one_line(error.headers.get('Location'))})"
        raise Problem(f"{source.url}: {answer}. {_by_hand(source, part.with_suffix(''))}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _Dropped(_one_line(getattr(error, "reason", error))) from error


def _position(source: Source, response: http.client.HTTPResponse) -> tuple[int, dict]:
    """Where in the file the answer begins (-1: it does not say), and what it tells of it; raises Problem."""
    start, total = 0, response.length  # the Content-Length, None if there is none
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", response.headers.get("Content-Range", ""))
        start, total = (int(match[1]), int(match[2])) if match else (-1, None)
    elif response.status != 200:
        raise Problem(f"{source.url}: the server answers {response.status} instead of 200; try again later")
    if total is not None and total > MAX_FILE:
        raise Problem(f"{source.url}: the server announces {total:,} bytes, which cannot be {source.file}")
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return start, {"url": source.url, "etag": etag, "modified": modified, "total": total}


def _receive(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    """Appends the answer to the part, up to the file's announced end and no further; raises _Dropped."""
    end = MAX_FILE if total is None else total
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
    with bar, open(part, "ab") as stream:
        while start < end and (block := _read(response, min(BLOCK, end - start))):
            stream.write(block)
            start += len(block)
            bar.update(len(block))
    if total is not None and start < total:
        raise _Dropped("the connection ended too early")


def _read(response: http.client.HTTPResponse, count: int) -> bytes:
    try:
        return response.read1(count)  # what is there: a full read() would lose it when the connection drops
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(_one_line(error) or type(error).__name__) from error


# --------------------------------------------------------------------------------------------- unpacking


def _unpack(archive: Path, final: Path) -> None:
    """Unpacks the zip beside `final`, and renames the folder that holds the images to it when all is on the disk.

    Raises Problem, leaving nothing unpacked, when a member would leave the folder, is no plain file, is encrypted,
    damaged or a bomb, or when the images are not where they should be.
    """
    temporary = final.with_name(f"{final.name}.part")
    if os.path.lexists(temporary):  # of a process that was killed: we hold the lock
        shutil.rmtree(temporary)
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = _members(zipped)
            total = sum(info.file_size for info, _ in members)
            _check_space(final.parent, total, f"unpacking {archive.name}")
            temporary.mkdir()
            for info, path in tqdm(members, "unpacking", unit=" files", disable=not sys.stderr.isatty()):
                _extract(zipped, info, temporary / path)
        folders = [path for path in (temporary, *temporary.rglob("*")) if _has_layout(path)]
        if not folders:
            raise zipfile.BadZipFile(f"no folder in it holds {', '.join(LAYOUT)}")
        folder = min(folders, key=lambda path: len(path.parts))  # Kaggle's copy holds a second one inside
        _sync_tree(folder)
        os.replace(folder, final)
        sync_folder(final.parent)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        reason = _one_line(error) or type(error).__name__
        raise Problem(f"{archive}: {reason}; nothing was unpacked, delete it and repeat the command") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(zipped: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """What is to be unpacked and to where, after all of it was looked at; raises BadZipFile."""
    infos = zipped.infolist()
    if len(infos) > MAX_MEMBERS:
        raise zipfile.BadZipFile(f"{len(infos):,} members, at most {MAX_MEMBERS:,} are allowed")
    if (total := sum(info.file_size for info in infos)) > MAX_UNPACKED:
        raise zipfile.BadZipFile(f"unpacks to {total:,} bytes, at most {MAX_UNPACKED:,} are allowed")
    members, seen = [], set()
    for info in infos:
        path = PurePosixPath(info.filename)
        flaw = "has a name that occurs twice" if path in seen else _flaw(info)
        if flaw:
            raise zipfile.BadZipFile(f"member {info.orig_filename!r} {flaw}")
        seen.add(path)
        if "__MACOSX" not in path.parts and path.name != ".DS_Store":
            members.append((info, path))
    return members


def _flaw(info: zipfile.ZipInfo) -> str | None:
    """Why a member is not unpacked, or None; names are judged by the rules of every system, not of this one."""
    name = info.orig_filename  # as it is in the zip: `filename` is cut at a NUL, and has other slashes on Windows
    if not PurePosixPath(name).parts:
        return "has no name"
    if name.startswith("/") or ".." in name.split("/") or re.search(r"[\\:\0]", name):
        return "has a path that leaves the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, directory encrypted
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way other than deflate"  # zipfile would unpack those without a limit on memory
    if info.file_size > RATIO_FROM and info.file_size > MAX_RATIO * info.compress_size:
        return f"would grow from {info.compress_size:,} to {info.file_size:,} bytes"
    return None


def _extract(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Writes one member, at most as many bytes as the directory announces; raises BadZipFile."""
    if info.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size
    with zipped.open(info) as stream, open(target, "xb") as file:
        while left > 0:
            block = stream.read(min(BLOCK, left))
            if not block:
                raise zipfile.BadZipFile(f"member {info.orig_filename!r} is shorter than the zip says")
            file.write(block)
            left -= len(block)


def _sync_tree(folder: Path) -> None:
    """Makes everything in the folder survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
    sync_folder(folder)
