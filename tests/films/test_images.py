import io

import numpy as np
import pytest
import torch
from film_files import bomb, dicom, encoded, film, stored
from PIL import Image
from torchvision.transforms.v2 import functional

from films import images, reading


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(50, 40), (400, 233), (64, 64), (17, 900), (1, 1), (2000, 1500)])
def test_decoding_agrees_with_torchvisions_antialiased_bilinear(size, kind):
    content = encoded(Image.fromarray(film(size)), kind)
    with Image.open(io.BytesIO(content)) as image:
        pixels = torch.from_numpy(np.array(image))[None]
    expected = functional.resize(pixels, [64, 64], antialias=True)[0].numpy()
    found = images.decode(content, 64)
    assert np.abs(found.pixels.astype(int) - expected.astype(int)).max() <= 1
    assert (found.width, found.height) == size and found.mode == "L"


def test_one_film_in_any_mode_decodes_alike():
    grey = film()
    image = Image.fromarray(grey)
    variants = {
        "RGB": encoded(image.convert("RGB")),
        "RGBA": encoded(image.convert("RGBA")),
        "LA": encoded(image.convert("LA")),
        "P": encoded(image.convert("P")),
        "I;16": encoded(Image.fromarray(grey.astype(np.uint16) * 257)),
    }
    plain = images.decode(encoded(image), 32)
    for mode, content in variants.items():
        found = images.decode(content, 32)
        assert found.mode == mode
        assert np.array_equal(found.pixels, plain.pixels), mode
        assert found.pixel_hash == plain.pixel_hash, mode


def test_a_grey_film_in_a_colour_jpeg_decodes_as_in_a_grey_one():
    grey = film((300, 200))
    plain = images.decode(encoded(Image.fromarray(grey), "JPEG", quality=95), 64).pixels.astype(int)
    colour = images.decode(encoded(Image.fromarray(grey).convert("RGB"), "JPEG", quality=95), 64)
    cmyk = images.decode(encoded(Image.fromarray(grey).convert("CMYK"), "JPEG", quality=95), 64)
    assert (colour.mode, cmyk.mode) == ("RGB", "CMYK")
    assert np.abs(colour.pixels - plain).max() <= 1
    assert np.abs(cmyk.pixels - plain).max() <= 3  # compressed in four channels, so not to the same values


def test_16_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = images.decode(encoded(Image.fromarray(ramp)), 64).pixels
    assert np.abs(found.astype(float) - ramp / 257).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"a text file", "not a JPEG, PNG or DICOM file"),
        (encoded(Image.fromarray(film()), "JPEG")[:300], "(?i)truncated"),
        (encoded(Image.fromarray(film((200, 200))))[:-300], "truncated|broken|unrecognized"),
        (encoded(Image.fromarray(film()).convert("P"), "GIF"), "not a JPEG, PNG or DICOM file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "."),
        (b"\0" * 128 + b"DICM", "DICOM"),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "GIF", "PNG header", "DICOM header"],
)
def test_what_is_no_image_has_its_reason(content, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        images.decode(content, 32)
    assert "\n" not in str(caught.value)


def test_a_film_that_lies_on_its_side_is_turned_and_so_are_its_sides():
    """And its hash is that of the same pixels in a file that is upright."""
    upright, exif = film((60, 40)), Image.Exif()
    exif[0x0112] = 6  # "turn me clockwise"
    found = images.decode(encoded(Image.fromarray(np.rot90(upright)), exif=exif), 32)
    plain = images.decode(encoded(Image.fromarray(upright)), 32)
    assert (found.width, found.height) == (60, 40) and found.pixel_hash == plain.pixel_hash
    assert np.array_equal(found.pixels, plain.pixels)


def test_what_is_said_of_a_film_comes_with_it():
    found = images.decode(encoded(Image.fromarray(film().astype(np.uint16) * 16)), 32)
    assert (found.mode, found.warning) == ("I;16", "12 bits in a 16-bit PNG")


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    with pytest.raises(ValueError, match="20,000 x 20,000 pixels is more than the limit|more pixels than the limit"):
        images.decode(bomb(20_000), 32)
    monkeypatch.setattr(reading, "MAX_PIXELS", 1999)
    with pytest.raises(ValueError, match="50 x 40 pixels is more than the limit"):
        images.decode(encoded(Image.fromarray(film())), 32)


def test_a_line_is_no_film_and_pad_makes_no_square_of_it():
    for shape in ((10_001, 2), (2, 10_001)):
        with pytest.raises(ValueError, match="is more than the limit of 10,000 to a side"):
            images.decode(encoded(Image.new("L", shape)), 32, "pad")


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once():
    content = encoded(Image.fromarray(film()), "JPEG", progressive=True)
    assert images.decode(content, 32).pixels.shape == (32, 32)
    with pytest.raises(ValueError, match="a JPEG of more than 100 scans"):
        images.decode(content[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * 100 + content[-2:], 32)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (41, 60), (50, 50)])
