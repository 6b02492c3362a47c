"""Private inference between two parties: the client learns classes, the server nothing.

    base transfers                    server receives 128 of them: see extension.py
    each linear layer                 client: what hides the bits of its share
                                      server: for each bit and input one row, as long as outputs
                                      now both hold shares of the layer's output
    ReLU, between layers              client: what hides the bits of its share (server garbles)
                                      server: both labels of each, padded; tables; its own labels
                                      now the client holds ReLU(x) + mask, the server −mask
    argmax, after the last            the same; the client decodes the place of the largest

Values are shared modulo 2³²: client's + server's is the value. For bit i of input j the server
offers rⱼᵢ and rⱼᵢ + 2ⁱ·W·ⱼ by a correlated transfer, so the client's sum is Σ r + W·x, and −Σ r is
the server's. (The top bit counts negative.)

Secure against parties that follow the protocol and look at all they see. A server that garbles
something else is not noticed; a client may put in hidden values of its own choice.

Sources: Gilboa, Two Party RSA Key Generation, 1999, section 4 (multiplication from transfers);
Mohassel, Zhang, SecureML, 2017 (for whole layers); Liu, Juuti, Lu, Asokan, MiniONN, 2017 (shares
through linear layers, garbled circuits between them).

Shapes: B samples, I inputs and O outputs of a layer, K bits of an input, M transfers.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from p2p import MessageInvalid
from training.privacy.inference.arithmetic import argmax_circuit, comparison_circuit, relu_circuit
from training.privacy.inference.base_transfer import POINT_SIZE_BYTES
from training.privacy.inference.block_hash import BLOCK_SIZE_BYTES, BlockHash, blocks_of, bytes_of
from training.privacy.inference.circuit import Circuit, bits_of, values_of
from training.privacy.inference.exchange import Exchange, RandomBytes, receive, send
from training.privacy.inference.extension import (
    COLUMNS,
    Bits,
    TransferReceiver,
    TransferSender,
    choices_size_bytes,
    open_receiver,
    open_sender,
)
from training.privacy.inference.garbling import evaluate_untrusted, garble, tables_size_bytes
from training.privacy.inference.network import RING_BITS, FixedNetwork, Ring, Shape

COMPARED_BITS = 64
_WORDS_IN_BLOCK = BLOCK_SIZE_BYTES // 4

relu_of = lru_cache(maxsize=32)(relu_circuit)
argmax_of = lru_cache(maxsize=8)(argmax_circuit)
comparison_of = lru_cache(maxsize=1)(comparison_circuit)


class Garbler:
    """The server's side of one session."""

    def __init__(self, session: bytes, random_bytes: RandomBytes) -> None:
        self._session = session
        self._random_bytes = random_bytes
        self._hash = BlockHash(session)
        self._transfers: TransferSender | None = None

    def open(self) -> Exchange[None]:
        """The base transfers."""
        self._transfers = yield from open_sender(self._hash, self._session, self._random_bytes)

    def run_circuit(self, circuit: Circuit, bits_NI: Bits) -> Exchange[None]:
        """Garble instances of a circuit on these inputs; the client alone learns the outputs."""
        assert self._transfers is not None
        count = len(bits_NI)
        sent = yield from self._transfers.receive_choices(circuit.evaluator_inputs * count)
        zero_pads, one_pads = (pads[:, 0] for pads in sent.pads(1))
        garbled = garble(circuit, count, self._hash, self._random_bytes)
        zero, one = (labels.reshape(-1, 2) for labels in garbled.evaluator_labels())
        yield from send(bytes_of(zero ^ zero_pads) + bytes_of(one ^ one_pads))
        yield from send(garbled.garbler_labels(bits_NI) + garbled.tables)

    def multiply(
        self, weights_OI: NDArray[np.int32], samples: int, input_bits: int
    ) -> Exchange[Ring]:
        """Multiply what the client holds by weights; gives our share, of shape (B, O)."""
        assert self._transfers is not None
        outputs, inputs = weights_OI.shape
        sent = yield from self._transfers.receive_choices(samples * inputs * input_bits)
        rows = (samples, inputs, input_bits, -1)
        zero, one = (
            pads.reshape(len(pads), -1).view("<u4").reshape(*rows)[..., :outputs]
            for pads in sent.pads(_blocks(outputs))
        )
        steps = weights_OI.T.astype(np.uint32)[:, None, :] * _places(input_bits)[:, None]
        yield from send((zero + steps - one).astype("<u4").tobytes())
        share_BO: Ring = np.uint32(0) - zero.sum(axis=(1, 2), dtype=np.uint32)
        return share_BO


