"""What a scheme of encryption gives: a key for members, and an adder without it."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from averaging.homomorphic.extra import load_extra
from averaging.homomorphic.spec import HomomorphicSpec

Vector = NDArray[np.float64]
Ciphertexts = list[Any]
"""Those of one vector, in whatever form the scheme computes with."""
KEY_ID_SIZE_BYTES = 16


class SecretKey(Protocol):
    """What members hold; whoever holds it can read each member's vector."""

    @property
    def modulus(self) -> bytes:
        """What an adder must know of the key; empty where it needs nothing."""

    @property
    def secret(self) -> bytes:
        """The key itself, for another member."""

    def encrypt(self, numbers: Vector) -> bytes:
        """Numbers within the spec's magnitude, encrypted with fresh randomness."""

    def decrypt_untrusted(self, data: bytes, members: int) -> Vector:
        """The numbers in a sum of so many members' ciphertexts.

        Raises:
            MessageInvalid: these are not ciphertexts of this spec.
        """


class Adder(Protocol):
    """What the aggregator holds; it can add and do nothing else."""

    def load_untrusted(self, data: bytes) -> Ciphertexts:
        """A member's ciphertexts, checked.

        Raises:
            MessageInvalid: another number of them, or of other parameters.
        """

    def add(self, left: Ciphertexts, right: Ciphertexts) -> Ciphertexts:
        """The ciphertexts of the sum."""

    def dump(self, ciphertexts: Ciphertexts) -> bytes:
        """As they travel."""


def load_scheme(spec: HomomorphicSpec) -> None:
    """Make sure that the scheme's package is there.

    Raises:
        ExtraMissing: it is not.
    """
    load_extra("tenseal" if spec.scheme == "ckks" else "phe")


def draw_key(spec: HomomorphicSpec) -> SecretKey:
    """A new key; takes up to a second with Paillier.

    Raises:
        ExtraMissing: the scheme's package is not installed.
    """
    if spec.scheme == "ckks":
        from averaging.homomorphic.ckks import CkksKey

        return CkksKey.draw(spec)
    from averaging.homomorphic.paillier import PaillierKey

    return PaillierKey.draw(spec)


def key_untrusted(spec: HomomorphicSpec, secret: bytes) -> SecretKey:
    """The key that another member sent.

    Raises:
        MessageInvalid: it is no key of this spec.
        ExtraMissing: the scheme's package is not installed.
    """
    if spec.scheme == "ckks":
        from averaging.homomorphic.ckks import key_untrusted as ckks_key_untrusted

        return ckks_key_untrusted(spec, secret)
    from averaging.homomorphic.paillier import key_untrusted as paillier_key_untrusted

    return paillier_key_untrusted(spec, secret)


def adder_untrusted(spec: HomomorphicSpec, modulus: bytes) -> Adder:
    """What adds ciphertexts of a key of which a member told this.

    Raises:
        MessageInvalid: that fits no key of this spec.
        ExtraMissing: the scheme's package is not installed.
    """
    if spec.scheme == "ckks":
        from averaging.homomorphic.ckks import adder_untrusted as ckks_adder_untrusted

        return ckks_adder_untrusted(spec, modulus)
    from averaging.homomorphic.paillier import adder_untrusted as paillier_adder_untrusted

    return paillier_adder_untrusted(spec, modulus)


def key_id(key: SecretKey) -> bytes:
    """Names a key without telling it."""
    return hashlib.sha256(b"manyhands/homomorphic/key" + key.secret).digest()[:KEY_ID_SIZE_BYTES]
