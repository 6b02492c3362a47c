"""The demo's processes: started, watched by their event logs, and gone when the block is left."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import tools

logger = logging.getLogger(__name__)

# `python -m tools.cli` finds ours first when it starts where our packages are.
PACKAGES_FOLDER = Path(tools.__file__).resolve().parent.parent
FAREWELL_S = 8.0  # a trainer's own farewell is bounded by about as much
LOG_TAIL_LINES = 3


class Child:
    """One `manyhands` command in a process of its own, with a log and perhaps an event log."""

    def __init__(self, name: str, process: trio.Process, folder: Path) -> None:
        self.name = name
        self.process = process
        self.log_path = folder / f"{name}.log"
        self.events_path = events_path(folder, name)
        self.ended = False
        self._offset = 0

    def new_events(self) -> list[dict[str, Any]]:
        """The events written since the last call; a line cut off by a kill is left out."""
        try:
            with self.events_path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = content.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()]

    def last_words(self) -> str:
        """The end of its log, for when it failed."""
        try:
            lines = self.log_path.read_text("utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " ".join(lines[-LOG_TAIL_LINES:])

    async def tell(self) -> None:
        """Write a line to it; a process that has ended meanwhile hears nothing."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(b"\n")
        except trio.BrokenResourceError:
            logger.info("child_gone name=%s", self.name)

    def kill(self) -> None:
        """SIGKILL: no farewell."""
        self.process.kill()


def events_path(folder: Path, name: str) -> Path:
    """Where a child writes its events."""
    return folder / f"{name}.jsonl"


class Children:
    """The demo's processes by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_name: dict[str, Child] = {}

    async def start(
        self, name: str, arguments: Sequence[str], *, stdout: int = subprocess.DEVNULL
    ) -> Child:
        """Start `manyhands` with these arguments; its stderr becomes its log."""
        command = [sys.executable, "-m", "tools.cli", *arguments, "--verbose", "--stop-with-stdin"]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await trio.lowlevel.open_process(
                command,
                # Its end tells the child that we are gone.
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=log,
                cwd=PACKAGES_FOLDER,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                # Ctrl-C on the terminal is for us; the children hear of it from us, once.
                start_new_session=True,
            )
        child = Child(name, process, self.folder)
        self.by_name[name] = child
        return child


@asynccontextmanager
async def open_children(folder: Path) -> AsyncIterator[Children]:
    """Processes that all have ended when the block is left, whatever happens in it."""
    children = Children(folder)
    try:
        yield children
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for child in children.by_name.values():
                    nursery.start_soon(_end, child)


async def _end(child: Child) -> None:
    """Ask a process to leave, and kill it if it does not in time."""
    process = child.process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    with trio.move_on_after(FAREWELL_S) as waited:
        await process.wait()
    if waited.cancelled_caught:
        process.kill()
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            await pipe.aclose()
