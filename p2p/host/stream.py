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


class Intake(Protocol):
    """Takes the bytes of a stream where they come in, before the stream's user runs again."""

    @property
    def left_bytes(self) -> int:
        """How many bytes it wants in a row now; 0: none, what comes waits in the stream."""

    @property
    def ready(self) -> bool:
        """Whether it has what its user waits for."""

    @property
    def reads_ahead(self) -> bool:
        """Whether it goes on while its user is busy with what it had."""

    def room(self, size_bytes: int) -> memoryview:
        """Where the next bytes go: so many, or left_bytes if those are fewer."""

    def on_filled(self, size_bytes: int, now_s: float) -> bool:
        """So many bytes are in; whether there is something for its user now.

        Args:
            now_s: on trio's clock.
        """

    def on_end(self) -> None:
        """No more will come; raises StreamBroken if that is too early."""


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
    async def fill(self, intake: Intake) -> None:
        """Receive until the intake is ready; raises StreamBroken when the other side ends before.

        Bytes go straight into it, without waking the caller for each. A cancelled call leaves in
        it what has come; the next one goes on there. One that reads ahead stays with the stream,
        and nothing else may receive from that.
        """

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