class Evaluator:
    """The client's side of one session."""

    def __init__(self, session: bytes, random_bytes: RandomBytes) -> None:
        self._session = session
        self._random_bytes = random_bytes
        self._hash = BlockHash(session)
        self._transfers: TransferReceiver | None = None

    def open(self) -> Exchange[None]:
        """The base transfers."""
        self._transfers = yield from open_receiver(self._hash, self._session, self._random_bytes)

    def run_circuit(self, circuit: Circuit, bits_NI: Bits) -> Exchange[Bits]:
        """Evaluate instances of a circuit on these inputs; gives the outputs, of shape (N, O)."""
        assert self._transfers is not None
        count = len(bits_NI)
        bits_I_N = np.ascontiguousarray(bits_NI.T).reshape(-1)
        chosen = yield from self._transfers.send_choices(bits_I_N)
        pads = chosen.pads(1)[:, 0]
        data = yield from receive(2 * len(bits_I_N) * BLOCK_SIZE_BYTES)
        offered = blocks_of(data, 2, len(bits_I_N))
        labels = offered[bits_I_N, np.arange(len(bits_I_N))] ^ pads
        own_size_bytes = circuit.garbler_inputs * count * BLOCK_SIZE_BYTES
        data = yield from receive(own_size_bytes + tables_size_bytes(circuit, count))
        theirs = blocks_of(data[:own_size_bytes], circuit.garbler_inputs, count)
        mine = labels.reshape(circuit.evaluator_inputs, count, 2)
        return evaluate_untrusted(circuit, data[own_size_bytes:], theirs, mine, self._hash)

    def multiply(self, inputs_BI: Ring, outputs: int, input_bits: int) -> Exchange[Ring]:
        """Multiply what we hold by the server's weights; gives our share, of shape (B, O)."""
        assert self._transfers is not None
        bits_BIK = bits_of(inputs_BI, input_bits)
        chosen = yield from self._transfers.send_choices(bits_BIK.reshape(-1))
        pads = chosen.pads(_blocks(outputs))
        shape = (*bits_BIK.shape, outputs)
        mine = pads.reshape(len(pads), -1).view("<u4")[:, :outputs].reshape(shape)
        data = yield from receive(bits_BIK.size * outputs * 4)
        steps = np.frombuffer(data, dtype="<u4").reshape(shape)
        total = mine + steps * bits_BIK[..., None].astype(np.uint32)
        share_BO: Ring = total.sum(axis=(1, 2), dtype=np.uint32)
        return share_BO


