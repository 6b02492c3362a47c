"""Garbled circuits: the evaluator computes on labels and learns nothing but the outputs.

Each wire has two labels of 128 bits that differ by one secret Δ (free XOR); the lowest bit of Δ is
one, so that the lowest bits of a wire's labels say which row of a table to use (point and permute)
and nothing about its value. An AND gate costs the garbler four hashes, the evaluator two, and two
blocks on the wire; XOR and NOT cost nothing.

An output is told by the hashes of both its labels, so that a label that was not honestly computed
decodes to nothing. That finds damage and replays; it does not find a garbler that garbled another
circuit from the start.

Sources: Zahur, Rosulek, Evans, Two Halves Make a Whole, 2015, figure 2; Kolesnikov, Schneider, 2008
(free XOR); Bellare, Hoang, Rogaway, Foundations of Garbled Circuits, 2012 (authenticity).

Shapes: N instances of one circuit at once, W wires, G AND gates, I inputs of one party, O outputs;
each label is two words of 64 bits, on a further axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2p import MessageInvalid
from training.privacy.inference.block_hash import (
    BLOCK_SIZE_BYTES,
    WORD,
    BlockHash,
    Words,
    blocks_of,
    bytes_of,
)
from training.privacy.inference.circuit import ONE, ZERO, Circuit
from training.privacy.inference.exchange import RandomBytes
from training.privacy.inference.extension import Bits

_OUTPUTS_PLACE = 1 << 63
"""Where tweaks of outputs begin, behind those of all gates."""
_LOWEST = np.uint64(1)


@dataclass(frozen=True, eq=False)
class Garbled:
    """What the garbler keeps of a garbling."""

    circuit: Circuit
    delta: Words
    inputs: Words
    """The label of zero of each input wire, the garbler's first: shape (I, N, 2)."""
    tables: bytes
    """For the evaluator: (G, 2, N, 2), then the hashes of outputs (O, 2, N, 2)."""

    def garbler_labels(self, bits_NI: Bits) -> bytes:
        """The labels of the garbler's own inputs: shape (I, N, 2)."""
        zeros = self.inputs[: self.circuit.garbler_inputs]
        return bytes_of(zeros ^ _chosen(bits_NI.T, self.delta))

    def evaluator_labels(self) -> tuple[Words, Words]:
        """Both labels of each input of the evaluator's: shapes (I, N, 2)."""
        zeros = self.inputs[self.circuit.garbler_inputs :]
        return zeros, zeros ^ self.delta


def garble(circuit: Circuit, count: int, hash_: BlockHash, random_bytes: RandomBytes) -> Garbled:
    """Garble so many instances of a circuit, all with one new Δ."""
    delta = blocks_of(random_bytes(BLOCK_SIZE_BYTES)).copy()
    delta[0] |= _LOWEST
    labels = np.empty((circuit.wires, count, 2), dtype=WORD)
    labels[ZERO] = 0
    # The evaluator holds zero for both constants: of this wire it is the label of one.
    labels[ONE] = delta
    inputs = circuit.garbler_inputs + circuit.evaluator_inputs
    first = circuit.garbler_wires.start
    random = random_bytes(inputs * count * BLOCK_SIZE_BYTES)
    labels[first : first + inputs] = blocks_of(random, inputs, count)
    tables = np.empty((circuit.and_gates, 2, count, 2), dtype=WORD)
    numbers = hash_.take(count)
    for level in circuit.levels:
        a, b = labels[level.left], labels[level.right]
        if not level.is_and:
            labels[level.out] = a ^ b
            continue
        places = level.numbers[:, None] << _LOWEST
        hash_a0, hash_a1 = (hash_(x, numbers, places) for x in (a, a ^ delta))
        hash_b0, hash_b1 = (hash_(x, numbers, places | _LOWEST) for x in (b, b ^ delta))
        generator = hash_a0 ^ hash_a1 ^ _masked(b, delta)
        evaluator = hash_b0 ^ hash_b1 ^ a
        tables[level.numbers, 0] = generator
        tables[level.numbers, 1] = evaluator
        labels[level.out] = hash_a0 ^ _masked(a, generator) ^ hash_b0 ^ _masked(b, evaluator ^ a)
    outputs = labels[circuit.outputs]
    hashes = np.stack(
        [_output_hashes(hash_, x, numbers) for x in (outputs, outputs ^ delta)], axis=1
    )
    return Garbled(
        circuit,
        delta,
        labels[first : first + inputs].copy(),
        bytes_of(tables) + bytes_of(hashes),
    )


def tables_size_bytes(circuit: Circuit, count: int) -> int:
    """How long the tables of so many instances are."""
    return (circuit.and_gates + len(circuit.outputs)) * 2 * count * BLOCK_SIZE_BYTES


def evaluate_untrusted(
    circuit: Circuit,
    tables: bytes,
    garbler_labels: Words,
    evaluator_labels: Words,
    hash_: BlockHash,
) -> Bits:
    """The outputs, as shape (N, O), of tables and labels that a stranger sent.

    Args:
        garbler_labels: shape (I, N, 2).
        evaluator_labels: shape (I, N, 2).

    Raises:
        MessageInvalid: they are not as long as the circuit asks, or the outputs decode to nothing:
            something was changed on the way, or is of another session.
    """
    count = garbler_labels.shape[1]
    if len(tables) != tables_size_bytes(circuit, count):
        raise MessageInvalid(f"{len(tables)} bytes are not the tables of this circuit")
    blocks = blocks_of(tables, circuit.and_gates + len(circuit.outputs), 2, count)
    labels = np.empty((circuit.wires, count, 2), dtype=WORD)
    labels[ZERO] = labels[ONE] = 0
    labels[circuit.garbler_wires] = garbler_labels
    labels[circuit.evaluator_wires] = evaluator_labels
    numbers = hash_.take(count)
    for level in circuit.levels:
        a, b = labels[level.left], labels[level.right]
        if not level.is_and:
            labels[level.out] = a ^ b
            continue
        places = level.numbers[:, None] << _LOWEST
        generator, evaluator = blocks[level.numbers, 0], blocks[level.numbers, 1]
        labels[level.out] = (
            hash_(a, numbers, places)
            ^ _masked(a, generator)
            ^ hash_(b, numbers, places | _LOWEST)
            ^ _masked(b, evaluator ^ a)
        )
    return _decoded_untrusted(
        _output_hashes(hash_, labels[circuit.outputs], numbers), blocks[circuit.and_gates :]
    )


def _decoded_untrusted(hashes: Words, expected: Words) -> Bits:
    zero, one = (np.all(hashes == expected[:, which], axis=-1) for which in (0, 1))
    if not np.all(zero ^ one):
        raise MessageInvalid(
            "the garbled circuit's outputs decode to nothing: its tables or labels were changed "
            "on the way, or are of another session; nothing of this result can be used"
        )
    return np.ascontiguousarray(one.T).view(np.uint8)


def _masked(labels: Words, blocks: Words) -> Words:
    """The blocks where the lowest bit of the label is one, else zero."""
    return (labels[..., :1] & _LOWEST) * blocks


def _chosen(bits: Bits, blocks: Words) -> Words:
    return bits[..., None].astype(WORD) * blocks


def _output_hashes(hash_: BlockHash, outputs: Words, numbers: Words) -> Words:
    places = np.arange(len(outputs), dtype=WORD) | np.uint64(_OUTPUTS_PLACE)
    return hash_(outputs, numbers, places[:, None])
