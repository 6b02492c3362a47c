"""Many oblivious transfers from 128 base ones, with symmetric cryptography only.

The receiver of many transfers is the sender of the base ones. With seeds k⁰ᵢ, k¹ᵢ it makes columns
tᵢ = G(k⁰ᵢ) and sends uᵢ = tᵢ ⊕ G(k¹ᵢ) ⊕ r, where r are its choices. The sender, which knows the
seed of its secret bit sᵢ, gets qᵢ = tᵢ ⊕ sᵢ·r. Read by rows, qⱼ = tⱼ ⊕ rⱼ·s: of the pads H(qⱼ) and
H(qⱼ ⊕ s) the receiver knows H(tⱼ), which is the one it chose.

A receiver that uses another r in some column could find bits of s, and with them pads that it did
not choose. So it also sends x = Σ rⱼ·χⱼ and t = Σ tⱼ·χⱼ, where each χⱼ is a polynomial over GF(2)
of degree 127 that follows from all that was sent, and the sender checks that Σ qⱼ·χⱼ = t + x·s.
Some more transfers with random choices are made to hide r and t in these sums. Who cheats in c
columns passes with probability 2⁻ᶜ; the first failure ends the session, and s with it.

Sources: Ishai, Kilian, Nissim, Petrank, Extending Oblivious Transfers Efficiently, 2003, figure 1;
Keller, Orsini, Scholl, Actively Secure OT Extension with Optimal Overhead, 2015 (the check; here
with χ from a hash of what was sent, and products that are not reduced).

Shapes: M transfers, Q = M and those that hide, filled up to a multiple of 128.
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from p2p import MessageInvalid
from training.privacy.inference.base_transfer import receive_transfers, send_transfers
from training.privacy.inference.block_hash import BLOCK_SIZE_BYTES, WORD, BlockHash, Words
from training.privacy.inference.exchange import Exchange, RandomBytes, receive, send

COLUMNS = 128  # κ, the security parameter
_HIDING = COLUMNS + 40
"""More transfers, which hide what the check tells but for a chance of 2⁻⁴⁰."""
_CHECK_SIZE_BYTES = 16 + 32
"""x, and the product t, which has up to 255 bits."""
Bits = NDArray[np.uint8]
"""Zeros and ones, one in each byte."""
Bytes = NDArray[np.uint8]


class TransferSender:
    """Holds the sender's secret bits and seeds over one session."""

    def __init__(self, hash_: BlockHash, session: bytes, secret: Bits, seeds: list[bytes]) -> None:
        self._hash = hash_
        self._session = session
        self._secret = secret
        self._secret_block = np.packbits(secret, bitorder="little").view(WORD)
        self._streams = [_stream(seed) for seed in seeds]

    def receive_choices(self, count: int) -> Exchange[SentPads]:
        """Take what the receiver sends for so many transfers; gives the pads of both choices.

        Raises:
            MessageInvalid: the receiver cheats.
        """
        size_bytes = _column_size_bytes(count)
        data = yield from receive(choices_size_bytes(count))
        sent, check = data[:-_CHECK_SIZE_BYTES], data[-_CHECK_SIZE_BYTES:]
        columns = np.frombuffer(sent, dtype=np.uint8).reshape(COLUMNS, size_bytes)
        columns = _columns(self._streams, size_bytes) ^ columns * self._secret[:, None]
        secret = int.from_bytes(self._secret_block.tobytes(), "little")
        check_untrusted(check, _weights(self._session, sent), columns, secret)
        rows_M = _rows(columns)[:count]
        return SentPads(self._hash, rows_M, self._secret_block)


class TransferReceiver:
    """Holds the receiver's pairs of seeds over one session."""

    def __init__(
        self,
        hash_: BlockHash,
        session: bytes,
        seeds: list[tuple[bytes, bytes]],
        random_bytes: RandomBytes,
    ) -> None:
        self._hash = hash_
        self._session = session
        self._random_bytes = random_bytes
        self._streams = tuple([_stream(pair[which]) for pair in seeds] for which in (0, 1))

    def send_choices(self, choices_M: Bits) -> Exchange[ReceivedPads]:
        """Send what hides so many choices; gives the pads of the chosen ones."""
        size_bytes = _column_size_bytes(len(choices_M))
        drawn = np.frombuffer(self._random_bytes(size_bytes), dtype=np.uint8)
        bits = np.unpackbits(drawn, bitorder="little")
        bits[: len(choices_M)] = choices_M
        packed = np.packbits(bits, bitorder="little")
        zero, one = (_columns(streams, size_bytes) for streams in self._streams)
        sent = (zero ^ one ^ packed).tobytes()
        weights = _weights(self._session, sent)
        (chosen,) = _sums(packed[None], weights)
        yield from send(
            sent + chosen.to_bytes(16, "little") + _product(zero, weights).to_bytes(32, "little")
        )
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
    return TransferSender(hash_, session, secret, seeds)


