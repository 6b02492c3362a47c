"""Closer-peer answers are no port scanner: what is named from afar is not dialed nearby."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p import Identity, rpc_client
from p2p.address import parse_tcp_address
from p2p.dht.hearsay import (
    PORTS_PER_NETWORK_MAX,
    PORTS_PER_PRIVATE_HOST_MAX,
    PORTS_PER_PUBLIC_HOST_MAX,
    WINDOW_S,
    HearsayGuard,
    Reach,
    fit_untrusted,
    own_of,
    reach_of,
    reach_of_connection,
    seen_at_untrusted,
)
from p2p.dht.schema import MAJOR, PING, SERVICE, Ping
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
        ("/ip4/100.64.0.1/tcp/1", Reach.PRIVATE),
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
    circuit, name = f"{PUBLIC}/p2p/{relay}/p2p-circuit", "/dns4/evil.example/tcp/1"
    named = (LOOPBACK, PRIVATE, "/nonsense", circuit, name, "/dns/localhost/tcp/1", PUBLIC)
    assert fit_untrusted(named, reach) == fit


def test_who_announces_a_name_is_known_by_where_we_see_it() -> None:
    announced = ("/dns4/me.example/tcp/7", "/nonsense", PUBLIC)
    seen = seen_at_untrusted(announced, f"/ip4/9.9.9.9/tcp/5/p2p/{Identity.generate().peer_id}")
    assert seen == ("/ip4/9.9.9.9/tcp/7", PUBLIC)
    for nowhere in ("/dns4/dialed.example/tcp/5", "a socket"):
        assert fit_untrusted(seen_at_untrusted(announced, nowhere), Reach.LOOPBACK) == (PUBLIC,)


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
        guard.on_answered(address)


def test_who_answers_does_not_vouch_for_the_other_addresses_that_it_was_named_with() -> None:
    guard = HearsayGuard()
    admitted: set[str] = set()
    for number in range(100):
        own = f"/ip4/6.6.6.6/tcp/{number + 1}"
        victims = [f"/ip4/8.8.4.4/tcp/{7 * number + port}" for port in range(1, 8)]
        tried = guard.admit([own, *victims], 0.0)
        assert own in tried
        admitted.update(tried)
        guard.on_answered(own, [own, *victims])
    assert sum("8.8.4.4" in address for address in admitted) == PORTS_PER_PUBLIC_HOST_MAX


def test_a_swarm_on_one_machine_is_dialed_whichever_of_its_addresses_answers() -> None:
    guard = HearsayGuard()
    for port in range(1, 1000):
        addresses = [f"/ip4/192.168.1.1/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}"]
        assert guard.admit(addresses, 0.0) == tuple(addresses)
        guard.on_answered(addresses[port % 2], addresses)


@pytest.mark.parametrize(
    ("remote", "own"),
    [
        ("/ip6/2a00:0::1/tcp/50000", ("/ip6/2a00::1/tcp/7",)),
        ("/ip4/192.168.1.5/tcp/50000", ("/ip4/192.168.1.5/tcp/7", "/ip4/10.0.0.5/tcp/7")),
        (
            "/ip4/127.0.0.1/tcp/50000",
            ("/ip4/192.168.1.5/tcp/7", "/ip4/10.0.0.5/tcp/7", "/ip4/10.0.0.6/tcp/8"),
        ),
        ("/dns4/me.example/tcp/7", ()),
    ],
)
def test_which_addresses_of_a_connected_peer_are_its_own(remote: str, own: tuple[str, ...]) -> None:
    local = ("/ip4/192.168.1.5/tcp/7", "/ip4/10.0.0.5/tcp/7", "/ip4/10.0.0.6/tcp/8")
    named = ("/ip6/2a00::1/tcp/7", "/ip4/8.8.4.4/tcp/7", "/dns4/me.example/tcp/7", *local)
    assert own_of(named, remote) == own


def test_names_are_not_dialed_on_hearsay() -> None:
    names = [f"/dns4/h{index}.evil.example/tcp/1" for index in range(10)]
    assert HearsayGuard().admit([*names, PUBLIC], 0.0) == (PUBLIC,)


def test_one_machine_is_one_however_its_address_is_spelled() -> None:
    guard = HearsayGuard()
    spelled = ["/ip4/10.0.0.1/tcp/{}", "/ip6/::ffff:10.0.0.1/tcp/{}", "/ip6/0::ffff:a00:1/tcp/{}"]
    ports = range(1, 2 * PORTS_PER_PRIVATE_HOST_MAX)
    tried = guard.admit([spelled[port % 3].format(port) for port in ports], 0.0)
    assert len(tried) == PORTS_PER_PRIVATE_HOST_MAX


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


async def test_liars_that_answer_aim_us_at_nobody(autojump_clock: MockClock) -> None:
    """Named with their own addresses and a third party's: one leads to them, so they are heard."""
    async with open_swarm() as swarm:
        alice, dht = await swarm.add("alice")
        leader = Liar()
        fellows = []
        for index in range(15):
            fellow = await swarm.add_outsider(f"fellow{index}", Liar())
            own = fellow.addresses[0].removesuffix(f"/p2p/{fellow.peer_id}")
            victims = tuple(f"/ip4/8.8.4.4/tcp/{3 * index + port}" for port in (1, 2, 3))
            leader.names(fellow.peer_id, (own, *victims))
            fellows.append(fellow.peer_id)
        stranger = Identity.generate(random.Random(4)).peer_id
        leader.names(stranger, ("/dns4/h.evil.example/tcp/1",))
        leader.names(alice.peer_id, ("/ip4/8.8.4.4/tcp/99",))
        await swarm.add_liar(leader)
        for index in range(20):
            await dht.get(f"key{index}")
        assert all(alice.is_connected(one) for one in fellows)
        dialed = {address for one in fellows for address in alice.addresses_of(one)}
        assert 0 < sum("8.8.4.4" in one for one in dialed) <= PORTS_PER_PUBLIC_HOST_MAX
        assert alice.addresses_of(stranger) == ()
        assert not {stranger, alice.peer_id} & set(dht.peers)


async def test_nobody_is_named_on_who_says_to_be_where_it_is_not(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        bob, dht = await swarm.add("bob", host="9.9.9.9")
        honest, _ = await swarm.add("honest", host="7.7.7.7")
        for index in range(6):
            fake = await swarm.add_outsider(f"fake{index}", host="6.6.6.6", client_mode=True)
            await fake.connect_address(bob.addresses[0])
            says = (f"/ip4/{20 + index}.1.1.1/tcp/4001",)
            calls = rpc_client(fake, SERVICE, MAJOR)
            await calls.call(bob.peer_id, PING, Ping(says), timeout_s=5)
        fakes = [one for one in dht._state.table.confirmed if one.peer_id != honest.peer_id]
        assert len(fakes) == 6
        assert {"6.6.6.0/24"} == {network for one in fakes for network in one.networks[1:]}
        named = dht._state.core.named_to(bob.peer_id, dht._state.own_key, 3, 0.0)
        assert [one.peer_id for one in named] == [honest.peer_id]
        _, newcomer = await swarm.add("newcomer", host="5.5.5.5")
        assert set(newcomer.peers) == {bob.peer_id, honest.peer_id}


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


async def test_who_called_us_is_found_again_when_its_connection_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        alice, dht = await swarm.add("alice")
        bob, _ = await swarm.add("bob")
        (contact,) = dht._state.table.confirmed
        await dht._client.ping(contact)
        assert set(alice.addresses_of(bob.peer_id)) == set(bob.addresses)
