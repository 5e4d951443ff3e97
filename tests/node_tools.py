"""Node, and what the project's JavaScript needs there."""

import fcntl
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import data

ROOT = Path(data.__file__).parent
DECODE = Path(__file__).with_name("decode.mjs")
PARTS = ("package.json", "package-lock.json", "page", "examples")
# What npm says where there is no way to the registry. Anything else it fails with is a fault of ours.
NO_REGISTRY = (
    r"npm error code (ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|E\w+UNREACH|ERR_SOCKET_TIMEOUT"
    r"|E403|E407|E5\d\d|SELF_SIGNED\w*|UNABLE_TO\w*)"
)


def run(*command: str | Path, cwd: Path, limit: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=limit, stdin=subprocess.DEVNULL
    )


def project(factory: pytest.TempPathFactory) -> Path:
    """A folder with page/, examples/ and installed packages: the checkout, or a copy where those are not there.

    Skips the test where node or the packages cannot be had. All processes of one session share the copy.
    """
    paths = {name: shutil.which(name) for name in ("node", "npm")}
    if missing := [name for name, path in paths.items() if not path]:
        pytest.skip(f"no {' and no '.join(missing)} here")
    version = run("node", "--version", cwd=ROOT).stdout.strip()
    if [int(part) for part in re.findall(r"\d+", version)[:2]] < [20, 9]:
        pytest.skip(f"node 20.9 or newer is needed, not {version}")
    if is_installed(ROOT):
        return ROOT
    base = factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base  # where pytest-xdist's processes have theirs
    with open(base / "node.lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        folder = base / "node"
        if not folder.exists():
            install(folder)
    if (folder / "reason.txt").exists():
        pytest.skip((folder / "reason.txt").read_text())
    return folder


def is_installed(folder: Path) -> bool:
    """Whether node_modules holds what package-lock.json wants; packages for other systems may be missing."""
    wanted = json.loads((folder / "package-lock.json").read_text())["packages"]
    try:
        there = json.loads((folder / "node_modules" / ".package-lock.json").read_text())["packages"]
    except FileNotFoundError:
        return False
    return all(
        there.get(name, {}).get("version", package.get("optional") and package["version"]) == package["version"]
        for name, package in wanted.items()
        if name and not package.get("dev")
    )


def install(folder: Path) -> None:
    """Copies the JavaScript, and installs its packages from npm's cache or registry; else reason.txt says why not."""
    folder.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    options = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=0", "--logs-max=0"]
    try:
        installed = run("npm", "ci", "--omit=dev", *options, cwd=folder, limit=120)
    except subprocess.TimeoutExpired:
        (folder / "reason.txt").write_text("npm's registry took longer than two minutes")
        return
    if reason := re.search(NO_REGISTRY, installed.stderr):
        (folder / "reason.txt").write_text(f"npm cannot reach its registry: {reason[1]}")
        return
    assert installed.returncode == 0, installed.stderr


def decoded(root: Path, folder: Path, contents: dict[str, bytes]) -> dict[str, dict]:
    """What page/reading/film.js makes of files: its answer, with `grey` as (H, W) uint8, or an `error` by itself."""
    files = {name: folder / str(i) for i, name in enumerate(contents)}
    for name, path in files.items():
        path.write_bytes(contents[name])
    (folder / "files.json").write_text(json.dumps([str(path) for path in files.values()]))
    done = run("node", DECODE, root, folder / "files.json", cwd=root, limit=120)
    assert (done.returncode, done.stderr) == (0, "")
    answers = dict(zip(files, map(json.loads, done.stdout.splitlines()), strict=True))
    for name, answer in answers.items():
        if "error" not in answer:
            pixels = np.fromfile(f"{files[name]}.grey", np.uint8)
            answer["grey"] = pixels.reshape(answer["height"], answer["width"])
    return answers
