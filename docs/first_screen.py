"""Draws docs/first_screen.png for the README: `python docs/first_screen.py`.

On the left a film of examples/films with what trained/simple.onnx says of it; on the right the three networks on the
collection's own test films, from docs/results.
"""

import csv
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

import predict  # noqa: E402

PICTURE = ROOT / "docs" / "first_screen.png"
RESULTS = ROOT / "docs" / "results" / "official-test-2026-11.csv"
GRAPH, FILM = ROOT / "trained" / "simple.onnx", "examples/films/person413_bacteria_1834.jpeg"
COLOURS = {"simple": "#4c78a8", "resnet34-pretrained": "#b07aa1", "resnet34": "#e1812c"}
KERMANY = (1 - 0.901, 0.932)  # Kermany et al. 2018: Inception-V3, transfer


def draw_film(axes: list[Axes], graph: Path) -> None:
    """The film, where a grey patch makes the log-odds of pneumonia fall, and the row of predict.py."""
    model, film = predict.open_model(graph, "cpu"), predict.read_film(str(ROOT / FILM))
    (probability,) = model.run(film.grey[None], "probability")[0]
    decision = model.classes[int(probability >= model.threshold)]
    heat = np.clip(predict.over_film(predict.occlusion(model, film.grey), [*film.grey.shape[::-1]], "stretch"), 0, None)
    for axis in axes:
        axis.imshow(film.grey, cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[], frame_on=False)
    strength = heat / heat.max()
    axes[1].imshow(strength, cmap="viridis", alpha=0.6 * np.minimum(2 * strength, 1), vmin=0, vmax=1)
    axes[0].set_title("a film", fontsize=10)
    axes[1].set_title("where covering it changes the answer", fontsize=10)
    row = f"{probability:.4f}  {decision}  {FILM}"
    said = axes[0].text(0, 1.04 * len(film.grey), row, family="monospace", fontsize=10, va="top")
    said.set_in_layout(False)  # it may reach below the next picture


def draw_results(axis: Axes) -> None:
    """Sensitivity against false alarms: a dot an operating point, a line through those of a seed."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "ensemble" not in row["model"]]
    for architecture, colour in COLOURS.items():
        mine = [row for row in rows if row["model"].rpartition("-s")[0] == architecture]
        for model in sorted({row["model"] for row in mine}):
            points = sorted(
                (1 - float(row["specificity"]), float(row["sensitivity"])) for row in mine if row["model"] == model
            )
            axis.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3.5, linewidth=0.8, alpha=0.8)
        auroc = np.mean([float(row["auroc"]) for row in mine])
        axis.plot([], [], "o-", color=colour, label=f"{architecture}: AUROC {auroc:.3f}")
    axis.plot(*KERMANY, "k*", markersize=9, label="Kermany et al. 2018")
    axis.set(xlim=(0, 0.42), ylim=(0.915, 1.003), xlabel="false alarms, of the normal films", ylabel="pneumonias found")
    axis.set_title("624 test films, five seeds of each network", fontsize=10)
    axis.legend(fontsize=8, loc="lower right", frameon=False, bbox_to_anchor=(1, 0.04))
    axis.spines[["top", "right"]].set_visible(False)


def drawn(graph: Path = GRAPH) -> Figure:
    figure = Figure(figsize=(11.5, 3.7), layout="constrained")
    film, heat, results = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    draw_film([film, heat], graph)
    draw_results(results)
    return figure


if __name__ == "__main__":
    stream = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 80}):
        drawn(*map(Path, sys.argv[1:])).savefig(stream, metadata={"Software": None})
    Image.open(stream).convert("RGB").quantize(256).save(PICTURE, optimize=True)  # a third of the size
    print(PICTURE.relative_to(ROOT))
