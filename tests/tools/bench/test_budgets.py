"""What each benchmark promises, judged on rows made up for it, also where a rival is missing."""

import pytest

from tools.bench import averaging, bulk, rpc
from tools.bench.report import Row
from tools.bench.rivals import NAMES

MIB = 1_048_576


def bulk_row(rival: str, speed: float, *, streams: int = 1, write_bytes: int = MIB) -> Row:
    one = bulk.Measured(rival, streams, write_bytes, 10 * write_bytes)
    one.megabytes_per_s += [speed / 2, speed, 9 * speed]
    one.sender_cpu_s_per_gb += [1.0, 3.0, 2.0]
    one.receiver_cpu_s_per_gb += [4.0]
    return one.row()


def rpc_row(rival: str, milliseconds: float) -> Row:
    one = rpc.Measured(rival)
    one.connect_s.append(milliseconds / 1e3)
    one.call_s += [milliseconds / 1e3] * 99 + [1.0]
    return one.row()


def test_a_row_of_bulk_holds_medians_and_the_extremes() -> None:
    row = bulk_row("tls", 100.0)
    assert row["rival"] == "trio SSLStream"
    assert [row[f"megabytes_per_s{end}"] for end in ("_min", "", "_max")] == [50.0, 100.0, 900.0]
    assert (row["sender_cpu_s_per_gb"], row["receiver_cpu_s_per_gb"]) == (2.0, 4.0)


def test_bulk_is_judged_by_one_stream_with_large_writes() -> None:
    rows = [
        bulk_row("tls", 100.0),
        bulk_row("stock", 50.0),
        bulk_row("noise", 130.0),
        bulk_row("aes", 199.0),
        bulk_row("noise", 1.0, streams=4),
        bulk_row("aes", 1.0, write_bytes=4096),
    ]
    judged = bulk.budgets(rows)
    assert [(one.measured, one.holds) for one in judged] == [
        (pytest.approx(1.3), True),
        (pytest.approx(2.6), False),
        (pytest.approx(1.99), False),
    ]


def test_a_rival_that_is_missing_is_not_beaten() -> None:
    rows = [bulk_row("noise", 130.0), bulk_row("aes", 199.0)]
    assert bulk.budgets(rows) == []
    assert len(bulk.budgets([*rows, bulk_row("stock", 50.0)])) == 1


def test_a_row_of_rpc_holds_the_median_and_what_one_in_a_hundred_takes() -> None:
    row = rpc_row("noise", 0.5)
    assert row["call_ms"] == pytest.approx(0.5)
    assert row["call_p99_ms"] == pytest.approx(0.5)
    assert row["stream_ms"] is None
    assert row["idle_connection_kib"] is None
    assert (row["connects"], row["calls"]) == (1, 100)


def test_rpc_judges_ours_as_far_as_it_was_measured() -> None:
    judged = rpc.budgets([rpc_row("stock", 0.1), rpc_row("noise", 0.5), rpc_row("aes", 0.7)])
    assert [(one.name, one.holds) for one in judged] == [
        (f"{NAMES['noise']}: a new connection", True),
        (f"{NAMES['noise']}: a small call", True),
        (f"{NAMES['aes']}: a new connection", True),
        (f"{NAMES['aes']}: a small call", False),
    ]


def test_rpc_splits_what_was_asked_for_and_does_more_in_full() -> None:
    options = rpc.RpcOptions(calls=100, connections=7)
    assert options.each(options.calls) * rpc.REPEATS >= 100
    full = rpc.RpcOptions.full(options)
    assert (full.calls, full.connections) == (500, 7)


def test_averaging_is_judged_against_gloo() -> None:
    rows = [
        {"peers": 4, "elements": 10, "step_seconds_median": 0.7},
        {"peers": 4, "elements": 10, "step_seconds_median": 0.2},
    ]
    (judged,) = averaging.budgets(rows)
    assert (judged.measured, judged.holds) == (pytest.approx(3.5), True)
    assert averaging.budgets(rows[:1]) == []
