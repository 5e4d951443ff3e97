"""The figures of a report, as PNG bytes, from the results of evaluate.py.

A model has one colour, one line style and one marker in all of them, so that they can be told apart in grey print too.
"""

import io
import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import NDArray

from basics.problems import printable
from basics.progress import Progress
from evaluation import marks
from evaluation.markup import number, with_interval
from evaluation.result import Result, shown
from films import sources
from metrics import intervals, measures, selective

NAMES = (
    "learning_curves.png",
    "roc.png",
    "precision_recall.png",
    "reliability.png",
    "confusion.png",
    "decision_curves.png",
    "risk_coverage.png",
)
# Okabe & Ito's palette, which people with any colour vision can tell apart (jfly.uni-koeln.de/color), less its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# One more than colours, so that the pairs repeat after 56 models only; lengths are in line widths.
LINES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)), (0, (10, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)),
         (0, (8, 2, 3, 2)))  # fmt: skip
MARKERS = "osD^vPX*"
ALARM = "#B00020"  # of everything that has a mark
REPLICATES = 1000  # of the bootstrap by patient, for the bands of the ROC curves
EARLY = 0.1  # share of films answered, before which so few are that the risk may be anything
CORNER = 0.3  # side of the enlarged corner, where good models differ


def draw(results: list[Result]) -> dict[str, bytes]:
    """{file name: PNG bytes} of the figures that these results allow."""
    # File names and model names are no formulas, whatever dollar signs they hold.
    with matplotlib.rc_context({"text.parse_math": False, "savefig.dpi": 130}):
        made, drawn = make(results), {}
        with Progress(len(made), "drawing", "figures", leave=False, delay=2) as progress:
            for name, figure in made.items():
                drawn[name] = png(figure)
                progress.update()
        return drawn


def make(results: list[Result]) -> dict[str, Figure]:
    """The figures themselves, in the order of NAMES; no learning curves where no model has a history."""
    some = shown(results)
    found = {
        "roc.png": roc(some),
        "precision_recall.png": precision_recall(some),
        "reliability.png": reliability(some),
        "confusion.png": confusion(some),
        "decision_curves.png": decision_curves(some),
        "risk_coverage.png": risk_coverage(some),
    }
    if trained := [result for result in some if result.history]:
        found["learning_curves.png"] = learning_curves(trained, some)
    return {name: found[name] for name in NAMES if name in found}


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------- look and words


def look(i: int, linewidth: float = 1.6) -> dict[str, Any]:
    """Colour and line style of the i-th model."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "linewidth": linewidth}


def dot(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th model; white around it, so that markers on top of each other stay apart."""
    marker = MARKERS[i % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker, "markeredgecolor": "white", "markeredgewidth": 0.7,
            "markersize": 8.5 if marker in "PX*" else 7}  # fmt: skip


def words(text: str, width: int, longest: int = 160) -> str:
    """A name as a figure can show it: cut and wrapped, and with question marks for what the font does not have."""
    has = get_font(findfont("DejaVu Sans")).get_charmap()
    text = "".join(c if ord(c) in has else "?" for c in printable(text))
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return "\n".join(textwrap.wrap(text, width)) or text


def titled(figure: Figure, title: str, results: list[Result], small: str) -> Figure:
    """The title, in red and marked where marks.py has something to say; below it, smaller, what one has to know."""
    mark = marks.before(results)
    wide = int(figure.get_figwidth() * 13)  # characters of the smaller text that fit on a line
    big = textwrap.wrap(f"{mark}{title}", int(wide * 0.7))
    lines = textwrap.wrap(small, wide)
    height = figure.get_figheight() + 0.2 * (len(lines) + len(big) - 1)
    figure.set_figheight(height)
    # The layout makes room for the one title that it knows, empty lines included; the smaller text is put there.
    figure.suptitle("\n".join([*big, *([""] * len(lines))]), color=ALARM if mark else "black", fontsize=12)
    figure.text(0.5, 1 - (0.08 + 0.2 * len(big)) / height, "\n".join(lines), ha="center", va="top", fontsize=8.5,
                color="#444444")  # fmt: skip
    return figure


