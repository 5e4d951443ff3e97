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


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that claims side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def dicom(pixels: np.ndarray, bits: int = 12, frames: int = 0, **header) -> bytes:
    """An uncompressed DICOM file of stored values (H, W) or (F, H, W), with what `header` adds."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    if frames:
        file.NumberOfFrames = frames
    for name, value in header.items():
        setattr(file, name, value)
    file.PixelData = pixels.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def stored(bits: int) -> np.ndarray:
    return (film((64, 64)).astype(np.float64) / 255 * (2**bits - 1)).astype(np.uint16)
