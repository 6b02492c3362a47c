"""Promptness: an aggregator far behind the others is late, and nobody is while all are slow."""

from __future__ import annotations

import pytest

from averaging.allreduce.promptness import Promptness

GRACE_S = 2.5


def late_at_s(done_at_s: dict[str, float], *, until_s: float = 100.0) -> dict[str, float]:
    """When each aggregator was found late, by when each is done."""
    promptness: Promptness[str] = Promptness(10.0, grace_s=GRACE_S)
    late: dict[str, float] = {}
    now_s = 10.0
    while now_s < 10.0 + until_s:
        passed_s = now_s - 10.0
        done = [peer for peer, at_s in done_at_s.items() if at_s <= passed_s]
        due = [peer for peer in done_at_s if peer not in done and peer not in late]
        for peer in promptness.on_tick(now_s, done=done, due=due):
            late[peer] = passed_s
        now_s += 0.25
    return late


def test_one_that_never_comes_is_late_half_as_long_again_after_the_others() -> None:
    late = late_at_s({"alice": 4.0, "bob": 4.0, "carol": 1e9})
    assert list(late) == ["carol"]
    assert late["carol"] == pytest.approx(1.5 * 4.0 + GRACE_S, abs=0.5)


def test_nobody_is_late_while_all_are_slow() -> None:
    assert late_at_s(dict.fromkeys(("alice", "bob", "carol"), 90.0)) == {}


def test_one_within_its_time_is_not_late() -> None:
    assert late_at_s({"alice": 10.0, "bob": 10.0, "carol": 17.0}) == {}


def test_of_two_the_one_that_is_done_is_the_measure() -> None:
    assert list(late_at_s({"alice": 1.0, "bob": 1e9})) == ["bob"]


def test_several_can_be_late() -> None:
    assert set(late_at_s({"alice": 1.0, "bob": 1.0, "carol": 1e9, "dave": 1e9})) == {
        "carol",
        "dave",
    }


def test_more_than_half_that_never_come_are_nobodys_fault() -> None:
    assert late_at_s({"alice": 1.0, "bob": 1e9, "carol": 1e9}) == {}
