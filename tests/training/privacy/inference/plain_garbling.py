"""Half gates as figure 2 of Zahur, Rosulek and Evans (2015) has them, with Python's ints.

Names are the figure's: W0 and W1 are a wire's labels of zero and one, R their difference; pa and pb
the lowest bits of W0; TG and TE the two rows of a table, WG and WE the halves of the result; j and
j + 1 their tweaks. Free XOR is Kolesnikov's and Schneider's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from training.privacy.inference.circuit import ONE, ZERO, Circuit

Hash = Callable[[int, int], int]
"""Of a label, for a tweak, in one instance."""
OUTPUTS = 1 << 63
"""Where tweaks of outputs begin."""


@dataclass(frozen=True)
class PlainGarbling:
    """One instance."""

    zeros: list[int]
    """W0 of each wire."""
    tables: list[tuple[int, int]]
    """TG and TE of each AND gate."""
    outputs: list[tuple[int, int]]
    """The hashes of both labels of each output."""


def gates(circuit: Circuit) -> Iterator[tuple[bool, int, int, int]]:
    """Each gate by itself: whether it is AND, its two inputs, its output."""
    for level in circuit.levels:
        for left, right, out in zip(level.left, level.right, level.out, strict=True):
            yield level.is_and, int(left), int(right), int(out)


def garble(circuit: Circuit, R: int, inputs: list[int], H: Hash) -> PlainGarbling:
    """Gb of the figure.

    Args:
        inputs: W0 of each input wire.
    """
    W0 = dict(enumerate([0, R, *inputs]))
    tables: list[tuple[int, int]] = []
    for is_and, a, b, c in gates(circuit):
        if not is_and:
            W0[c] = W0[a] ^ W0[b]
            continue
        pa, pb = W0[a] & 1, W0[b] & 1
        j = 2 * len(tables)
        TG = H(W0[a], j) ^ H(W0[a] ^ R, j) ^ (R if pb else 0)
        WG = H(W0[a], j) ^ (TG if pa else 0)
        TE = H(W0[b], j + 1) ^ H(W0[b] ^ R, j + 1) ^ W0[a]
        WE = H(W0[b], j + 1) ^ (TE ^ W0[a] if pb else 0)
        W0[c] = WG ^ WE
        tables.append((TG, TE))
    outputs = [
        (H(W0[wire], OUTPUTS + place), H(W0[wire] ^ R, OUTPUTS + place))
        for place, wire in enumerate(int(wire) for wire in circuit.outputs)
    ]
    return PlainGarbling([W0[wire] for wire in range(circuit.wires)], tables, outputs)


def evaluate(circuit: Circuit, made: PlainGarbling, inputs: list[int], H: Hash) -> list[int]:
    """Ev and De of the figure: which of both hashes each output's label has.

    Args:
        inputs: one label of each input wire.
    """
    W = dict(enumerate(inputs, start=2)) | {ZERO: 0, ONE: 0}
    rows = iter(enumerate(made.tables))
    for is_and, a, b, c in gates(circuit):
        if not is_and:
            W[c] = W[a] ^ W[b]
            continue
        number, (TG, TE) = next(rows)
        WG = H(W[a], 2 * number) ^ (TG if W[a] & 1 else 0)
        WE = H(W[b], 2 * number + 1) ^ (TE ^ W[a] if W[b] & 1 else 0)
        W[c] = WG ^ WE
    return [
        pair.index(H(W[int(wire)], OUTPUTS + place))
        for place, (wire, pair) in enumerate(zip(circuit.outputs, made.outputs, strict=True))
    ]
