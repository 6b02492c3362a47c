"""UploadCap: how much passes in a time, who shares it, and when no limit holds."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.state.cap import UploadCap

BURST_S = 0.25


def send_all(
    cap: UploadCap, downloads: Sequence[Sequence[int]], uplink: float | None = None
) -> list[list[float]]:
    """Downloads that each want their next chunk when the last one has gone: when each went."""
    went: list[list[float]] = [[] for _ in downloads]
    turns = {number: cap.on_wanted(sizes[0]) for number, sizes in enumerate(downloads)}
    now_s = 0.0
    while turns:
        waits = {}
        for number, turn in list(turns.items()):
            wait_s = cap.take(turn, uplink, now_s)
            if wait_s:
                waits[number] = wait_s
                continue
            went[number].append(now_s)
            del turns[number]
            if len(went[number]) < len(downloads[number]):
                size = downloads[number][len(went[number])]
                turns[number] = cap.on_wanted(size)
                waits[number] = 0.0
        now_s += min(waits.values(), default=0.0)
    return went


def test_without_limits_all_goes_at_once() -> None:
    cap = UploadCap(None, 0.5, 0.0)
    assert send_all(cap, [[10**9] * 5, [10**9]]) == [[0.0] * 5, [0.0]]
    assert send_all(UploadCap(None, None, 0.0), [[10**9]] * 2, uplink=1.0) == [[0.0]] * 2


@given(
    rate=st.floats(1e3, 1e9),
    downloads=st.lists(st.lists(st.integers(1, 10**7), min_size=1, max_size=8), min_size=1),
)
def test_no_more_passes_than_the_rate_allows(rate: float, downloads: list[list[int]]) -> None:
    went = send_all(UploadCap(rate, None, 0.0), downloads)
    sent = sorted(
        (at_s, size)
        for times, sizes in zip(went, downloads, strict=True)
        for at_s, size in zip(times, sizes, strict=True)
    )
    passed = 0
    for at_s, size in sent:
        # What went before this chunk; it may itself leave a debt, of a clock's grain at most.
        assert passed <= rate * (at_s + BURST_S + 0.0011 * len(sent))
        passed += size
    total = sum(size for _, size in sent)
    assert sent[-1][0] <= max(0.0, (total - sent[-1][1]) / rate - BURST_S) + 1e-6


def test_newcomers_share_alike_in_turns() -> None:
    went = send_all(UploadCap(1000.0, None, 0.0), [[1000] * 4, [1000] * 4])
    # The burst lets the first chunk wait a quarter of a second less.
    assert went[0] == pytest.approx([0, 1.75, 3.75, 5.75])
    assert went[1] == pytest.approx([0.75, 2.75, 4.75, 6.75])


def test_who_leaves_while_it_waits_takes_nothing() -> None:
    cap = UploadCap(1000.0, None, 0.0)
    assert cap.take(cap.on_wanted(1250), None, 0.0) == 0.0
    left, next_one = cap.on_wanted(5000), cap.on_wanted(1000)
    assert cap.take(next_one, None, 0.0) == pytest.approx(6.0)
    cap.on_left(left)
    assert cap.take(next_one, None, 0.0) == pytest.approx(1.0)
    assert cap.take(next_one, None, 1.0) == 0.0


def test_a_share_of_the_uplink_while_it_is_needed() -> None:
    cap = UploadCap(None, 0.5, 0.0)
    assert cap.take(cap.on_wanted(10**6), None, 0.0) == 0.0
    # A round begins: what passed before is no debt.
    assert cap.take(cap.on_wanted(10_125), 1000.0, 1.0) == 0.0
    turn = cap.on_wanted(1)
    assert cap.take(turn, 1000.0, 1.0) == pytest.approx(20.0)
    assert cap.take(turn, None, 1.1) == 0.0


def test_the_stricter_limit_holds() -> None:
    cap = UploadCap(1000.0, 0.5, 0.0)
    assert cap.take(cap.on_wanted(1250), 1e6, 0.0) == 0.0
    assert cap.take(cap.on_wanted(1), 1e6, 0.0) == pytest.approx(1.0)
    assert cap.take(cap.on_wanted(1), 1.0, 0.0) >= 1.0


def test_what_went_without_a_turn_holds_up_the_next() -> None:
    cap = UploadCap(1000.0, None, 0.0)
    cap.on_sent(1250, None, 0.0)
    assert cap.take(cap.on_wanted(1), None, 0.0) == pytest.approx(1.0)
