"""Pace: who keeps an aggregator waiting by itself is left out, and who is held back is not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.pace import Pace

NAMES = ("alice", "bob", "carol", "dave", "erin")
TICK_S = 0.2


def pace_of(
    planned_s: Mapping[str, float],
    *,
    grace_s: float = 1.0,
    start_patience_s: float = 10.0,
    allowed_s_max: float = 1000.0,
) -> Pace[str]:
    return Pace(
        planned_s,
        grace_s=grace_s,
        start_patience_s=start_patience_s,
        allowed_s_max=allowed_s_max,
    )


class Watched:
    """An aggregator that listens to senders, and when it found each too slow."""

    def __init__(self, pace: Pace[str], chunk_count: int = 100) -> None:
        self.pace = pace
        self.chunk_count = chunk_count
        self.now_s = 50.0
        self.delivered = dict.fromkeys(NAMES, 0)
        self.found: dict[str, tuple[str, float]] = {}

    def wait(
        self,
        seconds: float,
        *,
        awaited: tuple[str, ...] = (),
        missing: tuple[str, ...] = (),
        tick_s: float = TICK_S,
        at_tick: Callable[[float], None] = lambda passed_s: None,
    ) -> None:
        """Tick for so long; the chunks that nobody waits for come in at_tick()."""
        started_s = self.now_s
        while self.now_s < started_s + seconds - 1e-9:
            at_tick(self.now_s - started_s)
            slow = self.pace.on_tick(
                self.now_s,
                missing=[peer for peer in missing if peer not in self.found],
                awaited=[peer for peer in awaited if peer not in self.found],
                delivered=self.delivered,
                chunk_count=self.chunk_count,
            )
            for peer, reason in slow.items():
                self.found[peer] = reason, self.now_s - started_s
            self.now_s += tick_s


def test_who_delivers_nothing_is_found_after_grace_and_its_share_of_the_plan() -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, 10.0)))
    watched.wait(5, awaited=("bob",))
    reason, after_s = watched.found["bob"]
    # Twice the time planned for one chunk of a hundred, and the grace.
    assert reason == "too slow"
    assert 1.0 + 2 * 10.0 / 100 <= after_s <= 1.2 + 2 * TICK_S


@pytest.mark.parametrize(("slowness", "found"), [(1.0, False), (1.9, False), (2.5, True)])
def test_a_sender_may_take_twice_its_plan(slowness: float, found: bool) -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, 10.0)))
    # The others came in time.
    watched.delivered = {**dict.fromkeys(NAMES, 100), "bob": 0}

    def deliver(passed_s: float) -> None:
        watched.delivered["bob"] = min(int(passed_s / slowness * 10), 99)

    watched.wait(slowness * 10, awaited=("bob",), at_tick=deliver)
    assert ("bob" in watched.found) == found


def test_when_all_are_as_slow_nobody_is_too_slow() -> None:
    """As when all machines are overloaded, or the plan knew better links."""
    watched = Watched(pace_of(dict.fromkeys(NAMES, 1.0)))

    def deliver(passed_s: float) -> None:
        watched.delivered = dict.fromkeys(NAMES, int(passed_s))

    watched.wait(90, awaited=NAMES, at_tick=deliver)
    assert watched.found == {}


def test_one_that_is_slower_than_all_the_slow_ones_is_found() -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, 1.0)))

    def deliver(passed_s: float) -> None:
        watched.delivered = {**dict.fromkeys(NAMES, int(passed_s)), "bob": int(passed_s / 4)}

    watched.wait(90, awaited=NAMES, at_tick=deliver)
    assert list(watched.found) == ["bob"]


def test_the_clock_of_who_is_held_back_stands_still() -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, 1.0)))
    watched.wait(600, awaited=())
    watched.wait(0.8, awaited=NAMES)
    watched.wait(600, awaited=())
    assert watched.found == {}


def test_the_clock_adds_up() -> None:
    """Hiccups that come again and again are a slow sender."""
    watched = Watched(pace_of(dict.fromkeys(NAMES, 0.0), grace_s=1.0))
    for _ in range(20):
        watched.wait(0.2, awaited=("bob",))
        watched.wait(5, awaited=())
    assert watched.found["bob"][0] == "too slow"


def test_nobody_is_hurried_while_others_have_not_begun() -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, 0.0), start_patience_s=30))
    watched.wait(29, awaited=("alice",), missing=("bob",))
    assert watched.found == {}


def test_who_does_not_begin_is_found_so_long_after_most_have() -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, 1.0), start_patience_s=10))
    watched.wait(100, missing=("alice", "bob", "carol"))
    assert watched.found == {}, "three of five have not begun: perhaps it is we who are early"
    watched.wait(20, missing=("alice", "bob"))
    assert set(watched.found) == {"alice", "bob"}
    for reason, after_s in watched.found.values():
        assert reason == "did not begin"
        assert 10 <= after_s <= 10 + 2 * TICK_S


def test_begun_is_begun_though_later_many_are_missing() -> None:
    """The clock of the beginning starts once; who has begun cannot become missing again."""
    watched = Watched(pace_of(dict.fromkeys(NAMES, 1.0), start_patience_s=10))
    watched.wait(9, missing=("bob",))
    watched.wait(2, missing=("bob",))
    assert watched.found["bob"][0] == "did not begin"


def test_a_late_tick_counts_as_a_short_one() -> None:
    """We were frozen, and what came meanwhile lies unread: that is not the sender's fault."""
    watched = Watched(pace_of(dict.fromkeys(NAMES, 0.0), grace_s=2.0))
    watched.wait(0.2, awaited=("bob",))
    watched.now_s += 3600
    watched.wait(0.2, awaited=("bob",))
    assert watched.found == {}
    watched.wait(2.5, awaited=("bob",))
    assert "bob" in watched.found


