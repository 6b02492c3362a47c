"""A simulated network of leaders: claims, downloads, and one that is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest
import trio

from averaging import Manifest, RoundId, Snapshot, StateTable, StateUnavailable, TensorSpec
from p2p import Node, open_dht
from p2p.testing import SimNetwork, run_sim
from training.config import SwarmConfig
from training.progress import FixedBatch, Position
from training.session_plan import SessionPlan
from training.state_metadata import encode_metadata
from training.strategies.leader_session import LeaderSession, open_leader_session

CONFIG = SwarmConfig(state_timeout_s=3.0)


@asynccontextmanager
async def open_leading(
    network: SimNetwork, name: str, value: float, *, initial_peers: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Node, LeaderSession]]:
    """A peer whose parameters are all this value."""
    arrays = {"parameters": np.full(5, value)}
    spec = TensorSpec.of(arrays)
    position = Position(RoundId(0))

    def check(manifest: Manifest) -> str | None:
        return None if manifest.table == StateTable.of(arrays) else "has other tensors"

    plan = SessionPlan(
        run="run",
        spec=spec,
        spec_hash=spec.hash,
        schedule=FixedBatch(8),
        position=position,
        check_state=check,
        take_snapshot=lambda: Snapshot(
            0, encode_metadata(position, equalized=False, scalars=()), arrays
        ),
    )

    async def on_caller(function: Callable[[], Snapshot]) -> Snapshot:
        await trio.sleep(0.02)
        return function()

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(network.open_node(name))
        dht = await stack.enter_async_context(open_dht(node, initial_peers=initial_peers))
        session = await stack.enter_async_context(
            open_leader_session(node, dht, plan, CONFIG, on_caller)
        )
        await session.introduce()
        yield node, session


async def wait_for_peers(session: LeaderSession, count: int) -> None:
    """Until a session knows so many, itself included."""
    with trio.fail_after(20):
        while len((await session.view()).peers) != count:  # noqa: ASYNC110
            await trio.sleep(0.05)


def test_leaders_are_asked_and_downloaded_and_one_that_is_lost_stops_nobody() -> None:
    async def main(network: SimNetwork) -> None:
        async with AsyncExitStack() as stack:
            peers: list[tuple[Node, LeaderSession]] = []
            for name, value in (("alice", 1.0), ("bob", 2.0), ("carol", 3.0)):
                initial = peers[0][0].addresses if peers else ()
                opened = open_leading(network, name, value, initial_peers=initial)
                peers.append(await stack.enter_async_context(opened))
            here = Position(RoundId(0))
            for _, session in peers:
                await wait_for_peers(session, 3)
            for (_, session), loss in zip(peers, (0.5, 0.25, float("inf")), strict=True):
                await session.tell(here, 3, loss, 10.0, 0.1)
            (_, alice), (bob_node, _), (carol_node, _) = peers
            others = (bob_node.peer_id, carol_node.peer_id)
            assert await alice.claims(others) == {str(bob_node.peer_id): 0.25}
            assert (await alice.download(bob_node.peer_id))["parameters"].tolist() == [2.0] * 5
            network.crash(bob_node.peer_id)
            assert await alice.claims(others) == {}
            with pytest.raises(StateUnavailable):
                await alice.download(bob_node.peer_id)
            assert (await alice.download(carol_node.peer_id))["parameters"].tolist() == [3.0] * 5
            await wait_for_peers(alice, 2)

    run_sim(1, main)
