"""Record layers: packing, splits at any byte, buffers that follow the need, used up keys."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import StreamBroken
from p2p.host import records
from p2p.host.budget import Budget
from p2p.host.records import AES_GCM, NOISE, RecordLayer, RecordReader, Sealer, packed
from tests.p2p.host.receiving import opened

KEY = bytes(range(32))
LAYERS = pytest.mark.parametrize("layer", [NOISE, AES_GCM], ids=["noise", "aes"])


def feed(reader: RecordReader, sealed: bytes, size_bytes: int) -> list[bytes]:
    """Hand bytes over as one read each would bring them; what could be opened after each."""
    plains: list[bytes] = []
    position = 0
    while position < len(sealed):
        with reader.room() as room:
            part = sealed[position : position + min(size_bytes, len(room))]
            room[: len(part)] = part
        reader.on_read(len(part))
        position += len(part)
        plains += opened(reader)
    return plains


@LAYERS
@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 600_000), max_size=8))
def test_packing_keeps_order_and_fits_records(layer: RecordLayer, sizes: list[int]) -> None:
    rng = random.Random(0)
    pieces = [rng.randbytes(size) for size in sizes]
    plains = list(packed([memoryview(piece) for piece in pieces], layer))
    assert b"".join(plains) == b"".join(pieces)
    assert all(len(plain) <= layer.plain_bytes_max for plain in plains)
    assert len(plains) <= sum(size // layer.plain_bytes_max + 2 for size in sizes)


@LAYERS
def test_large_pieces_are_not_copied(layer: RecordLayer) -> None:
    piece = bytes(layer.plain_bytes_max)
    assert any(plain is piece for plain in packed([b"head", piece, b"head"], layer))


@LAYERS
@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=6),
    read_bytes=st.sampled_from([1_000, 8_191, 65_537, 1 << 20]),
)
def test_what_was_sealed_is_opened_however_it_is_split(
    layer: RecordLayer, sizes: list[int], read_bytes: int
) -> None:
    rng = random.Random(1)
    sealer, reader = Sealer(layer, KEY), RecordReader(layer, KEY)
    for size in sizes:
        plain = rng.randbytes(size)
        assert b"".join(feed(reader, bytes(sealer.seal([plain])), read_bytes)) == plain


@LAYERS
def test_every_split_of_small_records(layer: RecordLayer) -> None:
    sealed = bytes(Sealer(layer, KEY).seal([b"a" * 40]))
    for size in range(1, len(sealed) + 1):
        assert feed(RecordReader(layer, KEY), sealed, size) == [b"a" * 40]


@LAYERS
def test_every_flipped_bit_is_noticed(layer: RecordLayer) -> None:
    sealed = bytes(Sealer(layer, KEY).seal([b"hello"]))
    for bit in range(8 * len(sealed)):
        broken = bytearray(sealed)
        broken[bit // 8] ^= 1 << bit % 8
        reader = RecordReader(layer, KEY)
        try:
            # A length that grew waits for more; nothing but the text itself may come out.
            assert feed(reader, bytes(broken), 1 << 20) == []
        except StreamBroken:
            continue


def test_a_record_over_the_limit_is_refused_before_it_has_come() -> None:
    reader = RecordReader(AES_GCM, KEY)
    with pytest.raises(StreamBroken, match="over the limit"):
        feed(reader, (AES_GCM.plain_bytes_max + 17).to_bytes(4, "big"), 4)


def test_a_used_up_aes_key_gives_way_to_a_new_one_on_both_sides() -> None:
    layer = replace(AES_GCM, records_per_key=3)
    sealer, reader = Sealer(layer, KEY), RecordReader(layer, KEY)
    first = sealer._key.aead
    for number in range(10):
        assert feed(reader, bytes(sealer.seal([b"%d" % number])), 100) == [b"%d" % number]
    assert sealer._key.aead is not first
    # A side that did not change its key cannot read on.
    stale = RecordReader(replace(layer, records_per_key=100), KEY)
    sealer = Sealer(layer, KEY)
    with pytest.raises(StreamBroken, match="not sealed"):
        for number in range(10):
            feed(stale, bytes(sealer.seal([b"%d" % number])), 100)


def test_a_noise_key_is_never_used_beyond_its_nonces() -> None:
    sealer = Sealer(NOISE, KEY)
    sealer._key.records = 2**64 - 1
    with pytest.raises(StreamBroken, match="nonces"):
        sealer.seal([b"x"])


@LAYERS
def test_buffers_grow_with_the_need_and_shrink_after_it(layer: RecordLayer) -> None:
    sealer, reader = Sealer(layer, KEY), RecordReader(layer, KEY)
    resting = len(reader.room())
    plain = bytes(4_000_000)
    assert b"".join(feed(reader, bytes(sealer.seal([plain])), 4_000_000)) == plain
    assert len(reader._buffer) == records._BUFFER_BYTES_MAX
    for _ in range(10):
        reader.on_tick()
        sealer.on_tick()
    assert len(reader.room()) == resting
    assert len(sealer._buffer) == 0
    assert feed(reader, bytes(sealer.seal([b"on"])), 10) == [b"on"]


@LAYERS
def test_a_buffer_that_shrinks_keeps_what_it_holds(layer: RecordLayer) -> None:
    sealer, reader = Sealer(layer, KEY), RecordReader(layer, KEY)
    feed(reader, bytes(sealer.seal([bytes(4_000_000)])), 1 << 20)
    sealed = bytes(sealer.seal([b"half"]))
    assert feed(reader, sealed[:9], 9) == []
    for _ in range(10):
        reader.on_tick()
    assert feed(reader, sealed[9:], 100) == [b"half"]


@LAYERS
def test_buffers_do_not_grow_beyond_what_all_have_room_for(layer: RecordLayer) -> None:
    budget = Budget(total_max=100_000, share_max=50_000)
    share = budget.open_share()
    sealer = Sealer(layer, KEY)
    reader = RecordReader(layer, KEY, held=share)
    plain = bytes(3_000_000)
    assert b"".join(feed(reader, bytes(sealer.seal([plain])), 4_000_000)) == plain
    # What one record needs, and not a byte for comfort.
    assert len(reader._buffer) <= 2 * (layer.plain_bytes_max + 20)
    assert share.used == len(reader._buffer)
    for _ in range(10):
        reader.on_tick()
    assert share.used == budget.used == len(reader._buffer) <= 50_000
