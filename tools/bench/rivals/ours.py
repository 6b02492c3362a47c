"""manyhands itself, through its public names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import p2p
from tools.bench.rivals import Client, Handler

_PROTOCOL = "/manyhands/bench/1"
_PEERS_MAX = 10_000


class Echo(p2p.Message, frozen=True):
    """There and back."""

    data: bytes


_ECHO = p2p.Method("echo", Echo, Echo)


async def _echo(caller: p2p.PeerId, request: Echo) -> Echo:
    return request


class OurRival:
    """Two nodes and one connection."""

    def __init__(self, *, record_layer: Literal["auto", "noise"], relay: str | None = None) -> None:
        self._record_layer = record_layer
        self._relay = relay

    @asynccontextmanager
    async def open_server(self, handle: Handler) -> AsyncIterator[str]:
        # One host plays all peers here; the limits for strangers are not what is measured.
        config = p2p.NodeConfig(
            record_layer=self._record_layer,
            inbound_connections_max=_PEERS_MAX,
            inbound_connections_per_host_max=_PEERS_MAX,
            inbound_connections_per_range_max=_PEERS_MAX,
            handshakes_per_s_max=_PEERS_MAX,
            handshakes_per_s_and_host_max=_PEERS_MAX,
        )
        async with p2p.open_node(config) as node:

            async def serve(stream: p2p.Stream) -> None:
                await handle(_Pipe(stream))

            node.serve(_PROTOCOL, serve)
            calls = p2p.RpcService("bench-call")
            calls.unary(_ECHO, _echo)
            async with calls.serving(node):
                yield await self._address(node)

    async def _address(self, node: p2p.Node) -> str:
        """What the client is to dial."""
        if self._relay is None:
            return node.addresses[0]
        assert node.relay_client is not None
        await node.relay_client.reserve(await node.connect_address(self._relay))
        return f"{self._relay}/p2p-circuit/p2p/{node.peer_id}"

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[Client]:
        config = p2p.NodeConfig(record_layer=self._record_layer, client_mode=True)
        async with p2p.open_node(config) as node:
            yield _Client(node, self._record_layer)


class _Client:
    def __init__(self, node: p2p.Node, record_layer: str) -> None:
        self._node = node
        self._record_layer = record_layer
        self._calls = p2p.rpc_client(node, "bench-call")

    async def connect(self, address: str) -> None:
        self._peer_id = await self._node.connect_address(address)
        [got] = [one.record_layer for one in self._node.connections if one.peer_id == self._peer_id]
        # Whoever measures AES records must not be given Noise in silence.
        if (got == "/noise") != (self._record_layer == "noise"):
            raise RuntimeError(f"this machine's connections got {got}")

    async def open(self) -> _Pipe:
        return _Pipe(await self._node.open_stream(self._peer_id, _PROTOCOL))

    async def call(self, data: bytes) -> bytes:
        answer = await self._calls.call(self._peer_id, _ECHO, Echo(data), timeout_s=30)
        return answer.data


class _Pipe:
    def __init__(self, stream: p2p.Stream) -> None:
        self.send = stream.send_all
        self.receive = stream.receive_some
        self.close = stream.aclose
