"""Delayed updates in this process: gradients exactly one step old, and nothing lost."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from averaging import AveragerConfig
from tests.training.test_optimizer import Trainer, momentum
from training import (
    RampBatch,
    StepReport,
    Swarm,
    SwarmConfig,
    SwarmOptimizer,
    SwarmStuck,
    join,
)

MICRO_BATCH = 8
SOON_S = 30.0
Vector = torch.Tensor


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(MICRO_BATCH, 3, generator=generator, dtype=torch.float64)
    model(inputs).square().sum(dim=1).mean().backward()


def flat(model: nn.Module) -> Vector:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def wrap(swarm: Swarm, model: nn.Module, global_batch: int | RampBatch = 24) -> SwarmOptimizer:
    return swarm.optimizer(momentum(model), model=model, global_batch=global_batch, delayed=True)


def one_process(steps: Sequence[Sequence[int]]) -> list[Vector]:
    """Delayed SGD without a swarm: each step's gradient is of the parameters before the last."""
    model = make_model()
    optimizer = momentum(model)
    thetas = [flat(model)]
    for number, seeds in enumerate(steps):
        nn.utils.vector_to_parameters(thetas[max(number - 1, 0)].clone(), model.parameters())
        optimizer.zero_grad()
        for seed in seeds:
            backward(model, seed)
        gradients = [copy.deepcopy(parameter.grad) for parameter in model.parameters()]
        nn.utils.vector_to_parameters(thetas[number].clone(), model.parameters())
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            assert gradient is not None
            parameter.grad = gradient / len(seeds)
        optimizer.step()
        thetas.append(flat(model))
    return thetas


class Log:
    """Which micro-batches went into which step, and the parameters after it."""

    def __init__(self) -> None:
        self.batches: dict[int, list[int]] = {}
        self.thetas: dict[int, Vector] = {}
        self._held: list[int] = []
        self._accumulated: list[int] = []

    def add(self, seed: int, report: StepReport, model: nn.Module) -> None:
        self._accumulated.append(seed)
        if report.stepped:
            self.batches[report.global_step] = self._held
            self.thetas[report.global_step] = flat(model)
        elif report.caught_up:
            self._held, self._accumulated = [], []
        elif report.failure:
            self._accumulated = self._held + self._accumulated
        if report.began:
            self._held, self._accumulated = self._accumulated, []


@pytest.mark.parametrize("global_batch", [MICRO_BATCH, 24, RampBatch(first=8, last=40, steps=6)])
def test_alone_it_equals_delayed_sgd_in_one_process(global_batch: int | RampBatch) -> None:
    model, log = make_model(), Log()
    with join("test") as swarm:
        optimizer = wrap(swarm, model, global_batch)
        for seed in itertools.count():
            backward(model, seed)
            log.add(seed, optimizer.step(samples=MICRO_BATCH), model)
            if optimizer.global_step == 10:
                break
    expected = one_process([log.batches[step] for step in range(1, 11)])
    for step in range(1, 11):
        torch.testing.assert_close(log.thetas[step], expected[step], rtol=0, atol=1e-10)
    everything = [seed for step in range(1, 11) for seed in log.batches[step]]
    assert everything == list(range(len(everything))), "each once, in order"


def run_peers(names: Sequence[str], train: Callable[[str, Swarm], None]) -> None:
    """Each peer in a thread of its own; raises what one of them raised."""
    errors: list[BaseException] = []

    def run(name: str, addresses: tuple[str, ...]) -> None:
        try:
            with join("test", initial_peers=addresses) as swarm:
                train(name, swarm)
        except BaseException as exc:
            errors.append(exc)

    with join("meeting-point") as meeting_point:
        threads = [
            threading.Thread(target=run, args=(name, meeting_point.addresses)) for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON_S)
            assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.slow
def test_three_peers_equal_delayed_sgd_in_one_process() -> None:
    names, steps = ("alice", "bob", "carol"), 12
    logs = {name: Log() for name in names}
    start = threading.Barrier(len(names))

    # Not in the threads: they would draw from torch's one generator in turns.
    models = {name: make_model() for name in names}

    def train(name: str, swarm: Swarm) -> None:
        model = models[name]
        optimizer = wrap(swarm, model, 72)
        deadline_s = time.monotonic() + SOON_S
        while len(swarm.peers) < len(names):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        start.wait(SOON_S)
        for seed in itertools.count(10_000 * names.index(name)):
            backward(model, seed)
            logs[name].add(seed, optimizer.step(samples=MICRO_BATCH), model)
            if all(len(log.thetas) > steps for log in logs.values()):
                break

    run_peers(names, train)
    expected = one_process(
        [
            [seed for log in logs.values() for seed in log.batches[step]]
            for step in range(1, steps + 1)
        ]
    )
    for log in logs.values():
        assert all(log.batches[step] for step in range(1, steps + 1)), "all took part in each"
        for step in range(1, steps + 1):
            torch.testing.assert_close(log.thetas[step], expected[step], rtol=0, atol=1e-10)


def test_a_report_says_what_happened_when() -> None:
    model = make_model()
    with join("test") as swarm:
        optimizer = wrap(swarm, model)
        reports = []
        for seed in range(7):
            backward(model, seed)
            before = flat(model)
            reports.append(optimizer.step(samples=MICRO_BATCH))
            assert torch.equal(flat(model), before) != reports[-1].stepped
    assert [report.began for report in reports] == [False, False, True, False, False, True, False]
    assert [report.stepped for report in reports] == [False] * 5 + [True, False]
    assert [report.global_step for report in reports] == [0] * 5 + [1, 1]
    assert [report.samples for report in reports] == [8, 16, 0, 8, 16, 24, 8]
    assert [report.round is not None for report in reports] == [r.stepped for r in reports]
    assert all(report.waited_s > 0 for report in reports)


