"""A tweakable hash of 128-bit blocks, many at once, from AES under one key.

TMMO(x, i) = π(π(x) ⊕ i) ⊕ π(x), where π is AES-128 under a key of the session. It stays
pseudorandom for related inputs x ⊕ Δ while no tweak i is used twice, which both free XOR and IKNP's
extension need.

Source: Guo, Katz, Wang, Yu, Efficient and Secure Multiparty Computation from Fixed-Key Block
Ciphers, 2020 (the construction TMMO). Theirs is one key for all; a key of each session keeps what
is learnt in one from helping in another.
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.uint64]
"""Blocks of 128 bits: any shape with a last axis of two words, the low one first."""

BLOCK_SIZE_BYTES = 16
WORD = np.dtype("<u8")


class BlockHash:
    """The hash of one session; both parties make the same calls in the same order."""

    def __init__(self, session: bytes) -> None:
        """Key it with what both parties have contributed randomness to."""
        key = hashlib.sha256(b"manyhands/private-inference/aes" + session).digest()[:16]
        # ECB is right here: this is the bare permutation, not a cipher for messages.
        self._permute = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update
        self._taken = 0

    def take(self, count: int) -> Words:
        """Numbers for so many tweaks, which no other call gives."""
        first = self._taken
        self._taken += count
        return np.arange(first, self._taken, dtype=WORD)

    def __call__(self, blocks: Words, numbers: Words, places: Words | int) -> Words:
        """The hash of each block.

        Args:
            blocks: of shape (…, 2).
            numbers: the half of the tweak that take() gave; its shape broadcasts to that of blocks
                without the last axis.
            places: the other half: what is hashed of this number, such as a gate.
        """
        inner = self._permuted(blocks)
        outer = inner.copy()
        outer[..., 0] ^= numbers
        outer[..., 1] ^= places
        return self._permuted(outer) ^ inner

    def _permuted(self, blocks: Words) -> Words:
        data = self._permute(bytes_of(blocks))
        return np.frombuffer(data, dtype=WORD).reshape(blocks.shape)


def blocks_of(data: bytes, *shape: int) -> Words:
    """Bytes as blocks of this shape, less the last axis."""
    return np.frombuffer(data, dtype=WORD).reshape(*shape, 2)


def bytes_of(blocks: Words) -> bytes:
    """Blocks as they travel, in C order."""
    return np.ascontiguousarray(blocks, dtype=WORD).tobytes()
