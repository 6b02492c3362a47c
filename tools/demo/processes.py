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
from tools.failures import CommandError

logger = logging.getLogger(__name__)

# `python -m tools.cli` finds ours first when it starts where our packages are.
PACKAGES_FOLDER = Path(tools.__file__).resolve().parent.parent
FAREWELL_S = 8.0  # a trainer's own farewell is bounded by about as much
LOG_TAIL_LINES = 3
NODE_START_S_MAX = 60.0
READY_LINE_BYTES_MAX = 65536


class Child:
    """One `manyhands` command in a process of its own, with a log and perhaps an event log."""

    def __init__(self, name: str, process: trio.Process, folder: Path) -> None:
        self.name = name
        self.process = process
        self.log_path = folder / f"{name}.log"
        self.events_path = events_path(folder, name)
        self.ended = False
        self.was_killed = False
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

    async def tell(self, line: str = "") -> None:
        """Write a line to it; a process that has ended meanwhile hears nothing."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(f"{line}\n".encode())
        except trio.BrokenResourceError:
            logger.info("child_gone name=%s", self.name)

    def kill(self) -> None:
        """SIGKILL: no farewell."""
        self.was_killed = True
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
        self,
        name: str,
        arguments: Sequence[str],
        *,
        stdout: int = subprocess.DEVNULL,
        inside: Sequence[str] = (),
    ) -> Child:
        """Start `manyhands` with these arguments; its stderr becomes its log.

        Args:
            inside: a command that runs it elsewhere, such as in a network namespace.
        """
        command = ["tools.cli", *arguments, "--verbose", "--stop-with-stdin"]
        return await self.start_module(name, command, stdout=stdout, inside=inside)

    async def start_module(
        self,
        name: str,
        command: Sequence[str],
        *,
        stdout: int = subprocess.DEVNULL,
        inside: Sequence[str] = (),
    ) -> Child:
        """Start a module of Python, the first of the command, in the same way."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await trio.lowlevel.open_process(
                [*inside, sys.executable, "-m", *command],
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


async def start_node(
    children: Children, name: str, arguments: Sequence[str], *, inside: Sequence[str] = ()
) -> list[str]:
    """Start a bootstrap node and return its addresses, the first for those farthest away.

    Raises:
        CommandError: it ended, or said nothing in time.
    """
    key = str(children.folder / f"{name}.key")
    child = await children.start(
        name,
        ["node", *arguments, "--identity", key, "--json"],
        stdout=subprocess.PIPE,
        inside=inside,
    )
    assert child.process.stdout is not None
    line = b""
    with trio.move_on_after(NODE_START_S_MAX):
        while not line.endswith(b"\n") and len(line) < READY_LINE_BYTES_MAX:
            piece = await child.process.stdout.receive_some(READY_LINE_BYTES_MAX)
            if not piece:
                break
            line += piece
    said: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
    if "addresses" not in said:
        cause = said.get("error") or child.last_words() or "it said nothing"
        raise CommandError(
            f"The bootstrap node did not start: {cause}",
            next_step="Try it alone: manyhands node --verbose",
        )
    return [str(address) for address in said["addresses"]]


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
