"""Two parties that take turns, written as plain generators that know nothing of networks.

A party yields bytes to send them, or a number to receive exactly that many bytes. So each protocol
reads from top to bottom, runs without a network, and says how much it takes before anything is
allocated for it. What it receives is a stranger's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")
Other = TypeVar("Other")

Exchange = Generator[bytes | int, bytes, Result]
"""One party's side, up to its result."""
RandomBytes = Callable[[int], bytes]
"""Unpredictable bytes: os.urandom in life."""


def send(data: bytes) -> Exchange[None]:
    """Send these bytes."""
    yield data


def receive(size_bytes: int) -> Exchange[bytes]:
    """Receive exactly so many bytes."""
    return (yield size_bytes)


def run_pair(
    one: Exchange[Result],
    other: Exchange[Other],
    tamper: Callable[[int, bytes], bytes] = lambda number, data: data,
) -> tuple[Result, Other]:
    """Run two parties against each other in this thread.

    Args:
        tamper: may change what the first party sends, told which of its messages this is.

    Raises:
        ValueError: both wait for the other, or one waits for more than is sent.
    """
    sides: list[Exchange[Result] | Exchange[Other]] = [one, other]
    inboxes: list[deque[bytes]] = [deque(), deque()]
    wants: list[bytes | int | None] = [next(side, None) for side in sides]
    results: list[Result | Other | None] = [None, None]
    sent = 0
    while any(want is not None for want in wants):
        moved = False
        for me in (0, 1):
            answer = b""
            match wants[me]:
                case bytes() as data:
                    if me == 0:
                        data = tamper(sent, data)
                        sent += 1
                    inboxes[1 - me].append(data)
                case int() as size_bytes if inboxes[me]:
                    answer = inboxes[me].popleft()
                    if len(answer) != size_bytes:
                        raise ValueError(f"{len(answer)} bytes came where {size_bytes} were due")
                case _:
                    continue
            moved = True
            try:
                wants[me] = sides[me].send(answer)
            except StopIteration as done:
                wants[me], results[me] = None, done.value
        if not moved:
            raise ValueError("both parties wait for each other")
    return results[0], results[1]  # type: ignore[return-value]
