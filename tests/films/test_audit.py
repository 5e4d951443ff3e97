import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from basics import progress
from films import audit, giveaways, looks, sources
from films import phantoms as drawings

SIZE = 96
KERMANY = [(side, etiology, count, count) for (side, etiology), count in sources.KERMANY_V2.items()]


@pytest.fixture(scope="module")
def films() -> tuple[np.ndarray, np.ndarray, list[str]]:
    return drawings.generate(90, SIZE)


@pytest.fixture
def table(films) -> SimpleNamespace:
    """A data set without fault: what data.load gives, as far as the audit looks at it."""
    images, labels, files = films
    count = len(files)
    return SimpleNamespace(
        name="a test", source="/films", synthetic=False, images=images.copy(), labels=labels.copy(),
        files=list(files), patients=[sources.patient_of(file) for file in files], has_patients=True,
        unknown_patients=0, pixel_hashes=[f"{i:04x}" for i in range(count)],
        widths=np.full(count, 1200), heights=np.full(count, 800), modes=["L"] * count, bad=[], pseudonyms={},
    )  # fmt: skip


@pytest.fixture
def sides(table) -> dict[str, np.ndarray]:
    """Three, two and two sevenths of the patients."""
    place = {patient: k % 7 for k, patient in enumerate(dict.fromkeys(table.patients))}
    folds = np.array([place[patient] for patient in table.patients])
    bounds = {"train": (0, 2), "validation": (3, 4), "test": (5, 6)}
    return {side: np.flatnonzero((low <= folds) & (folds <= high)) for side, (low, high) in bounds.items()}


def twin(table: SimpleNamespace, original: int, copy: int) -> None:
    table.images[copy] = table.images[original]
    table.pixel_hashes[copy] = table.pixel_hashes[original]


def apart(table, sides, label: int, other_label: int, one: str = "train", other: str = "test") -> tuple[int, int]:
    """Two images of different patients, with these labels, on these sides."""
    i = next(i for i in sides[one] if table.labels[i] == label)
    j = next(j for j in sides[other] if table.labels[j] == other_label and table.patients[j] != table.patients[i])
    return int(i), int(j)


def jpeg(image: np.ndarray, quality: int = 60) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("L"))


