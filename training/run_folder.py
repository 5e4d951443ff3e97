"""A run's folder: model.pt (the best epoch), last.pt (all that resuming needs), history.csv and run.json."""

import contextlib
import datetime
import functools
import importlib.metadata
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import data
from basics import disk, problems
from basics.problems import Problem, UsageProblem
from data import Dataset, Split
from devices import hardware, parallel
from films import seen, sources
from metrics import measures
from training import calibration, checkpoints, schema
from training.recipes import Recipe
from training.request import Request
from training.stopping import Stopped


class Run:
    """A network being trained: its folder, and everything of its checkpoint but the weights.

    Files are written by a thread, from a copy of the weights, while the device goes on; model.pt before last.pt, so
    that a run that was killed between the two repeats an epoch and never misses its best one. Only rank 0 writes.

    Writing takes a tenth of the time at most, or comes twice a minute. Where epochs are too short for that,
    a state that waits to be written gives way to the next one: whoever is killed then goes on from some epochs before.
    """

    SPARED, LONGEST = 9.0, 30.0  # times as long as a file took to write none is; and seconds

    def __init__(self, folder: Path, checkpoint: dict) -> None:
        self.folder = folder
        self.checkpoint = {"epoch": 0, "history": [], "seconds": 0.0, **checkpoint}
        # Rows of earlier versions do not say what was skipped; history.csv has a column of it.
        self.history: list[dict] = [{**row, "skipped": row.get("skipped", 0.0)} for row in self.checkpoint["history"]]
        self._writer = ThreadPoolExecutor(1)
        self._written: list[Future] = []
        self._waiting: dict[str, Copied] = {}  # by file
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._best: Copied | None = None  # the weights of the best epoch, and what is known of it

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Waits for what is still to be written; an error of it is raised unless another one is on its way already."""
        self.write_what_waits()
        another = kind is not None and not issubclass(kind, Stopped)  # who was stopped is told that all is saved
        with self._writer, contextlib.suppress(Problem) if another else contextlib.nullcontext():
            self.check(wait=True)

    def write_what_waits(self) -> None:
        """At once: there will be no more epochs."""
        self._ending.set()

    def best(self) -> dict:
        """The checkpoint of the best epoch, weights included, on the CPU."""
        if self._best is None:  # it was before this run was resumed
            return checkpoints.load_checkpoint(self.folder / "model.pt")[0]
        return self._best.on_cpu()

    def keep(self, row: dict, logits: np.ndarray, labels: np.ndarray, state: dict, training: dict) -> None:
        """After an epoch: writes last.pt and history.csv, and model.pt when it is the best so far; prints its row."""
        best = not self.history or rank(row) > max(map(rank, self.history))
        self.history.append(row)
        self.checkpoint |= {"epoch": row["epoch"], "history": list(self.history), "seconds": self.seconds()}
        self.checkpoint |= calibration.fit(logits, labels)
        self.save(state, training, best)
        line = epoch_line(row, training["epochs"], str(self.checkpoint.get("validation", "random")))
        tqdm.write(line + "  best" * best)
        sys.stdout.flush()  # whoever reads a log reads it while it grows

    def save(self, state: dict, training: dict, best: bool = False) -> None:
        """Has last.pt written, after model.pt if `best`. Raises Problem if an earlier file could not be."""
        self.check()
        if parallel.rank():
            return
        files = {"last.pt": Copied({**self.checkpoint, "state": state, "training": training})}
        if best:
            files["model.pt"] = self._best = Copied({**self.checkpoint, "state": state})
        with self._lock:
            self._waiting |= files
        self._written.append(self._writer.submit(self._write))

    def _write(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        start = time.monotonic()
        for file in ("model.pt", "last.pt"):
            if file in waiting:
                checkpoints.save_checkpoint(self.folder / file, waiting[file].on_cpu())
        if waiting and waiting["last.pt"].value["history"]:
            disk.write_text(self.folder / "history.csv", disk.csv_text(waiting["last.pt"].value["history"]))
        self._ending.wait(min(self.SPARED * (time.monotonic() - start), self.LONGEST))

    def check(self, wait: bool = False) -> None:
        """Raises Problem if a file could not be written."""
        while self._written and (wait or self._written[0].done()):
            self._written.pop(0).result()

    def finish(self, checkpoint: dict, request: Request) -> dict:
        """Writes the model with what was decided of it, and run.json; returns what was written.

        Where a run was killed after model.pt was written and before last.pt was, the model is an epoch ahead.
        """
        if len(checkpoint["history"]) > len(self.history):
            self.history = checkpoint["history"]
            disk.write_text(self.folder / "history.csv", disk.csv_text(self.history))
        checkpoint = {**checkpoint, "history": self.history, "seconds": self.seconds()}
        checkpoint = checkpoints.save_checkpoint(self.folder / "model.pt", checkpoint)
        write_record(self.folder, checkpoint, request, self.seconds())
        return checkpoint

    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.history)


class Copied:
    """A copy of nested dicts and lists with tensors; `on_cpu` fetches it, from any thread.

    On CUDA it is made there, which takes no time; elsewhere on the CPU: MPS takes work from one thread only.
    """

    def __init__(self, value: dict) -> None:
        self.value = each_tensor(
            value,
            lambda tensor: tensor.detach().clone() if tensor.is_cuda else tensor.detach().to("cpu", copy=True),
        )
        self.ready: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in checkpoints.tensors_in(value).values()):
            self.ready = torch.cuda.current_stream().record_event()

    def on_cpu(self) -> dict:
        if self.ready is None:
            return self.value
        self.ready.synchronize()
        with torch.cuda.stream(fetching_stream()):  # not in the queue of the training steps
            return each_tensor(self.value, lambda tensor: tensor.cpu())


@functools.cache
def fetching_stream() -> torch.cuda.Stream:
    """One for the whole process: CUDA hands out 32 in turn, and a step may be being recorded on another of them."""
    return torch.cuda.Stream()


def each_tensor(value: Any, what: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return what(value)
    if isinstance(value, dict):
        return {key: each_tensor(item, what) for key, item in value.items()}
    return [each_tensor(item, what) for item in value] if isinstance(value, list) else value


def scores(side: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss (nats), accuracy at 0.5 and AUROC; the loss is the mean over the images, not over the batches."""
    probabilities = measures.positive_probability(logits)
    found = measures.classification(labels, probabilities, 0.5)
    return {
        f"{side}_loss": measures.log_loss(logits, labels),
        f"{side}_accuracy": found["accuracy"],
        f"{side}_auroc": found["auroc"],
    }


