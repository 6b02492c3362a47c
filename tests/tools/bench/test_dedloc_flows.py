"""Flows that share links: cases solved by hand, and what makes a sharing max-min fair."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging import Capacity, planned_seconds
from tools.bench.dedloc_flows import chunks_of, fair_rates, transfer

Case = tuple[list[float], list[float], list[tuple[int, int]]]
PLENTY = 1e9


def test_flows_of_one_link_share_it_alike() -> None:
    rates = fair_rates([6.0, PLENTY, PLENTY, PLENTY], [PLENTY] * 4, [0, 0, 0], [1, 2, 3])
    assert rates == pytest.approx([2.0, 2.0, 2.0])


def test_what_one_flow_cannot_use_others_get() -> None:
    # The first is held to 1 by where it goes; the other two share the 9 that are left of 10.
    rates = fair_rates(
        [10.0, PLENTY, PLENTY, PLENTY], [PLENTY, 1.0, PLENTY, PLENTY], [0] * 3, [1, 2, 3]
    )
    assert rates == pytest.approx([1.0, 4.5, 4.5])


def test_a_chain_is_solved_link_by_link() -> None:
    # Into peer 2 go three flows: 4 each of 12. Peer 0 has 20, of which its other flow gets 16.
    # Peer 3 takes that and one of peer 1's, in all 10: 5 each.
    sources, targets = [0, 1, 1, 0, 1], [2, 2, 2, 3, 3]
    rates = fair_rates([20.0, 100.0, 1.0, 1.0], [1.0, 1.0, 12.0, 10.0], sources, targets)
    assert rates == pytest.approx([4.0, 4.0, 4.0, 5.0, 5.0])


def test_nothing_moves_without_flows() -> None:
    assert fair_rates([1.0], [1.0], [], []).shape == (0,)


@st.composite
def swarms(draw: st.DrawFn) -> Case:
    count = draw(st.integers(2, 6))
    links = st.lists(st.floats(0.01, 1e4), min_size=count, max_size=count)
    pair = st.sampled_from(list(itertools.permutations(range(count), 2)))
    return draw(links), draw(links), draw(st.lists(pair, min_size=1, max_size=20))


@given(swarms())
def test_no_link_is_over_its_rate_and_each_flow_has_a_reason_for_its_own(case: Case) -> None:
    """Max-min fair means: each flow passes a full link on which no other is faster."""
    ups, downs, pairs = case
    sources, targets = ([pair[end] for pair in pairs] for end in (0, 1))
    rates = fair_rates(ups, downs, sources, targets)
    sent = np.bincount(sources, rates, len(ups))
    received = np.bincount(targets, rates, len(ups))
    assert (sent <= np.array(ups) * (1 + 1e-6)).all()
    assert (received <= np.array(downs) * (1 + 1e-6)).all()
    for (source, target), rate in zip(pairs, rates, strict=True):
        links = (
            (
                sent[source],
                ups[source],
                [r for (s, _), r in zip(pairs, rates, strict=True) if s == source],
            ),
            (
                received[target],
                downs[target],
                [r for (_, t), r in zip(pairs, rates, strict=True) if t == target],
            ),
        )
        assert any(
            used >= capacity * (1 - 1e-6) and rate >= max(all_rates) * (1 - 1e-6)
            for used, capacity, all_rates in links
        )


@given(st.floats(0.1, 1e6), st.floats(0.1, 1e6))
def test_chunks_cover_a_span(span: float, chunk: float) -> None:
    if span / chunk > 1e4:
        return
    chunks = chunks_of(span, chunk)
    assert math.fsum(chunks) == pytest.approx(span, rel=1e-6)
    assert all(0 < size <= chunk for size in chunks)


# --- whole rounds -----------------------------------------------------------------------------


def test_two_peers_swap_halves() -> None:
    # 50 bytes of parts and 50 of averages each way; both directions work from the first moment but
    # for the first chunk, which has to come before its average can leave.
    found = transfer([10.0, 10.0], [10.0, 10.0], [True, True], [50.0, 50.0], chunk_bytes=10.0)
    assert found.seconds == pytest.approx(10.0)
    assert found.sent_bytes == pytest.approx((100.0, 100.0))
    assert found.received_bytes == pytest.approx((100.0, 100.0))


def test_a_server_streams_averages_while_parts_come() -> None:
    # 100 bytes go up at 10 a second, the first average leaves when the first of five chunks is in.
    found = transfer(
        [1000.0, 10.0, 10.0], [1000.0, 10.0, 10.0], [False, True, True], [100.0, 0.0, 0.0],
        chunk_bytes=20.0,
    )  # fmt: skip
    assert found.seconds == pytest.approx(12.0)
    assert found.done_at_s == pytest.approx((12.0, 12.0, 12.0))
    assert found.sent_bytes == pytest.approx((200.0, 100.0, 100.0))


def test_a_slow_contributor_holds_up_each_average() -> None:
    found = transfer(
        [1000.0, 10.0, 1.0], [1000.0, 10.0, 10.0], [False, True, True], [10.0, 0.0, 0.0],
        chunk_bytes=10.0,
    )  # fmt: skip
    assert found.seconds == pytest.approx(10.0 + 1.0)


def test_who_averages_for_itself_alone_moves_nothing() -> None:
    found = transfer([1.0], [1.0], [True], [5.0], chunk_bytes=1.0)
    assert (found.seconds, found.sent_bytes) == (0.0, (0.0,))


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Capacity], list[int]]:
    count = draw(st.integers(2, 5))
    members = [
        Capacity(
            draw(st.booleans()) or index < 2, True, draw(st.floats(1, 100)), draw(st.floats(1, 100))
        )
        for index in range(count)
    ]
    return members, [draw(st.integers(0, 40)) for _ in range(count - 1)] + [
        draw(st.integers(1, 40))
    ]


@given(rounds())
def test_a_round_carries_what_the_plan_counts_and_is_never_faster(
    round_: tuple[list[Capacity], list[int]],
) -> None:
    members, spans = round_
    ups = [one.up_bytes_per_s or 0.0 for one in members]
    downs = [one.down_bytes_per_s or 0.0 for one in members]
    contributes = [one.contributes for one in members]
    found = transfer(ups, downs, contributes, [float(size) for size in spans], chunk_bytes=7.0)
    planned = planned_seconds(members, spans, 1.0)
    for index in range(len(members)):
        load = planned[index] * min(ups[index], downs[index])
        assert found.sent_bytes[index] == pytest.approx(load, abs=1e-6)
        assert found.received_bytes[index] == pytest.approx(load, abs=1e-6)
        assert found.done_at_s[index] >= planned[index] * (1 - 1e-6)
    assert found.seconds >= max(planned) * (1 - 1e-6)
    # Somebody's link is busy all the time; in the worst case they take turns.
    assert found.seconds <= sum(planned) * 2 + 1e-6


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_time_scales_with_the_vector(factor: float) -> None:
    links, spans = [4.0, 2.0, 1.0], [40.0, 30.0, 0.0]
    once = transfer(links, links, [True] * 3, spans, chunk_bytes=5.0)
    scaled = transfer(
        links, links, [True] * 3, [factor * size for size in spans], chunk_bytes=factor * 5.0
    )
    assert scaled.seconds == pytest.approx(factor * once.seconds)
