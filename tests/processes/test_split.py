"""Split training by two real processes, a server and a client."""

import json
from pathlib import Path

import pytest

from tests.processes.command import LOOPBACK, TEST_S_MAX, running

STEPS = 60
BATCH, WIDTH, TEST_SAMPLES = 32, 16 * 4 * 4, 359
pytestmark = pytest.mark.timeout(TEST_S_MAX)


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    train = ("train", "split-digits", "--listen", LOOPBACK, "--steps", str(STEPS))
    events = tmp_path / "events.jsonl"
    with running(*train, "--role", "server", "--clients", "1", folder=tmp_path / "server") as one:
        address = one.read_until("Clients join with").split()[-1]
        client_options = ("--role", "client", "--initial-peers", address, "--json")
        more = ("--events", str(events))
        with running(*train, *client_options, *more, folder=tmp_path / "client") as client:
            assert client.finish() == 0, client.stderr
        assert one.finish() == 0, one.stderr
    result = client.json()
    assert (result["ended"], result["step"], result["path"]) == ("finished", STEPS, "direct")
    assert result["figures"]["accuracy"] > 0.7
    traffic = result["traffic"]
    assert traffic["values_sent"] == traffic["values_received"] == STEPS * BATCH * WIDTH
    assert traffic["labels_sent"] == STEPS * BATCH
    evaluated = TEST_SAMPLES * (WIDTH + 10)
    moved = 4 * (2 * STEPS * BATCH * WIDTH + evaluated) + 8 * STEPS * BATCH
    assert traffic["payload_bytes_sent"] + traffic["payload_bytes_received"] == moved
    told = [json.loads(line)["event"] for line in events.read_text("utf-8").splitlines()]
    assert (told[0], told[-1]) == ("started", "finished")
    assert one.stdout.endswith(f"finished after {STEPS} batches of clients.")
