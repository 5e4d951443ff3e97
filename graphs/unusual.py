"""Films that are unlike a data set's squares: of other shapes, in other batches, of other looks, drawn from a seed.

A graph that is right on squares of its own size could still be wrong on a portrait film, or on five at once. Whoever
knew what is tried could build a graph that passes: so the seed is drawn afresh for each proof.

draw(...)        shapes and looks, made of some of the data's own squares
batches(...)     which images go through together, in batches of many sizes
originals(...)   films at their own size, as they lie in their files
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

import data
from basics.problems import Problem
from films import reading, sources
from graphs.doubts import Doubts

BASES = 16  # squares that shapes and looks are made of
ORIGINALS = 12  # films at their own size
SEED_BITS = 48  # few enough for a number in JSON
LONG = 3000  # pixels: longer than nearly all films
MOST_PIXELS = 24_000_000  # of one original: more would take gigabytes in the graph
SMALL_BATCHES = (3, 4, 5, 6, 7)  # what people send; 1 and 2 go through for many images
LARGE_BATCHES = ((8, 15), (16, 32), (33, 63), (65, 80))  # of each range one


def pixel_hash(image: np.ndarray) -> str:
    """Of an (S, S) square: names an image by what the network sees, not by its file."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:16]


@dataclass(frozen=True)
class Lot:
    """Films of one shape, which go through the graph together."""

    kind: str  # what is unusual about them
    films: np.ndarray  # (n, H, W) uint8
    film: str = ""  # of an original: the hash of the film that it is
    logits: np.ndarray | None = None  # (n, 2) float32 of their squares, where PyTorch's are known
    doubts: Doubts | None = None  # of their squares, where PyTorch's are known
    same_squares: bool = True  # PyTorch makes the same squares of them here as there

    @property
    def name(self) -> str:
        """Of its pixels, whatever drew them."""
        digest = hashlib.sha256(repr(self.films.shape).encode())
        digest.update(np.ascontiguousarray(self.films).data)
        return digest.hexdigest()[:16]


