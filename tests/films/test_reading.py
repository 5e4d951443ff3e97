"""The grey levels of a film's bytes are those that a viewer shows; what cannot be shown is refused in one line."""

import io
import struct
from pathlib import Path

import film_files
import numpy as np
import pytest
from film_files import WINDOW, compressed, dicom, encoded, film, lut, palette, stored
from PIL import Image, ImageOps

from films import reading

pydicom = pytest.importorskip("pydicom")

VALUES = stored(12)
SHOWN = film((64, 64)).astype(int)  # what it was before it was stored in 12 bits
MONO1 = {"PhotometricInterpretation": "MONOCHROME1"}


def grey(content: bytes) -> np.ndarray:
    return reading.read_dicom(content)[0].astype(int)


def header_of(content: bytes):
    return pydicom.dcmread(io.BytesIO(content))


# ------------------------------------------------------------------------------------------- one film, many files


@pytest.mark.parametrize("kind", [kind for kind in film_files.dicoms() if kind not in film_files.UNLIKE])
def test_one_film_is_shown_alike_however_it_is_written(kind):
    found, mode, warning, patient = reading.read_dicom(film_files.dicoms()[kind])
    assert found.dtype == np.uint8 and np.abs(found - SHOWN).max() <= 1
    expected = {"palette": "PALETTE COLOR", "palette of 8 bits": "PALETTE COLOR", "rgb": "RGB", "ybr": "YBR_FULL"}
    assert mode == f"DICOM {expected.get(kind, 'MONOCHROME1' if kind.startswith('mono1') else 'MONOCHROME2')}"
    assert (warning, patient) == ("the first of 2 frames is used" if kind == "frames" else "", "")


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian"])
@pytest.mark.parametrize("kind", film_files.dicoms())
def test_uncompressed_transfer_syntaxes_are_alike(kind, syntax):
    content = film_files.dicoms()[kind]
    header, big = header_of(content), syntax == "ExplicitVRBigEndian"
    for element in header.iterall():
        if big and element.VR == "OW" and element.value:
            element.value = np.frombuffer(element.value, "<u2").byteswap().tobytes()
    header.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    stream, implicit = io.BytesIO(), syntax == "ImplicitVRLittleEndian"
    pydicom.dcmwrite(stream, header, implicit_vr=implicit, little_endian=not big, force_encoding=True)
    assert np.array_equal(grey(stream.getvalue()), grey(content))


@pytest.mark.parametrize("syntax", ["JPEG2000Lossless", "JPEGLSLossless", "RLELossless"])
@pytest.mark.parametrize("overlay", [0, 0x8000], ids=["no overlay", "overlay"])
@pytest.mark.parametrize("signed", [0, 1], ids=["unsigned", "signed"])
def test_unused_bits_and_signs_pass_through_compression(syntax, overlay, signed):
    """DICOM PS3.5, 8.1.1: what is in the bits above BitsStored, an overlay for instance, is no part of the pixels."""
    values = (VALUES.astype(np.int16) - 2048 * signed).view(np.uint16) & (0xFFFF if not overlay else 0xFFF)
    values[10:20, 10:40] |= overlay
    plain = dicom(values, PixelRepresentation=signed)
    content = compressed(plain, getattr(pydicom.uid, syntax), frame_of(values, syntax, signed, 16 if overlay else 12))
    assert np.abs(grey(plain) - SHOWN).max() <= 1
    assert np.array_equal(grey(content), grey(plain))


def frame_of(values: np.ndarray, syntax: str, signed: int, bits: int) -> bytes:
    if syntax == "JPEG2000Lossless":
        utils = pytest.importorskip("openjpeg.utils")
        return utils.encode_array(values.view(np.int16) if signed else values, bits_stored=bits)
    if syntax == "JPEGLSLossless":
        return bytes(pytest.importorskip("jpeg_ls").encode_array(values))
    return pydicom.pixels.get_encoder(syntax := pydicom.uid.RLELossless).encode(
        values, rows=64, columns=64, samples_per_pixel=1, number_of_frames=1, bits_allocated=16, bits_stored=16,
        photometric_interpretation="MONOCHROME2", pixel_representation=0, transfer_syntax_uid=syntax,
    )  # fmt: skip


