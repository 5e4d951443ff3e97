"""What each part of a recipe is worth on films from elsewhere: `python ablate.py --arch simple --data chest_xray`.

Trains variants of the recipe with several seeds each, and prints what validation says of them: films as they are, and
stress validation. Test images are never read. Stopped, the same command goes on.
"""

import argparse
import sys
from pathlib import Path

import data
from basics import cli, problems, terms
from studies.variants import AND, CANDIDATE_NAMES, VARIANTS


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", **cli.choices(terms.ARCHITECTURES), required=True, help="whose recipe")
    names = (*VARIANTS, *CANDIDATE_NAMES)
    parser.add_argument("--variants", type=variants, nargs="+", default=list(names), metavar="NAME",
                        help=f'default: all; "A + B" for two together; of {", ".join(names)}')  # fmt: skip
    parser.add_argument("--seeds", type=cli.whole_number(1, 100), default=3, metavar="N", help="default: 3")
    parser.add_argument("--epochs", type=cli.whole_number(1), help="default: the recipe's")
    parser.add_argument("--weights", type=cli.file_path, metavar="FILE", help="for resnet34-pretrained")
    parser.add_argument(
        "--out", type=cli.folder_path, default=Path("runs/ablation"), metavar="DIR", help="default: %(default)s"
    )
    data.add_arguments(parser)
    data.add_split_arguments(parser)
    cli.add_device_argument(parser)
    return parser.parse_args(argv)


def variants(text: str) -> str:
    """A name, or several to be tried together, which have to be known."""
    return AND.join(map(cli.choices((*VARIANTS, *CANDIDATE_NAMES))["type"], text.split(AND)))


def work(args: argparse.Namespace) -> int:
    from studies import ablation  # PyTorch takes seconds to import: what is wrong with a call is said before

    return ablation.work(args)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
