"""What an owner keeps after a plan is bounded, however the others' speeds differ."""

from __future__ import annotations

import pytest
import trio

from averaging.allreduce import manifest
from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.partition import partition
from averaging.allreduce.schema import ASK, MAJOR, MEMBERS_MAX, Question
from averaging.naming import service_name
from p2p import rpc_client
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    group_of,
    mean_of,
    open_peers,
    run_group,
    simulated,
    vectors_for,
)

ELEMENTS = 120_000
CHUNK_ELEMENTS = 4_096
CHUNK_BYTES = 4 * CHUNK_ELEMENTS


@pytest.mark.slow
@pytest.mark.parametrize("limit_bytes", [0, 64 << 20])
@simulated
async def test_what_waits_for_a_slow_sender_is_bounded(
    network: SimNetwork, limit_bytes: int
) -> None:
    """One member has all pieces planned to another, which a third reaches over a slow link."""
    # So patient that nobody is given up for being slow.
    config = AllreduceConfig(planned_bytes_max=limit_bytes, silence_s=20.0)
    async with open_peers(network, 3, config=config) as peers:
        network.default_bytes_per_s = 1_000_000
        owner, planner, slow = peers
        network.set_link(slow.peer_id, owner.peer_id, bytes_per_s=300_000)
        group = group_of([peer.node for peer in peers], ELEMENTS, chunk_elements=CHUNK_ELEMENTS)
        pieces = partition(ELEMENTS, group.span_elements, group.chunk_elements)
        number = MEMBERS_MAX + group.peer_ids.index(planner.peer_id)
        owners = (group.aggregators.index(owner.peer_id),) * len(pieces)
        sign = planner.node.identity.sign
        plan = manifest.signed_plan(group.group_id, number, owners, sign)
        vectors, peak_bytes = vectors_for(3, ELEMENTS), 0

        async def hand_out_the_plan() -> None:
            nonlocal peak_bytes
            await trio.sleep(0.1)
            client = rpc_client(planner.node, service_name("allreduce", "test"), MAJOR)
            question = Question(group.group_id, plan=plan)
            for peer in (owner, slow):
                await client.call(peer.peer_id, ASK, question, timeout_s=5)
            session = owner.allreduce._sessions[group.group_id]
            while True:
                waiting = [work.reduction.waiting_bytes for work in session.work if work.plan]
                peak_bytes = max(peak_bytes, sum(waiting))
                await session.work_changed.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_out_the_plan)
            results = await run_group(peers, group, vectors)
            nursery.cancel_scope.cancel()
    assert [(result.outcome, result.reason) for result in results] == [("success", "")] * 3
    assert results[0].plans == 1
    # Nobody is left out for it.
    assert all(member.fraction == 1 for member in results[0].members.values())
    assert results[0].vector == pytest.approx(mean_of(vectors), abs=1e-5)
    # Of each sender's, the chunk that is awaited comes on top.
    limit_bytes += 3 * CHUNK_BYTES
    assert peak_bytes > 0
    assert peak_bytes <= limit_bytes
    if limit_bytes > 4 * ELEMENTS:
        assert peak_bytes > ELEMENTS, "the others were not far ahead of the slow one"


def test_less_than_nothing_is_no_limit() -> None:
    with pytest.raises(ValueError, match="planned_bytes_max"):
        AllreduceConfig(planned_bytes_max=-1)
