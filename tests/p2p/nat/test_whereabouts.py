"""A node's whereabouts in simulated networks: three peers are enough, and changes are noticed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2p import Node, NodeConfig, PeerId
from p2p.address import TcpAddress, parse_tcp_address
from p2p.host.transport import ConnectionInfo, DialError, Identified
from p2p.nat import PortMapping, RelayReport
from p2p.nat.whereabouts import Whereabouts, open_whereabouts
from p2p.testing import SimNetwork, run_sim
from p2p.testing.transport import SimTransport

LISTENING_EVERYWHERE = NodeConfig(listen=("/ip4/0.0.0.0/tcp/4001",))
HOSTS = {"alice": "5.6.1.1", "bob": "5.6.2.1", "carol": "5.6.3.1"}


@dataclass
class World:
    """Peers of the internet, and who gets through to what."""

    network: SimNetwork
    open: dict[tuple[str, int], PeerId] = field(default_factory=dict)
    interfaces: dict[str, tuple[str, ...]] = field(default_factory=dict)
    probes: int = 0

    async def probe(self, peer_id: PeerId, address: TcpAddress) -> None:
        self.probes += 1
        await trio.sleep(0.05)
        if self.open.get((address.host, address.port)) != peer_id:
            raise DialError("no answer (a firewall, or nobody there)")

    @asynccontextmanager
    async def peer(
        self, name: str, config: NodeConfig = LISTENING_EVERYWHERE
    ) -> AsyncIterator[tuple[Node, Whereabouts]]:
        host = HOSTS[name]
        self.interfaces[name] = ("127.0.0.1", host)
        async with self.network.open_node(name, host=host) as node:
            self.open[host, 4001] = node.peer_id
            transport = node._transport
            assert isinstance(transport, SimTransport)
            async with open_whereabouts(
                node,
                transport,
                config,
                probe=self.probe,
                interfaces=lambda: self.interfaces[name],
            ) as here:
                node.whereabouts = here
                yield node, here


@asynccontextmanager
async def three(
    network: SimNetwork,
) -> AsyncIterator[tuple[World, list[tuple[Node, Whereabouts]]]]:
    """Alice, who is connected to bob and carol."""
    world = World(network)
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(world.peer(name)) for name in HOSTS]
        (alice, _), *others = peers
        for other, _ in others:
            await alice.connect(other.peer_id, other.addresses)
        yield world, peers


def test_three_public_peers_find_out_at_once() -> None:
    async def main(network: SimNetwork) -> None:
        async with three(network) as (_, peers):
            await trio.sleep(2)
            for node, _ in peers:
                report = node.net_report
                assert (report.reachability, report.behind, report.mapping) == (
                    "public",
                    "nothing",
                    "none",
                )
                [detail] = report.details
                assert (detail.source, detail.reachability) == ("interface", "public")
                assert "dialed it back" in detail.evidence

    run_sim(1, main)


def test_a_firewall_is_noticed_within_a_minute_and_its_opening_too() -> None:
    async def main(network: SimNetwork) -> None:
        async with three(network) as (world, [(alice, _), *_]):
            await trio.sleep(300)
            assert alice.net_report.reachability == "public"
            before = world.open.pop((HOSTS["alice"], 4001))
            await trio.sleep(60)
            report = alice.net_report
            assert (report.reachability, report.behind) == ("private", "firewall")
            # Neighbours within the firewall may still use it.
            assert alice.addresses == (f"/ip4/{HOSTS['alice']}/tcp/4001/p2p/{alice.peer_id}",)
            world.open[HOSTS["alice"], 4001] = before
            await trio.sleep(60)
            assert alice.net_report.behind == "nothing"
            # Steady asking costs others little: two questions a minute for each peer.
            probes = world.probes
            await trio.sleep(600)
            assert world.probes - probes <= 3 * 10 * 2

    run_sim(1, main)


def forge(here: Whereabouts, node: Node, host: str, seen: TcpAddress, *, inbound: bool) -> None:
    """A peer at this host says how it sees us."""
    info = ConnectionInfo(
        PeerId(f"peer-{host}"),
        f"/ip4/{host}/tcp/4001",
        "direct",
        not inbound,
        trio.current_time(),
        "/noise",
        local=TcpAddress("ip4", "192.168.1.2", 4001),
        from_listen_port=not inbound,
    )
    here.on_identified(info, Identified(info.peer_id, seen, frozenset(), (), "test"))


def test_one_liar_puts_no_address_in_our_mouth() -> None:
    async def main(network: SimNetwork) -> None:
        async with three(network) as (world, [(alice, here), *_]):
            before = alice.addresses
            victim = TcpAddress("ip4", "9.9.9.9", 4001)
            world.open["9.9.9.9", 4001] = alice.peer_id
            for port in range(1, 50):
                forged = TcpAddress("ip4", "9.9.9.9", port)
                forge(here, alice, "6.6.6.6", forged, inbound=True)
                forge(here, alice, "6.6.6.6", forged, inbound=False)
            forge(here, alice, "6.6.6.6", victim, inbound=True)
            assert alice.addresses == before
            assert alice.net_report.mapping == "none"

    run_sim(1, main)


def test_what_two_networks_see_is_told_to_others_at_once() -> None:
    async def main(network: SimNetwork) -> None:
        world = World(network)
        async with world.peer("alice") as (alice, here):
            outside = TcpAddress("ip4", "8.8.8.8", 4001)
            forge(here, alice, "5.6.2.1", outside, inbound=False)
            assert f"{outside.of(alice.peer_id)}" not in alice.addresses
            forge(here, alice, "5.6.3.1", outside, inbound=False)
            assert f"{outside.of(alice.peer_id)}" in alice.addresses
            assert alice.net_report.mapping == "endpoint-independent"
            assert alice.net_report.behind == "nat"
            assert here.punchable() == (outside,)
            # And is forgotten when nobody has said so for long.
            await trio.sleep(330)
            assert f"{outside.of(alice.peer_id)}" not in alice.addresses

    run_sim(1, main)


def test_another_network_is_noticed_and_told() -> None:
    async def main(network: SimNetwork) -> None:
        async with three(network) as (world, [(alice, here), (bob, _), (carol, _)]):
            await trio.sleep(30)
            changes = []
            here.on_network_changed.append(lambda: changes.append(trio.current_time()))
            transport = alice._transport
            assert isinstance(transport, SimTransport)
            transport.listening = TcpAddress("ip4", "5.6.9.9", 4001)
            world.interfaces["alice"] = ("127.0.0.1", "5.6.9.9")
            world.open["5.6.9.9", 4001] = alice.peer_id
            began_s = trio.current_time()
            await trio.sleep(20)
            # The old connections die of the change; until then they show the old address.
            for other in (bob, carol):
                network.drop_connection(alice.peer_id, other.peer_id)
                await alice.connect(other.peer_id, other.addresses)
            await trio.sleep(20)
            assert changes[0] - began_s <= 10
            assert alice.addresses == (f"/ip4/5.6.9.9/tcp/4001/p2p/{alice.peer_id}",)
            [detail] = alice.net_report.details
            assert detail.reachability == "public"

    run_sim(1, main)


def test_mappings_and_relays_are_told_while_they_last() -> None:
    async def main(network: SimNetwork) -> None:
        world = World(network)
        async with world.peer("alice") as (alice, here), world.peer("bob") as (bob, _):
            mapped = PortMapping("pcp", "/ip4/8.8.8.8/tcp/7", 4001, 3600.0, None)
            here.on_mapped(mapped)
            told = parse_tcp_address(mapped.external).of(alice.peer_id)
            assert str(told) in alice.addresses
            assert alice.net_report.port_mapping == mapped
            here.on_mapped(PortMapping("pcp", mapped.external, 4001, 3600.0, "a second NAT"))
            assert str(told) not in alice.addresses
            assert here.punchable() == ()
            here.on_mapped(None)
            assert alice.net_report.port_mapping is None
            circuit = f"{bob.addresses[0]}/p2p-circuit/p2p/{alice.peer_id}"
            here.on_reserved((RelayReport(bob.peer_id, circuit, 3600.0, 0.01),))
            assert circuit in alice.addresses
            [detail] = [one for one in alice.net_report.details if one.source == "relay"]
            assert detail.reachability == "public"
            here.on_reserved(())
            assert circuit not in alice.addresses

    run_sim(1, main)


def test_who_listens_nowhere_or_wants_none_of_it_asks_nobody() -> None:
    async def main(network: SimNetwork) -> None:
        for config in (
            NodeConfig(listen=("/ip4/0.0.0.0/tcp/4001",), dial_back=False),
            NodeConfig(),
            NodeConfig(client_mode=True),
        ):
            world = World(network)
            async with world.peer("alice", config) as (alice, _), world.peer("bob") as (bob, _):
                await alice.connect(bob.peer_id, bob.addresses)
                await trio.sleep(100)
                assert world.probes == 0
                assert alice.net_report.reachability == "unknown"

    run_sim(1, main)
