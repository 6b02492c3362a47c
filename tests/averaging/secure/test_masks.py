"""Masks against NIST's vectors and a plain stream; keys, seeds and boxes against the RFCs."""

from __future__ import annotations

import hashlib
import hmac
import random
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from nacl import bindings

from averaging.secure.masks import MaskKeys, add_masks, mask_key
from averaging.secure.sealing import (
    agree_untrusted,
    commit,
    key_of,
    open_untrusted,
    public_key_of,
    seal,
)
from p2p import MessageInvalid

Array = np.ndarray[Any, Any]

GROUP = b"g" * 32
# NIST SP 800-38A, F.5.1: the key, the first counter, and the four output blocks.
NIST_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NIST_COUNTER = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
NIST_BLOCKS = bytes.fromhex(
    "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"
    "6a2cc3787889374fbeb4c81b17ba6c44e89c399ff0f198c6d40a31db156cabfe"
)
# RFC 7748, section 6.1.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
AGREED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def mask(key: bytes, start: int, count: int, dtype: str = "u4") -> Array:
    out = np.zeros(count, dtype)
    add_masks(out, start, MaskKeys((key,), ()))
    return out


@pytest.mark.parametrize("dtype", ["u4", "u8"])
def test_the_stream_is_nists(dtype: str) -> None:
    size_bytes = np.dtype(dtype).itemsize
    start = NIST_COUNTER * 16 // size_bytes
    assert mask(NIST_KEY, start, 64 // size_bytes, dtype).tobytes() == NIST_BLOCKS
    # From within a block on.
    assert (
        mask(NIST_KEY, start + 1, 7, dtype).tobytes() == NIST_BLOCKS[size_bytes:][: 7 * size_bytes]
    )


@pytest.mark.parametrize("dtype", ["u4", "u8"])
def test_any_run_is_the_run_of_the_whole_stream(dtype: str) -> None:
    key, count = bytes(range(16)), 200_003
    size_bytes = count * np.dtype(dtype).itemsize
    plain = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(size_bytes))
    whole = np.frombuffer(plain, dtype)
    np.testing.assert_array_equal(mask(key, 0, count, dtype), whole)
    for start, stop in ((0, 1), (1, 2), (3, 70_001), (65_535, 65_537), (131_073, count)):
        np.testing.assert_array_equal(mask(key, start, stop - start, dtype), whole[start:stop])


def test_masks_that_are_added_and_subtracted_cancel() -> None:
    vector = np.arange(100_000, dtype=np.uint32)
    masked = vector.copy()
    add_masks(masked, 17, MaskKeys((b"a" * 16, b"b" * 16), (b"c" * 16,)))
    assert not (masked == vector).any()
    add_masks(masked, 17, MaskKeys((b"c" * 16,), (b"a" * 16, b"b" * 16)))
    np.testing.assert_array_equal(masked, vector)


def test_a_key_is_hkdf_of_its_seed_and_the_group() -> None:
    # RFC 5869 by hand: extract with an empty salt, expand to one block.
    extracted = hmac.digest(bytes(32), b"seed" * 8, "sha256")
    info = b"manyhands/secure/mask/1\0" + GROUP
    expanded = hmac.digest(extracted, info + b"\1", "sha256")
    assert mask_key(b"seed" * 8, GROUP) == expanded[:16]
    assert mask_key(b"seed" * 8, b"h" * 32) != expanded[:16]


def test_both_agree_as_in_the_rfc() -> None:
    assert public_key_of(ALICE) == ALICE_PUBLIC
    assert public_key_of(BOB) == BOB_PUBLIC
    assert agree_untrusted(key_of(ALICE), BOB_PUBLIC) == AGREED
    assert agree_untrusted(key_of(BOB), ALICE_PUBLIC) == AGREED


def test_a_point_of_low_order_is_refused() -> None:
    for point in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(MessageInvalid, match="nothing secret"):
            agree_untrusted(key_of(ALICE), point)


def test_a_box_opens_for_its_receiver_in_its_group_only() -> None:
    sealed = seal(AGREED, GROUP, 1, 2, b"share")
    assert open_untrusted(AGREED, GROUP, 1, 2, sealed) == b"share"
    for agreed, group, sender, receiver, box in (
        (AGREED, b"h" * 32, 1, 2, sealed),
        (AGREED, GROUP, 2, 1, sealed),
        (AGREED, GROUP, 1, 3, sealed),
        (b"x" * 32, GROUP, 1, 2, sealed),
        (AGREED, GROUP, 1, 2, sealed[:-1]),
        (AGREED, GROUP, 1, 2, b""),
    ):
        with pytest.raises(MessageInvalid, match="do not open"):
            open_untrusted(agreed, group, sender, receiver, box)


def test_a_box_is_the_rfcs_for_another_library() -> None:
    plain = random.Random(1).randbytes(200)
    sealed = seal(AGREED, GROUP, 1, 2, plain)
    # RFC 5869 by hand, as above; then RFC 8439, as libsodium has it.
    names = b"manyhands/secure/box/1" + GROUP + b"\1\2"
    key = hmac.digest(hmac.digest(bytes(32), AGREED, "sha256"), names + b"\1", "sha256")
    opened = bindings.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, names, bytes(12), key)
    assert opened == plain
    theirs = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plain, names, bytes(12), key)
    assert theirs == sealed


def test_a_commitment_is_bound_to_its_kind_and_group() -> None:
    expected = hashlib.sha256(b"manyhands/secure/seed/1\0" + GROUP + b"\0" + b"s" * 32).digest()
    assert commit("seed", GROUP, b"s" * 32) == expected
    others = {commit("seed", b"h" * 32, b"s" * 32), commit("seed", GROUP, b"t" * 32)}
    assert expected not in others | {commit("key", GROUP, b"s" * 32)}
