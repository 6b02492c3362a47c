"""Steps that are cancelled: untouched tensors, and others who go on."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import Averager, RoundReport
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated
from tests.averaging.swarm import open_swarm


@pytest.mark.slow
@simulated
async def test_a_cancelled_step_leaves_all_workable(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4, elements=100_000)
        network.default_bytes_per_s = 500_000
        reports: dict[int, RoundReport] = {}

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            expected = swarm.ids
            if number == 3:
                with trio.move_on_after(0.2) as scope:
                    await averager.step(tensors, expected=expected)
                assert scope.cancelled_caught
                np.testing.assert_array_equal(tensors["weight"], 3)
            else:
                reports[number] = await averager.step(tensors, expected=expected)
                weight = tensors["weight"]
                assert (np.isclose(weight, 1) ^ np.isclose(weight, 1.5)).all()
                tensors["weight"][...] = tensors["bias"][...] = number
            return await averager.step(tensors, expected=expected)

        await swarm.run(step)
    swarm.check_mean(range(4), 1.5)
    for report in reports.values():
        assert report.lost == (swarm.ids[3],)
        assert report.seconds < 4


@pytest.mark.parametrize("elements", [1_000, 2_000_000])
@simulated
async def test_a_step_is_cancelled_with_its_tensors_untouched_or_not_at_all(
    network: SimNetwork, elements: int
) -> None:
    """The cancellation comes as late as one can: when the result is about to be written."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3, elements=elements)
        network.default_bytes_per_s = math.inf

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            reports = []
            with trio.CancelScope() as scope:

                def used(members: Any) -> bool:
                    if not number:
                        scope.cancel()
                    return True

                reports.append(await averager.step(tensors, expected=swarm.ids, used=used))
            np.testing.assert_array_equal(tensors["weight"], 1 if reports else number)
            assert scope.cancelled_caught != bool(reports)
            return await averager.step(tensors, expected=swarm.ids)

        await swarm.run(step)
