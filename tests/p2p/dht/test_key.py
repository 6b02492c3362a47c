"""Keys: distances make sense, buckets hold what they claim."""

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.key import (
    bucket_index,
    distance,
    key_from_bytes,
    key_to_bytes,
    node_key,
    random_key_in_bucket,
    record_key,
)

keys = st.integers(0, 255)


def test_a_node_sits_at_the_hash_of_its_peer_id() -> None:
    expected = hashlib.sha256(b"12D3KooWalice").digest()
    assert key_to_bytes(node_key(PeerId("12D3KooWalice"))) == expected
    assert key_to_bytes(record_key("12D3KooWalice")) == expected


@given(st.binary(min_size=32, max_size=32))
def test_keys_survive_the_trip_to_bytes(data: bytes) -> None:
    assert key_to_bytes(key_from_bytes(data)) == data


@given(keys, keys, keys)
def test_distance_is_a_metric(a: int, b: int, c: int) -> None:
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@given(keys, keys)
def test_the_bucket_is_the_length_of_the_shared_prefix(a: int, b: int) -> None:
    shared = 0
    for left, right in zip(f"{a:08b}", f"{b:08b}", strict=True):
        if left != right:
            break
        shared += 1
    if a != b:
        assert bucket_index(a, b, bits=8) == shared


@given(keys, st.integers(0, 7), st.integers())
def test_a_random_key_lands_in_its_bucket(own: int, index: int, seed: int) -> None:
    key = random_key_in_bucket(own, index, random.Random(seed), bits=8)
    assert 0 <= key < 256
    assert bucket_index(own, key, bits=8) == index
