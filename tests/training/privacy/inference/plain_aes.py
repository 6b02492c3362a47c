"""AES-128 as FIPS-197 writes it, byte by byte, and what is made of it here: slow, of no library."""

from __future__ import annotations

from functools import cache


def _times_two(value: int) -> int:
    return (value << 1) ^ (0x11B if value & 0x80 else 0)


def _product(left: int, right: int) -> int:
    total = 0
    while right:
        total ^= left if right & 1 else 0
        left, right = _times_two(left), right >> 1
    return total


def _substitute(value: int) -> int:
    inverse = next((other for other in range(256) if _product(value, other) == 1), 0)
    result = 0x63
    for turn in range(5):
        result ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
    return result


S_BOX = [_substitute(value) for value in range(256)]


DOUBLE, TRIPLE = ([_product(value, factor) for value in range(256)] for factor in (2, 3))


@cache
def round_keys(key: bytes) -> list[bytes]:
    """The eleven keys of the rounds (section 5.2)."""
    words = [key[at : at + 4] for at in range(0, 16, 4)]
    constant = 1
    for place in range(4, 44):
        word = words[-1]
        if place % 4 == 0:
            word = bytes(S_BOX[byte] for byte in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _times_two(constant)
        words.append(bytes(a ^ b for a, b in zip(word, words[-4], strict=True)))
    return [b"".join(words[at : at + 4]) for at in range(0, 44, 4)]


def encrypt(key: bytes, block: bytes) -> bytes:
    """One block (section 5.1); the state lies column by column."""
    first, *middle, last = round_keys(key)
    state = _xor(block, first)
    for round_key in middle:
        state = _xor(_mixed(_shifted(state)), round_key)
    return _xor(_shifted(state), last)


def stream(key: bytes, size_bytes: int) -> bytes:
    """Of counter mode, from zero on (NIST SP 800-38A, section 6.5)."""
    blocks = range(-(-size_bytes // 16))
    whole = b"".join(encrypt(key, number.to_bytes(16, "big")) for number in blocks)
    return whole[:size_bytes]


def tweaked(key: bytes, block: int, number: int, place: int) -> int:
    """TMMO, π(π(x) ⊕ i) ⊕ π(x), of Guo, Katz, Wang, Yu (2020); blocks are little-endian numbers."""

    def permuted(value: int) -> int:
        return int.from_bytes(encrypt(key, value.to_bytes(16, "little")), "little")

    inner = permuted(block)
    return permuted(inner ^ number ^ place << 64) ^ inner


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _shifted(state: bytes) -> bytes:
    return bytes(S_BOX[state[(place + 4 * (place % 4)) % 16]] for place in range(16))


def _mixed(state: bytes) -> bytes:
    mixed = []
    for at in range(0, 16, 4):
        column = state[at : at + 4]
        for row in range(4):
            a, b, c, d = (column[(row + turn) % 4] for turn in range(4))
            mixed.append(DOUBLE[a] ^ TRIPLE[b] ^ c ^ d)
    return bytes(mixed)