def test_colours_are_as_bright_as_they_are_shown():
    """RGB and YBR_FULL beside Pillow's conversions; nothing is stretched to black or white."""
    pixels = np.random.default_rng(0).integers(40, 200, (30, 40, 3), np.uint8)
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    for mode, photometric in (("RGB", "RGB"), ("YCbCr", "YBR_FULL")):
        expected = np.asarray(Image.fromarray(pixels, mode).convert("RGB").convert("L")).astype(int)
        found = grey(dicom(pixels, 8, **colour, PhotometricInterpretation=photometric))
        assert np.abs(found - expected).max() <= 1, photometric
    deep = grey(dicom(pixels.astype(np.uint16) * 16, 12, **colour, PhotometricInterpretation="RGB"))
    assert np.abs(deep - np.asarray(Image.fromarray(pixels).convert("L")) * (4080 / 4095)).max() <= 1


def test_a_jpeg_in_dicom_is_as_bright_as_the_jpeg():
    image = Image.fromarray(np.stack([film((64, 64), seed) for seed in range(3)], -1))
    jpeg = encoded(image, "JPEG", quality=95)
    plain = dicom(
        np.asarray(image), 8, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="YBR_FULL_422"
    )
    found = grey(compressed(plain, pydicom.uid.JPEGBaseline8Bit, jpeg))
    assert np.abs(found - reading.read_picture(jpeg)[0]).max() <= 2  # colours are clipped before they are weighed


def test_a_palette_is_applied_and_not_windowed():
    """Beside pydicom's apply_color_lut and Pillow's grey."""
    entries = np.random.default_rng(1).integers(0, 256, (256, 3)) * 257
    indices = (VALUES >> 4).astype(np.uint8)
    content = dicom(indices, 8, **palette(entries), WindowCenter=10, WindowWidth=5)
    shown = pydicom.pixels.apply_color_lut(indices, header_of(content)) // 257
    expected = np.asarray(Image.fromarray(shown.astype(np.uint8)).convert("L")).astype(int)
    assert np.abs(grey(content) - expected).max() <= 1


# ------------------------------------------------------------------------------------- lookup tables and windows


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("first", [0, 500, 3000])
def test_a_voi_lut_is_the_one_of_pydicom(bits, first):
    """Values before the first entry get the first one, those behind the last get the last.

    Of 8 bits, pydicom 3.0 counts the entries in 8 bits too: the formula is ours.
    """
    table = np.random.default_rng(bits).integers(0, 2**bits, 1000)
    content = dicom(VALUES, VOILUTSequence=lut([1000, first, bits], table))
    shown = pydicom.pixels.apply_voi(VALUES.astype(np.int32), header_of(content))
    if bits == 8:
        shown = table[np.clip(VALUES.astype(int) - first, 0, 999)]
    expected = shown / (2**bits - 1) * 255
    assert np.abs(grey(content) - expected).max() <= 0.5 + 1e-9


def test_a_modality_lut_of_16_bits_is_the_one_of_pydicom():
    table = np.random.default_rng(0).integers(0, 65536, 4096)
    content = dicom(VALUES, ModalityLUTSequence=lut([4096, 0, 16], table))
    shown = pydicom.pixels.apply_modality_lut(VALUES, header_of(content)).astype(float)
    expected = (shown - shown.min()) / (shown.max() - shown.min()) * 255
    assert np.abs(grey(content) - expected).max() <= 0.5 + 1e-9


