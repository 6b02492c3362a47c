"""One batch of extended transfers, bit by bit with Python's ints: IKNP 2003, checks of KOS 2015.

A column is a number whose bit j belongs to transfer j; a row or a χ is one whose bit i belongs to
column i. Letters are those of the papers: seeds k, columns t and u and q, choices r, secret s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tests.training.privacy.inference import plain_aes

COLUMNS = 128


def column(seed: bytes, size_bytes: int) -> int:
    """G(k): the first batch of a seed's stream."""
    return int.from_bytes(plain_aes.stream(seed, size_bytes), "little")


def row(columns: Sequence[int], j: int) -> int:
    """Bit j of each column."""
    return sum((bits >> j & 1) << i for i, bits in enumerate(columns))


def product(left: int, right: int) -> int:
    """Of polynomials over GF(2)."""
    total = 0
    while right:
        total ^= left if right & 1 else 0
        left, right = left << 1, right >> 1
    return total


def weights(session: bytes, sent: bytes) -> list[int]:
    """χ of each transfer, from a hash of all columns that were sent."""
    seed = hashlib.sha256(b"manyhands/transfer/check" + session + sent).digest()[:16]
    drawn, size_bytes = plain_aes.stream(seed, len(sent)), len(sent) // COLUMNS
    columns = [
        int.from_bytes(drawn[at : at + size_bytes], "little")
        for at in range(0, len(drawn), size_bytes)
    ]
    return [row(columns, j) for j in range(8 * size_bytes)]


def receiver(
    session: bytes, seeds: Sequence[tuple[bytes, bytes]], r: int, size_bytes: int
) -> tuple[bytes, list[int]]:
    """What the receiver sends, u and x and t, and its rows.

    Args:
        r: the choices, and above them random bits that fill up the columns.
    """
    t = [column(zero, size_bytes) for zero, _ in seeds]
    u = [one ^ column(k[1], size_bytes) ^ r for one, k in zip(t, seeds, strict=True)]
    sent = b"".join(one.to_bytes(size_bytes, "little") for one in u)
    rows = [row(t, j) for j in range(8 * size_bytes)]
    x_sum = t_sum = 0
    for j, chi in enumerate(weights(session, sent)):
        x_sum ^= chi if r >> j & 1 else 0
        t_sum ^= product(rows[j], chi)
    return sent + x_sum.to_bytes(16, "little") + t_sum.to_bytes(32, "little"), rows


def sender(seeds: Sequence[bytes], s: int, sent: bytes) -> list[int]:
    """The sender's rows: of the transfer j either q or q ⊕ s is the receiver's."""
    size_bytes = len(sent) // COLUMNS
    q = []
    for i, seed in enumerate(seeds):
        u = int.from_bytes(sent[size_bytes * i : size_bytes * (i + 1)], "little")
        q.append(column(seed, size_bytes) ^ (u if s >> i & 1 else 0))
    return [row(q, j) for j in range(8 * size_bytes)]
