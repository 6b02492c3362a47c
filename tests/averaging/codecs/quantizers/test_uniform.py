"""Whole numbers times a scale, against a plain slow version, and at their worst."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.quantizers.uniform import Uniform
from averaging.codecs.registry import codec_named
from tests.averaging.codecs.inequalities import compressor_of, moments, worst_missed
from tests.averaging.codecs.quantizers.cases import normal

CASES = {"int8": (127, None), "int8-block:64": (127, 64), "int4-block:16": (7, 16)}
"""L, and the size of a block."""
LARGEST_FLOAT = float(np.finfo(np.float32).max)


def slowly_rounded(values: torch.Tensor, largest: int, block: int | None) -> torch.Tensor:
    """Element by element, in numpy's float32."""
    out = np.zeros(values.numel(), np.float32)
    numbers = values.numpy()
    size = block or numbers.size
    for start in range(0, numbers.size, size):
        peak = np.abs(numbers[start : start + size]).max()
        if peak < 2.0**-100:
            continue
        scale = np.float32(peak / np.float32(largest))
        inverse = np.float32(1) / scale
        for index in range(start, min(start + size, numbers.size)):
            out[index] = np.float32(np.rint(numbers[index] * inverse)) * scale
    return torch.from_numpy(out)


@pytest.mark.parametrize("name", CASES)
def test_rounding_is_as_slow_rounding(name: str) -> None:
    largest, block = CASES[name]
    for codec in (codec_named(name), Uniform("plain", largest, block, loops=None)):
        compressor = compressor_of(codec)
        for values in (normal(200), normal(3, 1), torch.tensor([1e-35, 1e30]), normal(9, 2, 1e-20)):
            assert torch.equal(compressor(values, 0), slowly_rounded(values, largest, block))


@pytest.mark.parametrize("name", CASES)
def test_the_bound_is_tight(name: str) -> None:
    """One element L, all others just a half: each becomes zero, the even one of its neighbors."""
    largest, block = CASES[name]
    values = torch.full((block or 2000,), 0.5)
    values[0] = largest
    codec = codec_named(name)
    delta = codec.constants(values.numel()).b3
    assert delta is not None
    assert moments(compressor_of(codec), values).missed.mean == pytest.approx(
        1 - 1 / delta, rel=1e-5
    )


def test_no_search_finds_a_worse_vector() -> None:
    codec = codec_named("int4-block:16")
    delta = codec.constants(16).b3
    assert delta is not None
    worst = 0.0
    for seed in range(3):
        found, _ = worst_missed(compressor_of(codec), normal(16, seed), 100, seed)
        worst = max(worst, found)
    assert 0.3 * (1 - 1 / delta) < worst <= 1 - 1 / delta + 1e-6


def test_one_large_element_harms_its_block_only() -> None:
    values = normal(8192)
    values[0] = 1e6
    plain, blocks = (
        compressor_of(codec_named(name))(values, 0) for name in ("int8", "int8-block:4096")
    )
    assert not plain[1:].any()
    assert bool(((blocks[4096:] - values[4096:]).abs() < 2e-4).all())


@settings(max_examples=40)
@example(LARGEST_FLOAT, False)
@given(st.floats(2.0**-100, LARGEST_FLOAT, width=32), st.booleans())
def test_the_largest_comes_back_as_it_was(largest: float, negative: bool) -> None:
    values = torch.tensor([-largest if negative else largest, 0.0])
    for name in CASES:
        out = compressor_of(codec_named(name))(values, 0)
        assert out.tolist() == [pytest.approx(float(values[0]), rel=2e-6), 0.0]


def test_symbols_and_scales_beyond_the_largest_are_refused() -> None:
    for name in CASES:
        codec, out = codec_named(name), torch.empty(4)
        frame = codec.encode(torch.ones(4), 0)
        for place, byte in ((-1, 255), (3, 0x7F)):
            wrong = frame.clone()
            wrong[place] = byte
            with pytest.raises(FrameInvalid):
                codec.decode(wrong, out)