def legend_below(figure: Figure, handles: list, labels: list[tuple[str, str]]) -> None:
    """A legend under the axes, for which the figure grows: inside them it would cover curves.

    labels: a name, which may be long, and what stands behind it, on a line of its own if need be. Handles and labels
    are given one by one: matplotlib leaves out labels that start with an underscore.
    """
    columns = min(len(labels), 2)
    wide = int((figure.get_figwidth() / columns - 0.8) / 0.075)
    texts = []
    for name, behind in labels:
        name = words(name, wide) + (":" if behind else "")
        fits = "\n" not in name and len(name) + len(behind) < wide
        texts.append(f"{name} {behind}".rstrip() if fits or not behind else f"{name}\n{behind}")
    deep = -(-len(texts) // columns)  # matplotlib fills the columns one after the other
    lines = max(sum(text.count("\n") + 1 for text in texts[i : i + deep]) for i in range(0, len(texts), deep))
    figure.set_figheight(figure.get_figheight() + 0.16 * lines + 0.25)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=8, handlelength=4.5)


def panels(count: int, side: float = 3.3, height: float = 3.5) -> tuple[Figure, list[Axes]]:
    """A figure with one small panel a model, four of them in a row.

    Their aspect stays free, here and elsewhere: beside axes that are kept square, matplotlib 3.11's constrained layout
    puts the titles of one row of panels over the labels of the row above.
    """
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(side * columns, 5.0), height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.axis("off")
    return figure, list(grid.flat[:count])


