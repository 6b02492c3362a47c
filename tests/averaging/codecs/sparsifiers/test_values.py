"""Values come back as near as each way of sending them says, and no others pass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.sparsifiers.values import (
    FLOAT16_ERROR,
    Array,
    DitheredValues,
    Float16Values,
    Float32Values,
    TwoBitValues,
    ValueCoder,
)

CODERS: list[ValueCoder] = [
    Float32Values(),
    Float16Values(),
    DitheredValues(2, 7, infinite_norm=True),
    DitheredValues(1.5, 20, infinite_norm=False),
    TwoBitValues(),
]
LENGTH = 10_000

numbers = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)


def there_and_back(coder: ValueCoder, values: Array, seed: int = 1) -> Array:
    """The values as they are decoded, as if they stood at every hundredth place of a block."""
    positions = np.arange(values.size) * 100
    data = coder.encode(values, positions, LENGTH, seed)
    assert data.size == coder.size_bytes(values.size, LENGTH)
    decoded = coder.decode(data, positions, LENGTH)
    assert decoded.dtype == np.float32
    return decoded


@settings(max_examples=60, deadline=None)
@given(values=numbers.map(lambda found: np.array(found[:100], np.float32)))
def test_what_comes_back_is_finite_and_near(values: Array) -> None:
    assert there_and_back(Float32Values(), values).tobytes() == values.tobytes()
    largest = float(np.abs(values).max())
    for coder in CODERS:
        decoded = there_and_back(coder, values)
        assert np.isfinite(decoded).all()
        # The Euclidean norm is the highest level of one of them.
        highest = largest * (1 + FLOAT16_ERROR) * len(values) ** 0.5
        assert np.abs(decoded.astype(np.float64)).max() <= max(highest, 2.0**-149)
        sent = (decoded != 0) & (values != 0)
        assert (np.signbit(decoded) == np.signbit(values))[sent].all()
    half = there_and_back(Float16Values(), values).astype(np.float64)
    # Below that of the largest, or of all numbers, float16 is a fixed grid.
    grid = max(largest * 2.0**-40, 2.0**-149)
    assert (np.abs(half - values) <= FLOAT16_ERROR * np.abs(values) + grid).all()


def test_tiny_and_huge_values_survive_as_float16() -> None:
    for scale in (1e-30, 1e-12, 1.0, 1e38):
        values = (np.array([1, -0.5, 0.001]) * scale).astype(np.float32)
        assert there_and_back(Float16Values(), values) == pytest.approx(values, rel=2**-11)


@pytest.mark.parametrize("infinite_norm", [True, False])
@pytest.mark.parametrize(("base", "levels"), [(2.0, 7), (1.3, 15), (3.0, 1)])
def test_dithering_is_unbiased_and_within_its_variance(
    base: float, levels: int, infinite_norm: bool
) -> None:
    coder = DitheredValues(base, levels, infinite_norm=infinite_norm)
    values = np.random.default_rng(4).standard_normal(50).astype(np.float32)
    tries = np.stack([there_and_back(coder, values, seed) for seed in range(2000)])
    tries = tries.astype(np.float64)
    deviation = tries.std(0) / 2000**0.5
    assert (np.abs(tries.mean(0) - values) <= 4.5 * deviation + 1e-6).all()
    squares = (tries**2).sum(1).mean()
    assert squares <= coder.variance(50) * float(values @ values)


def test_two_bits_are_the_sign_and_two_means_of_each_tile() -> None:
    values = np.array([1, -2, 9, -8, 0.25, 0.5], np.float32)
    positions = np.array([0, 1, 2, 4095, 4096, 5000])
    coder = TwoBitValues()
    data = coder.encode(values, positions, LENGTH, 0)
    assert coder.decode(data, positions, LENGTH).tolist() == [1.5, -1.5, 8.5, -8.5, 0.25, 0.5]


@pytest.mark.parametrize(
    ("coder", "place", "byte"),
    [
        (Float32Values(), 3, 0x7F),  # with the 0x80 before it: infinity
        (Float16Values(), 0, 0x80),  # the exponent −128
        (Float16Values(), 0, 113),
        (Float16Values(), 2, 0x7C),  # infinity
        (TwoBitValues(), 2, 0xBC),  # a magnitude of −1
        (DitheredValues(2, 7, infinite_norm=True), 3, 0xFF),  # a negative norm
        (DitheredValues(2, 5, infinite_norm=True), 4, 0b111),  # level 7 of 5
    ],
)
def test_what_nobody_encodes_is_refused(coder: ValueCoder, place: int, byte: int) -> None:
    # At 2.0 each of these begins with bytes that the one changed makes wrong.
    positions = np.array([0])
    data = coder.encode(np.array([2.0], np.float32), positions, LENGTH, 0)
    if isinstance(coder, Float32Values):
        data[2] = 0x80
    data[place] = byte
    with pytest.raises(FrameInvalid):
        coder.decode(data, positions, LENGTH)
