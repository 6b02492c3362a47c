"""SwarmOptimizer in this process: what PyTorch expects of it, what it refuses, a late joiner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from averaging import AveragerConfig, RoundFailed
from training import (
    SpecDiffers,
    StepReport,
    Swarm,
    SwarmConfig,
    SwarmOptimizer,
    SwarmStuck,
    join,
)

SOON_S = 20.0


def make_model(seed: int = 0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def backward(model: nn.Module, seed: int, samples: int = 8) -> None:
    inputs = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed))
    model(inputs).square().sum(dim=1).mean().backward()


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    with join("test") as swarm:
        yield swarm


@pytest.fixture
def model() -> nn.Module:
    return make_model()


@pytest.fixture
def optimizer(swarm: Swarm, model: nn.Module) -> SwarmOptimizer:
    return swarm.optimizer(momentum(model), model=model, global_batch=24)


def test_alone_it_steps_when_it_has_the_global_batch(
    swarm: Swarm, model: nn.Module, optimizer: SwarmOptimizer
) -> None:
    plain_model = make_model()
    plain = momentum(plain_model)
    reports: list[StepReport] = []
    for number in range(9):
        backward(model, number)
        reports.append(optimizer.step(samples=8))
        optimizer.zero_grad()
    assert [report.stepped for report in reports] == [False, False, True] * 3
    assert [report.samples for report in reports] == [8, 16, 24] * 3
    assert [report.global_step for report in reports] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert reports[2].round is not None
    assert list(reports[2].round.members) == [swarm.peer_id]
    for step in range(3):
        plain.zero_grad()
        for number in range(3):
            backward(plain_model, 3 * step + number)
        for parameter in plain_model.parameters():
            assert parameter.grad is not None
            parameter.grad /= 3
        plain.step()
    for ours, theirs in zip(model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    (me,) = swarm.peers
    assert (me.peer_id, me.step, me.samples, me.is_me) == (swarm.peer_id, 3, 0, True)
    assert me.samples_per_s > 0
    assert swarm.global_step == optimizer.global_step == 3


def test_zero_grad_never_loses_what_was_accumulated(
    model: nn.Module, optimizer: SwarmOptimizer
) -> None:
    backward(model, 0)
    assert optimizer.step(samples=23).samples == 23
    optimizer.zero_grad()
    optimizer.zero_grad(set_to_none=False)
    backward(model, 1)
    assert optimizer.step(samples=1).stepped


def test_schedulers_take_it_for_an_optimizer(model: nn.Module, optimizer: SwarmOptimizer) -> None:
    assert isinstance(optimizer, torch.optim.Optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    rates = []
    for number in range(4):
        backward(model, number)
        assert optimizer.step(samples=24).stepped
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.1, 0.05, 0.05, 0.025]
    assert "lr: 0.025" in repr(optimizer)
    assert set(optimizer.state) == set(model.parameters())


@pytest.mark.parametrize("samples", [None, 0, -3])
def test_the_number_of_samples_is_needed(
    model: nn.Module, optimizer: SwarmOptimizer, samples: int | None
) -> None:
    backward(model, 0)
    with pytest.raises(ValueError, match="number of samples"):
        optimizer.step(samples=samples)


def test_misuse_is_told(swarm: Swarm, model: nn.Module, optimizer: SwarmOptimizer) -> None:
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optimizer.step(samples=8)
    with pytest.raises(ValueError, match="closures"):
        optimizer.step(lambda: 0.0, samples=8)
    with pytest.raises(ValueError, match="before"):
        optimizer.add_param_group({"params": []})
    with pytest.raises(ValueError, match="one model"):
        swarm.optimizer(momentum(model), model=model, global_batch=24)


def test_an_optimizer_of_another_model_is_refused(swarm: Swarm, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="not the model's"):
        swarm.optimizer(momentum(make_model()), model=model, global_batch=24)
    with pytest.raises(ValueError, match="at least 1 sample"):
        swarm.optimizer(momentum(model), model=model, global_batch=0)
    assert swarm.peers == ()
    assert swarm.global_step == 0


def test_a_checkpoint_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    model = make_model()
    with join("test") as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, global_batch=8)
        for number in range(5):
            backward(model, number)
            optimizer.step(samples=8)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        expected = optimizer.state_hash()
        backward(model, 5)
        optimizer.step(samples=8)
        after = optimizer.state_hash()
    again = make_model(seed=1)
    with join("test") as swarm:
        optimizer = swarm.optimizer(momentum(again), model=again, global_batch=8)
        loaded = torch.load(path, weights_only=True)
        again.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])
        assert (optimizer.global_step, optimizer.state_hash()) == (5, expected)
        assert swarm.peers[0].step == 5
        backward(again, 5)
        assert optimizer.step(samples=8).global_step == 6
        assert optimizer.state_hash() == after


def test_a_plain_optimizers_state_begins_at_step_0(
    model: nn.Module, optimizer: SwarmOptimizer
) -> None:
    plain = momentum(make_model())
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.global_step == 0
    backward(model, 0)
    assert optimizer.step(samples=24).global_step == 1


def test_averaging_the_state_alone_changes_nothing(
    model: nn.Module, optimizer: SwarmOptimizer
) -> None:
    backward(model, 0)
    optimizer.step(samples=24)
    before = optimizer.state_hash()
    report = optimizer.reaverage()
    assert report.succeeded
    assert optimizer.state_hash() == before
    assert optimizer.global_step == 1
    backward(model, 1)
    assert optimizer.step(samples=24).global_step == 2


def test_another_model_under_the_same_name_is_told(
    swarm: Swarm, model: nn.Module, optimizer: SwarmOptimizer
) -> None:
    backward(model, 0)
    assert optimizer.step(samples=24).stepped
    other = make_model(width=5)
    with (
        join("test", initial_peers=swarm.addresses) as stranger,
        pytest.raises(SpecDiffers) as told,
    ):
        stranger.optimizer(momentum(other), model=other, global_batch=24)
    assert str(told.value).count("spec hash") == 1
    assert "use another run name" in str(told.value)
    backward(model, 1)
    assert optimizer.step(samples=24).stepped, "those who were there first go on"


@pytest.mark.parametrize("kind", ["batch", "optimizer"])
def test_another_optimizer_or_batch_is_another_spec(
    swarm: Swarm, model: nn.Module, optimizer: SwarmOptimizer, kind: str
) -> None:
    backward(model, 0)
    assert optimizer.step(samples=24).stepped
    same = make_model()
    wrapped = momentum(same) if kind == "batch" else torch.optim.AdamW(same.parameters())
    batch = 25 if kind == "batch" else 24
    with join("test", initial_peers=swarm.addresses) as stranger, pytest.raises(SpecDiffers):
        stranger.optimizer(wrapped, model=same, global_batch=batch)


@pytest.mark.slow
def test_rounds_that_fail_keep_what_was_accumulated_and_are_told(model: nn.Module) -> None:
    config = SwarmConfig(
        averager=AveragerConfig(group_size_min=2), round_deadline_s=0.2, failures_max=2
    )
    with join("test", config=config) as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, global_batch=8)
        before = optimizer.state_hash()
        backward(model, 0)
        report = optimizer.step(samples=8)
        assert (report.stepped, report.samples) == (False, 8)
        assert "2 members" in report.failure
        assert report.round is not None
        assert not report.round.succeeded
        backward(model, 1)
        with pytest.raises(SwarmStuck, match="2 rounds failed one after another"):
            optimizer.step(samples=8)
        backward(model, 2)
        assert optimizer.step(samples=8).samples == 24, "one can go on after the error"
        with pytest.raises(RoundFailed):
            optimizer.reaverage()
        assert optimizer.state_hash() == before


class Trainer(threading.Thread):
    """Another peer in a thread of its own; its loop runs until it is told to end."""

    def __init__(
        self, loop: Callable[[Trainer, Swarm], None], config: SwarmConfig | None = None
    ) -> None:
        super().__init__()
        self.ended, self.ready = threading.Event(), threading.Event()
        self.addresses: tuple[str, ...] = ()
        self._loop, self._config = loop, config
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with join("test", config=self._config) as swarm:
                self.addresses = swarm.addresses
                self._loop(self, swarm)
        except BaseException as exc:
            self._error = exc
        finally:
            self.ready.set()

    def __enter__(self) -> Trainer:
        self.start()
        assert self.ready.wait(SOON_S)
        self.check()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.join(SOON_S)
        assert not self.is_alive()
        self.check()

    def check(self) -> None:
        if self._error is not None:
            raise self._error


def adam(swarm: Swarm, model: nn.Module) -> SwarmOptimizer:
    return swarm.optimizer(torch.optim.AdamW(model.parameters()), model=model, global_batch=32)


def test_a_late_joiner_takes_over_the_state_and_both_go_on_together() -> None:
    hashes: dict[str, dict[int, str]] = {"first": {}, "late": {}}

    def train(trainer: Trainer, swarm: Swarm) -> None:
        model = make_model(seed=1)
        optimizer = adam(swarm, model)
        number = 0
        while not trainer.ended.is_set():
            backward(model, number)
            if optimizer.step(samples=8).stepped:
                hashes["first"][optimizer.global_step] = optimizer.state_hash()
                trainer.ready.set()
            number += 1

    model = make_model(seed=2)
    with Trainer(train) as first, join("test", initial_peers=first.addresses) as swarm:
        optimizer = adam(swarm, model)
        assert optimizer.synchronize()
        first_step = optimizer.global_step
        assert first_step >= 1
        number = 10_000
        while len(hashes["late"]) < 5:
            backward(model, number)
            report = optimizer.step(samples=8)
            if report.stepped:
                hashes["late"][optimizer.global_step] = optimizer.state_hash()
                assert report.round is not None
                assert len(report.round.members) == 2
            number += 1
        assert len(swarm.peers) == 2
    assert min(hashes["late"]) > first_step
    for step, state_hash in hashes["late"].items():
        assert hashes["first"][step] == state_hash


def test_the_first_micro_batch_of_a_late_joiner_is_dropped() -> None:
    def train(trainer: Trainer, swarm: Swarm) -> None:
        model = make_model(seed=1)
        optimizer = adam(swarm, model)
        while not trainer.ended.is_set():
            backward(model, 0)
            if optimizer.step(samples=8).stepped:
                trainer.ready.set()

    model = make_model(seed=2)
    with Trainer(train) as first, join("test", initial_peers=first.addresses) as swarm:
        optimizer = adam(swarm, model)
        backward(model, 0)
        report = optimizer.step(samples=8)
        assert (report.caught_up, report.stepped, report.samples) == (True, False, 0)
        assert report.global_step >= 1
        assert all(parameter.grad is None for parameter in model.parameters())


def test_averaging_makes_all_bits_equal_also_for_one_who_comes_after_it() -> None:
    found: list[str] = []

    def train(trainer: Trainer, swarm: Swarm) -> None:
        model = make_model(seed=1)
        optimizer = adam(swarm, model)
        while optimizer.global_step < 3:
            backward(model, optimizer.global_step)
            optimizer.step(samples=32)
        optimizer.reaverage()
        found.append(optimizer.state_hash())
        trainer.ready.set()
        while not trainer.ended.is_set():
            # Looking at the peers also serves a newcomer's download.
            assert swarm.peers
            trainer.ended.wait(0.01)

    model = make_model(seed=2)
    with Trainer(train) as first, join("test", initial_peers=first.addresses) as swarm:
        optimizer = adam(swarm, model)
        report = optimizer.reaverage()
        assert report.succeeded
        assert "downloaded" in report.reason
        assert optimizer.global_step == 3
        assert optimizer.state_hash() == found[0]