def two_axes(curves: list[tuple[NDArray, NDArray]], left: bool) -> tuple[Figure, list[tuple[Axes, bool]]]:
    """Axes from 0 to 1, and, where a curve passes there, a second pair for the upper left or right corner."""
    near = [((x <= CORNER) if left else (x >= 1 - CORNER)) & (y >= 1 - CORNER) for x, y in curves]
    count = 2 if any(part.any() for part in near) else 1
    figure = Figure(figsize=(5.6 * count if count > 1 else 6.4, 5.2), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False).flat)
    axes[0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if count > 1:
        edge = (-0.008, CORNER) if left else (1 - CORNER, 1.008)
        axes[1].set(xlim=edge, ylim=(1 - CORNER, 1.008), title=f"upper {'left' if left else 'right'} corner")
        axes[1].title.set_fontsize(10)
    for one in axes:
        one.grid(alpha=0.3)
    return figure, [(one, i == 0) for i, one in enumerate(axes)]


# ------------------------------------------------------------------------------------------------------- training


def learning_curves(results: list[Result], everything: list[Result]) -> Figure:
    """Loss and AUROC against the epoch: all models on the same axes, training beside validation on the same scale."""
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    grid, handles = figure.subplots(2, 2, sharex=True, sharey="row"), []
    for row, (what, label) in enumerate((("loss", "loss (nats)"), ("auroc", "AUROC"))):
        for axes, side, title in zip(
            grid[row], ("train", "val"), ("training images", "validation images"), strict=True
        ):
            for result in results:
                i = next(i for i, one in enumerate(everything) if one is result)  # the same look as elsewhere
                line = one_history(axes, result, f"{side}_{what}", i)
                handles += [line] if (row, side) == (0, "val") else []
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(title, fontsize=10)
            else:
                axes.set_xlabel("epoch")
        grid[row][0].set_ylabel(label)
    legend_below(figure, handles, [(result.name, "") for result in results])
    return titled(figure, "Learning curves", results, "circle: the epoch that was kept, by validation AUROC; training "
                  "values are those of the images as augmented, while the epoch went on")  # fmt: skip


def one_history(axes: Axes, result: Result, column: str, i: int) -> object:
    history = result.history
    assert history is not None  # the caller has looked
    every = max(1, -(-len(history) // 12))  # more markers than that would hide the line style
    epochs, values = [row["epoch"] for row in history], [row[column] for row in history]
    (line,) = axes.plot(epochs, values, **{**look(i), **dot(i)}, markevery=every)
    best = (result.training or {}).get("best_epoch")
    kept = [value for epoch, value in zip(epochs, values, strict=True) if epoch == best]
    if kept and column.startswith("val"):
        axes.plot([best], kept[:1], "o", mfc="none", ms=12, mew=1.3, color=look(i)["color"])
    return line


# -------------------------------------------------------------------------------------------------------- ranking


def where(results: list[Result]) -> str:
    """What the markers show."""
    if all(result.decides == "validation" for result in results):
        return "the threshold from validation"
    return "the threshold by which the model decides (empty: that from validation, where it is another)"


def decided(axes: Axes, result: Result, i: int, place: Callable[[dict], tuple[float, float]]) -> Artist:
    """A marker at the operating point by which a model decides; an empty one at validation's where that is another."""
    if result.decides != "validation":
        axes.plot(*place(result.points["validation"]["estimates"]), **{**dot(i), "markeredgecolor": dot(i)["color"]},
                  markerfacecolor="none", linestyle="none", zorder=3)  # fmt: skip
    return axes.plot(*place(result.decision["estimates"]), **dot(i), linestyle="none", zorder=3)[0]


def roc(results: list[Result]) -> Figure:
    """ROC curves with pointwise bands, whole, and their upper left corner, where good models differ."""
    curves = [measures.roc_curve(result.labels, result.probabilities)[:2] for result in results]
    bands = [roc_band(result) for result in results]
    figure, pairs = two_axes(curves, left=True)
    shade, handles = 0.15 if len(results) <= 3 else 0.08, []
    for axes, first in pairs:
        axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
        for i, (result, (fpr, tpr), band) in enumerate(zip(results, curves, bands, strict=True)):
            if band is not None:
                axes.fill_between(*band, color=look(i)["color"], alpha=shade, linewidth=0)
            (line,) = axes.plot(fpr, tpr, **look(i))
            point = decided(axes, result, i, lambda at: (1 - at["specificity"]["value"], at["sensitivity"]["value"]))
            handles += [(line, point)] if first else []
        axes.set(xlabel="1 - specificity (share of normals called ill)", ylabel="sensitivity (share of ill found)")
    legend_below(figure, handles, [
        (r.name, f"AUROC {with_interval(r.estimates['auroc'], 4)}, n = {r.images:,}") for r in results
    ])  # fmt: skip
    small = f"marker: {where(results)}; band: pointwise 95 % interval of the sensitivity, bootstrap by patient"
    if any(np.isnan(fpr[0]) or np.isnan(tpr[0]) for fpr, tpr in curves):
        small += "; no curve where all test images are of one class"
    if any(band is not None and np.array_equal(band[1], band[2]) for band in bands):
        small += "; a perfect curve has none, as resampling gives it back: that is no certainty"
    return titled(figure, "ROC curves on the test images", results, small)


def roc_band(result: Result) -> tuple[NDArray, NDArray, NDArray] | None:
    """1 - specificity, and there the pointwise 95 % limits of the sensitivity; None where these are undefined.

    Replicates without one of the classes have no curve; of more than 5 % of them, the others would be a selection.
    """
    labels, probabilities = np.asarray(result.labels), np.asarray(result.probabilities, dtype=np.float64)
    fpr, _, _ = measures.roc_curve(labels, probabilities)
    if np.isnan(fpr).any() or len(set(result.patient_ids)) < 2:
        return None
    grid = np.union1d(fpr, np.linspace(0, 1, 101))
    weights = intervals.patient_counts(list(result.patient_ids), REPLICATES, 0)
    step = max(1, intervals.ENTRIES // len(labels))
    curves = np.concatenate(
        [resampled_curves(labels, probabilities, weights[i : i + step], grid) for i in range(0, len(weights), step)]
    )
    if len(curves) < (1 - intervals.UNDEFINED) * len(weights):
        return None
    # The quantile that intervals.interval() takes: of R replicates the p (R + 1)-th.
    low, high = np.quantile(curves, (0.025, 0.975), axis=0, method="weibull")
    return grid, low, high


def resampled_curves(labels: NDArray, probabilities: NDArray, weights: NDArray, grid: NDArray) -> NDArray:
    """The sensitivity at each 1 - specificity of the grid, (R, G), in each replicate that has both classes."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)  # the last of each tie
    weights, ill = weights[:, order].astype(np.float64), labels[order] == 1
    tp, fp = (np.cumsum(weights * side, axis=1)[:, ends] for side in (ill, ~ill))
    both = (tp[:, -1] > 0) & (fp[:, -1] > 0)
    if not both.any():
        return np.empty((0, len(grid)))
    tpr, fpr = (np.pad(counts[both] / counts[both, -1:], ((0, 0), (1, 0))) for counts in (tp, fp))
    # All rows in one interpolation: row r lies between 2 r and 2 r + 1. Where a curve rises vertically the last of
    # equal abscissae counts, its upper end.
    shift = 2.0 * np.arange(len(tpr))[:, None]
    return np.interp((grid + shift).ravel(), (fpr + shift).ravel(), tpr.ravel()).reshape(len(tpr), len(grid))


def pr_curve(labels: NDArray, probabilities: NDArray) -> tuple[NDArray, NDArray]:
    """Recall and precision at each distinct probability, from the highest; nan without positives."""
    labels = np.asarray(labels)
    fpr, tpr, _ = measures.roc_curve(labels, probabilities)
    ill, well = int(np.sum(labels == 1)), int(np.sum(labels == 0))
    tp, fp = tpr[1:] * ill, (fpr[1:] * well if well else np.zeros(len(fpr) - 1))
    return tpr[1:], tp / np.maximum(tp + fp, 1)


def precision_recall(results: list[Result]) -> Figure:
    """Precision against sensitivity, as the steps whose area is the average precision."""
    curves = [pr_curve(result.labels, result.probabilities) for result in results]
    figure, pairs = two_axes(curves, left=False)
    handles = []
    for axes, first in pairs:
        for share in sorted({result.positives / result.images for result in results}):
            axes.axhline(share, linestyle=":", color="grey", linewidth=1)
        for i, (result, (recall, precision)) in enumerate(zip(results, curves, strict=True)):
            x, y = np.insert(recall, 0, 0.0), np.insert(precision, 0, precision[0])
            (line,) = axes.plot(x, y, drawstyle="steps-pre", **look(i))
            point = decided(axes, result, i, lambda at: (at["sensitivity"]["value"], at["precision"]["value"]))
            handles += [(line, point)] if first else []
        axes.set(xlabel="sensitivity (recall)", ylabel="precision (share of those called ill who are)")
    legend_below(figure, handles, [
        (r.name, f"average precision {with_interval(r.estimates['average_precision'], 4)}, n = {r.images:,}")
        for r in results
    ])  # fmt: skip
    return titled(figure, "Precision and sensitivity on the test images", results, f"marker: {where(results)}; "
                  "dotted: the share of test images with pneumonia, which chance would reach")  # fmt: skip


# ---------------------------------------------------------------------------------------------------- calibration


def reliability(results: list[Result]) -> Figure:
    """Observed share of pneumonia against the predicted probability, in ten bins of equal mass, a panel a model."""
    figure, grid = panels(len(results), height=3.7)
    for i, (axes, result) in enumerate(zip(grid, results, strict=True)):
        predicted, observed, n = measures.reliability(result.labels, result.probabilities)
        error = np.abs(bin_limits(result, n).T - observed)
        at = result.decision["threshold"]
        axes.axvline(at, color="grey", linewidth=0.8, linestyle="-.")
        axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
        axes.errorbar(predicted, observed, yerr=error, fmt="none", ecolor=look(i)["color"], elinewidth=1, capsize=2)
        axes.plot(predicted, observed, **look(i, linewidth=0.8))
        axes.plot(predicted, observed, **dot(i), linestyle="none")
        axes.set_xlabel(f"mean predicted probability\n{bin_sizes(n)}", fontsize=9)
        axes.set_ylabel("observed share with pneumonia", fontsize=9)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_title(f"{words(result.name, 26, 78)}\n{calibration(result)}", fontsize=9)
        axes.grid(alpha=0.3)
    grow_for_titles(figure, results)
    return titled(figure, "Reliability on the test images", results, "bins of equal mass; bars: 95 % intervals by "
                  "patient; dotted: perfect calibration; upright line: the threshold by which the model "
                  "decides")  # fmt: skip


def bin_limits(result: Result, n: NDArray) -> NDArray[np.float64]:
    """(B, 2) limits of the share with pneumonia in each bin, of n images: Wilson's, by patient."""
    order = np.argsort(result.probabilities, kind="stable")  # equal probabilities are in one bin
    bins = np.split(order, np.cumsum(n)[:-1])
    labels, patients = np.asarray(result.labels), np.asarray(result.patient_ids)
    return np.array([intervals.clustered_wilson(labels[some], patients[some]) for some in bins])


def bin_sizes(n: NDArray) -> str:
    """How many images the bins hold: as many in each, unless probabilities are tied or images few."""
    if n.max() - n.min() <= 1:
        return f"bins: {len(n)}, n = {' or '.join(f'{k:,}' for k in sorted(set(n.tolist())))} in each"
    return "\n".join(textwrap.wrap(f"n by bin: {', '.join(f'{k:,}' for k in n)}", 40))


def calibration(result: Result) -> str:
    found = result.estimates
    error, slope = found["calibration_error"]["value"], found["calibration_slope"]["value"]
    return f"error {number(error)}, slope {number(slope, 2)}"


def grow_for_titles(figure: Figure, results: list[Result]) -> None:
    """Room for names of more than one line, a row of panels after the other."""
    lines = [words(result.name, 26, 78).count("\n") for result in results]
    figure.set_figheight(figure.get_figheight() + 0.15 * sum(max(lines[i : i + 4]) for i in range(0, len(lines), 4)))


# ------------------------------------------------------------------------------------------------------ decisions


def confusion(results: list[Result]) -> Figure:
    """One 2 x 2 matrix of counts a model, at the threshold by which it decides; shades are shares of the true class."""
    figure, grid = panels(len(results))
    for axes, result in zip(grid, results, strict=True):
        at, own = result.decision, result.decides != "validation"
        counts = np.array([[at["tn"], at["fp"]], [at["fn"], at["tp"]]])
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            percent = f"{100 * share:.1f} %" if counts[row].any() else "-"
            axes.text(column, row, f"{count:,}\n{percent}", ha="center", va="center",
                      color="white" if share > 0.5 else "black")  # fmt: skip
        names = [name.capitalize() for name in sources.CLASSES]
        axes.set_xticks([0, 1], names)
        axes.set_yticks([0, 1], names, rotation=90, va="center")
        axes.set(xlabel="decision", ylabel="truth")
        axes.set_title(f"{words(result.name, 26, 78)}\nthreshold {number(at['threshold'])}"
                       f"{', ' + words(result.named(result.decides), 40) if own else ''}", fontsize=9)  # fmt: skip
    grow_for_titles(figure, results)
    return titled(figure, "Decisions on the test images", results, "threshold from validation, if nothing else is "
                  "said; percentages of each true class")  # fmt: skip


def decision_curves(results: list[Result]) -> Figure:
    """Net benefit against the probability from which one would act, beside acting on every film and on none."""
    thresholds = np.linspace(0.01, 0.99, 99)
    figure = Figure(figsize=(9, 5.0), layout="constrained")
    axes, handles, labels, tested = figure.subplots(), [], [], {}
    for i, result in enumerate(results):
        model, treat_all = measures.net_benefit(result.labels, result.probabilities, thresholds)
        (line,) = axes.plot(thresholds, model, **look(i), zorder=3)
        at = result.decision["threshold"]
        axes.plot(at, np.interp(at, thresholds, model), **dot(i), linestyle="none", zorder=4)
        handles.append(line)
        labels.append((result.name, ""))
        tested.setdefault((result.positives, result.images), treat_all)
    for i, ((ill, n), treat_all) in enumerate(tested.items()):
        (line,) = axes.plot(thresholds, treat_all, color="grey", linewidth=1, linestyle=LINES[i % len(LINES)])
        handles.append(line)
        labels.append((f"call every film ill ({ill:,} of {n:,} are)", ""))
    handles.append(axes.axhline(0, color="black", linewidth=0.8, linestyle=":"))
    labels.append(("call none ill", ""))
    top = max(max(ill / n for ill, n in tested), 0.05)
    axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.08 * top), xlabel="probability from which one would act",
             ylabel="net benefit (true positives per image)")  # fmt: skip
    axes.grid(alpha=0.3)
    legend_below(figure, handles, labels)
    return titled(figure, "Decision curves on the test images", results, "net benefit: true positives less false "
                  "ones, these weighted by the odds of that probability (Vickers & Elkin 2006); marker: the model's "
                  "own threshold")  # fmt: skip


def risk_coverage(results: list[Result]) -> Figure:
    """Errors among the surest films against the share of films answered; a marker where the promise refers the rest."""
    figure = Figure(figsize=(9, 5.0), layout="constrained")
    axes, handles, highest = figure.subplots(), [], [0.01]
    shade = 0.15 if len(results) <= 3 else 0.08
    for i, result in enumerate(results):
        shares, risk, band = risk_curve(result)
        if band is not None:
            axes.fill_between(shares, *band, color=look(i)["color"], alpha=shade, linewidth=0)
        handle = axes.plot(shares, risk, **look(i), zorder=3)
        if (at := promised_point(result)) is not None:
            handle += axes.plot(*at, **dot(i), linestyle="none", zorder=4)
            highest.append(at[1])
        handles.append(tuple(handle))
        highest.append((risk if band is None else band[1])[shares >= EARLY].max())
    axes.set(xlim=(0, 1.01), ylim=(0, min(1.08 * max(highest), 1.02)), xlabel="share of films answered, surest first",
             ylabel="share of errors among them (selective risk)")  # fmt: skip
    axes.grid(alpha=0.3)
    legend_below(figure, handles, [(r.name, f"AURC {with_interval(r.aurc, 4)}, n = {r.images:,}") for r in results])
    small = ("surest: farthest from the threshold by which the model decides, in log-odds; band: pointwise 95 % "
             "interval, bootstrap by patient, none before the first error: that is no certainty; AURC: area under the "
             "curve (Geifman et al. 2019)")  # fmt: skip
    if told := sorted({f"{1 - result.referral['alpha']:.4g}" for result in results if result.referral}):
        small += (f"; marker: what is answered where {' or '.join(told)} of each class is promised (conformal), off "
                  "the curve where its cut-offs do not lie about that threshold")  # fmt: skip
    return titled(figure, "Risk and share of films answered, on the test images", results, small)


def promised_point(result: Result) -> tuple[float, float] | None:
    """Share of films that are answered by the promise, and the risk there; None without a promise, or an answer."""
    if result.referral is None:
        return None
    referred, right = (result.referral["measures"][key]["value"] for key in ("referred", "answered_accuracy"))
    return None if np.isnan(right) else (1 - referred, 1 - right)


def risk_curve(result: Result) -> tuple[NDArray, NDArray, tuple[NDArray, NDArray] | None]:
    """Shares of films answered, the risk there, and its pointwise 95 % limits; None of these with one patient."""
    given = (result.labels, result.probabilities, result.decision["threshold"])
    shares = np.linspace(0.005, 1, 200)
    (risk,) = selective.risks(*given, shares, np.ones((1, result.images)))
    if result.patients < 2:
        return shares, risk, None
    weights = intervals.patient_counts(list(result.patient_ids), REPLICATES, 0)
    low, high = np.quantile(selective.risks(*given, shares, weights), (0.025, 0.975), axis=0, method="weibull")
    return shares, risk, (low, high)
