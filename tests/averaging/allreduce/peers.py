"""A few simulated peers that run one group, made by hand instead of by matchmaking."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import trio

from averaging.allreduce import manifest
from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.partition import CHUNK_ELEMENTS, Piece
from averaging.allreduce.result import RoundResult
from averaging.allreduce.schema import PieceEnd
from averaging.allreduce.service import Allreduce, open_allreduce
from averaging.codecs.coding import Coding
from averaging.codecs.floating import FloatingWire, Run
from averaging.matchmaking.group import (
    Group,
    Join,
    capacities_of,
    choose_chunk_elements,
    form_group,
    in_order,
    sign_join,
)
from averaging.matchmaking.plan import plan_spans
from averaging.matchmaking.schema import Role
from averaging.round_id import RoundId
from p2p import Node, PeerId
from p2p.testing import SimNetwork, run_sim

Array = np.ndarray[Any, Any]

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of `async def test(network, ...)`: it runs in a simulation, always the same."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main(network: SimNetwork) -> None:
            await test(network, **fixtures)
            assert network.handler_errors == []

        run_sim(1, main)

    signature = inspect.signature(test)
    rest = [p for name, p in signature.parameters.items() if name != "network"]
    run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


@dataclass
class Peer:
    """A node that can run groups."""

    node: Node
    allreduce: Allreduce

    @property
    def peer_id(self) -> PeerId:
        return self.node.peer_id


@asynccontextmanager
async def open_peers(
    network: SimNetwork, count: int, *, clients: int = 0, config: AllreduceConfig | None = None
) -> AsyncIterator[list[Peer]]:
    """So many peers, the last ones clients, all connected as matchmaking leaves them."""
    async with AsyncExitStack() as stack:
        peers = []
        for number, name in enumerate(NAMES[:count]):
            node = await stack.enter_async_context(
                network.open_node(name, client_mode=number >= count - clients)
            )
            allreduce = await stack.enter_async_context(open_allreduce(node, "test", config))
            peers.append(Peer(node, allreduce))
        await connect_all([peer.node for peer in peers])
        yield peers


async def connect_all(nodes: Sequence[Node]) -> None:
    """Tell each node of the others' addresses, and connect to those that can be dialed."""
    for node in nodes:
        for other in nodes:
            if other is not node and other.addresses:
                await node.connect(other.peer_id, other.addresses)


def group_of(
    nodes: Sequence[Node],
    element_count: int,
    *,
    wire_dtype: str = "",
    weight_cap: float = 100.0,
    chunk_elements: int | None = None,
    deadline_s: float = 30.0,
    seed: int = 0,
    auxiliary: Collection[PeerId] = (),
    rates_bytes_per_s: Sequence[float] = (),
) -> Group:
    """A group of these nodes, the first as leader; auxiliary ones contribute nothing.

    Args:
        rates_bytes_per_s: of each node's line, both ways; none: nobody knows.
    """
    rates_bytes_per_s = rates_bytes_per_s or [0] * len(nodes)
    rng = random.Random(seed)

    def role_of(node: Node) -> Role:
        if node.peer_id in auxiliary:
            return "aux"
        return "client" if node.client_mode else "node"

    joins = [
        sign_join(
            Join(
                peer_id=node.peer_id,
                group_name="test",
                round=RoundId(1),
                spec_hash=bytes(32),
                terms=wire_dtype,
                role=role_of(node),
                weight_cap=0.0 if node.peer_id in auxiliary else weight_cap,
                up_bytes_per_s=int(rate),
                down_bytes_per_s=int(rate),
                nonce=rng.randbytes(16),
                addresses=node.addresses,
                previous=b"",
                abandoned=False,
            ),
            node.identity.sign,
        )
        for node, rate in zip(nodes, rates_bytes_per_s, strict=True)
    ]
    aggregators = sum(not node.client_mode for node in nodes)
    group, _ = form_group(
        joins,
        chunk_elements=chunk_elements
        or choose_chunk_elements(element_count, aggregators, CHUNK_ELEMENTS),
        span_elements=plan_spans(capacities_of(in_order(joins)), element_count),
        deadline_s=deadline_s,
        attempt=0,
        previous=b"",
    )
    return group


