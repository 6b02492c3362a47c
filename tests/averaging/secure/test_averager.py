"""The secure averager over simulated nodes: whole rounds, losses, and what a report says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import trio

from averaging import RoundFailed, RoundReport, TensorSpec
from averaging.secure import SecureAverager, SecureConfig, open_secure_averager
from p2p import Node
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import NAMES, connect_all, simulated

Array = np.ndarray[Any, Any]
ELEMENTS = 40_000
CONFIG = SecureConfig(value_max=8.0, weight_max=4.0, patience_s=1.0)
Step = Callable[[int, SecureAverager, dict[str, Array]], Awaitable[RoundReport]]


class Peers:
    """Nodes with one secure averager each, stepped together."""

    def __init__(self, nodes: Sequence[Node], elements: int) -> None:
        self.nodes = nodes
        rng = np.random.default_rng(7)
        self.vectors = [rng.standard_normal(elements).astype(np.float32) for _ in nodes]
        self.tensors = [{"w": vector.copy()} for vector in self.vectors]
        self.weights = [1.0 + number / 2 for number in range(len(nodes))]
        self.outcomes: dict[int, RoundReport] = {}

    def mean(self, numbers: Sequence[int]) -> Array:
        weights = [self.weights[number] for number in numbers]
        return np.average([self.vectors[number] for number in numbers], axis=0, weights=weights)

    async def run(
        self, *, during: Callable[[], Awaitable[None]] | None = None, deadline_s: float = 20.0
    ) -> None:
        everyone = [node.peer_id for node in self.nodes]

        async def one(number: int) -> None:
            spec = TensorSpec.of(self.tensors[number])
            async with open_secure_averager(self.nodes[number], "s", spec, CONFIG) as averager:
                try:
                    self.outcomes[number] = await averager.step(
                        self.tensors[number],
                        weight=self.weights[number],
                        deadline_s=deadline_s,
                        expected=everyone,
                    )
                except RoundFailed as failed:
                    self.outcomes[number] = failed.report

        async with trio.open_nursery() as nursery:
            for number in range(len(self.nodes)):
                nursery.start_soon(one, number)
            if during is not None:
                await during()


async def open_peers(stack: AsyncExitStack, network: SimNetwork, count: int) -> Peers:
    nodes = [await stack.enter_async_context(network.open_node(name)) for name in NAMES[:count]]
    await connect_all(nodes)
    return Peers(nodes, ELEMENTS)


@simulated
async def test_all_learn_the_mean_with_the_same_bits(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4)
        await peers.run()
    expected = peers.mean(range(4))
    assert {report.outcome for report in peers.outcomes.values()} == {"success"}
    for number in range(4):
        np.testing.assert_allclose(peers.tensors[number]["w"], expected, atol=2e-7)
        assert peers.tensors[number]["w"].tobytes() == peers.tensors[0]["w"].tobytes()
        assert peers.outcomes[number].digest == peers.outcomes[0].digest != b""
