"""LocalOptimizer in this process: what PyTorch expects of it, other peers, leaders and liars."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.test_optimizer import Trainer, backward, make_model, momentum
from training import SpecDiffers, StepReport, Swarm, join
from training.strategies import (
    DiLoCo,
    ElasticAveraging,
    LeaderSGD,
    LocalSGD,
    OuterStep,
    Strategy,
    StreamingDiLoCo,
)
from training.strategies.optimizer import LocalOptimizer

LEADER = LeaderSGD(every=2, every_of_swarm=4, pull=0.5, pull_of_swarm=0.5)


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    with join("test") as swarm:
        yield swarm


def parameters_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_alone_it_steps_as_the_wrapped_optimizer_does(swarm: Swarm) -> None:
    model, plain_model = make_model(), make_model()
    plain = momentum(plain_model)
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=LocalSGD(every=3))
    assert isinstance(optimizer, LocalOptimizer)
    exchanged, samples = [], []
    for number in range(7):
        backward(model, number)
        report = optimizer.step(samples=8)
        optimizer.zero_grad()
        exchanged.append(report.stepped)
        samples.append(report.samples)
        plain.zero_grad()
        backward(plain_model, number)
        plain.step()
    torch.testing.assert_close(parameters_of(model), parameters_of(plain_model), rtol=0, atol=1e-6)
    assert exchanged == [False, False, True, False, False, True, False]
    assert samples == [8, 16, 24, 8, 16, 24, 8]
    assert swarm.global_step == optimizer.global_step == 2
    (me,) = swarm.peers
    assert (me.step, me.samples, me.is_me) == (2, 1, True)


def test_a_gradient_that_is_not_finite_leaves_no_trace(swarm: Swarm) -> None:
    model, plain_model = make_model(), make_model()
    plain = momentum(plain_model)
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=LocalSGD(every=3))
    exchanged, skipped = [], []
    for number in range(8):
        backward(model, number)
        bad = number in (0, 3, 4)
        if bad:
            next(model.parameters()).grad.view(-1)[3] = float("inf")  # type: ignore[union-attr]
        report = optimizer.step(samples=8)  # without zero_grad(): what is bad must not stay
        exchanged.append(report.stepped)
        skipped.append(report.skipped)
        if bad:
            plain.zero_grad()
        else:
            backward(plain_model, number)
            plain.step()
    assert [number for number, is_skipped in enumerate(skipped) if is_skipped] == [0, 3, 4]
    assert optimizer.skipped_count == 3
    assert [number for number, is_exchanged in enumerate(exchanged) if is_exchanged] == [5]
    assert parameters_of(model).isfinite().all()
    torch.testing.assert_close(parameters_of(model), parameters_of(plain_model), rtol=0, atol=1e-6)


def test_schedulers_take_it_for_an_optimizer(swarm: Swarm) -> None:
    model = make_model()
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=DiLoCo(every=3))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    rates = []
    for number in range(4):
        backward(model, number)
        optimizer.step(samples=8)
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.1, 0.05, 0.05, 0.025]
    assert set(optimizer.state) == set(model.parameters())


def test_a_round_goes_on_while_local_steps_are_taken(swarm: Swarm) -> None:
    model, plain_model = make_model(), make_model()
    plain = momentum(plain_model)
    strategy = StreamingDiLoCo(every=4, fragments=1, delay=2, mixing=0.5)
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
    reports, as_alone = [], []
    for number in range(10):
        for one in (optimizer, plain):
            one.zero_grad()
        backward(model, number)
        backward(plain_model, number)
        reports.append(optimizer.step(samples=8))
        plain.step()
        as_alone.append(torch.equal(parameters_of(model), parameters_of(plain_model)))
    # Offered after four steps each, and merged two steps later.
    assert [at for at, report in enumerate(reports, 1) if report.stepped] == [6, 10]
    assert [report.samples for report in reports if report.stepped] == [32, 32]
    assert as_alone == [True] * 5 + [False] * 5
    assert optimizer.global_step == 2


@pytest.mark.parametrize("strategy", [DiLoCo(every=2), LEADER, ElasticAveraging(every=2)])
def test_a_checkpoint_goes_on_where_it_was(tmp_path: Path, strategy: Strategy) -> None:
    path = tmp_path / "checkpoint.pt"

    def step(model: nn.Module, optimizer: LocalOptimizer, number: int) -> None:
        optimizer.zero_grad()
        backward(model, number)
        optimizer.step(samples=8, loss=1.0, evaluate=lambda: 1.0)

    model = make_model()
    with join("test") as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
        # In the middle of an interval: what was done since the last exchange goes on, too.
        for number in range(5):
            step(model, optimizer, number)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        for number in range(5, 9):
            step(model, optimizer, number)
        expected = (optimizer.global_step, optimizer.state_hash())
    again = make_model(seed=1)
    with join("test") as swarm:
        optimizer = swarm.optimizer(momentum(again), model=again, strategy=strategy)
        loaded = torch.load(path, weights_only=True)
        again.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])
        assert optimizer.global_step == 2
        for number in range(5, 9):
            step(again, optimizer, number)
        assert (optimizer.global_step, optimizer.state_hash()) == expected


def test_a_plain_optimizers_state_begins_the_run_anew(swarm: Swarm) -> None:
    model = make_model()
    outer = OuterStep(rate=1.0)
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=DiLoCo(every=1, outer=outer))
    backward(model, 0)
    assert optimizer.step(samples=8).global_step == 1
    other = make_model(seed=3)
    model.load_state_dict(other.state_dict())
    optimizer.load_state_dict(momentum(other).state_dict())
    assert optimizer.global_step == 0
    torch.testing.assert_close(parameters_of(model), parameters_of(other), rtol=0, atol=0)


def test_misuse_is_told(swarm: Swarm) -> None:
    model = make_model()
    wrapped = momentum(model)
    with pytest.raises(ValueError, match="either global_batch or a strategy"):
        swarm.optimizer(wrapped, model=model)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="either global_batch or a strategy"):
        swarm.optimizer(  # type: ignore[call-overload]
            wrapped, model=model, global_batch=8, strategy=DiLoCo()
        )
    optimizer = swarm.optimizer(wrapped, model=model, strategy=LEADER)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optimizer.step(samples=8)
    backward(model, 0)
    with pytest.raises(ValueError, match="number of samples"):
        optimizer.step()
    with pytest.raises(ValueError, match="closures"):
        optimizer.step(lambda: 0.0, samples=8)
    with pytest.raises(ValueError, match="loss=…, evaluate=…"):
        optimizer.step(samples=8)
    with pytest.raises(ValueError, match="before"):
        optimizer.add_param_group({"params": []})
    with pytest.raises(ValueError, match="one model"):
        swarm.optimizer(wrapped, model=model, strategy=DiLoCo())


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [DiLoCo(every=4), StreamingDiLoCo(every=8, fragments=2, delay=2)]
)
def test_a_late_joiner_takes_over_and_both_go_on_together(strategy: Strategy) -> None:
    hashes: dict[str, dict[int, str]] = {"first": {}, "late": {}}

    def train(trainer: Trainer, swarm: Swarm) -> None:
        model = make_model(seed=1)
        optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
        number = 0
        while not trainer.ended.is_set():
            backward(model, number)
            if optimizer.step(samples=8).stepped:
                hashes["first"][optimizer.global_step] = optimizer.state_hash()
                trainer.ready.set()
            optimizer.zero_grad()
            number += 1

    model = make_model(seed=2)
    with Trainer(train) as first, join("test", initial_peers=first.addresses) as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, strategy=strategy)
        assert optimizer.synchronize()
        first_step = optimizer.global_step
        assert first_step >= 1
        number = 10_000
        while len(hashes["late"]) < 4:
            backward(model, number)
            report = optimizer.step(samples=8)
            optimizer.zero_grad()
            if report.stepped:
                hashes["late"][optimizer.global_step] = optimizer.state_hash()
            number += 1
    assert min(hashes["late"]) > first_step
    for step, state_hash in hashes["late"].items():
        assert hashes["first"][step] == state_hash


def test_another_strategy_under_the_same_name_is_told(swarm: Swarm) -> None:
    model, other = make_model(), make_model()
    optimizer = swarm.optimizer(momentum(model), model=model, strategy=LEADER)
    for number in range(2):
        backward(model, number)
        optimizer.step(samples=8, loss=1.0, evaluate=lambda: 1.0)
    with join("test", initial_peers=swarm.addresses) as stranger, pytest.raises(SpecDiffers):
        stranger.optimizer(momentum(other), model=other, strategy=DiLoCo(every=3))


class Resting:
    """A peer that takes steps of no length, so that its parameters move only when it follows."""

    def __init__(self, swarm: Swarm, bias: float) -> None:
        self.model = nn.Linear(1, 1)
        with torch.no_grad():
            self.model.weight.fill_(1.0)
            self.model.bias.fill_(bias)
        wrapped = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.optimizer = swarm.optimizer(wrapped, model=self.model, strategy=LEADER)
        self.failures: list[str] = []

    @property
    def bias(self) -> float:
        return self.model.bias.item()

    def step(self, claimed: float | None = None) -> StepReport:
        """The loss is how far the bias is from zero, whatever is claimed."""
        loss = self.model.bias.abs().sum()
        loss.backward()
        report = self.optimizer.step(
            samples=1,
            loss=loss.item() if claimed is None else claimed,
            evaluate=lambda: self.model.bias.abs().sum().item(),
        )
        if report.failure:
            self.failures.append(report.failure)
        return report


def resting(
    bias: float, claimed: float | None = None, after: threading.Event | None = None
) -> Callable[[Trainer, Swarm], None]:
    """A peer that steps until it is told to end; from the beginning, or after something."""

    def loop(trainer: Trainer, swarm: Swarm) -> None:
        peer = Resting(swarm, bias)
        if after is not None:
            trainer.ready.set()
            assert after.wait(20)
        while not trainer.ended.is_set():
            peer.step(claimed)
            trainer.ready.set()
            trainer.ended.wait(0.005)
        assert peer.bias <= bias, "it never follows the worse"

    return loop


def test_the_worse_follows_the_better() -> None:
    begun = threading.Event()
    with (
        Trainer(resting(1.0, after=begun)) as better,
        join("test", initial_peers=better.addresses) as swarm,
    ):
        worse = Resting(swarm, 3.0)
        assert not worse.step().caught_up, "it begins together with the other"
        begun.set()
        for _ in range(2000):
            worse.step()
            if worse.bias < 1.01:
                break
        assert worse.bias == pytest.approx(1.0, abs=0.01)
        assert worse.optimizer.global_step >= 1
        assert len(swarm.peers) == 2


def test_a_newcomer_begins_where_the_best_is() -> None:
    with Trainer(resting(1.0)) as first, join("test", initial_peers=first.addresses) as swarm:
        late = Resting(swarm, 3.0)
        while not any(peer.step > 0 for peer in swarm.peers):
            first.ended.wait(0.005)
        late.optimizer.synchronize()
        assert late.bias == 3.0, "without a mini-batch it cannot judge"
        assert late.step().caught_up
        assert late.bias == 1.0
        assert late.optimizer.global_step == 0


def test_a_newcomer_that_is_better_keeps_what_it_has() -> None:
    with Trainer(resting(1.5)) as first, join("test", initial_peers=first.addresses) as swarm:
        late = Resting(swarm, 1.0)
        while not any(peer.step > 0 for peer in swarm.peers):
            first.ended.wait(0.005)
        assert not late.step().caught_up
        assert late.bias == 1.0


def test_a_liar_is_not_followed() -> None:
    with (
        Trainer(resting(50.0, claimed=0.0)) as liar,
        join("test", initial_peers=liar.addresses) as swarm,
    ):
        honest = Resting(swarm, 3.0)
        while not honest.failures:
            honest.step()
        assert honest.bias == 3.0
        assert "claims a loss of 0; here it is 50, and ours 3" in honest.failures[0]


def test_a_leader_that_leaves_stops_nobody() -> None:
    begun = threading.Event()
    with (
        Trainer(resting(1.0, after=begun)) as better,
        join("test", initial_peers=better.addresses) as swarm,
    ):
        worse = Resting(swarm, 3.0)
        worse.step()
        begun.set()
        while worse.bias > 2.0:
            worse.step()
        better.ended.set()
        better.join()
        exchanges, bias = worse.optimizer.global_step, worse.bias
        while worse.optimizer.global_step < exchanges + 3:
            worse.step()
        assert worse.bias <= bias
