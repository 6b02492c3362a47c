"""Identify asked by us: what peers say is read with care, once for each connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr

from p2p import MessageInvalid, NodeConfig, PeerId, Stream, open_node
from p2p.address import TcpAddress, parse_address
from p2p.host.host import Host
from p2p.host.identify import (
    IDENTIFY_PROTOCOL,
    LISTENING_MAX,
    MESSAGE_BYTES_MAX,
    PROTOCOLS_MAX,
    identified_untrusted,
)
from p2p.host.transport import ConnectionInfo, Identified
from p2p.protobuf import varint
from tests.p2p.host.peers import until

INFO = ConnectionInfo(PeerId("bob"), "/ip4/5.6.7.8/tcp/1", "direct", True, 0.0, "/noise")


async def test_each_end_learns_who_the_other_is_and_how_it_is_seen() -> None:
    async with open_node() as alice, open_node() as bob:
        told: dict[str, list[tuple[ConnectionInfo, Identified]]] = {"alice": [], "bob": []}
        hosts = {"alice": alice._transport, "bob": bob._transport}
        for name, host in hosts.items():
            assert isinstance(host, Host)
            host.on_identified.append(
                lambda info, identified, name=name: told[name].append((info, identified))  # type: ignore[misc]
            )
        await alice.connect_address(bob.addresses[0])
        await until(lambda: bool(told["alice"]) and bool(told["bob"]))
        [(info, of_bob)] = told["alice"]
        assert info == alice.connections[0]
        assert of_bob.peer_id == bob.peer_id
        assert of_bob.agent == "manyhands"
        assert IDENTIFY_PROTOCOL in of_bob.protocols
        assert [str(one.of(bob.peer_id)) for one in of_bob.listening] == list(bob.addresses)
        # On loopback nothing stands between what we have and what is seen.
        assert of_bob.observed == info.local is not None
        assert hosts["alice"].identified(bob.peer_id) == of_bob  # type: ignore[attr-defined]
        [(info, of_alice)] = told["bob"]
        assert (
            of_alice.observed == info.local == parse_address(bob.addresses[0].partition("/p2p")[0])
        )


async def test_a_peer_found_by_name_is_where_the_socket_says() -> None:
    async with open_node() as alice, open_node() as bob:
        port = bob.addresses[0].split("/")[4]
        await alice.connect_address(f"/dns4/localhost/tcp/{port}/p2p/{bob.peer_id}")
        assert alice.connections[0].address == bob.addresses[0]


async def test_a_node_asks_who_a_peer_is_when_somebody_wants_to_know() -> None:
    async with open_node() as alice, open_node() as bob:
        assert await alice.ask_who(bob.peer_id) is None
        await alice.connect(bob.peer_id, bob.addresses)
        told = await alice.ask_who(bob.peer_id)
        assert told is not None
        assert (told.peer_id, told.agent) == (bob.peer_id, "manyhands")
        assert IDENTIFY_PROTOCOL in told.protocols
        # What it has said once is kept while the connection is open.
        assert await alice.ask_who(bob.peer_id) is told
        await alice.disconnect(bob.peer_id)
        assert await alice.ask_who(bob.peer_id) is None


async def test_while_nobody_wants_to_know_nobody_is_asked() -> None:
    async with open_node() as alice, open_node() as bob:
        asked = []

        async def watch(stream: Stream) -> None:
            asked.append(stream.peer_id)

        bob.serve(IDENTIFY_PROTOCOL, watch)
        bob.serve("/test/1", watch)
        await alice.connect_address(bob.addresses[0])
        await (await alice.open_stream(bob.peer_id, "/test/1")).aclose()
        await until(lambda: bool(asked))
        assert asked == [alice.peer_id]
        assert isinstance(alice._transport, Host)
        assert alice._transport.identified(bob.peer_id) is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        varint(MESSAGE_BYTES_MAX + 1) + bytes(10),
        b"\xff\xff\xff\xff\xff",
        varint(100) + b"short",
        varint(4) + b"\xff\xff\xff\xff",
    ],
)
async def test_whatever_comes_the_connection_stays(answer: bytes) -> None:
    async with open_node() as alice, open_node(NodeConfig()) as bob:
        told: list[Identified] = []
        answered = []

        async def lie(stream: Stream) -> None:
            await stream.send_all(answer)
            await stream.send_eof()
            await stream.wait_broken()
            answered.append(stream)

        bob.serve(IDENTIFY_PROTOCOL, lie)
        assert isinstance(alice._transport, Host)
        alice._transport.on_identified.append(lambda info, identified: told.append(identified))
        await alice.connect_address(bob.addresses[0])
        await until(lambda: bool(answered))
        assert told == []
        assert alice.is_connected(bob.peer_id)


def test_huge_lists_and_foreign_addresses_are_left_out() -> None:
    message = Identify(
        agent_version="evil\n\x1b[31m" + "x" * 1000,
        protocols=[f"/p/{number}" for number in range(1000)] + ["/" + "y" * 300],
        listen_addrs=[Multiaddr("/ip4/1.2.3.4/udp/1/quic-v1").to_bytes()]
        + [Multiaddr(f"/ip4/1.2.3.4/tcp/{port}").to_bytes() for port in range(1, 100)],
        observed_addr=b"garbage",
    )
    told = identified_untrusted(INFO, message.SerializeToString())
    assert told.agent.startswith("evil[31mxxx")
    assert len(told.agent) <= 256
    assert len(told.protocols) == PROTOCOLS_MAX
    assert len(told.listening) == LISTENING_MAX - 1
    assert told.observed is None
    message.observed_addr = Multiaddr("/ip4/8.8.8.8/tcp/9").to_bytes()
    told = identified_untrusted(INFO, message.SerializeToString())
    assert told.observed == TcpAddress("ip4", "8.8.8.8", 9)


@given(st.binary(max_size=200))
def test_any_bytes_raise_one_error_only(data: bytes) -> None:
    try:
        told = identified_untrusted(INFO, data)
    except MessageInvalid:
        return
    assert told.peer_id == INFO.peer_id