def end_signed_by(node: Node, group: Group, piece: Piece, /, **changes: Any) -> PieceEnd:
    """The end of a piece that all contributed to with weight 1, but for the changes."""
    count = len(group.members)
    end = PieceEnd(
        group_id=group.group_id,
        piece=piece.number,
        owner=piece.owner,
        plan=0,
        chunks=(bytes(32),) * len(piece.chunks),
        included=(len(piece.chunks),) * count,
        weights=(1.0,) * count,
        reasons=("",) * count,
        signature=bytes(64),
        norms=(1.0,) * count,
    )
    return manifest.signed_piece_end(msgspec.structs.replace(end, **changes), node.identity.sign)


def vectors_for(count: int, elements: int, dtype: str = "float32", seed: int = 0) -> list[Array]:
    """Different vectors, the same each time."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(elements).astype(dtype) for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class Outcome(RoundResult):
    """A result, with the vector that was handed over on success."""

    vector: Array | None


async def outcome_of(
    allreduce: Allreduce,
    group: Group,
    flat: Array | None,
    weight: float,
    deadline_s: float,
    coding: Coding | None = None,
    *,
    prepared_s: float = 0.0,
) -> Outcome:
    """Run one member's part; an auxiliary one has no vector. Without a coding, all is floats.

    Args:
        prepared_s: how long its streams are open before its values are final.
    """
    handed_over: list[Array] = []
    dtype = np.dtype(np.float32) if flat is None else flat.dtype
    elements = sum(group.span_elements) if flat is None else len(flat)
    runs = [Run(0, elements, group.members[0].terms or dtype.name)] if elements else []
    coding = coding or Coding.floats(FloatingWire(runs, dtype))
    async with allreduce.entered(group, coding, deadline_s) as entered:
        if prepared_s:
            await trio.sleep(prepared_s)
        # What is given may be overwritten.
        result = await entered.run(
            None if flat is None else flat.copy(),
            weight,
            on_success=lambda vector: handed_over.append(vector.copy()),
        )
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return Outcome(**fields, vector=handed_over[0] if handed_over else None)


async def run_group(
    peers: Sequence[Peer],
    group: Group,
    vectors: Sequence[Array | None],
    weights: Sequence[float] | None = None,
    *,
    deadline_s: float = 20.0,
    codings: Sequence[Coding] | None = None,
    prepared_s: float = 0.0,
) -> list[Outcome]:
    """Run the group at all these peers to its end; auxiliary ones have no vector."""
    results: dict[int, Outcome] = {}

    async def run(number: int) -> None:
        weight = 1.0 if weights is None else weights[number]
        until_s = trio.current_time() + deadline_s
        results[number] = await outcome_of(
            peers[number].allreduce,
            group,
            vectors[number],
            weight,
            until_s,
            codings[number] if codings else None,
            prepared_s=prepared_s,
        )

    async with trio.open_nursery() as nursery:
        for number in range(len(peers)):
            nursery.start_soon(run, number)
    return [results[number] for number in range(len(peers))]


def mean_of(vectors: Sequence[Array], weights: Sequence[float] | None = None) -> Array:
    """The weighted mean in doubles."""
    return np.average(np.asarray(vectors, np.float64), axis=0, weights=weights)


def fractions_of(result: Array, vectors: Sequence[Array], weights: Sequence[float]) -> list[float]:
    """How much of the result contains each vector; each element must be the mean of some."""
    taking_part = [number for number, weight in enumerate(weights) if weight]
    fractions = [0.0] * len(vectors)
    unexplained = np.ones(len(result), bool)
    for size in range(len(taking_part), 0, -1):
        for subset in itertools.combinations(taking_part, size):
            with np.errstate(invalid="ignore"):
                mean = mean_of([vectors[i] for i in subset], [weights[i] for i in subset])
            fits = unexplained & np.isclose(result, mean, rtol=1e-5, atol=1e-6)
            unexplained &= ~fits
            for number in subset:
                fractions[number] += float(np.count_nonzero(fits)) / len(result)
    assert not unexplained.any(), "an element is nobody's mean"
    return fractions
