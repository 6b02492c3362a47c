"""Fields and positions come back, in no more bits than theory says, and nothing else passes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.sparsifiers.bits import (
    fields_size_bytes,
    marks_size_bytes_max,
    pack_fields,
    rice_bits_max,
    rice_pack,
    rice_unpack,
    unpack_fields,
)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(0, 17), data=st.data())
def test_fields_come_back(width: int, data: st.DataObject) -> None:
    numbers = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40)), np.int64)
    packed = pack_fields(numbers, width)
    assert packed.size == fields_size_bytes(numbers.size, width)
    assert unpack_fields(packed, numbers.size, width).tolist() == numbers.tolist()


def test_spare_bits_must_be_zero() -> None:
    with pytest.raises(FrameInvalid, match="no field"):
        unpack_fields(np.array([0b1000], np.uint8), 1, 3)


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 5000), data=st.data())
def test_positions_come_back_within_the_limits(length: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=60))
    positions = np.array(sorted(chosen))
    width, marks, rests = rice_pack(positions)
    assert 0 < marks.size <= marks_size_bytes_max(positions.size, width, length)
    assert rests.size == fields_size_bytes(positions.size, width)
    # Two bytes are filled up.
    assert 8 * (marks.size + rests.size) <= rice_bits_max(positions.size, length) + 14
    unpacked = rice_unpack(positions.size, width, marks, rests, length)
    assert unpacked.tolist() == positions.tolist()


def test_the_width_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    # In clusters, where the mean gap says little.
    positions = np.unique((rng.standard_normal(500) ** 3 * 4000 + 65_000).astype(np.int64))
    width, marks, rests = rice_pack(positions)
    gaps = np.diff(positions, prepend=-1) - 1
    bits = [int((gaps >> w).sum()) + gaps.size * (1 + w) for w in range(18)]
    assert bits[width] == min(bits)
    assert 8 * (marks.size + rests.size) < min(bits) + 16


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_positions_take_about_their_entropy(density: float) -> None:
    length = 131_072
    sent = round(density * length)
    chosen = np.random.default_rng(1).choice(length, sent, replace=False)
    _, marks, rests = rice_pack(np.sort(chosen))
    rest = 1 - density
    entropy = -density * math.log2(density) - (rest * math.log2(rest) if rest else 0)
    # Golomb's codes by powers of two lose at most 4 % of a bit and what their marks end in.
    per_position = 8 * (marks.size + rests.size) / sent
    assert per_position <= 1.04 * entropy / density + 0.05 + (1.0 if density == 1 else 0.0)


@pytest.mark.parametrize(
    ("count", "width", "marks", "rests", "length"),
    [
        (2, 0, [0b1], [], 8),  # one is marked
        (1, 0, [0b11], [], 8),  # two are
        (1, 0, [0b1, 0], [], 8),  # a byte that says nothing
        (1, 0, [0], [], 8),  # nothing at all
        (1, 0, [0b1000], [], 3),  # beyond the end
        (1, 2, [0b1], [0b11], 3),  # by its rest
        (1, 2, [0b1], [0b100], 8),  # a spare bit
    ],
)
def test_no_other_positions_pass(
    count: int, width: int, marks: list[int], rests: list[int], length: int
) -> None:
    with pytest.raises(FrameInvalid):
        rice_unpack(count, width, np.array(marks, np.uint8), np.array(rests, np.uint8), length)
