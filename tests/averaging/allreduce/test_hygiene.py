"""All-reduce with bad input, from honest peers and hostile ones: refused, named, and harmless."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from averaging.allreduce import manifest
from averaging.allreduce.aggregator import NOBODY
from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.partition import CHUNK_ELEMENTS_MAX, partition
from averaging.allreduce.result import RoundResult
from averaging.allreduce.schema import (
    ASK,
    FETCH,
    MAJOR,
    MEMBERS_MAX,
    TRANSFER,
    Fetch,
    FromMember,
    Hello,
    Part,
    Plan,
    Promise,
    Question,
    Vote,
    Weight,
)
from averaging.matchmaking.group import Group
from averaging.naming import service_name
from p2p import Node, RefusedError, RemoteError, StreamBroken, rpc_client
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Array,
    Peer,
    connect_all,
    group_of,
    mean_of,
    open_peers,
    run_group,
    simulated,
    vectors_for,
)

ELEMENTS = 20_000
# Small enough that pieces have several.
CHUNK = 1_000


def agreed(results: Sequence[RoundResult]) -> Array:
    """The one vector that all of them hold."""
    assert {result.outcome for result in results} == {"success"}
    vectors = [result.vector for result in results if result.vector is not None]
    assert len({vector.tobytes() for vector in vectors}) == 1
    return vectors[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@simulated
async def test_a_member_with_bad_values_is_left_out_and_gets_the_average(
    network: SimNetwork, bad: float
) -> None:
    async with open_peers(network, 4) as peers:
        vectors = vectors_for(4, ELEMENTS)
        vectors[2][:] = bad
        results = await run_group(peers, group_of([p.node for p in peers], ELEMENTS), vectors)
    expected = mean_of([vectors[0], vectors[1], vectors[3]])
    np.testing.assert_allclose(agreed(results), expected, atol=1e-6)
    report = results[0].members[peers[2].peer_id]
    assert (report.fraction, report.reason) == (0.0, "non-finite values")
    assert results[0].lost == ()


@simulated
async def test_values_that_the_wire_cannot_hold_are_refused(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers:
        vectors = vectors_for(2, ELEMENTS)
        vectors[1][:] = 1e6
        group = group_of([p.node for p in peers], ELEMENTS, wire_dtype="float16")
        results = await run_group(peers, group, vectors)
    np.testing.assert_allclose(agreed(results), vectors[0], rtol=1e-3, atol=1e-4)
    assert results[0].members[peers[1].peer_id].reason == "non-finite values"


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 100.5])
@simulated
async def test_a_member_with_a_bad_weight_is_left_out(network: SimNetwork, weight: float) -> None:
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, ELEMENTS)
        group = group_of([p.node for p in peers], ELEMENTS, weight_cap=100.0)
        results = await run_group(peers, group, vectors, [1.0, weight, 3.0])
    expected = mean_of([vectors[0], vectors[2]], [1.0, 3.0])
    np.testing.assert_allclose(agreed(results), expected, atol=1e-6)
    report = results[2].members[peers[1].peer_id]
    assert report.fraction == 0
    assert "weight" in report.reason


@simulated
async def test_nobody_contributes(network: SimNetwork) -> None:
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, ELEMENTS)
        group = group_of([p.node for p in peers], ELEMENTS)
        results = await run_group(peers, group, vectors, [0.0, 0.0, 0.0])
    for result in results:
        assert (result.outcome, result.certain, result.reason) == ("failed", True, NOBODY)
        assert result.lost == ()


@simulated
async def test_everyone_is_refused(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers:
        vectors = [np.full(ELEMENTS, np.nan, np.float32) for _ in peers]
        results = await run_group(peers, group_of([p.node for p in peers], ELEMENTS), vectors)
    for result in results:
        assert result.outcome == "failed"
        assert "nobody contributed" in result.reason
        assert "non-finite values" in result.reason


@simulated
async def test_an_empty_vector_is_averaged(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers:
        vectors = vectors_for(2, 0)
        results = await run_group(peers, group_of([p.node for p in peers], 0), vectors)
    assert agreed(results).shape == (0,)


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_elements": CHUNK_ELEMENTS_MAX + 1},
        {"span_elements": (ELEMENTS,)},
        {"span_elements": (ELEMENTS, 1)},
        {"span_elements": (ELEMENTS // 2, ELEMENTS // 2 - 1)},
    ],
)
@simulated
async def test_a_leader_that_asks_for_impossible_pieces_is_named(
    network: SimNetwork, change: dict[str, Any]
) -> None:
    async with open_peers(network, 2) as peers:
        group = dataclasses.replace(group_of([p.node for p in peers], ELEMENTS), **change)
        results = await run_group(peers, group, vectors_for(2, ELEMENTS))
    for result in results:
        assert result.outcome == "failed"
        assert result.lost == (group.leader,)
        assert "impossible pieces" in result.reason


@simulated
async def test_a_group_is_run_once(network: SimNetwork) -> None:
    async with open_peers(network, 1) as peers:
        group = group_of([peers[0].node], ELEMENTS)
        await run_group(peers, group, vectors_for(1, ELEMENTS))
        with pytest.raises(ExceptionGroup) as caught:
            await run_group(peers, group, vectors_for(1, ELEMENTS))
    assert caught.group_contains(ValueError, match="once")


class Hostile:
    """A member that speaks the protocol by hand, to two honest ones that run the group."""

    def __init__(self, node: Node, peers: list[Peer], group: Group) -> None:
        self.node = node
        self.peers = peers
        self.group = group
        self.piece_count = len(partition(ELEMENTS, group.span_elements, group.chunk_elements))
        self.client = rpc_client(node, service_name("allreduce", "test"), MAJOR)

    def weight(self, weight: float = 1.0, norm: float = 100.0) -> Weight:
        return manifest.signed_weight(self.group.group_id, weight, norm, self.node.identity.sign)

    async def say(self, *messages: tuple[FromMember, bytes]) -> None:
        """Open a stream to every aggregator, say this, and listen until it is over."""

        async def to_one(peer: Peer) -> None:
            hello = Hello(self.group.group_id)
            async with self.client.open(peer.peer_id, TRANSFER, hello, timeout_s=1) as call:
                for message, payload in messages:
                    await call.send(message, payload)
                while await call.receive() is not None:
                    pass

        async def tolerant(peer: Peer) -> None:
            try:
                await to_one(peer)
            except (RefusedError, StreamBroken):
                return

        async with trio.open_nursery() as nursery:
            for peer in self.peers:
                nursery.start_soon(tolerant, peer)


Saying = Callable[[Hostile], list[tuple[FromMember, bytes]]]


async def run_with_hostile(network: SimNetwork, saying: Saying) -> list[RoundResult]:
    """Two honest members and a hostile client that says these messages."""
    async with open_peers(network, 2) as peers, network.open_node("eve", client_mode=True) as eve:
        await connect_all([*(p.node for p in peers), eve])
        group = group_of([*(p.node for p in peers), eve], ELEMENTS, chunk_elements=CHUNK)
        vectors = vectors_for(2, ELEMENTS)
        results: list[RoundResult] = []
        hostile = Hostile(eve, peers, group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hostile.say, *saying(hostile))
            results.extend(await run_group(peers, group, vectors))
            nursery.cancel_scope.cancel()
    np.testing.assert_allclose(agreed(results), mean_of(vectors), atol=1e-6)
    assert results[0].members[eve.peer_id].fraction == 0
    return results


@pytest.mark.parametrize(
    ("saying", "reason"),
    [
        (lambda eve: [(eve.weight(), b""), (Part(0, 1), bytes(4 * CHUNK))], "out of order"),
        (lambda eve: [(eve.weight(), b""), (Part(0, 99), bytes(4 * CHUNK))], "does not exist"),
        (lambda eve: [(eve.weight(), b""), (Part(99, 0), bytes(4 * CHUNK))], "does not exist"),
        (lambda eve: [(eve.weight(), b""), (Part(0, 0), bytes(4 * CHUNK - 1))], "wrong size"),
        (lambda eve: [(eve.weight(), b""), (Part(0, 0), bytes(4))], "wrong size"),
        (lambda eve: [(eve.weight(), b""), (Part(0, 0), b"")], "were due"),
        (lambda eve: [(eve.weight(), b""), (Part(0, 0), chunk_of(np.inf))], "non-finite"),
        (lambda eve: [(eve.weight(norm=1.0), b""), (Part(0, 0), chunk_of(1.0))], "declared norm"),
        (lambda eve: [(Part(0, 0), chunk_of(1.0))], "before their weight"),
        (lambda eve: [(Weight(1.0, 1.0, bytes(64)), b"")], "signature"),
        (lambda eve: [(eve.weight(weight=101.0), b"")], "over its cap"),
        (lambda eve: [(eve.weight(norm=math.nan), b"")], "non-finite"),
        (lambda eve: [(Vote((bytes(32),) * eve.piece_count, bytes(64)), b"")], "signature"),
        (lambda eve: [(Vote((bytes(32),), bytes(64)), b"")], "number of pieces"),
        (lambda eve: [(Plan(MEMBERS_MAX, (0,) * eve.piece_count, bytes(64)), b"")], "signature"),
        (lambda eve: [(Plan(MEMBERS_MAX, (0,), bytes(64)), b"")], "fit the group"),
        (lambda eve: [(Hello(bytes(32)), b"")], "second hello"),
    ],
)
@simulated
async def test_a_hostile_member_is_left_out_for_what_it_sends(
    network: SimNetwork, saying: Saying, reason: str
) -> None:
    (first, _) = await run_with_hostile(network, saying)
    assert any(reason in member.reason for member in first.members.values())


def chunk_of(value: float) -> bytes:
    """The first chunk of a vector of equal values, as it travels."""
    return np.full(CHUNK, value, "<f4").tobytes()


@simulated
async def test_strangers_are_refused(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers, network.open_node("eve") as eve:
        await connect_all([*(p.node for p in peers), eve])
        group = group_of([p.node for p in peers], ELEMENTS)
        hostile = Hostile(eve, peers, group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_group, peers, group, vectors_for(2, ELEMENTS))
            await trio.testing.wait_all_tasks_blocked()
            for hello in (Hello(group.group_id), Hello(bytes(32)), hostile.weight()):
                with pytest.raises((RefusedError, RemoteError)):
                    async with hostile.client.open(
                        group.leader, TRANSFER, hello, timeout_s=5
                    ) as call:
                        await call.receive()
            with pytest.raises(RefusedError, match="not-found"):
                await hostile.client.call(group.leader, ASK, Question(group.group_id), timeout_s=1)
            with pytest.raises(RefusedError, match="not-found"):
                await hostile.client.call(group.leader, ASK, Question(bytes(32)), timeout_s=1)


# --- norms ------------------------------------------------------------------------------------


@simulated
async def test_an_outlier_is_refused_and_named(network: SimNetwork) -> None:
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, ELEMENTS)
        vectors[1][:] = 1e30
        results = await run_group(peers, group_of([p.node for p in peers], ELEMENTS), vectors)
    np.testing.assert_allclose(agreed(results), mean_of([vectors[0], vectors[2]]), atol=1e-6)
    for result in results:
        report = result.members[peers[1].peer_id]
        assert report.fraction == 0
        assert report.weight == 1.0
        assert "median" in report.reason
        assert result.lost == ()


@pytest.mark.parametrize(("count", "factor_max"), [(2, 10.0), (3, 0.0)])
@simulated
async def test_outliers_are_taken_where_nobody_can_say_who_is_one(
    network: SimNetwork, count: int, factor_max: float
) -> None:
    config = AllreduceConfig(norm_factor_max=factor_max)
    async with open_peers(network, count, config=config) as peers:
        vectors = vectors_for(count, ELEMENTS)
        vectors[1][:] = 1e6
        results = await run_group(peers, group_of([p.node for p in peers], ELEMENTS), vectors)
    np.testing.assert_allclose(agreed(results), mean_of(vectors), rtol=1e-5)
    assert results[0].members[peers[1].peer_id].fraction == 1


@simulated
async def test_a_norm_within_the_limit_is_welcome(network: SimNetwork) -> None:
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, ELEMENTS)
        vectors[1] *= 9
        results = await run_group(peers, group_of([p.node for p in peers], ELEMENTS), vectors)
    np.testing.assert_allclose(agreed(results), mean_of(vectors), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@simulated
async def test_what_rounds_up_on_the_way_is_welcome(network: SimNetwork, dtype: str) -> None:
    """All of a vector's values may be rounded up, and its norm with them."""
    async with open_peers(network, 3) as peers:
        vectors = [np.full(ELEMENTS, 1.0039, np.float32) for _ in peers]
        group = group_of([p.node for p in peers], ELEMENTS, wire_dtype=dtype)
        results = await run_group(peers, group, vectors)
    agreed(results)
    assert all(member.fraction == 1 for member in results[0].members.values())


