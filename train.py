"""Trains a network for pneumonia against normal: `python train.py --arch simple --data chest_xray`.

Writes runs/<name>/: model.pt (the best epoch by validation AUROC), last.pt (all that --resume needs), history.csv (a
row an epoch) and run.json (options, versions, data). Test images are never read here: evaluate.py does that.

On several GPUs: `torchrun --standalone --nproc-per-node 8 train.py ...`; devices/parallel.py says what that changes.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import data
from basics import cli, problems, terms
from training.recipes import QUICK_EPOCHS, QUICK_IMAGES
from training.request import Request


def is_folder_name(name: str) -> bool:
    return name.isprintable() and name.strip() not in ("", "old", "sweep", ".", "..") and not set(name) & set("/\\")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--arch", **cli.choices(terms.ARCHITECTURES), help="the network to train")
    which.add_argument("--all", action="store_true", help="all three, one after the other")
    data.add_arguments(parser)
    data.add_split_arguments(parser)
    cli.add_device_argument(parser)
    parser.add_argument(
        "--recipe",
        **cli.choices(terms.RECIPES),
        default="default",
        help="seed: the published notebooks' settings (Adam 1e-4, batch 64, 20 epochs, flips)",
    )
    parser.add_argument("--epochs", type=cli.whole_number(1), help="default: the recipe's")
    parser.add_argument("--batch-size", type=cli.whole_number(2), help="default: the recipe's")
    parser.add_argument(
        "--minutes",
        type=cli.positive_number,
        metavar="M",
        help="at most this long, with what went before a --resume: as many of the epochs as fit (one at least), the "
        "learning rate scaled to them",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped, at its last state")
    parser.add_argument(
        "--resize-from",
        type=cli.whole_number(0, 2048),
        metavar="PIXELS",
        help="ResNets: start on images of this side and end on the full one; 0: full throughout",
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                        help="torch.compile: up to a minute before the first step of each side")  # fmt: skip
    parser.add_argument("--deterministic", action="store_true", help="the same result again on CUDA too, more slowly")
    parser.add_argument("--lr", type=cli.positive_number, nargs="+", metavar="RATE",
                        help="highest learning rate; default: the recipe's. Several: each is trained, and the one that "
                        "validates best is kept under the model's name, all of them under OUT/sweep")  # fmt: skip
    parser.add_argument("--val", **cli.choices(terms.VALIDATIONS),
                        help="what epoch, temperature and threshold are chosen on: validation films as they might look "
                        "elsewhere (stress, default), as they are (random, default with --quick), or as they are, from "
                        "patients with neighbouring names (block)")  # fmt: skip
    parser.add_argument("--folds", type=cli.whole_number(2, 100), metavar="K",
                        help="train K times, each time validating on another Kth of the patients")  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="also mirror images at random (it mirrors the heart)")
    parser.add_argument("--seed", type=cli.whole_number(0), default=0, help="of weights, order and augmentation")
    parser.add_argument("--seeds", type=cli.whole_number(1, 1000), metavar="N",
                        help="train N times, from --seed on; the runs are called NAME-s0, NAME-s1, ...")  # fmt: skip
    parser.add_argument("--weights", type=cli.file_path, metavar="FILE",
                        help="ImageNet weights for resnet34-pretrained: a torchvision resnet34 state dict")  # fmt: skip
    parser.add_argument("--name", help="of the run's folder; default: the architecture, after quick- with --quick")
    parser.add_argument("--out", type=cli.folder_path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a smoke run: {QUICK_EPOCHS} epochs on {QUICK_IMAGES} images, as quick-NAME; its results mean nothing",
    )
    parser.add_argument("--tensorboard", action="store_true",
                        help="also write each epoch to OUT/NAME/tensorboard: tensorboard --logdir OUT")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="print stress validation view by view")
    args = parser.parse_args(argv)
    args.val = args.val or ("random" if args.quick else "stress")  # 19 views take longer than a smoke run trains
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        parser.error("--tensorboard needs a package that is not here: pip install tensorboard")
    if args.name is not None and (args.all or not is_folder_name(args.name)):
        parser.error("--name is one plain folder name other than 'old' and 'sweep', and goes with --arch")
    if args.weights and args.arch not in (None, "resnet34-pretrained"):
        parser.error("--weights is for resnet34-pretrained")
    smaller = [name for name in ([args.arch] if args.arch else terms.ARCHITECTURES) if name == "simple"]
    if args.resize_from and smaller:
        parser.error("--resize-from is for ResNets: the linear layers of simple fit one size")
    return args


def work(args: argparse.Namespace) -> int:
    from training import runs  # PyTorch takes seconds to import: what is wrong with a call is said before

    return runs.train_all(Request(**vars(args)))


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
