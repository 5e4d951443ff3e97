"""Makes the scripts importable, and shares what is slow to make."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data

ROOT = Path(data.__file__).parent
SIZE = 64  # pixels: small enough for a ResNet to take a step in well under a second


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
