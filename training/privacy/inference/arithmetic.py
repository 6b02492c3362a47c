"""Arithmetic as circuits, in two's complement, with as few AND gates as is known.

Numbers of b bits: a sum, a difference or a comparison costs b AND gates, less one where the last
carry is of no use.

Source: Kolesnikov, Sadeghi, Schneider, Improved Garbled Circuit Building Blocks and Applications to
Auctions and Computing Minima, 2009, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from training.privacy.inference.circuit import ONE, ZERO, Builder, Circuit, Wires


def add(builder: Builder, left: Wires, right: Wires, carry: int = ZERO) -> Wires:
    """The sum and a carry, modulo 2 to the number of bits."""
    assert len(left) == len(right)
    total = []
    for place, (a, b) in enumerate(zip(left, right, strict=True)):
        total.append(builder.xor(builder.xor(a, b), carry))
        if place < len(left) - 1:
            carry = _carry(builder, a, b, carry)
    return total


def subtract(builder: Builder, left: Wires, right: Wires) -> Wires:
    """The difference, modulo 2 to the number of bits."""
    return add(builder, left, [builder.not_(wire) for wire in right], ONE)


def less(builder: Builder, left: Wires, right: Wires) -> int:
    """Whether the left number, with its sign, is less than the right one."""
    assert len(left) == len(right)
    # With their signs turned over, signed numbers are in the order of unsigned ones.
    a = [*left[:-1], builder.not_(left[-1])]
    b = [*right[:-1], builder.not_(right[-1])]
    carry = ZERO
    for one, other in zip(a, b, strict=True):
        # right − left − 1 carries out of the top exactly when left < right.
        carry = _carry(builder, builder.not_(one), other, carry)
    return carry


def select(builder: Builder, condition: int, then: Wires, otherwise: Wires) -> Wires:
    """One of two numbers."""
    return [builder.select(condition, a, b) for a, b in zip(then, otherwise, strict=True)]


def multiply(builder: Builder, left: Wires, right: Wires) -> Wires:
    """The product, modulo 2 to the number of the left one's bits: as many additions as bits."""
    bits = len(left)
    total = [builder.and_(wire, right[0]) for wire in left]
    for shift, wire in enumerate(right[1:bits], start=1):
        row = [builder.and_(one, wire) for one in left[: bits - shift]]
        total[shift:] = add(builder, total[shift:], row)
    return total


def constant(value: int, bits: int) -> Wires:
    """A number that everybody knows; gates that it makes needless are not made."""
    return [ONE if value >> place & 1 else ZERO for place in range(bits)]


def relu(builder: Builder, number: Wires, shift: int = 0) -> Wires:
    """The number if it is positive, else zero; divided by 2 to the shift, rounded down."""
    positive = builder.not_(number[-1])
    kept = [builder.and_(positive, wire) for wire in number[shift:-1]]
    return kept + [ZERO] * (len(number) - len(kept))


def argmax(builder: Builder, numbers: Sequence[Wires]) -> Wires:
    """Where the largest number is, the first of equal ones: a tree of comparisons."""
    bits = max(1, (len(numbers) - 1).bit_length())
    rows = [(number, constant(place, bits)) for place, number in enumerate(numbers)]
    while len(rows) > 1:
        winners = []
        for (a, place_a), (b, place_b) in zip(rows[::2], rows[1::2], strict=False):
            later = less(builder, a, b)
            winners.append((select(builder, later, b, a), select(builder, later, place_b, place_a)))
        rows = winners + rows[2 * len(winners) :]
    return rows[0][1]


# What parties run


def comparison_circuit(bits: int) -> Circuit:
    """Whether the evaluator's number is less than the garbler's, and whether it is more."""
    builder = Builder()
    theirs, mine = builder.garbler_number(bits), builder.evaluator_number(bits)
    return builder.build([less(builder, mine, theirs), less(builder, theirs, mine)])


def relu_circuit(bits: int, shift: int) -> Circuit:
    """ReLU of a shared number: garbler (share, mask), evaluator (share) -> the result + mask."""
    builder = Builder()
    theirs, mask = builder.garbler_number(bits), builder.garbler_number(bits)
    number = add(builder, theirs, builder.evaluator_number(bits))
    return builder.build(add(builder, relu(builder, number, shift), mask))


def argmax_circuit(bits: int, count: int) -> Circuit:
    """Which of so many shared numbers is the largest."""
    builder = Builder()
    theirs = [builder.garbler_number(bits) for _ in range(count)]
    mine = [builder.evaluator_number(bits) for _ in range(count)]
    numbers = [add(builder, a, b) for a, b in zip(theirs, mine, strict=True)]
    return builder.build(argmax(builder, numbers))


def _carry(builder: Builder, left: int, right: int, carry: int) -> int:
    """The majority of three, for one AND gate."""
    both = builder.and_(builder.xor(left, carry), builder.xor(right, carry))
    return builder.xor(carry, both)
