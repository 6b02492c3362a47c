"""Requirements that hivemind's tests and failures taught, and that no other file here covers.

tests/README.md says which test covers which requirement; R6 is one of its numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import Averager, AveragerConfig, RoundReport, TensorSpec, open_averager
from p2p import Node, open_dht
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import NAMES, mean_of, simulated
from tests.averaging.swarm import Array, open_swarm, tensors_of

SIZES = (0, 1, 7, 4096 * 5 + 1)
ROLES = ((1, 0), (2, 0), (5, 0), (1, 1), (1, 3), (2, 2))
WEIGHTS = {
    "equal": (1.0,),
    "samples": (32.0, 7.0, 96.0, 1.0),
    "far apart": (1e-6, 1e6, 3.0),
    "some zero": (0.0, 2.5),
}


async def average(
    nodes: Sequence[Node], vectors: Sequence[Array], weights: Sequence[float]
) -> list[RoundReport]:
    """Have each peer average a vector of its own; it holds the result then."""
    reports: dict[int, RoundReport] = {}
    ids = [node.peer_id for node in nodes]
    tensors = [{"vector": vector} for vector in vectors]
    async with AsyncExitStack() as stack:
        averagers = [
            await stack.enter_async_context(open_averager(node, "grid", TensorSpec.of(own)))
            for node, own in zip(nodes, tensors, strict=True)
        ]

        async def step(number: int) -> None:
            reports[number] = await averagers[number].step(
                tensors[number], weight=weights[number], expected=ids
            )

        async with trio.open_nursery() as nursery:
            for number in range(len(nodes)):
                nursery.start_soon(step, number)
    return [reports[number] for number in range(len(nodes))]


@pytest.mark.parametrize(
    "pattern",
    [pytest.param(name, marks=() if name == "samples" else pytest.mark.slow) for name in WEIGHTS],
)
@pytest.mark.parametrize(("nodes", "clients"), ROLES)
@simulated
async def test_the_mean_is_exact_for_all_roles_weights_and_sizes(
    network: SimNetwork, nodes: int, clients: int, pattern: str
) -> None:
    """R5 and R6: any group with one peer that can be dialed averages right."""
    count = nodes + clients
    weights = list(itertools.islice(itertools.cycle(WEIGHTS[pattern]), count))
    if not any(weights):
        weights[0] = 1.0
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, count, clients=clients)
        for size in SIZES:
            rng = np.random.default_rng(size)
            vectors = [rng.standard_normal(size).astype(np.float32) for _ in range(count)]
            expected = mean_of(vectors, weights) if size else np.zeros(0)
            magnitude = mean_of(np.abs(vectors), weights) if size else np.zeros(0)
            reports = await average(swarm.nodes, vectors, weights)
            assert len({report.digest for report in reports}) == 1
            assert len({vector.tobytes() for vector in vectors}) == 1
            assert np.all(np.abs(vectors[0] - expected) <= 1e-6 * magnitude)
            for peer, weight in zip(swarm.ids, weights, strict=True):
                member = reports[0].members[peer]
                # An empty vector is all there before anybody has said its weight.
                if size:
                    assert (member.weight, member.fraction) == (weight, 1.0 if weight else 0.0)


@simulated
async def test_tensors_of_all_shapes_are_averaged_together(network: SimNetwork) -> None:
    """R7: empty tensors, scalars, fewer elements than aggregators."""
    shapes: dict[str, tuple[int, ...]] = {
        "empty": (0,), "flat empty": (3, 0), "scalar": (), "one": (1,), "deep": (1, 1, 2, 1),
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 5)
        swarm.tensors = [
            {name: np.full(shape, float(number), np.float32) for name, shape in shapes.items()}
            for number in range(5)
        ]
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids)
        )
    swarm.check_mean(range(5), 2.0)
    for tensors in swarm.tensors:
        assert {name: tensor.shape for name, tensor in tensors.items()} == shapes


@simulated
async def test_nothing_is_averaged_before_the_last_has_begun(network: SimNetwork) -> None:
    """R13: who steps early finds its group, and waits there for whom it expects."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3, elements=50_000)
        began_s = trio.current_time()
        ended_s: list[float] = []

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            if number == 1:
                await trio.sleep(2)
                for others in (0, 2):
                    np.testing.assert_array_equal(swarm.tensors[others]["weight"], others)
                assert ended_s == []
            report = await averager.step(tensors, expected=swarm.ids)
            ended_s.append(trio.current_time() - began_s)
            return report

        await swarm.run(step)
    swarm.check_mean(range(3), 1.0)
    assert min(ended_s) > 2


@simulated
async def test_who_gives_up_before_the_group_is_whole_leaves_it_workable(
    network: SimNetwork,
) -> None:
    """R13: a step that is cancelled while others are still awaited, and then taken after all."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 3)

        async def step(number: int, averager: Averager, tensors: Any) -> RoundReport:
            if number == 0:
                with trio.move_on_after(0.5) as scope:
                    await averager.step(tensors, expected=swarm.ids)
                assert scope.cancelled_caught
            elif number == 1:
                await trio.sleep(1)
            return await averager.step(tensors, expected=swarm.ids)

        await swarm.run(step)
    swarm.check_mean(range(3), 1.0)


@pytest.mark.parametrize("fault", ["crash", "freeze"])
@simulated
async def test_a_lost_sender_costs_its_own_part_only(network: SimNetwork, fault: str) -> None:
    """R2: a client is lost in the middle; what it had delivered counts, alike at everybody."""
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 4, clients=1, elements=100_000)
        network.default_bytes_per_s = 500_000
        client = swarm.ids[3]

        async def strike() -> None:
            await trio.sleep(0.5)
            (network.crash if fault == "crash" else network.freeze)(client)
            await trio.sleep(10)
            network.thaw(client)

        await swarm.run(
            lambda number, averager, tensors: averager.step(
                tensors, expected=swarm.ids, deadline_s=8
            ),
            during=strike,
        )
    reports = [swarm.report(number) for number in range(3)]
    assert len({report.digest for report in reports}) == 1
    member = reports[0].members[client]
    assert 0 < member.fraction < 1
    assert max(report.seconds for report in reports) < 6
    for number in range(3):
        values = swarm.tensors[number]["weight"]
        with_it = np.isclose(values, 1.5)
        assert np.all(with_it | np.isclose(values, 1.0))
        assert np.mean(with_it) == pytest.approx(member.fraction, abs=0.01)


@simulated
async def test_strangers_with_clocks_minutes_apart_average(network: SimNetwork) -> None:
    """R22: over the DHT, whose records have lives, and round after round."""
    skews = (0.0, 600.0, -240.0)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(network.open_node(name, clock_skew_s=skew_s))
            for name, skew_s in zip(NAMES, skews, strict=False)
        ]
        first = await stack.enter_async_context(open_dht(nodes[0]))
        dhts = [first] + [
            await stack.enter_async_context(open_dht(node, initial_peers=nodes[0].addresses))
            for node in nodes[1:]
        ]
        values = [tensors_of(number) for number in range(3)]
        sizes: list[int] = []

        async def step(number: int) -> None:
            spec = TensorSpec.of(values[number])
            config = AveragerConfig(group_size_min=2)
            async with open_averager(
                nodes[number], "clocks", spec, config, dht=dhts[number]
            ) as averager:
                await trio.sleep(1)
                for _ in range(2):
                    report = await averager.step(values[number])
                    sizes.append(len(report.members))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(step, number)
    assert sizes == [3] * 6
    assert [float(value["bias"]) for value in values] == [1.0, 1.0, 1.0]
