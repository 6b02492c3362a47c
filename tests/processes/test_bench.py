"""The benchmarks run, measure every rival and check what arrives; how fast is not tested."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.processes.command import ENVIRONMENT, ROOT, TEST_S_MAX
from tools.bench.processes import RivalFailed, open_pair
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
    return json.loads(done.stdout)


def test_bulk() -> None:
    told = bench("bulk", "--seconds", "0.01")
    assert told["skipped"] == []
    assert {row["rival"] for row in told["rows"]} == set(NAMES.values())
    assert all(row["megabytes_per_s"] > 0 for row in told["rows"])
    assert len(told["budgets"]) == 3


def test_rpc() -> None:
    told = bench("rpc", "--calls", "10", "--connections", "3")
    assert told["skipped"] == []
    assert [row["rival"] for row in told["rows"]] == list(NAMES.values())
    assert all(row["call_ms"] > 0 and row["loaded_call_ms"] > 0 for row in told["rows"])
    assert len(told["budgets"]) == 6


def test_a_rival_that_fails_says_why_and_leaves_no_process() -> None:
    with open_pair("tcp") as pair, pytest.raises(RivalFailed, match="AttributeError"):
        pair.client.ask(do="what nobody can")
    assert pair.client._process.poll() is not None
    assert pair.server._process.poll() is not None
