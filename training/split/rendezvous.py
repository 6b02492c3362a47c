"""How clients find the server of a run: a record in the DHT under `<run>/split` that it signs.

It lies in the subkey that only its owner can write, so nobody speaks for another. Whoever is found
is still asked: its welcome, or its refusal, decides.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import trio
from msgspec import Meta

from p2p import (
    Dht,
    Message,
    MessageInvalid,
    Node,
    P2PError,
    PeerId,
    UnreachableError,
    decode_untrusted,
    encode,
    open_service_nursery,
    owned_subkey,
    short,
)
from training.errors import SplitFailed
from training.split.schema import ADDRESSES_MAX, Address, Hash

logger = logging.getLogger(__name__)

RECORD_BYTES_MAX = 4096
_LIFE_S = 60.0
_TELL_S = 10.0
_LOOK_S = 0.5


class Serving(Message, frozen=True):
    """What a server says of itself."""

    model_hash: Hash
    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES_MAX)]


def split_key(run: str) -> str:
    """Where the servers of a run are told."""
    return f"{run}/split"


@asynccontextmanager
async def telling(node: Node, dht: Dht, run: str, model_hash: bytes) -> AsyncIterator[None]:
    """Tell of a server here while the block lasts."""

    async def tell() -> None:
        while True:
            # Addresses change: a place at a relay, a port that was mapped.
            serving = Serving(model_hash, tuple(node.addresses[:ADDRESSES_MAX]))
            try:
                await dht.put(
                    split_key(run),
                    encode(serving),
                    subkey=owned_subkey(node.peer_id),
                    ttl_s=_LIFE_S,
                )
            except P2PError as exc:
                logger.warning("split_put_failed cause=%s", exc)
            await trio.sleep(_TELL_S)

    async with open_service_nursery() as nursery:
        nursery.start_soon(tell)
        yield


async def find_server(
    node: Node, dht: Dht, run: str, model_hash: bytes, *, within_s: float
) -> PeerId:
    """A server of the run that we are connected to: one with our model rather than another.

    Raises:
        SplitFailed: there is none in time.
    """
    cause = "none is known"
    with trio.move_on_after(within_s):
        while True:
            servers = await _servers(dht, run)
            servers.pop(node.peer_id, None)
            for peer_id in sorted(
                servers, key=lambda one: (servers[one].model_hash != model_hash, one)
            ):
                try:
                    # Records outlive those who put them by a minute.
                    await node.connect(peer_id, servers[peer_id].addresses)
                except UnreachableError as exc:
                    cause = str(exc)
                    continue
                return peer_id
            await trio.sleep(_LOOK_S)
    raise SplitFailed(
        "no-server", f"no server of the run {run!r} was found in {within_s:g} s ({cause})"
    )


async def _servers(dht: Dht, run: str) -> dict[PeerId, Serving]:
    """Who says that it is a server of the run."""
    try:
        entries = await dht.get_dictionary(split_key(run))
    except P2PError as exc:
        logger.warning("split_get_failed cause=%s", exc)
        return {}
    servers: dict[PeerId, Serving] = {}
    for subkey, entry in entries.items():
        # Anybody may write under a subkey that is nobody's.
        if entry.owner is None or subkey != owned_subkey(entry.owner):
            continue
        try:
            servers[entry.owner] = decode_untrusted(
                entry.value, Serving, size_bytes_max=RECORD_BYTES_MAX
            )
        except MessageInvalid as exc:
            logger.debug("split_record_invalid peer=%s %s", short(entry.owner), exc)
    return servers
