"""A JOIN call that somebody opened to us, from its first WAIT to our last word."""

from __future__ import annotations

from typing import Any, Final

import trio

from averaging.matchmaking import schema
from p2p import RpcCall, StreamBroken, open_service_nursery

_LAST_WORD_TIMEOUT_S: Final = 10.0


class Inbound:
    """What the caller is to hear next: the newest WAIT, or the last word.

    Only the newest WAIT counts, so a member that is slow to read costs no memory.
    """

    def __init__(self) -> None:
        self._wait: schema.Wait | None = None
        self._last_word: schema.FinalMessage | None = None
        self._news = trio.Event()

    def put(self, message: schema.LeaderMessage) -> None:
        """The core has something to say."""
        if isinstance(message, schema.Wait):
            self._wait = message
        else:
            self._last_word = message
        self._news.set()

    async def converse(self, call: RpcCall[Any, Any]) -> None:
        """Send what the core says until the last word.

        Raises:
            StreamBroken: the caller went away.
        """
        async with open_service_nursery() as nursery:
            nursery.start_soon(_raise_when_broken, call)
            while True:
                await self._news.wait()
                if self._last_word is not None:
                    break
                assert self._wait is not None
                self._news = trio.Event()
                await call.send(self._wait)
            with trio.move_on_after(_LAST_WORD_TIMEOUT_S):
                await call.send(self._last_word)


async def _raise_when_broken(call: RpcCall[Any, Any]) -> None:
    await call.wait_broken()
    raise StreamBroken("the member went away")
