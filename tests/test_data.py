import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

import data
from common import Problem, UsageProblem

CPU = torch.device("cpu")


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (50, 40), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def make_folder(root: Path, sides: tuple[str, ...] = ("",), count: int = 12) -> Path:
    """A small Kermany-like tree: `count` patients a class and side, every third with a second image."""
    seed = 0
    for s, side in enumerate(sides):
        for i in range(count):
            for n in range(1, 3 if i % 3 == 0 else 2):
                seed += 2
                draw(root / side / "NORMAL" / f"IM-{1000 * s + i:04d}-{n:04d}.jpeg", seed)
                draw(root / side / "PNEUMONIA" / f"person{1000 * s + i}_virus_{n}.jpeg", seed + 1)
    return root


# ------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("file", "patient"),
    [
        ("train/PNEUMONIA/person23_bacteria_77.jpeg", "person23_bacteria"),
        ("person23_virus_77.jpeg", "person23_virus"),
        ("person447_virus_921_1.jpeg", "person447_virus"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0011-0001-0001.jpeg", "IM-0011"),
        ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115"),
        ("film.png", None),
        ("person23_fungus_1.jpeg", None),
    ],
)
def test_patient_key(file, patient):
    assert data.patient_of(file) == patient


# ------------------------------------------------------------------------------------- layouts and errors


@pytest.mark.parametrize("wrapped", ["", "chest_xray", "archive/chest_xray"])
@pytest.mark.parametrize("sides", [("",), ("train",), ("train", "test"), ("train", "val", "test")])
def test_layouts(tmp_path, cache, sides, wrapped):
    make_folder(tmp_path / wrapped, sides)
    (tmp_path / wrapped / "__MACOSX").mkdir()
    (tmp_path / wrapped / ".DS_Store").touch()
    dataset = data.load(str(tmp_path), 32, cache)
    assert len(dataset.files) == 32 * len(sides)
    assert dataset.labels.sum() == 16 * len(sides)
    assert set(dataset.folders) == set(sides)
    assert dataset.files == sorted(dataset.files)
    assert dataset.images.shape == (len(dataset.files), 32, 32)
    assert not dataset.synthetic


def test_class_folders_in_any_case_and_all_formats(tmp_path, cache):
    for i, (suffix, mode) in enumerate([("png", "L"), ("jpg", "RGB"), ("JPEG", "L"), ("png", "RGB"), ("png", "P")] * 3):
        draw(tmp_path / ("Normal" if i % 2 else "pneumonia") / f"{i}.{suffix}", i, mode=mode)
    dataset = data.load(str(tmp_path), 32, cache)
    assert len(dataset.files) == 15
    assert dataset.unknown_patients == 15
    assert len(set(dataset.patients)) == 15


def test_a_wrong_folder_is_a_wrong_call(tmp_path, cache):
    with pytest.raises(UsageProblem, match="nowhere: no such folder"):
        data.load(str(tmp_path / "nowhere"), 32, cache)
    (tmp_path / "file").touch()
    with pytest.raises(UsageProblem, match="this is a file"):
        data.load(str(tmp_path / "file"), 32, cache)
    with pytest.raises(Problem, match="no folders named NORMAL and PNEUMONIA"):
        data.load(str(tmp_path), 32, cache)
    draw(tmp_path / "NORMAL" / "IM-0001-0001.jpeg")
    with pytest.raises(Problem, match="no JPEG or PNG image in any folder named PNEUMONIA"):
        data.load(str(tmp_path), 32, cache)


