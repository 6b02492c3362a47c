"""What is computed at the server, one thing after another, for all clients."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import trio

from p2p import MessageInvalid, RefusedError
from training.split.body import Arrived, BodyTrainer
from training.split.frames import Frame
from training.split.parts import Parts
from training.split.party import Group
from training.split.schema import Gradient, Output
from training.split.wire import Payload

T = TypeVar("T")


class Compute(Protocol):
    """Runs a function in the thread that trains, and waits for it."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """The function's result."""


@dataclass(frozen=True)
class Work:
    """Something to compute for a group."""

    group: Group
    number: int
    arrived: Sequence[Arrived]
    """From each party; empty where a gradient came."""
    gradient: memoryview | None = None
    """Of the output; None for the first part of a step."""


class StepWorker:
    """Computes what it is given, in order.

    Args:
        message_bytes_max: of an output; gradients are as large as the activations that came.
        on_failed: told what a group asked for that cannot be computed.
        on_done: told when something was.
    """

    def __init__(
        self,
        parts: Parts,
        trainer: BodyTrainer,
        compute: Compute,
        *,
        message_bytes_max: int,
        on_failed: Callable[[Group, RefusedError], None],
        on_done: Callable[[], None],
    ) -> None:
        self.batches = 0
        """Batches that were trained on."""
        self.loss: float | None = None
        """Of the last of them; None where labels stay with the clients."""
        self._parts = parts
        self._trainer = trainer
        self._compute = compute
        self._message_bytes_max = message_bytes_max
        self._on_failed = on_failed
        self._on_done = on_done
        # Bounded by the sessions and their windows.
        self._waiting: deque[Work] = deque()
        self._filled = trio.Event()

    def put(self, work: Work) -> None:
        """Compute this when its turn comes."""
        self._waiting.append(work)
        self._filled.set()

    def drop(self, group: Group) -> None:
        """Forget what waits to be computed for a group that has ended."""
        self._waiting = deque(work for work in self._waiting if work.group is not group)

    async def run(self) -> None:
        """Compute what is to be computed, one thing after another, for ever."""
        while True:
            while not self._waiting:
                self._filled = trio.Event()
                await self._filled.wait()
            work = self._waiting.popleft()
            group = work.group
            try:
                await self._do(work)
            except MessageInvalid as exc:
                self._on_failed(group, RefusedError("invalid", str(exc)))
            except RefusedError as exc:
                self._on_failed(group, exc)
            else:
                self._on_done()

    async def _do(self, work: Work) -> None:
        group, number = work.group, work.number
        labelled = group.labelled
        if work.gradient is not None:
            step = labelled.wants_gradient.pop(number)
            payloads = await self._compute(
                self._trainer.backward, step, work.gradient, labelled.wire
            )
            labelled.traffic.values_received += step.held.output.numel()
            self._answer_gradients(group, number, payloads, None, step.rows)
            return
        which = work.arrived[labelled.hello.party]
        if which.forward is None:
            shape, payload = await self._compute(self._trainer.evaluate, work.arrived)
            self._check_size(payload)
            labelled.traffic.evaluation_values_sent += which.shape[0] * math.prod(shape)
            for party in group.members:
                mine = party is labelled
                output = Output(number, shape if mine else ())
                party.answer(number, Frame(output, payload if mine else b""))
        elif self._parts.is_u_shaped:
            step, payload = await self._compute(
                self._trainer.forward, work.arrived, self._parts.output_shape, which
            )
            self._check_size(payload)
            labelled.wants_gradient[number] = step
            labelled.traffic.values_sent += step.held.output.numel()
            frame = Frame(Output(number, self._parts.output_shape), payload)
            labelled.order.on_output(number, frame)
            labelled.outbox.put(frame)
        else:
            loss, payloads = await self._compute(
                self._trainer.train, work.arrived, which, labelled.hello.task_weight
            )
            self._answer_gradients(group, number, payloads, loss, which.shape[0])

    def _check_size(self, output: Payload) -> None:
        if memoryview(output).nbytes > self._message_bytes_max:
            raise RefusedError("failed", "the server's output is larger than a message may be")

    def _answer_gradients(
        self, group: Group, number: int, payloads: Sequence[Payload], loss: float | None, rows: int
    ) -> None:
        self.batches += 1
        self.loss = loss
        for party, payload in zip(group.members, payloads, strict=True):
            party.on_trained(rows)
            party.answer(number, Frame(Gradient(number, loss), payload))
