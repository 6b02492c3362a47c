"""The processes of a benchmark, each asked by lines of JSON and gone when the block ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tools

ANSWER_S_MAX = 120.0
"""An order of the default size takes seconds; who is silent for so long hangs."""
# Its stdout is closed; the rest of its end takes no longer.
_FAREWELL_S_MAX = 10.0
# `python -m tools…` finds ours first when it starts where our packages are.
PACKAGES_FOLDER = Path(tools.__file__).resolve().parent.parent


class RivalFailed(Exception):
    """A process of a rival ended early, hung, or said what went wrong; the text is the reason."""


class Worker:
    """One process that takes orders and answers each."""

    def __init__(self, name: str, module: str, *arguments: str, python: str | None = None) -> None:
        """Run a module of ours; another Python runs its file, and finds none of our packages."""
        self._name = name
        command = [sys.executable, "-m", module]
        if python is not None:
            file = PACKAGES_FOLDER.joinpath(*module.split(".")).with_suffix(".py")
            command = [python, "-I", str(file)]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - end() closes it
        self._process = subprocess.Popen(
            [*command, *arguments],
            # Its end tells the process that we are gone.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            cwd=PACKAGES_FOLDER,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            # Ctrl-C on the terminal is for us, who kill it.
            start_new_session=True,
        )

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; who has ended gets none."""
        self._process.send_signal(number)

    def tell(self, **order: Any) -> None:
        """Give an order; whoever is gone hears nothing, and its answer says why."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def answer(self, *, timeout_s: float = ANSWER_S_MAX) -> dict[str, Any]:
        """The next answer; raises RivalFailed."""
        assert self._process.stdout is not None
        silent = threading.Event()

        def give_up() -> None:
            silent.set()
            self._kill()

        patience = threading.Timer(timeout_s, give_up)
        patience.start()
        try:
            line = self._process.stdout.readline()
        finally:
            patience.cancel()
        if not line:
            raise RivalFailed(f"{self._name} {self._end(timeout_s if silent.is_set() else None)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RivalFailed(f"{self._name}: {answer['error']}")
        return answer

    def ask(self, *, timeout_s: float = ANSWER_S_MAX, **order: Any) -> dict[str, Any]:
        """Give an order and wait for its answer; raises RivalFailed."""
        self.tell(**order)
        return self.answer(timeout_s=timeout_s)

    def hang_up(self) -> None:
        """Give no more orders: the process ends, whatever it does."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, *, timeout_s: float) -> None:
        """Until it has ended by itself; raises TimeoutExpired."""
        self._process.wait(timeout=timeout_s)

    def end(self) -> None:
        """Kill it, whatever it does, and the processes that a library has started in it."""
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            assert pipe is not None
            # It may not have read all that was said to it.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _kill(self) -> None:
        """All of its group: what a library has started in it holds its pipes, too."""
        # The group is there as long as one of them is, but not for ever.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self, silent_s: float | None) -> str:
        """How it ended, with its last words if it had any."""
        if silent_s is not None:
            how = f"was silent for {silent_s:.0f} s"
        else:
            how = f"ended with exit code {self._process.wait(timeout=_FAREWELL_S_MAX)}"
        self._stderr.seek(0)
        words = self._stderr.read().decode("utf-8", errors="replace").strip().splitlines()
        return f"{how}: {words[-1]}" if words else how


class Pair:
    """A server and a client of one rival."""

    def __init__(self, rival: str) -> None:
        self.server = _worker(rival, "server")
        try:
            self.client = _worker(rival, "client")
        except BaseException:
            self.server.end()
            raise

    def meet(self) -> None:
        """Tell the client where the server is; raises RivalFailed."""
        self.client.ask(address=self.server.answer()["address"])

    def end(self) -> None:
        """Kill both."""
        self.client.end()
        self.server.end()


@contextmanager
def open_pair(rival: str) -> Iterator[Pair]:
    """Both processes, connected to nothing yet; they are gone when the block ends.

    Raises:
        RivalFailed: one of them did not come up.
    """
    pair = Pair(rival)
    try:
        pair.meet()
        yield pair
    finally:
        pair.end()


def _worker(rival: str, role: str) -> Worker:
    return Worker(f"{rival} {role}", "tools.bench.worker", rival, role)
