"""Punching between hosts on loopback: parts, sockets that meet the listener, and strangers."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio

from p2p import Identity, NodeConfig
from p2p.address import TcpAddress
from p2p.host.host import Host, open_host
from p2p.host.listen import open_listeners
from p2p.host.punch_table import Part
from p2p.host.sockets import DialingSockets
from p2p.host.stream import Stream
from p2p.host.transport import ConnectionInfo, DialError
from p2p.peer_id import PeerId
from tests.p2p.host.peers import until
from tests.p2p.host.test_relayed import open_scene

PROTOCOL = "/test/echo/1"
SHORT_S = 0.3


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts, the first with the smaller peer id."""
    first, second = sorted((Identity.generate() for _ in range(2)), key=lambda one: one.peer_id)
    async with open_host(first, NodeConfig()) as alice, open_host(second, NodeConfig()) as bob:
        for host in (alice, bob):
            host.set_handler(PROTOCOL, echo)
        yield alice, bob


def id_of(host: Host) -> PeerId:
    return host._identity.peer_id


def place_of(host: Host) -> tuple[TcpAddress, ...]:
    addresses = host.addresses
    assert all(isinstance(one, TcpAddress) for one in addresses)
    return tuple(one for one in addresses if isinstance(one, TcpAddress))


def expect(one: Host, other: Host, part: Part) -> None:
    one.expect_punch(id_of(other), place_of(other), part)


async def punch(one: Host, other: Host, window_s: float = 3.0) -> None:
    await one.punch(id_of(other), place_of(other), window_s=window_s)


async def check(dialer: Host, listener: Host) -> None:
    """There is one connection, of the same parts for both, and it works both ways."""
    await until(lambda: bool(dialer.connections() and listener.connections()))
    infos: list[ConnectionInfo] = []
    for host, other in ((dialer, listener), (listener, dialer)):
        [info] = host.connections()
        assert (info.peer_id, info.path) == (id_of(other), "punched")
        assert info.from_listen_port
        assert info.local is not None
        assert info.local.port == place_of(host)[0].port
        infos.append(info)
        stream = await host.open_stream(id_of(other), PROTOCOL)
        await stream.send_all(b"hello")
        assert await stream.receive_exactly(5) == b"hello"
        await stream.aclose()
    assert [info.outbound for info in infos] == [True, False]


async def test_both_dial_and_one_connection_comes_of_it() -> None:
    async with open_pair() as (alice, bob):
        for listener, dialer in ((alice, bob), (bob, alice)):
            expect(dialer, listener, "dialer")
            expect(listener, dialer, "listener")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(punch, dialer, listener)
                nursery.start_soon(punch, listener, dialer)
            await check(dialer, listener)
            await dialer.disconnect(id_of(listener))
            await listener.wait_disconnected(id_of(dialer))


@pytest.mark.parametrize("who_connects", ["dialer", "listener"])
async def test_parts_do_not_depend_on_whose_socket_gets_through(who_connects: str) -> None:
    async with open_pair() as (alice, bob):
        expect(alice, bob, "dialer")
        expect(bob, alice, "listener")
        pair = (alice, bob) if who_connects == "dialer" else (bob, alice)
        await punch(*pair)
        await check(alice, bob)


async def test_by_socket_who_connects_is_the_dialer() -> None:
    async with open_pair() as (alice, bob):
        expect(alice, bob, "by-socket")
        expect(bob, alice, "by-socket")
        await punch(bob, alice)
        await check(bob, alice)


async def test_an_ordinary_dial_of_the_dialer_may_be_what_meets_the_punch() -> None:
    async with open_pair() as (alice, bob):
        expect(alice, bob, "dialer")
        await alice.dial(id_of(bob), place_of(bob)[0])
        # Whatever made the connection, nothing is left to be punched.
        await punch(alice, bob)
        assert [info.path for info in alice.connections()] == ["punched"]


async def test_somebody_else_is_there() -> None:
    async with open_pair() as (alice, bob), open_host(Identity.generate(), NodeConfig()) as eve:
        alice.expect_punch(id_of(bob), place_of(eve), "dialer")
        with pytest.raises(DialError, match="impostor"):
            await alice.punch(id_of(bob), place_of(eve), window_s=SHORT_S)
        assert alice.connections() == ()
        # Nor does she get in as him through the listener.
        alice.expect_punch(id_of(bob), place_of(eve), "listener")
        expect(eve, alice, "dialer")
        async with trio.open_nursery() as nursery:

            async def come() -> None:
                # She may believe for a moment that she got in.
                with suppress(DialError):
                    await punch(eve, alice, SHORT_S)

            nursery.start_soon(come)
        await until(lambda: not eve.connections())
        assert alice.connections() == ()


