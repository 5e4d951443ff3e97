"""held_out.py: a model is never tested on its own films or patients, whatever the files are called."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluating import World
from folders import draw, make_folder
from PIL import Image

import data
import evaluate
import export
from basics import problems
from evaluation import held_out, marks, tested_model
from films import looks
from training import checkpoints

LARGE = (90, 80)  # pixels: films of which a copy is known by its look


class Trained(World):
    """Films called film0000.png, patients by a manifest, a run on them and its graph."""

    def __init__(self, folder: Path, cache: Path) -> None:
        super().__init__(folder, cache)
        self.data = hospital(folder / "here", people=60)
        assert self.train("--arch", "simple") == 0
        assert export.main([str(self.checkpoint), *self.common]) == 0

    @property
    def checkpoint(self) -> Path:
        return self.runs / "simple" / "model.pt"

    @property
    def graph(self) -> Path:
        return self.folder / "onnx" / "simple.onnx"

    def test(self, model: Path, source: Path | str, report: Path, *options: str) -> int:
        return evaluate.main([str(model), *self.common, "--data", str(source), "--report", str(report), *options])

    def films(self, side: str) -> list[str]:
        dataset = self.dataset()
        return [dataset.files[i] for i in data.split(dataset).sides[side]]


def film(path: Path, seed: int) -> None:
    """Clouds: unlike noise they look alike at any size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clouds = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 14), np.uint8))
    clouds.resize(LARGE, Image.Resampling.BICUBIC).save(path)


def hospital(folder: Path, people: int, seed: int = 0, ids: str = "{}", films: int = 2) -> Path:
    """A manifest: `films` of each patient, half of the patients ill; other seeds, other films."""
    lines = ["path,label,patient"]
    for i in range(people * films):
        film(folder / f"film{i:04d}.png", seed + i)
        lines.append(f"film{i:04d}.png,{i // films % 2},{ids.format(i // films)}")
    (folder / "films.csv").write_text("\n".join(lines) + "\n")
    return folder / "films.csv"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache) -> Trained:
    return Trained(tmp_path_factory.mktemp("held-out"), cache)


def copied(manifest: Path, target: Path, without: tuple[str, ...] = (), ids: dict[str, str] | None = None) -> Path:
    """The manifest and its films in another folder, without some of them, or with other patients."""
    target.mkdir()
    kept = [line for line in manifest.read_text().splitlines() if line.split(",")[0] not in without]
    lines = kept[:1]
    for line in kept[1:]:
        file, label, patient = line.split(",")
        shutil.copy(manifest.parent / file, target / file)
        lines.append(f"{file},{label},{(ids or {}).get(patient, patient)}")
    (target / "films.csv").write_text("\n".join(lines) + "\n")
    return target / "films.csv"


def found_in(report: Path) -> dict:
    (found,) = json.loads((report / "results.json").read_text())["models"]
    return found


# ---------------------------------------------------------------------------------------------- its own films


@pytest.mark.parametrize("kind", ["checkpoint", "graph"])
def test_without_one_training_film_the_test_films_are_the_same(trained, tmp_path, capsys, kind):
    """The set has another fingerprint then, and is as little a new one as before."""
    model = getattr(trained, kind)
    for name, without in (("whole", ()), ("less", tuple(trained.films("train")[:1]))):
        source = copied(trained.data, tmp_path / name, without)
        capsys.readouterr()
        assert trained.test(model, source, tmp_path / f"report {name}") == 0
    first, then = (found_in(tmp_path / f"report {name}") for name in ("whole", "less"))
    assert first["images"] == then["images"] == len(trained.films("test"))
    assert first["estimates"] == then["estimates"] and first["points"] == then["points"]
    assert first["left_out"] == "" and first["recorded"] and then["recorded"]
    said = f"{120 - 1 - len(trained.films('test'))} of 119 films are of patients in this model's training or validation"
    assert then["left_out"].startswith(f"{said}: left out (")
    first_lines = " ".join(capsys.readouterr().out.split("\n\n")[0].split())
    assert first_lines.endswith(then["left_out"])


