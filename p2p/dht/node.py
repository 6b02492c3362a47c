"""Dht: what users of the DHT hold; open_dht() joins it, leaving the block says farewell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from p2p.dht import schema
from p2p.dht.client import DhtClient
from p2p.dht.config import DhtConfig
from p2p.dht.inspection import keep_gauges, stats, trace
from p2p.dht.key import distance, key_to_bytes, node_key, record_key
from p2p.dht.reading import Reading, Sighting
from p2p.dht.record import SIGNED_LIFE_S_MAX, Record, Sequencer, sign_record
from p2p.dht.routing import Contact
from p2p.dht.server import DhtServer
from p2p.dht.state import DhtState
from p2p.dht.store import StoreCode
from p2p.dht.survey import survey
from p2p.dht.trace import Trace
from p2p.dht.upkeep import Upkeep
from p2p.errors import P2PError, RecordInvalid
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId

# Repairs under way at once; a reader's good deed is dropped when there are more.
_REPAIRS_MAX = 8


@dataclass(frozen=True)
class Entry:
    """A value found in the DHT."""

    value: bytes
    remaining_s: float
    """What is left of its life."""
    owner: PeerId | None
    """Who signed it; None when anyone may have written it."""
    sequence: int
    """The owner's number for it, higher for newer ones; 0 when unsigned."""


@dataclass(frozen=True)
class PutReport:
    """What became of a put."""

    replicas: int
    """Nodes that hold the record now, ourselves included; 0 means that it is nowhere."""
    newer: int = 0
    """Nodes that hold a newer one, and kept it."""
    sequence: int = 0
    """The number it was signed with; 0 when unsigned."""
    refused: dict[PeerId, str] = field(default_factory=dict)
    """Who refused or failed, and why."""


@dataclass
class _Offer:
    """The outcome of offering one record to its replicas."""

    replicas: int = 0
    newer: int = 0
    newer_sequence: int = 0
    refused: dict[PeerId, str] = field(default_factory=dict)


