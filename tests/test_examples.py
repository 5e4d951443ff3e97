"""The example in JavaScript must give the numbers that onnxruntime gives in Python."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from predicting import bright_graph, doubtful_graph

import export
import train

EXAMPLES = Path(train.__file__).with_name("examples")
# What npm says where there is no way to the registry. Anything else it fails with is a fault of ours.
NO_REGISTRY = (
    r"npm error code (ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|E\w+UNREACH|ERR_SOCKET_TIMEOUT"
    r"|E403|E407|E5\d\d|SELF_SIGNED\w*|UNABLE_TO\w*)"
)


def run(*command: str | Path, cwd: Path, limit: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=limit, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A call of predict.mjs, installed in a temporary copy of examples/ from npm's cache or registry."""
    paths = {name: shutil.which(name) for name in ("node", "npm")}
    if missing := [name for name, path in paths.items() if not path]:
        pytest.skip(f"no {' and no '.join(missing)} here")
    version = run(paths["node"], "--version", cwd=EXAMPLES).stdout.strip()
    if [int(part) for part in re.findall(r"\d+", version)[:2]] < [20, 9]:
        pytest.skip(f"node 20.9 or newer is needed, not {version}")
    folder = tmp_path_factory.mktemp("examples")
    for name in ("package.json", "package-lock.json", "predict.mjs"):
        shutil.copy(EXAMPLES / name, folder)
    options = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=0", "--logs-max=0"]
    try:
        installed = run(paths["npm"], "ci", *options, cwd=folder, limit=120)
    except subprocess.TimeoutExpired:
        shutil.rmtree(folder)
        pytest.skip("npm's registry took longer than two minutes")
    if reason := re.search(NO_REGISTRY, installed.stderr):
        pytest.skip(f"npm cannot reach its registry: {reason[1]}")
    assert installed.returncode == 0, installed.stderr
    yield lambda *arguments: run(paths["node"], "predict.mjs", *arguments, cwd=folder)
    shutil.rmtree(folder)  # 170 MB, and pytest would keep three of them


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
    return folder


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_node_and_python_give_the_same_answers(node, graph, films):
    paths = sorted(films.iterdir())
    done = node(graph, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in found] == [str(path) for path in paths]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    expected, decisions = {}, []
    for path, (_, probability, decision, refer) in zip(paths, found, strict=True):
        image = Image.open(path)
        pixels = np.asarray((image if path.stem == "damaged" else ImageOps.exif_transpose(image)).convert("L"))[None]
        right = [output[0] for output in session.run(["probability", "decision", "refer"], {"image": pixels})]
        # JPEG decoders may differ by a grey level; these two, both libjpeg-turbo, have not been seen to.
        assert abs(float(probability) - right[0]) < (1e-2 if path.suffix == ".jpeg" else 1e-5), path.name
        assert (decision, refer) == ("yes" if right[1] else "no", "refer" if right[2] else "-"), path.name
        expected[path.name] = right[0]
        decisions.append(decision)
    assert set(decisions) == {"yes", "no"}
    assert np.std(list(expected.values())) > 0.01  # films of which all get one number would show nothing


def test_a_graph_of_an_earlier_version_says_nothing_of_referral(node, films, tmp_path):
    for graph, expected in ((bright_graph(tmp_path / "x.onnx"), 3), (doubtful_graph(tmp_path / "y.onnx"), 4)):
        done = node(graph, films / "grey.png")
        assert done.returncode == 0 and len(done.stdout.split("\t")) == expected, done.stderr


def test_wrong_films_are_named_and_the_others_read(node, graph, films, tmp_path):
    whole = (films / "grey.jpeg").read_bytes()
    (tmp_path / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.png").write_bytes((films / "rgb.png").read_bytes()[:3000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpeg").write_text("no picture")
    Image.fromarray(np.full((9, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.open(films / "rgb.jpeg").convert("CMYK").save(tmp_path / "cmyk.jpeg")
    Image.open(films / "rgb.png").save(tmp_path / "x.gif")
    wrong = [*sorted(tmp_path.iterdir()), tmp_path / "none.jpeg", tmp_path]
    done = node(graph, *wrong, films / "grey.png")
    assert done.returncode == 1
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(films / "grey.png")]
    lines = done.stderr.splitlines()
    assert len(lines) == len(wrong)
    for line, path in zip(lines, wrong, strict=True):
        assert re.match(rf"error: {re.escape(str(path))}: .{{10}}", line)
    assert "no such file" in lines[-2]
    assert "but png with grey16" in next(line for line in lines if "deep.png" in line)


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
    wanted = json.loads((EXAMPLES / "package.json").read_text())["dependencies"]
    lock = json.loads((EXAMPLES / "package-lock.json").read_text())["packages"]
    assert lock[""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert lock[f"node_modules/{name}"]["version"] == version
    for name, package in lock.items():
        assert not name or "integrity" in package
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")
