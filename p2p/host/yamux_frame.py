"""The frames of yamux, and what a peer may not do with them (core).

Source: hashicorp/yamux specification, version 0.
Each frame: version 0, type, flags (2), stream id (4), length (4), big-endian; data follows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

HEADER = struct.Struct(">BBHII")
HEADER_BYTES = HEADER.size
DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8

STREAM_ID_END = 2**32
# Peers may open streams a little out of order, but no id twice: so far back, we remember them.
_REMEMBERED_IDS = 4_096


class YamuxViolation(Exception):
    """The peer broke the rules of yamux; the connection cannot go on."""


def frame(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The header of a frame; for DATA so many bytes follow, else length is the value."""
    return HEADER.pack(0, kind, flags, stream_id, length)


@dataclass
class Received:
    """What a piece of input led to."""

    opened: list[int] = field(default_factory=list)
    touched: dict[int, None] = field(default_factory=dict)
    """Streams with news for their users: data, the end, or a reset."""
    reset: list[int] = field(default_factory=list)
    """Streams that ended without order; they are among the touched."""
    frames: int = 0


class FrameReader:
    """Cuts the bytes of the peer into headers and pieces of data, wherever they were split."""

    def __init__(self) -> None:
        self._header = bytearray()
        self.data_left_bytes = 0
        """How much of a frame's data is still to come."""
        self.data_stream_id = 0
        """Whose data that is."""
        self._data_flags = 0

    def read(self, data: bytes) -> Iterator[tuple[int, int, int, int, bytes | None]]:
        """Each header as (kind, flags, stream id, length, None), then its data in pieces.

        A piece has the kind DATA, its stream id and size; the last of a frame has the flags.
        """
        position = 0
        end = len(data)
        while position < end:
            if self.data_left_bytes:
                size = min(self.data_left_bytes, end - position)
                flags = self.skip(size)
                piece = data[position : position + size]
                position += size
                yield DATA, flags, self.data_stream_id, size, piece
                continue
            if self._header or end - position < HEADER_BYTES:
                size = min(HEADER_BYTES - len(self._header), end - position)
                self._header += data[position : position + size]
                position += size
                if len(self._header) < HEADER_BYTES:
                    return
                version, kind, flags, stream_id, length = HEADER.unpack(self._header)
                self._header.clear()
            else:
                version, kind, flags, stream_id, length = HEADER.unpack_from(data, position)
                position += HEADER_BYTES
            if version != 0:
                raise YamuxViolation(f"version {version}")
            if kind == DATA:
                self.data_left_bytes = length
                self.data_stream_id, self._data_flags = stream_id, flags
            yield kind, flags, stream_id, length, None

    def skip(self, size_bytes: int) -> int:
        """So much data of a frame has come another way; the flags of the frame if that was all."""
        self.data_left_bytes -= size_bytes
        return 0 if self.data_left_bytes else self._data_flags


class RemoteIds:
    """The stream ids that the peer has used: each once, and only of its own parity."""

    def __init__(self, *, parity: int) -> None:
        self._parity = parity
        self._highest = 0
        self._recent: dict[int, None] = {}

    def on_opened(self, stream_id: int) -> None:
        """The peer opens a stream; raises YamuxViolation if it may not have this id."""
        oldest = max(0, self._highest - _REMEMBERED_IDS)
        if stream_id % 2 != self._parity or stream_id <= oldest or stream_id in self._recent:
            raise YamuxViolation(f"stream {stream_id} cannot be opened by the peer")
        self._recent[stream_id] = None
        self._highest = max(self._highest, stream_id)
        if len(self._recent) > _REMEMBERED_IDS:
            oldest = self._highest - _REMEMBERED_IDS
            self._recent = dict.fromkeys(known for known in self._recent if known > oldest)
