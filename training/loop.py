"""The training loop, on one page: an epoch, a step, its learning rate and side, the state to go on from."""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from basics.problems import Problem, numbered
from basics.progress import Progress
from devices import hardware, layers, parallel
from devices.recording import Captured, recorder
from training import inference, run_folder
from training.batches import Batches
from training.optimizer import make_optimizer
from training.recipes import Recipe, rate_factor, side_of_epoch
from training.stopping import GOING_ON, StopAsked, Stopped, StopSignals


class Trainer:
    """A network on its way: `fit` trains it in place; `state` is all that going on from here needs.

    The order of the images and their changes are drawn from (seed, epoch), so that the position in the data is two
    numbers. With `minutes`, there are as many of the recipe's epochs as fit, one at least, and after each one the
    learning rate is planned anew to end where the time does: the time of the whole run, however often it was resumed.
    On CUDA a step is launched as one graph, unless `record` is False: for steps of which each is another.

    In fp16 a scaler skips the steps whose gradients are not finite. What they leave of the schedule, the epochs that
    are left share; an epoch of which no step counted ends the training.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        recipe: Recipe,
        training: Batches,
        validation: Batches,
        compiling: bool = False,
        minutes: float | None = None,
        record: bool = True,
    ) -> None:
        self.network, self.recipe, self.training, self.validation = network, recipe, training, validation
        self.device, self.size = training.device, training.table.shape[-1]
        if min(training.batch_sizes()) < 2:
            raise Problem("one training image is too few: batch normalisation needs two")
        self.minutes = minutes
        self.begun = time.monotonic()  # the run, if it had never been stopped
        self.pace: float | None = None  # seconds that an epoch takes at the full side, once it is known
        self.optimizer = make_optimizer(network, recipe)
        self.scaler = hardware.grad_scaler(self.device)
        self.forward = parallel.replicated(network, self.device)
        if compiling:
            self.forward = layers.compiled(self.forward, self.zeros_like_a_batch())
        elif parallel.world() == 1:
            self.forward = layers.fused(network, self.device)
        recording = recorder(self.device)
        alike = record and not self.scaler.is_enabled()  # the scaler looks at each step before it is taken
        self.take_step = Captured(self.training_step, recording if alike else None)
        answering = self.network if parallel.world() > 1 else self.forward
        self.answer_validation = inference.answering(answering, self.device, reduced=True, record=recording)
        self.epochs = recipe.epochs  # that are planned
        self.anchor = (0.0, 0)  # the progress and the epoch that the plan starts from
        self.epoch = self.step = 0  # complete epochs, and steps taken in the one under way
        self.seconds = 0.0  # spent in the epoch under way before it was resumed
        sizes = [here.stop - here.start for here in training.places()]
        self.ends = np.cumsum(sizes)  # where in the epoch each step's images end, of this process
        self.logits = torch.zeros(self.ends[-1], 2, device=self.device)  # of the epoch under way, as they were met
        self.labels = torch.zeros(self.ends[-1], dtype=torch.int64, device=self.device)

    def fit(self, keep: Callable[[dict, np.ndarray], None], save: Callable[[], None] = lambda: None) -> None:
        """Trains to the end; after each epoch calls keep(its row of history, validation logits).

        Ctrl-C and SIGTERM end it after the step under way: calls save() and raises Stopped. Raises Problem when the
        network's output is not finite, and when the gradients of a whole epoch were not.
        """
        count = len(self.training.indices)
        bar = Progress(self.epochs * count, "training", start=self.epoch * count,
                       quiet=parallel.rank() > 0 or self.epoch == self.epochs)  # fmt: skip
        with bar, StopSignals() as stop:
            try:
                while self.epoch < self.epochs:
                    row, logits = self.one_epoch(bar, stop)
                    keep(row, logits)
                    bar.heard()
                    stop.check()
            except StopAsked as asked:
                save()
                done = f"{numbered(self.epoch, 'epoch')} and {numbered(self.step, 'step')}"
                raise Stopped(asked.signum, f"stopped after {done}; {GOING_ON}") from None

    def one_epoch(self, bar: Progress, stop: StopSignals) -> tuple[dict, np.ndarray]:
        """Trains for one epoch and evaluates; returns its row of history and the validation logits."""
        start = time.perf_counter() - self.seconds
        number, side = self.epoch + 1, side_of_epoch(self.progress(0), self.size, self.recipe)
        rate = self.rate(0)
        self.train_one_epoch(number, side, bar, stop, start)
        logits = parallel.gathered(self.logits.cpu().numpy())  # the epoch's sync point
        labels = parallel.gathered(self.labels.cpu().numpy())
        self.check_finite(number)
        skipped = self.skipped_in(number)
        trained = time.perf_counter()
        bar.label = f"epoch {number}/{self.epochs}, validation"
        with stop.at_once():
            validation_logits = inference.network_logits(
                self.network, self.validation, True, self.answer_validation, lambda _: bar.update(0)
            )
        if not np.isfinite(validation_logits).all():
            raise Problem(f"epoch {number}: the network's output for validation images is not finite; try a lower --lr")
        row = {"epoch": number, "learning_rate": rate}
        row |= run_folder.scores("train", logits, labels)
        row |= run_folder.scores("val", validation_logits, self.validation.all_labels)
        row["seconds"] = time.perf_counter() - start
        row["images_per_second"] = len(labels) / (trained - start)
        row["skipped"] = skipped / len(self.training)
        if skipped:
            self.anchor = (self.progress(len(self.training) - skipped), number)
        self.epoch, self.step, self.seconds, self.pace = number, 0, 0.0, row["seconds"] * (self.size / side) ** 2
        self.optimizer.skipped.zero_()
        self.plan()
        return row, validation_logits

    def train_one_epoch(self, number: int, side: int, bar: Progress, stop: StopSignals, start: float) -> None:
        """One pass over the training images, or what is left of it."""
        self.network.train()
        sizes = self.training.batch_sizes()
        for images, labels in self.training.epoch(number, self.step, side):  # (B, 1, side, side), (B,)
            self.optimizer.set_rate(self.rate(self.step))
            # The mean over the whole batch: of all processes, whose gradients are averaged.
            (logits,) = self.take_step(images, labels, share=parallel.world() / sizes[self.step])
            end = self.ends[self.step]
            self.logits[end - len(labels) : end] = logits  # stays on the device: reading it is a sync point
            self.labels[end - len(labels) : end] = labels
            self.step += 1
            bar.label = f"epoch {number}/{self.epochs}, step {self.step}/{len(sizes)}"
            bar.update(sizes[self.step - 1])
            self.seconds = time.perf_counter() - start
            stop.check()

    def training_step(self, images: torch.Tensor, labels: torch.Tensor, share: float) -> tuple[torch.Tensor]:
        """One step of the optimizer, by the sum of the losses times `share`; returns the logits (B, 2) before it.

        On CUDA this is launched as one graph (devices/recording.py): it must not wait for the device, nor depend on a
        number in Python that changes.
        """
        logits, loss = self.answer(images, labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss * share).backward()
        self.scaler.step(self.optimizer)  # ty: ignore[invalid-argument-type]  it takes whatever has groups and a step
        self.scaler.update()
        return (logits.detach(),)

    def answer(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, 2) of a batch, and the sum of its losses."""
        with hardware.autocast(self.device):
            logits = self.forward(images)
        return logits, F.cross_entropy(logits.float(), labels, reduction="sum")

    def check_finite(self, number: int) -> None:
        bad = np.flatnonzero(~np.isfinite(self.logits.cpu().numpy()).all(1))
        if len(bad):
            step = int(np.searchsorted(self.ends, bad[0], "right")) + 1
            raise Problem(f"epoch {number}, step {step}: the network's output is not finite; try a lower --lr")

    def skipped_in(self, number: int) -> int:
        """How many steps of this epoch the scaler has skipped. Raises Problem when it was all of them."""
        skipped, steps = int(self.optimizer.skipped), len(self.training)
        if skipped >= steps:
            raise Problem(f"epoch {number}: the gradients of all {steps} steps were not finite in fp16, and none "
                          "counted; try a lower --lr, or a smaller --batch-size for more steps")  # fmt: skip
        return skipped

    # What the learning rate and the side of the images depend on:

    def progress(self, step: float) -> float:
        """Of the whole training, from 0 to 1, at a step of the epoch under way."""
        done, since = self.anchor
        return done + (1 - done) * (self.epoch - since + step / len(self.training)) / max(self.epochs - since, 1)

    def rate(self, step: int) -> float:
        progress = self.progress(step)
        return self.recipe.learning_rate * rate_factor(progress, self.progress(step + 1) - progress, self.recipe)

    def spent(self) -> float:
        """Seconds that the run has taken so far, but for those between a stop and going on."""
        return time.monotonic() - self.begun

    def plan(self) -> None:
        """With `minutes`: how many epochs there will be, once it is known what one takes, and the rates to end there.

        In the middle of an epoch, after going on: what was done of it need not be done again.
        """
        if self.minutes is None or self.pace is None or not self.epoch:
            return
        left = max(60 * self.minutes - self.spent(), 0) / max(self.pace, 1e-9) + self.step / len(self.training)
        fitting = int(min(left, self.recipe.epochs))
        fitting = int(parallel.gathered(np.array([fitting])).min())  # clocks differ between processes
        planned = min(self.epoch + fitting, self.recipe.epochs)
        if planned != self.epochs or not self.step:
            self.anchor = (self.progress(0), self.epoch)
        self.epochs = planned

    def zeros_like_a_batch(self) -> torch.Tensor:
        side = side_of_epoch(0.0, self.size, self.recipe)
        here = self.training.places()[0]
        shape = (here.stop - here.start, 1, side, side)
        return torch.zeros(shape, device=self.device).contiguous(memory_format=torch.channels_last)

    def state(self) -> dict:
        """Tensors and plain values only; the weights are the network's own state."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "spent": self.spent(),
            "pace": self.pace,
            "skipped": int(self.optimizer.skipped),
            "epochs": self.epochs,
            "anchor": list(self.anchor),
            "logits": self.logits[: self.ends[self.step - 1] if self.step else 0],
            "labels": self.labels[: self.ends[self.step - 1] if self.step else 0],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            # Nothing here draws from the global generators; a network with dropout would.
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load(self, state: dict) -> None:
        """Goes on from what `state` returned, with the time that is left of `minutes`."""
        for name in ("epoch", "step", "seconds", "epochs", "pace"):
            setattr(self, name, state[name])
        self.anchor = tuple(state["anchor"])
        self.begun -= state["spent"]
        if not len(state["logits"]) == len(state["labels"]) <= len(self.logits):
            raise ValueError(f"answers for {len(state['logits']):,} of {len(self.logits):,} images")
        self.logits[: len(state["logits"])] = state["logits"].to(self.device)
        self.labels[: len(state["labels"])] = state["labels"].to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.skipped.fill_(state["skipped"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generators"][0])
        if len(state["generators"]) == 1 + torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["generators"][1:])
        self.plan()
