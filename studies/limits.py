"""How many films, and other pictures, a graph flags: `python -m studies.limits onnx/simple.onnx --data chest_xray`.

The validation films of its own split as they are, then turned, negative and covered; drawn films and patterns; and the
pictures of each folder below --others, such as photographs or plots.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import data
from basics import cli, problems


def kept(films: NDArray, rows: tuple[float, float], columns: tuple[float, float]) -> NDArray:
    """Black outside of that part, in fractions of the sides."""
    height, width = (np.linspace(0, 1, side, endpoint=False) for side in films.shape[1:])
    inside = [(low <= places) & (places < high) for places, (low, high) in ((height, rows), (width, columns))]
    return films * np.outer(*inside).astype(np.uint8)


def part(films: NDArray, top: float, left: float) -> NDArray:
    """A quarter, from there on, in fractions of the sides."""
    height, width = films.shape[1:]
    down, right = int(top * height), int(left * width)
    return films[:, down : down + height // 2, right : right + width // 2]


FILMS: dict[str, Callable[[NDArray], NDArray]] = {  # (N, S, S) to the same, or to other sides
    "validation films": lambda films: films,
    "rotated by 180 degrees": lambda films: films[:, ::-1, ::-1],
    "upside down and mirrored": lambda films: films[:, ::-1],
    "turned by 90 degrees": lambda films: np.rot90(films, 1, (1, 2)),
    "turned by 270 degrees": lambda films: np.rot90(films, -1, (1, 2)),
    "mirrored": lambda films: films[:, :, ::-1],
    "negative": lambda films: 255 - films,
    "right half black": lambda films: kept(films, (0, 1), (0, 0.5)),
    "lower half black": lambda films: kept(films, (0, 0.5), (0, 1)),
    "upper left quarter": lambda films: part(films, 0, 0),
    "lower right quarter": lambda films: part(films, 0.5, 0.5),
    "middle quarter": lambda films: part(films, 0.25, 0.25),
    "a third as bright": lambda films: films // 3,
}  # fmt: skip
DRAWN = 200  # phantoms


def patterns(size: int) -> dict[str, NDArray[np.uint8]]:
    """(N, S, S) of noise, boards, ramps, and one grey."""
    rng = np.random.default_rng(0)
    places = np.linspace(0, 1, size)
    boards = [np.add.outer(np.arange(size) // k, np.arange(size) // k) % 2 * 255 for k in range(2, 62)]
    ramps = [np.abs(np.add.outer(a * places, b * places)) for a, b in rng.uniform(-1, 1, (60, 2))]
    return {
        "noise": rng.integers(0, 256, (60, size, size), np.uint8),
        "boards": np.array(boards, np.uint8),
        "ramps": np.array([255 * ramp / ramp.max() for ramp in ramps], np.uint8),
        "one grey": np.arange(0, 256, 5, dtype=np.uint8)[:, None, None].repeat(size, 1).repeat(size, 2),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(prog="python -m studies.limits", description=__doc__.split("\n")[0])
    parser.add_argument("graph", type=cli.some_path, help="such as onnx/simple.onnx")
    parser.add_argument("--others", type=Path, metavar="DIR", help="with a folder of pictures for each kind")
    data.add_arguments(parser)
    return parser.parse_args(argv)


def work(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from films import images
    from graphs import doubts, sessions
    from training import limits

    session, facts = sessions.opened(args.graph)
    if not set(doubts.OUTPUTS) <= {output.name for output in session.get_outputs()}:
        raise problems.Problem(f"{args.graph}: it has no output flags: it is of an earlier version")
    size, fit = facts["size"], facts["fit"]
    dataset = data.load(args.data or "phantoms", size, args.cache, fit, args.skip_bad)
    validation = data.split_again(dataset, facts["split"]).validation
    shown = {name: change(dataset.images[validation]) for name, change in FILMS.items()}
    shown["drawn films"] = data.load("phantoms", size, args.cache, fit).images[:DRAWN]
    shown |= patterns(size)
    for folder in sorted(path for path in args.others.iterdir() if path.is_dir()) if args.others else []:
        files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in images.SUFFIXES]
        shown[folder.name] = np.stack([images.decode(file.read_bytes(), size, fit).pixels for file in files])
    rows = []
    for name, pixels in shown.items():
        found = sessions.graph_outputs(session, np.ascontiguousarray(pixels), 64, doubts.OUTPUTS)
        shares = limits.shares(found["flags"])
        most = sorted(shares.items(), key=lambda one: -one[1])
        rows.append([name, len(pixels), f"{shares.pop('any'):.1%}", f"{found['refer'].mean():.1%}",
                     ", ".join(f"{flag} {part:.1%}" for flag, part in most if flag != "any")])  # fmt: skip
    print(tabulate(rows, ["films", "n", "flagged", "referred", "with each flag"], disable_numparse=True,
                   colalign=("left", "right", "right", "right", "left")))  # fmt: skip
    names = ["probability", "decision", "refer"]
    print(answered(dataset.labels[validation],
                   sessions.graph_outputs(session, dataset.images[validation], 64, names)))  # fmt: skip
    return 0


def answered(labels: NDArray, found: dict[str, NDArray]) -> str:
    """What the graph's answers to validation films are worth where it refers, and where it does not."""
    from metrics import measures

    said = []
    for name, some in (("all", found["refer"] >= 0), ("those that it does not refer", found["refer"] == 0)):
        area = measures.auroc(labels[some], found["probability"][some].astype(float))
        accuracy = (found["decision"] == labels)[some].mean() if some.any() else np.nan
        said.append(f"{name}: n = {some.sum():,}, AUROC {area:.4f}, accuracy {accuracy:.4f}")
    return "validation films, which chose threshold and cut-offs; " + "; ".join(said)


def main(argv: list[str] | None = None) -> int:
    return problems.run(lambda: work(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
