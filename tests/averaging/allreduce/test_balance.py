"""Splits of the vector: the paper's table, a plain slow search, and what leaders may not do."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.balance import (
    RATE_CAUTIOUS_BYTES_PER_S,
    Balance,
    Capacity,
    check_spans_untrusted,
    fill_water,
    grid_for,
    planned_seconds,
    solve,
    solve_program,
    span_lengths,
)
from p2p import MessageInvalid


def node(rate: float | None = 1.0) -> Capacity:
    return Capacity(True, True, rate, rate)


def client(rate: float | None = 1.0) -> Capacity:
    return Capacity(True, False, rate, rate)


def aux(rate: float | None = 1.0) -> Capacity:
    return Capacity(False, True, rate, rate)


def seconds_of(capacities: list[Capacity], shares: tuple[float, ...] | list[float]) -> float:
    """The time of a split, by counting every transfer between two members."""
    members = range(len(capacities))
    up, down = [0.0] * len(capacities), [0.0] * len(capacities)
    for source, target in itertools.permutations(members, 2):
        moved = shares[target] * capacities[source].contributes
        moved += shares[source] * capacities[target].contributes
        up[source] += moved
        down[target] += moved
    loads = [
        (load, rate)
        for i in members
        for load, rate in (
            (up[i], capacities[i].up_bytes_per_s),
            (down[i], capacities[i].down_bytes_per_s),
        )
    ]
    return max(load / rate for load, rate in loads if rate)


def check_valid(balance: Balance, capacities: list[Capacity]) -> None:
    assert math.fsum(balance.shares) == pytest.approx(1.0, abs=1e-9)
    for share, capacity in zip(balance.shares, capacities, strict=True):
        assert 0.0 <= share <= 1.0
        assert capacity.aggregates or share == 0.0


rates = st.floats(0.01, 1e9)
maybe_rates = st.one_of(st.none(), st.just(0.0), rates)
capacities_lists = st.lists(
    st.builds(Capacity, st.booleans(), st.booleans(), maybe_rates, maybe_rates),
    min_size=1,
    max_size=12,
)
known_lists = st.lists(
    st.builds(Capacity, st.booleans(), st.booleans(), rates, rates), min_size=1, max_size=10
).filter(lambda some: any(one.aggregates for one in some))

TABLE = {
    "8 equal": ([node()] * 8, 1.75),
    "one fast": ([node(10)] + [node()] * 7, 1.0),
    "auxiliary server": ([aux(10)] + [node()] * 8, 1.0),
    "4 slow": ([node()] * 4 + [node(0.2)] * 4, 5.0),
    "mixed": ([node(rate) for rate in (2, 1, 1, 0.5, 0.5, 0.2, 0.2, 0.1)], 10.0),
    "4 clients": ([node()] * 4 + [client()] * 4, 2.5),
}


@pytest.mark.parametrize(("capacities", "seconds"), TABLE.values(), ids=TABLE)
def test_the_papers_table(capacities: list[Capacity], seconds: float) -> None:
    for balance in (solve(capacities), solve_program(capacities)):
        assert balance.seconds_per_byte == pytest.approx(seconds, abs=1e-6)
        assert seconds_of(capacities, balance.shares) == pytest.approx(seconds, abs=1e-6)
        check_valid(balance, capacities)
    assert solve(capacities).method == "water-filling"
    assert solve_program(capacities).method == "linear program"


@given(known_lists)
def test_water_filling_is_optimal_without_limits_of_pairs(capacities: list[Capacity]) -> None:
    water, program = fill_water(capacities), solve_program(capacities)
    assert water.seconds_per_byte == pytest.approx(program.seconds_per_byte, rel=1e-5, abs=1e-12)
    for balance in (water, program):
        check_valid(balance, capacities)
        counted = seconds_of(capacities, balance.shares)
        assert balance.seconds_per_byte == pytest.approx(counted, rel=1e-6, abs=1e-12)


@given(known_lists)
def test_no_split_is_slower_than_equal_spans(capacities: list[Capacity]) -> None:
    owners = [i for i, one in enumerate(capacities) if one.aggregates]
    equal = [1 / len(owners) if i in owners else 0.0 for i in range(len(capacities))]
    best = solve(capacities).seconds_per_byte
    assert best <= seconds_of(capacities, equal) * (1 + 1e-9) + 1e-12
    for server in owners:
        alone = [float(i == server) for i in range(len(capacities))]
        assert best <= seconds_of(capacities, alone) * (1 + 1e-9) + 1e-12


@given(st.data(), st.integers(2, 4))
def test_the_program_is_as_good_as_a_plain_search(data: st.DataObject, count: int) -> None:
    capacities = [node(data.draw(st.floats(0.1, 10.0))) for _ in range(count)]
    limits = st.floats(0.1, 10.0)
    pairs = {pair: data.draw(limits) for pair in itertools.permutations(range(count), 2)}

    def seconds(shares: list[float]) -> float:
        links = (
            (shares[target] + shares[source]) / rate for (source, target), rate in pairs.items()
        )
        return max(seconds_of(capacities, shares), *links)

    steps = 12
    grid = (
        [*parts, steps - sum(parts)]
        for parts in itertools.product(range(steps + 1), repeat=count - 1)
        if sum(parts) <= steps
    )
    searched = min(seconds([part / steps for part in parts]) for parts in grid)
    found = solve(capacities, pair_bytes_per_s=pairs)
    assert found.method == "linear program"
    assert found.seconds_per_byte == pytest.approx(seconds(list(found.shares)), rel=1e-6)
    assert found.seconds_per_byte <= searched * (1 + 1e-6)


def test_who_lacks_a_path_to_a_contributor_averages_nothing() -> None:
    lonely = {(0, 3): 0.0, (3, 0): 0.0}
    for count in (8, 40):
        capacities = [node(100.0), *(node() for _ in range(count - 1))]
        balance = solve(capacities, pair_bytes_per_s=lonely)
        assert (balance.shares[0], balance.shares[3]) == pytest.approx((0.0, 0.0), abs=1e-9)
        assert math.isfinite(balance.seconds_per_byte)
        check_valid(balance, capacities)


def test_nobody_may_be_able_to_aggregate() -> None:
    nobody_reaches = {pair: 0.0 for pair in itertools.permutations(range(3), 2)}
    for solver in (fill_water, solve_program):
        with pytest.raises(ValueError, match="no member can aggregate"):
            solver([node()] * 3, nobody_reaches)
        with pytest.raises(ValueError, match="no member can aggregate"):
            solver([client()] * 3)
        with pytest.raises(ValueError, match="no member can aggregate"):
            solver([])


@pytest.mark.parametrize("pair", [(0, 3), (-1, 0), (1, 1)])
def test_links_lead_from_one_member_to_another(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no link"):
        solve([node()] * 3, pair_bytes_per_s={pair: 1.0})


@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_rates_are_finite(rate: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        node(rate)
    with pytest.raises(ValueError, match="finite"):
        solve([node()] * 3, pair_bytes_per_s={(0, 1): rate})


@given(capacities_lists)
def test_any_members_get_a_split_or_a_reason(capacities: list[Capacity]) -> None:
    if not any(
        one.aggregates and 0.0 not in (one.up_bytes_per_s, one.down_bytes_per_s)
        for one in capacities
    ):
        with pytest.raises(ValueError, match="no member can aggregate"):
            solve(capacities)
        return
    balance = solve(capacities)
    check_valid(balance, capacities)
    assert 0.0 <= balance.seconds_per_byte < math.inf
    for share, one in zip(balance.shares, capacities, strict=True):
        assert share == 0.0 or 0.0 not in (one.up_bytes_per_s, one.down_bytes_per_s)


def test_where_no_rate_is_known_shares_are_equal() -> None:
    balance = solve([node(None)] * 3 + [client(None)] * 2)
    assert balance.method == "equal"
    assert balance.shares == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0, 0))
    expected = 1 + (5 - 2) / 3
    assert balance.seconds_per_byte == pytest.approx(expected / RATE_CAUTIOUS_BYTES_PER_S)


def test_an_unknown_rate_counts_as_the_median_of_its_direction() -> None:
    some = [Capacity(True, True, 4.0, None), Capacity(True, True, None, 3.0), node(8.0)]
    filled = [Capacity(True, True, 4.0, 5.5), Capacity(True, True, 6.0, 3.0), node(8.0)]
    assert solve(some) == solve(filled)
    # A direction that nobody knows limits nobody.
    assert solve([Capacity(True, True, 2.0, None)] * 4) == solve([node(2.0)] * 4)


def test_slow_members_contribute_and_average_nothing() -> None:
    balance = solve([node()] * 4 + [node(0.2)] * 4)
    assert balance.shares == pytest.approx((0.25, 0.25, 0.25, 0.25, 0, 0, 0, 0))


def test_one_and_two_contributors() -> None:
    assert solve([node(1.0)]).shares == (1.0,)
    assert solve([node(None), aux(9.0)]) == Balance((1.0, 0.0), 0.0, "water-filling")
    pair = solve([node(1.0), node(3.0), aux(100.0)])
    assert pair.shares == pytest.approx((0.25, 0.75, 0.0))
    assert pair.seconds_per_byte == pytest.approx(1.0)
    through_a_server = solve([client(1.0), client(3.0), aux(1.0)])
    assert through_a_server.seconds_per_byte == pytest.approx(2.0)
    # Nobody contributes: nothing moves, whatever the split.
    assert solve([aux(1.0), aux(3.0)]).seconds_per_byte == 0.0


# --- spans ------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=1, max_size=256).filter(any),
    st.integers(0, 3_000_000),
)
def test_spans_cover_the_vector_once(shares: list[float], element_count: int) -> None:
    grid = grid_for(element_count, len(shares))
    lengths = span_lengths(shares, element_count, grid=grid)
    assert sum(lengths) == element_count
    starts = list(itertools.accumulate(lengths, initial=0))[:-1]
    for share, length, start in zip(shares, lengths, starts, strict=True):
        assert length >= 0
        assert share > 0 or length == 0
        assert length == 0 or start % grid == 0
        # The largest remainder moves a span by less than a cell, what small ones give up by more.
        quota = share / math.fsum(shares) * element_count
        assert quota - grid - 1 <= length / 0.9 + grid
        assert length <= quota / 0.9 + 2 * grid


def test_spans_are_rounded_by_largest_remainder() -> None:
    assert span_lengths([0.5, 0.3, 0.2], 10, grid=1) == (5, 3, 2)
    assert span_lengths([1, 1, 1], 10, grid=1) == (4, 3, 3)
    assert span_lengths([0.44, 0.0, 0.56], 10, grid=1) == (4, 0, 6)
    assert span_lengths([1] * 49, 49 * 4096, grid=4096) == (4096,) * 49
    # The vector's last cell is not whole.
    assert span_lengths([0.5, 0.5], 4 * 4096 - 1, grid=4096) == (8192, 8191)
    assert span_lengths([0.5, 0.5, 0.0], 0, grid=1) == (0, 0, 0)


def test_shares_of_less_than_a_cell_are_given_up_where_they_are_few() -> None:
    cells = 100
    assert span_lengths([0.996, 0.004], cells * 4096, grid=4096) == (cells * 4096, 0)
    assert span_lengths([0.996, 0.004], 1000, grid=1) == (996, 4)
    # Half of the vector is not.
    lengths = span_lengths([0.5, *[0.5 / 99] * 99], cells * 4096, grid=4096)
    assert lengths[0] <= 56 * 4096
    assert set(lengths[1:]) == {0, 4096}


@pytest.mark.parametrize(
    ("shares", "element_count", "grid"),
    [([], 5, 1), ([0.0], 5, 1), ([1.0, -0.1], 5, 1), ([1.0], -1, 1), ([1.0], 5, 0)],
)
def test_impossible_shares_are_refused(shares: list[float], element_count: int, grid: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        span_lengths(shares, element_count, grid=grid)


@given(
    st.lists(
        st.builds(
            Capacity,
            st.booleans(),
            st.booleans(),
            st.one_of(st.none(), rates),
            st.one_of(st.none(), rates),
        ),
        min_size=1,
        max_size=256,
    ).filter(lambda some: any(one.aggregates for one in some)),
    st.integers(0, 3_000_000),
)
def test_an_honest_leaders_spans_are_accepted(
    capacities: list[Capacity], element_count: int
) -> None:
    shares = solve(capacities).shares
    owned = [share for share, one in zip(shares, capacities, strict=True) if one.aggregates]
    grid = grid_for(element_count, len(owned))
    lengths = span_lengths(owned, element_count, grid=grid)
    check_spans_untrusted(lengths, capacities, element_count)
    planned = planned_seconds(capacities, lengths, 4)
    assert len(planned) == len(capacities)
    assert all(0 <= seconds < math.inf for seconds in planned)


CELL = 4096


@pytest.mark.parametrize(
    ("spans", "complaint"),
    [
        ((100 * CELL,), "1 spans for 4 aggregators"),
        ((25 * CELL, 25 * CELL, 25 * CELL, 25 * CELL - 1), "once"),
        ((200 * CELL, 0, 0, -100 * CELL), "once"),
        ((100 * CELL, 0, 0, 0), "member 0 would need"),
        ((10 * CELL, 10 * CELL, 10 * CELL, 70 * CELL), "member 4 would need"),
    ],
)
def test_a_bad_split_is_refused(spans: tuple[int, ...], complaint: str) -> None:
    capacities = [node(), client(), node(), node(), node()]
    check_spans_untrusted((25 * CELL,) * 4, capacities, 100 * CELL)
    with pytest.raises(MessageInvalid, match=complaint):
        check_spans_untrusted(spans, capacities, 100 * CELL)


def test_a_split_may_be_a_quarter_slower_than_the_best() -> None:
    capacities = [node()] * 8  # the best: 1 + 6 / 8 = 1.75
    cells = 8000

    def split(extra: float) -> tuple[int, ...]:
        share = (1.75 * extra - 1) / 6
        first = int(share * cells) * CELL
        rest = (cells * CELL - first) // 7 // CELL * CELL
        return (cells * CELL - 7 * rest, *[rest] * 7)

    check_spans_untrusted(split(1.24), capacities, cells * CELL)
    with pytest.raises(MessageInvalid, match="member 0"):
        check_spans_untrusted(split(1.26), capacities, cells * CELL)


def test_a_member_that_carries_nothing_gets_no_span() -> None:
    capacities = [node(), node(), node(), node(0.0)]
    check_spans_untrusted((40, 30, 30, 0), capacities, 100)
    with pytest.raises(MessageInvalid, match="rate of 0"):
        check_spans_untrusted((40, 30, 29, 1), capacities, 100)
    with pytest.raises(MessageInvalid, match="no member can aggregate"):
        check_spans_untrusted((100,), [node(0.0), client()], 100)


def test_planned_seconds_count_both_directions() -> None:
    capacities = [node(10.0), Capacity(True, True, 5.0, 20.0), client(2.0), aux(None)]
    # Three contributors: a node's load is 1 + w, a client's 1, an auxiliary peer's 3 w.
    planned = planned_seconds(capacities, (50, 25, 25), 4)
    expected = (1.5 * 400 / 10, 1.25 * 400 / 5, 400 / 2, 0.75 * 400 / RATE_CAUTIOUS_BYTES_PER_S)
    assert planned == pytest.approx(expected)
    assert planned_seconds([node(None)], (7,), 4) == (0.0,)


@pytest.mark.slow
def test_planning_needs_no_scipy_where_water_filling_will_do() -> None:
    program = (
        "import sys; from averaging.allreduce.balance import Capacity, solve;"
        "solve([Capacity(True, True, 1.0, 2.0)] * 300); print('scipy' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
