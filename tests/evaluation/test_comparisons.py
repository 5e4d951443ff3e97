"""comparisons.py: differences and p-values against independent code, and what is said of them in words."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from results import make_result

from evaluation import comparisons, tables
from evaluation.result import Result
from metrics import differences, estimation, measures


@cache
def films(n: int = 120) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, and patients of whom every third has two films of one class."""
    labels = np.arange(n) // 6 % 2
    return labels, tuple(f"patient {i - (i % 3 == 1)}" for i in range(n))


def answers(seed: int, skill: float = 2.0, n: int = 120, own: float = 0.6, labels=None) -> np.ndarray:
    """Probabilities of a made-up network: what all see in a film, and what this one sees in it."""
    labels = films(n)[0] if labels is None else labels
    film = np.random.default_rng(99).normal(0, 1, n)
    margin = skill * (labels - 0.5) + film + np.random.default_rng(seed).normal(0, own, n)
    return 1 / (1 + np.exp(-margin))


def result(name: str, probabilities: np.ndarray, architecture: str = "", threshold: float = 0.45, **more) -> Result:
    """What evaluate.py says of a model, as far as comparisons are concerned."""
    labels, patients = films(len(probabilities))
    labels, patients = more.pop("labels", labels), list(more.pop("patients", patients))
    sample = estimation.Sample(labels, patients, 50)
    points = {"0.5": {"threshold": 0.5}, "validation": {"threshold": threshold}}
    estimates, at = estimation.describe(sample, probabilities, points)
    return replace(
        make_result(name, architecture=architecture or name.split("-s")[0]),
        seed=int(name.rsplit("-s")[-1]) if "-s" in name else 0, data={"fingerprint": "abc", "synthetic": False},
        split={"how": "patient", "seed": 0, "fingerprint": "def"}, files=[f"{i}.png" for i in range(len(labels))],
        labels=labels, patient_ids=patients, images=len(labels), patients=len(set(patients)),
        probabilities=probabilities, estimates=estimates, points=at, **more,
    )  # fmt: skip


def asked(*results: Result) -> dict:
    (pair,), _ = comparisons.answer(list(results))
    return {measure["measure"]: measure for measure in pair["measures"]} | {"pair": pair}


def decisions(model: Result, point: str) -> np.ndarray:
    return (model.probabilities >= model.points[point]["threshold"]).astype(int)


# ------------------------------------------------------------------------------ two models, one of each


@pytest.fixture(scope="module")
def two() -> tuple[Result, Result]:
    return result("simple", answers(1, 1.2)), result("resnet34", answers(2, 2.6), threshold=0.6)


def placements(labels: np.ndarray, scores: np.ndarray) -> tuple[dict, dict, float]:
    """Of each positive: the share of negatives that it beats; of each negative: of positives that beat it; the area."""

    def won(i, j):
        return 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0

    ill, well = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    positives = {i: sum(won(i, j) for j in well) / len(well) for i in ill}
    negatives = {j: sum(won(i, j) for i in ill) / len(ill) for j in well}
    return positives, negatives, sum(positives.values()) / len(ill)


def test_delong_by_counting_pairs(two):
    """Obuchowski 1997, for patients with images of one class: the variance of the paired difference, image by image."""
    simple, resnet = two
    labels, patients = films()
    found = asked(simple, resnet)["AUROC"]
    first, second = (placements(labels, model.probabilities) for model in two)
    difference = second[2] - first[2]
    variance = 0.0
    for side in (0, 1):
        whose = sorted({patients[i] for i in first[side]})
        sums = [
            sum((second[side][i] - second[2]) - (first[side][i] - first[2]) for i in first[side] if patients[i] == name)
            for name in whose
        ]
        variance += len(whose) / (len(whose) - 1) * sum(s * s for s in sums) / len(first[side]) ** 2
    error = math.sqrt(variance)
    own = len(set(patients))
    t = scipy.stats.t.isf(0.025, own)
    expected = (difference, difference - t * error, difference + t * error)
    mine = found["difference"]
    assert (mine["value"], mine["low"], mine["high"]) == pytest.approx(expected, rel=1e-6)
    assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(difference / error), own), rel=1e-6)
    least = scipy.stats.t.isf(0.025 / 7, own) + scipy.stats.t.isf(0.2, own)  # of seven tests, corrected by Holm
    assert least * error < found["detectable"] < 2 * least * error
    assert difference > 0  # second minus first: the better one is the second
    assert found["method"] == "DeLong by patient; one run each"


