"""The messages of private sessions: `private-inference/1` and `private-comparison/1`.

    client -> server   Ask(nonce, samples)      the server refuses what is over its limits
    server -> client   Offer(nonce, shape)      for a comparison the shape is empty
    then by turns      Part(number) + bytes     what the protocol says, cut in pieces; each side
                                                knows beforehand how many bytes come
    server             ends the stream after its last part

The session, which keys all hashes, is the SHA-256 of both messages and both peer ids: what was
recorded in one session is noise in any other.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta

from p2p import Message, MessageInvalid, Method, PeerId, encode
from training.privacy.inference.extension import COLUMNS
from training.privacy.inference.network import RING_BITS, Shape
from training.privacy.inference.protocol import traffic_bytes

INFERENCE_SERVICE = "private-inference"
COMPARISON_SERVICE = "private-comparison"
MAJOR = 1

NONCE_SIZE_BYTES = 32
SAMPLES_MAX = 4096
LAYERS_MAX = 8
SIZE_MAX = 8192
CLASSES_MAX = 1024
FEATURE_BITS_MAX = 24
PART_SIZE_BYTES_MAX = 1 << 20
_PARTS_MAX = 1 << 20

Nonce = Annotated[bytes, Meta(min_length=NONCE_SIZE_BYTES, max_length=NONCE_SIZE_BYTES)]
Size = Annotated[int, Meta(ge=1, le=SIZE_MAX)]
Shift = Annotated[int, Meta(ge=0, lt=RING_BITS - 1)]


class Ask(Message, frozen=True, tag="ask"):
    """Opens a session."""

    nonce: Nonce
    samples: Annotated[int, Meta(ge=1, le=SAMPLES_MAX)]


class Offer(Message, frozen=True, tag="offer"):
    """What the server will compute: all that the client learns of the network but the classes."""

    nonce: Nonce
    sizes: Annotated[tuple[Size, ...], Meta(max_length=LAYERS_MAX + 1)] = ()
    shifts: Annotated[tuple[Shift, ...], Meta(max_length=LAYERS_MAX - 1)] = ()
    feature_bits: Annotated[int, Meta(ge=0, le=FEATURE_BITS_MAX)] = 0
    feature_fraction_bits: Annotated[int, Meta(ge=0, le=FEATURE_BITS_MAX)] = 0


class Part(Message, frozen=True, tag="part"):
    """Announces the bytes behind it; parts are numbered from 0 on in each direction."""

    number: Annotated[int, Meta(ge=0, lt=_PARTS_MAX)]


Asked = Ask | Part
Offered = Offer | Part

CLASSIFY: Method[Asked, Offered] = Method(
    "classify",
    Asked,  # type: ignore[arg-type]
    Offered,  # type: ignore[arg-type]
    request_bytes_max=256,
    response_bytes_max=512,
    payload_bytes_max=PART_SIZE_BYTES_MAX,
)
COMPARE: Method[Asked, Offered] = Method(
    "compare",
    Asked,  # type: ignore[arg-type]
    Offered,  # type: ignore[arg-type]
    request_bytes_max=256,
    response_bytes_max=512,
    payload_bytes_max=PART_SIZE_BYTES_MAX,
)


def offer_of(nonce: bytes, shape: Shape) -> Offer:
    """A network's shape as it travels."""
    return Offer(nonce, shape.sizes, shape.shifts, shape.feature_bits, shape.feature_fraction_bits)


def shape_untrusted(offer: Offer, *, samples: int, bytes_max: int) -> Shape:
    """The shape that a server offers.

    Raises:
        MessageInvalid: it is no shape of a network, or so many samples would take more bytes.
    """
    sizes = offer.sizes
    if len(sizes) < 2 or len(offer.shifts) != len(sizes) - 2:
        raise MessageInvalid("the offered network has no layers, or a shift too many or too few")
    if not 2 <= sizes[-1] <= CLASSES_MAX:
        raise MessageInvalid(f"{sizes[-1]} classes are offered, and 2 to {CLASSES_MAX} allowed")
    if not offer.feature_fraction_bits < offer.feature_bits or offer.feature_bits < 2:
        raise MessageInvalid("the offered features have no bit before the point")
    shape = Shape(
        sizes=sizes,
        shifts=offer.shifts,
        feature_bits=offer.feature_bits,
        feature_fraction_bits=offer.feature_fraction_bits,
    )
    needed = sum(traffic_bytes(shape, samples))
    if needed > bytes_max:
        raise MessageInvalid(f"{samples} samples would take {needed} bytes, over {bytes_max}")
    return shape


def session_of(client: PeerId, server: PeerId, method: str, ask: Ask, offer: Offer) -> bytes:
    """What keys a session's hashes."""
    text = f"{method} {client} {server} {COLUMNS} ".encode()
    return hashlib.sha256(text + encode(ask) + encode(offer)).digest()
