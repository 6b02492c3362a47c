"""Writer: signs what is ours, and brings records to the nodes nearest to their keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import trio

from p2p.dht.client import DhtClient
from p2p.dht.contact import Contact
from p2p.dht.key import record_key
from p2p.dht.offer import Offer, PutReport
from p2p.dht.reader import Reader
from p2p.dht.record import SIGNED_LIFE_S_MAX, Record, Sequencer, sign_record
from p2p.dht.state import DhtState
from p2p.dht.store import StoreCode
from p2p.errors import P2PError, RecordInvalid
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId

# Lookups or calls under way at once for one bulk write.
_AT_ONCE_MAX = 8
# Calls under way at once to replicas that were silent when a record was offered to them.
_REMINDERS_MAX = 32
# More than these take longer to send and to check than a query does.
_FEW_RECORDS = 16


@dataclass(frozen=True, kw_only=True)
class PutItem:
    """One value to be put: where, what, and for how long."""

    key: str
    value: bytes
    subkey: str | None = None
    ttl_s: float


@dataclass
class _Parcel:
    """A record on its way."""

    record: Record
    expires_at_s: float
    nearest: list[Contact | None] = field(default_factory=list)
    """To whom to offer it, one after the other."""
    replicas: list[Contact] = field(default_factory=list)
    """Who should hold it; perhaps somebody who was silent when we looked for the nearest."""


class Writer:
    """Writes of one node."""

    def __init__(
        self,
        state: DhtState,
        client: DhtClient,
        reader: Reader,
        nursery: trio.Nursery,
        *,
        sequence_floor: int = 0,
    ) -> None:
        self._state = state
        self._client = client
        self._reader = reader
        self._nursery = nursery
        self._reminders = 0
        self.sequencer = Sequencer(max(state.config.sequence_floor, sequence_floor))

    async def put(self, items: Sequence[PutItem]) -> list[PutReport]:
        """Store values at the nodes nearest to their keys, one report each.

        Raises:
            RecordInvalid: a limit, a validator or another peer's ownership forbids one; then
                none was put.
        """
        now_s = trio.current_time()
        parcels = [_Parcel(self._new_record(item), now_s + item.ttl_s) for item in items]
        complaints = await self._state.complaints_untrusted([one.record for one in parcels])
        for complaint in complaints:
            if complaint is not None:
                raise RecordInvalid(complaint)
        await self._find_replicas(parcels)
        offers = await self._offer(parcels)
        again: list[int] = []
        for index, (parcel, offer) in enumerate(zip(parcels, offers, strict=True)):
            record = parcel.record
            if record.owner is not None and offer.newer_sequence >= record.sequence:
                # An earlier life of ours had got further: go on from there.
                wall_s = self._state.swarm_wall_s
                self.sequencer.on_seen_untrusted(offer.newer_sequence, wall_s)
                if self.sequencer.last >= record.sequence:
                    parcel.record = self._sign(record)
                    again.append(index)
        if again:
            retried = await self._offer([parcels[index] for index in again])
            for index, offer in zip(again, retried, strict=True):
                offers[index] = offer
        for item in items:
            self._reader.on_written(item.key, item.subkey)
        self._remind(parcels, offers)
        return [
            offer.report(parcel.record.sequence)
            for parcel, offer in zip(parcels, offers, strict=True)
        ]

    def _new_record(self, item: PutItem) -> Record:
        record = Record(key=item.key, subkey=item.subkey, value=bytes(item.value))
        if record.owner is not None:
            if record.owner != self._state.node.peer_id:
                raise RecordInvalid(f"only {record.owner} can write the subkey {item.subkey}")
            life_ms = int(min(item.ttl_s, SIGNED_LIFE_S_MAX) * 1000)
            record = self._sign(replace(record, life_ms=max(0, life_ms)))
        complaint = self._state.store.complaint(record, item.ttl_s)
        if complaint is not None:
            raise RecordInvalid(complaint)
        return record

    def _sign(self, record: Record) -> Record:
        """The record with the next sequence number, the swarm's time and our signature."""
        wall_s = self._state.swarm_wall_s
        numbered = replace(
            record, sequence=self.sequencer.next(wall_s), signed_at_ms=int(wall_s * 1000)
        )
        return sign_record(numbered, self._state.node.identity)

    # --- whom to ---------------------------------------------------------------------------

    async def _find_replicas(self, parcels: Sequence[_Parcel]) -> None:
        """Look for the nodes nearest to each key, once for all that have the same neighbours."""
        by_target: dict[int, list[_Parcel]] = {}
        for parcel in parcels:
            by_target.setdefault(record_key(parcel.record.key), []).append(parcel)
        if self._state.knows_everybody:
            for target in by_target:
                nearest = self._state.replicas_of(target, len(self._state.table))
                for parcel in by_target[target]:
                    parcel.nearest = nearest
                    parcel.replicas = [
                        one for one in nearest[: self._state.config.replicas] if one is not None
                    ]
            return
        limiter = trio.CapacityLimiter(_AT_ONCE_MAX)
        reader = self._reader

        def found(target: int, contacts: list[Contact], replicas: list[Contact]) -> None:
            for parcel in by_target[target]:
                parcel.nearest = reader.with_ourselves(contacts, target)
                parcel.replicas = replicas

        def matters(targets: list[int]) -> bool:
            return any(
                parcel.record.owner is not None
                for target in targets
                for parcel in by_target[target]
            )

        async def find_group(targets: list[int]) -> None:
            async with limiter:
                if len(targets) == 1:
                    width = self._state.config.replicas
                    lookup = await self._client.find_nearest(
                        targets[0], width, with_care=matters(targets)
                    )
                    found(targets[0], lookup.answered(), self._state.core.nearest_found(lookup))
                    return
                while targets:
                    near = await reader.neighbourhood(targets[0], with_care=matters(targets))
                    covered = [one for one in targets if one == targets[0] or near.covers(one)]
                    for target in covered:
                        replicas = near.replicas_of(target, self._state.config.replicas)
                        found(target, near.nearest(target), replicas)
                    targets = [one for one in targets if one not in covered]

        async with trio.open_nursery() as nursery:
            for targets in reader.groups(by_target):
                nursery.start_soon(find_group, targets)

    async def _offer(self, parcels: Sequence[_Parcel]) -> list[Offer]:
        """Offer records to the nearest, all of one node's at once, until no place is left."""
        own_id = self._state.node.peer_id
        contacts: dict[PeerId, Contact | None] = {own_id: None}
        offers: list[Offer] = []
        for parcel in parcels:
            ids = [own_id if one is None else one.peer_id for one in parcel.nearest]
            contacts.update((one.peer_id, one) for one in parcel.nearest if one is not None)
            offers.append(Offer(ids, replicas=self._state.config.replicas))
        limiter = trio.CapacityLimiter(_AT_ONCE_MAX)
        woken = trio.Event()

        async def deliver(peer_id: PeerId, indices: list[int]) -> None:
            async with limiter:
                mine = [(parcels[index], offers[index]) for index in indices]
                await self._deliver_in_time(contacts[peer_id], mine, lambda: woken.set())
            woken.set()

        async with open_service_nursery() as nursery:
            while not all(offer.settled for offer in offers):
                woken = trio.Event()
                deliveries: dict[PeerId, list[int]] = {}
                for index, offer in enumerate(offers):
                    for peer_id in offer.next_peers():
                        deliveries.setdefault(peer_id, []).append(index)
                for peer_id, indices in deliveries.items():
                    nursery.start_soon(deliver, peer_id, indices)
                await woken.wait()
        return offers

    def _remind(self, parcels: Sequence[_Parcel], offers: Sequence[Offer]) -> None:
        """Give the records once more to replicas that said nothing, without waiting for them."""
        missed: dict[PeerId, tuple[Contact, list[tuple[_Parcel, Offer]]]] = {}
        for parcel, offer in zip(parcels, offers, strict=True):
            for contact in offer.unheard(parcel.replicas):
                missed.setdefault(contact.peer_id, (contact, []))[1].append((parcel, offer))
        for contact, its_parcels in missed.values():
            if self._reminders < _REMINDERS_MAX:
                self._reminders += 1
                self._nursery.start_soon(self._remind_one, contact, its_parcels)

    async def _remind_one(self, contact: Contact, parcels: Sequence[tuple[_Parcel, Offer]]) -> None:
        try:
            await self._deliver(contact, parcels)
        finally:
            self._reminders -= 1

    async def _deliver_in_time(
        self,
        contact: Contact | None,
        parcels: Sequence[tuple[_Parcel, Offer]],
        on_late: Callable[[], None],
    ) -> None:
        """Offer records to one node, which may be late, and is given up when it stalls."""
        state = self._state
        few = len(parcels) <= _FEW_RECORDS
        stall_s = state.config.stall_s if few else state.config.call_timeout_s
        hedge_s = state.latencies.hedge_s(stall_s) if few else stall_s

        async def watch() -> None:
            await trio.sleep(hedge_s)
            for _, offer in parcels:
                offer.on_late(contact.peer_id if contact else state.node.peer_id)
            on_late()

        with trio.move_on_after(stall_s) as scope:
            async with open_service_nursery() as nursery:
                nursery.start_soon(watch)
                await self._deliver(contact, parcels)
        if scope.cancelled_caught and contact is not None:
            state.table.on_failed(contact.peer_id, contact.key, trio.current_time())
            for _, offer in parcels:
                offer.on_failure(contact.peer_id, f"silent for {stall_s:g} s")

    async def _deliver(
        self, contact: Contact | None, parcels: Sequence[tuple[_Parcel, Offer]]
    ) -> None:
        """Offer records to one node, perhaps ourselves."""
        now_s = trio.current_time()
        if contact is None:
            own_id = self._state.node.peer_id
            for parcel, offer in parcels:
                left_s = parcel.expires_at_s - now_s
                result = self._state.store.put(
                    parcel.record, remaining_s=left_s, source=own_id, now_s=now_s
                )
                offer.on_answer(own_id, result.code, result.sequence, result.reason)
            return
        records = [(parcel.record, parcel.expires_at_s - now_s) for parcel, _ in parcels]
        try:
            answers = await self._client.store(contact, records)
        except P2PError as exc:
            for _, offer in parcels:
                offer.on_failure(contact.peer_id, str(exc))
            return
        for (_, offer), answer in zip(parcels, answers, strict=True):
            offer.on_answer(contact.peer_id, StoreCode(answer.code), answer.sequence, answer.reason)
