"""What breaks between two peers is noticed, and another way found within a minute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from p2p.testing.netlab import Link, Situation
from tests.netlab.matrix import LINK, Peer, Relay, World, meet, open_world
from tests.netlab.table import NOTES

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(300)]
RECOVERED_S_MAX = 60.0


@pytest.fixture
def world() -> Iterator[World]:
    """An internet of the test's own: it breaks."""
    with open_world() as opened:
        yield opened


def two_who_met(world: World, one: Situation, other: Situation, way: str) -> tuple[Peer, Peer]:
    """Peers that reach each other in this way."""
    alice, bob = world.peer("alice", one), world.peer("bob", other)
    alice.is_settled_here()
    bob.is_settled_here()
    meeting = meet(alice, bob)
    assert meeting.way == way, (meeting, alice.report, bob.report)
    return alice, bob


def call(alice: Peer, bob: Peer, way: str = "any", size_bytes: int = 5) -> dict[str, Any]:
    """Something goes to and fro, sooner or later."""
    alice.do("call", bob.peer_id, size_bytes, way)
    return alice.hear("call")


def relay_between(world: World, alice: Peer, bob: Peer) -> tuple[Relay, Relay]:
    """The relay that two peers use, and the other one."""
    report = alice.wait_for(
        connections=lambda several: any(one[:2] == [bob.peer_id, "relayed"] for one in several)
    )
    [there] = {one[2] for one in report["connections"] if one[0] == bob.peer_id}
    first, second = world.relays[:2]
    return (first, second) if f"/{first.host.address}/" in there else (second, first)


def test_a_relay_that_dies_while_in_use_is_replaced(world: World) -> None:
    alice, bob = two_who_met(world, "symmetric", "symmetric", "relayed")
    used, other = relay_between(world, alice, bob)
    used.kill()
    said = call(alice, bob, "relayed")
    NOTES.append(("a relay dies, another carries", said["seconds"]))
    assert said["seconds"] <= RECOVERED_S_MAX
    assert relay_between(world, alice, bob)[0] is other


def test_both_relays_die_and_one_comes_back(world: World) -> None:
    alice, bob = two_who_met(world, "symmetric", "port-restricted", "relayed")
    for relay in world.relays[:2]:
        relay.kill()
    # Both know of it, and tell nobody any more of ways that lead nowhere.
    bob.wait_for(
        relays=[],
        connections=lambda several: alice.peer_id not in {one[0] for one in several},
        addresses=lambda several: not any("p2p-circuit" in one for one in several),
    )
    alice.wait_for(connections=lambda several: bob.peer_id not in {one[0] for one in several})
    back = world.relays[0]
    back.start()
    back.wait_ready()
    began_s = time.monotonic()
    said = call(alice, bob, "relayed")
    NOTES.append(("both relays die, one is back", time.monotonic() - began_s))
    assert said["seconds"] <= RECOVERED_S_MAX
    assert [back.peer_id] == bob.wait_for(relays=[back.peer_id])["relays"]


def test_a_router_forgets_all_its_mappings(world: World) -> None:
    alice, bob = two_who_met(world, "port-restricted", "port-restricted", "punched")
    world.router(bob).forget_mappings()
    said = call(alice, bob)
    punched = call(alice, bob, "punched")
    total_s = said["seconds"] + punched["seconds"]
    NOTES.append((f"a router forgets its mappings, {said['path']} again", said["seconds"]))
    NOTES.append(("a router forgets its mappings, punched again", total_s))
    assert total_s <= RECOVERED_S_MAX
    bob.wait_for(relays=lambda held: len(held) >= 2)


def test_the_address_of_a_peer_changes(world: World) -> None:
    alice, bob = two_who_met(world, "port-restricted", "port-restricted", "punched")
    world.router(bob).change_address()
    said = call(alice, bob)
    punched = call(alice, bob, "punched")
    total_s = said["seconds"] + punched["seconds"]
    NOTES.append((f"an address changes, {said['path']} again", said["seconds"]))
    NOTES.append(("an address changes, punched again", total_s))
    assert total_s <= RECOVERED_S_MAX


def test_three_of_ten_packets_are_lost(world: World) -> None:
    alice, bob = world.peer("alice", "port-restricted"), world.peer("bob", "port-restricted")
    alice.is_settled_here()
    bob.is_settled_here()
    world.router(alice).uplink.change(Link(delay_ms=LINK.delay_ms, loss=0.3))
    alice.do("meet", ",".join(bob.report["addresses"]))
    first = alice.hear("meet")
    NOTES.append((f"three of ten packets are lost, {first['path']}", first["seconds"]))
    settled = alice.hear("settled")
    NOTES.append((f"the same, {settled['path']}", settled["seconds"]))
    said = call(alice, bob, size_bytes=64 * 1024)
    NOTES.append(("the same, 64 KiB to and fro", said["seconds"]))