def serve_classes(
    network: FixedNetwork, samples: int, session: bytes, random_bytes: RandomBytes
) -> Exchange[None]:
    """The server's side of classifying so many samples."""
    shape, garbler = network.shape, Garbler(session, random_bytes)
    yield from garbler.open()
    share_BI = np.zeros((samples, shape.sizes[0]), dtype=np.uint32)
    input_bits = shape.feature_bits
    for layer, (weights, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        ours = share_BI @ weights.T.astype(np.uint32) + bias.astype(np.uint32)
        share_BO = ours + (yield from garbler.multiply(weights, samples, input_bits))
        if layer == len(network.weights) - 1:
            bits = bits_of(share_BO, RING_BITS).reshape(samples, -1)
            yield from garbler.run_circuit(argmax_of(RING_BITS, shape.sizes[-1]), bits)
            return
        mask_BO = np.frombuffer(random_bytes(share_BO.size * 4), "<u4").reshape(share_BO.shape)
        both = np.stack([share_BO.reshape(-1), mask_BO.reshape(-1)], axis=1)
        bits = bits_of(both, RING_BITS).reshape(len(both), -1)
        yield from garbler.run_circuit(relu_of(RING_BITS, shape.shifts[layer]), bits)
        share_BI, input_bits = np.uint32(0) - mask_BO, RING_BITS


def ask_classes(
    shape: Shape, features_BI: NDArray[np.int32], session: bytes, random_bytes: RandomBytes
) -> Exchange[NDArray[np.int64]]:
    """The client's side: the class of each sample."""
    evaluator, samples = Evaluator(session, random_bytes), len(features_BI)
    yield from evaluator.open()
    share_BI, input_bits = features_BI.astype(np.uint32), shape.feature_bits
    for layer, outputs in enumerate(shape.sizes[1:]):
        share_BO = yield from evaluator.multiply(share_BI, outputs, input_bits)
        if layer == len(shape.sizes) - 2:
            bits = bits_of(share_BO, RING_BITS).reshape(samples, -1)
            places = yield from evaluator.run_circuit(argmax_of(RING_BITS, outputs), bits)
            classes = values_of(places).astype(np.int64)
            if not np.all(classes < outputs):
                raise MessageInvalid("the server's circuit gave a class that there is not")
            return classes
        bits = bits_of(share_BO.reshape(-1), RING_BITS)
        result = yield from evaluator.run_circuit(relu_of(RING_BITS, shape.shifts[layer]), bits)
        share_BI, input_bits = values_of(result).reshape(share_BO.shape), RING_BITS
    raise AssertionError("a network has layers")


def traffic_bytes(shape: Shape, samples: int) -> tuple[int, int]:
    """How many bytes the client sends and receives for so many samples, without framing."""
    sent = 2 * POINT_SIZE_BYTES
    received = COLUMNS * POINT_SIZE_BYTES
    input_bits = shape.feature_bits
    for layer, (inputs, outputs) in enumerate(pairwise(shape.sizes)):
        transfers = samples * inputs * input_bits
        sent += choices_size_bytes(transfers)
        received += transfers * outputs * 4
        if layer < len(shape.shifts):
            circuit, count = relu_of(RING_BITS, shape.shifts[layer]), samples * outputs
        else:
            circuit, count = argmax_of(RING_BITS, outputs), samples
        transfers = circuit.evaluator_inputs * count
        sent += choices_size_bytes(transfers)
        received += (2 * transfers + circuit.garbler_inputs * count) * BLOCK_SIZE_BYTES
        received += tables_size_bytes(circuit, count)
        input_bits = RING_BITS
    return sent, received


def serve_comparison(number: int, session: bytes, random_bytes: RandomBytes) -> Exchange[None]:
    """The server's side of comparing two numbers."""
    garbler = Garbler(session, random_bytes)
    yield from garbler.open()
    yield from garbler.run_circuit(comparison_of(COMPARED_BITS), _number_bits(number))


def ask_comparison(number: int, session: bytes, random_bytes: RandomBytes) -> Exchange[int]:
    """The client's side: −1, 0 or 1, as its number is less than, equal to or more than theirs."""
    evaluator = Evaluator(session, random_bytes)
    yield from evaluator.open()
    bits = yield from evaluator.run_circuit(comparison_of(COMPARED_BITS), _number_bits(number))
    less, more = (bool(bit) for bit in bits[0])
    return int(more) - int(less)


def _number_bits(number: int) -> Bits:
    return bits_of(np.array([[number]], dtype="<i8").view("<u4"), 32).reshape(1, COMPARED_BITS)


def _blocks(outputs: int) -> int:
    return -(-outputs // _WORDS_IN_BLOCK)


def _places(bits: int) -> Ring:
    """What each bit of a number in two's complement counts, modulo 2³²."""
    places = np.uint32(1) << np.arange(bits, dtype=np.uint32)
    places[-1:] = np.uint32(0) - places[-1:]
    return places
