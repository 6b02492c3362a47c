"""RpcCall: one streaming call, the same at both ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

import trio

from p2p.errors import MessageInvalid, RefusedError, RemoteError
from p2p.host.stream import Path, Stream
from p2p.peer_id import PeerId
from p2p.rpc import schema
from p2p.rpc.frames import FrameReader
from p2p.wire import Message, decode_untrusted, encode

Sent = TypeVar("Sent")
Received = TypeVar("Received")

# A payload above this goes out in a call of its own, since joining would copy it.
_JOIN_BYTES_MAX = 16_384


class RpcCall(Generic[Sent, Received]):
    """Messages with optional raw payloads, both ways, until each side has finished.

    One task may send while another receives; two tasks must not send at once.
    """

    def __init__(
        self,
        stream: Stream,
        received_type: Any,
        *,
        sent_bytes_max: int,
        received_bytes_max: int,
        payload_bytes_max: int,
        frames: FrameReader | None = None,
    ) -> None:
        self._stream = stream
        self._frames = frames or FrameReader(stream)
        self._received_type = received_type
        self._sent_bytes_max = sent_bytes_max
        self._received_bytes_max = received_bytes_max
        self._payload_bytes_max = payload_bytes_max
        self.request: Any = None
        """At the callee: the message that opened the call."""
        self.request_payload: bytes = b""
        """At the callee: the raw bytes behind it."""

    @property
    def peer_id(self) -> PeerId:
        """The proven id of the other side."""
        return self._stream.peer_id

    @property
    def path(self) -> Path:
        """How the call travels: direct, punched or relayed."""
        return self._stream.path

    @property
    def heard_at_s(self) -> float:
        """When bytes last came from the other side, on trio's clock; reading is what hears them."""
        return self._frames.heard_at_s

    async def send(self, message: Message, payload: bytes | bytearray | memoryview = b"") -> None:
        """Send one message; returns when it is handed to the connection, which may push back."""
        body = encode(message)
        size_bytes = memoryview(payload).nbytes
        if len(body) > self._sent_bytes_max or size_bytes > self._payload_bytes_max:
            raise ValueError(
                f"{type(message).__name__} of {len(body)} + {size_bytes} bytes is over the "
                f"method's limits of {self._sent_bytes_max} + {self._payload_bytes_max}"
            )
        head = schema.frame(schema.MESSAGE, body, size_bytes)
        if size_bytes <= _JOIN_BYTES_MAX:
            await self._stream.send_all(head + bytes(payload) if size_bytes else head)
        else:
            await self._stream.send_all(head)
            try:
                await self._stream.send_all(memoryview(payload))
            except trio.Cancelled:
                # The message's head is out, so nothing else can follow.
                self._stream.reset()
                raise

    async def receive(self) -> tuple[Received, bytes] | None:
        """The next message and its payload; None when the other side has finished.

        A cancelled call loses nothing: the next one goes on where it stopped.

        Raises:
            RefusedError: the callee said no.
            RemoteError: the callee failed, or sent what is no message (MessageInvalid).
            StreamBroken: reset or connection lost.
        """
        received = await self._frames.next_untrusted(
            self._received_bytes_max, self._payload_bytes_max
        )
        if received is None:
            return None
        kind, body, payload = received
        if kind == schema.MESSAGE:
            return self._decoded(body), payload
        raise_control_untrusted(kind, body)

    async def receive_into(
        self, buffer_for: Callable[[Received, int], memoryview], *, ahead: bool = False
    ) -> tuple[Received, memoryview] | None:
        """As receive(), with payloads in the caller's memory: large ones are copied once less.

        Args:
            buffer_for: given a message and the size of its payload, which is not 0, the buffer of
                exactly that size that it goes to; what it raises ends the call.
            ahead: also take in what comes while the caller is busy with this message. The buffers
                of the next two are asked for then, before the caller has seen them.
        """

        def buffer_of(body: bytes, size_bytes: int) -> tuple[memoryview, Received]:
            message = self._decoded(body)
            return buffer_for(message, size_bytes), message

        frame = await self._frames.next_into_untrusted(
            self._received_bytes_max, self._payload_bytes_max, buffer_of, ahead=ahead
        )
        if frame is None:
            return None
        if frame.kind != schema.MESSAGE:
            raise_control_untrusted(frame.kind, frame.body)
        return self._decoded(frame.body) if frame.read is None else frame.read, frame.payload

    def _decoded(self, body: bytes) -> Received:
        message: Received = decode_untrusted(
            body, self._received_type, size_bytes_max=self._received_bytes_max
        )
        return message

    async def finish_sending(self) -> None:
        """Tell the other side that no more messages come."""
        await self._stream.send_eof()

    async def wait_broken(self) -> None:
        """Return when the call was reset or its connection lost."""
        await self._stream.wait_broken()


def raise_control_untrusted(kind: int, body: bytes) -> NoReturn:
    """Raise what a REFUSED or FAILED frame says; anything else is MessageInvalid."""
    if kind == schema.REFUSED:
        refusal = decode_untrusted(body, schema.Refusal, size_bytes_max=schema.CONTROL_BYTES_MAX)
        raise RefusedError(refusal.code, refusal.message)
    if kind == schema.FAILED:
        failure = decode_untrusted(body, schema.Failure, size_bytes_max=schema.CONTROL_BYTES_MAX)
        raise RemoteError(f"the peer failed while serving the call: {failure.message}")
    raise MessageInvalid(f"frame of unexpected kind {kind}")
