"""A folder of films, runs on it, and evaluate.py as from a shell; models whose answers are given."""

import csv
import json
from pathlib import Path

import numpy as np
from folders import make_folder

import data
import evaluate
import train
from evaluation import tested_model


class World:
    """A folder of films, runs on it, and evaluate.py as from a shell."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.runs = folder, cache, folder / "runs"
        self.data = make_folder(folder / "films", count=60)
        self.common = ["--runs", str(self.runs), "--onnx", str(folder / "onnx"), "--cache", str(cache)]

    def train(self, *options: str) -> int:
        return train.main(["--size", "32", "--cache", str(self.cache), "--epochs", "2", "--out", str(self.runs),
                           "--data", str(self.data), *options])  # fmt: skip

    def evaluate(self, *options: str, models: tuple[str, ...] = ("simple",)) -> int:
        paths = [] if "--all" in options else [str(self.runs / name / "model.pt") for name in models]
        return evaluate.main([*paths, *self.common, "--report", str(self.folder / "report"), *options])

    def results(self) -> dict:
        def never(what: str) -> None:
            raise AssertionError(f"{what} is no JSON")

        return json.loads((self.folder / "report" / "results.json").read_text(), parse_constant=never)

    def model(self, name: str = "simple") -> dict:
        (found,) = [model for model in self.results()["models"] if model["name"] == name]
        return found

    def predictions(self, name: str = "simple") -> list[dict]:
        with open(self.folder / "report" / "predictions.csv", newline="") as stream:
            return [row for row in csv.DictReader(stream) if row["model"] == name]

    def dataset(self, source: Path | None = None) -> data.Dataset:
        return data.load(str(source or self.data), 32, self.cache)


def knowing(monkeypatch, margins) -> None:
    """Models answer these log-odds: margins(dataset, indices) -> (N,)."""

    def logits(model, dataset, indices, device, reduced=False):
        given = np.asarray(margins(dataset, indices), np.float32)
        return np.stack([np.zeros_like(given), given], 1)

    monkeypatch.setattr(tested_model, "logits", logits)
