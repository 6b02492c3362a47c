"""Requests in order at both ends, whatever is lost in between; parties lined up; turns."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import MessageInvalid
from training.split.lineup import Lineup, PartiesDiffer
from training.split.order import ClientOrder, ServerOrder
from training.split.turns import Kept, Turns


class Pair:
    """A client and a server, and a stream between them that loses what is under way."""

    def __init__(self, window: int, u_shaped: bool) -> None:
        self.window = window
        self.u_shaped = u_shaped
        self.client: ClientOrder[tuple[str, int]] = ClientOrder(window)
        self.server: ServerOrder[tuple[str, int]] = ServerOrder(window)
        self.to_server: deque[tuple[str, int]] = deque()
        self.to_client: deque[tuple[str, int]] = deque()
        self.to_compute: deque[tuple[str, int]] = deque()
        self.outputs: deque[int] = deque()
        self.computed: list[tuple[str, int]] = []
        self.answered: list[int] = []

    def request(self) -> None:
        """The client asks for one more thing, if it may."""
        if self.client.open < self.window:
            message = ("forward", self.client.next_number)
            assert self.client.on_request(message) == message[1]
            self.to_server.append(message)

    def compute(self) -> None:
        """The server computes what has waited longest."""
        if not self.to_compute:
            return
        kind, number = self.to_compute.popleft()
        self.computed.append((kind, number))
        if kind == "forward" and self.u_shaped:
            self.server.on_output(number, ("output", number))
            self.to_client.append(("output", number))
        else:
            self.server.on_answer(number, ("answer", number))
            self.to_client.append(("answer", number))

    def differentiate(self) -> None:
        """The client computes the gradient of an output."""
        if self.outputs:
            number = self.outputs.popleft()
            message = ("gradient", number)
            self.client.on_output_gradient(number, message)
            self.to_server.append(message)

    def deliver_to_server(self) -> None:
        """One message arrives."""
        if not self.to_server:
            return
        kind, number = self.to_server.popleft()
        if kind == "forward":
            self.server.on_request(number)
        else:
            self.server.on_output_gradient(number)
        self.to_compute.append((kind, number))

    def deliver_to_client(self) -> None:
        """One message arrives."""
        if not self.to_client:
            return
        kind, number = self.to_client.popleft()
        if kind == "answer":
            self.client.on_answer(number)
            self.answered.append(number)
        elif self.client.on_output(number):
            self.outputs.append(number)

    def lose(self) -> None:
        """The stream breaks, and is opened again."""
        again = self.server.on_resume(self.client.completed)
        self.to_client = deque(again)
        self.to_server = deque(self.client.on_welcome(self.server.received, self.server.gradients))


@settings(max_examples=40)
@given(
    window=st.integers(1, 4),
    u_shaped=st.booleans(),
    chance=st.randoms(use_true_random=False),
)
def test_everything_is_computed_once_and_in_order(
    window: int, u_shaped: bool, chance: random.Random
) -> None:
    pair = Pair(window, u_shaped)
    deeds = [
        *(pair.request, pair.compute, pair.deliver_to_server, pair.deliver_to_client),
        pair.differentiate,
    ]
    for _ in range(80):
        if chance.random() < 0.1:
            pair.lose()
        chance.choice(deeds)()
    while pair.client.open:
        for deed in deeds[1:]:
            deed()
    assert pair.answered == list(range(1, pair.client.completed + 1))
    for kind in ("forward", "gradient"):
        numbers = [number for one, number in pair.computed if one == kind]
        assert numbers == (pair.answered if kind == "forward" or u_shaped else [])


def test_what_is_out_of_order_is_refused() -> None:
    server: ServerOrder[str] = ServerOrder(2)
    server.on_request(1)
    for number, said in ((1, "sent before"), (3, "where 2 was due")):
        with pytest.raises(MessageInvalid, match=said):
            server.on_request(number)
    server.on_request(2)
    with pytest.raises(MessageInvalid, match="beyond the window of 2"):
        server.on_request(3)
    with pytest.raises(MessageInvalid, match="no gradient of the output of request 1"):
        server.on_output_gradient(1)
    for completed in (1, 2):
        with pytest.raises(MessageInvalid, match="cannot be what the client has"):
            server.on_resume(completed)
    client: ClientOrder[str] = ClientOrder(2)
    with pytest.raises(MessageInvalid, match="answer 1 came where 1 was due"):
        client.on_answer(1)
    client.on_request("first")
    client.on_request("second")
    with pytest.raises(MessageInvalid, match="answer 2 came where 1 was due"):
        client.on_answer(2)
    with pytest.raises(MessageInvalid, match="no output of request 3"):
        client.on_output(3)
    with pytest.raises(MessageInvalid, match="cannot be what the server has"):
        client.on_welcome(3, 0)
    with pytest.raises(MessageInvalid, match="no gradient 1 can be"):
        client.on_welcome(2, 1)


def test_parties_are_lined_up_by_number() -> None:
    lineup: Lineup[str] = Lineup(2)
    same = {"kind": "forward", "rows": 4}
    assert lineup.on_request(1, 1, "b1", entities=b"", **same) is None  # type: ignore[arg-type]
    assert lineup.on_request(2, 1, "b2", entities=b"x", **same) is None  # type: ignore[arg-type]
    whole = lineup.on_request(1, 0, "a1", entities=b"y", **same)  # type: ignore[arg-type]
    assert whole == ["a1", "b1"]
    with pytest.raises(PartiesDiffer, match="about different entities"):
        lineup.on_request(2, 0, "a2", entities=b"y", **same)  # type: ignore[arg-type]
    for kind, rows, said in (("evaluate", 4, "their kind"), ("forward", 5, "number of rows")):
        other: Lineup[str] = Lineup(2)
        other.on_request(1, 0, "a", kind="forward", rows=4, entities=b"")
        with pytest.raises(PartiesDiffer, match=said):
            other.on_request(1, 1, "b", kind=kind, rows=rows, entities=b"")


def test_turns_are_given_in_order_and_go_on_when_somebody_is_lost() -> None:
    turns: Turns[str] = Turns()
    assert turns.on_ask("alice")
    assert not turns.on_ask("bob")
    assert not turns.on_ask("carol")
    assert not turns.on_ask("alice")
    kept = Kept(1, "alice", b"digest", ())
    assert turns.on_end("alice", kept) == "bob"
    # Alice's weights are with her alone until bob does something with them.
    assert not turns.may_leave("alice", others=True)
    assert turns.may_leave("alice", others=False)
    assert turns.may_leave("carol", others=True)
    turns.on_work("bob")
    assert turns.may_leave("alice", others=True)
    assert turns.on_gone("carol") is None
    # What bob did is lost with him.
    assert turns.on_gone("bob") is None
    assert (turns.holder, turns.kept) == (None, kept)
    assert turns.on_ask("dave")
    assert not turns.on_ask("erin")
    assert turns.on_gone("dave") == "erin"
