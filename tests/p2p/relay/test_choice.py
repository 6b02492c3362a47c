"""Which relays are chosen, step by step, and that no order of events breaks the rules."""

from __future__ import annotations

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2p import PeerId
from p2p.address import TcpAddress
from p2p.relay.choice import (
    CANDIDATES_MAX,
    FIRST_PAUSE_S,
    NAMED_PAUSE_S_MAX,
    PAUSE_S_MAX,
    PROBES_MAX,
    REFUSED_PAUSE_S,
    Candidate,
    RelayChoice,
    State,
)


def at(network: int) -> TcpAddress:
    """An address of which the third byte tells the network."""
    return TcpAddress("ip4", f"5.6.{network}.1", 4001)


def open_choice(*relays: tuple[str, int], wanted: int = 2) -> RelayChoice:
    """A choice that knows these relays, each in a network."""
    choice = RelayChoice(random.Random(1), wanted=wanted)
    for name, network in relays:
        choice.on_candidate(PeerId(name), at(network))
    return choice


def measure(choice: RelayChoice, now_s: float = 0.0, **round_trips_s: float) -> None:
    """Answer every probe; who is not named fails."""
    while (probed := choice.next_probe(now_s)) is not None:
        if probed.peer_id in round_trips_s:
            choice.on_round_trip(probed.peer_id, round_trips_s[probed.peer_id])
        else:
            choice.on_failed(probed.peer_id, now_s)


def tried(choice: RelayChoice, now_s: float = 0.0) -> list[str]:
    """Who is asked now."""
    names = []
    while (one := choice.next_try(now_s)) is not None:
        names.append(str(one.peer_id))
    return names


def test_the_nearest_are_tried_when_all_have_been_measured() -> None:
    choice = open_choice(("a", 1), ("b", 2), ("c", 3))
    first = choice.next_probe(0.0)
    assert first is not None
    assert tried(choice) == [], "the others may be nearer"
    choice.on_round_trip(first.peer_id, {"a": 0.03, "b": 0.01, "c": 0.02}[first.peer_id])
    measure(choice, a=0.03, b=0.01, c=0.02)
    assert tried(choice) == ["b", "c"]
    for name in ("b", "c"):
        choice.on_held(PeerId(name))
    assert [one.peer_id for one in choice.held] == ["b", "c"]
    assert not choice.is_short
    assert tried(choice) == []


def test_only_a_few_are_probed_at_once() -> None:
    choice = open_choice(*((f"relay-{number}", number) for number in range(10)))
    probed = [choice.next_probe(0.0) for _ in range(10)]
    assert sum(one is not None for one in probed) == PROBES_MAX


def test_another_network_comes_before_a_nearer_relay() -> None:
    choice = open_choice(("a", 1), ("b", 1), ("c", 2))
    measure(choice, a=0.01, b=0.02, c=0.3)
    assert tried(choice) == ["a", "c"]


def test_one_network_is_better_than_none_and_left_when_there_is_another() -> None:
    choice = open_choice(("a", 1), ("b", 1), ("d", 1))
    measure(choice, a=0.01, b=0.02, d=0.03)
    assert tried(choice) == ["a", "b"]
    choice.on_held(PeerId("a"))
    choice.on_held(PeerId("b"))
    assert choice.is_short
    assert tried(choice) == []
    choice.on_candidate(PeerId("c"), at(2))
    measure(choice, c=0.5)
    assert tried(choice) == ["c"]
    choice.on_held(PeerId("c"))
    assert not choice.is_short


def test_the_operators_relays_come_first() -> None:
    choice = open_choice(("a", 1), ("b", 2))
    choice.on_candidate(PeerId("named"), at(3), named=True)
    measure(choice, a=0.01, b=0.02, named=0.9)
    assert tried(choice) == ["named", "a"]


