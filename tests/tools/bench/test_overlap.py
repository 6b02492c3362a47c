"""The bench of overlap: what peers say becomes rows, and rows are judged."""

from __future__ import annotations

from typing import Any

import pytest

from tools.bench import overlap
from tools.bench.overlap import BESIDE, DELAYED, PLAIN, SYNCHRONOUS, OverlapOptions
from tools.bench.processes import RivalFailed
from tools.bench.report import Row

OPTIONS = OverlapOptions(steps=2)


def told(*, computing_s: float, waited_s: float, hash: str = "ab", failed: int = 0) -> Any:
    return {
        "wall_s": 8.0,
        "micro_batches": 14,
        "computing_s": computing_s,
        "optimizer_s": 0.2,
        "waited_s": waited_s,
        "coreless_s": 0.1,
        "failed": failed,
        "caught_up": 0,
        "round_s": [1.0, 1.5],
        "matchmaking_s": [0.1, 0.3],
        "transfer_s": [0.8, 1.0],
        "agreement_s": [0.1, 0.1],
        "sent_bytes": 10,
        "hash": hash,
    }


def test_a_row_shares_the_time_out_whole() -> None:
    answers = [told(computing_s=6.0, waited_s=1.0), told(computing_s=7.0, waited_s=0.5, failed=1)]
    row = overlap.summary(DELAYED, answers, OPTIONS)
    # Two steps in eight seconds.
    assert row["seconds_per_step"] == pytest.approx(4.0)
    assert row["seconds_computing"] == pytest.approx(3.25)
    assert row["waited_seconds"] == pytest.approx(0.375)
    assert row["other_seconds"] == pytest.approx(0.375)
    assert row["coreless_seconds"] == pytest.approx(0.05)
    assert row["utilisation"] == pytest.approx(13 / 16)
    assert row["utilisation_min"] == pytest.approx(6 / 8)
    assert row["round_seconds"] == pytest.approx(1.25)
    assert row["micro_batches_per_step"] == 7
    assert (row["failed_rounds"], row["same_parameters"]) == (1, 1)


def test_a_peer_with_other_parameters_is_seen_and_judged() -> None:
    answers = [told(computing_s=7.8, waited_s=0.1, hash=hash) for hash in ("ab", "ab", "cd")]
    row = overlap.summary(DELAYED, answers, OPTIONS)
    assert row["same_parameters"] == 0
    assert [one.holds for one in overlap.budgets([row])] == [True, False]


def test_utilisation_is_judged_where_updates_are_delayed() -> None:
    for computing_s, holds in ((7.6, True), (7.59, False)):
        rows = [
            overlap.summary(SYNCHRONOUS, [told(computing_s=4.0, waited_s=4.0)], OPTIONS),
            overlap.summary(DELAYED, [told(computing_s=computing_s, waited_s=0.1)], OPTIONS),
        ]
        judged = overlap.budgets(rows)
        assert [one.holds for one in judged] == [holds, True, True]
    assert overlap.budgets([]) == []


def loop(*steps: tuple[float, float], coreless_s: float = 0.0) -> dict[str, Any]:
    """Steps, each by when it ended and how long it took."""
    return {
        "ended_s": [ended_s for ended_s, _ in steps],
        "took_s": [took_s for _, took_s in steps],
        "coreless_s": [coreless_s] * len(steps),
    }


def loops(beside: list[dict[str, Any]], rounds_s: list[float | None]) -> list[Row]:
    # Each becomes slower while all go on, as machines do when others come.
    plain = [loop((9.0, 0.010 + 0.002 * index)) for index in range(len(beside) + 1)]
    return overlap.loops_summary(loop((9.0, 0.010)), plain, beside, rounds_s, OPTIONS)


def test_steps_beside_a_round_are_compared_with_those_before_and_after() -> None:
    beside = [
        # The plain ones around it take 11 ms; the last step began when the round was over.
        loop((0.5, 0.0121), (1.0, 0.0121), (1.5, 5.0)),
        # Here 13 ms, and half of what is more was time without a core.
        loop((0.5, 0.0169), (1.0, 0.0169), coreless_s=0.00195),
        loop((0.5, 7.0)),
    ]
    plain, row = loops(beside, [1.2, 1.2, None])
    assert plain["mode"] == PLAIN
    assert plain["utilisation"] == 1.0
    assert plain["seconds_per_step"] == pytest.approx(0.010)
    assert row["mode"] == BESIDE
    assert row["steps"] == 4
    assert row["failed_rounds"] == 1
    assert (row["slowed_by_min"], row["slowed_by_max"]) == pytest.approx((0.1, 0.3))
    assert row["slowed_by"] == pytest.approx(0.2)
    assert row["slowed_by_with_a_core"] == pytest.approx((0.1 + 0.15) / 2)


def test_a_slowed_step_is_judged_unless_it_is_short() -> None:
    for took_s, holds in ((0.0115, True), (0.0116, False)):
        (judged,) = overlap.budgets(loops([loop((0.5, took_s))], [1.0]))
        assert judged.holds is holds
    rows = loops([loop((0.5, 0.02))], [1.0])
    rows[0]["seconds_per_step"] = 0.0099
    assert overlap.budgets(rows) == []


def test_no_round_beside_is_a_reason_not_a_row() -> None:
    with pytest.raises(RivalFailed, match="no round was there"):
        loops([loop((0.5, 0.01))], [None])
