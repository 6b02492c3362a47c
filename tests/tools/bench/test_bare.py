"""The bare round: what it measures is a right mean, over real sockets."""

import numpy as np
import pytest
import trio

from tools.bench.bare import Array, open_bare


@pytest.mark.parametrize("rival", ["bare-aes", "bare-noise"])
@pytest.mark.parametrize("elements", [10, 1_700_001])
async def test_a_bare_round_averages_and_can_be_repeated(rival: str, elements: int) -> None:
    peers = 3
    hellos: dict[int, str] = {}
    all_there, ends = trio.Event(), []
    rng = np.random.default_rng(elements)
    rounds = [rng.standard_normal((peers, elements), np.float32) for _ in range(2)]
    got: dict[tuple[int, int], Array] = {}

    async def run(rank: int) -> None:
        async def meet(hello: str) -> list[str]:
            hellos[rank] = hello
            if len(hellos) == peers:
                all_there.set()
            await all_there.wait()
            return [hellos[other] for other in range(peers)]

        async with open_bare(rival, rank, meet) as bare:
            assert bare.peers == peers
            for number, vectors in enumerate(rounds):
                mine_V = vectors[rank].copy()
                await bare.average(mine_V)
                got[number, rank] = mine_V
        ends.append(rank)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for rank in range(peers):
                nursery.start_soon(run, rank)
    assert sorted(ends) == [0, 1, 2]
    for (number, _), mean_V in got.items():
        np.testing.assert_allclose(mean_V, rounds[number].mean(axis=0), rtol=1e-5, atol=1e-6)
