"""Norms: whoever declares an absurd one is named, and sums of squares are exact and finite."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.robust.norms import BLOCK_ELEMENTS, refused_norms, rough_square_sum, square_sum

DTYPES = ("float16", "float32", "float64")


def equal_weights(norms: dict[str, float]) -> dict[str, float]:
    return dict.fromkeys(norms, 1.0)


def test_a_norm_far_over_the_median_is_refused_and_named() -> None:
    norms = {"alice": 3.0, "bob": 3.2, "carol": 1e30, "dave": 4.0, "erin": 32.0}
    assert refused_norms(norms, equal_weights(norms)) == {
        "carol": "norm 1e+30 is over 10 × the median 4"
    }
    assert list(refused_norms(norms, equal_weights(norms), factor_max=2.0)) == ["carol", "erin"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0])
def test_what_is_no_norm_is_refused_even_of_two(bad: float) -> None:
    norms = {"alice": bad, "bob": 1.0}
    for weight in (0.0, 1.0):
        refused = refused_norms(norms, {"alice": weight, "bob": 1.0})
        assert list(refused) == ["alice"]
        assert "is not a number >= 0" in refused["alice"]


def test_of_two_norms_none_is_too_large() -> None:
    norms = {"alice": 1.0, "bob": 1e30, "carol": 0.0, "dave": 2.0}
    weights = {"alice": 1.0, "bob": 1.0, "carol": 1.0, "dave": 0.0}
    assert refused_norms(norms, weights) == {}


def test_weight_zero_is_never_too_large() -> None:
    norms = {"alice": 1.0, "bob": 1.0, "carol": 1.0, "dave": 1e30}
    assert refused_norms(norms, {**equal_weights(norms), "dave": 0.0}) == {}


@given(
    honest=st.lists(st.floats(1.0, 2.0), min_size=2, max_size=12),
    lies=st.lists(st.one_of(st.floats(), st.sampled_from([0.0, 1e-300, 1e300])), max_size=11),
)
def test_fewer_liars_than_honest_ones_cannot_get_those_refused(
    honest: list[float], lies: list[float]
) -> None:
    lies = lies[: len(honest) - 1]
    norms = {f"honest{number}": norm for number, norm in enumerate(honest)}
    norms |= {f"liar{number}": norm for number, norm in enumerate(lies)}
    refused = refused_norms(norms, equal_weights(norms))
    assert not any(name.startswith("honest") for name in refused)
    counted = sum(1 for norm in norms.values() if 0 < norm < math.inf)
    if counted >= 3:
        passed = [norms[name] for name in norms if name not in refused]
        assert all(0 <= norm <= 20.0 for norm in passed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 5, BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS + 3])
def test_square_sum_equals_the_exact_one(dtype: str, size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size).astype(dtype)
    kept = values.copy()
    exact = math.fsum(float(value) ** 2 for value in values)
    assert square_sum(values) == pytest.approx(exact, rel=1e-12)
    np.testing.assert_array_equal(values, kept)


@pytest.mark.parametrize("dtype", DTYPES)
def test_square_sum_is_finite_for_the_largest_and_the_least(dtype: str) -> None:
    kind = np.finfo(dtype)
    large = np.full(9, kind.max, dtype)
    assert square_sum(large) == (np.inf if dtype == "float64" else 9 * float(kind.max) ** 2)
    if dtype != "float64":
        assert square_sum(np.full(9, kind.smallest_subnormal, dtype)) > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_square_sum_shows_one_bad_value(dtype: str, bad: float) -> None:
    values = np.ones(BLOCK_ELEMENTS + 7, dtype)
    values[-1] = bad
    assert not math.isfinite(square_sum(values))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 5, BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS + 3])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_rough_sum_is_good_to_four_digits(dtype: str, size: int, scale: float) -> None:
    values = (np.random.default_rng(size).standard_normal(size) * scale).astype(dtype)
    assert rough_square_sum(values) == pytest.approx(square_sum(values), rel=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_rough_sum_shows_bad_values_and_bears_large_ones(bad: float) -> None:
    values = np.full(BLOCK_ELEMENTS + 7, np.finfo(np.float32).max)
    values = values.astype(np.float32)
    assert rough_square_sum(values) == square_sum(values)
    values[-1] = bad
    assert not math.isfinite(rough_square_sum(values))
