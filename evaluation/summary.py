"""What an evaluation comes to, in sentences: one for each model and each question; and the screen that ends in them."""

import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from basics.problems import printable
from evaluation import comparisons, marks, referral, tables
from evaluation.markup import columns, number, p_value, screen_table, with_interval, wrapped
from evaluation.result import Result, repeats, shown
from evaluation.tables import Table

WIDE = 100  # columns, where no terminal says how wide it is
NAME = 12  # columns that a name has before others go without theirs
# Of the screen's table, what a narrow terminal does without; most of it is in the sentences too.
LESS = ("AUROC", "threshold", "accuracy", "false\nalarms", "missed")
# Parts of notes that are no warning, or are said in the sentences too.
QUIET = ("first look at these test images", " is from a smoke run", " started from ", " was trained on the split ",
         " cannot be answered: ", comparisons.SMOKE)  # fmt: skip
SCREEN = "simple"  # the format that is read on a screen; others are for machines and documents, and as wide as they are


# ------------------------------------------------------------------------------------------------------ sentences


def of_models(results: Sequence[Result]) -> list[str]:
    """A sentence for each model, then one for each graph that only repeats its checkpoint."""
    return [*map(of_model, shown(results)), *(of_graph(*pair) for pair in repeats(results))]


def of_model(result: Result) -> str:
    """What a model does by its own threshold to 1,000 pneumonias and to 1,000 normals, and how well it ranks."""
    at = result.decision
    smoke = ", a smoke run whose numbers mean nothing" if result.quick else ""
    own = f", by {result.named(result.decides)}, {number(at['threshold'], 4)}" if result.decides != "validation" else ""
    found, alarms = per_thousand(at["tp"], at["fn"]), per_thousand(at["fp"], at["tn"])
    ill = f"finds {found} of 1,000 pneumonias" if found else "meets no pneumonia"
    well = f"calls {alarms} of 1,000 normals ill" if alarms else "meets no normal film"
    return (f"{marks.before([result])}{result.name}{smoke}{own}: {ill}, {well}; "
            f"AUROC {with_interval(result.estimates['auroc'])}; "
            f"{result.images:,} films of {result.patients:,} patients")  # fmt: skip


def of_referrals(results: Sequence[Result]) -> list[str]:
    """A sentence for each model that promises something of the classes that it leaves out."""
    return [of_referral(result, result.referral) for result in shown(results) if result.referral]


def of_referral(result: Result, told: dict) -> str:
    """The promise, what it delivered in each class that is there, and the share of films that is left to a reader."""
    found, delivered = told["measures"], []
    for name in reversed(referral.NAMES):
        if (coverage := found[f"coverage_{name}"])["films"]:
            shift = f", these films have shifted (p = {p_value(coverage['p'])})" if coverage["shifted"] else ""
            delivered.append(f"{with_interval(coverage)} of {name}s{shift.replace('= <', '<')}")
    few = [f"{n:,} validation patients are too few to leave out {name}" for name, n in referral.unknown(told)]
    parts = [f"delivers {' and '.join(delivered)}", *few, f"refers {number(100 * found['referred']['value'], 1)} %"]
    return (f"{marks.before([result])}{result.name} promises {1 - told['alpha']:.4g} of each class; "
            f"{'; '.join(parts)}")  # fmt: skip


def per_thousand(some: int, others: int) -> str:
    """A share of 1,000; it is said to be none or all of them only where it is. "" of nothing."""
    if not some + others:
        return ""
    rate = round(1000 * some / (some + others))
    if rate == 0 and some:
        return "fewer than 1"
    return "more than 999" if rate == 1000 and others else f"{rate:,}"


def of_graph(graph: Result, checkpoint: Result) -> str:
    largest = abs(graph.probabilities - checkpoint.probabilities).max(initial=0)
    return f"{graph.name} answers as {checkpoint.name} does (largest difference {largest:.1g})"


def of_pair(pair: dict) -> str:
    """The answer to a question, shorter than comparisons.sentence()."""
    said = []
    for measure in pair["measures"]:
        if measure["measure"] in comparisons.SAID:
            name, scale, digits, unit = comparisons.in_words(measure)
            shown_difference = with_interval(measure["difference"], digits, scale, sign=True)
            value = "" if math.isnan(measure["difference"]["value"]) else f" {shown_difference}{unit}"
            found = comparisons.verdict(measure)
            if found == comparisons.NO_EVIDENCE and measure["p"] < comparisons.LEVEL:  # beside an interval without 0
                found += f" among so many (p = {measure['p_holm']:.2g} after Holm)"
            said.append(f"{name}{value}, {found}")
    return f"{pair['mark']}{pair['question']} {pair['from']} to {pair['to']}: {'; '.join(said)}"


