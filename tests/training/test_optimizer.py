import math

import pytest
import torch

from training.optimizer import AdamW, groups_of


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (4,), (2, 3, 5, 5))]


@pytest.mark.parametrize("decoupled", [True, False])
def test_it_is_torchs_own_bit_for_bit(decoupled):
    """The oracle is torch.optim, in float32 and in Python numbers for the rates; one state is read by the other."""
    ours, theirs = parameters(), parameters()
    one = AdamW(groups_of(ours, 0.05), 1e-3, decoupled)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    other = kind(groups_of(theirs, 0.05), lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        rate = 1e-2 * math.cos(step / 20)
        one.set_rate(rate)
        for group in other.param_groups:
            group["lr"] = rate
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=generator)
        one.step()
        other.step()
        if step == 9:  # each goes on from what the other one was
            a, b = one.state_dict(), other.state_dict()
            assert a["param_groups"] == [{**group, "lr": rate} for group in b["param_groups"]]
            one.load_state_dict(b)
            other.load_state_dict(a)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
    one.zero_grad()
    assert all(p.grad is None for p in ours)


def test_what_has_no_gradient_stays_as_it_is():
    values = parameters()
    before = [p.detach().clone() for p in values]
    optimizer = AdamW(groups_of(values, 0.1), 1e-2)
    values[1].grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(values[0], before[0]) and torch.equal(values[2], before[2])
    assert not torch.equal(values[1], before[1]) and list(optimizer.state_dict()["state"]) == [2]  # vectors come last


def test_a_step_that_a_scaler_found_infinite_is_not_taken():
    """As torch's own fused optimizer does it: without waiting, and without counting the step."""
    ours, theirs = parameters(), parameters()
    one, other = AdamW(groups_of(ours, 0.05), 1e-2), torch.optim.AdamW(groups_of(theirs, 0.05), lr=1e-2, fused=True)
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in range(2)]
    for step in range(4):
        for parameters_of, optimizer, scaler in ((ours, one, scalers[0]), (theirs, other, scalers[1])):
            optimizer.zero_grad()
            scale = float("inf") if step == 1 else 1.0
            scaler.scale(sum((p * p).sum() for p in parameters_of) * scale).backward()
            scaler.step(optimizer)
            scaler.update()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q) and p.isfinite().all()
    assert scalers[0].get_scale() == scalers[1].get_scale() == 4.0
    assert {state["step"].item() for state in one.state_dict()["state"].values()} == {3.0}
