"""Sums under Paillier: exact, for small vectors, some dozens of numbers in each ciphertext.

    n = p·q        public; the adder needs nothing else
    Enc(m)         (1 + n)ᵐ · rⁿ mod n², r random
    Enc(a)·Enc(b)  = Enc(a + b)

A number x becomes round(x·2ᶠ) + offset, so that it is not negative, and several lie side by side
in one plaintext, each with room for the sum of all members.

Source: Paillier, Public-Key Cryptosystems Based on Composite Degree Residuosity Classes, 1999,
scheme 1; phe computes it. Packing as in Ge, Zdonik, Answering Aggregation Queries in a Secure
System Model, 2007.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from averaging.homomorphic.extra import load_extra
from averaging.homomorphic.scheme import Ciphertexts, Vector
from averaging.homomorphic.spec import HomomorphicSpec
from p2p import MessageInvalid


class PaillierKey:
    """The two primes."""

    def __init__(self, spec: HomomorphicSpec, private: Any) -> None:
        self._spec = spec
        self._private = private

    @classmethod
    def draw(cls, spec: HomomorphicSpec) -> PaillierKey:
        """A new key; takes about a second."""
        _, private = load_extra("phe").generate_paillier_keypair(n_length=spec.key_bits)
        return cls(spec, private)

    @property
    def modulus(self) -> bytes:
        """n."""
        return int(self._private.public_key.n).to_bytes(self._spec.key_bits // 8, "big")

    @property
    def secret(self) -> bytes:
        """p and q, the smaller first."""
        size_bytes = self._spec.key_bits // 16
        primes = sorted((int(self._private.p), int(self._private.q)))
        return b"".join(prime.to_bytes(size_bytes, "big") for prime in primes)

    def encrypt(self, numbers: Vector) -> bytes:
        """One ciphertext for each run of packed numbers."""
        return _dumped(
            self._spec,
            [int(self._private.public_key.raw_encrypt(m)) for m in _packed(self._spec, numbers)],
        )

    def decrypt_untrusted(self, data: bytes, members: int) -> Vector:
        """See SecretKey."""
        ciphertexts = _ciphertexts_untrusted(self._spec, int(self._private.public_key.n), data)
        plain = [int(self._private.raw_decrypt(one)) for one in ciphertexts]
        return _unpacked(self._spec, plain, members)


class PaillierAdder:
    """Multiplies ciphertexts, which adds what they hide."""

    def __init__(self, spec: HomomorphicSpec, modulus: int) -> None:
        self._spec = spec
        self._modulus = modulus
        self._square = modulus**2

    def load_untrusted(self, data: bytes) -> Ciphertexts:
        """See Adder."""
        return list(_ciphertexts_untrusted(self._spec, self._modulus, data))

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """See Adder."""
        return [one * other % self._square for one, other in zip(left, right, strict=True)]

    def dump(self, ciphertexts: Ciphertexts) -> bytes:
        """See Adder."""
        return _dumped(self._spec, ciphertexts)


def key_untrusted(spec: HomomorphicSpec, secret: bytes) -> PaillierKey:
    """The key that another member sent.

    Raises:
        MessageInvalid: its primes are of another size, or the same.
    """
    size_bytes = spec.key_bits // 16
    primes = [int.from_bytes(part, "big") for part in (secret[:size_bytes], secret[size_bytes:])]
    if len(secret) != 2 * size_bytes or not _fits(spec, primes[0] * primes[1]):
        raise MessageInvalid("a Paillier key of another size")
    if primes[0] == primes[1] or not all(pow(2, prime - 1, prime) == 1 for prime in primes):
        raise MessageInvalid("a Paillier key that is not made of two primes")
    phe = load_extra("phe")
    public = phe.PaillierPublicKey(n=primes[0] * primes[1])
    return PaillierKey(spec, phe.PaillierPrivateKey(public, *primes))


def adder_untrusted(spec: HomomorphicSpec, modulus: bytes) -> PaillierAdder:
    """An adder for the modulus that a member told.

    Raises:
        MessageInvalid: the modulus is of another size, or even.
    """
    number = int.from_bytes(modulus, "big")
    if len(modulus) != spec.key_bits // 8 or not _fits(spec, number):
        raise MessageInvalid(f"not a modulus of {spec.key_bits} bits")
    return PaillierAdder(spec, number)


def _fits(spec: HomomorphicSpec, modulus: int) -> bool:
    return modulus.bit_length() == spec.key_bits and modulus % 2 == 1


def _offset(spec: HomomorphicSpec) -> int:
    return math.ceil(spec.magnitude_max * 2.0**spec.fraction_bits)


def _packed(spec: HomomorphicSpec, numbers: Vector) -> list[int]:
    """The plaintexts, each with the first number in its lowest bits."""
    offset, scale = _offset(spec), 2.0**spec.fraction_bits
    slots = [round(float(number) * scale) + offset for number in numbers]
    runs = [slots[at : at + spec.packed] for at in range(0, len(slots), spec.packed)]
    return [sum(slot << place * spec.slot_bits for place, slot in enumerate(run)) for run in runs]


def _unpacked(spec: HomomorphicSpec, plain: list[int], members: int) -> Vector:
    mask = (1 << spec.slot_bits) - 1
    slots = [
        text >> place * spec.slot_bits & mask for text in plain for place in range(spec.packed)
    ]
    sums = [slot - members * _offset(spec) for slot in slots[: spec.numbers]]
    return np.array([value / 2.0**spec.fraction_bits for value in sums])


def _dumped(spec: HomomorphicSpec, ciphertexts: Ciphertexts) -> bytes:
    return b"".join(one.to_bytes(spec.key_bits // 4, "big") for one in ciphertexts)


def _ciphertexts_untrusted(spec: HomomorphicSpec, modulus: int, data: bytes) -> list[int]:
    size_bytes = spec.key_bits // 4
    if len(data) != spec.ciphertexts * size_bytes:
        raise MessageInvalid(
            f"{len(data)} bytes are not {spec.ciphertexts} ciphertexts of {size_bytes}"
        )
    numbers = [
        int.from_bytes(data[at : at + size_bytes], "big") for at in range(0, len(data), size_bytes)
    ]
    if not all(0 < one < modulus**2 and math.gcd(one, modulus) == 1 for one in numbers):
        raise MessageInvalid("a ciphertext of another modulus")
    return numbers
