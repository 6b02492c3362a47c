"""16-bit floats: rounded as numpy does, finite always, and scaled where they would vanish."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.registry import codec_named
from tests.averaging.codecs.inequalities import compressor_of, moments
from tests.averaging.codecs.quantizers.cases import normal

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=30))
def test_float16_is_a_cast_that_is_cut_off(numbers: list[float]) -> None:
    values = torch.tensor(numbers)
    cut = np.clip(values.numpy(), -65_504, 65_504).astype(np.float16).astype(np.float32)
    assert compressor_of(codec_named("float16"))(values, 0).tolist() == cut.tolist()


def test_bfloat16_rounds_to_even_and_never_to_infinity() -> None:
    end = 255 * 2.0**120
    values = torch.tensor([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.4028234e38, -3.4e38, 1e-39])
    out = compressor_of(codec_named("bfloat16"))(values, 0)
    assert out[:5].tolist() == [1.0, 1.0, 1 + 2**-6, end, -end]
    assert out[5] == pytest.approx(1e-39, rel=0.01)


@given(st.lists(FLOATS, min_size=1, max_size=30))
def test_scaling_keeps_what_float16_would_lose(numbers: list[float]) -> None:
    values = torch.tensor(numbers)
    largest = float(values.abs().max())
    out = compressor_of(codec_named("float16-scaled"))(values, 0)
    if largest < 2.0**-100:
        assert not out.any()
        return
    # Half a unit of the last place; below 2**-29 of the largest, half of the smallest unit.
    allowed = values.abs() / 2**11 + largest * 2.0**-39
    assert bool(((out - values).abs() <= allowed).all())


@pytest.mark.parametrize(
    ("name", "worst"), [("bfloat16", 1 + 2**-8), ("float16-scaled", 1 + 2**-11)]
)
def test_the_bound_is_tight(name: str, worst: float) -> None:
    """Each element half way between two numbers, of which the even one is the smaller."""
    codec, values = codec_named(name), torch.full((64,), worst)
    delta = codec.constants(64).b3
    assert delta is not None
    missed = moments(compressor_of(codec), values).missed.mean
    assert missed == pytest.approx(1 - 1 / delta, rel=1e-4)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float16-scaled"])
def test_what_is_not_finite_is_refused(name: str) -> None:
    codec, out = codec_named(name), torch.empty(9)
    frame = codec.encode(normal(9), 0)
    # Infinity or NaN in both formats, of both signs; the last element.
    for low, high in ((0x80, 0x7F), (0x80, 0xFF), (0x00, 0x7C), (0x01, 0xFE), (0xFF, 0xFF)):
        wrong = frame.clone()
        wrong[-2], wrong[-1] = low, high
        half = wrong[-2:].view(torch.bfloat16 if name == "bfloat16" else torch.float16)
        if bool(torch.isfinite(half)):
            codec.decode(wrong, out)
            continue
        with pytest.raises(FrameInvalid, match="finite"):
            codec.decode(wrong, out)


def test_a_scale_that_makes_values_infinite_is_refused() -> None:
    codec, out = codec_named("float16-scaled"), torch.empty(2)
    frame = codec.encode(torch.tensor([1.0, 3e38]), 0)
    codec.decode(frame, out)
    frame[3] += 1
    with pytest.raises(FrameInvalid, match="finite"):
        codec.decode(frame, out)