def test_pad_keeps_everything_and_crop_keeps_the_centre(size):
    grey = film(size)
    padded, cropped = images.squared(grey, "pad"), images.squared(grey, "crop")
    assert padded.shape == (max(size), max(size)) and cropped.shape == (min(size), min(size))
    assert padded.sum(dtype=np.int64) == grey.sum(dtype=np.int64)  # borders are black
    top, left = (grey.shape[0] - min(size)) // 2, (grey.shape[1] - min(size)) // 2
    assert np.array_equal(cropped, grey[top : top + min(size), left : left + min(size)])
    assert images.squared(grey, "stretch") is grey
    for fit in images.FITS:
        assert images.decode(encoded(Image.fromarray(grey)), 32, fit).pixels.shape == (32, 32)


# --------------------------------------------------------------------------------------------------- DICOM

pydicom = pytest.importorskip("pydicom")


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_dicom_of_any_depth_uses_its_full_range(bits):
    values = stored(bits)
    found = images.decode(dicom(values, bits), 64)
    low, high = float(values.min()), float(values.max())
    assert np.abs(found.pixels - (values - low) / (high - low) * 255).max() <= 0.51
    assert found.mode == "DICOM MONOCHROME2"


def test_monochrome1_is_inverted():
    values = stored(12)
    plain = images.decode(dicom(values), 64).pixels.astype(int)
    inverted = images.decode(dicom(values, PhotometricInterpretation="MONOCHROME1"), 64).pixels.astype(int)
    assert (plain + inverted == 255).all()


def test_rescale_and_window_follow_the_standard():
    """DICOM PS3.3, C.11.2.1.2: y = ((x - (c - 0.5)) / (w - 1) + 0.5), clipped, after x = slope * stored + intercept."""
    values = stored(12)
    header = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 2500, "WindowWidth": 3001}
    found = images.decode(dicom(values, **header), 64).pixels
    x = 2.0 * values - 1000
    expected = np.clip((x - 2499.5) / 3000 + 0.5, 0, 1) * 255
    assert np.abs(found - expected).max() <= 0.51
    first = images.decode(dicom(values, **{**header, "WindowCenter": [2500, 9], "WindowWidth": [3001, 5]}), 64).pixels
    assert np.array_equal(first, found)  # of several windows the first


def test_several_frames_are_said():
    frames = np.stack([stored(12), stored(12) // 2])
    found = images.decode(dicom(frames, frames=2), 64)
    assert found.warning == "the first of 2 frames is used"
    assert np.array_equal(found.pixels, images.decode(dicom(frames[0]), 64).pixels)


def test_the_patient_is_a_pseudonym_and_nothing_else_leaves():
    header = {"PatientID": "ID-4711", "PatientName": "Planted^Name"}
    found = images.decode(dicom(stored(12), **header), 64)
    again = images.decode(dicom(stored(12) // 3, **header), 64)
    other = images.decode(dicom(stored(12), PatientID="ID-4712"), 64)
    assert found.patient == again.patient != other.patient
    assert "4711" not in repr(found) and "Planted" not in repr(found)
    assert images.decode(dicom(stored(12), PatientID=" "), 64).patient is None


def test_a_cut_dicom_has_its_reason():
    content = dicom(stored(12))
    for length in (140, 300, len(content) - 100):
        with pytest.raises(ValueError, match="DICOM"):
            images.decode(content[:length], 64)
