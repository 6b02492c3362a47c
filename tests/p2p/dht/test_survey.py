"""Who is in the swarm, and where one peer is, asked of a DHT."""

from trio.testing import MockClock

from p2p import Identity, Node
from tests.p2p.dht.swarms import open_swarm


def told(node: Node) -> tuple[str, ...]:
    """A node's addresses as its contacts name them: its peer id stands beside."""
    return tuple(address.partition("/p2p/")[0] for address in node.addresses)


async def test_everybody_is_found_and_nobody_twice(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        dhts = [(await swarm.add(f"peer{number}")) for number in range(12)]
        client, dht = await swarm.add("client", client_mode=True)
        found = await dht.survey(peers_max=100)
        assert set(found) == {node.peer_id for node, _ in dhts}
        assert all(found[node.peer_id] == told(node) for node, _ in dhts)
        assert client.peer_id not in found
        assert len(await dht.survey(peers_max=5)) == 5


async def test_one_peer_is_found_by_its_id(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        dhts = [(await swarm.add(f"peer{number}")) for number in range(12)]
        _, dht = await swarm.add("client", client_mode=True)
        for node, _ in dhts:
            assert await dht.find_peer(node.peer_id) == told(node)
        assert await dht.find_peer(Identity.generate().peer_id) == ()
