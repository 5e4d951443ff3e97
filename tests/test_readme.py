"""What the README shows must run as it stands there."""

import importlib
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import export
import train
from evaluation import explanation
from films import phantoms as drawings
from training import recipes

ROOT = Path(train.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    page.relative_to(ROOT / "docs").as_posix(): page.read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md"))
}
EVERYTHING = README + "".join(PAGES.values())
STEPS = ("data", "train", "explain", "export", "evaluate", "predict")  # what comes before what


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_deployment_example_runs(tmp_path, cache, phantoms, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--data", "phantoms", "--size", "64", "--cache", str(cache)]
    assert train.main(["--arch", "simple", "--epochs", "1", *options]) == 0
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
    shown = re.findall(rf"python {script}\.py ([^#\n`]*)", EVERYTHING)
    assert shown
    for arguments in shown:
        module.parse(shlex.split(arguments))


def test_every_script_is_listed():
    listed = set(re.findall(r"^    (\w+(?:\.py|/))", README[README.index("## The files") :], re.M))
    assert listed >= {path.name for path in ROOT.glob("*.py")} | {
        f"{init.parent.name}/" for init in ROOT.glob("*/__init__.py")
    }


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 200 and len(README.split()) <= 1500


def test_every_page_is_linked_and_every_link_leads_somewhere():
    for name, text in {"README.md": README, **{f"docs/{name}": text for name, text in PAGES.items()}}.items():
        for link in re.findall(r"\]\(([^)]*)\)", text):
            file, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = (ROOT / name).parent / file if file else ROOT / name
            assert target.is_file(), (name, link)
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
    pages = [name for name in PAGES if "/" not in name]
    assert all(f"docs/{name}" in README for name in pages)
    assert all(f"]({name})" in "".join(PAGES[page] for page in pages) for name in PAGES if name not in pages)


def runnable() -> list[tuple[str, list[str]]]:
    """(script, its arguments) of each command below a mark <!-- runnable -->, but those that the mark leaves out."""
    found = []
    marked = r"^<!-- runnable(?:, without: (.*?))? -->\n```sh\n(.*?)^```"
    for left_out, block in re.findall(marked, EVERYTHING, re.M | re.S):
        for line in block.splitlines():
            python, script, *arguments = shlex.split(line, comments=True)
            assert python == "python" and script.endswith(".py"), line
            if not set(arguments) & set(left_out.split(", ")):
                call = script.removesuffix(".py"), arguments
                found += [call] if call not in found else []
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
    shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("node_modules"))
    Path("data").mkdir()
    Path("data/chest_xray").symlink_to(tmp_path / "chest_xray")
    assert train.main(["--arch", "resnet34", "--epochs", "1", "--data", "chest_xray", "--size", "40"]) == 0
    return tmp_path


def test_the_marked_commands_run_as_they_stand(desk, capsys, monkeypatch):
    recipe = recipes.RECIPES["default"]["simple"]
    monkeypatch.setitem(recipes.RECIPES["default"], "simple", replace(recipe, epochs=4))
    monkeypatch.setattr(explanation, "DRAWN", 1)
    calls = runnable()
    assert {script for script, _ in calls} == set(STEPS) and len(calls) == 15
    for script, arguments in calls:
        capsys.readouterr()
        assert importlib.import_module(script).main(arguments) == 0, (script, arguments, capsys.readouterr().err)
    for left in ("contact_sheet.png", "runs/simple/model.pt", "runs/simple/history.csv", "runs/simple/errors.png",
                 "onnx/simple.onnx",
                 "onnx/resnet34.json", "report/report.html", "report/predictions.csv", "films.csv"):  # fmt: skip
        assert (desk / left).stat().st_size > 0, left
    assert len(list((desk / "heat").iterdir())) == 2
