"""The server's side of the computing: from activations to a step of the body and their gradients.

Everything here runs in the one thread that trains. What comes in is untrusted bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from p2p import MessageInvalid, RefusedError
from training.split.parts import joined
from training.split.passes import HeldPass, are_finite, take_step
from training.split.schema import LOSS_MAX, Forward
from training.split.wire import (
    NotFinite,
    Payload,
    Shape,
    TensorWire,
    decode_labels_untrusted,
)

logger = logging.getLogger(__name__)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of outputs and labels: their mean over the samples, a scalar."""


@dataclass(frozen=True)
class Arrived:
    """What one party sent for one request."""

    payload: Payload
    shape: Shape
    """(N, …) of its activations."""
    wire: TensorWire
    forward: Forward | None
    """The message, which describes the labels; None where nothing is trained."""
    seed: int
    """For codecs that draw, of what is sent back."""


@dataclass
class HeldStep:
    """A step that waits for the gradient of its output."""

    held: HeldPass
    leaves: list[torch.Tensor]
    arrived: Sequence[Arrived]

    @property
    def rows(self) -> int:
        """Samples of the batch."""
        return self.arrived[0].shape[0]


class BodyTrainer:
    """Runs and trains the server's part.

    Args:
        optimizer: of the body's parameters; None trains none.
        loss: where labels come to the server; None where they stay with the client.
        label_classes: labels that are whole numbers must be below it; None takes the size of the
            output's dim 1. A label out of range can spoil a GPU for everybody.
    """

    def __init__(
        self,
        body: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        loss: Loss | None,
        label_classes: int | None = None,
    ) -> None:
        self._body = body
        self._optimizer = optimizer
        self._loss = loss
        self._label_classes = label_classes
        tensors = [*body.parameters(), *body.buffers()]
        self._device = tensors[0].device if tensors else torch.device("cpu")

    def train(
        self, arrived: Sequence[Arrived], labels: Arrived, task_weight: float
    ) -> tuple[float, list[Payload]]:
        """One whole step; the loss and each party's gradient.

        Args:
            labels: the party that sent them.

        Raises:
            MessageInvalid: what came is not what it should be.
            RefusedError: it cannot be computed; no parameter has changed.
        """
        assert self._loss is not None
        leaves = self._decoded(arrived, trains=True)
        truth = self._labels(labels)
        with _told_little():
            held = HeldPass(self._body, joined(leaves), stash=False)
            self._check_labels(truth, held.output)
            loss = self._loss(held.output, truth)
            of_inputs, of_parameters = held.gradients([loss * task_weight], [None], leaves)
        mean = float(loss.detach())
        if not abs(mean) <= LOSS_MAX or not are_finite([one for _, one in of_parameters]):
            raise RefusedError("not-finite", "the server's loss or gradient is not finite")
        payloads = _encoded(of_inputs, arrived)
        take_step(self._optimizer, of_parameters)
        return mean, payloads

    def forward(
        self, arrived: Sequence[Arrived], output_shape: Shape, answer: Arrived
    ) -> tuple[HeldStep, Payload]:
        """The first half of a step whose labels are elsewhere: its output.

        Args:
            answer: the party that it goes to.

        Raises:
            MessageInvalid, RefusedError: as train() does.
        """
        leaves = self._decoded(arrived, trains=True)
        with _told_little():
            # Another client's step may come in between, so these parameters are kept.
            held = HeldPass(self._body, joined(leaves), stash=True)
        if tuple(held.output.shape[1:]) != output_shape:
            raise RefusedError("failed", "the server's output has another shape than agreed")
        (payload,) = _encoded([held.output], [answer])
        return HeldStep(held, leaves, arrived), payload

    def backward(self, step: HeldStep, payload: Payload, wire: TensorWire) -> list[Payload]:
        """The second half: each party's gradient.

        Raises:
            MessageInvalid, RefusedError: as train() does.
        """
        output = step.held.output
        gradient = wire.decode_untrusted(payload, tuple(output.shape)).to(self._device)
        with _told_little():
            of_inputs, of_parameters = step.held.gradients([output], [gradient], step.leaves)
        if not are_finite([one for _, one in of_parameters]):
            raise RefusedError("not-finite", "the server's gradient is not finite")
        payloads = _encoded(of_inputs, step.arrived)
        take_step(self._optimizer, of_parameters)
        return payloads

    def evaluate(self, arrived: Sequence[Arrived]) -> tuple[Shape, Payload]:
        """The output, plain, in evaluation mode; its shape for one sample comes first.

        Raises:
            MessageInvalid, RefusedError: as train() does.
        """
        inputs = joined(self._decoded(arrived, trains=False))
        was_training = self._body.training
        self._body.eval()
        try:
            with torch.no_grad(), _told_little():
                output: torch.Tensor = self._body(inputs)
        finally:
            self._body.train(was_training)
        plain = plain_wire(arrived[0].wire)
        try:
            return tuple(output.shape[1:]), plain.encode(output, 0)
        except NotFinite as exc:
            raise RefusedError("not-finite", f"the server's outputs {exc}") from exc

    def _decoded(self, arrived: Sequence[Arrived], *, trains: bool) -> list[torch.Tensor]:
        """Each party's activations, leaves of a graph where something is trained."""
        leaves = []
        for party, one in enumerate(arrived):
            try:
                # Labels lie behind the values.
                end = len(one.payload) if one.forward is None else one.forward.values_bytes
                values = one.wire.decode_untrusted(memoryview(one.payload)[:end], one.shape)
            except MessageInvalid as exc:
                raise MessageInvalid(f"activations of party {party}: {exc}") from exc
            leaves.append(values.to(self._device).requires_grad_(trains))
        return leaves

    def _labels(self, arrived: Arrived) -> torch.Tensor:
        assert arrived.forward is not None
        message = arrived.forward
        payload = memoryview(arrived.payload)[message.values_bytes :]
        shape = (message.rows, *message.label_shape)
        return decode_labels_untrusted(payload, shape, message.label_dtype).to(self._device)

    def _check_labels(self, labels: torch.Tensor, output: torch.Tensor) -> None:
        if labels.is_floating_point():
            return
        classes = self._label_classes
        if classes is None:
            classes = output.shape[1] if output.dim() > 1 else 2
        if bool(((labels < 0) | (labels >= classes)).any()):
            raise RefusedError("invalid", f"a label is not one of the {classes} classes")


def plain_wire(wire: TensorWire) -> TensorWire:
    """How outputs travel where nothing is trained: as the numbers that the model computes in."""
    name = str(wire.dtype).removeprefix("torch.")
    return TensorWire(name, name)


def _encoded(tensors: Sequence[torch.Tensor], arrived: Sequence[Arrived]) -> list[Payload]:
    try:
        return [
            one.wire.encode(tensor, one.seed) for tensor, one in zip(tensors, arrived, strict=True)
        ]
    except NotFinite as exc:
        raise RefusedError("not-finite", f"the server's outputs or gradients {exc}") from exc


@contextmanager
def _told_little() -> Iterator[None]:
    """What goes wrong in the user's own code is logged here; the client learns only that it did."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as exc:
        logger.warning("split_body_failed cause=%r", exc)
        raise RefusedError(
            "failed", "the server's part of the model could not compute this batch"
        ) from exc
