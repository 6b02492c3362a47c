"""A js-libp2p peer in a Node.js process, told what to do by JSON lines."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from p2p import PeerId, open_service_nursery
from tests.interop.processes import NODE_MODULES, PIPE, open_process

SCRIPTS = Path(__file__).parent / "js"


class JsError(Exception):
    """The js peer could not do what it was told; the text is its error."""


class JsPeer:
    """Sends commands and matches the answers, which come in any order."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._ids = count()
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self.peer_id = PeerId("")
        self.addresses: tuple[str, ...] = ()

    async def read(self, task_status: trio.TaskStatus[None]) -> None:
        """Read what it says until it ends; started when it has said who it is."""
        assert self._process.stdout is not None
        buffer = b""
        async for part in self._process.stdout:
            *lines, buffer = (buffer + part).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if "id" in answer:
                    self._answers.pop(answer["id"]).send_nowait(answer)
                else:
                    self.peer_id = PeerId(answer["peer"])
                    self.addresses = tuple(answer["addresses"])
                    task_status.started()
        raise JsError("the js peer ended; its stderr says why")

    async def __call__(self, command: str, **options: object) -> Any:
        """Its answer to a command of peer.mjs; raises JsError."""
        number = next(self._ids)
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[number] = send
        line = json.dumps({"id": number, "command": command, **options}) + "\n"
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode())
        answer = await receive.receive()
        if "error" in answer:
            raise JsError(answer["error"])
        return answer["result"]


@asynccontextmanager
async def open_js_peer(
    *listen: str, relay: bool = False, reach: bool = False, inside: Sequence[str] = ()
) -> AsyncIterator[JsPeer]:
    """A js peer that listens on loopback, or where it is told.

    Args:
        reach: ask others to dial it back, and punch holes.
        inside: the beginning of a command line that runs it elsewhere on this machine.
    """
    settings = {"listen": listen or ["/ip4/127.0.0.1/tcp/0"], "relay": relay, "reach": reach}
    with TemporaryDirectory(prefix="manyhands-js-") as name:
        # Node.js looks for packages beside the script, and our scripts lie elsewhere.
        folder = Path(name)
        (folder / "node_modules").symlink_to(NODE_MODULES)
        for script in SCRIPTS.glob("*.mjs"):
            shutil.copy(script, folder)
        command: list[str | Path] = [*inside, "node", folder / "peer.mjs", json.dumps(settings)]
        async with (
            open_process(command, stdin=PIPE, stdout=PIPE) as process,
            open_service_nursery() as nursery,
        ):
            peer = JsPeer(process)
            await nursery.start(peer.read)
            yield peer
