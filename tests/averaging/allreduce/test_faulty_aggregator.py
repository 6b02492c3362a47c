"""An aggregator that breaks the protocol: its group fails for certain and names it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from averaging.allreduce import manifest
from averaging.allreduce.aggregator import NOBODY
from averaging.allreduce.partition import Span, partition
from averaging.allreduce.schema import (
    MAJOR,
    TRANSFER,
    Abort,
    Commit,
    FromAggregator,
    Ping,
    Result,
    SpanEnd,
)
from averaging.matchmaking.group import Group
from averaging.naming import service_name
from p2p import Node, RpcCall, RpcService
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    connect_all,
    group_of,
    open_peers,
    run_group,
    simulated,
    vectors_for,
)

ELEMENTS = 24_000


class Liar:
    """An aggregator that sends the same to everyone, whatever it gets."""

    def __init__(self, node: Node, group: Group) -> None:
        self.node = node
        self.group = group
        self.answers: list[tuple[FromAggregator, bytes]] = []

    @property
    def span(self) -> Span:
        owner = self.group.aggregators.index(self.node.peer_id)
        aggregators = len(self.group.aggregators)
        return partition(ELEMENTS, aggregators, self.group.chunk_elements)[owner]

    def results(self) -> list[tuple[FromAggregator, bytes]]:
        """Zeros for every chunk."""
        return [
            (Result(chunk.number), bytes(4 * chunk.element_count)) for chunk in self.span.chunks
        ]

    def end(self, **changes: Any) -> SpanEnd:
        """A true span end for these zeros, but for the changes; always signed."""
        count = len(self.group.members)
        end = SpanEnd(
            group_id=self.group.group_id,
            owner=self.span.owner,
            chunks=tuple(blake3(payload).digest() for _, payload in self.results()),
            included=(len(self.span.chunks),) * count,
            weights=(1.0,) * count,
            reasons=("",) * count,
            signature=bytes(64),
        )
        return manifest.signed_span_end(
            msgspec.structs.replace(end, **changes), self.node.identity.sign
        )

    async def serve(self, call: RpcCall[Any, Any]) -> None:
        for message, payload in self.answers:
            await call.send(message, payload)
        while await call.receive() is not None:
            pass


async def run_with_liar(network: SimNetwork, lie: Any) -> tuple[list[Any], str]:
    """Two honest members and a liar; their results, and the liar's id."""
    async with open_peers(network, 2) as peers, network.open_node("eve") as eve:
        await connect_all([*(peer.node for peer in peers), eve])
        group = group_of([*(peer.node for peer in peers), eve], ELEMENTS)
        liar = Liar(eve, group)
        liar.answers = lie(liar)
        service = RpcService(service_name("allreduce", "test"), MAJOR)
        service.stream(TRANSFER, liar.serve)
        async with service.serving(eve):
            vectors = vectors_for(2, ELEMENTS)
            results = await run_group(peers, group, vectors, deadline_s=10)
    return results, eve.peer_id


@pytest.mark.parametrize(
    "lie",
    [
        lambda liar: [(Result(1), bytes(4))],
        lambda liar: [(Result(0), bytes(4))],
        lambda liar: [*liar.results(), (Result(99), b"")],
        lambda liar: [(liar.end(), b"")],
        lambda liar: [*liar.results(), (liar.end(chunks=(bytes(32),)), b"")],
        lambda liar: [*liar.results(), (liar.end(weights=(-1.0, 1.0, 1.0)), b"")],
        lambda liar: [
            *liar.results(),
            (msgspec.structs.replace(liar.end(), signature=bytes(64)), b""),
        ],
        lambda liar: [(Commit((bytes(32),) * 3, (0, 1), (bytes(64),) * 2), b"")],
        lambda liar: [(Commit((bytes(32),), (), ()), b"")],
    ],
)
@simulated
async def test_a_faulty_aggregator_is_named(network: SimNetwork, lie: Any) -> None:
    results, eve = await run_with_liar(network, lie)
    for result in results:
        assert (result.outcome, result.certain, result.hopeless) == ("failed", True, False)
        assert result.lost == (eve,)
        assert result.transfer_seconds < 5


@simulated
async def test_an_abort_ends_the_attempt(network: SimNetwork) -> None:
    results, _ = await run_with_liar(network, lambda liar: [(Abort(NOBODY), b"")])
    for result in results:
        assert (result.outcome, result.certain, result.hopeless) == ("failed", True, True)
        assert result.reason == NOBODY


@simulated
async def test_one_that_falsifies_only_its_own_span_gives_all_the_same_bits(
    network: SimNetwork,
) -> None:
    """This much a lying aggregator can do; it cannot make two members succeed differently."""
    results, _ = await run_with_liar(
        network, lambda liar: [*liar.results(), (liar.end(), b""), (Ping(), b"")]
    )
    assert {result.outcome for result in results} == {"success"}
    assert len({result.vector.tobytes() for result in results}) == 1
    assert np.count_nonzero(results[0].vector == 0) >= ELEMENTS / 4
