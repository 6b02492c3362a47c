"""The directory of relays in the DHT: public relays announce themselves, who needs one looks.

Under the key RELAYS_KEY each relay writes the subkey that only it can write, so nobody announces
another. That it is a relay, and has room, is believed only when it grants a reservation.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

import trio
from msgspec import Meta

from p2p.address import ANNOUNCED_TEXT_MAX, is_circuit, parse_address_untrusted, scope
from p2p.dht import Dht, Entry, SchemaValidator, owned_subkey
from p2p.errors import MessageInvalid, P2PError
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId
from p2p.relay.keeper import RelayKeeper
from p2p.wire import Message, decode_untrusted, encode

logger = logging.getLogger(__name__)

RELAYS_KEY = "manyhands/relays"
ADDRESSES_MAX = 4
RECORD_BYTES_MAX = ADDRESSES_MAX * (ANNOUNCED_TEXT_MAX + 8) + 16
LIFE_S = 1_800.0
ANNOUNCE_S = 600.0
"""Thrice in the life of a record, and after each change of our addresses."""
LOOK_S = 60.0
LOOK_LONGEST_S = 600.0
TAKEN_MAX = 16
"""Relays taken from one look, by chance."""
_POLL_S = 5.0


class RelayRecord(Message, frozen=True):
    """Where a relay can be dialed."""

    addresses: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=ANNOUNCED_TEXT_MAX)], ...],
        Meta(min_length=1, max_length=ADDRESSES_MAX),
    ]


RELAYS_VALIDATOR = SchemaValidator(key_pattern=RELAYS_KEY, kind=RelayRecord, owned=True)
"""For DhtConfig.validators: nodes that have it hold no nonsense under the key."""


@asynccontextmanager
async def open_relay_directory(
    node: Node, dht: Dht, keeper: RelayKeeper | None = None
) -> AsyncIterator[None]:
    """Announce the node while it serves as a relay that the public can dial, until the block ends.

    Args:
        keeper: gets the relays that are found, whenever it is short of them.
    """
    async with open_service_nursery() as nursery:
        if node.relay_server is not None:
            nursery.start_soon(_announce_always, node, dht)
        if keeper is not None:
            nursery.start_soon(_look_always, node, dht, keeper)
        yield


def announced_addresses(node: Node) -> tuple[str, ...]:
    """What a relay tells of itself: where it can be dialed from anywhere; nothing if nowhere."""
    told: list[str] = []
    for text in node.addresses:
        bare = text.removesuffix(f"/p2p/{node.peer_id}")
        if is_circuit(text) or len(bare) > ANNOUNCED_TEXT_MAX:
            continue
        if scope(parse_address_untrusted(bare)) == "public":
            told.append(bare)
    if node.net_report.reachability == "private":
        return ()
    return tuple(told[:ADDRESSES_MAX])


async def _announce_always(node: Node, dht: Dht) -> None:
    told: tuple[str, ...] = ()
    due_at_s = trio.current_time()
    while True:
        addresses = announced_addresses(node)
        if addresses and (addresses != told or trio.current_time() >= due_at_s):
            try:
                await dht.put(
                    RELAYS_KEY,
                    encode(RelayRecord(addresses)),
                    subkey=owned_subkey(node.peer_id),
                    ttl_s=LIFE_S,
                )
            except P2PError as exc:
                logger.warning("relay_not_announced %s", exc)
            else:
                told, due_at_s = addresses, trio.current_time() + ANNOUNCE_S
        await trio.sleep(_POLL_S)


async def _look_always(node: Node, dht: Dht, keeper: RelayKeeper) -> None:
    """Look at once when the keeper is short, then less and less often while it stays so."""
    pause_s, due_at_s = LOOK_S, trio.current_time()
    while True:
        now_s = trio.current_time()
        if not keeper.is_short:
            pause_s, due_at_s = LOOK_S, now_s
        elif now_s >= due_at_s:
            try:
                entries = await dht.get_dictionary(RELAYS_KEY)
            except P2PError as exc:
                logger.debug("relays_not_found %r", exc)
            else:
                keeper.add_candidates(found_untrusted(entries, node.peer_id, node.rng))
            due_at_s = trio.current_time() + pause_s
            pause_s = min(2 * pause_s, LOOK_LONGEST_S)
        await trio.sleep(_POLL_S)


def found_untrusted(
    entries: Mapping[str, Entry], me: PeerId, rng: random.Random
) -> dict[PeerId, tuple[str, ...]]:
    """Some of the relays that the directory names, with their addresses; nonsense is left out."""
    found: dict[PeerId, tuple[str, ...]] = {}
    owned = [entry for entry in entries.values() if entry.owner not in (None, me)]
    for entry in rng.sample(owned, min(len(owned), TAKEN_MAX)):
        assert entry.owner is not None
        try:
            record = decode_untrusted(entry.value, RelayRecord, size_bytes_max=RECORD_BYTES_MAX)
        except MessageInvalid:
            continue
        found[entry.owner] = record.addresses
    return found
