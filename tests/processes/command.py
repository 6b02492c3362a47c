"""Run the real command in a process of its own, as a user does."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent
# A busy machine is not a failure: PyTorch alone takes seconds to load.
WAIT_S_MAX = 120.0
TEST_S_MAX = 180.0
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}


class Command:
    """A running `manyhands`; all that it says is kept."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._errors = (folder / "stderr").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.cli", *arguments],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self._said: list[str] = []

    def read_until(self, text: str) -> str:
        """The first line of stdout with this text in it, as soon as it is there."""
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode().rstrip("\n")
            self._said.append(line)
            if text in line:
                return line
        raise AssertionError(f"never said {text!r}: {self._said}\n{self.stderr}")

    def finish(self, *, timeout_s: float = WAIT_S_MAX) -> int:
        """Wait for its end; returns the exit code."""
        out, _ = self.process.communicate(timeout=timeout_s)
        self._said += out.decode().splitlines()
        return self.process.returncode

    @property
    def stdout(self) -> str:
        """What it has said."""
        return "\n".join(self._said)

    @property
    def stderr(self) -> str:
        """What it has said beside."""
        return (self.folder / "stderr").read_text("utf-8")

    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        (line,) = self._said
        content = json.loads(line)
        assert isinstance(content, dict)
        return content

    def close(self) -> None:
        """Leave nothing of it behind, whatever the test did."""
        if self.process.poll() is None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True)]:
                process.kill()
            self.process.kill()
        self.process.communicate(timeout=WAIT_S_MAX)
        self._errors.close()


@contextmanager
def running(*arguments: str, folder: Path) -> Iterator[Command]:
    """A command that is gone when the block is left."""
    command = Command(arguments, folder)
    try:
        yield command
    finally:
        command.close()


@contextmanager
def running_node(folder: Path, *arguments: str) -> Iterator[tuple[Command, str]]:
    """A bootstrap node on loopback that is ready, and its address."""
    key = str(folder / "node.key")
    options = ("--listen", LOOPBACK, "--identity", key, "--json", *arguments)
    with running("node", *options, folder=folder / "node") as command:
        address = json.loads(command.read_until("peer_id"))["addresses"][0]
        yield command, address


def send(command: Command, number: signal.Signals) -> None:
    """Send a signal to the command alone, as `kill` does."""
    command.process.send_signal(number)
