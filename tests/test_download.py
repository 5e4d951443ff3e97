import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import pytest

import data
import download
from common import Problem, UsageProblem

CONTENT = random.Random(0).randbytes(300_000)
HALF = 150_000
RUN = """
import sys
from pathlib import Path
import common, download
if limit := int(sys.argv[1]):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(common.run(lambda: 0 if download.fetch(download.Source(*sys.argv[3:]), Path(sys.argv[2])) else 1))
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


@pytest.fixture
def server(monkeypatch):
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
    environment = os.environ | {"PYTHONPATH": str(Path(download.__file__).parent)}
    fields = [source.url, source.file, source.algorithm, source.digest, source.folder]
    return subprocess.Popen([sys.executable, "-c", RUN, str(limit), str(out), *fields], env=environment,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip


def wait_until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ------------------------------------------------------------------------------------------- the transfer


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_arrives_and_nothing_else_is_left_behind(server, tmp_path, capsys, algorithm):
    path = download.fetch(source_of(server, algorithm=algorithm), tmp_path / "new" / "data")
    assert path == tmp_path / "new" / "data" / "file.npz"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["file.npz"]
    said = capsys.readouterr()
    assert said.out == f"{path}: 1 file; next: python data.py check --data {path}\n"
    assert said.err == ""  # no bar: this is no terminal


def test_a_terminal_gets_a_bar_that_ends_full(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.plan = [{"drop": HALF}]
    download.fetch(source_of(server), tmp_path)
    assert "300k/300k" in capsys.readouterr().err  # what was there already is counted


def test_a_complete_file_is_not_asked_for_again(server, tmp_path, capsys):
    (tmp_path / "file.npz").write_bytes(CONTENT)
    assert download.fetch(source_of(server), tmp_path) == tmp_path / "file.npz"
    assert server.requests == []
    assert "already there" in capsys.readouterr().out


def test_another_file_under_the_name_is_named_and_left_alone(server, tmp_path):
    (tmp_path / "file.npz").write_bytes(b"mine")
    with pytest.raises(Problem, match=r"file\.npz is there but is not .*expected [0-9a-f]{64}; move it away"):
        download.fetch(source_of(server), tmp_path)
    assert (tmp_path / "file.npz").read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_dropped_connection_is_resumed_within_one_call(server, tmp_path, reset):
    server.plan = [{"drop": 100_000, "reset": reset}, {"drop": 50_000, "reset": reset}]
    path = download.fetch(source_of(server), tmp_path)
    assert path.read_bytes() == CONTENT
    ranges, validators = zip(*server.requests, strict=True)
    assert ranges[0] is None and len(ranges) == 3
    if not reset:
        assert ranges[1:] == ("bytes=100000-", "bytes=150000-")
        assert validators == (None, '"one"', '"one"')
        assert server.served == len(CONTENT)


def test_a_connection_that_keeps_dropping_is_one_problem_and_the_next_call_goes_on(server, tmp_path):
    server.always = {"drop": 10_000}
    with pytest.raises(Problem, match=r"too early \(4 tries\); 40,000 of 300,000 bytes .* goes on from there"):
        download.fetch(source_of(server), tmp_path)
    assert names(tmp_path) == ["file.npz.part", "file.npz.part.json"]
    server.always = {}
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == ("bytes=40000-", '"one"')
    assert server.served == len(CONTENT)
    assert names(tmp_path) == ["file.npz"]


def test_a_silent_server_counts_as_a_dropped_connection(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.plan = [{"hold": HALF}]
    start = time.monotonic()
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - start < 20  # the server would hold its tongue for 30
    assert server.requests[1][0] == f"bytes={HALF}-"


def test_pauses_between_tries_grow(server, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    pauses = []
    monkeypatch.setattr(download, "time", types.SimpleNamespace(sleep=pauses.append))
    server.always = {"status": 503}
    with pytest.raises(Problem, match="503 Service Unavailable"):
        download.fetch(source_of(server), tmp_path)
    assert pauses == [0, *download.PAUSES] and len(server.requests) == len(pauses)
    assert pauses == sorted(set(pauses)) and sum(pauses) < 60


def test_nobody_listening_is_a_problem(server, tmp_path):
    with socket.socket() as taken:  # bound, but it does not listen
        taken.bind(("127.0.0.1", 0))
        source = download.Source(f"http://127.0.0.1:{taken.getsockname()[1]}/", "x", "md5", "0")
        with pytest.raises(Problem, match="refused.*0 bytes have arrived.*with a browser"):
            download.fetch(source, tmp_path)


def test_a_server_without_ranges_is_asked_from_zero(server, tmp_path):
    server.plan = [{"drop": HALF}, {"ranges": False}]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.served == HALF + len(CONTENT)


@pytest.mark.parametrize("deaf", [{}, {"deaf": True}])
def test_a_file_that_changed_on_the_server_is_fetched_from_zero(server, tmp_path, deaf):
    old = bytes(len(CONTENT))  # of the same length: only the ETag tells them apart
    server.plan = [{"content": old, "etag": '"old"', "drop": HALF}, deaf]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[1] == (f"bytes={HALF}-", '"old"')


@pytest.mark.parametrize(("etag", "modified", "validator"), [
    ('W/"weak"', "Sat, 01 Jan 2000 00:00:00 GMT", "Sat, 01 Jan 2000 00:00:00 GMT"),
    (None, None, None),
])  # fmt: skip
def test_a_download_without_a_strong_etag_is_resumed_too(server, tmp_path, etag, modified, validator):
    server.etag, server.modified, server.plan = etag, modified, [{"drop": HALF}]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[1] == (f"bytes={HALF}-", validator)


@pytest.mark.parametrize("sidecar", ["missing", "garbage", "other address", "part too long"])
def test_a_part_of_unknown_origin_is_not_trusted(server, tmp_path, sidecar):
    (tmp_path / "file.npz.part").write_bytes(bytes(HALF))
    known = {"url": server.url, "etag": '"one"', "modified": None, "total": len(CONTENT)}
    if sidecar == "other address":
        known["url"] += "?"
    if sidecar == "part too long":
        known["total"] = HALF - 1
    if sidecar != "missing":
        text = "{" if sidecar == "garbage" else json.dumps(known)
        (tmp_path / "file.npz.part.json").write_text(text)
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [(None, None)]
    assert names(tmp_path) == ["file.npz"]


def test_a_part_that_was_complete_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "file.npz.part").write_bytes(CONTENT)
    known = {"url": server.url, "etag": '"one"', "modified": None, "total": len(CONTENT)}
    (tmp_path / "file.npz.part.json").write_text(json.dumps(known))
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_a_refused_range_starts_again_from_zero(server, tmp_path):
    server.plan = [{"drop": HALF}, {"status": 416, "range": "bytes */7"}]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert [asked for asked, _ in server.requests] == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("told", ["bytes 5-299999/300000", "bytes 150000-299999/300001", "bytes 150000-", ""])
def test_another_range_than_the_one_asked_for_is_not_appended(server, tmp_path, told):
    server.plan = [{"drop": HALF}, {"status": 206, "range": told}]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert [asked for asked, _ in server.requests] == [None, f"bytes={HALF}-", None]


def test_an_answer_without_a_file_is_a_problem(server, tmp_path):
    server.always = {"status": 204}
    with pytest.raises(Problem, match="answers 204 instead of 200"):
        download.fetch(source_of(server), tmp_path)


def test_a_length_that_promises_too_much_is_corrected_by_the_server(server, tmp_path):
    server.plan = [{"length": 1000}]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert [asked for asked, _ in server.requests] == [None, f"bytes={len(CONTENT)}-"]  # answered by 416


def test_a_length_that_promises_too_little_is_caught_by_the_hash(server, tmp_path):
    server.plan = [{"length": -1000}]
    with pytest.raises(Problem, match="not the right file"):
        download.fetch(source_of(server), tmp_path)
    assert names(tmp_path) == []
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT


def test_more_than_was_announced_is_not_read(server, tmp_path):
    server.plan = [{"drop": HALF}, {"length": 5000, "extra": bytes(5000)}]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT


def test_a_length_is_not_needed(server, tmp_path):
    server.always = {"length": None}
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT


def test_an_endless_answer_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_FILE", 1000)
    sizes, hash_of = [], download._hash_of
    monkeypatch.setattr(download, "_hash_of", lambda path, how: sizes.append(size_of(path)) or hash_of(path, how))
    server.always = {"length": None}
    with pytest.raises(Problem, match="not the right file"):
        download.fetch(source_of(server), tmp_path)
    assert sizes == [1000]
    server.always = {}
    with pytest.raises(Problem, match="announces 300,000 bytes, which cannot be"):
        download.fetch(source_of(server), tmp_path)


def test_a_wrong_hash_names_both_and_the_next_call_starts_afresh(server, tmp_path):
    wrong = CONTENT[:-1] + b"x"
    server.plan = [{"content": wrong}]
    found, expected = (hashlib.sha256(content).hexdigest() for content in (wrong, CONTENT))
    with pytest.raises(Problem, match=f"sha256 is {found}, expected {expected}; it is removed"):
        download.fetch(source_of(server), tmp_path)
    assert names(tmp_path) == []
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [(None, None)] * 2


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final_and_says_how_to_do_without(server, tmp_path, status):
    server.always = {"status": status}
    with pytest.raises(Problem) as caught:
        download.fetch(source_of(server), tmp_path)
    text = str(caught.value)
    assert server.url in text and str(status) in text and f"move it to {tmp_path / 'file.npz'}" in text
    assert "\n" not in text and len(server.requests) == 1
    (tmp_path / "file.npz").write_bytes(CONTENT)  # what it asked for
    assert download.fetch(source_of(server), tmp_path) == tmp_path / "file.npz"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server, tmp_path, status):
    server.plan = [{"status": status}, {"drop": HALF}, {"status": status}]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.served == len(CONTENT)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/file", "data:,x"])
def test_a_redirect_out_of_the_web_is_refused(server, tmp_path, target):
    server.always = {"status": 302, "location": target}
    with pytest.raises(Problem, match=f"302 Found, a redirect that is not followed .to {target}"):
        download.fetch(source_of(server), tmp_path)
    assert names(tmp_path) == [] and len(server.requests) == 1


def test_a_redirect_within_the_web_is_followed_with_the_range(server, tmp_path):
    redirect = {"status": 302, "location": "/elsewhere"}
    server.plan = [redirect, {"drop": HALF}, redirect]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == (f"bytes={HALF}-", '"one"') and server.served == len(CONTENT)


def test_an_endless_redirect_is_a_problem(server, tmp_path):
    server.always = {"status": 302, "location": "/file"}
    with pytest.raises(Problem, match="302 Found"):
        download.fetch(source_of(server), tmp_path)


# ---------------------------------------------------------------------------- interruptions, locks, the disk


def test_a_killed_download_goes_on_where_it_stopped(server, tmp_path):
    server.plan = [{"hold": HALF}]
    part = tmp_path / "file.npz.part"
    with start_child(server, source_of(server), tmp_path) as child:
        wait_until(lambda: size_of(part) > HALF // 2)
        child.kill()
    server.released.set()
    have = size_of(part)
    assert 0 < have < len(CONTENT) and not (tmp_path / "file.npz").exists()
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[1:] == [(f"bytes={have}-", '"one"')]
    assert server.served == HALF + len(CONTENT) - have
    assert names(tmp_path) == ["file.npz"]  # the dead process' lock is gone too


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_second_process_is_refused_and_ctrl_c_keeps_what_has_arrived(server, tmp_path):
    server.plan = [{"hold": HALF}]
    part = tmp_path / "file.npz.part"
    with start_child(server, source_of(server), tmp_path) as child:
        wait_until(lambda: size_of(part) > HALF // 2)
        with pytest.raises(Problem, match=f"process {child.pid} is downloading this already.*file.npz.lock"):
            download.fetch(source_of(server), tmp_path)
        child.send_signal(signal.SIGINT)
        assert child.stderr.read() == "interrupted\n"
    assert child.returncode == 130
    server.released.set()
    have = size_of(part)
    assert HALF // 2 < have <= HALF and names(tmp_path) == ["file.npz.part", "file.npz.part.json"]
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[1:] == [(f"bytes={have}-", '"one"')]


@pytest.mark.parametrize("owner", ["dead", "nobody", "garbage", "0", "99999999999999999999"])
def test_a_stale_lock_is_taken_over(server, tmp_path, owner):
    if owner == "dead":
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            pass
        owner = str(child.pid)
    (tmp_path / "file.npz.lock").write_text("" if owner == "nobody" else owner)
    download.fetch(source_of(server), tmp_path)
    assert names(tmp_path) == ["file.npz"]


def test_the_lock_of_a_living_process_stays(server, tmp_path):
    (tmp_path / "file.npz.lock").write_text(str(os.getppid()))
    with pytest.raises(Problem, match=f"process {os.getppid()} is downloading"):
        download.fetch(source_of(server), tmp_path)
    assert names(tmp_path) == ["file.npz.lock"] and server.requests == []


def test_what_another_process_finished_in_between_is_not_fetched_again(server, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def late_lock(path):
        for inner in download.LAYOUT:
            (tmp_path / "chest_xray" / inner).mkdir(parents=True)
        yield

    monkeypatch.setattr(download, "_lock", late_lock)
    assert download.fetch(zip_source(server, make_zip()), tmp_path) == tmp_path / "chest_xray"
    assert server.requests == []


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")
def test_a_disk_that_takes_no_more_keeps_the_part(server, tmp_path):
    with start_child(server, source_of(server), tmp_path, limit=100_000) as child:
        error = child.stderr.read()
    assert child.returncode == 1
    assert error.startswith(f"error: {tmp_path}: File too large; what has arrived is kept")
    assert error.count("\n") == 1
    assert size_of(tmp_path / "file.npz.part") == 100_000
    assert download.fetch(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[1][0] == "bytes=100000-"


def test_a_folder_that_cannot_be_written_is_a_problem(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match=f"^{tmp_path / 'file'}: File exists"):
        download.fetch(source_of(server), tmp_path / "file")
    if os.name == "posix" and os.getuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(Problem, match="locked.*Permission denied"):
            download.fetch(source_of(server), tmp_path / "locked")


def free_space(monkeypatch, *free: int) -> None:
    left = list(free)
    usage = lambda folder: types.SimpleNamespace(free=left.pop(0))  # noqa: E731
    monkeypatch.setattr(download.shutil, "disk_usage", usage)


def test_space_is_checked_before_anything_arrives(server, tmp_path, monkeypatch):
    free_space(monkeypatch, len(CONTENT) - 1)
    with pytest.raises(Problem, match="needs 0.3 MB and 0.3 MB are free; make room"):
        download.fetch(source_of(server), tmp_path)
    assert names(tmp_path) == []
    free_space(monkeypatch, len(CONTENT))
    download.fetch(source_of(server), tmp_path)


def test_only_what_is_missing_needs_space(server, tmp_path, monkeypatch):
    free_space(monkeypatch, len(CONTENT), len(CONTENT) - HALF)
    server.plan = [{"drop": HALF}]
    download.fetch(source_of(server), tmp_path)


def test_a_zip_needs_space_for_what_it_unpacks_to_as_well(server, tmp_path, monkeypatch):
    content = make_zip()
    source = zip_source(server, content)
    needed = len(content) + int(2.2 * len(content))
    free_space(monkeypatch, needed - 1)
    with pytest.raises(Problem, match="what it unpacks to needs"):
        download.fetch(source, tmp_path)
    assert names(tmp_path) == []
    unpacked = sum(len(body) for name, body in XRAYS.items() if "MACOSX" not in name and "DS_Store" not in name)
    free_space(monkeypatch, needed, unpacked - 1)
    with pytest.raises(Problem, match="unpacking xrays.zip needs"):
        download.fetch(source, tmp_path)
    assert names(tmp_path) == ["xrays.zip"]
    free_space(monkeypatch, unpacked)  # the zip is there: it is neither asked for nor counted again
    download.fetch(source, tmp_path)
    assert len(server.requests) == 2 and names(tmp_path) == ["chest_xray"]


# ---------------------------------------------------------------------------------------------- unpacking

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


@pytest.mark.parametrize("inside", ["", "chest_xray/", "archive/more/"])
def test_a_zip_becomes_its_folder_and_is_deleted(server, tmp_path, capsys, inside):
    folder = download.fetch(zip_source(server, make_zip(inside=inside)), tmp_path / "my data")
    assert folder == tmp_path / "my data" / "chest_xray"
    assert files_below(folder) == FILES
    assert (folder / "test/NORMAL/1.jpeg").read_bytes() == b"test/NORMAL 1" * 50
    assert names(tmp_path / "my data") == ["chest_xray"]
    assert capsys.readouterr().out == (
        f"{folder}: 8 files (xrays.zip is unpacked and deleted); next: python data.py check --data '{folder}'\n"
    )


def test_a_zip_without_a_folder_around_the_images_becomes_the_folder(server, tmp_path):
    bare = {name.removeprefix("chest_xray/"): content for name, content in XRAYS.items()}
    assert files_below(download.fetch(zip_source(server, make_zip(bare)), tmp_path)) == FILES


def test_the_outer_one_of_two_nested_copies_is_used(server, tmp_path):
    nested = {name.replace("chest_xray/", "chest_xray/chest_xray/", 1): content for name, content in XRAYS.items()}
    folder = download.fetch(zip_source(server, make_zip(nested | XRAYS)), tmp_path)
    assert files_below(folder) == sorted(FILES + [f"chest_xray/{file}" for file in FILES])
    assert names(tmp_path) == ["chest_xray"]


def test_a_zip_that_was_put_there_by_hand_is_used(server, tmp_path):
    source = zip_source(server, make_zip())
    (tmp_path / "xrays.zip").write_bytes(server.content)
    assert files_below(download.fetch(source, tmp_path)) == FILES
    assert server.requests == []


def test_an_unpacked_folder_is_left_as_it_is(server, tmp_path, capsys):
    source = zip_source(server, make_zip())
    folder = download.fetch(source, tmp_path)
    (folder / "train/NORMAL/0.jpeg").unlink()
    assert download.fetch(source, tmp_path) == folder
    assert len(server.requests) == 1 and len(files_below(folder)) == 7
    assert capsys.readouterr().out.endswith(f"{folder}: already there, nothing to do\n")


def test_another_folder_under_the_name_is_named_and_left_alone(server, tmp_path):
    (tmp_path / "chest_xray" / "train").mkdir(parents=True)
    with pytest.raises(Problem, match="chest_xray is there without .*move it away"):
        download.fetch(zip_source(server, make_zip()), tmp_path)
    assert server.requests == [] and names(tmp_path) == ["chest_xray"]


def test_what_a_killed_process_had_half_unpacked_is_replaced(server, tmp_path):
    (tmp_path / "chest_xray.part" / "train").mkdir(parents=True)
    (tmp_path / "chest_xray.part" / "train" / "stray.jpeg").write_bytes(b"x")
    assert files_below(download.fetch(zip_source(server, make_zip()), tmp_path)) == FILES
    assert names(tmp_path) == ["chest_xray"]


def test_a_zip_with_the_wrong_hash_is_not_unpacked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_unpack", lambda *_: pytest.fail("unpacked"))
    source = zip_source(server, make_zip())
    server.content += b"x"
    with pytest.raises(Problem, match="not the right file"):
        download.fetch(source, tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("../evil", b"x"), "'../evil' has a path that leaves"),
        (("chest_xray/../../evil", b"x"), "leaves the folder"),
        (("chest_xray/..", b"x"), "leaves the folder"),
        ((member("/evil"), b"x"), "'/evil' has a path that leaves"),
        ((member("C:evil"), b"x"), "leaves the folder"),
        ((member("C:/evil"), b"x"), "leaves the folder"),
        ((member("..\\evil"), b"x"), "leaves the folder"),
        ((member("\\\\host\\evil"), b"x"), "leaves the folder"),
        ((member("a.jpeg\0.exe"), b"x"), "leaves the folder"),
        (("__MACOSX/../../evil", b"x"), "leaves the folder"),
        ((member(""), b"x"), "'' has no name"),
        ((member("link", stat.S_IFLNK | 0o777), b"/etc/passwd"), "'link' is a link or a device"),
        ((member("device", stat.S_IFCHR | 0o666), b""), "is a link or a device"),
        ((member("pipe", stat.S_IFIFO | 0o666), b""), "is a link or a device"),
        (("chest_xray//train/NORMAL/0.jpeg", b"x"), "occurs twice"),
        (("chest_xray/train", b"x"), "chest_xray/?.*(Is a directory|File exists)"),
    ],
)
def test_a_member_that_is_not_a_file_in_the_folder_is_refused(server, tmp_path, extra, message):
    out = tmp_path / "a" / "b"
    with pytest.raises(Problem, match=message) as caught:
        download.fetch(zip_source(server, make_zip(extra=[extra])), out)
    assert "\n" not in str(caught.value)
    assert names(out) == ["xrays.zip"] and names(tmp_path) == ["a"] and names(tmp_path / "a") == ["b"]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_occurs_twice_is_refused(server, tmp_path):
    with pytest.raises(Problem, match="'chest_xray/train/NORMAL/0.jpeg' has a name that occurs twice"):
        download.fetch(zip_source(server, make_zip(extra=[("chest_xray/train/NORMAL/0.jpeg", b"x")])), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


def patched(content: bytes, name: str, offset: int, value: bytes) -> bytes:
    """The zip with some bytes of a member's entry in the directory replaced."""
    at = -1
    while True:
        at = content.index(b"PK\x01\x02", at + 1)
        if content[at + 46 :].startswith(name.encode()):
            return content[: at + offset] + value + content[at + offset + len(value) :]


