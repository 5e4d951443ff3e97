"""The bytes of one JPEG, PNG or DICOM file to the grey levels that a viewer shows.

read_picture(content)   of a JPEG or PNG: (H, W) uint8 grey levels, mode, warning, and a sample of its colours
read_dicom(content)     of a DICOM file: (H, W) uint8 grey levels, mode, warning, and the PatientID

predict.py, which imports nothing of ours, holds the same functions and constants, word for word.
"""

import contextlib
import io
import re
import struct
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from PIL import Image

MAX_PIXELS = 80_000_000  # the largest film in the data has 6.4 million; above this it is a mistake or an attack
MAX_SIDE = 10_000  # to "pad" makes a square of the longer side
MAX_SCANS = 100  # of a progressive JPEG, which has about 10; each is a pass over the whole picture
MARKER = re.compile(rb"\xff+([^\x00\xff])")  # of a part of a JPEG
EXIF = b"Exif\0\0"  # how such data begin in a JPEG
DICOM_PACKAGES = "pydicom pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg pyjpegls"  # as in requirements-dicom.txt
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow converts
COLOURS = ("Red", "Green", "Blue")
NEEDED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
          "PixelRepresentation")  # fmt: skip


class Unusable(ValueError):
    """One line about the part of a DICOM file that cannot be used."""


def one_line(said: object) -> str:
    """A text, or what an error says, on one line that a terminal can show."""
    text = "".join(character if character.isprintable() else " " for character in str(said))
    return " ".join(text.split())[:300] or type(said).__name__


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels is more than the limit of {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width:,} x {height:,} pixels is more than the limit of {MAX_SIDE:,} to a side")
    if width <= 0 or height <= 0:
        raise ValueError("it has no pixels")


def check_scans(content: bytes) -> None:
    """Raises ValueError for a JPEG of more than MAX_SCANS scans; what follows its end, such as a video, does not count.

    Markers are followed as libjpeg does it: ITU-T T.81, B.1.1.
    """
    if content.count(b"\xff\xda") <= MAX_SCANS:  # of nearly all files: nothing has to be followed
        return
    scans, place = 0, 2
    while match := MARKER.search(content, place):
        place, kind = match.end(), match[1][0]
        if kind == 0xD9:  # end of image
            return
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # these have no length
            continue
        scans += kind == 0xDA
        if scans > MAX_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
        place += int.from_bytes(content[place : place + 2], "big")


