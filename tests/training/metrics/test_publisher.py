"""Metrics in the DHT of a simulated network: signed by their owner, renewed, gone after a while."""

from __future__ import annotations

import trio

from p2p import Dht, PeerId, open_dht, owned_subkey
from p2p.testing import SimNetwork, run_sim
from training.metrics import decode_metrics_untrusted, metrics_key, open_metrics_publisher
from training.metrics.schema import Metrics, metrics_of

RUN = "run"


async def told(dht: Dht) -> dict[PeerId, Metrics]:
    """What each owner says, as a reader sees it."""
    found = {}
    for subkey, entry in (await dht.get_dictionary(metrics_key(RUN))).items():
        assert entry.owner is not None
        assert subkey == owned_subkey(entry.owner)
        found[entry.owner] = decode_metrics_untrusted(entry.value)
    return found


def test_the_newest_metrics_are_found_and_forgotten() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            network.open_node("alice") as alice,
            network.open_node("bob") as bob,
            open_dht(alice) as dht,
            open_dht(bob, initial_peers=alice.addresses) as bobs_dht,
        ):
            async with open_metrics_publisher(bob, bobs_dht, RUN) as publisher:
                assert await told(dht) == {}
                first = metrics_of(step=1, samples=10, samples_per_s=2.0, loss=3.0)
                await publisher.tell(first)
                await trio.sleep(1)
                assert await told(dht) == {bob.peer_id: first}
                later = metrics_of(step=2, samples=20, samples_per_s=2.0, loss=None)
                await publisher.tell(later)
                await trio.sleep(15)
                assert await told(dht) == {bob.peer_id: later}
                await trio.sleep(300)
                assert await told(dht) == {bob.peer_id: later}, "renewed"
            await trio.sleep(120)
            assert await told(dht) == {}

    run_sim(1, main)
