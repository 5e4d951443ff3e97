"""What a trained network gets wrong on stress validation: `python explain.py runs/resnet34/model.pt`.

Prints how its validation films fare in every view, whatever they were shown as when it was trained, whether it leans on
their frames, and how it would do under other temperatures and thresholds; draws the films with the worst errors in
every view, with what the answer is based on. Of several models, the folds of one training, it prints how they do on all
their validation films as these are, and by their frames. Test images are never read.
"""

import argparse
import sys

import data
from basics import cli, problems


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=cli.checkpoint_file, nargs="+", metavar="MODEL.pt",
                        help="a checkpoint that train.py wrote, or its folder; several: those of --folds, which are "
                        "taken together")  # fmt: skip
    data.add_arguments(parser)
    parser.add_argument("--out", type=cli.file_path, metavar="FILE", help="default: errors.png beside the model")
    parser.add_argument("--count", type=cli.whole_number(1, 12), metavar="N",
                        help="films with errors that are drawn, in every view; default: 4")  # fmt: skip
    cli.add_device_argument(parser)
    args = parser.parse_args(argv)
    if len(args.models) > 1 and (args.out or args.count):
        parser.error("--out and --count are for the picture of one model's errors")
    return args


def work(args: argparse.Namespace) -> int:
    from evaluation import explanation, folds  # PyTorch takes seconds to import: what is wrong is said before

    return explanation.work(args) if len(args.models) == 1 else folds.work(args)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
