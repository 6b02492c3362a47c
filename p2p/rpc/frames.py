"""FrameReader: takes the frames of a call off its stream, one by one."""

from __future__ import annotations

import trio

from p2p.errors import MessageInvalid, StreamBroken
from p2p.host.stream import Stream
from p2p.rpc import schema


class FrameReader:
    """Reads frames; what a cancelled read has got is kept for the next."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._header = b""
        self._body: bytes | None = None
        self._payload: list[bytes] = []
        self.heard_at_s = trio.current_time()
        """When bytes last came, within a frame too; on trio's clock."""

    async def next_untrusted(
        self, body_bytes_max: int, payload_bytes_max: int
    ) -> tuple[int, bytes, bytes] | None:
        """The next frame as (kind, body, payload), or None at an orderly end.

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
            self.heard_at_s = trio.current_time()
        kind, body_size, payload_size = schema.HEADER.unpack(self._header)
        is_message = kind == schema.MESSAGE
        body_limit = body_bytes_max if is_message else schema.CONTROL_BYTES_MAX
        if body_size > body_limit or payload_size > (payload_bytes_max if is_message else 0):
            raise MessageInvalid(f"frame of {body_size} + {payload_size} bytes is over the limits")
        if self._body is None:
            self._body = await self._stream.receive_exactly(body_size) if body_size else b""
        payload = await self._take_payload(payload_size)
        body = self._body
        self._header, self._body, self._payload = b"", None, []
        return kind, body, payload

    async def _take_payload(self, size_bytes: int) -> bytes:
        # Piece by piece, so that a large payload on a slow path is seen to progress.
        left = size_bytes - sum(len(part) for part in self._payload)
        while left:
            part = await self._stream.receive_some(left)
            if not part:
                raise StreamBroken(f"the stream ended {left} bytes early")
            self._payload.append(part)
            self.heard_at_s = trio.current_time()
            left -= len(part)
        return self._payload[0] if len(self._payload) == 1 else b"".join(self._payload)
