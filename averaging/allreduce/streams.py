"""What a session keeps of its pieces and streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from averaging.allreduce.bell import Bell
from averaging.allreduce.partition import Piece
from averaging.allreduce.reduction import Reduction
from averaging.allreduce.schema import PieceEnd
from averaging.codecs.floating import Payload
from p2p import PeerId

# A vote, plans, or a certificate and its repetitions; whoever misses one asks.
_OUTBOX_MAX: Final = 16


@dataclass
class Incoming:
    """A piece on its way to us: its first chunks and their digests."""

    in_place: bool = False
    """Whether chunks go to their places in the result, where only the first owner's may."""
    begun: int = 0
    """How many chunks of it have such a place."""
    chunks: list[Payload] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class HeldPiece:
    """A whole piece, verified."""

    end: PieceEnd
    chunks: tuple[Payload, ...]


@dataclass(eq=False)
class Work:
    """A piece that is ours to average."""

    piece: Piece
    plan: int
    """Number of the plan that made it ours; 0 for the group."""
    reduction: Reduction[PeerId]
    chunks: list[Payload] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    lost: list[tuple[int, Any]] = field(default_factory=list)
    """What the codec of results lost of each chunk, by its first element."""


class Outbox:
    """Small messages for one stream, sent between the large ones."""

    def __init__(self) -> None:
        self.bell = Bell()
        self._messages: deque[Any] = deque(maxlen=_OUTBOX_MAX)

    def put(self, message: Any) -> None:
        """Send this soon; the oldest is dropped when too many wait."""
        self._messages.append(message)
        self.bell.ring()

    def pop(self) -> Any | None:
        """The next message, or None."""
        return self._messages.popleft() if self._messages else None


class Busy:
    """In how many seconds at least one of several tasks was at work."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._tasks = 0
        self._since_s = 0.0

    @contextmanager
    def task(self) -> Iterator[None]:
        """A task is at work while the block lasts."""
        if not self._tasks:
            self._since_s = trio.current_time()
        self._tasks += 1
        try:
            yield
        finally:
            self._tasks -= 1
            if not self._tasks:
                self.seconds += trio.current_time() - self._since_s


@dataclass
class Uplink:
    """Our stream to one aggregator."""

    pieces: deque[Piece]
    """Whose parts are still to be sent."""
    outbox: Outbox = field(default_factory=Outbox)
    wanted: bool = True
    """False once the aggregator told us to send no more."""


@dataclass
class Link:
    """A member's stream to us as an aggregator."""

    outbox: Outbox = field(default_factory=Outbox)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    listening_since_s: float | None = 0.0
    """None while the member has to wait, and so cannot be silent."""
