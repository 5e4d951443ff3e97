"""Speed beside what most people write, side by side in one run: `python bench.py train --data chest_xray`.

data   from files to batches, beside ImageFolder and a DataLoader with worker processes
train  training, beside a loop over such batches in float32 with Adam and `.item()` in each step
infer  the exported graph in onnxruntime, beside the same network in PyTorch, eager and compiled; and predict.py on a
       folder of JPEG files, beside that graph alone on the same films in memory
gpu    the training loop on a GPU by batch size, what feeds it, and train.py from its start to its end

What is compared takes turns: A, B, A, B, ..., after a turn of each that is not counted. Tables show medians with the
smallest and the largest value, and the ratio of the medians.
"""

import argparse
import sys

from basics import cli, problems


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("what", **cli.choices(("data", "train", "infer", "predict", "gpu", "all")))
    parser.add_argument(
        "--data", metavar="DIR", help="X-rays; data and train need a folder, without it predict and gpu take phantoms"
    )
    parser.add_argument("--classes", action=cli.Names, nargs=2, const=("NORMAL", "PNEUMONIA"), metavar="CLASS=NAME",
                        help="what the folders of --data are called, where not so")  # fmt: skip
    both = ["simple", "resnet34"]
    parser.add_argument("--arch", nargs="+", **cli.choices(both), default=both, help="default: both")
    parser.add_argument("--size", type=cli.whole_number(32, 2048), default=224, help="side in pixels")
    parser.add_argument("--repeats", type=cli.whole_number(1, 1000), help="counted turns; default: 5, on CUDA 3")
    parser.add_argument(
        "--workers",
        type=cli.whole_number(0, 256),
        help="of the plain training loop; default: 2, and on CUDA one a core",
    )
    parser.add_argument(
        "--until",
        type=float,
        metavar="ACCURACY",
        help="train: time to this validation accuracy instead of images/s, once for each side",
    )
    parser.add_argument("--patience", type=cli.positive_number, default=60, metavar="MINUTES",
                        help="with --until: the most that a side may take (default: 60)")  # fmt: skip
    parser.add_argument(
        "--cache", type=cli.folder_path, metavar="DIR", help="of decoded pixels; default: below ~/.cache"
    )
    parser.add_argument("--json", type=cli.file_path, metavar="FILE", help="write every measured value there as well")
    cli.add_device_argument(parser)
    args = parser.parse_args(argv)
    if args.until is not None and not 0 < args.until <= 1:
        parser.error("--until is a share: 0.95 for 95 %")
    return args


def work(args: argparse.Namespace) -> int:
    from studies import benchmarks  # PyTorch takes seconds to import: what is wrong with a call is said before

    return benchmarks.work(args)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
