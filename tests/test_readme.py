"""What the README shows must run as it stands there."""

import importlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import export
import train
from films import phantoms as drawings
from training import recipes

README = Path(train.__file__).with_name("README.md").read_text(encoding="utf-8")
QUALITY = Path(train.__file__).with_name("docs").joinpath("quality.md").read_text(encoding="utf-8")
STEPS = ("data", "train", "explain", "export", "evaluate", "predict")  # what comes before what


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_deployment_example_runs(tmp_path, cache, phantoms, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--arch", "simple", "--quick", "--data", "phantoms", "--size", "64", "--cache", str(cache)]) == 0
    assert export.main(["--all", "--cache", str(cache)]) == 0
    Image.fromarray(phantoms.images[0]).resize((300, 200)).save("film.jpeg")
    capsys.readouterr()
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"pneumonia with probability [01]\.\d{3}: (yes|no)", lines[0])
    assert 0 <= float(lines[1]) <= 1


@pytest.mark.parametrize("script", ["data", "train", "evaluate", "export", "predict", "bench", "ablate", "explain"])
def test_every_command_shown_is_one_that_the_script_accepts(script):
    module = __import__(script)
    shown = re.findall(rf"python {script}\.py ([^#\n`]*)", README + QUALITY)
    assert shown
    for arguments in shown:
        module.parse(arguments.split())


def test_every_script_is_listed():
    listed = set(re.findall(r"^    (\w+(?:\.py|/))", README[README.index("## The files") :], re.M))
    root = Path(train.__file__).parent
    assert listed >= {path.name for path in root.glob("*.py")} | {
        f"{init.parent.name}/" for init in root.glob("*/__init__.py")
    }


def runnable() -> list[tuple[str, list[str]]]:
    """(script, its arguments) of each command below a mark <!-- runnable -->, but those that the mark leaves out."""
    found = []
    marked = r"^<!-- runnable(?:, without: (.*?))? -->\n```sh\n(.*?)^```"
    for left_out, block in re.findall(marked, README, re.M | re.S):
        for line in block.splitlines():
            python, script, *arguments = shlex.split(line, comments=True)
            assert python == "python" and script.endswith(".py"), line
            if not set(arguments) & set(left_out.split(", ")):
                found.append((script.removesuffix(".py"), arguments))
    return sorted(found, key=lambda call: STEPS.index(call[0]))


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with what the README's commands name: small drawings instead of films, and a trained ResNet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, _, names = drawings.generate(160, 64)
    for i, (pixels, name) in enumerate(zip(images, names, strict=True)):
        # Of another hospital, nobody must be known from the names to be in the first one too.
        target = Path("chest_xray") / name if i < 120 else Path("other_hospital") / Path(name).parent / f"{i}.png"
        for folder in (target.parent, Path("films"), Path("more/films")):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
        if i % 40 == 0:
            Image.fromarray(pixels).save(("film.jpeg", "films/a.png", "films/b.jpeg", "more/films/c.png")[i // 40])
    Path("data").mkdir()
    Path("data/chest_xray").symlink_to(tmp_path / "chest_xray")
    assert train.main(["--arch", "resnet34", "--quick", "--data", "chest_xray", "--size", "64"]) == 0
    return tmp_path


def test_the_marked_commands_run_as_they_stand(desk, capsys, monkeypatch):
    recipe = recipes.RECIPES["default"]["simple"]
    monkeypatch.setitem(recipes.RECIPES["default"], "simple", replace(recipe, epochs=4))
    calls = runnable()
    assert {script for script, _ in calls} == set(STEPS) and len(calls) == 13
    for script, arguments in calls:
        capsys.readouterr()
        assert importlib.import_module(script).main(arguments) == 0, (script, arguments, capsys.readouterr().err)
    for left in ("contact_sheet.png", "runs/simple/model.pt", "runs/simple/history.csv", "runs/simple/errors.png",
                 "onnx/simple.onnx",
                 "onnx/resnet34.json", "report/report.html", "report/predictions.csv", "films.csv"):  # fmt: skip
        assert (desk / left).stat().st_size > 0, left
    assert len(list((desk / "heat").iterdir())) == 2
