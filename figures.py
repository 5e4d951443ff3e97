"""The figures of a report, as PNG bytes: learning curves, ROC curves, confusion matrices."""

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import metrics
import sources

NAMES = ("learning_curves.png", "roc.png", "confusion.png")
# Okabe & Ito's palette, which people with any colour vision can tell apart (jfly.uni-koeln.de/color), less its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def draw(results: list[dict]) -> dict[str, bytes]:
    """{file name: PNG bytes} for the results of evaluate.py; graphs are left out of it when their checkpoint is in."""
    checkpoints = [result for result in results if result["kind"] == "checkpoint"]
    shown = checkpoints or results
    found = {"roc.png": roc(shown), "confusion.png": confusion(shown)}
    if checkpoints:
        found["learning_curves.png"] = learning_curves(checkpoints)
    return {name: png(found[name]) for name in NAMES if name in found}


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 130}):
        figure.savefig(stream, format="png", bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


def titled(figure: Figure, title: str, results: list[dict]) -> Figure:
    synthetic = any(result["data"]["synthetic"] for result in results)
    figure.suptitle(f"SYNTHETIC DATA: {title}" if synthetic else title, color="#B00020" if synthetic else "black")
    return figure


def learning_curves(results: list[dict]) -> Figure:
    """Loss and AUROC against the epoch, training dashed, validation solid, all models on the same axes."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, what, label in zip(figure.subplots(1, 2), ("loss", "auroc"), ("loss (nats)", "AUROC"), strict=True):
        for i, result in enumerate(results):
            epochs = [row["epoch"] for row in result["history"]]
            colour = COLOURS[i % len(COLOURS)]
            for side, style in (("train", "--"), ("val", "-")):
                values = [row[f"{side}_{what}"] for row in result["history"]]
                name = f"{result['name']}, {'training' if side == 'train' else 'validation'}"
                axes.plot(epochs, values, style, marker="." if side == "val" else None, color=colour, label=name)
            best = result["training"]["best_epoch"]
            axes.plot(best, result["history"][best - 1][f"val_{what}"], "o", mfc="none", ms=10, color=colour)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return titled(figure, "Learning curves (circle: the epoch that was kept)", results)


def roc(results: list[dict]) -> Figure:
    """ROC curves whole, and their upper left corner, where good models differ; dots are validation's thresholds."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    whole, corner = figure.subplots(1, 2)
    for axes in (whole, corner):
        for i, result in enumerate(results):
            fpr, tpr, _ = metrics.roc_curve(result["labels"], result["probabilities"])
            at = result["points"]["validation"]
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(fpr, tpr, color=colour, label=f"{result['name']}, AUROC {at['auroc']:.4f}, n = {at['n']:,}")
            axes.plot(1 - at["specificity"], at["sensitivity"], "o", color=colour)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
        axes.grid(alpha=0.3)
    whole.plot([0, 1], [0, 1], ":", color="grey")
    whole.legend(loc="lower right", fontsize=8)
    corner.set(xlim=(-0.01, 0.3), ylim=(0.7, 1.01), title="upper left corner")
    return titled(figure, "ROC on test images (dot: the threshold from validation)", results)


def confusion(results: list[dict]) -> Figure:
    """One 2 x 2 matrix of counts a model, at the threshold from validation; shades are shares of the true class."""
    columns = min(len(results), 4)
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(results) :]:
        axes.axis("off")
    for axes, result in zip(grid.flat, results, strict=False):
        at = result["points"]["validation"]
        counts = np.array([[at["tn"], at["fp"]], [at["fn"], at["tp"]]])
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            axes.text(column, row, f"{count:,}\n{100 * share:.1f} %", ha="center", va="center",
                      color="white" if share > 0.5 else "black")  # fmt: skip
        names = [name.capitalize() for name in sources.CLASSES]
        axes.set_xticks([0, 1], names)
        axes.set_yticks([0, 1], names, rotation=90, va="center")
        axes.set(xlabel="decision", ylabel="truth", title=f"{result['name']}\nthreshold {at['threshold']:.3f}")
    return titled(figure, "Test images", results)
