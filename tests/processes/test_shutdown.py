"""Ctrl-C, SIGTERM and SIGKILL leave no process, socket or temporary file behind."""

import contextlib
import secrets
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.processes.command import (
    ENVIRONMENT,
    LOOPBACK,
    TEST_S_MAX,
    Command,
    running,
    running_node,
    send,
)

END_S_MAX = 20.0
pytestmark = pytest.mark.timeout(TEST_S_MAX)


def listening_port(address: str) -> int:
    """The port in a multiaddress."""
    return int(address.split("/")[4])


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of loopback."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_leaves_well(tmp_path: Path, number: signal.Signals) -> None:
    with running_node(tmp_path) as (node, address):
        send(node, number)
        assert node.finish(timeout_s=END_S_MAX) == 0, node.stderr
        assert "Traceback" not in node.stderr
    assert is_free(listening_port(address))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trainer_leaves_the_swarm(tmp_path: Path, number: signal.Signals) -> None:
    train = ("train", "digits", "--listen", LOOPBACK, "--steps", "1000000")
    with running(*train, folder=tmp_path) as trainer:
        address = trainer.read_until("--initial-peers").split()[-1]
        trainer.read_until("step 50")
        send(trainer, number)
        assert trainer.finish(timeout_s=END_S_MAX) == 1, trainer.stderr
        assert "stopped at step" in trainer.stdout
        assert "join again" in trainer.stdout
        assert "Traceback" not in trainer.stderr
    assert is_free(listening_port(address))


def marked_processes(mark: str) -> list[psutil.Process]:
    """Every process of this machine that inherited the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        # Others' processes may not be looked at, and some end while we look.
        with contextlib.suppress(psutil.Error):
            if mark in process.environ().values():
                found.append(process)
    return found


def test_no_process_outlives_a_killed_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = secrets.token_hex(16)
    monkeypatch.setitem(ENVIRONMENT, "MANYHANDS_TEST_MARK", mark)
    train = ("train", "digits", "--listen", LOOPBACK, "--steps", "1000000")
    with running(*train, folder=tmp_path) as trainer:
        address = trainer.read_until("--initial-peers").split()[-1]
        trainer.read_until("step 50")
        processes = marked_processes(mark)
        assert trainer.process.pid in [process.pid for process in processes]
        send(trainer, signal.SIGKILL)
        assert trainer.finish(timeout_s=END_S_MAX) == -signal.SIGKILL
        _, alive = psutil.wait_procs(processes, timeout=END_S_MAX)
        assert alive == []
        assert marked_processes(mark) == []
    assert is_free(listening_port(address))


def demo_processes(demo: Command) -> list[psutil.Process]:
    """The node and the trainers of a demo that has begun."""
    demo.read_until(" is there: ")
    children: list[psutil.Process] = psutil.Process(demo.process.pid).children(recursive=True)
    assert len(children) == 4  # a node and three trainers, one of which waits outside
    return children


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    endless = ("--steps", "100000", "--peers", "2")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(temporary))
    with running("demo", *endless, folder=tmp_path / "demo") as demo:
        children = demo_processes(demo)
        send(demo, number)
        assert demo.finish(timeout_s=END_S_MAX) == (1 if number != signal.SIGKILL else -9)
        _, alive = psutil.wait_procs(children, timeout=END_S_MAX)
        assert alive == []
        assert "Traceback" not in demo.stderr
    if number != signal.SIGKILL:  # who is killed so cannot tidy up
        assert list(temporary.iterdir()) == []
        assert "Stopped" in demo.stdout