def tested_on(results: Sequence[Result]) -> list[str]:
    """One sentence for each set of test images."""
    sentences = (
        f"{r.data['name']}; test by {r.split['how']}: {r.images:,} images of {r.patients:,} patients, "
        f"{r.positives:,} with pneumonia"
        for r in results
    )
    return list(dict.fromkeys(sentences))


def left_out(results: Sequence[Result]) -> list[str]:
    """What was left out of the test, for each model that has seen some of the films."""
    return [f"{result.name}: {result.left_out}" for result in results if result.left_out]


def warns(note: str) -> bool:
    """Whether a note has to be read before the numbers; one that nobody thought of has to be."""
    return "WARNING" in note or not any(words in note for words in QUIET)


# ----------------------------------------------------------------------------------------------------- the screen


def width() -> int:
    return shutil.get_terminal_size((WIDE, 24)).columns if sys.stdout.isatty() else WIDE


def say(lines: Sequence[str], wide: int) -> None:
    """Prints lines, each broken where it is longer than the terminal is wide."""
    for line in lines:
        print(textwrap.fill(printable(line), wide, subsequent_indent="  ", break_on_hyphens=False))


def print_results(
    results: list[Result],
    asked: list[dict],
    unanswered: list[str],
    made: list[Table],
    notes: list[str],
    form: str = SCREEN,
    verbose: bool = False,
    wanted: Sequence[str] = (),
) -> None:
    """What was tested and how it did; last of all, so that it is on the screen at the end, a sentence for each model.

    made: all tables, and all notes, are printed where it is verbose; else what one has to know, and the tables whose
    titles have one of the `wanted` words.
    """
    wide = width()
    say([*tested_on(results), *marks.of_all(results), *left_out(results)], wide)
    print_short(shown(results), form, wide)
    for table in made:
        if verbose or any(words in table.title for words in wanted):
            print_table(table, form)
    before = left_out(results)  # is said above
    if told := [note if note.startswith("WARNING") else f"note: {note}"
                for note in notes if verbose or (warns(note) and note not in before)]:  # fmt: skip
        print()
        say(told, wide)
    print()
    say([*of_models(results), *of_referrals(results), *map(of_pair, asked), *unanswered], wide)


def print_last(report: Path, count: int, verbose: bool) -> None:
    """Where all of it is; a path is not broken, so that it can be copied."""
    files = "also: report.md, results.json, results.csv, predictions.csv"
    say([files if verbose else f"{files}; --verbose prints the report's {count} tables"], width())
    print(f"report: {report}")


def print_short(results: list[Result], form: str, wide: int) -> None:
    """The one table of every screen, which fits it."""
    if form != SCREEN:
        print_table(tables.deciding(results), form)
        return
    table, gone = fitting(tables.deciding(results, short=True), wide)
    print()
    say([table.title], wide)
    print(f"\n{screen_table(table.headers, table.rows)}\n")
    more = [f"No room here for {', '.join(gone)}: --verbose and the report have them."] if gone else []
    say([*table.notes, *more], wide)


def fitting(table: Table, wide: int) -> tuple[Table, list[str]]:
    """A table in so many columns of a terminal: names get lines, and columns are left out, which are named."""
    for count in range(len(LESS) + 1):
        gone = LESS[:count]
        kept = [i for i, head in enumerate(table.headers) if head not in gone]
        headers = [table.headers[i] for i in kept]
        rows = [[printable(str(row[i])) for i in kept] for row in table.rows]
        names = max(columns(row[0]) for row in rows)
        taken = max(map(columns, screen_table(headers, rows).split("\n")))
        room = wide - taken + max(names, columns(headers[0]))
        if room >= min(names, NAME):
            break
    rows = [[wrapped(row[0], max(room, 1)), *row[1:]] for row in rows]
    return table._replace(headers=headers, rows=rows), [name.replace("\n", " ") for name in gone]


def print_table(table: Table, form: str) -> None:
    print(f"\n{table.title}\n")
    align = ["left", *["right"] * (len(table.headers) - 1)]
    print(tabulate(table.rows, table.headers, tablefmt=form, disable_numparse=True, colalign=align))
    if table.notes:
        print("\n" + "\n".join(table.notes))
