"""prepare(): the group and its streams are there before the tensors are; run() averages then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import Averager, AveragerConfig, RoundFailed, RoundReport
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated
from tests.averaging.swarm import Swarm, open_swarm


async def prepare_and_run(
    swarm: Swarm,
    number: int,
    averager: Averager,
    tensors: Any,
    between: Callable[[int], Awaitable[None]],
    **wishes: Any,
) -> RoundReport:
    """Prepare, let something happen, and run."""
    async with averager.prepare(expected=swarm.ids, **wishes) as prepared:
        assert set(prepared.members) == set(swarm.ids)
        await between(number)
        return await prepared.run(tensors)


@simulated
async def test_the_group_is_found_before_the_tensors_are_final(network: SimNetwork) -> None:
    """What is in the tensors counts when run() is called: no part of them travels before."""
    network.default_latency_s = 0.05
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3, elements=100_000)
        ran_s: list[float] = []

        async def between(number: int) -> None:
            await trio.sleep(5)
            # Only what travels from now on takes its time.
            network.default_bytes_per_s = 500_000
            for tensor in swarm.tensors[number].values():
                np.testing.assert_array_equal(tensor, number)
                tensor[...] = 10 * number
            ran_s.append(trio.current_time())

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            report = await prepare_and_run(swarm, number, averager, tensors, between)
            # Nothing is left of matchmaking: parts, averages, votes, the certificate.
            assert trio.current_time() - max(ran_s) < 2.5
            return report

        await swarm.run(step)
    swarm.check_mean(range(3), 10.0)
    for number in range(3):
        report = swarm.report(number)
        # Two thirds of 800 kB come in while as much goes out.
        assert 1.0 < report.transfer_seconds < 2.0
        assert report.matchmaking_seconds < 3
        assert report.seconds > 5
        assert all(member.fraction == 1 for member in report.members.values())


@simulated
async def test_rounds_are_prepared_one_after_the_other(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3, clients=1)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            reports = []
            for _ in range(3):
                async with averager.prepare(expected=swarm.ids) as prepared:
                    reports.append(await prepared.run(tensors))
            assert [report.round.number for report in reports] == [0, 1, 2]
            assert reports[1].round.parent == reports[0].digest
            return reports[-1]

        await swarm.run(step)
    swarm.check_mean(range(3), 1.0)


@simulated
async def test_members_are_ready_at_different_times(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)

        async def between(number: int) -> None:
            await trio.sleep(2.0 * number)

        await swarm.run(
            lambda number, averager, tensors: prepare_and_run(
                swarm, number, averager, tensors, between
            )
        )
    swarm.check_mean(range(3), 1.0)
    assert all(member.fraction == 1 for member in swarm.report(0).members.values())
    # Waiting for the others is no silence, and no fault of theirs.
    assert swarm.report(0).lost == ()
    assert swarm.report(0).attempts == 1


@simulated
async def test_who_prepares_and_who_just_steps_average_together(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            if number:
                return await averager.step(tensors, expected=swarm.ids)
            async with averager.prepare(expected=swarm.ids) as prepared:
                await trio.sleep(1)
                return await prepared.run(tensors)

        await swarm.run(step)
    swarm.check_mean(range(3), 1.0)


@simulated
async def test_who_leaves_without_running_leaves_the_group_workable(network: SimNetwork) -> None:
    """The others finish without it, at once, and it takes part in the next round."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)
        first: dict[int, RoundReport] = {}
        seconds: dict[int, float] = {}

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids) as prepared:
                await trio.sleep(1)
                if number != 2:
                    started_s = trio.current_time()
                    first[number] = await prepared.run(tensors)
                    seconds[number] = trio.current_time() - started_s
            if number == 2:
                np.testing.assert_array_equal(tensors["weight"], 2)
                await trio.sleep(0.3)
            for tensor in tensors.values():
                tensor[...] = number
            return await averager.step(tensors, expected=swarm.ids)

        await swarm.run(step)
    swarm.check_mean(range(4), 1.5)
    assert len({report.digest for report in first.values()}) == 1
    for number, report in first.items():
        assert report.succeeded
        assert report.members[swarm.ids[2]].fraction == 0
        assert report.lost == (swarm.ids[2],)
        assert seconds[number] < 3


