"""Targets of private inference: points, garbled circuits, and shapes that a server offers."""

from __future__ import annotations

import numpy as np

from p2p import MessageInvalid, decode_untrusted, encode
from tests.fuzz.target import Target
from tests.training.privacy.inference.seeded import SESSION, random_bytes
from tests.training.privacy.inference.test_schema import OFFER
from training.privacy.inference.arithmetic import comparison_circuit
from training.privacy.inference.base_transfer import points_untrusted, receive_transfers
from training.privacy.inference.block_hash import BlockHash, blocks_of
from training.privacy.inference.extension import _product, check_untrusted
from training.privacy.inference.garbling import evaluate_untrusted, garble
from training.privacy.inference.protocol import traffic_bytes
from training.privacy.inference.schema import Offer, shape_untrusted

# Two public keys of RFC 8032.
POINTS = bytes.fromhex(
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
)
BYTES_MAX = 1 << 20


def run_points(data: bytes) -> None:
    try:
        points = points_untrusted(data, 2)
    except MessageInvalid:
        return
    assert b"".join(points) == data
    receiver = receive_transfers([True], SESSION, random_bytes(1))
    next(receiver)
    receiver.send(data)


CIRCUIT = comparison_circuit(2)
GARBLED = garble(CIRCUIT, 1, BlockHash(SESSION), random_bytes(1))
GARBLER_LABELS = GARBLED.garbler_labels(np.array([[1, 0]], dtype=np.uint8))
EVALUATOR_LABELS = GARBLED.evaluator_labels()[0]
ANSWERS = CIRCUIT.evaluate(
    np.array([[1, 0]], dtype=np.uint8), np.array([[0, 0]], dtype=np.uint8)
).tolist()


def run_garbled(data: bytes) -> None:
    size = len(GARBLER_LABELS)
    if len(data) < size:
        return
    labels = blocks_of(data[:size], CIRCUIT.garbler_inputs, 1)
    tables = data[size:]
    try:
        bits = evaluate_untrusted(CIRCUIT, tables, labels, EVALUATOR_LABELS, BlockHash(SESSION))
    except MessageInvalid:
        return
    # Whatever was changed was of no use; the only other answers are those of a garbler who lies.
    hashes = 2 * len(CIRCUIT.outputs) * 16
    if tables[-hashes:] == GARBLED.tables[-hashes:]:
        assert bits.tolist() == ANSWERS


COLUMNS, WEIGHTS = np.frombuffer(random_bytes(2)(2 * 128 * 16), np.uint8).reshape(2, 128, 16)
SECRET = 5
# Of a receiver that chose zero everywhere, so that t is the sender's own product.
CHECK = bytes(16) + _product(COLUMNS, WEIGHTS).to_bytes(32, "little")


def run_check(data: bytes) -> None:
    try:
        check_untrusted(data, WEIGHTS, COLUMNS, SECRET)
    except MessageInvalid:
        return
    # Whoever knows the secret can make others that pass; it is short here.
    chosen = int.from_bytes(data[:16], "little")
    product = int.from_bytes(data[16:], "little") ^ chosen ^ chosen << 2
    assert product == _product(COLUMNS, WEIGHTS)


def run_shape(data: bytes) -> None:
    try:
        offer = decode_untrusted(data, Offer, size_bytes_max=512)
        # Large circuits are refused by their size, and take time to lay out.
        if offer.sizes and offer.sizes[-1] > 64:
            return
        shape = shape_untrusted(offer, samples=2, bytes_max=BYTES_MAX)
    except MessageInvalid:
        return
    assert sum(traffic_bytes(shape, 2)) <= BYTES_MAX
    assert len(shape.sizes) == len(shape.shifts) + 2


HOME = "training.privacy.inference"
TARGETS = (
    Target(
        name="privacy.points",
        run=run_points,
        seeds=(POINTS,),
        covers=(f"{HOME}.base_transfer.points_untrusted",),
    ),
    Target(
        name="privacy.garbled",
        run=run_garbled,
        seeds=(GARBLER_LABELS + GARBLED.tables,),
        covers=(
            f"{HOME}.garbling.evaluate_untrusted",
            f"{HOME}.garbling._decoded_untrusted",
        ),
    ),
    Target(
        name="privacy.check",
        run=run_check,
        seeds=(CHECK,),
        covers=(f"{HOME}.extension.check_untrusted",),
    ),
    Target(
        name="privacy.shape",
        run=run_shape,
        seeds=(encode(OFFER),),
        covers=(f"{HOME}.schema.shape_untrusted",),
    ),
)
