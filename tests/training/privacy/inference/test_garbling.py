"""Garbled circuits against figure 2 of half gates and circuits in the clear, and changed ones."""

import contextlib
import functools
import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import MessageInvalid
from tests.training.privacy.inference import plain_aes, plain_garbling
from tests.training.privacy.inference.seeded import SESSION, random_bytes, session_key
from training.privacy.inference.arithmetic import argmax_circuit, comparison_circuit, relu_circuit
from training.privacy.inference.block_hash import BlockHash, Words, blocks_of, bytes_of
from training.privacy.inference.circuit import Builder, Circuit
from training.privacy.inference.extension import Bits
from training.privacy.inference.garbling import evaluate_untrusted, garble, tables_size_bytes

COUNT = 3


@dataclass
class Case:
    """A garbling, and what an evaluator of these inputs holds."""

    circuit: Circuit
    garbler: Bits
    evaluator: Bits
    tables: bytes
    theirs: Words
    mine: Words

    def outputs(self) -> Bits:
        return evaluate_untrusted(
            self.circuit, self.tables, self.theirs, self.mine, BlockHash(SESSION)
        )


def garbled(circuit: Circuit, seed: int = 0, count: int = COUNT) -> Case:
    rng = np.random.default_rng(seed)
    garbler, evaluator = (
        rng.integers(0, 2, (count, inputs), dtype=np.uint8)
        for inputs in (circuit.garbler_inputs, circuit.evaluator_inputs)
    )
    made = garble(circuit, count, BlockHash(SESSION), random_bytes(seed))
    theirs = blocks_of(made.garbler_labels(garbler), circuit.garbler_inputs, count)
    zero, one = made.evaluator_labels()
    mine = np.where(evaluator.T[..., None] == 1, one, zero)
    return Case(circuit, garbler, evaluator, made.tables, theirs, mine)


def random_circuit(seed: int) -> Circuit:
    rng, builder = random.Random(seed), Builder()
    wires = [0, 1, *builder.garbler_number(3), *builder.evaluator_number(3)]
    for _ in range(rng.randrange(1, 40)):
        operation = rng.choice([builder.and_, builder.and_, builder.xor])
        wires.append(operation(rng.choice(wires), rng.choice(wires)))
    return builder.build([rng.choice(wires) for _ in range(4)])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_random_circuits_give_what_they_give_in_the_clear(seed: int) -> None:
    case = garbled(random_circuit(seed), seed)
    expected = case.circuit.evaluate(case.garbler, case.evaluator)
    np.testing.assert_array_equal(case.outputs(), expected)


@pytest.mark.parametrize(
    "circuit", [comparison_circuit(16), relu_circuit(16, 4), argmax_circuit(16, 5)]
)
def test_circuits_in_use_give_what_they_give_in_the_clear(circuit: Circuit) -> None:
    case = garbled(circuit, seed=1, count=20)
    expected = circuit.evaluate(case.garbler, case.evaluator)
    np.testing.assert_array_equal(case.outputs(), expected)


def block(number: int) -> bytes:
    return number.to_bytes(16, "little")


