"""A browser's page and node decode films to the grey levels of predict.py, bit for bit."""

import io
import itertools
import json
import struct
from pathlib import Path

import encoders
import film_files
import node_tools
import numpy as np
import onnxruntime
import pytest
from encoders import lossless_jpeg, png
from film_files import WINDOW, chunk, compressed, dicom, encoded, film, lut, palette, stored
from PIL import Image, ImageCms
from predicting import doubtful_graph

import predict

VALUES = stored(12)
NATIVE = ("ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return node_tools.project(tmp_path_factory)


@pytest.fixture
def compare(project, tmp_path):
    """A call that holds what the page makes of files against what predict.py does; `most` grey levels may differ."""

    def compared(contents: dict[str, bytes], most: int = 0) -> dict[str, dict]:
        answers = node_tools.decoded(project, tmp_path, contents)
        for name, answer in answers.items():
            expected = expected_of(contents[name])
            if most and "error" not in answer:
                assert answer["grey"].shape == expected["grey"].shape, name
                difference = np.abs(answer["grey"].astype(int) - expected.pop("grey"))
                assert difference.max() <= most and (difference > 0).mean() < 0.1, name
            elif "grey" in expected:
                assert np.array_equal(answer.get("grey"), expected.pop("grey")), (name, answer)
            assert {key: answer.get(key) for key in expected} == expected, name
        return answers

    return compared


def expected_of(content: bytes) -> dict:
    try:
        is_dicom = content[128:132] == b"DICM"
        grey, mode, warning, _ = (predict.read_dicom if is_dicom else predict.read_picture)(content)
    except ValueError as error:
        return {"error": str(error)}
    guessed = warning.endswith("in a 16-bit PNG") and not predict.significant_bits(content)
    return {"grey": grey, "mode": mode, "warning": warning, "guessed": guessed}


def exif(orientation: int, order: str = "<") -> bytes:
    """EXIF data without "Exif", as in a PNG."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHHLHH", 1, 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(f"{order}L", 8) + entry + bytes(4)


# --------------------------------------------------------------------------------------------------- PNG and JPEG


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_pngs_of_every_kind(compare):
    """Depths, colour types, interlacing, palettes that are short or missing, transparency, and orientations."""
    rng, files = np.random.default_rng(0), {}
    for (depth, colour), interlaced, size in itertools.product(
        [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3), (8, 4), (16, 4),
         (8, 6), (16, 6)], (False, True), ((1, 1), (3, 2), (37, 50)),
    ):  # fmt: skip
        pixels = rng.integers(0, 2**depth, (*size, encoders.SAMPLES[colour]))
        colours = rng.integers(0, 256, (2**depth, 3)).astype(np.uint8).tobytes()
        table = chunk(b"PLTE", colours) if colour == 3 else b""
        clear = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\0\5"[: 2**depth]}.get(colour)
        turned, name = chunk(b"eXIf", exif(1 + len(files) % 8, "<>"[len(files) % 2])), f"{depth} {colour} {size}"
        files[f"{name} {interlaced}"] = png(pixels, depth, colour, interlaced, table)
        files[f"{name} {interlaced} turned"] = png(pixels, depth, colour, interlaced, table + turned)
        files[f"{name} {interlaced} turned late"] = png(pixels, depth, colour, interlaced, table, turned)
        if clear:
            files[f"{name} {interlaced} clear"] = png(pixels, depth, colour, interlaced, table + chunk(b"tRNS", clear))
        if colour == 3:
            files[f"{name} {interlaced} short"] = png(pixels, depth, colour, interlaced, chunk(b"PLTE", colours[:6]))
            files[f"{name} {interlaced} without"] = png(pixels, depth, colour, interlaced)
    assert len(files) > 300
    compare(files)


def test_pngs_of_16_bits_use_the_bits_that_are_in_use(compare):
    rng, files = np.random.default_rng(0), {}
    for bits, said in itertools.product(range(9, 17), (None, 0, 9, 12, 16, 77)):
        mark = b"" if said is None else chunk(b"sBIT", bytes([said]))
        files[f"{bits} {said}"] = png(rng.integers(0, 2**bits, (20, 30, 1)), 16, 0, False, mark)
    compare(files)


def test_jpegs_are_those_of_pillow_whatever_they_say_of_colours_and_turning(compare):
    grey = Image.fromarray(film((301, 211)))
    colours = Image.merge("RGB", [grey, grey.point(lambda level: 255 - level // 2), grey.rotate(180)])
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (97, 53, 3), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = profile.replace(bytes.fromhex("00026666"), bytes.fromhex("00010000"))  # gamma 2.4 becomes 1
    files = {}
    for (name, image), quality, progressive, subsampling in itertools.product(
        {"grey": grey, "colours": colours, "noise": noise}.items(), (30, 75, 95), (False, True), (0, 1, 2)
    ):
        turned = b"Exif\0\0" + exif(1 + len(files) % 8)
        files[f"{name} {quality} {progressive} {subsampling}"] = encoded(
            image, "JPEG", quality=quality, progressive=progressive, subsampling=subsampling, exif=turned,
            icc_profile=linear,
        )  # fmt: skip
    plain = files["plain"] = encoded(colours, "JPEG")
    files["red, green and blue"] = encoded(colours, "JPEG", keep_rgb=True)
    files["without JFIF"] = plain[:2] + plain[20:]
    for transform in (0, 1, 2):
        adobe = b"\xff\xee\0\x0eAdobe\0d\0\0\0\0" + bytes([transform])
        files[f"Adobe {transform}"] = plain[:2] + adobe + plain[20:]
        files[f"JFIF and Adobe {transform}"] = plain[:20] + adobe + plain[20:]
    video = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * 500  # behind the picture, or in a segment: no scans of it
    files["video"] = plain + video
    files["thumbnail"] = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(video) + 2) + video + plain[2:]
    compare(files)


def test_photographs_are_coloured_and_films_are_not(project, tmp_path):
    grey = film((301, 211))
    photograph = Image.fromarray(np.stack([grey, 255 - grey // 2, grey[::-1]], -1))
    images = {"photograph": photograph, "palette": photograph.quantize(64), "grey": Image.fromarray(grey),
              "grey in colours": Image.fromarray(grey).convert("RGB")}  # fmt: skip
    files = {f"{name} {kind}": encoded(image.convert("RGB") if kind == "JPEG" else image, kind)
             for (name, image), kind in itertools.product(images.items(), ("PNG", "JPEG"))}  # fmt: skip
    for name, answer in node_tools.decoded(project, tmp_path, files).items():
        expected = predict.decode(files[name])[1]
        assert (answer["saturation"] > predict.COLOURED) == (expected > predict.COLOURED) == ("grey" not in name)
        assert answer["saturation"] == pytest.approx(expected, rel=0.1, abs=3), name


# ---------------------------------------------------------------------------------------------------------- DICOM


@pytest.fixture(scope="module")
def pydicom():
    return pytest.importorskip("pydicom")


def rewritten(pydicom, content: bytes, syntax: str) -> bytes:
    """A DICOM file in another transfer syntax without compression of pixels."""
    header, big = pydicom.dcmread(io.BytesIO(content)), syntax == "ExplicitVRBigEndian"
    for element in header.iterall():
        if big and element.VR == "OW" and element.value:
            element.value = np.frombuffer(element.value, "<u2").byteswap().tobytes()
    header.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    stream, implicit = io.BytesIO(), syntax == "ImplicitVRLittleEndian"
    pydicom.dcmwrite(stream, header, implicit_vr=implicit, little_endian=not big, force_encoding=True)
    return stream.getvalue()


def test_dicom_files_of_every_kind_in_every_uncompressed_syntax(compare, pydicom):
    files = film_files.dicoms()
    files |= {f"{kind} {syntax}": rewritten(pydicom, files[kind], syntax) for kind in files for syntax in NATIVE}
    compare(files)


def test_windows_and_rescaled_values(compare, pydicom):
    files = {}
    for function, (centre, width), (slope, intercept), photometric in itertools.product(
        ("LINEAR", "LINEAR_EXACT", "SIGMOID", " sigmoid "),
        ((2000, 1500), (100.5, 1), (5000, 9000), (-7, 3), (1000.25, 333.3)),
        ((1, 0), (0.3, -7.7), (-2.5, 1000)), ("MONOCHROME1", "MONOCHROME2"),
    ):  # fmt: skip
        files[f"{function} {centre} {slope} {photometric}"] = dicom(
            VALUES, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, RescaleSlope=slope,
            RescaleIntercept=intercept, PhotometricInterpretation=photometric,
        )  # fmt: skip
    compare(files)


def test_lookup_tables(compare, pydicom):
    files, rng = {}, np.random.default_rng(0)
    for bits, first in itertools.product((8, 10, 12, 14, 16), (0, 500, 3000, 65000, -500)):
        table = lut([1000, first, bits], rng.integers(0, 2**bits, 1000), "SS" if first < 0 else "US")
        second = lut([300, 100, 12], rng.integers(0, 4096, 300))
        files[f"voi {bits} {first}"] = dicom(VALUES, VOILUTSequence=table, RescaleSlope=0.7, RescaleIntercept=-300)
        files[f"modality {bits} {first}"] = dicom(VALUES, ModalityLUTSequence=table, PixelPaddingValue=7)
        files[f"both {bits} {first}"] = dicom(VALUES, ModalityLUTSequence=table, VOILUTSequence=second)
    compare(files)


def test_bits_signs_and_colours(compare, pydicom):
    files, rng = {}, np.random.default_rng(0)
    for bits, signed, high in itertools.product(range(1, 17), (0, 1), (0, 2, 15)):
        end = min(15, bits - 1 + high)
        values = rng.integers(0, 2**bits, (13, 17)) << (end - bits + 1) | 0x8000 * (end < 15)
        files[f"{bits} {signed} {end}"] = dicom(values, 16, PixelRepresentation=signed, HighBit=end, BitsStored=bits)
    for bits, signed in itertools.product((8, 20, 31, 32), (0, 1)):
        values = rng.integers(0, 2**bits, (13, 17)).astype(np.uint32)
        wide = {"BitsAllocated": 32, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": signed}
        files[f"32 {bits} {signed}"] = dicom(np.zeros((13, 17)), 16, **wide, PixelData=values.tobytes())
    packed = np.packbits(rng.integers(0, 2, 16 * 20), bitorder="little").tobytes()
    single = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": packed}
    files["1 bit"] = dicom(np.zeros((16, 20)), 8, **single)
    ybr = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1)  # all differences of colour
    ybr = np.concatenate([rng.integers(0, 256, (256, 256, 1)), ybr], -1)
    for photometric, plane, deep in itertools.product(("RGB", "YBR_FULL", "YBR_FULL_422"), (0, 1), (False, True)):
        pixels = ybr.transpose(2, 0, 1) if plane else ybr
        data = (pixels * 16).astype(np.uint16) if deep else pixels.astype(np.uint8)
        count = data.nbytes * 2 // 3 if photometric == "YBR_FULL_422" else data.nbytes
        kind = {"SamplesPerPixel": 3, "PlanarConfiguration": plane, "PhotometricInterpretation": photometric}
        files[f"{photometric} {plane} {deep}"] = dicom(
            ybr, 12 if deep else 8, **kind, PixelData=data.tobytes()[:count]
        )  # fmt: skip
    compare(files)


def test_padding_is_black_and_widens_no_range(compare, pydicom):
    files = {}
    for window, photometric, (value, element, signed, bits) in itertools.product(
        ({}, WINDOW), ("MONOCHROME1", "MONOCHROME2"),
        [(0, 0, 0, 12), (4095, 4095, 0, 12), (65535, 65535, 0, 16), (-2000, -2000, 1, 16), (-2000, 63536, 1, 16),
         (-2000, 63536, 1, 12), (-2000, 2096, 1, 12), (63536, -2000, 0, 16)],
    ):  # fmt: skip
        values = np.pad(VALUES.astype(np.int32) // 4 + 1000, 9, constant_values=value).astype(np.uint16)
        kind = {"PhotometricInterpretation": photometric, "PixelRepresentation": signed}
        header = pydicom.dcmread(io.BytesIO(dicom(values, bits, **kind, **window)))
        header.add_new("PixelPaddingValue", "SS" if element < 0 else "US", element)
        stream = io.BytesIO()
        header.save_as(stream)
        name = f"{bool(window)} {photometric} {value} {element} {bits}"
        files[name] = stream.getvalue()
        files[f"{name} implicit"] = rewritten(pydicom, files[name], "ImplicitVRLittleEndian")
    compare(files)


def run_lengths(pydicom, values: np.ndarray) -> bytes:
    syntax, samples = pydicom.uid.RLELossless, values.shape[2] if values.ndim == 3 else 1
    return pydicom.pixels.get_encoder(syntax).encode(
        values, rows=values.shape[0], columns=values.shape[1], samples_per_pixel=samples, number_of_frames=1,
        bits_allocated=8 * values.itemsize, bits_stored=8 * values.itemsize, pixel_representation=0,
        photometric_interpretation="MONOCHROME2" if samples == 1 else "RGB", transfer_syntax_uid=syntax,
        **({"planar_configuration": 0} if samples == 3 else {}),
    )  # fmt: skip


def test_compressed_pixels(compare, pydicom):
    """RLE, JPEG-LS, JPEG 2000 and lossless JPEG, of 8 to 16 bits, with signs and with bits that do not count."""
    openjpeg, jpeg_ls = pytest.importorskip("openjpeg.utils"), pytest.importorskip("jpeg_ls")
    uid, files = pydicom.uid, {}
    for bits, signed, overlay in itertools.product((8, 12, 16), (0, 1), (0, 0x8000)):
        if bits != 12 and overlay:
            continue
        values = stored(bits).astype(np.uint8 if bits == 8 else np.uint16)
        if signed:
            values = (values.astype(np.int32) - 2 ** (bits - 1)).astype(values.dtype)
        if overlay:
            values = values & 0xFFF
            values[10:20, 10:40] |= overlay
        used = 8 * values.itemsize if overlay or signed else bits
        plain, name = dicom(values, bits, PixelRepresentation=signed), f"{bits} {signed} {overlay}"
        own = values.view(values.dtype.str.replace("u", "i")) if signed else values
        near = bytes(jpeg_ls.encode_array(values, lossy_error=2))
        files[f"RLE {name}"] = compressed(plain, uid.RLELossless, run_lengths(pydicom, values))
        files[f"LS {name}"] = compressed(plain, uid.JPEGLSLossless, bytes(jpeg_ls.encode_array(values)))
        files[f"near {name}"] = compressed(plain, uid.JPEGLSNearLossless, near)
        wavelets = openjpeg.encode_array(own, bits_stored=used)
        files[f"2000 {name}"] = compressed(plain, uid.JPEG2000Lossless, wavelets)
        unsigned = openjpeg.encode_array(values, bits_stored=used)
        files[f"2000 without its sign {name}"] = compressed(plain, uid.JPEG2000Lossless, unsigned)
        lossy = openjpeg.encode_array(own, bits_stored=used, compression_ratios=[5])
        files[f"2000 lossy {name}"] = compressed(plain, uid.JPEG2000, lossy)
        for syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
            files[f"{syntax} {name}"] = compressed(plain, syntax, lossless_jpeg(values, used))
    for predictor, rows in itertools.product(range(1, 8), (0, 8)):
        frame = lossless_jpeg(VALUES, 12, predictor, rows)
        files[f"lossless {predictor} {rows}"] = compressed(dicom(VALUES), uid.JPEGLossless, frame)
    compare(files)


def test_compressed_colours_and_frames(compare, pydicom):
    openjpeg, jpeg_ls = pytest.importorskip("openjpeg.utils"), pytest.importorskip("jpeg_ls")
    uid, files = pydicom.uid, {}
    pixels = np.stack([film((64, 48), seed) for seed in range(3)], -1)
    for photometric in ("RGB", "YBR_FULL"):
        kind = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": photometric}
        plain = dicom(pixels, 8, **kind)
        files[f"RLE {photometric}"] = compressed(plain, uid.RLELossless, run_lengths(pydicom, pixels))
        files[f"lossless {photometric}"] = compressed(plain, uid.JPEGLosslessSV1, lossless_jpeg(pixels, 8))
        waves = openjpeg.encode_array(pixels, photometric_interpretation=1 if photometric == "RGB" else 3)
        files[f"2000 {photometric}"] = compressed(plain, uid.JPEG2000Lossless, waves)
        for mode in (1, 2):
            frame = bytes(jpeg_ls.encode_array(pixels, interleave_mode=mode))
            files[f"LS {photometric} {mode}"] = compressed(plain, uid.JPEGLSLossless, frame)
    both = [bytes(jpeg_ls.encode_array(values)) for values in (VALUES, VALUES // 2)]
    for frames, table, parts in itertools.product((1, 2), (False, True), (1, 3)):
        header = pydicom.dcmread(io.BytesIO(dicom(np.stack([VALUES, VALUES])[:frames], frames=frames)))
        header.PixelData = pydicom.encaps.encapsulate(both[:frames], fragments_per_frame=parts, has_bot=table)
        header["PixelData"].VR, header.file_meta.TransferSyntaxUID = "OB", uid.JPEGLSLossless
        stream = io.BytesIO()
        header.save_as(stream, enforce_file_format=True)
        files[f"{frames} frames, {table}, {parts}"] = stream.getvalue()
    compare(files)


@pytest.mark.filterwarnings("ignore:.*JFIF APP marker")
def test_lossy_jpeg_in_dicom_is_within_one_grey_level(compare, pydicom):
    """predict.py's decoder there is another one, with arithmetic of its own."""
    uid, files = pydicom.uid, {}
    pixels = np.stack([film((100, 90), seed) for seed in range(3)], -1)
    for quality, subsampling, photometric in itertools.product((50, 95), (0, 2), ("YBR_FULL_422", "RGB")):
        kind = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": photometric}
        frame = encoded(Image.fromarray(pixels), "JPEG", quality=quality, subsampling=subsampling)
        name = f"{quality} {subsampling} {photometric}"
        files[name] = compressed(dicom(pixels, 8, **kind), uid.JPEGBaseline8Bit, frame)
        single = encoded(Image.fromarray(pixels[..., 0]), "JPEG", quality=quality)
        files[f"grey {quality}"] = compressed(dicom(pixels[..., 0], 8), uid.JPEGBaseline8Bit, single)
    compare(files, most=1)


# ------------------------------------------------------------------------------------------------ what is refused


def test_what_cannot_be_used_is_said_in_predicts_words(compare, pydicom):
    identity, report = np.arange(4096), pydicom.uid.BasicTextSRStorage
    headers = [
        {"RescaleSlope": 0, "RescaleIntercept": 1}, {"RescaleSlope": 1, "RescaleIntercept": "inf"},
        {"RescaleSlope": "nan", "RescaleIntercept": 1}, {"RescaleSlope": "1e300", "RescaleIntercept": 0},
        {"WindowCenter": 1, "WindowWidth": 0}, {"WindowCenter": "nan", "WindowWidth": 5},
        {"WindowCenter": 1, "WindowWidth": 5, "VOILUTFunction": "OTHER"},
        {"VOILUTSequence": lut([4096, 0, 12], np.arange(4000))}, {"VOILUTSequence": lut([4096, 0, 12], None)},
        {"VOILUTSequence": lut([4096, 0], identity)}, {"VOILUTSequence": lut([4096, 0, 32], identity)},
        {"VOILUTSequence": lut(None, identity)}, {"ModalityLUTSequence": lut([4096, 0, 9], identity)},
        {"PhotometricInterpretation": "PALETTE COLOR"}, {"PhotometricInterpretation": "HSV"},
        palette(np.zeros((4096, 3))) | {"BluePaletteColorLookupTableData": bytes(9)},
        {"PhotometricInterpretation": "NONSENSE"}, {"BitsStored": 99}, {"BitsAllocated": 64}, {"SamplesPerPixel": 4},
        {"PixelRepresentation": 2}, {"PixelData": bytes(7)}, {"NumberOfFrames": 9}, {"Rows": 0},
        {"Rows": 30000, "Columns": 30000}, {"Rows": 11000, "Columns": 10}, {"Rows": ...}, {"SamplesPerPixel": ...},
        {"PhotometricInterpretation": ..., "BitsStored": ...}, {"PixelData": ..., "SOPClassUID": report},
        {"PixelData": ..., "SOPClassUID": ...}, {"PixelData": ..., "SOPClassUID": "1.2.3.4"},
    ]  # fmt: skip
    files = {str(i): dicom(VALUES, **header) for i, header in enumerate(headers)}
    without = pydicom.dcmread(io.BytesIO(dicom(VALUES)))
    del without.file_meta.TransferSyntaxUID
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, without, implicit_vr=False, little_endian=True)
    files["no transfer syntax"] = stream.getvalue()
    whole = encoded(Image.fromarray(film((50, 40))), "JPEG")
    size = whole.index(b"\xff\xc0") + 5
    files |= {
        "text": b"no picture", "empty": b"", "gif": encoded(Image.fromarray(film()), "GIF"),
        "large": film_files.bomb(9400), "side": png(np.zeros((1, 10001, 1), int), 8, 0),
        "long JPEG": whole[:size] + struct.pack(">HH", 32, 11008) + whole[size + 4 :],
        "large JPEG": whole[:size] + struct.pack(">HH", 9400, 9400) + whole[size + 4 :],
        "scans": whole[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * 101 + whole[-2:],
    }  # fmt: skip
    for answer in compare(files).values():
        assert answer["error"].isprintable()


def test_what_is_cut_off_or_of_another_kind_is_said_in_words_of_ones_own(project, tmp_path, pydicom):
    jpeg, picture = encoded(Image.fromarray(film((300, 200))), "JPEG"), encoded(Image.fromarray(film((300, 200))))
    lossless, uid, size = lossless_jpeg(VALUES, 12), pydicom.uid, jpeg.index(b"\xff\xc0") + 5
    files = {
        "half a JPEG": (jpeg[: len(jpeg) // 2], "image file is truncated"),
        "a JPEG without its end": (jpeg[:-2], "image file is truncated"),
        "the head of a JPEG": (jpeg[:100], "image file is truncated"),
        "half a PNG": (picture[: len(picture) // 2], "image file is truncated"),
        "the head of a PNG": (picture[:30], "image file is truncated"),
        "an empty PNG": (film_files.bomb(0), "it has no pixels"),
        "a huge PNG": (film_files.bomb(60000), "60,000 x 60,000 pixels is more than the limit of 80,000,000"),
        "an empty JPEG": (jpeg[:size] + bytes(4) + jpeg[size + 4 :], "it has no pixels"),
        "film": (compressed(dicom(VALUES), uid.MPEG2MPML, b"\0\0"), "MPEG2 Main Profile / Main Level, which is not"),
        "half a film": (compressed(dicom(VALUES), uid.JPEGLossless, lossless[:3000]), "image file is truncated"),
        "half, with an end": (compressed(dicom(VALUES), uid.JPEGLossless, lossless[:3000] + b"\xff\xd9"), "broken"),
        "inks": (encoded(Image.new("CMYK", (30, 20)), "JPEG"), "four colours, for printing: predict.py reads them"),
        "12 bits": (compressed(dicom(VALUES), uid.JPEGExtended12Bit, lossless), "samples of 12 bits: predict.py reads"),
    }
    window, center = dicom(VALUES, **WINDOW), b"\x28\x00\x50\x10"  # the tag of its centre
    for kind in (b"LO", b"AT", b"UI"):
        files[f"window as {kind}"] = window.replace(center + b"DS", center + kind), f"{kind.decode()}, which is a text"
    whole = compressed(dicom(VALUES), uid.JPEGLossless, lossless)
    empty = b"\xfe\xff\x00\xe0" + bytes(4)  # a fragment, or an item
    end = whole.index(b"\xfe\xff\xdd\xe0")
    files["fragments"] = whole[:end] + empty * 100_001 + whole[end:], "pixel data in more than 100000 fragments"
    table = b"\x28\x00\x10\x30SQ\0\0" + struct.pack("<L", 8 * 100_001) + empty * 100_001
    place = window.index(b"\xe0\x7f\x10\x00")
    files["items"] = window[:place] + table + window[place:], "a sequence of more than 100000 items"
    answers = node_tools.decoded(project, tmp_path, {name: content for name, (content, _) in files.items()})
    for name, (_, said) in files.items():
        assert said in answers[name]["error"], name


def test_damage_never_gives_other_grey_levels_than_predict(project, tmp_path, pydicom):
    """What either of them refuses is no answer; what both read must be one film."""
    rng, uid, files = np.random.default_rng(0), pydicom.uid, {}
    whole = {
        "JPEG": encoded(Image.fromarray(film()), "JPEG"),
        "PNG": encoded(Image.fromarray(film())),
        **film_files.dicoms(),
    }
    whole["implicit"] = rewritten(pydicom, whole["voi lut"], "ImplicitVRLittleEndian")
    whole["lossless"] = compressed(dicom(VALUES), uid.JPEGLossless, lossless_jpeg(VALUES, 12))
    for i in range(400):
        name = list(whole)[i % len(whole)]
        damaged = bytearray(whole[name])
        for place in rng.integers(2 if name in ("JPEG", "PNG") else 132, min(900, len(damaged)), rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 1, 2, 255, int(rng.integers(256))])
        files[f"{name} {i}"] = bytes(damaged[: rng.integers(140, len(damaged))] if i % 4 == 0 else damaged)
    both = 0
    for name, answer in node_tools.decoded(project, tmp_path, files).items():
        expected = expected_of(files[name]).get("grey")
        assert answer.get("error", "a line").isprintable()
        if "grey" in answer and expected is not None:
            assert np.array_equal(answer["grey"], expected), name
            both += 1
    assert both > 50


# ----------------------------------------------------------------------------------------- what a graph says of itself


def test_the_metadata_of_a_graph_are_those_that_onnxruntime_reads(project, tmp_path):
    graph = doubtful_graph(tmp_path / "x.onnx")
    script = (
        "import { readFileSync } from 'node:fs'\n"
        f"const {{ metadataOf }} = await import({(project / 'page/metadata.js').as_uri()!r})\n"
        "for (const file of process.argv.slice(2)) {\n"
        "  try { console.log(JSON.stringify(Object.fromEntries(metadataOf(readFileSync(file))))) }\n"
        "  catch (error) { console.log(JSON.stringify(error.message)) }\n"
        "}\n"
    )
    (tmp_path / "script.mjs").write_text(script)
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:-5])
    (tmp_path / "text.onnx").write_bytes(b"no graph")
    names = [graph, tmp_path / "cut.onnx", tmp_path / "text.onnx"]
    done = node_tools.run("node", tmp_path / "script.mjs", *names, cwd=project)
    found, *wrong = [json.loads(line) for line in done.stdout.splitlines()]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert found == session.get_modelmeta().custom_metadata_map
    assert wrong == ["not an ONNX file", "not an ONNX file"]
