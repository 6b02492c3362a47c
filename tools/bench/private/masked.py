"""Means of vectors that nobody sees singly: secure aggregation among real nodes over loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import trio

from averaging import RoundReport, SecureAverager, SecureConfig, TensorSpec, open_secure_averager
from p2p import Node, NodeConfig, Portal, open_node
from training.strategies.strategy import Vector

VALUE_MAX = 4.0
"""No change of a parameter in one pass is near it."""
_NODE = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",), port_mapping=False, relay_client="never")
_ROUND_S_MAX = 60.0


@dataclass
class _Member:
    node: Node
    averager: SecureAverager


class MaskedMeans:
    """So many members in one thread; a call is a round of all of them."""

    def __init__(self, members: int) -> None:
        self.client_kb = 0.0
        """That one member sent and received so far, on average."""
        self.worst = 0.0
        """The largest error of a mean so far, in times of what its rounding may be off."""
        self._count = members
        self._members: list[_Member] = []
        self._portal = Portal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.__exit__(kind, error, traceback)

    def __call__(self, vectors: Sequence[Vector], weights: Sequence[float]) -> Vector:
        """The mean by weights; raises RoundFailed."""
        if not self._members:
            spec = TensorSpec.of({"w": vectors[0]})
            self._members = self._portal.enter(_open_members(self._count, spec))
        most = max(weights)
        shares = [weight / most for weight in weights]
        tensors = [{"w": np.array(vector)} for vector in vectors]
        reports = self._portal.call(_round, self._members, tensors, shares)
        moved = sum(one.sent_bytes + one.received_bytes for one in reports)
        self.client_kb += moved / self._count / 1e3
        mean: Vector = tensors[0]["w"]
        plain = np.average(np.stack(vectors).astype(np.float64), axis=0, weights=shares)
        # Each member rounds to half a step of the ring at most, and the mean is in 32 bits.
        step = VALUE_MAX / _config(self._count).ring(self._count).quantum
        tolerance = step + np.finfo(np.float32).eps * np.abs(plain)
        self.worst = max(self.worst, float((np.abs(mean - plain) / tolerance).max()))
        return mean


def _config(members: int) -> SecureConfig:
    return SecureConfig(value_max=VALUE_MAX, group_size_max=members)


@asynccontextmanager
async def _open_members(count: int, spec: TensorSpec) -> AsyncIterator[list[_Member]]:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(_NODE)) for _ in range(count)]
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.add_addresses(other.peer_id, other.addresses)
        yield [
            _Member(
                node,
                await stack.enter_async_context(
                    open_secure_averager(node, "bench", spec, _config(count))
                ),
            )
            for node in nodes
        ]


async def _round(
    members: Sequence[_Member], tensors: Sequence[dict[str, Any]], weights: Sequence[float]
) -> list[RoundReport]:
    everyone = [member.node.peer_id for member in members]
    reports: list[RoundReport] = []

    async def step(number: int) -> None:
        averager = members[number].averager
        reports.append(
            await averager.step(
                tensors[number],
                weight=weights[number],
                deadline_s=_ROUND_S_MAX,
                expected=everyone,
            )
        )

    async with trio.open_nursery() as nursery:
        for number in range(len(members)):
            nursery.start_soon(step, number)
    return reports
