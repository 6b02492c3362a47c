"""All-reduce with codecs: the same bits everywhere, and what they lose is owed, whoever is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import trio

from averaging.allreduce.partition import partition
from averaging.allreduce.schema import MAJOR, TRANSFER, FromMember, Part, Result
from averaging.codecs.codec import Codec
from averaging.codecs.coding import Coding
from averaging.codecs.floating import FloatingWire, Run
from averaging.codecs.pair import CodecPair
from averaging.matchmaking.group import Group
from averaging.naming import service_name
from p2p import RpcService
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Array,
    Outcome,
    Peer,
    connect_all,
    group_of,
    mean_of,
    open_peers,
    run_group,
    simulated,
    vectors_for,
)
from tests.averaging.allreduce.test_faults import same_bits, slow
from tests.averaging.allreduce.test_faulty_aggregator import ELEMENTS as LIARS_ELEMENTS
from tests.averaging.allreduce.test_faulty_aggregator import Answers, Liar
from tests.averaging.allreduce.test_hygiene import CHUNK, Hostile
from tests.averaging.allreduce.test_hygiene import ELEMENTS as HOSTILES_ELEMENTS
from tests.averaging.codecs.samples import Bytes, Largest

ELEMENTS = 48_000
# The last ones stay floats, and some chunk has both.
CODED = 45_000


def coding_of(
    up: Codec | None = None,
    down: Codec | None = None,
    feedback: str = "ef",
    *,
    elements: int = ELEMENTS,
    coded: int = CODED,
) -> Coding:
    floating = FloatingWire([Run(0, elements, "float32")], np.dtype("float32"))
    return CodecPair(up or Bytes(), down, feedback).coding(floating, coded)


def owed(coding: Coding) -> Array:
    """What error feedback keeps, in weighted units."""
    assert coding.feedback is not None
    kept = coding.feedback.snapshot()
    return kept["owed"].numpy() if kept else np.zeros(coding.feedback.count, np.float32)


async def run_with_fault(
    peers: Sequence[Peer], group: Group, codings: Sequence[Coding], fault: Callable[[], None]
) -> tuple[list[Outcome], list[Array]]:
    """Run the group, and let something happen in the middle; the results, and the inputs."""
    vectors = vectors_for(len(peers), ELEMENTS)
    results: list[Outcome] = []

    async def run() -> None:
        results.extend(await run_group(peers, group, vectors, codings=codings))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(0.1)
        fault()
    return results, vectors


@pytest.mark.parametrize("down", [Bytes(), None])
@simulated
async def test_all_hold_the_same_bits(network: SimNetwork, down: Codec | None) -> None:
    """Aggregators, a client, and one of weight 0, with an auxiliary member among them."""
    async with open_peers(network, 5, clients=1) as peers:
        vectors: list[Array | None] = [*vectors_for(5, ELEMENTS)]
        vectors[2] = None
        group = group_of([p.node for p in peers], ELEMENTS, auxiliary=[peers[2].peer_id])
        codings = [coding_of(down=down) for _ in peers]
        weights = [1.0, 2.0, 0.0, 0.0, 3.0]
        results = await run_group(peers, group, vectors, weights, codings=codings)
    same_bits(results)
    given = [vectors[number] for number in (0, 1, 4)]
    expected = mean_of([vector for vector in given if vector is not None], [1, 2, 3])
    vector = results[0].vector
    assert vector is not None
    np.testing.assert_allclose(vector[:CODED], expected[:CODED], atol=0.06)
    assert np.abs(vector[:CODED] - expected[:CODED]).max() > 1e-3, "this codec is lossy"
    np.testing.assert_allclose(vector[CODED:], expected[CODED:], atol=1e-6)
    for result in results:
        assert result.codec == f"bytes up, {'bytes' if down else 'floats'} down"
    # A byte for each coded element and a scale for each chunk, and the floats behind them.
    client = results[4]
    sent, received = sum(client.sent_bytes.values()), sum(client.received_bytes.values())
    chunks = sum(
        len(piece.chunks)
        for piece in partition(ELEMENTS, group.span_elements, group.chunk_elements)
    )
    assert CODED + 4 * (ELEMENTS - CODED) < sent <= CODED + 4 * (ELEMENTS - CODED) + 4 * chunks
    assert received == (sent if down else 4 * ELEMENTS)


def included_in(coding: Coding, group: Group, vector: Array) -> Array:
    """Of each coded element, whether the result has this member, whose first round it was."""
    kept, included = owed(coding), np.ones(ELEMENTS, bool)
    for piece in partition(ELEMENTS, group.span_elements, group.chunk_elements):
        for chunk in piece.chunks:
            run = slice(chunk.start, min(chunk.stop, CODED))
            included[run] = (kept[run] != vector[run]).any()
    return included[:CODED]


@simulated
async def test_sent_and_owed_are_all_there_was(network: SimNetwork) -> None:
    """Over rounds of other weights; what results lack is owed by those who averaged them."""
    told, applied = np.zeros(ELEMENTS), np.zeros(ELEMENTS)
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, ELEMENTS)
        codings = [coding_of(Largest(0.1), Bytes()) for _ in peers]
        for number in range(3):
            weights = [1.0, 2.0, 0.5 + number]
            group = group_of([p.node for p in peers], ELEMENTS, seed=number)
            results = await run_group(peers, group, vectors, weights, codings=codings)
            same_bits(results)
            assert results[0].vector is not None
            assert all(result.dropped_elements == 0 for result in results)
            told += mean_of(vectors, weights) * sum(weights)
            applied += results[0].vector.astype(np.float64) * sum(weights)
    kept = sum(owed(coding).astype(np.float64) for coding in codings)
    assert np.abs(kept).max() > 1
    # The rest is with the aggregators: half a level of a byte, in the last round's weight, and
    # what that of earlier rounds was too little or too much in it.
    assert np.abs(told[:CODED] - applied[:CODED] - kept).max() < 0.2
    np.testing.assert_allclose(applied[CODED:], told[CODED:], rtol=1e-4, atol=1e-4)


@simulated
async def test_a_lost_senders_values_are_owed_by_it(network: SimNetwork) -> None:
    """Its connection to one aggregator breaks in the middle of a round that succeeds."""
    slow(network)
    network.default_bytes_per_s = 50_000
    async with open_peers(network, 4, clients=1) as peers:
        victim, nodes = peers[3].peer_id, [p.node for p in peers]
        group = group_of(nodes, ELEMENTS)
        codings = [coding_of() for _ in peers]
        results, vectors = await run_with_fault(
            peers, group, codings, lambda: network.drop_connection(victim, peers[1].peer_id)
        )
        same_bits(results)
        report, vector = results[0].members[victim], results[0].vector
        assert 0 < report.fraction < 1
        assert report.reason == "connection lost"
        lacking = sum(stop - start for start, stop in results[3].left_out)
        assert lacking == pytest.approx((1 - report.fraction) * ELEMENTS)
        assert all(results[number].left_out == () for number in range(3))
        assert vector is not None
        included = included_in(codings[3], group, vectors[3])
        left_out = np.count_nonzero(~included)
        assert left_out == pytest.approx((1 - report.fraction) * ELEMENTS, abs=ELEMENTS - CODED)
        # So many times is what all have sent in the result.
        applied = vector[:CODED] * np.where(included, 4.0, 3.0)
        # In a later round it is with all the others, and what was left out comes with it.
        await nodes[3].connect(peers[1].peer_id, peers[1].node.addresses)
        results = await run_group(
            peers, group_of(nodes, ELEMENTS, seed=1), vectors, codings=codings
        )
        assert results[0].members[victim].fraction == 1
        assert results[0].vector is not None
        applied += 4.0 * results[0].vector[:CODED]
    kept = sum(owed(coding).astype(np.float64) for coding in codings)
    np.testing.assert_allclose(applied + kept, 8 * mean_of(vectors)[:CODED], atol=1e-4)
    assert np.abs(kept).max() < 0.5, "nobody owes more than codecs lose"


@simulated
async def test_a_crash_changes_nobody_elses_mass(network: SimNetwork) -> None:
    """What an aggregator had not finished is averaged again, from the same parts."""
    slow(network)
    network.default_bytes_per_s = 50_000
    async with open_peers(network, 4) as peers:
        victim = peers[1].peer_id
        group = group_of([p.node for p in peers], ELEMENTS)
        codings = [coding_of() for _ in peers]
        results, vectors = await run_with_fault(
            peers, group, codings, lambda: network.crash(victim)
        )
    survivors = [results[number] for number in (0, 2, 3)]
    same_bits(survivors)
    assert {result.plans for result in survivors} == {1}
    assert results[1].outcome != "success"
    assert not owed(codings[1]).any(), "a round that did not succeed changes nothing"
    vector = survivors[0].vector
    assert vector is not None
    sent = mean_of([vectors[n][:CODED] - owed(codings[n]) for n in (0, 2, 3)])
    of_three = np.count_nonzero(np.isclose(vector[:CODED], sent, atol=1e-6))
    fraction = survivors[0].members[victim].fraction
    assert 0 < fraction < 1
    assert of_three >= (1 - fraction) * ELEMENTS - (ELEMENTS - CODED)


@simulated
async def test_values_refused_for_what_they_say_are_given_up(network: SimNetwork) -> None:
    """Else what is owed to them would be too large for ever."""
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, ELEMENTS)
        codings = [coding_of(Largest(0.1)) for _ in peers]
        nodes = [p.node for p in peers]
        await run_group(peers, group_of(nodes, ELEMENTS), vectors, codings=codings)
        assert owed(codings[2]).any()
        excessive = [vectors[0], vectors[1], vectors[2] * 1e6]
        group = group_of(nodes, ELEMENTS, seed=1)
        results = await run_group(peers, group, excessive, codings=codings)
        assert "median" in results[0].members[peers[2].peer_id].reason
        assert results[2].dropped_elements > CODED / 2
        assert not owed(codings[2]).any()
        group = group_of(nodes, ELEMENTS, seed=2)
        vectors[2][7] = np.nan
        results = await run_group(peers, group, vectors, codings=codings)
        same_bits(results)
        assert results[0].members[peers[2].peer_id].reason == "non-finite values"
        assert np.isfinite(owed(codings[2])).all()


@simulated
async def test_what_is_not_finite_is_never_owed(network: SimNetwork) -> None:
    """Nor if the others hear nothing of it, but only lose the connection."""
    slow(network)
    network.default_bytes_per_s = 50_000
    async with open_peers(network, 4, clients=1) as peers:
        group = group_of([p.node for p in peers], ELEMENTS)
        codings = [coding_of() for _ in peers]
        vectors = vectors_for(4, ELEMENTS)
        vectors[3][5] = np.inf
        results: list[Outcome] = []

        async def run() -> None:
            results.extend(await run_group(peers, group, vectors, codings=codings))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(0.005)
            for peer in peers[:3]:
                network.drop_connection(peers[3].peer_id, peer.peer_id)
    same_bits(results)
    assert results[0].members[peers[3].peer_id].reason == "did not come"
    assert np.isfinite(owed(codings[3])).all()


# --- hostile members --------------------------------------------------------------------------


def bad_frames() -> list[tuple[bytes, str]]:
    """Payloads for a first chunk of CHUNK elements, all of them coded, and what is wrong."""
    frame = Largest(0.1).encode(torch.ones(CHUNK), 0).numpy().tobytes()
    return [
        (frame + b"\0", "wrong size"),
        (bytes(4 * CHUNK), "wrong size"),
        (frame[:-1], "no frame of largest:0.1"),
        (b"\xff\xff\xff\x7f" * 100 + frame[400:], "out of range"),
        (frame[4:8] * 100 + frame[400:], "out of order"),
        (frame[:-4] + b"\0\0\xc0\x7f", "no number"),
        (b"", "wrong size"),
    ]


@pytest.mark.parametrize("number", range(7))
@simulated
async def test_bad_frames_are_refused_and_the_sender_named(
    network: SimNetwork, number: int
) -> None:
    payload, reason = bad_frames()[number]
    async with open_peers(network, 2) as peers, network.open_node("eve", client_mode=True) as eve:
        await connect_all([*(p.node for p in peers), eve])
        nodes = [*(p.node for p in peers), eve]
        group = group_of(nodes, HOSTILES_ELEMENTS, chunk_elements=CHUNK)
        vectors = vectors_for(2, HOSTILES_ELEMENTS)
        hostile = Hostile(eve, peers, group)
        said: list[tuple[FromMember, bytes]] = [(hostile.weight(), b""), (Part(0, 0), payload)]
        results: list[Outcome] = []
        codings = [
            coding_of(
                Largest(0.1), feedback="none", elements=HOSTILES_ELEMENTS, coded=HOSTILES_ELEMENTS
            )
            for _ in peers
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hostile.say, *said)
            results.extend(await run_group(peers, group, vectors, codings=codings))
            nursery.cancel_scope.cancel()
    same_bits(results)
    member = results[0].members[eve.peer_id]
    assert member.fraction == 0
    assert any(reason in result.members[eve.peer_id].reason for result in results), member.reason


@pytest.mark.parametrize("payload", [b"\xff" * 4, b"\xff" * 1_000, b"\xff" * 30_000])
@simulated
async def test_results_that_say_no_values_are_not_voted_for(
    network: SimNetwork, payload: bytes
) -> None:
    """All bytes set is no scale; and no frame is so short, or so long."""
    async with open_peers(network, 2) as peers, network.open_node("eve") as eve:
        await connect_all([*(peer.node for peer in peers), eve])
        group = group_of([*(peer.node for peer in peers), eve], LIARS_ELEMENTS)
        liar = Liar(eve, group)
        first = liar.own[0]
        if len(payload) == 1_000:
            payload = b"\xff" * (4 + first.chunks[0].element_count)
        answers: Answers = [(Result(first.number, 0), payload)]
        liar.answers = lambda caller: answers
        service = RpcService(service_name("allreduce", "test"), MAJOR)
        service.stream(TRANSFER, liar.serve)
        codings = [
            coding_of(down=Bytes(), elements=LIARS_ELEMENTS, coded=LIARS_ELEMENTS) for _ in peers
        ]
        async with service.serving(eve):
            vectors = vectors_for(2, LIARS_ELEMENTS)
            results = await run_group(peers, group, vectors, deadline_s=10, codings=codings)
    same_bits(results)
    for result in results:
        assert result.lost == (eve.peer_id,)
        assert result.plans == 1
        assert result.vector is not None
        np.testing.assert_allclose(result.vector, mean_of(vectors), atol=0.06)
