"""The figures: what they show agrees with the results, nothing is cut off or covered, and odd results draw too."""

import io
import itertools
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.metrics
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from results import NAN, estimate, make_result, make_results
from results import point as operating_point

from evaluation import figures
from evaluation.result import Result, shown
from metrics import intervals, measures

LONG = "resnet34-pretrained on a collection of films whose name somebody made rather long, seed"


@pytest.fixture(autouse=True, scope="module")
def few_replicates():
    """Most tests do not look at how smooth the bands are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "REPLICATES", 200)
        yield


def eight() -> list[Result]:
    return [make_result(f"{LONG} {i}", separation=1.5 + 0.4 * i, seed=i, epochs=3 * i + 1) for i in range(8)]


def one_class(label: int) -> Result:
    """Test images of one class: half of all metrics are undefined."""
    result = make_result("one class", images=40)
    unknown = {key: estimate(NAN) for key in ("auroc", "average_precision", "calibration_slope")}
    result = replace(result, labels=np.full(40, label), positives=40 * label, estimates=result.estimates | unknown)
    undefined = ("specificity", "npv") if label else ("sensitivity", "precision")
    for point in result.points.values():
        point |= {"tn": 0, "fp": 0} if label else {"fn": 0, "tp": 0}
        point["estimates"] |= {key: estimate(NAN) for key in undefined}
    return result


def perfect() -> Result:
    return make_result("perfect", images=60, separation=60.0, seed=3, epochs=2)


CASES = {
    "three and a graph": make_results,
    "one": lambda: [make_result()],
    "eight": eight,
    "nine images": lambda: [make_result("few", images=9, epochs=1)],
    "perfect": lambda: [perfect(), make_result(seed=5)],
    "all ill": lambda: [one_class(1)],
    "all normal": lambda: [one_class(0)],
    "other test sets": lambda: [make_result("a"), make_result("b", images=120)],
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request) -> tuple[list[Result], dict[str, Figure]]:
    """Results, and their figures after layout."""
    results = CASES[request.param]()
    with matplotlib.rc_context({"text.parse_math": False}):
        found = figures.make(results)
        for figure in found.values():
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()
    return results, found


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip()]


def unwrapped(text: str) -> str:
    return text.replace("\n", " ")


def test_all_figures_are_there_in_order(drawn):
    found = drawn[1]
    assert tuple(found) == figures.NAMES
    assert all(axes.lines for name, figure in found.items() for axes in figure.axes
               if name != "confusion.png" and axes.axison)  # fmt: skip


def test_nothing_lies_outside_or_over_something_else(drawn):
    """Legends, titles and labels are inside the figure; no panel's labels touch another's, nor the legend or title."""
    for name, figure in drawn[1].items():
        renderer = figure.canvas.get_renderer()
        boxes = {f"panel {i}": axes.get_tightbbox(renderer) for i, axes in enumerate(figure.axes) if axes.axison}
        boxes |= {f"legend {i}": legend.get_window_extent(renderer) for i, legend in enumerate(figure.legends)}
        (written,) = [line for line in figure.texts if line is not figure._suptitle]
        boxes["small"] = written.get_window_extent(renderer)
        width, height = figure.bbox.size
        for what, box in boxes.items():
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, (name, what)
        for (what, a), (other, b) in itertools.combinations(boxes.items(), 2):
            wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(wide, high) < 1, (name, what, other)
        # The title ends in empty lines, where the smaller text stands: below what can be read of it, above the panels.
        title, lines = figure._suptitle.get_window_extent(renderer), figure._suptitle.get_text().split("\n")
        assert title.y1 < height + 1 and title.x0 > -1 and title.x1 < width + 1, name
        assert boxes["small"].y1 < title.y1 - title.height * len(list(filter(None, lines))) / len(lines), name


def test_legends_name_every_model_that_is_shown(drawn):
    results, found = drawn
    for name, figure in found.items():
        if name in ("reliability.png", "confusion.png"):
            heads = [unwrapped(axes.get_title()) for axes in figure.axes if axes.axison]
            for result, head in zip(shown(results), heads, strict=True):
                assert head.startswith(result.name[:70]), name
        else:
            (legend,) = figure.legends
            found_names = [unwrapped(text.get_text()) for text in legend.get_texts()]
            for result in shown(results):
                if name != "learning_curves.png" or result.history:
                    assert any(text.startswith(result.name) for text in found_names), name


def test_files_are_png_of_a_sane_size_and_the_same_each_time():
    results = eight()
    found = figures.draw(results)
    for name, content in found.items():
        image = Image.open(io.BytesIO(content))
        image.load()
        assert image.format == "PNG" and 500 < image.width < 2000 and 500 < image.height < 1700, (name, image.size)
        assert len(np.unique(np.asarray(image.convert("L")))) > 20, name
    assert figures.png(figures.roc(results[:1])) == figures.png(figures.roc(results[:1]))


def test_numbers_in_the_figures_are_the_results():
    results = make_results()
    found = figures.make(results)
    (roc, pr) = (" ".join(unwrapped(t) for t in texts(found[name])) for name in ("roc.png", "precision_recall.png"))
    for result in shown(results):
        e = result.estimates["auroc"]
        assert f"{result.name}: AUROC {e['value']:.4f} [{e['low']:.4f}, {e['high']:.4f}], n = 300" in roc
        assert f"average precision {result.estimates['average_precision']['value']:.4f} [" in pr
    for axes, result in zip(found["confusion.png"].axes, shown(results), strict=True):
        at = result.points["validation"]
        counts = [int(text.get_text().split("\n")[0]) for text in axes.texts]
        assert counts == [at["tn"], at["fp"], at["fn"], at["tp"]]
        assert axes.texts[3].get_text().endswith(f"{100 * at['estimates']['sensitivity']['value']:.1f} %")
        assert f"threshold {at['threshold']:.3f}" in axes.get_title()


def test_markers_stand_at_the_threshold_from_validation():
    result = make_result()
    at = result.points["validation"]["estimates"]
    for draw, x, y in ((figures.roc, 1 - at["specificity"]["value"], at["sensitivity"]["value"]),
                       (figures.precision_recall, at["sensitivity"]["value"], at["precision"]["value"])):  # fmt: skip
        figure = draw([result])
        marked = [line.get_xydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "None"]
        assert np.allclose(marked, [(x, y)])
        (curve,) = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata()) > 9]
        assert np.abs(curve - (x, y)).sum(axis=1).min() < 1e-9  # and that is a point of the curve


def test_resampled_curves_are_those_of_a_loop_over_scikit_learns():
    result, grid = make_result(images=150), np.linspace(0.0031, 0.9997, 97)
    labels, probabilities = result.labels, np.round(result.probabilities, 2)  # with ties
    weights = intervals.patient_counts(result.patient_ids, 40, 0)
    for row, curve in zip(weights, figures.resampled_curves(labels, probabilities, weights, grid), strict=True):
        fpr, tpr, _ = sklearn.metrics.roc_curve(labels, probabilities, sample_weight=row, drop_intermediate=False)
        assert curve == pytest.approx(np.interp(grid, fpr, tpr))


def test_bands_are_the_second_and_the_last_but_one_of_79_curves(monkeypatch):
    monkeypatch.setattr(figures, "REPLICATES", 79)  # 2.5 % of 80 is 2
    result = make_result(images=150)
    grid, low, high = figures.roc_band(result)
    weights = intervals.patient_counts(result.patient_ids, 79, 0)
    curves = np.sort(figures.resampled_curves(result.labels, result.probabilities, weights, grid), axis=0)
    assert low == pytest.approx(curves[1]) and high == pytest.approx(curves[-2])
    assert (grid[0], grid[-1], low[-1], high[-1]) == (0, 1, 1, 1)


@pytest.mark.parametrize("separation", [0.3, 1.5, 2.5, 3.5])
def test_bands_contain_their_curve_and_are_bands(separation):
    result = make_result(separation=separation, seed=7)
    fpr, tpr, _ = measures.roc_curve(result.labels, result.probabilities)
    grid, low, high = figures.roc_band(result)
    upper = np.interp(grid, fpr, tpr)
    assert (low <= upper + 1e-12).all() and (upper <= high + 1e-12).all()
    assert (np.diff(low) >= -1e-12).all() and (np.diff(high) >= -1e-12).all()
    assert 0.005 < np.mean(high - low) < 0.4


def test_a_perfect_curve_is_not_said_to_be_certain():
    small = " ".join(texts(figures.roc([perfect()])))
    assert "that is no certainty" in unwrapped(small)
    assert "certainty" not in " ".join(texts(figures.roc([make_result()])))


def test_without_both_classes_or_several_patients_there_is_no_band():
    assert figures.roc_band(one_class(1)) is None and figures.roc_band(one_class(0)) is None
    assert figures.roc_band(replace(make_result(), patient_ids=["p"] * 300)) is None
    few = make_result(images=8)  # two normals, so that many replicates have none
    assert figures.roc_band(replace(few, patient_ids=list("abcdefgh"))) is None
    written = " ".join(unwrapped(text) for text in texts(figures.roc([one_class(1)])))
    assert "AUROC -, n = 40" in written and "no curve where all test images are of one class" in written


def test_the_area_below_the_precision_curve_is_the_average_precision():
    for result in (make_result(), make_result(images=31, seed=4), perfect()):
        recall, precision = figures.pr_curve(result.labels, result.probabilities)
        area = float(np.sum(np.diff(recall, prepend=0.0) * precision))
        assert area == pytest.approx(measures.average_precision(result.labels, result.probabilities))
        line = figures.precision_recall([result]).axes[0].lines[1]
        assert line.get_drawstyle() == "steps-pre"
        assert np.allclose(line.get_ydata()[1:], precision)


def test_decision_curves_are_net_benefits():
    results = [make_result("a"), make_result("b", images=120)]
    axes = figures.decision_curves(results).axes[0]
    curves, points = axes.lines[:4:2], axes.lines[1:4:2]
    for line, point, result in zip(curves, points, results, strict=True):
        t = line.get_xdata()
        called = result.probabilities >= t[:, None]
        ill = result.labels == 1
        expected = ((called & ill).sum(1) - (called & ~ill).sum(1) * t / (1 - t)) / len(ill)
        assert line.get_ydata() == pytest.approx(expected)
        assert point.get_xdata() == [0.4321] and point.get_ydata() == pytest.approx(np.interp(0.4321, t, expected))


def test_reliability_says_how_many_images_the_bins_hold():
    assert figures.bin_sizes(np.array([30, 31, 30])) == "bins: 3, n = 30 or 31 in each"
    assert figures.bin_sizes(np.array([1000, 1000])) == "bins: 2, n = 1,000 in each"
    assert figures.bin_sizes(np.array([3, 30, 7])) == "n by bin: 3, 30, 7"
    axes = figures.reliability([make_result()]).axes[0]
    assert axes.get_xlabel().endswith("bins: 10, n = 30 in each")


def test_learning_curves_are_the_history():
    results = make_results()
    loss, validation_loss, auroc, validation_auroc = figures.learning_curves(results[:2], results).axes
    for axes, column in ((loss, "train_loss"), (validation_loss, "val_loss"), (auroc, "train_auroc"),
                         (validation_auroc, "val_auroc")):  # fmt: skip
        lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
        for line, result in zip(lines, results[:2], strict=True):
            assert list(line.get_ydata()) == [row[column] for row in result.history]
        kept = [line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xdata()) == 1]
        best = [result.history[result.training["best_epoch"] - 1] for result in results[:2]]
        assert kept == ([[row["epoch"], row[column]] for row in best] if column.startswith("val") else [])


def test_without_a_history_there_are_no_learning_curves():
    assert tuple(figures.make([make_result("simple.onnx", "graph")])) == figures.NAMES[1:]


def test_a_graph_is_shown_only_where_it_differs_from_its_checkpoint():
    results = make_results()
    assert [r.name for r in shown(results)] == ["simple", "resnet34", "ensemble of simple, resnet34"]
    results[3] = replace(results[3], probabilities=np.clip(results[0].probabilities + 0.01, 0, 1))
    assert len(shown(results)) == 4
    assert len(shown([results[3]])) == 1


@pytest.mark.parametrize("where", ["data", "training"])
def test_synthetic_results_are_marked_in_every_figure(where):
    results = [make_result("a"), make_result("b", synthetic=True)]
    if where == "training":  # a model of drawings, tested on films
        results[1].data["synthetic"] = False
    for figure in figures.make(results).values():
        assert figure._suptitle.get_text().startswith("SYNTHETIC: ")
        assert figure._suptitle.get_color() == figures.ALARM
    assert not any(f._suptitle.get_text().startswith("SYNTH") for f in figures.make(results[:1]).values())


def test_names_are_no_markup_and_need_no_font():
    names = ["_hidden", "$x^{$ costs", "肺炎 модель", "a\nb\tc", "<script>", "x" * 250]
    results = [make_result(name, images=60) for name in names]
    assert set(figures.draw(results)) == set(figures.NAMES)  # warnings are errors: a missing glyph would be one
    (legend,) = figures.learning_curves(results, results).legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[:2] == names[:2] and shown[2].startswith("?? модель") and shown[3:5] == [r"a\nb\tc", "<script>"]
    assert figures.words("_hidden $5", 40) == "_hidden $5"
    assert figures.words("肺 ok", 40) == "? ok" and figures.words("a\nb", 40) == r"a\nb"
    assert len(figures.words("x" * 250, 500)) == 160


def test_eight_models_differ_in_grey_print():
    assert len(set(figures.LINES)) == len(set(figures.MARKERS)) == 8
    looks = [(figures.look(i)["color"], figures.look(i)["linestyle"]) for i in range(56)]
    assert len(set(looks)) == 56


def test_no_state_of_pyplot_is_used():
    assert "pyplot" not in Path(figures.__file__).read_text()


def test_the_graphs_own_threshold_is_marked_in_every_figure():
    """Filled where it decides, empty where validation's threshold would."""
    graph = make_result("simple.onnx", "graph")
    own = operating_point(graph.labels, graph.probabilities, 0.2, False) | {"rule": "set by hand"}
    graph = replace(graph, points={**graph.points, "the graph's own": own}, decides="the graph's own")
    assert shown([make_result("simple"), graph])[1:] == [graph]  # it decides otherwise than its checkpoint
    made = figures.make([graph])
    at, validation = (p["estimates"] for p in (own, graph.points["validation"]))
    places = {
        "roc.png": [(1 - e["specificity"]["value"], e["sensitivity"]["value"]) for e in (validation, at)],
        "precision_recall.png": [(e["sensitivity"]["value"], e["precision"]["value"]) for e in (validation, at)],
    }
    for name, expected in places.items():
        points = [line for line in made[name].axes[0].lines if line.get_linestyle() == "None"]
        assert np.allclose([line.get_xydata()[0] for line in points], expected)
        assert [line.get_markerfacecolor() == "none" for line in points] == [True, False]
    (upright,) = [line for line in made["reliability.png"].axes[0].lines if list(line.get_xdata()) == [0.2, 0.2]]
    assert upright.get_linestyle() == "-."
    assert "threshold 0.200, the graph's own (set by hand)" in made["confusion.png"].axes[0].get_title()
    cells = [text.get_text().split("\n")[0] for text in made["confusion.png"].axes[0].texts]
    assert cells == [str(own[key]) for key in ("tn", "fp", "fn", "tp")]
    assert [0.2] in [list(line.get_xdata()) for line in made["decision_curves.png"].axes[0].lines]


def test_bars_of_the_reliability_are_by_patient():
    """Copies of a film say nothing more of a bin."""
    one = make_result(images=300)
    four = replace(one, labels=np.repeat(one.labels, 4), probabilities=np.repeat(one.probabilities, 4),
                   patient_ids=[name for i in range(300) for name in [f"p{i}"] * 4], images=1200)  # fmt: skip
    one = replace(one, patient_ids=[f"p{i}" for i in range(300)])
    widths = []
    for result in (one, four):
        n = measures.reliability(result.labels, result.probabilities)[2]
        low, high = figures.bin_limits(result, n).T
        widths.append(high - low)
    assert (widths[1] > 0.8 * widths[0]).all()
