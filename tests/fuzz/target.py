"""What a fuzz target is, and what targets read their bytes with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that eats bytes of strangers; whatever it raises is a defect."""

    name: str
    run: Callable[[bytes], None]
    """Must return for any bytes at all: it swallows the errors that are allowed."""
    seeds: Sequence[bytes]
    """Real inputs, which both searches vary; each must pass."""
    covers: tuple[str, ...] = ()
    """The functions of ours that take these bytes, as module.function."""
    size_bytes_max: int = 4096
    """Longer inputs are not tried."""


class Choices:
    """Bytes as a series of decisions; when they are used up, all that follow are zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> bool:
        """Whether anything is left to decide."""
        return self._position < len(self._data)

    def number(self, below: int) -> int:
        """A number from zero on; of two bytes if one does not reach."""
        return int.from_bytes(self.bytes(1 if below <= 256 else 2), "big") % below

    def pick(self, options: Sequence[T]) -> T:
        """One of several."""
        return options[self.number(len(options))]

    def bytes(self, size_bytes: int) -> bytes:
        """So many bytes, or what is left."""
        taken = self._data[self._position : self._position + size_bytes]
        self._position += size_bytes
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.bytes(max(0, len(self._data) - self._position))


class EndOfInput(Exception):
    """A target's bytes are used up, as when a stranger hangs up."""


class InputStream:
    """A byte stream whose other side says what is given here and then hangs up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.sent = bytearray()

    async def send_all(self, data: bytes) -> None:
        """Keep what we say."""
        self.sent += data

    async def receive_exactly(self, size_bytes: int) -> bytes:
        """The next bytes, or EndOfInput."""
        end = self._position + size_bytes
        if end > len(self._data):
            raise EndOfInput
        part = self._data[self._position : end]
        self._position = end
        return part


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has no reason to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("it waits, though all its bytes are there")
