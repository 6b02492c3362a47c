"""Probing an address: the peer proves that it is there, and no connection comes of it."""

from __future__ import annotations

import socket

import pytest
import trio

from p2p import Identity, open_node
from p2p.address import TcpAddress, parse_tcp_address
from p2p.host.probe import probe
from p2p.host.transport import DialError


async def test_who_is_there_proves_it_and_is_left_alone() -> None:
    async with open_node() as bob:
        there = parse_tcp_address(bob.addresses[0])
        with trio.fail_after(5):
            await probe(Identity.generate(), bob.peer_id, there)
            with pytest.raises(DialError, match="impostor"):
                await probe(Identity.generate(), Identity.generate().peer_id, there)
        assert bob.connections == ()


async def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DialError, match="refused"):
        await probe(
            Identity.generate(), Identity.generate().peer_id, TcpAddress("ip4", "127.0.0.1", port)
        )


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(100)])
async def test_something_else_is_there(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        with trio.fail_after(5), pytest.raises(DialError):
            await probe(
                Identity.generate(),
                Identity.generate().peer_id,
                TcpAddress("ip4", "127.0.0.1", port),
            )
        nursery.cancel_scope.cancel()
