import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import pytest
from downloads import (
    CONTENT,
    HALF,
    XRAYS,
    make_zip,
    names,
    serving,
    size_of,
    source_of,
    start_child,
    wait_until,
    zip_source,
)

import data
from basics.problems import Problem, UsageProblem
from films import download


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as running:
        yield running


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