@pytest.mark.parametrize(("name", "point"), [("0.5", "0.5"), ("from validation", "validation")])
def test_accuracy_is_compared_by_patient(two, name, point):
    """Durkalski et al. 2003, patient by patient; interval and p by the same standard error."""
    found = asked(*two)[f"accuracy, threshold {name}"]
    right = [decisions(model, point) == films()[0] for model in two]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert (found["only_from_right"], found["only_to_right"]) == (only_a, only_b)
    won = [sum(int(right[1][i]) - int(right[0][i]) for i in range(120) if films()[1][i] == one)
           for one in set(films()[1])]  # fmt: skip
    error, differ = math.sqrt(sum(d * d for d in won)), sum(d != 0 for d in won)
    assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(sum(won)) / error, differ))
    half = scipy.stats.t.isf(0.025, differ) * error / 120
    difference = (only_b - only_a) / 120
    ends = found["difference"]
    assert (ends["value"], ends["low"], ends["high"]) == pytest.approx(
        (difference, difference - half, difference + half)
    )
    assert found["method"] == "by patient; one run each"


def test_every_difference_is_second_minus_first(two):
    found, labels = asked(*two), films()[0]
    for measure, at in (("sensitivity", 1), ("specificity", 0)):
        rates = [sklearn.metrics.recall_score(labels, decisions(model, "validation"), pos_label=at) for model in two]
        difference = found[f"{measure}, threshold from validation"]["difference"]
        assert difference["value"] == pytest.approx(rates[1] - rates[0])
    for name, metric in (("log loss", sklearn.metrics.log_loss), ("brier", sklearn.metrics.brier_score_loss)):
        values = [metric(labels, model.probabilities) for model in two]
        assert found[name]["difference"]["value"] == pytest.approx(values[1] - values[0])
        assert values[1] < values[0] and found[name]["difference"]["high"] < 0
    # Asked the other way round, every sign turns and every p stays.
    back = asked(replace(two[1], architecture="simple"), replace(two[0], architecture="resnet34"))
    assert (back["pair"]["from"], back["pair"]["to"]) == ("resnet34", "simple")
    for key in set(found) - {"pair"}:
        assert back[key]["difference"]["value"] == pytest.approx(-found[key]["difference"]["value"])
        assert back[key]["p"] == pytest.approx(found[key]["p"])


def test_holm_over_everything_that_was_asked(two):
    """Sorted p times (m - rank), never below the one before, never above 1; over both questions together."""
    pairs, notes = comparisons.answer([*two, result("resnet34-pretrained", answers(3, 2.7), "resnet34-pretrained")])
    assert [pair["question"] for pair in pairs] == ["Does depth help?", "Does pretraining help?"] and notes == []
    measures = [measure for pair in pairs for measure in pair["measures"]]
    assert len(measures) == 14
    reached = 0.0
    for rank, measure in enumerate(sorted(measures, key=lambda measure: measure["p"])):
        reached = max(reached, measure["p"] * (14 - rank))
        assert measure["p_holm"] == pytest.approx(min(reached, 1.0))
        assert measure["p_holm"] >= measure["p"]


def test_interval_and_p_of_a_row_agree(two):
    for k in range(20):
        models = [two[0], result("resnet34", answers(k, 1.2 + 0.1 * k))]
        for name, found in asked(*models).items():
            if name != "pair":
                ends = found["difference"]
                assert (not ends["low"] <= 0 <= ends["high"]) == (found["p"] < 0.05)


