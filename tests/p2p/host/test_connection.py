"""The upgrade of a byte stream: honest peers meet, all others are told apart and sent away."""

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.rsa import create_new_key_pair as new_rsa_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as new_secp256k1_pair
from trio.testing import memory_stream_pair

from p2p import Identity, PeerId
from p2p.host.connection import YAMUX_PROTOCOL, Rules, upgrade
from p2p.host.handshake import KEY_PREFIX, SIGNED_PREFIX
from p2p.host.multistream import MULTISTREAM, line, proposal
from p2p.host.records import NOISE
from p2p.host.transport import DialError
from tests.p2p.host.peers import RawDialer, receive_exactly
from tests.p2p.host.receiving import next_plains

ALICE, BOB, EVE = (Identity.generate(random.Random(seed)) for seed in range(3))


async def outcome_of_upgrade(
    stream: trio.abc.HalfCloseableStream, expected: PeerId | None
) -> PeerId | DialError:
    """Who bob finds on the stream, or why nobody."""
    try:
        return (await upgrade(stream, BOB, expected, rules=Rules())).peer_id
    except DialError as exc:
        return exc
    finally:
        await trio.aclose_forcefully(stream)


async def test_two_peers_meet_and_exchange_bytes() -> None:
    left, right = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        bobs = []

        async def listen() -> None:
            bobs.append(await upgrade(right, BOB, None, rules=Rules()))

        nursery.start_soon(listen)
        alice = await upgrade(left, ALICE, BOB.peer_id, rules=Rules())
    [bob] = bobs
    assert (alice.peer_id, bob.peer_id) == (BOB.peer_id, ALICE.peer_id)
    await alice.send([b"hello"])
    assert await next_plains(bob) == [b"hello"]
    await bob.send([b"and you"])
    assert await next_plains(alice) == [b"and you"]


async def test_what_a_dialer_sends_ahead_is_not_lost() -> None:
    left, right = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            session = await RawDialer(left, ALICE).shake_hands()
            await session.send([proposal(YAMUX_PROTOCOL) + b"frames", b" ahead"])

        nursery.start_soon(dial)
        bob = await upgrade(right, BOB, None, rules=Rules())
    assert await next_plains(bob) == [b"frames ahead"]


async def test_an_impostor_is_found_out_before_we_name_ourselves() -> None:
    left, right = memory_stream_pair()
    outcomes: list[PeerId | DialError] = []
    async with trio.open_nursery() as nursery:

        async def pose() -> None:
            outcomes.append(await outcome_of_upgrade(right, None))

        nursery.start_soon(pose)
        with pytest.raises(DialError, match="impostor"):
            await upgrade(left, EVE, ALICE.peer_id, rules=Rules())
        assert outcomes == []
        await left.aclose()
    assert isinstance(outcomes[0], DialError)


def rsa_proof(dialer: RawDialer) -> bytes:
    keys = new_rsa_pair(2_048)
    signature = keys.private_key.sign(SIGNED_PREFIX + dialer.static_public)
    return dialer.proof(key=keys.public_key.serialize(), signature=signature)


def secp256k1_proof(dialer: RawDialer) -> bytes:
    keys = new_secp256k1_pair()
    signature = keys.private_key.sign(SIGNED_PREFIX + dialer.static_public)
    return dialer.proof(key=keys.public_key.serialize(), signature=signature)


PROOFS = {
    "another's key": lambda dialer: dialer.proof(key=KEY_PREFIX + ALICE.public_key),
    "another's signature": lambda dialer: dialer.proof(
        signature=ALICE.sign(SIGNED_PREFIX + dialer.static_public)
    ),
    "signed something else": lambda dialer: dialer.proof(
        signature=EVE.sign(SIGNED_PREFIX + bytes(32))
    ),
    "signed without prefix": lambda dialer: dialer.proof(signature=EVE.sign(dialer.static_public)),
    "no signature": lambda dialer: dialer.proof(signature=b""),
    "short signature": lambda dialer: dialer.proof(signature=bytes(63)),
    "no key": lambda dialer: dialer.proof(key=b""),
    "short key": lambda dialer: dialer.proof(key=KEY_PREFIX + bytes(31)),
    "huge key": lambda dialer: dialer.proof(key=bytes(60_000)),
    "RSA": rsa_proof,
    "secp256k1": secp256k1_proof,
    "nothing": lambda dialer: b"",
    "no protobuf": lambda dialer: b"\xff" * 100,
    "huge": lambda dialer: bytes(65_000),
}