@pytest.mark.parametrize("planned_s", [math.inf, 1e9])
def test_without_a_plan_there_is_a_limit_all_the_same(planned_s: float) -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, planned_s), allowed_s_max=8.0))
    watched.wait(9, awaited=("bob",))
    assert watched.found == {}
    watched.wait(2, awaited=("bob",))
    assert watched.found["bob"][0] == "too slow"


def test_those_without_a_plan_say_nothing_of_what_is_typical() -> None:
    planned_s = {"alice": 1.0, "bob": 1.0, "carol": 1.0, "dave": math.inf, "erin": 0.0}
    watched = Watched(pace_of(planned_s, grace_s=0.0))
    watched.delivered = dict.fromkeys(NAMES, 50)
    watched.wait(5, awaited=("alice", "dave"))
    assert list(watched.found) == ["alice"]


def test_between_two_nobody_can_say_what_is_typical() -> None:
    """Both count for the median, so the slower one has until the limit."""
    planned_s = {"alice": 1.0, "bob": 1.0}
    watched = Watched(pace_of(planned_s, allowed_s_max=8.0))

    def deliver(passed_s: float) -> None:
        watched.delivered = {"alice": 100, "bob": int(passed_s)}

    watched.wait(20, awaited=("bob",), at_tick=deliver)
    reason, after_s = watched.found["bob"]
    assert reason == "too slow"
    assert 9.0 <= after_s <= 9.0 + 2 * TICK_S


def test_more_than_all_chunks_allow_no_more_than_the_plan() -> None:
    """What a plan took from us was delivered, too, and is not among our chunks any more."""
    watched = Watched(pace_of(dict.fromkeys(NAMES, 1.0), grace_s=0.0), chunk_count=2)
    watched.delivered = dict.fromkeys(NAMES, 50)
    watched.wait(3, awaited=("bob",))
    assert "bob" in watched.found


def test_an_aggregator_that_a_plan_left_without_pieces_waits_for_nobody() -> None:
    watched = Watched(pace_of(dict.fromkeys(NAMES, 1.0)))
    watched.wait(1, awaited=NAMES)
    watched.delivered = dict.fromkeys(NAMES, 3)
    watched.chunk_count = 0
    watched.wait(60)
    assert watched.found == {}


@given(st.integers(0, 2**32))
def test_who_keeps_to_the_plan_is_never_found(seed: int) -> None:
    """However the others fare: each sender here is at most as slow as planned, with hiccups."""
    rng = random.Random(seed)
    planned_s = {name: rng.choice([0.5, 2.0, 20.0]) for name in NAMES}
    watched = Watched(pace_of(planned_s), chunk_count=rng.randint(1, 50))
    progress = dict.fromkeys(NAMES, 0.0)
    hiccups_s = dict.fromkeys(NAMES, 0.9)
    stuck = rng.choice(NAMES)
    for _ in range(300):
        awaited = []
        for name in NAMES:
            due = int(progress[name] * watched.chunk_count)
            watched.delivered[name] = min(due, watched.chunk_count)
            if name == stuck or (hiccups_s[name] >= TICK_S and rng.random() < 0.1):
                hiccups_s[name] -= TICK_S
            elif rng.random() < 0.8:
                # Held back by others it makes no progress, and its clock stands still.
                progress[name] += TICK_S / planned_s[name]
            else:
                continue
            if watched.delivered[name] < watched.chunk_count:
                awaited.append(name)
        watched.wait(TICK_S, awaited=tuple(awaited))
    assert set(watched.found) <= {stuck}
