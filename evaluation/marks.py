"""Why numbers are not what they look like, as loudly as can be: above every table, on every figure, in every card."""

from collections.abc import Sequence

from evaluation.result import Result

SYNTHETIC = "SYNTHETIC: these numbers are of drawings made by a program; they say nothing about X-rays of people."
TRAINED_ON_DRAWINGS = "SYNTHETIC: this model was trained on drawings made by a program, not on X-rays of people."
UNRECORDED = (
    "UNKNOWN TRAINING FILMS: nothing says which films this graph was trained on, so that it may be tested on its own; "
    "the certificate that export.py wrote beside it does."
)


def of(result: Result) -> list[str]:
    """Sentences, each with its mark before the colon; empty where there is nothing to say."""
    found = [SYNTHETIC] if result.data["synthetic"] else [TRAINED_ON_DRAWINGS] if result.trained_on_synthetic else []
    return found + [UNRECORDED] * (not result.recorded)


def of_all(results: Sequence[Result]) -> list[str]:
    """The sentences of these results, with the models they are about where not all are."""
    about: dict[str, list[str]] = {}
    for result in results:
        for mark in of(result):
            about.setdefault(mark, []).append(result.name)
    return [mark if len(names) == len(results) else f"{mark} ({', '.join(names)})" for mark, names in about.items()]


def before(results: Sequence[Result]) -> str:
    """What a title of these results begins with: "SYNTHETIC: ", or nothing; no mark twice."""
    found = dict.fromkeys(mark.split(":")[0] for result in results for mark in of(result))
    return "".join(f"{mark}: " for mark in found)


def of_pairs(pairs: Sequence[dict]) -> str:
    """What a title of these comparisons begins with: the marks of what was compared, none of other models."""
    found = dict.fromkeys(mark for pair in pairs for mark in pair["mark"].split(": ") if mark)
    return "".join(f"{mark}: " for mark in found)
