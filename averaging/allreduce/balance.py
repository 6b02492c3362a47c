"""How much of the vector each member averages, so that the slowest is done soonest (core).

With C contributors, a member that contributes (c = 1) or not (c = 0) and averages the share w sends

    c (1 − w)        its parts of the others' shares, and
    (C − c) w        its averages, to every contributor but itself,

and receives as much: C − c parts of its own share, and the averages of the others' shares if it
contributes. So its load, c + (C − 2c) w times the vector, is the same up and down, and the
narrower of its two directions counts. The plan minimises the time T of the slowest member.

Source: Diskin et al., Distributed Deep Learning in Open Collaborations, 2021, section 3.2. Its
program also lets an aggregator send some contributor less than its whole share, g_ij < min_k a_ki;
here all need all of it, which leaves w_i = min_k a_ki / Σ min_k a_ki as the only variables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from averaging.allreduce.loads import SLACK, Pairs, Problem, Row
from averaging.allreduce.partition import SPAN_GRID_ELEMENTS
from p2p import MessageInvalid

RATE_CAUTIOUS_BYTES_PER_S: Final = 125_000.0
"""1 Mbit/s: what a member whose rate nobody knows is planned with; a poor home uplink has it."""
TIME_RATIO_MAX: Final = 1.25
"""Of a leader's plan to the best one: room for its rounding, and too little to do harm with."""
_PROGRAM_MEMBERS_MAX: Final = 32
# Shares of less than a grid cell, which may be given up together: far less than the ratio allows.
_GIVEN_UP_SHARE_MAX: Final = 0.1
_NOBODY: Final = (
    "no member can aggregate: each is a client, has a rate of 0, or lacks a path to a contributor"
)

Method = Literal["linear program", "water-filling", "equal"]


@dataclass(frozen=True)
class Capacity:
    """What one member can do in a round."""

    contributes: bool
    """Whether it sends a vector and needs the result; auxiliary peers do not."""
    aggregates: bool
    """Whether it can own a span; clients cannot."""
    up_bytes_per_s: float | None
    """None: unknown. 0: it averages nothing, and nobody waits for it."""
    down_bytes_per_s: float | None

    def __post_init__(self) -> None:
        for rate in (self.up_bytes_per_s, self.down_bytes_per_s):
            if rate is not None and not 0 <= rate < math.inf:
                raise ValueError(f"a rate is finite and not negative, not {rate}")


@dataclass(frozen=True)
class Balance:
    """Who averages how much, and how long that takes."""

    shares: tuple[float, ...]
    """One for each member; their sum is 1, and a client's is 0."""
    seconds_per_byte: float
    """Of the slowest member, for each byte of the vector on the wire."""
    method: Method


def solve(capacities: Sequence[Capacity], *, pair_bytes_per_s: Pairs | None = None) -> Balance:
    """The split in which the slowest member is done soonest.

    A rate that is not known counts as the median of those that are; when none is, all links count
    as equal. Where links of pairs have limits too, up to 32 members are planned with the
    linear program; more by water-filling, which of those limits minds only missing paths.

    Args:
        pair_bytes_per_s: limit of the link from one member to another, by their numbers;
            0 where there is no path.

    Raises:
        ValueError: nobody can aggregate: all are clients, have a rate of 0, or lack the path to
            some contributor.
    """
    pairs = pair_bytes_per_s or {}
    if pairs and len(capacities) <= _PROGRAM_MEMBERS_MAX:
        return solve_program(capacities, pairs)
    return fill_water(capacities, pairs)


def fill_water(capacities: Sequence[Capacity], pairs: Pairs | None = None) -> Balance:
    """The split by water-filling, in O(n log n); exact whenever no pair has a limit.

    Without limits of pairs a member's load depends on its own share alone and grows with it, so
    within the time T each aggregator can take any share up to (T b − c) / (C − 2c), or
    none, independently of the others. The least T at which these sum to 1 is therefore the
    optimum, unless a contributor's own vector takes longer, 1 / b, which no split can change.

    Raises:
        ValueError: as solve().
    """
    problem = _problem(capacities, pairs or {})
    owners = problem.owners
    if problem.pairs:
        owners = tuple(i for i in owners if problem.reaches_all(i))
    if not owners:
        raise ValueError(_NOBODY)
    return _balance(problem, _fill(problem, owners), "water-filling")


