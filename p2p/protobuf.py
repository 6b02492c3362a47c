"""Just enough of protobuf for libp2p's messages: numbers, bytes and lengths, bounded (core).

By hand, because messages here may hold fields of value 0 that foreign peers require to be present,
and the classes that py-libp2p generates leave those out.
"""

from __future__ import annotations

from p2p.errors import MessageInvalid
from p2p.host.multistream import ByteReader

_NUMBER = 0
_BYTES = 2
_SKIPPED_SIZES = {1: 8, 5: 4}
_VARINT_BYTES_MAX = 10
_NUMBER_MAX = 2**64 - 1
_FIELDS_MAX = 64

Fields = dict[int, list[int | bytes]]
"""The values of each field by its number, in the order they came."""


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint_untrusted(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and where it ends; raises MessageInvalid."""
    value = 0
    for index, byte in enumerate(data[position : position + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value > _NUMBER_MAX:
                break
            return value, position + index + 1
    raise MessageInvalid("no valid number in a protobuf")


def framed(message: bytes) -> bytes:
    """A message behind its length."""
    return varint(len(message)) + message


async def read_framed_untrusted(reader: ByteReader, *, bytes_max: int, what: str) -> bytes:
    """The next message behind its length, and not a byte of what follows.

    Args:
        bytes_max: longer ones are refused unread.
        what: how the error names it, such as "a relay message".

    Raises:
        MessageInvalid: it is longer, or its length is no number.
    """
    size = 0
    for index in range(len(varint(bytes_max))):
        byte = (await reader.receive_exactly(1))[0]
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            break
    else:
        raise MessageInvalid(f"{what} is too long")
    if size > bytes_max:
        raise MessageInvalid(f"{what} is too long")
    return await reader.receive_exactly(size) if size else b""


def field(number: int, value: int | bytes | None) -> bytes:
    """One field, or nothing for None."""
    if value is None:
        return b""
    if isinstance(value, int):
        return varint(number << 3 | _NUMBER) + varint(value)
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def fields_untrusted(data: bytes) -> Fields:
    """The fields of a message, but those of kinds that ours have not; raises MessageInvalid."""
    found: Fields = {}
    position = 0
    for _ in range(_FIELDS_MAX):
        if position == len(data):
            return found
        tag, position = read_varint_untrusted(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _NUMBER:
            value, position = read_varint_untrusted(data, position)
            found.setdefault(number, []).append(value)
            continue
        size = _SKIPPED_SIZES.get(kind)
        if kind == _BYTES:
            size, position = read_varint_untrusted(data, position)
        if size is None or position + size > len(data):
            raise MessageInvalid("a protobuf is cut off, or has fields of an unknown kind")
        if kind == _BYTES:
            found.setdefault(number, []).append(data[position : position + size])
        position += size
    raise MessageInvalid("a protobuf has too many fields")


def number_untrusted(fields: Fields, number: int) -> int | None:
    """The last value of a field of numbers, or None; raises MessageInvalid."""
    value = fields.get(number, [None])[-1]
    if isinstance(value, bytes):
        raise MessageInvalid(f"field {number} is no number")
    return value


def bytes_untrusted(fields: Fields, number: int) -> bytes | None:
    """The last value of a field of bytes, or None; raises MessageInvalid."""
    value = fields.get(number, [None])[-1]
    if isinstance(value, int):
        raise MessageInvalid(f"field {number} holds no bytes")
    return value
