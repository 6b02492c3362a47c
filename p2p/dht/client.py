"""The asking side of the DHT: single calls to peers, and lookups made of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import trio

from p2p.dht import schema
from p2p.dht.contact import Contact
from p2p.dht.core import SPARE_CONTACTS
from p2p.dht.key import key_from_bytes, key_to_bytes
from p2p.dht.lookup import Search
from p2p.dht.mirror import Cursor
from p2p.dht.pages import Pages
from p2p.dht.reading import Sighting
from p2p.dht.record import Record
from p2p.dht.schema import to_wire
from p2p.dht.state import DhtState
from p2p.dht.trace import SearchObserver
from p2p.errors import Attempt, MessageInvalid, P2PError, RefusedError, UnreachableError
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId
from p2p.rpc import Method, rpc_client
from p2p.wire import Message

Ask: TypeAlias = Callable[[Contact], Awaitable[tuple[list[Contact], Hashable]]]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")

# All pages of a dictionary together may take so many times as long as a call.
_PAGES_CALLS = 4
# Refusals of a peer that is as it should be: it has much to do, or is older than the method.
_BLAMELESS = ("busy", "unknown-method")
_GUARDED = Attempt("any", "too many peers that were named at this host or range do not answer")


class DhtClient:
    """Calls to other nodes; each answer and failure is noted in the routing table."""

    def __init__(self, state: DhtState) -> None:
        self._state = state
        self._rpc = rpc_client(state.node, schema.SERVICE, schema.MAJOR)

    async def ping(self, contact: Contact) -> None:
        """Hear from a peer, and make ourselves known to it; raises as _call()."""
        pong = await self._call(contact, schema.PING, schema.Ping(self._state.addresses))
        self._state.on_answer(contact, pong.wall_ms)

    async def leave(self, contact: Contact) -> None:
        """Say farewell to a peer; raises as _call()."""
        await self._call(contact, schema.LEAVE, schema.Leave())

    async def stats(self, contact: Contact) -> schema.Stats:
        """What a peer says of itself, unchecked; raises as _call()."""
        return await self._call(contact, schema.STATS, schema.AskStats())

    async def find_nodes(
        self, contact: Contact, targets: Sequence[int], count: int
    ) -> list[list[Contact]]:
        """Per target, whom the peer thinks nearest; raises as _call()."""
        keys = tuple(key_to_bytes(target) for target in targets)
        request = schema.FindNode(self._state.addresses, keys, count)
        answer = await self._call(contact, schema.FIND_NODE, request)
        self._state.on_answer(contact, answer.wall_ms)
        if len(answer.contacts) != len(targets):
            raise MessageInvalid("an answer per target was expected")
        return [self._state.named_untrusted(contact.peer_id, named) for named in answer.contacts]

    async def find_value(
        self, contact: Contact, key: str, query: schema.Query
    ) -> tuple[list[Contact], list[Sighting]]:
        """Valid records that the peer holds, and whom it thinks nearest; raises as _call()."""
        if not query.dictionary:
            found = await self._find(contact, query, self._count)
            named = self._state.named_untrusted(contact.peer_id, found.contacts)
            return named, await self._valid(contact, key, query, found)
        return await self._find_dictionary(contact, key, query.key)

    async def find_values(
        self, contact: Contact, queries: Mapping[str, schema.Query]
    ) -> dict[str, list[Sighting]]:
        """What the peer holds of several keys, and no contacts; raises as _call()."""
        items = list(queries.items())
        sightings: dict[str, list[Sighting]] = {}
        for start in range(0, len(items), schema.QUERIES_MAX):
            asked = items[start : start + schema.QUERIES_MAX]
            request = schema.FindValue(self._state.addresses, tuple(query for _, query in asked), 0)
            answer = await self._call(contact, schema.FIND_VALUE, request)
            self._state.on_answer(contact, answer.wall_ms)
            if len(answer.found) != len(asked):
                raise MessageInvalid("an answer per query was expected")
            for (key, query), found in zip(asked, answer.found, strict=True):
                sightings[key] = await self._valid(contact, key, query, found)
        return sightings

    async def _find_dictionary(
        self, contact: Contact, key: str, key_bytes: bytes
    ) -> tuple[list[Contact], list[Sighting]]:
        """The same for a dictionary, page by page; only what changed since we last asked."""
        mirrors, key_number = self._state.mirrors, key_from_bytes(key_bytes)
        known = mirrors.cursor(contact.peer_id, key_number) or Cursor(0, 0)
        contacts: list[Contact] = []
        sightings: list[Sighting] = []
        pages, cursor = Pages(), None
        # Who cannot be read to the end in time is still worth what it has sent.
        with trio.move_on_after(_PAGES_CALLS * self._state.config.call_timeout_s):
            first = True
            while True:
                query = schema.Query(key_bytes, None, True, pages.after, known.boot, known.change)
                found = await self._find(contact, query, self._count if first else 0)
                if first:
                    contacts = self._state.named_untrusted(contact.peer_id, found.contacts)
                    # What changes between the pages is to be sent again.
                    cursor = Cursor(found.boot, found.change) if found.boot else None
                elif cursor is not None and found.boot != cursor.boot:
                    cursor = None
                sightings += await self._valid(contact, key, query, found)
                sizes = ((one.subkey or "", len(one.value)) for one in found.records)
                if not pages.on_page(sizes, more=found.more):
                    break
                first = False
        if not pages.is_complete:
            cursor = None
        now_s = trio.current_time()
        return contacts, mirrors.on_answer(contact.peer_id, key_number, cursor, sightings, now_s)

    @property
    def _count(self) -> int:
        return self._state.config.replicas + SPARE_CONTACTS

    async def _find(self, contact: Contact, query: schema.Query, count: int) -> schema.Found:
        """The answer to one query; raises as _call()."""
        request = schema.FindValue(self._state.addresses, (query,), count)
        answer = await self._call(contact, schema.FIND_VALUE, request)
        self._state.on_answer(contact, answer.wall_ms)
        if len(answer.found) != 1:
            raise MessageInvalid("one answer to one query was expected")
        return answer.found[0]

    async def _valid(
        self, contact: Contact, key: str, query: schema.Query, found: schema.Found
    ) -> list[Sighting]:
        """What was asked for of an answer, as far as it is valid.

        Raises:
            MessageInvalid: an owner has not signed its record; the routing table knows. All honest
                replicas check that, too.
        """
        asked_for = tuple(wire for wire in found.records if _answers(query, wire.subkey))
        if not query.dictionary:
            asked_for = asked_for[:1]
        try:
            valid = await self._state.valid_untrusted(key, asked_for)
        except MessageInvalid:
            self._state.table.on_failed(contact.peer_id, contact.key, trio.current_time())
            raise
        now_s = trio.current_time()
        return [Sighting(record, now_s + remaining_s) for record, remaining_s in valid]

    async def store(
        self, contact: Contact, records: Sequence[tuple[Record, float]]
    ) -> list[schema.Answer]:
        """Give a peer records with what is left of their lives; raises as _call()."""
        answers: list[schema.Answer] = []
        for request in self._store_requests(records):
            answer = await self._call(contact, schema.STORE, request)
            self._state.on_answer(contact, answer.wall_ms)
            answers += answer.answers
        if len(answers) != len(records):
            raise MessageInvalid("an answer per record was expected")
        return answers

    def _store_requests(self, records: Sequence[tuple[Record, float]]) -> list[schema.Store]:
        """Messages under the size limit; records of one key that follow each other share it."""
        addresses = self._state.addresses
        requests: list[schema.Store] = []
        items: list[tuple[str, list[schema.WireRecord]]] = []
        size_bytes = count = 0

        def close() -> None:
            grouped = tuple(schema.KeyRecords(key, tuple(wires)) for key, wires in items)
            requests.append(schema.Store(addresses, grouped))

        # Addresses and frame take a few hundred bytes: size_bytes of a record counts 256 over.
        for record, remaining_s in records:
            full = size_bytes + record.size_bytes > schema.STORE_BYTES_MAX * 3 // 4
            if items and (full or count >= schema.RECORDS_MAX):
                close()
                items, size_bytes, count = [], 0, 0
            if not items or items[-1][0] != record.key:
                items.append((record.key, []))
            items[-1][1].append(to_wire(record, remaining_s))
            size_bytes += record.size_bytes
            count += 1
        if items:
            close()
        return requests

    async def _call(
        self, contact: Contact, method: Method[Request, Response], request: Request
    ) -> Response:
        """One call, within the configured time.

        Raises:
            P2PError: it failed; the routing table knows, unless the peer is merely busy or old.
        """
        state = self._state
        # Wrong addresses that a liar names for an honest peer must not make it fail.
        contact = state.table.known(contact)
        try:
            addresses = state.to_be_dialed(contact, trio.current_time())
            reachable = addresses or state.node.is_connected(contact.peer_id)
            if contact.addresses and not reachable:
                raise UnreachableError(contact.peer_id, (_GUARDED,))
            state.node.add_addresses(contact.peer_id, addresses)
            asked_at_s = trio.current_time()
            response = await self._rpc.call(
                contact.peer_id, method, request, timeout_s=state.config.call_timeout_s
            )
            took_s = trio.current_time() - asked_at_s
            state.latencies.on_answer(took_s)
            state.counters.on_call(method.name, took_s)
            return response
        except P2PError as exc:
            state.counters.on_call_failed(method.name)
            if not (isinstance(exc, RefusedError) and exc.code in _BLAMELESS):
                state.table.on_failed(contact.peer_id, contact.key, trio.current_time())
            raise

    async def find_nearest(self, target: int, width: int, *, with_care: bool = False) -> Search:
        """Look up the nodes nearest to a key; with care on several ways that share no peer."""

        async def ask(contact: Contact) -> tuple[list[Contact], Hashable]:
            count = min(width + SPARE_CONTACTS, schema.CONTACTS_MAX)
            return (await self.find_nodes(contact, [target], count))[0], None

        lookup = self._state.core.lookup_nearest(
            target, width, trio.current_time(), with_care=with_care, avoid=self.shunned
        )
        await self.search(lookup, ask)
        return lookup

    def shunned(self, peer_id: PeerId) -> bool:
        """Whether the peer failed so recently that a lookup should not try it."""
        return self._state.table.shunned(peer_id, trio.current_time())

    async def search(
        self, lookup: Search, ask: Ask, observer: SearchObserver | None = None
    ) -> None:
        """Drive a lookup to its end; queries still under way then are dropped."""
        core, begun_s = self._state.core, trio.current_time()
        woken = trio.Event()

        async def query(contact: Contact) -> None:
            nonlocal woken
            if observer is not None:
                observer.on_asked(contact, trio.current_time())
            try:
                named, version = await ask(contact)
            except P2PError as exc:
                lookup.on_failure(contact.peer_id)
                if observer is not None:
                    observer.on_failure(contact, exc, trio.current_time())
            else:
                if observer is not None:
                    observer.on_answer(contact, named, version, trio.current_time())
                core.on_answer(lookup, contact, named, version, trio.current_time())
            woken.set()

        async with open_service_nursery() as nursery:
            while not lookup.done:
                for contact in lookup.next_queries(trio.current_time()):
                    nursery.start_soon(query, contact)
                due_s = lookup.deadline_s
                with trio.move_on_at(trio.current_time() + 3600 if due_s is None else due_s):
                    await woken.wait()
                woken = trio.Event()
                lookup.on_deadline(trio.current_time())
        self._state.counters.on_search(lookup.queries, trio.current_time() - begun_s)
        core.on_search_end(lookup, trio.current_time())


def _answers(query: schema.Query, subkey: str | None) -> bool:
    """Whether a record of this subkey is what was asked for."""
    if query.dictionary:
        return subkey is not None and subkey > query.after
    return subkey == query.subkey
