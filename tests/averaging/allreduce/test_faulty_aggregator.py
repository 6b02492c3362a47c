"""An aggregator that breaks the protocol: it is named, and the others average without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
from blake3 import blake3

from averaging.allreduce import manifest
from averaging.allreduce.aggregator import NOBODY
from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.partition import Piece, partition
from averaging.allreduce.result import DIFFERS, LIED, RoundResult
from averaging.allreduce.schema import (
    MAJOR,
    MEMBERS_MAX,
    TRANSFER,
    Abort,
    Commit,
    FromAggregator,
    Hello,
    PieceEnd,
    Ping,
    Plan,
    Result,
)
from averaging.matchmaking.group import Group
from averaging.naming import service_name
from p2p import (
    Node,
    P2PError,
    PeerId,
    RpcCall,
    RpcService,
    open_service_nursery,
    rpc_client,
)
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Array,
    Peer,
    connect_all,
    end_signed_by,
    group_of,
    mean_of,
    open_peers,
    run_group,
    simulated,
    vectors_for,
)

ELEMENTS = 24_000
Answers = list[tuple[FromAggregator, bytes]]


class Liar:
    """An aggregator that sends what it likes, whatever it gets."""

    def __init__(self, node: Node, group: Group) -> None:
        self.node = node
        self.group = group
        self.pieces = partition(ELEMENTS, group.span_elements, group.chunk_elements)
        self.number = group.aggregators.index(node.peer_id)
        self.own = [piece for piece in self.pieces if piece.owner == self.number]
        self.answers: Callable[[PeerId], Answers] = lambda caller: []

    def results(self, value: float = 0.0) -> Answers:
        """This value for every element of every chunk of its pieces."""
        return [
            (Result(piece.number, chunk.number), payload)
            for piece in self.own
            for chunk, payload in zip(piece.chunks, self.payloads(piece, value), strict=True)
        ]

    def payloads(self, piece: Piece, value: float) -> list[bytes]:
        return [np.full(c.element_count, value, "<f4").tobytes() for c in piece.chunks]

    def end(self, piece: Piece | None = None, *, value: float = 0.0, **changes: Any) -> PieceEnd:
        """A true end of a piece of these values, but for the changes; always signed."""
        piece = piece or self.own[-1]
        chunks = tuple(blake3(payload).digest() for payload in self.payloads(piece, value))
        return end_signed_by(self.node, self.group, piece, **{"chunks": chunks, **changes})

    def whole(self, value: float = 0.0) -> Answers:
        """All pieces with their ends, as the protocol has it."""
        answers: Answers = []
        for piece in self.own:
            answers += [one for one in self.results(value) if one[0].piece == piece.number]
            answers.append((self.end(piece, value=value), b""))
        return answers

    async def serve(self, call: RpcCall[Any, Any]) -> None:
        for message, payload in self.answers(call.peer_id):
            await call.send(message, payload)
        while await call.receive() is not None:
            pass


async def run_with_liar(
    network: SimNetwork,
    lie: Callable[[Liar], Answers],
    *,
    weights: Sequence[float] | None = None,
    prepared_s: float = 0.0,
) -> tuple[list[RoundResult], list[Array], PeerId]:
    """Two honest members and a liar; their results, their vectors, and the liar's id."""
    async with open_peers(network, 2) as peers, network.open_node("eve") as eve:
        await connect_all([*(peer.node for peer in peers), eve])
        group = group_of([*(peer.node for peer in peers), eve], ELEMENTS)
        liar = Liar(eve, group)
        answers = lie(liar)
        liar.answers = lambda caller: answers
        service = RpcService(service_name("allreduce", "test"), MAJOR)
        service.stream(TRANSFER, liar.serve)
        async with service.serving(eve):
            vectors = vectors_for(2, ELEMENTS)
            results = await run_group(
                peers, group, vectors, weights, deadline_s=10, prepared_s=prepared_s
            )
    return results, vectors, eve.peer_id


