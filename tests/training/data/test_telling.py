"""News of shards in the DHT of a simulated network."""

from __future__ import annotations

import trio

from p2p import open_dht, owned_subkey
from p2p.testing import SimNetwork, run_sim
from training.data.news import shards_key
from training.data.shares import ShardNews, Turn
from training.data.telling import open_shard_telling

RUN = "run"
FIRST = ShardNews(0, current=Turn(0, 3))
LATER = ShardNews(0, current=Turn(0, 5), done=(8,), known=(8,))


def test_each_hears_the_newest_of_the_others_and_forgets_who_left() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            network.open_node("alice") as alice,
            network.open_node("bob") as bob,
            open_dht(alice) as dht,
            open_dht(bob, initial_peers=alice.addresses) as bobs_dht,
            open_shard_telling(alice, dht, RUN) as telling,
        ):
            assert await telling.exchange(ShardNews(7)) == {}
            await trio.sleep(15)
            async with open_shard_telling(bob, bobs_dht, RUN) as bobs:
                # What was told before is there at once.
                assert await bobs.exchange(FIRST) == {alice.peer_id: ShardNews(7)}
                await trio.sleep(15)
                assert await telling.exchange(ShardNews(7)) == {bob.peer_id: FIRST}
                await bobs.exchange(LATER)
                await trio.sleep(1)
                await telling.exchange(ShardNews(8))
                await trio.sleep(3)
                assert await telling.exchange(ShardNews(8)) == {bob.peer_id: LATER}
                await trio.sleep(200)
                assert await telling.exchange(ShardNews(8)) == {bob.peer_id: LATER}, "renewed"
            await bobs_dht.put(shards_key(RUN), b"\x01", subkey=owned_subkey(bob.peer_id), ttl_s=60)
            await trio.sleep(15)
            assert await telling.exchange(ShardNews(8)) == {}, "what is no record is passed over"

    run_sim(1, main)
