"""What the README shows must run as it stands there."""

import re
from pathlib import Path

import pytest
from PIL import Image

import export
import train

README = Path(train.__file__).with_name("README.md").read_text()


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


@pytest.mark.parametrize("script", ["data", "train", "evaluate", "export", "predict", "bench"])
def test_every_command_shown_is_one_that_the_script_accepts(script):
    module = __import__(script)
    shown = re.findall(rf"python {script}\.py ([^#\n`]*)", README)
    assert shown
    for arguments in shown:
        module.parse(arguments.split())


def test_every_script_is_listed():
    listed = set(re.findall(r"(\w+\.py)", README[README.index("## The files") :]))
    assert listed == {path.name for path in Path(train.__file__).parent.glob("*.py")}
