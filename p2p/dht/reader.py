"""Reader: asks replicas for values, alone or many at once, shares answers, and mends what lags."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import trio

from p2p.dht import schema
from p2p.dht.cache import Found, Name, ReadCache
from p2p.dht.client import DhtClient
from p2p.dht.contact import Contact
from p2p.dht.core import version_of
from p2p.dht.key import key_to_bytes, record_key
from p2p.dht.neighbourhood import Neighbourhood, expected_bits, grouped, neighbourhood_of
from p2p.dht.reading import Reading, Sighting
from p2p.dht.state import DhtState
from p2p.errors import P2PError

# Repairs under way at once; a reader's good deed is dropped when there are more.
_REPAIRS_MAX = 8
# Lookups or calls under way at once for one bulk read.
_AT_ONCE_MAX = 8


@dataclass
class _Flight:
    """A read under way; those who wait for it share its answer."""

    asked_at_s: float
    departed: bool = False
    """Whether it may have asked somebody already."""
    landed: trio.Event = field(default_factory=trio.Event)
    found: Found | None = None


class Reader:
    """Reads of one node; what was read is kept for readers to whom it is new enough."""

    def __init__(self, state: DhtState, client: DhtClient, nursery: trio.Nursery) -> None:
        self._state = state
        self._client = client
        self._nursery = nursery
        self._repairs = 0
        self._flights: dict[Name, _Flight] = {}
        self._used = trio.Event()
        self.cache = ReadCache()

    async def read(self, name: Name, max_age_s: float) -> Found:
        """What the replicas held at most ``max_age_s`` ago, or when they are asked now.

        Reads of the same that begin at once are one; so are those under way that began recently
        enough for the reader.
        """
        while True:
            now_s = trio.current_time()
            cached = self._cached(name, max_age_s)
            if cached is not None:
                return cached
            flight = self._flights.get(name)
            if flight is None or (flight.departed and flight.asked_at_s < now_s - max_age_s):
                return await self._fly(name, lambda: self._ask_replicas(name))
            await flight.landed.wait()
            if flight.found is not None:
                return flight.found

    async def read_many(
        self, keys: Iterable[str], subkey: str | None, max_age_s: float
    ) -> dict[str, Found]:
        """The same for many keys, with one lookup for all that have the same neighbours."""
        found: dict[str, Found] = {}
        by_target: dict[int, str] = {}
        for key in keys:
            cached = self._cached((key, subkey, False), max_age_s)
            if cached is not None:
                found[key] = cached
            else:
                by_target[record_key(key)] = key
        limiter = trio.CapacityLimiter(_AT_ONCE_MAX)

        async def read_group(targets: list[int]) -> None:
            async with limiter:
                if len(targets) == 1:
                    key = by_target[targets[0]]
                    found[key] = await self.read((key, subkey, False), max_age_s)
                    return
                while targets:
                    near = await self.neighbourhood(targets[0])
                    covered = [one for one in targets if one == targets[0] or near.covers(one)]
                    targets = [one for one in targets if one not in covered]
                    keys_here = [by_target[target] for target in covered]
                    found.update(await self._read_near(near, keys_here, subkey))

        async with trio.open_nursery() as nursery:
            for targets in self.groups(by_target):
                nursery.start_soon(read_group, targets)
        return found

    def on_written(self, key: str, subkey: str | None) -> None:
        """We wrote it ourselves: no answer that was asked for before is one for later readers."""
        for name in self.cache.on_written(key, subkey, trio.current_time()):
            self._flights.pop(name, None)

    async def keep_used_fresh(self) -> None:
        """Read again what is in use, before it is too old; until cancelled."""
        while True:
            deadline_s = self.cache.deadline_s
            with trio.move_on_at(float("inf") if deadline_s is None else deadline_s):
                await self._used.wait()
            self._used = trio.Event()
            for name in self.cache.due(trio.current_time()):
                self._nursery.start_soon(self.read, name, 0.0)

    # --- neighbourhoods -----------------------------------------------------------------------

    def groups(self, targets: Iterable[int]) -> list[list[int]]:
        """Keys that are likely to have the same neighbours."""
        state = self._state
        bits = expected_bits(state.own_key, state.table.confirmed, state.config.bucket_size)
        return grouped(targets, bits)

    async def neighbourhood(self, target: int, *, with_care: bool = False) -> Neighbourhood:
        """The nodes around a key, found by one wide lookup."""
        config = self._state.config
        if self._state.knows_everybody:
            everybody = self._state.table.nearest(
                target, config.bucket_size, trio.current_time(), confirmed_only=True
            )
            return Neighbourhood(target, tuple(everybody), 0)
        lookup = await self._client.find_nearest(target, config.bucket_size, with_care=with_care)
        near = neighbourhood_of(
            target, lookup.answered(), width=config.bucket_size, replicas=config.replicas
        )
        return replace(near, silent=(*lookup.late, *lookup.silent))

    def with_ourselves(self, contacts: Sequence[Contact], target: int) -> list[Contact | None]:
        """The contacts, and None for us where we are as near; clients hold nothing."""
        return self._state.core.with_ourselves(contacts, target)

    # --- asking -------------------------------------------------------------------------------

    def _cached(self, name: Name, max_age_s: float) -> Found | None:
        deadline_s = self.cache.deadline_s
        found = self.cache.get(name, max_age_s=max_age_s, now_s=trio.current_time())
        if self.cache.deadline_s != deadline_s:
            self._used.set()
        return found

    async def _fly(self, name: Name, read: Callable[[], Awaitable[Found]]) -> Found:
        flight = self._flights[name] = _Flight(trio.current_time())
        try:
            # Who asks for the same in this moment comes along.
            await trio.lowlevel.checkpoint()
            flight.departed = True
            flight.asked_at_s = trio.current_time()
            flight.found = await read()
            self.cache.on_read(name, flight.found, flight.asked_at_s)
            return flight.found
        finally:
            if self._flights.get(name) is flight:
                del self._flights[name]
            flight.landed.set()

    async def _ask_replicas(self, name: Name, *, shuns: bool = True) -> Found:
        """What the replicas hold, ourselves included; those that lag behind are mended."""
        key, subkey, dictionary = name
        core, target = self._state.core, record_key(key)
        query = schema.Query(key_to_bytes(target), subkey, dictionary)
        own = self._own_sightings(target, query)
        avoid = self._client.shunned if shuns else lambda _: False
        lookup, reading = core.reading_lookup(target, own, trio.current_time(), avoid)

        async def ask(contact: Contact) -> tuple[list[Contact], Hashable]:
            contacts, sightings = await self._client.find_value(contact, key, query)
            reading.on_answer(contact.peer_id, sightings)
            return contacts, version_of(sightings)

        await self._client.search(lookup, ask)
        if core.worth_another_try(lookup, reading, trio.current_time()):
            lookup, reading = core.reading_lookup(target, own, trio.current_time())
            await self._client.search(lookup, ask)
        self._mend(reading, self.with_ourselves(lookup.answered(), target))
        return reading.newest(trio.current_time())

    async def _read_near(
        self, near: Neighbourhood, keys: list[str], subkey: str | None
    ) -> dict[str, Found]:
        """Read keys whose replicas are known: as many as must agree first, all if they do not."""
        core, config, asked_at_s = self._state.core, self._state.config, trio.current_time()
        readings = {key: Reading() for key in keys}
        versions: dict[str, list[Hashable]] = {key: [] for key in keys}
        replicas = {
            key: self.with_ourselves(near.nearest(record_key(key)), record_key(key)) for key in keys
        }
        for start, stop in ((0, config.read_replicas), (config.read_replicas, config.replicas)):
            parcels: dict[Contact | None, list[str]] = {}
            for key in keys:
                if start and _agree(versions[key], config.read_replicas):
                    continue
                for contact in replicas[key][start:stop]:
                    parcels.setdefault(contact, []).append(key)

            async def ask(contact: Contact | None, asked: list[str]) -> None:
                for key, sightings in (await self._ask_many(contact, asked, subkey)).items():
                    peer_id = self._state.node.peer_id if contact is None else contact.peer_id
                    readings[key].on_answer(peer_id, sightings)
                    versions[key].append(version_of(sightings))

            async with trio.open_nursery() as nursery:
                for contact, asked in parcels.items():
                    nursery.start_soon(ask, contact, asked)
        found: dict[str, Found] = {}
        again: list[str] = []
        for key in keys:
            newest = readings[key].newest(trio.current_time())
            silent = len(replicas[key][: config.replicas]) - len(versions[key])
            silent += near.silent_near(record_key(key), config.replicas)
            if not readings[key].heard or (not newest and silent >= core.too_silent):
                # Whoever the lookup heard has gone, or whoever holds it said nothing.
                again.append(key)
                continue
            self._mend(readings[key], replicas[key])
            found[key] = newest
            self.cache.on_read((key, subkey, False), newest, asked_at_s)
        found.update(await self._read_each(again, subkey))
        return found

    async def _read_each(self, keys: Iterable[str], subkey: str | None) -> dict[str, Found]:
        """Read keys anew, each with a lookup of its own that shuns nobody."""
        found: dict[str, Found] = {}
        limiter = trio.CapacityLimiter(_AT_ONCE_MAX)

        async def read(key: str) -> None:
            async with limiter:
                name = (key, subkey, False)
                found[key] = await self._fly(name, lambda: self._ask_replicas(name, shuns=False))

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(read, key)
        return found

    async def _ask_many(
        self, contact: Contact | None, keys: list[str], subkey: str | None
    ) -> dict[str, list[Sighting]]:
        """What one replica holds; nothing of a key when it does not answer."""
        queries = {
            key: schema.Query(key_to_bytes(record_key(key)), subkey) for key in dict.fromkeys(keys)
        }
        if contact is None:
            return {
                key: self._own_sightings(record_key(key), query) for key, query in queries.items()
            }
        try:
            return await self._client.find_values(contact, queries)
        except P2PError:
            # The routing table has noted it, and other replicas are asked, too.
            return {}

    def _own_sightings(self, target: int, query: schema.Query) -> list[Sighting]:
        store, now_s = self._state.store, trio.current_time()
        if query.dictionary:
            limits = self._state.config.store
            held, _ = store.dictionary(target, "", limits.total_bytes_max, now_s)
        else:
            one = store.get(target, query.subkey, now_s)
            held = [one] if one is not None else []
        return [Sighting(item.record, item.expires_at_s) for item in held]

    # --- mending ------------------------------------------------------------------------------

    def _mend(self, reading: Reading, nearest: Sequence[Contact | None]) -> None:
        """Give what was read to replicas that lack it."""
        for contact, lacked in self._state.core.lagging(nearest, reading, trio.current_time()):
            if self._repairs < _REPAIRS_MAX:
                self._repairs += 1
                self._nursery.start_soon(self._repair, contact, lacked)

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


def _agree(versions: Sequence[Hashable], wanted: int) -> bool:
    """Whether so many holders hold the same."""
    return any(version is not None and versions.count(version) >= wanted for version in versions)
