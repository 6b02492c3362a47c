"""What `bench recovery` and `bench scaling` make of what processes say."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tools.bench import recovery, scaling
from tools.bench.allreduce_worker import Losses
from tools.bench.report import Row


def answer(**changed: Any) -> dict[str, Any]:
    """What a survivor says after a round without peer 2."""
    said = {
        "outcome": "success",
        "reason": "",
        "ended_s": 11.0,
        "digest": "d",
        "attempts": 1,
        "fractions": {"0": 1.0, "1": 1.0, "2": 0.4},
        "noticed_s": {"2": 10.25},
    }
    return said | changed


def checked(**changed: Any) -> dict[str, Any]:
    """What a survivor's vector shows."""
    return {"right_fraction": 1.0, "tensor_digest": "t", "error_max": 1e-7} | changed


def summary(
    *, said: dict[str, Any] | None = None, shown: dict[str, Any] | None = None, **victim: Any
) -> Row:
    """Peer 2 is lost at 10 s; peer 1 says and shows something else than peer 0."""
    answers = {0: answer(ended_s=12.5), 1: answer(**(said or {}))}
    return recovery.summary(2, 10.0, answers, {0: checked(), 1: checked(**(shown or {}))}, victim)


def test_a_loss_is_over_when_the_last_survivor_is_done() -> None:
    row = summary(said={"noticed_s": {"2": 10.75}})
    assert (row["seconds"], row["detection_seconds"]) == (2.5, 0.75)
    assert (row["fraction"], row["victim_fraction"], row["same_bits"]) == (1.0, 0.4, 1)
    assert row["outcome"] == "success"


def test_nobody_may_have_noticed() -> None:
    answers = {0: answer(noticed_s={}), 1: answer(noticed_s={})}
    row = recovery.summary(2, 10.0, answers, {0: checked(), 1: checked()}, {})
    assert row["detection_seconds"] is None


def test_other_bits_are_seen_in_digests_and_in_the_tensors_themselves() -> None:
    assert summary(said={"digest": "e"})["same_bits"] == 0
    assert summary(shown={"tensor_digest": "u"})["same_bits"] == 0
    assert summary(outcome="success", digest="e")["same_bits"] == 0
    assert summary(outcome="failed", digest="")["same_bits"] == 1


def test_missing_data_is_seen_in_reports_and_in_the_tensors_themselves() -> None:
    assert summary(said={"fractions": {"0": 1.0, "1": 0.9}})["fraction"] == 0.9
    assert summary(said={"fractions": {"0": 1.0}})["fraction"] == 0.0
    assert summary(shown={"right_fraction": 0.8})["fraction"] == 0.8


def test_a_survivor_that_fails_leaves_nothing_of_the_rest() -> None:
    row = summary(said={"outcome": "failed", "reason": "no quorum", "digest": ""})
    assert (row["outcome"], row["reason"]) == ("failed", "no quorum")
    assert (row["fraction"], row["same_bits"]) == (0.0, 0)


def lost(
    name: str, seconds: float, *, clean: float = 0.5, fraction: float = 1.0, same_bits: int = 1
) -> Row:
    return {
        "signal": name,
        "clean_seconds": clean,
        "seconds": seconds,
        "fraction": fraction,
        "same_bits": same_bits,
    }


def test_each_signal_is_judged_by_its_worst_loss() -> None:
    rows = [
        lost("SIGKILL", 0.7),
        lost("SIGKILL", 3.4),
        # Its own clean rounds were slow, too.
        lost("SIGKILL", 4.0, clean=2.0),
        lost("SIGSTOP", 3.6),
        lost("SIGSTOP", 1.0, fraction=0.9, same_bits=0),
    ]
    judged = recovery.budgets(rows)
    assert [(one.measured, one.budget, one.holds) for one in judged] == [
        (3.4, 3.5, True),
        (1.0, 1.0, True),
        (1, 1, True),
        (3.6, 3.5, False),
        (0.9, 1.0, False),
        (0, 1, False),
    ]
    assert len(recovery.budgets(rows[:2])) == 3
    assert recovery.budgets([]) == []


def test_a_peer_is_lost_by_the_first_line_that_says_so() -> None:
    losses = Losses({"alice": 0, "bob": 1})
    log = logging.Logger("test")
    log.addHandler(losses)
    log.info("round_ended group=%s peer=%s", "x", "bob")
    log.info("aggregator_lost group=x peer=%s cause=%s", "carol", "silent")
    assert losses.at_s == {}
    log.info("aggregator_lost group=x peer=%s cause=%s", "bob", "silent for 2.5 s")
    first_s = losses.at_s[1]
    log.info("sender_lost group=x peer=%s", "bob")
    losses.note(1)
    assert losses.at_s == {1: first_s}


def test_the_ideal_grows_towards_two_vectors() -> None:
    options = scaling.ScalingOptions(elements=1_000_000, megabytes_per_s=4.0)
    assert [options.ideal_s(peers) for peers in (2, 4, 16)] == [1.0, 1.5, 1.875]


def scaled(peers: int, seconds: float) -> Row:
    return {
        "peers": peers,
        "seconds_median": seconds,
        "seconds_min": seconds - 0.1,
        "seconds_max": seconds + 0.1,
        "times_ideal": seconds / 2,
    }


def test_the_largest_group_is_judged_against_its_links() -> None:
    reached, judged = scaling.budgets([scaled(16, 2.4), scaled(2, 9.0)], (2, 16))
    assert (reached.measured, reached.holds) == (16, True)
    assert (judged.measured, judged.holds) == (pytest.approx(1.2), True)


def test_a_largest_group_that_failed_is_a_miss() -> None:
    reached, judged = scaling.budgets([scaled(8, 2.0)], (2, 8, 16))
    assert (reached.measured, reached.budget, reached.holds) == (8, 16, False)
    assert judged.holds
    (nothing,) = scaling.budgets([], (2, 16))
    assert (nothing.measured, nothing.holds) == (0, False)


def test_the_plot_has_a_mark_for_each_group() -> None:
    drawn = scaling.plot([scaled(2, 1.0), scaled(4, 1.5)], scaling.ScalingOptions())
    assert drawn.count("<circle") == 3
    assert "peers, each with a link of 4 MB/s each way" in drawn
