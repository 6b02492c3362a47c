"""Vectors of benchmarks: their means are right, and whatever is lost or misplaced is seen."""

from __future__ import annotations

import numpy as np
import pytest

from tools.bench import hivemind_worker
from tools.bench.vectors import PERIOD, Array, errors, fill, mean_of, pattern_of

ELEMENTS = 2 * PERIOD + 1_000
RANKS = range(3)


def vector(rank: int, round_index: int = 1, dtype: str = "float32") -> Array:
    made = np.full(ELEMENTS, np.nan, dtype)
    fill(made, pattern_of(rank, round_index))
    return made


def mean() -> Array:
    """A plain mean of whole vectors."""
    return np.mean([vector(rank).astype(np.float64) for rank in RANKS], axis=0).astype(np.float32)


def test_the_mean_of_the_vectors_repeats_the_mean_of_the_patterns() -> None:
    assert errors(mean(), [mean_of(RANKS, 1)], 1e-6) == (pytest.approx(0, abs=1e-6), 1.0)


def test_another_dtype_is_filled_with_the_same_numbers() -> None:
    assert errors(vector(1, dtype="float16"), [pattern_of(1, 1)], 1e-2)[0] < 2e-3


@pytest.mark.parametrize("shift", [1, PERIOD // 2, 4096, 131_072 % PERIOD])
def test_a_chunk_in_the_wrong_place_is_seen(shift: int) -> None:
    wrong = np.roll(mean(), shift)
    largest, right = errors(wrong, [mean_of(RANKS, 1)], 1e-4)
    assert largest > 1
    assert right < 0.01


def test_what_an_earlier_round_left_and_what_a_peer_keeps_for_itself_is_seen() -> None:
    for stale in (vector(0, 0), vector(1), np.full(ELEMENTS, np.nan, np.float32)):
        largest, right = errors(stale, [mean_of(RANKS, 1)], 1e-4)
        assert not largest < 1
        assert right < 0.01


def test_each_element_may_be_either_of_two_means_but_no_third_thing() -> None:
    with_all, without_last = mean_of(RANKS, 1), mean_of([0, 1], 1)
    mixed = mean()
    fill(mixed[:PERIOD], without_last)
    assert errors(mixed, [with_all, without_last], 1e-4) == (pytest.approx(0, abs=1e-6), 1.0)
    mixed[-1_000:] = 0
    largest, right = errors(mixed, [with_all, without_last], 1e-4)
    assert largest > 0.1
    assert right == pytest.approx(1 - 1_000 / ELEMENTS, abs=1e-4)


def test_hivemind_gets_the_same_numbers_though_it_cannot_import_ours() -> None:
    for rank, round_index in ((0, 0), (2, 5)):
        theirs = hivemind_worker.pattern_of(rank, round_index)
        assert np.array_equal(theirs, pattern_of(rank, round_index))
    round_index = 1
    assert hivemind_worker.error_of(mean(), len(RANKS), round_index) < 1e-6
    assert hivemind_worker.error_of(np.roll(mean(), 1), len(RANKS), round_index) > 1