def check_done_without(
    results: Sequence[RoundResult], vectors: Sequence[Array], eve: PeerId
) -> None:
    """The honest ones averaged everything themselves, and say whom they lost."""
    for result in results:
        assert result.outcome == "success", result.reason
        assert result.lost == (eve,)
        assert result.members[eve].fraction == 0
        assert result.plans == 1
        assert result.vector is not None
        np.testing.assert_allclose(result.vector, mean_of(vectors), atol=1e-6)
        assert result.transfer_seconds < 5
    assert len({result.digest for result in results}) == 1
    assert len({result.vector.tobytes() for result in results if result.vector is not None}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "lie",
    [
        lambda liar: [(Result(liar.own[0].number, 1), bytes(4))],
        lambda liar: [(Result(liar.own[0].number, 0), bytes(4))],
        lambda liar: [*liar.results(), (Result(99, 0), b"")],
        lambda liar: [(liar.end(), b"")],
        lambda liar: [*liar.results(), (liar.end(chunks=(bytes(32),)), b"")],
        lambda liar: [*liar.results(), (liar.end(chunks=()), b"")],
        lambda liar: [*liar.results(), (liar.end(weights=(-1.0, 1.0, 1.0)), b"")],
        lambda liar: [*liar.results(), (liar.end(weights=(1.0, 1.0)), b"")],
        lambda liar: [*liar.results(), (liar.end(included=(99, 0, 0)), b"")],
        lambda liar: [*liar.results(), (liar.end(group_id=bytes(32)), b"")],
        lambda liar: [*liar.results(), (liar.end(owner=(liar.number + 1) % 3), b"")],
        lambda liar: [
            *liar.results(),
            (msgspec.structs.replace(liar.end(), signature=bytes(64)), b""),
        ],
        lambda liar: [(Commit((bytes(32),) * len(liar.pieces), (0, 1), (bytes(64),) * 2), b"")],
        lambda liar: [(Commit((bytes(32),), (), ()), b"")],
        lambda liar: [(Plan(MEMBERS_MAX, (0,) * len(liar.pieces), bytes(64)), b"")],
        lambda liar: [(Plan(MEMBERS_MAX, (0,), bytes(64)), b"")],
    ],
)
@simulated
async def test_a_faulty_aggregator_is_named_and_done_without(network: SimNetwork, lie: Any) -> None:
    check_done_without(*await run_with_liar(network, lie))


@simulated
async def test_what_it_says_of_others_pieces_does_not_count(network: SimNetwork) -> None:
    """It sends another's piece, signed as if a plan had made it the owner, and then its own."""

    def lie(liar: Liar) -> Answers:
        other = next(piece for piece in liar.pieces if piece.owner != liar.number)
        results: Answers = [
            (Result(other.number, number), payload)
            for number, payload in enumerate(liar.payloads(other, 0.0))
        ]
        return [*results, (liar.end(other, plan=MEMBERS_MAX), b""), *liar.whole()]

    results, vectors, _ = await run_with_liar(network, lie)
    assert {result.outcome for result in results} == {"success"}
    assert len({result.vector.tobytes() for result in results if result.vector is not None}) == 1
    assert results[0].vector is not None
    honest = np.isclose(results[0].vector, mean_of(vectors), atol=1e-6)
    assert np.count_nonzero(honest) >= ELEMENTS * 0.6


@pytest.mark.parametrize("prepared_s", [0.0, 1.0])
@pytest.mark.parametrize("certain", [True, False])
@simulated
async def test_an_abort_does_not_end_the_attempt_of_who_contributes(
    network: SimNetwork, certain: bool, prepared_s: float
) -> None:
    """Who contributes, or is still to, knows that the aggregator that says so cannot be right."""
    abort: Answers = [(Abort(NOBODY, certain), b"")]
    check_done_without(*await run_with_liar(network, lambda liar: abort, prepared_s=prepared_s))


