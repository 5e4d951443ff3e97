"""A local server that can misbehave, X-rays in zip files, and child processes: what tests of downloads share."""

import contextlib
import hashlib
import http.server
import io
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from films import download

CONTENT = random.Random(0).randbytes(300_000)
HALF = 150_000
RUN = """
import sys
from pathlib import Path
from basics import problems
from films import download
if limit := int(sys.argv[1]):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(problems.run(lambda: 0 if download.fetch(download.Source(*sys.argv[3:]), Path(sys.argv[2])) else 1))
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's content with ranges, except where the next act of its plan says otherwise."""

    def do_GET(self):
        server = self.server
        act = server.plan.pop(0) if server.plan else server.always
        content, etag = act.get("content", server.content), act.get("etag", server.etag)
        asked, validator = self.headers["Range"], self.headers["If-Range"]
        server.requests.append((asked, validator))
        if "status" in act:
            self.send_response(act["status"])
            self.send_header("Content-Range", act.get("range", "bytes */0"))
            self.send_header("Location", act.get("location", "/"))
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if "ranges" in act or (validator not in (None, etag, server.modified) and "deaf" not in act):
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if act.get("length", "") is not None:
            self.send_header("Content-Length", str(len(content) - start + act.get("length", 0)))
        for name, value in (("ETag", etag), ("Last-Modified", server.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        body = content[start:][: act.get("drop", act.get("hold"))] + act.get("extra", b"")
        server.served += len(body)  # before the write: whoever has read all of it may look at once
        self.wfile.write(body)
        if "hold" in act:
            server.released.wait(30)
        if act.get("reset"):  # no goodbye: what the other side has not read yet is lost
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.modified = CONTENT, '"one"', None
        self.plan, self.always, self.requests, self.served = [], {}, [], 0
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file"

    def handle_error(self, *_):  # the client was killed, or its connection cut
        pass


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Generator[Server]:
    """A running Server, asked directly and without pauses."""
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def source_of(server: Server, content: bytes = CONTENT, algorithm: str = "sha256", **more) -> download.Source:
    digest = hashlib.new(algorithm, content).hexdigest()
    return download.Source(server.url, more.pop("file", "file.npz"), algorithm, digest, **more)


def zip_source(server: Server, content: bytes) -> download.Source:
    server.content = content
    return source_of(server, content, file="xrays.zip", folder="chest_xray")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start_child(server: Server, source: download.Source, out: Path, limit: int = 0) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(download.__file__).parent.parent)}
    fields = [source.url, source.file, source.algorithm, source.digest, source.folder]
    return subprocess.Popen([sys.executable, "-c", RUN, str(limit), str(out), *fields], env=environment,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ---------------------------------------------------------------------------------------------- zip files

XRAYS = {f"chest_xray/{inner}/{i}.jpeg": f"{inner} {i}".encode() * 50 for inner in download.LAYOUT for i in (0, 1)}
XRAYS |= {"chest_xray/.DS_Store": b"x", "__MACOSX/chest_xray/._0.jpeg": b"x"}
FILES = sorted(f"{inner}/{i}.jpeg" for inner in download.LAYOUT for i in (0, 1))


def make_zip(members: dict | None = None, extra: list[tuple] = (), inside: str = "") -> bytes:
    """A zip of X-rays, each below the folder `inside`, and then of extra (name or ZipInfo, content) pairs."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in (XRAYS if members is None else members).items():
            zipped.writestr(inside + name, content)
        for info, content in extra:
            zipped.writestr(info, content)
    return stream.getvalue()


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("replaced")
    info.filename = info.orig_filename = name  # the constructor would tidy it up
    info.external_attr = mode << 16
    return info


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
