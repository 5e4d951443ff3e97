import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from films.augmentation import Changes, affine_maps, change, draw_changes, framed, sampling_grid, smoothed
from films.variation import NO_AUGMENT, Augment
from training.batches import Batches, in_background, pixel_statistics, table_on

CPU = torch.device("cpu")


def batches(dataset, indices, **options) -> Batches:
    return Batches(table_on(dataset.images, CPU), dataset.labels, indices, 16, CPU, (0.5, 0.25), **options)


def test_without_augmentation_batches_are_the_normalised_pixels_in_order(phantoms):
    indices = np.array([5, 2, 9, *range(20, 60)])
    found = list(batches(phantoms, indices).epoch())
    assert [len(labels) for _, labels in found] == [15, 14, 14]  # 43 images, 16 at most, as even as can be
    images = torch.cat([images for images, _ in found]).numpy()
    expected = (phantoms.images[indices][:, None] / 255.0 - 0.5) / 0.25
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert (torch.cat([labels for _, labels in found]).numpy() == phantoms.labels[indices]).all()
    assert images.dtype == np.float32


def test_training_batches_hold_every_image_once_and_none_is_tiny(phantoms):
    indices = np.arange(0, 97)
    labels = np.arange(len(phantoms.labels))  # a label of its own for every image shows which was met
    loader = Batches(table_on(phantoms.images, CPU), labels, indices, 16, CPU, (0.5, 0.25), Augment(), 3)
    epochs = [[y.numpy() for _, y in loader.epoch(epoch)] for epoch in (1, 2, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(indices)
        assert {len(part) for part in epoch} <= {13, 14}  # 97 images in 7 batches
        assert len(epoch) == len(loader)
    assert (np.concatenate(epochs[0]) != np.concatenate(epochs[1])).any()
    assert (np.concatenate(epochs[0]) == np.concatenate(epochs[2])).all()


def test_no_training_batch_holds_one_image_alone(phantoms):
    """Of 5 in batches of 2 there are 3 and 2; wherever nothing was alone, the batches are what they were."""
    table = table_on(phantoms.images, CPU)
    for count in range(2, 40):
        for size in range(2, count + 3):
            arguments = (table, phantoms.labels, np.arange(count), size, CPU, (0.5, 0.25))
            found = Batches(*arguments, Augment()).batch_sizes()
            before = [len(part) for part in np.array_split(np.arange(count), math.ceil(count / size))]
            assert sum(found) == count and min(found) >= 2 and max(found) - min(found) <= 1
            assert found == before or (size == 2 and count % 2 and found == [3] + [2] * (count // 2 - 1))
            assert Batches(*arguments).batch_sizes() == before  # where nothing is trained one alone does no harm
            shares = [Batches(*arguments, Augment(), shard=(k, 2)).places() for k in range(2)]
            assert sum(here.stop - here.start for share in shares for here in share) == count


def test_the_same_seed_gives_the_same_augmented_pixels(phantoms):
    indices = np.arange(40)
    first, again, other = (
        torch.cat([x for x, _ in batches(phantoms, indices, augment=Augment(), seed=seed).epoch(1)])
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_change_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 20, 20)
    changes = draw_changes(NO_AUGMENT, torch.zeros(5), generator)
    assert changes.detail is None and changes.cover is None
    torch.testing.assert_close(change(images, changes), images, atol=1e-5, rtol=0)


def test_changes_stay_within_their_bounds_and_reach_them():
    augment = Augment(0.06, 0.5, 1.2, 1.5, 7.0, 0.0, 0.1, 0.15, 0.4, 0.8, 0.6, 0.2)
    changes = draw_changes(augment, torch.zeros(20_000), torch.Generator().manual_seed(0))
    affine = changes.affine
    seen = torch.linalg.vector_norm(affine[:, :, :2], dim=2)  # the lengths of its rows: width and height
    area, shape = seen.prod(1).sqrt(), seen[:, 0] / seen[:, 1]
    angle = torch.atan2(affine[:, 1, 0] / seen[:, 1], affine[:, 0, 0] / seen[:, 0]).rad2deg()
    room = 2 * 0.06 + (1 - seen).abs()  # in coordinates in which the side is 2 long
    for values, low, high in [
        (area, 0.5, 1.2),
        (shape, 1 / 1.5, 1.5),
        (angle, -7, 7),
        (affine[:, :, 2] / room, -1, 1),
        (changes.tone[:, 0], 0.85, 1.15),
        (changes.tone[:, 1], -0.1, 0.1),
        (changes.tone[:, 2], -0.4, 0.4),
        (changes.detail, -0.8, 0.6),
        (changes.cover, 0, 0.2),
    ]:
        spread = high - low
        assert low - 1e-5 <= values.min() < low + 0.02 * spread
        assert high - 0.02 * spread < values.max() <= high + 1e-5
    assert (torch.linalg.det(affine[:, :, :2]) > 0).all()  # no mirror image unless it was asked for
    assert 0.45 < (changes.cover == 0).float().mean() < 0.55


def test_a_part_of_the_film_lies_inside_it_and_a_film_inside_its_frame():
    """With no further shift: a part of 60 % never shows what is outside, and in a frame of 150 % nothing is cut off."""
    images = torch.ones(200, 1, 30, 30)
    for side, expected in ((0.6, torch.ones(200)), (1.5, torch.full((200,), (1 / 1.5) ** 2))):
        augment = Augment(shift=0, tightest=side, widest=side, rotation=0, brightness=0, contrast=0)
        found = change(images, draw_changes(augment, torch.zeros(200), torch.Generator().manual_seed(0)))
        torch.testing.assert_close(found.mean((1, 2, 3)), expected, atol=0.02, rtol=0)


def test_images_that_are_unmoved_are_not_resampled():
    images = torch.rand(1000, 1, 8, 8)
    augment = replace(Augment(unmoved=0.3), brightness=0, contrast=0)
    found = change(images, draw_changes(augment, torch.zeros(1000), torch.Generator().manual_seed(0)))
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(found, images, strict=True)]
    assert 250 < sum(same) < 350
    mirrored = change(
        images, draw_changes(replace(augment, unmoved=1, flip=True), torch.zeros(1000), torch.Generator())
    )
    assert torch.allclose(mirrored.sort().values, images.sort().values, atol=1e-5) and not torch.equal(mirrored, images)


@pytest.mark.parametrize("shapes", [1.4, 1 / 1.4])
def test_films_are_cut_toward_the_shape_of_the_other_class(shapes):
    """Of a disc in a film that is drawn into a square again: it grows in one direction, by up to what shapes say."""
    labels = torch.arange(400) % 2
    at = torch.arange(64) - 31.5
    disc = (at[:, None] ** 2 + at**2 < 15**2).float().repeat(400, 1, 1, 1)
    changes = draw_changes(replace(NO_AUGMENT, reshaped=0.5), labels, torch.Generator().manual_seed(0), shapes)
    shown = change(disc, changes)[:, 0] > 0.5
    width, height = (shown.any(k).sum(1) / 30 for k in (1, 2))
    for label in (0, 1):
        # where pneumonias were wider (more than 1), it is they that making them square narrowed: they lose width
        grown, kept = (width, height) if label == int(shapes > 1) else (height, width)
        grown, kept = grown[labels == label], kept[labels == label]
        assert (kept == 1).all() and (grown >= 1).all() and 1.33 < grown.max() <= 1.41
        exact = 1 / changes.affine[labels == label].diagonal(dim1=1, dim2=2).amin(1)  # without a disc's pixels
        torch.testing.assert_close(grown, exact, atol=0.04, rtol=0)
        assert 0.4 < (exact == 1).float().mean() < 0.6
        assert exact[exact > 1].mean() == pytest.approx((1.4 - 1) / np.log(1.4), abs=0.02)  # the mean of 1.4^u


def test_without_shapes_or_without_a_share_none_is_cut():
    labels = torch.arange(40) % 2
    plain, *others = (
        draw_changes(replace(Augment(), reshaped=share), labels, torch.Generator().manual_seed(0), shapes).affine
        for share, shapes in ((0.0, 1.3), (0.5, 1.0), (0.5, 1.3))
    )
    assert others[0].equal(plain) and not others[1].equal(plain)
    assert others[1][:, :, 2].equal(plain[:, :, 2]), "the middle of what is seen stays"


def test_batches_cut_by_their_own_labels(phantoms):
    ill, well = (np.flatnonzero(phantoms.labels == label) for label in (1, 0))
    indices = np.concatenate([ill[:9], well[3:20], ill[30:35]])
    augment = replace(NO_AUGMENT, reshaped=1.0)
    loader = batches(phantoms, indices, augment=augment, seed=5, shapes=1.3)
    order, changes = loader._drawn(2)
    width, height = changes.affine[:, 0, 0], changes.affine[:, 1, 1]
    pneumonia = torch.from_numpy(phantoms.labels[indices][order.numpy()] == 1)
    assert torch.equal(width < 1, pneumonia) and torch.equal(height < 1, ~pneumonia) and pneumonia.sum() == 14


def test_flips_mirror_half_of_the_images_exactly():
    augment = replace(NO_AUGMENT, flip=True)
    images = torch.rand(200, 1, 16, 16)
    found = change(images, draw_changes(augment, torch.zeros(200), torch.Generator().manual_seed(0)))
    mirrored = [bool(torch.allclose(a, b.flip(-1), atol=1e-5)) for a, b in zip(found, images, strict=True)]
    same = [bool(torch.allclose(a, b, atol=1e-5)) for a, b in zip(found, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 60 < sum(mirrored) < 140


PLAIN = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])


def tone(contrast=1.0, brightness=0.0, curve=0.0) -> torch.Tensor:
    return torch.tensor([[contrast, brightness, curve]])


def test_shift_and_tone_do_what_their_units_say():
    image = torch.full((1, 1, 100, 100), 0.5)
    image[..., 40:60, 40:60] = 0.9
    affine = torch.tensor([[[1.0, 0, 0.2], [0, 1.0, 0]]])  # 0.2 of the coordinates' 2 is a tenth of the side
    moved = change(image, Changes(affine, tone()))
    assert moved[0, 0, 50, 31] > 0.85 and moved[0, 0, 50, 55] < 0.55  # to the left by 10 pixels
    assert moved[0, 0, 50, 95] == 0  # black comes in from outside
    torch.testing.assert_close(change(image, Changes(PLAIN, tone(brightness=0.05))), image + 0.05)
    steeper = change(image, Changes(PLAIN, tone(contrast=1.1)))
    torch.testing.assert_close(steeper.mean(), image.mean())
    torch.testing.assert_close(steeper.std(), image.std() * 1.1)
    curved = change(image, Changes(PLAIN, tone(curve=0.4)))
    torch.testing.assert_close(curved, image + 0.4 * image * (1 - image))


def test_the_part_of_a_film_is_where_it_was_asked_for():
    image = torch.zeros(1, 1, 100, 100)
    image[..., 20:60, 50:70] = 1  # rows and columns
    middle = torch.tensor([[0.2, -0.2]])  # 10 pixels right of the middle, 10 above
    affine = affine_maps(torch.tensor([[0.2, 0.4]]), torch.zeros(1), middle)
    found = change(image, Changes(affine, tone()))
    assert (found[0, 0, 3:-3, 3:-3] > 0.999).all()  # but for where the last pixel is half outside


def test_detail_is_added_and_taken_away():
    image = torch.rand(1, 1, 40, 40) * 0.5 + 0.25
    blurred = change(image, Changes(PLAIN, tone(), torch.tensor([-1.0])))
    weights = np.outer(*[np.array([1, 4, 6, 4, 1]) / 16] * 2)
    expected = ndimage.convolve(image[0, 0].double().numpy(), weights, mode="nearest")
    np.testing.assert_allclose(blurred[0, 0].numpy(), expected, atol=1e-5)
    sharper = change(image, Changes(PLAIN, tone(), torch.tensor([0.5])))
    torch.testing.assert_close(sharper, (image + 0.5 * (image - blurred)).clamp(0, 1), atol=1e-5, rtol=0)
    assert torch.equal(smoothed(torch.ones(2, 1, 7, 5)), torch.ones(2, 1, 7, 5))


def test_covered_sides_are_black():
    image = torch.ones(1, 1, 20, 20)
    found = change(image, Changes(PLAIN, tone(), None, torch.tensor([[0.1, 0.2, 0.0, 0.25]])))[0, 0]
    assert (found[:15, 2:16] == 1).all()
    assert (found[:, :2] == 0).all() and (found[:, 16:] == 0).all() and (found[15:] == 0).all()


def test_a_batch_takes_frames_from_the_films_of_its_set_alone(phantoms):
    chosen = np.arange(10, 50, 2)
    augment = replace(NO_AUGMENT, frames=1.0)
    made = batches(phantoms, chosen, augment=augment)
    order, changes = made._drawn(4)
    expected = framed(
        *(torch.from_numpy(phantoms.images[chosen[some]])[:, None] / 255 for some in (order, changes.donor)),
        changes.frame,
    )  # fmt: skip
    shown = torch.cat([images for images, _ in made.epoch(4)])
    np.testing.assert_allclose(shown * made.std + made.mean, expected, atol=1e-5)


def test_the_grid_is_torchs():
    affine = draw_changes(Augment(flip=True, aspect=1.3), torch.zeros(6), torch.Generator().manual_seed(1)).affine
    for side in (1, 7, 64):
        expected = torch.nn.functional.affine_grid(affine, [6, 1, side, side], align_corners=False)
        torch.testing.assert_close(sampling_grid(affine, side), expected, atol=1e-6, rtol=0)


def test_smaller_images_are_the_same_ones_antialiased(phantoms):
    indices = np.arange(10, 40)
    full = torch.cat([x for x, _ in batches(phantoms, indices).epoch()])
    small = torch.cat([x for x, _ in batches(phantoms, indices).epoch(side=32)])
    assert small.shape == (30, 1, 32, 32)
    expected = torch.nn.functional.interpolate(full, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, expected, atol=1e-4, rtol=0)
    changed = torch.cat([x for x, _ in batches(phantoms, indices, augment=Augment()).epoch(1, side=32)])
    assert changed.shape == (30, 1, 32, 32) and changed.isfinite().all()


def test_skipping_gives_the_rest_of_the_epoch(phantoms):
    indices = np.arange(3, 150)
    whole = list(batches(phantoms, indices, augment=Augment(), seed=2).epoch(3))
    rest = list(batches(phantoms, indices, augment=Augment(), seed=2).epoch(3, skip=6))
    assert len(rest) == len(whole) - 6 > 0
    for (x, y), (x2, y2) in zip(whole[6:], rest, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_pixel_statistics_are_exact(phantoms):
    indices = np.arange(7, 300, 3)
    mean, std = pixel_statistics(table_on(phantoms.images, CPU), indices)
    pixels = phantoms.images[indices].astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean(), abs=1e-12)
    assert std == pytest.approx(pixels.std(), abs=1e-12)


# -------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("augment", [None, Augment(flip=True)])
def test_streamed_batches_are_the_same_as_resident_ones(phantoms, augment):
    indices = np.arange(3, 150, 2)
    resident, streamed = (
        [(x.clone(), y.clone()) for x, y in batches(phantoms, indices, augment=augment, seed=4, stream=stream).epoch(2)]
        for stream in (False, True)
    )
    assert len(resident) == len(streamed) > 2
    for (x, y), (x2, y2) in zip(resident, streamed, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_a_table_elsewhere_than_the_device_is_streamed(phantoms):
    table = table_on(phantoms.images, CPU)
    for device, expected in ((CPU, False), (torch.device("meta"), True)):
        found = Batches(table, phantoms.labels, np.arange(4), 2, device, (0.5, 0.25))
        assert found.stream is expected


def test_an_error_in_the_background_is_raised_and_an_early_stop_leaves_no_thread():
    def broken():
        yield torch.zeros(1)
        raise OSError("the disk went away")

    before = threading.active_count()
    stream = in_background(broken(), pin=False)
    next(stream)
    with pytest.raises(OSError, match="the disk went away"):
        next(stream)
    endless = in_background((torch.zeros(1) for _ in range(10**9)), pin=False)
    next(endless)
    endless.close()
    assert threading.active_count() == before


def test_the_background_runs_a_bounded_number_ahead():
    made = []

    def produce():
        for i in range(50):
            made.append(i)
            yield torch.tensor(i)

    stream = in_background(produce(), pin=False, ahead=2)
    next(stream)
    threading.Event().wait(0.3)
    assert len(made) <= 5  # one taken, two waiting, one held by the thread, one being made
    assert [int(t) for t in stream] == list(range(1, 50))
