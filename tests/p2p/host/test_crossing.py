"""Dials that cross end with one connection, the same for both, and no stream is lost by it."""

import random
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p import Identity, Node, PeerId, open_node
from p2p.host.crossing import CROSSING_S, loser_of, preferred
from p2p.host.transport import ConnectionInfo
from tests.p2p.host.peers import until
from tests.p2p.worlds import PROTOCOL, echo

ALICE, BOB = sorted(Identity.generate(random.Random(seed)).peer_id for seed in range(2))


def info(peer_id: PeerId, at_s: float, *, outbound: bool) -> ConnectionInfo:
    return ConnectionInfo(peer_id, "address", "direct", outbound, at_s, "/noise")


# Each dial: by alice or by bob, and when; each side notices it a little later than the other.
dials = st.lists(
    st.tuples(st.booleans(), st.floats(0, 10), st.floats(0, 0.2)), min_size=1, max_size=5
)


@given(dials)
def test_both_sides_give_up_the_same_and_never_all(
    dialed: list[tuple[bool, float, float]],
) -> None:
    dialed = sorted(dialed, key=lambda dial: dial[1])
    of_alice = [info(BOB, at_s, outbound=by_alice) for by_alice, at_s, _ in dialed]
    of_bob = [info(ALICE, at_s, outbound=not by_alice) for by_alice, at_s, _ in dialed]
    given_up: set[int] = set()
    for first in range(len(dialed)):
        for second in range(first + 1, len(dialed)):
            alices = loser_of(of_alice[first], of_alice[second], ALICE)
            bobs = loser_of(of_bob[first], of_bob[second], BOB)
            assert (alices is None) == (bobs is None)
            if alices is not None:
                loser = first if alices is of_alice[first] else second
                assert bobs is of_bob[loser]
                assert not dialed[loser][0]
                given_up.add(loser)
    assert len(given_up) < len(dialed)
    assert preferred(of_alice, ALICE) == preferred(of_bob, BOB)


@given(st.floats(0, CROSSING_S), st.booleans())
def test_the_smaller_peer_id_keeps_its_dial(apart_s: float, alice_first: bool) -> None:
    several = [info(BOB, 0, outbound=alice_first), info(BOB, apart_s, outbound=not alice_first)]
    assert several[preferred(several, ALICE)].outbound


def test_who_comes_back_later_is_reached_on_the_newest() -> None:
    for mine_first in (True, False):
        several = [
            info(BOB, 0, outbound=mine_first),
            info(BOB, CROSSING_S + 0.1, outbound=not mine_first),
        ]
        assert preferred(several, ALICE) == preferred(several, BOB) == 1
    assert preferred([info(BOB, 0, outbound=True), info(BOB, 0.1, outbound=True)], ALICE) == 1


def test_a_relayed_connection_neither_ends_a_direct_one_nor_takes_its_streams() -> None:
    for me, peer_id in ((ALICE, BOB), (BOB, ALICE)):
        direct = info(peer_id, 1.0, outbound=True)
        for at_s in (0.5, 1.5, 60.0):
            relayed = replace(info(peer_id, at_s, outbound=False), path="relayed")
            assert loser_of(direct, relayed, me) is loser_of(relayed, direct, me) is None
            several = sorted((direct, relayed), key=lambda one: one.opened_at_s)
            assert several[preferred(several, me)] is direct
        # Where there is nothing better, it serves.
        assert preferred([relayed], me) == 0


@pytest.mark.slow
async def test_many_crossing_dials_end_with_one_connection_each() -> None:
    async with open_node() as alice, open_node() as bob:
        alice.serve(PROTOCOL, echo)
        bob.serve(PROTOCOL, echo)
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_dial_and_talk, alice, bob)
                nursery.start_soon(_dial_and_talk, bob, alice)
            await until(lambda: len(alice.connections) == len(bob.connections) == 1)
            assert alice.connections[0].outbound is not bob.connections[0].outbound
            await alice.disconnect(bob.peer_id)
            await bob.wait_disconnected(alice.peer_id)


async def _dial_and_talk(caller: Node, peer: Node) -> None:
    await caller.connect_address(peer.addresses[0])
    # Streams from before, while and after the other connection goes.
    streams = []
    for _ in range(6):
        stream = await caller.open_stream(peer.peer_id, PROTOCOL)
        await stream.send_all(b"first")
        assert await stream.receive_exactly(5) == b"first"
        streams.append(stream)
        await trio.sleep(0.02)
    for stream in streams:
        await stream.send_all(b"last")
        assert await stream.receive_exactly(4) == b"last"
        await stream.aclose()