class Dht:
    """A distributed dictionary whose entries expire, and of which owned subkeys are signed."""

    def __init__(self, state: DhtState, client: DhtClient, nursery: trio.Nursery) -> None:
        self._state = state
        self._client = client
        self._nursery = nursery
        self._sequencer = Sequencer(state.config.sequence_floor)
        self._repairs = 0

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The peers in our routing table that we have heard ourselves."""
        return tuple(contact.peer_id for contact in self._state.table.confirmed)

    @property
    def sequence(self) -> int:
        """The highest sequence number used; who saves it may pass it as sequence_floor."""
        return self._sequencer.last

    async def put(
        self, key: str, value: bytes, *, subkey: str | None = None, ttl_s: float
    ) -> PutReport:
        """Store a value at the nodes nearest to its key; our own subkey is signed by itself.

        Raises:
            RecordInvalid: a limit, a validator or another peer's ownership forbids it.
        """
        record = self._new_record(key, value, subkey, ttl_s)
        expires_at_s = trio.current_time() + ttl_s
        (complaint,) = await self._state.complaints_untrusted([record])
        if complaint is not None:
            raise RecordInvalid(complaint)
        target = record_key(key)
        lookup = await self._client.find_nearest(target, self._state.config.replicas)
        candidates = self._with_ourselves(lookup.answered(), target)
        offer = await self._offer(record, expires_at_s, candidates)
        if record.owner is not None and offer.newer_sequence >= record.sequence:
            # An earlier life of ours had got further: go on from there.
            wall_s = self._state.swarm_wall_s
            self._sequencer.on_seen_untrusted(offer.newer_sequence, wall_s)
            if self._sequencer.last >= record.sequence:
                record = self._sign(record)
                offer = await self._offer(record, expires_at_s, candidates)
        return PutReport(offer.replicas, offer.newer, record.sequence, offer.refused)

    async def get(self, key: str, *, subkey: str | None = None) -> Entry | None:
        """The newest living value of a key (or of one subkey), asked of its replicas each time."""
        query = schema.Query(key_to_bytes(record_key(key)), subkey)
        newest = await self._read(key, query)
        now_s = trio.current_time()
        return _entry(newest[subkey], now_s) if subkey in newest else None

    async def get_dictionary(self, key: str) -> dict[str, Entry]:
        """All living subkeys of a key, sorted, merged from its replicas."""
        query = schema.Query(key_to_bytes(record_key(key)), None, True)
        newest = await self._read(key, query)
        now_s = trio.current_time()
        return {
            subkey: _entry(sighting, now_s)
            for subkey, sighting in newest.items()
            if subkey is not None
        }

    async def find_peer(self, peer_id: PeerId) -> tuple[str, ...]:
        """Where a peer can be dialed, as it says or as those near to it do; empty if none knows."""
        width = self._state.config.replicas
        lookup = await self._client.find_nearest(node_key(peer_id), width)
        for contact in (*lookup.answered(), *lookup.unanswered):
            if contact.peer_id == peer_id:
                return contact.addresses
        return ()

    async def survey(self, *, peers_max: int) -> dict[PeerId, tuple[str, ...]]:
        """Who is in the swarm, as its members name each other, and where each can be dialed."""
        node = self._state.node
        return await survey(self._state, self._client, peers_max=peers_max, rng=node.rng)

    async def trace(
        self, key: str, *, subkey: str | None = None, dictionary: bool = False
    ) -> Trace:
        """Search for a value as a reader would, until all replicas answered, and tell each step."""
        return await trace(self._state, self._client, key, subkey, dictionary=dictionary)

    @property
    def stats(self) -> schema.Stats:
        """What we hold, and what we have done since we joined."""
        return stats(self._state)

    async def stats_of(self, peer_id: PeerId, addresses: Iterable[str] = ()) -> schema.Stats:
        """What another node says of itself; nobody checks it.

        Raises:
            P2PError: it did not answer, or is too old to say.
        """
        contact = Contact(peer_id, node_key(peer_id), tuple(addresses))
        return await self._client.stats(contact)

    # --- writing ------------------------------------------------------------------------------

    def _new_record(self, key: str, value: bytes, subkey: str | None, ttl_s: float) -> Record:
        record = Record(key=key, subkey=subkey, value=bytes(value))
        if record.owner is not None:
            if record.owner != self._state.node.peer_id:
                raise RecordInvalid(f"only {record.owner} can write the subkey {subkey}")
            life_ms = int(min(ttl_s, SIGNED_LIFE_S_MAX) * 1000)
            record = self._sign(replace(record, life_ms=max(0, life_ms)))
        complaint = self._state.store.complaint(record, ttl_s)
        if complaint is not None:
            raise RecordInvalid(complaint)
        return record

    def _sign(self, record: Record) -> Record:
        """The record with the next sequence number, the swarm's time and our signature."""
        wall_s = self._state.swarm_wall_s
        numbered = replace(
            record, sequence=self._sequencer.next(wall_s), signed_at_ms=int(wall_s * 1000)
        )
        return sign_record(numbered, self._state.node.identity)

    def _with_ourselves(self, contacts: list[Contact], target: int) -> list[Contact | None]:
        """The contacts, and None for us where we are as near; clients hold nothing."""
        own = distance(self._state.own_key, target)
        position = sum(distance(contact.key, target) < own for contact in contacts)
        if self._state.node.client_mode:
            return list(contacts)
        return [*contacts[:position], None, *contacts[position:]]

    async def _offer(
        self, record: Record, expires_at_s: float, candidates: list[Contact | None]
    ) -> _Offer:
        """Offer a record to the nearest; for each that fails, to the next in line."""
        offer = _Offer()
        waiting = list(reversed(candidates))

        async def fill_a_place() -> None:
            while waiting and not await self._offer_to(waiting.pop(), record, expires_at_s, offer):
                pass

        async with trio.open_nursery() as nursery:
            for _ in range(self._state.config.replicas):
                nursery.start_soon(fill_a_place)
        return offer

    async def _offer_to(
        self, contact: Contact | None, record: Record, expires_at_s: float, offer: _Offer
    ) -> bool:
        """Whether this node now holds the record, or a newer one."""
        now_s = trio.current_time()
        if contact is None:
            peer_id = self._state.node.peer_id
            result = self._state.store.put(
                record, remaining_s=expires_at_s - now_s, source=peer_id, now_s=now_s
            )
            code, sequence, reason = result.code, result.sequence, result.reason
        else:
            peer_id = contact.peer_id
            try:
                (answer,) = await self._client.store(contact, [(record, expires_at_s - now_s)])
            except P2PError as exc:
                offer.refused[peer_id] = str(exc)
                return False
            code, sequence, reason = StoreCode(answer.code), answer.sequence, answer.reason
        if code is StoreCode.REFUSED:
            offer.refused[peer_id] = reason
            return False
        offer.replicas += code is StoreCode.STORED
        offer.newer += code is StoreCode.OLDER
        offer.newer_sequence = max(offer.newer_sequence, sequence)
        return True

    # --- reading ------------------------------------------------------------------------------

    async def _read(self, key: str, query: schema.Query) -> dict[str | None, Sighting]:
        """What the replicas hold, ourselves included; those that lag behind are mended."""
        state, target = self._state, record_key(key)
        reading = Reading()
        own = self._own_sightings(target, query)
        if not state.node.client_mode:
            reading.on_answer(state.node.peer_id, own)

        async def ask(contact: Contact) -> tuple[list[Contact], Hashable]:
            contacts, sightings = await self._client.find_value(contact, key, query)
            reading.on_answer(contact.peer_id, sightings)
            return contacts, _version(sightings)

        lookup = self._client.lookup(
            target,
            state.config.replicas,
            holders_wanted=state.config.read_replicas,
            # A copy that we keep without being a replica may be an old one.
            own_version=_version(own) if None in state.replicas_of(target) else None,
        )
        await self._client.search(lookup, ask)
        replicas = self._with_ourselves(lookup.answered(), target)[: state.config.replicas]
        for contact in replicas:
            peer_id = state.node.peer_id if contact is None else contact.peer_id
            lacked = reading.lacked_by(peer_id, trio.current_time())
            if lacked and self._repairs < _REPAIRS_MAX:
                self._repairs += 1
                self._nursery.start_soon(self._repair, contact, lacked)
        return reading.newest(trio.current_time())

    def _own_sightings(self, target: int, query: schema.Query) -> list[Sighting]:
        store, now_s = self._state.store, trio.current_time()
        if query.dictionary:
            limits = self._state.config.store
            held, _ = store.dictionary(target, "", limits.total_bytes_max, now_s)
        else:
            one = store.get(target, query.subkey, now_s)
            held = [one] if one is not None else []
        return [Sighting(item.record, item.expires_at_s) for item in held]

    async def _repair(self, contact: Contact | None, lacked: list[Sighting]) -> None:
        """Give a replica what it lacks; unlike a cache, this never serves anything stale."""
        state, now_s = self._state, trio.current_time()
        records = [(item.record, item.expires_at_s - now_s) for item in lacked]
        try:
            if contact is not None:
                await self._client.store(contact, records)
                return
            for record, left_s in records:
                state.store.put(record, remaining_s=left_s, source=state.node.peer_id, now_s=now_s)
        except P2PError:
            # The routing table has noted the failure; the next reader will try again.
            return
        finally:
            self._repairs -= 1