@pytest.mark.slow
def test_a_round_that_fails_gives_back_what_was_in_it() -> None:
    model = make_model()
    config = SwarmConfig(
        averager=AveragerConfig(group_size_min=2), round_deadline_s=0.2, failures_max=2
    )
    with join("test", config=config) as swarm:
        optimizer = wrap(swarm, model, 16)
        before = flat(model)
        seeds = itertools.count()

        def step() -> StepReport:
            backward(model, next(seeds))
            return optimizer.step(samples=MICRO_BATCH)

        assert (step().began, step().began) == (False, True)
        assert step().failure == "", "under way"
        failed = step()
        assert "2 members" in failed.failure, "the next batch was full, so it was waited for"
        assert failed.round is not None
        assert (failed.stepped, failed.began, failed.samples) == (False, False, 32)
        again = step()
        assert (again.began, again.samples) == (True, 0)
        with pytest.raises(SwarmStuck, match="2 rounds failed"):
            for _ in range(5):
                step()
        assert step().began, "one can go on after the error"
        assert torch.equal(flat(model), before)
        # All that was ever accumulated is in the round under way.
        round = optimizer._stepper._under_way
        assert round is not None
        samples = round.samples
    expected = make_model()
    for seed in range(samples // MICRO_BATCH):
        backward(expected, seed)
    for name, parameter in expected.named_parameters():
        assert parameter.grad is not None
        mean = parameter.grad / (samples // MICRO_BATCH)
        torch.testing.assert_close(torch.from_numpy(round.means[name]), mean, rtol=0, atol=1e-10)


def test_averaging_the_state_waits_for_the_round_and_takes_its_step() -> None:
    model = make_model()
    with join("test") as swarm:
        optimizer = wrap(swarm, model, MICRO_BATCH)
        backward(model, 0)
        assert optimizer.step(samples=MICRO_BATCH).began
        assert optimizer.reaverage().succeeded
        assert optimizer.global_step == 1
        torch.testing.assert_close(flat(model), one_process([[0]])[1], rtol=0, atol=1e-10)
        backward(model, 1)
        report = optimizer.step(samples=MICRO_BATCH)
        assert (report.began, report.stepped) == (True, False)
        assert not optimizer.synchronize()
        assert optimizer.global_step == 2


def test_a_checkpoint_is_of_the_parameters_that_are_there(tmp_path: Path) -> None:
    """The round under way is no part of it; loading one gives that round up."""
    model, path = make_model(), tmp_path / "checkpoint.pt"
    with join("test") as swarm:
        optimizer = wrap(swarm, model, MICRO_BATCH)
        for seed in range(3):
            backward(model, seed)
            assert optimizer.step(samples=MICRO_BATCH).began
        assert optimizer.global_step == 2
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        saved = flat(model)
        backward(model, 3)
        optimizer.step(samples=MICRO_BATCH)
        loaded = torch.load(path, weights_only=True)
        model.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])
        assert optimizer.global_step == 2
        backward(model, 4)
        report = optimizer.step(samples=MICRO_BATCH)
        assert (report.began, report.stepped) == (True, False), "nothing was left to apply"
        assert torch.equal(flat(model), saved)
        backward(model, 5)
        assert optimizer.step(samples=MICRO_BATCH).global_step == 3


@pytest.mark.slow
def test_leaving_waits_for_the_round_a_moment_then_gives_it_up() -> None:
    model = make_model()
    config = SwarmConfig(averager=AveragerConfig(group_size_min=2))
    with join("test", config=config) as swarm:
        optimizer = wrap(swarm, model, MICRO_BATCH)
        backward(model, 0)
        before = flat(model)
        assert optimizer.step(samples=MICRO_BATCH).began
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 15, "the round alone would take 30 s"
    assert torch.equal(flat(model), before)
    assert [thread for thread in threading.enumerate() if thread.name == "manyhands-trio"] == []


@pytest.mark.slow
def test_a_late_joiner_steps_with_the_others() -> None:
    hashes: dict[str, dict[int, str]] = {"first": {}, "late": {}}

    def train(trainer: Trainer, swarm: Swarm) -> None:
        model = make_model(seed=1)
        optimizer = wrap(swarm, model)
        for seed in itertools.count():
            backward(model, seed)
            if optimizer.step(samples=MICRO_BATCH).stepped:
                hashes["first"][optimizer.global_step] = optimizer.state_hash()
            if optimizer.global_step >= 3:
                trainer.ready.set()
            if trainer.ended.is_set():
                break

    model = make_model(seed=2)
    with Trainer(train) as first, join("test", initial_peers=first.addresses) as swarm:
        optimizer = wrap(swarm, model)
        for seed in itertools.count(10_000):
            backward(model, seed)
            report = optimizer.step(samples=MICRO_BATCH)
            if report.stepped:
                hashes["late"][optimizer.global_step] = optimizer.state_hash()
                assert report.round is not None
                assert len(report.round.members) == 2
            if len(hashes["late"]) == 6:
                break
    for step, state_hash in hashes["late"].items():
        assert hashes["first"][step] == state_hash
