"""A forked child closes what its parent's trio loop had opened.

A DataLoader forks: a SIGKILLed parent's connections would live on in its workers, and peers would
not see them end. Only sockets are closed; the child must not use its parent's node in any way.
"""

from __future__ import annotations

import gc
import os
import weakref

import trio

_owners: weakref.WeakSet[object] = weakref.WeakSet()


def keep_sockets_from_children(owner: object) -> None:
    """As long as the owner is alive, children forked from this process close trio's sockets."""
    _owners.add(owner)


def _close_sockets_in_child() -> None:
    if not _owners:
        return
    for thing in gc.get_objects():
        if issubclass(type(thing), trio.socket.SocketType) and thing.fileno() >= 0:
            os.close(thing.detach())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_sockets_in_child)
