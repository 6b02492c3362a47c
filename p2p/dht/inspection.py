"""Inspection: what a node holds and has done, what another says of itself, and a search traced."""

from __future__ import annotations

from collections.abc import Hashable

import trio

from p2p import metrics
from p2p.dht import schema
from p2p.dht.client import DhtClient
from p2p.dht.contact import Contact
from p2p.dht.key import key_to_bytes, record_key
from p2p.dht.state import DhtState
from p2p.dht.store import StoreCode
from p2p.dht.trace import Trace, Tracer

# Prometheus asks every 15 s unless told otherwise.
_GAUGES_S = 15.0
# Each key costs a pass over the routing table, and strangers may ask.
_SAMPLED_KEYS_MAX = 64
# Strangers are told what was so at most so long ago.
_TOLD_S = 1.0


def stats(state: DhtState) -> schema.Stats:
    """What this node holds and has done."""
    counters, store = state.counters, state.store
    sample = store.sample(_SAMPLED_KEYS_MAX)
    return schema.Stats(
        uptime_ms=int((trio.current_time() - state.begun_s) * 1000),
        contacts=len(state.table),
        confirmed=len(state.table.confirmed),
        records=len(store),
        record_bytes=store.size_bytes,
        record_bytes_max=state.config.store.total_bytes_max,
        sampled_keys=len(sample),
        replica_keys=sum(None in state.replicas_of(key) for key in sample),
        pings=counters.requests[schema.PING.name],
        find_nodes=counters.requests[schema.FIND_NODE.name],
        find_values=counters.requests[schema.FIND_VALUE.name],
        stores=counters.requests[schema.STORE.name],
        stored=counters.offers[StoreCode.STORED],
        older=counters.offers[StoreCode.OLDER],
        refused=counters.offers[StoreCode.REFUSED],
        searches=counters.searches,
        search_hops=counters.search_hops,
        search_ms=int(counters.search_s * 1000),
    )


class ToldStats:
    """What strangers are told of us, worked out once a second at most."""

    def __init__(self, state: DhtState) -> None:
        self._state = state
        self._told: schema.Stats | None = None
        self._told_at_s = 0.0

    def __call__(self) -> schema.Stats:
        """What is, or was a moment ago."""
        now_s = trio.current_time()
        if self._told is None or now_s >= self._told_at_s + _TOLD_S:
            self._told, self._told_at_s = stats(self._state), now_s
        return self._told


async def trace(
    state: DhtState, client: DhtClient, key: str, subkey: str | None, *, dictionary: bool
) -> Trace:
    """Look for a value until all its replicas have answered, and write down each step."""
    target = record_key(key)
    query = schema.Query(key_to_bytes(target), subkey, dictionary)

    async def ask(contact: Contact) -> tuple[list[Contact], Hashable]:
        named, sightings = await client.find_value(contact, key, query)
        return named, frozenset(sighting.record.version for sighting in sightings) or None

    begun_s = trio.current_time()
    lookup = state.core.lookup(target, state.config.replicas, begun_s, avoid=client.shunned)
    tracer = Tracer(
        target,
        begun_s,
        known=lookup.known,
        is_connected=state.node.is_connected,
    )
    await client.search(lookup, ask, tracer)
    return tracer.finish(lookup.answered()[: state.config.replicas], trio.current_time())


async def keep_gauges(state: DhtState) -> None:
    """Keep our part of the process's gauges right until cancelled; several nodes add up."""
    gauges = (metrics.DHT_RECORDS, metrics.DHT_RECORD_BYTES, metrics.DHT_CONTACTS)
    told = [0, 0, 0]
    try:
        while True:
            now = [len(state.store), state.store.size_bytes, len(state.table.confirmed)]
            for gauge, before, value in zip(gauges, told, now, strict=True):
                gauge.inc(value - before)
            told = now
            await trio.sleep(_GAUGES_S)
    finally:
        for gauge, before in zip(gauges, told, strict=True):
            gauge.dec(before)