def test_the_training_films_alone_are_no_test(trained, tmp_path, capsys):
    source = copied(trained.data, tmp_path / "seen", tuple(trained.films("test")))
    for model in (trained.checkpoint, trained.graph):
        assert trained.test(model, source, tmp_path / "report") == 1
        error = capsys.readouterr().err
        count = len(trained.films("train")) + len(trained.films("validation"))
        assert f"{count} of {count} films are of patients in this model's training or validation" in error
        assert "no honest test" in error
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("change", ["other size", "JPEG", "brighter"])
def test_a_copy_in_other_pixels_is_known_again_and_so_is_its_patient(trained, tmp_path, change):
    """Other names of files and of patients; of one patient only one of two films is a copy."""
    source = hospital(tmp_path / "there", people=40, seed=5000, ids="other-{}")
    seen = trained.films("train")[:12]
    for i, file in enumerate(seen):
        image = Image.open(trained.data.parent / file)
        place = source.parent / f"film{2 * i:04d}.png"
        if change == "other size":
            image.resize((123, 110), Image.Resampling.BILINEAR).save(place)
        elif change == "JPEG":
            image.save(place.with_suffix(".jpg"), quality=60)
            place.unlink()
        else:
            Image.fromarray((np.asarray(image) * 0.7 + 60).astype(np.uint8)).save(place)
    if change == "JPEG":
        text = source.read_text()
        for i in range(len(seen)):
            text = text.replace(f"film{2 * i:04d}.png", f"film{2 * i:04d}.jpg")
        source.write_text(text)
    assert trained.test(trained.graph, source, tmp_path / "report") == 0
    found = found_in(tmp_path / "report")
    assert found["images"] == 80 - 24
    assert "24 of 80 films are" in found["left_out"]
    assert "12 copies in other pixels, 12 by their patients alone" in found["left_out"]


# ------------------------------------------------------------------------------------------------ other people


def test_names_of_files_and_small_numbers_are_nobody_in_another_source(trained, tmp_path):
    """film0000.png and patient 1 are in both hospitals; no film is."""
    with_ids = hospital(tmp_path / "a", people=30, seed=5000)
    without = tmp_path / "b"
    for i in range(60):
        draw(without / ("NORMAL", "PNEUMONIA")[i % 2] / f"film{i:04d}.png", 7000 + i, LARGE)
    for k, source in enumerate((with_ids, without)):
        for model in (trained.checkpoint, trained.graph):
            assert trained.test(model, source, tmp_path / f"report{k}") == 0
            found = found_in(tmp_path / f"report{k}")
            assert (found["images"], found["left_out"], found["split"]["how"]) == (60, "", "external")
    notes = json.loads((tmp_path / "report0" / "results.json").read_text())["notes"]
    own, split = trained.dataset(), data.split(trained.dataset())
    alike = {own.patients[i] for i in (*split.train, *split.validation)} & {f"{i}" for i in range(30)}
    said = f": {len(alike)} patients here have names that patients in its training have too"
    assert any(said in note for note in notes)


def test_a_patient_number_that_is_one_persons_alone_counts_everywhere(cache, tmp_path):
    run = World(tmp_path / "w", cache)
    run.data = hospital(tmp_path / "here", people=60, ids="20{:06d}")
    assert run.train("--arch", "simple") == 0
    there = hospital(tmp_path / "there", people=60, seed=5000, ids="20{:06d}")  # the same people, other films
    model = tested_model.open_model(run.runs / "simple" / "model.pt")
    split, said = held_out.test_side(model, run.dataset(there))
    own = data.split(run.dataset())
    people = {run.dataset().patients[i] for i in own.test}
    assert {run.dataset(there).patients[i] for i in split.test} == people
    assert said.startswith(f"{120 - len(split.test)} of 120 films are of patients in this model's")


def test_kermanys_names_are_one_persons_and_im_0001_alone_is_not(cache, tmp_path):
    run = World(tmp_path / "w", cache)
    assert run.train("--arch", "simple") == 0
    model = tested_model.open_model(run.runs / "simple" / "model.pt")
    own = data.split(run.dataset())
    other = tmp_path / "other"
    for i, file in enumerate(run.dataset().files):
        draw(other / file, 50_000 + i, LARGE)  # the same patients, other films
    split, said = held_out.test_side(model, run.dataset(other))
    assert {run.dataset(other).files[i] for i in split.test} == {run.dataset().files[i] for i in own.test}
    assert said
    osirix = tmp_path / "osirix"
    for i in range(60):
        draw(osirix / ("NORMAL", "PNEUMONIA")[i % 2] / f"IM-{i:04d}-0001.png", 60_000 + i, LARGE)
    split, said = held_out.test_side(model, run.dataset(osirix))
    assert len(split.test) == 60 and said == ""


def test_films_too_small_to_be_known_again_are_counted(trained, tmp_path):
    source = hospital(tmp_path / "there", people=10, seed=5000)
    for i in range(3):
        draw(source.parent / f"film{i:04d}.png", i, (80, 63))
    split, _ = held_out.test_side(tested_model.open_model(trained.graph), trained.dataset(source))
    assert any(note.startswith("3 films are under 64 pixels wide or high") for note in split.notes)


