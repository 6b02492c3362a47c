"""Options of the averager at work: rules, wire dtypes, roles, limits, and PyTorch's tensors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import trio
from hypothesis import given
from hypothesis import strategies as st

from averaging import (
    Averager,
    AveragerConfig,
    RoundFailed,
    RoundReport,
    TensorSpec,
    open_averager,
)
from averaging.allreduce.config import AllreduceConfig
from averaging.matchmaking.group import quorum_reached
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import simulated
from tests.averaging.swarm import Swarm, open_swarm, tensors_of

LOUD = np.float32(1e4)


def step_of(swarm: Swarm, **wishes: Any) -> Any:
    """Each peer takes one step with all the others."""

    async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
        return await averager.step(tensors, expected=swarm.ids, **wishes)

    return step


# --- patience ---------------------------------------------------------------------------------


def test_whoever_may_be_silent_for_longer_may_answer_later() -> None:
    """Four times the silence makes all waits four times as long, and pings as much rarer."""
    usual, slow = AveragerConfig().allreduce(), AveragerConfig(silence_s=10.0).allreduce()
    assert usual == AllreduceConfig()
    for name in ("silence_s", "ping_s", "ask_timeout_s", "farewell_s", "grace_s"):
        assert getattr(slow, name) == 4 * getattr(usual, name)
    assert AveragerConfig(silence_s=20.0).allreduce().start_patience_s == 20
    assert asdict(slow.times) == {name: 4 * value for name, value in asdict(usual.times).items()}


def test_a_short_silence_hurries_nobody_but_the_pings() -> None:
    hasty = AveragerConfig(silence_s=1.0).allreduce()
    assert hasty == replace(AllreduceConfig(), silence_s=1.0, ping_s=0.25)


# --- rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["median", "trimmed_mean(0.25)", "centered_clipping(2, 3)"])
@pytest.mark.parametrize("lie", [1e3, -1e30])
@simulated
async def test_a_liar_among_four_gets_nowhere(network: SimNetwork, rule: str, lie: float) -> None:
    """Its values are finite and no norm is held against it; the result is among the honest."""
    config = AveragerConfig(rule=rule, norm_factor_max=0)
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)
        for tensor in swarm.tensors[3].values():
            tensor[...] = lie
        await swarm.run(step_of(swarm), config=config)
    assert len({swarm.report(number).digest for number in range(4)}) == 1
    weight = swarm.tensors[0]["weight"]
    assert (weight >= 0).all()
    assert (weight <= 2).all()
    assert swarm.report(0).members[swarm.ids[3]].fraction == 1


@simulated
async def test_the_median_is_the_median(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)
        rng = np.random.default_rng(1)
        values = [rng.standard_normal((1000, 2)).astype(np.float32) for _ in range(4)]
        for tensors, value in zip(swarm.tensors, values, strict=True):
            tensors["weight"][...] = value
        await swarm.run(step_of(swarm), config=AveragerConfig(rule="median"))
    expected = np.median(values, axis=0)
    np.testing.assert_allclose(swarm.tensors[2]["weight"], expected, rtol=1e-6)


@simulated
async def test_the_mean_is_moved_by_one_liar(network: SimNetwork) -> None:
    """What the rules are for."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)
        for tensor in swarm.tensors[3].values():
            tensor[...] = LOUD
        await swarm.run(step_of(swarm), config=AveragerConfig(norm_factor_max=0))
    swarm.check_mean(range(4), (0 + 1 + 2 + LOUD) / 4)


