"""Peer ids: the base58 text that names an Ed25519 public key."""

from __future__ import annotations

from functools import lru_cache
from typing import NewType

import base58

PeerId = NewType("PeerId", str)
"""The base58 text of a peer's identity, such as 12D3KooW…; ordered and hashable."""

# An Ed25519 peer id is an identity multihash (code 0x00, 36 bytes) of the key's protobuf
# (type 1, 32 bytes). Source: libp2p specification, peer-ids.
_PEER_ID_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])
_PEER_ID_TEXT_MAX = 64
KEYS_KEPT_MAX = 8192
"""Peer ids whose keys are remembered, some 300 bytes each: answers name the same peers again and
again, and reading a key anew takes a hundred times as long."""
# All encodings, sign bit aside, of the points of small order: for these keys one signature fits
# many messages, so whoever signs with them can deny it. Source: the list that libsodium refuses.
_SMALL_ORDER_KEYS = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


def short(peer_id: PeerId) -> str:
    """The last eight characters of a peer id: enough for people to tell peers apart."""
    return peer_id[-8:]


def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id of an Ed25519 public key of 32 bytes."""
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


@lru_cache(KEYS_KEPT_MAX)
def public_key_of(peer_id: PeerId) -> bytes:
    """The Ed25519 public key of 32 bytes inside a peer id; raises ValueError if there is none."""
    if len(peer_id) > _PEER_ID_TEXT_MAX:
        raise ValueError("too long for an Ed25519 peer id")
    raw = base58.b58decode(peer_id)
    if len(raw) != len(_PEER_ID_PREFIX) + 32 or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError(f"{peer_id!r} is not an Ed25519 peer id")
    public_key = raw[len(_PEER_ID_PREFIX) :]
    if public_key[:31] + bytes([public_key[31] & 0x7F]) in _SMALL_ORDER_KEYS:
        raise ValueError(f"{peer_id!r} holds a key under which anybody can sign")
    return public_key