def _version(sightings: list[Sighting]) -> Hashable:
    """What holders must agree upon: the one record's version, or which subkeys there are."""
    if not sightings:
        return None
    if len(sightings) == 1:
        return sightings[0].record.version
    return frozenset(sighting.record.subkey for sighting in sightings)


def _entry(sighting: Sighting, now_s: float) -> Entry:
    record = sighting.record
    return Entry(record.value, sighting.expires_at_s - now_s, record.owner, record.sequence)


@asynccontextmanager
async def open_dht(
    node: Node, config: DhtConfig | None = None, initial_peers: Iterable[str] = ()
) -> AsyncIterator[Dht]:
    """Take part in the DHT; entered means that we know our neighbours, and they us.

    Args:
        initial_peers: full multiaddresses of nodes that may be there; none starts a new DHT.

    Raises:
        UnreachableError: none of the initial peers answered; each attempt is listed.
        AddressInvalid: an initial peer's address is none, or lacks the peer id.
    """
    state = DhtState(node, config or DhtConfig())
    client = DhtClient(state)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(open_service_nursery())
        upkeep = Upkeep(state, client, nursery, initial_peers)
        if not node.client_mode:
            await stack.enter_async_context(DhtServer(state).service().serving(node))
        await upkeep.join()
        nursery.start_soon(upkeep.run)
        nursery.start_soon(keep_gauges, state)
        try:
            yield Dht(state, client, nursery)
        finally:
            await upkeep.say_farewell()
