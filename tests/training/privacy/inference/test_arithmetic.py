"""Circuits in the clear against Python's whole numbers."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.privacy.inference.arithmetic import (
    add,
    argmax_circuit,
    comparison_circuit,
    constant,
    less,
    multiply,
    relu_circuit,
    select,
    subtract,
)
from training.privacy.inference.circuit import ONE, ZERO, Builder, Circuit, Wires, bits_of

BITS = 12
LIMIT = 2 ** (BITS - 1)
numbers = st.integers(-LIMIT, LIMIT - 1)


def wrapped(value: int, bits: int = BITS) -> int:
    """A whole number as two's complement of so many bits holds it."""
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def run(circuit: Circuit, theirs: list[int], mine: list[int], bits: int = BITS) -> list[int]:
    """All outputs in the clear."""
    sides = [
        bits_of(np.array([[value % 2**32 for value in some]], dtype=np.uint32), bits)
        for some in (theirs, mine)
    ]
    outputs = circuit.evaluate(*(side.reshape(1, -1) for side in sides))
    return [int(bit) for bit in outputs[0]]


def signed(bits: list[int]) -> int:
    return wrapped(sum(bit << place for place, bit in enumerate(bits)), len(bits))


def of_two(operation: str) -> Circuit:
    builder = Builder()
    a, b = builder.garbler_number(BITS), builder.evaluator_number(BITS)
    outputs: dict[str, Callable[[], Wires]] = {
        "add": lambda: add(builder, a, b),
        "subtract": lambda: subtract(builder, a, b),
        "multiply": lambda: multiply(builder, a, b),
        "times 21": lambda: multiply(builder, a, constant(21, BITS)),
        "select": lambda: select(builder, less(builder, a, b), a, b),
    }
    return builder.build(outputs[operation]())


OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "times 21": lambda a, b: 21 * a,
    "select": min,
}
CIRCUITS = {operation: of_two(operation) for operation in OPERATIONS}


@pytest.mark.parametrize("operation", OPERATIONS)
@given(a=numbers, b=numbers)
def test_operations_are_those_of_whole_numbers(operation: str, a: int, b: int) -> None:
    expected = wrapped(OPERATIONS[operation](a, b))
    assert signed(run(CIRCUITS[operation], [a], [b])) == expected


COMPARISON = comparison_circuit(BITS)


@given(theirs=numbers, mine=numbers)
def test_comparison(theirs: int, mine: int) -> None:
    assert run(COMPARISON, [theirs], [mine]) == [mine < theirs, theirs < mine]
    assert run(COMPARISON, [mine], [mine]) == [0, 0]


RELUS = {shift: relu_circuit(BITS, shift) for shift in (0, 3)}


@given(
    value=numbers,
    share=numbers,
    mask=numbers,
    shift=st.sampled_from(sorted(RELUS)),
)
def test_relu_of_shares(value: int, share: int, mask: int, shift: int) -> None:
    theirs = [wrapped(value - share), mask]
    result = signed(run(RELUS[shift], theirs, [share]))
    assert result == wrapped((max(value, 0) >> shift) + mask)


@given(
    values=st.lists(st.integers(-40, 40), min_size=2, max_size=7),
    share=numbers,
)
def test_argmax_is_the_first_of_the_largest(values: list[int], share: int) -> None:
    circuit = argmax_circuit(BITS, len(values))
    theirs = [wrapped(value - share) for value in values]
    places = run(circuit, theirs, [share] * len(values))
    assert sum(bit << at for at, bit in enumerate(places)) == values.index(max(values))


def test_costs_are_those_of_the_paper() -> None:
    """One AND gate for each bit of a sum (less the last carry), comparison or selection."""
    assert CIRCUITS["add"].and_gates == CIRCUITS["subtract"].and_gates == BITS - 1
    assert COMPARISON.and_gates == 2 * BITS
    assert CIRCUITS["select"].and_gates == 2 * BITS
    assert CIRCUITS["times 21"].and_gates < CIRCUITS["multiply"].and_gates / 3


def test_constants_make_no_gates() -> None:
    builder = Builder()
    (a,) = builder.garbler_number(1)
    assert builder.and_(a, ZERO) == builder.xor(a, a) == builder.not_(ONE) == ZERO
    assert builder.and_(ONE, a) == builder.and_(a, a) == builder.xor(ZERO, a) == a
    assert builder.not_(ZERO) == ONE
    assert builder.not_(a) == builder.not_(a)
    circuit = builder.build([builder.not_(a), ONE, ZERO])
    assert circuit.and_gates == 0
    bit = np.array([[0], [1]], dtype=np.uint8)
    assert circuit.evaluate(bit, np.zeros((2, 0), np.uint8)).tolist() == [[1, 1, 0], [0, 1, 0]]
