"""From a network and batches to logits: the one door through which every reported number goes."""

from collections.abc import Callable

import numpy as np
import torch

from devices import parallel
from devices.hardware import autocast
from devices.layers import fused
from devices.recording import Captured, Recorder, Work, recorder
from training.batches import Batches

EVALUATION_BATCH = {"cpu": 64, "cuda": 512, "mps": 128}


def answering(
    network: torch.nn.Module, device: torch.device, reduced: bool = False, record: Recorder | None = None
) -> Captured:
    """From (B, 1, S, S) images to (logits (B, 2) float32,); if `reduced` in bf16 or fp16 inside, by what is fastest."""
    asked = fused(network, device) if reduced else network

    def answer(images: torch.Tensor) -> tuple[torch.Tensor]:
        with autocast(device, enabled=reduced):
            return (asked(images).float(),)

    return Captured(answer, record or recorder(device))


@torch.inference_mode()
def network_logits(
    network: torch.nn.Module,
    batches: Batches,
    reduced: bool = False,
    answer: Work | None = None,
    moved: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Logits of a whole set, (N, 2) float32, in the set's order; leaves the network in the mode it was in.

    In float32, unless `reduced` allows bf16 or fp16 (faster, good enough to choose an epoch by). Where several
    processes share the set, each gets the logits of all of it. Who asks again and again keeps `answering(...)` of this
    network and hands it in. `moved` is told of each batch how many images it held.
    """
    was_training = network.training
    network.eval()
    answer = answer or answering(network, batches.device, reduced)
    kept = [torch.empty(0, 2, device=batches.device)]  # a process may have no image of a very small set
    for images, _ in batches.epoch():
        kept.append(answer(images)[0].clone())  # the next answer is written over this one
        moved(len(images))
    network.train(was_training)
    logits = torch.cat(kept).cpu().numpy()  # the one synchronisation
    return parallel.gathered(logits) if batches.shard[1] > 1 else logits