def test_drawings_and_films_share_nobody(phantoms, cache, tmp_path):
    run = World(tmp_path / "w", cache)
    run.data = "phantoms"
    assert run.train("--arch", "simple") == 0
    model = tested_model.open_model(run.runs / "simple" / "model.pt")
    other = tmp_path / "other"
    for i, file in enumerate(phantoms.files[::10]):
        draw(other / file, i, LARGE)
    split, said = held_out.test_side(model, run.dataset(other))
    assert len(split.test) == 60 and said == ""


def test_sets_of_equal_names_are_two_sets(trained, tmp_path):
    """For the split, the ledger, and whether a split is the model's own."""
    sources = [hospital(tmp_path / str(k), people=60, seed=5000 * k) for k in (1, 2)]
    one, other = (trained.dataset(source) for source in sources)
    own = trained.dataset()
    splits = [data.split(dataset) for dataset in (own, one, other)]
    assert len({tuple(split.test.tolist()) for split in splits}) == 1  # the same places
    assert len({split.fingerprint for split in splits}) == 3
    facts = tested_model.open_model(trained.checkpoint).facts
    assert [data.is_own(split, dataset, facts) for split, dataset in
            zip(splits, (own, one, other), strict=True)] == [True, False, False]  # fmt: skip
    for source in sources:
        assert trained.test(trained.checkpoint, source, tmp_path / "report") == 0
        notes = json.loads((tmp_path / "report" / "results.json").read_text())["notes"]
        assert any(note.startswith("first look at these test images") for note in notes)


def test_int8_takes_no_ranges_from_another_hospital_with_the_same_names(trained, tmp_path, capsys):
    there = hospital(tmp_path / "there", people=60, seed=5000)
    arguments = [str(trained.checkpoint), "--data", str(there), "--onnx", str(tmp_path), "--runs", str(tmp_path)]
    assert export.main([*arguments, "--cache", str(trained.cache), "--precision", "fp32", "int8"]) == 1
    assert "int8 takes its ranges from training images, and" in capsys.readouterr().err
    assert json.loads((tmp_path / "simple.json").read_text())["data"]["split_is_the_models"] is False
    assert not (tmp_path / "simple-int8.onnx").exists()


def test_the_ledger_knows_test_films_whatever_else_is_there(trained, tmp_path):
    """With a training film less it is the second look at the same test films."""
    place = ["--runs", str(tmp_path / "runs"), "--cache", str(trained.cache), "--report", str(tmp_path / "report")]
    less = copied(trained.data, tmp_path / "less", tuple(trained.films("train")[:1]))
    for source, words in ((trained.data, "first look at"), (less, "look number 2 at")):
        assert evaluate.main([str(trained.checkpoint), *place, "--data", str(source)]) == 0
        notes = json.loads((tmp_path / "report" / "results.json").read_text())["notes"]
        assert any(note.startswith(words) for note in notes)


# ---------------------------------------------------------------------------------------- without the record


@pytest.mark.parametrize("harm", ["missing", "another graph's", "no record", "damaged", "another record"])
def test_a_graph_without_its_record_is_marked_everywhere(trained, tmp_path, capsys, harm):
    graph = tmp_path / "simple.onnx"
    shutil.copy(trained.graph, graph)
    certificate = json.loads(trained.graph.with_suffix(".json").read_text())
    if harm == "another graph's":
        certificate["sha256"] = "0" * 64
    elif harm == "no record":
        del certificate["seen"]
    elif harm == "damaged":
        certificate["seen"]["seen_images"] = "?"
    elif harm == "another record":
        certificate["seen"]["seen_images"] = certificate["seen"]["seen_patients"]
    if harm != "missing":
        graph.with_suffix(".json").write_text(json.dumps(certificate))
    report = tmp_path / "report"
    assert trained.test(graph, hospital(tmp_path / "there", people=30, seed=5000), report, "--verbose") == 0
    out = capsys.readouterr().out
    assert marks.UNRECORDED in " ".join(out.split("\n\n")[0].split())
    titles = [line for line in out.splitlines() if line.startswith(("Test results", "Promised", "Subgroups"))]
    assert titles == [] and out.count("UNKNOWN TRAINING FILMS: Test results") == 4
    assert "UNKNOWN TRAINING FILMS: simple.onnx: finds " in out.split("\n\n")[-1]
    assert found_in(report)["recorded"] is False
    for file in ("report.html", "report.md", "cards/simple.onnx.md"):
        assert marks.UNRECORDED in (report / file).read_text()
    heads = [line for line in (report / "report.md").read_text().splitlines() if line.startswith("#")]
    assert heads and all("UNKNOWN TRAINING FILMS: " in head for head in heads)
    for file in ("results.csv", "predictions.csv"):
        assert "recorded" in (report / file).read_text().splitlines()[0]


