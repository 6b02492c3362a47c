"""The record of shards: round trip, limits, random bytes, recorded bytes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Message, MessageInvalid, encode
from training.data.news import (
    RECORD_BYTES_MAX,
    ShardRecord,
    decode_news_untrusted,
    encode_news,
    shards_key,
)
from training.data.shares import PASSES_OPEN, SHARDS_MAX, ShardNews, Turn

NEWS = ShardNews(first=3, current=Turn(4, 9), done=(0b101, 0, 1 << 9), known=(0b111, 0, 3 << 9))
# Bytes that trainers have published; a change that breaks this needs a new key.
RECORDED: list[tuple[Message, str]] = [
    (
        ShardRecord(3, (4, 9), (b"\5", b"", b"\0\2"), (b"\7", b"", b"\0\6")),
        "940392040993c40105c400c402000293c40107c400c4020006",
    ),
    (ShardRecord(0, None, (), ()), "9400c09090"),
]


def test_recorded_bytes() -> None:
    for message, recorded in RECORDED:
        assert encode(message).hex() == recorded
    assert encode_news(NEWS).hex() == RECORDED[0][1]
    assert decode_news_untrusted(bytes.fromhex(RECORDED[0][1])) == NEWS
    assert decode_news_untrusted(bytes.fromhex(RECORDED[1][1])) == ShardNews(0)


BITS = st.integers(0, 2**SHARDS_MAX - 1)
PASSES = st.lists(BITS, max_size=2 * PASSES_OPEN).map(tuple)
TURNS = st.builds(Turn, st.integers(0, 2**53), st.integers(0, SHARDS_MAX - 1))


@given(news=st.builds(ShardNews, st.integers(0, 2**53), st.none() | TURNS, PASSES, PASSES))
def test_whatever_was_done_others_can_read(news: ShardNews) -> None:
    data = encode_news(news)
    assert len(data) <= RECORD_BYTES_MAX
    assert decode_news_untrusted(data) == news


@pytest.mark.parametrize(
    "record",
    [
        ShardRecord(-1, None, (), ()),
        ShardRecord(2**60, None, (), ()),
        ShardRecord(0, (0, SHARDS_MAX), (), ()),
        ShardRecord(0, (0, -1), (), ()),
        ShardRecord(0, None, (b"x" * 129,), ()),
        ShardRecord(0, None, (), (b"",) * (2 * PASSES_OPEN + 1)),
    ],
)
def test_values_out_of_range_are_refused(record: ShardRecord) -> None:
    with pytest.raises(MessageInvalid):
        decode_news_untrusted(encode(record))


@given(data=st.binary(max_size=200))
def test_random_bytes_raise_only_message_invalid(data: bytes) -> None:
    with contextlib.suppress(MessageInvalid):
        decode_news_untrusted(data)


def test_runs_have_records_of_their_own() -> None:
    assert shards_key("one") == "one/shards" != shards_key("other")
