"""A trainer that is stopped in mid-round and goes on later: the others step on, it skips ahead."""

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.processes.command import (
    LOOPBACK,
    TEST_S_MAX,
    WAIT_S_MAX,
    Command,
    running,
    running_node,
)

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


def wait_until(condition: Callable[[], bool], *, look_every_s: float = 0.05) -> None:
    ends_s = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(look_every_s)


def in_a_round(trainer: Command) -> bool:
    """Whether it has found a group whose round it has not ended; not among its first rounds."""
    log = trainer.stderr
    return log.count("group_found") > max(5, log.count("round_ended"))


def test_a_frozen_trainer_falls_behind_and_skips_ahead(tmp_path: Path) -> None:
    """Of three, so that those who go on are a quorum at once, whoever is frozen."""
    names = ("one", "two", "frozen")
    logs = {name: tmp_path / f"{name}.jsonl" for name in names}

    def step(name: str) -> int:
        steps = events(logs[name], "step")
        return steps[-1]["step"] if steps else 0

    with running_node(tmp_path) as (_, address), ExitStack() as stack:
        train = ["train", "digits", "--initial-peers", address, "--listen", LOOPBACK, "--verbose"]
        train += ("--steps", str(STEPS), "--wait-for-peers", "3", "--json", "--events")
        trainers = {
            name: stack.enter_context(running(*train, str(logs[name]), folder=tmp_path / name))
            for name in names
        }
        frozen = trainers["frozen"]
        wait_until(lambda: in_a_round(frozen), look_every_s=0.0005)
        frozen.process.send_signal(signal.SIGSTOP)
        frozen_at = step("frozen")
        wait_until(lambda: step("one") >= frozen_at + FROZEN_STEPS)
        frozen.process.send_signal(signal.SIGCONT)
        codes = [trainer.finish() for trainer in trainers.values()]
        assert codes == [0, 0, 0], [trainer.stderr for trainer in trainers.values()]
    assert len({trainer.json()["hash"] for trainer in trainers.values()}) == 1
    for name in ("one", "two"):
        assert [event["step"] for event in events(logs[name], "step")] == list(range(1, STEPS + 1))
    caught_up = [event["step"] for event in events(logs["frozen"], "caught_up")]
    assert any(at >= frozen_at + FROZEN_STEPS - 1 for at in caught_up)
    taken = [event["step"] for event in events(logs["frozen"], "step")]
    assert len(taken) <= STEPS - FROZEN_STEPS + 2, "what it missed it never computed"
    assert taken == sorted(set(taken))
