"""Sums under CKKS, by TenSEAL: many numbers in one ciphertext, with a little noise in each.

Only additions are made, so the smallest ring that SEAL holds for 128 bits secure is enough, with
one prime of 55 bits for the numbers. Members encrypt with the secret key itself, which adds
less noise than a public one.

What is decrypted still bears noise of the encryption: whoever gets many decrypted sums together
with their ciphertexts, such as an aggregator that is told results, can find the key (Li,
Micciancio, On the Security of Homomorphic Encryption on Approximate Numbers, 2021).

Source: Cheon, Kim, Kim, Song, Homomorphic Encryption for Arithmetic of Approximate Numbers, 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from averaging.homomorphic.extra import load_extra
from averaging.homomorphic.scheme import Ciphertexts, Vector
from averaging.homomorphic.spec import (
    CKKS_DEGREE,
    CKKS_PRIME_BITS,
    CKKS_SCALE_BITS,
    CKKS_SLOTS,
    HomomorphicSpec,
)
from p2p import MessageInvalid

_LENGTH_SIZE_BYTES = 4
_NATIVE_ERRORS = (ValueError, RuntimeError, IndexError, TypeError)
"""What TenSEAL and SEAL raise on bytes that they do not like."""


class CkksKey:
    """A secret key, with the context that TenSEAL needs to use it."""

    modulus = b""

    def __init__(self, spec: HomomorphicSpec, context: Any) -> None:
        self._spec = spec
        self._context = context
        self._tenseal = load_extra("tenseal")

    @classmethod
    def draw(cls, spec: HomomorphicSpec) -> CkksKey:
        """A new key."""
        return cls(spec, _new_context())

    @property
    def secret(self) -> bytes:
        """The context with the secret key and without those that sums do not need."""
        data: bytes = self._context.serialize(
            save_public_key=False,
            save_secret_key=True,
            save_galois_keys=False,
            save_relin_keys=False,
        )
        return data

    def encrypt(self, numbers: Vector) -> bytes:
        """Blocks of 2048 numbers; the last is filled with zeros, so that sizes tell nothing."""
        padded = np.zeros(self._spec.ciphertexts * CKKS_SLOTS)
        padded[: len(numbers)] = numbers
        blocks = padded.reshape(-1, CKKS_SLOTS)
        return _dumped(
            [self._tenseal.ckks_vector(self._context, block.tolist()) for block in blocks]
        )

    def decrypt_untrusted(self, data: bytes, members: int) -> Vector:
        """See SecretKey."""
        vectors = _vectors_untrusted(self._context, self._spec, data)
        blocks = [np.array(vector.decrypt()) for vector in vectors]
        return np.concatenate(blocks)[: self._spec.numbers]


class CkksAdder:
    """Adds under the same parameters, with a throw-away key that decrypts nothing."""

    def __init__(self, spec: HomomorphicSpec) -> None:
        self._spec = spec
        self._context = _new_context()

    def load_untrusted(self, data: bytes) -> Ciphertexts:
        """See Adder."""
        return _vectors_untrusted(self._context, self._spec, data)

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """See Adder."""
        return [one + other for one, other in zip(left, right, strict=True)]

    def dump(self, ciphertexts: Ciphertexts) -> bytes:
        """See Adder."""
        return _dumped(ciphertexts)


def key_untrusted(spec: HomomorphicSpec, secret: bytes) -> CkksKey:
    """The key that another member sent.

    Raises:
        MessageInvalid: it is no secret key, or of other parameters.
    """
    try:
        context = load_extra("tenseal").context_from(secret)
        usable = (
            context.is_private()
            and _parameters(context) == _parameters(_new_context())
            and context.global_scale == 2.0**CKKS_SCALE_BITS
            and _opens_what_it_closes(context)
        )
    except _NATIVE_ERRORS as exc:
        raise MessageInvalid(f"not a key of CKKS: {exc}") from exc
    if not usable:
        raise MessageInvalid("a key of CKKS with other parameters, or one that does not decrypt")
    return CkksKey(spec, context)


def adder_untrusted(spec: HomomorphicSpec, modulus: bytes) -> CkksAdder:
    """An adder; nothing of the key is needed.

    Raises:
        MessageInvalid: something was told.
    """
    if modulus:
        raise MessageInvalid("a key of CKKS has no modulus to tell")
    return CkksAdder(spec)


def _new_context() -> Any:
    tenseal = load_extra("tenseal")
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        CKKS_DEGREE,
        coeff_mod_bit_sizes=list(CKKS_PRIME_BITS),
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**CKKS_SCALE_BITS
    return context


def _opens_what_it_closes(context: Any) -> bool:
    vector = load_extra("tenseal").ckks_vector(context, [1.0, -2.0])
    return bool(np.allclose(vector.decrypt(), [1.0, -2.0], atol=0.01))


def _parameters(context: Any) -> list[int]:
    """A hash of all parameters, by SEAL."""
    return list(context.seal_context().data.key_parms_id())


def _dumped(vectors: Ciphertexts) -> bytes:
    parts = [vector.serialize() for vector in vectors]
    return b"".join(len(part).to_bytes(_LENGTH_SIZE_BYTES, "big") + part for part in parts)


def _vectors_untrusted(context: Any, spec: HomomorphicSpec, data: bytes) -> Ciphertexts:
    if len(data) > spec.bytes_max:
        raise MessageInvalid(f"{len(data)} bytes are more than {spec.elements} elements take")
    vectors = []
    at = 0
    for _ in range(spec.ciphertexts):
        start = at + _LENGTH_SIZE_BYTES
        at = start + int.from_bytes(data[at:start], "big")
        if not start < at <= len(data):
            raise MessageInvalid("ciphertexts are cut off, or fewer than expected")
        vectors.append(_vector_untrusted(context, data[start:at]))
    if at != len(data):
        raise MessageInvalid("more ciphertexts than expected")
    return vectors


def _vector_untrusted(context: Any, data: bytes) -> Any:
    try:
        # SEAL itself checks that ring, primes and coefficients are those of the context.
        vector = load_extra("tenseal").ckks_vector_from(context, data)
        size, parts = vector.size(), vector.ciphertext()
        fits = (
            size == CKKS_SLOTS
            and len(parts) == 1
            and parts[0].size() == 2
            and parts[0].scale == 2.0**CKKS_SCALE_BITS
            and list(parts[0].parms_id()) == list(context.seal_context().data.first_parms_id())
        )
    except _NATIVE_ERRORS as exc:
        raise MessageInvalid(f"not a ciphertext of these parameters: {exc}") from exc
    if not fits:
        raise MessageInvalid("a ciphertext of another size, scale or parameters")
    return vector
