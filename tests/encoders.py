"""Files of kinds that Pillow and pydicom do not write: PNGs of every kind, lossless JPEG."""

import struct
import zlib
from itertools import pairwise

import numpy as np
from film_files import chunk

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's colour type
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7


def png(pixels: np.ndarray, depth: int, colour: int, interlaced: bool = False, before: bytes = b"", after: bytes = b""):
    """A PNG of (H, W, samples) values with all filters, in three IDAT chunks; other chunks before and after these."""
    rng, (height, width) = np.random.default_rng(0), pixels.shape[:2]
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    parts = [pixels[y::down, x::right] for x, y, right, down in passes]
    packed = zlib.compress(b"".join(filtered(part, depth, rng) for part in parts if part.size))
    cuts = [0, len(packed) // 3, len(packed) // 2, len(packed)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = b"".join(chunk(b"IDAT", packed[start:end]) for start, end in pairwise(cuts))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + data + after + chunk(b"IEND", b"")


def filtered(pixels: np.ndarray, depth: int, rng: np.random.Generator) -> bytes:
    """The rows of a picture, each behind the number of its filter (PNG, 9)."""
    height, _, samples = pixels.shape
    if depth == 16:
        rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        rows = pixels.astype(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(pixels.astype(np.uint8).reshape(height, -1, 1), axis=2)[:, :, 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    rows, size, found = rows.astype(int), max(1, depth * samples // 8), b""
    above = np.zeros_like(rows[0])
    for row in rows:
        left, corner = (np.pad(line, (size, 0))[: len(line)] for line in (row, above))
        guess = left + above - corner
        near = [np.abs(guess - line) for line in (left, above, corner)]
        paeth = np.where((near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], above, corner))
        number = int(rng.integers(5))
        predicted = (0, left, above, (left + above) // 2, paeth)[number]
        found += bytes([number]) + ((row - predicted) & 255).astype(np.uint8).tobytes()
        above = row
    return found


def lossless_jpeg(values: np.ndarray, precision: int, predictor: int = 1, rows: int = 0) -> bytes:
    """Lossless JPEG of (H, W) or (H, W, C) values, with one table, of 17 codes of 5 bits (ITU-T T.81, annex H).

    rows: after how many of them the coder restarts, 0 for never.
    """
    values = np.atleast_3d(values).astype(np.int64)
    height, width, count = values.shape
    step, parts = rows or height, []
    for number, start in enumerate(range(0, height, step)):
        bits = "".join(map(coded, differences(values[start : start + step], precision, predictor)))
        bits += "1" * (-len(bits) % 8)
        data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        parts += [data, bytes([0xFF, 0xD0 + number % 8])]
    frame = struct.pack(">BHHB", precision, height, width, count)
    frame += b"".join(bytes([i, 0x11, 0]) for i in range(1, count + 1))
    scan = bytes([count]) + b"".join(bytes([i, 0]) for i in range(1, count + 1)) + bytes([predictor, 0, 0])
    table = bytes([0, 0, 0, 0, 0, 17]) + bytes(11) + bytes(range(17))
    restarts = segment(0xDD, struct.pack(">H", rows * width)) if rows else b""
    head = b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, table) + restarts + segment(0xDA, scan)
    return head + b"".join(parts[:-1]) + b"\xff\xd9"


def differences(values: np.ndarray, bits: int, predictor: int) -> list[int]:
    """What is left of each sample without what its neighbours predict, modulo 65,536."""
    left, above = np.zeros_like(values), np.zeros_like(values)
    left[:, 1:], above[1:] = values[:, :-1], values[:-1]
    corner = np.zeros_like(values)
    corner[1:, 1:] = values[:-1, :-1]
    sums = (left, above, corner, left + above - corner, left + ((above - corner) >> 1), above + ((left - corner) >> 1),
            (left + above) >> 1)  # fmt: skip
    predicted = sums[predictor - 1].copy()
    predicted[0], predicted[:, 0] = left[0], above[:, 0]
    predicted[0, 0] = 2 ** (bits - 1)
    return ((values - predicted + 32767) % 65536 - 32767).ravel().tolist()


def coded(difference: int) -> str:
    """The bits of a difference: how many it has, in 5 bits, and these."""
    size = abs(difference).bit_length()
    value = difference if difference > 0 else difference + 2**size - 1
    return format(size, "05b") + (format(value, f"0{size}b") if 0 < size < 16 else "")


def segment(marker: int, body: bytes) -> bytes:
    """A part of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
