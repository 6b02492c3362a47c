"""Upkeep: joining, pinging the silent, refilling buckets, handing records on, and leaving."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import trio

from p2p.address import parse_address
from p2p.dht import chores
from p2p.dht.client import DhtClient
from p2p.dht.contact import Contact
from p2p.dht.key import node_key
from p2p.dht.record import Record
from p2p.dht.snapshot import FIRST_TRIED, Snapshot, first_to_try
from p2p.dht.state import DhtState
from p2p.errors import AddressInvalid, Attempt, P2PError, UnreachableError
from p2p.peer_id import short

logger = logging.getLogger(__name__)

_CALLS_AT_ONCE = 8
# A pass over many records lets others run after so many keys.
_KEYS_PER_SLICE = 64


class Upkeep:
    """Everything that a node does in the DHT without being asked."""

    def __init__(
        self,
        state: DhtState,
        client: DhtClient,
        nursery: trio.Nursery,
        initial: Iterable[str],
        snapshot: Snapshot,
    ) -> None:
        self._state = state
        self._client = client
        self._nursery = nursery
        self._initial = [_initial_contact(address) for address in initial]
        self._initial = [c for c in self._initial if c.peer_id != state.node.peer_id]
        state.trusted.update(contact.peer_id for contact in self._initial)
        self._remembered = [
            contact
            for contact in snapshot.contacts
            if contact.peer_id not in (state.node.peer_id, *state.trusted)
        ]
        self._attempts: list[Attempt] = []

    # --- joining ------------------------------------------------------------------------------

    async def join(self) -> None:
        """Meet an initial peer, or one that we knew, then our neighbours; others in the background.

        Raises:
            UnreachableError: there are initial peers, and nobody answered.
        """
        entrances = self._entrances()
        if not entrances:
            return
        send, receive = trio.open_memory_channel[Contact | None](len(entrances))
        for contact in entrances:
            self._nursery.start_soon(self._meet, contact, send)
        for _ in entrances:
            met = await receive.receive()
            if met is not None:
                await self._fill_table(met)
                logger.info(
                    "dht_joined peer=%s contacts=%d",
                    short(self._state.node.peer_id),
                    len(self._state.table),
                )
                return
        if self._initial:
            raise UnreachableError(None, tuple(self._attempts))
        own_id = short(self._state.node.peer_id)
        logger.warning("dht_alone peer=%s known_before=%d", own_id, len(entrances))

    def _entrances(self) -> list[Contact]:
        """Who may let us in: the initial peers, and some of those that we knew."""
        known = Snapshot(0, tuple(self._remembered))
        return self._initial + first_to_try(known, FIRST_TRIED)

    async def _meet(
        self, contact: Contact, met: trio.MemorySendChannel[Contact | None] | None = None
    ) -> None:
        outcome: Contact | None = None
        try:
            await self._client.ping(contact)
            outcome = contact
        except UnreachableError as exc:
            self._attempts += exc.attempts or [Attempt(contact.addresses[0], str(exc))]
        except P2PError as exc:
            self._attempts.append(Attempt(contact.addresses[0], str(exc)))
        if met is not None:
            met.send_nowait(outcome)

    async def _fill_table(self, first: Contact) -> None:
        """Ask the first peer about all parts of the key space at once, then find our neighbours."""
        state = self._state
        targets = state.core.join_targets(state.node.rng)
        now_s = trio.current_time()
        state.table.on_heard_of(self._remembered, now_s)
        try:
            named = await self._client.find_nodes(first, targets, state.config.replicas)
        except P2PError as exc:
            logger.info("dht_first_peer_failed peer=%s cause=%s", short(first.peer_id), exc)
            named = []
        for target, contacts in zip(targets, named, strict=False):
            state.table.on_looked_up(target, now_s)
            state.table.on_heard_of(contacts, now_s)
        await self._client.find_nearest(state.own_key, state.config.bucket_size)

    # --- while open ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after everything until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after_contacts)
            if not self._state.node.client_mode:
                nursery.start_soon(self._greet_newcomers)
                nursery.start_soon(self._look_after_records)

    async def _pause(self, seconds: float) -> None:
        # Spread, so that nodes that started together do not act together.
        await trio.sleep(seconds * self._state.node.rng.uniform(*chores.SPREAD))

    async def _look_after_contacts(self) -> None:
        state = self._state
        rejoin_at_s = trio.current_time() + chores.REJOIN_S
        while True:
            await self._pause(chores.contacts_pause_s(state.core))
            now_s = trio.current_time()
            if now_s >= rejoin_at_s:
                rejoin_at_s = now_s + chores.REJOIN_S
                await self._rejoin()
            witness = state.table.witness()
            if witness is not None:
                await self._meet(witness)
            async with trio.open_nursery() as nursery:
                for contact in self._pings_due():
                    nursery.start_soon(self._meet, contact)
            self._attempts.clear()
            refresh = chores.refresh_due(state.core, now_s, state.node.rng)
            if refresh is not None:
                await self._client.find_nearest(*refresh)

    def _pings_due(self) -> list[Contact]:
        connected = set(self._state.node.connected_peers)
        return chores.pings_due(self._state.core, trio.current_time(), connected.__contains__)

    async def _rejoin(self) -> None:
        """Try the initial peers that we have lost: they may be back, or our network may be."""
        state = self._state
        was_empty = len(state.table) == 0
        for contact in self._entrances() if was_empty else self._initial:
            if not state.table.has_place(contact):
                await self._meet(contact)
        if was_empty and len(state.table):
            await self._client.find_nearest(state.own_key, state.config.bucket_size)

    # --- records ------------------------------------------------------------------------------

    async def _greet_newcomers(self) -> None:
        """Give a newcomer the records that it is now among the nearest for."""
        state = self._state
        while True:
            await state.newcomer_came.wait()
            await trio.sleep(chores.HAND_OVER_DELAY_S)
            state.newcomer_came = trio.Event()
            newcomers = state.core.take_newcomers(trio.current_time())
            await self._deliver_all(chores.handed_over(state.core, newcomers, trio.current_time()))

    async def _look_after_records(self) -> None:
        """Forget the expired; hand to the replicas again what nobody has offered for long."""
        core = self._state.core
        while True:
            await self._pause(chores.records_pause_s(core))
            core.store.expire(trio.current_time())
            await self._deliver_all(chores.republished(core, trio.current_time()))

    async def _deliver_all(self, deliveries: Iterator[list[chores.Delivery]]) -> None:
        """Go through the keys without holding up others, then send each peer its records."""
        parcels = chores.Parcels()
        for index, of_one_key in enumerate(deliveries):
            if index % _KEYS_PER_SLICE == 0:
                await trio.lowlevel.checkpoint()
            for contact, held in of_one_key:
                parcels.add(contact, held, trio.current_time())
        await self._deliver(parcels)

    async def _deliver(self, parcels: chores.Parcels) -> None:
        """Send each peer its records; whoever fails gets them another time."""
        limiter = trio.CapacityLimiter(_CALLS_AT_ONCE)

        async def deliver(contact: Contact, records: list[tuple[Record, float]]) -> None:
            async with limiter:
                try:
                    await self._client.store(contact, records)
                except P2PError as exc:
                    logger.debug(
                        "dht_hand_over_failed peer=%s cause=%s", short(contact.peer_id), exc
                    )

        async with trio.open_nursery() as nursery:
            for contact, records in parcels.by_peer.values():
                nursery.start_soon(deliver, contact, records)

    # --- leaving ------------------------------------------------------------------------------

    async def say_farewell(self) -> None:
        """Hand our records to whoever is next in line, and tell our neighbours that we go."""
        state = self._state
        if state.node.client_mode or not state.config.farewell_s:
            return
        with trio.move_on_after(state.config.farewell_s) as scope:
            scope.shield = True
            await self._deliver_all(chores.bequeathed(state.core, trio.current_time()))
            neighbours = state.table.nearest(
                state.own_key, state.config.bucket_size, trio.current_time()
            )
            async with trio.open_nursery() as nursery:
                for contact in neighbours:
                    if state.node.is_connected(contact.peer_id):
                        nursery.start_soon(self._leave, contact)

    async def _leave(self, contact: Contact) -> None:
        try:
            await self._client.leave(contact)
        except P2PError as exc:
            logger.debug("dht_farewell_failed peer=%s cause=%s", short(contact.peer_id), exc)


def _initial_contact(address: str) -> Contact:
    """The peer of a full multiaddress; raises AddressInvalid."""
    peer_id = parse_address(address).peer_id
    if peer_id is None:
        raise AddressInvalid(f"{address!r} lacks the peer id; append /p2p/12D3KooW…")
    return Contact(peer_id, node_key(peer_id), (address.removesuffix(f"/p2p/{peer_id}"),))
