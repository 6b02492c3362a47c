"""All-reduce with bad input, from honest peers and hostile ones: refused, named, and harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import trio
import trio.testing

from averaging.allreduce import manifest
from averaging.allreduce.aggregator import NOBODY
from averaging.allreduce.partition import partition
from averaging.allreduce.result import RoundResult
from averaging.allreduce.schema import (
    ASK,
    FETCH,
    MAJOR,
    TRANSFER,
    Fetch,
    Hello,
    Part,
    Ping,
    Promise,
    Question,
    Vote,
)
from averaging.matchmaking.group import Group
from averaging.naming import service_name
from p2p import Identity, MessageInvalid, Node, RefusedError, RemoteError, StreamBroken, rpc_client
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


@simulated
async def test_a_leader_that_asks_for_impossible_chunks_is_named(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers:
        group = group_of([p.node for p in peers], ELEMENTS, chunk_elements=1 << 20)
        results = await run_group(peers, group, vectors_for(2, ELEMENTS))
    for result in results:
        assert result.outcome == "failed"
        assert result.lost == (group.leader,)
        assert "impossible chunks" in result.reason


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
        self.client = rpc_client(node, service_name("allreduce", "test"), MAJOR)

    def hello(self, weight: float = 1.0) -> Hello:
        return manifest.signed_hello(self.group.group_id, weight, self.node.identity.sign)

    async def say(self, *messages: tuple[Part | Vote | Ping | Hello, bytes]) -> None:
        """Open a stream to every aggregator, say this, and listen until it is over."""

        async def to_one(peer: Peer) -> None:
            async with self.client.open(peer.peer_id, TRANSFER, self.hello(), timeout_s=1) as call:
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


async def run_with_hostile(
    network: SimNetwork, *messages: tuple[Part | Vote | Ping | Hello, bytes]
) -> list[RoundResult]:
    """Two honest members and a hostile client that says these messages."""
    async with open_peers(network, 2) as peers, network.open_node("eve", client_mode=True) as eve:
        await connect_all([*(p.node for p in peers), eve])
        group = group_of([*(p.node for p in peers), eve], ELEMENTS)
        vectors = vectors_for(2, ELEMENTS)
        results: list[RoundResult] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Hostile(eve, peers, group).say, *messages)
            results.extend(await run_group(peers, group, vectors))
            nursery.cancel_scope.cancel()
    np.testing.assert_allclose(agreed(results), mean_of(vectors), atol=1e-6)
    assert results[0].members[eve.peer_id].fraction == 0
    return results


@pytest.mark.parametrize(
    ("message", "payload", "reason"),
    [
        (Part(1), bytes(4096 * 4), "out of order"),
        (Part(0), bytes(4096 * 4 - 1), "whole number"),
        (Part(0), bytes(4), "wrong size"),
        (Part(0), b"", "wrong size"),
        (Part(0), np.full(4096, np.inf, "<f4").tobytes(), "non-finite"),
        (Vote((bytes(32),) * 2, bytes(64)), b"", "signature"),
        (Vote((bytes(32),), bytes(64)), b"", "number of spans"),
        (Hello(bytes(32), 1.0, bytes(64)), b"", "second hello"),
    ],
)
@simulated
async def test_a_hostile_member_is_left_out_for_what_it_sends(
    network: SimNetwork, message: Part, payload: bytes, reason: str
) -> None:
    (first, _) = await run_with_hostile(network, (message, payload))
    assert any(reason in member.reason for member in first.members.values())


@simulated
async def test_strangers_and_forged_hellos_are_refused(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers, network.open_node("eve") as eve:
        await connect_all([*(p.node for p in peers), eve])
        group = group_of([p.node for p in peers], ELEMENTS)
        hostile = Hostile(eve, peers, group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_group, peers, group, vectors_for(2, ELEMENTS))
            await trio.testing.wait_all_tasks_blocked()
            for hello in (hostile.hello(), Hello(group.group_id, 1.0, bytes(64))):
                with pytest.raises((RefusedError, RemoteError)):
                    async with hostile.client.open(
                        group.leader, TRANSFER, hello, timeout_s=1
                    ) as call:
                        await call.receive()
            with pytest.raises(RefusedError, match="not-found"):
                await hostile.client.call(group.leader, ASK, Question(group.group_id), timeout_s=1)
            with pytest.raises(RefusedError, match="not-found"):
                await hostile.client.call(group.leader, ASK, Question(bytes(32)), timeout_s=1)


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
async def test_spans_are_served_for_a_while_after_the_round(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers:
        group = group_of([p.node for p in peers], ELEMENTS)
        results = await run_group(peers, group, vectors_for(2, ELEMENTS))
        client = rpc_client(peers[0].node, service_name("allreduce", "test"), MAJOR)

        async def ask_and_fetch() -> int:
            """How many bytes of the other's span come."""
            answer = await client.call(peers[1].peer_id, ASK, Question(group.group_id), timeout_s=1)
            assert answer.commit is not None
            assert answer.vote is not None
            digest = answer.spans[1].digest or bytes(32)
            request = Fetch(group.group_id, 1, digest)
            size_bytes = 0
            async with client.open(peers[1].peer_id, FETCH, request, timeout_s=1) as call:
                while (received := await call.receive()) is not None:
                    size_bytes += len(received[1])
            return size_bytes

        await trio.sleep(9)
        second_span = partition(ELEMENTS, 2, group.chunk_elements)[1]
        assert await ask_and_fetch() == second_span.element_count * 4
        await trio.sleep(2)
        with pytest.raises(RefusedError, match="not-found"):
            await ask_and_fetch()
    agreed(results)


def test_a_promise_of_another_group_does_not_count() -> None:
    identity = Identity.generate()
    promise = manifest.signed_promise(bytes(32), 0, identity.sign)
    manifest.check_promise_untrusted(promise, bytes(32), [identity.peer_id])
    with pytest.raises(MessageInvalid):
        manifest.check_promise_untrusted(promise, bytes([1]) * 32, [identity.peer_id])
