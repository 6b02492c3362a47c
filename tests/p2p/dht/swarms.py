"""Small swarms for the DHT's tests: nodes that join each other, and nodes that lie."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from p2p import Identity, Node, PeerId, RpcService, wall_time_s
from p2p.dht import Dht, DhtConfig, open_dht, schema
from p2p.dht.key import key_to_bytes, record_key
from p2p.testing import SimNetwork

QUICK = DhtConfig(farewell_s=0)
"""Nodes that leave without a word, so that a test ends when it ends."""


class Swarm:
    """Nodes of one simulated network, each joining through the first."""

    def __init__(self, network: SimNetwork, stack: AsyncExitStack) -> None:
        self.network = network
        self._stack = stack
        self.nodes: list[Node] = []

    async def add(
        self, name: str = "", config: DhtConfig = QUICK, **options: Any
    ) -> tuple[Node, Dht]:
        """Another node, ready when this returns."""
        node = await self._stack.enter_async_context(self.network.open_node(name, **options))
        dht = await self._stack.enter_async_context(open_dht(node, config, self.initial_peers))
        if not node.client_mode:
            self.nodes.append(node)
        return node, dht

    async def add_liar(self, liar: Liar, identity: Identity | None = None) -> Node:
        """Another node, that lies as soon as it has joined."""
        node = await self._stack.enter_async_context(
            self.network.open_node("liar", identity=identity)
        )
        await self._stack.enter_async_context(open_liar(node, self.initial_peers, liar))
        return node

    async def add_outsider(self, name: str, liar: Liar | None = None, **options: Any) -> Node:
        """A node that has not joined, and answers, if at all, as a liar does."""
        node = await self._stack.enter_async_context(self.network.open_node(name, **options))
        if liar is not None:
            await self._stack.enter_async_context(liar.service().serving(node))
        return node

    @property
    def initial_peers(self) -> tuple[str, ...]:
        """What another needs to join."""
        return self.nodes[0].addresses if self.nodes else ()


@asynccontextmanager
async def open_swarm(seed: int = 0) -> AsyncIterator[Swarm]:
    """An empty swarm; all its nodes close with the block."""
    async with AsyncExitStack() as stack:
        yield Swarm(SimNetwork(seed), stack)


class Liar:
    """Answers the DHT's calls as an honest node would, but for what it holds.

    Records that it is given are said to be stored. What is asked for is answered with nothing,
    with the first version that it saw (``stale``), or with the forgery that it is given. The
    first ``deaf_to`` times that it is to store something, it says nothing.
    """

    def __init__(
        self,
        *,
        stale: bool = False,
        forgery: schema.WireRecord | None = None,
        deaf_to: int = 0,
    ) -> None:
        self._stale = stale
        self._deaf_to = deaf_to
        self._forgery = forgery
        self._contacts: tuple[schema.WireContact, ...] = ()
        self._first: dict[bytes, dict[str | None, schema.WireRecord]] = {}
        self.given = 0
        """How many records it was given."""

    @property
    def heard_of(self) -> int:
        """How many keys it was given something of."""
        return len(self._first)

    def names(self, peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        """Name this peer in every answer."""
        self._contacts = (*self._contacts, schema.WireContact(peer_id, addresses))

    def service(self) -> RpcService:
        """The lying service."""
        service = RpcService(schema.SERVICE, schema.MAJOR)
        service.unary(schema.PING, self._on_ping)
        service.unary(schema.FIND_NODE, self._on_find_node)
        service.unary(schema.FIND_VALUE, self._on_find_value)
        service.unary(schema.STORE, self._on_store)
        return service

    async def _on_ping(self, caller: PeerId, request: schema.Ping) -> schema.Pong:
        return schema.Pong(_wall_ms())

    async def _on_find_node(self, caller: PeerId, request: schema.FindNode) -> schema.FoundNodes:
        return schema.FoundNodes(
            _wall_ms(), (self._contacts[: schema.CONTACTS_MAX],) * len(request.targets)
        )

    async def _on_find_value(self, caller: PeerId, request: schema.FindValue) -> schema.FoundValues:
        found = []
        for query in request.queries:
            records: list[schema.WireRecord] = []
            if self._forgery is not None:
                records.append(self._forgery)
            elif self._stale:
                records += self._first.get(query.key, {}).values()
            found.append(schema.Found(self._contacts[: schema.CONTACTS_MAX], tuple(records)))
        return schema.FoundValues(_wall_ms(), tuple(found))

    async def _on_store(self, caller: PeerId, request: schema.Store) -> schema.Stored:
        if self._deaf_to:
            self._deaf_to -= 1
            await trio.sleep_forever()
        answers = []
        for item in request.items:
            key = key_to_bytes(record_key(item.key))
            for record in item.records:
                self.given += 1
                self._first.setdefault(key, {}).setdefault(record.subkey, record)
                answers.append(schema.Answer(0))
        return schema.Stored(_wall_ms(), tuple(answers))


def _wall_ms() -> int:
    return int(wall_time_s() * 1000)


@asynccontextmanager
async def open_liar(node: Node, initial_peers: tuple[str, ...], liar: Liar) -> AsyncIterator[Dht]:
    """A node that joins like everybody and then lies."""
    async with open_dht(node, QUICK, initial_peers) as dht:
        for contact in dht._state.table.contacts:
            liar.names(contact.peer_id, contact.addresses)
        # Serving the same protocol again takes the place of the honest handlers.
        async with liar.service().serving(node):
            yield dht
