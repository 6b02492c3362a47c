"""Fetching from a holder that does its worst: the fetch fails, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.partition import partition
from averaging.allreduce.schema import ASK, FETCH, MAJOR, TRANSFER, Answer, PieceStatus, Question
from averaging.naming import service_name
from p2p import Node, PeerId, RpcCall, RpcService
from p2p.testing import SimNetwork, run_sim
from tests.averaging.allreduce.peers import (
    connect_all,
    group_of,
    open_peers,
    run_group,
    vectors_for,
)

ELEMENTS = 24_000
CONFIG = AllreduceConfig()


class SilentHolder:
    """It claims to hold every piece; once asked for one it says nothing until it is given up.

    At that very moment the connection breaks, as after a pause in which both timers ran out.
    """

    def __init__(self, network: SimNetwork, node: Node, piece_count: int) -> None:
        self.network = network
        self.node = node
        self.answer = Answer((PieceStatus(1, bytes([7]) * 32),) * piece_count)
        self.fetches = 0

    async def serve_transfer(self, call: RpcCall[Any, Any]) -> None:
        """Hang up at once, so that everybody asks."""

    async def serve_ask(self, caller: PeerId, question: Question) -> Answer:
        return self.answer

    async def serve_fetch(self, call: RpcCall[Any, Any]) -> None:
        self.fetches += 1
        await trio.sleep(CONFIG.silence_s)
        self.network.drop_connection(self.node.peer_id, call.peer_id)


@pytest.mark.parametrize("seed", range(3))
def test_a_holder_that_breaks_just_when_it_has_been_silent_for_too_long(seed: int) -> None:
    """The seed decides which of the two the fetching member sees first."""

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.0
        async with (
            open_peers(network, 2, config=CONFIG) as peers,
            network.open_node("eve") as eve,
        ):
            await connect_all([*(peer.node for peer in peers), eve])
            group = group_of([*(peer.node for peer in peers), eve], ELEMENTS)
            pieces = partition(ELEMENTS, group.span_elements, group.chunk_elements)
            holder = SilentHolder(network, eve, len(pieces))
            service = RpcService(service_name("allreduce", "test"), MAJOR)
            service.stream(TRANSFER, holder.serve_transfer)
            service.unary(ASK, holder.serve_ask)
            service.stream(FETCH, holder.serve_fetch)
            async with service.serving(eve):
                results = await run_group(peers, group, vectors_for(2, ELEMENTS), deadline_s=20)
            assert holder.fetches
        assert [(result.outcome, result.reason) for result in results] == [("success", "")] * 2

    run_sim(seed, main)
