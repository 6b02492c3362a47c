"""Base transfers: what each side learns, plain arithmetic, published points and bad ones."""

import hashlib

import pytest
from nacl import bindings

from p2p import MessageInvalid
from tests.training.privacy.inference import plain_edwards as plain
from tests.training.privacy.inference.seeded import SESSION, listened, random_bytes
from training.privacy.inference.base_transfer import (
    points_untrusted,
    receive_transfers,
    send_transfers,
)
from training.privacy.inference.exchange import run_pair

CHOICES = [False, True, True, False, True]
# RFC 8032, section 7.1, tests 1 and 2: secret seed and public key.
PUBLISHED = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    ),
)
IDENTITY = (1).to_bytes(32, "little")
PRIME = 2**255 - 19
# Of order 8, as a test shows.
ORDER_EIGHT = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
GOOD = bytes.fromhex(PUBLISHED[0][1])
BAD_POINTS = {
    "identity": IDENTITY,
    "order two": (PRIME - 1).to_bytes(32, "little"),
    "order eight": ORDER_EIGHT,
    "not canonical": (PRIME + 1).to_bytes(32, "little"),
    "not on the curve": (2).to_bytes(32, "little"),
    "of mixed order": bindings.crypto_core_ed25519_add(GOOD, ORDER_EIGHT),
}


def test_the_point_of_order_eight_is_one() -> None:
    point, orders = ORDER_EIGHT, []
    for _ in range(3):
        orders.append(point == IDENTITY)
        point = bindings.crypto_core_ed25519_add(point, point)
    assert orders == [False] * 3
    assert point == IDENTITY


def test_the_receiver_gets_what_it_chose() -> None:
    pairs, got = run_pair(
        send_transfers(len(CHOICES), SESSION, random_bytes(1)),
        receive_transfers(CHOICES, SESSION, random_bytes(2)),
    )
    assert got == [pair[choice] for pair, choice in zip(pairs, CHOICES, strict=True)]
    assert len({key for pair in pairs for key in pair}) == 2 * len(CHOICES)


def test_points_and_keys_are_those_of_plain_arithmetic() -> None:
    heard: tuple[list[bytes], list[bytes]] = ([], [])
    pairs, got = run_pair(
        listened(send_transfers(3, SESSION, random_bytes(1)), heard[0]),
        listened(receive_transfers(CHOICES[:3], SESSION, random_bytes(2)), heard[1]),
    )

    def scalars(seed: int, count: int) -> list[int]:
        drawn = random_bytes(seed)
        return [int.from_bytes(drawn(64), "little") % plain.ORDER for _ in range(count)]

    r, c = scalars(1, 2)
    C, R = (plain.times(scalar, plain.BASE) for scalar in (c, r))
    context = plain.encoded(C) + plain.encoded(R)
    assert heard[0] == [context]
    sent = b""
    for number, (k, choice) in enumerate(zip(scalars(2, 3), CHOICES, strict=False)):
        mine = plain.times(k, plain.BASE)
        P0 = plain.minus(C, mine) if choice else mine
        sent += plain.encoded(P0)
        keys = []
        # The sender's way, r·P₀ and r·P₁, and the receiver's, k·R.
        for which, point in enumerate((P0, plain.minus(C, P0))):
            shared = plain.times(r, point)
            assert (shared == plain.times(k, R)) == (which == choice)
            place = number.to_bytes(4, "little") + bytes([which])
            content = SESSION + context + place + plain.encoded(P0) + plain.encoded(shared)
            keys.append(hashlib.sha256(b"manyhands/transfer" + content).digest()[:16])
        assert pairs[number] == tuple(keys)
        assert got[number] == keys[choice]
    assert heard[1] == [sent]


def test_the_same_bytes_may_hide_either_choice() -> None:
    """For each message of a receiver there is a secret for either choice, equally likely."""
    offer_secret, secret = (random_bytes(seed)(64) for seed in (3, 4))
    reduce = bindings.crypto_core_ed25519_scalar_reduce
    other = bindings.crypto_core_ed25519_scalar_sub(reduce(offer_secret), reduce(secret))
    offer = bindings.crypto_scalarmult_ed25519_base_noclamp(reduce(offer_secret))
    sent = []
    for choice, drawn in ((False, secret), (True, other + bytes(32))):
        receiver = receive_transfers([choice], SESSION, lambda size, drawn=drawn: drawn)
        next(receiver)
        sent.append(receiver.send(offer + GOOD))
    assert sent[0] == sent[1]


def test_another_session_gives_other_keys() -> None:
    keys = []
    for session in (SESSION, b"another"):
        _, got = run_pair(
            send_transfers(1, session, random_bytes(1)),
            receive_transfers([True], session, random_bytes(2)),
        )
        keys += got
    assert keys[0] != keys[1]


@pytest.mark.parametrize(("seed", "public"), PUBLISHED)
def test_multiples_of_the_base_point_are_those_published(seed: str, public: str) -> None:
    hashed = bytearray(hashlib.sha512(bytes.fromhex(seed)).digest()[:32])
    hashed[0] &= 248
    hashed[31] = hashed[31] & 127 | 64
    scalar = bindings.crypto_core_ed25519_scalar_reduce(bytes(hashed) + bytes(32))
    secret = int.from_bytes(hashed, "little")
    assert plain.encoded(plain.times(secret, plain.BASE)) == bytes.fromhex(public)
    assert plain.encoded(plain.decoded(bytes.fromhex(public))) == bytes.fromhex(public)
    # Drawn as a receiver draws it, this secret must show this public point.
    receiver = receive_transfers([False], SESSION, lambda size: scalar + bytes(32))
    next(receiver)
    assert receiver.send(GOOD + GOOD) == bytes.fromhex(public)
    assert points_untrusted(bytes.fromhex(public), 1) == [bytes.fromhex(public)]


@pytest.mark.parametrize("kind", BAD_POINTS)
def test_points_that_are_none_are_refused(kind: str) -> None:
    with pytest.raises(MessageInvalid, match="a point is not"):
        points_untrusted(GOOD + BAD_POINTS[kind], 2)
    receiver = receive_transfers([True], SESSION, random_bytes(1))
    next(receiver)
    with pytest.raises(MessageInvalid):
        receiver.send(GOOD + BAD_POINTS[kind])


def test_a_receiver_cannot_leave_the_other_key_known() -> None:
    heard: list[bytes] = []
    sender = listened(send_transfers(1, SESSION, random_bytes(1)), heard)
    assert isinstance(next(sender), bytes)
    assert sender.send(b"") == 32
    with pytest.raises(MessageInvalid, match="nothing to choose"):
        sender.send(heard[0][:32])


@pytest.mark.parametrize("size_bytes", [0, 31, 33, 64])
def test_another_number_of_points_is_refused(size_bytes: int) -> None:
    with pytest.raises(MessageInvalid, match="are not 1 points"):
        points_untrusted((GOOD * 2)[:size_bytes], 1)
