"""One image file to one grey square of pixels: JPEG, PNG and DICOM.

decode(content, size, fit)   the bytes of a file -> Film, or ValueError with the reason
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile

FITS = ("stretch", "pad", "crop")
DECODER_VERSION = 2  # part of a cache's name: raise it when a decoded pixel changes
SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
MAX_PIXELS = 80_000_000  # the largest film in the data has 6.4 million; above this it is a mistake or an attack
MAX_SIDE = 10_000  # to "pad" makes a square of the longer side
MAX_SCANS = 100  # of a progressive JPEG, which has about 10; each is a pass over the whole picture


@dataclass(frozen=True)
class Film:
    """A decoded image.

    Attributes:
        pixels: (S, S) uint8 grey levels.
        width, height: of the file, in pixels.
        mode: how the file stores its pixels: "L", "RGB", "I;16", "DICOM MONOCHROME2", ...
        pixel_hash: of the grey pixels at original size; equal for the same film in another file.
        patient: pseudonym from a DICOM PatientID, else None.
        warning: what a person should know of how it was read, else "".
    """

    pixels: np.ndarray
    width: int
    height: int
    mode: str
    pixel_hash: str
    patient: str | None = None
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
        grey, mode, patient, warning = _decode_dicom(content)
    else:
        grey, mode = _decode_picture(content)
    height, width = grey.shape
    digest = hashlib.sha256(f"{width}x{height} ".encode())
    digest.update(np.ascontiguousarray(grey).data)
    square = squared(grey, fit)
    if square.shape != (size, size):
        square = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))
    return Film(square, width, height, mode, digest.hexdigest()[:16], patient, warning)


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


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels is more than the limit of {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width:,} x {height:,} pixels is more than the limit of {MAX_SIDE:,} to a side")
    if width <= 0 or height <= 0:
        raise ValueError("it has no pixels")


def _decode_picture(content: bytes) -> tuple[np.ndarray, str]:
    """(H, W) uint8 grey levels of a JPEG or PNG, and its mode; transparency is ignored."""
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            check_size(*image.size)
            mode = image.mode
            if mode == "RGB" and isinstance(image, ImageFile.ImageFile):
                image.draft("L", None)  # a colour JPEG holds its grey channel apart: the colours need no decoding
            if mode.startswith("I"):  # 16 bits: convert("L") would clip at 255 instead of scaling
                return (np.asarray(image, np.float32) / 257).round().astype(np.uint8), mode
            image.load()
            return np.asarray(image if image.mode == "L" else image.convert("L")), mode  # convert would copy
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a JPEG, PNG or DICOM file" if content else "the file is empty") from error
    except (OSError, SyntaxError, EOFError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(str(error).splitlines()[0]) from error


# --------------------------------------------------------------------------------------------------- DICOM


def _decode_dicom(content: bytes) -> tuple[np.ndarray, str, str | None, str]:
    """(H, W) uint8 grey levels of a DICOM file, its mode, the patient's pseudonym, and a warning.

    Nothing of the header but that pseudonym leaves this function.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise ValueError("a DICOM file: pip install -r requirements-dicom.txt reads them") from error
    try:
        header = pydicom.dcmread(io.BytesIO(content))
        check_size(int(header.Columns), int(header.Rows))
        pixels = header.pixel_array
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, OSError, EOFError, TypeError, ValueError,
            InvalidDicomError) as error:  # fmt: skip
        raise ValueError(
            f"a DICOM file that cannot be decoded ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from error
    warning = ""
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        pixels = pixels[0]
        warning = f"the first of {frames} frames is used"
    photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if header.get("SamplesPerPixel", 1) == 3:
        pixels = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow converts
    if pixels.ndim != 2:
        raise ValueError(f"a DICOM file with pixels of shape {pixels.shape}: no picture")
    grey = _windowed(pixels, header)
    if photometric == "MONOCHROME1":  # low values are meant to be shown bright
        grey = 255 - grey
    return grey, f"DICOM {photometric}", pseudonym(str(header.get("PatientID", "") or "")), warning


def _windowed(pixels: np.ndarray, header: Any) -> np.ndarray:
    """Stored values to grey levels 0 to 255: rescale slope and intercept, then the first window, else full range.

    Source: DICOM PS3.3, C.11.1 (modality LUT) and C.11.2 (VOI LUT), linear functions; a sigmoid window is taken as
    linear.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = np.asarray(apply_modality_lut(pixels, header), np.float64)
    if "VOILUTSequence" in header:
        values = np.asarray(apply_voi_lut(values.astype(pixels.dtype), header, prefer_lut=True), np.float64)
        low, high = values.min(), values.max()
    elif header.get("WindowWidth") and header.get("WindowCenter") is not None:
        width, centre = (float(np.atleast_1d(header.get(name))[0]) for name in ("WindowWidth", "WindowCenter"))
        if header.get("VOILUTFunction", "LINEAR") == "LINEAR":
            low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        else:
            low, high = centre - width / 2, centre + width / 2
    else:
        low, high = values.min(), values.max()
    return (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).round().astype(np.uint8)


def pseudonym(patient_id: str) -> str | None:
    """A name for a patient that keeps images together and does not show the id; None for an empty id."""
    if not patient_id.strip():
        return None
    return "patient-" + hashlib.sha256(f"chest X-ray patient {patient_id.strip()}".encode()).hexdigest()[:16]
