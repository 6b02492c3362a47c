"""What the server knows of each session, and of the parties that train together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from averaging.codecs.floating import ITEM_SIZE_BYTES
from p2p import MessageInvalid, PeerId, RefusedError
from training.split.body import Arrived, HeldStep
from training.split.frames import Frame, Outbox
from training.split.lineup import Lineup
from training.split.order import ServerOrder
from training.split.schema import Evaluate, Forward, FromClient, Hello, OutputGradient
from training.split.traffic import Traffic
from training.split.wire import TensorWire, labels_size_bytes

# Who does not take its last answers in this time is cut off.
_LAST_WORDS_S = 30.0


@dataclass(eq=False)
class Party:
    """One client's session at the server."""

    peer_id: PeerId
    hello: Hello
    group: Group
    order: ServerOrder[Frame]
    wire: TensorWire
    outbox: Outbox = field(default_factory=Outbox)
    traffic: Traffic = field(default_factory=Traffic)
    stream: trio.CancelScope | None = None
    """Ends the stream that it has now; None while it has none."""
    streams: int = 0
    """How many it has had."""
    failure: RefusedError | None = None
    """Why the session has ended, for the client."""
    ended: bool = False
    heard_at_s: float = 0.0
    """When its last message came."""
    turn_number: int = 0
    """Of the request for a turn that waits for an answer."""
    leave_number: int = 0
    """Of the request to leave that waits for an answer; 0 if none does."""
    holding: dict[int, int] = field(default_factory=dict)
    """Bytes of each batch, by number, for as long as its answer may be asked for."""
    wants_gradient: dict[int, HeldStep] = field(default_factory=dict)
    """Steps whose output is with this client, by number."""

    def on_request(self, number: int, size_bytes: int) -> None:
        """A request came, with so much behind it.

        Raises:
            MessageInvalid: it is out of order.
        """
        self.order.on_request(number)
        self.holding[number] = size_bytes
        for old in [one for one in self.holding if one <= number - self.hello.window]:
            del self.holding[old]

    def answer(self, number: int, frame: Frame) -> None:
        """Answer a request."""
        self.order.on_answer(number, frame)
        self.outbox.put(frame)

    def fail(self, failure: RefusedError) -> None:
        """End the session: the client is told why, after the answers that it has still to get."""
        self.failure = failure
        self.outbox.end(failure)
        if self.stream is not None:
            self.stream.deadline = trio.current_time() + _LAST_WORDS_S

    def shape_of(self, message: Forward | Evaluate) -> tuple[int, ...]:
        """The shape (N, …) of the activations that a message announces."""
        return (message.rows, *self.hello.cut_shape)

    def payload_limit_bytes(
        self, message: FromClient, *, rows_max: int, message_bytes_max: int
    ) -> int:
        """The most that may lie behind a message, before anything is allocated for it.

        Raises:
            MessageInvalid: the message is senseless by itself.
        """
        if isinstance(message, Forward | Evaluate):
            # A codec's frame may be small, and what is decoded of it is not.
            one_bytes = math.prod(self.hello.cut_shape) * ITEM_SIZE_BYTES[self.hello.dtype]
            most = min(rows_max, message_bytes_max // one_bytes)
            if message.rows > most:
                raise MessageInvalid(f"{message.rows} samples where at most {most} are taken")
        if isinstance(message, Evaluate):
            return self.wire.size_limit_bytes(math.prod(self.shape_of(message)))
        if isinstance(message, Forward):
            labels_due = self.hello.brings_labels and self.hello.label_side == "server"
            if bool(message.label_dtype) != labels_due:
                raise MessageInvalid("labels from one who sends none, or none from one who does")
            limit_bytes = self.wire.size_limit_bytes(math.prod(self.shape_of(message)))
            if message.values_bytes > limit_bytes:
                raise MessageInvalid(
                    f"{message.values_bytes} bytes of activations where at most {limit_bytes} "
                    "were due"
                )
            labels_shape = (message.rows, *message.label_shape)
            return message.values_bytes + labels_size_bytes(labels_shape, message.label_dtype)
        if isinstance(message, OutputGradient):
            step = self.wants_gradient.get(message.number)
            count = 0 if step is None else step.held.output.numel()
            return self.wire.size_limit_bytes(count) if count else 0
        return 0

    def count(self, message: Forward | Evaluate) -> None:
        """A batch came."""
        elements = math.prod(self.shape_of(message))
        if isinstance(message, Evaluate):
            self.traffic.evaluation_values_received += elements
            return
        self.traffic.values_received += elements
        if message.label_dtype:
            self.traffic.labels_received += message.rows * math.prod(message.label_shape)

    def on_trained(self, rows: int) -> None:
        """The server has taken the step of a batch; its gradient goes out."""
        self.traffic.batches += 1
        self.traffic.values_sent += rows * math.prod(self.hello.cut_shape)

    def arrived(self, message: Forward | Evaluate, payload: memoryview) -> Arrived:
        """What came, with what is needed to decode it."""
        forward = message if isinstance(message, Forward) else None
        return Arrived(payload, self.shape_of(message), self.wire, forward, message.number)


@dataclass(eq=False)
class Group:
    """The parties whose activations are put side by side; often one alone."""

    size: int
    lineup: Lineup[Arrived]
    parties: dict[int, Party] = field(default_factory=dict)
    departed: RefusedError | None = None
    """Why nothing more can be computed, once a party has said goodbye."""

    @property
    def labelled(self) -> Party:
        """The party with the labels."""
        return next(party for party in self.parties.values() if party.hello.brings_labels)

    @property
    def members(self) -> list[Party]:
        """In the order of their activations."""
        return [self.parties[index] for index in sorted(self.parties)]