def resized(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image).resize((SIZE * 2 // 3,) * 2, Image.Resampling.BILINEAR)
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def shifted(image: np.ndarray) -> np.ndarray:
    """By one pixel of 96 along both axes."""
    return np.pad(image, ((1, 0), (1, 0)), mode="edge")[:-1, :-1]


def brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 1.15 + 10, 0, 255).astype(np.uint8)


COPIES = [jpeg, resized, shifted, brighter]


# ------------------------------------------------------------------------------------- names and equal pixels


def test_shared_keys():
    keys = ["b", "a", "a", "b", "c", "c", "d"]
    sides = {"train": np.array([0, 1, 6]), "validation": np.array([2]), "test": np.array([3, 4, 5])}
    assert audit.shared_keys(keys, sides) == ["a", "b"]
    assert audit.shared_keys(keys, {"train": np.arange(7), "test": np.array([], int)}) == []


def test_identical_groups_and_contradictions(table):
    assert audit.identical_groups(["x", "y", "x", "z", "y", "x"]) == [[0, 2, 5], [1, 4]]
    assert audit.identical_groups(table.pixel_hashes) == audit.contradictions(table) == []
    normal, ill = (np.flatnonzero(table.labels == label).tolist() for label in (0, 1))
    twin(table, normal[0], normal[1])
    twin(table, normal[3], ill[2])
    both = sorted([normal[3], ill[2]])
    assert sorted(audit.identical_groups(table.pixel_hashes)) == sorted([normal[:2], both])
    assert audit.contradictions(table) == [both]


# ------------------------------------------------------------------------------------------ near duplicates


def slow_hash(image: np.ndarray) -> np.ndarray:
    """The 256 bits in exact integers: pixels are cut into 16 x 17 parts, so that cells end on edges."""
    size = len(image)
    parts = np.kron(image.astype(np.int64), np.ones((16, 17), np.int64))
    means = parts.reshape(16, size, 17, size).sum((1, 3))
    return (means[:, 1:] > means[:, :-1]).ravel()


@pytest.mark.parametrize("size", [32, 61, SIZE])
def test_hash_is_exact_at_any_size(size):
    images = drawings.generate(5, size)[0]
    images[3] = 255  # flat: no cell is brighter than another, and rounding must not say otherwise
    images[4] = np.tile(np.arange(size) // 3, (size, 1))  # rising
    hashes = looks.perceptual_hash(images)
    assert hashes.shape == (5, 4) and hashes.dtype == np.uint64
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(bool)
    for image, found in zip(images, bits, strict=True):
        assert (found == slow_hash(image)).all()
    assert not bits[3].any() and bits[4].all()


def test_hash_does_not_depend_on_chunks(films, monkeypatch):
    whole = looks.perceptual_hash(films[0])
    monkeypatch.setattr(looks, "CHUNK", 7)
    assert (looks.perceptual_hash(films[0]) == whole).all()
    monkeypatch.setattr(looks, "CHUNK_PIXELS", 10)  # images larger than a chunk come one by one
    assert (looks.perceptual_hash(films[0]) == whole).all()
    assert looks.perceptual_hash(films[0][:0]).shape == (0, 4)


@pytest.mark.parametrize("shape", [(3, 31, 31), (40, 40)])
def test_hash_refuses_what_it_cannot_hash(shape):
    with pytest.raises(ValueError, match="32"):
        looks.perceptual_hash(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("limit", [0, 90, 118])
def test_near_duplicates_are_all_pairs_within_the_limit(limit, monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (83, 4), np.uint64)
    hashes[70], hashes[20] = hashes[5], hashes[6]
    hashes[20, 3] ^= np.uint64(1 << 63)
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    expected = sorted(
        (int((bits[i] != bits[j]).sum()), i, j) for i in range(83) for j in range(i + 1, 83)
        if (bits[i] != bits[j]).sum() <= limit
    )  # fmt: skip
    assert len(expected) == 1 if limit == 0 else len(expected) >= 2
    monkeypatch.setattr(looks, "CHUNK", 10)  # the last block is a part of one
    assert audit.near_duplicates(hashes, limit) == [(i, j, distance) for distance, i, j in expected]


def test_near_duplicates_stops_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(audit, "PAIRS_AT_MOST", 50)
    assert len(audit.near_duplicates(np.zeros((40, 4), np.uint64))) == 50


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_is_near_and_alike(films, change):
    images = films[0][:40]
    both = np.concatenate([images, [change(image) for image in images]])
    hashes = looks.perceptual_hash(both)
    distances = np.bitwise_count(hashes[:40] ^ hashes[40:]).sum(1)
    assert (distances <= audit.HASH_LIMIT).mean() >= 0.9
    assert audit.likeness(both, [(i, 40 + i) for i in range(40)]).min() >= audit.ALIKE


def test_likeness_by_hand(films):
    images = films[0][:6].copy()
    images[4], images[5] = 77, images[0]
    pairs = [(0, 5, 0), (0, 4, 99), (1, 2, 3), (2, 1, 3), (0, 0, 0)]
    scores = audit.likeness(images, pairs)
    assert scores[[0, 4]] == pytest.approx(1, abs=1e-5)
    assert scores[1] == 0
    assert scores[2] < 0.9 and scores[3] < 0.9
    assert audit.likeness(images, []).shape == (0,)
    # One cell of 64 is 1.5 of these pixels: a shift by two cells is more than is looked for, one is not.
    fine = np.kron(np.random.default_rng(0).integers(60, 200, (1, 64, 64)), np.ones((2, 2))).astype(np.uint8)
    near, far = np.roll(fine, (2, -2), (1, 2)), np.roll(fine, (4, 0), (1, 2))
    scores = audit.likeness(np.concatenate([fine, near, far]), [(0, 1), (1, 0), (0, 2)])
    assert scores[:2].min() > 0.9 and abs(scores[2]) < 0.1


def test_likeness_does_not_depend_on_chunks(films, monkeypatch):
    pairs = [(i, j) for i in range(8) for j in range(i)]
    whole = audit.likeness(films[0], pairs)
    monkeypatch.setattr(looks, "CHUNK", 3)
    assert audit.likeness(films[0], pairs) == pytest.approx(whole, abs=1e-5)


# --------------------------------------------------------------------------------------------- broken films


def test_flags(films, monkeypatch):
    images = films[0].copy()
    assert not any(audit.flags(images).values())
    images[3] = 90
    images[10] = 0
    images[20] = np.random.default_rng(0).integers(0, 30, images[0].shape)
    images[30, :40] = 255
    images[40] = 255
    images[25] = films[0][25] * (40 / films[0][25].mean())  # dark, but a film
    images[45] = 91 - films[0][45] // 128  # a negative of two grey levels is nothing but constant
    images[50] = 200 - np.minimum(images[50], 200)  # a negative without a saturated pixel
    for chunk in (looks.CHUNK, 17):
        monkeypatch.setattr(looks, "CHUNK", chunk)
        found = audit.flags(images)
        assert found["constant"] == [3, 10, 40, 45]
        assert found["nearly black"] == [10, 20]
        assert found["saturated"] == [30, 40]
        assert 50 in found["inverted-looking"] and not {3, 10, 25, 40, 45} & set(found["inverted-looking"])


def test_every_negative_is_flagged_and_no_film(films):
    assert audit.flags(films[0])["inverted-looking"] == []
    assert audit.flags(255 - films[0])["inverted-looking"] == list(range(len(films[0])))


# ----------------------------------------------------------------------------------------------- the report


def test_every_long_stage_says_how_far_it_is(table, sides, capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(giveaways, "FILMS", 5)
    monkeypatch.setattr(giveaways, "PATIENTS", 5)
    twin(table, 0, 1)
    table.images[1, 0, 0] ^= 1
    table.pixel_hashes[1] = "another"
    audit.check(table, sides, "patient")
    assert list(dict.fromkeys(line.split(":")[0] for line in capsys.readouterr().err.splitlines())) == [
        "looking for odd images", "looking for near duplicates", "looking at near duplicates",
        "comparing near duplicates", "looking around the lungs", "what tells without lungs",
    ]  # fmt: skip


def test_a_faultless_data_set(table, sides, capsys):
    for i in sides["train"][:6]:  # one patient with more images than are counted apart
        table.patients[i] = table.patients[0]
    report = audit.check(table, sides, "patient")
    assert report["errors"] == []
    assert [row["images"] for row in report["sides"]] == [len(indices) for indices in sides.values()]
    for row, indices in zip(report["sides"], sides.values(), strict=True):
        assert row["pneumonia"] == table.labels[indices].sum() == row["images"] - row["normal"]
        assert row["patients"] == len({table.patients[i] for i in indices})
    counts = {patient: table.patients.count(patient) for patient in table.patients}
    assert {row["images of one patient"]: row["patients"] for row in report["patients"]} == {
        "1": sum(c == 1 for c in counts.values()), "2": sum(c == 2 for c in counts.values()),
        "3": sum(c == 3 for c in counts.values()), "4 or more": sum(c > 3 for c in counts.values()),
        "any number": len(counts),
    }  # fmt: skip
    audit.print_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ok"
    for title in ("Identical pixels: none", "Unreadable files: none", "Flagged images: none", "errors: none"):
        assert title in lines


def test_report_is_json(table, sides):
    twin(table, *apart(table, sides, 0, 1))
    table.bad = [("a\nb.png", "the file is empty")]
    table.images[7] = 0
    report = audit.check(table, sides, "official", KERMANY)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    json.dumps(report, ensure_ascii=False).encode()


@pytest.mark.parametrize("how", ["patient", "official", "image"])
def test_a_patient_on_two_sides(table, sides, how):
    i, j = apart(table, sides, 1, 1)
    table.patients[j] = table.patients[i]
    report = audit.check(table, sides, how)
    line = f"patients on several sides: 1, such as {table.patients[i]}"
    assert (line in report["errors"]) == (how != "image") and (line in report["warnings"]) == (how == "image")
    assert report["shared"] == [{"patient": table.patients[i]}]


@pytest.mark.parametrize("how", ["patient", "official", "image"])
def test_identical_pixels_on_two_sides(table, sides, how):
    i, j = apart(table, sides, 0, 0)
    twin(table, i, j)
    report = audit.check(table, sides, how)
    where, other = ("warnings", "errors") if how == "image" else ("errors", "warnings")
    assert any("sets of identical images on several sides: 1," in line for line in report[where])
    assert not any("on several sides" in line for line in report[other])
    assert any("identical images of several patients: 1," in line for line in report["warnings"])
    assert report["identical_groups"] == [sorted([table.files[i], table.files[j]], key=table.files.index)]
    groups = {row["identical images"]: row["groups"] for row in report["identical"]}
    assert groups == {
        "all": 1, "of one patient": 0, "of several patients": 1, "on several sides": 1, "with both labels": 0,
    }  # fmt: skip


@pytest.mark.parametrize("how", ["patient", "image"])
def test_both_labels_are_an_error_in_any_split(table, sides, how):
    i, j = apart(table, sides, 0, 1, other="train")
    twin(table, i, j)
    report = audit.check(table, sides, how)
    assert [line for line in report["errors"] if "both labels" in line]
    assert table.files[i] in report["errors"][0] and table.files[j] in report["errors"][0]
    assert len(report["errors"]) == 1


def test_identical_images_of_one_patient_are_neither_error_nor_warning(table, sides):
    i, j = next((i, j) for i in range(90) for j in range(i) if table.patients[i] == table.patients[j])
    before = audit.check(table, sides, "patient")
    twin(table, i, j)
    report = audit.check(table, sides, "patient")
    assert report["errors"] == []
    assert set(report["warnings"]) <= set(before["warnings"])
    assert {row["identical images"]: row["images"] for row in report["identical"]}["of one patient"] == 2


def test_a_class_missing_on_a_side(table, sides):
    sides["validation"] = sides["validation"][table.labels[sides["validation"]] == 1]
    assert audit.check(table, sides, "patient")["errors"] == ["the validation side has no normal image"]
    report = audit.check(table, {**sides, "test": np.array([], np.int64)}, "patient")
    assert "the test side has no pneumonia image" in report["errors"]


def test_a_source_without_test_images(table, sides, capsys):
    report = audit.check(table, {**sides, "test": np.array([], np.int64)}, "official")
    assert report["errors"] == []
    assert any("no test images" in line for line in report["warnings"])
    audit.print_report(report)
    assert "-" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("test")).split()


def test_small_sides_are_warned_of(table, sides):
    normal = np.flatnonzero(table.labels[sides["test"]] == 0)
    kept = np.delete(sides["test"], normal[audit.FEW - 1 :])
    few = int((table.labels[kept] == 0).sum())
    warnings = audit.check(table, {**sides, "test": kept}, "patient")["warnings"]
    assert f"only {few} normal images on the test side" in warnings


@pytest.mark.parametrize("change", COPIES)
def test_planted_near_duplicate(table, sides, change):
    """Between the most unlike places: another patient, side and class."""
    i, j = apart(table, sides, 0, 1)
    table.images[j] = change(table.images[i])
    report = audit.check(table, sides, "patient")
    names = "\n".join(table.files[k] for k in sorted((i, j)))
    row = next(row for row in report["near"] if row["images"] == names)
    assert row["one patient"] == "no" and row["sides"] == "test train" and row["classes"] == "normal pneumonia"
    assert row["likeness"] > 0.8 and all(row["likeness"] >= audit.ALIKE for row in report["near"])
    scores = [row["likeness"] for row in report["near"]]
    assert scores == sorted(scores, reverse=True)
    assert report["errors"] == []
    for what in ("sides", "classes"):
        assert any(f"look like one film, on two {what}: " in line for line in report["warnings"])
    table.synthetic = True
    assert not any("look like one film" in line for line in audit.check(table, sides, "patient")["warnings"])


def test_identical_pixels_are_no_near_duplicates(table, sides):
    i, j = apart(table, sides, 0, 0)
    twin(table, i, j)
    rows = audit.check(table, sides, "patient")["near"]
    assert "\n".join(table.files[k] for k in sorted((i, j))) not in [row["images"] for row in rows]
    table.pixel_hashes[j] = "other"  # the same table of pixels from files that differ
    rows = audit.check(table, sides, "patient")["near"]
    assert rows[0]["images"] == "\n".join(table.files[k] for k in sorted((i, j))) and rows[0]["bits apart"] == 0


@pytest.mark.parametrize(("name", "value"), [("COMPARED_AT_MOST", 89), ("PAIRS_AT_MOST", 1)])
def test_it_says_when_not_all_images_were_compared(table, sides, monkeypatch, capsys, name, value):
    assert audit.check(table, sides, "patient")["near_note"] == ""
    monkeypatch.setattr(audit, name, value)
    report = audit.check(table, sides, "patient")
    assert any(line.startswith("near duplicates:") for line in report["warnings"])
    audit.print_report(report)
    assert "Near duplicates: none" not in capsys.readouterr().out


def test_thumbnails_are_not_compared(table, sides):
    table.widths = np.full(90, 28)
    assert audit.check(table, sides, "patient")["near_note"].startswith("not looked for")


def test_what_else_is_warned_of(table, sides):
    table.unknown_patients = 1234
    table.bad = [("train/broken.jpeg", "the file is empty"), ("train/other.jpeg", "image file is truncated")]
    table.images[5] = 255 - table.images[5]
    facts = [("train", "normal", 1348, 1349), ("", "bacteria", 1, 2780), ("train", "virus", 1345, 1345)]
    facts.append(("test", "fungus", 3, None))
    report = audit.check(table, sides, "patient", facts)
    said = "\n".join(report["warnings"])
    assert "train normal 1,348 images instead of 1,349" in said and said.count("not a complete copy") == 2
    assert "data: bacteria 1 images instead of 2,780" in said
    assert "files that cannot be read: 2, such as train/broken.jpeg: the file is empty" in said
    assert "1,234 images" in said
    assert f"inverted-looking images: 1, such as {table.files[5]}" in said
    table.has_patients = False
    table.patients = ["not known"] * 90
    table.pixel_hashes[:2] = "same", "same"
    report = audit.check(table, sides, "image")
    assert {row["identical images"]: row["groups"] for row in report["identical"]}["of one patient"] == 0
    assert any("leaks of patients cannot be seen" in line for line in report["warnings"])
    assert report["shared"] == report["patients"] == [] and report["sides"][0]["patients"] is None


def test_other_data_are_not_compared_with_kermany(table, sides):
    for file, compared in ((table.files[0], True), ("train/NORMAL/film.png", False)):
        table.files[0] = file
        report = audit.check(table, sides, "patient", [("train", "normal", 5, 1349)])
        assert any("not a complete copy" in line for line in report["warnings"]) == compared
        assert report["found"][0]["expected"] == (1349 if compared else None)


def test_odd_names_stay_on_their_lines(table, sides, capsys):
    i, j = apart(table, sides, 0, 1)
    twin(table, i, j)
    table.files[i], table.files[j] = "train/NORMAL/Größe\n\x1b[31m.png", "2e5"
    table.patients[i] = table.patients[j] = "1e5"  # alone in its table, and no number
    table.bad = [("b\r\nc\udce4.png", "no\nreason")] * 12
    report = audit.check(table, sides, "patient")
    audit.print_report(report)
    out = capsys.readouterr().out
    assert "Größe\\n\\x1b[31m.png" in out and "\x1b" not in out and "\r" not in out
    assert "2e5" in out and "1e5" in [line.strip() for line in out.splitlines()]
    assert "Unreadable files (the first 10 of 12)" in out
    assert sum(line.startswith("b\\r\\nc\\udce4.png  no\\nreason") for line in out.splitlines()) == 10
    assert out.splitlines()[-1] == f"{len(report['errors'])} errors" == "3 errors"
    assert json.dumps(report, ensure_ascii=False).encode()


def test_sizes_and_modes(table, sides):
    table.widths, table.heights = np.arange(1000, 1090), np.full(90, 500)
    table.modes = ["RGB"] * 30 + ["L"] * 59 + ["I;16"]
    report = audit.check(table, sides, "patient")
    middle = pytest.approx(1044.5, abs=0.5)
    assert report["sizes"][0] == {"": "width", "minimum": 1000, "median": middle, "maximum": 1089}
    assert [report["sizes"][2][name] for name in ("minimum", "maximum")] == [2.0, 2.18]
    shape = table.widths / table.heights
    for row, label, name in zip(report["sizes"][3:], (0, 1), ("normal", "pneumonia"), strict=True):
        mine = shape[table.labels == label]
        assert row[""] == f"width / height, {name}" and [row["minimum"], row["maximum"]] == pytest.approx(
            [mine.min(), mine.max()], abs=0.0051)  # fmt: skip
    assert report["modes"] == [{"mode": m, "images": n} for m, n in (("L", 59), ("RGB", 30), ("I;16", 1))]


# --------------------------------------------------------------------------------------------- contact sheet


def drawn(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_contact_sheet_shows_every_image_twice(films):
    """Flat squares, each of its own grey, must be on the sheet in their own grey, in the order left, right."""
    greys = np.array([40, 80, 120, 160, 200])
    originals = np.broadcast_to(greys[:, None, None], (5, 50, 50)).astype(np.uint8)
    augmented = (originals + 20) / 255
    sheet = drawn(audit.contact_sheet(originals, augmented, ["name"] * 5, [0, 0, 1, 1, 1], "title"))
    for grey in greys.tolist():
        left, right = (np.argwhere((abs(sheet - value) <= 1).all(2)) for value in (grey, grey + 20))
        assert min(len(left), len(right)) > 150 * 150
        assert np.median(left[:, 0]) == np.median(right[:, 0])
        gap = np.median(right[:, 1]) - np.median(left[:, 1])  # medians: letters have some pixels of each grey
        assert 0 < gap < 1.1 * np.sqrt(len(left))
    rows = [np.median(np.argwhere((abs(sheet - grey) <= 1).all(2))[:, 0]) for grey in greys.tolist()]
    assert rows[0] == rows[1] < rows[2] == rows[3] == rows[4]
    same = drawn(audit.contact_sheet(originals, originals + np.uint8(20), ["name"] * 5, [0, 0, 1, 1, 1], "title"))
    assert (sheet == same).all()


def test_contact_sheet_with_odd_names(films):
    names = ["Größe $x^2$", "a\nb", "图像.png", "u\u0308.png", "n" * 300, "$", "\udce4"]
    images = films[0][:7]
    plain = drawn(audit.contact_sheet(images, images, ["name"] * 7, [1] * 7, "title"))
    odd = drawn(audit.contact_sheet(images, images, names, [1] * 7, "title 图 $x^2$"))
    assert odd.shape == plain.shape
    assert (odd != plain).any(2).mean() < 0.05  # the images are where they were
    names[3], names[4] = "ü.png", "n" * 33 + "..." + "n" * 33
    assert (drawn(audit.contact_sheet(images, images, names, [1] * 7, "title 图 $x^2$")) == odd).all()


def test_contact_sheet_marks_synthetic_data_in_red(films):
    images = films[0][:1]
    for title, red in (("SYNTHETIC: phantoms", True), ("films", False)):
        sheet = drawn(audit.contact_sheet(images, images, ["name"], [0], title))
        assert (sheet.max(2) - sheet.min(2)).max() > 100 if red else (sheet.max(2) == sheet.min(2)).all()


def test_contact_sheet_needs_an_image(films):
    with pytest.raises(ValueError, match="at least one"):
        audit.contact_sheet(films[0][:0], films[0][:0], [], [], "title")


# ---------------------------------------------------------------------------------------------- real films


def test_false_alarms_on_real_films(real_folder):
    found = [(file, label) for label, name in enumerate(sources.CLASSES)
             for file in sorted((Path(real_folder) / "train" / name).glob("*.jp*g"))[:200]]  # fmt: skip
    if len(found) < 400:
        pytest.skip("fewer than 200 films a class")
    films = []
    for file, _ in found:
        with Image.open(file) as image:
            films.append(np.asarray(image.convert("L").resize((224, 224), Image.Resampling.BILINEAR)))
    films = np.stack(films)
    assert not any(audit.flags(films).values())
    assert len(audit.flags(255 - films)["inverted-looking"]) == len(films)
    patients = [sources.patient_of(file.name) for file, _ in found]
    pairs = [pair for pair in audit.near_duplicates(looks.perceptual_hash(films))
             if patients[pair[0]] != patients[pair[1]]]  # fmt: skip
    assert pairs  # the hash alone proposes some: chests look alike
    assert audit.likeness(films, pairs).max() < audit.ALIKE
    copies = np.concatenate([films[::10], [jpeg(np.roll(film, (2, 2), (0, 1))) for film in films[::10]]])
    assert audit.likeness(copies, [(i, 40 + i) for i in range(40)]).min() >= audit.ALIKE