# --- promises, and what is served -------------------------------------------------------------


@simulated
async def test_a_forged_promise_is_not_believed(network: SimNetwork) -> None:
    """Otherwise one liar could make the others think that the attempt is over."""
    async with open_peers(network, 3) as peers:
        group = group_of([p.node for p in peers], ELEMENTS)
        forger = rpc_client(peers[2].node, service_name("allreduce", "test"), MAJOR)
        network.default_latency_s = 0.1
        results: list[RoundResult] = []

        async def run() -> None:
            results.extend(await run_group(peers, group, vectors_for(3, ELEMENTS)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(0.05)
            for member, signature in ((0, bytes(64)), (7, bytes(64))):
                question = Question(group.group_id, Promise(member, signature))
                with pytest.raises(RefusedError, match="promise"):
                    await forger.call(peers[1].peer_id, ASK, question, timeout_s=1)
    agreed(results)


@simulated
async def test_pieces_are_served_for_a_while_after_the_round(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers:
        group = group_of([p.node for p in peers], ELEMENTS)
        results = await run_group(peers, group, vectors_for(2, ELEMENTS))
        client = rpc_client(peers[0].node, service_name("allreduce", "test"), MAJOR)

        pieces = partition(ELEMENTS, group.span_elements, group.chunk_elements)

        async def ask_and_fetch(first_chunk: int = 0) -> int:
            """How many bytes of the last piece come."""
            answer = await client.call(peers[1].peer_id, ASK, Question(group.group_id), timeout_s=1)
            assert answer.commit is not None
            assert answer.vote is not None
            digest = answer.pieces[-1].digest or bytes(32)
            request = Fetch(group.group_id, pieces[-1].number, digest, first_chunk)
            size_bytes = 0
            async with client.open(peers[1].peer_id, FETCH, request, timeout_s=1) as call:
                while (received := await call.receive()) is not None:
                    size_bytes += len(received[1])
            return size_bytes

        await trio.sleep(9)
        assert await ask_and_fetch() == pieces[-1].element_count * 4
        assert await ask_and_fetch(len(pieces[-1].chunks)) == 0
        await trio.sleep(2)
        with pytest.raises(RefusedError, match="not-found"):
            await ask_and_fetch()
    agreed(results)
