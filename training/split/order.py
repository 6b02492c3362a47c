"""The order of requests in one session, at both ends: none is lost, and none done twice (core).

    a request at the server
      (next in number) ──▶ COMPUTING ──────────────────────────────────────────────▶ answered
                               └── U-shaped: output sent ──▶ AT_CLIENT ── gradient ──▶ COMPUTING

The number of a request is all that names it. A server takes the next number only, so what is sent
twice or out of turn is no mistake of the network, which keeps order: it ends the session. Answers
are kept until the client cannot ask for them any more: request n tells, with a window of w, that
n − w was answered.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

from p2p import MessageInvalid

T = TypeVar("T")


class Stage(Enum):
    """Where an open request stands at the server."""

    COMPUTING = "computing"
    """The server has all it needs, or waits for the other parties."""
    AT_CLIENT = "at client"
    """The output is with the client, which owes its gradient."""


class ServerOrder(Generic[T]):
    """What one session's client may send now, and what it may have to be sent again.

    Args:
        window: requests that may be open at once.
        T: an answer, ready to be sent.
    """

    def __init__(self, window: int) -> None:
        self.received = 0
        """Requests that came."""
        self.gradients = 0
        """The last request for whose output a gradient came; they come in order."""
        self._window = window
        self._open: dict[int, tuple[Stage, T | None]] = {}
        self._answers: dict[int, T] = {}

    @property
    def open(self) -> int:
        """Requests without an answer."""
        return len(self._open)

    @property
    def is_computing(self) -> bool:
        """Whether a request waits for the server, or for other parties."""
        return any(stage is Stage.COMPUTING for stage, _ in self._open.values())

    @property
    def answered(self) -> int:
        """Requests that were answered."""
        return self.received - len(self._open)

    def on_request(self, number: int) -> None:
        """A new request came.

        Raises:
            MessageInvalid: it is not the next one, or too many are open.
        """
        if number <= self.received:
            raise MessageInvalid(f"request {number} was sent before; {self.received + 1} is due")
        if number != self.received + 1:
            raise MessageInvalid(f"request {number} came where {self.received + 1} was due")
        if len(self._open) >= self._window:
            raise MessageInvalid(f"request {number} is beyond the window of {self._window}")
        self.received = number
        self._open[number] = (Stage.COMPUTING, None)
        for old in [one for one in self._answers if one <= number - self._window]:
            del self._answers[old]

    def on_output(self, number: int, output: T) -> None:
        """The output of a request goes to the client, which owes its gradient."""
        assert self._open[number][0] is Stage.COMPUTING
        self._open[number] = (Stage.AT_CLIENT, output)

    def on_output_gradient(self, number: int) -> None:
        """The client sent what it owed.

        Raises:
            MessageInvalid: it did not owe that.
        """
        owed = [one for one, (stage, _) in self._open.items() if stage is Stage.AT_CLIENT]
        if not owed or number != min(owed):
            raise MessageInvalid(f"no gradient of the output of request {number} was due")
        self.gradients = number
        self._open[number] = (Stage.COMPUTING, None)

    def on_answer(self, number: int, answer: T) -> None:
        """A request is answered; all before it are."""
        assert number == min(self._open)
        del self._open[number]
        self._answers[number] = answer

    def on_resume(self, completed: int) -> list[T]:
        """The client is back with so many answers: what it must be sent again, in order.

        Raises:
            MessageInvalid: it cannot have those.
        """
        if not self.answered - self._window <= completed <= self.answered:
            raise MessageInvalid(f"{completed} answers cannot be what the client has")
        again = [answer for number, answer in self._answers.items() if number > completed]
        again += [output for _, output in self._open.values() if output is not None]
        return again


class ClientOrder(Generic[T]):
    """What one session's server may send now, and what may have to be sent to it again.

    Args:
        window: requests that may be open at once.
        T: a request, ready to be sent.
    """

    def __init__(self, window: int) -> None:
        self.completed = 0
        """Answers that came."""
        self._requested = 0
        self._window = window
        self._open: dict[int, T] = {}
        self._gradients: dict[int, T | None] = {}

    @property
    def open(self) -> int:
        """Requests without an answer."""
        return len(self._open)

    @property
    def next_number(self) -> int:
        """Of the next request."""
        return self._requested + 1

    def request(self, number: int) -> T | None:
        """An open request; None if there is none of that number."""
        return self._open.get(number)

    def on_request(self, request: T) -> int:
        """A new request is sent; returns its number."""
        assert len(self._open) < self._window
        self._requested += 1
        self._open[self._requested] = request
        return self._requested

    def on_output(self, number: int) -> bool:
        """The output of a request came; whether it is the first time.

        Raises:
            MessageInvalid: there is no such request.
        """
        if number not in self._open:
            raise MessageInvalid(f"no output of request {number} was due")
        if number in self._gradients:
            return False
        self._gradients[number] = None
        return True

    def on_output_gradient(self, number: int, gradient: T) -> None:
        """The gradient of an output is sent."""
        assert number in self._gradients
        self._gradients[number] = gradient

    def sent_gradient(self, number: int) -> bool:
        """Whether the gradient of a request's output was sent at least once."""
        return self._gradients.get(number) is not None

    def on_answer(self, number: int) -> T:
        """A request was answered; returns it.

        Raises:
            MessageInvalid: another answer was due.
        """
        if not self._open or number != self.completed + 1:
            raise MessageInvalid(f"answer {number} came where {self.completed + 1} was due")
        self.completed = number
        self._gradients.pop(number, None)
        return self._open.pop(number)

    def on_welcome(self, received: int, gradients: int) -> list[T]:
        """The server tells what it has: what to send again, in order.

        Args:
            received: requests.
            gradients: the last request for whose output it has the gradient.

        Raises:
            MessageInvalid: it cannot have those.
        """
        if not self.completed <= received < self.next_number:
            raise MessageInvalid(f"{received} requests cannot be what the server has")
        known = {number: one for number, one in self._gradients.items() if one is not None}
        if gradients > max(self.completed, *known, 0):
            raise MessageInvalid(f"no gradient {gradients} can be what the server has")
        again = [one for number, one in sorted(known.items()) if number > gradients]
        return again + [one for number, one in self._open.items() if number > received]
