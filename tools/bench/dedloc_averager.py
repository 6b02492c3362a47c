"""Our averager over unequal links of which it is told nothing: whether rounds balance themselves.

Real nodes of one process, connected over loopback; all that a peer sends and receives passes its
own token buckets. Rates are what the averagers measure in their own rounds, the first of which is
split equally.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import numpy as np
import trio

import p2p
from averaging import Averager, AveragerConfig, RoundFailed, RoundReport, TensorSpec, open_averager
from tools.bench.links import Bucket, Links
from tools.bench.vectors import Array, errors, fill, mean_of, pattern_of

TOLERANCE: Final = 2e-2
"""Of float16: an element farther than this from the mean lacks somebody."""
_WIRE_DTYPE: Final = "float16"


@dataclass(frozen=True)
class Round:
    """What one round took."""

    seconds: float
    """Until the slowest was done, with matchmaking and votes."""
    whole: bool
    """Whether every peer holds the mean of all whole vectors."""
    report: str
    """The first peer's, in a line."""


async def rounds_over_links(
    bytes_per_s: Sequence[float], elements: int, count: int, *, round_s_max: float
) -> list[Round]:
    """Let peers with such links average so many times; each time they know more of their links."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(p2p.open_node()) for _ in bytes_per_s]
        nursery = await stack.enter_async_context(p2p.open_service_nursery())
        await _connect(nodes, bytes_per_s, nursery)
        vectors = [np.empty(elements, np.float32) for _ in nodes]
        averagers = [
            await stack.enter_async_context(
                open_averager(
                    node,
                    "bench",
                    TensorSpec.of({"vector": vector}),
                    AveragerConfig(wire_dtype=_WIRE_DTYPE),
                )
            )
            for node, vector in zip(nodes, vectors, strict=True)
        ]
        peer_ids = [node.peer_id for node in nodes]
        rounds = []
        for number in range(count):
            for rank, vector_V in enumerate(vectors):
                fill(vector_V, pattern_of(rank, number))
            begun_s = trio.current_time()
            reports = await _step(averagers, vectors, peer_ids, round_s_max)
            seconds = trio.current_time() - begun_s
            mean = mean_of(range(len(nodes)), number)
            whole = all(errors(vector_V, [mean], TOLERANCE)[1] == 1.0 for vector_V in vectors)
            rounds.append(Round(seconds, whole, str(reports[0])))
        nursery.cancel_scope.cancel()
    return rounds


async def _connect(
    nodes: Sequence[p2p.Node], bytes_per_s: Sequence[float], nursery: trio.Nursery
) -> None:
    """One connection for each pair, through the links of both."""
    addresses = [node.addresses[0].split("/") for node in nodes]
    at = addresses[0].index("tcp") + 1
    links = Links([int(parts[at]) for parts in addresses], max(bytes_per_s))
    links.up = [Bucket(rate) for rate in bytes_per_s]
    links.down = [Bucket(rate) for rate in bytes_per_s]
    ports = await links.listen(nursery)
    for source, node in enumerate(nodes):
        for target in range(source):
            parts = addresses[target]
            address = "/".join([*parts[:at], str(ports[source][target]), *parts[at + 1 :]])
            await node.connect(nodes[target].peer_id, [address])


async def _step(
    averagers: Sequence[Averager],
    vectors: Sequence[Array],
    peer_ids: Sequence[p2p.PeerId],
    round_s_max: float,
) -> list[RoundReport]:
    """One round of all; one that failed has a report, too."""
    reports: dict[int, RoundReport] = {}

    async def one(rank: int) -> None:
        try:
            reports[rank] = await averagers[rank].step(
                {"vector": vectors[rank]}, deadline_s=round_s_max, expected=peer_ids
            )
        except RoundFailed as failed:
            reports[rank] = failed.report

    async with trio.open_nursery() as nursery:
        for rank in range(len(averagers)):
            nursery.start_soon(one, rank)
    return [report for _, report in sorted(reports.items())]
