"""How a silent stream is told from a slow one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from p2p import RpcCall


def _always() -> float:
    return float("-inf")


async def wait_silent(
    call: RpcCall[Any, Any],
    silence_s: float,
    listening_since_s: Callable[[], float | None] = _always,
) -> None:
    """Return when nothing has come for so long while we listened.

    A byte of a large chunk counts, so a slow stream is not silent. A stream that nobody reads,
    because its peer must wait for others, says nothing about its peer.
    """
    while True:
        now_s, since_s = trio.current_time(), listening_since_s()
        if since_s is None:
            silent_at_s = now_s + silence_s
        else:
            silent_at_s = max(call.heard_at_s, since_s) + silence_s
        if now_s >= silent_at_s:
            return
        await trio.sleep_until(silent_at_s)
