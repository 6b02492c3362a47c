"""Large payloads in pieces over a call, into memory whose size was checked before."""

from __future__ import annotations

from typing import Any

import trio

from averaging.homomorphic.schema import PART_SIZE_BYTES_MAX, Part
from p2p import MessageInvalid, RefusedError, RpcCall


async def send_parts(call: RpcCall[Any, Any], data: bytes, silence_s: float) -> None:
    """Send all of it.

    Raises:
        RefusedError: the other side takes nothing for so long.
    """
    view = memoryview(data)
    for at in range(0, len(view), PART_SIZE_BYTES_MAX):
        with trio.move_on_after(silence_s) as waiting:
            await call.send(Part(), view[at : at + PART_SIZE_BYTES_MAX])
        if waiting.cancelled_caught:
            raise RefusedError("idle", "nothing was taken for too long")


async def receive_parts(call: RpcCall[Any, Any], size_bytes: int, silence_s: float) -> bytes:
    """Exactly so many bytes, in however many parts.

    Raises:
        MessageInvalid: something else came, or more.
        RefusedError: nothing came for so long.
    """
    whole = memoryview(bytearray(size_bytes))
    filled = 0

    def buffer_for(message: object, part_size_bytes: int) -> memoryview:
        if part_size_bytes > size_bytes - filled:
            raise MessageInvalid("more bytes came than were announced")
        return whole[filled : filled + part_size_bytes]

    while filled < size_bytes:
        received = None
        with trio.move_on_after(silence_s) as waiting:
            received = await call.receive_into(buffer_for)
        if waiting.cancelled_caught:
            raise RefusedError("idle", "nothing was sent for too long")
        if received is None or not isinstance(received[0], Part) or not received[1]:
            raise MessageInvalid("the bytes that were announced did not come")
        filled += len(received[1])
    return bytes(whole)
