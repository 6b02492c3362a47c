"""FrameReader: takes the frames of a call off its stream, one by one."""

from __future__ import annotations

from collections.abc import Callable

import trio

from p2p.errors import MessageInvalid, StreamBroken
from p2p.host.stream import Filling, Stream
from p2p.rpc import schema

BufferFor = Callable[[bytes, int], memoryview]
"""Given the body of a message and the size of its payload: where the payload goes, exactly."""


_EMPTY = memoryview(b"")


class FrameReader:
    """Reads frames; what a cancelled read has got is kept for the next."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._header = b""
        self._body: bytes | None = None
        self._payload: Filling | None = None
        self._heard_at_s = trio.current_time()

    @property
    def heard_at_s(self) -> float:
        """When bytes last came, within a frame too; on trio's clock."""
        return max(self._heard_at_s, self._payload.heard_at_s if self._payload else 0.0)

    async def next_untrusted(
        self, body_bytes_max: int, payload_bytes_max: int
    ) -> tuple[int, bytes, bytes] | None:
        """The next frame as (kind, body, payload), or None at an orderly end.

        Raises:
            MessageInvalid, StreamBroken: as next_into_untrusted() does.
        """
        received = await self.next_into_untrusted(body_bytes_max, payload_bytes_max, _new_buffer)
        if received is None:
            return None
        kind, body, payload = received
        # What was made for a payload is nobody else's.
        return kind, body, bytes(payload) if payload else b""

    async def next_into_untrusted(
        self, body_bytes_max: int, payload_bytes_max: int, buffer_for: BufferFor
    ) -> tuple[int, bytes, memoryview] | None:
        """The same, with the payload in a buffer of the caller's.

        Raises:
            MessageInvalid: over the limits (nothing is allocated for it).
            StreamBroken: lost, or ended within a frame.
        """
        while (missing := schema.HEADER.size - len(self._header)) > 0:
            part = await self._stream.receive_some(missing)
            if not part:
                if self._header:
                    raise StreamBroken("the stream ended within a frame")
                return None
            self._header += part
            self._heard_at_s = trio.current_time()
        kind, body_size, payload_size = schema.HEADER.unpack(self._header)
        is_message = kind == schema.MESSAGE
        body_limit = body_bytes_max if is_message else schema.CONTROL_BYTES_MAX
        if body_size > body_limit or payload_size > (payload_bytes_max if is_message else 0):
            raise MessageInvalid(f"frame of {body_size} + {payload_size} bytes is over the limits")
        if self._body is None:
            self._body = await self._stream.receive_exactly(body_size) if body_size else b""
        payload = _EMPTY
        if payload_size:
            if self._payload is None:
                self._payload = Filling(buffer_for(self._body, payload_size))
            payload = self._payload.buffer
            assert len(payload) == payload_size
            await self._stream.fill(self._payload)
            self._heard_at_s = self._payload.heard_at_s
        body = self._body
        self._header, self._body, self._payload = b"", None, None
        return kind, body, payload


def _new_buffer(body: bytes, size_bytes: int) -> memoryview:
    return memoryview(bytearray(size_bytes))
