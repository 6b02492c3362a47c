"""DhtCore: a node's tables and records, and the rules by which it uses them, without any I/O.

The service drives it over trio, the simulator (p2p/testing/dht_world) on a heap of events: what
the simulator shows of a swarm is what these rules do.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from p2p.dht.config import DhtConfig
from p2p.dht.contact import Contact, choose_diverse, is_diverse
from p2p.dht.key import node_key, random_key_in_bucket
from p2p.dht.latency import Latencies
from p2p.dht.lookup import Lookup, Search
from p2p.dht.paths import DisjointLookup, paths_for
from p2p.dht.reading import Reading, Sighting
from p2p.dht.record import Record, check_signature, within_age_s
from p2p.dht.routing import RoutingTable
from p2p.dht.schema import TARGETS_MAX
from p2p.dht.skew import MedianClock
from p2p.dht.store import Held, RecordStore, StoreCode, StoreResult
from p2p.dht.validate import ValidatorChain
from p2p.peer_id import PeerId

# Beyond the width of the lookup itself: spare names for those that turn out dead.
SPARE_CONTACTS = 3
# Far buckets that a newcomer asks its first peer about at once: enough for a million nodes.
FAR_BUCKETS = TARGETS_MAX - 1
# Peers of whom is remembered when they were handed records.
_HANDED_MAX = 4096


class DhtCore:
    """One node's part in the DHT, as far as it can be decided without waiting for anybody."""

    def __init__(
        self,
        own_id: PeerId,
        config: DhtConfig,
        *,
        is_client: Callable[[], bool] = lambda: False,
        boot: int = 1,
        check_signature: Callable[[Record], None] = check_signature,
    ) -> None:
        """Know nobody, and hold nothing.

        Args:
            is_client: whether we store nothing for others at present; asked whenever it matters.
            boot: a number that no earlier store of this node had.
            check_signature: raises if an owner did not sign the record.
        """
        self.own_id = own_id
        self.own_key = node_key(own_id)
        self.config = config
        self._is_client = is_client
        self.table = RoutingTable(self.own_key, bucket_size=config.bucket_size)
        self.store = RecordStore(config.store, boot=boot)
        self.chain = ValidatorChain(config.validators, check_signature)
        self.clock = MedianClock()
        self.latencies = Latencies()
        # Whether all whom we know answered when we last sought our neighbours.
        self._oriented = True
        self._handed_at_s: OrderedDict[PeerId, float] = OrderedDict()
        self.newcomers: dict[PeerId, Contact] = {}
        """Newly confirmed contacts, that may have to be handed records."""

    @property
    def is_client(self) -> bool:
        """Whether we store nothing for others, at present."""
        return self._is_client()

    def forget_records(self, boot: int) -> None:
        """Hold nothing any more, under a new number of the store."""
        self.store = RecordStore(self.config.store, boot=boot)

    # --- who is there -------------------------------------------------------------------------

    def on_spoke(self, contact: Contact, now_s: float) -> bool:
        """A peer that can be dialed asked or answered us; True if it may have to be handed records.

        Whoever waits for newcomers is then to be woken.
        """
        if not self.table.on_seen(contact, now_s) or self.is_client:
            return False
        if now_s < self._handed_at_s.get(contact.peer_id, float("-inf")) + self.config.republish_s:
            # It has most of it still, or is given it when that is due anyway.
            return False
        self.newcomers[contact.peer_id] = contact
        return True

    def take_newcomers(self, now_s: float) -> dict[PeerId, Contact]:
        """The newcomers since the last time who are still there; they are handed records now."""
        came, self.newcomers = self.newcomers, {}
        newcomers = {peer_id: one for peer_id, one in came.items() if self.table.has_place(one)}
        for peer_id in newcomers:
            self._handed_at_s.pop(peer_id, None)
            self._handed_at_s[peer_id] = now_s
        while len(self._handed_at_s) > _HANDED_MAX:
            self._handed_at_s.popitem(last=False)
        return newcomers

    def on_answer(
        self,
        lookup: Search,
        contact: Contact,
        named: Sequence[Contact],
        version: Hashable,
        now_s: float,
    ) -> None:
        """A peer answered a lookup's query."""
        self.table.on_heard_of(named, now_s)
        lookup.on_answer(contact.peer_id, named, version)

    def on_search_end(self, lookup: Search, now_s: float) -> None:
        """A lookup is over: who has not answered by then has failed, or is slow."""
        if lookup.target == self.own_key:
            self._oriented = len(lookup.answered()) >= min(
                len(self.table.confirmed), self.config.bucket_size
            )
        for contact in lookup.silent:
            self.table.on_failed(contact.peer_id, contact.key, now_s)
        for contact in lookup.late:
            # It may be slow, or frozen: it is pinged soon.
            self.table.on_doubted(contact.peer_id, contact.key)

    def named_to(self, caller: PeerId, key: int, count: int, now_s: float) -> list[Contact]:
        """Contacts that we have heard ourselves, without the caller, who knows itself.

        Nor is anybody named who says to be where we do not see it.
        """
        nearest = self.table.nearest(key, count + 1, now_s, confirmed_only=True)
        named = [one for one in nearest if one.peer_id != caller and not one.elsewhere]
        if len(named) < count < len(nearest):
            everybody = self.table.nearest(key, len(self.table), now_s, confirmed_only=True)
            named = [one for one in everybody if one.peer_id != caller and not one.elsewhere]
        return named[:count]

    def join_targets(self, rng: random.Random) -> list[int]:
        """What a newcomer asks its first peer about: itself and all far parts of the key space."""
        return [self.own_key] + [
            random_key_in_bucket(self.own_key, index, rng) for index in range(FAR_BUCKETS)
        ]

    # --- looking up ---------------------------------------------------------------------------

    def lookup(
        self,
        target: int,
        width: int,
        now_s: float,
        *,
        holders_wanted: int = 0,
        own_version: Hashable = None,
        avoid: Callable[[PeerId], bool] = lambda _: False,
    ) -> Lookup:
        """A lookup that starts from what our routing table knows."""
        self.table.on_looked_up(target, now_s)
        return Lookup(
            target,
            self.table.nearest(target, width + SPARE_CONTACTS, now_s),
            own_id=self.own_id,
            width=width,
            parallelism=self.config.parallelism,
            stall_s=self.config.stall_s,
            hedge_s=self.latencies.hedge_s(self.config.stall_s),
            holders_wanted=holders_wanted,
            own_version=own_version,
            avoid=avoid,
        )

    def lookup_nearest(
        self,
        target: int,
        width: int,
        now_s: float,
        *,
        with_care: bool = False,
        avoid: Callable[[PeerId], bool] = lambda _: False,
    ) -> Search:
        """A lookup for nodes alone; with care on several ways that share no peer."""
        config, paths = self.config, 1
        if with_care:
            known = len(self.table.confirmed)
            paths = paths_for(known, config.bucket_size, config.disjoint_paths)
        if paths == 1:
            return self.lookup(target, width, now_s, avoid=avoid)
        self.table.on_looked_up(target, now_s)
        return DisjointLookup(
            target,
            self.table.nearest(target, (width + SPARE_CONTACTS) * paths, now_s),
            paths=paths,
            own_id=self.own_id,
            width=width,
            parallelism=config.parallelism,
            stall_s=config.stall_s,
            hedge_s=self.latencies.hedge_s(config.stall_s),
            avoid=avoid,
        )

    def reading_lookup(
        self,
        target: int,
        own: Sequence[Sighting],
        now_s: float,
        avoid: Callable[[PeerId], bool] = lambda _: False,
    ) -> tuple[Lookup, Reading]:
        """What a read begins with, from the sightings in our own store."""
        reading = Reading()
        if not self.is_client:
            reading.on_answer(self.own_id, own)
        lookup = self.lookup(
            target,
            self.config.replicas,
            now_s,
            holders_wanted=self.config.read_replicas,
            # A copy that we keep without being a replica may be an old one.
            own_version=version_of(own) if None in self.replicas_of(target, now_s) else None,
            avoid=avoid,
        )
        return lookup, reading

    def worth_another_try(self, lookup: Lookup, reading: Reading, now_s: float) -> bool:
        """Whether a read found nothing, perhaps only because several holders were not heard.

        The next one should shun nobody: those who were silent are just whom to ask again.
        """
        return len(lookup.unanswered) >= self.too_silent and not reading.newest(now_s)

    @property
    def too_silent(self) -> int:
        """With so many replicas silent, that nothing was found means little."""
        return max(1, self.config.replicas - self.config.read_replicas)

    def lagging(
        self, nearest: Sequence[Contact | None], reading: Reading, now_s: float
    ) -> list[tuple[Contact | None, list[Sighting]]]:
        """Which replicas (None: ourselves) a finished read has shown to lack something."""
        lagging = []
        for contact in nearest[: self.config.replicas]:
            lacked = reading.lacked_by(self.own_id if contact is None else contact.peer_id, now_s)
            if lacked:
                lagging.append((contact, lacked))
        return lagging

    # --- who holds what -----------------------------------------------------------------------

    def knows_everybody(self, now_s: float) -> bool:
        """Whether the swarm is so small that every newcomer has made itself known to us, too.

        Who joins asks as many of its nearest as a bucket holds: in such a swarm, all. That is so
        only if our own joining was undisturbed, and nobody has failed of late: a newcomer whose
        few entrances lied or fell silent knows hardly anybody, too.
        """
        return (
            not self.is_client
            and len(self.table) < self.config.bucket_size
            and self._oriented
            and not self.table.unsure
            and not self.table.troubled(now_s)
        )

    def replicas_of(self, key: int, now_s: float, spare: int = 0) -> list[Contact | None]:
        """Who should hold a key as far as we know, nearest first, and so many next in line.

        None stands for ourselves. Crowded address ranges come last.
        """
        count = self.config.replicas + spare
        return self.with_ourselves(self.others_near(key, count, now_s), key)[:count]

    def others_near(self, key: int, count: int, now_s: float) -> list[Contact]:
        """The same without ourselves."""
        nearest = self.table.nearest(key, count, now_s, confirmed_only=True)
        if is_diverse(nearest):
            return nearest
        more = count + self.config.bucket_size
        return choose_diverse(self.table.nearest(key, more, now_s, confirmed_only=True), count)

    def nearest_found(self, lookup: Search) -> list[Contact]:
        """The replicas of a key as a lookup found them, those that were silent among them.

        A record is offered to those who answered. But most who were silent live, and hold what
        was put before: they are to be given it, too, or readers go on finding the old version.
        """
        found = [*lookup.answered(), *lookup.late, *lookup.silent]
        found.sort(key=lambda contact: contact.key ^ lookup.target)
        return choose_diverse(found, self.config.replicas)

    def with_ourselves(self, contacts: Sequence[Contact], target: int) -> list[Contact | None]:
        """The contacts, and None for us where we are as near; clients hold nothing.

        Args:
            contacts: nearest first; behind them, in order as well, those of crowded ranges.
        """
        if self.is_client:
            return list(contacts)
        own, position, before = self.own_key ^ target, 0, -1
        for contact in contacts:
            distance = contact.key ^ target
            # Where the order breaks, the crowded begin: nearer or not, they are behind us.
            if distance > own or distance < before:
                break
            before = distance
            position += 1
        return [*contacts[:position], None, *contacts[position:]]

    def accept(
        self,
        record: Record,
        remaining_s: float,
        complaint: str | None,
        *,
        source: str,
        now_s: float,
        wall_s: float,
    ) -> StoreResult:
        """Take a record that a peer offers, unless the validators have a complaint.

        Args:
            wall_s: the swarm's wall time, by which the age of signed records is judged.
        """
        if complaint is not None:
            return StoreResult(StoreCode.REFUSED, reason=complaint)
        remaining_s = within_age_s(record, remaining_s, wall_s)
        return self.store.put(record, remaining_s=remaining_s, source=source, now_s=now_s)

    def page(
        self,
        key: int,
        after: str,
        room_bytes: int,
        room_records: int,
        now_s: float,
        *,
        since: int = 0,
    ) -> tuple[list[Held], bool]:
        """A page of a dictionary as far as there is room, and whether more follows."""
        if room_bytes <= 0 or room_records <= 0:
            return [], True
        page, more = self.store.dictionary(key, after, room_bytes, now_s, since=since)
        return page[:room_records], more or len(page) > room_records


def life_left_s(record: Record, remaining_s: float, swarm_wall_s: float) -> float:
    """What a holder says is left, but never more than the owner signed, or than its age allows."""
    if record.owner is None:
        return remaining_s
    return min(within_age_s(record, remaining_s, swarm_wall_s), record.life_ms / 1000)


def version_of(sightings: Sequence[Sighting]) -> Hashable:
    """What holders must agree upon: the one record's version, or which subkeys there are."""
    if not sightings:
        return None
    if len(sightings) == 1:
        return sightings[0].record.version
    return frozenset(sighting.record.subkey for sighting in sightings)
