"""Sixteen members, four of whom drop at random phases: what comes of it, and what was told."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from averaging.secure import schema
from averaging.secure.masks import MaskKeys, add_masks, mask_key
from averaging.secure.stages import Phase
from tests.averaging.secure.world import PHASES, World

Array = np.ndarray[Any, Any]

# With 255 degrees of freedom a uniform byte exceeds it once in ten thousand times.
CHI_SQUARE_MAX = 347.0
QUICK, ALL, BATCH = 8, 200, 20


def world_with_drops(seed: int) -> World:
    world = World(seed)
    for number in world.rng.sample(range(1, world.count), 4):
        phase = world.rng.choice(PHASES)
        said = world.rng.randrange(5) if phase in ("part", "held") else 0
        world.drops[number] = (phase, said)
    world.run()
    return world


def chi_square(words: Array) -> float:
    """How far the top bytes are from uniform."""
    counts = np.bincount((words >> 24).astype(np.int64), minlength=256)
    expected = len(words) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def check(world: World) -> tuple[Array, Array]:
    """All promises; returns masked words as aggregators see them, and what they can take off."""
    assert len(world.gone) == 4, world.gone
    assert world.coordinator.phase is Phase.DONE
    survivors = world.coordinator.survivors
    assert set(range(16)) - set(world.gone) <= set(survivors)
    # Everybody who is still there has the exact sum of the survivors.
    assert set(world.done) == set(range(16)) - set(world.gone)
    assert world.failed == {}
    total = world.survivors_sum()
    for sums in world.done.values():
        np.testing.assert_array_equal(sums, total)
    dealers = {sent.sender for sent in world.sent(schema.Shares)}
    assert world.revealed() == {
        dealer: {"seed"} if dealer in survivors else {"key"} for dealer in dealers
    }
    return seen_by_aggregators(world)


def seen_by_aggregators(world: World) -> tuple[Array, Array]:
    """Parts as they are sent, and those of survivors without the masks whose seeds are revealed."""
    told = world.sent(schema.Secrets)[0].message
    seeds = dict(zip(world.coordinator.survivors, told.seeds, strict=True))
    masked: dict[tuple[int, int], Array] = {}
    opened: dict[tuple[int, int], Array] = {}
    for sent in world.sent(schema.Part):
        assert sent.payload is not None
        # What goes to a second owner is the same again.
        part = (sent.sender, sent.message.span)
        np.testing.assert_array_equal(sent.payload, masked.setdefault(part, sent.payload))
        if sent.sender in seeds and part not in opened:
            opened[part] = sent.payload.copy()
            key = mask_key(seeds[sent.sender], world.group_id)
            add_masks(opened[part], sent.message.start, MaskKeys((), (key,)))
            where = world.spans[sent.message.span]
            plain = world.plain[sent.sender][where.start : where.stop]
            assert not np.array_equal(opened[part], plain)
    return np.concatenate(list(masked.values())), np.concatenate(list(opened.values()))


def check_all(seeds: range) -> None:
    both = [check(world_with_drops(seed)) for seed in seeds]
    for words in (
        np.concatenate([one for one, _ in both]),
        np.concatenate([one for _, one in both]),
    ):
        assert len(words) > 256 * 5
        assert chi_square(words) < CHI_SQUARE_MAX


@pytest.mark.slow
def test_survivors_learn_their_sum_and_nothing_else() -> None:
    check_all(range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, ALL, BATCH))
def test_survivors_learn_their_sum_and_nothing_else_in_200_simulations(first: int) -> None:
    check_all(range(first, first + BATCH))


def test_the_uniformity_check_sees_what_is_not_masked() -> None:
    world = World(0)
    assert chi_square(world.plain.reshape(-1)) > 10 * CHI_SQUARE_MAX


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [2, 9], ids=["aggregator", "member"])
def test_one_that_drops_harms_nobody_else(phase: str, number: int) -> None:
    world = World(random.Random(phase).randrange(1000), count=6, aggregators=3)
    world.drops[number if number < 6 else 5] = (phase, 0)
    world.run()
    assert len(world.gone) == 1
    assert len(world.done) == 5
    for sums in world.done.values():
        np.testing.assert_array_equal(sums, world.survivors_sum())
    assert all(len(kinds) == 1 for kinds in world.revealed().values())


@pytest.mark.parametrize("phase", PHASES)
def test_too_few_left_fail_and_reveal_nothing_more(phase: str) -> None:
    # Of six, five are needed.
    world = World(3, count=6, aggregators=3)
    world.drops = {4: (phase, 0), 5: (phase, 0)}
    world.run()
    assert world.coordinator.phase is Phase.FAILED
    assert world.done == {}
    assert set(world.failed) == {0, 1, 2, 3}
    assert all("are left of the 5 needed" in reason for reason in world.failed.values())
    if phase != "reveal":
        assert world.sent(schema.Reveal) == []
    assert world.sent(schema.Secrets) == []
    # Who has sent a masked element must never offer the same vector again.
    spent = phase not in ("keys", "shares")
    assert [member.spent for member in world.members[:4]] == [spent] * 4


def test_messages_that_come_twice_change_nothing() -> None:
    world = World(4, count=5, aggregators=2)
    once = (schema.Part, schema.SumEnd, *schema.FromCoordinator.__args__)
    world.tamper = lambda sent: [sent] if isinstance(sent.message, once) else [sent, sent]
    world.run()
    assert len(world.done) == 5
    np.testing.assert_array_equal(world.done[3], world.survivors_sum())


def test_three_members_are_enough_and_all_of_them_are_needed() -> None:
    world = World(5, count=3, aggregators=3)
    world.run()
    assert len(world.done) == 3
    world = World(5, count=3, aggregators=3)
    world.drops[2] = ("part", 1)
    world.run()
    assert world.coordinator.phase is Phase.FAILED
