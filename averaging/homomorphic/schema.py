"""The messages of homomorphic sums.

`/manyhands/homomorphic-key.<group hash>/1`, served by the first member
member      key(spec)               the secret key, for the group's members alone
aggregator  modulus(spec)           what must be known to add

`/manyhands/homomorphic-sum.<group hash>/1`, served by the aggregator
member      Contribution(spec, key, round, size), then Part + bytes
aggregator  Sum(included, size), then Part + bytes, when all are there or the time is over
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from averaging.homomorphic.scheme import KEY_ID_SIZE_BYTES
from averaging.homomorphic.spec import BYTES_MAX, MEMBERS_MAX
from p2p import Message, Method

KEY_SERVICE = "homomorphic-key"
SUM_SERVICE = "homomorphic-sum"
MAJOR = 1

SECRET_BYTES_MAX = 1 << 18
MODULUS_BYTES_MAX = 512
PART_SIZE_BYTES_MAX = 1 << 20

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
KeyId = Annotated[bytes, Meta(min_length=KEY_ID_SIZE_BYTES, max_length=KEY_ID_SIZE_BYTES)]
Size = Annotated[int, Meta(ge=1, le=BYTES_MAX)]


class KeyRequest(Message, frozen=True):
    """Asks for the key, or for its modulus; the digest is that of the spec."""

    spec: Digest


class KeyAnswer(Message, frozen=True):
    """The secret key: only ever sent to a member, over an encrypted connection."""

    secret: Annotated[bytes, Meta(min_length=1, max_length=SECRET_BYTES_MAX)]


class ModulusAnswer(Message, frozen=True):
    """What an adder needs of the key, and the key's name."""

    key_id: KeyId
    modulus: Annotated[bytes, Meta(max_length=MODULUS_BYTES_MAX)]


class Contribution(Message, frozen=True, tag="contribution"):
    """Announces a member's ciphertexts for one round."""

    spec: Digest
    key_id: KeyId
    round_number: Annotated[int, Meta(ge=0, lt=2**62)]
    size_bytes: Size


class Sum(Message, frozen=True, tag="sum"):
    """Announces the ciphertexts of a sum, and whose are in it, by their places in the group."""

    included: Annotated[
        tuple[Annotated[int, Meta(ge=0, lt=MEMBERS_MAX)], ...], Meta(max_length=MEMBERS_MAX)
    ]
    size_bytes: Size


class Part(Message, frozen=True, tag="part"):
    """Bytes follow."""


Contributed = Contribution | Part
Summed = Sum | Part

KEY = Method(
    "key",
    KeyRequest,
    KeyAnswer,
    request_bytes_max=64,
    response_bytes_max=SECRET_BYTES_MAX + 64,
)
MODULUS = Method(
    "modulus",
    KeyRequest,
    ModulusAnswer,
    request_bytes_max=64,
    response_bytes_max=MODULUS_BYTES_MAX + 64,
)
SUM: Method[Contributed, Summed] = Method(
    "sum",
    Contributed,  # type: ignore[arg-type]
    Summed,  # type: ignore[arg-type]
    request_bytes_max=256,
    response_bytes_max=4 * MEMBERS_MAX,
    payload_bytes_max=PART_SIZE_BYTES_MAX,
)