async def test_nobody_is_there() -> None:
    async with open_pair() as (alice, bob):
        with socket.create_server(("127.0.0.1", 0)) as closed_soon:
            port = closed_soon.getsockname()[1]
        nobody = (TcpAddress("ip4", "127.0.0.1", port),)
        alice.expect_punch(id_of(bob), nobody, "dialer")
        with pytest.raises(DialError, match=f"{port}: connection refused"):
            await alice.punch(id_of(bob), nobody, window_s=SHORT_S)
        alice.expect_punch(id_of(bob), (), "dialer")
        with pytest.raises(DialError, match="no address"):
            await alice.punch(id_of(bob), (), window_s=0.01)


async def test_one_that_connects_and_says_nothing_is_let_go(autojump_clock: Any) -> None:
    identity = Identity.generate()
    async with open_host(identity, NodeConfig()) as alice:
        peer_id = Identity.generate().peer_id
        [mute] = await open_listeners(("/ip4/127.0.0.1/tcp/0",))
        async with mute:
            place = TcpAddress("ip4", *mute.socket.getsockname())
            alice.expect_punch(peer_id, (place,), "listener")
            with pytest.raises(DialError, match="handshake took too long"):
                await alice.punch(peer_id, (place,), window_s=3.0)


# The sockets alone


async def test_a_port_that_is_shared_with_dials_is_not_shared_with_other_programs() -> None:
    [listener] = await open_listeners(("/ip4/127.0.0.1/tcp/0",))
    async with listener:
        DialingSockets([listener])
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                other.bind(listener.socket.getsockname())


async def test_to_this_machine_the_port_is_not_shared() -> None:
    [here] = await open_listeners(("/ip4/127.0.0.1/tcp/0",))
    [there] = await open_listeners(("/ip4/127.0.0.1/tcp/0",))
    async with here, there:
        sockets = DialingSockets([here])
        place = TcpAddress("ip4", *there.socket.getsockname())
        opened = await sockets.open(place)
        assert not opened.from_listen_port
        punched = await sockets.open_to_punch(place)
        assert punched.socket.getsockname() == here.socket.getsockname()
        # One socket for each pair of ports.
        with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
            await sockets.open_to_punch(place)
        with pytest.raises(OSError, match="ourselves"):
            await sockets.open_to_punch(TcpAddress("ip4", *here.socket.getsockname()))
        with pytest.raises(OSError, match="no port"):
            await DialingSockets([]).open_to_punch(place)
        for stream in (opened.stream, punched):
            await stream.aclose()


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="only Linux can be asked")
async def test_a_punched_connection_does_not_believe_its_first_round_trip() -> None:
    [here] = await open_listeners(("/ip4/127.0.0.1/tcp/0",))
    [there] = await open_listeners(("/ip4/127.0.0.1/tcp/0",))
    async with here, there:
        place = TcpAddress("ip4", *there.socket.getsockname())
        async with await DialingSockets([here]).open_to_punch(place) as punched:
            used = punched.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert not used.startswith(b"bbr")


class Resolver(trio.abc.HostnameResolver):
    """Knows one name, with these hosts."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:
        assert host == b"example"
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (one, port))
            for one in self._hosts
        ]

    async def getnameinfo(self, *request: Any) -> Any:
        raise NotImplementedError


async def test_all_hosts_of_a_name_are_tried() -> None:
    [there] = await open_listeners(("/ip4/127.0.0.1/tcp/0",))
    async with there:
        port = there.socket.getsockname()[1]
        name = TcpAddress("dns", "example", port)
        sockets = DialingSockets([])
        for hosts in (("127.0.0.2", "127.0.0.1"), ("127.0.0.1", "127.0.0.2"), ("127.0.0.1",)):
            trio.socket.set_custom_hostname_resolver(Resolver(*hosts))
            opened = await sockets.open(name)
            assert opened.stream.socket.getpeername() == ("127.0.0.1", port)
            await opened.stream.aclose()
        trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.2", "127.0.0.3"))
        with pytest.raises(OSError, match="no host of the name") as caught:
            await sockets.open(name)
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert len(caught.value.__cause__.exceptions) == 2


@pytest.mark.slow
async def test_a_relayed_connection_goes_when_a_better_one_stands() -> None:
    async with open_scene(NodeConfig()) as scene:
        alice, bob = scene.alice, scene.bob
        await alice.connect_address(scene.circuit)
        old = await alice.open_stream(bob.peer_id, "/test/echo/1")
        await old.send_all(b"relayed")
        assert await old.receive_exactly(7) == b"relayed"
        host = alice._transport
        assert isinstance(host, Host)
        dial = partial(host.dial, bob.peer_id)
        await dial(next(one for one in bob._transport.addresses if isinstance(one, TcpAddress)))
        new = await alice.open_stream(bob.peer_id, "/test/echo/1")
        assert (old.path, new.path) == ("relayed", "direct")
        # The old stream goes on as long as it likes.
        await trio.sleep(2.5)
        await old.send_all(b"goes on")
        assert await old.receive_exactly(7) == b"goes on"
        await old.aclose()
        await until(
            lambda: (
                [one.path for one in alice.connections if one.peer_id == bob.peer_id] == ["direct"]
            )
        )
        await new.send_all(b"too")
        assert await new.receive_exactly(3) == b"too"
