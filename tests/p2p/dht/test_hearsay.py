"""Closer-peer answers are no port scanner: what is named from afar is not dialed nearby."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p import Identity
from p2p.address import parse_tcp_address
from p2p.dht.hearsay import (
    PORTS_PER_NETWORK_MAX,
    PORTS_PER_PRIVATE_HOST_MAX,
    PORTS_PER_PUBLIC_HOST_MAX,
    WINDOW_S,
    HearsayGuard,
    Reach,
    fit_untrusted,
    reach_of,
    reach_of_connection,
)
from tests.p2p.dht.swarms import Liar, open_swarm

PUBLIC = "/ip4/8.8.4.4/tcp/1"
PRIVATE = "/ip4/192.168.1.1/tcp/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/1"


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        (PUBLIC, Reach.PUBLIC),
        ("/ip6/2a00::1/tcp/1", Reach.PUBLIC),
        ("/dns4/peer.example.org/tcp/1", Reach.PUBLIC),
        (PRIVATE, Reach.PRIVATE),
        ("/ip4/169.254.169.254/tcp/80", Reach.PRIVATE),
        ("/ip6/fe80::1/tcp/1", Reach.PRIVATE),
        ("/ip6/fd00::1/tcp/1", Reach.PRIVATE),
        ("/ip6/::ffff:10.0.0.1/tcp/1", Reach.PRIVATE),
        ("/dns/router/tcp/1", Reach.PRIVATE),
        ("/dns/printer.local./tcp/1", Reach.PRIVATE),
        (LOOPBACK, Reach.LOOPBACK),
        ("/ip6/::1/tcp/1", Reach.LOOPBACK),
        ("/ip6/::ffff:127.0.0.1/tcp/1", Reach.LOOPBACK),
        ("/dns/LocalHost/tcp/1", Reach.LOOPBACK),
        ("/ip4/8.8.4.4/tcp/0", None),
        ("/ip4/0.0.0.0/tcp/1", None),
        ("/ip6/::/tcp/1", None),
        ("/ip4/224.0.0.1/tcp/1", None),
        ("/ip4/255.255.255.255/tcp/1", None),
        ("/ip6/ff02::1/tcp/1", None),
    ],
)
def test_how_near_one_must_be_to_use_an_address(address: str, reach: Reach | None) -> None:
    assert reach_of(parse_tcp_address(address)) is reach


@pytest.mark.parametrize(
    ("reach", "fit"),
    [
        (Reach.PUBLIC, (PUBLIC,)),
        (Reach.PRIVATE, (PRIVATE, PUBLIC)),
        (Reach.LOOPBACK, (LOOPBACK, PRIVATE, PUBLIC)),
    ],
)
def test_a_peer_names_only_what_is_as_far_out_as_itself(reach: Reach, fit: tuple[str, ...]) -> None:
    relay = Identity.generate(random.Random(1)).peer_id
    named = (LOOPBACK, PRIVATE, "/nonsense", f"{PUBLIC}/p2p/{relay}/p2p-circuit", PUBLIC)
    assert fit_untrusted(named, reach) == fit


def test_from_how_near_a_connection_comes() -> None:
    own = parse_tcp_address("/ip4/192.168.1.7/tcp/5")
    assert reach_of_connection(PUBLIC, own) is Reach.PUBLIC
    assert reach_of_connection(PRIVATE, own) is Reach.PRIVATE
    assert reach_of_connection(PRIVATE, None) is Reach.PRIVATE
    assert reach_of_connection("/dns4/me.example/tcp/1", parse_tcp_address(LOOPBACK)) is (
        Reach.LOOPBACK
    )
    assert reach_of_connection("a socket", own) is Reach.PUBLIC


@pytest.mark.parametrize(
    ("host", "most"),
    [("8.8.4.4", PORTS_PER_PUBLIC_HOST_MAX), ("10.0.0.1", PORTS_PER_PRIVATE_HOST_MAX)],
)
def test_few_ports_of_one_machine_are_tried_in_ten_minutes(host: str, most: int) -> None:
    guard = HearsayGuard()
    ports = [f"/ip4/{host}/tcp/{port}" for port in range(1, 1000)]
    assert guard.admit(ports, 0.0) == tuple(ports[:most])
    # The same ones may be tried again, and others when those have had their time.
    assert guard.admit(ports, WINDOW_S - 1) == tuple(ports[:most])
    assert guard.admit(ports[500:], WINDOW_S) == tuple(ports[500 : 500 + most])


def test_ports_that_answer_do_not_count() -> None:
    guard = HearsayGuard()
    for port in range(1, 1000):
        address = f"/ip4/8.8.4.4/tcp/{port}"
        assert guard.admit([address], 0.0) == (address,)
        guard.on_answered([address])


@given(st.lists(st.tuples(st.integers(1, 254), st.integers(1, 5)), max_size=200))
def test_a_range_of_addresses_is_not_scanned_either(targets: list[tuple[int, int]]) -> None:
    guard = HearsayGuard()
    admitted = {
        one for host, port in targets for one in guard.admit([f"/ip4/8.8.4.{host}/tcp/{port}"], 0.0)
    }
    assert len(admitted) == min(len(set(targets)), PORTS_PER_NETWORK_MAX)


async def test_a_lookup_is_no_port_scan(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        node, dht = await swarm.add("alice")
        rng = random.Random(3)
        victims = [Identity.generate(rng).peer_id for _ in range(100)]
        for start in range(0, 100, 20):
            liar = Liar()
            for offset, peer_id in enumerate(victims[start : start + 20]):
                port = start + offset + 1
                liar.names(peer_id, (f"/ip4/8.8.4.4/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}"))
            liar.names(node.peer_id, node.addresses)
            await swarm.add_liar(liar)
        for index in range(20):
            await dht.get(f"key{index}")
        dialed = {address for peer_id in victims for address in node.addresses_of(peer_id)}
        # Simulated nodes have private addresses, so they may name public ones, too.
        assert 0 < len(dialed) <= PORTS_PER_PUBLIC_HOST_MAX
        assert not any("127.0.0.1" in address for address in dialed)


async def test_private_addresses_are_not_told_to_the_internet(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, dht = await swarm.add("alice")
        bob_node, _ = await swarm.add("bob")
        async with swarm.network.open_node("carol", host="8.8.4.4") as carol:
            await carol.connect_address(swarm.nodes[0].addresses[0])
            state = dht._state
            (bob,) = state.table.confirmed
            assert state.told_to(carol.peer_id, [bob]) == ()
            state.on_request(carol.peer_id, bob.addresses)
            assert dht.peers == (bob_node.peer_id,)
            state.on_request(carol.peer_id, carol.addresses)
            assert set(dht.peers) == {bob_node.peer_id, carol.peer_id}