@pytest.mark.parametrize("kind", PROOFS)
async def test_who_does_not_prove_an_ed25519_identity_is_sent_away(kind: str) -> None:
    left, right = memory_stream_pair()
    dialer = RawDialer(left, EVE)
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            await dialer.shake_hands(PROOFS[kind](dialer))

        nursery.start_soon(dial)
        outcome = await outcome_of_upgrade(right, None)
    assert isinstance(outcome, DialError)
    assert "Ed25519" in str(outcome) or "sign" in str(outcome) or "protobuf" in str(outcome)


async def test_a_session_key_of_low_order_is_refused() -> None:
    left, right = memory_stream_pair()
    dialer = RawDialer(left, EVE)
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            await dialer.agree_on_noise()
            await left.send_all((32).to_bytes(2, "big") + bytes(32))

        nursery.start_soon(dial)
        assert isinstance(await outcome_of_upgrade(right, None), DialError)


async def test_other_protocols_are_refused_with_a_word() -> None:
    left, right = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        answers = []

        async def dial() -> None:
            await left.send_all(proposal("/plaintext/2.0.0") + line("/tls/1.0.0"))
            expected = line(MULTISTREAM) + 2 * line("na")
            answers.append(await receive_exactly(left, len(expected)) == expected)
            await left.aclose()

        nursery.start_soon(dial)
        outcome = await outcome_of_upgrade(right, None)
    assert answers == [True]
    assert isinstance(outcome, DialError)


async def test_a_listener_without_our_muxer() -> None:
    left, right = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            assert await receive_exactly(right, len(proposal("/noise"))) == proposal("/noise")
            await right.send_all(line(MULTISTREAM) + line("na"))

        nursery.start_soon(listen)
        outcome = await outcome_of_upgrade(left, ALICE.peer_id)
    assert "does not speak /noise" in str(outcome)


# How far an honest dialer gets before it goes mad.
STAGES = ["at once", "agreed on noise", "first message", "second message", "proved", "sealed"]


async def go_mad(dialer: RawDialer, stage: str, noise: bytes) -> None:
    """An honest handshake up to a stage, then noise, then the end."""
    reached = STAGES.index(stage)
    if reached >= 1:
        await dialer.agree_on_noise()
    if reached >= 2:
        await dialer.send_message()
    if reached >= 3:
        await dialer.read_message()
    if reached >= 4:
        await dialer.send_message(dialer.proof())
    if reached >= 5:
        await dialer.session().send([noise])
    else:
        await dialer.stream.send_all(noise)
    await dialer.stream.send_eof()


@pytest.mark.parametrize("stage", STAGES)
@settings(max_examples=25)
@given(noise=st.binary(max_size=200))
def test_noise_at_any_stage_only_fails_the_handshake(stage: str, noise: bytes) -> None:
    async def meet() -> None:
        left, right = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_mad, RawDialer(left, EVE), stage, noise)
            assert isinstance(await outcome_of_upgrade(right, None), DialError)

    trio.run(meet)


@pytest.mark.parametrize("is_finished", [True, False])
async def test_a_dialer_that_stops_midway(is_finished: bool) -> None:
    for stage in STAGES:
        left, right = memory_stream_pair()
        async with trio.open_nursery() as nursery:

            async def stop(stage: str = stage, left: trio.StapledStream = left) -> None:
                await go_mad(RawDialer(left, EVE), stage, b"")
                if not is_finished:
                    await left.aclose()

            nursery.start_soon(stop)
            assert isinstance(await outcome_of_upgrade(right, None), DialError)


@settings(max_examples=50)
@given(noise=st.binary(max_size=300), is_prefixed=st.booleans())
def test_noise_from_a_listener_only_fails_the_dial(noise: bytes, is_prefixed: bool) -> None:
    async def meet() -> None:
        left, right = memory_stream_pair()
        await right.send_all(proposal(NOISE.protocol) * is_prefixed + noise)
        await right.send_eof()
        assert isinstance(await outcome_of_upgrade(left, ALICE.peer_id), DialError)

    trio.run(meet)