def open_receiver(
    hash_: BlockHash, session: bytes, random_bytes: RandomBytes
) -> Exchange[TransferReceiver]:
    """Begin as the receiver of many, which sends the base transfers."""
    seeds = yield from send_transfers(COLUMNS, session, random_bytes)
    return TransferReceiver(hash_, session, seeds, random_bytes)


def choices_size_bytes(count: int) -> int:
    """How much a receiver sends for so many transfers."""
    return COLUMNS * _column_size_bytes(count) + _CHECK_SIZE_BYTES


def check_untrusted(check: bytes, weights: Bytes, columns: Bytes, secret: int) -> None:
    """Whether a receiver made the same choices in all columns.

    Args:
        check: x and t, as it sent them.
        weights: the bits of all χ, packed by columns.
        columns: q, packed by columns.
        secret: s.

    Raises:
        MessageInvalid: it did not.
    """
    chosen, product = (int.from_bytes(part, "little") for part in (check[:16], check[16:]))
    for place in range(COLUMNS):
        if secret >> place & 1:
            product ^= chosen << place
    if product != _product(columns, weights):
        raise MessageInvalid("the choices of the transfers are not consistent")


def _column_size_bytes(count: int) -> int:
    """Filled up, so that each batch begins at a block of every column's stream."""
    return -(-(count + _HIDING) // (8 * BLOCK_SIZE_BYTES)) * BLOCK_SIZE_BYTES


def _stream(seed: bytes) -> CipherContext:
    """G: AES in counter mode, which goes on from batch to batch."""
    return Cipher(algorithms.AES(seed), modes.CTR(bytes(BLOCK_SIZE_BYTES))).encryptor()


def _columns(streams: list[CipherContext], size_bytes: int) -> Bytes:
    zeros = bytes(size_bytes)
    data = b"".join(stream.update(zeros) for stream in streams)
    return np.frombuffer(data, dtype=np.uint8).reshape(COLUMNS, size_bytes)


def _weights(session: bytes, sent: bytes) -> Bytes:
    """The bits of all χ, packed by columns, of what follows from all that was sent."""
    seed = hashlib.sha256(b"manyhands/transfer/check" + session + sent).digest()[:16]
    weights = _stream(seed).update(bytes(len(sent)))
    return np.frombuffer(weights, dtype=np.uint8).reshape(COLUMNS, -1)


def _sums(columns: Bytes, weights: Bytes) -> list[int]:
    """For each column of bits, the sum of those χ where it has a one."""
    weights_64 = np.ascontiguousarray(weights).view(WORD)
    sums = []
    for column in np.ascontiguousarray(columns).view(WORD):
        words = np.bitwise_xor.reduce(column & weights_64, axis=1)
        parities = np.bitwise_count(words) & 1
        sums.append(int.from_bytes(np.packbits(parities, bitorder="little").tobytes(), "little"))
    return sums


def _product(columns: Bytes, weights: Bytes) -> int:
    """The sum of the products of each row of the columns and its χ, as polynomials over GF(2)."""
    product = 0
    for place, total in enumerate(_sums(columns, weights)):
        product ^= total << place
    return product


def _rows(columns: Bytes) -> Words:
    """The transpose of a matrix of bits, each row as one block: shape (Q, 2)."""
    bits = np.unpackbits(columns, axis=1, bitorder="little")
    rows = np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little")
    return rows.view(WORD)


def _hashed(hash_: BlockHash, rows_M: Words, numbers: Words, blocks: int) -> Words:
    wide = np.broadcast_to(rows_M[:, None, :], (len(rows_M), blocks, 2))
    return hash_(wide, numbers[:, None], np.arange(blocks, dtype=WORD))
