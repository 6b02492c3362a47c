"""The averager as its users see it: step() succeeds everywhere alike, or leaves all as it was."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from averaging import (
    Averager,
    AveragerConfig,
    RoundFailed,
    RoundId,
    RoundReport,
    TensorSpec,
    open_averager,
)
from averaging.allreduce.config import AllreduceConfig
from p2p import Node, open_dht
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import NAMES, simulated
from tests.averaging.swarm import Array, open_swarm, tensors_of


@simulated
async def test_rounds_follow_each_other(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)

        async def three_steps(number: int, averager: Averager, tensors: Any) -> RoundReport:
            reports = [await averager.step(tensors, expected=swarm.ids) for _ in range(3)]
            assert [report.round.number for report in reports] == [0, 1, 2]
            assert reports[1].round.parent == reports[0].digest
            assert all(report.succeeded and report.outcome == "success" for report in reports)
            return reports[-1]

        await swarm.run(three_steps)
    swarm.check_mean(range(3), 1.0)
    report = swarm.report(0)
    assert report.attempts == 1
    assert report.lost == ()
    assert set(report.members) == set(swarm.ids)
    assert report.sent_bytes > 0
    assert report.received_bytes > 0


@simulated
async def test_rounds_are_remembered_until_their_deadlines_are_past(network: SimNetwork) -> None:
    """Those who come late may still ask how we stand; after that, memory is for newer rounds."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)

        async def steps(_number: int, averager: Averager, tensors: Any) -> RoundReport:
            sessions = averager._allreduce._sessions
            for count in range(1, 4):
                await averager.step(tensors, expected=swarm.ids, deadline_s=30)
                assert len(sessions) == count
            await trio.sleep(30 + AllreduceConfig().linger_s)
            report = await averager.step(tensors, expected=swarm.ids)
            assert len(sessions) == 1
            return report

        await swarm.run(steps)


@simulated
async def test_weights(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3, clients=1)
        weights = (0, 3.0, 1.0)
        await swarm.run(
            lambda number, averager, tensors: averager.step(
                tensors, weight=weights[number], expected=swarm.ids
            )
        )
    swarm.check_mean(range(3), (3 * 1 + 2) / 4)
    members = swarm.report(1).members
    assert [members[peer].weight for peer in swarm.ids] == list(weights)
    assert [members[peer].fraction for peer in swarm.ids] == [0, 1, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@simulated
async def test_wire_dtypes(network: SimNetwork, dtype: str) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids),
            config=AveragerConfig(wire_dtype=dtype),
        )
    swarm.check_mean(range(2), 0.5)
    # The first of two commits alone, perhaps before its last results are out.
    sent = swarm.report(1).sent_bytes
    assert sent == pytest.approx(2001 * np.dtype(dtype).itemsize, rel=0.01)


@simulated
async def test_a_group_of_one_succeeds_at_once(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 1)
        started_s = trio.current_time()
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids)
        )
        assert trio.current_time() == started_s
    swarm.check_mean([0], 0.0)
    assert swarm.report(0).sent_bytes == 0


@simulated
async def test_survivors_of_a_crash_average_what_the_victim_had_not(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4, elements=100_000)
        network.default_bytes_per_s = 500_000

        async def crash() -> None:
            await trio.sleep(0.2)
            network.crash(swarm.nodes[1].peer_id)

        await swarm.run(
            lambda number, averager, tensors: averager.step(
                tensors, expected=swarm.ids, deadline_s=20
            ),
            during=crash,
        )
    assert len({swarm.report(number).digest for number in (0, 2, 3)}) == 1
    assert len({swarm.tensors[number]["weight"].tobytes() for number in (0, 2, 3)}) == 1
    # With the victim, whose number is 1, the mean is 6 / 4; without it 5 / 3.
    weight = swarm.tensors[0]["weight"]
    with_victim, without = np.isclose(weight, 6 / 4), np.isclose(weight, 5 / 3)
    assert (with_victim ^ without).all()
    for number in (0, 2, 3):
        report = swarm.report(number)
        assert report.attempts == 1
        assert report.plans == 1
        assert report.lost == (swarm.ids[1],)
        assert report.members[swarm.ids[1]].fraction == pytest.approx(with_victim.mean(), abs=0.01)
        assert report.seconds < 4
        assert "given to others" in str(report)
    assert swarm.failure(1).outcome == "failed"


