"""Yamux as a peer with ill intent would write and read it."""

from __future__ import annotations

from p2p.host.yamux import YamuxSession
from p2p.host.yamux_frame import DATA, HEADER, HEADER_BYTES, SYN, WINDOW_UPDATE, frame

Frame = tuple[int, int, int, int]
"""Kind, flags, stream id, length."""

_PATTERN_BYTES = 65_521
_PATTERN = bytes(index * index % 251 for index in range(_PATTERN_BYTES)) * 6


def pattern(start: int, size_bytes: int) -> bytes:
    """What stands at this place of an endless text."""
    offset = start % _PATTERN_BYTES
    assert offset + size_bytes <= len(_PATTERN)
    return _PATTERN[offset : offset + size_bytes]


def wire(*parts: Frame | bytes) -> bytes:
    """Headers of frames, and the data behind them, as bytes."""
    return b"".join(part if isinstance(part, bytes) else frame(*part) for part in parts)


def outgoing(session: YamuxSession) -> bytes:
    """All that a session has to send now."""
    return b"".join(session.next_frames(1 << 40))


def frames_of(data: bytes) -> list[Frame]:
    """The headers in what a session sends, without the data behind them."""
    found = []
    position = 0
    while position < len(data):
        version, kind, flags, stream_id, length = HEADER.unpack_from(data, position)
        assert version == 0
        found.append((kind, flags, stream_id, length))
        position += HEADER_BYTES + (length if kind == DATA else 0)
    return found


def exchange(left: YamuxSession, right: YamuxSession) -> None:
    """Carry bytes both ways until neither has anything to send."""
    while True:
        from_left, from_right = outgoing(left), outgoing(right)
        if not from_left and not from_right:
            return
        right.on_bytes(from_left)
        left.on_bytes(from_right)


def listener() -> YamuxSession:
    """A session whose peer has dialed: it opens odd streams."""
    return YamuxSession(dialer=False)


def opened(session: YamuxSession, stream_id: int = 1) -> int:
    """A stream that the peer has opened, with our acknowledgement taken away."""
    assert session.on_bytes(wire((WINDOW_UPDATE, SYN, stream_id, 0))).opened == [stream_id]
    outgoing(session)
    return stream_id


def pair() -> tuple[YamuxSession, YamuxSession, int]:
    """Two sessions and a stream that the first has opened."""
    near, far = YamuxSession(dialer=True), YamuxSession(dialer=False)
    stream_id = near.open()
    exchange(near, far)
    return near, far, stream_id
