"""Each kind of pair that can be punched tries it twenty times, with new ports and keys."""

from __future__ import annotations

import statistics

import pytest

from p2p.testing.netlab import Situation
from tests.netlab.matrix import Peer, begin_to_meet, how_they_met, open_world
from tests.netlab.table import TRIES, Try

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(1_200)]

TRIES_EACH = 20
SHARE_MIN = 0.95
MEDIAN_S_MAX = 2.0
KINDS: tuple[Situation, ...] = ("port-restricted", "carrier-grade", "firewall")
# Three pairs at a time: first each kind with its like, then each with the next one.
NEXT = (*KINDS[1:], KINDS[0])
TURNS = (tuple(zip(KINDS, KINDS, strict=True)), tuple(zip(KINDS, NEXT, strict=True)))
FIRST_PORT = 4100


def is_ready(peer: Peer) -> None:
    """Return when it has what a punch takes."""
    peer.wait_for(relays=lambda held: len(held) >= 2, mapping=lambda kind: kind != "unknown")


def test_almost_every_try_is_punched_and_soon() -> None:
    with open_world() as world:
        ports = iter(range(FIRST_PORT, FIRST_PORT + 2 * TRIES_EACH + 1))
        port = next(ports)
        for situation in KINDS:
            for name in ("alice", "bob"):
                world.peer(name, situation, mode="always", port=port)
        for _ in range(TRIES_EACH):
            for turn in TURNS:
                port = next(ports)
                pairs = [
                    (world.peer("alice", one), world.peer("bob", other)) for one, other in turn
                ]
                for peer in (one for pair in pairs for one in pair):
                    is_ready(peer)
                for alice, bob in pairs:
                    begin_to_meet(alice, bob)
                for (one, other), (alice, bob) in zip(turn, pairs, strict=True):
                    TRIES.append(Try(one, other, how_they_met(alice, bob)))
                for peer in (one for pair in pairs for one in pair):
                    peer.close()
                    peer.open(port, "always")
    assert len(TRIES) == 2 * len(KINDS) * TRIES_EACH
    punched_s = [one.meeting.final_s for one in TRIES if one.meeting.way == "punched"]
    assert len(punched_s) >= SHARE_MIN * len(TRIES)
    assert statistics.median(punched_s) <= MEDIAN_S_MAX
