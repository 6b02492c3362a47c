"""Messages with their payloads on their way to a stream, and what a relay has to say about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import trio

from p2p import Message, Node, RefusedError, RpcCall
from training.split.traffic import Traffic
from training.split.wire import Payload


@dataclass(frozen=True)
class Frame:
    """One message and the raw bytes behind it."""

    message: Message
    payload: Payload = b""


class Outbox:
    """What waits to be sent over one stream after another."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._filled = trio.Event()
        self._error: Exception | None = None

    def put(self, frame: Frame) -> None:
        """Send this after what waits already."""
        self._frames.append(frame)
        self._filled.set()

    def reset(self, frames: Iterable[Frame]) -> None:
        """A new stream has begun: these are first, and what waited is forgotten."""
        self._frames = deque(frames)
        self._filled.set()

    def end(self, error: Exception) -> None:
        """Nothing more comes: when all that waits is taken, next() raises this."""
        self._error = error
        self._filled.set()

    async def next(self) -> Frame:
        """The next one, as soon as there is any."""
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._filled = trio.Event()
            await self._filled.wait()
        return self._frames.popleft()


async def send_frame(node: Node, call: RpcCall[Any, Any], frame: Frame, traffic: Traffic) -> None:
    """Send one frame, within what a relay between the two allows.

    Raises:
        RefusedError: the relay carries no more; nothing was sent.
        StreamBroken: the stream is lost.
    """
    size_bytes = memoryview(frame.payload).nbytes
    relayed = size_bytes and call.path == "relayed"
    if relayed and not node.relayed_bulk.take(call.peer_id, size_bytes):
        raise RefusedError("no-path", "the relay between us carries no more")
    await call.send(frame.message, frame.payload)
    traffic.payload_bytes_sent += size_bytes
