"""Upkeep: joining, pinging the silent, refilling buckets, handing records on, and leaving."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from p2p.address import parse_address
from p2p.dht import schema
from p2p.dht.client import DhtClient
from p2p.dht.key import node_key, random_key_in_bucket
from p2p.dht.record import Record
from p2p.dht.routing import Contact
from p2p.dht.snapshot import Snapshot, first_to_try
from p2p.dht.state import DhtState
from p2p.dht.store import Held
from p2p.errors import AddressInvalid, Attempt, P2PError, UnreachableError
from p2p.peer_id import PeerId, short

logger = logging.getLogger(__name__)

_TICK_S = 30.0
# While there are contacts known by hearsay only, which are not passed on: a table without sound
# contacts in some part of the key space is where liars there can hide their neighbours. Also while
# there are some that were slow, and cost every lookup a little.
_UNSURE_TICK_S = 2.0
_PINGS_PER_TICK = 20
# A contact that we are connected to is alive, as the connection's keepalive knows; it is asked
# only this many times less often whether it still takes part in the DHT.
_CONNECTED_PATIENCE = 6
# Newcomers come in bursts; one pass over the records serves all that came meanwhile.
_HAND_OVER_DELAY_S = 1.0
# How many of a newcomer's predecessors hand a record over: two, in case one lies or is lost.
_HAND_OVER_BY = 2
# Each further replica waits so much longer before it republishes: the first one's copies reach it.
_REPUBLISH_STAGGER_S = 30.0
_REJOIN_S = 60.0
# Of those known before a restart, so many are greeted at once: most live, and one is enough.
_REMEMBERED_TRIED = 16
# Far buckets that a newcomer asks its first peer about at once: enough for a million nodes.
_FAR_BUCKETS = schema.TARGETS_MAX - 1
_CALLS_AT_ONCE = 8
# A pass over many records lets others run after so many keys.
_KEYS_PER_SLICE = 64

_Parcels = dict[PeerId, tuple[Contact, list[tuple[Record, float]]]]


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
        return self._initial + first_to_try(known, _REMEMBERED_TRIED)

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
        targets = [state.own_key] + [
            random_key_in_bucket(state.own_key, index, state.node.rng)
            for index in range(_FAR_BUCKETS)
        ]
        now_s = trio.current_time()
        for contact in self._remembered:
            state.table.on_heard_of(contact, now_s)
        try:
            named = await self._client.find_nodes(first, targets, state.config.replicas)
        except P2PError as exc:
            logger.info("dht_first_peer_failed peer=%s cause=%s", short(first.peer_id), exc)
            named = []
        for target, contacts in zip(targets, named, strict=False):
            state.table.on_looked_up(target, now_s)
            for contact in contacts:
                state.table.on_heard_of(contact, now_s)
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
        await trio.sleep(seconds * self._state.node.rng.uniform(0.8, 1.2))

    async def _look_after_contacts(self) -> None:
        state = self._state
        rejoin_at_s = trio.current_time() + _REJOIN_S
        while True:
            await self._pause(_UNSURE_TICK_S if state.table.unsure else _TICK_S)
            now_s = trio.current_time()
            if now_s >= rejoin_at_s:
                rejoin_at_s = now_s + _REJOIN_S
                await self._rejoin()
            witness = state.table.witness()
            if witness is not None:
                await self._meet(witness)
            async with trio.open_nursery() as nursery:
                for contact in self._stale(trio.current_time()):
                    nursery.start_soon(self._meet, contact)
            self._attempts.clear()
            targets = state.table.refresh_targets(now_s, state.config.refresh_s, state.node.rng)
            # One a tick: a refresh is never urgent.
            for target in targets[:1]:
                width = (
                    state.config.bucket_size if target == state.own_key else state.config.replicas
                )
                await self._client.find_nearest(target, width)

    def _stale(self, now_s: float) -> list[Contact]:
        connected = set(self._state.node.connected_peers)
        idle_s_max = self._state.config.liveness_s

        def patience_s(peer_id: PeerId) -> float:
            return idle_s_max * (_CONNECTED_PATIENCE if peer_id in connected else 1)

        return self._state.table.stale(now_s, _PINGS_PER_TICK, patience_s)

    async def _rejoin(self) -> None:
        """Try the initial peers that we have lost: they may be back, or our network may be."""
        state = self._state
        was_empty = len(state.table) == 0
        for contact in self._entrances() if was_empty else self._initial:
            if contact.peer_id not in state.table:
                await self._meet(contact)
        if was_empty and len(state.table):
            await self._client.find_nearest(state.own_key, state.config.bucket_size)

    # --- records ------------------------------------------------------------------------------

    async def _greet_newcomers(self) -> None:
        """Give a newcomer the records that it is now among the nearest for."""
        state = self._state
        while True:
            await state.newcomer_came.wait()
            await trio.sleep(_HAND_OVER_DELAY_S)
            newcomers, state.newcomers = state.newcomers, {}
            state.newcomer_came = trio.Event()
            parcels: _Parcels = {}
            for index, (key, _, held) in enumerate(state.store.living(trio.current_time())):
                if index % _KEYS_PER_SLICE == 0:
                    await trio.lowlevel.checkpoint()
                ranked = state.replicas_of(key, len(newcomers))
                before = [c for c in ranked if c is None or c.peer_id not in newcomers]
                if None not in before[:_HAND_OVER_BY]:
                    continue
                for contact in ranked[: state.config.replicas]:
                    if contact is not None and contact.peer_id in newcomers:
                        _pack(parcels, contact, held)
            await self._deliver(parcels)

    async def _look_after_records(self) -> None:
        """Forget the expired; hand to the replicas again what nobody has offered for long."""
        state = self._state
        period_s = state.config.republish_s
        while True:
            await self._pause(min(_TICK_S, period_s / 4))
            now_s = trio.current_time()
            state.store.expire(now_s)
            parcels: _Parcels = {}
            for index, (key, _, held) in enumerate(state.store.living(now_s)):
                if index % _KEYS_PER_SLICE == 0:
                    await trio.lowlevel.checkpoint()
                if all(item.refreshed_at_s > now_s - period_s for item in held):
                    continue
                replicas = state.replicas_of(key)
                rank = replicas.index(None) if None in replicas else len(replicas)
                due_s = period_s + rank * min(_REPUBLISH_STAGGER_S, period_s / 10)
                due = [item for item in held if item.refreshed_at_s <= now_s - due_s]
                for contact in replicas:
                    if due and contact is not None:
                        _pack(parcels, contact, due)
                for item in due:
                    item.refreshed_at_s = now_s
            await self._deliver(parcels)

    async def _deliver(self, parcels: _Parcels) -> None:
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
            for contact, records in parcels.values():
                nursery.start_soon(deliver, contact, records)

    # --- leaving ------------------------------------------------------------------------------

    async def say_farewell(self) -> None:
        """Hand our records to whoever is next in line, and tell our neighbours that we go."""
        state = self._state
        if state.node.client_mode or not state.config.farewell_s:
            return
        with trio.move_on_after(state.config.farewell_s) as scope:
            scope.shield = True
            parcels: _Parcels = {}
            for key, _, held in state.store.living(trio.current_time()):
                nearest = state.table.nearest(
                    key, state.config.replicas, trio.current_time(), confirmed_only=True
                )
                # Who has just become a client is nobody's replica any more, but has the records.
                if nearest and (state.is_client or None in state.replicas_of(key)):
                    _pack(parcels, nearest[-1], held)
            await self._deliver(parcels)
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


def _pack(parcels: _Parcels, contact: Contact, held: Iterable[Held]) -> None:
    """Add records to what a peer is to be given."""
    now_s = trio.current_time()
    _, records = parcels.setdefault(contact.peer_id, (contact, []))
    records.extend((item.record, item.expires_at_s - now_s) for item in held)
