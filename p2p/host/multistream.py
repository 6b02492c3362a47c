"""multistream-select 1.0: the two sides of a byte stream agree on a protocol.

Source: multiformats/multistream-select; each line is a varint length and a text ending in \\n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from p2p.errors import MessageInvalid, RefusedError

MULTISTREAM = "/multistream/1.0.0"
_NOT_AVAILABLE = "na"
_LINE_BYTES_MAX = 1024
# A peer that keeps proposing what we do not speak is not negotiating.
_PROPOSALS_MAX = 32


class ByteReader(Protocol):
    """Reads exactly so many bytes; how it fails is its own."""

    async def receive_exactly(self, size_bytes: int) -> bytes:
        """Exactly so many bytes."""


class ByteStream(ByteReader, Protocol):
    """Reads exactly, writes all."""

    async def send_all(self, data: bytes) -> None:
        """Send all bytes."""


def line(text: str) -> bytes:
    """The wire form of one line."""
    body = text.encode() + b"\n"
    size = len(body)
    assert size <= _LINE_BYTES_MAX
    if size < 0x80:
        return bytes([size]) + body
    return bytes([size & 0x7F | 0x80, size >> 7]) + body


def proposal(protocol: str) -> bytes:
    """What a dialer may send at once, before any answer: the header and one protocol."""
    return line(MULTISTREAM) + line(protocol)


async def read_line_untrusted(reader: ByteReader) -> str:
    """The next line without its newline; raises MessageInvalid if it is none."""
    size = (await reader.receive_exactly(1))[0]
    if size & 0x80:
        high = (await reader.receive_exactly(1))[0]
        size = size & 0x7F | high << 7
        if high & 0x80 or size > _LINE_BYTES_MAX:
            raise MessageInvalid("multistream line too long")
    if size == 0:
        raise MessageInvalid("empty multistream line")
    body = await reader.receive_exactly(size)
    if not body.endswith(b"\n"):
        raise MessageInvalid("multistream line without its end")
    try:
        return body[:-1].decode("ascii")
    except UnicodeDecodeError as exc:
        raise MessageInvalid("multistream line is not ASCII") from exc


async def read_answer_untrusted(reader: ByteReader, protocol: str) -> None:
    """Read the answer to a proposal.

    Raises:
        RefusedError: the other side does not speak the protocol.
        MessageInvalid: the answer is not of multistream-select.
    """
    if await read_line_untrusted(reader) != MULTISTREAM:
        raise MessageInvalid("the other side does not speak multistream-select 1.0")
    if not _is_accepted(await read_line_untrusted(reader), protocol):
        raise RefusedError("protocol-not-supported", protocol)


def _is_accepted(answer: str, protocol: str) -> bool:
    """Whether the answer is a yes; one that is neither yes nor no is MessageInvalid."""
    if answer not in (protocol, _NOT_AVAILABLE):
        raise MessageInvalid(f"{protocol} was answered with {answer[:64]!r}")
    return answer == protocol


async def propose_untrusted(stream: ByteStream, protocols: tuple[str, ...]) -> str:
    """Propose one protocol after the other until one is accepted; returns it.

    Raises:
        RefusedError: the other side speaks none of them.
        MessageInvalid: the answer is not of multistream-select.
    """
    first, *others = protocols
    await stream.send_all(proposal(first))
    try:
        await read_answer_untrusted(stream, first)
        return first
    except RefusedError:
        if not others:
            raise
    for protocol in others:
        await stream.send_all(line(protocol))
        if _is_accepted(await read_line_untrusted(stream), protocol):
            return protocol
    raise RefusedError("protocol-not-supported", ", ".join(protocols))


async def accept_untrusted(stream: ByteStream, supported: Callable[[str], bool]) -> str:
    """Answer proposals until one is supported; returns it.

    Raises:
        RefusedError: nothing proposed is supported; it has been told so.
        MessageInvalid: the other side does not negotiate.
    """
    if await read_line_untrusted(stream) != MULTISTREAM:
        raise MessageInvalid("the other side does not speak multistream-select 1.0")
    # Some dialers propose nothing before they have seen our header.
    await stream.send_all(line(MULTISTREAM))
    answered = False
    for _ in range(_PROPOSALS_MAX):
        try:
            proposed = await read_line_untrusted(stream)
        except MessageInvalid as exc:
            if not answered:
                raise
            # A dialer that sends its data ahead of our answer: what follows "na" is no proposal.
            raise RefusedError("protocol-not-supported", "answered with na") from exc
        if supported(proposed):
            await stream.send_all(line(proposed))
            return proposed
        await stream.send_all(line(_NOT_AVAILABLE))
        answered = True
    raise MessageInvalid("too many proposals")
