"""The rows of history.csv for TensorBoard, while they are made: `train.py --tensorboard`."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

from devices import parallel

FOLDER = "tensorboard"  # inside a run's folder


@contextlib.contextmanager
def written(folder: Path, asked: bool, done: int) -> Generator[Callable[[dict], None]]:
    """What is called with each row of history; after `done` epochs, whatever an earlier run has written is dropped.

    Nothing is done unless it was asked for, and by one process alone.
    """
    if not asked or parallel.rank():
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # takes seconds, and a package that not everybody has

    writer = SummaryWriter(str(folder / FOLDER), purge_step=done + 1)

    def write(row: dict) -> None:
        for name, value in row.items():
            if name != "epoch":
                side, _, what = name.partition("_") if name.startswith(("train_", "val_")) else ("", "", "")
                writer.add_scalar(f"{what}/{side}" if side else name, value, row["epoch"])
        writer.flush()

    try:
        yield write
    finally:
        writer.close()
