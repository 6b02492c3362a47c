"""The simulated swarm: batches fill as they must, peers come and go, and a seed decides all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from tools.bench.dedloc_swarm import Step, Swarm, SwarmRules, Trainer

RULES: dict[str, Any] = {
    "global_batch": 64,
    "micro_batch": 4,
    "accept_fraction": 0.9,
    "matchmaking_s": 0.5,
    "latency_s": 0.01,
    "jitter": 0.0,
    "delayed": False,
}
TRANSFER_S = 2.0


def swarm(trainers: Sequence[Trainer], *, seed: int = 0, **changes: Any) -> Swarm:
    return Swarm(trainers, SwarmRules(**{**RULES, **changes}), lambda _: TRANSFER_S, seed=seed)


def trainers(count: int, samples_per_s: float = 4.0) -> list[Trainer]:
    return [Trainer(f"trainer-{number}", samples_per_s) for number in range(count)]


def lasted(steps: Sequence[Step]) -> list[float]:
    """Seconds from the end of each step to that of the next."""
    return [late.over_at_s - early.over_at_s for early, late in pairwise(steps)]


def test_a_step_is_the_batch_and_the_round() -> None:
    # Four peers compute 4 samples a second each: after 4 s each has 16, together 64. Nobody knows
    # before its next micro-batch is done.
    steps = swarm(trainers(4), jitter=0.1).run_steps(6)
    for step, seconds in zip(steps[1:], lasted(steps), strict=True):
        assert 64 <= step.samples <= 64 + 4 * 4
        assert 3.6 <= step.computing_s <= 5.5
        assert step.gathering_s <= 1.1 + 0.1
        rest_s = step.computing_s + step.gathering_s
        assert seconds == pytest.approx(rest_s + 0.5 + TRANSFER_S)


def test_one_alone_needs_nobody() -> None:
    steps = swarm(trainers(1)).run_steps(3)
    assert [step.samples for step in steps] == [64] * 3
    assert lasted(steps) == pytest.approx([16.0 + 0.5 + TRANSFER_S] * 2)


def test_the_fast_bring_more_and_the_slow_are_waited_for() -> None:
    steps = swarm([*trainers(3), Trainer("slow", 1.0)]).run_steps(5)
    for step in steps:
        assert 64 <= step.samples <= 64 + 4 * 4
        # The slow one's micro-batch takes 4 s, and a round begins between two of them.
        assert step.gathering_s <= 4.0 + 0.1
        assert len(step.members) == 4


@pytest.mark.parametrize(("samples_per_s", "expected_s"), [(4.0, 4.0), (16.0, 0.5 + TRANSFER_S)])
def test_delayed_updates_take_the_longer_of_both(samples_per_s: float, expected_s: float) -> None:
    found = swarm(trainers(4, samples_per_s), delayed=True, jitter=0.1).run_steps(10)
    # A micro-batch more may be computed until the batch is known to be there, and until all know.
    for seconds in lasted(found)[3:]:
        assert expected_s * 0.9 <= seconds <= expected_s * 1.1 + 2 * 4 / samples_per_s


def test_more_peers_fill_the_batch_sooner_and_leave_again() -> None:
    late = [Trainer(f"late-{number}", 4.0, 30.0, 90.0) for number in range(4)]
    steps = swarm([*trainers(4), *late]).run(150.0)
    sizes = [len(step.members) for step in steps]
    assert sizes[0] == sizes[-1] == 4
    assert set(sizes) == {4, 8}
    assert max(step.computing_s for step in steps if len(step.members) == 8) <= 4.1
    for step, seconds in zip(steps[1:], lasted(steps), strict=True):
        assert step.samples >= 64 * 0.9
        assert seconds < 12.0


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("leaves_at_s", [1.7, 3.9, 4.005, 5.0])
def test_whoever_leaves_takes_its_samples_along(leaves_at_s: float, delayed: bool) -> None:
    """Accumulating, about to wait, waiting, or in the round."""
    leaver = Trainer("leaver", 4.0, 0.0, leaves_at_s)
    steps = swarm([*trainers(3), leaver], delayed=delayed).run(60.0)
    assert len(steps) > 4
    for step in steps:
        assert step.samples >= 64 * 0.9
    assert all(leaver not in step.members for step in steps[1:])


@pytest.mark.slow
@pytest.mark.parametrize("delayed", [False, True])
def test_whoever_comes_as_a_round_begins_is_in_the_next(delayed: bool) -> None:
    # The first rounds begin at about 4 s, and word takes 0.3.
    for number in range(40):
        late = Trainer("late", 4.0, comes_at_s=3.5 + 0.05 * number)
        found = swarm([*trainers(4), late], delayed=delayed, jitter=0.1, latency_s=0.3)
        steps = found.run_steps(4)
        assert len(steps) == 4
        assert all(late in step.members for step in steps[2:]), late.comes_at_s
        assert steps[-1].over_at_s < 40.0


def test_a_seed_decides_everything() -> None:
    late = [Trainer("late", 4.0, 20.0, 40.0)]
    runs = [swarm([*trainers(4), *late], seed=seed, jitter=0.2).run(100.0) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
