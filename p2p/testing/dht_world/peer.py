"""SimulatedPeer: drives one node's core by events, as the service does over trio."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from p2p.dht import chores
from p2p.dht.contact import Contact
from p2p.dht.core import SPARE_CONTACTS, DhtCore, life_left_s, version_of
from p2p.dht.key import record_key
from p2p.dht.lookup import Search
from p2p.dht.offer import Offer, PutReport
from p2p.dht.reading import Sighting
from p2p.dht.record import Record, Sequencer, owned_subkey
from p2p.dht.schema import CONTACTS_MAX
from p2p.peer_id import PeerId
from p2p.testing.dht_world.latency import Place
from p2p.testing.dht_world.liar import Liar
from p2p.testing.dht_world.network import Call, Kind, Purpose, SimulatedCalls
from p2p.testing.dht_world.signing import StandInSigning
from p2p.testing.dht_world.steps import Offering, Resume, Steps, Wait, all_of
from p2p.testing.dht_world.steps import Search as Searching


@dataclass(frozen=True, slots=True)
class Found:
    """What a read came to."""

    record: Record | None
    hops: int
    queries: int
    seconds: float


class SimulatedPeer:
    """A node: all it decides is decided by its core, but for what a liar answers when asked."""

    def __init__(
        self,
        contact: Contact,
        place: Place,
        side: int,
        core: DhtCore,
        calls: SimulatedCalls,
        signing: StandInSigning,
        rng: random.Random,
        initial: list[Contact],
        liar: Liar | None = None,
    ) -> None:
        self.contact, self.place, self.side, self.core = contact, place, side, core
        self.alive = True
        self.joined = False
        self.links: dict[PeerId, None] = {}
        self.served = 0
        self.served_before: int | None = None
        """What it had served when measuring began; None if it came later."""
        self.index = 0
        """Where it stands in the world's list."""
        self._calls, self._heap, self._signing = calls, calls.heap, signing
        self._rng, self._initial, self.liar = rng, initial, liar
        self._greeting = False
        self._sequencer = Sequencer()

    # --- running steps ------------------------------------------------------------------------

    def start(self, steps: Steps[Any]) -> None:
        """Do something that takes time; it ends with the peer."""
        self._go_on(steps)

    def _go_on(self, steps: Steps[Any], outcome: Any = None) -> None:
        if not self.alive:
            steps.close()
            return
        try:
            wanted = steps.send(outcome)
        except StopIteration:
            return
        if isinstance(wanted, float):
            self._heap.after(wanted, self._go_on, steps)
        else:
            wanted(partial(self._go_on, steps))

    def _ask(self, contact: Contact, kind: Kind, request: Any, purpose: Purpose) -> Wait:
        def wait(resume: Resume) -> None:
            self._calls.call(self, self.core.table.known(contact), kind, request, purpose, resume)

        return wait

    # --- called by the network ----------------------------------------------------------------

    def on_answer(self, contact: Contact, took_s: float) -> None:
        """A peer answered; how it tells the time is of no matter here: all clocks agree."""
        self.core.latencies.on_answer(took_s)
        self._on_spoke(contact)

    def on_failure(self, contact: Contact) -> None:
        """A peer did not answer in time."""
        self.core.table.on_failed(contact.peer_id, contact.key, self._heap.now_s)

    def _on_spoke(self, contact: Contact) -> None:
        if self.core.on_spoke(contact, self._heap.now_s) and not self._greeting and self.joined:
            self._greeting = True
            self.start(self._greet_newcomers())

    def serve(self, caller: Contact, kind: Kind, request: Any) -> Any:
        """The answer to a call; None is silence."""
        if kind is Kind.LEAVE:
            self.core.table.on_left(caller.peer_id, caller.key)
            return True
        self._on_spoke(caller)
        if kind is Kind.PING:
            return True
        if self.liar is not None:
            return self.liar.answer(kind, request, partial(self._answer, caller, kind, request))
        return self._answer(caller, kind, request)

    def _answer(self, caller: Contact, kind: Kind, request: Any) -> Any:
        core, now_s = self.core, self._heap.now_s
        if kind is Kind.FIND_NODE:
            targets, count = request
            return [core.named_to(caller.peer_id, target, count, now_s) for target in targets]
        if kind is Kind.FIND_VALUE:
            target, subkey, count = request
            held = core.store.get(target, subkey, now_s)
            records = [] if held is None else [(held.record, held.expires_at_s - now_s)]
            return core.named_to(caller.peer_id, target, count, now_s), records
        answers = []
        for record, left_s in request:
            complaint = core.chain.complaint(record, now_s)
            result = core.accept(
                record, left_s, complaint, source=caller.peer_id, now_s=now_s, wall_s=now_s
            )
            answers.append((result.code, result.sequence))
        return answers

    # --- looking up ---------------------------------------------------------------------------

    def _shunned(self, peer_id: PeerId) -> bool:
        return self.core.table.shunned(peer_id, self._heap.now_s)

    def find_nearest(
        self,
        target: int,
        width: int,
        purpose: Purpose = Purpose.UPKEEP,
        *,
        with_care: bool = False,
    ) -> Steps[Search]:
        """Look up the nodes nearest to a key."""
        core = self.core
        lookup = core.lookup_nearest(
            target, width, self._heap.now_s, with_care=with_care, avoid=self._shunned
        )
        request = (target,), min(width + SPARE_CONTACTS, CONTACTS_MAX)

        def on_answer(contact: Contact, answer: list[list[Contact]]) -> None:
            core.on_answer(lookup, contact, answer[0], None, self._heap.now_s)

        yield partial(self._search, lookup, Kind.FIND_NODE, request, purpose, on_answer)
        core.on_search_end(lookup, self._heap.now_s)
        return lookup

    def _search(
        self,
        lookup: Search,
        kind: Kind,
        request: Any,
        purpose: Purpose,
        on_answer: Any,
        resume: Resume,
    ) -> None:
        def start(contact: Contact, done: Resume) -> Call:
            known = self.core.table.known(contact)
            return self._calls.call(self, known, kind, request, purpose, done)

        Searching(self._heap, lookup, start, on_answer, resume).go_on()

    def get(self, key: str, subkey: str) -> Steps[Found]:
        """The newest record of a subkey; replicas that lag behind are mended."""
        core, begun_s = self.core, self._heap.now_s
        target = record_key(key)
        held = core.store.get(target, subkey, begun_s)
        own = [] if held is None else [Sighting(held.record, held.expires_at_s)]
        lookup, reading = core.reading_lookup(target, own, begun_s, self._shunned)
        request = target, subkey, core.config.replicas + SPARE_CONTACTS

        def on_answer(contact: Contact, answer: Any) -> None:
            named, records = answer
            now_s = self._heap.now_s
            # On the wire a record has no key: it is taken to be of the one that was asked for.
            asked = [
                (record if record.key == key else replace(record, key=key), left_s)
                for record, left_s in records
            ]
            sightings = [
                Sighting(record, now_s + life_left_s(record, left_s, now_s))
                for record, left_s in asked
                if record.subkey == subkey
                and left_s > 0
                and core.chain.complaint(record, now_s) is None
            ]
            reading.on_answer(contact.peer_id, sightings)
            core.on_answer(lookup, contact, named, version_of(sightings), now_s)

        yield partial(self._search, lookup, Kind.FIND_VALUE, request, Purpose.GET, on_answer)
        now_s = self._heap.now_s
        core.on_search_end(lookup, now_s)
        queries = lookup.queries
        if core.worth_another_try(lookup, reading, now_s):
            lookup, reading = core.reading_lookup(target, own, now_s)
            yield partial(self._search, lookup, Kind.FIND_VALUE, request, Purpose.GET, on_answer)
            now_s = self._heap.now_s
            core.on_search_end(lookup, now_s)
            queries += lookup.queries
        replicas = core.with_ourselves(lookup.answered(), target)
        for lagging, lacked in core.lagging(replicas, reading, now_s):
            repairs = [(one.record, one.expires_at_s - now_s) for one in lacked]
            if lagging is not None:
                self._ask(lagging, Kind.STORE, repairs, Purpose.GET)(_forget)
                continue
            for record, left_s in repairs:
                core.store.put(record, remaining_s=left_s, source=self.contact.peer_id, now_s=now_s)
        newest = reading.newest(now_s).get(subkey)
        return Found(
            newest.record if newest is not None else None,
            lookup.hops,
            queries,
            now_s - begun_s,
        )

    # --- putting ------------------------------------------------------------------------------

    def put(self, key: str, value: bytes, life_s: float) -> Steps[tuple[Record, PutReport]]:
        """Store a signed record at the nodes nearest to its key."""
        core, begun_s = self.core, self._heap.now_s
        record = self._signing.sign(
            Record(
                key=key,
                subkey=owned_subkey(self.contact.peer_id),
                value=value,
                sequence=self._sequencer.next(begun_s),
                life_ms=int(life_s * 1000),
                signed_at_ms=int(begun_s * 1000),
            )
        )
        target = record_key(key)
        if core.knows_everybody(begun_s):
            nearest = core.replicas_of(target, begun_s, len(core.table))
            wanted = [one for one in nearest[: core.config.replicas] if one is not None]
        else:
            lookup = yield from self.find_nearest(
                target, core.config.replicas, Purpose.PUT, with_care=True
            )
            nearest = core.with_ourselves(lookup.answered(), target)
            wanted = core.nearest_found(lookup)
        own_id = self.contact.peer_id
        contacts = {own_id if one is None else one.peer_id: one for one in nearest}
        offer = Offer(contacts, replicas=core.config.replicas)

        def start(peer_id: PeerId, resume: Resume) -> Call | None:
            now_s = self._heap.now_s
            left_s, contact = begun_s + life_s - now_s, contacts[peer_id]
            if contact is None:
                result = core.store.put(record, remaining_s=left_s, source=own_id, now_s=now_s)
                offer.on_answer(own_id, result.code, result.sequence, result.reason)
                return None
            known = core.table.known(contact)
            request = [(record, left_s)]
            return self._calls.call(self, known, Kind.STORE, request, Purpose.PUT, resume)

        def on_stall(peer_id: PeerId) -> None:
            contact = contacts[peer_id]
            if contact is not None:
                self.on_failure(contact)

        stall_s = core.config.stall_s
        yield lambda resume: Offering(
            self._heap,
            offer,
            start,
            on_stall,
            hedge_s=core.latencies.hedge_s(stall_s),
            stall_s=stall_s,
            resume=resume,
        ).go_on()
        left_s = begun_s + life_s - self._heap.now_s
        for contact in offer.unheard(wanted):
            self._ask(contact, Kind.STORE, [(record, left_s)], Purpose.PUT)(_forget)
        return record, offer.report(record.sequence)

    # --- upkeep -------------------------------------------------------------------------------

    def meet(self, initial: list[Contact]) -> None:
        """Try others next time."""
        self._initial = initial

    def join(self) -> Steps[bool]:
        """Meet an initial peer, then our neighbours; False when no initial peer answers."""
        yield all_of([self._ask(c, Kind.PING, None, Purpose.UPKEEP) for c in self._initial])
        core = self.core
        first = next((c for c in self._initial if core.table.has_place(c)), None)
        if first is None and self._initial:
            return False
        if first is not None:
            targets = core.join_targets(self._rng)
            request = tuple(targets), core.config.replicas
            named = yield self._ask(first, Kind.FIND_NODE, request, Purpose.UPKEEP)
            now_s = self._heap.now_s
            for target, contacts in zip(targets, named or [], strict=False):
                core.table.on_looked_up(target, now_s)
                core.table.on_heard_of(contacts, now_s)
            yield from self.find_nearest(core.own_key, core.config.bucket_size)
        self.joined = True
        self.start(self._look_after_contacts())
        self.start(self._look_after_records())
        if core.newcomers:
            self._greeting = True
            self.start(self._greet_newcomers())
        return True

    def _pause_s(self, seconds: float) -> float:
        return seconds * self._rng.uniform(*chores.SPREAD)

    def _ping(self, contact: Contact) -> Wait:
        return self._ask(contact, Kind.PING, None, Purpose.UPKEEP)

    def _look_after_contacts(self) -> Steps[None]:
        core = self.core
        rejoin_at_s = self._heap.now_s + chores.REJOIN_S
        while True:
            yield self._pause_s(chores.contacts_pause_s(core))
            now_s = self._heap.now_s
            if now_s >= rejoin_at_s:
                rejoin_at_s = now_s + chores.REJOIN_S
                yield from self._rejoin()
            witness = core.table.witness()
            if witness is not None:
                yield self._ping(witness)
            stale = chores.pings_due(core, self._heap.now_s, self.links.__contains__)
            if stale:
                yield all_of([self._ping(contact) for contact in stale])
            refresh = chores.refresh_due(core, now_s, self._rng)
            if refresh is not None:
                yield from self.find_nearest(*refresh)

    def _rejoin(self) -> Steps[None]:
        was_empty = len(self.core.table) == 0
        for contact in self._initial:
            if not self.core.table.has_place(contact):
                yield self._ping(contact)
        if was_empty and len(self.core.table):
            yield from self.find_nearest(self.core.own_key, self.core.config.bucket_size)

    def _greet_newcomers(self) -> Steps[None]:
        while self.core.newcomers:
            yield chores.HAND_OVER_DELAY_S
            newcomers = self.core.take_newcomers(self._heap.now_s)
            yield self._deliver(chores.handed_over(self.core, newcomers, self._heap.now_s))
        self._greeting = False

    def _look_after_records(self) -> Steps[None]:
        core = self.core
        while True:
            yield self._pause_s(chores.records_pause_s(core))
            core.store.expire(self._heap.now_s)
            yield self._deliver(chores.republished(core, self._heap.now_s))

    def _deliver(self, deliveries: Iterator[list[chores.Delivery]]) -> Wait:
        parcels = chores.Parcels()
        for of_one_key in deliveries:
            for contact, held in of_one_key:
                parcels.add(contact, held, self._heap.now_s)
        return all_of(
            [
                self._ask(contact, Kind.STORE, records, Purpose.UPKEEP)
                for contact, records in parcels.by_peer.values()
            ]
        )

    def say_farewell(self) -> Steps[None]:
        """Hand our records over, and tell our neighbours that we go."""
        core, now_s = self.core, self._heap.now_s
        yield self._deliver(chores.bequeathed(core, now_s))
        neighbours = core.table.nearest(core.own_key, core.config.bucket_size, self._heap.now_s)
        yield all_of(
            [
                self._ask(contact, Kind.LEAVE, None, Purpose.UPKEEP)
                for contact in neighbours
                if contact.peer_id in self.links
            ]
        )


def _forget(_: Any) -> None:
    """What nobody waits for."""
