"""What the members and the aggregator of a homomorphic sum have in common, and what follows."""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple, dataclass
from typing import Literal

SchemeName = Literal["ckks", "paillier"]

# SEAL's bound on log q for a ring of 4096 at 128 bits of security is 109, from the tables of the
# Homomorphic Encryption Standard (2018); the second prime is for key switching, which sums need
# not, and travels in no ciphertext.
CKKS_DEGREE = 4096
CKKS_PRIME_BITS = (55, 54)
CKKS_SCALE_BITS = 32
CKKS_SLOTS = CKKS_DEGREE // 2
BYTES_MAX = 1 << 30
"""Of one encrypted vector; 33 million elements with CKKS."""
MEMBERS_MAX = 4096
_CKKS_SUM_MAX = 2.0**21
"""Times the scale, this must stay well under half of the first prime."""
_CKKS_CIPHERTEXT_BYTES_MAX = 2 * CKKS_DEGREE * 8 + 512
"""Two polynomials of 64-bit words, and headers; what is sent is compressed to 55 bits of each."""
_CKKS_NOISE = 3.2
"""Standard deviation of each coefficient's noise, of the same standard."""
_DEVIATIONS = 8.0
"""Further off than this a normal value is once in 10¹⁵."""


@dataclass(frozen=True, kw_only=True)
class HomomorphicSpec:
    """What is summed, and how it is encrypted; all must be opened with the same."""

    elements: int
    """Of each member's vector."""
    scheme: SchemeName = "ckks"
    """CKKS packs 2048 numbers in 62 kB and is fast; Paillier is exact, and slow beyond some 100."""
    magnitude_max: float = 1024.0
    """No element's absolute value is larger; a member whose is gets an error."""
    members_max: int = 64
    """Sums of so many members cannot run over."""
    fraction_bits: int = 24
    """Of Paillier's fixed-point numbers."""
    key_bits: int = 2048
    """Of Paillier's modulus: 2048 bits are worth 112 bits of security, 3072 are worth 128."""

    def __post_init__(self) -> None:
        if self.elements < 1 or not 2 <= self.members_max <= MEMBERS_MAX:
            raise ValueError(f"there must be an element, and room for 2 to {MEMBERS_MAX} members")
        if not 1.0 <= self.magnitude_max <= 2.0**40:
            raise ValueError("magnitude_max must be from 1 to 2⁴⁰")
        if self.scheme == "ckks":
            if self.magnitude_max * self.members_max > _CKKS_SUM_MAX:
                raise ValueError(
                    f"with CKKS, magnitude_max × members_max must be at most {_CKKS_SUM_MAX:g}"
                )
        elif self.scheme == "paillier":
            if not 0 <= self.fraction_bits <= 64 or self.key_bits not in (2048, 3072, 4096):
                raise ValueError("fraction_bits must be 0 to 64; key_bits 2048, 3072 or 4096")
        else:
            raise ValueError(f"scheme must be ckks or paillier, not {self.scheme!r}")
        if self.bytes_max > BYTES_MAX:
            raise ValueError(f"an encrypted vector must take at most {BYTES_MAX} bytes")

    @property
    def numbers(self) -> int:
        """What is encrypted: a one, whose sum counts the members, then the elements."""
        return self.elements + 1

    @property
    def ciphertexts(self) -> int:
        """How many hold one vector."""
        return -(-self.numbers // (CKKS_SLOTS if self.scheme == "ckks" else self.packed))

    @property
    def slot_bits(self) -> int:
        """Of one number in a Paillier plaintext, with room for the sum of all members."""
        largest = 2 * math.ceil(self.magnitude_max * 2.0**self.fraction_bits)
        return (largest * self.members_max).bit_length()

    @property
    def packed(self) -> int:
        """How many numbers one Paillier plaintext holds; it must stay under the modulus."""
        return (self.key_bits - 1) // self.slot_bits

    @property
    def bytes_max(self) -> int:
        """The most that one encrypted vector takes."""
        if self.scheme == "ckks":
            return self.ciphertexts * (4 + _CKKS_CIPHERTEXT_BYTES_MAX)
        return self.ciphertexts * self.key_bits // 4

    @property
    def digest(self) -> bytes:
        """Equal for equal specs."""
        return hashlib.sha256(repr(astuple(self)).encode()).digest()

    def tolerance(self, members: int) -> float:
        """How far an element of so many members' sum may be from the true one.

        With CKKS it is the noise that hides the numbers, beyond 8 standard deviations of it; with
        Paillier half of the last fraction bit of each member.
        """
        if self.scheme == "ckks":
            deviation = math.sqrt(members * CKKS_DEGREE * (_CKKS_NOISE**2 + 1 / 12))
            return _DEVIATIONS * deviation / 2.0**CKKS_SCALE_BITS
        return members * 2.0 ** -(self.fraction_bits + 1)
