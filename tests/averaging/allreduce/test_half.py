"""Halves: the fast copies give the very bits that numpy gives, for every half there is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.half import all_finite, convert

Array = np.ndarray[Any, Any]

EVERY_HALF = np.arange(2**16, dtype=np.uint16).view(np.float16)


def same_bits(one: Array, other: Array) -> None:
    """Equal to the bit; of what is not a number only that it is none."""
    assert one.dtype == other.dtype
    nan = np.isnan(other)
    np.testing.assert_array_equal(np.isnan(one), nan)
    whole = f"u{one.dtype.itemsize}"
    np.testing.assert_array_equal(one[~nan].view(whole), other[~nan].view(whole))


def numpys(values: Array, dtype: str) -> Array:
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def ours(values: Array, dtype: str) -> Array:
    out = np.empty(values.shape, dtype)
    convert(values, out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_half_is_widened_exactly(dtype: str) -> None:
    finite = EVERY_HALF[np.isfinite(EVERY_HALF)]
    for halves in (EVERY_HALF, finite, finite[::2], finite[:0]):
        same_bits(ours(halves, dtype), numpys(halves, dtype))


def test_every_half_and_what_lies_between_two_is_rounded_as_numpy_does() -> None:
    exact = np.sort(EVERY_HALF[np.isfinite(EVERY_HALF)]).astype(np.float32)
    middles = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
    around = np.concatenate([exact, middles])
    for values in (around, np.nextafter(around, np.float32(np.inf)), -around):
        same_bits(ours(values, "float16"), numpys(values, "float16"))


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_any_float_is_rounded_as_numpy_does(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    same_bits(ours(values, "float16"), numpys(values, "float16"))


@given(st.integers(0, 2**32 - 1))
def test_any_bits_are_rounded_as_numpy_does(seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, 1000, np.uint32)
    values = bits.view(np.float32)
    same_bits(ours(values, "float16"), numpys(values, "float16"))


def test_unaligned_bytes_are_read() -> None:
    halves = np.linspace(-1, 1, 1001, dtype=np.float16)
    values = np.frombuffer(b"x" + halves.tobytes(), np.float16, offset=1)
    same_bits(ours(values, "float32"), numpys(halves, "float32"))


def test_other_pairs_are_copied() -> None:
    wide = np.array([1e300, -1e-300, 0.1, np.nan])
    same_bits(ours(wide, "float16"), numpys(wide, "float16"))
    same_bits(ours(wide, "float32"), numpys(wide, "float32"))
    convert(wide, wide)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_bad_values_are_found_wherever_they_are(dtype: str) -> None:
    kind = np.finfo(dtype)
    good = np.array([kind.max, kind.min, kind.smallest_subnormal, -0.0, 0.0, -1.0], dtype)
    assert all_finite(good)
    assert all_finite(good[:0])
    for place in range(len(good)):
        for bad in (np.inf, -np.inf, np.nan, -np.nan):
            spoilt = good.copy()
            spoilt[place] = bad
            assert not all_finite(spoilt)


def test_every_half_is_finite_or_not() -> None:
    for half in EVERY_HALF[::7]:
        assert all_finite(np.array([half])) == bool(np.isfinite(half))
