"""Many oblivious transfers from 128 base ones, with symmetric cryptography only (IKNP).

The receiver of many transfers is the sender of the base ones. With seeds k⁰ᵢ, k¹ᵢ it makes columns
tᵢ = G(k⁰ᵢ) and sends uᵢ = tᵢ ⊕ G(k¹ᵢ) ⊕ r, where r are its choices. The sender, which knows the
seed of its secret bit sᵢ, gets qᵢ = tᵢ ⊕ sᵢ·r. Read by rows, qⱼ = tⱼ ⊕ rⱼ·s: of the pads H(qⱼ) and
H(qⱼ ⊕ s) the receiver knows H(tⱼ), which is the one it chose.

Secure against parties that follow the protocol. There is no check that a receiver used the same r
in all columns: one that does not can learn bits of s, and with them pads that it did not choose.

Source: Ishai, Kilian, Nissim, Petrank, Extending Oblivious Transfers Efficiently, 2003, figure 1;
with columns from seeds as in Asharov, Lindell, Schneider, Zohner 2013, protocol 4.

Shapes: M transfers, Q = M filled up to a multiple of 128.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from training.privacy.inference.base_transfer import receive_transfers, send_transfers
from training.privacy.inference.block_hash import BLOCK_SIZE_BYTES, WORD, BlockHash, Words
from training.privacy.inference.exchange import Exchange, RandomBytes, receive, send

COLUMNS = 128  # κ, the security parameter
Bits = NDArray[np.uint8]
"""Zeros and ones, one in each byte."""
Bytes = NDArray[np.uint8]


class TransferSender:
    """Holds the sender's secret bits and seeds over one session."""

    def __init__(self, hash_: BlockHash, secret: Bits, seeds: list[bytes]) -> None:
        self._hash = hash_
        self._secret = secret
        self._secret_block = np.packbits(secret, bitorder="little").view(WORD)
        self._streams = [_stream(seed) for seed in seeds]

    def receive_choices(self, count: int) -> Exchange[SentPads]:
        """Take what the receiver sends for so many transfers; gives the pads of both choices."""
        size_bytes = _column_size_bytes(count)
        data = yield from receive(choices_size_bytes(count))
        columns = np.frombuffer(data, dtype=np.uint8).reshape(COLUMNS, size_bytes)
        columns = _columns(self._streams, size_bytes) ^ columns * self._secret[:, None]
        rows_M = _rows(columns)[:count]
        return SentPads(self._hash, rows_M, self._secret_block)


class TransferReceiver:
    """Holds the receiver's pairs of seeds over one session."""

    def __init__(self, hash_: BlockHash, seeds: list[tuple[bytes, bytes]]) -> None:
        self._hash = hash_
        self._streams = tuple([_stream(pair[which]) for pair in seeds] for which in (0, 1))

    def send_choices(self, choices_M: Bits) -> Exchange[ReceivedPads]:
        """Send what hides so many choices; gives the pads of the chosen ones."""
        size_bytes = _column_size_bytes(len(choices_M))
        packed = np.zeros(size_bytes, dtype=np.uint8)
        filled = np.packbits(choices_M, bitorder="little")
        packed[: len(filled)] = filled
        zero, one = (_columns(streams, size_bytes) for streams in self._streams)
        yield from send((zero ^ one ^ packed).tobytes())
        return ReceivedPads(self._hash, _rows(zero)[: len(choices_M)])


class SentPads:
    """The pads of both choices, of one batch of transfers, hashed once."""

    def __init__(self, hash_: BlockHash, rows_M: Words, secret_block: Words) -> None:
        self._hash = hash_
        self._rows_M = rows_M
        self._secret_block = secret_block

    def pads(self, blocks: int) -> tuple[Words, Words]:
        """For choice 0 and for choice 1, so many blocks each: shape (M, blocks, 2)."""
        numbers = self._hash.take(len(self._rows_M))
        zero = _hashed(self._hash, self._rows_M, numbers, blocks)
        one = _hashed(self._hash, self._rows_M ^ self._secret_block, numbers, blocks)
        return zero, one


class ReceivedPads:
    """The pads of what was chosen, of one batch of transfers, hashed once."""

    def __init__(self, hash_: BlockHash, rows_M: Words) -> None:
        self._hash = hash_
        self._rows_M = rows_M

    def pads(self, blocks: int) -> Words:
        """So many blocks for each transfer: shape (M, blocks, 2)."""
        numbers = self._hash.take(len(self._rows_M))
        return _hashed(self._hash, self._rows_M, numbers, blocks)


def open_sender(
    hash_: BlockHash, session: bytes, random_bytes: RandomBytes
) -> Exchange[TransferSender]:
    """Begin as the sender of many, which receives the base transfers."""
    secret = np.unpackbits(np.frombuffer(random_bytes(COLUMNS // 8), np.uint8), bitorder="little")
    seeds = yield from receive_transfers([bool(bit) for bit in secret], session, random_bytes)
    return TransferSender(hash_, secret, seeds)


def open_receiver(
    hash_: BlockHash, session: bytes, random_bytes: RandomBytes
) -> Exchange[TransferReceiver]:
    """Begin as the receiver of many, which sends the base transfers."""
    seeds = yield from send_transfers(COLUMNS, session, random_bytes)
    return TransferReceiver(hash_, seeds)


def choices_size_bytes(count: int) -> int:
    """How much a receiver sends for so many transfers."""
    return COLUMNS * _column_size_bytes(count)


def _column_size_bytes(count: int) -> int:
    """Filled up, so that each batch begins at a block of every column's stream."""
    return -(-count // (8 * BLOCK_SIZE_BYTES)) * BLOCK_SIZE_BYTES


def _stream(seed: bytes) -> CipherContext:
    """G: AES in counter mode, which goes on from batch to batch."""
    return Cipher(algorithms.AES(seed), modes.CTR(bytes(BLOCK_SIZE_BYTES))).encryptor()


def _columns(streams: list[CipherContext], size_bytes: int) -> Bytes:
    zeros = bytes(size_bytes)
    data = b"".join(stream.update(zeros) for stream in streams)
    return np.frombuffer(data, dtype=np.uint8).reshape(COLUMNS, size_bytes)


def _rows(columns: Bytes) -> Words:
    """The transpose of a matrix of bits, each row as one block: shape (Q, 2)."""
    bits = np.unpackbits(columns, axis=1, bitorder="little")
    rows = np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little")
    return rows.view(WORD)


def _hashed(hash_: BlockHash, rows_M: Words, numbers: Words, blocks: int) -> Words:
    wide = np.broadcast_to(rows_M[:, None, :], (len(rows_M), blocks, 2))
    return hash_(wide, numbers[:, None], np.arange(blocks, dtype=WORD))
