"""The DHT at dozens of nodes: crashes, expiry, liars, skewed clocks, clients; all from seeds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from p2p import Node
from p2p.dht import Dht, open_dht, owned_subkey, schema
from p2p.testing import SimNetwork, run_sim
from tests.p2p.dht.swarms import QUICK, Liar, open_liar

JOINING_AT_ONCE = 20

# Ten seconds on an idle core; a busy machine is not a failure.
pytestmark = pytest.mark.timeout(300)


@dataclass
class Peer:
    """A node of the swarm and its DHT."""

    node: Node
    dht: Dht
    life: trio.CancelScope


class Crowd:
    """Many nodes, each in a task of its own, so that they can come and go in any order."""

    def __init__(self, network: SimNetwork, nursery: trio.Nursery) -> None:
        self.network = network
        self.peers: list[Peer] = []
        self._nursery = nursery

    async def grow(
        self, count: int, liar: Callable[[], Liar] | None = None, **options: Any
    ) -> None:
        """So many more nodes, twenty joining at once; liars join before they lie."""
        if not self.peers:
            # The others need somebody to join.
            await self._start(None, options)
            count -= 1
        for start in range(0, count, JOINING_AT_ONCE):
            async with trio.open_nursery() as nursery:
                for _ in range(min(JOINING_AT_ONCE, count - start)):
                    nursery.start_soon(self._start, liar and liar(), options)

    async def _start(self, liar: Liar | None, options: dict[str, Any]) -> None:
        peer = await self._nursery.start(self._run, liar, options)
        if liar is None:
            self.peers.append(peer)

    async def _run(
        self,
        liar: Liar | None,
        options: dict[str, Any],
        *,
        task_status: trio.TaskStatus[Peer],
    ) -> None:
        initial = self.peers[0].node.addresses if self.peers else ()
        skew_s = self.network.rng.uniform(-300, 300)
        with trio.CancelScope() as life:
            async with AsyncExitStack() as stack:
                node = await stack.enter_async_context(
                    self.network.open_node(clock_skew_s=skew_s, **options)
                )
                if liar is None:
                    opening = open_dht(node, QUICK, initial)
                else:
                    opening = open_liar(node, initial, liar)
                dht = await stack.enter_async_context(opening)
                task_status.started(Peer(node, dht, life))
                await trio.sleep_forever()

    def anyone(self) -> Peer:
        """A random living peer."""
        return self.network.rng.choice(self.peers)

    def crash(self, fraction: float) -> None:
        """Kill a random part of the swarm, but not the first node."""
        dead = self.network.rng.sample(self.peers[1:], int(len(self.peers) * fraction))
        for peer in dead:
            self.network.crash(peer.node.peer_id)
            peer.life.cancel()
        self.peers = [peer for peer in self.peers if peer not in dead]

    async def put_all(self, count: int, ttl_s: float) -> dict[str, bytes]:
        """Plain values from random peers."""
        values = {f"key{index}": b"%d" % index for index in range(count)}
        for key, value in values.items():
            report = await self.anyone().dht.put(key, value, ttl_s=ttl_s)
            assert report.replicas == QUICK.replicas
        return values

    async def count_hits(self, values: dict[str, bytes]) -> int:
        """How many values a random peer each finds."""
        hits = 0
        for key, value in values.items():
            entry = await self.anyone().dht.get(key)
            hits += entry is not None and entry.value == value
        return hits


def simulate(seed: int, story: Callable[[Crowd], Awaitable[Any]]) -> Any:
    """Run a story from a seed; no handler may fail in it."""

    async def main(network: SimNetwork) -> Any:
        async with trio.open_nursery() as nursery:
            result = await story(Crowd(network, nursery))
            assert network.handler_errors == []
            nursery.cancel_scope.cancel()
        return result

    return run_sim(seed, main)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "count"), [pytest.param(1, 100, marks=pytest.mark.soak), (2, 40)])
def test_nothing_is_lost_when_a_fifth_crashes_and_a_fifth_again(seed: int, count: int) -> None:
    async def story(crowd: Crowd) -> None:
        await crowd.grow(count)
        values = await crowd.put_all(60, ttl_s=1500)
        assert await crowd.count_hits(values) == len(values)
        crowd.crash(0.2)
        # Five replicas all die with chance 0.03 %: none of 60 with these seeds.
        assert await crowd.count_hits(values) == len(values)
        await trio.sleep(800)
        crowd.crash(0.2)
        assert await crowd.count_hits(values) == len(values)
        await trio.sleep(700)
        assert await crowd.count_hits(values) == 0

    simulate(seed, story)


@pytest.mark.slow
def test_churn_of_a_fifth_per_quarter_of_an_hour_loses_nothing() -> None:
    async def story(crowd: Crowd) -> None:
        await crowd.grow(30)
        values = await crowd.put_all(40, ttl_s=80_000)
        for _ in range(5):
            crowd.crash(0.2)
            await crowd.grow(6)
            await trio.sleep(900)
        assert await crowd.count_hits(values) == len(values)

    simulate(3, story)


@pytest.mark.slow
def test_a_fifth_that_lies_changes_nothing_that_is_signed() -> None:
    async def story(crowd: Crowd) -> None:
        await crowd.grow(40)
        forger = crowd.peers[1].node
        forgery = schema.WireRecord(
            owned_subkey(crowd.peers[2].node.peer_id), b"lie", 1000, 2**50, 60_000, 2**40, bytes(64)
        )
        await crowd.grow(8, Liar)
        await crowd.grow(7, lambda: Liar(stale=True))
        await crowd.grow(5, lambda: Liar(forgery=forgery))
        await crowd.grow(40)
        await crowd.grow(5, client_mode=True)
        writers = [crowd.anyone() for _ in range(20)]
        for round_number in range(2):
            for index, writer in enumerate(writers):
                subkey = owned_subkey(writer.node.peer_id)
                value = b"%d" % round_number
                report = await writer.dht.put(f"run{index}", value, subkey=subkey, ttl_s=600)
                assert report.replicas == QUICK.replicas
        current = 0
        for index, writer in enumerate(writers):
            subkey = owned_subkey(writer.node.peer_id)
            entry = await crowd.anyone().dht.get(f"run{index}", subkey=subkey)
            current += entry is not None and entry.value == b"1"
            if entry is not None:
                assert entry.owner == writer.node.peer_id
        assert current == len(writers)
        clients = [peer.node.peer_id for peer in crowd.peers if peer.node.client_mode]
        assert len(clients) == 5
        for peer in crowd.peers:
            assert not set(clients) & set(peer.dht.peers)
        assert forger.peer_id in {peer.node.peer_id for peer in crowd.peers}

    simulate(4, story)


@pytest.mark.slow
def test_everybody_sees_everybody_in_one_dictionary() -> None:
    async def story(crowd: Crowd) -> None:
        await crowd.grow(50)
        for peer in crowd.peers:
            subkey = owned_subkey(peer.node.peer_id)
            await peer.dht.put("run/progress", b"step 1", subkey=subkey, ttl_s=300)
        expected = sorted(owned_subkey(peer.node.peer_id) for peer in crowd.peers)
        for _ in range(5):
            assert list(await crowd.anyone().dht.get_dictionary("run/progress")) == expected
        crowd.crash(0.2)
        for _ in range(10):
            assert list(await crowd.anyone().dht.get_dictionary("run/progress")) == expected
        await trio.sleep(301)
        assert await crowd.anyone().dht.get_dictionary("run/progress") == {}

    simulate(5, story)


@pytest.mark.slow
def test_one_seed_is_one_run() -> None:
    async def story(crowd: Crowd) -> list[Any]:
        await crowd.grow(16)
        values = await crowd.put_all(10, ttl_s=300)
        crowd.crash(0.2)
        trace: list[Any] = [await crowd.count_hits(values), trio.current_time()]
        await trio.sleep(100)
        return trace + [(peer.node.peer_id, peer.dht.peers) for peer in crowd.peers]

    assert simulate(6, story) == simulate(6, story)
    assert simulate(6, story) != simulate(7, story)
