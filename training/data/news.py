"""The record of shards: what a trainer did of divided data, in the DHT under `<run>/shards`.

It lies in the subkey that only its owner can write. What it says is the owner's word; how far that
is believed is said in training/data/shares.py.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p import Message, decode_untrusted, encode
from training.data.shares import PASSES_OPEN, SHARDS_MAX, ShardNews, Turn

RECORD_BYTES_MAX = 4096
_PASSES_MAX = 2**53

PassIndex = Annotated[int, Meta(ge=0, le=_PASSES_MAX)]
Shards = Annotated[bytes, Meta(max_length=SHARDS_MAX // 8)]
"""Shard s is bit s % 8, from the lowest, of byte s // 8."""
Passes = Annotated[tuple[Shards, ...], Meta(max_length=2 * PASSES_OPEN)]


class ShardRecord(Message, frozen=True):
    """What a trainer tells of its share."""

    first: PassIndex
    """The first pass that is not over; what follows begins PASSES_OPEN passes before, or with 0."""
    current: tuple[PassIndex, Annotated[int, Meta(ge=0, lt=SHARDS_MAX)]] | None
    """The pass and the shard that it has under way."""
    done: Passes
    """What it did itself."""
    known: Passes
    """The same, with what others did."""


def shards_key(run: str) -> str:
    """Where the records of a run lie."""
    return f"{run}/shards"


def encode_news(news: ShardNews) -> bytes:
    """A record of ours."""
    current = (news.current.pass_index, news.current.shard) if news.current else None
    return encode(
        ShardRecord(
            news.first,
            current,
            tuple(_bytes_of(bits) for bits in news.done),
            tuple(_bytes_of(bits) for bits in news.known),
        )
    )


def decode_news_untrusted(data: bytes) -> ShardNews:
    """A record from the DHT.

    Raises:
        MessageInvalid: it is none.
    """
    record = decode_untrusted(data, ShardRecord, size_bytes_max=RECORD_BYTES_MAX)
    return ShardNews(
        first=record.first,
        current=Turn(*record.current) if record.current else None,
        done=tuple(int.from_bytes(shards, "little") for shards in record.done),
        known=tuple(int.from_bytes(shards, "little") for shards in record.known),
    )


def _bytes_of(bits: int) -> bytes:
    return bits.to_bytes(-(-bits.bit_length() // 8), "little")