NAME = "chest_xray/train/NORMAL/0.jpeg"  # 700 bytes


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, b"\x01\x00", "is encrypted"),
        (8, b"\x41\x00", "is encrypted"),
        (10, b"\x0e\x00", "in a way other than deflate"),  # LZMA
        (16, b"\0\0\0\0", "Bad CRC-32"),
        (24, struct.pack("<I", 699), "Bad CRC-32"),  # the directory announces less than there is
        (24, struct.pack("<I", 701), "shorter than the zip says|Bad CRC-32"),
        (42, struct.pack("<I", 7), "Bad magic number"),  # a wrong place in the zip
    ],
)
def test_an_entry_that_is_encrypted_or_lies_is_refused(server, tmp_path, offset, value, message):
    content = patched(make_zip(), NAME, offset, value)
    with pytest.raises(Problem, match=f"xrays.zip: .*({message}).*; nothing was unpacked"):
        download.fetch(zip_source(server, content), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


def test_no_more_than_the_announced_size_is_written(server, tmp_path):
    content = make_zip()
    shorter = XRAYS[NAME][:100]
    content = patched(content, NAME, 16, struct.pack("<I", zipfile.crc32(shorter)))
    content = patched(content, NAME, 24, struct.pack("<I", 100))
    folder = download.fetch(zip_source(server, content), tmp_path)
    assert (folder / "train/NORMAL/0.jpeg").read_bytes() == shorter


def test_a_bomb_is_refused(server, tmp_path):
    stream = io.BytesIO(make_zip())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as zipped, zipped.open("bomb", "w") as file:
        for _ in range(101):
            file.write(bytes(1_000_000))
    with pytest.raises(Problem, match="'bomb' would grow from [0-9,]+ to 101,000,000 bytes"):
        download.fetch(zip_source(server, stream.getvalue()), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


@pytest.mark.parametrize(("limit", "value", "message"), [
    ("MAX_MEMBERS", 9, "10 members, at most 9 are allowed"),
    ("MAX_UNPACKED", 1000, r"unpacks to [\d,]+ bytes, at most 1,000 are allowed"),
])  # fmt: skip
def test_too_many_members_or_bytes_are_refused(server, tmp_path, monkeypatch, limit, value, message):
    monkeypatch.setattr(download, limit, value)
    with pytest.raises(Problem, match=message):
        download.fetch(zip_source(server, make_zip()), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


def test_what_is_no_zip_of_xrays_is_a_problem(server, tmp_path):
    with pytest.raises(Problem, match="File is not a zip file; nothing was unpacked, delete it"):
        download.fetch(zip_source(server, b"<html>log in</html>"), tmp_path / "a")
    with pytest.raises(Problem, match="no folder in it holds train/NORMAL"):
        download.fetch(zip_source(server, make_zip({"train/NORMAL/0.jpeg": b"x"})), tmp_path / "b")
    assert names(tmp_path / "b") == ["xrays.zip"]


def test_a_full_disk_while_unpacking_keeps_the_zip(server, tmp_path, monkeypatch):
    def full(zipped, info, target):
        if target.name == "1.jpeg":
            raise OSError(28, "No space left on device", str(target))
        extract(zipped, info, target)

    extract = download._extract
    monkeypatch.setattr(download, "_extract", full)
    source = zip_source(server, make_zip())
    with pytest.raises(Problem, match="1.jpeg: No space left on device; what has arrived is kept"):
        download.fetch(source, tmp_path)
    assert names(tmp_path) == ["xrays.zip"]
    monkeypatch.undo()
    assert files_below(download.fetch(source, tmp_path)) == FILES
    assert len(server.requests) == 1


def test_any_damage_to_a_zip_is_a_problem_or_harmless(server, tmp_path):
    good, chance = make_zip(), random.Random(0)
    for i in range(100):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        out = tmp_path / str(i)
        try:
            out.mkdir()
            (out / "xrays.zip").write_bytes(content)
            download.fetch(zip_source(server, bytes(content)), out)
        except Problem as problem:
            assert "\n" not in str(problem) and names(out) == ["xrays.zip"]
        assert len(names(tmp_path)) == i + 1


# ---------------------------------------------------------------------------------------------- the table


def test_data_sets_go_by_name_and_size(server, tmp_path, monkeypatch):
    monkeypatch.setitem(download.SOURCES, ("pneumoniamnist", 64), source_of(server, file="small.npz"))
    assert download.download("pneumoniamnist", 64, tmp_path) == tmp_path / "small.npz"
    for name, size in (("pneumoniamnist", 65), ("imagenet", 28)):
        with pytest.raises(UsageProblem, match=f"no data set '{name}' of size {size}: there are kermany, pneumo"):
            download.download(name, size, tmp_path)


def test_every_source_is_on_the_web_and_has_a_hash_of_its_own():
    files = {}
    for (name, _), source in download.SOURCES.items():
        assert source.url.startswith("https://")
        assert len(bytes.fromhex(source.digest)) == hashlib.new(source.algorithm).digest_size
        assert bool(source.folder) == source.file.endswith(".zip") == (name == "kermany")
        assert files.setdefault(source.digest, source.file) == source.file
    assert len(files) == 5
    assert {size for name, size in download.SOURCES if name == "pneumoniamnist"} == {28, 64, 128, 224}


# -------------------------------------------------------------------------------------------- command line


def test_the_command_fetches_what_it_is_asked_for(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(download.SOURCES, ("pneumoniamnist", 64), source_of(server))
    command = ["download", "--source", "pneumoniamnist", "--size", "64", "--out", str(tmp_path)]
    assert data.main(command) == 0
    assert (tmp_path / source_of(server).file).read_bytes() == CONTENT
    assert "next: python data.py check --data" in capsys.readouterr().out
    server.always = {"status": 404}
    assert data.main([*command[:-1], str(tmp_path / "other")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "404" in error and error.count("\n") == 1