@pytest.mark.parametrize("worse", [0.0, 0.45])
def test_a_true_difference_that_is_detectable_is_found_in_4_of_5_sets(worse):
    """Another model is worse by what is said to be detectable, in the mean of 100 sets: evidence in 80 % or more."""
    random, seen, least, true = np.random.default_rng(3), [], [], []
    labels = (np.arange(600) // 2 % 3 > 0).astype(int)
    points = {point: {"threshold": 0.5} for point in comparisons.POINTS}
    simple = replace(make_result("simple"), labels=labels, patient_ids=[str(i // 2) for i in range(600)],
                     points=points, files=[], split={})  # fmt: skip
    for _ in range(100):
        film, sides = random.normal(size=300).repeat(2), 2 * labels - 1
        margins = [skill * sides + film + random.normal(size=600) for skill in (2.1, 2.1 - 1.3 * worse)]
        a, b = (replace(simple, name=name, architecture=name, probabilities=1 / (1 + np.exp(-margin)))
                for name, margin in zip(("simple", "resnet34"), margins, strict=True))  # fmt: skip
        row = asked(a, b)["accuracy, threshold from validation"]
        seen.append(row["p_holm"] < 0.05)
        least.append(row["detectable"])
        true.append(-row["difference"]["value"])
    if worse:
        assert np.mean(true) <= np.mean(least) and np.mean(seen) >= 0.8, (np.mean(true), np.mean(least), np.mean(seen))
    else:
        assert np.mean(seen) <= 0.03


# ------------------------------------------------------------------------------------- what cannot be asked


def test_what_cannot_be_asked_is_said(two):
    simple, resnet = two
    missing = "it takes a run of resnet34 and one of resnet34-pretrained"
    assert comparisons.answer([simple, resnet])[1] == [f"Does pretraining help? cannot be answered: {missing}"]
    for change in ({"files": ["other.png", *resnet.files[1:]]}, {"split": {**resnet.split, "seed": 1}},
                   {"data": {"fingerprint": "of other images with the same names"}}):  # fmt: skip
        pairs, notes = comparisons.answer([simple, replace(resnet, **change)])
        assert pairs == []
        assert "Does depth help? cannot be answered: simple and resnet34 were tested on different images" in notes
    assert comparisons.answer([resnet, replace(resnet, name="pretrained", architecture="resnet34-pretrained")])[1] == [
        "Does depth help? cannot be answered: it takes a run of simple and one of resnet34"
    ]
    graphs = [replace(model, kind="graph") for model in two]
    assert comparisons.answer(graphs)[0] == []  # a graph is its checkpoint again


def test_nobody_is_told_of_questions_that_were_not_asked(two):
    simple, resnet = two
    seeds = [replace(simple, name=f"simple-s{seed}", seed=seed) for seed in (0, 1)]
    graph = replace(resnet, name="resnet34.onnx", kind="graph")
    for alone in ([], [simple], [resnet], seeds, [simple, graph]):
        assert comparisons.answer(alone) == ([], [])


def test_a_pair_has_the_marks_of_its_own_models(two):
    simple, resnet = two
    drawn = replace(simple, name="drawn", trained_on_synthetic=True)
    pairs, _ = comparisons.answer([simple, drawn, resnet])
    assert [(pair["from"], pair["mark"]) for pair in pairs] == [("simple", ""), ("drawn", "SYNTHETIC: ")]
    made = tables.tables([make_result(), make_result("drawn", synthetic=True)], pairs[:1], [])
    assert [table.title for table in made if "questions" in table.title] == ["The questions"]
    table = tables.questions(pairs)
    assert table.title == "SYNTHETIC: The questions"
    assert [row[0].startswith("SYNTHETIC: ") for row in table.rows] == [row[1][:5] == "drawn" for row in table.rows]


def test_the_same_answers_twice_are_no_difference(two):
    simple, _ = two
    found = asked(simple, replace(simple, name="copy", architecture="resnet34"))
    pair = found.pop("pair")
    for measure in found.values():
        assert measure["difference"]["value"] == 0 and measure["p"] == measure["p_holm"] == 1
        assert math.isnan(measure["difference"]["low"])  # 0 to 0 would claim to know
    assert pair["sentence"].count("no evidence of a difference; no patient tells the models apart") == 2


def test_one_patient_is_no_evidence():
    """However many films there are of one person, and however much the models differ."""
    alone = {"patients": ["the same"] * 120}
    models = [result("simple", answers(1, 0.0), **alone), result("resnet34", answers(2, 6.0), **alone)]
    found = asked(*models)
    assert found.pop("pair")["sentence"] == ("AUROC: these images cannot tell; accuracy: these images cannot tell")
    for measure in found.values():
        assert math.isnan(measure["p"]) and math.isnan(measure["p_holm"]) and math.isnan(measure["difference"]["low"])
    areas = [sklearn.metrics.roc_auc_score(model.labels, model.probabilities) for model in models]
    assert found["AUROC"]["difference"]["value"] == pytest.approx(areas[1] - areas[0])
    right = [(decisions(model, "0.5") == model.labels).mean() for model in models]
    assert found["accuracy, threshold 0.5"]["difference"]["value"] == pytest.approx(right[1] - right[0])


def test_one_class_only_compares_what_it_can():
    labels = np.zeros(120, int)
    models = [result("simple", answers(1, labels=labels), labels=labels),
              result("resnet34", answers(2, labels=labels), labels=labels)]  # fmt: skip
    found = asked(*models)
    for name in ("AUROC", "sensitivity, threshold from validation"):
        assert math.isnan(found[name]["difference"]["value"]) and math.isnan(found[name]["p"])
    assert 0 < found["specificity, threshold from validation"]["p"] <= 1
    assert found["pair"]["sentence"].startswith("AUROC: these images cannot")


def test_a_class_of_one_patient_cannot_tell():
    labels = np.array([1] + [0] * 40)
    more = {"labels": labels, "patients": [str(i) for i in range(41)]}
    first = result("simple", np.linspace(0.1, 0.9, 41), **more)
    second = result("resnet34", np.linspace(0.9, 0.1, 41), **more)
    found = asked(first, second)["sensitivity, threshold from validation"]
    assert found["difference"]["value"] == 1 and math.isnan(found["p"]) and math.isnan(found["detectable"])


# -------------------------------------------------------------------------------------------- the sentence


SINGLE = "by patient; the single run's seed is not in it"


def measure(name: str, value: float, p: float, detectable: float = math.nan, method: str = "by patient") -> dict:
    return {"measure": name, "difference": estimation.estimate(value), "p": p / 10, "p_holm": p,
            "detectable": detectable, "standard_error": 0.01, "method": method}  # fmt: skip


@pytest.mark.parametrize(
    ("auroc", "accuracy", "said"),
    [
        ((0.0123, 0.003), (0.021, 0.049, 0.02),
         "AUROC +0.0123, evidence of a difference (p = 0.003 after Holm); "
         "accuracy +2.1 points, evidence of a difference (p = 0.049 after Holm)"),
        ((-0.01, 0.05, 0.0151), (-0.0149, 0.6, 0.032),
         "AUROC -0.0100, no evidence of a difference; a true difference of 0.0151 would have been found in at least "
         "4 of 5 such test sets; "
         "accuracy -1.5 points, no evidence of a difference; a true difference of 3.2 points would have been found in "
         "at least 4 of 5 such test sets"),
        ((0.02, 0.4), (0.0, 1.0),
         "AUROC +0.0200, no evidence of a difference; too few patients to have found any; "
         "accuracy +0.0 points, no evidence of a difference; too few patients to have found any"),
        ((0.02, math.nan, math.nan, SINGLE), (0.01, math.nan, math.nan, SINGLE),
         "AUROC +0.0200, not tested: the single run's seed is not in it; "
         "accuracy +1.0 points, not tested: the single run's seed is not in it"),
        ((math.nan, math.nan), (0.3, math.nan), "AUROC: these images cannot tell; accuracy: these images cannot tell"),
    ],
)  # fmt: skip
def test_the_sentence_in_each_of_its_branches(auroc, accuracy, said):
    measures = [measure("AUROC", *auroc), measure("accuracy, threshold 0.5", 9, 0.001),
                measure("accuracy, threshold from validation", *accuracy), measure("log loss", 9, 0.001)]  # fmt: skip
    pair = {"question": "Does depth help?", "from": "simple", "to": "resnet34 (3 seeds)", "measures": measures}
    assert comparisons.sentence(pair) == said


# --------------------------------------------------------------------------------------------- several seeds


@pytest.fixture(scope="module")
def seeds() -> list[Result]:
    simple = [result(f"simple-s{i}", answers(10 + i, 1.5)) for i in range(3)]
    return simple + [result(f"resnet34-s{i}", answers(20 + i, 1.7)) for i in range(2)]


def test_means_and_deviations_over_seeds_by_hand(seeds):
    groups = comparisons.seed_groups([*seeds, result("resnet34-pretrained", answers(5), "resnet34-pretrained")])
    assert [(group["name"], group["members"]) for group in groups] == [
        ("simple", ["simple-s0", "simple-s1", "simple-s2"]), ("resnet34", ["resnet34-s0", "resnet34-s1"])]  # fmt: skip
    for group, members in zip(groups, (seeds[:3], seeds[3:]), strict=True):
        areas = [sklearn.metrics.roc_auc_score(films()[0], member.probabilities) for member in members]
        found = group["estimates"]["", "auroc"]
        assert (found["mean"], found["sd"]) == pytest.approx((np.mean(areas), np.std(areas, ddof=1)))
        right = [(decisions(member, "validation") == films()[0]).mean() for member in members]
        found = group["estimates"]["validation", "accuracy"]
        assert (found["mean"], found["sd"]) == pytest.approx((np.mean(right), np.std(right, ddof=1)))
        assert set(group["estimates"]) == {("", key) for key in members[0].estimates} | {
            (point, key) for point in ("0.5", "validation") for key in members[0].points[point]["estimates"]
        }


def test_what_are_no_seeds_of_one_run_is_not_averaged(seeds):
    def names(*results: Result) -> list[str]:
        return [name for name, _ in comparisons.groups_of(list(results))]

    a, b, *_ = seeds
    assert names(a, b) == ["simple"]
    assert names(a) == ["simple-s0"]  # alone it is itself
    assert names(a, a) == ["simple-s0", "simple-s0"]  # named twice on the command line
    assert names(a, replace(b, seed=0)) == ["simple-s0", "simple-s1"]
    assert names(a, replace(b, architecture="resnet34")) == ["simple-s0", "simple-s1"]
    assert names(a, replace(b, quick=True)) == ["simple-s0", "simple-s1"]
    assert names(replace(a, name="simple"), replace(b, name="simple")) == ["simple", "simple"]  # from two folders
    assert names(a, replace(b, kind="graph")) == ["simple-s0"]
    other = replace(b, files=["other.png", *b.files[1:]])
    assert comparisons.seed_groups([a, other]) == [] and comparisons.ensembles([a, other]) == []


def test_an_older_seed_with_fewer_operating_points_is_averaged_where_it_can_be(seeds):
    a, b, *_ = seeds
    more = replace(a, points={**a.points, "sensitivity 95 %": a.points["0.5"]})
    for pair in ([more, b], [b, more]):
        (group,) = comparisons.seed_groups(pair)
        assert {point for point, _ in group["estimates"]} == {"", "0.5", "validation"}


def test_groups_of_seeds_are_compared_by_their_means(seeds):
    found, labels = asked(*seeds), films()[0]
    assert (found["pair"]["from"], found["pair"]["to"]) == ("simple (3 seeds)", "resnet34 (2 seeds)")

    def means(metric) -> float:
        values = [metric(member) for member in seeds]
        return np.mean(values[3:]) - np.mean(values[:3])

    area = means(lambda member: sklearn.metrics.roc_auc_score(labels, member.probabilities))
    assert found["AUROC"]["difference"]["value"] == pytest.approx(area)
    right = means(lambda member: (decisions(member, "validation") == labels).mean())
    assert found["accuracy, threshold from validation"]["difference"]["value"] == pytest.approx(right)
    loss = means(lambda member: sklearn.metrics.log_loss(labels, member.probabilities))
    assert found["log loss"]["difference"]["value"] == pytest.approx(loss)
    assert {measure["method"] for name, measure in found.items() if name != "pair"} == {
        "DeLong by patient and seed", "by patient and seed"}  # fmt: skip


def test_the_seeds_are_in_the_standard_error(seeds):
    found, labels = asked(*seeds)["AUROC"], films()[0]
    areas = [sklearn.metrics.roc_auc_score(labels, member.probabilities) for member in seeds]
    spread = np.var(areas[:3], ddof=1) / 3 + np.var(areas[3:], ddof=1) / 2
    assert found["standard_error"] ** 2 > spread and found["degrees_of_freedom"] <= 3


def test_one_run_against_several_is_not_tested(seeds):
    """And is no part of Holm's correction."""
    found = asked(*seeds[:1], *seeds[3:])
    pair = found.pop("pair")
    assert (pair["from"], pair["to"]) == ("simple-s0", "resnet34 (2 seeds)") and "evidence" not in pair["sentence"]
    assert pair["sentence"].count("not tested: the single run's seed is not in it") == 2
    for measure in found.values():
        assert measure["method"].endswith("by patient; the single run's seed is not in it")
        assert all(math.isnan(measure[key]) for key in ("p", "p_holm", "detectable"))
        assert measure["difference"]["low"] < measure["difference"]["value"] < measure["difference"]["high"]
    others = [result("resnet34-pretrained-s0", answers(3, 2.7), "resnet34-pretrained"),
              result("resnet34-pretrained-s1", answers(4, 2.7), "resnet34-pretrained")]  # fmt: skip
    pairs, _ = comparisons.answer([*seeds[:1], *seeds[3:], *others])
    p = [measure["p"] for measure in pairs[1]["measures"]]
    assert [measure["p_holm"] for measure in pairs[1]["measures"]] == pytest.approx(differences.holm(p))


def test_ensembles_are_named_after_their_seeds(seeds):
    (first, three), (second, _) = comparisons.ensembles(seeds)
    assert (first, second) == ("simple (ensemble of 3)", "resnet34 (ensemble of 2)")
    assert [member.name for member in three] == ["simple-s0", "simple-s1", "simple-s2"]
    assert measures.auroc(films()[0], np.mean([member.probabilities for member in three], 0)) > 0.8


def test_smoke_runs_answer_no_question_beside_others(seeds):
    full = [replace(result, quick=False) for result in seeds]
    smoke = [replace(result, quick=True, name=f"quick-{result.name}") for result in seeds]
    alone = comparisons.answer(full)
    assert alone[0] and [pair["sentence"] for pair in comparisons.answer([*full, *smoke])[0]] == [
        pair["sentence"] for pair in alone[0]
    ]
    assert comparisons.answer(smoke) == ([], ["smoke runs answer no question"])
    assert comparisons.answer(smoke[:1]) == ([], [])  # and nothing was asked of one
    simple = [result for result in full if result.architecture == "simple"]
    found, notes = comparisons.answer([*simple, *smoke])
    assert not found and any("smoke runs do not count" in note for note in notes)
