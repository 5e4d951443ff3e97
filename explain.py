"""What a trained network gets wrong on stress validation: `python explain.py runs/resnet34/model.pt`.

Prints how its validation films fare in every view, whatever they were shown as when it was trained, and under other
temperatures and thresholds; draws the films with the worst errors in every view, with what the answer is based on.
Test images are never read.
"""

import argparse
import sys

import data
from basics import cli, problems


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=cli.checkpoint_file, metavar="MODEL.pt",
                        help="a checkpoint that train.py wrote, or its folder")  # fmt: skip
    data.add_arguments(parser)
    parser.add_argument("--out", type=cli.file_path, metavar="FILE", help="default: errors.png beside the model")
    parser.add_argument("--count", type=cli.whole_number(1, 12), default=4, metavar="N",
                        help="films with errors that are drawn, in every view; default: 4")  # fmt: skip
    cli.add_device_argument(parser)
    return parser.parse_args(argv)


def work(args: argparse.Namespace) -> int:
    from evaluation import explanation  # PyTorch takes seconds to import: what is wrong with a call is said before

    return explanation.work(args)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
