"""Means among real nodes over loopback: in the clear, behind masks, or of ciphertexts.

A member's bytes are those of vectors, as its report of each round counts them, without the heads
and small messages around them.

    P  members
    E  elements of a vector
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import trio

from averaging import (
    Averager,
    AveragerConfig,
    HomomorphicSpec,
    SecureAverager,
    SecureConfig,
    SumMember,
    TensorSpec,
    open_averager,
    open_secure_averager,
    open_sum_aggregator,
    open_sum_member,
)
from p2p import Node, NodeConfig, Portal, open_node
from training.strategies.strategy import Vector

VALUE_MAX = 4.0
"""No change of a parameter in one pass is near it."""
_NAME = "bench"
_NODE = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",), port_mapping=False, relay_client="never")
_ROUND_S_MAX = 60.0
_SILENCE_S = 20.0
"""All members share a thread: a busy machine silences all of them at once, and none is lost."""
_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class Given:
    """What one member has of a round."""

    mean_E: Vector
    sent_bytes: int
    received_bytes: int


Step = Callable[[Vector, float], Awaitable[Given]]
"""One member's part in a round: its vector and its weight, up to 1, in."""
Doubles = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Way:
    """One way to make means."""

    open: Callable[[int, Vector], AbstractAsyncContextManager[list[Step]]]
    """So many members of vectors like this one, as long as the block lasts; raises ExtraMissing."""
    tolerance: Callable[[Doubles, Doubles], Doubles]
    """How far each element of the mean may be off, (E), given vectors (P, E) and weights (P)."""


class RealMeans:
    """So many members in one thread, as an Average of a Simulation: a call is a round of all."""

    def __init__(self, way: Way, members: int) -> None:
        self.sent_bytes = 0
        """By all members together, so far."""
        self.received_bytes = 0
        self.worst = 0.0
        """The largest error of a mean so far, in times of what it may be off."""
        self._way = way
        self._count = members
        self._steps: list[Step] = []
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

    @property
    def client_kb(self) -> float:
        """That one member sent and received so far, on average."""
        return (self.sent_bytes + self.received_bytes) / self._count / 1e3

    def __call__(self, vectors: Sequence[Vector], weights: Sequence[float]) -> Vector:
        """The mean by weights.

        Raises:
            ExtraMissing: ciphertexts need an extra.
            ExceptionGroup: of RoundFailed or SumFailed, of each member without a result.
        """
        if not self._steps:
            self._steps = self._portal.enter(self._way.open(self._count, vectors[0]))
        shares = [weight / max(weights) for weight in weights]
        given = self._portal.call(_round, self._steps, vectors, shares)
        vectors_PE, shares_P = np.stack(vectors).astype(np.float64), np.array(shares)
        exact_E = np.average(vectors_PE, axis=0, weights=shares_P)
        tolerance_E = self._way.tolerance(vectors_PE, shares_P)
        for one in given:
            self.sent_bytes += one.sent_bytes
            self.received_bytes += one.received_bytes
            off = np.abs(one.mean_E - exact_E) / tolerance_E
            self.worst = max(self.worst, float(off.max()))
        return given[0].mean_E


