"""The messages of /manyhands/about/1 and /manyhands/bandwidth/1, and their limits.

    ABOUT      -> TOLD                           who answers, its clock, and how it sees us
    DOWNLOAD   -> PIECE with bytes…              for so many seconds, then the end
    UPLOAD, PIECE with bytes… -> RECEIVED        how much came in which time

Who asks about another peer than itself shows that peer's signature; otherwise anyone could learn
from where somebody else is connected.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from p2p.peer_id import PeerId
from p2p.rpc import Method
from p2p.wire import Message

ABOUT_SERVICE = "about"
BANDWIDTH_SERVICE = "bandwidth"
MAJOR = 1

SECONDS_MAX = 10.0
"""Longest time that a measurement may be asked for."""
PIECE_BYTES = 16_384
"""Small enough that a line of 100 kbit/s carries one in little more than a second."""
ZEROS = bytes(PIECE_BYTES)
"""What is sent; everything is encrypted on the way, so nothing can be saved by its sameness."""
PLACES_MAX = 8
_ADDRESS_LENGTH_MAX = 256

AddressText = Annotated[str, Meta(max_length=_ADDRESS_LENGTH_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX)]


class About(Message, frozen=True):
    """Who are you, and how do you see me?"""

    subject: Annotated[str, Meta(max_length=64)] = ""
    """A peer id whose owner we are, too: is it connected, and from where? Empty: not asked."""
    signature: Annotated[bytes, Meta(max_length=64)] = b""
    """Of the subject's key, under about_claim()."""


class Told(Message, frozen=True):
    """What a peer says of itself."""

    agent: Annotated[str, Meta(max_length=64)]
    version: Annotated[str, Meta(max_length=64)]
    wall_ms: Count
    """Milliseconds since 1970, as it believes."""
    is_client: bool
    is_relay: bool
    connections: Count
    sees_you_at: AddressText
    """The address that the connection of the caller comes from; empty when relayed."""
    subject_at: Annotated[tuple[AddressText, ...], Meta(max_length=PLACES_MAX)] = ()
    """From where the subject is connected to it at this moment."""


class Download(Message, frozen=True):
    """Send me as much as goes through in this time."""

    seconds: Seconds


class Upload(Message, frozen=True, tag="upload"):
    """Take what I send; I stop after this time."""

    seconds: Seconds


class Piece(Message, frozen=True, tag="piece"):
    """Bytes that mean nothing follow as payload."""


class Received(Message, frozen=True):
    """What has come, and how long it took from the first piece to the last."""

    size_bytes: Count
    seconds: Annotated[float, Meta(ge=0, le=1e6)]


UploadItem: TypeAlias = Upload | Piece

ABOUT = Method("about", About, Told, request_bytes_max=512, response_bytes_max=4096)
DOWNLOAD = Method(
    "download",
    Download,
    Piece,
    request_bytes_max=64,
    response_bytes_max=64,
    payload_bytes_max=PIECE_BYTES,
)
UPLOAD: Method[UploadItem, Received] = Method(
    "upload",
    UploadItem,  # type: ignore[arg-type]  # a union of structs decodes like one type
    Received,
    request_bytes_max=64,
    response_bytes_max=64,
    payload_bytes_max=PIECE_BYTES,
)


def about_claim(asked: PeerId, caller: PeerId) -> bytes:
    """What the subject's key signs: good for this caller at this peer only."""
    return f"/manyhands/about/1 subject: {asked} may tell {caller}".encode()
