"""Makes the scripts importable, and shares what is slow to make."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import threads
from browsing import chromium as chromium
from browsing import opened as opened
from browsing import sites as sites

import data

ROOT = Path(data.__file__).parent
SIZE = 64  # pixels: small enough for a ResNet to take a step in well under a second


if os.environ.get("OMP_NUM_THREADS") == "1":  # as `make test` asks for
    threads.of_onnxruntime()

# Started first, when workers share out the files: one that took a minute at the end would leave a core idle.
LONGEST = ("test_exporting", "test_faults", "test_readme", "test_doubts", "test_unusual", "test_parallel", "test_proof",
           "test_whole_path", "test_held_out", "test_train", "test_quickstart", "test_evaluate", "test_coverage",
           "test_resume", "test_fuzz", "test_bench", "test_recording", "test_building", "test_anatomy")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_in_the_checkout():
    """Such as a ledger below runs/: tests write to folders of their own."""
    before = set(os.listdir(ROOT))
    yield
    left = set(os.listdir(ROOT)) - before - {".pytest_cache", ".ruff_cache", "__pycache__"}
    assert not left


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def phantoms(cache) -> data.Dataset:
    return data.load("phantoms", SIZE, cache)


@pytest.fixture(scope="session")
def real_folder() -> str:
    """The folder named by CXR_DATA; tests that want real X-rays skip without it."""
    folder = os.environ.get("CXR_DATA")
    if not folder:
        pytest.skip("CXR_DATA names no folder of real X-rays")
    return folder
