"""Passes find what sorting finds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.sparsifiers.scan import (
    above,
    largest,
    largest_of_tiles,
    positions_of,
    square_sum,
)
from tests.averaging.codecs.sparsifiers.vectors import DISTRIBUTIONS, drawn


def ranked(values: torch.Tensor, kept: int) -> list[int]:
    """Where so many of the largest stand, of equal ones the first, never a zero: by sorting."""
    order = sorted(range(len(values)), key=lambda place: (-abs(float(values[place])), place))
    return sorted(place for place in order[:kept] if values[place])


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=50),
    data=st.data(),
)
def test_the_largest_are_those_of_sorting(numbers: list[float], data: st.DataObject) -> None:
    values = torch.tensor(numbers)
    kept = data.draw(st.integers(1, len(numbers)))
    assert largest(values, kept).tolist() == ranked(values, kept)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kept", [1, 20, 700])
def test_the_sample_changes_nothing(distribution: str, kept: int) -> None:
    # Rounded, so that there are ties.
    values = (drawn(distribution, 20_000) * 64).round() / 64
    assert largest(values, kept).tolist() == ranked(values, kept)


def test_a_sample_that_misleads_changes_nothing() -> None:
    values = torch.full((31 * 400,), 0.5)
    values[::31] = 2.0
    values[1] = 3.0
    # The sample sees nothing but what is large.
    assert largest(values, 600).tolist() == ranked(values, 600)


@settings(max_examples=40, deadline=None)
@given(
    numbers=st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=50),
    tile=st.integers(1, 20),
    data=st.data(),
)
def test_tiles_are_ranked_each(numbers: list[float], tile: int, data: st.DataObject) -> None:
    values = torch.tensor(numbers)
    kept = data.draw(st.integers(1, tile))
    last = len(numbers) % tile
    kept_last = data.draw(st.integers(1, last)) if last else 0
    expected = []
    for start in range(0, len(numbers), tile):
        part = values[start : start + tile]
        places = ranked(part, kept if len(part) == tile else kept_last)
        expected += [start + place for place in places]
    assert largest_of_tiles(values, tile, kept, kept_last).tolist() == expected


def test_counts_are_those_of_whole_vectors() -> None:
    values = drawn("laplace", 200_001)
    mask = torch.empty_like(values, dtype=torch.bool)
    assert above(values, 1.25, mask) == int((values.abs() > 1.25).sum())
    assert torch.equal(mask, values.abs() > 1.25)
    assert torch.equal(positions_of(mask), mask.nonzero().flatten())
    assert above(values, float("nan"), mask) == 0
    assert above(values, 1e300, mask) == 0


def test_square_sums_are_those_of_float64() -> None:
    values = drawn("shifted", 200_001)
    wide = values.double()
    assert square_sum(values) == pytest.approx(float(wide.dot(wide)), rel=1e-6)
    wide -= 0.5
    assert square_sum(values, 0.5) == pytest.approx(float(wide.dot(wide)), rel=1e-6)


@pytest.mark.parametrize("kept", [1, 41, 82, 300])
def test_what_is_left_out_of_long_rows_changes_nothing(kept: int) -> None:
    values = (drawn("student-3", 5 * 4096) * 64).round() / 64
    # Rows of other sizes, one of equal numbers, and one that a sample of every ninth misjudges.
    values[4096:8192] *= 1e-6
    values[8192:12288] = 0.5
    values[12288:16384:9] = 50.0
    values[16384:] = 0
    found = largest_of_tiles(values, 4096, kept, 0).tolist()
    expected = []
    for start in range(0, len(values), 4096):
        expected += [start + place for place in ranked(values[start : start + 4096], kept)]
    assert found == expected
