"""What is done otherwise on CUDA: launches are recorded as graphs, and some of the kernels are our own.

At batches of 64 a GPU ends a kernel sooner than Python launches the next one, so that most of it would idle. What a
function launches is recorded once for each shape of its arguments, and then launched as a whole.
"""

import contextlib
import functools
import gc
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Generator
from types import ModuleType

import torch

from basics.problems import printable
from devices import parallel

WARM_UP = 2  # calls of each shape before it is recorded: in them libraries load, and choose their kernels

Tensors = tuple[torch.Tensor, ...]
Work = Callable[..., Tensors]
Recorder = Callable[[Work, Tensors, dict], tuple[Callable[[], object], Tensors]]


class Captured:
    """Calls `work`, on CUDA by replaying what it launched before.

    work: from tensors on the device to tensors on it. What it launches may depend on their shapes and on keywords,
    which are constants of a recording, and on nothing else; it must not wait for the device. Tensors that it finds
    elsewhere (weights, an optimizer's state) have to stay where they are.

    The first WARM_UP calls of each shape are plain ones, which count like any other: a training step has not to be
    undone. What a replay returns is overwritten by the next one. Without `record`, and after a recording that failed,
    which one line says, every call is a plain one.
    """

    def __init__(self, work: Work, record: Recorder | None) -> None:
        self.work, self.record, self.failed = work, record, False
        self.met: Counter = Counter()
        self.recordings: dict[tuple, tuple[Tensors, Callable[[], object], Tensors]] = {}

    def __call__(self, *given: torch.Tensor, **constants: float) -> Tensors:
        if self.record is None:
            return self.work(*given, **constants)
        kind = (*((tensor.shape, tensor.dtype) for tensor in given), *sorted(constants.items()))
        if kind not in self.recordings:
            self.met[kind] += 1
            if self.met[kind] <= WARM_UP or not self.recorded(self.record, kind, given, constants):
                return beside(self.work, given, constants) if given[0].is_cuda else self.work(*given, **constants)
        own, replay, results = self.recordings[kind]
        for mine, new in zip(own, given, strict=True):
            mine.copy_(new)
        replay()
        return results

    def recorded(self, record: Recorder, kind: tuple, given: Tensors, constants: dict) -> bool:
        """Records what `work` does with these, which launches nothing; False where that fails, once and for all."""
        if self.failed:
            return False
        own = tuple(tensor.clone() for tensor in given)
        try:
            self.recordings[kind] = (own, *record(self.work, own, constants))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = printable(
                str(error.__context__ or error).splitlines()[0]
            )  # the first of two, where ending fails too
            parallel.say(f"note: CUDA graphs fail here ({reason}); going on without them")
            self.failed = True
            self.recordings.clear()
        return not self.failed


class OnCuda:
    """Records work as CUDA graphs on a stream of its own; one pool is enough, since they never run at once."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.pool = device, side_stream(device), torch.cuda.graph_pool_handle()
        self.graphs: list[torch.cuda.CUDAGraph] = []  # a pool that has lost all of its graphs cannot be used again

    def __call__(self, work: Work, own: Tensors, constants: dict) -> tuple[Callable[[], object], Tensors]:
        """Records work(*own, **constants); returns how to replay it, and where its results will be."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # what plain calls used is of no use to the pool
        with torch.cuda.stream(self.stream), nothing_collected():
            # Other threads write checkpoints and read films meanwhile: what they ask of CUDA is not of this recording.
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                results = work(*own, **constants)
            finally:
                graph.capture_end()
        self.graphs.append(graph)
        return graph.replay, results


@contextlib.contextmanager
def nothing_collected() -> Generator[None]:
    """Keeps Python's garbage collector from its work: what lets go of an older graph spoils the one being recorded."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def recorder(device: torch.device) -> Recorder | None:
    """What `Captured` records with there: nothing but on CUDA, and not where processes wait for each other."""
    return OnCuda(device) if device.type == "cuda" and parallel.world() == 1 else None


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def beside(work: Work, given: Tensors, constants: dict) -> Tensors:
    """A plain call on the stream that recordings are made on: what libraries set up belongs to a stream."""
    stream, current = side_stream(given[0].device), torch.cuda.current_stream(given[0].device)
    own = tuple(tensor.clone() for tensor in given)  # aligned as a recording's are: Triton has a kernel for each case
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        results = work(*own, **constants)
    current.wait_stream(stream)
    return results


def own_kernels(device: torch.device) -> ModuleType | None:
    """kernels.py, on CUDA and where it works: it needs Triton, which PyTorch brings with it, and a C compiler."""
    if device.type != "cuda":
        return None
    with TRYING:
        return _tried_kernels(device)


TRYING = threading.Lock()


@functools.cache
def _tried_kernels(device: torch.device) -> ModuleType | None:
    try:
        from devices import kernels

        kernels.tried(device)
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = printable((str(error) or type(error).__name__).splitlines()[0])
        parallel.say(f"note: no kernels of our own here ({reason}); training goes on by PyTorch's, more slowly")
        return None
    return kernels