@pytest.mark.parametrize("circuit", [random_circuit(3), random_circuit(8), comparison_circuit(4)])
def test_tables_labels_and_hashes_are_those_of_the_figure(circuit: Circuit) -> None:
    """A garbler that told more, and yet decoded rightly, would give other bytes."""
    assert circuit.and_gates > 2
    hash_ = BlockHash(SESSION)
    hash_.take(5)  # so instances have numbers of their own
    made = garble(circuit, COUNT, hash_, random_bytes(4))
    drawn = random_bytes(4)
    R = int.from_bytes(drawn(16), "little") | 1
    inputs = circuit.garbler_inputs + circuit.evaluator_inputs
    raw = drawn(inputs * COUNT * 16)
    labels = [int.from_bytes(raw[at : at + 16], "little") for at in range(0, len(raw), 16)]
    key = session_key(SESSION)
    bits = np.random.default_rng(5).integers(0, 2, (COUNT, inputs), dtype=np.uint8)
    plain = []
    for instance in range(COUNT):

        @functools.cache
        def H(label: int, place: int, number: int = 5 + instance) -> int:
            return plain_aes.tweaked(key, label, number, place)

        zeros = labels[instance::COUNT]
        plain.append(plain_garbling.garble(circuit, R, zeros, H))
        active = [zero ^ R * int(bit) for zero, bit in zip(zeros, bits[instance], strict=True)]
        clear = circuit.evaluate(
            *np.hsplit(bits[instance : instance + 1], [circuit.garbler_inputs])
        )
        assert plain_garbling.evaluate(circuit, plain[-1], active, H) == clear[0].tolist()
    rows = [[one.tables[gate] for one in plain] for gate in range(circuit.and_gates)]
    rows += [[one.outputs[place] for one in plain] for place in range(len(circuit.outputs))]
    expected = [block(pair[which]) for row in rows for which in (0, 1) for pair in row]
    assert made.tables == b"".join(expected)
    assert bytes_of(made.delta) == block(R)
    # The labels that travel, and those that transfers choose from.
    theirs = bits[:, : circuit.garbler_inputs]
    shown = [
        block(one.zeros[2 + wire] ^ R * int(theirs[instance, wire]))
        for wire in range(circuit.garbler_inputs)
        for instance, one in enumerate(plain)
    ]
    assert made.garbler_labels(theirs) == b"".join(shown)
    for value, offered in enumerate(made.evaluator_labels()):
        wires = range(2 + circuit.garbler_inputs, 2 + inputs)
        chosen = [block(one.zeros[wire] ^ R * value) for wire in wires for one in plain]
        assert bytes_of(offered) == b"".join(chosen)


def test_an_and_gate_costs_two_blocks_whatever_is_in_it() -> None:
    builder = Builder()
    (a,), (b,) = builder.garbler_number(1), builder.evaluator_number(1)
    circuit = builder.build([builder.and_(a, b)])
    assert tables_size_bytes(circuit, 1) == (2 + 2) * 16
    seen = set()
    for seed in range(100):
        case = garbled(circuit, seed, count=1)
        bits = (int(case.garbler[0, 0]), int(case.evaluator[0, 0]))
        assert case.outputs().tolist() == [[bits[0] & bits[1]]]
        # The evaluator sees the lowest bits of labels: they must not go with the values.
        seen.add((*bits, int(case.theirs[0, 0, 0]) & 1, int(case.mine[0, 0, 0]) & 1))
    assert len(seen) == 16


def test_labels_differ_by_a_secret_of_each_garbling() -> None:
    circuit = comparison_circuit(4)
    deltas = []
    for seed in (1, 2):
        made = garble(circuit, 2, BlockHash(SESSION), random_bytes(seed))
        zero, one = made.evaluator_labels()
        assert np.all((zero ^ one) == made.delta)
        assert int(made.delta[0]) & 1
        deltas.append(made.delta)
    assert np.any(deltas[0] != deltas[1])


CASE = garbled(comparison_circuit(8))


@pytest.mark.parametrize("place", range(0, len(CASE.tables) - 2 * 2 * 2 * COUNT * 16, 101))
def test_a_changed_table_is_never_a_wrong_answer(place: int) -> None:
    """This evaluation may not use the row that a byte belongs to; if it does, it is noticed."""
    tables = bytearray(CASE.tables)
    tables[place] ^= 0x10
    changed = Case(**{**vars(CASE), "tables": bytes(tables)})
    outputs: Bits | None = None
    with contextlib.suppress(MessageInvalid):
        outputs = changed.outputs()
    assert outputs is None or np.array_equal(outputs, CASE.outputs())


def test_tables_of_noise_labels_of_noise_and_another_session_decode_to_nothing() -> None:
    noise = random_bytes(9)
    tables = noise(len(CASE.tables))
    mine = blocks_of(noise(CASE.mine.nbytes), *CASE.mine.shape[:2])
    for change in ({"tables": tables}, {"mine": mine}, {"theirs": mine}):
        with pytest.raises(MessageInvalid, match="decode to nothing"):
            Case(**{**vars(CASE), **change}).outputs()
    with pytest.raises(MessageInvalid, match="decode to nothing"):
        evaluate_untrusted(
            CASE.circuit, CASE.tables, CASE.theirs, CASE.mine, BlockHash(b"another session")
        )


def test_tables_of_another_length_are_refused() -> None:
    for tables in (b"", CASE.tables[:-1], CASE.tables + b"x"):
        with pytest.raises(MessageInvalid, match="not the tables"):
            Case(**{**vars(CASE), "tables": tables}).outputs()