def test_a_refusal_makes_a_relay_count_as_farther_and_waits_longer() -> None:
    choice = open_choice(("a", 1), ("b", 2), ("c", 3), wanted=1)
    measure(choice, a=0.01, b=0.02, c=0.2)
    assert tried(choice) == ["a"]
    choice.on_refused(PeerId("a"), 0.0)
    assert tried(choice) == ["b"]
    choice.on_refused(PeerId("b"), 0.0)
    later_s = 10 * REFUSED_PAUSE_S
    assert tried(choice, later_s) == ["a"]
    choice.on_refused(PeerId("a"), later_s)
    choice.on_refused(PeerId("b"), later_s)
    # Twice refused counts 0.21 s: now the far one is nearer.
    assert tried(choice, 100 * REFUSED_PAUSE_S) == ["b"]


def test_failures_pause_longer_and_longer_with_jitter() -> None:
    choice = open_choice(("a", 1), wanted=1)
    now_s, pauses_s = 0.0, []
    for _ in range(14):
        measure(choice, now_s)
        wake_at_s = choice.wake_at_s(now_s)
        assert wake_at_s is not None
        assert choice.next_probe(wake_at_s - 0.01) is None
        pauses_s.append(wake_at_s - now_s)
        now_s = wake_at_s
    for number, pause_s in enumerate(pauses_s):
        planned_s = min(FIRST_PAUSE_S * 2**number, PAUSE_S_MAX)
        assert 0.75 * planned_s <= pause_s <= 1.25 * planned_s
    assert len({round(pause_s / PAUSE_S_MAX, 6) for pause_s in pauses_s[-4:]}) == 4


def fail_often(choice: RelayChoice, name: str, now_s: float) -> float:
    """Have a relay fail so often that its pauses grow no more; returns when the last one ends."""
    for _ in range(12):
        probed = choice.next_probe(now_s)
        assert probed is not None
        assert probed.peer_id == name
        choice.on_failed(PeerId(name), now_s)
        wake_at_s = choice.wake_at_s(now_s)
        assert wake_at_s is not None
        before_s, now_s = now_s, wake_at_s
    return now_s - before_s


def test_the_operators_relays_are_tried_often_while_there_is_no_other() -> None:
    choice = RelayChoice(random.Random(1), wanted=2)
    choice.on_candidate(PeerId("named"), at(1), named=True)
    assert fail_often(choice, "named", 0.0) <= 1.25 * NAMED_PAUSE_S_MAX
    choice = open_choice(("other", 2))
    measure(choice, other=0.01)
    assert tried(choice) == ["other"]
    choice.on_held(PeerId("other"))
    choice.on_candidate(PeerId("named"), at(1), named=True)
    assert fail_often(choice, "named", 0.0) >= 0.75 * PAUSE_S_MAX


def test_a_relay_that_is_there_again_is_not_waited_for() -> None:
    choice = open_choice(("a", 1), ("b", 2))
    measure(choice, b=0.01)
    assert tried(choice) == ["b"]
    choice.on_refused(PeerId("b"), 0.0)
    choice.on_connected(PeerId("a"), 0.5)
    choice.on_connected(PeerId("b"), 0.5)
    choice.on_connected(PeerId("never heard of"), 0.5)
    measure(choice, 0.5, a=0.01)
    assert tried(choice, 0.5) == ["a"], "b is there, too, but does not want us"


def test_a_lost_relay_is_replaced_and_comes_back_later() -> None:
    choice = open_choice(("a", 1), ("b", 2), ("c", 3))
    measure(choice, a=0.01, b=0.02, c=0.03)
    for name in tried(choice):
        choice.on_held(PeerId(name))
    choice.on_lost(PeerId("a"), 5.0)
    assert choice.is_short
    assert tried(choice, 5.0) == ["c"]
    choice.on_refused(PeerId("c"), 5.0)
    # It is measured anew: what comes back may be elsewhere.
    assert choice.next_probe(5.0) is None
    wake_at_s = choice.wake_at_s(5.0)
    assert wake_at_s is not None
    probed = choice.next_probe(wake_at_s)
    assert probed is not None
    assert probed.peer_id == "a"


