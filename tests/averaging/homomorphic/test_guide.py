"""The code in the guide to encrypted sums runs as it stands there."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from averaging import HomomorphicSpec, open_sum_member
from p2p import Node
from p2p.testing import SimNetwork, run_sim

pytest.importorskip("tenseal")

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "homomorphic.md"


async def open_four(
    stack: AsyncExitStack, network: SimNetwork
) -> tuple[list[Node], dict[str, Any]]:
    """Three members and an aggregator, and what the guide's code makes of them."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    nodes = [await stack.enter_async_context(network.open_node()) for _ in range(4)]
    for node in nodes:
        for other in nodes:
            node.add_addresses(other.peer_id, other.addresses)
    space: dict[str, Any] = {
        "trio": trio,
        "members": [node.peer_id for node in nodes[:3]],
        "aggregator": nodes[3].peer_id,
    }
    for block in blocks:
        exec(block, space)
    return nodes, space


def test_an_aggregator_and_members() -> None:
    async def main(network: SimNetwork) -> None:
        async with AsyncExitStack() as stack:
            nodes, space = await open_four(stack, network)
            means: list[Any] = []

            async def member(place: int) -> None:
                vector = np.full(1000, float(place))
                means.append(await space["take_part"](nodes[place], vector))

            async with trio.open_nursery() as adding:
                adding.start_soon(space["add"], nodes[3])
                # The key's server stays until all have it, as long as a member's block lasts.
                async with trio.open_nursery() as taking_part:
                    for place in range(3):
                        taking_part.start_soon(member, place)
                adding.cancel_scope.cancel()
            assert len(means) == 3
            for mean in means:
                np.testing.assert_allclose(mean, 1.0, atol=1e-6)

    run_sim(1, main)


def test_federated_averaging_reaches_what_it_does_in_the_clear() -> None:
    """Each member draws towards a point of its own; the mean by weights is known."""
    points = np.random.default_rng(2).uniform(-3, 3, (3, 40))
    weights = (1.0, 0.5, 0.25)
    ended: dict[int, Any] = {}

    async def main(network: SimNetwork) -> None:
        async with AsyncExitStack() as stack:
            nodes, space = await open_four(stack, network)
            space["spec"] = HomomorphicSpec(elements=41)

            async def member(place: int) -> None:
                def train(parameters: Any) -> tuple[Any, float]:
                    return parameters + 0.5 * (points[place] - parameters), weights[place]

                opened = open_sum_member(
                    nodes[place], "my-run", space["members"], space["aggregator"], space["spec"]
                )
                async with opened as one:
                    average = space["federated_averaging"]
                    ended[place] = await average(one, np.zeros(40), train, 4)

            async with trio.open_nursery() as adding:
                adding.start_soon(space["add"], nodes[3])
                async with trio.open_nursery() as taking_part:
                    for place in range(3):
                        taking_part.start_soon(member, place)
                adding.cancel_scope.cancel()

    run_sim(1, main)
    # Half of the way that is left, four times.
    expected = np.average(points, axis=0, weights=weights) * (1 - 0.5**4)
    for parameters in ended.values():
        np.testing.assert_array_equal(parameters, ended[0])
        np.testing.assert_allclose(parameters, expected, atol=1e-5)
    assert len(ended) == 3
