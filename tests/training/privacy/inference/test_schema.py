"""The messages of private sessions: recorded bytes, limits, and what keys a session."""

import dataclasses
import random

import msgspec
import pytest

from p2p import Identity, Message, MessageInvalid, decode_untrusted, encode
from training.privacy.inference import Shape
from training.privacy.inference.schema import (
    CLASSIFY,
    NONCE_SIZE_BYTES,
    SAMPLES_MAX,
    Ask,
    Offer,
    Part,
    offer_of,
    session_of,
    shape_untrusted,
)

NONCE = bytes(range(NONCE_SIZE_BYTES))
SHAPE = Shape(sizes=(64, 32, 10), shifts=(8,), feature_bits=8, feature_fraction_bits=6)
OFFER = offer_of(NONCE, SHAPE)
# Bytes as version 1 of the protocol sends them; a change that breaks this needs a new version.
RECORDED: list[tuple[Message, str]] = [
    (Ask(NONCE, 50), "93a361736bc420" + NONCE.hex() + "32"),
    (OFFER, "96a56f66666572c420" + NONCE.hex() + "9340200a91080806"),
    (Part(3), "92a47061727403"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED)
def test_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    kind = CLASSIFY.request_type if isinstance(message, Ask) else CLASSIFY.response_type
    assert decode_untrusted(bytes.fromhex(recorded), kind, size_bytes_max=512) == message


@pytest.mark.parametrize(
    "message",
    [
        Ask(NONCE[1:], 1),
        Ask(NONCE, 0),
        Ask(NONCE, SAMPLES_MAX + 1),
        Part(-1),
        Offer(NONCE, (0, 2)),
        Offer(NONCE, (10**9, 2)),
        Offer(NONCE, (4,) * 10),
        Offer(NONCE, (4, 2), (), 25, 0),
        Offer(NONCE, (4, 4, 2), (31,), 8, 6),
    ],
)
def test_what_is_out_of_range_is_refused(message: Message) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), type(message), size_bytes_max=512)


def test_shapes() -> None:
    assert shape_untrusted(OFFER, samples=1, bytes_max=1 << 20) == SHAPE
    with pytest.raises(MessageInvalid, match="would take"):
        shape_untrusted(OFFER, samples=100, bytes_max=1 << 20)
    for changes, cause in (
        ({"sizes": (64,)}, "no layers"),
        ({"shifts": ()}, "a shift too many or too few"),
        ({"sizes": (64, 32, 1)}, "classes"),
        ({"sizes": (64, 32, 2000)}, "classes"),
        ({"feature_fraction_bits": 8}, "no bit before the point"),
        ({"feature_bits": 0, "feature_fraction_bits": 0}, "no bit before the point"),
    ):
        with pytest.raises(MessageInvalid, match=cause):
            offer = msgspec.structs.replace(OFFER, **changes)
            shape_untrusted(offer, samples=1, bytes_max=1 << 20)


def test_each_session_has_its_own_key() -> None:
    alice, bob = (Identity.generate(random.Random(seed)).peer_id for seed in (1, 2))
    ask = Ask(NONCE, 1)
    other_shape = dataclasses.replace(SHAPE, feature_bits=9)
    sessions = {
        session_of(alice, bob, "classify", ask, OFFER),
        session_of(bob, alice, "classify", ask, OFFER),
        session_of(alice, bob, "compare", ask, OFFER),
        session_of(alice, bob, "classify", Ask(NONCE[::-1], 1), OFFER),
        session_of(alice, bob, "classify", Ask(NONCE, 2), OFFER),
        session_of(alice, bob, "classify", ask, offer_of(NONCE[::-1], SHAPE)),
        session_of(alice, bob, "classify", ask, offer_of(NONCE, other_shape)),
    }
    assert len(sessions) == 7
