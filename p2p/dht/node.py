"""Dht: what users of the DHT hold; open_dht() joins it, leaving the block says farewell."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from p2p.dht.client import DhtClient
from p2p.dht.config import DhtConfig
from p2p.dht.contact import Contact
from p2p.dht.inspection import keep_gauges, stats, trace
from p2p.dht.key import node_key
from p2p.dht.offer import PutReport
from p2p.dht.reader import Reader
from p2p.dht.reading import Sighting
from p2p.dht.role import follow_role
from p2p.dht.saved import SavedState
from p2p.dht.schema import Stats
from p2p.dht.state import DhtState
from p2p.dht.survey import survey
from p2p.dht.trace import Trace
from p2p.dht.upkeep import Upkeep
from p2p.dht.writer import PutItem, Writer
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId

logger = logging.getLogger(__name__)

# Two puts in a row may fail before a value that is kept is lost.
_PUTS_PER_LIFE = 3


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


class Dht:
    """A distributed dictionary whose entries expire, and of which owned subkeys are signed."""

    def __init__(self, state: DhtState, client: DhtClient, reader: Reader, writer: Writer) -> None:
        self._state = state
        self._client = client
        self._reader = reader
        self._writer = writer

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The peers in our routing table that we have heard ourselves."""
        return tuple(contact.peer_id for contact in self._state.table.confirmed)

    @property
    def sequence(self) -> int:
        """The highest sequence number used; who saves it may pass it as sequence_floor."""
        return self._writer.sequencer.last

    async def put(
        self, key: str, value: bytes, *, subkey: str | None = None, ttl_s: float
    ) -> PutReport:
        """Store a value at the nodes nearest to its key; our own subkey is signed by itself.

        Raises:
            RecordInvalid: a limit, a validator or another peer's ownership forbids it.
        """
        (report,) = await self.put_many([PutItem(key=key, value=value, subkey=subkey, ttl_s=ttl_s)])
        return report

    async def put_many(self, items: Sequence[PutItem]) -> list[PutReport]:
        """The same for many values, with one lookup per neighbourhood and one call per node.

        Raises:
            RecordInvalid: one of them is forbidden; then none was put.
        """
        return await self._writer.put(items)

    @asynccontextmanager
    async def keeping(
        self, key: str, value: bytes, *, subkey: str | None = None, ttl_s: float
    ) -> AsyncIterator[PutReport]:
        """Put a value, and again three times in its life while the block lasts.

        It outlives its holders thereby, and is forgotten soon after we are.

        Raises:
            RecordInvalid: a limit, a validator or another peer's ownership forbids it.
        """
        report = await self.put(key, value, subkey=subkey, ttl_s=ttl_s)

        async def put_again() -> None:
            while True:
                await trio.sleep(ttl_s / _PUTS_PER_LIFE)
                again = await self.put(key, value, subkey=subkey, ttl_s=ttl_s)
                if not again.replicas + again.newer:
                    logger.warning("dht_kept_nowhere key=%s refused=%d", key, len(again.refused))

        async with open_service_nursery() as nursery:
            nursery.start_soon(put_again)
            yield report

    async def get(
        self, key: str, *, subkey: str | None = None, max_age_s: float = 0.0
    ) -> Entry | None:
        """The newest living value of a key (or of one subkey); None when there is none.

        Args:
            max_age_s: how long ago the replicas may have been asked, for any reader of this node.
                Zero asks them. A key that is read again and again with another is refreshed in
                the background, so that no reader waits.
        """
        newest = await self._reader.read((key, subkey, False), max_age_s)
        now_s = trio.current_time()
        return _entry(newest[subkey], now_s) if subkey in newest else None

    async def get_many(
        self, keys: Iterable[str], *, subkey: str | None = None, max_age_s: float = 0.0
    ) -> dict[str, Entry]:
        """The same for many keys, with one lookup per neighbourhood; those found, by key."""
        keys = list(dict.fromkeys(keys))
        found = await self._reader.read_many(keys, subkey, max_age_s)
        now_s = trio.current_time()
        return {key: _entry(found[key][subkey], now_s) for key in keys if subkey in found[key]}

    async def get_dictionary(self, key: str, *, max_age_s: float = 0.0) -> dict[str, Entry]:
        """All living subkeys of a key, sorted, merged from its replicas.

        A replica that was asked before sends only what changed since.
        """
        newest = await self._reader.read((key, None, True), max_age_s)
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
        for contact in (*lookup.answered(), *lookup.late, *lookup.silent):
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
    def stats(self) -> Stats:
        """What we hold, and what we have done since we joined."""
        return stats(self._state)

    async def stats_of(self, peer_id: PeerId, addresses: Iterable[str] = ()) -> Stats:
        """What another node says of itself; nobody checks it.

        Raises:
            P2PError: it did not answer, or is too old to say.
        """
        contact = Contact(peer_id, node_key(peer_id), tuple(addresses))
        return await self._client.stats(contact)


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
        UnreachableError: neither an initial peer answered nor one that we knew before a restart;
            each attempt is listed.
        AddressInvalid: an initial peer's address is none, or lacks the peer id.
    """
    state = DhtState(node, config or DhtConfig())
    client = DhtClient(state)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(open_service_nursery())
        saved = SavedState(state, state.config.state_path)
        snapshot = await saved.load()
        upkeep = Upkeep(state, client, nursery, initial_peers, snapshot)
        await nursery.start(follow_role, state, client, upkeep)
        await upkeep.join()
        nursery.start_soon(upkeep.run)
        nursery.start_soon(keep_gauges, state)
        reader = Reader(state, client, nursery)
        writer = Writer(state, client, reader, nursery, sequence_floor=snapshot.sequence)
        nursery.start_soon(reader.keep_used_fresh)
        nursery.start_soon(saved.save_often, lambda: writer.sequencer.last)
        try:
            yield Dht(state, client, reader, writer)
        finally:
            with trio.CancelScope(shield=True):
                await saved.save(writer.sequencer.last)
            await upkeep.say_farewell()