def test_bad_files_are_named_with_their_reason_and_nothing_is_cached(tmp_path):
    folder = make_folder(tmp_path / "x")
    whole = (folder / "NORMAL" / "IM-0001-0001.jpeg").read_bytes()
    (folder / "NORMAL" / "IM-0001-0001.jpeg").write_bytes(whole[: len(whole) // 2])
    (folder / "NORMAL" / "IM-0002-0001.jpeg").write_bytes(b"")
    (folder / "PNEUMONIA" / "person1_virus_1.jpeg").write_text("no image")
    (folder / "PNEUMONIA" / "person2_virus_1.jpeg").unlink()
    (folder / "PNEUMONIA" / "person2_virus_1.jpeg").symlink_to("nowhere.jpeg")
    with pytest.raises(Problem) as caught:
        data.load(str(folder), 32, tmp_path / "cache")
    assert "person2_virus_1.jpeg" in str(caught.value)
    (folder / "PNEUMONIA" / "person2_virus_1.jpeg").unlink()
    with pytest.raises(Problem) as caught:
        data.load(str(folder), 32, tmp_path / "cache")
    text = str(caught.value)
    assert text.startswith("3 of 31 files cannot be read")
    assert "IM-0001-0001.jpeg: " in text and "truncated" in text
    assert "IM-0002-0001.jpeg: not a JPEG or PNG image" in text
    assert "person1_virus_1.jpeg: not a JPEG or PNG image" in text
    assert list((tmp_path / "cache").iterdir()) == []


def test_too_many_pixels_are_refused(tmp_path, monkeypatch):
    draw(tmp_path / "x.png", size=(50, 40))
    monkeypatch.setattr(data, "MAX_PIXELS", 1999)
    with pytest.raises(ValueError, match="x.png: 50 x 40 pixels is more than the limit"):
        data.decode(tmp_path / "x.png", 32)


# -------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("size", [(50, 40), (400, 233), (32, 32), (17, 900)])
def test_decoding_agrees_with_torchvisions_antialiased_bilinear(tmp_path, size):
    draw(tmp_path / "x.png", size=size)
    found, _ = data.decode(tmp_path / "x.png", 64)
    with Image.open(tmp_path / "x.png") as image:
        pixels = torch.from_numpy(np.array(image))[None]
    expected = functional.resize(pixels, [64, 64], antialias=True)[0].numpy()
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_grey_rgb_and_16_bits_of_one_film_decode_alike(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "rgb.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    decoded = [data.decode(tmp_path / f"{name}.png", 32) for name in ("l", "rgb", "16")]
    for image, pixel_hash in decoded:
        assert (image == decoded[0][0]).all()
        assert pixel_hash == decoded[0][1]


# ------------------------------------------------------------------------------------------------- the cache


def test_a_second_load_decodes_nothing(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "x")
    first = data.load(str(folder), 32, tmp_path / "cache")
    monkeypatch.setattr(data, "decode", None)
    second = data.load(str(folder), 32, tmp_path / "cache")
    assert (first.images == second.images).all()
    assert first.fingerprint == second.fingerprint
    assert first.pixel_hashes == second.pixel_hashes


def test_a_changed_source_never_meets_a_stale_cache(tmp_path):
    folder = make_folder(tmp_path / "x")
    first = data.load(str(folder), 32, tmp_path / "cache")
    path = folder / first.files[0]
    before = path.stat()
    changed = bytearray(path.read_bytes())
    changed[-20] ^= 1  # same name, length and time of change
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert data.load(str(folder), 32, tmp_path / "cache").fingerprint != first.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert data.load(str(folder), 48, tmp_path / "cache").images.shape[1] == 48


def test_a_damaged_cache_is_built_again(tmp_path):
    folder = make_folder(tmp_path / "x")
    first = np.array(data.load(str(folder), 32, tmp_path / "cache").images)
    (built,) = (tmp_path / "cache").iterdir()
    (built / "images.npy").write_bytes((built / "images.npy").read_bytes()[:-100])
    assert (data.load(str(folder), 32, tmp_path / "cache").images == first).all()
    (built / "listing.json").unlink()
    assert (data.load(str(folder), 32, tmp_path / "cache").images == first).all()


def test_two_processes_may_build_one_cache_at_once(tmp_path):
    folder = make_folder(tmp_path / "x", count=40)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import data\n"
        "d = data.load(sys.argv[2], 224, Path(sys.argv[3])); print(int(d.images.astype(int).sum()))"
    )
    command = [sys.executable, "-c", code, os.path.dirname(data.__file__), str(folder), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1  # no temporary folder is left


# --------------------------------------------------------------------------------------------------- splits


def sides(split: data.Split) -> dict[str, np.ndarray]:
    return {"train": split.train, "validation": split.validation, "test": split.test}


@pytest.mark.parametrize("seed", range(5))
def test_the_patient_split_is_a_partition_without_leaks(phantoms, seed):
    split = data.split(phantoms, "patient", seed)
    everything = np.concatenate(list(sides(split).values()))
    assert sorted(everything) == list(range(len(phantoms.labels)))
    for keys in (phantoms.patients, phantoms.pixel_hashes):
        seen = [{keys[i] for i in indices} for indices in sides(split).values()]
        assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    for indices, share in zip(sides(split).values(), (0.7, 0.1, 0.2), strict=True):
        assert abs(len(indices) / len(everything) - share) < 0.02
        assert abs(phantoms.labels[indices].mean() - phantoms.labels.mean()) < 0.03


def test_a_split_depends_on_its_seed_and_on_nothing_else(phantoms, tmp_path, cache):
    assert data.split(phantoms).fingerprint == data.split(phantoms).fingerprint
    assert data.split(phantoms, seed=1).fingerprint != data.split(phantoms).fingerprint
    assert data.split(phantoms, "image").fingerprint != data.split(phantoms).fingerprint
    one = data.load(str(make_folder(tmp_path / "one")), 32, cache)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert data.split(data.load(str(tmp_path / "two"), 48, cache)).fingerprint == data.split(one).fingerprint


def test_identical_pixels_stay_together(tmp_path, cache):
    folder = make_folder(tmp_path, count=30)
    for i in range(0, 30, 2):  # neighbouring patients share a film
        shutil.copy(folder / "NORMAL" / f"IM-{i:04d}-0001.jpeg", folder / "NORMAL" / f"IM-{i + 1:04d}-0002.jpeg")
    dataset = data.load(str(folder), 32, cache)
    for seed in range(5):
        assert data.describe_leak(dataset, sides(data.split(dataset, "patient", seed))) == ""
    assert "sets of identical images" in data.describe_leak(dataset, sides(data.split(dataset, "image")))


def test_the_image_split_counts_the_patients_on_both_sides(phantoms):
    split = data.split(phantoms, "image")
    where = {}
    for side, indices in sides(split).items():
        for i in indices:
            where.setdefault(phantoms.patients[i], set()).add(side)
    shared = sum(len(found) > 1 for found in where.values())
    assert shared > 10
    assert f"WARNING: {shared:,} patients are on more than one side" in split.notes[0]


def test_the_official_split_tests_on_the_test_folder(tmp_path, cache):
    dataset = data.load(str(make_folder(tmp_path, ("train", "val", "test"))), 32, cache)
    split = data.split(dataset, "official")
    assert {dataset.folders[i] for i in split.test} == {"test"}
    assert {dataset.folders[i] for i in np.concatenate([split.train, split.validation])} == {"train", "val"}
    assert abs(len(split.validation) / (len(split.train) + len(split.validation)) - 0.1) < 0.05
    assert data.describe_leak(dataset, sides(split)) == ""


def test_the_official_split_refuses_a_leak_and_a_folder_without_sides(tmp_path, cache, phantoms):
    folder = make_folder(tmp_path, ("train", "test"))
    shutil.copy(folder / "train/NORMAL/IM-0001-0001.jpeg", folder / "test/NORMAL/IM-9999-0001.jpeg")
    with pytest.raises(Problem, match="1 sets of identical images are on more than one side"):
        data.split(data.load(str(folder), 32, cache), "official")
    with pytest.raises(Problem, match="needs train/ and test/ folders"):
        data.split(phantoms, "official")


def test_too_few_images_and_unknown_splits_are_refused(tmp_path, cache, phantoms):
    dataset = data.load(str(make_folder(tmp_path, count=1)), 32, cache)
    with pytest.raises(Problem, match="too few images"):
        data.split(dataset)
    with pytest.raises(UsageProblem, match="unknown split"):
        data.split(phantoms, "patients")


def test_unknown_names_are_said(tmp_path, cache):
    for i in range(40):
        draw(tmp_path / ("NORMAL" if i % 2 else "PNEUMONIA") / f"film {i}.png", i)
    split = data.split(data.load(str(tmp_path), 32, cache))
    assert split.notes == ("40 file names say nothing of the patient: each counts as a patient of its own",)


# ------------------------------------------------------------------------------------------------- real data


def test_real_data_is_recognised_and_split_by_patient(real_folder, tmp_path_factory):
    root, entries, _ = data.find_images(Path(real_folder))
    if len(entries) == 5232:
        assert data.describe(entries) == "Kermany v2: 5,232 of 5,856 images, train only"
    dataset = data.load(real_folder, 64, tmp_path_factory.mktemp("real"))
    assert dataset.unknown_patients == 0
    patients = set(dataset.patients)
    if len(entries) == 5232:
        assert len(patients) == 3669  # REFERENCE: the published count of training patients
    for seed in range(3):
        split = data.split(dataset, "patient", seed)
        assert data.describe_leak(dataset, sides(split)) == ""
    assert "patients are on more than one side" in data.split(dataset, "image").notes[0]


def test_an_incomplete_copy_is_said(tmp_path):
    _, entries, _ = data.find_images(make_folder(tmp_path, ("train",)))
    text = data.describe(entries)
    assert text.startswith("Kermany v2: 32 of 5,856 images by their file names, not a complete copy")
    assert "train normal 16 instead of 1,349" in text


# --------------------------------------------------------------------------------------------------- batches


def batches(dataset, indices, **options) -> data.Batches:
    return data.Batches(data.table_on(dataset, CPU), dataset.labels, indices, 16, CPU, (0.5, 0.25), **options)


def test_without_augmentation_batches_are_the_normalised_pixels_in_order(phantoms):
    indices = np.array([5, 2, 9, *range(20, 60)])
    found = list(batches(phantoms, indices).epoch())
    assert [len(labels) for _, labels in found] == [16, 16, 11]
    images = torch.cat([images for images, _ in found]).numpy()
    expected = (phantoms.images[indices][:, None] / 255.0 - 0.5) / 0.25
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert (torch.cat([labels for _, labels in found]).numpy() == phantoms.labels[indices]).all()
    assert images.dtype == np.float32


def test_training_batches_hold_every_image_once_and_none_is_tiny(phantoms):
    indices = np.arange(0, 97)
    labels = np.arange(len(phantoms.labels))  # a label of its own for every image shows which was met
    loader = data.Batches(data.table_on(phantoms, CPU), labels, indices, 16, CPU, (0.5, 0.25), data.Augment(), 3)
    epochs = [[y.numpy() for _, y in loader.epoch(epoch)] for epoch in (1, 2, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(indices)
        assert {len(part) for part in epoch} <= {13, 14}  # 97 images in 7 batches
        assert len(epoch) == len(loader)
    assert (np.concatenate(epochs[0]) != np.concatenate(epochs[1])).any()
    assert (np.concatenate(epochs[0]) == np.concatenate(epochs[2])).all()


def test_the_same_seed_gives_the_same_augmented_pixels(phantoms):
    indices = np.arange(40)
    first, again, other = (
        torch.cat([x for x, _ in batches(phantoms, indices, augment=data.Augment(), seed=seed).epoch(1)])
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_change_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 20, 20)
    affine, tone = data.draw_changes(data.NO_AUGMENT, 5, generator)
    torch.testing.assert_close(data.change(images, affine, tone), images, atol=1e-5, rtol=0)


def test_changes_stay_within_their_bounds():
    augment = data.Augment(0.06, 0.1, 7.0, 0.1, 0.15)
    affine, tone = data.draw_changes(augment, 4000, torch.Generator().manual_seed(0))
    zoom = 1 / torch.linalg.det(affine[:, :, :2]).sqrt()
    angle = torch.atan2(affine[:, 1, 0], affine[:, 0, 0]).rad2deg()
    for values, low, high in [
        (zoom, 0.9, 1.1), (angle, -7, 7), (affine[:, :, 2], -0.12, 0.12), (tone[:, 0], 0.85, 1.15), (tone[:, 1], -0.1, 0.1)
    ]:  # fmt: skip
        spread = high - low
        assert low - 1e-5 <= values.min() < low + 0.02 * spread
        assert high - 0.02 * spread < values.max() <= high + 1e-5
    assert (torch.linalg.det(affine[:, :, :2]) > 0).all()  # no mirror image unless it was asked for


def test_flips_mirror_half_of_the_images_exactly():
    augment = data.Augment(0, 0, 0, 0, 0, flip=True)
    affine, tone = data.draw_changes(augment, 200, torch.Generator().manual_seed(0))
    images = torch.rand(200, 1, 16, 16)
    found = data.change(images, affine, tone)
    mirrored = [bool(torch.allclose(a, b.flip(-1), atol=1e-5)) for a, b in zip(found, images, strict=True)]
    same = [bool(torch.allclose(a, b, atol=1e-5)) for a, b in zip(found, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 60 < sum(mirrored) < 140


def test_shift_and_tone_do_what_their_units_say():
    image = torch.full((1, 1, 100, 100), 0.5)
    image[..., 40:60, 40:60] = 0.9
    affine = torch.tensor([[[1.0, 0, 0.2], [0, 1.0, 0]]])  # 0.2 of the coordinates' 2 is a tenth of the side
    moved = data.change(image, affine, torch.tensor([[1.0, 0.0]]))
    assert moved[0, 0, 50, 31] > 0.85 and moved[0, 0, 50, 55] < 0.55  # to the left by 10 pixels
    assert moved[0, 0, 50, 95] == 0  # black comes in from outside
    plain = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
    brighter = data.change(image, plain, torch.tensor([[1.0, 0.05]]))
    torch.testing.assert_close(brighter, image + 0.05)
    steeper = data.change(image, plain, torch.tensor([[1.1, 0.0]]))
    torch.testing.assert_close(steeper.mean(), image.mean())
    torch.testing.assert_close(steeper.std(), image.std() * 1.1)


def test_pixel_statistics_are_exact(phantoms):
    indices = np.arange(7, 300, 3)
    mean, std = data.pixel_statistics(data.table_on(phantoms, CPU), indices)
    pixels = phantoms.images[indices].astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean(), abs=1e-12)
    assert std == pytest.approx(pixels.std(), abs=1e-12)


def test_no_data_means_phantoms_and_they_say_so(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "__file__", str(tmp_path / "data.py"))  # as if nothing stood beside the scripts
    dataset = data.load(None, 64, cache)
    assert dataset.synthetic
    assert dataset.name.startswith("SYNTHETIC")
    make_folder(tmp_path / "data" / "chest_xray")
    assert not data.load(None, 64, cache).synthetic
