"""Variants of the recipes, each with one thing changed."""

from collections.abc import Callable
from dataclasses import replace

from films.variation import Augment
from training.recipes import Recipe

FRAMING, TONE, DETAIL, SHAPE, FRAME = (
    ("shift", "tightest", "widest", "aspect", "unmoved"),
    ("brightness", "contrast", "curve"),
    ("blur", "sharpen"),
    ("reshaped",),
    ("frames",),
)
MILD = Augment()  # what the recipes did before stress validation


def augmented(**changes: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, augment=replace(recipe.augment, **changes))


def as_mild(*fields: str) -> Callable[[Recipe], Recipe]:
    return augmented(**{field: getattr(MILD, field) for field in fields})


def longer(factor: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, epochs=max(round(recipe.epochs * factor), 1))


def times(**factors: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, **{name: getattr(recipe, name) * by for name, by in factors.items()})


VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    "the recipe": lambda recipe: recipe,
    "mild framing and tone": as_mild(*FRAMING, *TONE, *DETAIL, *SHAPE, *FRAME),
    "framing alone": as_mild(*TONE, *DETAIL, *SHAPE, *FRAME),
    "tone alone": as_mild(*FRAMING, *DETAIL, *SHAPE, *FRAME),
    "sharpness alone": as_mild(*FRAMING, *TONE, *SHAPE, *FRAME),
    "shape alone": as_mild(*FRAMING, *TONE, *DETAIL, *FRAME),
    "frames alone": as_mild(*FRAMING, *TONE, *DETAIL, *SHAPE),
    "without framing": as_mild(*FRAMING),
    "without tone": as_mild(*TONE),
    "without sharpness": as_mild(*DETAIL),
    "without shape": as_mild(*SHAPE),
    "without frames": as_mild(*FRAME),
    "three films in ten reshaped": augmented(reshaped=0.3),
    "seven films in ten reshaped": augmented(reshaped=0.7),
    "no film unmoved": augmented(unmoved=0.0),
    "half of the films unmoved": augmented(unmoved=0.5),
    "as much blurring as sharpening": augmented(blur=1.0, sharpen=1.0),
    "and covered borders": augmented(border=0.2),
    "and mirror images": augmented(flip=True),
    "and rotation to 15 degrees": augmented(rotation=15.0),
    "parts of 0.55 to 1.1": augmented(tightest=0.55, widest=1.1),
    "parts of 0.7 to 1.3": augmented(tightest=0.7, widest=1.3),
    "wider or narrower by 1.8": augmented(aspect=1.8),
    "nine films in ten in frames of others": augmented(frames=0.9),
    "all films in frames of others": augmented(frames=1.0),
    "half of the films with spectra of others": augmented(spectra=0.5),
    "half as long": longer(0.5),
    "half as long again": longer(1.5),
    "twice as long": longer(2),
    "half the learning rate": times(learning_rate=0.5),
    "twice the learning rate": times(learning_rate=2),
    "no weight decay": times(weight_decay=0),
    "ten times the weight decay": times(weight_decay=10),
}

AND = " + "  # between the names of several that are tried together

# Of studies/candidates.py, which takes seconds to import.
CANDIDATE_NAMES = ("histogram equalisation", "CLAHE", "each film standardised", "cut to the lungs",
                   "label smoothing 0.1", "mixup 0.2", "dropout 0.3", "averaged weights", "class weights",
                   "balanced sampling", "unsure without lungs", "letters painted", "films whose frame lies five times",
                   "overlap weights of frames", "slower lower layers", "the last layer first",
                   "looks of classes exchanged", "answers over three zooms", "prevalence by EM")  # fmt: skip