def solve_program(capacities: Sequence[Capacity], pairs: Pairs | None = None) -> Balance:
    """The split by linear programming, for links of pairs with limits of their own.

    The variables are the n shares and T; there is a row for each member and each limited link.
    Many splits may need the least time; a second program picks among them the one whose largest
    time for aggregating is least, which spreads what nobody waits for.

    Raises:
        ValueError: as solve().
    """
    problem = _problem(capacities, pairs or {})
    if not problem.owners:
        raise ValueError(_NOBODY)
    # Times are counted in what the plan takes without limits of pairs, lest numbers be extreme.
    scale_s = replace(problem, pairs={}).seconds(_fill(problem, problem.owners))
    scale_s = scale_s or 1 / max(problem.rates)
    rows = problem.rows(scale_s)
    best = _minimise(problem, rows)
    if best is None:
        raise ValueError(_NOBODY)
    # Now T is given, and what is minimised is the time for aggregating.
    given = best[-1] * (1 + SLACK)
    bound = [Row(row.shares, 0.0, row.limit - row.time * given) for row in rows]
    best = _minimise(problem, [*bound, *problem.aggregating_rows(scale_s)]) or best
    shares = [max(share, 0.0) for share in best[:-1]]
    total = math.fsum(shares)
    return _balance(problem, [share / total for share in shares], "linear program")


