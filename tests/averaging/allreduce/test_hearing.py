"""Answers of a member that lies when it is asked: none of it is believed, and nobody is harmed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from averaging.allreduce import manifest
from averaging.allreduce.outputs import Hold
from averaging.allreduce.partition import partition
from averaging.allreduce.result import RoundResult
from averaging.allreduce.schema import (
    ASK,
    MAJOR,
    MEMBERS_MAX,
    TRANSFER,
    Answer,
    Commit,
    PieceEnd,
    PieceStatus,
    Plan,
    Promise,
    Question,
    Vote,
)
from averaging.matchmaking.group import Group
from averaging.naming import service_name
from p2p import Node, PeerId, RpcCall, RpcService
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Array,
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
NO_SIGNATURE = bytes(64)


class Answerer:
    """It averages nothing, breaks its streams, and answers questions as it likes."""

    def __init__(self, node: Node, group: Group) -> None:
        self.node = node
        self.group = group
        self.pieces = partition(ELEMENTS, group.span_elements, group.chunk_elements)
        self.lost = tuple(PieceStatus(2) for _ in self.pieces)
        self.answer = Answer(self.lost)
        self.asked = 0

    async def serve_transfer(self, call: RpcCall[Any, Any]) -> None:
        """Hang up at once, so that everybody asks."""

    async def serve_ask(self, caller: PeerId, question: Question) -> Answer:
        self.asked += 1
        return self.answer

    def end(self, **changes: int) -> PieceEnd:
        """The end of somebody else's piece, but for the changes, signed by this member."""
        piece = next(piece for piece in self.pieces if piece.owner == other_of(self))
        return end_signed_by(self.node, self.group, piece, **changes)

    def held(self) -> tuple[PieceStatus, ...]:
        """It claims to hold everything, though it will not give it."""
        return tuple(PieceStatus(1, bytes([7]) * 32) for _ in self.pieces)


async def run_with_answerer(
    network: SimNetwork, lie: Callable[[Answerer], Answer]
) -> tuple[list[RoundResult], list[Array], PeerId]:
    """Two honest members and a liar; their results, their vectors, and the liar's id."""
    async with open_peers(network, 2) as peers, network.open_node("eve") as eve:
        await connect_all([*(peer.node for peer in peers), eve])
        group = group_of([*(peer.node for peer in peers), eve], ELEMENTS)
        liar = Answerer(eve, group)
        liar.answer = lie(liar)
        service = RpcService(service_name("allreduce", "test"), MAJOR)
        service.stream(TRANSFER, liar.serve_transfer)
        service.unary(ASK, liar.serve_ask)
        async with service.serving(eve):
            vectors = vectors_for(2, ELEMENTS)
            results = await run_group(peers, group, vectors, deadline_s=10)
        assert liar.asked
    return results, vectors, eve.peer_id


def check_averaged_without(results: Sequence[RoundResult], vectors: Sequence[Array]) -> None:
    """The honest ones average what was lost with the liar, alike."""
    for result in results:
        assert result.outcome == "success", result.reason
        assert result.vector is not None
        np.testing.assert_allclose(result.vector, mean_of(vectors), atol=1e-6)
    assert len({result.digest for result in results}) == 1


def other_of(liar: Answerer) -> int:
    """The number of an aggregator that is not the liar."""
    mine = liar.group.aggregators.index(liar.node.peer_id)
    return (mine + 1) % len(liar.group.aggregators)


def digests(liar: Answerer) -> tuple[bytes, ...]:
    return (bytes(32),) * len(liar.pieces)


LIES: dict[str, Callable[[Answerer], Answer]] = {
    "too few pieces": lambda liar: Answer(liar.lost[1:]),
    "too many pieces": lambda liar: Answer((*liar.lost, PieceStatus(2))),
    "a forged promise": lambda liar: Answer(
        liar.lost, promises=tuple(Promise(member, NO_SIGNATURE) for member in range(3))
    ),
    "a promise of nobody": lambda liar: Answer(liar.lost, promises=(Promise(9, NO_SIGNATURE),)),
    "a forged vote": lambda liar: Answer(liar.lost, Vote(digests(liar), NO_SIGNATURE)),
    "a vote for too little": lambda liar: Answer(
        liar.lost,
        manifest.signed_vote(liar.group.group_id, digests(liar)[1:], liar.node.identity.sign),
    ),
    "a forged certificate": lambda liar: Answer(
        liar.lost, commit=Commit(digests(liar), (0, 1), (NO_SIGNATURE,) * 2)
    ),
    "a certificate of one": lambda liar: Answer(liar.lost, commit=Commit(digests(liar), (), ())),
    "a forged plan": lambda liar: Answer(
        liar.lost, plan=Plan(MEMBERS_MAX, (0,) * len(liar.pieces), NO_SIGNATURE)
    ),
    "a plan of somebody else": lambda liar: Answer(
        liar.lost,
        plan=manifest.signed_plan(
            liar.group.group_id,
            MEMBERS_MAX + liar.group.peer_ids.index(liar.group.aggregators[other_of(liar)]),
            (0,) * len(liar.pieces),
            liar.node.identity.sign,
        ),
    ),
    "evidence that it signed itself": lambda liar: Answer(liar.lost, evidence=(liar.end(),)),
    "evidence of a piece that does not exist": lambda liar: Answer(
        liar.lost, evidence=(liar.end(piece=99),)
    ),
    "pieces that it does not give": lambda liar: Answer(liar.held()),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LIES)
@simulated
async def test_a_lie_in_an_answer_harms_nobody(network: SimNetwork, what: str) -> None:
    results, vectors, eve = await run_with_answerer(network, LIES[what])
    check_averaged_without(results, vectors)
    for result in results:
        # Nobody else is blamed for what it said.
        assert result.lost in ((), (eve,))
        assert result.members[eve].fraction == 0


@pytest.mark.parametrize("hold", [Hold.COMING, Hold.RUMOUR])
@simulated
async def test_one_that_keeps_up_hope_for_ever_delays_until_the_deadline(
    network: SimNetwork, hold: Hold
) -> None:
    """This much a liar can do: it costs the others the attempt, and never different bits."""
    results, _, _ = await run_with_answerer(
        network, lambda liar: Answer((PieceStatus(int(hold)),) * len(liar.pieces))
    )
    for result in results:
        assert (result.outcome, result.vector) == ("failed", None)
        assert result.transfer_seconds + result.agreement_seconds < 10.1


@simulated
async def test_a_true_plan_of_a_liar_is_followed(network: SimNetwork) -> None:
    """Any member may plan: it gives everything to one of the honest, and they average it."""

    def lie(liar: Answerer) -> Answer:
        number = MEMBERS_MAX + liar.group.peer_ids.index(liar.node.peer_id)
        owners = (other_of(liar),) * len(liar.pieces)
        plan = manifest.signed_plan(liar.group.group_id, number, owners, liar.node.identity.sign)
        return Answer(liar.lost, plan=plan)

    results, vectors, _ = await run_with_answerer(network, lie)
    check_averaged_without(results, vectors)
    assert all(result.plans == 1 for result in results)
