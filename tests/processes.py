"""Scripts in processes of their own: forked from one that has imported them, so that they start in milliseconds."""

import contextlib
import ctypes
import importlib
import io
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["torch", "onnx", "onnxruntime", "matplotlib.figure", "PIL.Image", "tabulate", "tqdm"])
NEW_NAMESPACES = 0x10000000 | 0x00020000  # CLONE_NEWUSER and CLONE_NEWNS of Linux


@dataclass
class Done:
    code: int
    out: str
    err: str


class Started:
    """`script`.main(arguments) in a process; `prepare` is called in it first. Its output goes to files in `folder`."""

    def __init__(self, folder: Path, script: str, arguments: list, prepare: Callable[[], object] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout.txt", folder / "stderr.txt"
        target = (script, [str(argument) for argument in arguments], self.out, self.err, prepare)
        self.process = server.Process(target=_child, args=target)
        self.process.start()

    def done(self) -> Done:
        self.process.join()
        return Done(self.process.exitcode, self.out.read_text(), self.err.read_text())


def run(folder: Path, script: str, arguments: list, prepare: Callable[[], object] | None = None) -> Done:
    return Started(folder, script, arguments, prepare).done()


def _child(script: str, arguments: list[str], out: Path, err: Path, prepare: Callable[[], object] | None) -> None:
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(open(2, "wb", buffering=0, closefd=False), encoding="utf-8", write_through=True)
    after = prepare() if prepare else None
    try:
        code = importlib.import_module(script).main(arguments)
    except SystemExit as wrong:
        code = wrong.code
    if callable(after):
        after()
    sys.exit(code)


@dataclass(frozen=True)
class SmallDisk:
    """A `prepare`: `folder` becomes a disk with that many bytes, beginning as it is; what is on it comes to `result`."""

    folder: Path
    room: int  # bytes beside what is there
    result: Path

    def __call__(self) -> Callable[[], None]:
        mount_small_disk(self.folder, self.room)
        return lambda: shutil.copytree(self.folder, self.result)


def mount_small_disk(folder: Path, room: int) -> None:
    """Needs no rights where namespaces are allowed; raises OSError elsewhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NAMESPACES):
        raise OSError(ctypes.get_errno(), "unshare")
    kept = folder.with_name(folder.name + ".kept")
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    there = sum(4096 * (1 + -(-file.stat().st_size // 4096)) for file in kept.rglob("*"))
    options = f"size={(there + room) // 4096 * 4096},mode=755".encode()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    with contextlib.suppress(OSError):
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def small_disks_are_allowed(folder: Path) -> bool:
    if sys.platform != "linux":
        return False
    folder.mkdir()
    process = server.Process(target=mount_small_disk, args=(folder, 0))
    process.start()
    process.join()
    return process.exitcode == 0
