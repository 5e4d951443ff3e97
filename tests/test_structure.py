"""The house: few files at the door, rooms that import only lower ones, names that shadow nothing."""

import ast
import graphlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("train", "evaluate", "export", "predict", "explain", "bench", "ablate", "data")
MOST_AT_THE_DOOR = 9
SLOW = ("torch", "torchvision", "onnx", "onnxruntime", "matplotlib")


def loaded(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture = loaded(ROOT / "docs" / "architecture.py")


def faults(root: Path) -> list[str]:
    """What is wrong with the plan of the house, in words."""
    files = architecture.files_of(root)
    imports = architecture.imports_of(files)
    door = [name for name, path in files.items() if path.parent == root]
    found = [f"{len(door)} files at the door"] if len(door) > MOST_AT_THE_DOOR else []
    readme = (root / "README.md").read_text(encoding="utf-8")
    first = readme.split("\n\n")[1]
    found += [f"{name}.py is no command, and the first paragraph of the README does not name it"
              for name in door if name not in COMMANDS and f"`{name}.py`" not in first]  # fmt: skip
    try:
        architecture.levels(architecture.rooms_of(imports))
    except graphlib.CycleError as circle:
        found.append(f"rooms import each other: {' -> '.join(circle.args[1])}")
    try:
        list(graphlib.TopologicalSorter(imports).static_order())
    except graphlib.CycleError as circle:
        found.append(f"files import each other: {' -> '.join(circle.args[1])}")
    scripts = set(COMMANDS) - {"data", "predict"}  # these two are imported, the second one by bench.py's studies
    found += [f"{name} imports the script {other}.py" for name, wanted in imports.items() for other in wanted & scripts]
    found += [f"predict.py imports {other}" for other in imports["predict"]]
    outside = {name: outer(path) for name, path in files.items()}
    found += [f"{name} imports {', '.join(outside[name] & set(SLOW))}: metrics are numpy's alone"
              for name in files if name.startswith("metrics") and outside[name] & set(SLOW)]  # fmt: skip
    packages = set(sys.stdlib_module_names) | {package for wanted in outside.values() for package in wanted}
    names = {part for name in files for part in name.split(".")}
    found += [f"{name} is also the name of a module that others bring" for name in sorted(names & packages)]
    for room in sorted({name.partition(".")[0] for name in files if "." in name}):
        init = architecture.parsed((root / room / "__init__.py").read_text(encoding="utf-8"))
        if len(init.body) != 1 or not ast.get_docstring(init):
            found.append(f"{room}/__init__.py holds something else than what the room is for")
    found += [f"{name} does not say what it is" for name, path in files.items()
              if not ast.get_docstring(architecture.parsed(path.read_text(encoding="utf-8")))]  # fmt: skip
    return found


def outer(path: Path) -> set[str]:
    """Packages that are not ours and that a file imports."""
    found = set()
    for node in ast.walk(architecture.parsed(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    ours = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    return found - ours


@pytest.fixture
def house(tmp_path) -> Path:
    """A copy to plant faults in."""
    copy = tmp_path / "house"
    copy.mkdir()
    for path in [*ROOT.glob("*.py"), ROOT / "README.md"]:
        shutil.copy(path, copy)
    for init in ROOT.glob("*/__init__.py"):
        shutil.copytree(init.parent, copy / init.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_the_house_is_as_planned(house):
    assert faults(ROOT) == faults(house) == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("tool.py", "", "10 files at the door"),
        ("films/images.py", "from training import batches", "rooms import each other: "),
        ("metrics/measures.py", "from basics import cli", None),
        ("metrics/measures.py", "from films import audit", "rooms import each other: "),
        ("basics/cli.py", "def late():\n    import models", "rooms import each other: "),
        ("graphs/building.py", "import evaluation.tables", "rooms import each other: "),
        ("training/stopping.py", "from training import runs", "files import each other: "),
        ("studies/ablation.py", "import train", "studies.ablation imports the script train.py"),
        ("predict.py", "from basics import disk", "predict.py imports basics.disk"),
        ("metrics/intervals.py", "import torch", "metrics.intervals imports torch: metrics are numpy's alone"),
        ("films/statistics.py", '"""Some."""', "statistics is also the name of a module that others bring"),
        ("graphs/onnx.py", '"""Some."""', "onnx is also the name of a module that others bring"),
        ("films/__init__.py", "from films import images", "films/__init__.py holds something else"),
        ("studies/more.py", "x = 1", "studies.more does not say what it is"),
    ],
)  # fmt: skip
def test_a_fault_that_is_planted_is_found(house, file, line, fault):
    path = house / file
    path.write_text((path.read_text() if path.exists() else "") + "\n" + line + "\n")
    found = faults(house)
    assert any(said.startswith(fault) for said in found) if fault else not found, found


def test_the_picture_is_of_these_imports():
    drawn = architecture.draw(architecture.files_of(ROOT))
    assert architecture.PICTURE.read_text(encoding="utf-8") == drawn, "python docs/architecture.py draws it again"
    assert len(drawn) < 100_000


@pytest.mark.parametrize("script", COMMANDS)
def test_help_and_wrong_calls_import_nothing_slow(script):
    """Counted in a fresh process: modules, not seconds."""
    slow = [name for name in SLOW if (script, name) != ("predict", "onnxruntime")]
    code = (
        "import runpy, sys\n"
        "for argument in ('--help', '--no-such-option'):\n"
        "    sys.argv[1:] = [argument]\n"
        "    try:\n        runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "    except SystemExit as done:\n        print('exit', done.code)\n"
        f"print('imported', [name for name in {slow!r} if name in sys.modules])\n"
    )
    start = f"import sys; sys.argv = [{str(ROOT / script) + '.py'!r}]\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=ROOT)
    said = [line for line in done.stdout.splitlines() if line.startswith(("exit", "imported"))]
    assert said == ["exit 0", "exit 2", "imported []"], (done.stdout[-300:], done.stderr[-300:])


def test_every_file_is_tested_in_the_room_of_its_own_name():
    """tests/ mirrors the rooms: a folder there is one here. So is page/, of which Python imports nothing."""
    rooms = {init.parent.name for init in ROOT.glob("*/__init__.py")} | {"page"}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == rooms
    assert not [path for path in (ROOT / "tests").glob("*/*.py") if not re.match(r"test_\w+\.py$", path.name)]