@simulated
async def test_a_cancelled_run_leaves_the_tensors_and_the_group(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4, elements=100_000)
        network.default_bytes_per_s = 500_000

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids) as prepared:
                if number != 3:
                    return await prepared.run(tensors)
                with trio.move_on_after(0.2) as scope:
                    await prepared.run(tensors)
                assert scope.cancelled_caught
            np.testing.assert_array_equal(tensors["weight"], 3)
            # Its own next step goes its own way.
            return await averager.step(tensors, expected=swarm.ids[3:])

        await swarm.run(step)
    assert len({swarm.report(number).digest for number in range(3)}) == 1
    for number in range(3):
        assert swarm.report(number).lost == (swarm.ids[3],)
        weight = swarm.tensors[number]["weight"]
        assert (np.isclose(weight, 1.0) ^ np.isclose(weight, 1.5)).all()


@simulated
async def test_the_deadline_covers_the_run(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids, deadline_s=8) as prepared:
                await trio.sleep(1)
                if number:
                    network.partition([swarm.ids[0]], [swarm.ids[1]])
                    await trio.sleep(20)
                return await prepared.run(tensors)

        await swarm.run(step, config=AveragerConfig(group_size_min=2))
    for number in range(2):
        assert swarm.failure(number).outcome in ("failed", "undecided")
    assert swarm.failure(0).seconds == pytest.approx(8, abs=0.5)
    assert swarm.failure(1).seconds == pytest.approx(21, abs=0.5)


@simulated
async def test_who_is_ready_too_late_gets_the_mean_of_the_others(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids) as prepared:
                if number == 2:
                    await trio.sleep(25)
                started_s = trio.current_time()
                report = await prepared.run(tensors)
                seconds = trio.current_time() - started_s
                assert seconds < 0.1 if number == 2 else 9 < seconds < 12
                return report

        await swarm.run(step)
    swarm.check_mean(range(3), 0.5)
    for number in range(3):
        report = swarm.report(number)
        late = report.members[swarm.ids[2]]
        assert (late.fraction, late.reason) == (0.0, "did not begin")
        # It is slow, not lost: the next group waits for it.
        assert report.lost == ()
        assert min(report.transfer_seconds, report.agreement_seconds) >= 0


@simulated
async def test_who_finds_no_group_is_told_before_it_has_tensors(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 1)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            with pytest.raises(RoundFailed, match="members"):
                async with averager.prepare(expected=swarm.ids, deadline_s=5):
                    pytest.fail("there is no group")
            async with averager.prepare(expected=swarm.ids, deadline_s=5):
                pytest.fail("nor now")

        await swarm.run(step, config=AveragerConfig(group_size_min=2, join_window_s=1))
    assert swarm.failure(0).group_id == b""


@simulated
async def test_the_weight_may_be_anything_up_to_the_cap(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids, weight_cap=4.0) as prepared:
                for weight in (4.001, -1.0, float("nan"), float("inf")):
                    with pytest.raises(ValueError, match="weight must be between 0 and 4"):
                        await prepared.run(tensors, weight=weight)
                # A refused call has not used it up.
                return await prepared.run(tensors, weight=4.0 if number else 1.0)

        await swarm.run(step)
    swarm.check_mean(range(2), 0.8)
    assert [swarm.report(0).members[peer].weight for peer in swarm.ids] == [1.0, 4.0]


@simulated
async def test_misuse_is_a_value_error(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 1)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            for wishes in ({"weight_cap": -1.0}, {"weight_cap": 1e30}, {"deadline_s": 0.0}):
                with pytest.raises(ValueError, match=r"weight|deadline_s"):
                    async with averager.prepare(expected=swarm.ids, **wishes):
                        pytest.fail("it was prepared")
            async with averager.prepare(expected=swarm.ids) as prepared:
                with pytest.raises(ValueError, match="one step at a time"):
                    await averager.step(tensors, expected=swarm.ids)
                with pytest.raises(ValueError, match="spec"):
                    await prepared.run({"weight": tensors["weight"]})
                report = await prepared.run(tensors)
                with pytest.raises(ValueError, match="once"):
                    await prepared.run(tensors)
            # The block has ended: the next step may come.
            await averager.step(tensors, expected=swarm.ids)
            return report

        await swarm.run(step)
    swarm.check_mean([0], 0.0)


@simulated
async def test_a_crash_before_the_tensors_are_final_costs_nothing(network: SimNetwork) -> None:
    """It is noticed while everyone waits; the others run without it."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            async with averager.prepare(expected=swarm.ids) as prepared:
                await trio.sleep(2)
                if number == 1:
                    network.crash(swarm.ids[1])
                await trio.sleep(4)
                return await prepared.run(tensors)

        await swarm.run(step)
    assert len({swarm.report(number).digest for number in (0, 2, 3)}) == 1
    for number in (0, 2, 3):
        report = swarm.report(number)
        assert report.lost == (swarm.ids[1],)
        np.testing.assert_allclose(swarm.tensors[number]["weight"], 5 / 3, rtol=1e-6)