@simulated
async def test_an_abort_is_believed_by_who_contributes_nothing(network: SimNetwork) -> None:
    """A liar can cost those without a weight the attempt; nobody's bits differ."""
    results, _, _ = await run_with_liar(
        network, lambda liar: [(Abort(NOBODY, True), b"")], weights=(0.0, 0.0)
    )
    for result in results:
        assert (result.outcome, result.certain, result.hopeless) == ("failed", True, True)
        assert NOBODY in result.reason


@simulated
async def test_one_that_falsifies_only_its_own_pieces_gives_all_the_same_bits(
    network: SimNetwork,
) -> None:
    """This much a lying aggregator can do; it cannot make two members succeed differently."""
    results, _, _ = await run_with_liar(network, lambda liar: [*liar.whole(), (Ping(), b"")])
    assert {result.outcome for result in results} == {"success"}
    assert len({result.vector.tobytes() for result in results if result.vector is not None}) == 1
    assert results[0].vector is not None
    assert np.count_nonzero(results[0].vector == 0) >= ELEMENTS / 4


class Equivocator(Liar):
    """Tells some members one thing and the others another, each signed, and votes for both."""

    def __init__(self, node: Node, group: Group, deceived: Sequence[PeerId]) -> None:
        super().__init__(node, group)
        self.deceived = deceived
        self.answers = lambda caller: self.whole(self.value_for(caller))
        self.digests: dict[int, bytes] = {}
        self.client = rpc_client(node, service_name("allreduce", "test"), MAJOR)
        self.knows_all = trio.Event()

    def value_for(self, peer: PeerId) -> float:
        return 1.0 if peer in self.deceived else 0.0

    async def take_part(self, peers: Sequence[Peer]) -> None:
        """Learn the pieces of the honest ones, and vote at each for what it was told."""
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(self._at_one, peer.peer_id)

    async def _at_one(self, peer: PeerId) -> None:
        group_id, sign = self.group.group_id, self.node.identity.sign
        try:
            async with self.client.open(peer, TRANSFER, Hello(group_id), timeout_s=1) as call:
                await call.send(manifest.signed_weight(group_id, 0.0, 0.0, sign))
                async with open_service_nursery() as nursery:
                    nursery.start_soon(self._vote, call, peer)
                    while (received := await call.receive()) is not None:
                        if isinstance(received[0], PieceEnd):
                            self._learn(received[0])
                    nursery.cancel_scope.cancel()
        except P2PError:
            return

    def _learn(self, end: PieceEnd) -> None:
        self.digests[end.piece] = manifest.piece_digest(end)
        if len(self.digests) + len(self.own) == len(self.pieces):
            self.knows_all.set()

    async def _vote(self, call: RpcCall[Any, Any], peer: PeerId) -> None:
        await self.knows_all.wait()
        value = self.value_for(peer)
        own = {
            piece.number: manifest.piece_digest(self.end(piece, value=value)) for piece in self.own
        }
        digests = {**self.digests, **own}
        pieces = tuple(digests[piece.number] for piece in self.pieces)
        await call.send(manifest.signed_vote(self.group.group_id, pieces, self.node.identity.sign))


async def run_with_equivocator(
    network: SimNetwork, count: int, *, deceived: int, votes: bool, liar_first: bool = False
) -> tuple[list[RoundResult], PeerId]:
    """So many honest members; those with the lowest numbers hear something else."""
    config = AllreduceConfig(tolerated_liars=1 if count >= 3 else 0)
    async with (
        open_peers(network, count, config=config) as peers,
        network.open_node("eve") as eve,
    ):
        nodes = [peer.node for peer in peers]
        await connect_all([*nodes, eve])
        group = group_of([eve, *nodes] if liar_first else [*nodes, eve], ELEMENTS)
        liar = Equivocator(eve, group, [peer.peer_id for peer in peers[:deceived]])
        service = RpcService(service_name("allreduce", "test"), MAJOR)
        service.stream(TRANSFER, liar.serve)
        results: list[RoundResult] = []
        async with service.serving(eve), trio.open_nursery() as nursery:
            if votes:
                nursery.start_soon(liar.take_part, peers)
            vectors = vectors_for(count, ELEMENTS)
            results.extend(await run_group(peers, group, vectors, deadline_s=10))
            nursery.cancel_scope.cancel()
    return results, eve.peer_id


