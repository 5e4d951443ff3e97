"""What a graph's answers are worth beside PyTorch's: scores, what int8 may cost, tables, and the verdict."""

import numpy as np
from tabulate import tabulate

from basics.problems import Problem
from graphs import unusual
from metrics import measures

SIDES = ("validation", "test")
ODD = ("1 x 1", "31 x 997", "3000 x 2500", "noise", "black", "white")  # images that no X-ray looks like
NAMES = {"auroc": "AUROC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity",
         "brier": "Brier", "log_loss": "log loss"}  # fmt: skip
# int8 has 256 levels a value: single probabilities move, and what counts is what moves with them. AUROC and accuracy
# see order and decisions alone. Brier score and log loss see the probabilities: each may move by a tenth of what our
# networks have on test films (.05 and .17, measured), and the mean by two points. One film may move by what takes it
# from sure (.8) to undecided: .24 is the most that we have seen, with resnet34-pretrained.
# `doubts` is the share of films that may have other flags or possible classes.
INT8 = {"auroc": 0.002, "accuracy": 0.005, "brier": 0.005, "log_loss": 0.02, "probability_mean": 0.02,
        "probability_max": 0.3, "doubts": 0.01}  # fmt: skip


def score(
    labels: np.ndarray, logits: np.ndarray, found: dict[str, np.ndarray], temperature: float, threshold: float,
    precision: str, others: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """Scores of PyTorch's answers and of the graph's, and what int8 is judged by.

    labels (N,); logits (N, 2) of PyTorch; found: the graph's outputs for the same images; others (N,): which of them
    have other flags or possible classes.
    """
    count = len(labels)
    if not np.isfinite(found["probability"]).all() or not np.isfinite(found["logits"]).all():
        return {"n": count, "judged": True, "passed": False}
    pairs = {}
    probabilities = measures.positive_probability(logits, temperature), found["probability"].astype(np.float64)
    for side, chances, its_logits in zip(("torch", "graph"), probabilities, (logits, found["logits"]), strict=True):
        values = measures.classification(labels, chances, threshold)
        values |= {"brier": measures.brier(labels, chances)}
        values |= {"log_loss": measures.log_loss(its_logits, labels, temperature)}
        pairs[side] = {name: values[name] for name in NAMES}
    shift = np.abs(probabilities[1] - probabilities[0])
    change = {name: abs(pairs["graph"][name] - pairs["torch"][name]) for name in INT8 if name in pairs["torch"]}
    change |= {"probability_mean": float(shift.mean()), "probability_max": float(shift.max())}
    if others is not None:
        change |= {"doubts": float(others.mean())}
    # AUROC is nan where a side holds one class only: then the others decide
    over = [name for name, limit in limits(count).items() if change.get(name, 0) > limit + 1e-9]
    judged = precision == "int8"
    return {"n": count, **pairs, "change": change, "over": over, "judged": judged, "passed": not (judged and over)}


def limits(count: int) -> dict[str, float]:
    """What may change with int8 on `count` images: one decision is 1/n of accuracy, and one is always allowed.

    Of flags and possible classes four are: three limits are where a validation film lies.
    """
    return INT8 | {"accuracy": max(INT8["accuracy"], 1 / count), "doubts": max(INT8["doubts"], 4 / count)}


def group_of(row: dict) -> str:
    """What a check is one of, where there are several of a kind."""
    name = row["images"].removesuffix(", new")
    if name.startswith("some"):  # of many sizes where the batch is no number
        return "other batches" if isinstance(row["batch"], str) else "small batches"
    if name in ODD:
        return "odd images"
    if name in unusual.LOOKS:
        return "other looks"
    return {"original size": "films at their own size"}.get(name, name if name in SIDES else "films of other shapes")


def in_short(checks: list[dict]) -> list[dict]:
    """A row for each provider and group, that of the check which came nearest to its limit; all that differ."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in checks:
        groups.setdefault((row["provider"], group_of(row)), []).append(row)
    rows = []
    for (_, group), some in groups.items():
        rows += [row for row in some if not row["passed"]]
        worst = max(some, key=lambda row: row["probability_max"] / (row["tolerance"] or 1))
        total = sum(row["n"] for row in some), [name for row in some for name in row["flipped"]]
        if all(row["passed"] for row in some):
            label = group if len(some) == 1 or group.endswith("batches") else f"{group}; worst: {worst['images']}"
            rows.append(worst | {"images": label, "n": total[0], "flipped": total[1]})
    return rows


def show(found: dict[str, list[dict]], batch: int, verbose: bool = False) -> None:
    """The tables of differences and of scores, PyTorch -> graph, and the files whose decision flipped.

    verbose: a row for every check, not only for each group of them and for those that differ.
    """
    headers = ["provider", "images", "n", "batch", "max |prob. diff.|", "mean", "max |logit diff.|, relative",
               "tolerance", "flipped", "verdict"]  # fmt: skip
    cells = [
        [row["provider"], row["images"], f"{row['n']:,}", row["batch"], f"{row['probability_max']:.1e}",
         f"{row['probability_mean']:.1e}", f"{row['logit_relative']:.1e}",
         "-" if row["tolerance"] is None else f"{row['tolerance']:.0e}", len(row["flipped"]), verdict(row)]
        for row in (found["checks"] if verbose else in_short(found["checks"]))
    ]  # fmt: skip
    print(tabulate(cells, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 7, "left")))
    cells = [
        [row["provider"], row["images"], f"{row['n']:,}",
         *(f"{row['torch'][name]:.4f} -> {row['graph'][name]:.4f}" for name in NAMES), verdict(row)]
        for row in found["scores"] if "torch" in row
    ]  # fmt: skip
    print()
    print(tabulate(cells, ["provider", "images", "n", *NAMES.values(), "verdict"], disable_numparse=True,
                   colalign=("left", "left", *["right"] * (len(NAMES) + 1), "left")))  # fmt: skip
    if any(row["judged"] for row in found["scores"]):
        print(f"int8 may change {bounds()}")
    far = [row["unfamiliar_max"] for row in found["checks"] if row.get("unfamiliar_max") is not None]
    if far:
        changed = max(row["change"].get("doubts", 0.0) for row in found["scores"] if "change" in row)
        print(f"unfamiliar differs by at most {max(far):.1e} of itself; flags or possible classes of {changed:.2%} of "
              "validation or test films")  # fmt: skip
    for row in found["checks"]:
        if row["flipped"] and row["batch"] == batch:
            print(f"flipped, {row['provider']}, {row['images']}: {', '.join(row['flipped'])}")


def verdict(row: dict) -> str:
    return "same" if row["passed"] else "DIFFERENT"


def bounds() -> str:
    """What int8 may change, in words."""
    names = NAMES | {"probability_mean": "|probability| on average", "probability_max": "that of one film",
                     "doubts": "flags or possible classes of a share of films"}  # fmt: skip
    more = {"accuracy": " or one image", "doubts": " or four"}
    return ", ".join(f"{names[name]} by {limit:g}{more.get(name, '')}"
                     for name, limit in INT8.items())  # fmt: skip


def judge(found: dict[str, list[dict]], seed: int) -> None:
    """Raises Problem that names the first check that failed, and the seed of what was drawn for it."""
    for row in found["checks"]:
        if not row["passed"] and "example" not in row:
            raise Problem(differing(row))
    for row in found["scores"]:
        if not row["passed"]:
            raise Problem(
                f"the graph scores differently from PyTorch on {row['provider']}, {row['images']}: "
                f"{described(row)}; int8 may change {bounds()}"
            )
    for row in found["checks"]:
        if not row["passed"]:
            raise Problem(differing(row) + (f" ({row['example']}; seed {seed})" if row["example"] else ""))


def differing(row: dict) -> str:
    files = f", decisions flipped on {', '.join(row['flipped'][:3])}" if row["flipped"] else ""
    levels = f", pixels off by {row['grey_levels']:.0f} grey levels" if row.get("grey_levels", 0) > 1 else ""
    allowed = "" if row["tolerance"] is None else f", allowed {row['tolerance']:.0e}"
    whose = row.get("against", "PyTorch's")
    return (
        f"the graph's answers differ from {whose} on {row['provider']}, {row['images']}, batches "
        f"of {row['batch']}: probability by {row['probability_max']:.1e}, logits by {row['logit_relative']:.1e} of the "
        f"largest{allowed}{files}{levels}"
    )


def described(row: dict) -> str:
    """What changed by more than it may."""
    if "change" not in row:
        return "its answers are not finite"
    return ", ".join(f"{name.replace('_', ' ')} by {row['change'][name]:.2g}" for name in row["over"])