def shown_as(validation: str) -> str:
    """What numbers of a kind of validation are called, in the log and in tables."""
    return "stress" if validation == "stress" else "validation"


def epoch_line(row: dict, epochs: int, validation: str) -> str:
    skipped = f"  {row['skipped']:.1%} of the steps skipped" if row["skipped"] else ""
    return (
        f"epoch {row['epoch']:>2}/{epochs}  lr {row['learning_rate']:.1e}  "
        f"train loss {row['train_loss']:.4f} acc {row['train_accuracy']:.3f}  {shown_as(validation)} "
        f"loss {row['val_loss']:.4f} acc {row['val_accuracy']:.3f} AUROC {row['val_auroc']:.4f}  "
        f"{row['seconds']:.0f} s, {row['images_per_second']:.0f} images/s{skipped}"
    )


def rank(row: dict) -> tuple[float, float]:
    """What the best epoch is the largest of: validation AUROC, then low validation loss."""
    return row["val_auroc"], -row["val_loss"]


def new_checkpoint(
    name: str,
    origin: str,
    dataset: Dataset,
    split: Split,
    request: Request,
    recipe: Recipe,
    normalisation: tuple[float, float],
    device: torch.device,
) -> dict:
    """Everything that evaluate.py and export.py need to know of a model, and what it saw."""
    used = np.concatenate([split.train, split.validation])
    return {
        "name": name,
        "architecture": request.architecture,
        "classes": list(data.CLASSES),
        "size": request.size,
        "fit": dataset.fit,  # how images are made square
        "normalisation": list(normalisation),  # mean and standard deviation of pixels in [0, 1]
        "initial_weights": origin,
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "source": dataset.source,
            "synthetic": dataset.synthetic,
            "skipped": [list(pair) for pair in dataset.bad],  # files that could not be read, with --skip-bad
            "shapes": data.shape_ratio(dataset, split.train),
            **sources.classes_to_remember(dataset.classes),
        },
        "split": {
            "how": split.how,
            "seed": split.seed,
            "block": split.block,
            "fold": split.fold and list(split.fold),
            "fingerprint": split.fingerprint,
            "images": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        },
        **{key: torch.from_numpy(part) for key, part in seen.record(dataset, used).items()},
        "recipe": {"name": request.recipe, **asdict(recipe)},
        "quick": request.quick,
        "seed": request.seed,
        "processes": parallel.world(),
        "device": describe(device),
        "validation": request.val,
        "threshold_rule": f"largest Youden's J on {'stress validation' if request.val == 'stress' else 'validation'}",
        "versions": versions(),
    }


