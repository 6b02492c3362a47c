"""Circuits of XOR and AND gates, made gate by gate and laid out in levels for whole arrays.

Wires are numbers: 0 is always zero, 1 always one, then come the garbler's inputs, the evaluator's,
and one wire for each gate. NOT is XOR with wire 1. Gates whose result is known are not made.

Shapes: N instances of one circuit, W wires, I inputs of one party, O outputs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.privacy.inference.extension import Bits

ZERO, ONE = 0, 1
CONSTANTS = 2
Wires = list[int]
"""A number in two's complement, the lowest bit first."""
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Level:
    """Gates of one kind that depend on none of each other."""

    is_and: bool
    left: Indices
    right: Indices
    out: Indices
    numbers: NDArray[np.uint64]
    """Of AND gates: which of all AND gates each is, from 0 on."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """A function of two parties' bits."""

    garbler_inputs: int
    evaluator_inputs: int
    levels: tuple[Level, ...]
    outputs: Indices
    wires: int
    and_gates: int

    @property
    def garbler_wires(self) -> slice:
        """Where the garbler's inputs are."""
        return slice(CONSTANTS, CONSTANTS + self.garbler_inputs)

    @property
    def evaluator_wires(self) -> slice:
        """Where the evaluator's inputs are."""
        first = CONSTANTS + self.garbler_inputs
        return slice(first, first + self.evaluator_inputs)

    def evaluate(self, garbler_NI: Bits, evaluator_NI: Bits) -> Bits:
        """The outputs in the clear, as shape (N, O)."""
        values = np.zeros((self.wires, len(garbler_NI)), dtype=np.uint8)
        values[ONE] = 1
        values[self.garbler_wires] = garbler_NI.T
        values[self.evaluator_wires] = evaluator_NI.T
        for level in self.levels:
            left, right = values[level.left], values[level.right]
            values[level.out] = left & right if level.is_and else left ^ right
        return np.ascontiguousarray(values[self.outputs].T)


class Builder:
    """Makes a circuit: name the inputs first, then combine wires."""

    def __init__(self) -> None:
        self._inputs = [0, 0]
        self._gates: list[tuple[bool, int, int]] = []
        self._known: dict[tuple[bool, int, int], int] = {}

    def garbler_number(self, bits: int) -> Wires:
        """A number of the garbler's; all of these come before the evaluator's."""
        assert not self._inputs[1]
        return self._input(0, bits)

    def evaluator_number(self, bits: int) -> Wires:
        """A number of the evaluator's."""
        return self._input(1, bits)

    def xor(self, left: int, right: int) -> int:
        """One of them, not both."""
        left, right = sorted((left, right))
        if left == right:
            return ZERO
        return right if left == ZERO else self._gate(False, left, right)

    def and_(self, left: int, right: int) -> int:
        """Both of them."""
        left, right = sorted((left, right))
        if ZERO in (left, right):
            return ZERO
        return right if left in (ONE, right) else self._gate(True, left, right)

    def not_(self, wire: int) -> int:
        """The opposite."""
        return 1 - wire if wire in (ZERO, ONE) else self.xor(wire, ONE)

    def select(self, condition: int, then: int, otherwise: int) -> int:
        """One of two wires, for one AND gate."""
        return self.xor(otherwise, self.and_(condition, self.xor(then, otherwise)))

    def build(self, outputs: Wires) -> Circuit:
        """The circuit with these outputs."""
        first = CONSTANTS + sum(self._inputs)
        depths = [0] * first
        by_level: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for number, (is_and, left, right) in enumerate(self._gates):
            depth = 1 + max(depths[left], depths[right])
            depths.append(depth)
            by_level[depth, is_and].append(number)
        levels, and_gates = [], 0
        for depth, is_and in sorted(by_level):
            gates = by_level[depth, is_and]
            numbers = np.arange(and_gates, and_gates + len(gates), dtype=np.uint64)
            and_gates += len(gates) if is_and else 0
            levels.append(
                Level(
                    is_and,
                    np.array([self._gates[gate][1] for gate in gates]),
                    np.array([self._gates[gate][2] for gate in gates]),
                    np.array(gates) + first,
                    numbers,
                )
            )
        garbler, evaluator = self._inputs
        return Circuit(garbler, evaluator, tuple(levels), np.array(outputs), len(depths), and_gates)

    def _input(self, party: int, bits: int) -> Wires:
        assert not self._gates
        first = CONSTANTS + sum(self._inputs)
        self._inputs[party] += bits
        return list(range(first, first + bits))

    def _gate(self, is_and: bool, left: int, right: int) -> int:
        gate = (is_and, left, right)
        if gate not in self._known:
            self._known[gate] = CONSTANTS + sum(self._inputs) + len(self._gates)
            self._gates.append(gate)
        return self._known[gate]


def bits_of(values: NDArray[np.uint32], bits: int) -> Bits:
    """The lowest bits of each value, the lowest first: one more axis."""
    words = np.ascontiguousarray(values, dtype="<u4")
    unpacked = np.unpackbits(
        words.reshape(*words.shape, 1).view(np.uint8), axis=-1, bitorder="little"
    )
    return unpacked[..., :bits]


def values_of(bits: Bits) -> NDArray[np.uint32]:
    """Numbers from their bits, at most 32, the lowest first along the last axis."""
    whole = np.zeros((*bits.shape[:-1], 32), dtype=np.uint8)
    whole[..., : bits.shape[-1]] = bits
    return np.packbits(whole, axis=-1, bitorder="little").view("<u4")[..., 0]
