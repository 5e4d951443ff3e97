"""What is in no recipe: that each candidate does what its name says, and that no candidate at all changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.special import log_softmax
from scipy.stats import rankdata

import data
import models
from devices import hardware
from films.variation import NO_AUGMENT
from metrics import measures, prevalence
from studies import candidates, probes
from studies.candidates import CANDIDATES, Candidate
from studies.letters import Painted
from training import calibration, recipes, runs, stress_views
from training.batches import Batches
from training.request import Request

EPOCHS = 1
NONE = candidates.NONE


def ranks(values: np.ndarray) -> np.ndarray:
    """Of each value, the share of values that are not greater."""
    return rankdata(values.ravel(), "max").reshape(values.shape) / values.size


def random_films(count: int, side: int) -> torch.Tensor:
    levels = torch.randint(0, 256, (count, 1, side, side), generator=torch.Generator().manual_seed(side))
    return (levels.float() / 255) ** 2


def test_equalised_is_the_rank_among_the_films_own_pixels():
    films = (random_films(3, 20) * 255).round() / 255
    found = candidates.equalised(films)
    for film, made in zip(films.numpy(), found.numpy(), strict=True):
        assert made == pytest.approx(ranks(film), abs=1e-6)


def test_clahe_interpolates_between_the_middles_of_tiles():
    films, tiles, side = (random_films(2, 15) * 255).round() / 255, 3, 15
    found = candidates.equalised(films, tiles=tiles)
    middles = np.arange(2, side, 5)
    for film, made in zip(films[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        for level in np.unique(film):
            table = [[(film[i : i + 5, j : j + 5] <= level).mean() for j in range(0, side, 5)]
                     for i in range(0, side, 5)]  # fmt: skip
            rows, columns = np.nonzero(film == level)
            inside = np.clip(np.stack([rows, columns], 1), 2, 12)
            oracle = RegularGridInterpolator((middles, middles), table)(inside)
            assert made[rows, columns] == pytest.approx(oracle, abs=1e-6)


def test_clahe_limits_the_slope_and_keeps_all_pixels():
    flat = torch.full((1, 1, 16, 16), 0.5)
    flat[..., 0, 0], flat[..., 0, 1] = 0.0, 1.0
    found = candidates.equalised(flat, tiles=1, limit=2.0)
    levels = found[0, 0, 0, :3].double()  # of black, white, and the grey between that nearly all pixels have
    excess = (254 - 2) / 256  # of the grey's 254 pixels over a limit of 2, spread over 256 bins
    assert levels[0].item() == pytest.approx((1 + excess) / 256, abs=1e-6)
    assert levels[1].item() == pytest.approx(1, abs=1e-6)
    assert levels[2].item() == pytest.approx((1 + 2 + 129 * excess) / 256, abs=1e-6)


def test_standardised_by_numpy():
    found = candidates.standardised(random_films(4, 12)).numpy()
    assert found.mean((1, 2, 3)) == pytest.approx(np.full(4, 0.5), abs=1e-5)
    assert found.std((1, 2, 3), ddof=1) == pytest.approx(np.full(4, 0.25), abs=1e-4)


def chest(left: float, right: float, top: float, bottom: float, side: int = 96) -> torch.Tensor:
    """A bright body on black with two dark lungs, which fill this box, in [-1, 1]."""
    at = (torch.arange(side) * 2 + 1) / side - 1
    x, y = (2 * at - left - right) / (right - left), (2 * at - top - bottom) / (bottom - top)
    film = 0.8 * (x.abs() < 1.25).float()[None, :].repeat(side, 1)
    for middle in (-0.55, 0.55):
        film[((x - middle) / 0.45)[None, :] ** 2 + y[:, None] ** 2 < 1] = 0.3
    return film[None, None]


@pytest.mark.parametrize("box", [(-0.7, 0.7, -0.6, 0.6), (-0.5, 0.6, -0.7, 0.5), (-0.6, 0.5, -0.4, 0.7)])
def test_the_box_follows_the_lungs(box):
    found = candidates.lung_box(chest(*box))[0].tolist()
    left, right, top, bottom = box
    assert found[0] < left < right < found[1] or found == pytest.approx(box, abs=0.2)
    assert (found[0] + found[1]) / 2 == pytest.approx((left + right) / 2, abs=0.08)
    assert (found[2] + found[3]) / 2 == pytest.approx((top + bottom) / 2, abs=0.12)
    assert (found[1] - found[0]) / (right - left) == pytest.approx(1.2, abs=0.25)


def test_what_the_box_shows_hardly_depends_on_the_framing():
    narrow, wide = chest(-0.5, 0.5, -0.45, 0.45), chest(-0.75, 0.75, -0.68, 0.68)
    before = (narrow - wide).abs().mean()
    after = (candidates.lungs(narrow) - candidates.lungs(wide)).abs().mean()
    assert after < before / 2


@pytest.mark.filterwarnings("error")
def test_pictures_of_nothing_are_finite():
    nothing = torch.zeros(2, 1, 32, 32)
    for name, candidate in CANDIDATES.items():
        if candidate.picture:
            assert torch.isfinite(candidate.picture(nothing)).all(), name


def prepared(architecture: str = "simple", candidate: Candidate = NONE) -> candidates.Trainer:
    """A trainer on random films with random labels."""
    network = models.build(architecture, 32)
    table, labels = (random_films(64, 32)[:, 0] * 255).to(torch.uint8), np.arange(64) % 2
    batches = Batches(table, labels, np.arange(64), 16, torch.device("cpu"), (0.5, 0.25))
    trainer = candidates.Trainer(network, recipes.RECIPES["default"][architecture], batches, batches)
    trainer.candidate, trainer.generator = candidate, np.random.default_rng(0)
    return trainer


def test_the_loss_of_mixed_and_smoothed_labels(monkeypatch):
    trainer = prepared(candidate=Candidate(smoothing=0.1, mixup=0.4))
    given = []
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(trainer, "forward", lambda images: given.append(images) or logits)
    images, labels = random_films(6, 32), torch.tensor([0, 1, 1, 0, 1, 1])
    _, loss = trainer.answer(images, labels)
    draws = np.random.default_rng(0)
    share, order = draws.beta(0.4, 0.4), draws.permutation(6)
    assert given[0].numpy() == pytest.approx(share * images.numpy() + (1 - share) * images.numpy()[order], abs=1e-6)
    once = np.eye(2)[labels]
    truth = 0.9 * (share * once + (1 - share) * once[order]) + 0.1 / 2
    assert loss.item() == pytest.approx(-(truth * log_softmax(logits.double().numpy(), 1)).sum(), rel=1e-5)


def test_without_lungs_the_prevalence_is_asked_for(monkeypatch):
    trainer = prepared(candidate=Candidate(hidden=0.5))
    trainer.prevalence = torch.tensor([0.3, 0.7])
    given, logits = [], torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(trainer, "forward", lambda images: given.append(images) or logits[: len(images)])
    images, labels = random_films(6, 40), torch.tensor([0, 1, 1, 0, 1, 1])
    _, loss = trainer.answer(images, labels)
    assert [len(each) for each in given] == [6, 3]
    sure = log_softmax(logits.double().numpy(), 1)
    expected = -sure[np.arange(6), labels].sum() - (sure[:3] * [0.3, 0.7]).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    for k, half in enumerate((10, 13, 16)):  # pixels on either side of the middle: 0.25, 0.325, 0.4 of 40
        hidden = torch.zeros(40, 40, dtype=torch.bool)
        hidden[20 - half : 20 + half, 20 - half : 20 + half] = True
        assert torch.equal(given[1][k, 0][~hidden], images[k, 0][~hidden])
        assert torch.allclose(given[1][k, 0][hidden], images[k].mean())


def test_films_are_seen_as_often_as_their_frames_say():
    labels, scores = np.arange(10) // 5, np.array([0.1, 0.2, 0.9, 0.2, 0.1, 0.8, 0.9, 0.15, 0.95, 0.97])
    assert candidates.lying(labels, scores).tolist() == [1, 1, 5, 1, 1, 1, 1, 5, 1, 1]
    labels, scores = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.9, 0.8, 0.9, 0.3])
    weights = candidates.overlapping(labels, scores)
    assert weights[:3] == pytest.approx(np.array([0.1, 0.2, 0.9]) / 0.4)
    assert weights[3:] == pytest.approx(np.array([0.2, 0.1, 0.7]) / (1 / 3))
    seen = candidates.resampled(np.arange(10, 16), np.array([1.0, 1, 2, 0, 1, 1]), seed=0)
    assert np.bincount(seen, minlength=16)[10:].tolist() == [1, 1, 2, 0, 1, 1]


def test_candidates_together_do_what_each_does():
    both = candidates.together(["balanced sampling", "unsure without lungs"])
    assert both == Candidate(balanced=True, hidden=CANDIDATES["unsure without lungs"].hidden)
    assert candidates.together([]) == NONE


def test_class_weights_make_classes_count_alike(monkeypatch):
    trainer = prepared()
    trainer.class_weights = torch.tensor([2.0, 2 / 3])  # of 1 : 3
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(trainer, "forward", lambda _: logits)
    labels = np.array([0, 1, 1, 1])
    _, loss = trainer.answer(random_films(4, 32), torch.from_numpy(labels))
    each = -log_softmax(logits.double().numpy(), 1)[np.arange(4), labels]
    assert loss.item() == pytest.approx(2 * each[0] + 2 / 3 * each[1:].sum(), rel=1e-5)


def test_dropout_is_before_the_linear_layers_and_only_in_training():
    for architecture, layers in (("simple", 2), ("resnet34", 1)):
        network = models.build(architecture, 32)
        candidates.fitted_with(Candidate(dropout=0.3), network, (0.5, 0.25))
        assert sum(len(module._forward_pre_hooks) for module in network.modules()) == layers
        images = torch.randn(8, 1, 32, 32)
        network.eval()
        assert torch.equal(network(images), network(images))
        network.train()
        assert not torch.equal(network(images), network(images))


def test_layers_have_rates_of_their_own_and_wait():
    trainer = prepared("resnet34", Candidate(slower=0.5, staged=0.2))
    trainer.optimizer = candidates.ByLayer(trainer.candidate, trainer.network, trainer)
    before = {name: parameter.clone() for name, parameter in trainer.network.named_parameters()}

    def step() -> set[str]:
        images, labels = next(trainer.training.epoch())
        trainer.optimizer.set_rate(1.0)
        trainer.answer(images, labels)[1].backward()
        trainer.optimizer.step()
        return {
            name.split(".")[0] for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])
        }

    assert step() == {"fc"}
    trainer.epoch = trainer.epochs // 2
    assert step() == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    known = {id(p): name for name, p in trainer.network.named_parameters()}
    layers = trainer.optimizer.layers
    rates = {known[id(p)].split(".")[0]: layer.rate.item() for layer in layers for p in layer.parameters}
    assert rates == {"fc": 1, "layer4": 0.5, "layer3": 0.25, "layer2": 1 / 8, "layer1": 1 / 16, "bn1": 1 / 32,
                     "conv1": 1 / 64}  # fmt: skip
    assert len(known) == len(trainer.optimizer.parameters)


def test_answers_over_zooms_are_means():
    network = models.build("simple", 32).eval()
    images = (random_films(3, 32) - 0.5) / 0.25
    alone = candidates.Zoomed(network, (1.0,), (0.5, 0.25))(images)
    assert torch.allclose(alone, network(images), atol=1e-5)
    each = [candidates.Zoomed(network, (zoom,), (0.5, 0.25))(images) for zoom in (0.9, 1.1)]
    both = candidates.Zoomed(network, (0.9, 1.1), (0.5, 0.25))(images)
    assert torch.allclose(both, (each[0] + each[1]) / 2, atol=1e-6) and not torch.allclose(each[0], each[1])


@pytest.fixture(scope="module")
def world(phantoms, tmp_path_factory):
    """Trains on phantoms: world(None) as train.py does, world(candidate) with it; returns the stress rows."""
    split = data.split(phantoms, "patient", 0)
    split = replace(split, train=data.thinned(phantoms, split.train, 96), validation=split.validation[:40])
    request = Request(architecture="simple", size=64, out=tmp_path_factory.mktemp("runs"))
    recipe = replace(recipes.RECIPES["default"]["simple"], epochs=EPOCHS)
    frames = probes.frame_scores(phantoms, split)

    def trained(candidate: Candidate | None) -> list[dict]:
        hardware.set_precision()
        network, origin = runs.prepare(request)
        if candidate is None:
            return runs.train_run("plain", network, origin, phantoms, split, recipe, request)["stress"]
        return candidates.train_candidate(candidate, network, phantoms, split, recipe, request, frames)["stress"]

    return trained


def test_no_candidate_is_what_train_py_does(world):
    assert world(NONE) == world(None)


@pytest.mark.parametrize("name", [name for name, candidate in CANDIDATES.items() if candidate.exchanged])
def test_half_of_the_films_are_given_the_looks_of_the_other_class(name):
    """Against the recipe's own changes of the same epoch, and what the looks make of one film alone."""
    labels, looks = np.arange(400) % 2, CANDIDATES[name].exchanged
    table = torch.zeros(400, 8, 8, dtype=torch.uint8)
    given = (table, labels, np.arange(400), 16, torch.device("cpu"), (0.5, 0.25), recipes.ELSEWHERE, 7)
    exchanging = candidates.Exchanging(*given)
    order, plain = Batches(*given)._drawn(3)
    assert exchanging._drawn(3)[1].affine.equal(plain.affine), "without looks it is plain"
    exchanging.looks = looks
    again, changes = exchanging._drawn(3)
    assert again.equal(order) and changes.affine.equal(exchanging._drawn(3)[1].affine)
    assert not changes.affine.equal(exchanging._drawn(4)[1].affine)
    moved = 0
    for k in range(400):
        look, own = looks[labels[order[k]]], plain.affine[k].clone()
        own[:, :2] = torch.diag(torch.tensor([look.width, look.height])) @ own[:, :2]
        tone = plain.tone[k] * torch.tensor([look.contrast, 1, 1]) + torch.tensor([0, look.brightness, look.curve])
        if not torch.allclose(changes.affine[k], plain.affine[k]):
            moved += 1
            assert torch.allclose(changes.affine[k], own) and torch.allclose(changes.tone[k], tone)
            assert changes.detail[k].item() == pytest.approx(max(plain.detail[k].item() + look.detail, -1), abs=1e-6)
        else:
            assert changes.tone[k].equal(plain.tone[k]) and changes.detail[k] == plain.detail[k]
    assert 160 < moved < 240
    exchanging.augment = NO_AUGMENT
    with pytest.raises(ValueError, match="no changes to add"):
        exchanging._drawn(3)


