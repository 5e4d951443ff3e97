import json

import pytest
from folders import make_folder

import bench


def test_bench_data_measures_both_sides_and_keeps_every_value(tmp_path, capsys):
    folder = make_folder(tmp_path / "x")
    out = tmp_path / "rows.json"
    assert bench.main(["data", "--data", str(folder), "--size", "32", "--repeats", "2", "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert [len(row["plain"]) for row in record["rows"]] == [2, 2, 2]
    for row in record["rows"]:
        assert min(row["plain"] + row["ours"]) > 0
        plain, ours = (sum(row[name]) / 2 for name in ("plain", "ours"))  # of two values the mean is the median
        assert row["ratio"] == pytest.approx(ours / plain)
    assert "32 images" in capsys.readouterr().out


def test_both_sides_see_the_same_images(tmp_path, cache):
    folder = make_folder(tmp_path)
    dataset = bench.data.load(str(folder), 32, cache)
    assert bench.drain(bench.plain_loader(folder, 32, 0)) == len(dataset.files)
    assert bench.drain(bench.our_batches(dataset, None).epoch()) == len(dataset.files)


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    assert bench.main(["data"]) == 1
    assert "bench.py data needs --data FOLDER" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        bench.main(["nothing"])
    assert caught.value.code == 2