def describe(device: torch.device) -> str:
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "float32"}[hardware.reduced_type(device)]
    many = f"{parallel.world()} x " if parallel.world() > 1 else ""
    return f"{many}{hardware.describe_device(device)}, {precision}"


def record(checkpoint: dict, request: Request, seconds: float | None) -> dict:
    """run.json: the checkpoint's plain values and the command line; `seconds` is null until the run is finished."""
    left_out = ("state", "training", "history", *seen.SHAPES, "seconds", "validation_answers", "limits")
    plain = {key: value for key, value in checkpoint.items() if key not in left_out}
    options = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}
    return {"finished": seconds is not None, "seconds": seconds, "options": options, **plain}


def write_record(folder: Path, checkpoint: dict, request: Request, seconds: float | None) -> None:
    if parallel.rank() == 0:
        disk.write_json(folder / "run.json", record(checkpoint, request, seconds))


def finished(folder: Path) -> bool:
    """Whether the run came to its end, by its run.json. Raises Problem if that is damaged."""
    file = folder / "run.json"
    try:
        done = disk.parse_json(file.read_bytes())["finished"]
        if not isinstance(done, bool):
            raise ValueError("finished is neither true nor false")
        return done
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(
            f"{file}: not a record that train.py wrote ({str(error)[:200]}); leave --resume out to start afresh"
        ) from error


