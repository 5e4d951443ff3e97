"""One image file to one grey square of pixels: JPEG, PNG and DICOM.

decode(content, size, fit)   the bytes of a file -> Film, or ValueError with the reason
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from films import looks, patients, reading

FITS = ("stretch", "pad", "crop")
DECODER_VERSION = 3  # part of a cache's name: raise it when a decoded pixel changes
SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")


@dataclass(frozen=True)
class Film:
    """A decoded image.

    Attributes:
        pixels: (S, S) uint8 grey levels.
        width, height: of the film as it is shown, in pixels.
        mode: how the file stores its pixels: "L", "RGB", "I;16", "DICOM MONOCHROME2", ...
        pixel_hash: of the grey pixels at original size; equal for the same film in another file.
        looks: of those pixels too, see films/looks.py; nearly equal for the same film resized or stored otherwise.
        patient: a DICOM PatientID as it is, normalised, or None; to be kept in memory, and not to be written or shown.
        warning: what a person should know of how it was read, else "".
    """

    pixels: np.ndarray
    width: int
    height: int
    mode: str
    pixel_hash: str
    looks: str
    patient: str | None = field(default=None, repr=False)
    warning: str = ""


def decode(content: bytes | np.ndarray, size: int, fit: str = "stretch") -> Film:
    """Decodes a file to grey and makes it a square of `size` pixels: bilinear, antialiased.

    content: the bytes of a JPEG, PNG or DICOM file, or pixels (H, W) uint8.
    fit: "stretch" ignores the proportions, "pad" adds black borders to keep them, "crop" cuts to the centre square.

    JPEG is decoded at full resolution: a decoder's reduced scale (1/2, 1/4) is faster, and on 46 films large enough
    for it moved single pixels of the result by 2 to 73 grey levels. Raises ValueError with the reason.
    """
    patient, warning = None, ""
    if isinstance(content, np.ndarray):
        grey, mode = content, "L"
    elif content[128:132] == b"DICM":
        grey, mode, warning, identity = reading.read_dicom(content)
        patient = patients.normalised(identity) or None
    else:
        grey, mode, warning, _ = reading.read_picture(content)
    height, width = grey.shape
    digest = hashlib.sha256(f"{width}x{height} ".encode())
    digest.update(np.ascontiguousarray(grey).data)
    square = squared(grey, fit)
    if square.shape != (size, size):
        square = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))
    return Film(square, width, height, mode, digest.hexdigest()[:16], looks.looks_of(grey), patient, warning)


def squared(grey: np.ndarray, fit: str) -> np.ndarray:
    """(H, W) pixels as they are, on a black square, or cut to the centre square."""
    height, width = grey.shape
    if fit == "stretch" or height == width:
        return grey
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return np.ascontiguousarray(grey[top : top + side, left : left + side])
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), np.uint8)
    square[top : top + height, left : left + width] = grey
    return square
