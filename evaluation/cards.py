"""A model's card: what it is, what it was trained and tested on, how well it did, and what it is not for."""

import math
import shlex

from basics.problems import printable
from evaluation import marks, tables
from evaluation.markup import DASH, github, github_table, number, with_interval
from evaluation.result import Result
from films import sources

SAME_FILMS = (sources.KERMANY, "PneumoniaMNIST")
CITATION = "Kermany et al., Cell 172 (2018), 1122-1131, Mendeley Data rscbjbr9sj, version 2"
KERMANY_LIMITS = (
    "Kermany's films are of children aged 1 to 5 from one hospital.",
    "A network that reached AUROC 0.95 on this data's own test set reached 0.54 on paediatric films from elsewhere "
    "(Xin, Li, Yi, Emergency Radiology 2021).",
    "Labels are those that the data came with; nobody read the films again for this project.",
)
RANKING = (
    ("AUROC", "auroc", 4),
    ("average precision", "average_precision", 4),
    ("log loss (nats)", "log_loss", 4),
    ("Brier score", "brier", 4),
    ("expected calibration error", "calibration_error", 4),
    ("calibration slope (1 is ideal)", "calibration_slope", 3),
    ("calibration intercept (0 is ideal)", "calibration_intercept", 3),
)
DECISIONS = (
    ("accuracy", "accuracy"),
    ("balanced accuracy", "balanced_accuracy"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("precision (PPV)", "precision"),
    ("NPV", "npv"),
    ("F1", "f1"),
    ("Matthews' correlation", "mcc"),
)


def model_card(result: Result) -> str:
    """The card of one result of evaluate.py, as GitHub's markdown. Nothing is in it that the result does not say."""
    parts = [
        f"# {marks.before([result])}Model card: {github(result.name)}\n",
        *(f"**{mark}**\n" for mark in marks.of(result)),
        opening(result),
        *(f"**{github(note)}**\n" for note in warnings(result)),
        *identity(result),
        *training_data(result),
        *recipe(result),
        *performance(result),
        *promises(result),
        *referrals(result),
        *prevalence(result),
        *groups(result),
        *shortcut_audit(result),
        *uses(result),
        *notes(result),
        *how_to(result),
    ]
    return "\n".join(parts)


def warnings(result: Result) -> list[str]:
    return ["From a smoke run (--quick): its numbers mean nothing."] if result.quick else []


def opening(result: Result) -> str:
    what = {
        "checkpoint": f"A network of the architecture {github(result.architecture)}",
        "graph": f"An ONNX graph of a network of the architecture {github(result.architecture)}",
        "ensemble": "Several networks whose answers are averaged",
    }[result.kind]
    if result.kind == "graph" and "members" in result.checkpoint:
        what = "An ONNX graph of several networks whose answers are averaged"
    return (
        f"{what}. It gives the probability that a chest X-ray shows pneumonia, as against normal. "
        "It is not a medical device.\n"
    )


def facts(rows: list[tuple[str, object]]) -> str:
    """A table of what is known; what is not, is left out."""
    return github_table(["fact", "value"], [[what, plain(value)] for what, value in rows if value not in (None, "")])


def plain(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


# ------------------------------------------------------------------------------------- the model and its training


def identity(result: Result) -> list[str]:
    known = result.checkpoint
    side = known.get("size")
    mean, deviation = known.get("normalisation", (None, None))
    at, members = result.decision["threshold"], known.get("members", [])
    return [
        "## The model\n",
        facts([
            ("file", result.file),
            ("SHA-256 of the file", result.sha256),
            ("SHA-256 of the weights", known.get("weights_sha256")),
            ("architecture", result.architecture),
            ("networks whose probabilities are averaged", ", ".join(one["name"] for one in members) or None),
            ("parameters", (result.training or {}).get("parameters")),
            ("input", f"one channel, {side} x {side} pixels" if side else None),
            ("how films are made square", known.get("fit")),
            ("mean and deviation taken off the pixels", None if mean is None else [mean, deviation]),
            ("temperature of the probabilities", float(result.temperature)),
            ("decision", f"pneumonia where the probability is at least {number(at, 4)}"),
            ("where that threshold is from", known.get("threshold_rule")),
        ]),
    ]  # fmt: skip


def training_data(result: Result) -> list[str]:
    """What it was trained and tested on; the licence only where the data's name says whose it is."""
    known, tested = result.checkpoint, result.data
    seen, split = known.get("data", {}), known.get("split", {})
    images = split.get("images", {})
    skipped = len(seen.get("skipped", []))
    mine = any(is_kermany(name, sources.KERMANY) for name in (seen.get("name", ""), tested["name"]))
    return [
        "## Data\n",
        facts([
            ("trained on", seen.get("name")),
            ("its fingerprint", seen.get("fingerprint")),
            ("files in it that could not be read", skipped or None),
            ("images for training", images.get("train")),
            ("images for validation (epoch, temperature, threshold)", images.get("validation")),
            ("its split", None if not split else
             f"by {split.get('how')}, seed {split.get('seed')}, fingerprint {split.get('fingerprint')}"),
            ("tested on", tested["name"]),
            ("the test data's fingerprint", tested["fingerprint"]),
            ("the test data's split", f"by {result.split['how']}, seed {result.split['seed']}, "
                                      f"fingerprint {result.split['fingerprint']}"),
            ("test images", result.images),
            ("patients in them", result.patients),
            ("images with pneumonia", result.positives),
            ("source", CITATION if mine else None),
            ("licence of the data", "CC BY 4.0: cite the source" if mine else None),
        ]),
    ]  # fmt: skip


def is_kermany(name: str, known: str | tuple[str, ...] = SAME_FILMS) -> bool:
    return name.startswith(known)


def recipe(result: Result) -> list[str]:
    known, training = result.checkpoint, result.training
    if not known and not training:
        return ["## Training\n", f"Initial weights: {github(result.initial_weights)}.\n"]
    training = training or {}
    settings = dict(known.get("recipe", {}))
    name = settings.pop("name", None)
    return [
        "## Training\n",
        facts([
            ("recipe", name),
            *((key.replace("_", " "), value) for key, value in settings.items()),
            ("initial weights", result.initial_weights),
            ("seed", None if result.seed is None else str(result.seed)),
            ("epochs run", training.get("epochs")),
            ("epoch that was kept", training.get("best_epoch")),
            ("validation AUROC of that epoch", number(training.get("val_auroc"), 4)),
            ("minutes", number(training.get("minutes"), 1)),
            ("device", known.get("device") or training.get("device")),
            ("processes", known.get("processes")),
        ]),
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- numbers


def performance(result: Result) -> list[str]:
    """Every metric with its interval: those of the probabilities, then those at each threshold, side by side."""
    points, estimates = result.points, result.estimates
    counts = [[key.upper(), *(f"{point[key]:,}" for point in points.values())] for key in ("tn", "fp", "fn", "tp")]
    rows = [
        ["threshold", *(number(point["threshold"], 4) for point in points.values())],
        *([name, *(with_interval(point["estimates"][key]) for point in points.values())] for name, key in DECISIONS),
        *counts,
    ]
    mark = marks.before([result])
    return [
        f"## {mark}Results on the test images\n",
        f"{result.images:,} images of {result.patients:,} patients, pneumonia on "
        f"{result.positives:,} of the images. In brackets: 95 % intervals.\n",
        github_table(
            ["measure", "value"], [[name, with_interval(estimates[key], digits)] for name, key, digits in RANKING]
        ),
        "Decisions, by where the threshold is from:\n",
        github_table(["measure", *map(result.named, points)], rows),
        "TN, FP, FN, TP: true negatives (normal, called normal), false positives, false negatives, true positives.\n",
    ]


def promises(result: Result) -> list[str]:
    """What validation made one expect, beside what the test images gave."""
    rows, sizes = [], []
    for name, point in result.points.items():
        if not (promised := point["promised"]):
            continue
        size = f"{promised['images']:,} validation images of {promised['patients']:,} patients"
        sizes += [size] if size not in sizes else []
        rows += [
            [name, key, with_interval(promised[key]), with_interval(point["estimates"][key]),
             with_interval((point["gap"] or {}).get(key), sign=True)]
            for key in ("accuracy", "sensitivity", "specificity")
        ]  # fmt: skip
    if not rows:
        return []
    return [
        "## Promised and delivered\n",
        f"What {' or '.join(sizes)} promised, and what the test images gave.\n",
        github_table(["threshold from", "measure", "promised", "delivered", "delivered minus promised"], rows),
    ]


def referrals(result: Result) -> list[str]:
    """What it promised of the classes that it leaves out, and which films it left to a reader."""
    table, told = tables.referrals([result]), result.referral
    if told is None:
        return []
    return [
        "## Referral: promised and delivered\n",
        f"Pneumonia is possible where the probability is at least {told['lowest_pneumonia']:.6g}, normal where it is "
        f"at most {told['highest_normal']:.6g}; by {told['patients'][1]:,} and {told['patients'][0]:,} validation "
        "patients.\n",
        github_table(table.headers[1:], [row[1:] for row in table.rows]),
        *(f"{github(note)}\n" for note in table.notes),
    ]


def prevalence(result: Result) -> list[str]:
    rows = [
        [result.named(name), f"{100 * at['prevalence']:.4g} %", number(at["ppv"]), number(at["npv"]),
         missed(at["films_per_missed"])]
        for name, point in result.points.items() if (at := point["at_prevalence"])
    ]  # fmt: skip
    if not rows:
        return []
    return [
        "## Where fewer or more films show pneumonia\n",
        f"{share(result)} of the test images do. With the sensitivity and the specificity from above:\n",
        github_table(["threshold from", "prevalence", "PPV", "NPV", "films read for one missed"], rows),
    ]


def share(result: Result) -> str:
    return f"{number(100 * result.positives / result.images, 1)} %" if result.images else DASH


def missed(films: float) -> str:
    return "none missed" if films is not None and math.isinf(films) else number(films, 0)


def groups(result: Result) -> list[str]:
    if not result.subgroups:
        return []
    rows = [
        [g["group"], g["measure"], f"{g['images']:,}", f"{g['patients']:,}", with_interval(g)] for g in result.subgroups
    ]
    return [
        "## Groups of test images\n",
        f"At the threshold {number(result.decision['threshold'], 4)}, {github(result.named(result.decides))}.\n",
        github_table(["group", "measure", "images", "patients", "value"], rows),
    ]


def shortcut_audit(result: Result) -> list[str]:
    if not result.shortcut_audit:
        return []
    rows = [[c["change"], c["strength"], number(c["auroc"], 4), number(c["accuracy"])] for c in result.shortcut_audit]
    return [
        "## Shortcut audit: changed test images\n",
        github_table(["change", "strength", "AUROC", "accuracy"], rows),
    ]


# ---------------------------------------------------------------------------------------------------------- words


def uses(result: Result) -> list[str]:
    return [
        "## Intended use\n",
        "Research on image classification, teaching, and as a baseline to compare other models with.\n",
        "## Not for\n",
        "- Diagnosis, triage, screening, or any other decision about a patient.\n"
        "- Other findings than pneumonia: a film with one is called normal or pneumonia all the same.\n"
        "- Films of another kind than those it was trained on: other ages, hospitals, machines or projections.\n",
        "## Limits\n",
        "".join(f"- {line}\n" for line in limits(result)),
        "## Ethics\n",
        "A film that is called normal wrongly may leave an ill child untreated where somebody acts on it; one that is "
        "called pneumonia wrongly may mean antibiotics for nothing. How errors fall on groups of people "
        "is unknown but for the groups above. Films are personal data: keep yours where your rules say.\n"
        if films(result)
        else "How errors fall on groups of people is unknown but for the groups above, where there are any. Films are "
        "personal data: keep yours where your rules say.\n",
    ]


def films(result: Result) -> str:
    """What was done on Kermany's films, by the data's name: "trained and tested", one of these, or nothing."""
    trained = result.checkpoint.get("data", {}).get("name", "")
    done = {"trained": is_kermany(trained), "tested": is_kermany(result.data["name"])}
    return " and ".join(what for what, so in done.items() if so)


def limits(result: Result) -> list[str]:
    """What these numbers cannot say, as far as it is known of this data, split and run."""
    lines = marks.of(result)
    if done := films(result):
        lines += [f"It was {done} on Kermany's films.", *KERMANY_LIMITS]
    lines.append(f"{share(result)} of the test images show pneumonia. Where fewer do, fewer of its alarms are right.")
    if result.split["how"] == "image":
        lines.append("The split is by image: a patient may be in training and in the test, which flatters the results.")
    if result.split["how"] == "patient":
        lines.append("Test and training images are of one collection, divided at random: others will be less alike.")
    if result.seed is not None:
        lines.append(f"One run, with seed {result.seed}: the intervals do not hold what another seed would change.")
    return lines


def notes(result: Result) -> list[str]:
    if not result.notes:
        return []
    return ["## Notes\n", "".join(f"- {github(note)}\n" for note in result.notes)]


def how_to(result: Result) -> list[str]:
    """Versions, and commands to check the file; indented, as code that no text in a name can end."""
    versions = result.checkpoint.get("versions", {})
    file = shlex.quote(printable(result.file))
    parts = ["## Versions\n", facts(list(versions.items()))] if versions else []
    if result.kind == "ensemble":
        files = " ".join(shlex.quote(printable(file)) for file in result.file.split(", "))
        return [*parts, "## As one graph\n", f"    python export.py {files} --ensemble\n"]
    parts += [
        "## Checking and using it\n",
        f"    sha256sum {file}    # {result.sha256}\n    python evaluate.py {file}",
    ]
    parts[-1] += f"\n    python export.py {file}\n" if result.kind == "checkpoint" else "\n"
    names = " or ".join(name.lower() for name in sources.CLASSES)
    return [*parts, f"The answer is a probability of pneumonia; with the threshold above, a decision: {names}.\n"]
