"""The learning rate follows the global batch, and a scheduler never notices."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from tests.training.test_optimizer import Trainer, backward, make_model, momentum
from training import LrRule, NoiseScaleBatch, RampBatch, Swarm, join
from training.learning_rate import check_lr_rule, rate_factor, scaled_rates

RAMP = RampBatch(first=8, last=32, steps=2, kind="doubling")


def test_the_rules() -> None:
    assert rate_factor("constant", samples=64, first=16) == 1.0
    assert rate_factor("linear", samples=64, first=16) == 4.0
    assert rate_factor("sqrt", samples=64, first=16) == 2.0
    assert rate_factor("linear", samples=8, first=16) == 0.5
    with pytest.raises(ValueError, match="'cubic'"):
        check_lr_rule("cubic")


def test_the_very_same_rates_are_back_afterwards_also_after_an_error() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    tensor = torch.tensor(0.5)
    groups = [{"params": [weights[0]], "lr": tensor}, {"params": [weights[1]], "lr": 0.1}]
    optimizer = torch.optim.AdamW(groups, foreach=False)
    with pytest.raises(RuntimeError, match="no memory"), scaled_rates(optimizer, 3.0):
        assert optimizer.param_groups[0]["lr"].item() == 1.5
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.3)
        raise RuntimeError("no memory")
    assert optimizer.param_groups[0]["lr"] is tensor
    assert tensor.item() == 0.5
    assert optimizer.param_groups[1]["lr"] == 0.1


@pytest.mark.parametrize("rule", ["constant", "linear", "sqrt"])
def test_it_is_the_step_of_one_process_with_these_rates(rule: LrRule) -> None:
    """With a scheduler, which multiplies what it finds: a factor left there would pile up."""
    model, plain_model = make_model(), make_model()
    plain = momentum(plain_model)
    with join("test") as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, global_batch=RAMP, lr_rule=rule)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        number = itertools.count()
        for step, size in enumerate([8, 16, 32, 32]):
            assert optimizer.global_batch == size
            for _ in range(size // 8):
                backward(model, next(number))
                report = optimizer.step(samples=8)
            assert (report.stepped, report.samples) == (True, size)
            assert report.target == optimizer.global_batch
            assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**step
            scheduler.step()
    number = itertools.count()
    factors = {"constant": (1, 1, 1, 1), "linear": (1, 2, 4, 4)}.get(rule, (1, math.sqrt(2), 2, 2))
    for step, size in enumerate([8, 16, 32, 32]):
        plain.zero_grad()
        for _ in range(size // 8):
            backward(plain_model, next(number))
        for parameter in plain_model.parameters():
            assert parameter.grad is not None
            parameter.grad /= size // 8
        plain.param_groups[0]["lr"] = 0.1 * 0.5**step * factors[step]
        plain.step()
    for ours, theirs in zip(model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_all_peers_need_the_same_rule() -> None:
    with join("test") as swarm, join("other") as stranger:
        model, other = make_model(), make_model()
        first = swarm.optimizer(momentum(model), model=model, global_batch=8, lr_rule="linear")
        second = stranger.optimizer(momentum(other), model=other, global_batch=8, lr_rule="sqrt")
        assert first._session.plan.spec_hash != second._session.plan.spec_hash


def test_a_checkpoint_goes_on_with_the_measured_batch() -> None:
    model = make_model()
    schedule = NoiseScaleBatch(first=32, smallest=16, largest=64)
    with join("test") as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, global_batch=schedule)
        saved = optimizer.state_dict()
        assert (optimizer.global_batch, saved["swarm"]["batch_memory"]) == (32, [])
        saved["swarm"]["batch_memory"] = [48.0, 0.5, 24.0, 0.9]
        optimizer.load_state_dict(saved)
        assert optimizer.global_batch == 48
        backward(model, 0)
        assert not optimizer.step(samples=47).stepped
        backward(model, 1)
        assert optimizer.step(samples=1).stepped
        assert optimizer.state_dict()["swarm"]["batch_memory"] == [48.0, 0.5, 24.0, 0.9]


def test_a_rule_that_there_is_not_is_refused() -> None:
    model = make_model()
    with join("test") as swarm, pytest.raises(ValueError, match="lr_rule"):
        swarm.optimizer(momentum(model), model=model, global_batch=8, lr_rule="big")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        RampBatch(first=8, last=64, steps=200),
        NoiseScaleBatch(first=32, smallest=16, largest=64, decay=0.5),
    ],
    ids=["ramp", "noise"],
)
def test_a_late_joiner_steps_at_the_others_rates(schedule: RampBatch | NoiseScaleBatch) -> None:
    """Rounds that it took part in without the state are replayed at the rates of their steps."""
    seen: dict[str, dict[int, tuple[str, int]]] = {"first": {}, "late": {}}

    def train(name: str, swarm: Swarm, steps_min: int, seed: int, trainer: Trainer | None) -> None:
        model = make_model(seed=seed, width=64)
        optimizer = swarm.optimizer(
            momentum(model), model=model, global_batch=schedule, lr_rule="linear"
        )
        for number in itertools.count(seed * 10_000):
            if len(seen[name]) >= steps_min and (trainer is None or trainer.ended.is_set()):
                break
            backward(model, number)
            report = optimizer.step(samples=8)
            if report.stepped:
                seen[name][report.global_step] = optimizer.state_hash(), report.target
            if trainer is not None and report.global_step >= 3:
                trainer.ready.set()

    with (
        Trainer(lambda trainer, swarm: train("first", swarm, 3, 1, trainer)) as first,
        join("test", initial_peers=first.addresses) as swarm,
    ):
        train("late", swarm, 8, 2, None)
    assert len(seen["late"]) >= 8
    for step, (state_hash, target) in seen["late"].items():
        assert seen["first"][step] == (state_hash, target)
