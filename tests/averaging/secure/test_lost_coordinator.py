"""A coordinator that is lost: before signatures the others try again, after them they cannot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import trio

from averaging import SecureAverager
from averaging.secure.session import Session
from averaging.secure.stages import Phase, Stage
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated
from tests.averaging.secure.test_averager import Peers, open_peers

COUNT = 5
Reached = Callable[[Session, list[Session]], bool]
"""Whether the coordinator and the others are where it is lost."""


def gathers(phase: Phase) -> Reached:
    """The coordinator has begun the phase."""

    def reached(first: Session, rest: list[Session]) -> bool:
        return first.coordinator is not None and first.coordinator.phase is phase

    return reached


def all_are(stage: Stage) -> Reached:
    """All others have come so far."""
    return lambda first, rest: all(session.member.stage is stage for session in rest)


async def lose_coordinator(network: SimNetwork, reached: Reached, how: str) -> tuple[Peers, int]:
    """One step of five peers, whose coordinator is lost at that point."""
    averagers: dict[int, SecureAverager] = {}
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, COUNT, elements=2_000)
        network.default_latency_s = 0.05
        everyone = [node.peer_id for node in peers.nodes]
        victim, *rest = peers.in_rank

        async def step(number: int, averager: SecureAverager) -> None:
            averagers[number] = averager
            peers.outcomes[number] = await averager.step(
                peers.tensors[number],
                weight=peers.weights[number],
                deadline_s=20.0,
                expected=everyone,
            )

        def sessions() -> dict[int, Session]:
            opened = {
                number: [*one._secure._sessions.values()] for number, one in averagers.items()
            }
            return {number: found[0] for number, found in opened.items() if found}

        def is_reached() -> bool:
            found = sessions()
            return len(found) == COUNT and reached(found[victim], [found[one] for one in rest])

        async def lose() -> None:
            while not is_reached():  # noqa: ASYNC110
                await trio.sleep(0.001)
            getattr(network, how)(peers.nodes[victim].peer_id)

        with trio.fail_after(60):
            await peers.run(step=step, during=lose)
    return peers, victim


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", [Phase.KEYS, Phase.SHARES, Phase.PARTS, Phase.SUMS], ids=lambda phase: phase.value
)
@simulated
async def test_before_signatures_the_others_try_again(network: SimNetwork, phase: Phase) -> None:
    peers, victim = await lose_coordinator(network, gathers(phase), "crash")
    survivors = [number for number in range(COUNT) if number != victim]
    peers.check_mean_of(survivors)
    for number in survivors:
        report = peers.outcomes[number]
        assert report.attempts == 2
        assert report.lost == (peers.nodes[victim].peer_id,)


@pytest.mark.parametrize("how", ["crash", "freeze"])
@pytest.mark.parametrize("stage", [Stage.SIGNED, Stage.REVEALED])
@simulated
async def test_after_signatures_the_others_are_undecided(
    network: SimNetwork, stage: Stage, how: str
) -> None:
    peers, victim = await lose_coordinator(network, all_are(stage), how)
    for number in range(COUNT):
        report = peers.check_untouched(number)
        if number != victim:
            assert report.outcome == "undecided"
            assert report.spent
            assert not report.succeeded
            assert report.attempts == 1
