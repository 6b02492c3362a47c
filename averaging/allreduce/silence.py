"""How a silent member is told from a slow one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

from averaging.second_look import second_look_s
from p2p import PeerId, RpcCall

Call = RpcCall[Any, Any]

_TICK_S: Final = 0.25


class OpenCalls:
    """The calls with each member, all of which show that it lives.

    On a slow link what one call says may wait for seconds behind the bulk of another.
    """

    def __init__(self) -> None:
        self._calls: dict[PeerId, list[Call]] = {}
        self._heard_at_s: dict[PeerId, float] = {}

    @contextmanager
    def holding(self, call: Call) -> Iterator[None]:
        """A call counts while the block lasts."""
        calls = self._calls.setdefault(call.peer_id, [])
        calls.append(call)
        try:
            yield
        finally:
            self._heard_at_s[call.peer_id] = self.heard_at_s(call.peer_id)
            calls.remove(call)

    def heard_at_s(self, peer: PeerId) -> float:
        """When bytes last came from a member, on trio's clock."""
        times_s = (call.heard_at_s for call in self._calls.get(peer, ()))
        return max(self._heard_at_s.get(peer, 0.0), *times_s, 0.0)


def _always() -> float:
    return float("-inf")


async def wait_silent(
    calls: OpenCalls,
    peer: PeerId,
    silence_s: float,
    listening_since_s: Callable[[], float | None] = _always,
) -> None:
    """Return when nothing has come from a member for so long while we listened.

    A byte of a large chunk counts, so a slow member is not silent. A stream that nobody reads,
    because its peer must wait for others, says nothing about its peer. The first silence counts
    only at a second look.
    """
    second_look_at_s: float | None = None
    while True:
        now_s, since_s = trio.current_time(), listening_since_s()
        if since_s is None:
            silent_at_s = now_s + silence_s
        else:
            silent_at_s = max(calls.heard_at_s(peer), since_s) + silence_s
        if now_s < silent_at_s:
            due_s = silent_at_s
        elif second_look_at_s is None:
            due_s = second_look_at_s = now_s + second_look_s(now_s - silent_at_s)
        elif now_s >= second_look_at_s:
            return
        else:
            due_s = second_look_at_s
        await trio.sleep_until(due_s)


async def sleep_awake(seconds: float) -> None:
    """Sleep for so long, of which the time that we were frozen is no part.

    It goes on then, but nobody who comes is let in: a freeze counts as one tick, and after one in
    the last of them there is a second look.
    """
    for _ in range(max(math.ceil(seconds / _TICK_S), 1)):
        due_s = trio.current_time() + _TICK_S
        await trio.sleep_until(due_s)
    await trio.sleep(second_look_s(trio.current_time() - due_s))
