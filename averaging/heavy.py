"""Numeric work, kept off the trio loop where that pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from p2p import Node

T = TypeVar("T")

# What takes a millisecond or two at most: waking a thread for it, and the interpreter's lock
# afterwards, would cost more than they save.
_OFFLOAD_BYTES_MIN: Final = 4_194_304


async def run_heavy(node: Node, size_bytes: int, function: Callable[..., T], *args: Any) -> T:
    """Run a function that works on so many bytes: in a thread when they are many.

    It may be cancelled before the function has begun, but not once it has.
    """
    if size_bytes < _OFFLOAD_BYTES_MIN:
        return function(*args)
    return await node.offload(function, *args)
