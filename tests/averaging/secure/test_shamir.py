"""Shamir's shares against a published example, other ways to interpolate, and what too few tell."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.secure.shamir import (
    PRIME,
    SECRET_SIZE_BYTES,
    SHARE_SIZE_BYTES,
    join,
    split,
)


def drawing(*coefficients: int) -> object:
    """A source that gives these coefficients."""
    numbers = iter(coefficients)
    return lambda size_bytes: next(numbers).to_bytes(size_bytes, "little")


def secret_of(number: int) -> bytes:
    return number.to_bytes(SECRET_SIZE_BYTES, "little")


def rational_value_at_zero(points: Sequence[tuple[int, int]]) -> Fraction:
    """Lagrange's interpolation in exact fractions, with no field at all."""
    total = Fraction(0)
    for place, value in points:
        term = Fraction(value)
        for other, _ in points:
            if other != place:
                term *= Fraction(-other, place - other)
        total += term
    return total


def test_a_published_example() -> None:
    # Wikipedia, "Shamir's secret sharing": the secret 1234, and 166, 94 drawn.
    shares = split(secret_of(1234), 3, range(1, 7), drawing(166, 94))  # type: ignore[arg-type]
    values = [int.from_bytes(share, "little") for share in shares]
    assert values == [1494, 1942, 2578, 3402, 4414, 5614]
    assert join({2: shares[1], 4: shares[3], 5: shares[4]}, 3) == secret_of(1234)


def test_the_field_is_one_and_holds_every_secret() -> None:
    assert PRIME > 2 ** (8 * SECRET_SIZE_BYTES)
    assert PRIME < 2 ** (8 * SHARE_SIZE_BYTES)
    # Fermat's test, to so many bases that no other number of this size passes by chance.
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 60))


@given(st.integers(0, 2**64), st.lists(st.integers(0, 2**64), min_size=2, max_size=5))
def test_small_numbers_as_rational_interpolation_has_them(
    secret: int, coefficients: list[int]
) -> None:
    threshold = len(coefficients) + 1
    places = range(1, threshold + 3)
    source = drawing(*coefficients)
    shares = split(secret_of(secret), threshold, places, source)  # type: ignore[arg-type]
    # So small that nothing is reduced modulo the prime.
    points = [
        (place, int.from_bytes(share, "little"))
        for place, share in zip(places, shares, strict=False)
    ]
    assert rational_value_at_zero(points[:threshold]) == secret
    assert rational_value_at_zero(points[-threshold:]) == secret
    chosen = dict(itertools.islice(zip(places, shares, strict=True), 2, None))
    assert join(chosen, threshold) == secret_of(secret)


def polynomial_through(points: Sequence[tuple[int, int]]) -> list[int]:
    """Its coefficients modulo the prime, by Gaussian elimination of powers of the places."""
    count = len(points)
    rows = [[pow(place, power, PRIME) for power in range(count)] + [y] for place, y in points]
    for column in range(count):
        scale = pow(rows[column][column], -1, PRIME)
        rows[column] = [scale * entry % PRIME for entry in rows[column]]
        for other in set(range(count)) - {column}:
            factor = rows[other][column]
            pairs = zip(rows[other], rows[column], strict=True)
            rows[other] = [(entry - factor * above) % PRIME for entry, above in pairs]
    return [row[-1] for row in rows]


@pytest.mark.parametrize("seed", range(10))
def test_large_numbers_as_gaussian_elimination_has_them(seed: int) -> None:
    rng = random.Random(seed)
    threshold = rng.randrange(2, 10)
    secret = rng.randbytes(SECRET_SIZE_BYTES)
    drawn = [rng.getrandbits(8 * 49) for _ in range(threshold - 1)]
    places = rng.sample(range(1, 65), threshold + 3)
    shares = split(secret, threshold, places, drawing(*drawn))  # type: ignore[arg-type]
    chosen = dict(rng.sample(list(zip(places, shares, strict=True)), threshold))
    found = polynomial_through(
        [(place, int.from_bytes(share, "little")) for place, share in chosen.items()]
    )
    assert found == [int.from_bytes(secret, "little"), *(number % PRIME for number in drawn)]
    assert join(chosen, threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, random.Random(1).randbytes(32)])
def test_any_so_many_shares_give_the_secret_back(secret: bytes) -> None:
    shares = split(secret, 3, [1, 2, 3, 4, 5], random.Random(2).randbytes)
    for places in itertools.combinations(range(5), 3):
        assert join({place + 1: shares[place] for place in places}, 3) == secret


def test_one_share_less_fits_every_secret() -> None:
    shares = split(b"s" * 32, 3, [1, 2, 3], random.Random(2).randbytes)
    known = {1: shares[0], 2: shares[1]}
    with pytest.raises(ValueError, match="2 shares where 3 are needed"):
        join(known, 3)
    for other in (b"t" * 32, bytes(32)):
        # The third share that goes with this secret: the value at 3 of the polynomial through 0.
        points = [(0, other), (1, shares[0]), (2, shares[1])]
        third = 0
        for place, value in points:
            term = int.from_bytes(value, "little")
            for another, _ in points:
                if another != place:
                    term = term * (3 - another) * pow(place - another, -1, PRIME) % PRIME
            third = (third + term) % PRIME
        forged = third.to_bytes(SHARE_SIZE_BYTES, "little")
        assert join(known | {3: forged}, 3) == other


def test_what_cannot_be_a_secret_is_none() -> None:
    above = (PRIME - 1).to_bytes(SHARE_SIZE_BYTES, "little")
    assert join({1: above, 2: above}, 2) is None


def test_misuse() -> None:
    draw = random.Random(1).randbytes
    for places, threshold in (([1, 2], 3), ([1, 1], 2), ([0, 1], 2), ([1, 2], 0)):
        with pytest.raises(ValueError, match="different places"):
            split(bytes(32), threshold, places, draw)
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        split(bytes(31), 1, [1], draw)
