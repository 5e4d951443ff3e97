"""What a training is asked to do: the options of train.py, one field each, with the defaults that it gives them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """For one network, once `architecture` is set; with `all`, `seeds` or `folds` one of several.

    run.json keeps all of it under `options`.
    """

    arch: str | None = None  # what was typed; None with --all
    all: bool = False
    data: str | None = None  # a source, see films.sources.open_source; None: data/chest_xray
    cache: Path | None = None  # of decoded images; None: below ~/.cache
    skip_bad: bool = False
    classes: tuple[tuple[str, ...], ...] | None = None  # names of the class folders, by label
    size: int = 224  # side of the images in pixels
    fit: str = "stretch"  # how images are made square
    split: str = "patient"
    split_seed: int = 0
    device: str = "auto"
    recipe: str = "default"
    epochs: int | None = None  # here and below, None is the recipe's
    batch_size: int | None = None
    minutes: float | None = None  # at most so long, all resumptions together
    resume: bool = False
    resize_from: int | None = None  # side in pixels in the first epoch
    compile: bool = False
    deterministic: bool = False
    lr: list[float] | None = None  # highest learning rate; several: the one that validates best is kept
    val: str = "stress"  # the validation that chooses
    folds: int | None = None
    flip: bool = False
    seed: int = 0  # of weights, order and augmentation
    seeds: int | None = None  # so many trainings, from `seed` on
    weights: Path | None = None  # of ImageNet; None: torchvision's are downloaded
    name: str | None = None  # of the run's folder; None: the architecture; after "quick-" in a smoke run
    out: Path = Path("runs")
    quick: bool = False  # a smoke run
    tensorboard: bool = False  # write each row of history.csv for TensorBoard too
    verbose: bool = False  # print all rows of stress validation
    architecture: str = ""  # of the network that is being trained
