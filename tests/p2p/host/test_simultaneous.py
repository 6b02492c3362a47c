"""Two dialers on one socket, as TCP's simultaneous open makes them: one of them gives way."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import memory_stream_pair

from p2p import Identity
from p2p.host.connection import Rules, upgrade
from p2p.host.noise import NoiseSession
from p2p.host.transport import DialError
from p2p.peer_id import PeerId

ALICE, BOB, EVE = sorted(
    (Identity.generate(random.Random(seed)) for seed in range(3)), key=lambda one: one.peer_id
)


@pytest.mark.parametrize("wants_aes", [True, False])
async def test_the_smaller_peer_id_stays_the_dialer(wants_aes: bool) -> None:
    left, right = memory_stream_pair()
    rules = Rules(wants_aes=wants_aes)
    sessions: dict[str, NoiseSession] = {}

    async def dial(me: Identity, other: Identity, stream: trio.abc.HalfCloseableStream) -> None:
        sessions[me.peer_id] = await upgrade(stream, me, other.peer_id, rules=rules)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, ALICE, BOB, left)
        nursery.start_soon(dial, BOB, ALICE, right)
    alice, bob = sessions[ALICE.peer_id], sessions[BOB.peer_id]
    assert (alice.peer_id, bob.peer_id) == (BOB.peer_id, ALICE.peer_id)
    assert (alice.is_dialer, bob.is_dialer) == (True, False)
    assert alice.handshake_hash == bob.handshake_hash
    assert alice.layer == bob.layer
    await alice.send([b"hello"])
    assert await bob.receive() == [b"hello"]
    await bob.send([b"and you"])
    assert await alice.receive() == [b"and you"]


@pytest.mark.parametrize(("me", "victim"), [(ALICE, BOB), (BOB, ALICE)])
async def test_an_impostor_that_dials_at_the_same_moment_is_found_out(
    me: Identity, victim: Identity
) -> None:
    left, right = memory_stream_pair()
    outcomes: dict[PeerId, str] = {}

    async def dial(one: Identity, other: Identity, stream: trio.abc.HalfCloseableStream) -> None:
        try:
            await upgrade(stream, one, other.peer_id, rules=Rules())
        except DialError as exc:
            outcomes[one.peer_id] = str(exc)
        finally:
            await trio.aclose_forcefully(stream)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, me, victim, left)
            nursery.start_soon(dial, EVE, me, right)
    assert me.peer_id in outcomes
