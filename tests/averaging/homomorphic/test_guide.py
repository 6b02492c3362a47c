"""The code in the guide to encrypted sums runs as it stands there."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from p2p.testing import SimNetwork, run_sim

pytest.importorskip("tenseal")

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "homomorphic.md"


def test_an_aggregator_and_members() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2

    async def main(network: SimNetwork) -> None:
        async with AsyncExitStack() as stack:
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
