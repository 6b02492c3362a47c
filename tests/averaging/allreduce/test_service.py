"""All-reduce over a simulated network: exact without faults, and what each fault leads to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from averaging.allreduce.result import RoundResult
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import (
    Array,
    group_of,
    mean_of,
    open_peers,
    run_group,
    simulated,
    vectors_for,
)

TOLERANCE = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-15}


def check_agreed(results: Sequence[RoundResult], expected: Array, tolerance: float) -> None:
    """All succeeded with the same bits, which are the expected ones."""
    for result in results:
        assert result.outcome == "success", result.reason
        assert result.vector is not None
        np.testing.assert_allclose(result.vector, expected, atol=tolerance, rtol=tolerance)
    assert len({result.digest for result in results}) == 1
    assert len({result.vector.tobytes() for result in results if result.vector is not None}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 9))
@simulated
async def test_all_hold_the_exact_mean(network: SimNetwork, count: int) -> None:
    async with open_peers(network, count) as peers:
        vectors = vectors_for(count, 70_000)
        kept = [vector.copy() for vector in vectors]
        group = group_of([peer.node for peer in peers], 70_000)
        results = await run_group(peers, group, vectors)
    check_agreed(results, mean_of(kept), TOLERANCE["float32"])
    for result in results:
        assert all(member.fraction == 1.0 for member in result.members.values())
        assert all(member.reason == "" for member in result.members.values())
        assert result.lost == ()
    np.testing.assert_array_equal(vectors, kept)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (3.0, 0.25, 17.5), (0.0, 1.0, 5.0)])
@simulated
async def test_every_dtype_and_weight(
    network: SimNetwork, dtype: str, weights: tuple[float, ...]
) -> None:
    async with open_peers(network, 3) as peers:
        vectors = vectors_for(3, 20_000, dtype)
        group = group_of([peer.node for peer in peers], 20_000, wire_dtype=dtype)
        results = await run_group(peers, group, vectors, weights)
    check_agreed(results, mean_of(vectors, weights), TOLERANCE[dtype])
    for peer, weight in zip(peers, weights, strict=True):
        report = results[0].members[peer.peer_id]
        assert report.weight == weight
        assert report.fraction == (1.0 if weight else 0.0)
    for peer, weight, vector in zip(peers, weights, vectors, strict=True):
        norms = {result.members[peer.peer_id].norm for result in results}
        assert len(norms) == 1, "all are told the same"
        expected = float(np.linalg.norm(vector.astype("float64"))) if weight else 0.0
        assert norms.pop() == pytest.approx(expected, rel=1e-3)
