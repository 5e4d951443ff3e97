"""Letters, words and times, painted on the films of both classes alike while they are trained on: a candidate."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

WORDS = ("R", "L", "AP", "A-P", "PA", "SUPINE", "PORTABLE", "ERECT", "70 kV", "10:42", "2015-03-11", "IM 1/1")
SIZES = (0.04, 0.13)  # of the side: a letter's height
MOST = 3  # on a film; a third of the films has none, as many have one, two or three
EDGE = 0.3  # of the side: what is painted begins in that part, at one of the four edges


class Painted:
    """A table of films (N, S, S) uint8, with words on those that are gathered: others each time."""

    def __init__(self, table: torch.Tensor, seed: int) -> None:
        self.table, self.generator = table, np.random.default_rng(seed)
        self.shape, self.device = table.shape, table.device

    def index_select(self, dimension: int, rows: torch.Tensor) -> torch.Tensor:
        films = self.table.index_select(dimension, rows).cpu().numpy()
        return torch.from_numpy(np.stack([painted(film, self.generator) for film in films])).to(self.device)


def painted(film: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(S, S) uint8 with up to MOST words near its edges, in any grey, over what is there."""
    picture, side = Image.fromarray(film), len(film)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(generator.integers(0, MOST + 1)) if generator.random() < 2 / 3 else 0):
        word, size = str(generator.choice(WORDS)), max(round(side * generator.uniform(*SIZES)), 6)
        along, across = generator.uniform(0, 0.9), generator.uniform(0, EDGE)
        if generator.random() < 0.5:
            across = 1 - across - size / side
        place = (along, across) if generator.random() < 0.5 else (across, along)
        grey = int(generator.integers(90, 256))
        draw.text((place[0] * side, place[1] * side), word, grey, ImageFont.load_default(size))
    return np.asarray(picture)
