"""The processes of a benchmark, each asked by lines of JSON and gone when the block ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANSWER_S_MAX = 120.0
"""An order takes seconds; who is silent for so long hangs."""


class RivalFailed(Exception):
    """A process of a rival ended early, hung, or said what went wrong; the text is the reason."""


class Worker:
    """One process: a rival's server or client."""

    def __init__(self, rival: str, role: str) -> None:
        self._name = f"{rival} {role}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.bench.worker", rival, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for its answer; raises RivalFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words, if any, say why
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer; raises RivalFailed."""
        assert self._process.stdout is not None
        hung = threading.Timer(ANSWER_S_MAX, self._process.kill)
        hung.start()
        try:
            line = self._process.stdout.readline()
        finally:
            hung.cancel()
        if not line:
            raise RivalFailed(f"{self._name} ended, or hung for {ANSWER_S_MAX:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RivalFailed(f"{self._name}: {answer['error']}")
        return answer

    def end(self) -> None:
        """Kill it, whatever it does."""
        self._process.kill()
        self._process.communicate()


class Pair:
    """A server and a client of one rival."""

    def __init__(self, rival: str) -> None:
        self.server = Worker(rival, "server")
        try:
            self.client = Worker(rival, "client")
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
