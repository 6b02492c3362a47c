"""Survey: who is in the swarm, asked from peer to peer until nobody new is named."""

from __future__ import annotations

import random

import trio

from p2p.dht.client import DhtClient
from p2p.dht.contact import Contact
from p2p.dht.key import KEY_BITS
from p2p.dht.schema import CONTACTS_MAX, TARGETS_MAX
from p2p.dht.state import DhtState
from p2p.errors import P2PError
from p2p.peer_id import PeerId

_AT_ONCE_MAX = 8


async def survey(
    state: DhtState, client: DhtClient, *, peers_max: int, rng: random.Random
) -> dict[PeerId, tuple[str, ...]]:
    """Whom peers name, each asked for the nearest to keys all over the key space.

    In a swarm of some hundreds nearly all are found; in larger ones a sample. A peer that lies
    can add names, up to the bound; whether somebody answers to them is the caller's to try.
    """
    found: dict[PeerId, tuple[str, ...]] = {}
    waiting: list[Contact] = []

    def on_named(contacts: list[Contact]) -> None:
        for contact in contacts:
            known = contact.peer_id in found or contact.peer_id == state.node.peer_id
            if not known and len(found) < peers_max:
                found[contact.peer_id] = contact.addresses
                waiting.append(contact)

    async def ask(contact: Contact) -> None:
        targets = [rng.getrandbits(KEY_BITS) for _ in range(TARGETS_MAX)]
        try:
            for named in await client.find_nodes(contact, targets, CONTACTS_MAX):
                on_named(named)
        except P2PError:
            # It stays in the list as one that was named and does not answer.
            return

    on_named(list(state.table.confirmed))
    while waiting:
        batch, waiting[:] = waiting[:_AT_ONCE_MAX], waiting[_AT_ONCE_MAX:]
        async with trio.open_nursery() as nursery:
            for contact in batch:
                nursery.start_soon(ask, contact)
    return found