def test_a_lut_of_65536_entries_says_0():
    """DICOM PS3.3, C.11.1.1: the number does not fit into 16 bits."""
    table = np.arange(65536)[::-1]
    found = grey(dicom(VALUES * 16, 16, VOILUTSequence=lut([0, 0, 16], table)))
    assert np.abs(found - (255 - VALUES * 16 / 257)).max() <= 0.5 + 1e-9


def test_values_are_rounded_before_they_are_looked_up():
    """A slope of 0.3 gives 0.9 for 3: entry 1, not entry 0."""
    values = np.array([[0, 1, 2, 3, 4, 5]], np.uint16)
    table = np.array([0, 50, 100, 150, 200])
    found = grey(dicom(values, RescaleSlope=0.3, RescaleIntercept=0, VOILUTSequence=lut([5, 0, 8], table)))
    assert found.tolist() == [[0, 0, 50, 50, 50, 100]]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", " sigmoid "])
@pytest.mark.parametrize(("centre", "width"), [(2000, 1500), (100.5, 1), (5000, 9000), (-7, 3)])
def test_windows_are_those_of_pydicom(function, centre, width):
    content = dicom(VALUES, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    header = header_of(content)
    header.VOILUTFunction = function.strip().upper()
    with np.errstate(over="ignore"):
        expected = pydicom.pixels.apply_windowing(VALUES, header) / 4095 * 255
    assert np.abs(grey(content) - expected).max() <= 0.51
    inverted = grey(dicom(VALUES, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, **MONO1))
    assert (inverted + grey(content) == 255).all()


@pytest.mark.parametrize(
    ("header", "part", "reason"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "rescale", "slope 0"),
        ({"RescaleSlope": "nan", "RescaleIntercept": 1}, "rescale", "slope nan"),
        ({"RescaleSlope": 1, "RescaleIntercept": "inf"}, "rescale", "intercept inf"),
        ({"RescaleSlope": "1e300", "RescaleIntercept": 0}, "rescale", "values up to"),
        ({"WindowCenter": 1, "WindowWidth": 0}, "window", "centre 1, width 0"),
        ({"WindowCenter": 1, "WindowWidth": -5}, "window", "width -5"),
        ({"WindowCenter": "nan", "WindowWidth": 5}, "window", "centre nan"),
        ({"WindowCenter": 1, "WindowWidth": 5, "VOILUTFunction": "OTHER"}, "window", "its function is OTHER"),
        ({"VOILUTSequence": lut([4096, 0, 12], np.arange(4000))}, "VOI LUT", "4,000 of 4,096 entries"),
        ({"VOILUTSequence": lut([4096, 0, 8], bytes(4000))}, "VOI LUT", "4,000 of 4,096 entries"),
        ({"VOILUTSequence": lut([0, 0, 16], np.arange(4096))}, "VOI LUT", "4,096 of 65,536 entries"),
        ({"VOILUTSequence": lut([4096, 0, 12], None)}, "VOI LUT", "it has no data"),
        ({"VOILUTSequence": lut([4096, 0], np.arange(4096))}, "VOI LUT", "2 of 3 values"),
        ({"VOILUTSequence": lut(None, np.arange(4096))}, "VOI LUT", "0 of 3 values"),
        ({"VOILUTSequence": lut([4096, 0, 32], np.arange(4096))}, "VOI LUT", "entries of 32 bits"),
        ({"ModalityLUTSequence": lut([4096, 0, 9], np.arange(4096))}, "modality LUT", "entries of 9 bits"),
        ({"ModalityLUTSequence": lut([4096, 0, 16], np.arange(9))}, "modality LUT", "9 of 4,096 entries"),
        (MONO1 | {"PhotometricInterpretation": "PALETTE COLOR"}, "palette", "missing, or in segments"),
        (palette(np.zeros((4096, 3)))
         | {"BluePaletteColorLookupTableData": bytes(9)}, "palette", "5 of 4,096 entries"),
        ({"PhotometricInterpretation": "HSV"}, "pixels", "neither MONOCHROME nor PALETTE COLOR"),
        ({"BitsStored": 99}, "pixels in Explicit VR Little Endian", "."),
        ({"BitsAllocated": 64}, "header", "1 samples of 64 bits"),
        ({"SamplesPerPixel": 4}, "header", "4 samples of 16 bits"),
        ({"PixelData": bytes(7)}, "pixels in Explicit VR Little Endian", "."),
        ({"NumberOfFrames": 9}, "pixels in Explicit VR Little Endian", "."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_in_one_line(header, part, reason):
    with pytest.raises(ValueError, match=rf"a DICOM file whose {part} cannot be used \(.*{reason}") as caught:
        reading.read_dicom(dicom(VALUES, **header))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["Rows", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored"])
def test_what_a_dicom_file_lacks_is_named(name):
    with pytest.raises(ValueError, match=f"a DICOM file without {name}"):
        reading.read_dicom(dicom(VALUES, **{name: ...}))


@pytest.mark.parametrize(
    "header",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": 1},
        {"WindowCenter": None, "WindowWidth": 5},
        {"WindowCenter": 7, "WindowWidth": None},
        {"VOILUTSequence": []},
        {"VOILUTSequence": lut(None, None)},
        {"ModalityLUTSequence": lut(None, None)},
        {"PixelPaddingValue": None},
        {"VOILUTSequence": lut(None, None) + lut([4096, 0, 12], np.arange(4096))},
    ],
)
def test_what_is_empty_is_not_there(header):
    assert np.abs(grey(dicom(VALUES, **header)) - SHOWN).max() <= 1


# -------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["range", "window"])
@pytest.mark.parametrize(
    ("value", "element", "signed", "bits"),
    [(0, 0, 0, 12), (4095, 4095, 0, 12), (65535, 65535, 0, 16), (-2000, -2000, 1, 16), (-2000, 63536, 1, 16),
     (-2000, 63536, 1, 12), (-2000, 2096, 1, 12), (63536, -2000, 0, 16)],
)  # fmt: skip
def test_padding_is_black_and_widens_no_range(photometric, window, value, element, signed, bits):
    """`value` is stored; `element` is the header's way of writing it, with or without its sign."""
    inner = VALUES // 4 + 1000
    values = np.pad(inner.astype(np.int32), ((0, 0), (9, 9)), constant_values=value).astype(np.uint16)
    kind = {"PhotometricInterpretation": photometric, "PixelRepresentation": signed}
    plain = grey(dicom(inner, bits, **kind, **window))
    content = dicom(values, bits, **kind, **window)
    header = header_of(content)
    header.add_new("PixelPaddingValue", "SS" if element < 0 else "US", element)
    stream = io.BytesIO()
    header.save_as(stream)
    found = grey(stream.getvalue())
    assert np.array_equal(found[:, 9:-9], plain)
    assert not found[:, :9].any() and not found[:, -9:].any()


def test_padding_may_be_a_range_and_is_not_all():
    values = np.array([[10, 11, 12, 13, 100, 200]], np.uint16)
    for ends in ((10, 13), (13, 10)):
        header = {"PixelPaddingValue": ends[0], "PixelPaddingRangeLimit": ends[1]}
        assert grey(dicom(values, **header)).tolist() == [[0, 0, 0, 0, 0, 255]]
    everything = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}
    assert np.array_equal(grey(dicom(VALUES, **everything)), grey(dicom(VALUES)))


# -------------------------------------------------------------------------------- what is no picture, or is not read


def test_a_dicom_file_without_pixels_says_what_it_is():
    report = pydicom.uid.BasicTextSRStorage
    with pytest.raises(ValueError, match=r"^a DICOM file with no picture in it \(Basic Text SR Storage\)$"):
        reading.read_dicom(dicom(VALUES, PixelData=..., SOPClassUID=report))
    with pytest.raises(
        ValueError, match=r"^a DICOM file with no picture in it \(Computed Radiography Image Storage\)$"
    ):
        reading.read_dicom(dicom(VALUES, PixelData=..., SOPClassUID=...))  # of the file's meta information
    with pytest.raises(ValueError, match=r"^a DICOM file with no picture in it \(1\.2\.3\.4\)$"):
        reading.read_dicom(dicom(VALUES, PixelData=..., SOPClassUID="1.2.3.4"))


def test_a_transfer_syntax_without_a_decoder_is_named_with_its_packages(monkeypatch):
    content = compressed(dicom(VALUES), pydicom.uid.JPEGLSLossless, b"\xff\xd8")
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless)
    with pytest.raises(ValueError, match="pixels in JPEG-LS Lossless Image Compression cannot be used"):
        reading.read_dicom(content)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pyjpegls": ("numpy", "pyjpegls>=1.2")})
    with pytest.raises(ValueError) as caught:
        reading.read_dicom(content)
    assert str(caught.value) == (
        "a DICOM file in JPEG-LS Lossless Image Compression (pyjpegls - requires numpy and pyjpegls>=1.2): "
        f"pip install {reading.DICOM_PACKAGES} decodes it"
    )
    with pytest.raises(
        ValueError, match="a DICOM file in MPEG2 Main Profile / Main Level, which pydicom does not decode"
    ):
        reading.read_dicom(compressed(dicom(VALUES), pydicom.uid.MPEG2MPML, b"\0\0"))


def test_the_packages_to_install_are_those_of_the_requirements():
    """predict.py names them itself: it is copied without the file."""
    lines = (Path(reading.__file__).parents[1] / "requirements-dicom.txt").read_text().splitlines()
    assert reading.DICOM_PACKAGES.split() == [line.partition("==")[0] for line in lines if not line.startswith("#")]


def test_what_pillow_alone_cannot_decode_names_the_package(monkeypatch):
    """Pillow's JPEG has 8 bits: the decoder is there, and fails."""
    content = compressed(dicom(VALUES), pydicom.uid.JPEGExtended12Bit, b"\xff\xd8")
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGExtended12Bit)
    monkeypatch.setattr(decoder, "_available", {"pillow": decoder._available["pillow"]})
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0", "pylibjpeg-libjpeg>=2.1")})
    with pytest.raises(ValueError, match=r"JPEG Extended .*pyjpegls may help: .*pylibjpeg-libjpeg.*12-bit"):
        reading.read_dicom(content)


