"""Nodes of a simulated network: names, addresses, clocks, handlers' errors."""

import pytest
import trio

from p2p import Identity, RefusedError, Stream, StreamBroken
from p2p.address import network_of, parse_address
from p2p.testing import SimNetwork
from tests.p2p.testing.two_nodes import ECHO, alice_and_bob, echo, ping
from tests.simulated import simulated


@simulated
async def test_nodes_have_names_and_addresses_in_networks_of_their_own(network: SimNetwork) -> None:
    hosts = []
    for _ in range(300):
        async with network.open_node() as node:
            [address] = node.addresses
            parsed = parse_address(address)
            assert (parsed.port, parsed.peer_id) == (4001, node.peer_id)
            hosts.append(parsed.host)
    assert len({network_of(host) for host in hosts}) == 300
    async with (
        network.open_node("alice", host="10.200.1.1") as alice,
        network.open_node(host="10.200.1.2") as neighbour,
    ):
        assert alice.addresses[0].startswith("/ip4/10.200.1.1/tcp/4001/p2p/")
        assert network.name_of(alice.peer_id) == "alice"
        assert network.name_of(neighbour.peer_id) == "node-301"


@simulated
async def test_an_address_or_identity_in_use_is_a_mistake(network: SimNetwork) -> None:
    identity = Identity.generate(network.rng)
    async with network.open_node("alice", identity=identity, host="10.9.9.9"):
        with pytest.raises(ValueError, match="alice is in the network already"):
            async with network.open_node(identity=identity):
                pass
        with pytest.raises(ValueError, match="taken"):
            async with network.open_node(host="10.9.9.9"):
                pass


@simulated
async def test_who_a_peer_is_can_be_asked(network: SimNetwork) -> None:
    async with network.open_node("alice") as alice, network.open_node("bob") as bob:
        assert await alice.ask_who(bob.peer_id) is None
        await alice.connect(bob.peer_id, bob.addresses)
        told = await alice.ask_who(bob.peer_id)
        assert told is not None
        assert (told.peer_id, told.agent) == (bob.peer_id, "simulated")
        assert await alice.ask_who(bob.peer_id) is told


@simulated
async def test_a_client_has_no_address_and_is_called_on_its_own_connections(
    network: SimNetwork,
) -> None:
    async with (
        network.open_node() as server,
        network.open_node(client_mode=True) as client,
    ):
        assert client.addresses == ()
        assert client.net_report.client_mode
        client.serve(ECHO, echo)
        await client.connect_address(server.addresses[0])
        await ping(await server.open_stream(client.peer_id, ECHO))
        # Its machine has a host, as others see, where nobody listens.
        [info] = server.connections
        assert parse_address(info.address).host == "10.0.1.1"


@simulated
async def test_clocks_start_at_a_known_date_and_may_differ(network: SimNetwork) -> None:
    async with (
        network.open_node() as alice,
        network.open_node(clock_skew_s=-90.0) as bob,
    ):
        await trio.sleep(3600)
        assert alice.wall_time_s() == 1_735_689_600 + 3600
        assert bob.wall_time_s() == alice.wall_time_s() - 90


@simulated
async def test_errors_of_handlers_are_recorded(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):

        async def fail(stream: Stream) -> None:
            raise KeyError("a bug")

        async def refuse(stream: Stream) -> None:
            raise RefusedError("no")

        bob.serve("/test/fail/1", fail)
        bob.serve("/test/refuse/1", refuse)
        with pytest.raises(StreamBroken):
            await (await alice.open_stream(bob.peer_id, "/test/fail/1")).receive_some()
        [found] = network.handler_errors
        assert (found.peer_id, found.protocol) == (bob.peer_id, "/test/fail/1")
        assert isinstance(found.error, KeyError)
        assert str(found) == f"{bob.peer_id[-8:]} /test/fail/1: KeyError('a bug')"
        # A refusal is no error.
        stream = await alice.open_stream(bob.peer_id, "/test/refuse/1")
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        assert len(network.handler_errors) == 1


@simulated
async def test_a_peer_cannot_have_too_many_streams_at_once(network: SimNetwork) -> None:
    async with alice_and_bob(network) as (alice, bob):
        streams = [await alice.open_stream(bob.peer_id, ECHO) for _ in range(256)]
        for stream in streams:
            await ping(stream)
        one_more = await alice.open_stream(bob.peer_id, ECHO)
        with pytest.raises(StreamBroken):
            await ping(one_more)
        await streams[0].aclose()
        await trio.sleep(1)
        await ping(await alice.open_stream(bob.peer_id, ECHO))


@simulated
async def test_leaving_a_node_cancels_its_handlers(network: SimNetwork) -> None:
    ended: list[str] = []

    async def wait(stream: Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("handler")

    async with network.open_node() as alice:
        async with network.open_node() as bob:
            bob.serve("/test/wait/1", wait)
            alice.add_addresses(bob.peer_id, bob.addresses)
            stream = await alice.open_stream(bob.peer_id, "/test/wait/1")
            await trio.sleep(1)
        assert ended == ["handler"]
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        await trio.sleep(1)
        assert alice.connected_peers == ()


async def test_a_network_works_in_any_trio_test(autojump_clock: trio.testing.MockClock) -> None:
    async with alice_and_bob(SimNetwork(seed=5)) as (alice, bob):
        assert await ping(await alice.open_stream(bob.peer_id, ECHO)) == pytest.approx(0.02)


async def test_heavy_functions_run_inline(autojump_clock: trio.testing.MockClock) -> None:
    async with SimNetwork().open_node() as node:
        assert await node.offload(divmod, 7, 3) == (2, 1)
