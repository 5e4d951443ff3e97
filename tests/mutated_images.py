"""Damage for tests/fuzzing.py: JPEG, PNG and DICOM files whose parts lie, are lost, doubled, or unpack to very much."""

import io
import random
import struct
import zlib

import film_files
import numpy as np
from film_files import chunk, dicom, lut
from mutations import HUGE, mutated_bytes
from PIL import Image


def image_files(jpeg: bytes) -> dict[str, bytes]:
    """A film as JPEG and PNG of several kinds."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        film = opened.convert("L")
    kinds = {
        "grey.jpeg": {},
        "progressive.jpeg": {"progressive": True},
        "colour.jpg": {},
        "cmyk.jpg": {},
        "grey.png": {},
        "colour.png": {},
        "palette.png": {},
        "alpha.png": {},
        "bit.png": {},
        "deep.png": {},
        "turned.jpeg": {"exif": exif(6)},
        "turned.png": {"exif": exif(8)},
    }
    modes = {"colour": "RGB", "cmyk": "CMYK", "palette": "P", "alpha": "RGBA", "bit": "1"}
    made = {}
    for name, options in kinds.items():
        image = film.convert(modes.get(name.split(".")[0], "L"))
        if name == "deep.png":
            image = Image.fromarray(np.asarray(film).astype(np.uint16) * 257)
        stream = io.BytesIO()
        image.save(stream, "PNG" if name.endswith("png") else "JPEG", **options)
        made[name] = stream.getvalue()
    return made


def mutated_image(rng: random.Random, files: dict[str, bytes]) -> tuple[str, bytes]:
    name = rng.choice(list(files))
    content = files[name]
    if rng.random() < 0.4:
        return name, mutated_bytes(rng, content)
    if rng.random() < 0.1:  # the start of one file and the end of another
        other = files[rng.choice(list(files))]
        return name, content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
    return name, mutated_png(rng, content) if name.endswith("png") else mutated_jpeg(rng, content)


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112], made[0x011A], made[0x010F] = orientation, 72.0, "maker"
    return made.tobytes()


def mutated_exif(rng: random.Random) -> bytes:
    made = bytearray(exif(rng.choice((0, 1, 5, 8, 9, 65_535))))
    for _ in range(rng.choice((0, 1, 3, 20))):
        made[rng.randrange(6, len(made))] = rng.choice((0, 1, 18, 255, rng.randrange(256)))
    return bytes(made[: rng.choice((len(made), rng.randrange(len(made))))])


def mutated_png(rng: random.Random, content: bytes) -> bytes:
    """Chunks with a false length, kind or sum, lost and doubled ones, absurd sides, and little that unpacks to much."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    which = rng.randrange(len(chunks))
    parts = [chunk(*found) for found in chunks]
    kind = rng.randrange(8)
    if kind == 0:  # a length that lies
        parts[which] = struct.pack(">I", rng.choice(HUGE)) + parts[which][4:]
    elif kind == 1:  # a header with other sides, depth and colours, and its right sum
        head = bytearray(chunks[0][1])
        if rng.random() < 0.6:
            head[:8] = struct.pack(">II", rng.choice((*HUGE, 80_000_000, 9000, 1)), rng.choice((*HUGE, 8000, 1)))
        else:
            head[rng.randrange(8, 13)] = rng.randrange(256)
        parts[0] = chunk(b"IHDR", bytes(head))
    elif kind == 2:
        del parts[which]
    elif kind == 3:
        parts.insert(rng.randrange(len(parts)), parts[which])
    elif kind == 4:  # 50 MB of nothing in 50 kB
        bomb = zlib.compress(bytes(50_000_000), 9)
        parts.insert(1, rng.choice((chunk(b"zTXt", b"x\0\0" + bomb), chunk(b"iCCP", b"x\0\0" + bomb),
                                    chunk(b"iTXt", b"x\0\1\0\0\0" + bomb), chunk(b"IDAT", bomb))))  # fmt: skip
    elif kind == 5:  # sides as large as they may be, or a line, and pixels that are there
        width, height = rng.choice(((8900, 8900), (80_000_000, 1), (1, 2_000_000), (40_000, 2000), (9000, 9000)))
        colour = rng.choice((0, 2, 6))
        row = 1 + width * {0: 1, 2: 3, 6: 4}[colour]
        packer = zlib.compressobj(1)
        lines = (packer.compress(bytes(min(row * height, 1 << 24))) for _ in range(min(row * height >> 24, 20) + 1))
        parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
                 chunk(b"IDAT", b"".join(lines) + packer.flush()), chunk(b"IEND", b"")]  # fmt: skip
    elif kind == 6:  # bits that are in use, and which side is up
        said = chunk(b"sBIT", rng.choice((b"", b"\0", b"\x01", b"\x0c", b"\x10", b"\xff", b"\x08" * 4)))
        parts.insert(1, rng.choice((said, chunk(b"eXIf", mutated_exif(rng)[6:]))))
    else:
        made = bytearray(chunks[which][1])
        if made:
            made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
        parts[which] = chunk(chunks[which][0], bytes(made))
    return content[:8] + b"".join(parts)


