"""Films as files, of all kinds that decoders meet."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def film(size: tuple[int, int] = (50, 40), seed: int = 0) -> np.ndarray:
    """(H, W) uint8 of smooth structure, so that JPEG keeps it; `size` is width, height as Pillow counts."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def dicom(pixels: np.ndarray, bits: int = 12, frames: int = 0, **header) -> bytes:
    """An uncompressed DICOM file of stored values (H, W), (F, H, W) or (H, W, 3), with what `header` adds.

    header: elements by their keywords; of value ... they are left out.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape[-3:-1] if header.get("SamplesPerPixel") == 3 else pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    if frames:
        file.NumberOfFrames = frames
    file.PixelData = pixels.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
    for name, value in header.items():
        if value is ...:
            delattr(file, name)
        else:
            setattr(file, name, value)
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def stored(bits: int) -> np.ndarray:
    return (film((64, 64)).astype(np.float64) / 255 * (2**bits - 1)).astype(np.uint16)


def lut(descriptor: list[int] | None, data: object, kind: str = "US", data_kind: str = "OW") -> list:
    """A sequence with one lookup table in it; `data` is an array of integers (N,), or what the element gets."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", kind, descriptor)
    item.add_new("LUTData", data_kind, data.astype("<u2").tobytes() if isinstance(data, np.ndarray) else data)
    return [item]


def palette(entries: np.ndarray, bits: int = 16) -> dict:
    """The header of a PALETTE COLOR file whose palette (N, 3) holds."""
    header: dict = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, colour in zip(entries.T, ("Red", "Green", "Blue"), strict=True):
        header[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries) & 0xFFFF, 0, bits]
        header[f"{colour}PaletteColorLookupTableData"] = channel.astype("<u2" if bits == 16 else "u1").tobytes()
    return header


def compressed(content: bytes, syntax: str, frame: bytes) -> bytes:
    """A DICOM file with its pixels in another transfer syntax, encoded already."""
    import pydicom
    from pydicom.encaps import encapsulate

    file = pydicom.dcmread(io.BytesIO(content))
    file.PixelData = encapsulate([frame])
    file["PixelData"].VR = "OB"
    file.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


WINDOW = {"WindowCenter": 2047.5, "WindowWidth": 4096}  # all of 12 bits
UNLIKE = {"sigmoid", "padding", "voi lut of part"}  # of `dicoms`: what a viewer shows in other greys


def dicoms() -> dict[str, bytes]:
    """One film, `stored(12)`, in many ways of writing it."""
    values, identity = stored(12), np.arange(4096)
    inverse, low = 4095 - values, values >> 4
    mono1 = {"PhotometricInterpretation": "MONOCHROME1"}
    below = {"RescaleIntercept": -1024, "RescaleSlope": 1}
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    grey, ramp = np.full_like(low, 128), np.arange(256)[:, None].repeat(3, 1)

    def voi(*table) -> dict:
        return {"VOILUTSequence": lut(*table)}

    def modality(*table) -> dict:
        return {"ModalityLUTSequence": lut(*table)}

    return {
        "plain": dicom(values),
        "window": dicom(values, **WINDOW),
        "windows": dicom(values, WindowCenter=[2047.5, 10], WindowWidth=[4096, 10]),
        "exact": dicom(values, **WINDOW, VOILUTFunction="LINEAR_EXACT"),
        "sigmoid": dicom(values, **WINDOW, VOILUTFunction="SIGMOID"),
        "mono1": dicom(inverse, **mono1),
        "mono1 window": dicom(inverse, PhotometricInterpretation=" MONOCHROME1 ", **WINDOW),
        "mono1 voi lut": dicom(inverse, **mono1, **voi([4096, 0, 12], identity)),
        "voi lut": dicom(values, **voi([4096, 0, 12], identity)),
        "voi lut below 0": dicom(values, **below, **voi([4096, -1024, 12], identity, "SS")),
        "voi lut below 0, unsigned": dicom(values, **below, **voi([4096, 65536 - 1024, 12], identity)),
        "voi lut of bytes": dicom(values, **voi([4096, 0, 8], (identity // 16).astype(np.uint8).tobytes())),
        "voi lut of integers": dicom(values, **voi([4096, 0, 12], identity.tolist(), "US", "US")),
        "voi lut of part": dicom(values, **voi([2048, 1024, 12], identity[1024:3072])),
        "8 bits times 16": dicom(low, 8, RescaleIntercept=0, RescaleSlope=16, **voi([4096, 0, 12], identity)),
        "modality lut of 12 bits": dicom(values, **modality([4096, 0, 12], identity), **WINDOW),
        "modality lut that inverts": dicom(inverse, **modality([4096, 0, 16], identity[::-1]), **WINDOW),
        "empty rescale": dicom(values, RescaleIntercept=None, RescaleSlope=None, **WINDOW),
        "empty window": dicom(values, WindowCenter=None, WindowWidth=None),
        "no voi lut": dicom(values, VOILUTSequence=[], **WINDOW),
        "empty voi lut": dicom(values, **voi(None, None), **WINDOW),
        "signed": dicom(values.astype(np.int16) - 2048, PixelRepresentation=1),
        "high bit": dicom(values << 4 | 5, HighBit=15),
        "overlay": dicom(values | 0x8000),
        "frames": dicom(np.stack([values, values // 2]), frames=2),
        "palette": dicom(255 - low, 8, **palette(ramp[::-1] * 257)),
        "palette of 8 bits": dicom(255 - low, 8, **palette(ramp[::-1], 8)),
        "rgb": dicom(np.stack([low] * 3, -1), 8, **colour, PhotometricInterpretation="RGB"),
        "ybr": dicom(np.stack([low, grey, grey], -1), 8, **colour, PhotometricInterpretation="YBR_FULL"),
        "padding": dicom(values, PixelPaddingValue=4095),
    }
