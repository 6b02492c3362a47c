"""Steps after a partition: the smaller side waits, and goes on or is told what it missed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import Averager, AveragerConfig, RoundFailed, RoundId, RoundReport
from averaging.allreduce.config import AllreduceConfig
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated
from tests.averaging.swarm import open_swarm

PATIENCE_S = 45.0


@simulated
async def test_patience_goes_on_from_step_to_step(network: SimNetwork) -> None:
    """A pair parts: one of the two is a quorum, the other waits longer than one step lasts."""
    failures: dict[int, list[RoundReport]] = {0: [], 1: []}
    ended_s: dict[int, list[float]] = {0: [], 1: []}
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2, elements=100_000)
        network.default_bytes_per_s = 500_000

        async def part() -> None:
            await trio.sleep(0.2)
            network.partition(*([peer] for peer in swarm.ids))

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            for _ in range(4):
                try:
                    return await averager.step(tensors, expected=swarm.ids, deadline_s=30)
                except RoundFailed as failed:
                    failures[number].append(failed.report)
                finally:
                    ended_s[number].append(trio.current_time())
            pytest.fail("its patience has no end")

        config = AveragerConfig(join_window_s=2, partition_patience_s=PATIENCE_S)
        await swarm.run(step, config=config, during=part)
    (rest,) = (number for number in failures if failures[number])
    in_group, waiting = failures[rest]
    assert in_group.group_id
    assert not waiting.group_id
    assert "may have succeeded" in waiting.reason
    assert set(swarm.report(rest).members) == {swarm.ids[rest]}
    assert swarm.report(rest).digest != swarm.report(1 - rest).digest
    np.testing.assert_array_equal(swarm.tensors[rest]["weight"], rest)
    failed_s, _, succeeded_s = ended_s[rest]
    assert succeeded_s - failed_s == pytest.approx(PATIENCE_S, abs=1)


@simulated
async def test_who_voted_and_is_cut_off_is_undecided_and_then_behind(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        averagers: dict[int, Averager] = {}
        agreed: dict[int, RoundReport] = {}

        async def part_after_the_vote() -> None:
            """The coordinator is lost to one that has voted."""
            network.default_latency_s = 0.5
            for _ in range(200):
                if 2 in averagers and voted(averagers[2]):
                    break
                await trio.sleep(0.05)
            network.partition(swarm.ids[:2], swarm.ids[2:])

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            averagers[number] = averager
            if number < 2:
                agreed[number] = await averager.step(tensors, expected=swarm.ids)
                await trio.sleep(20)
                return await averager.step(tensors, expected=swarm.ids[:2])
            with pytest.raises(RoundFailed) as caught:
                await averager.step(tensors, expected=swarm.ids, deadline_s=15)
            assert caught.value.report.outcome == "undecided"
            np.testing.assert_array_equal(tensors["weight"], number)
            network.heal()
            return await averager.step(tensors, expected=swarm.ids, round=RoundId(0), deadline_s=15)

        await swarm.run(step, during=part_after_the_vote)
    assert agreed[0].digest == agreed[1].digest
    behind = swarm.failure(2).behind
    assert behind is not None
    assert behind.number >= 1


@simulated
async def test_who_cannot_fetch_what_the_others_agreed_on_is_told_that_it_is_behind(
    network: SimNetwork,
) -> None:
    """Its link carries the certificate in time, but not the result."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3, elements=100_000)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids) as prepared:
                for other in swarm.ids[:2]:
                    network.set_link(swarm.ids[2], other, bytes_per_s=10_000)
                report = await prepared.run(tensors)
            await trio.sleep(30)
            return report

        await swarm.run(step)
    report = swarm.failure(2)
    assert "agreed on a result that could not be fetched in time" in report.reason
    assert report.behind == RoundId(1, swarm.report(0).digest)
    assert report.digest == b""
    assert report.attempts == 1


@pytest.mark.parametrize(
    "rounds",
    [AllreduceConfig().results_kept_max + 1, pytest.param(200, marks=pytest.mark.slow)],
)
@simulated
async def test_who_was_frozen_and_finds_the_result_let_go_is_behind_at_once(
    network: SimNetwork, rounds: int
) -> None:
    """It does not wait for its deadline, while the others go on and may be gone by then."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        took_s: list[float] = []

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids) as prepared:
                if number == 2:
                    network.freeze(swarm.ids[2])
                began_s = trio.current_time()
                try:
                    report = await prepared.run(tensors)
                finally:
                    took_s.append(trio.current_time() - began_s)
            for _ in range(rounds):
                await averager.step(tensors, expected=swarm.ids[:2])
            network.thaw(swarm.ids[2])
            await trio.sleep(30)
            return report

        await swarm.run(step)
    report = swarm.failure(2)
    assert "has let it go" in report.reason
    assert report.behind == RoundId(1, swarm.report(0).digest)
    assert max(took_s) < 10


def voted(averager: Averager) -> bool:
    """Whether it has voted in a group that still runs."""
    sessions = averager._allreduce._sessions.values()
    return any(session.ballot.vote and not session.ballot.end for session in sessions)
