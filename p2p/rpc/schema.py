"""The wire of a call: frames with a small message and raw bytes behind it, and their limits.

A frame is a kind (1 byte), the message's size and the payload's size (4 bytes each, big-endian),
the MessagePack message, then the payload as it is. A call is one stream:

    caller   CALL{method, timeout}  MESSAGE…            half-close
    callee                          MESSAGE… | REFUSED{code, message} | FAILED{message}   close
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from p2p.wire import Message

Request = TypeVar("Request")
Response = TypeVar("Response")

HEADER = struct.Struct(">BII")

MESSAGE = 0
CALL = 1
REFUSED = 2
FAILED = 3

CONTROL_BYTES_MAX = 1024
"""The largest CALL, REFUSED or FAILED message."""
TIMEOUT_S_MAX = 3600.0
_TEXT_MAX = 512


class CallHeader(Message, frozen=True):
    """Opens a call."""

    method: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_S_MAX)]


class Refusal(Message, frozen=True):
    """The callee says no; the code is for programs, the message for people."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    message: Annotated[str, msgspec.Meta(max_length=_TEXT_MAX)] = ""


class Failure(Message, frozen=True):
    """The callee failed while serving."""

    message: Annotated[str, msgspec.Meta(max_length=_TEXT_MAX)] = ""


@dataclass(frozen=True)
class Method(Generic[Request, Response]):
    """A named procedure with the types and limits of what goes in and comes out.

    For a streaming call the types are those of every message, often unions of tagged structs.
    """

    name: str
    request_type: type[Request]
    response_type: type[Response]
    request_bytes_max: int = 65_536
    response_bytes_max: int = 65_536
    payload_bytes_max: int = 0
    """The largest raw payload behind one message, in either direction."""


def frame(kind: int, body: bytes, payload_size_bytes: int = 0) -> bytes:
    """A frame without its payload."""
    return HEADER.pack(kind, len(body), payload_size_bytes) + body


def clipped(text: str) -> str:
    """A text that fits the message fields of refusals and failures."""
    return text[:_TEXT_MAX]


AnyMethod = Method[Any, Any]
