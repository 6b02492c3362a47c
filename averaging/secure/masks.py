"""Masks: pseudorandom vectors that cancel in the sum, or are taken off it later (core).

A mask is the keystream of AES-128 in counter mode, cut in elements of the ring. It can be read from
any element on, so each span uses its own run of one stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Array = np.ndarray[Any, Any]

KEY_SIZE_BYTES: Final = 16
_BLOCK_SIZE_BYTES: Final = 16
# The vector's part and the stream stay in the second cache while all masks are added to it.
_SLICE_SIZE_BYTES: Final = 262_144
_ZEROS: Final = bytes(_SLICE_SIZE_BYTES)


@dataclass(frozen=True)
class MaskKeys:
    """Keys of the masks to add to a vector, and of those to subtract."""

    added: tuple[bytes, ...]
    subtracted: tuple[bytes, ...]


def mask_key(seed: bytes, group_id: bytes) -> bytes:
    """The key of a mask: HKDF-SHA256 of its seed, bound to the group."""
    info = b"manyhands/secure/mask/1\0" + group_id
    return HKDF(SHA256(), KEY_SIZE_BYTES, salt=None, info=info).derive(seed)


def add_masks(out: Array, start: int, keys: MaskKeys) -> None:
    """Add masks to a part of a vector, in place, modulo the ring.

    Args:
        out: 1-D, contiguous, uint32 or uint64: the elements from `start` on. Changed in place.
        start: which element of the whole vector the first one is.
    """
    size_bytes = out.dtype.itemsize
    streams: list[tuple[Any, np.ufunc]] = [
        (_stream(key, start * size_bytes), np.add) for key in keys.added
    ]
    streams += [(_stream(key, start * size_bytes), np.subtract) for key in keys.subtracted]
    step = _SLICE_SIZE_BYTES // size_bytes
    # The cipher wants room for a block more than it writes.
    drawn = np.empty(_SLICE_SIZE_BYTES + _BLOCK_SIZE_BYTES, np.uint8)
    for first in range(0, len(out), step):
        part = out[first : first + step]
        mask = drawn[: part.nbytes].view(out.dtype.newbyteorder("<"))
        for stream, combine in streams:
            stream.update_into(_ZEROS[: part.nbytes], drawn.data)
            combine(part, mask, out=part)


def _stream(key: bytes, offset_bytes: int) -> Any:
    """The keystream from this byte on."""
    block, within = divmod(offset_bytes, _BLOCK_SIZE_BYTES)
    stream = Cipher(AES(key), CTR(block.to_bytes(_BLOCK_SIZE_BYTES, "big"))).encryptor()
    stream.update(bytes(within))
    return stream
