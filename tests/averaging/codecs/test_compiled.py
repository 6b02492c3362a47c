"""Compiled loops against what they stand for, to the bit, and with buffers that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.compiled import LOOPS
from averaging.codecs.draws import hashes_of_places
from averaging.codecs.quantizers.geometric import Geometric, Grid
from averaging.codecs.quantizers.uniform import Uniform
from averaging.codecs.sparsifiers.scan import largest_of_blocks
from tests.averaging.codecs.quantizers.cases import normal

assert LOOPS is not None, "make setup compiles them"

BITS = st.integers(0, 2**32 - 1).filter(lambda bits: bits & 0x7F800000 != 0x7F800000)
"""Of finite values; as many are subnormal or huge as otherwise."""
RUNS = st.one_of(
    st.lists(BITS, min_size=1, max_size=200).map(
        lambda bits: torch.tensor(bits, dtype=torch.uint32).view(torch.float32)
    ),
    st.builds(
        lambda count, seed, size: normal(count, seed, size),
        st.integers(1, 9000),
        st.integers(0, 99),
        st.sampled_from([1e-29, 1e-20, 1.0, 1e30]),
    ),
    # In units of int8's scale these are whole numbers and halves, and many are equal.
    st.lists(st.integers(-254, 254), min_size=1, max_size=200).map(
        lambda halves: torch.tensor([127.0, *(half / 2 for half in halves)])
    ),
)
GRIDS = st.sampled_from(
    [
        Grid(base=2.0, levels=127, power_top=True),
        Grid(base=2.0, levels=7, norm="2"),
        Grid(base=2.0, levels=40, nearest=True),
        Grid(base=4.0, levels=63),
        Grid(base=4.0, levels=63, nearest=True),
        Grid(base=1.05, levels=127, norm="1"),
        Grid(base=256.0, levels=3, nearest=True),
    ]
)


def same_frames(compiled: Codec, plain: Codec, values: torch.Tensor, seed: int) -> None:
    frame = plain.encode(values, seed)
    decoded, again = torch.empty_like(values), torch.empty_like(values)
    assert torch.equal(compiled.encode(values, seed), frame)
    plain.decode(frame, decoded)
    compiled.decode(frame, again)
    assert torch.equal(decoded.view(torch.int32), again.view(torch.int32))
    measured = compiled.encode_measured(values, seed)
    assert measured is not None
    assert torch.equal(measured[0], frame)
    assert measured[1] == pytest.approx(float(decoded.double().square().sum()), rel=1e-5)
    rest = values.clone()
    assert torch.equal(compiled.encode_keeping_rest(rest, seed), frame)
    assert torch.equal(rest, values - decoded)


@settings(max_examples=150)
@given(RUNS, st.sampled_from([None, 16, 64, 4096]), st.sampled_from([64, 100, 127]))
def test_bytes_with_scales(values: torch.Tensor, block: int | None, largest: int) -> None:
    compiled = Uniform("compiled", largest, block)
    same_frames(compiled, Uniform("plain", largest, block, loops=None), values, 0)


@settings(max_examples=150)
@given(RUNS, GRIDS, st.integers(0, 2**63 - 1))
def test_geometric_grids(values: torch.Tensor, grid: Grid, seed: int) -> None:
    same_frames(Geometric("compiled", grid), Geometric("plain", grid, loops=None), values, seed)


def test_geometric_grids_over_several_tiles() -> None:
    for grid in (Grid(base=2.0, levels=7), Grid(base=3.0, levels=20)):
        compiled, plain = Geometric("compiled", grid), Geometric("plain", grid, loops=None)
        values = normal(150_000)
        assert torch.equal(compiled.encode(values, 3), plain.encode(values, 3))


@settings(max_examples=150)
@given(st.data(), RUNS)
def test_the_largest_of_blocks(data: st.DataObject, values: torch.Tensor) -> None:
    block = data.draw(st.integers(1, 300))
    kept = data.draw(st.integers(1, block))
    last = values.numel() % block
    kept_last = data.draw(st.integers(1, last)) if last else 0
    assert torch.equal(
        largest_of_blocks(values, block, kept, kept_last),
        largest_of_blocks(values, block, kept, kept_last, loops=None),
    )


def test_blocks_of_other_sizes_than_the_one_before() -> None:
    """What a block tells the next is no more than a guess."""
    sizes = torch.tensor([1.0, 1e-30, 1e30, 0.0, 1.0, 1.0]).repeat_interleave(4096)
    values = normal(sizes.numel()) * sizes
    # As many equal ones as there are, of which the first are meant.
    values[-4096:] = 2.0
    found = largest_of_blocks(values, 4096, 41, 0)
    assert torch.equal(found, largest_of_blocks(values, 4096, 41, 0, loops=None))
    assert found.numel() == 5 * 41
    assert found[-41:].tolist() == list(range(5 * 4096, 5 * 4096 + 41))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_invalid_is_refused_with_and_without(value: float) -> None:
    for codec in (Uniform("compiled", 127, 16), Uniform("plain", 127, 16, loops=None)):
        values = torch.ones(40)
        frame = codec.encode(values, 0)
        values[33] = value
        with pytest.raises(ValueError, match="only finite"):
            codec.encode(values, 0)
        with pytest.raises(ValueError, match="only finite"):
            codec.encode_keeping_rest(values.clone(), 0)
        assert codec.encode_measured(values, 0) is None
        frame[-1] = 255
        with pytest.raises(FrameInvalid, match="beyond 127"):
            codec.decode(frame, values)


def test_squares_of_more_symbols_than_are_summed_at_once() -> None:
    values = torch.full((200_001,), -3.0)
    measured = Uniform("compiled", 127).encode_measured(values, 0)
    assert measured is not None
    assert measured[1] == pytest.approx(9 * 200_001, rel=1e-5)


def test_buffers_must_belong_together_for_bytes() -> None:
    values, frame = np.ones(20, np.float32), np.empty(28, np.uint8)
    scales, symbols = np.ones(2, np.float32), np.zeros(20, np.uint8)
    assert LOOPS.encode_int8(values, 16, 127, 1e30, 1e-30, frame, False) == pytest.approx(20)
    assert LOOPS.decode_int8(scales, symbols, 16, 127, values)
    for block, largest, room in (
        (0, 127, frame),
        (-1, 127, frame),
        (16, 0, frame),
        (16, 128, frame),
        (16, 127, frame[:-1]),
        (20, 127, frame),
    ):
        with pytest.raises(ValueError, match="sizes"):
            LOOPS.encode_int8(values, block, largest, 1e30, 1e-30, room, False)
    values.setflags(write=False)
    with pytest.raises(ValueError, match="read-only"):
        LOOPS.encode_int8(values, 16, 127, 1e30, 1e-30, frame, True)
    values.setflags(write=True)
    for block, largest, some, out in (
        (0, 127, scales, values),
        (16, 0, scales, values),
        (16, 128, scales, values),
        (16, 127, scales[:1], values),
        (16, 127, scales, values[:-1]),
    ):
        with pytest.raises(ValueError, match="sizes"):
            LOOPS.decode_int8(some, symbols, block, largest, out)


def test_buffers_must_belong_together_for_blocks() -> None:
    values, positions = np.ones(20, np.float32), np.empty(4, np.int64)
    assert LOOPS.largest_of_blocks(values, 16, 3, 1, positions) == 4
    for block, kept, kept_last, out in (
        (0, 3, 1, positions),
        (16, 0, 1, positions),
        (16, 17, 1, np.empty(18, np.int64)),
        (16, 3, 5, np.empty(8, np.int64)),
        (16, 3, -1, np.empty(2, np.int64)),
        (16, 3, 1, positions[:-1]),
    ):
        with pytest.raises(ValueError, match="sizes"):
            LOOPS.largest_of_blocks(values, block, kept, kept_last, out)


def test_buffers_must_belong_together_for_grids() -> None:
    places = hashes_of_places(torch.device("cpu")).numpy()
    values, symbols = np.ones(20, np.float32), np.empty(20, np.uint8)
    steps, per_gap = np.zeros(5, np.int32), np.ones(8, np.float32)

    given = {
        "levels": 7,
        "places": places,
        "key": 1,
        "steps": steps,
        "per_gap": per_gap,
        "gap_draws": 1.0,
        "below": 0,
        "symbols": symbols,
    }

    def rounded(**changed: Any) -> None:
        LOOPS.round_to_grid(values, 1.0, 3.0, 0.1, *(given | changed).values())

    rounded()
    # Sizes beyond all steps, and of values that are no numbers, stay within the tables.
    for value in ("nan", "-nan", "inf", "-inf"):
        values[:] = np.float32(value)
        rounded()
    rounded(steps=None)
    for wrong in (
        {"levels": 0},
        {"levels": 128, "per_gap": np.ones(129, np.float32)},
        {"places": places[:19]},
        {"steps": steps[:0]},
        {"per_gap": per_gap[:-1]},
        {"per_gap": None},
        {"symbols": symbols[:-1]},
    ):
        with pytest.raises(ValueError, match="sizes"):
            rounded(**wrong)