def span_lengths(shares: Sequence[float], element_count: int, *, grid: int) -> tuple[int, ...]:
    """Spans in elements, by largest remainder, whole grid cells but for the vector's end.

    A share of 0 stays 0. Where the grid is coarse, shares of less than a cell become 0 too, the
    smallest first, as long as they are few; else some of them get a cell.

    Args:
        grid: see grid_for().
    """
    if not shares or min(shares) < 0 or sum(shares) <= 0 or element_count < 0 or grid < 1:
        raise ValueError("shares must not be negative, nor all 0, nor sizes negative")
    cells = -(-element_count // grid)
    kept = _worth_a_cell([share / math.fsum(shares) for share in shares], cells, grid)
    total = math.fsum(kept)
    quotas = [share / total * cells for share in kept]
    counts = [int(quota + SLACK) for quota in quotas]
    by_remainder = sorted(
        (i for i, share in enumerate(kept) if share > 0), key=lambda i: counts[i] - quotas[i]
    )
    for i in by_remainder[: cells - sum(counts)]:
        counts[i] += 1
    lengths = [length * grid for length in counts]
    last = max((i for i, length in enumerate(lengths) if length), default=0)
    lengths[last] -= cells * grid - element_count
    return tuple(lengths)


def grid_for(element_count: int, aggregator_count: int) -> int:
    """What spans are multiples of: 4 096 elements, or 1 when the vector is tiny."""
    return SPAN_GRID_ELEMENTS if element_count >= SPAN_GRID_ELEMENTS * aggregator_count else 1


def check_spans_untrusted(
    span_elements: Sequence[int], capacities: Sequence[Capacity], element_count: int
) -> None:
    """Check a leader's split: a bad one is only slow, so it may be 1.25 times as slow as the best.

    Args:
        span_elements: one for each member that aggregates, in order.

    Raises:
        MessageInvalid: the spans do not cover the vector once, or the plan is too slow.
    """
    owners = [i for i, capacity in enumerate(capacities) if capacity.aggregates]
    if len(span_elements) != len(owners):
        raise MessageInvalid(f"{len(span_elements)} spans for {len(owners)} aggregators")
    if any(length < 0 for length in span_elements) or sum(span_elements) != element_count:
        raise MessageInvalid(f"the spans do not cover the {element_count} elements once")
    if not element_count:
        return
    problem = _problem(capacities, {})
    if not problem.owners:
        raise MessageInvalid("no member can aggregate")
    best_s = problem.seconds(_fill(problem, problem.owners))
    grid = grid_for(element_count, len(owners))
    lengths = _by_member(span_elements, capacities)
    for i, (rate, length) in enumerate(zip(problem.rates, lengths, strict=True)):
        if not rate:
            if length:
                raise MessageInvalid(f"member {i} has a span and a rate of 0")
            continue
        # Rounding to the grid gives a member up to a cell too much.
        spared = grid if problem.slopes[i] > 0 else 0
        planned_s = problem.load(i, max(length - spared, 0) / element_count) / rate
        if planned_s > best_s * TIME_RATIO_MAX + SLACK / rate:
            raise MessageInvalid(
                f"member {i} would need {planned_s:.3g} s for each byte, where a good split "
                f"needs {best_s:.3g}"
            )


def planned_seconds(
    capacities: Sequence[Capacity], span_elements: Sequence[int], bytes_per_element: float
) -> tuple[float, ...]:
    """How long each member's transfers take by plan; an unknown rate counts as 125 000 bytes/s.

    Args:
        span_elements: one for each member that aggregates, in order.
        bytes_per_element: on the wire, alike for parts and averages.
    """
    problem = _problem(capacities, {})
    lengths = _by_member(span_elements, capacities)
    element_count = sum(lengths)
    seconds = []
    for i, (length, capacity) in enumerate(zip(lengths, capacities, strict=True)):
        load_bytes = problem.load(i, length / max(element_count, 1)) * element_count
        rates = (capacity.up_bytes_per_s, capacity.down_bytes_per_s)
        slower = min(rate or RATE_CAUTIOUS_BYTES_PER_S for rate in rates)
        seconds.append(load_bytes * bytes_per_element / slower)
    return tuple(seconds)


def _by_member(span_elements: Sequence[int], capacities: Sequence[Capacity]) -> list[int]:
    spans = iter(span_elements)
    return [next(spans) if capacity.aggregates else 0 for capacity in capacities]


# --- the members ------------------------------------------------------------------------------


def _problem(capacities: Sequence[Capacity], pairs: Pairs) -> Problem:
    members = range(len(capacities))
    for (source, target), rate in pairs.items():
        if source not in members or target not in members or source == target:
            raise ValueError(f"no link leads from {source} to {target}")
        if not 0 <= rate < math.inf:
            raise ValueError(f"a link's rate is finite and not negative, not {rate}")
    ups = _filled([capacity.up_bytes_per_s for capacity in capacities])
    downs = _filled([capacity.down_bytes_per_s for capacity in capacities])
    rates = [min(pair) for pair in zip(ups, downs, strict=True)]
    known = any(0 < rate < math.inf for rate in rates)
    if not known:
        rates = [min(rate, RATE_CAUTIOUS_BYTES_PER_S) for rate in rates]
    contributes = tuple(int(capacity.contributes) for capacity in capacities)
    contributor_count = sum(contributes)
    return Problem(
        contributes=contributes,
        slopes=tuple(contributor_count - 2 * one for one in contributes),
        rates=tuple(rates),
        owners=tuple(i for i in members if capacities[i].aggregates and rates[i]),
        pairs=pairs,
        rates_known=known,
    )


def _balance(problem: Problem, shares: Sequence[float], method: Method) -> Balance:
    known = problem.rates_known
    return Balance(tuple(shares), problem.seconds(shares), method if known else "equal")


def _filled(rates: Sequence[float | None]) -> list[float]:
    known = [rate for rate in rates if rate]
    # A direction that nobody knows limits nobody.
    typical = statistics.median(known) if known else math.inf
    return [typical if rate is None else float(rate) for rate in rates]


# --- water-filling and the linear program -----------------------------------------------------


def _fill(problem: Problem, owners: Sequence[int]) -> list[float]:
    """Shares at the level where they sum to 1."""
    contributes, slopes, rates = problem.contributes, problem.slopes, problem.rates
    shares = [0.0] * len(rates)
    free = [i for i in owners if contributes[i] and slopes[i] <= 0]
    if free and slopes[free[0]] < 0:
        # The only contributor averages for itself, and nothing moves.
        shares[free[0]] = 1.0
        return shares
    if free or not any(contributes):
        # Of two contributors each has the same load, whatever it averages.
        some = free or owners
        total = math.fsum(rates[i] for i in some)
        for i in some:
            shares[i] = rates[i] / total
        return shares
    # From here every slope is positive: raise the level past one owner's start after the other.
    starts = sorted((contributes[i] / rates[i], i) for i in owners)
    height, width, level, active = 1.0, 0.0, math.inf, 0
    for start, i in starts:
        if start >= level:
            break
        height += contributes[i] / slopes[i]
        width += rates[i] / slopes[i]
        level, active = height / width, active + 1
    for _, i in starts[:active]:
        shares[i] = max((level * rates[i] - contributes[i]) / slopes[i], 0.0)
    total = math.fsum(shares)
    return [share / total for share in shares]


def _minimise(problem: Problem, rows: Sequence[Row]) -> list[float] | None:
    """The shares and T with the least T that fit these rows; None when nothing does."""
    # Slow to import, and useless to peers that average nothing.
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    count = len(problem.rates)
    entries = [(n, i, value) for n, row in enumerate(rows) for i, value in row.shares]
    entries += [(n, count, row.time) for n, row in enumerate(rows)]
    numbers, columns, values = zip(*entries, strict=True)
    solution = linprog(
        [0.0] * count + [1.0],
        csr_array((values, (numbers, columns)), shape=(len(rows), count + 1)),
        [row.limit for row in rows],
        [[1.0] * count + [0.0]],
        [1.0],
        [(0.0, 1.0 if i in problem.owners else 0.0) for i in range(count)] + [(0.0, None)],
        method="highs",
    )
    return [float(value) for value in solution.x] if solution.success else None


def _worth_a_cell(shares: Sequence[float], cells: int, grid: int) -> list[float]:
    """The shares without those that are less than a cell, as far as these are few."""
    kept = list(shares)
    given_up = 0.0
    for i in sorted(range(len(kept)), key=lambda i: kept[i]):
        given_up += kept[i]
        if grid == 1 or kept[i] * cells >= 1 - SLACK or given_up > _GIVEN_UP_SHARE_MAX:
            break
        kept[i] = 0.0
    return kept
