"""The ring: means against exact fractions, sums that cannot overflow, and ones that cannot be."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.secure.ring import Ring, SumInvalid

Array = np.ndarray[Any, Any]
Bits = Literal[32, 64]


def ring_of(members: int, bits: Bits = 32, value_max: float = 4.0) -> Ring:
    return Ring(bits=bits, members=members, value_max=value_max, weight_max=2.0)


def summed(ring: Ring, vectors: list[Array], weights: list[float]) -> Array:
    total = np.zeros(len(vectors[0]) + 1, ring.dtype)
    for vector, weight in zip(vectors, weights, strict=True):
        encoded = np.empty_like(total)
        ring.encode(vector, weight, encoded)
        total += encoded
    return total


@pytest.mark.parametrize("bits", [32, 64])
@given(st.lists(st.tuples(st.floats(-4, 4, width=32), st.floats(0.1, 2)), min_size=1, max_size=8))
def test_means_are_those_of_exact_fractions(bits: Bits, members: list[tuple[float, float]]) -> None:
    ring = ring_of(len(members), bits)
    vectors = [np.array([value], np.float32) for value, _ in members]
    mean = np.empty(1)
    weight_sum = ring.decode(summed(ring, vectors, [weight for _, weight in members]), mean)
    exact_weights = sum(Fraction(weight) for _, weight in members)
    exact = sum(Fraction(value) * Fraction(weight) for value, weight in members) / exact_weights
    # Half a step for each value and weight, over the least weight there is.
    step = 4 * len(members) * ring.value_max * ring.weight_max / ring.quantum
    assert abs(mean[0] - float(exact)) <= step / float(exact_weights) + 1e-15
    assert weight_sum == pytest.approx(float(exact_weights), abs=step)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("members", [1, 3, 7, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_of_all_members_do_not_overflow(
    bits: Bits, members: int, sign: int
) -> None:
    ring = ring_of(members, bits, value_max=0.3)
    vector = np.array([sign * 0.3, sign * 1e30, 0.0], np.float32)
    total = summed(ring, [vector] * members, [2.0] * members).view(f"i{bits // 8}")
    quantum = ring.quantum
    assert [int(one) for one in total] == [
        sign * quantum * members,
        sign * quantum * members,
        0,
        quantum * members,
    ]
    assert quantum * members < 2 ** (bits - 1)
    mean = np.empty(3, np.float32)
    assert ring.decode(total.view(ring.dtype), mean) == pytest.approx(2.0 * members)
    np.testing.assert_allclose(mean, [sign * 0.3, sign * 0.3, 0], rtol=1e-6)


def test_what_is_clipped_is_counted() -> None:
    ring, out = ring_of(3), np.empty(5, np.uint32)
    assert ring.encode(np.array([4.0, -4.5, 5.0, 0.0]), 1.0, out) == 2
    half = ring.quantum // 2
    np.testing.assert_allclose(out.view(np.int32), [half, -half, half, 0, half], atol=1)


def test_a_long_vector_is_worked_on_piece_by_piece() -> None:
    ring = ring_of(1)
    vector = np.random.default_rng(0).uniform(-4, 4, 200_000).astype(np.float32)
    mean = np.empty_like(vector)
    ring.decode(summed(ring, [vector], [2.0]), mean)
    np.testing.assert_allclose(mean, vector, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        ring_of(3).encode(np.array([0.0, value]), 1.0, np.empty(3, np.uint32))


@pytest.mark.parametrize("weight", [-0.1, 2.1, float("nan")])
def test_weights_out_of_range_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 2"):
        ring_of(3).weight_of(weight)


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        ([0, 0], "all weights are zero"),
        ([1, 0], "all weights are zero"),
        ([5, 4], "out of range; some member"),
        ([-5, 4], "out of range; some member"),
        ([0, -1], "no weights can"),
        ([0, 2**31 - 1], "no weights can"),
    ],
)
def test_sums_of_no_honest_members(sums: list[int], reason: str) -> None:
    ring = ring_of(4)
    with pytest.raises(SumInvalid, match=reason):
        ring.decode(np.array(sums, np.int32).view(np.uint32), np.empty(1))


def test_options_that_make_no_ring() -> None:
    for options in (
        {"bits": 16},
        {"members": 0},
        {"members": 2**40},
        {"value_max": 0.0},
        {"value_max": float("inf")},
        {"weight_max": float("nan")},
    ):
        with pytest.raises(ValueError, match=r"ring|positive and finite"):
            Ring(**{"bits": 32, "members": 4, "value_max": 1.0, "weight_max": 1.0} | options)  # type: ignore[arg-type]
