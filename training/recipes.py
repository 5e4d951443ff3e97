"""How a network is trained: the recipes, and the learning rate and image side that follow from one."""

import math
from dataclasses import dataclass, field, replace

from basics import terms
from films.variation import ELSEWHERE, NO_AUGMENT, Augment


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Classes are not weighted: AUROC, by which the epoch is chosen, does not depend
    on their balance, and unweighted cross-entropy keeps probabilities at the balance that the data has; where
    to cut them is the threshold's business, and that is fitted on validation."""

    epochs: int
    learning_rate: float  # the highest one
    batch_size: int = 64  # over all processes together
    optimizer: str = "adamw"  # or "adam": without weight decay
    weight_decay: float = 0.01  # per unit of learning rate, as AdamW defines it
    warm_up: float = 0.1  # share of all steps in which the learning rate rises from 0
    decay: bool = True  # then falls to 0 along a cosine; False: stays
    resize_from: int = 0  # side in pixels in the first epoch; it grows to the full one. 0: always the full one
    augment: Augment = field(default_factory=Augment)


# What the published notebooks did, the same for all three networks.
SEED_RECIPE = Recipe(20, 1e-4, 64, "adam", 0.0, 0.0, False, 0, replace(NO_AUGMENT, flip=True))
RECIPES = {
    "default": {
        "simple": Recipe(80, 1e-3, augment=ELSEWHERE),
        "resnet34": Recipe(40, 1e-3, weight_decay=0.05, resize_from=128, augment=ELSEWHERE),
        "resnet34-pretrained": Recipe(16, 3e-4, weight_decay=0.05, resize_from=128, augment=ELSEWHERE),
    },
    "seed": dict.fromkeys(terms.ARCHITECTURES, SEED_RECIPE),
}
QUICK_EPOCHS, QUICK_IMAGES = 2, 192  # of a smoke run
FULL_SIDE = 0.25  # share of the epochs, the last ones, that see images at their full side


def rate_factor(progress: float, step: float, recipe: Recipe) -> float:
    """The share of the highest learning rate: a linear rise, then half a cosine down to 0.

    progress: of the whole training, from 0 to 1; step: how much of it one step is.
    """
    if progress < recipe.warm_up:
        return (progress + step) / (recipe.warm_up + step)
    fall = (progress - recipe.warm_up) / max(1 - recipe.warm_up, step)
    return 0.5 * (1 + math.cos(math.pi * min(fall, 1))) if recipe.decay else 1.0


def side_of_epoch(progress: float, size: int, recipe: Recipe) -> int:
    """The side in pixels of an epoch that starts at this progress: a linear rise in steps of 32, then `size`.

    Progressive resizing (Howard et al. 2018, DAWNBench): early epochs on small images cost a fraction, and the last
    ones see what the network will be used on.
    """
    if not recipe.resize_from or progress >= 1 - FULL_SIDE - 1e-9:
        return size
    grown = recipe.resize_from + (size - recipe.resize_from) * progress / (1 - FULL_SIDE)
    return min(max(int(grown // 32) * 32, recipe.resize_from), size)
