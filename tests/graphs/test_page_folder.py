"""The folder of a page: of graphs of ours alone, whole or not at all, and in nobody's place but an earlier page's."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

import export
from graphs import page as site

GRAPH = site.ROOT / "trained" / "simple.onnx"
needs_packages = pytest.mark.skipif(
    not (site.ROOT / "node_modules" / site.RUNTIME).is_dir(), reason="no node_modules: npm ci"
)


def test_what_is_no_graph_of_ours_gets_no_page(tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("no graph")
    folder = tmp_path / "site"
    for graph, said in (("text.onnx", "cannot be used"), ("none.onnx", "no such file"), ("", "that is a folder")):
        capsys.readouterr()
        assert export.main(["page", str(tmp_path / graph), "--out", str(folder)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("error: ") and said in error and not folder.exists()
    shutil.copy(GRAPH, tmp_path / "x.onnx")
    (tmp_path / "x.json").write_text(json.dumps({"sha256": "another"}))
    assert export.main(["page", str(tmp_path / "x.onnx"), "--out", str(folder)]) == 1
    assert "the certificate of another graph" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_page_says_in_one_line_that_its_port_is_taken():
    ready = ("-o", ".venv-page/ready", "-o", "node_modules/.package-lock.json")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        command = ["make", "--no-print-directory", *ready, "page", f"PORT={port}", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=site.ROOT, capture_output=True, text=True)
    first, *rest = done.stderr.splitlines()
    assert (done.returncode, done.stdout, first) == (2, "", f"port {port} is taken: make page PORT={port + 1}")
    assert len(rest) == 1 and rest[0].startswith("make")


@needs_packages
def test_only_an_earlier_page_is_replaced(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    assert export.main(["page", str(GRAPH), "--out", str(folder)]) == 0  # an empty folder
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (folder / site.CERTIFICATE).read_bytes() == GRAPH.with_suffix(".json").read_bytes()
    (folder / "mine.txt").write_text("of somebody")
    capsys.readouterr()
    assert export.main(["page", str(GRAPH), "--out", str(folder)]) == 2
    assert "holds mine.txt, which is of no page" in capsys.readouterr().err
    (folder / "mine.txt").unlink()
    monkeypatch.setattr(site, "CREDIT", "changed")
    monkeypatch.setattr(site, "not_for_webgpu", lambda graph: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.main(["page", str(GRAPH), "--out", str(folder)])
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    monkeypatch.setattr(site, "not_for_webgpu", lambda graph: [])
    assert export.main(["page", str(GRAPH), "--out", str(folder)]) == 0
    assert json.loads((folder / "site.json").read_text())["credit"] == "changed"
    other = tmp_path / "other"
    other.mkdir()
    (other / site.CONTENTS).write_text("of somebody\nsite.json\n")
    (other / "site.json").write_text("{}")
    capsys.readouterr()
    assert export.main(["page", str(GRAPH), "--out", str(other)]) == 2
    assert "holds contents.txt, which is of no page" in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "package.json").write_bytes((site.ROOT / "package.json").read_bytes())
    monkeypatch.setattr(site, "ROOT", tmp_path)
    assert export.main(["page", str(GRAPH), "--out", str(tmp_path / "site")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "`npm ci`" in error and not (tmp_path / "site").exists()


@needs_packages
def test_what_a_killed_process_moved_away_is_put_back_and_its_leftovers_go(tmp_path, monkeypatch, capsys):
    folder, left = tmp_path / "site [1]", tmp_path / ".site [1].abc.part"
    assert export.main(["page", str(GRAPH), "--out", str(folder)]) == 0
    assert f"--directory '{folder}'" in capsys.readouterr().out
    left.mkdir()
    folder.rename(left / site.EARLIER)  # as between the two renames
    (tmp_path / ".other.abc.part").mkdir()
    monkeypatch.setattr(site, "not_for_webgpu", lambda graph: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.main(["page", str(GRAPH), "--out", str(folder)])
    assert (folder / "index.html").is_file() and not left.exists() and (tmp_path / ".other.abc.part").exists()


@needs_packages
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_links_and_folders_of_others_are_kept(tmp_path, capsys, kind):
    folder = tmp_path / "site"
    assert export.main(["page", str(GRAPH), "--out", str(folder)]) == 0
    if kind == "link":
        (folder / "mine").symlink_to(tmp_path)
    else:
        (folder / "mine").mkdir()
    capsys.readouterr()
    assert export.main(["page", str(GRAPH), "--out", str(folder)]) == 2
    assert "holds mine, which is of no page" in capsys.readouterr().err and (folder / "mine").exists()


def test_the_root_of_all_folders_is_no_place(capsys):
    assert export.main(["page", str(GRAPH), "--out", "/"]) == 2
    assert "names a folder that can be replaced" in capsys.readouterr().err