@simulated
async def test_who_fails_before_the_round_is_not_waited_for_long(network: SimNetwork) -> None:
    """It is expected, and there, but takes no step."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            if number == 3:
                raise RoundFailed(
                    RoundReport(
                        group_id=b"",
                        round=RoundId(0),
                        members={},
                        digest=b"",
                        succeeded=False,
                        outcome="failed",
                    )
                )
            return await averager.step(tensors, expected=swarm.ids)

        await swarm.run(step, config=AveragerConfig(join_window_s=3))
    swarm.check_mean(range(3), 1.0)
    assert swarm.report(0).seconds < 5


@simulated
async def test_too_few_peers_fail_clearly_in_time(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        await swarm.run(
            lambda number, averager, tensors: averager.step(
                tensors, expected=swarm.ids, deadline_s=8
            ),
            config=AveragerConfig(group_size_min=3, join_window_s=1),
        )
    for number in range(2):
        report = swarm.failure(number)
        assert report.group_id == b""
        assert report.reason
        assert report.seconds == pytest.approx(8, abs=0.5)


@simulated
async def test_nobody_contributes(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, weight=0, expected=swarm.ids)
        )
    for number in range(3):
        report = swarm.failure(number)
        assert "nobody contributed" in report.reason
        assert report.attempts == 1
        assert report.seconds < 3


@simulated
async def test_a_nan_is_left_out_and_overwritten(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        swarm.tensors[2]["weight"][...] = np.nan
        swarm.tensors[2]["bias"][...] = np.nan
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids)
        )
    swarm.check_mean(range(3), 0.5)
    assert swarm.report(0).members[swarm.ids[2]].reason == "non-finite values"


@simulated
async def test_another_model_is_refused_with_a_clear_reason(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        swarm.tensors[1] = tensors_of(1, elements=5)
        await swarm.run(
            lambda number, averager, tensors: averager.step(
                tensors, expected=swarm.ids, deadline_s=8
            ),
            config=AveragerConfig(group_size_min=2, join_window_s=1),
        )
    reports = [swarm.failure(number) for number in range(2)]
    assert any("spec" in why for report in reports for why in report.refusals.values())


@simulated
async def test_who_is_behind_is_told_the_round_of_the_others(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        theirs = RoundId(7, b"p" * 32)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            mine = RoundId(6, b"o" * 32) if number == 2 else theirs
            return await averager.step(tensors, round=mine, expected=swarm.ids, deadline_s=10)

        await swarm.run(step, config=AveragerConfig(group_size_min=2, join_window_s=2))
    swarm.check_mean([0, 1], 0.5)
    report = swarm.failure(2)
    assert report.behind is not None
    assert report.behind.number >= 7


@simulated
async def test_who_counts_by_itself_follows_the_others(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        two = swarm.ids[:2]

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            if number < 2:
                for _ in range(2):
                    await averager.step(tensors, expected=two)
                tensors["weight"][...] = tensors["bias"][...] = number
            await trio.sleep(0.3)
            return await averager.step(tensors, expected=swarm.ids)

        await swarm.run(step, config=AveragerConfig(group_size_min=2, join_window_s=2))
    swarm.check_mean(range(3), 1.0)
    assert {swarm.report(number).round.number for number in range(3)} == {2}


@simulated
async def test_several_averagers_share_a_node(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        results: list[Array] = []

        async def both(node: Node, number: int) -> None:
            small, large = tensors_of(number, 10), tensors_of(10 * number, 20, "float64")
            async with (
                open_averager(node, "small", TensorSpec.of(small)) as first,
                open_averager(node, "large", TensorSpec.of(large)) as second,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(lambda: first.step(small, expected=swarm.ids))
                nursery.start_soon(lambda: second.step(large, expected=swarm.ids))
            results.extend((small["bias"], large["bias"]))

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(swarm.nodes):
                nursery.start_soon(both, node, number)
    assert sorted(map(float, results)) == [0.5, 0.5, 5.0, 5.0]


@simulated
async def test_strangers_find_each_other_through_the_dht(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.open_node(name)) for name in NAMES[:3]]
        first = await stack.enter_async_context(open_dht(nodes[0]))
        dhts = [first] + [
            await stack.enter_async_context(open_dht(node, initial_peers=nodes[0].addresses))
            for node in nodes[1:]
        ]
        values = [tensors_of(number) for number in range(3)]
        reports: list[RoundReport] = []

        async def step(number: int) -> None:
            spec = TensorSpec.of(values[number])
            async with open_averager(nodes[number], "dht", spec, dht=dhts[number]) as averager:
                await trio.sleep(1)
                reports.append(await averager.step(values[number]))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(step, number)
    assert [len(report.members) for report in reports] == [3, 3, 3]
    assert [float(value["bias"]) for value in values] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": -1.0}, "weight"),
        ({"weight": math.nan}, "weight"),
        ({"weight": math.inf}, "weight"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"deadline_s": math.inf}, "deadline_s"),
        ({"tensors": {}}, "spec"),
    ],
)
@simulated
async def test_misuse_is_a_value_error(
    network: SimNetwork, change: dict[str, Any], complaint: str
) -> None:
    async with network.open_node() as node:
        tensors = tensors_of(0)
        async with open_averager(node, "misuse", TensorSpec.of(tensors)) as averager:
            with pytest.raises(ValueError, match=complaint):
                await averager.step(**{"tensors": tensors, **change})


@simulated
async def test_one_step_at_a_time(network: SimNetwork) -> None:
    async with network.open_node() as node:
        tensors = tensors_of(0)
        async with (
            open_averager(node, "busy", TensorSpec.of(tensors)) as averager,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(averager.step, tensors)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ValueError, match="one step at a time"):
                await averager.step(tensors)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "config",
    [
        {"wire_dtype": "int8"},
        {"group_size_max": 0},
        {"group_size_min": 65},
        {"join_window_s": 0.0},
        {"silence_s": 0.0},
        {"silence_s": math.inf},
        {"linger_s": -1.0},
        {"partition_patience_s": -1.0},
    ],
)
def test_impossible_configs_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|need"):
        AveragerConfig(**config)