def test_an_old_pydicom_is_named(monkeypatch):
    monkeypatch.setattr(pydicom, "__version__", "2.4.4")
    with pytest.raises(ValueError, match="^pydicom 2.4.4 is too old: pip install -U pydicom$"):
        reading.read_dicom(dicom(VALUES))


def test_reading_warns_of_nothing_that_a_header_holds(recwarn):
    """pydicom's warnings quote values, on lines of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
        content = dicom(VALUES, PatientID="PLANTED" * 30, StudyDate="PLANTED", WindowCenter="1e0000000000000000003")
    pydicom.config.settings.reading_validation_mode = pydicom.config.WARN
    reading.read_dicom(content)
    assert not recwarn.list


# ------------------------------------------------------------------------------------------------ JPEG and PNG


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(f"{order}HHHLL", 2, 0x0100, 4, 1, 7) + struct.pack(
        f"{order}HHLHH", 0x0112, 3, 1, orientation, 0
    )
    return b"Exif\0\0" + mark + struct.pack(f"{order}L", 8) + entries + bytes(4)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "L"), ("PNG", "RGB"), ("PNG", "I;16"), ("JPEG", "L"), ("JPEG", "RGB")]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed_as_pillow_does(kind, mode, orientation):
    pixels = film((50, 40))
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    for order in "<>":
        content = encoded(image, kind, exif=exif(orientation, order))
        with Image.open(io.BytesIO(content)) as opened:
            assert opened.getexif()[0x0112] == orientation
            expected = np.asarray(ImageOps.exif_transpose(opened).convert("L" if mode != "I;16" else "I")).astype(int)
        expected = expected // 257 if mode == "I;16" else expected
        found, _, warning, _ = reading.read_picture(content)
        assert found.shape == ((50, 40) if orientation >= 5 else (40, 50)) and not warning
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0", exif(6)[:20], exif(6)[:-7], exif(0), exif(9), exif(6).replace(b"II*", b"XX*"),
     b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(30), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\2\0\0\0\1\0\6"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_count_as_none(damaged):
    assert reading.orientation_of(damaged) == 1
    for kind in ("JPEG", "PNG"):
        content = encoded(Image.fromarray(film((50, 40))), kind, exif=damaged)
        assert reading.read_picture(content)[0].shape == (40, 50)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_damage_to_exif_data_costs_the_picture():
    """Also in a JPEG without a resolution of its own, of which Pillow looks for one in the EXIF data."""
    data = Image.Exif()
    data[0x0112], data[0x011A], data[0x0128] = 1, 72.0, 2
    whole = encoded(Image.fromarray(film((50, 40))), "JPEG", exif=data)
    whole = whole[:2] + whole[4 + struct.unpack_from(">H", whole, 4)[0] :]  # without the JFIF segment
    expected, rng = reading.read_picture(whole)[0], np.random.default_rng(0)
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[12 + rng.integers(len(data.tobytes()) - 6)] = rng.choice([0, 1, 2, 255])
        found = reading.read_picture(bytes(damaged))[0]
        assert found.shape in ((40, 50), (50, 40)) and found.sum() == expected.sum()


@pytest.mark.parametrize(("bits", "factor"), [(10, 4), (12, 16), (14, 64), (16, 257)])
@pytest.mark.parametrize("said", [None, "sBIT", "sBIT too small", "sBIT impossible"])
def test_16_bit_pngs_use_the_bits_that_are_in_use(bits, factor, said):
    pixels = film((50, 40))
    values = pixels.astype(np.uint16) * factor
    content = encoded(Image.fromarray(values))
    if said:
        content = with_sbit(content, {"sBIT": bits, "sBIT too small": bits - 1, "sBIT impossible": 77}[said])
    found, mode, warning, _ = reading.read_picture(content)
    assert mode == "I;16" and np.abs(found.astype(int) - pixels).max() <= 1
    assert warning == (f"{bits} bits in a 16-bit PNG" if bits < 16 else "")


def test_sbit_says_what_the_values_do_not():
    """A dark film of 14 bits looks like one of 12."""
    values = film((50, 40)).astype(np.uint16) * 16
    found, _, warning, _ = reading.read_picture(with_sbit(encoded(Image.fromarray(values)), 14))
    assert warning == "14 bits in a 16-bit PNG"
    assert np.abs(found - values / (2**14 - 1) * 255).max() <= 0.5 + 1e-9


def with_sbit(png: bytes, bits: int) -> bytes:
    return png[:33] + film_files.chunk(b"sBIT", bytes([bits])) + png[33:]  # behind the IHDR


def test_scans_behind_the_end_of_a_jpeg_do_not_count():
    """A motion photo: megabytes of video behind the picture."""
    video = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * 500
    picture = encoded(Image.fromarray(film((50, 40))), "JPEG", progressive=True)
    assert np.array_equal(reading.read_picture(picture + video)[0], reading.read_picture(picture)[0])
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(video) + 2) + video  # a segment's content is no scan either
    assert np.array_equal(
        reading.read_picture(picture[:2] + thumbnail + picture[2:] + video)[0], reading.read_picture(picture)[0]
    )
    with pytest.raises(ValueError, match="a JPEG of more than 100 scans"):
        reading.read_picture(picture[:-2] + video[:1010] + picture[-2:])
