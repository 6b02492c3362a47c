"""Peers with one averager each, for tests of the averager as its users see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import trio

from averaging import (
    Averager,
    AveragerConfig,
    RoundFailed,
    RoundReport,
    TensorSpec,
    open_averager,
)
from p2p import Node, PeerId
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import NAMES, connect_all

Array = np.ndarray[Any, Any]
Step = Callable[[int, Averager, dict[str, Array]], Awaitable[RoundReport]]


def tensors_of(number: int, elements: int = 1000, dtype: str = "float32") -> dict[str, Array]:
    """Peer k brings tensors full of k."""
    return {
        "weight": np.full((elements, 2), float(number), dtype),
        "bias": np.full((), float(number), dtype),
    }


class Swarm:
    """Peers with one averager each, stepped together."""

    def __init__(self, nodes: Sequence[Node], elements: int = 1000) -> None:
        self.nodes = nodes
        self.tensors = [tensors_of(number, elements) for number in range(len(nodes))]
        self.outcomes: dict[int, RoundReport | RoundFailed] = {}

    @property
    def ids(self) -> list[PeerId]:
        return [node.peer_id for node in self.nodes]

    async def run(
        self,
        step: Step,
        *,
        config: AveragerConfig | None = None,
        during: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Open all averagers, let each take its step, note what came of it."""
        ready, everyone = trio.Event(), len(self.nodes)
        opened = 0

        async def one(number: int) -> None:
            nonlocal opened
            spec = TensorSpec.of(self.tensors[number])
            async with open_averager(self.nodes[number], "swarm", spec, config) as averager:
                opened += 1
                if opened == everyone:
                    ready.set()
                await ready.wait()
                try:
                    report = await step(number, averager, self.tensors[number])
                    self.outcomes[number] = report
                except RoundFailed as failed:
                    self.outcomes[number] = failed

        async with trio.open_nursery() as nursery:
            for number in range(everyone):
                nursery.start_soon(one, number)
            if during is not None:
                await ready.wait()
                await during()

    def report(self, number: int) -> RoundReport:
        outcome = self.outcomes[number]
        assert isinstance(outcome, RoundReport), outcome
        return outcome

    def failure(self, number: int) -> RoundReport:
        outcome = self.outcomes[number]
        assert isinstance(outcome, RoundFailed), outcome
        np.testing.assert_array_equal(self.tensors[number]["weight"], number)
        np.testing.assert_array_equal(self.tensors[number]["bias"], number)
        return outcome.report

    def check_mean(self, numbers: Sequence[int], expected: float) -> None:
        assert len({self.report(number).digest for number in numbers}) == 1
        for number in numbers:
            for tensor in self.tensors[number].values():
                np.testing.assert_allclose(tensor, expected, rtol=1e-6)


async def open_swarm(
    stack: AsyncExitStack,
    network: SimNetwork,
    count: int,
    *,
    clients: int = 0,
    elements: int = 1000,
) -> Swarm:
    """So many nodes that know each other; they last as long as the stack."""
    nodes = [
        await stack.enter_async_context(
            network.open_node(name, client_mode=number >= count - clients)
        )
        for number, name in enumerate(NAMES[:count])
    ]
    await connect_all(nodes)
    return Swarm(nodes, elements)
