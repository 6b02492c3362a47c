"""A trainer whose process is stopped and goes on later: the others step on, and it skips ahead."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes.command import LOOPBACK, TEST_S_MAX, WAIT_S_MAX, running, running_node

STEPS = 60
FROZEN_STEPS = 10
pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # The last line may be half written.
    lines = path.read_text("utf-8").splitlines(keepends=True)
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in told if event["event"] == kind]


def wait_until(condition: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.05)


def test_a_frozen_trainer_falls_behind_and_skips_ahead(tmp_path: Path) -> None:
    logs = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]

    def step(number: int) -> int:
        steps = events(logs[number], "step")
        return steps[-1]["step"] if steps else 0

    with running_node(tmp_path) as (_, address):
        train = ["train", "digits", "--initial-peers", address, "--listen", LOOPBACK]
        train += ("--steps", str(STEPS), "--wait-for-peers", "2", "--json", "--events")
        with (
            running(*train, str(logs[0]), folder=tmp_path / "one") as one,
            running(*train, str(logs[1]), folder=tmp_path / "two") as two,
        ):
            wait_until(lambda: step(1) >= 5)
            two.process.send_signal(signal.SIGSTOP)
            frozen_at = step(1)
            wait_until(lambda: step(0) >= frozen_at + FROZEN_STEPS)
            two.process.send_signal(signal.SIGCONT)
            codes = one.finish(), two.finish()
            assert codes == (0, 0), one.stderr + two.stderr
    assert one.json()["hash"] == two.json()["hash"]
    assert [event["step"] for event in events(logs[0], "step")] == list(range(1, STEPS + 1))
    caught_up = [event["step"] for event in events(logs[1], "caught_up")]
    assert any(at >= frozen_at + FROZEN_STEPS - 1 for at in caught_up)
    taken = [event["step"] for event in events(logs[1], "step")]
    assert len(taken) <= STEPS - FROZEN_STEPS + 2, "what it missed it never computed"
    assert taken == sorted(set(taken))