def test_every_candidate_trains_and_changes_something(world):
    plain = world(NONE)
    for name, candidate in CANDIDATES.items():
        rows = world(candidate)
        assert [row["view"] for row in rows] == [row["view"] for row in plain], name
        assert all(np.isfinite(list(row.values())[1:]).all() for row in rows), name
        assert rows != plain, name


def test_correcting_for_prevalence_is_what_prevalence_py_does(phantoms):
    some = np.arange(0, len(phantoms.labels), 3)
    labels = phantoms.labels[some]
    stress = stress_views.StressValidation(torch.from_numpy(phantoms.images), phantoms.labels, some, some)
    margin = np.random.default_rng(0).normal(
        2.0 * labels - 1 + np.arange(len(stress.views))[:, None] / 8, 1.5
    )  # a row a view
    found = {name: np.stack([-row, row], 1) for name, row in zip(stress.views, margin, strict=True)}
    plain, corrected = (candidates.rows(c, stress, found, labels) for c in (NONE, CANDIDATES["prevalence by EM"]))
    temperature = calibration.fit(np.concatenate([*found.values()]), np.tile(labels, len(found)))["temperature"]
    for name, before, after in zip(stress.views, plain, corrected, strict=False):
        probabilities = measures.positive_probability(found[name], temperature)
        share = prevalence.estimated(probabilities, labels.mean())
        decided = prevalence.corrected(probabilities, labels.mean(), share) >= 0.5
        assert after["accuracy"] == pytest.approx((decided == labels).mean())
        assert after["auroc"] == pytest.approx(before["auroc"], abs=1e-3)  # ties where p is 1
    assert [row["accuracy"] for row in plain] != [row["accuracy"] for row in corrected]


def test_letters_are_painted_near_the_edges_of_some_films_and_anew_each_time():
    table = torch.full((60, 100, 100), 40, dtype=torch.uint8)
    shown = Painted(table, 0)
    first, again = (shown.index_select(0, torch.arange(60)).numpy() for _ in range(2))
    changed = (first != 40).any((1, 2))
    assert 20 <= changed.sum() <= 50 and not (first == again).all()
    assert (first[:, 35:55, 35:55] == 40).mean() > 0.97, "the middle hardly"
    assert np.unique(first).size > 20, "in many greys"
    np.testing.assert_array_equal(Painted(table, 0).index_select(0, torch.arange(60)).numpy(), first)
    assert (table == 40).all()