def mutated_jpeg(rng: random.Random, content: bytes) -> bytes:
    """Segments with a false length, lost and doubled ones, absurd sides, tables of noise, and very many scans."""
    starts, at = [], 2
    while content[at + 1] != 0xDA:
        starts.append(at)
        at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
    head, scans = [content[a:b] for a, b in zip(starts, [*starts[1:], at], strict=True)], content[at:]
    which = rng.randrange(len(head))
    frame = next(i for i, segment in enumerate(head) if segment[1] in (0xC0, 0xC1, 0xC2))
    kind = rng.randrange(8)
    if kind == 0:
        head[which] = head[which][:2] + struct.pack(">H", rng.choice((0, 1, 2, 3, 255, 65_535))) + head[which][4:]
    elif kind == 1:
        sides = struct.pack(">HH", rng.choice((0, 1, 8900, 40_000, 65_535)), rng.choice((0, 1, 8900, 2000, 65_535)))
        head[frame] = head[frame][:5] + sides + head[frame][9:]
    elif kind == 2:
        del head[which]
    elif kind == 3:
        head.insert(rng.randrange(len(head)), head[which])
    elif kind == 4:
        made = bytearray(head[which])
        for _ in range(rng.choice((1, 3, 20))):
            made[rng.randrange(4, len(made))] = rng.randrange(256)
        head[which] = bytes(made)
    elif kind == 5:  # each scan is a pass over all of a large picture
        head[frame] = head[frame][:1] + b"\xc2" + head[frame][2:5] + struct.pack(">HH", 8000, 8000) + head[frame][9:]
        scans = scans[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * rng.choice((3, 3000)) + b"\xff\xd9"
    elif kind == 6:
        data = mutated_exif(rng)
        head.insert(rng.randrange(2), b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data)
    else:
        scans = mutated_bytes(rng, scans)
    return content[:2] + b"".join(head) + scans


def dicoms() -> dict[str, bytes]:
    values = (np.arange(60 * 50).reshape(60, 50) % 4096).astype(np.uint16)
    window = {"WindowCenter": 2000, "WindowWidth": 1500, "RescaleSlope": 1, "RescaleIntercept": 0}
    return {"plain.dcm": dicom(values), "window.dcm": dicom(values, **window),
            "frames.dcm": dicom(np.stack([values, values]), frames=2),
            "inverted.dcm": dicom(values, PhotometricInterpretation="MONOCHROME1"),
            **{f"{name}.dcm": content for name, content in film_files.dicoms().items()}}  # fmt: skip


def mutated_lut(rng: random.Random) -> list:
    """A sequence with a lookup table that lies about what it holds, or none."""
    count, first = rng.choice((0, 1, 9, 4096, 65_535)), rng.choice((0, 7, -1024, 4096, 64_512))
    descriptor = rng.choice(([count, first, rng.choice((0, 8, 9, 12, 16, 32))], [count, first], [count], None))
    words = rng.choice((0, 1, 9, 2048, 4096, 65_536))
    data = rng.choice((None, rng.randbytes(words), np.arange(words), np.arange(words)[::-1] * 16))
    return rng.choice(([], lut(descriptor, data, rng.choice(("US", "SS"))), lut(descriptor, data) + lut(None, None)))


def mutated_palette(rng: random.Random) -> dict:
    entries = np.array([[rng.randrange(65_536) for _ in range(3)] for _ in range(rng.choice((1, 9, 256)))])
    made = film_files.palette(entries, rng.choice((8, 16)))
    name = rng.choice(list(made))
    made[name] = (
        rng.choice(("HSV", None)) if name[0] == "P" else rng.choice((made["RedPaletteColorLookupTableData"], None))
    )
    return made


def mutated_dicom(rng: random.Random, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Damaged bytes behind the mark that makes it a DICOM file, or elements with values that they cannot have."""
    import pydicom

    name = rng.choice(list(files))
    content = files[name]
    if rng.random() < 0.5:
        return name, content[:132] + mutated_bytes(rng, content[132:])
    header = pydicom.dcmread(io.BytesIO(content))
    odd = {
        "Rows": (0, 1, 65_535),
        "Columns": (0, 1, 65_535),
        "BitsAllocated": (0, 1, 8, 32, 64, 7),
        "BitsStored": (0, 1, 16, 99),
        "HighBit": (0, 99),
        "PixelRepresentation": (1, 2),
        "SamplesPerPixel": (0, 3, 4),
        "NumberOfFrames": ("0", "-1", "3", "99999999"),
        "PhotometricInterpretation": ("RGB", "YBR_FULL", "", "PALETTE COLOR"),
        "WindowCenter": ("nan", "1e300", [], ["1", "2"]),
        "WindowWidth": ("0", "-5", "inf", "1e-300", []),
        "RescaleSlope": ("0", "nan", "1e300", []),
        "RescaleIntercept": ("inf", "-1e300"),
        "PatientID": ("", "x" * 60, "a\\b"),
        "VOILUTFunction": ("SIGMOID", "x", "LINEAR_EXACT", ""),
        "VOILUTSequence": [mutated_lut(rng)],
        "ModalityLUTSequence": [mutated_lut(rng)],
        "PixelPaddingValue": (0, 4095, 65_535, -2000, None),
        "PixelPaddingRangeLimit": (0, 100, 65_535, -1),
        "SOPClassUID": ("1.2.3", ""),
        "PixelData": (b"", bytes(7)),
    }
    changed = rng.sample(list(odd), rng.choice((1, 1, 2, 3)))
    if rng.random() < 0.1:
        odd |= {key: (value,) for key, value in mutated_palette(rng).items()}
        changed += [key for key in odd if "Palette" in key or key == "PhotometricInterpretation"]
    for key in changed:
        if rng.random() < 0.2:
            if key in header:
                del header[key]
        else:
            setattr(header, key, rng.choice(odd[key]))
    if rng.random() < 0.2:
        header.file_meta.TransferSyntaxUID = rng.choice(
            (
                "1.2.840.10008.1.2.4.50",
                "1.2.840.10008.1.2.4.90",
                "1.2.840.10008.1.2.5",
                "1.2.840.10008.1.2.1.99",
                "1.2.3",
                "",
            )
        )
    stream = io.BytesIO()
    try:
        header.save_as(stream)
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        struct.error,
        KeyError,
    ):  # pydicom will not write that
        return name, content[:132] + mutated_bytes(rng, content[132:])
    return name, stream.getvalue()
