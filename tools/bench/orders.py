"""The process's own end of its pipe: orders come in and answers go out, a line of JSON each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio


class Orders:
    """What the parent says; made first of all in a process, since it takes stdin and stdout."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        # What a library prints must not pass for an answer.
        os.dup2(2, 1)
        self._come = b""

    def next(self) -> dict[str, Any] | None:
        """The next order; None when the parent is gone."""
        while b"\n" not in self._come:
            if not self._read():
                return None
        return self._take()

    async def wait(self) -> dict[str, Any] | None:
        """The next order, in a trio program."""
        while b"\n" not in self._come:
            # No thread: one that waits would hold up the process's end.
            await trio.lowlevel.wait_readable(self._in)
            if not self._read():
                return None
        return self._take()

    def _read(self) -> bool:
        part = os.read(self._in, 65_536)
        self._come += part
        return bool(part)

    def _take(self) -> dict[str, Any]:
        line, _, self._come = self._come.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order

    def answer(self, result: dict[str, Any]) -> None:
        """Answer an order."""
        data = memoryview(json.dumps(result).encode() + b"\n")
        while data:
            data = data[os.write(self._out, data) :]


@contextmanager
def errors_told(orders: Orders) -> Iterator[None]:
    """An error of what the process does is an answer, too, and ends it."""
    try:
        yield
    except Exception as exc:
        orders.answer({"error": reason(exc)})
        raise


def reason(error: BaseException) -> str:
    """An error in one line, groups by what is in them."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(reason(part) for part in error.exceptions))
    return f"{type(error).__name__}: {error}"
