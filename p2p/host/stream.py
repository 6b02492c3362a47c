"""Stream: the small interface that everything above the host speaks through."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

import trio

from p2p.peer_id import PeerId

Path = Literal["direct", "punched", "relayed"]
"""How the bytes of a connection travel."""


class Stream(trio.abc.HalfCloseableStream):
    """A two-way byte stream to a proven peer, one of many on a connection.

    A cancelled send leaves the stream unusable (half a message may be out), so it is reset;
    a cancelled receive loses nothing. Neither touches other streams. What the peer had sent in
    full, its end included, stays readable when it resets the stream afterwards.

    Raises, from every method that moves bytes:
        StreamBroken: the stream was reset by either side, or its connection was lost.
        RefusedError: on the first receive, when the peer does not serve the protocol.
    """

    peer_id: PeerId
    protocol: str
    path: Path
    address: str
    """The other end's address, as the connection's socket sees it."""

    @abstractmethod
    async def receive_exactly(self, size_bytes: int) -> bytes:
        """Exactly so many bytes; raises StreamBroken when the other side ends before."""

    @abstractmethod
    async def receive_into(self, out: memoryview) -> int:
        """Some bytes into the buffer, which is not empty; how many, 0 when the other side ended."""

    @abstractmethod
    def reset(self) -> None:
        """Abort now: both sides see StreamBroken. Harmless when repeated or after closing."""

    @abstractmethod
    def cancelling_when_broken(self) -> AbstractContextManager[trio.CancelScope]:
        """A scope that is cancelled when wait_broken() would return: cheaper than a task for it."""

    @abstractmethod
    async def wait_broken(self) -> None:
        """Wait until the stream is reset or its connection lost; an orderly end does not count."""


class StreamHandler(Protocol):
    """Serves one inbound stream; whatever it raises resets that stream and nothing else."""

    async def __call__(self, stream: Stream) -> None:
        """Serve the stream until it is done; the stream is closed afterwards."""


class BreakScopes:
    """The cancel scopes that end when a stream breaks."""

    def __init__(self) -> None:
        self._scopes: list[trio.CancelScope] = []
        self._broken = False

    @contextmanager
    def open(self) -> Iterator[trio.CancelScope]:
        """A scope that is cancelled by cancel(), at once if that was called before."""
        scope = trio.CancelScope()
        self._scopes.append(scope)
        if self._broken:
            scope.cancel()
        try:
            with scope:
                yield scope
        finally:
            self._scopes.remove(scope)

    def cancel(self) -> None:
        """The stream has broken."""
        self._broken = True
        for scope in self._scopes:
            scope.cancel()
