"""Draws docs/shortcuts.png, what gives the class away, from examples/films: `python docs/shortcuts.py`."""

import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from films import images  # noqa: E402
from training import stress_views  # noqa: E402
from training.stress_views import LENT, Look  # noqa: E402

PICTURE = ROOT / "docs" / "shortcuts.png"
FILMS = ROOT / "examples" / "films"
NAMES = ("IM-0433-0001.jpeg", "person413_bacteria_1834.jpeg")
SHAPES = 1.51 / 1.17  # how much wider pneumonias are, at their original sizes
ROWS = {
    "framing\nnormal films are framed wider;\nhere each as the other class": (Look(0.75, 0.75), Look(1.25, 1.25)),
    "shape\nmade square, a pneumonia's chest\nis narrower; here exchanged": stress_views.shapes_exchanged(SHAPES)[
        "shapes exchanged by cutting"
    ],
    "tone and sharpness\nnormal films are sharper and\ndarker; here exchanged": (
        Look(contrast=0.8, brightness=0.08, detail=-0.9),
        Look(contrast=1.15, brightness=-0.08, detail=0.9),
    ),
    "frame\nletters, arms, edges, the machine;\nhere of a film of the other class": LENT["frames exchanged"],
}


def drawn() -> Figure:
    """A row for each shortcut: a normal film and a pneumonia, each as it is and without its advantage."""
    films = [images.decode((FILMS / name).read_bytes(), 224).pixels for name in NAMES]
    table, labels, (normal, pneumonia) = torch.from_numpy(np.stack(films)), np.array([0, 1]), (0, 1)
    both = np.array([normal, pneumonia])
    figure = Figure(figsize=(9.2, 8.0), layout="constrained")
    grid = figure.subplots(len(ROWS), 4)
    for axes, (text, view) in zip(grid, ROWS.items(), strict=True):
        if isinstance(view, stress_views.Lent):
            shown = stress_views.lent(table, both, both[::-1].copy(), view)
        else:
            shown = stress_views.viewed(table, both, labels, view)
        for axis, film in zip(axes, (table[normal], shown[0], table[pneumonia], shown[1]), strict=True):
            axis.imshow(film, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[], frame_on=False)
        axes[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
    for axis, title in zip(grid[0], ("normal", "shown otherwise", "pneumonia", "shown otherwise"), strict=True):
        axis.set_title(title, fontsize=10)
    return figure


if __name__ == "__main__":
    stream = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 85}):
        drawn().savefig(stream, metadata={"Software": None})
    Image.open(stream).convert("L").save(PICTURE, optimize=True)  # a third of the size
    print(PICTURE.relative_to(ROOT))
