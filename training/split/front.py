"""The client's side of the computing: from inputs to activations, and from gradients to a step.

Everything here runs in the caller's thread. What comes in is untrusted bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from p2p import MessageInvalid
from training.errors import SplitFailed
from training.split.body import Loss, plain_wire
from training.split.frames import Frame
from training.split.parts import Parts
from training.split.passes import HeldPass, ParameterGradients, are_finite, take_step
from training.split.schema import Evaluate, Forward, LabelDtype, OutputGradient
from training.split.traffic import Traffic
from training.split.wire import NotFinite, Payload, TensorWire, encode_labels

ExtraLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of inputs and activations (N, …): a scalar that only the client knows of."""


@dataclass(frozen=True, kw_only=True)
class FrontOptions:
    """What one client computes, and with what."""

    party: int = 0
    """Which of the parties it is."""
    brings_labels: bool = True
    """Of several parties exactly one does."""
    loss: Loss | None = None
    """Where labels stay here."""
    extra_loss: ExtraLoss | None = None
    """Of inputs and activations: beside the task's loss, as NoPeek's distance correlation."""
    alpha: float = 0.0
    """loss = alpha · extra_loss + (1 − alpha) · task.
    Source: Vepakomma et al., "NoPeek", 2020, equation 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be from 0 to below 1, not {self.alpha}")
        if (self.extra_loss is None) != (self.alpha == 0):
            raise ValueError("give both extra_loss and alpha, or neither")


@dataclass
class _Held:
    """One step on its way."""

    held: HeldPass
    penalty: torch.Tensor | None
    labels: torch.Tensor | None
    of_tail: ParameterGradients = field(default_factory=list)
    loss: float | None = None
    output_elements: int = 0
    """Of the output that came back, for which a gradient was sent."""


class FrontTrainer:
    """Runs and trains the client's parts.

    Args:
        optimizer: of the front's parameters and the tail's; None trains none.
        stash: whether steps overlap, so that each needs the parameters that it began with.
    """

    def __init__(
        self,
        parts: Parts,
        optimizer: torch.optim.Optimizer | None,
        wire: TensorWire,
        options: FrontOptions,
        *,
        stash: bool,
    ) -> None:
        here = dict(enumerate(parts.fronts))
        if (front := here.get(options.party)) is None:
            raise ValueError(f"these parts have no front for party {options.party}")
        self.traffic = Traffic()
        self._front: nn.Module = front
        self._parts = parts
        self._optimizer = optimizer
        self._wire = wire
        self._options = options
        self._stash = stash
        self._held: dict[int, _Held] = {}
        if parts.is_u_shaped and options.brings_labels and (parts.tail is None or not options.loss):
            raise ValueError("where labels stay with the client it needs a tail and a loss")

    @property
    def is_busy(self) -> bool:
        """Whether a step is on its way."""
        return bool(self._held)

    def forward(
        self,
        number: int,
        inputs: torch.Tensor,
        labels: torch.Tensor | None,
        entities: torch.Tensor | None,
    ) -> Frame:
        """Begin a step: what goes to the server.

        Raises:
            SplitFailed: the activations or the extra loss are not finite; nothing is sent, and all
                is as before.
            ValueError: labels are missing or too many, or the activations have another shape.
        """
        if (labels is not None) != self._options.brings_labels:
            raise ValueError("labels are given by the client that brings them, and by no other")
        held = HeldPass(self._front, inputs, stash=self._stash)
        activations = held.output
        self._check(activations)
        values = self._encode(activations, number, "activations")
        rows, payload = activations.shape[0], values
        shape: tuple[int, ...] = ()
        dtype: LabelDtype = ""
        if labels is not None and len(labels) != rows:
            raise ValueError(f"{len(labels)} labels for {rows} samples")
        if labels is not None and not self._parts.is_u_shaped:
            behind, shape, dtype = encode_labels(labels)
            payload = b"".join((values, behind))
        penalty = None
        if self._options.extra_loss is not None:
            penalty = self._options.alpha * self._options.extra_loss(inputs, activations)
            if not are_finite([penalty]):
                raise SplitFailed("not-finite", f"the extra loss of step {number} is not finite")
        self._held[number] = _Held(held, penalty, labels)
        message = Forward(
            number, rows, memoryview(values).nbytes, shape, dtype, entities_digest(entities)
        )
        return Frame(message, payload)

    def output(self, number: int, payload: Payload, rows: int) -> Frame:
        """The output came: the gradient of the loss with respect to it.

        Raises:
            SplitFailed: it is not finite, or gives a loss or gradient that is not.
        """
        step, tail, loss_of = self._held[number], self._parts.tail, self._options.loss
        assert tail is not None
        assert loss_of is not None
        assert step.labels is not None
        leaf = self._decode(payload, (rows, *self._parts.output_shape)).requires_grad_()
        last = HeldPass(tail, leaf, stash=False)
        loss = loss_of(last.output, step.labels)
        step.loss = float(loss.detach())
        scaled = loss * (1 - self._options.alpha)
        (gradient,), step.of_tail = last.gradients([scaled], [None], [leaf])
        if not math.isfinite(step.loss) or not are_finite([one for _, one in step.of_tail]):
            raise SplitFailed("not-finite", f"the loss of step {number} is not finite")
        step.output_elements = leaf.numel()
        return Frame(
            OutputGradient(number), self._encode(gradient, number, "gradients of the output")
        )

    def gradient(self, number: int, payload: Payload, loss: float | None) -> float | None:
        """The gradient came: take the step; returns the loss of the task, where it is known.

        Raises:
            SplitFailed: it is not finite; the step is not taken.
        """
        step = self._held.pop(number)
        activations = step.held.output
        gradient = self._decode(payload, tuple(activations.shape))
        outputs, gradients = [activations], [gradient]
        if step.penalty is not None:
            outputs.append(step.penalty)
            gradients.append(torch.ones_like(step.penalty))
        _, of_front = step.held.gradients(outputs, gradients)
        if not are_finite([one for _, one in of_front]):
            raise SplitFailed("not-finite", f"the gradient of step {number} is not finite")
        self._count(step)
        take_step(self._optimizer, [*of_front, *step.of_tail])
        return step.loss if loss is None else loss

    def evaluate(self, number: int, inputs: torch.Tensor, entities: torch.Tensor | None) -> Frame:
        """Ask for an output; nothing is trained."""
        was_training = self._front.training
        self._front.eval()
        try:
            with torch.no_grad():
                activations: torch.Tensor = self._front(inputs)
        finally:
            self._front.train(was_training)
        self._check(activations)
        self.traffic.evaluation_values_sent += activations.numel()
        message = Evaluate(number, activations.shape[0], entities_digest(entities))
        return Frame(message, self._encode(activations, number, "activations"))

    def scores(self, payload: Payload, shape: tuple[int, ...]) -> torch.Tensor:
        """What the whole model says, from an output (N, …); empty where another has the labels.

        Raises:
            SplitFailed: the output is not finite.
        """
        if not self._options.brings_labels:
            return torch.empty(0)
        output = self._decode(payload, shape, plain_wire(self._wire))
        self.traffic.evaluation_values_received += output.numel()
        tail = self._parts.tail
        if tail is None:
            return output
        was_training = tail.training
        tail.eval()
        try:
            with torch.no_grad():
                last: torch.Tensor = tail(output)
                return last
        finally:
            tail.train(was_training)

    def forget(self) -> None:
        """Drop the steps on their way: their session has ended."""
        self._held.clear()

    def _count(self, step: _Held) -> None:
        """A step is whole: as much came back as was sent, but for labels."""
        elements = step.held.output.numel() + step.output_elements
        self.traffic.batches += 1
        self.traffic.values_sent += elements
        self.traffic.values_received += elements
        if step.labels is not None and not self._parts.is_u_shaped:
            self.traffic.labels_sent += step.labels.numel()

    def _check(self, activations: torch.Tensor) -> None:
        shape = self._parts.cut_shapes[self._options.party]
        if tuple(activations.shape[1:]) != shape:
            raise ValueError(
                f"the front gives {tuple(activations.shape[1:])} for each sample where "
                f"{shape} was agreed; inputs must have the shape of the example"
            )

    def _encode(self, values: torch.Tensor, number: int, what: str) -> Payload:
        try:
            return self._wire.encode(values, number)
        except NotFinite as exc:
            raise SplitFailed("not-finite", f"the {what} of step {number} {exc}") from exc

    def _decode(
        self, payload: Payload, shape: tuple[int, ...], wire: TensorWire | None = None
    ) -> torch.Tensor:
        try:
            values = (wire or self._wire).decode_untrusted(payload, shape)
        except MessageInvalid as exc:
            raise SplitFailed("invalid", f"the server sent {exc}") from exc
        tensors = [*self._front.parameters(), *self._front.buffers()]
        return values.to(tensors[0].device) if tensors else values


def entities_digest(entities: torch.Tensor | None) -> bytes:
    """What parties compare to know that their rows are about the same entities."""
    if entities is None:
        return b""
    return hashlib.sha256(entities.detach().cpu().contiguous().numpy().tobytes()).digest()
