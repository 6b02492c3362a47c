"""Per-sample gradients: as a loop gives them, cut exactly, in pieces of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.privacy.per_sample import PerSampleGradients, clipping_factors

Batch = tuple[torch.Tensor, torch.Tensor]
CLIP = 0.7


def make_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
        ).double()


def make_batch(size: int = 11) -> Batch:
    rng = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 1, 6, 6, generator=rng, dtype=torch.float64)
    return inputs, torch.randint(4, (size,), generator=rng)


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def looped(model: nn.Module, batch: Batch, clip: float) -> dict[str, torch.Tensor]:
    """One sample after the other, as plainly as can be."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for index in range(len(batch[0])):
        model.zero_grad()
        loss(model, (batch[0][index : index + 1], batch[1][index : index + 1])).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        length = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
        for name, gradient in gradients.items():
            sums[name] += gradient * min(1.0, clip / float(length))
    model.zero_grad()
    return sums


@pytest.mark.parametrize("at_once", [1, 4, 64])
def test_they_are_those_of_a_loop_whatever_is_held_at_once(at_once: int) -> None:
    model, batch = make_model(), make_batch()
    expected = looped(model, batch, CLIP)
    sums, total, count = PerSampleGradients(model, loss, samples_at_once=at_once).clipped_sum(
        batch, CLIP
    )
    assert list(sums) == sorted(expected)
    for name, one in sums.items():
        torch.testing.assert_close(one, expected[name], rtol=1e-12, atol=1e-14)
    assert count == 11
    assert total / count == pytest.approx(float(loss(model, batch).detach()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_a_bound_they_sum_to_the_gradient_of_the_batch() -> None:
    model, batch = make_model(), make_batch()
    sums, _, _ = PerSampleGradients(model, loss).clipped_sum(batch, 1e9)
    loss(model, batch).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sums[name] / 11, parameter.grad)


def test_one_sample_never_adds_more_than_the_bound() -> None:
    model, batch = make_model(), make_batch()
    gradients = PerSampleGradients(model, loss)
    for clip in (1e-3, 0.2, 5.0):
        for index in range(11):
            one = tuple(tensor[index : index + 1] for tensor in batch)
            sums, _, _ = gradients.clipped_sum(one, clip)
            length = float(torch.cat([s.flatten() for s in sums.values()]).norm())
            assert length <= clip * (1 + 1e-12)
            raw = looped(model, one, 1e9)  # type: ignore[arg-type]
            own = float(torch.cat([r.flatten() for r in raw.values()]).norm())
            assert length == pytest.approx(min(own, clip))


def test_frozen_parameters_are_left_out() -> None:
    model, batch = make_model(), make_batch()
    model[0].weight.requires_grad_(False)
    sums, _, _ = PerSampleGradients(model, loss).clipped_sum(batch, CLIP)
    assert "0.weight" not in sums
    expected = looped(model, batch, CLIP)
    torch.testing.assert_close(sums["4.bias"], expected["4.bias"])


def test_a_sample_without_a_finite_gradient_adds_nothing() -> None:
    model, batch = make_model(), make_batch()
    spoilt = batch[0].clone()
    spoilt[3] = float("nan")
    spoilt[5] = float("inf")
    sums, total, _ = PerSampleGradients(model, loss, samples_at_once=4).clipped_sum(
        (spoilt, batch[1]), CLIP
    )
    kept = [index for index in range(11) if index not in (3, 5)]
    expected = looped(model, (batch[0][kept], batch[1][kept]), CLIP)
    for name, one in sums.items():
        torch.testing.assert_close(one, expected[name])
    assert total == pytest.approx(9 * float(loss(model, (batch[0][kept], batch[1][kept])).detach()))


def test_a_gradient_of_zero_stays_one() -> None:
    assert clipping_factors([torch.zeros(2, 3)], 1.0).tolist() == [1.0, 1.0]


def test_an_empty_batch_adds_nothing() -> None:
    sums, total, count = PerSampleGradients(make_model(), loss).clipped_sum(make_batch(0), CLIP)
    assert (total, count) == (0.0, 0)
    assert all(not one.any() for one in sums.values())


def test_layers_that_mix_samples_are_refused() -> None:
    mixed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"layer '1' is a BatchNorm1d.*use nn.GroupNorm"):
        PerSampleGradients(mixed, loss)
    keeping = nn.Sequential(nn.InstanceNorm1d(4, track_running_stats=True))
    with pytest.raises(ValueError, match="layer '0' is a InstanceNorm1d"):
        PerSampleGradients(keeping, loss)
    PerSampleGradients(nn.Sequential(nn.InstanceNorm1d(4)), loss)
    with pytest.raises(ValueError, match="samples_at_once must be at least 1"):
        PerSampleGradients(make_model(), loss, samples_at_once=0)