def read_picture(content: bytes) -> tuple[np.ndarray, str, str, Image.Image | None]:
    """(H, W) uint8 grey levels of a JPEG or PNG, its mode, a warning or "", and 32 x 32 pixels of its colours.

    It is turned as its EXIF data say; transparency is ignored. There are no colours where there was no need to decode
    any, as in a JPEG of mode "RGB". Raises ValueError with the reason.
    """
    if content[:2] == b"\xff\xd8":
        check_scans(content)
    small, warning = None, ""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            check_size(*image.size)
            mode = image.mode
            if mode == "RGB":
                image.draft("L", None)  # a colour JPEG holds its grey channel apart: the colours need no decoding
            image.load()
            if mode.startswith("I"):  # 16 bits: convert("L") would clip at 255 instead of scaling
                grey, warning = grey_of_16_bits(np.asarray(image), content)
            else:
                grey = np.asarray(image if image.mode == "L" else image.convert("L"))  # convert would copy
                if image.mode not in ("1", "L", "LA"):
                    small = image.resize((32, 32), reducing_gap=1.0)
            return upright(grey, orientation_of(image.info.get("exif"))), mode, warning, small
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except Image.UnidentifiedImageError as error:
        if content[:2] == b"\xff\xd8" and EXIF in content:  # enough damage there keeps Pillow from the picture
            return read_picture(content.replace(EXIF, b"none\0\0"))
        raise ValueError("not a JPEG, PNG or DICOM file" if content else "the file is empty") from error
    except (OSError, SyntaxError, EOFError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(one_line(error)) from error


def orientation_of(exif: bytes | None) -> int:
    """The orientation in EXIF data, 1 to 8; 1, upright, where there are none or they are damaged (Exif 2.32, 4.6.4)."""
    data = (exif or b"").removeprefix(EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 10:
        return 1
    (place,) = struct.unpack_from(f"{order}L", data, 4)
    if place + 2 > len(data):
        return 1
    (count,) = struct.unpack_from(f"{order}H", data, place)
    for start in range(place + 2, min(place + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, values, value = struct.unpack_from(f"{order}HHLH", data, start)
        if tag == 0x0112:
            return value if (kind, values) == (3, 1) and 1 <= value <= 8 else 1
    return 1


def upright(grey: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W) or turned (W, H) pixels as EXIF's orientation wants them shown."""
    if orientation >= 5:
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return np.ascontiguousarray(grey)


def grey_of_16_bits(values: np.ndarray, content: bytes) -> tuple[np.ndarray, str]:
    """(H, W) values of a 16-bit PNG as uint8, and a warning where fewer bits are in use, such as a detector's 12."""
    largest = int(values.max())
    bits = significant_bits(content)
    if not bits or largest >= 2**bits:
        bits = next(bits for bits in (10, 12, 14, 16) if largest < 2**bits)
    levels = (np.arange(2**bits) * (255 / (2**bits - 1))).round().astype(np.uint8)
    return levels[values], f"{bits} bits in a 16-bit PNG" if bits < 16 else ""


def significant_bits(content: bytes) -> int:
    """What the sBIT chunk of a grey PNG says, 0 where there is none or it is impossible (PNG, 11.3.3.4)."""
    place = 8
    while (kind := content[place + 4 : place + 8]) not in (b"", b"IDAT"):
        if kind == b"sBIT":
            bits = int.from_bytes(content[place + 8 : place + 9], "big")
            return bits if bits <= 16 else 0
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return 0


def read_dicom(content: bytes) -> tuple[np.ndarray, str, str, str]:
    """(H, W) uint8 grey levels of a DICOM file, its mode, a warning or "", and the PatientID or "".

    Nothing else of the header leaves this function. Raises ValueError with the reason.
    """
    header = open_dicom(content)
    with naming_part("header"):
        frames = int(header.get("NumberOfFrames") or 1)
        patient = str(header.get("PatientID") or "")
    pixels, colours = decoded(header)
    photometric = header.PhotometricInterpretation
    with naming_part("pixels"):
        values = stored_values(pixels, header)
        if values.ndim == 3:
            grey = grey_of_colours(values, int(header.BitsStored), colours)
        elif photometric == "PALETTE COLOR":
            grey = by_level(values, lambda levels: grey_of_palette(levels, header))
        elif photometric in ("MONOCHROME1", "MONOCHROME2"):
            grey = by_level(values, lambda levels: grey_of_levels(levels, header))
        else:
            raise ValueError("its one channel is neither MONOCHROME nor PALETTE COLOR")
    return grey, f"DICOM {photometric}", f"the first of {frames} frames is used" if frames > 1 else "", patient


@contextlib.contextmanager
def naming_part(part: str) -> Generator[None]:
    """What goes wrong with a part of a DICOM file becomes one line that names the part."""
    try:
        yield
    except Unusable:  # a part of this part has been named
        raise
    except Exception as error:  # pydicom and its decoders raise everything there is on damaged files
        raise Unusable(f"a DICOM file whose {part} cannot be used ({one_line(error)})") from error


def open_dicom(content: bytes) -> Any:
    """The header of a DICOM file with a picture of a size that can be read, its kind of pixels without spaces."""
    try:
        import pydicom
    except ImportError as error:
        raise ValueError(f"a DICOM file: pip install {DICOM_PACKAGES} reads them") from error
    if int(pydicom.__version__.partition(".")[0]) < 3:
        raise ValueError(f"pydicom {pydicom.__version__} is too old: pip install -U pydicom")
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE  # its warnings would show a PatientID
    with naming_part("header"):
        header = pydicom.dcmread(io.BytesIO(content))
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if "PixelData" not in header:
            raise Unusable(
                f"a DICOM file with no picture in it ({one_line(getattr(kind, 'name', 'of no known kind'))})"
            )
        if missing := [name for name in NEEDED if header.get(name) is None]:
            raise Unusable(f"a DICOM file without {', '.join(missing)}")
        width, height = int(header.Columns), int(header.Rows)
        if header.SamplesPerPixel not in (1, 3) or header.BitsAllocated not in (1, 8, 16, 32):
            raise ValueError(f"{header.SamplesPerPixel} samples of {header.BitsAllocated} bits to a pixel")
        header.PhotometricInterpretation = str(header.PhotometricInterpretation).strip().upper()
    check_size(width, height)
    return header


def decoded(header: Any) -> tuple[np.ndarray, str]:
    """The first frame, (H, W) or (H, W, 3), with all bits that are allocated, and what its three channels are."""
    from pydicom.pixels import get_decoder

    with naming_part("transfer syntax"):
        if not (syntax := header.file_meta.get("TransferSyntaxUID")):
            raise Unusable("a DICOM file without TransferSyntaxUID")
        name = one_line(syntax.name)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"a DICOM file in {name}, which pydicom does not decode") from error
    packages = "; ".join(decoder.missing_dependencies)
    if not decoder.is_available:
        raise ValueError(f"a DICOM file in {name} ({packages}): pip install {DICOM_PACKAGES} decodes it")
    part = f"pixels in {name}"
    if "jpeg" in packages and "rle" not in packages:  # Pillow alone decodes some of them
        part += f" (pip install {DICOM_PACKAGES} may help: {packages})"
    with naming_part(part):
        # pydicom would cut unused bits off in some syntaxes only, and knows colours of 8 bits alone.
        options: Any = {"correct_unused_bits": False, "as_rgb": header.BitsAllocated == 8}
        pixels, facts = decoder.as_array(header, index=0, **options)
        colours = facts["photometric_interpretation"]
    return pixels, str(getattr(colours, "value", colours))


def stored_values(pixels: np.ndarray, header: Any) -> np.ndarray:
    """The BitsStored bits that end at HighBit, as integers; the others may hold anything (DICOM PS3.5, 8.1.1)."""
    bits, allocated, signed = int(header.BitsStored), int(header.BitsAllocated), header.PixelRepresentation == 1
    high = header.get("HighBit")
    values = pixels.astype(np.int64 if allocated > 16 else np.int32)
    shift = max(0, int(high) - bits + 1) if high is not None and int(high) < allocated else 0
    syntax = header.file_meta.TransferSyntaxUID
    jpeg = syntax.is_encapsulated and syntax.name != "RLE Lossless"
    if jpeg and -(2**bits) <= values.min() <= values.max() < 2**bits:
        shift = 0  # a JPEG has a precision of its own, and may hold only the bits that count
    values = (values >> shift) & (2**bits - 1)
    return values - ((values >> (bits - 1)) << bits) if signed else values


def grey_of_colours(values: np.ndarray, bits: int, colours: str) -> np.ndarray:
    """(H, W, 3) to (H, W) uint8: the brightness of what is shown, which is not stretched."""
    if colours.startswith("YBR_FULL"):
        grey = values[..., 0].astype(np.float32)
    elif colours == "RGB":
        grey = sum(np.float32(weight) * values[..., i] for i, weight in enumerate(LUMA))
    else:
        raise ValueError(f"its colours are {colours}")
    return np.clip(np.asarray(grey) * (255 / (2**bits - 1)), 0, 255).round().astype(np.uint8)


def by_level(values: np.ndarray, shown: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`shown` of each value, worked out once for each level: a film has millions of pixels, and thousands of levels.

    shown: (N,) integers, ascending, to (N,) uint8.
    """
    low, span = int(values.min()), int(values.max()) - int(values.min())
    if span >= 2**20:
        levels, places = np.unique(values, return_inverse=True)
        return shown(levels)[places].reshape(values.shape)
    present = np.zeros(span + 1, bool)
    present[values - low] = True
    table = np.zeros(span + 1, np.uint8)
    table[present] = shown(np.flatnonzero(present) + low)
    return table[values - low]


def grey_of_levels(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) stored values to (N,) uint8: modality, VOI, then MONOCHROME1; padding is black (PS3.3, C.7.6.3, C.11)."""
    with naming_part("pixel padding"):
        padding = is_padding(levels, header)
    with np.errstate(over="ignore"):
        shares = in_window(rescaled(levels, header), padding, header)
    grey = (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)
    if header.PhotometricInterpretation == "MONOCHROME1":  # low values are meant to be shown bright
        grey = 255 - grey
    return np.where(padding, np.uint8(0), grey)


def is_padding(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) bool: which stored values fill what is no film; none where all would (PS3.3, C.7.5.1.1.2)."""
    bits, signed = int(header.BitsStored), header.PixelRepresentation == 1
    ends = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        for value in words_of(header, name)[:1]:
            end = int(value) & 0xFFFF if bits <= 16 else int(value)  # US and SS are confused, in both directions
            if signed and bits <= 16:
                end -= 2**16 if end >= 2**15 else 2**bits if end >= 2 ** (bits - 1) else 0
            ends.append(end)
    if not words_of(header, "PixelPaddingValue"):
        return np.zeros(levels.shape, bool)
    padding = (levels >= min(ends)) & (levels <= max(ends))
    return padding & ~padding.all()


def rescaled(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) stored values through the modality LUT, or slope and intercept (PS3.3, C.11.1)."""
    with naming_part("modality LUT"):
        if item := item_with_lut(header, "ModalityLUTSequence"):
            return looked_up(levels, words_of(item, "LUTDescriptor"), lut_data(item), header)[0]
    with naming_part("rescale"):
        slope, intercept = (number_of(header, name) for name in ("RescaleSlope", "RescaleIntercept"))
        if slope == 0 or not np.isfinite([slope or 1, intercept or 0]).all():
            raise ValueError(f"slope {slope}, intercept {intercept}")
        values = levels * (1.0 if slope is None else slope) + (intercept or 0.0)
        if np.abs(values).max() > 1e100:
            raise ValueError(f"values up to {np.abs(values).max():.3g}")
        return values


def in_window(values: np.ndarray, padding: np.ndarray, header: Any) -> np.ndarray:
    """(N,) values to shares of full brightness: the first VOI LUT, else the first window, else all that is no padding.

    Clipping to 0 and 1 is left to the caller. Source: PS3.3, C.11.2.
    """
    with naming_part("VOI LUT"):
        if item := item_with_lut(header, "VOILUTSequence"):
            entries, bits = looked_up(values, words_of(item, "LUTDescriptor"), lut_data(item), header)
            return entries / (2**bits - 1)
    with naming_part("window"):
        centre, width = (number_of(header, name) for name in ("WindowCenter", "WindowWidth"))
        if centre is not None and width is not None:
            return window(values, centre, width, str(header.get("VOILUTFunction") or "LINEAR").strip().upper())
    low, high = values[~padding].min(), values[~padding].max()
    return (values - low) / max(float(high) - float(low), 1e-9)


def window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Shares of full brightness, beyond 0 and 1 outside the window (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if not np.isfinite([centre, width]).all() or width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"centre {centre:g}, width {width:g}")
    if function == "LINEAR":
        if width == 1:
            return (values > centre - 0.5).astype(np.float64)
        return (values - (centre - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    raise ValueError(f"its function is {function}")


def grey_of_palette(levels: np.ndarray, header: Any) -> np.ndarray:
    """(N,) stored values to (N,) uint8: the brightness of their colours (PS3.3, C.7.6.3.1.5)."""
    grey = np.zeros(levels.shape)
    with naming_part("palette"):
        for weight, colour in zip(LUMA, COLOURS, strict=True):
            data = header.get(f"{colour}PaletteColorLookupTableData")
            if not data:
                raise ValueError("it is missing, or in segments")
            descriptor = words_of(header, f"{colour}PaletteColorLookupTableDescriptor")
            entries, bits = looked_up(levels, descriptor, data, header)
            grey += weight * (255 / (2**bits - 1)) * entries
    return np.clip(grey, 0, 255).round().astype(np.uint8)


def item_with_lut(header: Any, name: str) -> Any:
    """The first item of a sequence that has anything of a lookup table, else None."""
    for item in header.get(name) or ():
        if words_of(item, "LUTDescriptor") or lut_data(item):
            return item
    return None


def lut_data(item: Any) -> Any:
    """The LUTData as they are in the file: pydicom, which converts them, cannot where the descriptor is empty."""
    element = item.get_item("LUTData", keep_deferred=True)
    return None if element is None else element.value


def looked_up(values: np.ndarray, descriptor: list[int], data: Any, header: Any) -> tuple[np.ndarray, int]:
    """(N,) values through a lookup table, and how many bits its entries have (PS3.3, C.11.1.1 and C.7.6.3.1.5).

    descriptor: number of entries (0 is 65,536), the value of the first one, bits. data: bytes, or integers of 16 bits.
    """
    if len(descriptor) != 3 or not data:
        raise ValueError(f"{len(descriptor)} of 3 values in its descriptor" if data else "it has no data")
    count, first, bits = descriptor[0] & 0xFFFF or 65536, descriptor[1], descriptor[2] & 0xFFFF
    if bits != 8 and not 10 <= bits <= 16:
        raise ValueError(f"entries of {bits} bits")
    if first > 32767 and values.min() < 0:  # a negative value that was written without its sign
        first -= 65536
    if isinstance(data, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        table = np.frombuffer(data + bytes(len(data) % 2), f"{order}u2").astype("<u2")
    else:
        table = np.atleast_1d(np.asarray(data, np.int64)).astype("<u2")
    if bits == 8 and len(table) < count:  # two to a word, the first one in its lower half
        table = table.view(np.uint8)
    if len(table) < count:
        raise ValueError(f"{len(table):,} of {count:,} entries")
    table = table[:count]
    if bits == 8 and table.max() > 255:  # in the upper half of words
        table = table >> 8
    places = np.clip(np.rint(values), first, first + count - 1) - first
    return table[places.astype(np.int64)], bits


def words_of(header: Any, name: str) -> list[int]:
    """The integers of an element; none where it is missing or empty."""
    value = header.get(name)
    if isinstance(value, bytes):  # pydicom leaves what it does not know to be signed or not
        return np.frombuffer(value, "<u2").tolist()
    return [] if value is None or value == "" else [int(number) for number in np.atleast_1d(value)]


def number_of(header: Any, name: str) -> float | None:
    """The first number of an element, None where it is missing or empty."""
    value = header.get(name)
    first = next(iter(value), None) if value is not None and np.ndim(value) else value
    return None if first is None or not str(first).strip() else float(first)
