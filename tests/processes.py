"""Scripts in processes of their own: forked from one that has imported the libraries, so that they start at once."""

import contextlib
import ctypes
import importlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload([
    "torch", "onnx", "onnxruntime", "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image", "tabulate",
    "tqdm", "onnxscript", "torch._dynamo", "torch._functorch.aot_autograd", "torch.onnx._internal.exporter._core",
])  # fmt: skip
NEW_NAMESPACES = 0x10000000 | 0x00020000  # CLONE_NEWUSER and CLONE_NEWNS of Linux
READ_ONLY, REMOUNT = 1, 32  # MS_RDONLY and MS_REMOUNT

Prepare = Callable[[], Callable[[], None] | None]  # called in the process, first; what it returns, last


@dataclass
class Done:
    code: int  # the exit code; the signal's number below zero where one killed it
    out: str
    err: str


class Started:
    """`script`.main(arguments) in a process, with what it prints in files in `folder`; it is inside main() already."""

    def __init__(
        self, folder: Path, script: str, arguments: list, prepare: Prepare | None = None, encoding: str = "utf-8"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / "begun"
        begun.unlink(missing_ok=True)
        self.out, self.err = folder / "stdout.txt", folder / "stderr.txt"
        texts = [str(argument) for argument in arguments]
        self.process = server.Process(target=_child, args=(folder, script, texts, prepare, encoding))
        self.process.start()
        while not begun.exists() and self.process.is_alive():
            time.sleep(0.002)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait_for(self, path: Path, words: str = "") -> None:
        """Until there is such a file, with these words in it."""
        while not (path.exists() and words in path.read_text()):
            assert self.process.is_alive(), self.done()
            time.sleep(0.01)

    def done(self) -> Done:
        self.process.join()
        return Done(self.process.exitcode, self.out.read_text(), self.err.read_text())


def run(folder: Path, script: str, arguments: list, prepare: Prepare | None = None, encoding: str = "utf-8") -> Done:
    return Started(folder, script, arguments, prepare, encoding).done()


def _child(folder: Path, script: str, arguments: list[str], prepare: Prepare | None, encoding: str) -> None:
    import threads
    import torch

    torch.set_num_threads(1)
    threads.of_onnxruntime()
    streams = [os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC) for name in ("stdout.txt", "stderr.txt")]
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    main = importlib.import_module(script).main
    after = prepare() if prepare else None
    if sys.stdout:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding=encoding)
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding=encoding, errors="backslashreplace", write_through=True
        )
    (folder / "begun").touch()
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if after:
        after()
    sys.exit(code)


@dataclass(frozen=True)
class Disk:
    """A `prepare`: `folder` becomes a disk with `room` bytes beside what is in it; in the end that comes to `result`.

    Needs no rights where namespaces are allowed. Raises OSError elsewhere.
    """

    folder: Path
    room: int
    result: Path
    read_only: bool = False

    def __call__(self) -> Callable[[], None]:
        libc = ctypes.CDLL(None, use_errno=True)

        def call(name: str, *arguments: object) -> None:
            if getattr(libc, name)(*arguments):
                raise OSError(ctypes.get_errno(), name)

        user, group = os.getuid(), os.getgid()
        call("unshare", NEW_NAMESPACES)
        for name, text in (("uid_map", f"0 {user} 1"), ("setgroups", "deny"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
        there = sum(-(-file.stat().st_size // 4096) for file in self.folder.rglob("*") if file.is_file())
        kept = self.folder.with_name(self.folder.name + ".kept")
        shutil.copytree(self.folder, kept)
        place, kind = os.fsencode(self.folder), b"tmpfs"
        call("mount", kind, place, kind, 0, f"size={4096 * there + max(self.room, 1)}".encode())
        shutil.copytree(kept, self.folder, dirs_exist_ok=True)
        shutil.rmtree(kept)
        if self.read_only:
            call("mount", kind, place, kind, READ_ONLY | REMOUNT, None)
        return lambda: shutil.copytree(self.folder, self.result)


def disks_can_be_made(folder: Path) -> bool:
    if sys.platform != "linux":
        return False
    (folder / "disk").mkdir()
    process = server.Process(target=Disk(folder / "disk", 4096, folder / "result"))
    process.start()
    process.join()
    return process.exitcode == 0


def memory_of(process: int) -> int:
    """Resident bytes."""
    fields = Path(f"/proc/{process}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