class Drawer:
    """Draws lots of one seed, from squares of which some may be missing: then what is made of these is left out."""

    def __init__(self, seed: int, size: int, bases: list[np.ndarray | None]) -> None:
        self.rng, self.size, self.bases = np.random.default_rng(seed), size, bases
        self.lots: list[Lot] = []
        self.missing = False

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self.rng.integers(low, max(low, high) + 1))

    def base(self) -> np.ndarray:
        found = self.bases[self.number(0, len(self.bases) - 1)]
        self.missing |= found is None
        return np.zeros((self.size, self.size), np.uint8) if found is None else found

    def film(self, height: int, width: int) -> np.ndarray:
        """One of the squares in another shape, with grain."""
        film = np.asarray(Image.fromarray(self.base()).resize((width, height), Image.Resampling.BICUBIC))
        grain = self.rng.integers(-3, 4, (min(height, 512), width), np.int16)
        grain = np.resize(grain, (height, width)) if height > 512 else grain
        return np.clip(film + grain, 0, 255).astype(np.uint8)

    def keep(self, kind: str, films: list[np.ndarray]) -> None:
        if not self.missing:
            self.lots.append(Lot(kind, np.stack(films)))
        self.missing = False

    def shape(self, kind: str, count: int, height: int, width: int) -> None:
        self.keep(kind, [self.film(height, width) for _ in range(count)])

    def shapes(self) -> None:
        """Portrait, landscape, squares of other sizes, tiny, thin, wide and high ones."""
        number, size = self.number, self.size
        for count in (number(3, 5), number(1, 2)):
            short = number(24, 1000)
            self.shape("portrait", count, short + number(1 + short // 20, 2 * short), short)
            short = number(24, 1000)
            self.shape("landscape", count, short, short + number(1 + short // 20, 2 * short))
        ranges = ((9, size // 2), (size // 2 + 1, size - 1), (size + 1, 2 * size), (2 * size + 1, 1600))
        for low, high in ranges:
            side = number(low, high)
            self.shape("squares of another size", number(1, 2), side, side)
        self.shape("small", number(2, 4), number(9, size - 1), number(9, size - 1))
        for _ in range(2):
            self.shape("tiny", number(1, 3), number(1, 8), number(1, 8))
        self.shape("thin", 1, number(1, 16), number(100, 2000))
        self.shape("thin", 1, number(100, 2000), number(1, 16))
        for low, high, across in ((LONG + 1, 5000, (100, 1500)), (5001, reading.MAX_SIDE, (8, 400))):
            self.shape("wide", 1, number(*across), number(low, high))
            self.shape("high", 1, number(low, high), number(*across))

    def looks(self) -> None:
        """Each look on two squares of the network's size, which go through as they are, and in another shape."""
        for kind, look in LOOKS.items():
            plain = [look(self, self.base()) for _ in range(2)]
            self.keep(kind, plain)
            self.keep(kind, [look(self, self.film(self.number(40, 900), self.number(40, 900)))])


def dark(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    return (film * (drawer.number(2, 16) / 255)).astype(np.uint8)


def flat(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    """Of little contrast."""
    return (drawer.number(20, 180) + film * (drawer.number(8, 40) / 255)).astype(np.uint8)


def equal_rows(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    """A grey ramp from left to right, or one row of the film again and again."""
    row = film[drawer.number(0, len(film) - 1)]
    if drawer.number(0, 1):
        ends = drawer.number(0, 255), drawer.number(0, 255)
        row = np.linspace(*ends, len(row)).round().astype(np.uint8)
    return np.tile(row, (len(film), 1))


def constant(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    return np.full(film.shape, drawer.number(1, 254), np.uint8)


def checkers(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    """A board, or stripes where its fields are as long as the film."""
    low, high = drawer.number(0, 127), drawer.number(128, 255)
    tall = drawer.number(1, 40) if drawer.number(0, 2) else len(film)
    rows, columns = np.arange(film.shape[0]) // tall, np.arange(film.shape[1]) // drawer.number(1, 40)
    return np.where((rows[:, None] + columns) % 2, high, low).astype(np.uint8)


def turned(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    """Mirrored, or upside down."""
    return film[:, ::-1] if drawer.number(0, 1) else film[::-1]


def covered(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    """One part black."""
    film = film.copy()
    film[: drawer.number(1, max(1, len(film) // 2)), : drawer.number(1, film.shape[1])] = 0
    return film


def noisy(drawer: Drawer, film: np.ndarray) -> np.ndarray:
    return np.clip(film + drawer.rng.normal(0, 40, film.shape), 0, 255).astype(np.uint8)


LOOKS: dict[str, Callable[[Drawer, np.ndarray], np.ndarray]] = {
    "dark": dark,
    "bright": lambda drawer, film: 255 - dark(drawer, film),
    "flat": flat,
    "inverted": lambda drawer, film: 255 - film,
    "turned": turned,
    "covered": covered,
    "equal rows": equal_rows,
    "equal columns": lambda drawer, film: np.ascontiguousarray(equal_rows(drawer, film.T).T),
    "one grey": constant,
    "checkers": checkers,
    "noisy": noisy,
}


def draw(seed: int, size: int, bases: list[np.ndarray | None]) -> list[Lot]:
    """Shapes and looks of one seed, always the same ones; those made of a missing base are left out.

    bases: (S, S) uint8 each.
    """
    drawer = Drawer(seed, size, bases)
    drawer.shapes()
    drawer.looks()
    return drawer.lots


def batches(seed: int, count: int) -> list[np.ndarray]:
    """Of each batch which of `count` images are in it, in some order; where there are too few, some again."""
    rng = np.random.default_rng([seed, 1])
    sizes = [*SMALL_BATCHES, *(int(rng.integers(low, high + 1)) for low, high in LARGE_BATCHES)]
    return [np.resize(rng.permutation(count), size) for size in sizes]


def choose_bases(seed: int, count: int) -> np.ndarray:
    """(at most BASES,) places below `count`."""
    return np.random.default_rng([seed, 2]).permutation(count)[:BASES]


def choose_originals(seed: int, dataset: data.Dataset, places: np.ndarray) -> list[int]:
    """Those of the places whose films are the widest, narrowest, largest and smallest, and some at random.

    None where all are squares of the size that is kept: their own size gives nothing new.
    """
    widths, heights = dataset.widths[places], dataset.heights[places]
    pixels = widths * heights
    side = dataset.images.shape[1]
    possible = np.flatnonzero(((widths != side) | (heights != side)) & (pixels <= MOST_PIXELS))
    if not len(possible):
        return []
    extremes = [possible[rank(values[possible])] for values in (widths / heights, pixels)
                for rank in (np.argmin, np.argmax)]  # fmt: skip
    others = np.random.default_rng([seed, 3]).permutation(possible)
    return [int(places[i]) for i in list(dict.fromkeys([*extremes, *others]))[:ORIGINALS]]


def originals(dataset: data.Dataset, places: list[int]) -> list[Lot]:
    """Films of a data set as they lie in their files, grey, at their own size. Raises Problem where one is gone."""
    if not places:
        return []
    source = sources.open_source(dataset.source, dataset.images.shape[1], dataset.classes)
    entries = {entry.file: entry for entry in source.entries}
    lots = []
    for i in places:
        file = dataset.files[i]
        try:
            grey = grey_of(entries[file].read())
        except (KeyError, OSError, ValueError) as error:
            raise Problem(f"{dataset.source}: {file} was read before, and cannot be read now ({error})") from error
        lots.append(Lot("original size", np.ascontiguousarray(grey)[None], film=dataset.pixel_hashes[i]))
    return lots


def grey_of(content: bytes | np.ndarray) -> np.ndarray:
    """(H, W) uint8 grey levels of a file's bytes, before they are made a square."""
    if isinstance(content, np.ndarray):
        return content
    return reading.read_dicom(content)[0] if content[128:132] == b"DICM" else reading.read_picture(content)[0]
