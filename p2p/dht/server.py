"""The serving side of the DHT: answers what other peers ask."""

from __future__ import annotations

import trio

from p2p.dht import schema
from p2p.dht.inspection import ToldStats
from p2p.dht.key import key_from_bytes, node_key
from p2p.dht.record import Record
from p2p.dht.schema import from_wire, to_wire
from p2p.dht.state import DhtState
from p2p.dht.store import Held
from p2p.errors import RefusedError
from p2p.peer_id import PeerId
from p2p.rpc import RpcService

_OVER_QUOTA = "you offer more records than a peer may, or too many invalid ones; wait a minute"


class DhtServer:
    """Handlers of all methods, over the shared state."""

    def __init__(self, state: DhtState) -> None:
        self._state = state
        self._told_stats = ToldStats(state)

    def service(self) -> RpcService:
        """The RPC service to be served while the DHT is open."""
        service = RpcService(schema.SERVICE, schema.MAJOR)
        service.unary(schema.PING, self._on_ping)
        service.unary(schema.FIND_NODE, self._on_find_node)
        service.unary(schema.FIND_VALUE, self._on_find_value)
        service.unary(schema.STORE, self._on_store)
        service.unary(schema.LEAVE, self._on_leave)
        service.unary(schema.STATS, self._on_stats)
        return service

    async def _on_ping(self, caller: PeerId, request: schema.Ping) -> schema.Pong:
        self._state.counters.on_request(schema.PING.name)
        self._state.on_request(caller, request.addresses)
        return schema.Pong(self._state.wall_ms)

    async def _on_leave(self, caller: PeerId, request: schema.Leave) -> schema.Left:
        self._state.table.on_left(caller, node_key(caller))
        return schema.Left()

    async def _on_stats(self, caller: PeerId, request: schema.AskStats) -> schema.Stats:
        return self._told_stats()

    async def _on_find_node(self, caller: PeerId, request: schema.FindNode) -> schema.FoundNodes:
        self._state.counters.on_request(schema.FIND_NODE.name)
        self._state.on_request(caller, request.addresses)
        contacts = tuple(
            self._nearest(key_from_bytes(target), request.count, caller)
            for target in request.targets
        )
        return schema.FoundNodes(self._state.wall_ms, contacts)

    async def _on_find_value(self, caller: PeerId, request: schema.FindValue) -> schema.FoundValues:
        self._state.counters.on_request(schema.FIND_VALUE.name)
        self._state.on_request(caller, request.addresses)
        room_bytes, room_records = schema.PAGE_BYTES_MAX, schema.RECORDS_MAX
        found = []
        for query in request.queries:
            key = key_from_bytes(query.key)
            held, more = self._held(query, key, room_bytes, room_records)
            room_bytes -= sum(item.record.size_bytes for item in held)
            room_records -= len(held)
            now_s = trio.current_time()
            records = tuple(to_wire(item.record, item.expires_at_s - now_s) for item in held)
            contacts = self._nearest(key, request.count, caller)
            if query.dictionary:
                store = self._state.store
                found.append(schema.Found(contacts, records, more, store.boot, store.change))
            else:
                found.append(schema.Found(contacts, records, more))
        return schema.FoundValues(self._state.wall_ms, tuple(found))

    def _held(
        self, query: schema.Query, key: int, room_bytes: int, room_records: int
    ) -> tuple[list[Held], bool]:
        """What we hold of a query, as far as there is room; a first record always fits."""
        now_s = trio.current_time()
        if not query.dictionary:
            held = self._state.store.get(key, query.subkey, now_s)
            return ([held] if held is not None else []), False
        store = self._state.store
        # A reader that has seen more changes than there were takes us for another.
        same = query.since_boot == store.boot and query.since_change <= store.change
        since = query.since_change if same else 0
        return self._state.core.page(key, query.after, room_bytes, room_records, now_s, since=since)

    def _nearest(self, key: int, count: int, caller: PeerId) -> tuple[schema.WireContact, ...]:
        named = self._state.core.named_to(caller, key, count, trio.current_time())
        return self._state.told_to(caller, named)

    async def _on_store(self, caller: PeerId, request: schema.Store) -> schema.Stored:
        self._state.counters.on_request(schema.STORE.name)
        self._state.on_request(caller, request.addresses)
        records: list[Record] = []
        remaining_ms: list[int] = []
        for item in request.items:
            for wire in item.records:
                records.append(from_wire(item.key, wire))
                remaining_ms.append(wire.remaining_ms)
        if len(records) > schema.RECORDS_MAX:
            raise RefusedError("invalid", f"more than {schema.RECORDS_MAX} records at once")
        quotas = self._state.quotas
        account = self._state.account_of(caller)
        admitted = quotas.admit(caller, len(records), trio.current_time())
        if account != caller:
            admitted = self._state.range_quotas.admit(account, admitted, trio.current_time())
        complaints = await self._state.complaints_untrusted(records[:admitted])
        now_s, wall_s = trio.current_time(), self._state.swarm_wall_s
        invalid = sum(complaint is not None for complaint in complaints)
        quotas.on_invalid(caller, invalid, now_s)
        complaints += [_OVER_QUOTA] * (len(records) - admitted)
        answers = []
        for record, remaining, complaint in zip(records, remaining_ms, complaints, strict=True):
            result = self._state.core.accept(
                record,
                remaining / 1000,
                complaint,
                source=account,
                now_s=now_s,
                wall_s=wall_s,
            )
            self._state.counters.on_offer(result.code, _kind_of(complaint))
            reason = result.reason[: schema.REASON_LENGTH_MAX]
            answers.append(schema.Answer(result.code, result.sequence, reason))
        return schema.Stored(self._state.wall_ms, tuple(answers))


def _kind_of(complaint: str | None) -> str:
    """What kind of refusal it is, if it is one: without a complaint only a limit can be why."""
    if complaint is None:
        return "limit"
    return "quota" if complaint == _OVER_QUOTA else "invalid"
