"""What all sparsifiers have in common: names, frames, limits, and no trust in bytes."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.registry import codec_named
from averaging.codecs.sparsifiers import MAKERS
from averaging.codecs.tiles import TILE_ELEMENTS
from tests.averaging.codecs.sparsifiers.vectors import DISTRIBUTIONS, drawn, relative_error

PAGE = Path(__file__).parents[4] / "docs" / "protocols" / "codecs.md"
NAMES = (
    "adaptive-random",
    "demo:0.05",
    "dgc:0.05",
    "gaussian-k:0.05",
    "gaussian-k-paper:0.05",
    "rand-k:0.05",
    "rand-k-biased:0.05",
    "sparse-loco:0.05",
    "topk:0.05",
    "topk:0.05:float32",
    "topk:1",
    "topk:0.05:dither:2,7",
    "topk:0.3:dither:1.5,15,2",
    "topk:0.1:sign",
)
LOSSY = ("topk:0.05:dither", "topk:0.3:dither", "topk:0.1:sign")
CODECS = {name: codec_named(name) for name in NAMES}
by_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=NAMES)


def decoded(codec: Codec, frame: torch.Tensor, count: int) -> torch.Tensor:
    """What the frame says, where out held something else before."""
    out = torch.full((count,), torch.nan)
    codec.decode(frame, out)
    return out


def test_every_kind_is_here() -> None:
    assert {name.partition(":")[0] for name in NAMES} == set(MAKERS)


@by_codec
def test_a_name_names_the_codec_that_it_is_of(codec: Codec) -> None:
    assert codec_named(codec.name).name == codec.name
    assert codec.name in NAMES


def test_the_page_has_every_kind_and_says_which_decode_alike() -> None:
    table = PAGE.read_text("utf-8").partition("## Few elements")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\S+)` \|(.*)$", table, re.MULTILINE)
    assert {name.partition(":")[0] for name, _ in lines} == set(MAKERS)
    for name, line in lines:
        assert codec_named(name).same_everywhere == (" | yes | " in line)


def test_one_codec_has_one_name() -> None:
    assert codec_named("topk:0.010:float16-scaled").name == "topk:0.01"
    assert codec_named("topk:1e-3").name == "topk:0.001"
    assert codec_named("topk:0.00001").name == codec_named("topk:1e-05").name == "topk:1e-05"
    assert codec_named("topk:0.01:dither").name == "topk:0.01:dither:2,7"
    assert codec_named("rand-k:0.1:float32").name == "rand-k:0.1"
    assert codec_named("rand-k-biased:0.1:float32").name == "rand-k-biased:0.1:float32"


@pytest.mark.parametrize(
    "name",
    [
        "topk",
        "topk:",
        "topk:0",
        "topk:0.0",
        "topk:1.1",
        "topk:-0.1",
        "topk:nan",
        "topk:1e-999999999",
        "topk:0.1:",
        "topk:0.1:int9",
        "topk:0.1:rand-k:0.1",
        "topk:0.1:float16:1",
        "rand-k:0.1:float8",
        "demo:0.1:",
        "topk:0.1:dither:1,7",
        "sparse-loco:0.1:float16",
        "adaptive-random:1",
    ],
)
def test_a_name_without_sense_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"not| no "):
        codec_named(name)


@pytest.mark.slow
@by_codec
@settings(max_examples=15, deadline=None)
@given(
    numbers=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=150
    ),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_values_come_through(codec: Codec, numbers: list[float], seed: int) -> None:
    values = torch.tensor(numbers)
    frame = codec.encode(values, seed)
    assert frame.dtype == torch.uint8
    assert frame.numel() <= codec.size_limit_bytes(len(numbers))
    assert torch.equal(codec.encode(values, seed), frame)
    assert decoded(codec, frame, len(numbers)).isfinite().all()


@by_codec
@pytest.mark.parametrize("count", [1, 63, 4097, 65_537, 131_072])
def test_any_length_comes_through(codec: Codec, count: int) -> None:
    values = drawn("laplace", count)
    frame = codec.encode(values, 3)
    assert frame.numel() <= codec.size_limit_bytes(count)
    out = decoded(codec, frame, count)
    if not codec.name.startswith(("rand-k:", "demo", *LOSSY)):
        # What is sent is sent about as it is, and the error is that of what is not.
        sent = out != 0
        assert relative_error(out[sent], values[sent]) < (
            0.05 if codec.name.startswith("sparse-loco") else 1e-6
        )
        assert bool(sent.any())


@by_codec
def test_zeros_cost_next_to_nothing(codec: Codec) -> None:
    values = torch.zeros(5000)
    frame = codec.encode(values, 3)
    assert torch.equal(decoded(codec, frame, 5000), values)
    if not codec.name.startswith("rand-k"):
        assert frame.numel() <= 9


def test_bits_on_the_wire() -> None:
    count = 131_072
    values = drawn("normal", count)
    sizes = {
        name: 8 * codec_named(name).encode(values, 0).numel()
        for name in ("topk:0.01", "topk:0.01:float32", "topk:0.01:dither", "sparse-loco:0.02")
    }
    # At random places a position has 8.08 bits of entropy; 1311 are sent, and 15 bytes stand before
    # and between. This is 132 times less than float32.
    sent = 1311
    assert 8.08 * sent <= sizes["topk:0.01"] - 16 * sent <= 8.2 * sent + 120
    assert 32 * count / sizes["topk:0.01"] > 130
    assert sizes["topk:0.01:float32"] == sizes["topk:0.01"] + 16 * sent - 32
    assert sizes["topk:0.01:dither"] == sizes["topk:0.01"] - 12 * sent + 4 * sent % 8
    # Of each block of 4096 it sends 82, in 2 bits and a share of the block's two magnitudes.
    assert 32 * count / sizes["sparse-loco:0.02"] > 165


def test_neither_positions_nor_a_seed_more_than_once_travel_with_random_ones() -> None:
    values = drawn("normal", 100_000)
    assert codec_named("rand-k:0.01").encode(values, 0).numel() == 8 + 4 * 1000
    assert codec_named("rand-k-biased:0.01").encode(values, 0).numel() == 8 + 4 + 2 * 1000


def test_a_seed_changes_what_is_random() -> None:
    values = drawn("normal", 5000)
    for name in ("rand-k:0.05", "topk:0.05:dither:2,7", "adaptive-random", "dgc:0.05"):
        assert not torch.equal(CODECS[name].encode(values, 1), CODECS[name].encode(values, 2))
    for name in ("topk:0.05", "gaussian-k:0.05", "sparse-loco:0.05", "demo:0.05"):
        assert torch.equal(CODECS[name].encode(values, 1), CODECS[name].encode(values, 2))


# All but demo's, whose matrices machines multiply differently.
RECORDED = {
    "adaptive-random": "32000000000010c0",
    "dgc:0.05": "050000000302000000510a820b0000803940f6407600f6207620f6",
    "gaussian-k:0.05": "0400000004010000003586e60000803940f64076207620f6",
    "gaussian-k-paper:0.05": (
        "1000000002040000006d6d69036a55feff0000803940f68075e0f5e07580f54076607500f6c075a0"
        "f5207620f6a075c0f5007660f5"
    ),
    "rand-k:0.05": "090000000000000000002042000048c20000a0420000e1c2000002c2",
    "rand-k-biased:0.05": "090000000000000000008039007000f10074a0f580ee",
    "sparse-loco:0.05": "050000000302000000510a820b00008039157640762b01",
    "topk:0.05": "050000000302000000510a820b0000803940f6407600f6207620f6",
    "topk:0.05:float32": "050000000302000000510a820b0000c8c00000c8400000c0c00000c4400000c4c0",
    "topk:1": (
        "63000000000d000000ff7fffffffffffffffffffff0f0000803940f680ee007200f500e6407480f3"
        "006b807500f14070e0f500edc072a0f4a074c0f2006de07540f0007180f500eb807340f400660075"
        "00f2806e407600efc07120f500e82074c0f3006a607540f1007000f680ed8072c0f400e0807400f3"
        "806cc07580f0c070a0f500ec407360f40064e07440f2006e207680ef807140f500e9007400f40069"
        "407580f1806f20f600ee4072e0f400e4607440f3006ca075c0f08070c0f580ec007380f40060c074"
        "80f2806d007600f0407160f500eac07320f400682075c0f1"
    ),
    "topk:0.05:dither:2,7": "050000000302000000510a820b0000c840d00e00",
    "topk:0.3:dither:1.5,15,2": (
        "1e0000000108000000a5562ab552a9d44a20400004e2b4ec41a445aab455994a44aa5a559aa4459924965b6c"
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_frames_stay_what_they_are(name: str) -> None:
    numbers = np.arange(100)
    values = torch.from_numpy(((numbers * 37 % 101 - 50) / 8).astype(np.float32))
    frame = CODECS[name].encode(values, 9)
    assert frame.numpy().tobytes().hex() == RECORDED[name]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_does_the_same() -> None:
    values = drawn("laplace", 300_000)
    out = torch.empty(300_000, device="cuda")
    for codec in CODECS.values():
        frame = codec.encode(values, 3)
        codec.decode(frame, out)
        if codec.name.startswith("gaussian-k"):
            # Its threshold is of a sum, which a GPU adds up in another order.
            there = codec.encode(values.cuda(), 3)
            assert abs(len(there) / len(frame) - 1) < 0.01, codec.name
        elif codec.same_everywhere:
            assert torch.equal(codec.encode(values.cuda(), 3), frame), codec.name
            assert torch.equal(out.cpu(), decoded(codec, frame, 300_000)), codec.name
        else:
            torch.testing.assert_close(out.cpu(), decoded(codec, frame, 300_000))


# Bytes of liars; the fuzz targets of codecs try many more.


@pytest.mark.slow
@by_codec
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_changed_frames_are_refused_or_harmless(codec: Codec, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 300))
    valid = codec.encode(drawn(data.draw(st.sampled_from(sorted(DISTRIBUTIONS))), count), 5)
    changed = bytearray(valid.numpy().tobytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed)))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set" if place < len(changed):
                changed[place] = data.draw(st.integers(0, 255))
            case "cut":
                del changed[place : place + data.draw(st.integers(1, 4))]
            case _:
                changed[place:place] = data.draw(st.binary(max_size=4))
    check_harmless(codec, bytes(changed), count)


def check_harmless(codec: Codec, frame: bytes, count: int) -> None:
    """A frame that passes is finite, within the limits, and touches nothing but out."""
    around = torch.full((count + 2,), torch.nan)
    try:
        codec.decode(torch.frombuffer(bytearray(frame or b"\0"), dtype=torch.uint8), around[1:-1])
    except FrameInvalid:
        return
    finally:
        assert around[[0, -1]].isnan().all()
    assert around[1:-1].isfinite().all()
    assert len(frame) <= codec.size_limit_bytes(count)


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        ("", "0 bytes are no head"),
        ("0100000000010000", "8 bytes are no head"),
        ("ffffffff 00 01000000", "elements sent"),
        ("0b000000 00 02000000 ff0f", "11 elements sent"),  # more than this codec ever sends
        ("01000000 08 01000000", "rests of 8 bits"),
        ("00000000 01 00000000", "rests of 1 bits"),  # nothing sent has one spelling
        ("00000000 00 01000000 00", "1 bytes mark 0"),
        ("00000000 00 00000000 00", "10 bytes where 9 were due"),
        ("01000000 00 ffffff7f", "2147483647 bytes mark"),
        ("01000000 00 00000000 0000803f 003c", "0 positions are marked"),
        ("01000000 00 01000000 01 0000803f", "were due"),  # no value
        ("01000000 00 01000000 01 0000803f 003c 00", "were due"),
        ("01000000 00 01000000 01 0000803f 007c", "not finite"),
        ("02000000 00 01000000 01 0000803f 003c 003c", "1 positions are marked"),
    ],
)
def test_what_is_wrong_is_said(frame: str, complaint: str) -> None:
    data = torch.frombuffer(bytearray(bytes.fromhex(frame)) or bytearray(1), dtype=torch.uint8)
    with pytest.raises(FrameInvalid, match=complaint):
        codec_named("topk:0.1").decode(data[: len(bytes.fromhex(frame))], torch.empty(100))


def test_coefficients_of_liars_do_not_add_up_to_infinity() -> None:
    codec = codec_named("demo:1:float32")
    largest = torch.finfo(torch.float32).max
    values = torch.full((128,), largest)
    assert decoded(codec, codec.encode(values, 0), 128).isfinite().all()
    # The same bytes but for the name: all coefficients are the largest number.
    frame = codec_named("topk:1:float32").encode(values * values.sign().cumsum(0).cos().sign(), 0)
    assert decoded(codec, frame, 128).isfinite().all()


@pytest.mark.parametrize(
    ("name", "frame", "complaint"),
    [
        ("rand-k:0.02", "0000000000000080 0000803f 0000803f", "the seed"),
        ("rand-k:0.02", "0000000000000000 0000803f", "12 bytes where 16"),
        ("rand-k:0.02", "0000000000000000 0000803f 0000807f", "a number is not from"),
        ("adaptive-random", "64000000 0000803f", "1.0 at 100 of 100"),
        ("adaptive-random", "00000000 0000c07f", "nan at 0"),
        ("adaptive-random", "00000000 0000", "6 bytes where 8"),
    ],
)
def test_what_is_wrong_with_what_chance_picked_is_said(
    name: str, frame: str, complaint: str
) -> None:
    data = torch.frombuffer(bytearray(bytes.fromhex(frame)), dtype=torch.uint8)
    with pytest.raises(FrameInvalid, match=complaint):
        codec_named(name).decode(data, torch.empty(100))


def test_adaptive_random_picks_in_every_tile_as_often_as_its_sum_says() -> None:
    """Two tiles and a half; what is 0 is never picked, unless all are."""
    codec, values = codec_named("adaptive-random"), torch.zeros(5 * TILE_ELEMENTS // 2)
    shares = {7: 0.2, TILE_ELEMENTS + 9: 0.5, 2 * TILE_ELEMENTS: 0.3}
    for position, share in shares.items():
        values[position] = -share
    picked: Counter[int] = Counter()
    for seed in range(600):
        out = torch.empty_like(values)
        codec.decode(codec.encode(values, seed), out)
        (position,) = out.nonzero().flatten().tolist()
        assert out[position] == values[position]
        picked[position] += 1
    for position, share in shares.items():
        # Four standard deviations.
        assert abs(picked[position] / 600 - share) < 4 * math.sqrt(share * (1 - share) / 600)
    zeros = torch.zeros_like(values)
    out = torch.ones_like(values)
    codec.decode(codec.encode(zeros, 1), out)
    assert not out.any()
