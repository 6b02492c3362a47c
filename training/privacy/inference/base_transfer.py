"""Oblivious transfer on Curve25519: of two random keys the receiver learns the one it chose.

    sender     C, R = r·B                      two points
    receiver   P₀, for each transfer           k·B where it chose 0, C − k·B where it chose 1
    both       key_c = H(…, r·P_c), P₁ = C − P₀ the receiver knows k·R = r·P_c for its choice only

P₀ is a uniform point either way, so the choice is hidden whatever the sender computes. To know both
keys is to compute r·C from C and R (the computational Diffie–Hellman problem), with H a random
oracle. This is private against both parties even if they cheat, though not proven by simulation.
"Simplest OT" (Chou, Orlandi 2015) costs about as much; its proof has gaps, and it is not known to
suffice as a base for extension (Canetti, Sarkar, Wang, Blazing Fast OT, 2020).

Points are of libsodium's Ed25519 group; each that comes in is checked to be canonical, on the curve
and of the large prime order.

Source: Naor, Pinkas, Efficient Oblivious Transfer Protocols, 2001, protocol 3.1 with one C and one
R for all transfers (section 3.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nacl import bindings
from nacl.exceptions import CryptoError

from p2p import MessageInvalid
from training.privacy.inference.exchange import Exchange, RandomBytes, receive, send

POINT_SIZE_BYTES = 32
KEY_SIZE_BYTES = 16
_WIDE_SCALAR_SIZE_BYTES = 64


def send_transfers(
    count: int, session: bytes, random_bytes: RandomBytes
) -> Exchange[list[tuple[bytes, bytes]]]:
    """The sender's side: both keys of each transfer."""
    secret = _scalar(random_bytes)
    offer = _times_base(_scalar(random_bytes))
    ours = _times_base(secret)
    yield from send(offer + ours)
    points = points_untrusted((yield from receive(count * POINT_SIZE_BYTES)), count)
    if offer in points:
        raise MessageInvalid("a point of the transfer leaves nothing to choose from")
    offered = _times(secret, offer)
    context = session + offer + ours
    keys = []
    for number, point in enumerate(points):
        shared = _times(secret, point)
        other = bindings.crypto_core_ed25519_sub(offered, shared)
        keys.append(
            (
                _key(context, number, 0, point, shared),
                _key(context, number, 1, point, other),
            )
        )
    return keys


def receive_transfers(
    choices: Sequence[bool], session: bytes, random_bytes: RandomBytes
) -> Exchange[list[bytes]]:
    """The receiver's side: the chosen key of each transfer."""
    data = yield from receive(2 * POINT_SIZE_BYTES)
    offer, theirs = points_untrusted(data, 2)
    secrets = [_scalar(random_bytes) for _ in choices]
    points = []
    for secret, choice in zip(secrets, choices, strict=True):
        mine = _times_base(secret)
        points.append(bindings.crypto_core_ed25519_sub(offer, mine) if choice else mine)
    yield from send(b"".join(points))
    context = session + data
    return [
        _key(context, number, choice, point, _times(secret, theirs))
        for number, (secret, choice, point) in enumerate(zip(secrets, choices, points, strict=True))
    ]


def points_untrusted(data: bytes, count: int) -> list[bytes]:
    """So many points of the prime-order group.

    Raises:
        MessageInvalid: another number of them, or one that is no such point.
    """
    if len(data) != count * POINT_SIZE_BYTES:
        raise MessageInvalid(f"{len(data)} bytes are not {count} points")
    points = [data[at : at + POINT_SIZE_BYTES] for at in range(0, len(data), POINT_SIZE_BYTES)]
    if not all(bindings.crypto_core_ed25519_is_valid_point(point) for point in points):
        raise MessageInvalid("a point is not on the curve, not canonical, or of small order")
    return points


def _scalar(random_bytes: RandomBytes) -> bytes:
    """A uniform scalar of the group's order; zero is as likely as guessing a key."""
    wide = random_bytes(_WIDE_SCALAR_SIZE_BYTES)
    scalar: bytes = bindings.crypto_core_ed25519_scalar_reduce(wide)
    return scalar


def _times_base(scalar: bytes) -> bytes:
    point: bytes = bindings.crypto_scalarmult_ed25519_base_noclamp(scalar)
    return point


def _times(scalar: bytes, point: bytes) -> bytes:
    try:
        product: bytes = bindings.crypto_scalarmult_ed25519_noclamp(scalar, point)
    except CryptoError as exc:
        raise MessageInvalid("a point cannot be multiplied") from exc
    return product


def _key(context: bytes, number: int, choice: bool | int, point: bytes, shared: bytes) -> bytes:
    place = number.to_bytes(4, "little") + bytes([choice])
    digest = hashlib.sha256(b"manyhands/transfer" + context + place + point + shared).digest()
    return digest[:KEY_SIZE_BYTES]