def test_another_network_of_ours_forgives_failures() -> None:
    choice = open_choice(("a", 1), wanted=1)
    measure(choice)
    assert choice.next_probe(0.0) is None
    choice.on_network_changed()
    assert choice.next_probe(0.0) is not None


def test_nothing_is_asked_when_nothing_is_wanted() -> None:
    choice = open_choice(("a", 1), wanted=0)
    assert choice.next_probe(0.0) is None
    assert tried(choice) == []
    assert choice.wake_at_s(0.0) is None


def test_strangers_cannot_crowd_out_what_works() -> None:
    choice = open_choice(("held", 1), ("good", 2), wanted=1)
    measure(choice, held=0.01, good=0.02)
    assert tried(choice) == ["held"]
    choice.on_held(PeerId("held"))
    for number in range(1_000):
        choice.on_candidate(PeerId(f"stranger-{number}"), at(3))
    choice.on_candidate(PeerId("named"), at(4), named=True)
    assert len(choice._known) == CANDIDATES_MAX
    for name in ("held", "good", "named"):
        assert PeerId(name) in choice._known


NAMES = [PeerId(name) for name in "abcdef"]
names = st.sampled_from(NAMES)


class Keeping(RuleBasedStateMachine):
    """Answers come late, twice or unasked: never more than wanted and one, never a wrong state."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = RelayChoice(random.Random(7), wanted=2)
        self.now_s = 0.0
        self.asked: list[Candidate] = []

    @rule(name=names, network=st.integers(1, 3), named=st.booleans())
    def appear(self, name: PeerId, network: int, named: bool) -> None:
        self.choice.on_candidate(name, at(network), named=named)

    @rule(seconds=st.floats(0, 700))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def ask(self) -> None:
        while (one := self.choice.next_probe(self.now_s)) is not None:
            self.asked.append(one)
        while (one := self.choice.next_try(self.now_s)) is not None:
            self.asked.append(one)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        one = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        if data.draw(st.booleans()):
            self.choice.on_failed(one.peer_id, self.now_s)
        elif one.state is State.PROBING:
            self.choice.on_round_trip(one.peer_id, 0.01)
        else:
            self.choice.on_held(one.peer_id)

    @rule(name=names)
    def noise(self, name: PeerId) -> None:
        self.choice.on_lost(name, self.now_s)
        if not any(one.peer_id == name for one in self.asked):
            self.choice.on_held(name)
            self.choice.on_round_trip(name, 0.1)
            self.choice.on_refused(name, self.now_s)

    @invariant()
    def bounded(self) -> None:
        states = [one.state for one in self.choice._known.values()]
        assert states.count(State.HELD) + states.count(State.TRYING) <= 3
        assert states.count(State.PROBING) <= PROBES_MAX
        under_way = states.count(State.PROBING) + states.count(State.TRYING)
        assert under_way == len(self.asked)

    @invariant()
    def never_stuck(self) -> None:
        """When nothing is under way and too few are held, time alone brings the next attempt."""
        held = self.choice.held
        if not self.asked and len(held) < 2 and len(self.choice._known) > len(held):
            far_s = self.now_s + 2 * PAUSE_S_MAX
            due = [one for one in self.choice._due(far_s)]
            assert len(due) == len(self.choice._known) - len(held)
            assert self.choice.wake_at_s(self.now_s) is not None or self.choice._due(self.now_s)


TestKeeping = Keeping.TestCase


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_as_many_as_wanted_are_held(wanted: int) -> None:
    choice = open_choice(*((name, number) for number, name in enumerate("abcde")), wanted=wanted)
    measure(choice, a=0.1, b=0.2, c=0.3, d=0.4, e=0.5)
    for name in tried(choice):
        choice.on_held(PeerId(name))
    assert len(choice.held) == wanted