async def _round(
    steps: Sequence[Step], vectors: Sequence[Vector], shares: Sequence[float]
) -> list[Given]:
    given: dict[int, Given] = {}

    async def take(number: int) -> None:
        given[number] = await steps[number](vectors[number], shares[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(steps)):
            nursery.start_soon(take, number)
    return [given[number] for number in range(len(steps))]


async def _open_nodes(stack: AsyncExitStack, count: int) -> list[Node]:
    """So many that know each other."""
    nodes = [await stack.enter_async_context(open_node(_NODE)) for _ in range(count)]
    for node, other in itertools.permutations(nodes, 2):
        node.add_addresses(other.peer_id, other.addresses)
    return nodes


# --- in the clear, and behind masks ---------------------------------------------------------------


@asynccontextmanager
async def _open_plain(count: int, like_E: Vector) -> AsyncIterator[list[Step]]:
    config = AveragerConfig(group_size_max=count, group_size_min=count, silence_s=_SILENCE_S)
    async with AsyncExitStack() as stack:
        nodes = await _open_nodes(stack, count)
        opened = [open_averager(node, _NAME, _spec(like_E), config) for node in nodes]
        averagers = [await stack.enter_async_context(one) for one in opened]
        yield [_step_of(averager, nodes) for averager in averagers]


@asynccontextmanager
async def _open_masked(count: int, like_E: Vector) -> AsyncIterator[list[Step]]:
    config = _secure_config(count)
    async with AsyncExitStack() as stack:
        nodes = await _open_nodes(stack, count)
        opened = [open_secure_averager(node, _NAME, _spec(like_E), config) for node in nodes]
        averagers = [await stack.enter_async_context(one) for one in opened]
        yield [_step_of(averager, nodes) for averager in averagers]


def _spec(like_E: Vector) -> TensorSpec:
    return TensorSpec.of({"w": like_E})


def _secure_config(members: int) -> SecureConfig:
    return SecureConfig(value_max=VALUE_MAX, group_size_max=members, silence_s=_SILENCE_S)


def _step_of(averager: Averager | SecureAverager, nodes: Sequence[Node]) -> Step:
    everyone = [node.peer_id for node in nodes]

    async def step(vector_E: Vector, share: float) -> Given:
        tensors = {"w": np.array(vector_E)}
        report = await averager.step(
            tensors, weight=share, deadline_s=_ROUND_S_MAX, expected=everyone
        )
        return Given(tensors["w"], report.sent_bytes, report.received_bytes)

    return step


def _plain_tolerance(vectors_PE: Doubles, shares_P: Doubles) -> Doubles:
    """Each product and each sum of two is rounded to 32 bits, and so is the quotient."""
    size_E = np.average(np.abs(vectors_PE), axis=0, weights=shares_P)
    return np.asarray((len(shares_P) + 2) * _FLOAT32.eps * size_E + _FLOAT32.tiny)


def _masked_tolerance(vectors_PE: Doubles, shares_P: Doubles) -> Doubles:
    """Each member rounds to half a step of the ring at most, and the mean is in 32 bits."""
    count = len(shares_P)
    step = VALUE_MAX / _secure_config(count).ring(count).quantum
    exact_E = np.average(vectors_PE, axis=0, weights=shares_P)
    return np.asarray(step + _FLOAT32.eps * np.abs(exact_E))


# --- of ciphertexts -------------------------------------------------------------------------------


@asynccontextmanager
async def _open_encrypted(count: int, like_E: Vector) -> AsyncIterator[list[Step]]:
    """One node more than members: it adds, and has no key."""
    spec = _sum_spec(like_E.size)
    async with AsyncExitStack() as stack:
        *nodes, adder = await _open_nodes(stack, count + 1)
        ids = [node.peer_id for node in nodes]
        await stack.enter_async_context(open_sum_aggregator(adder, _NAME, ids, spec))
        opened = [open_sum_member(node, _NAME, ids, adder.peer_id, spec) for node in nodes]
        yield [_step_with(await stack.enter_async_context(one)) for one in opened]


def _sum_spec(elements: int) -> HomomorphicSpec:
    """Of the vector times its weight, and the weight itself."""
    return HomomorphicSpec(elements=elements + 1)


def _step_with(member: SumMember) -> Step:
    numbers = itertools.count()

    async def step(vector_E: Vector, share: float) -> Given:
        weighted = np.append(vector_E.astype(np.float64) * share, share)
        report = await member.sum(weighted, round_number=next(numbers))
        mean_E = np.asarray(report.sum[:-1] / report.sum[-1], vector_E.dtype)
        return Given(mean_E, report.sent_bytes, report.received_bytes)

    return step


def _encrypted_tolerance(vectors_PE: Doubles, shares_P: Doubles) -> Doubles:
    """Both sums, of products and of weights, are off by what the scheme may be."""
    off = _sum_spec(vectors_PE.shape[1]).tolerance(len(shares_P))
    size_E = np.abs(np.average(vectors_PE, axis=0, weights=shares_P))
    return np.asarray((1 + size_E) * off / (shares_P.sum() - off) + _FLOAT32.eps * size_E)


PLAIN = Way(_open_plain, _plain_tolerance)
MASKED = Way(_open_masked, _masked_tolerance)
ENCRYPTED = Way(_open_encrypted, _encrypted_tolerance)