def versions() -> dict[str, str]:
    """Versions of what computes the result, and the git revision of these files where they are in git."""
    found = {"project": disk.VERSION, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pillow"):
        found[package] = importlib.metadata.version(package)
    here = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    if (here / ".git").exists():
        try:
            found["git"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            found["git"] = f"unknown ({type(error).__name__})"
    return found


@contextlib.contextmanager
def claimed(folder: Path) -> Generator[None]:
    """A run's folder for this process alone. Raises Problem while another process trains there."""
    if parallel.rank():
        yield
        return
    busy = f"{folder}: another process is training there; --name or --out gives this run a folder of its own"
    with disk.lock(folder.with_name(f".{folder.name}.lock"), busy):  # beside it, because the folder may be moved
        yield


def fresh_folder(out: Path, name: str) -> Path:
    """out/name, empty; an earlier run of that name is moved to out/old/, never overwritten."""
    folder = out / name
    if parallel.rank():
        return folder
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
            aside = out / "old" / f"{name}-{stamp}"
            while aside.exists():  # clocks are set back, and some are coarse
                aside = aside.with_name(f"{aside.name}+")
            aside.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(aside)
            print(f"the earlier {folder} is now {aside}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"cannot write to {folder}: {error.strerror}; --out DIR writes elsewhere") from error
    return folder


def spare(folder: Path, drawn: bool, quick: bool) -> None:
    """Raises UsageProblem where drawings would take the place of films, or a smoke run that of a real one."""
    there = description(folder) if drawn or quick else None
    if there and not there["data"]["synthetic"] and (drawn or not there["quick"]):
        new = "one on drawings" if drawn else "a smoke run"
        raise UsageProblem(f"{folder}: holds a run on films, whose place {new} does not take; "
                           "--name or --out gives this one a folder of its own")  # fmt: skip


def description(folder: Path) -> dict | None:
    """The "data" and "quick" of the run in a folder, by its run.json or else its model.pt; None where neither says."""
    says = schema.record(data=schema.record(synthetic=schema.flag), quick=schema.flag)
    with contextlib.suppress(OSError, ValueError):
        found = disk.parse_json((folder / "run.json").read_bytes())
        if says(found):
            return found
    with contextlib.suppress(Problem):
        return checkpoints.load_checkpoint(folder / "model.pt")[0]
    return None


def adopt(finished_run: Path, out: Path, name: str) -> None:
    """Copies a finished run to out/name, under that name."""
    folder = fresh_folder(out, name)
    checkpoint, _ = checkpoints.load_checkpoint(finished_run / "model.pt")
    record_of_it = disk.parse_json((finished_run / "run.json").read_bytes())
    disk.write_text(folder / "history.csv", (finished_run / "history.csv").read_text())
    checkpoints.save_checkpoint(folder / "model.pt", {**checkpoint, "name": name})
    disk.write_json(folder / "run.json", {**record_of_it, "name": name})


def resumable(folder: Path, new: dict) -> dict | None:
    """The checkpoint in folder/last.pt, None if there is none. Raises UsageProblem if it is another run's.

    `new` is the checkpoint that a fresh start would have: what training depends on has to be the same in both.
    """
    file = folder / "last.pt"
    if not file.exists():
        return None
    for leftover in folder.glob(".*.part*"):  # of a process that was killed while it wrote
        leftover.unlink(missing_ok=True)
    old, _ = checkpoints.load_checkpoint(file, unfinished=True)
    if not old.get("training"):
        raise Problem(f"{file}: holds no state to go on from: it was written by an earlier version of train.py")
    old["training"] = with_defaults(old["training"], old["history"])
    for what, before, now in (
        ("architecture", old["architecture"], new["architecture"]),
        ("--size", old["size"], new["size"]),
        ("--fit", old["fit"], new["fit"]),
        ("data", old["data"]["fingerprint"], new["data"]["fingerprint"]),
        (
            "split",
            new["split"]["fingerprint"] if same_split(old, new) else old["split"]["fingerprint"],
            new["split"]["fingerprint"],
        ),
        ("--val", old.get("validation", "random"), new["validation"]),
        ("--seed", old["seed"], new["seed"]),
        ("--quick", old["quick"], new["quick"]),
        ("initial weights", old["initial_weights"], new["initial_weights"]),
        *((f"recipe, {key}", old["recipe"].get(key), value) for key, value in new["recipe"].items() if key != "name"),
    ):
        if before != now:
            raise UsageProblem(
                f"--resume: {file} was trained with another {what} ({problems.printable(str(before))}, not {now}); "
                f"give the same options, or leave --resume out to start afresh"
            )
    return old


def same_split(old: dict, new: dict) -> bool:
    """Whether two checkpoints are of one split, which earlier versions named after its files and not its films."""
    alike = [(facts["data"]["fingerprint"], *(facts["split"].get(key) for key in ("how", "seed", "fold", "images")))
             for facts in (old, new)]  # fmt: skip
    blocks = {bool(facts["split"].get("block")) for facts in (old, new)}
    return alike[0] == alike[1] and len(blocks) == 1 and torch.equal(old["seen_images"], new["seen_images"])


def with_defaults(state: dict, history: list[dict]) -> dict:
    """A Trainer's state with what earlier versions did not keep: its time as far as history knows it."""
    seconds = [row["seconds"] for row in history]
    under_way = state.get("seconds") if schema.number(0)(state.get("seconds")) else 0.0
    return {"spent": sum(seconds) + under_way, "pace": seconds[-1] if seconds else None, "skipped": 0, **state}


def moments_of(parameters: list[torch.nn.Parameter]) -> schema.Rule:
    """The state of Adam, of each parameter or, before the first step, of none."""
    number = schema.like(torch.zeros(()))

    def possible(value: object) -> bool:
        if value == {}:
            return True
        if not isinstance(value, dict) or set(value) != set(range(len(parameters))):
            return False
        return all(
            schema.record(step=number, exp_avg=schema.like(weight), exp_avg_sq=schema.like(weight))(value[i])
            for i, weight in enumerate(parameters)
        )

    return possible


def check_training(file: Path, old: dict, now: dict, parameters: list[torch.nn.Parameter]) -> None:
    """Raises Problem when last.pt holds no state that this training could have been in.

    old: its checkpoint; now: the state of a Trainer that has just begun, with the same recipe and data; parameters: as
    they are in its optimizer. What can be checked is: places in the data, shapes, types, and that numbers are finite.
    """
    state, done = old["training"], len(old["history"])

    def rows(example: torch.Tensor) -> Callable[[object], bool]:
        return lambda value: isinstance(value, torch.Tensor) and value.dim() > 0 and schema.like(example[:0])(value[:0])

    settings = [{**group, "lr": 0.0} for group in now["optimizer"]["param_groups"]]
    possible = schema.record(
        epoch=schema.one_of(done),
        step=schema.whole(),
        seconds=schema.number(0),
        spent=schema.number(0),
        pace=schema.nothing_or(schema.number(0)),
        skipped=schema.whole(),
        epochs=schema.whole(done, max(now["epochs"], done)),
        anchor=lambda at: schema.every(schema.number(0))(at) and len(at) == 2 and at[0] <= 1 and at[1] <= done,
        logits=rows(now["logits"]),
        labels=rows(now["labels"]),
        optimizer=schema.record(
            state=moments_of(parameters),
            param_groups=lambda groups: (
                schema.every(schema.record(lr=schema.number(0)))(groups)
                and [{**group, "lr": 0.0} for group in groups] == settings
            ),
        ),
        scaler=lambda value: isinstance(value, dict),
        generators=lambda value: bool(value) and schema.every(rows(now["generators"][0]))(value),
    )
    if not possible(state) or state["skipped"] > state["step"]:
        raise Problem(f"{file}: holds no state that this training can go on from; leave --resume out to start afresh")
