"""What holds for every quantizer: sizes, round trips, seeds, and frames from liars."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.quantizers import MAKERS
from averaging.codecs.registry import CODEC_NAMES, codec_named
from tests.averaging.codecs.inequalities import check_codec, compressor_of, families
from tests.averaging.codecs.quantizers.cases import NAMES, normal

PAGE = Path(__file__).parents[4] / "docs/protocols/codecs.md"
CASTS = ("float32", "float16", "bfloat16")
COUNTS = (1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, 4097, 65_535, 65_536, 65_537, 131_088)
HEADER_BYTES = {
    "float32": 0,
    "float16": 0,
    "bfloat16": 0,
    "quantile8": 1024,
    "onebit": 8,
}
WIDTHS = {
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float16-scaled": 16,
    "int4-block:64": 4,
    "rounding:4": 7,
    "nearest:5": 6,
    "dither:2,7": 4,
    "dither:2,8,2": 5,
    "dither:3,3,1": 3,
    "dither:2,1": 2,
    "sign": 1,
    "onebit": 1,
}
"""Bits of an element; 8, if not here."""
RECORDED_VALUES = torch.tensor([0.0, 1.0, -0.75, 0.3, -1.5, 0.01, 3.0, -2.9, 0.5, -0.001])
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def scales_of(name: str, count: int) -> int:
    kind, _, block = name.partition(":")
    return math.ceil(count / int(block)) if kind.endswith("-block") else 1


@pytest.mark.parametrize("name", NAMES)
def test_every_bit_of_a_frame_is_accounted_for(name: str) -> None:
    codec = codec_named(name)
    assert codec.name == name
    assert codec.same_everywhere
    width = WIDTHS.get(name, 8)
    for count in COUNTS:
        values = normal(count)
        frame = codec.encode(values, 1)
        assert (frame.dtype, frame.dim(), frame.device.type) == (torch.uint8, 1, "cpu")
        assert frame.numel() == codec.size_limit_bytes(count)
        header = HEADER_BYTES.get(name, 4 * scales_of(name, count))
        spare_bits = 8 * (frame.numel() - header) - width * count
        # Each part of a width, of 1, 2 or 4 bits, ends at a whole byte.
        parts = bin(width % 8).count("1")
        assert 0 <= spare_bits <= 7 * parts
        if count % 8 == 0:
            assert spare_bits == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_all_and_nothing_is_changed(name: str) -> None:
    codec, values = codec_named(name), normal(70_000)
    before = values.clone()
    frame = codec.encode(values, 2**63 - 1)
    assert torch.equal(frame, codec.encode(values, 2**63 - 1))
    assert torch.equal(values, before)
    other = codec.encode(values, 7)
    draws = name.partition(":")[0] in ("natural", "rounding", "dither")
    assert torch.equal(frame, other) != draws
    # Into the middle of something else, from a place that is not aligned.
    room = torch.full((70_002,), 5.0)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), frame])[1:]
    sent = frame.clone()
    codec.decode(shifted, room[1:-1])
    assert torch.equal(frame, sent)
    assert torch.equal(room[1:-1], compressor_of(codec)(values, 2**63 - 1))
    assert room[0] == room[-1] == 5.0


@pytest.mark.parametrize("name", NAMES)
def test_what_a_frame_says_and_does_not_is_known_while_it_is_made(name: str) -> None:
    codec, values = codec_named(name), normal(70_001)
    # A block of zeros, and of what is sent as zeros.
    values[8192:12_288], values[12_288:16_384] = 0, 1e-40
    before, frame, said = values.clone(), codec.encode(values, 3), compressor_of(codec)(values, 3)
    measured = codec.encode_measured(values, 3)
    assert measured is not None
    assert torch.equal(measured[0], frame)
    assert measured[1] == pytest.approx(float(said.double().square().sum()), rel=1e-4)
    assert torch.equal(values, before)
    assert torch.equal(codec.encode_keeping_rest(values, 3), frame)
    assert torch.equal(values, before - said)
    codec.check(frame, len(values))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_has_no_measure(name: str, wrong: float) -> None:
    values = normal(5000)
    values[4321] = wrong
    assert codec_named(name).encode_measured(values, 3) is None


@pytest.mark.parametrize(
    # The means of the others are over all elements.
    "name",
    [name for name in NAMES if name not in ("quantile8", "sign", "onebit")],
)
def test_tiles_do_not_matter(name: str) -> None:
    """The start of a long vector comes out as it does alone, if its scales are the same."""
    values = normal(65_536 + 4096)
    # The extremes and all sums are in the first tile.
    values[65_536:] = 0
    whole, alone = (
        compressor_of(codec_named(name))(part, 3) for part in (values, values[:65_536].clone())
    )
    assert torch.equal(whole[:65_536], alone)
    assert not whole[65_536:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_classes_hold(name: str) -> None:
    draws = codec_named(name).constants(1).unbiased is not None
    check_codec(codec_named(name), list(families(200)), seeds=8 if draws else 1)
    check_codec(codec_named(name), list(families(2)), seeds=20 if draws else 1)


@settings(max_examples=10)
@given(st.lists(FLOATS, min_size=1, max_size=40), st.integers(0, 2**63 - 1))
@pytest.mark.parametrize("name", NAMES)
def test_any_finite_values_come_back_finite(name: str, numbers: list[float], seed: int) -> None:
    values = torch.tensor(numbers)
    out = compressor_of(codec_named(name))(values, seed)
    assert bool(torch.isfinite(out).all())
    if name not in ("quantile8", "onebit", "sign"):
        assert bool((out * values.sign() >= 0).all()), "a sign was changed"


# The fuzz targets of codecs try many more.
@settings(max_examples=10)
@given(st.binary(max_size=40), st.integers(1, 24), st.integers(0, 1100))
@pytest.mark.parametrize("name", NAMES)
def test_frames_of_liars_are_refused_or_finite(
    name: str, noise: bytes, count: int, place: int
) -> None:
    codec = codec_named(name)
    out = torch.full((count,), 7.0)
    if len(noise) != codec.size_limit_bytes(count):
        with pytest.raises(FrameInvalid):
            codec.decode(torch.tensor(list(noise), dtype=torch.uint8), out)
    frame = codec.encode(normal(count), 0)
    for byte in noise:
        frame[place % frame.numel()] = byte
        place = place * 31 + byte
    try:
        codec.decode(frame, out)
    except FrameInvalid:
        with pytest.raises(FrameInvalid):
            codec.check(frame, count)
        return
    codec.check(frame, count)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CASTS])
@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1.0])
def test_scales_of_liars_are_refused(name: str, scale: float) -> None:
    codec, out = codec_named(name), torch.empty(64)
    frame = codec.encode(normal(64), 0)
    frame[:4] = torch.tensor([scale]).view(torch.uint8)
    if scale == -1.0 and name in ("quantile8", "onebit"):
        codec.decode(frame, out)  # means may be negative
        return
    with pytest.raises(FrameInvalid):
        codec.decode(frame, out)


# The others are casts, which do not look at their values.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in CASTS])
def test_values_that_are_not_finite_are_our_mistake(name: str) -> None:
    for wrong in (math.nan, math.inf, -math.inf):
        values = normal(100)
        values[50] = wrong
        with pytest.raises(ValueError, match="finite"):
            codec_named(name).encode(values, 0)


RECORDED = {
    "float32": ("000000000000803f000040bf9a99993e0000c0bf0ad7233c000040409a9939c00000003f6f1283ba"),
    "float16": "0000003c00bacd3400be1f210042cdc100381994",
    "bfloat16": "0000803f40bf9a3ec0bf243c40403ac0003f83ba",
    "float16-scaled": "000000390000007000eecd6800f21f550076cdf5006c19c8",
    "int8": "0683c13c7fa95f8c3f7ffe04947f",
    "int8-block:4096": "0683c13c7fa95f8c3f7ffe04947f",
    "int8-block:16": "0683c13c7fa95f8c3f7ffe04947f",
    "int4-block:64": "b76ddb3e77e9058873",
    "quantile8": "73d940a6268cf30cc059",
    "natural": "000080407ffc02fb01f5fd01fb0c",
    "rounding:2": "000040407ffc02fb01f5fe00fb0b",
    "rounding:1.2": "000040407ff808f104dffe00f42c",
    "rounding:4": "00004040afed01dc613f033c1807",
    "nearest:2": "000040407ffc02fb01f6fe00fb0c",
    "nearest:1.2": "000040407ff808f104dffe00f42c",
    "nearest:5": "00004040afed01dc513d033c",
    "dither:2,7": "0000404077ec02bb71",
    "dither:2,8,2": "0198944088fe12dc810000",
    "dither:3,3,1": "42601f41df180f1801",
    "dither:2,1": "00004040690115",
    "sign": "69007f3f0618",
    "onebit": "073a4d3ffed4a4bf0618",
}


@pytest.mark.parametrize("name", NAMES)
def test_recorded_frames_stay_as_they_are(name: str) -> None:
    frame = codec_named(name).encode(RECORDED_VALUES, 5)
    if name == "quantile8":  # 1,024 bytes of table
        frame = frame[1024:]
    assert bytes(frame.tolist()).hex() == RECORDED[name]


def test_the_caller_may_prefer_another_type() -> None:
    values = normal(100)
    before = [codec_named(name).encode(values, 0) for name in NAMES]
    torch.set_default_dtype(torch.float64)
    try:
        for name, frame in zip(NAMES, before, strict=True):
            codec = codec_named(name)
            assert torch.equal(codec.encode(values, 0), frame)
            out = torch.empty(100, dtype=torch.float32)
            codec.decode(frame, out)
            assert bool(torch.isfinite(out).all())
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_does_nearly_the_same(name: str) -> None:
    """Chance and sums may fall otherwise there; what is decoded differs no more than by them."""
    codec, values = codec_named(name), normal(100_000)
    here, there = torch.empty(100_000), torch.empty(100_000, device="cuda")
    codec.decode(codec.encode(values, 3), here)
    frame = codec.encode(values.cuda(), 3)
    codec.decode(frame, there)
    assert there.device.type == "cuda"
    if codec.same_everywhere:
        out = torch.empty(100_000)
        codec.decode(frame.cpu(), out)
        assert torch.equal(there.cpu(), out)
    missed_here, missed_there = ((out.cpu() - values).norm() for out in (here, there))
    assert missed_there <= 1.02 * missed_here + 1e-3


def test_the_page_tells_of_every_codec_and_its_bits() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([\d.]+) \|", PAGE.read_text("utf-8"), re.MULTILINE))
    assert sorted(name.partition(":")[0] for name in rows) == sorted(MAKERS)
    count = 131_072
    for name, bits in rows.items():
        codec = codec_named(name)
        assert codec.name == codec_named(name.partition(":")[0]).name, "the page shows defaults"
        assert f"{8 * codec.size_limit_bytes(count) / count:.2f}" == bits


def test_names_are_read_and_written_alike() -> None:
    assert {name.partition(":")[0] for name in NAMES} <= set(CODEC_NAMES)
    for given_name, full in {
        "int8-block": "int8-block:4096",
        "int4-block": "int4-block:64",
        "rounding": "rounding:2",
        "nearest:2.0": "nearest:2",
        "dither": "dither:2,7",
        "dither:2,7,inf": "dither:2,7",
        "dither:2.5,7,2": "dither:2.5,7,2",
        # Each digit counts: equal names are equal grids.
        "rounding:1.0500001": "rounding:1.0500001",
    }.items():
        assert codec_named(given_name).name == full
        assert codec_named(full).name == full


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("int9", "there is no codec"),
        ("int8:3", "takes no number"),
        ("natural:", "takes no number"),
        ("int8-block:100", "power of two"),
        ("int8-block:8", "power of two"),
        ("int8-block:131072", "power of two"),
        ("int4-block:many", "is a number"),
        ("rounding:1", "a base is from"),
        ("rounding:0", "a base is from"),
        ("rounding:nan", "a base is a number"),
        ("rounding:inf", "a base is a number"),
        ("rounding:", "a base is a number"),
        ("nearest:300", "a base is from"),
        ("nearest:two", "a base is a number"),
        ("dither:2", "BASE,LEVELS"),
        ("dither:2,3,4,5", "BASE,LEVELS"),
        ("dither:2,0", "levels, not 0"),
        ("dither:2,128", "levels, not 128"),
        ("dither:16,40", "1 to 32 levels"),
        ("dither:2,7,3", "norms"),
        ("dither:2,7.5", "whole number"),
    ],
)
def test_wrong_names_say_what_is_wrong(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        codec_named(name)