def check_same_bits(results: Sequence[RoundResult]) -> None:
    """No two succeed with different ones."""
    winners = [result for result in results if result.outcome == "success"]
    assert len({result.digest for result in winners}) <= 1
    assert len({result.vector.tobytes() for result in winners if result.vector is not None}) <= 1


def check_named(results: Sequence[RoundResult], eve: PeerId) -> None:
    """These know who lied."""
    for result in results:
        assert result.members[eve].reason == LIED == "signed two things that exclude each other"
        assert eve in result.lost


@simulated
async def test_one_that_tells_two_members_different_things_is_named(network: SimNetwork) -> None:
    """Each of the two has voted for what it was told; they compare what they were given."""
    results, eve = await run_with_equivocator(network, 2, deceived=1, votes=False)
    check_named(results, eve)
    assert all(result.outcome != "success" for result in results)


@simulated
async def test_one_that_only_pings_is_passed_over(network: SimNetwork) -> None:
    """It takes what it is sent, is never silent, and gives nothing."""

    async def serve(call: RpcCall[Any, Any]) -> None:
        async with trio.open_nursery() as nursery:

            async def ping() -> None:
                while True:
                    await call.send(Ping())
                    await trio.sleep(0.5)

            nursery.start_soon(ping)
            while await call.receive() is not None:
                pass
            nursery.cancel_scope.cancel()

    async with open_peers(network, 3) as peers, network.open_node("eve") as eve:
        await connect_all([*(peer.node for peer in peers), eve])
        group = group_of([*(peer.node for peer in peers), eve], ELEMENTS)
        service = RpcService(service_name("allreduce", "test"), MAJOR)
        service.stream(TRANSFER, serve)
        async with service.serving(eve):
            vectors = vectors_for(3, ELEMENTS)
            results = await run_group(peers, group, vectors, deadline_s=30)
    assert {result.outcome for result in results} == {"success"}
    assert len({result.digest for result in results}) == 1
    for result in results:
        assert result.plans >= 1
        assert result.transfer_seconds < 15
        assert result.members[eve.peer_id].fraction == 0


@pytest.mark.slow
@pytest.mark.parametrize("liar_first", [False, True])
@pytest.mark.parametrize("deceived", [1, 2])
@pytest.mark.parametrize("count", [3, 4])
@simulated
async def test_one_that_votes_for_both_is_named_and_parts_nobody(
    network: SimNetwork, count: int, deceived: int, liar_first: bool
) -> None:
    results, eve = await run_with_equivocator(
        network, count, deceived=deceived, votes=True, liar_first=liar_first
    )
    check_same_bits(results)
    # A majority that was told the same may agree before it hears of anything else.
    sides = results[:deceived], results[deceived:]
    for side in sides:
        if len(side) <= count / 2:
            check_named(side, eve)


@simulated
async def test_a_table_that_says_other_weights_than_the_others_is_noticed(
    network: SimNetwork,
) -> None:
    """Whether the aggregator lies or the member told it something else is not known."""
    results, _, eve = await run_with_liar(network, lambda liar: liar.whole())
    for result in results:
        assert result.outcome == "success"
        # Of eve, who sends nothing, only her own table says something.
        odd = [peer for peer, member in result.members.items() if member.reason == DIFFERS]
        assert odd == [peer for peer in result.members if peer != eve]
