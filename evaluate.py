"""Compares trained models and exported graphs on the test images: `python evaluate.py --all`.

Prints a table and, last, a sentence for each model; --verbose all tables. Writes report/: report.html, report.md,
a card for each model, results.csv, results.json, predictions.csv and figures. Nothing is fitted here: the epoch, the
temperature and the thresholds of each model were chosen on validation images when it was trained. Each look at test
labels is noted in runs/test-ledger.jsonl.
"""

import argparse
import sys

from tabulate import tabulate_formats

import data
from basics import cli, problems


def share(text: str) -> float:
    """An argparse type: a number between 0 and 1, both excluded."""
    value = cli.positive_number(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be a share between 0 and 1, not {text}")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "models", nargs="*", type=cli.checkpoint_path, help="runs/<name> or onnx/<name>.onnx, any number"
    )
    parser.add_argument("--all", action="store_true", help="every model.pt below --runs and graph in --onnx")
    cli.add_folders(parser, "runs", "onnx", "report")
    parser.add_argument("--prevalence", type=share, metavar="P", help="PPV and NPV where this share of films is ill")
    parser.add_argument("--by", metavar="COLUMN", help="of a .csv manifest: results for each of its values")
    parser.add_argument("--audit", action="store_true", help="also on borders only, blurred, noisy, ... images (slow)")
    parser.add_argument("--verbose", action="store_true", help="print all tables and notes, which the report has")
    parser.add_argument(
        "--format",
        **cli.choices(tabulate_formats),
        default="simple",
        metavar="FORMAT",
        help="of the tables, any of tabulate's: github, latex, html, ... (default: simple)",
    )
    data.add_arguments(parser)
    cli.add_device_argument(parser)
    args = parser.parse_args(argv)
    if args.all and args.models:
        parser.error(f"--all takes every model, and {str(args.models[0])!r} is no option: quote a path with blanks, "
                     "or leave --all out to name models")  # fmt: skip
    if not args.models and not args.all:
        parser.error("name one or more models, or say --all")
    return args


def work(args: argparse.Namespace) -> int:
    from evaluation import testing  # PyTorch takes seconds to import: what is wrong with a call is said before

    return testing.work(args)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