@simulated
async def test_a_norm_far_over_the_others_is_refused_by_default(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)
        for tensor in swarm.tensors[0].values():
            tensor[...] = LOUD
        await swarm.run(step_of(swarm))
    swarm.check_mean(range(4), (1 + 2 + 3) / 3)
    for number in range(4):
        member = swarm.report(number).members[swarm.ids[0]]
        assert member.fraction == 0
        assert "median" in member.reason
        assert member.reason in str(swarm.report(number))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"rule": "best"}, "rule"),
        ({"rule": "trimmed_mean(0.5)"}, "fraction"),
        ({"norm_factor_max": -1.0}, "norm_factor_max"),
        ({"tolerated_liars": -1}, "tolerated_liars"),
        ({"tolerated_liars": 22}, "3 × tolerated_liars"),
        ({"tolerated_liars": 1, "group_size_max": 3}, "3 × tolerated_liars"),
        ({"wire_dtype": {"*": "int8"}}, "wire_dtype"),
    ],
)
def test_impossible_options_are_refused(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AveragerConfig(**config)


# --- liars ------------------------------------------------------------------------------------


@given(st.integers(1, 64), st.integers(0, 21), st.data())
def test_two_quorums_share_more_voters_than_may_lie(n: int, f: int, data: st.DataObject) -> None:
    """So one of those shared is honest, and it votes only once."""
    voters = range(n)
    one, other = (data.draw(st.sets(st.sampled_from(voters))) for _ in range(2))
    if quorum_reached(voters, one, f) and quorum_reached(voters, other, f):
        assert len(one & other) > f


@given(st.integers(1, 64), st.integers(1, 21))
def test_the_smallest_quorum(n: int, f: int) -> None:
    voters = range(n)
    fewest = next((k for k in range(n + 1) if quorum_reached(voters, range(k), f)), None)
    expected = (n + f) // 2 + 1
    assert fewest == (expected if expected <= n else None)
    if n >= 3 * f + 1:
        # The honest ones are a quorum without the liars, wherever those are in the group.
        assert fewest is not None
        assert quorum_reached(voters, range(f, n), f)
    # Who votes counts by number alone: the first voter is worth no more than any other.
    for size in (expected - 1, expected):
        if 0 <= size <= n:
            assert quorum_reached(voters, range(n - size, n), f) == (size >= expected)


@pytest.mark.parametrize(("n", "f", "quorum"), [(4, 1, 3), (5, 1, 4), (7, 1, 5), (7, 2, 5)])
def test_known_quorums(n: int, f: int, quorum: int) -> None:
    for subset in itertools.combinations(range(n), quorum):
        assert quorum_reached(range(n), subset, f)
    for subset in itertools.combinations(range(n), quorum - 1):
        assert not quorum_reached(range(n), subset, f)


@simulated
async def test_a_group_that_could_not_bear_a_liar_is_none(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        await swarm.run(
            step_of(swarm, deadline_s=8),
            config=AveragerConfig(tolerated_liars=1, join_window_s=1),
        )
    reports = [swarm.failure(number) for number in range(3)]
    assert all(report.group_id == b"" for report in reports)
    assert any("3 of at least 4 members" in report.reason for report in reports)


@simulated
async def test_one_of_four_may_be_lost_where_one_may_lie(network: SimNetwork) -> None:
    """Three votes of four commit; two do not."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4, elements=100_000)
        network.default_bytes_per_s = 500_000

        async def crash() -> None:
            await trio.sleep(0.3)
            network.crash(swarm.ids[1])

        await swarm.run(
            step_of(swarm, deadline_s=20), config=AveragerConfig(tolerated_liars=1), during=crash
        )
    assert len({swarm.report(number).digest for number in (0, 2, 3)}) == 1


# --- roles ------------------------------------------------------------------------------------


@simulated
async def test_an_auxiliary_peer_keeps_its_tensors(network: SimNetwork) -> None:
    """It says the weight 5, which nobody hears of, and its tensors are not even looked at."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4)
        ready, reports = trio.Event(), dict[int, list[RoundReport]]()

        async def one(number: int) -> None:
            spec = TensorSpec.of(swarm.tensors[number])
            config = AveragerConfig(auxiliary=number == 3)
            tensors = {} if number == 3 else swarm.tensors[number]
            async with open_averager(swarm.nodes[number], "swarm", spec, config) as averager:
                await ready.wait()
                reports[number] = [
                    await averager.step(tensors, weight=5.0, expected=swarm.ids),
                    await prepared(averager, tensors),
                    await averager.step(tensors, weight=5.0, expected=swarm.ids),
                ]

        async def prepared(averager: Averager, tensors: Mapping[str, Any]) -> RoundReport:
            async with averager.prepare(weight_cap=5.0, expected=swarm.ids) as round:
                return await round.run(tensors, weight=5.0)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(one, number)
            await trio.sleep(0.1)
            ready.set()
    for number in range(3):
        np.testing.assert_allclose(swarm.tensors[number]["weight"], 1.0)
    np.testing.assert_array_equal(swarm.tensors[3]["weight"], 3.0)
    for trip in range(3):
        assert len({reports[number][trip].digest for number in range(4)}) == 1
        member = reports[0][trip].members[swarm.ids[3]]
        assert (member.weight, member.fraction, member.reason) == (0.0, 0.0, "auxiliary")
        assert reports[3][trip].succeeded
        assert reports[3][trip].attempts == 1
        # It is not late for the next round.
        assert reports[3][trip].seconds < 3


@simulated
async def test_auxiliary_peers_alone_average_nothing(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        await swarm.run(
            step_of(swarm, deadline_s=6),
            config=AveragerConfig(auxiliary=True, join_window_s=1),
        )
    for number in range(2):
        assert swarm.failure(number).reason


# --- wires ------------------------------------------------------------------------------------


@simulated
async def test_each_tensor_may_travel_as_another_dtype(network: SimNetwork) -> None:
    """A scale that needs its bits beside weights that do not, and one of float64."""
    exact = 1 + 2.0**-20
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        swarm.tensors = [
            {
                "layer.weight": np.full(5000, exact + number, np.float32),
                "layer.scale": np.full(1000, exact + number, np.float32),
                "total": np.full(1000, exact + number, np.float64),
            }
            for number in range(2)
        ]
        wire = {"layer.*": "bfloat16", "layer.scale": "float32"}
        await swarm.run(step_of(swarm), config=AveragerConfig(wire_dtype=wire))
    assert len({swarm.report(number).digest for number in range(2)}) == 1
    for tensors in swarm.tensors:
        np.testing.assert_array_equal(tensors["layer.weight"], np.float32(1.5))
        np.testing.assert_array_equal(tensors["layer.scale"], np.float32(exact + 0.5))
        np.testing.assert_array_equal(tensors["total"], exact + 0.5)
        assert [tensor.dtype for tensor in tensors.values()] == ["float32", "float32", "float64"]
    size_bytes = 5000 * 2 + 1000 * 4 + 1000 * 8
    assert swarm.report(1).sent_bytes == pytest.approx(size_bytes, rel=0.01)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@simulated
async def test_16_bits_on_the_wire_are_enough_for_all_peers_alike(
    network: SimNetwork, dtype: str
) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        rng = np.random.default_rng(1)
        values = [rng.standard_normal((1000, 2)).astype(np.float32) for _ in range(3)]
        for tensors, value in zip(swarm.tensors, values, strict=True):
            tensors["weight"][...] = value
        await swarm.run(step_of(swarm), config=AveragerConfig(wire_dtype=dtype))
    assert len({tensors["weight"].tobytes() for tensors in swarm.tensors}) == 1
    # Each part is rounded on its way up, and the mean on its way down.
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(swarm.tensors[0]["weight"], np.mean(values, axis=0), atol=tolerance)


@simulated
async def test_peers_that_send_other_dtypes_form_no_group(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        failures: list[RoundReport] = []

        async def one(number: int) -> None:
            tensors = swarm.tensors[number]
            config = AveragerConfig(
                wire_dtype=None if number else {"bias": "float16"},
                group_size_min=2,
                join_window_s=1,
            )
            async with open_averager(
                swarm.nodes[number], "wires", TensorSpec.of(tensors), config
            ) as averager:
                with pytest.raises(RoundFailed) as caught:
                    await averager.step(tensors, expected=swarm.ids, deadline_s=6)
                failures.append(caught.value.report)

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(one, number)
    assert any("spec" in why for report in failures for why in report.refusals.values())


@simulated
async def test_a_wire_for_a_tensor_that_is_not_there_is_refused(network: SimNetwork) -> None:
    async with network.open_node() as node:
        spec = TensorSpec.of(tensors_of(0))
        config = AveragerConfig(wire_dtype={"wieght": "float16"})
        with pytest.raises(ValueError, match="wieght"):
            async with open_averager(node, "typo", spec, config):
                pytest.fail("it was opened")


# --- PyTorch ----------------------------------------------------------------------------------


@simulated
async def test_tensors_of_torch_are_averaged_in_place(network: SimNetwork) -> None:
    """Parameters that need gradients, odd layouts, bfloat16, and numpy's arrays at another peer."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)
        values: list[dict[str, Any]] = [
            {
                "parameter": torch.nn.Parameter(torch.full((50, 20), float(number))),
                "turned": torch.full((8, 4), float(number), dtype=torch.float64).t(),
                "half": torch.full((7,), float(number), dtype=torch.bfloat16),
                "scalar": torch.tensor(float(number)),
            }
            for number in range(3)
        ]
        swarm.tensors = values
        kept = [dict(tensors) for tensors in values]
        await swarm.run(step_of(swarm))
    assert len({swarm.report(number).digest for number in range(3)}) == 1
    for tensors, before in zip(values, kept, strict=True):
        for name, tensor in tensors.items():
            assert tensor is before[name]
            assert torch.equal(tensor, torch.full_like(tensor, 1.0)), name
        assert tensors["parameter"].requires_grad
        assert tensors["parameter"].is_leaf


@simulated
async def test_torch_and_numpy_average_together(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        mixed: list[dict[str, Any]] = [
            {"single": np.full(3000, 1.0, np.float32)},
            {"single": torch.full((3000,), 2.0)},
        ]
        swarm.tensors = mixed
        await swarm.run(step_of(swarm))
    np.testing.assert_array_equal(mixed[0]["single"], 1.5)
    assert torch.equal(mixed[1]["single"], torch.full((3000,), 1.5))


@simulated
async def test_torch_tensors_stay_as_they_were_when_a_round_fails(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        values: list[dict[str, Any]] = [
            {"w": torch.full((3000,), float(number)), "b": torch.zeros(2)} for number in range(2)
        ]
        swarm.tensors = values
        await swarm.run(step_of(swarm, weight=0.0))
    for number, tensors in enumerate(values):
        outcome = swarm.outcomes[number]
        assert isinstance(outcome, RoundFailed)
        assert "nobody contributed" in outcome.report.reason
        assert torch.equal(tensors["w"], torch.full((3000,), float(number)))
