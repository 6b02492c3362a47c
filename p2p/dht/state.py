"""DhtState: what serving others and asking others have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import trio

from p2p.address import is_circuit
from p2p.dht.config import DhtConfig
from p2p.dht.contact import Contact, networks_of
from p2p.dht.core import DhtCore, life_left_s
from p2p.dht.counters import Counters
from p2p.dht.hearsay import (
    HearsayGuard,
    Reach,
    account_of_untrusted,
    fit_untrusted,
    own_of,
    reach_of_connection,
    seen_at_untrusted,
)
from p2p.dht.mirror import DictionaryMirrors
from p2p.dht.quota import Quotas
from p2p.dht.record import Record
from p2p.dht.schema import (
    ADDRESS_LENGTH_MAX,
    ADDRESSES_MAX,
    ADDRESSES_PASSED_ON_MAX,
    Contacts,
    WireContact,
    WireRecord,
    contact_untrusted,
    contacts_untrusted,
    from_wire,
)
from p2p.dht.store import RecordStore
from p2p.dht.validate import signature_complaints
from p2p.errors import MessageInvalid
from p2p.host.transport import ConnectionInfo
from p2p.node import Node
from p2p.peer_id import PeerId

# Fewer signatures than this take under 3 ms: not worth a thread.
_INLINE_SIGNATURES_MAX = 16
# The peers of one address range may offer together what so many may offer each.
_RANGE_FACTOR = 4
HAND_OVERS_PER_RANGE = 32
"""Newcomers of one public address range that are handed records at once, and in each
`DhtConfig.republish_s`; more are given them when they are due to all."""
# One piece of work for a thread: some 10 ms.
_SIGNATURES_PER_PIECE = 64


class DhtState:
    """A node, and its core: routing table, records, validators and notion of time."""

    def __init__(self, node: Node, config: DhtConfig) -> None:
        self.node = node
        self.config = config
        self.core = DhtCore(
            node.peer_id, config, is_client=lambda: self.is_client, boot=self._new_boot()
        )
        self.own_key, self.table = self.core.own_key, self.core.table
        self.chain, self.clock = self.core.chain, self.core.clock
        self.quotas = Quotas(
            burst=config.store.offered_per_peer_burst, per_s=config.store.offered_per_peer_per_s
        )
        self.range_quotas = Quotas(
            burst=_RANGE_FACTOR * config.store.offered_per_peer_burst,
            per_s=_RANGE_FACTOR * config.store.offered_per_peer_per_s,
        )
        self.hand_overs = Quotas(
            burst=HAND_OVERS_PER_RANGE, per_s=HAND_OVERS_PER_RANGE / config.republish_s
        )
        self.mirrors = DictionaryMirrors()
        self.counters = Counters()
        self.begun_s = trio.current_time()
        self.guard = HearsayGuard()
        self.latencies = self.core.latencies
        self.trusted: set[PeerId] = set()
        """Peers whose addresses our user gave us: they are no hearsay."""
        self.newcomer_came = trio.Event()
        self._node_addresses: tuple[str, ...] = ()
        self._addresses: tuple[str, ...] = ()

    @property
    def store(self) -> RecordStore:
        """The records that we hold; another store once they have been forgotten."""
        return self.core.store

    @property
    def is_client(self) -> bool:
        """Whether we store nothing for others, since outsiders do not get through to us."""
        return self.node.reachability == "private"

    def forget_records(self) -> None:
        """Hold nothing for others any more."""
        self.core.forget_records(self._new_boot())

    def _new_boot(self) -> int:
        return self.node.rng.randrange(1, 2**62)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we can be dialed, as we tell others: without our peer id, which they know.

        Clients tell none: lookups shall not wait for relays, nor for who is on another LAN.
        """
        if self.is_client:
            return ()
        current = self.node.addresses
        if current != self._node_addresses:
            bare = (address.removesuffix(f"/p2p/{self.node.peer_id}") for address in current)
            fit = tuple(address for address in bare if _is_fit(address))
            self._node_addresses, self._addresses = current, fit[:ADDRESSES_MAX]
        return self._addresses

    @property
    def wall_ms(self) -> int:
        """What time we believe it is."""
        return int(self.node.wall_time_s() * 1000)

    @property
    def swarm_wall_s(self) -> float:
        """What time the median of our peers believes it is."""
        return self.node.wall_time_s() + self.clock.offset_s

    def on_request(self, caller: PeerId, addresses: tuple[str, ...]) -> None:
        """A peer asked us something; it is a contact unless it is a client."""
        connections = self._direct(caller)
        for one in connections:
            addresses = seen_at_untrusted(addresses, one.address)
        direct = fit_untrusted(addresses, _reach_over(connections))
        if direct:
            self._on_seen(_seen(contact_untrusted(caller, direct), connections))

    def _direct(self, peer_id: PeerId) -> list[ConnectionInfo]:
        """The connections to a peer that no relay is part of."""
        return [one for one in self.node.connections_to(peer_id) if one.path != "relayed"]

    def reach_of(self, peer_id: PeerId) -> Reach:
        """From how near a connected peer speaks to us."""
        return _reach_over(self._direct(peer_id))

    def account_of(self, peer_id: PeerId) -> str:
        """To whom what a peer stores here is charged: its public address range, else itself.

        An id costs a key, and a flooder has as many as it likes; addresses are harder to come by.
        """
        first = next(iter(self.node.connections_to(peer_id)), None)
        return (account_of_untrusted(first.address) if first else None) or peer_id

    def named_untrusted(self, namer: PeerId, named: Contacts) -> list[Contact]:
        """Whom an answer names, at addresses that the answerer may know; ourselves left out."""
        reach = self.reach_of(namer)
        contacts = []
        for contact in contacts_untrusted(named):
            known = self.table.known(contact)
            if known is contact:
                fit = fit_untrusted(contact.addresses, reach)
                own = self.addresses
                fit = tuple(one for one in fit if one not in own)[:ADDRESSES_PASSED_ON_MAX]
                known = _seen(replace(contact, addresses=fit), self._direct(contact.peer_id))
            if known.addresses and known.peer_id != self.node.peer_id:
                contacts.append(known)
        return contacts

    def to_be_dialed(self, contact: Contact, now_s: float) -> tuple[str, ...]:
        """Where to dial a peer, now or when it has lost its connection to us.

        Of addresses that are not its own for all we see, only so many are tried.
        """
        if contact.peer_id in self.trusted:
            return contact.addresses
        own: dict[str, None] = {}
        for one in self._direct(contact.peer_id):
            own.update(dict.fromkeys(own_of(contact.addresses, one.address)))
        others = (one for one in contact.addresses if one not in own)
        return (*own, *self.guard.admit(others, now_s))

    def told_to(self, caller: PeerId, contacts: Iterable[Contact]) -> tuple[WireContact, ...]:
        """Contacts as they are passed on to a peer: where it may be able to dial them."""
        reach = self.reach_of(caller)
        told = []
        for contact in contacts:
            fit = fit_untrusted(contact.addresses, reach)
            if fit:
                told.append(WireContact(contact.peer_id, fit[:ADDRESSES_PASSED_ON_MAX]))
        return tuple(told)

    def on_answer(self, contact: Contact, wall_ms: int) -> None:
        """A peer answered us."""
        connections = self._direct(contact.peer_id)
        for one in connections:
            if one.outbound:
                self.guard.on_answered(one.address, contact.addresses)
        contact = _seen(contact, connections)
        self._on_seen(contact)
        if self.table.has_place(contact):
            # A lookup hears whom liars name, as many as they like: those are no witnesses.
            voter = contact.seen_in or contact.peer_id
            self.clock.on_answer(voter, wall_ms / 1000, self.node.wall_time_s())

    def _on_seen(self, contact: Contact) -> None:
        now_s = trio.current_time()
        if not self.core.on_spoke(contact, now_s):
            return
        # Ids cost nothing, and each new one is handed records.
        account = self.account_of(contact.peer_id)
        if account != contact.peer_id and not self.hand_overs.admit(account, 1, now_s):
            del self.core.newcomers[contact.peer_id]
            return
        self.newcomer_came.set()

    @property
    def knows_everybody(self) -> bool:
        """As the core says."""
        return self.core.knows_everybody(trio.current_time())

    def replicas_of(self, key: int, spare: int = 0) -> list[Contact | None]:
        """As the core says, now."""
        return self.core.replicas_of(key, trio.current_time(), spare)

    async def complaints_untrusted(self, records: list[Record]) -> list[str | None]:
        """Why each record must not be believed, or None; many signatures are checked in threads."""
        wall_s = self.swarm_wall_s
        refused = await self._bad_signatures(records, first_only=False)
        return [
            refused[i] if i in refused else self.chain.complaint(record, wall_s)
            for i, record in enumerate(records)
        ]

    async def _bad_signatures(self, records: list[Record], *, first_only: bool) -> dict[int, str]:
        """Which records are not signed by their owners, and why; good signatures are remembered."""
        signatures = self.chain.signatures
        unknown = [i for i, record in enumerate(records) if not signatures.knows(record)]
        is_little = len(unknown) <= _INLINE_SIGNATURES_MAX
        refused: dict[int, str] = {}
        for start in range(0, len(unknown), _SIGNATURES_PER_PIECE):
            piece = unknown[start : start + _SIGNATURES_PER_PIECE]
            sought = [records[i] for i in piece]
            verdicts = (
                signature_complaints(sought)
                if is_little
                else await self.node.offload(signature_complaints, sought)
            )
            for i, verdict in zip(piece, verdicts, strict=True):
                if verdict is None:
                    signatures.learn(records[i])
                else:
                    refused[i] = verdict
            if refused and first_only:
                break
        return refused

    async def valid_untrusted(
        self, key: str, wires: tuple[WireRecord, ...]
    ) -> list[tuple[Record, float]]:
        """The records of an answer that pass all validators, with what is left of their life.

        Raises:
            MessageInvalid: an owner has not signed its record; no further ones were looked at.
        """
        records = [from_wire(key, wire) for wire in wires]
        for complaint in (await self._bad_signatures(records, first_only=True)).values():
            raise MessageInvalid(complaint)
        wall_s = self.swarm_wall_s
        return [
            (record, life_left_s(record, wire.remaining_ms / 1000, wall_s))
            for record, wire in zip(records, wires, strict=True)
            if wire.remaining_ms > 0 and self.chain.complaint(record, wall_s) is None
        ]


def _reach_over(connections: Iterable[ConnectionInfo]) -> Reach:
    return max(
        (reach_of_connection(one.address, one.local) for one in connections),
        default=Reach.PUBLIC,
    )


def _seen(contact: Contact, connections: Iterable[ConnectionInfo]) -> Contact:
    """The contact, with the range that we see it in: one that it names, if it is in several."""
    ranges = [r for one in connections if (r := account_of_untrusted(one.address)) is not None]
    if not ranges:
        return contact
    seen_in = next((one for one in ranges if one in networks_of(contact.addresses)), ranges[0])
    return contact if contact.seen_in == seen_in else replace(contact, seen_in=seen_in)


def _is_fit(address: str) -> bool:
    return len(address) <= ADDRESS_LENGTH_MAX and not is_circuit(address)
