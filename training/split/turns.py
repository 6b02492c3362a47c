"""Who trains now, where one set of client weights goes round, and who keeps the newest (core)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """Where the newest client weights can be had."""

    version: int
    keeper: str
    """A peer id; empty before anybody has trained."""
    digest: bytes
    addresses: tuple[str, ...]


class Turns(Generic[T]):
    """Gives one client after another a turn, first come, first served.

    A client that is lost in its turn has trained for nothing at its side: the next one begins with
    the weights from before.

    Args:
        T: a client.
    """

    def __init__(self) -> None:
        self.kept = Kept(0, "", b"", ())
        self.holder: T | None = None
        """Whose turn it is."""
        self._waiting: deque[T] = deque()
        self._keeper: T | None = None
        self._taken_over = False

    def on_ask(self, client: T) -> bool:
        """A client wants a turn; whether it has it now."""
        if client == self.holder or client in self._waiting:
            return False
        self._waiting.append(client)
        return self._advance() == client

    def on_end(self, client: T, kept: Kept) -> T | None:
        """The holder's turn is over; returns whose turn it is now, if anybody waits."""
        assert client == self.holder
        assert kept.version == self.kept.version + 1
        self.kept = kept
        self.holder = None
        self._keeper, self._taken_over = client, False
        return self._advance()

    def on_work(self, client: T) -> None:
        """The holder does something, so it has the newest weights."""
        assert client == self.holder
        if client != self._keeper:
            self._taken_over = True

    def may_leave(self, client: T, *, others: bool) -> bool:
        """Whether the newest weights are not lost with this client.

        Args:
            others: whether any other client is there.
        """
        return client != self._keeper or self._taken_over or not others

    def on_gone(self, client: T) -> T | None:
        """A client is gone; returns whose turn it is now if that changed."""
        if client in self._waiting:
            self._waiting.remove(client)
        if client != self.holder:
            return None
        self.holder = None
        return self._advance()

    def _advance(self) -> T | None:
        if self.holder is None and self._waiting:
            self.holder = self._waiting.popleft()
            return self.holder
        return None
