"""What films take from each other in training: frames and spectra, against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from films import augmentation
from films.augmentation import draw_changes
from films.variation import NO_AUGMENT


def test_the_middle_is_the_films_and_the_frame_the_donors():
    random = np.random.default_rng(0)
    images, others = (torch.from_numpy(random.uniform(0.2, 0.8, (2, 1, 40, 40))).float() for _ in range(2))
    frame = torch.tensor([[0.1, -0.05, 0.25, 0.3, 0.2, 0.0], [0.0, 0.0, 9.0, 9.0, 0.1, 1.0]])
    found = augmentation.framed(images, others, frame)
    at = (np.arange(40) + 0.5) / 40 - 0.5
    across = np.interp(np.abs(at - 0.1), [0.25 - 0.1, 0.25 + 0.1], [1, 0])  # half of the seam on either side
    down = np.interp(np.abs(at + 0.05), [0.3 - 0.1, 0.3 + 0.1], [1, 0])
    share = down[:, None] * across
    np.testing.assert_allclose(
        found[0, 0], share * images[0, 0].numpy() + (1 - share) * others[0, 0].numpy(), atol=1e-6
    )
    assert torch.equal(found[1], images[1]), "a middle that is all of the film leaves it alone"


def test_a_frame_may_take_on_the_greys_of_the_film():
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.normal(0.5, 0.05, (1, 1, 60, 60))).float()
    others = torch.from_numpy(random.normal(0.2, 0.02, (1, 1, 60, 60))).float()
    nothing = torch.tensor([[0.0, 0.0, -1.0, -1.0, 0.01, 1.0]])  # no middle: all of it is frame
    found = augmentation.framed(images, others, nothing)
    assert found.mean().item() == pytest.approx(images.mean().item(), abs=1e-4)
    assert found.std().item() == pytest.approx(images.std().item(), abs=1e-4)
    assert np.corrcoef(found.flatten(), others.flatten())[0, 1] > 0.999


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_spectra_are_mixed_in_amplitude_and_not_in_phase(share):
    random = np.random.default_rng(0)
    images, others = (random.uniform(0.45, 0.55, (1, 1, 32, 32)) for _ in range(2))  # far from being clipped
    found = augmentation.mixed_spectra(
        torch.tensor(images).float(), torch.tensor(others).float(), torch.tensor([share])
    )
    own, other = np.fft.fft2(images[0, 0]), np.fft.fft2(others[0, 0])
    expected = np.fft.ifft2(((1 - share) * np.abs(own) + share * np.abs(other)) * np.exp(1j * np.angle(own))).real
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-4)


def test_donors_are_drawn_without_a_look_at_labels():
    augment, labels = replace(NO_AUGMENT, frames=0.3, spectra=0.6), torch.arange(5000) % 2
    changes = draw_changes(augment, labels, torch.Generator().manual_seed(3))
    others = draw_changes(augment, 1 - labels, torch.Generator().manual_seed(3))
    assert all(a.equal(b) for a, b in zip(changes.tensors(), others.tensors(), strict=True))
    framed = changes.frame[:, 2] < 1
    assert framed.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert (changes.spectrum > 0).float().mean().item() == pytest.approx(0.6, abs=0.03)
    half = changes.frame[framed, 2:4]
    assert 0.25 <= half.min() < 0.26 and 0.39 < half.max() <= 0.4 and changes.frame[:, :2].abs().max() <= 0.05
    assert labels[changes.donor][framed].float().mean().item() == pytest.approx(0.5, abs=0.05)
    plain = draw_changes(replace(augment, frames=0, spectra=0), labels, torch.Generator().manual_seed(3))
    assert plain.donor is None and plain.affine.equal(changes.affine), "what was drawn before stays"
