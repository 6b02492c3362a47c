"""The weighted mean: equal to a plain slow one, for any weights, dtypes and lengths."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.mean import BLOCK_ELEMENTS, Contribution, all_finite, weighted_mean

Array = np.ndarray[Any, Any]


def values(seed: int, size: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def plain_mean(pairs: list[tuple[float, Array]]) -> Array:
    """The weighted mean, one element at a time, in exact sums of doubles."""
    total = math.fsum(weight for weight, _ in pairs)
    return np.array(
        [
            math.fsum(weight * float(vector[i]) for weight, vector in pairs) / total
            for i in range(len(pairs[0][1]))
        ]
    )


TOLERANCE = {"float16": 1e-3, "float32": 1e-5, "float64": 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(
    weights=st.lists(
        st.one_of(st.just(1.0), st.floats(0, 1e30), st.integers(0, 5000).map(float)),
        min_size=1,
        max_size=6,
    ),
    size=st.integers(1, 9),
)
def test_mean_equals_the_plain_one(dtype: str, weights: list[float], size: int) -> None:
    pairs = [(weight, values(seed, size, dtype)) for seed, weight in enumerate(weights)]
    mean = weighted_mean([Contribution(*pair) for pair in pairs], np.dtype(dtype))
    if sum(weights) == 0:
        assert mean is None
        return
    assert mean is not None
    assert mean.dtype == dtype
    np.testing.assert_allclose(mean, plain_mean(pairs), atol=4 * TOLERANCE[dtype], rtol=0)


def test_nothing_has_no_mean() -> None:
    assert weighted_mean([], np.dtype("float32")) is None


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mean_of_the_largest_finite_values_is_finite(dtype: str) -> None:
    largest = np.full(3, np.finfo(dtype).max, dtype)
    for weights in itertools.product([1.0, 3.0, 1e17], repeat=3):
        mean = weighted_mean([Contribution(w, largest) for w in weights], np.dtype(dtype))
        assert mean is not None
        np.testing.assert_allclose(mean, largest, rtol=2e-3)


def test_inputs_are_not_changed() -> None:
    first, second = values(1, 5), values(2, 5)
    kept = first.copy(), second.copy()
    weighted_mean([Contribution(2.0, first), Contribution(3.0, second)], np.dtype("float32"))
    np.testing.assert_array_equal((first, second), kept)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_mean_may_be_made_in_given_memory(dtype: str) -> None:
    size = BLOCK_ELEMENTS + 5
    parts = [Contribution(w, values(seed, size, dtype)) for seed, w in enumerate([2.0, 3.0])]
    out = np.full(size, np.nan, dtype)
    assert weighted_mean(parts, np.dtype(dtype), out) is out
    np.testing.assert_array_equal(out, weighted_mean(parts, np.dtype(dtype)))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_whole_number_weights_are_exact(dtype: str) -> None:
    """Small whole numbers leave nothing to round but the one division."""
    rng = np.random.default_rng(1)
    vectors = [rng.integers(-50, 50, 100).astype(dtype) for _ in range(7)]
    for weights in ([32.0] * 7, [float(n) for n in range(1, 8)]):
        parts = [Contribution(w, v) for w, v in zip(weights, vectors, strict=True)]
        total = sum(w * v.astype("float64") for w, v in zip(weights, vectors, strict=True))
        kept = np.dtype("float64" if dtype == "float64" else "float32").type
        expected = (np.asarray(total, kept) / kept(sum(weights))).astype(dtype)
        np.testing.assert_array_equal(weighted_mean(parts, np.dtype(dtype)), expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weights", [[2.0, 2.0, 2.0], [1.0, 2.0, 0.5]])
def test_borders_of_blocks_do_not_show(dtype: str, weights: list[float]) -> None:
    size = 2 * BLOCK_ELEMENTS + 5
    vectors = [values(seed, size, dtype) for seed in range(3)]
    whole = weighted_mean(
        [Contribution(w, v) for w, v in zip(weights, vectors, strict=True)], np.dtype(dtype)
    )
    assert whole is not None
    for start in (0, BLOCK_ELEMENTS - 3, 2 * BLOCK_ELEMENTS - 3, size - 3):
        piece = weighted_mean(
            [Contribution(w, v[start:][:6]) for w, v in zip(weights, vectors, strict=True)],
            np.dtype(dtype),
        )
        np.testing.assert_array_equal(whole[start:][:6], piece)


def test_dtypes_may_differ_and_too_large_becomes_the_largest() -> None:
    parts = [
        Contribution(1.0, np.array([1.0, 1e300, 70000.0])),
        Contribution(1.0, np.array([2.0, 1e300, 70000.0], "float64")),
        Contribution(1.0, np.array([3.0, 1.0, 65504.0], "float16")),
        Contribution(1.0, np.array([4.0, 1e38, 70000.0], "float32")),
    ]
    mean = weighted_mean(parts, np.dtype("float16"))
    np.testing.assert_array_equal(mean, np.array([2.5, 65504, 65504], "float16"))


def test_weight_zero_is_not_read() -> None:
    parts = [Contribution(0.0, np.full(3, np.nan)), Contribution(5.0, np.full(3, 0.1))]
    mean = weighted_mean(parts, np.dtype("float64"))
    np.testing.assert_array_equal(mean, np.full(3, 0.1))


def test_nothing_to_average_is_fine() -> None:
    mean = weighted_mean([Contribution(1.0, np.empty(0, "float32"))], np.dtype("float32"))
    assert mean is not None
    assert mean.shape == (0,)


@pytest.mark.parametrize("dtype", TOLERANCE)
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
    for half in np.arange(2**16, dtype=np.uint16).view(np.float16)[::7]:
        assert all_finite(np.array([half])) == bool(np.isfinite(half))
