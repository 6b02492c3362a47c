"""Two peers in each pair of situations reach each other in the best way there is, and average."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from p2p.testing.netlab import Situation
from tests.netlab.matrix import PAIRS, World, average, expected, meet, open_world
from tests.netlab.table import CELLS, Cell

# Those of `make test`: one of each kind, and what was hard to get right.
FEW = {
    ("public", "symmetric"),
    ("port-restricted", "port-restricted"),
    ("port-restricted", "symmetric"),
    ("symmetric", "upnp"),
}


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One internet for all cells that are run: each has two peers that have not met before."""
    with open_world() as opened:
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.originalname == test_cell.__name__:
                # Finding out how one is reached takes a while; so all do it at once.
                one, other = (item.callspec.params[name] for name in ("one", "other"))
                opened.peer("alice", one)
                opened.peer("bob", other)
        yield opened


def cells() -> list[object]:
    """All pairs; those that only `make netlab` runs are marked."""
    return [pytest.param(*pair, marks=[] if pair in FEW else pytest.mark.netlab) for pair in PAIRS]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("one", "other"), cells())
def test_cell(world: World, one: Situation, other: Situation) -> None:
    alice, bob = world.peer("alice", one), world.peer("bob", other)
    alice.is_settled_here()
    bob.is_settled_here()
    meeting = meet(alice, bob)
    here, there = average(alice, bob, f"{one}+{other}")
    CELLS.append(Cell(one, other, meeting, here, there))
    assert meeting.way in expected(one, other), (alice.report["punches"], bob.report["punches"])
    assert (here["right"], there["right"]) == (True, True)
    assert here["bits"] == there["bits"]
    assert set(here["paths"]) == {"direct" if meeting.way == "mapped" else meeting.way}
