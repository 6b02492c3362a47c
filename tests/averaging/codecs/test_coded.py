"""A vector in frames and floats: it is cut anywhere, and nothing is believed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from averaging.codecs.coded import CodedWire, leaves_values_out
from averaging.codecs.coding import seed_of
from averaging.codecs.floating import FloatingWire, Run
from averaging.codecs.registry import codec_named
from averaging.codecs.rounds import encoded_parts
from p2p import MessageInvalid
from tests.averaging.codecs.samples import Bytes, Largest

COUNT, CODED = 100, 60


def wire_of(dtype: str = "float32") -> CodedWire:
    runs = [Run(0, 80, dtype), Run(80, COUNT, "float16")]
    return CodedWire(Bytes(), CODED, FloatingWire(runs, np.dtype(dtype)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("start", "stop"), [(0, 100), (0, 60), (10, 50), (59, 61), (60, 90)])
def test_a_part_is_a_frame_and_floats(dtype: str, start: int, stop: int) -> None:
    wire = wire_of(dtype)
    values = np.linspace(-1, 1, COUNT).astype(dtype)
    payload = wire.encode_values(values[start:stop], start)
    size_bytes = memoryview(payload).nbytes
    assert wire.fits(size_bytes, start, stop)
    assert size_bytes <= wire.size_limit_bytes(start, stop)
    decoded = wire.decode(payload, start, stop)
    assert decoded.dtype == np.result_type(dtype, np.float32)
    coded = wire.coded_in(start, stop)
    np.testing.assert_allclose(decoded[:coded], values[start:][:coded], atol=1 / 127)
    np.testing.assert_allclose(decoded[coded:], values[start + coded : stop], rtol=1e-3)
    out = np.empty(stop - start, dtype)
    wire.decode_into(payload, start, out)
    np.testing.assert_array_equal(out, decoded.astype(dtype))
    wire.check_untrusted(payload, start, stop)


def test_sizes_that_cannot_be_are_refused_unread() -> None:
    wire = wire_of()
    limit = wire.size_limit_bytes(50, 100)
    assert limit == 4 + 10 + 20 * 4 + 20 * 2
    assert not wire.fits(limit + 1, 50, 100)
    # The floats alone leave no byte for the frame.
    assert not wire.fits(20 * 4 + 20 * 2, 50, 100)
    assert not wire.fits(limit, 60, 100)
    for payload in (bytes(limit + 1), bytes(120), b""):
        with pytest.raises(MessageInvalid, match="wrong size"):
            wire.decode(payload, 50, 100)
        with pytest.raises(MessageInvalid, match="wrong size"):
            wire.check_untrusted(payload, 50, 100)


def test_what_the_codec_refuses_is_an_invalid_message() -> None:
    wire = wire_of()
    short = bytearray(wire.encode_values(np.ones(50, np.float32), 0)[:-1])
    with pytest.raises(MessageInvalid, match="no frame of bytes: wrong size"):
        wire.decode(short, 0, 50)
    with pytest.raises(MessageInvalid, match="no frame of bytes"):
        wire.check_untrusted(short, 0, 50)


def test_impossible_cuts_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="cannot be coded"):
        CodedWire(Bytes(), COUNT + 1, wire_of().floating)


def test_who_leaves_values_out() -> None:
    assert leaves_values_out(Largest(0.9))
    assert not leaves_values_out(Bytes())


@pytest.mark.parametrize("place", [3, 70])
def test_values_that_are_no_numbers_make_no_parts(place: int) -> None:
    flat = np.ones(COUNT, np.float32)
    flat[place] = np.nan
    parts, norm = encoded_parts(wire_of(), None, flat, [(0, 50), (50, 100)], 1.0, lambda start: 0)
    assert parts == {}
    assert norm == np.inf


def test_the_norm_is_of_what_others_will_read() -> None:
    flat = np.zeros(COUNT, np.float32)
    flat[:4] = [3, 4, 0.001, 0.001]
    wire = CodedWire(Largest(1 / 30), CODED, wire_of().floating)
    _, norm = encoded_parts(wire, None, flat, [(0, 60), (60, 100)], 1.0, lambda start: 0)
    assert norm == pytest.approx(5, rel=1e-6)


def test_seeds_differ_by_group_member_and_chunk() -> None:
    seeds = {
        seed_of(group, who, start)
        for group in (bytes(32), bytes(31) + b"1")
        for who in (-1, 0, 1)
        for start in (0, 4096)
    }
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(bytes(32), 0, 0) == seed_of(bytes(32), 0, 0)
    assert torch.Generator().manual_seed(max(seeds)) is not None


def test_the_caller_may_prefer_another_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        wire = wire_of()
        values = np.linspace(-1, 1, COUNT, dtype=np.float32)
        payload = wire.encode_values(values, 0)
        decoded = wire.decode(payload, 0, COUNT)
        np.testing.assert_allclose(decoded, values, atol=1 / 127)
        assert leaves_values_out(Largest(0.1))
        assert not leaves_values_out(codec_named("int8-block"))
    finally:
        torch.set_default_dtype(torch.float32)
