"""256-bit keys: where nodes and records live, and how far apart they are."""

from __future__ import annotations

import hashlib
import random

from p2p.peer_id import PeerId

KEY_BITS = 256
KEY_SIZE_BYTES = KEY_BITS // 8


def node_key(peer_id: PeerId) -> int:
    """Where a peer sits: SHA-256 of its id, so that a place costs a key pair."""
    return key_from_bytes(hashlib.sha256(peer_id.encode()).digest())


def record_key(key: str) -> int:
    """Where a record sits: SHA-256 of its key's text."""
    return key_from_bytes(hashlib.sha256(key.encode()).digest())


def key_to_bytes(key: int) -> bytes:
    """The 32 bytes of a key, big-endian."""
    return key.to_bytes(KEY_SIZE_BYTES, "big")


def key_from_bytes(data: bytes) -> int:
    """The key of 32 bytes, big-endian."""
    return int.from_bytes(data, "big")


def distance(left: int, right: int) -> int:
    """How far apart two keys are.

    Source: P. Maymounkov, D. Mazières, Kademlia, 2002, §2.1.
    """
    return left ^ right


def bucket_index(own: int, other: int, bits: int = KEY_BITS) -> int:
    """The length of the prefix that two different keys share: 0 for the farther half."""
    return bits - (own ^ other).bit_length()


def random_key_in_bucket(own: int, index: int, rng: random.Random, bits: int = KEY_BITS) -> int:
    """A random key that shares exactly ``index`` leading bits with ours."""
    suffix_bits = bits - index - 1
    flipped = own ^ (1 << suffix_bits)
    return (flipped >> suffix_bits << suffix_bits) | rng.getrandbits(suffix_bits)
