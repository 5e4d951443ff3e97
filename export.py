"""Turns a checkpoint into an ONNX graph that gives the same answers: `python export.py runs/simple/model.pt`.

The graph takes raw grey pixels, (N, H, W) uint8 of any size, and does the resizing, normalisation, temperature and
threshold itself, so that nobody has to write them again. It gets its name only after onnxruntime has given the same
answers as PyTorch on the validation and test images.

`python export.py verify onnx/simple.onnx --data DIR` repeats that proof, on any machine and without the checkpoint.
`python export.py threshold onnx/simple.onnx 0.3` changes the decision threshold of a graph, and nothing else;
`--sensitivity 0.95` in place of the number takes the one that validation chose for that, and `validation` goes back.
`python export.py page onnx/simple.onnx --out site` makes a page of a graph, which asks it in the browser.
"""

import argparse
import functools
import re
import sys
import uuid
from pathlib import Path

import data
from basics import cli, problems, terms
from evaluation import ledger


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """`verify`, `threshold` and `page` as first word are commands; else there is a list of checkpoints to export."""
    argv = sys.argv[1:] if argv is None else argv
    commands = {"verify": parse_verify, "threshold": parse_threshold, "page": parse_page}
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    parser = cli.Parser(
        description=__doc__.split("\n")[0],
        epilog="Also: `export.py verify GRAPH` repeats the proof, `export.py threshold GRAPH P` changes the threshold, "
        "`export.py page GRAPH` makes a page for browsers; each has a --help of its own.",
    )
    parser.add_argument(
        "checkpoints", nargs="*", type=cli.checkpoint_path, help="such as runs/simple/model.pt, or its folder"
    )
    parser.add_argument("--all", action="store_true", help="every model.pt below --runs")
    cli.add_folders(parser, "runs", "onnx")
    parser.add_argument("--precision", nargs="+", **cli.choices(terms.PRECISIONS), default=["fp32"], metavar="NAME",
                        help="one or more of fp32 (default), fp16 (half the size, for GPUs) and int8 (a quarter; its "
                        "ranges come from training images)")  # fmt: skip
    parser.add_argument("--promise", type=cli.probability, default=0.05, metavar="SHARE",
                        help="of films of either class, at most so many may have it held to be impossible in the "
                        "output `possible`; default: 0.05")  # fmt: skip
    parser.add_argument("--ensemble", action="store_true", help="one graph that averages the probabilities of all "
                        "these checkpoints, several seeds of one network")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="print a row for every check")
    data.add_arguments(parser)
    args = parser.parse_args(argv)
    if not 0 < args.promise < 1:
        parser.error("--promise: a share between 0 and 1, neither of them")
    if bool(args.checkpoints) == args.all:
        parser.error("name one or more checkpoints, or say --all")
    if args.ensemble and len(args.checkpoints) < 2:
        parser.error("--ensemble: name two or more checkpoints, such as runs/resnet34-s0 runs/resnet34-s1")
    args.precision = list(dict.fromkeys(args.precision))
    args.command = "export"
    return args


def parse_verify(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="export.py verify",
        description="Compares graphs again with the answers that PyTorch gave when they were exported.",
    )
    parser.add_argument(
        "graphs", nargs="+", type=cli.some_path, help="such as onnx/simple.onnx; the .json lies beside it"
    )
    parser.add_argument(
        "--runs", type=cli.folder_path, default=Path("runs"), metavar="DIR", help=f"of {ledger.NAME}; default: runs"
    )
    parser.add_argument("--verbose", action="store_true", help="print a row for every check")
    data.add_arguments(parser)
    args = parser.parse_args(argv)
    args.command = "verify"
    return args


def probability_or_validation(text: str) -> float | str:
    """An argparse type: the name of the operating point that a graph is exported with, or a number."""
    return text if text == "validation" else cli.probability(text)


def parse_threshold(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="export.py threshold",
        description="Changes the probability from which a graph decides for pneumonia. Not for clinical use.",
    )
    parser.add_argument("graphs", nargs="+", type=cli.some_path, help="such as onnx/simple.onnx")
    if not any(word.startswith("--s") for word in argv):  # the other way to say it
        parser.add_argument("threshold", type=probability_or_validation, metavar="P",
                            help='0 to 1; or "validation", for the one that the graph was exported with')  # fmt: skip
    parser.add_argument("--sensitivity", type=cli.probability, metavar="S", help="in place of P: the threshold that "
                        "validation chose to find that share of pneumonias: 0.95 or 0.99")  # fmt: skip
    parser.set_defaults(threshold=None)
    args = parser.parse_args(argv)
    if args.sensitivity is not None and re.fullmatch(r"[\d.]+|validation", str(args.graphs[-1])):
        parser.error("P or --sensitivity, not both")
    args.command = "threshold"
    return args


def parse_page(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="export.py page",
        description="Makes a folder for browsers of a graph: a page that reads films and asks the graph, and sends "
        "nothing anywhere. Not for clinical use.",
    )
    parser.add_argument("graph", type=cli.some_path, help="such as onnx/simple.onnx; its certificate comes along")
    parser.add_argument(
        "--out", type=cli.folder_path, default=Path("site"), metavar="DIR", help="an earlier page there is replaced; "
        "default: site"
    )  # fmt: skip
    args = parser.parse_args(argv)
    args.command = "page"
    return args


def work(args: argparse.Namespace) -> int:
    if args.command == "page":
        from graphs import page

        page.write(args.graph, args.out)
        return 0
    from graphs import exporting  # PyTorch takes seconds to import: what is wrong with a call is said before

    if args.command != "threshold":  # a proof reads test labels: noted, and no look, as it chooses no number
        args.looked = functools.partial(ledger.note, args.runs, uuid.uuid4().hex)
    return exporting.work(args)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
