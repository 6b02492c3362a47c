"""The group of Ed25519 as RFC 8032 writes it, in affine coordinates with Python's ints."""

from __future__ import annotations

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, PRIME) % PRIME
Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def plus(left: Point, right: Point) -> Point:
    """Their sum, by the complete law of −x² + y² = 1 + d x² y²."""
    (x1, y1), (x2, y2) = left, right
    both = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + both, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - both, -1, PRIME)
    return x % PRIME, y % PRIME


def minus(left: Point, right: Point) -> Point:
    """Their difference."""
    return plus(left, (-right[0] % PRIME, right[1]))


def times(factor: int, point: Point) -> Point:
    """By doubling and adding."""
    total = NEUTRAL
    while factor:
        total = plus(total, point) if factor & 1 else total
        point, factor = plus(point, point), factor >> 1
    return total


def encoded(point: Point) -> bytes:
    """y, with the lowest bit of x on top (section 5.1.2)."""
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decoded(data: bytes) -> Point:
    """The point of these bytes (section 5.1.3)."""
    number = int.from_bytes(data, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert (x * x - square) % PRIME == 0, "not on the curve"
    return (x if x & 1 == sign else PRIME - x), y


BASE = decoded((4 * pow(5, -1, PRIME) % PRIME).to_bytes(32, "little"))
