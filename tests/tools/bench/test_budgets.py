"""What each benchmark promises, judged on rows made up for it, also where a rival is missing."""

import pytest

from tools.bench import allreduce, bulk, rpc
from tools.bench.allreduce_worker import CODEC
from tools.bench.report import Row
from tools.bench.rivals import NAMES
from tools.bench.team import RoundFigures

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


def test_a_relay_is_judged_by_its_speed() -> None:
    assert [one.holds for one in bulk.budgets([bulk_row("relayed", 100.0)])] == [True]
    assert [one.holds for one in bulk.budgets([bulk_row("relayed", 99.9)])] == [False]


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


JUDGED = (4, 10_000_000, "float32")


def allreduce_row(rival: str, case: allreduce.Case, step_s: float, *, cpu_s: float = 1.0) -> Row:
    return measured(rival, case, step_s, cpu_s).row()


def measured(
    rival: str, case: allreduce.Case, step_s: float, cpu_s: float = 1.0
) -> allreduce.Measured:
    one = allreduce.Measured(rival, case)
    for factor in (0.5, 1.0, 4.0):
        one.rounds.append(
            RoundFigures(
                step_s=factor * step_s, cpu_s=cpu_s, error_max=1e-7, transfer_s=0.8 * step_s
            )
        )
    # A round that lacked a peer is a miss, not a measurement.
    one.rounds.append(RoundFigures(step_s=1e-9, cpu_s=1e-9, error_max=9.0, whole=False))
    return one


def test_a_row_of_allreduce_holds_medians_and_whole_rounds_only() -> None:
    row = allreduce_row("aes", JUDGED, 0.2)
    assert [row[f"step_seconds_{end}"] for end in ("min", "median", "max")] == [0.1, 0.2, 0.8]
    assert (row["rounds"], row["rounds_without_a_peer"]) == (3, 1)
    assert row["error_max"] == 1e-7
    assert row["matchmaking_seconds"] is None


def test_allreduce_is_judged_against_each_rival_that_ran() -> None:
    rows = [
        allreduce_row("aes", JUDGED, 0.2, cpu_s=0.4),
        allreduce_row("noise", JUDGED, 0.36),
        allreduce_row("gloo", JUDGED, 0.1),
        allreduce_row("gloo", (4, 1_000_000, "float32"), 1e-3),
        allreduce_row("hivemind", JUDGED, 2.5, cpu_s=2.0),
    ]
    judged = allreduce.budgets(rows)
    assert [(one.measured, one.budget, one.holds) for one in judged] == [
        (pytest.approx(2.0), 2.0, True),
        (pytest.approx(3.6), 3.5, False),
        # Our whole round against their all-reduce alone.
        (pytest.approx(0.1), 0.15, True),
        (pytest.approx(0.2), 0.2, True),
        (1e-7, 1e-6, True),
    ]


def test_sixteen_bits_and_a_tiny_vector_have_promises_of_their_own() -> None:
    half, tiny = (4, 10_000_000, "float16"), (4, 1_000, "float32")
    rows = [
        allreduce_row("aes", half, 0.2, cpu_s=0.5),
        allreduce_row("hivemind", half, 1.25, cpu_s=2.0),
        allreduce_row("aes", tiny, 0.031),
    ]
    judged = allreduce.budgets(rows)
    assert [(one.measured, one.budget, one.holds) for one in judged] == [
        (pytest.approx(0.2), 0.18, False),
        (pytest.approx(0.25), 0.2, False),
        (pytest.approx(31.0), 30.0, False),
        (1e-7, 1e-6, True),
        (1e-7, 5e-3, True),
    ]


def test_a_rival_that_did_not_run_is_no_budget_but_ours_is_always_judged() -> None:
    assert allreduce.budgets([allreduce_row("gloo", JUDGED, 0.1)]) == []
    (judged,) = allreduce.budgets([allreduce_row("aes", (2, 5, "float32"), 0.1)])
    assert "largest error" in judged.name


def test_the_largest_case_is_measured_when_asked_for() -> None:
    cases = allreduce.AllreduceOptions().cases()
    assert len(cases) == 23
    assert [case for case in cases if case[2] == CODEC] == [(4, 10_000_000, CODEC)]
    assert (8, 50_000_000, "float32") not in cases
    assert len(allreduce.AllreduceOptions(full=True).cases()) == 25


def test_who_is_measured_and_how_often_follows_the_case() -> None:
    options = allreduce.AllreduceOptions(hivemind_python="python")
    bare = ["bare-aes", "bare-noise"]
    assert options.rivals_of(JUDGED) == ["aes", "noise", *bare, "gloo", "hivemind"]
    assert options.rivals_of((2, 1_000, "float32")) == ["aes", "gloo", "hivemind"]
    assert allreduce.AllreduceOptions().rivals_of((2, 1_000, "float32")) == ["aes", "gloo"]
    rounds = [options.rounds_of("aes", (4, elements, "float32")) for elements in allreduce.ELEMENTS]
    assert rounds == sorted(rounds, reverse=True)
    assert options.rounds_of("hivemind", (4, 1_000, "float32")) < rounds[0]
    assert allreduce.AllreduceOptions(rounds=7).rounds_of("gloo", (4, 50_000_000, "float32")) == 7


def test_fewer_bytes_must_not_take_longer() -> None:
    case = (4, 10_000_000, CODEC)
    coded, floats = measured("aes", case, 0.6), measured("floats", case, 0.5)
    # Those of the same minutes count.
    rows = [allreduce_row("aes", JUDGED, 0.7), coded.row(floats)]
    (judged,) = [one for one in allreduce.budgets(rows) if "against float32" in one.name]
    assert (judged.measured, judged.holds) == (pytest.approx(1.2), False)
