"""Role: a node that others can dial serves the DHT; one that they cannot is a client, until then.

    state    event                        then
    serving  dial-back finds us private   hand over, say farewell, forget: client
    client   dial-back finds us public    serving; tell our neighbours

A client's neighbours could reach it over the LAN or through relays, but lookups shall not wait for
that. While nobody has tried to dial us, we serve.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from p2p.dht.client import DhtClient
from p2p.dht.server import DhtServer
from p2p.dht.state import DhtState
from p2p.dht.upkeep import Upkeep
from p2p.nat.report import Reachability
from p2p.peer_id import short

logger = logging.getLogger(__name__)


async def follow_role(
    state: DhtState,
    client: DhtClient,
    upkeep: Upkeep,
    *,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve while we can be dialed, until cancelled; started means that the first role is taken."""
    changed = trio.Event()

    def on_reachability(_: Reachability) -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    async def wait_until(is_client: bool) -> None:
        while state.is_client != is_client:
            await changed.wait()

    with _told_by(state, on_reachability):
        if state.is_client:
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await wait_until(False)
        while True:
            async with DhtServer(state).service().serving(state.node):
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await _serve(state, client, upkeep, wait_until)
            _log("client", state)
            await wait_until(False)
            _log("serving", state)


async def _serve(
    state: DhtState,
    client: DhtClient,
    upkeep: Upkeep,
    wait_until: Callable[[bool], Awaitable[None]],
) -> None:
    """Have our neighbours hear of us, if they knew us as a client, and serve until we are one."""
    if len(state.table):
        await client.find_nearest(state.own_key, state.config.bucket_size)
    await wait_until(True)
    await upkeep.say_farewell()
    state.forget_records()


@contextmanager
def _told_by(state: DhtState, tell: Callable[[Reachability], None]) -> Iterator[None]:
    whereabouts = state.node.whereabouts
    if whereabouts is None:
        yield
        return
    whereabouts.on_reachability.append(tell)
    try:
        yield
    finally:
        whereabouts.on_reachability.remove(tell)


def _log(role: str, state: DhtState) -> None:
    logger.info("dht_role_changed peer=%s role=%s", short(state.node.peer_id), role)
