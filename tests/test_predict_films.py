"""How predict.py reads films: the pixels of films/images.py, what it warns of, how films are gathered in batches."""

import argparse
import ast
import functools
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import film_files
import numpy as np
import pytest
from PIL import Image
from predicting import bright_graph, call

import predict
from films import images, reading


@pytest.fixture(scope="module")
def bright(tmp_path_factory) -> Path:
    return bright_graph(tmp_path_factory.mktemp("bright") / "bright.onnx")


def pictures() -> dict[str, bytes]:
    """Films in every way that films/reading.py can read, and some that it cannot."""
    encoded, grey = film_files.encoded, film_files.film((90, 70))
    image = Image.fromarray(grey)
    colour = Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1]], -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {f"PNG {mode}": encoded(colour.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    found |= {f"JPEG {mode}": encoded(colour.convert(mode), "JPEG") for mode in ("L", "RGB", "CMYK", "YCbCr")}
    found["16 bits"] = encoded(Image.fromarray(grey.astype(np.uint16) * 255 + 3))
    found["turned"] = encoded(image, "JPEG", exif=exif)
    found["progressive"] = encoded(colour, "JPEG", progressive=True, quality=30)
    found["12 bits in 16"] = encoded(Image.fromarray(grey.astype(np.uint16) * 16))
    found["motion photo"] = found["JPEG RGB"] + b"\xff\xda" * 500
    found |= {"empty": b"", "cut": found["PNG RGB"][:-99], "scans": found["progressive"][:-2] + b"\xff\xda\0\x02" * 200}
    broken = film_files.lut([9, 0, 16], np.arange(3))
    found["broken DICOM"] = film_files.dicom(film_files.stored(12), VOILUTSequence=broken)
    found["no picture"] = film_files.dicom(film_files.stored(12), PixelData=...)
    return found | {f"DICOM {name}": content for name, content in film_files.dicoms().items()}


@pytest.mark.parametrize("kind", pictures())
def test_training_and_predict_read_the_same_pixels_or_refuse_in_the_same_words(kind):
    content = pictures()[kind]
    try:
        film = images.decode(content, 32)
    except ValueError as error:
        with pytest.raises(ValueError) as caught:
            predict.decode(content)
        assert str(caught.value) == str(error) and kind in ("empty", "cut", "scans", "broken DICOM", "no picture")
        return
    found, _, note = predict.decode(content)
    assert found.dtype == np.uint8 and found.shape == (film.height, film.width) and note == film.warning
    assert images.decode(found, 32).pixel_hash == film.pixel_hash


def definitions(module) -> dict[str, str]:
    """The text of each function, class and constant of a file."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(text).body:
        names = [getattr(node, "name", None)]
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        decorators = "".join(ast.unparse(item) for item in getattr(node, "decorator_list", ()))
        found |= {name: decorators + ast.get_source_segment(text, node) for name in names if name}
    return found


def test_predict_reads_films_with_the_same_code_word_for_word():
    ours, copied = definitions(reading), definitions(predict)
    assert {"read_picture", "read_dicom", "looked_up", "MAX_PIXELS", "Unusable"} <= set(ours)
    for name, text in ours.items():
        assert copied.get(name) == text, f"{name} in predict.py is not that of films/reading.py"
    assert set(images.SUFFIXES) <= set(predict.SUFFIXES)


def chest() -> np.ndarray:
    """Bright in the middle, dark at the sides."""
    across = np.abs(np.linspace(-1, 1, 224))
    return np.tile(220 - 200 * across, (224, 1)).astype(np.uint8) + film_files.film((224, 224)) // 16


@pytest.mark.parametrize(
    ("name", "pixels", "warning"),
    [
        ("plain", chest(), ""),
        ("inverted", 255 - chest(), "inverted"),
        ("turned", np.rot90(chest()), "turned"),
        ("constant", np.full((224, 224), 100, np.uint8), "nearly constant"),
        ("tiny", chest()[::16, ::16], "only 14 x 14 pixels, where the network sees 32"),
        ("long", np.tile(chest(), (3, 1)), "width / height is 0.33"),
        ("coloured", np.stack([chest(), chest() // 2, chest() // 3], -1), "photograph"),
        ("grey in colours", np.stack([chest()] * 3, -1), ""),
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_suspicions(bright, tmp_path, capsys, name, pixels, warning, kind):
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"x.{kind}", quality=95)
    assert call(bright, tmp_path / f"x.{kind}", "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)["warning"]
    assert warning in found if warning else found is None
    assert (f"warning: {tmp_path / f'x.{kind}'}: " in captured.err) == bool(warning)


def test_on_real_films_false_alarms_are_rare_and_inverted_films_are_noticed(real_folder):
    films = [file for file in predict.walk(real_folder) if not file.endswith(".dcm")][::10]
    alarms = inverted = 0
    for file in films:
        film = predict.read_film(file)
        negative = replace(film, grey=255 - film.grey, row=dict(film.row))
        predict.examined([film], film.grey[None], 224)
        predict.examined([negative], negative.grey[None], 224)
        alarms += film.row["warning"] is not None
        inverted += "inverted" in (negative.row["warning"] or "")
    assert alarms <= 0.01 * len(films) and inverted >= 0.95 * len(films)


def taken(monkeypatch, sizes: list[int]) -> tuple[list[int], list[int]]:
    """Chunks and batches that files named after their place, of (1, size) pixels, come in, and that their order stays.

    The file number 17 is broken.
    """
    batches = []

    def read(file):
        row = {"file": file, "width": 1, "height": sizes[int(file)], "warning": None}
        return predict.Film(file, row, np.zeros((sizes[int(file)], 1), np.uint8))

    def answer(model, args, films, pixels):
        assert {film.row["height"] for film in films} == {pixels.shape[1]} and all(film.grey is None for film in films)
        batches.append(len(films))

    broken = predict.Film("17", {"width": None, "height": sizes[0], "error": "bad"})
    monkeypatch.setattr(predict, "read_film", lambda file, _: broken if file == "17" else read(file))
    monkeypatch.setattr(predict, "answer", answer)
    args = argparse.Namespace(batch_size=8, workers=3, threshold=0.5)
    work = functools.partial(predict.read_and_answer, SimpleNamespace(size=32, label="x", flags={}), args)
    chunks = list(predict.in_chunks(map(str, range(len(sizes))), 8, 3, work))
    assert [int(film.file) for chunk in chunks for film in chunk] == list(range(len(sizes)))
    assert sum(batches) == len(sizes) - (len(sizes) > 17)
    return [len(chunk) for chunk in chunks], batches


def test_films_of_one_size_share_a_batch_and_the_order_stays(monkeypatch):
    assert taken(monkeypatch, [5] * 20)[0] == [8, 8, 4]
    chunks, batches = taken(monkeypatch, np.random.default_rng(0).integers(1, 5, 400).tolist())
    assert chunks[:6] == [8] * 6 and set(chunks[6:-1]) == {32} and max(batches) <= 8
    assert np.mean(batches[30:]) > 4
    monkeypatch.setattr(predict, "HELD_BYTES", 3 * 100)  # 100 for each of three threads
    assert max(taken(monkeypatch, [60] * 40)[1]) == 2  # the second one goes beyond it


def test_chunks_are_not_taken_further_ahead_than_they_are_used():
    taken, started = iter(range(1000)), []
    chunks = predict.in_chunks(taken, 5, 2, lambda files, stopped: started.append(files) or [])
    next(chunks)
    chunks.close()
    assert next(taken) == 20 and len(started) <= 4


def test_errors_from_the_decoder_are_one_line():
    film = predict.read_film(os.path.join("no", "such\nfile.png"))
    assert film.row["error"] == "No such file or directory"
    assert io.StringIO(film.row["error"]).readlines() == [film.row["error"]]
