"""predict.py's rows for ten million films, as Parquet: Ray Data spreads them over the machines of a cluster.

`python examples/ray_predict.py onnx/simple.onnx s3://bucket/films s3://bucket/rows`. Decoding and answering are
predict.py's; finding films, handing them out, starting again what died, and writing are Ray Data's.
"""

import argparse
import functools
import logging
import os
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import predict

KINDS = {"probability": "float64", "threshold": "float64", "unfamiliar": "float64", "width": "int32", "height": "int32",
         "refer": "bool"}  # fmt: skip


class Worker:
    """A graph in a process of its own: a table of paths and contents goes in, predict.py's rows of them come out."""

    def __init__(self, args: argparse.Namespace, graph: Any) -> None:
        import ray

        with tempfile.TemporaryDirectory() as folder:  # the graph's own path may be seen by no other machine
            path = Path(folder, args.model.name)
            path.write_bytes(ray.get(graph))
            self.model = predict.open_model(path, "cuda" if args.gpus else "cpu", threads=1)
        self.args = argparse.Namespace(**{**vars(args), "workers": os.cpu_count() or 1})  # all of them share the memory

    def __call__(self, table: Any) -> Any:
        import pyarrow

        files = table["path"].to_pylist()
        contents = dict(zip(files, table["bytes"].to_pylist(), strict=True))
        films = predict.read_and_answer(self.model, self.args, files, threading.Event(), contents.__getitem__)
        schema = pyarrow.schema([(name, KINDS.get(name, "string")) for name in predict.COLUMNS])
        return pyarrow.Table.from_pylist([film.row for film in films], schema)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = predict.Parser(description="The rows of predict.py for very many films, by Ray. Not for clinical use.")
    parser.add_argument("model", help="an .onnx file that export.py made")
    parser.add_argument("films", metavar="FILMS", help="a folder that all machines see, or s3://bucket/films")
    parser.add_argument("rows", metavar="ROWS", help="a new folder for Parquet files, or s3://bucket/rows")
    whole = functools.partial(predict.number, kind=int, low=1, high=100_000)
    parser.add_argument("--workers", type=whole, metavar="N", help="processes with the graph; default: one a core")
    parser.add_argument("--gpus", type=functools.partial(predict.number, high=64), metavar="G", default=0,
                        help="of a worker, such as 1 or 0.5; default: 0")  # fmt: skip
    for name, kind in (("threshold", predict.number), ("sensitivity", predict.number), ("refer", predict.number),
                       ("batch-size", whole)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, metavar="N", help="predict.py's")
    parser.add_argument("--strict", action="store_true", help="predict.py's")
    args = parser.parse_args(argv)
    if args.threshold is not None and args.sensitivity is not None:
        parser.error("--threshold or --sensitivity, not both")
    args.model, args.heatmaps = Path(args.model), None
    return args


def work(args: argparse.Namespace) -> int:
    try:
        import ray
        from pyarrow.dataset import dataset, field
    except ImportError as error:
        raise predict.Problem(f"{error}: pip install -r requirements-ray.txt") from error

    model = predict.open_model(args.model, "cpu", threads=1)
    for line in (f"{model.label}; {model.use}", *predict.settle(args, model)):
        predict.say(line)
    # py_modules: the workers of other machines get predict.py from here.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray says more in its log files
    ray.init(runtime_env={"py_modules": [predict.__file__]}, logging_level="ERROR", log_to_driver=False)
    workers = args.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    ray.data.DataContext.get_current().enable_progress_bars = sys.stdout.isatty()
    logging.getLogger("ray.data").setLevel("CRITICAL")  # errors are said below
    args.batch_size = args.batch_size or (64 if args.gpus else 16)
    try:  # num_cpus=0: reading and writing wait for disks and networks, and the workers have all cores
        endings = [suffix.removeprefix(".") for suffix in predict.SUFFIXES]
        ray.data.read_binary_files(
            args.films, include_paths=True, file_extensions=endings, num_cpus=0
        ).map_batches(
            Worker, fn_constructor_args=(args, ray.put(args.model.read_bytes())), batch_format="pyarrow",
            batch_size=4 * args.batch_size, num_gpus=args.gpus, compute=ray.data.ActorPoolStrategy(size=workers),
        ).write_parquet(args.rows, mode=ray.data.SaveMode.ERROR, ray_remote_args={"num_cpus": 0})  # fmt: skip
    except (ray.exceptions.RayError, ValueError, OSError) as error:
        cause = re.search(r"^[\w.]+: .+", str(error), re.M)  # the line between a worker's traceback and Ray's advice
        reason = (cause[0] if cause else predict.first_line(error)).partition(". If ")[0]
        raise predict.Problem(f"{args.films} to {args.rows}: {type(error).__name__}: {reason}") from error
    rows = dataset(args.rows, format="parquet")
    errors, answers = (rows.count_rows(filter=field(name).is_valid()) for name in ("error", "decision"))
    films = rows.count_rows()
    predict.say(f"{films:,} films, {answers:,} answers, {predict.numbered(errors, 'error')}: {args.rows}")
    return 1 if errors else 3 if answers < films else 0


def main(argv: list[str] | None = None) -> int:
    try:
        return work(parse(argv))
    except predict.Problem as problem:
        predict.say(f"error: {problem.args[0]}")
        return problem.args[1] if problem.args[1:] else 1


if __name__ == "__main__":
    sys.exit(main())
