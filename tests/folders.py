"""Small folders of images for tests: noise, in the shape of Kermany's data."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (50, 40), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def make_folder(root: Path, sides: tuple[str, ...] = ("",), count: int = 12) -> Path:
    """A small Kermany-like tree: `count` patients a class and side, every third with a second image."""
    seed = 0
    for s, side in enumerate(sides):
        for i in range(count):
            for n in range(1, 3 if i % 3 == 0 else 2):
                seed += 2
                draw(root / side / "NORMAL" / f"IM-{1000 * s + i:04d}-{n:04d}.jpeg", seed)
                draw(root / side / "PNEUMONIA" / f"person{1000 * s + i}_virus_{n}.jpeg", seed + 1)
    return root


def make_kaggles_tree(root: Path) -> Path:
    """As Kaggle's archive unpacks on a Mac and after a look in Jupyter: hidden things, and the whole tree once more.

    The films are those of make_folder(root / "chest_xray", ("train", "val", "test")).
    """
    folder = make_folder(root / "chest_xray", ("train", "val", "test"))
    shutil.copytree(folder, folder / "chest_xray")
    for inside in (folder, folder / "train", folder / "train" / "NORMAL", folder / "chest_xray" / "val"):
        (inside / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (inside / "._IM-0001-0001.jpeg").write_bytes(b"\0\5\26\7")  # AppleDouble
        draw(inside / ".ipynb_checkpoints" / "IM-0001-0001-checkpoint.jpeg", 1)
    for file in ("._chest_xray", "chest_xray/train/NORMAL/._IM-0001-0001.jpeg"):
        (root / "__MACOSX" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "__MACOSX" / file).write_bytes(b"\0\5\26\7")
    shutil.copytree(root / "__MACOSX", folder / "__MACOSX")
    return root
