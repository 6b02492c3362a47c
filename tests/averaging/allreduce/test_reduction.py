"""Reduction: equal to a plain slow weighted mean whatever is lost, and deaf to bad input."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.reduction import Contribution, Reduction, all_finite, weighted_mean

Array = np.ndarray[Any, Any]

NAMES = ("alice", "bob", "carol", "dave", "erin")


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found(bad: float) -> None:
    vector = values(3, 1000)
    assert all_finite(vector)
    vector[500] = bad
    assert not all_finite(vector)
    vector[501] = -bad
    assert not all_finite(vector)


def test_large_finite_values_are_fine() -> None:
    assert all_finite(np.full(10, np.finfo(np.float32).max, np.float32))


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 6), st.integers(1, 3))
def test_any_order_and_loss_gives_the_mean_of_those_who_delivered(
    seed: int, count: int, chunks: int, ahead: int
) -> None:
    """Senders deliver, stall and get lost at random; each chunk is the mean of its deliverers."""
    rng = random.Random(seed)
    names = NAMES[:count]
    sizes = [rng.randint(1, 5) for _ in range(chunks)]
    weights = {name: rng.choice([0.0, 1.0, 1.0, 2.5]) for name in names}
    vectors = {name: [values(rng.getrandbits(30), size) for size in sizes] for name in names}
    last = {name: rng.choice([None, None, rng.randint(-1, chunks)]) for name in names}
    reduction = Reduction(names, sizes, chunks_ahead_max=ahead)
    said_hello: set[str] = set()
    sent = dict.fromkeys(names, 0)
    results: list[tuple[Contribution, ...]] = []
    while not reduction.done:
        name = rng.choice(names)
        if reduction.ready:
            results.append(reduction.take())
        elif last[name] is not None and (last[name] == -1 or sent[name] >= (last[name] or 0)):
            reduction.on_excluded(name, "lost")
        elif name not in said_hello:
            said_hello.add(name)
            assert reduction.on_hello(name, weights[name], 10.0) is None
        elif weights[name] and sent[name] < chunks and reduction.may_deliver(name):
            assert reduction.on_part(name, sent[name], vectors[name][sent[name]]) is None
            sent[name] += 1
    included = dict(zip(names, reduction.included(), strict=True))
    assert included == sent
    for chunk, taken in enumerate(results):
        expected = [
            (weights[name], vectors[name][chunk]) for name in names if included[name] > chunk
        ]
        assert [
            (part.weight, part.values is vector)
            for part, (_, vector) in zip(taken, expected, strict=True)
        ] == [(weight, True) for weight, _ in expected]


def reduction_with_hellos(*names: str, chunks: int = 2) -> Reduction[str]:
    reduction: Reduction[str] = Reduction(names, [3] * chunks, chunks_ahead_max=2)
    for name in names:
        assert reduction.on_hello(name, 1.0, 1.0) is None
    return reduction


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 1.5])
def test_bad_weights_are_refused_and_named(weight: float) -> None:
    reduction: Reduction[str] = Reduction(["alice", "bob"], [3], chunks_ahead_max=1)
    reason = reduction.on_hello("bob", weight, 1.0)
    assert reason is not None
    assert "weight" in reason
    assert reduction.reasons() == ("", reason)
    assert reduction.weights() == (0.0, 0.0)


def test_non_finite_values_are_refused_and_what_came_before_counts() -> None:
    reduction = reduction_with_hellos("alice", "bob")
    assert reduction.on_part("bob", 0, values(1, 3)) is None
    bad = values(2, 3)
    bad[1] = np.nan
    assert reduction.on_part("bob", 1, bad) == "non-finite values"
    for chunk in range(2):
        reduction.on_part("alice", chunk, values(3, 3))
        assert reduction.ready
        assert len(reduction.take()) == 2 - chunk
    assert reduction.done
    assert reduction.included() == (2, 1)


@pytest.mark.parametrize(("chunk", "size"), [(1, 3), (0, 2), (2, 3)])
def test_parts_out_of_order_or_of_a_wrong_size_are_refused(chunk: int, size: int) -> None:
    reduction = reduction_with_hellos("alice")
    assert reduction.on_part("alice", chunk, values(1, size)) is not None


def test_nothing_is_accepted_after_exclusion() -> None:
    reduction = reduction_with_hellos("alice", "bob")
    reduction.on_excluded("bob", "silent")
    assert reduction.on_part("bob", 0, values(1, 3)) == "silent"
    reduction.on_excluded("bob", "lost")
    assert reduction.reasons() == ("", "silent")


def test_losing_a_sender_that_delivered_all_is_no_loss() -> None:
    reduction = reduction_with_hellos("alice", chunks=1)
    reduction.on_part("alice", 0, values(1, 3))
    reduction.on_excluded("alice", "lost")
    assert reduction.reasons() == ("",)
    assert len(reduction.take()) == 1


def test_nobody_waits_for_weight_zero() -> None:
    reduction: Reduction[str] = Reduction(["alice", "bob"], [3], chunks_ahead_max=1)
    reduction.on_hello("alice", 0.0, 1.0)
    reduction.on_hello("bob", 1.0, 1.0)
    reduction.on_part("bob", 0, values(1, 3))
    assert reduction.ready
    assert len(reduction.take()) == 1


def test_sums_are_made_in_member_order() -> None:
    orders = []
    for arrival in itertools.permutations(range(3)):
        reduction = reduction_with_hellos(*NAMES[:3], chunks=1)
        for number in arrival:
            reduction.on_part(NAMES[number], 0, values(number, 3))
        mean = weighted_mean(reduction.take(), np.dtype("float32"))
        assert mean is not None
        orders.append(mean.tobytes())
    assert len(set(orders)) == 1
