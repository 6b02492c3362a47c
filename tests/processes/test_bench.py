"""The benchmarks run, measure every rival and check what arrives; how fast is not tested."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes.command import ENVIRONMENT, ROOT, TEST_S_MAX, WAIT_S_MAX
from tools.bench.bulk import MEASURED
from tools.bench.processes import RivalFailed, Worker, open_pair
from tools.bench.rivals import NAMES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]


def bench(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "bench", *arguments, "--json"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "measuring" in done.stderr
    return json.loads(done.stdout)


def test_bulk() -> None:
    told = bench("bulk", "--seconds", "0.01")
    assert told["skipped"] == []
    assert {row["rival"] for row in told["rows"]} == set(MEASURED.values())
    assert {(row["streams"], row["write_bytes"]) for row in told["rows"]} == {
        (1, 4096), (1, 65_536), (1, 1_048_576), (4, 65_536), (16, 65_536),
    }  # fmt: skip
    for row in told["rows"]:
        assert row["repetitions"] == 3
        assert 0 < row["megabytes_per_s_min"] <= row["megabytes_per_s"]
        assert row["sender_cpu_s_per_gb"] > 0
        assert row["receiver_cpu_s_per_gb"] > 0
    assert len(told["budgets"]) == 4


def test_rpc() -> None:
    # More connections than strangers may open in a second: the limits of a node are not measured.
    told = bench("rpc", "--calls", "10", "--connections", "60")
    assert told["skipped"] == []
    assert [row["rival"] for row in told["rows"]] == list(NAMES.values())
    for row in told["rows"]:
        for what in ("connect", "stream", "call", "loaded_call"):
            assert 0 < row[f"{what}_ms"] <= row[f"{what}_p99_ms"]
        assert row["load_megabytes_per_s"] > 0
        assert row["idle_connection_kib"] is not None
    assert len(told["budgets"]) == 6


def test_allreduce() -> None:
    told = bench(
        "allreduce", "--peers", "2", "--elements", "1000", "--elements", "70000", "--rounds", "2"
    )
    assert [one["name"] for one in told["skipped"]] == ["hivemind"]
    assert [row["rival"] for row in told["rows"]] == ["ours, AES", "gloo"] * 4
    for row in told["rows"]:
        assert row["rounds"] == 2
        assert 0 < row["step_seconds_min"] <= row["step_seconds_median"]
        assert row["error_max"] < (1e-5 if row["dtype"] == "float32" else 1e-2)
    # What the other lacks yet when the first voter has its result is sent afterwards.
    for row, vector_bytes in zip(told["rows"][:4:2], (4_000, 2_000), strict=True):
        assert vector_bytes / 2 <= row["sent_bytes_per_peer"] <= vector_bytes
    assert len(told["budgets"]) == 2


def test_a_python_without_hivemind_is_a_reason() -> None:
    told = bench(
        "allreduce", "--peers", "2", "--elements", "10", "--dtype", "float32", "--rounds", "1",
        "--hivemind-python", sys.executable,
    )  # fmt: skip
    (skipped,) = told["skipped"]
    assert skipped["name"] == "hivemind"
    assert "No module named 'hivemind'" in skipped["reason"]
    assert len(told["rows"]) == 2


def test_recovery() -> None:
    told = bench("recovery", "--peers", "3", "--elements", "2000000", "--repeats", "1")
    assert told["skipped"] == []
    assert [row["signal"] for row in told["rows"]] == ["SIGKILL", "SIGSTOP"]
    for row in told["rows"]:
        assert row["outcome"] == "success"
        assert (row["fraction"], row["same_bits"]) == (1.0, 1)
        assert row["error_max"] < 1e-5
        assert row["detection_seconds"] > 0
    assert len(told["budgets"]) == 6


def test_scaling(tmp_path: Path) -> None:
    told = bench(
        "scaling", "--peers", "2", "--peers", "3", "--elements", "100000", "--rounds", "1",
        "--save", str(tmp_path / "scaling.json"),
    )  # fmt: skip
    assert told["skipped"] == []
    assert [row["peers"] for row in told["rows"]] == [2, 3]
    for row in told["rows"]:
        # What the links carried is what was sent, so none of it went past them.
        assert row["link_bytes_per_peer"] > 4 * 100_000 * 2 * (row["peers"] - 1) / row["peers"]
    assert json.loads((tmp_path / "scaling.json").read_text())["rows"] == told["rows"]
    assert (tmp_path / "scaling.svg").read_text().startswith("<svg")


def test_overlap() -> None:
    told = bench(
        "overlap", "--steps", "1", "--peers", "2", "--parameters", "20000", "--seconds", "0.3",
        "--pairs", "1",
    )  # fmt: skip
    assert told["skipped"] == []
    synchronous, delayed, plain, beside = told["rows"]
    for row in (synchronous, delayed):
        assert (row["failed_rounds"], row["same_parameters"]) == (0, 1)
        assert 0.3 <= row["seconds_computing"] < row["seconds_per_step"]
        assert row["round_seconds"] > row["round_trip_s"]
        assert 0 < row["utilisation_min"] <= row["utilisation"] < 1
    # Whoever waits for a round waits for its bytes to go there and back.
    assert synchronous["waited_seconds"] > synchronous["round_trip_s"]
    assert (plain["utilisation"], beside["failed_rounds"]) == (1, 0)
    assert beside["steps"] > 0
    # Such short steps are not judged by how much a round slows them.
    assert len(told["budgets"]) == 3


def test_a_rival_that_fails_says_why_and_leaves_no_process() -> None:
    with open_pair("tcp") as pair, pytest.raises(RivalFailed, match="tcp client: KeyError"):
        pair.client.ask(do="what nobody can")
    assert pair.client.ended
    assert pair.server.ended


def test_a_server_that_is_gone_is_a_reason() -> None:
    with open_pair("tcp") as pair:
        pair.server.end()
        with pytest.raises(RivalFailed, match="OSError: all attempts to connect"):
            pair.client.ask(do="connect", times=1)


def test_a_rival_whose_process_dies_is_told_from_one_that_is_silent() -> None:
    worker = Worker("tcp client", "tools.bench.worker", "tcp", "client")
    try:
        with pytest.raises(RivalFailed, match="was silent for 0 s"):
            worker.answer(timeout_s=0.01)
        with pytest.raises(RivalFailed, match="ended with exit code -9"):
            worker.answer(timeout_s=WAIT_S_MAX)
    finally:
        worker.end()


def test_what_cannot_be_loaded_is_a_reason() -> None:
    worker = Worker("nobody", "tools.bench.no_such_module")
    try:
        with pytest.raises(RivalFailed, match="no_such_module"):
            worker.answer(timeout_s=WAIT_S_MAX)
    finally:
        worker.end()


def test_a_process_ends_with_its_parent_even_while_it_works() -> None:
    with open_pair("tcp") as pair:
        pair.client.tell(do="call", times=10**9, size_bytes=1)
        pair.client.hang_up()
        pair.client.wait(timeout_s=WAIT_S_MAX)
        assert not pair.server.ended
