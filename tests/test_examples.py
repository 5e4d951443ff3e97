"""The example in JavaScript must give the numbers that onnxruntime gives in Python."""

import importlib.util
import json
import re
from pathlib import Path

import node_tools
import numpy as np
import onnxruntime
import pytest
import torch
from film_files import WINDOW, dicom, stored
from PIL import Image, ImageCms
from predicting import bright_graph, doubtful_graph

import export
import predict
import train

ROOT = Path(train.__file__).parent


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A call of predict.mjs where its packages are."""
    root = node_tools.project(tmp_path_factory)
    return lambda *arguments: node_tools.run("node", "examples/predict.mjs", *arguments, cwd=root)


@pytest.fixture(scope="module")
def graph(tmp_path_factory, cache, phantoms) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    options = ["--data", "phantoms", "--cache", str(cache)]
    assert train.main(["--arch", "simple", "--epochs=2", "--size", "64", "--out", str(folder / "runs"), *options]) == 0
    assert export.main(["--all", "--runs", str(folder / "runs"), "--onnx", str(folder), *options]) == 0
    return folder / "simple.onnx"


def colourful(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """Three different channels, so that a grey of other weights is another picture."""
    grey = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return Image.merge("RGB", [grey, grey.point(lambda v: 255 - v // 2), grey.transpose(Image.Transpose.ROTATE_180)])


@pytest.fixture(scope="module")
def films(tmp_path_factory, phantoms) -> Path:
    folder = tmp_path_factory.mktemp("films")
    sick, well = (phantoms.images[np.flatnonzero(phantoms.labels == label)[0]] for label in (1, 0))
    colours = colourful(sick, 131, 89)
    transparent = colours.convert("RGBA")
    transparent.putalpha(colours.getchannel(2))
    exif = Image.Exif()
    exif[0x112] = 6  # "turn me clockwise"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = profile.replace(bytes.fromhex("00026666"), bytes.fromhex("00010000"))  # gamma 2.4 becomes 1
    assert linear != profile
    Image.fromarray(sick).save(folder / "grey.png")
    Image.fromarray(well).resize((301, 211)).save(folder / "well.png")
    Image.fromarray(sick).resize((31, 97)).save(folder / "tall.png")
    Image.fromarray(sick[:1, :1]).save(folder / "pixel.png")
    Image.fromarray(sick).convert("1").save(folder / "bits.png")
    colours.save(folder / "rgb.png")
    transparent.save(folder / "rgba.png")
    colours.quantize(16).save(folder / "palette.png")
    colours.save(folder / "profile.png", icc_profile=linear)
    Image.fromarray(sick).resize((301, 211)).save(folder / "grey.jpeg")
    colours.save(folder / "rgb.jpeg")
    colours.save(folder / "progressive.jpeg", progressive=True, subsampling=0)
    colours.save(folder / "turned.png", exif=exif)
    colours.save(folder / "turned.jpeg", exif=exif, quality=95)
    exif[0x112] = 5  # a mirror image that lies on its side
    Image.fromarray(sick).resize((301, 211)).save(folder / "mirrored.jpeg", exif=exif)
    colours.save(folder / "damaged.jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12")
    Image.fromarray(sick.astype(np.uint16) * 16).save(folder / "deep.png")
    if importlib.util.find_spec("pydicom"):
        (folder / "film.dcm").write_bytes(dicom(stored(12), **WINDOW))
    return folder


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_node_and_python_give_the_same_answers(node, graph, films):
    paths = sorted(films.iterdir())
    done = node(graph, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in found] == [str(path) for path in paths]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    bits = json.loads(session.get_modelmeta().custom_metadata_map["flags"])["bits"]
    expected, decisions = {}, []
    for path, (_, probability, decision, refer, flags) in zip(paths, found, strict=True):
        film = predict.read_film(str(path))
        outputs = ["probability", "decision", "refer", "flags"]
        right = [output[0] for output in session.run(outputs, {"image": film.grey[None]})]
        assert abs(float(probability) - right[0]) < 1e-5, path.name
        assert (decision, refer) == ("yes" if right[1] else "no", "refer" if right[2] else "-"), path.name
        own = int(right[3]) | bits["coloured"] * (film.saturation > predict.COLOURED)
        own |= bits["guessed levels"] * film.guessed
        assert flags == ("; ".join(name for name, bit in bits.items() if own & bit) or "-"), path.name
        expected[path.name] = right[0]
        decisions.append(decision)
    assert set(decisions) == {"yes", "no"}
    assert np.std(list(expected.values())) > 0.01  # films of which all get one number would show nothing
    said = {Path(line[0]).name: line[4] for line in found}
    assert "coloured" in said["rgb.png"] and "guessed levels" in said["deep.png"]


def test_a_graph_of_an_earlier_version_says_nothing_of_referral_and_flags(node, films, tmp_path):
    for graph, expected in ((bright_graph(tmp_path / "x.onnx"), 3), (doubtful_graph(tmp_path / "y.onnx"), 5)):
        done = node(graph, films / "grey.png")
        assert done.returncode == 0 and len(done.stdout.split("\t")) == expected, done.stderr


def test_wrong_films_are_named_and_the_others_read(node, graph, films, tmp_path):
    whole = (films / "grey.jpeg").read_bytes()
    (tmp_path / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.png").write_bytes((films / "rgb.png").read_bytes()[:3000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpeg").write_text("no picture")
    Image.open(films / "rgb.png").save(tmp_path / "x.gif")
    Image.open(films / "rgb.png").convert("CMYK").save(tmp_path / "inks.jpeg")
    wrong = [*sorted(tmp_path.iterdir()), tmp_path / "none.jpeg", tmp_path]
    done = node(graph, *wrong, films / "grey.png")
    assert done.returncode == 1
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(films / "grey.png")]
    lines = done.stderr.splitlines()
    assert len(lines) == len(wrong)
    for line, path in zip(lines, wrong, strict=True):
        assert re.match(rf"error: {re.escape(str(path))}: .{{10}}", line)
    assert "inks.jpeg: four colours, for printing: predict.py reads them" in done.stderr
    assert "no such file" in lines[-2]
    assert "image file is truncated" in next(line for line in lines if "cut.jpeg" in line)


@pytest.mark.parametrize("content", [None, b"no graph", b""])
def test_a_wrong_model_is_named(node, films, tmp_path, content):
    model = tmp_path / "x.onnx"
    if content is not None:
        model.write_bytes(content)
    done = node(model, films / "grey.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: {re.escape(str(model))}: .{{10,}}\n", done.stderr)


def test_a_checkpoint_or_a_folder_is_no_graph(node, films, tmp_path):
    torch.save({"state": torch.zeros(2)}, tmp_path / "model.pt")
    command = f"python export.py {tmp_path / 'model.pt'}"
    for model, reason in (
        (tmp_path / "model.pt", f"that is a checkpoint: {command} makes a graph of it"),
        (tmp_path, "that is a folder: a file is needed"),
    ):
        done = node(model, films / "grey.png")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {model}: {reason}\n")


def test_a_call_without_films_shows_the_usage(node):
    for arguments in ([], ["model.onnx"]):
        done = node(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch("usage: node predict.mjs .*\n", done.stderr)


def test_the_packages_are_pinned_and_from_npm_alone():
    said = json.loads((ROOT / "package.json").read_text())
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    for kind in ("dependencies", "devDependencies"):
        assert lock[""][kind] == said[kind]
        for name, version in said[kind].items():
            assert lock[f"node_modules/{name}"]["version"] == version
    for name, package in lock.items():
        assert not name or "integrity" in package
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")