def test_the_checkpoint_beside_it_lends_a_graph_its_record(trained, tmp_path):
    graph = tmp_path / "simple.onnx"
    shutil.copy(trained.graph, graph)
    models = [str(trained.checkpoint), str(graph)]
    assert evaluate.main([*models, *trained.common, "--data", str(trained.data), "--report", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["models"]
    assert [(model["name"], model["recorded"]) for model in found] == [("simple", True), ("simple.onnx", True)]


def test_a_record_that_contradicts_the_split_is_no_honest_test(trained):
    model = tested_model.open_model(trained.checkpoint)
    dataset = trained.dataset()
    moved = replace(model, facts={**model.facts, "split": {**model.facts["split"], "seed": 5}})
    with pytest.raises(problems.Problem, match=r"\d+ of the \d+ test films, or other films of their patients, were"):
        held_out.test_side(moved, dataset)


def test_a_checkpoint_of_an_earlier_version_is_tested_on_its_own_test_side(trained, tmp_path, capsys):
    """Its split was named after files, its record had no looks, and patients were files where nothing was known."""
    checkpoint, network = checkpoints.load_checkpoint(trained.checkpoint)
    del checkpoint["seen_looks"]
    split = {**checkpoint["split"], "fingerprint": "0123456789ab"}
    old = {**checkpoint, "split": split, "state": network.state_dict()}
    checkpoints.save_checkpoint(tmp_path / "old.pt", old)
    assert trained.test(tmp_path / "old.pt", trained.data, tmp_path / "report") == 0
    found = found_in(tmp_path / "report")
    assert (found["images"], found["split"]["how"]) == (len(trained.films("test")), "patient")
    there = hospital(tmp_path / "there", people=30, seed=5000)
    assert trained.test(tmp_path / "old.pt", there, tmp_path / "report") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: simple is of an earlier version: copies of its training films in other pixels are not known" in said


# ------------------------------------------------------------------------------------------------ real films


def test_no_two_patients_look_alike_and_copies_do(real_folder, cache):
    """2,000 films of children beside their copies, at half the size and stored as JPEG."""
    dataset = data.load(real_folder, 224, cache)
    some = np.arange(0, len(dataset.files), max(len(dataset.files) // 2000, 1))
    found = looks.from_text([looks.looks_of(np.asarray(dataset.images[i])) for i in some])
    assert (found == dataset.looks[some]).all()  # these films are squares of 224
    people, found = np.array(dataset.patients)[some], found[:, 0]
    for k in range(0, len(some), 100):
        distance = np.bitwise_count(found[k][None] ^ found).sum(1)
        assert distance[people != people[k]].min() > looks.SAME_FILM
    halves = [np.asarray(Image.fromarray(np.array(dataset.images[i])).resize((112, 90))) for i in some[::10]]
    smaller = looks.from_text([looks.looks_of(half) for half in halves])[:, 0]
    assert (np.bitwise_count(smaller ^ found[::10]).sum(1) <= looks.SAME_FILM).mean() > 0.99


def test_official_models_take_a_test_folder_that_came_later_and_a_set_that_is_nothing_else(cache, tmp_path, capsys):
    folder = make_folder(tmp_path / "x", ("train",), count=40)
    run = World(tmp_path / "w", cache)
    run.data = folder
    assert run.train("--arch", "simple", "--split", "official") == 0
    assert run.evaluate() == 1
    assert "has no test images in the official split" in capsys.readouterr().err
    only = tmp_path / "only"
    for i in range(8):
        for root in (folder, only):
            draw(root / "test" / "NORMAL" / f"IM-{9000 + i}-0001.jpeg", 5000 + i)
            draw(root / "test" / "PNEUMONIA" / f"person{9000 + i}_virus_1.jpeg", 6000 + i)
    assert run.evaluate() == 0
    first = run.model()
    assert (first["images"], first["split"]["how"]) == (16, "official")
    assert run.evaluate("--data", str(only)) == 0
    assert (run.model()["images"], run.model()["split"]["how"]) == (16, "external")
    assert run.model()["estimates"] == first["estimates"]
    assert export.main(["--all", *run.common, "--data", str(folder)]) == 0
    graph = [str(run.folder / "onnx" / "simple.onnx"), *run.common, "--report", str(run.folder / "report")]
    assert evaluate.main([*graph, "--data", str(folder)]) == 0
    assert (run.model("simple.onnx")["images"], run.model("simple.onnx")["split"]["how"]) == (16, "official")
