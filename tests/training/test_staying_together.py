"""Peers whose parameters have drifted apart come together again: by sketches, by averaging."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from training import StepReport, Swarm, SwarmConfig, SwarmOptimizer, join
from training.sketch import sketch_of

SOON_S = 20.0
STEPS = 6
BATCH = 24
# Where one is too slow for a round on a busy machine, it soon takes over the others' state.
CONFIG = SwarmConfig(round_deadline_s=5)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 2))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


Disturb = Callable[[int, int, nn.Module], None]
"""Gets the peer's index, the step it has just taken, and its model."""


def train_three(disturb: Disturb, **options: int) -> tuple[list[nn.Module], list[list[StepReport]]]:
    """Three peers in threads of their own, until each has taken all steps."""
    models = [make_model() for _ in range(3)]
    reports: list[list[StepReport]] = [[], [], []]
    errors: list[BaseException] = []
    finished: set[int] = set()

    def loop(index: int, swarm: Swarm) -> None:
        model = models[index]
        optimizer: SwarmOptimizer = swarm.optimizer(
            torch.optim.AdamW(model.parameters(), lr=0.01),
            model=model,
            global_batch=BATCH,
            **options,
        )
        while len(swarm.peers) < 3:
            time.sleep(0.01)
        draw = torch.Generator().manual_seed(index)
        while optimizer.global_step < STEPS:
            inputs = torch.randn(BATCH // 3, 3, generator=draw)
            model(inputs).square().sum(dim=1).mean().backward()
            report = optimizer.step(samples=len(inputs))
            optimizer.zero_grad()
            reports[index].append(report)
            if report.stepped:
                disturb(index, report.global_step, model)
        finished.add(index)
        ends_s = time.monotonic() + SOON_S
        while len(finished) < 3 and not errors and time.monotonic() < ends_s:
            # Looking at the peers also serves one who has to download the state.
            assert swarm.peers
            time.sleep(0.01)

    def run(index: int, initial_peers: tuple[str, ...]) -> None:
        try:
            with join("test", initial_peers=initial_peers, config=CONFIG) as swarm:
                loop(index, swarm)
        except BaseException as exc:
            errors.append(exc)

    with join("test") as entrance:
        threads = [
            threading.Thread(target=run, args=(index, entrance.addresses)) for index in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * SOON_S)
            assert not thread.is_alive()
    if errors:
        raise errors[0]
    return models, reports


@pytest.mark.slow
@torch.no_grad()
def test_one_whose_parameters_went_wrong_takes_over_those_of_the_others() -> None:
    def disturb(index: int, step: int, model: nn.Module) -> None:
        # What a bad memory chip might do, after the step was told.
        if (index, step) == (2, 2):
            for parameter in model.parameters():
                parameter.mul_(3)

    with torch.enable_grad():
        models, reports = train_three(torch.no_grad()(disturb))
    assert [any(one.caught_up for one in of) for of in reports] == [False, False, True]
    for model in models[1:]:
        torch.testing.assert_close(flat(model), flat(models[0]), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_averaging_the_state_makes_all_bits_equal_every_so_many_steps() -> None:
    def disturb(index: int, step: int, model: nn.Module) -> None:
        # Less than what a sketch would call astray.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + index * 1e-6)

    models, reports = train_three(disturb, reaverage_every=3)
    for of in reports:
        steps = [one.global_step for one in of if one.reaveraged]
        assert steps == [3, 6] or any(one.caught_up for one in of)
    assert any(one.reaveraged for of in reports for one in of)
    for model in models[1:]:
        # The last step was disturbed once more, after the averaging.
        torch.testing.assert_close(flat(model), flat(models[0]), rtol=4e-6, atol=0)


def test_both_cannot_be_had_with_delayed_updates() -> None:
    model = make_model()
    with join("test") as swarm, pytest.raises(ValueError, match="delayed"):
        swarm.optimizer(
            torch.optim.SGD(model.parameters(), lr=0.1),
            model=model,
            global_batch=8,
            delayed=True,
            reaverage_every=5,
        )


@pytest.mark.parametrize("size", [1, 15, 16, 2**16 + 3])
def test_the_distance_of_sketches_is_about_that_of_the_models(size: int) -> None:
    draw = torch.Generator().manual_seed(size)
    ours = [torch.randn(size, generator=draw), torch.randn(3, 5, generator=draw)]
    theirs = [one + 0.1 * torch.randn(one.shape, generator=draw) for one in ours]
    assert sketch_of(ours) == sketch_of([one.clone() for one in ours])
    true = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True)))
    told = math.dist(sketch_of(ours), sketch_of(theirs))
    assert 0.4 * true < told < 2.5 * true


def test_a_sketch_looks_at_all_elements() -> None:
    for index in (0, 17, 2**16, 2**16 + 99):
        ours, theirs = torch.zeros(2**16 + 100), torch.zeros(2**16 + 100)
        theirs[index] = 1.0
        assert math.dist(sketch_of([ours]), sketch_of([theirs])) == 1.0
