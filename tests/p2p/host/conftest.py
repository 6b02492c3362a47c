"""Fixtures for tests that run over the real and the simulated transport."""

from collections.abc import AsyncIterator

import pytest

from p2p import Node
from tests.p2p.worlds import KINDS, World, open_pair


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> World:
    """Where the nodes of this test live."""
    return World(request.param)


@pytest.fixture
async def pair(world: World) -> AsyncIterator[tuple[Node, Node]]:
    """Alice and bob; alice knows where bob is."""
    async with open_pair(world) as (alice, bob):
        yield alice, bob
