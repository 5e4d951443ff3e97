import json
import multiprocessing
import os
import subprocess
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import make_folder

import bench
import data
from basics import problems
from studies import bench_training, benchmarks
from training import recipes


def test_bench_data_measures_both_sides_and_keeps_every_value(tmp_path, capsys):
    folder = make_folder(tmp_path / "x")
    out = tmp_path / "rows.json"
    assert bench.main(["data", "--data", str(folder), "--size", "32", "--repeats", "2", "--json", str(out)]) == 0
    record = json.loads(out.read_text())["data"]
    assert [len(row["plain"]) for row in record] == [2, 2, 2]
    for row in record:
        assert min(row["plain"] + row["ours"]) > 0
        plain, ours = (sum(row[name]) / 2 for name in ("plain", "ours"))  # of two values the mean is the median
        assert row["ratio"] == pytest.approx(ours / plain)
    assert "32 images" in capsys.readouterr().out


def test_both_sides_see_the_same_images(tmp_path, cache):
    folder = make_folder(tmp_path)
    dataset = data.load(str(folder), 32, cache)
    plain = bench_training.plain_loader(bench_training.plain_images(folder, 32), 0)
    assert benchmarks.drain(plain) == len(dataset.files)
    assert benchmarks.drain(benchmarks.our_batches(dataset, None).epoch()) == len(dataset.files)


def test_bench_train_takes_turns_and_measures_memory(tmp_path, cache, capsys):
    folder, out = make_folder(tmp_path / "x"), tmp_path / "rows.json"
    (folder / "NORMAL").rename(folder / "healthy")
    assert bench.main(["train", "--data", str(folder), "--size", "32", "--arch", "simple", "--repeats", "2",
                       "--cache", str(cache), "--device", "cpu", "--json", str(out),
                       "--classes", "NORMAL=healthy", "PNEUMONIA=PNEUMONIA"]) == 0  # fmt: skip
    (row,) = json.loads(out.read_text())["train"]
    assert len(row["plain"]) == len(row["ours"]) == 2 and min(row["plain"] + row["ours"]) > 0
    if sys.platform == "linux":
        assert 0.05 < row["plain peak GB"] < 100 and 0.05 < row["ours peak GB"] < 100
    assert "training simple, 32 pixels" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["plain", "amp", "ours", "growing"])
def test_both_loops_train_on_as_many_images_as_they_say(side, tmp_path, cache, monkeypatch):
    folder = make_folder(tmp_path / "x", count=20)
    arguments = ["train", "--data", str(folder), "--size", "32", "--cache", str(cache), "--device", "cpu",
                 "--workers", "0"]  # fmt: skip
    monkeypatch.setitem(bench_training.TURN_IMAGES, "simple", 40)
    recipe = recipes.RECIPES["default"]["simple"]  # "growing" shares a turn out among its epochs
    monkeypatch.setitem(recipes.RECIPES["default"], "simple", replace(recipe, epochs=20))
    torch.manual_seed(0)
    loop = bench_training.LOOPS[side]("simple", bench.parse(arguments))
    assert [next(loop), next(loop)] == [40, 40]
    loop = bench_training.LOOPS[side]("simple", bench.parse([*arguments, "--until", "0.99"]))
    assert all(0 <= next(loop)["val_accuracy"] <= 1 for _ in range(3))


def test_what_a_measured_process_cannot_do_is_said_once_and_without_a_traceback(tmp_path, cache):
    folder = make_folder(tmp_path / "x", count=2)
    (folder / "NORMAL").rename(folder / "healthy")
    args = bench.parse(["train", "--data", str(folder), "--size", "32", "--cache", str(cache), "--device", "cpu"])
    side = object.__new__(bench_training.Contestant)
    side.pipe, theirs = multiprocessing.Pipe()
    side.process, side.peak, side.on_gpu = types.SimpleNamespace(pid=None), None, False
    side.pipe.send(True)
    bench_training.child("ours", "simple", args, theirs, multiprocessing.get_start_method())
    with pytest.raises(problems.Problem, match=r"in any folder named NORMAL; .*--classes"):
        side.turn()


