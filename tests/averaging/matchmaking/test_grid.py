"""The grid by itself: exact in a full one, and in any other as fast as theory says."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.matchmaking.grid import DEPTH_MAX, Grid, fits, grid_round

seeds = st.integers(0, 2**32 - 1)


@dataclass
class Walker:
    """A simulated peer: its place and its value."""

    grid: Grid
    value: float


def buckets_of(walkers: list[Walker]) -> dict[str, list[Walker]]:
    buckets: dict[str, list[Walker]] = {}
    for walker in walkers:
        buckets.setdefault(walker.grid.bucket, []).append(walker)
    return buckets


def groups_of(walkers: list[Walker], cap: int, rng: random.Random) -> list[list[Walker]]:
    """Groups as matchmaking forms them: one bucket each, in changing order, none too large."""
    groups: list[list[Walker]] = []
    for _, bucket in sorted(buckets_of(walkers).items()):
        rng.shuffle(bucket)
        groups.extend(bucket[start : start + cap] for start in range(0, len(bucket), cap))
    return groups


def average(walkers: list[Walker], cap: int, rng: random.Random) -> list[int]:
    """One round of everybody; returns the sizes of the groups."""
    groups = groups_of(walkers, cap, rng)
    for group in groups:
        mean = statistics.fmean(walker.value for walker in group)
        group_id = rng.randbytes(32)
        for index, walker in enumerate(group):
            walker.value = mean
            walker.grid.on_round(group_id, len(group), index)
    return [len(group) for group in groups]


def variance(walkers: list[Walker]) -> float:
    return statistics.pvariance([walker.value for walker in walkers])


def full_grid(side_bits: int, dimensions: int, rng: random.Random) -> list[Walker]:
    """One walker at each point of a grid."""
    bits, depth = side_bits * dimensions, side_bits * (dimensions - 1)
    return [
        # The oldest coordinate is the one that the first round averages over.
        Walker(
            Grid(1 << side_bits + 1, rng, coordinates=f"{point:0{bits}b}", depth=depth),
            rng.gauss(0.0, 1.0),
        )
        for point in range(1 << bits)
    ]


def crowd(count: int, cap: int, rng: random.Random) -> list[Walker]:
    walkers = [Walker(Grid(cap, rng), rng.gauss(0.0, 1.0)) for _ in range(count)]
    for walker in walkers:
        walker.grid.on_swarm_size(count)
    return walkers


@pytest.mark.parametrize(("side_bits", "dimensions"), [(1, 3), (1, 5), (2, 2), (2, 4), (4, 2)])
def test_a_full_grid_has_the_exact_mean_after_as_many_rounds_as_dimensions(
    side_bits: int, dimensions: int
) -> None:
    rng = random.Random(1)
    walkers = full_grid(side_bits, dimensions, rng)
    mean = statistics.fmean(walker.value for walker in walkers)
    deviations = []
    for _ in range(dimensions):
        sizes = average(walkers, 1 << side_bits + 1, rng)
        assert set(sizes) == {1 << side_bits}
        assert statistics.fmean(walker.value for walker in walkers) == pytest.approx(mean)
        deviations.append(variance(walkers) ** 0.5)
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[-1] < 1e-12 < deviations[0]


def random_groups_leave(group_counts: list[int], count: int) -> float:
    """Which part of the variance rounds of random groups leave: (groups - 1) / (peers - 1) each."""
    return math.prod((group_count - 1) / (count - 1) for group_count in group_counts)


@pytest.mark.parametrize(("count", "cap"), [(256, 16), (256, 64), (1000, 16), (1000, 64)])
@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_mixes_at_least_as_fast_as_random_groups(count: int, cap: int, seed: int) -> None:
    rng = random.Random(seed)
    walkers = crowd(count, cap, rng)
    mean, first = statistics.fmean(walker.value for walker in walkers), variance(walkers)
    group_counts = []
    for _ in range(4):
        group_counts.append(len(average(walkers, cap, rng)))
        # Chance alone filled the first buckets; afterwards members spread evenly.
        assert max(len(bucket) for bucket in buckets_of(walkers).values()) <= cap
        assert statistics.fmean(walker.value for walker in walkers) == pytest.approx(mean)
    # The first groups, by chance, are of uneven size; the next ones make up for it.
    assert variance(walkers) <= first * random_groups_leave(group_counts, count)


@pytest.mark.parametrize(("count", "cap"), [(256, 16), (256, 64), (1000, 16), (1000, 64)])
def test_a_fifth_that_comes_and_goes_each_round_does_no_harm(count: int, cap: int) -> None:
    rng = random.Random(1)
    walkers = crowd(count, cap, rng)
    first, crowded = variance(walkers), 0
    for _ in range(12):
        # A fifth leaves, and as many come with the state of somebody and a place of their own.
        rng.shuffle(walkers)
        walkers = walkers[: count - count // 5]
        for _ in range(count // 5):
            newcomer = Walker(Grid(cap, rng), rng.choice(walkers).value)
            newcomer.grid.on_swarm_size(count)
            walkers.append(newcomer)
        too_large = [len(bucket) for bucket in buckets_of(walkers).values() if len(bucket) > cap]
        crowded += bool(too_large)
        assert len(too_large) <= 2
        # Of those present, another fifth sits this round out.
        average(walkers[: count - count // 5], cap, rng)
    assert crowded <= 3
    assert variance(walkers) <= first * 1e-6


@given(seeds, st.integers(1, 70), st.integers(2, 64))
def test_members_spread_evenly_over_the_buckets(seed: int, size: int, cap: int) -> None:
    rng = random.Random(seed)
    members = [Grid(cap, rng, coordinates="0" * DEPTH_MAX, depth=DEPTH_MAX) for _ in range(size)]
    group_id = rng.randbytes(32)
    for index, member in enumerate(members):
        member.on_round(group_id, size, index)
    counts = Counter(member.bucket for member in members)
    places = 2 ** max(1, cap.bit_length() - 2)
    assert max(counts.values()) <= -(-size // places)
    assert len(counts) == min(size, places)


def test_no_place_is_favoured_by_small_groups() -> None:
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    for _ in range(1_000):
        group_id = rng.randbytes(32)
        for index in range(3):
            member = Grid(16, rng, depth=3)
            member.on_round(group_id, 3, index)
            counts[member.bucket] += 1
    assert len(counts) == 8
    assert max(counts.values()) <= 1.15 * min(counts.values()) + 50


@given(st.integers(1, 64))
def test_a_swarm_that_fits_in_one_group_has_one_bucket(count: int) -> None:
    grid = Grid(64, random.Random(1))
    assert grid.bucket == ""
    grid.on_swarm_size(count)
    assert (grid.bucket, grid.bucket_size) == ("", count)


@given(st.integers(2, 256), st.integers(1, 100_000), st.integers(1, 100_000))
def test_buckets_hold_between_a_quarter_and_three_quarters_of_a_group(
    cap: int, before: int, count: int
) -> None:
    grid = Grid(cap, random.Random(1))
    grid.on_swarm_size(before)
    grid.on_swarm_size(count)
    assert len(grid.bucket) == grid.depth
    if grid.depth == 0:
        assert count <= cap
    elif grid.depth < DEPTH_MAX:
        assert 0.25 * cap <= count / 2**grid.depth <= 0.75 * cap


@given(st.integers(4, 256), st.integers(1, 20_000), st.lists(st.floats(0.91, 1.09), max_size=20))
def test_an_estimate_that_trembles_does_not_change_the_depth_back_and_forth(
    cap: int, count: int, noise: list[float]
) -> None:
    grid = Grid(cap, random.Random(1))
    depths = []
    for factor in noise:
        grid.on_swarm_size(max(1, round(count * factor)))
        depths.append(grid.depth)
    changes = sum(before != after for before, after in itertools.pairwise(depths))
    assert changes <= 1


def test_peers_with_different_pasts_agree_when_they_see_each_other() -> None:
    count = 190
    grown, shrunk, fresh = (Grid(64, random.Random(seed)) for seed in range(3))
    grown.on_swarm_size(150)
    shrunk.on_swarm_size(300)
    for grid in (grown, shrunk, fresh):
        grid.on_swarm_size(count)
    assert grown.depth != shrunk.depth
    for grids in ((grown, shrunk), (grown, shrunk, fresh), (shrunk, fresh)):
        depths = [grid.depth for grid in grids]
        for index, grid in enumerate(grids):
            grid.on_swarm_size(count, depths[:index] + depths[index + 1 :])
        assert len({grid.depth for grid in grids}) == 1


def test_depths_that_do_not_fit_are_not_followed() -> None:
    grid = Grid(64, random.Random(1))
    grid.on_swarm_size(10, [5] * 100)
    assert grid.depth == 0
    grid.on_swarm_size(1_000, [0] * 100 + [12] * 100)
    assert fits(1_000, grid.depth, 64)
    assert grid.bucket_size == 1_000 >> grid.depth


def test_a_deeper_grid_keeps_the_bits_it_had() -> None:
    grid = Grid(16, random.Random(1))
    grid.on_swarm_size(40)
    shallow = grid.bucket
    grid.on_swarm_size(400)
    assert len(grid.bucket) > len(shallow) > 0
    assert grid.bucket.endswith(shallow)


def test_the_swarm_never_outgrows_the_grid() -> None:
    grid = Grid(2, random.Random(1))
    grid.on_swarm_size(10**9)
    assert grid.depth == DEPTH_MAX


def test_places_come_from_the_seed() -> None:
    first, again, other = (Grid(16, random.Random(seed), depth=16) for seed in (1, 1, 2))
    assert first.bucket == again.bucket != other.bucket


def test_each_round_and_bucket_has_a_parent_of_its_own() -> None:
    rounds = [grid_round(number, bucket) for number in (0, 1) for bucket in ("", "0", "00", "1")]
    assert len({round_id.parent for round_id in rounds}) == len(rounds)
    assert [round_id.number for round_id in rounds] == [0] * 4 + [1] * 4
