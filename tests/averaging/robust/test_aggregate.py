"""Robust rules: equal to plain slow ones, and liars below the breakdown point get nowhere."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.robust.aggregate import aggregate
from averaging.robust.rule import Rule, RuleKind
from tests.averaging.robust import plain

Array = np.ndarray[Any, Any]

RULES = ("mean", "median", "trimmed_mean(0.2)", "centered_clipping(2, 3)")
ROBUST = ("median", "trimmed_mean(0.34)", "trimmed_mean(0.2)", "centered_clipping(2, 3)")
TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 2e-8}

# Scales are powers of two: halves that are met exactly stay so.
weight_lists = st.one_of(
    st.integers(1, 20).map(lambda count: [1.0] * count),
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20),
    st.builds(
        lambda weights, scale: [weight * scale for weight in weights],
        st.lists(st.floats(0.5, 100, width=16), min_size=1, max_size=6),
        st.sampled_from([2.0**-90, 1.0, 2.0**90]),
    ),
)


def vectors(seed: int, count: int, size: int, dtype: str = "float32") -> list[Array]:
    rng = np.random.default_rng(seed)
    # Whole numbers among them, so that values are often equal.
    drawn = rng.standard_normal((count, size)) * 2
    whole = rng.random((count, size)) < 0.3
    return list(np.where(whole, np.round(drawn), drawn).astype(dtype))


def plainly(rule: Rule, values: list[Array], weights: list[float]) -> list[float]:
    """What the slow versions say."""
    kept = [(v.tolist(), w) for v, w in zip(values, weights, strict=True) if w > 0]
    lists, shares = [v for v, _ in kept], [w for _, w in kept]
    columns = list(zip(*lists, strict=True))
    if rule.kind is RuleKind.CENTERED_CLIPPING:
        assert rule.radius is not None
        assert rule.iterations is not None
        return plain.centered_clipping(lists, shares, rule.radius, rule.iterations)
    if rule.kind is RuleKind.MEDIAN:
        return [plain.middle_median(column, shares) for column in columns]
    return [plain.trimmed_mean(column, shares, rule.fraction or 0.0) for column in columns]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("text", [*RULES, "trimmed_mean(0.34)", "trimmed_mean(0.4999)"])
@settings(max_examples=30)
@given(weights=weight_lists, seed=st.integers(0, 2**32 - 1), size=st.integers(1, 6))
def test_equals_the_plain_one(
    text: str, dtype: str, weights: list[float], seed: int, size: int
) -> None:
    rule = Rule.parse(text)
    values = vectors(seed, len(weights), size, dtype)
    result = aggregate(values, weights, rule, np.dtype(dtype))
    if not any(weights):
        assert result is None
        return
    assert result is not None
    assert result.dtype == dtype
    expected = plainly(rule, values, weights)
    np.testing.assert_allclose(result, expected, atol=4 * TOLERANCE[dtype], rtol=0)
    if rule.kind is RuleKind.MEDIAN:
        np.testing.assert_array_equal(result, np.array(expected, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("count", [3, 32, 33, 40])
@pytest.mark.parametrize("mixed", [False, True])
def test_many_blocks_are_as_one(text: str, count: int, mixed: bool) -> None:
    """Long vectors give, away from norms, what their pieces give; borders of blocks do not show."""
    rule = Rule.parse(text)
    values = vectors(count, count, 40_001)
    weights = [float(number % 2 + 1) if mixed else 2.0 for number in range(count)]
    whole = aggregate(values, weights, rule, np.dtype("float32"))
    assert whole is not None
    if rule.kind is RuleKind.CENTERED_CLIPPING:
        if count == 3 and mixed:
            # One holds half of the weight, so all distances are held against its own, near 0.
            return
        # Nobody is far out here, so nothing is clipped.
        expected = np.average(values, axis=0, weights=weights)
        np.testing.assert_allclose(whole, expected, atol=1e-5)
        return
    for start in (0, 16_383, 32_760, 39_990):
        pieces = [vector[start : start + 11] for vector in values]
        expected = np.array(plainly(rule, pieces, weights))
        np.testing.assert_allclose(whole[start : start + 11], expected, atol=1e-5)


@pytest.mark.parametrize("text", RULES)
def test_nothing_gives_nothing(text: str) -> None:
    rule = Rule.parse(text)
    assert aggregate([], [], rule, np.dtype("float32")) is None
    assert aggregate([np.ones(3)], [0.0], rule, np.dtype("float32")) is None


@pytest.mark.parametrize("text", RULES)
@settings(max_examples=20)
@given(value=st.floats(-1e4, 1e4, width=16), count=st.integers(1, 20), seed=st.integers(0, 99))
def test_what_all_agree_on_comes_out(text: str, value: float, count: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(1, 9, count).astype(float).tolist()
    values = [np.full(5, value, "float32")] * count
    result = aggregate(values, weights, Rule.parse(text), np.dtype("float32"))
    np.testing.assert_allclose(result, values[0], rtol=1e-6)


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_inputs_stay_and_equal_inputs_give_equal_bits(text: str, dtype: str) -> None:
    values = vectors(7, 6, 1000, dtype)
    kept = [vector.copy() for vector in values]
    weights = [1.0, 2.0, 3.0, 2.5, 1.0, 0.0]
    first = aggregate(values, weights, Rule.parse(text), np.dtype(dtype))
    out = np.full(1000, np.nan, dtype)
    second = aggregate(kept, weights, Rule.parse(text), np.dtype(dtype), out)
    assert first is not None
    assert second is out
    assert first.tobytes() == second.tobytes()
    np.testing.assert_array_equal(values, kept)


@pytest.mark.slow
@pytest.mark.parametrize("text", [*RULES, "centered_clipping(1e300, 2)"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_finite_values_give_finite_results(text: str, dtype: str) -> None:
    """Whatever mixture of the largest and the least there is, also in a narrower result."""
    kind = np.finfo(dtype)
    extremes = [kind.max, kind.min, kind.smallest_subnormal, -1.0]
    for chosen in itertools.product(extremes, repeat=3):
        values = [np.full(2, value, dtype) for value in chosen]
        for weights in ([1.0, 1.0, 1.0], [1.0, 3.0, 1e17], [1e-200, 1e-200, 1e-201]):
            for out in (dtype, "float16"):
                result = aggregate(values, weights, Rule.parse(text), np.dtype(out))
                assert result is not None
                assert np.isfinite(result).all(), (chosen, weights, out)


def a_crowd(
    seed: int, rule: Rule, honest: int, lies: list[float], weights: list[float]
) -> tuple[list[Array], list[float], Array]:
    """Honest vectors among as many liars as the rule bears, shuffled; and who is honest."""
    while not borne(rule, weights[:honest], weights[honest:][: len(lies)]):
        lies = lies[:-1]
    rng = np.random.default_rng(seed)
    values = list(rng.standard_normal((honest, 6)).astype("float32") + 3)
    values += [
        (rng.standard_normal(6) * lie + lie).clip(-3e38, 3e38).astype("float32") for lie in lies
    ]
    order = rng.permutation(len(values))
    return [values[i] for i in order], [weights[i] for i in order], order < honest


def borne(rule: Rule, honest: list[float], lied: list[float]) -> bool:
    """Whether liars of these weights are below the breakdown point."""
    share = math.fsum(lied) / math.fsum(honest + lied)
    return share <= rule.fraction if rule.fraction is not None else share < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("text", ROBUST)
@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    lies=st.lists(
        st.one_of(st.sampled_from([1e30, -1e30, 3e38, -10.0, 0.0]), st.floats(-100, 100)),
        min_size=1,
        max_size=8,
    ),
    honest=st.integers(2, 20),
    weighted=st.booleans(),
)
def test_liars_below_the_breakdown_point_get_nowhere(
    text: str, seed: int, lies: list[float], honest: int, weighted: bool
) -> None:
    rule = Rule.parse(text)
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 4, 28).astype(float).tolist() if weighted else [1.0] * 28
    values, weights, is_honest = a_crowd(seed, rule, honest, lies, weights)
    result = aggregate(values, weights, rule, np.dtype("float32"))
    assert result is not None
    true_values = np.array(values)[is_honest].astype("float64")
    if rule.kind is RuleKind.CENTERED_CLIPPING:
        # Its start is among the honest values; each move is a radius at most.
        assert rule.radius is not None
        assert rule.iterations is not None
        start = aggregate(values, weights, Rule.parse("median"), np.dtype("float64"))
        assert start is not None
        farthest = max(np.linalg.norm(true_values - start, axis=1))
        moved = np.linalg.norm(result - start)
        assert moved <= rule.iterations * rule.radius * farthest * (1 + 1e-5)
        result = start
    assert (result >= true_values.min(axis=0)).all()
    assert (result <= true_values.max(axis=0)).all()


@pytest.mark.parametrize("text", ROBUST)
@pytest.mark.parametrize("count", [5, 8, 25])
def test_among_the_honest_every_rule_is_near_the_mean(text: str, count: int) -> None:
    """The distance is a part of what the mean itself is off by: 1/√count for each coordinate."""
    values = list(np.random.default_rng(count).standard_normal((count, 5000)))
    result = aggregate(values, [1.0] * count, Rule.parse(text), np.dtype("float64"))
    assert result is not None
    off = np.sqrt(np.mean((result - np.mean(values, axis=0)) ** 2))
    assert off < 0.9 / math.sqrt(count)


@pytest.mark.parametrize("text", ROBUST)
def test_the_scale_of_a_chunk_does_not_matter(text: str) -> None:
    """Gradients of a layer may be a billion times smaller than those of another."""
    values = vectors(5, 7, 500, "float64")
    rule = Rule.parse(text)
    one = aggregate(values, [1.0] * 7, rule, np.dtype("float64"))
    assert one is not None
    for scale in (1e-30, 1e12):
        scaled = aggregate([v * scale for v in values], [1.0] * 7, rule, np.dtype("float64"))
        assert scaled is not None
        np.testing.assert_allclose(scaled, one * scale, rtol=1e-9, atol=scale * 1e-9)


def test_where_most_sent_the_same_clipping_keeps_just_that() -> None:
    """The limit that its page states: the rows that few saw are lost."""
    values = [np.zeros(4), np.zeros(4), np.zeros(4), np.full(4, 5.0), np.full(4, 7.0)]
    result = aggregate(values, [1.0] * 5, Rule.parse("centered_clipping(2, 3)"), np.dtype("f4"))
    np.testing.assert_array_equal(result, np.zeros(4))