def test_memory_of_a_process_and_its_children_is_counted():
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    code = "import sys; held = bytearray(80_000_000); print('held', flush=True); sys.stdin.read()"
    before = bench_training.resident(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        during = bench_training.resident(os.getpid())
        process.stdin.close()
    assert 60e6 < during - before < 200e6
    assert bench_training.resident(2**22 + 1) is None  # no such process


def test_latencies_take_turns_and_leave_out_what_does_not_run(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "LATENCY_SECONDS", 0.02)

    def broken(pixels):
        raise RuntimeError("no compiler\nhere")

    sides = {"slow": lambda pixels: time.sleep(0.004), "quick": lambda pixels: None, "broken": broken}
    rows = benchmarks.latencies("net", 8, sides, np.zeros((8, 4, 4), np.uint8), 3)
    assert [row["side"] for row in rows] == ["slow", "quick"]
    slow, quick = rows
    assert slow["median_ms"] >= 4 and slow["median_ms"] <= slow["p99_ms"] and quick["median_ms"] < slow["median_ms"]
    assert slow["images_per_second"] == pytest.approx(8000 / slow["median_ms"])
    assert slow["n"] >= 3
    assert "note: broken does not run here (no compiler)" in capsys.readouterr().err


def test_pytorch_and_onnxruntime_answer_alike_in_bench_infer(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    sides = benchmarks.inference_sides("simple", 32, torch.device("cpu"), tmp_path)
    eager, graph = sides["PyTorch eager, float32"](pixels), sides["onnxruntime cpu, float32"](pixels)[0]
    np.testing.assert_allclose(eager.numpy(), graph, atol=1e-5)
    for name, tolerance in (("float16", 1e-3), ("int8", 0.1)):
        np.testing.assert_allclose(sides[f"onnxruntime cpu, {name}"](pixels)[0], graph, atol=tolerance)


def test_bench_predict_compares_the_same_films(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "FOLDER_FILMS", {"simple": 70})
    folder, out = make_folder(tmp_path / "x"), tmp_path / "rows.json"
    assert bench.main(["predict", "--data", str(folder), "--size", "32", "--arch", "simple", "--repeats", "2",
                       "--cache", str(cache), "--device", "cpu", "--json", str(out)]) == 0  # fmt: skip
    rows = json.loads(out.read_text())["predict"]
    assert [row["what"] for row in rows] == ["simple, 70 JPEGs, batch 16", "simple, 70 JPEGs, batch 64"]
    assert all(len(row["plain"]) == len(row["ours"]) == 2 and min(row["plain"] + row["ours"]) > 0 for row in rows)
    assert "predict: " in capsys.readouterr().out


def test_a_bench_of_predict_on_films_that_fail_is_no_measurement(tmp_path, cache):
    images = data.load(str(make_folder(tmp_path / "x")), 32, cache).images
    benchmarks.write_jpegs(tmp_path / "films", images, 40)
    benchmarks.write_graph(tmp_path / "x.onnx", "simple", 32)
    alone, whole = benchmarks.predict_sides(tmp_path / "x.onnx", tmp_path / "films", 16, "cpu")
    assert alone() == whole() == 40
    (tmp_path / "films" / "000007.jpeg").unlink()
    (tmp_path / "films" / "000007.jpeg").write_bytes(b"no film")
    with pytest.raises(problems.Problem, match=r"predict\.py failed"):
        whole()


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    for part in ("data", "train"):
        assert bench.main([part]) == 1
        assert f"bench.py {part} needs --data FOLDER" in capsys.readouterr().err
    for wrong in (["nothing"], ["train", "--until", "95"]):
        with pytest.raises(SystemExit) as caught:
            bench.main(wrong)
        assert caught.value.code == 2
