"""Wire messages: MessagePack arrays, checked against typed structs before anybody sees them."""

from __future__ import annotations

import functools
from typing import Any, TypeVar, get_args

import msgpack
import msgspec

from p2p.errors import MessageInvalid

T = TypeVar("T")

# No message of ours nests deeper or holds longer lists; the size limit of the caller is tighter.
_ITEMS_MAX = 65_536


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of every wire message: an array of fields by position; new fields come last, optional.

    Write ``class Find(Message, frozen=True)``; members of a union are told apart by a tag:
    ``class Part(Message, frozen=True, tag="part")``.
    """


def encode(message: Message) -> bytes:
    """The MessagePack bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode_untrusted(
    data: bytes | bytearray | memoryview, kind: type[T], *, size_bytes_max: int
) -> T:
    """Decode and check a message (or a union of tagged messages) from the network.

    Args:
        kind: the struct expected, or a union; ranges come from its ``msgspec.Meta`` annotations.
        size_bytes_max: longer input is refused unread.

    Raises:
        MessageInvalid: too long, not MessagePack, or not of this kind.
    """
    if len(data) > size_bytes_max:
        raise MessageInvalid(f"message of {len(data)} bytes, at most {size_bytes_max} allowed")
    try:
        # msgpack checks lengths before it allocates; msgspec checks types and ranges.
        plain: Any = msgpack.unpackb(
            data,
            use_list=True,
            strict_map_key=False,
            max_str_len=size_bytes_max,
            max_bin_len=size_bytes_max,
            max_array_len=min(size_bytes_max, _ITEMS_MAX),
            max_map_len=min(size_bytes_max, _ITEMS_MAX),
            max_ext_len=0,
        )
        # Bytes are bytes already; without this, base64 text would pass for them too.
        message: T = msgspec.convert(plain, _member_for(plain, kind), builtin_types=(bytes,))
        return message
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
        raise MessageInvalid(f"not a valid message: {exc}") from exc


def _member_for(plain: Any, kind: Any) -> Any:
    """The struct of a union that the message's tag names: to look in all takes ten times as long.

    The union itself where there is none; who checks against that says what is wrong.
    """
    tag = plain[0] if isinstance(plain, list) and plain else None
    return _by_tag(kind).get(tag, kind) if isinstance(tag, str) else kind


@functools.cache
def _by_tag(kind: Any) -> dict[Any, Any]:
    """The structs of a union by their tags; empty for anything else."""
    members = (one for one in get_args(kind) if hasattr(one, "__struct_config__"))
    return {one.__struct_config__.tag: one for one in members if one.__struct_config__.tag}
