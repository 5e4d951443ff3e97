"""How films look, in few bits: what stays the same when a film is resized, or stored in another format.

perceptual_hash(images)   (N, S, S) -> (N, 4) uint64, of a table's squares
looks_of(grey)            the same of one film at its own size and of its middle, as text
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from basics.progress import Progress

CHUNK, CHUNK_PIXELS = 256, 1 << 24  # images at a time, and fewer of large ones
ROWS, COLUMNS = 16, 17
LARGE = 256  # looks_of() makes films smaller first that have twice this side or more, and then has sides of
SMALL = COLUMNS * 8, ROWS * 8  # pixels to take its means of: a tenth of the time that decoding a large film takes
# Of 256 bits. Copies of 582 films, stored as JPEG of quality 30, made 128 x 128, 90 x 110 or 1200 x 800, or brightened:
# 99 % lie within 4 to 10 bits. 82 films at their original sizes beside the same films resized: all within 6. No two of
# 5,232 films that are of different patients differ in less than 12.
SAME_FILM = 10


def perceptual_hash(images: np.ndarray) -> NDArray[np.uint64]:
    """(N, S, S) uint8 -> (N, 4) uint64: 256 bits an image that survive recompression, resizing and brightness.

    A difference hash: the image as 16 x 17 means, and whether each is darker than the next in its row (as whole
    numbers, so that the bits do not depend on the machine). Raises ValueError for images smaller than 32 x 32.
    """
    if images.ndim != 3 or min(images.shape[1:]) < 32:
        raise ValueError(f"images must be (N, S, S) with S of at least 32, not {images.shape}")
    hashes = []
    for chunk in chunks(images, doing="looking for near duplicates"):
        sums = cell_sums(chunk, ROWS, COLUMNS)
        hashes.append(np.packbits(sums[:, :, 1:] > sums[:, :, :-1]).reshape(-1, 32).view(np.uint64))
    return np.concatenate(hashes)


def looks_of(grey: np.ndarray) -> str:
    """128 hex digits: perceptual_hash of a film (H, W) uint8 at its own size, and of the square in its middle.

    The second is what is left of a film where somebody has cut it to a square, as MedMNIST has.
    """
    factor = min(grey.shape) // LARGE
    if factor > 1:
        grey = np.asarray(Image.fromarray(grey).reduce(factor))
    height, width = grey.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    whole = _look(grey)
    return whole + (whole if height == width else _look(grey[top : top + side, left : left + side]))


def _look(grey: np.ndarray) -> str:
    height, width = grey.shape
    small = min(width, SMALL[0]), min(height, SMALL[1])
    if small != (width, height):
        grey = np.asarray(Image.fromarray(grey).resize(small, Image.Resampling.BOX))
    if small == SMALL:  # cells end on pixels' edges
        sums = grey.reshape(ROWS, 8, COLUMNS, 8).sum((1, 3), dtype=np.int64)
    else:
        sums = cell_sums(grey[None], ROWS, COLUMNS)[0]
    return np.packbits(sums[:, 1:] > sums[:, :-1]).tobytes().hex()


def from_text(looks: list[str]) -> NDArray[np.uint64]:
    """(N, 2, 4), what looks_of() gave of N films."""
    return np.frombuffer(bytes.fromhex("".join(looks)), np.uint64).reshape(-1, 2, 4)


def resembling(looks: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(N,) whether one of the two looks (N, 2, 4) of a film is that of the same film as any of the others (M, 4)."""
    every = looks.reshape(-1, 4)
    found = np.zeros(len(every), bool)
    for start in range(0, len(every), CHUNK):
        block = every[start : start + CHUNK]
        distance = np.zeros((len(block), len(others)), np.uint16)
        for word in range(4):
            distance += np.bitwise_count(block[:, word, None] ^ others[None, :, word])
        found[start : start + CHUNK] = (distance <= SAME_FILM).any(1)
    return found[::2] | found[1::2]


def chunks(images: np.ndarray, chosen: np.ndarray | None = None, doing: str = "") -> Iterator[np.ndarray]:
    """The images, or the chosen ones, a few at a time; one empty chunk where there are none.

    Says how far it is where `doing` names what is being done with them.
    """
    step = max(1, min(CHUNK, CHUNK_PIXELS // (images.shape[1] * images.shape[2])))
    count = len(images if chosen is None else chosen)
    with Progress(count, doing, quiet=not doing, leave=False, delay=2) as progress:
        for start in range(0, max(count, 1), step):
            part = slice(start, start + step)
            yield images[part if chosen is None else chosen[part]]
            progress.update(min(step, count - start))


def cell_sums(chunk: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(n, H, W) uint8 -> (n, rows, columns) float64: H * W times the mean of each cell.

    Cells need not end on a pixel's edge: a pixel counts in each by its share, in whole numbers, so sums are exact.
    """
    down, across = shares(chunk.shape[1], rows), shares(chunk.shape[2], columns)
    return (down.astype(np.float32) @ chunk.astype(np.float32)).astype(np.float64) @ across.T


def shares(length: int, cells: int) -> np.ndarray:
    """(cells, length) float64: `cells` times the share of each pixel in each cell; rows sum to `length`."""
    cell, pixel = np.arange(cells)[:, None] * length, np.arange(length) * cells  # in units of 1 / cells pixels
    overlap = np.minimum(cell + length, pixel + cells) - np.maximum(cell, pixel)
    return np.clip(overlap, 0, None).astype(np.float64)
