"""Verdicts: who is asked when, what is believed, and that no single peer decides against others."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.address import TcpAddress, network_of
from p2p.nat.report import Reachability
from p2p.nat.verdicts import (
    CANDIDATES_PER_FAMILY_MAX,
    PAUSE_S_MAX,
    STALE_S,
    Answer,
    Question,
    Server,
    Verdicts,
)

OURS = TcpAddress("ip4", "8.8.8.8", 4001)
OUR_SIX = TcpAddress("ip6", "2001:4860::1", 4001)
NOBODY: frozenset[str] = frozenset()


def server(host: str, *, independent: bool = True) -> Server:
    return Server(PeerId(host), host, independent)


class World:
    """One address, servers with opinions, and a clock that jumps to whatever is due."""

    def __init__(self, *servers: Server, told_by: frozenset[str] = NOBODY) -> None:
        self.now_s = 0.0
        self.core = Verdicts(random.Random(1))
        self.core.on_candidates({OURS: told_by}, 0.0)
        self.servers = servers
        self.says = {one: Answer.REACHED for one in servers}
        self.asked: list[Server] = []

    def say(self, answer: Answer, *servers: Server) -> None:
        for one in servers or self.servers:
            self.says[one] = answer

    def ask(self) -> Question:
        """Let time pass until the next question, and answer it."""
        due_s = self.core.wake_at_s(self.servers)
        assert due_s < math.inf, "nobody would ever be asked"
        self.now_s = max(self.now_s, due_s)
        question = self.core.next_question(self.servers, self.now_s)
        assert question is not None
        assert self.core.next_question(self.servers, self.now_s) is None
        self.asked.append(question.server)
        self.core.on_answer(question, self.says[question.server], self.now_s)
        return question

    @property
    def verdict(self) -> Reachability:
        return self.core.verdict(OURS, self.now_s).reachability

    def run_until(self, wanted: Reachability, *, within_s: float) -> float:
        """Ask on until the verdict is this one; returns the seconds that it took."""
        began_at_s = self.now_s
        while self.verdict != wanted:
            self.ask()
            assert self.now_s - began_at_s <= within_s
        return self.now_s - began_at_s


ONE, TWO, THREE = server("5.6.7.1"), server("5.6.8.1"), server("5.6.9.1")
KNOWN_ONE, KNOWN_TWO = (server(host, independent=False) for host in ("5.6.7.1", "5.6.8.1"))


def test_one_independent_success_is_enough() -> None:
    world = World(ONE)
    assert world.verdict == "unknown"
    assert world.run_until("public", within_s=0) == 0
    evidence = world.core.verdict(OURS, world.now_s + 12).evidence
    assert evidence == "1 peer dialed it back, the last 12 s ago."


def test_whoever_a_nat_may_let_in_anyway_is_not_enough_alone() -> None:
    world = World(KNOWN_ONE, KNOWN_TWO)
    world.ask()
    assert world.verdict == "unknown"
    world.ask()
    assert world.verdict == "public"
    assert set(world.asked) == {KNOWN_ONE, KNOWN_TWO}


def test_two_failures_by_two_servers() -> None:
    world = World(ONE, TWO)
    world.say(Answer.FAILED)
    world.ask()
    assert world.verdict == "unknown"
    world.ask()
    assert world.verdict == "private"
    assert "2 peers could not dial it" in world.core.verdict(OURS, world.now_s).evidence


@pytest.mark.parametrize("answer", [Answer.REACHED, Answer.FAILED])
def test_the_only_server_there_is_must_say_it_twice(answer: Answer) -> None:
    world = World(KNOWN_ONE)
    world.say(answer)
    world.ask()
    assert world.verdict == "unknown"
    world.ask()
    assert world.verdict == ("public" if answer is Answer.REACHED else "private")


def test_two_of_one_network_are_one_where_there_are_others() -> None:
    near = server("5.6.7.2", independent=False)
    world = World(KNOWN_ONE, near, THREE)
    for one in (KNOWN_ONE, near):
        world.core.next_question(world.servers, 0.0)
        world.core.on_answer(Question(OURS, one), Answer.REACHED, 0.0)
    assert world.verdict == "unknown"
    world = World(KNOWN_ONE, near)
    world.ask()
    world.ask()
    assert world.verdict == "public"


def test_changes_outside_are_noticed_within_a_minute() -> None:
    world = World(ONE, TWO)
    for _ in range(20):
        world.ask()
    assert world.verdict == "public"
    world.say(Answer.FAILED)
    assert world.run_until("private", within_s=60) > 0
    for _ in range(20):
        world.ask()
    world.say(Answer.REACHED)
    world.run_until("public", within_s=60)


def test_a_liar_does_not_outvote_whom_we_are_reached_by() -> None:
    liars = [server(f"6.6.{number}.1") for number in range(3)]
    world = World(ONE, TWO, *liars)
    world.say(Answer.FAILED, *liars)
    began_public = False
    for _ in range(100):
        world.ask()
        began_public |= world.verdict == "public"
        assert not began_public or world.verdict == "public"
    assert began_public


def test_whoever_told_us_of_an_address_is_not_believed_about_it() -> None:
    world = World(ONE, told_by=frozenset({network_of(ONE.host)}))
    for _ in range(5):
        world.ask()
        assert world.verdict == "unknown"
    # But that it does not work costs nobody anything.
    world.say(Answer.FAILED)
    world.run_until("private", within_s=120)
    world = World(ONE, TWO, told_by=frozenset({network_of(ONE.host)}))
    world.ask()
    assert (world.asked, world.verdict) == ([TWO], "public")


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.SILENT])
def test_who_does_not_answer_is_left_alone_for_a_minute(answer: Answer) -> None:
    world = World(ONE, TWO)
    world.say(answer)
    first, second = world.ask().server, world.ask().server
    assert {first, second} == {ONE, TWO}
    assert world.now_s == 0
    assert world.ask().server in (ONE, TWO)
    assert world.now_s == 60
    assert world.verdict == "unknown"


def test_who_has_come_back_is_asked_again_at_once() -> None:
    world = World(ONE)
    world.say(Answer.REFUSED)
    world.ask()
    assert world.core.wake_at_s(world.servers) == 60
    world.core.on_connected(ONE.peer_id)
    assert world.core.wake_at_s(world.servers) == 0


def test_another_network_starts_over() -> None:
    world = World(ONE, TWO)
    for _ in range(10):
        world.ask()
    world.core.on_changed(world.now_s)
    assert world.core.wake_at_s(world.servers) == world.now_s
    # Until somebody answers, what was known is the best guess.
    assert world.verdict == "public"
    world.say(Answer.FAILED)
    world.run_until("private", within_s=15)


def test_a_verdict_fades_when_nobody_answers_any_more() -> None:
    world = World(ONE)
    world.ask()
    world.core.on_time(world.now_s + STALE_S)
    assert world.verdict == "public"
    world.core.on_time(world.now_s + STALE_S + 1)
    assert world.verdict == "unknown"


def test_each_ip_family_is_asked_of_those_who_use_it() -> None:
    six = server("2a00:1::1")
    core = Verdicts(random.Random(1))
    core.on_candidates({OUR_SIX: NOBODY}, 0.0)
    assert core.next_question([ONE], 0.0) is None
    assert core.wake_at_s([ONE]) == math.inf
    question = core.next_question([ONE, six], 0.0)
    assert question == Question(OUR_SIX, six)


def test_few_candidates_of_each_family() -> None:
    core = Verdicts(random.Random(1))
    many = {TcpAddress("ip4", "8.8.8.8", port): NOBODY for port in range(1, 50)}
    core.on_candidates({**many, OUR_SIX: NOBODY}, 0.0)
    assert len(core.candidates) == CANDIDATES_PER_FAMILY_MAX + 1
    # An answer about one that is none any more changes nothing.
    core.on_answer(Question(OURS, ONE), Answer.REACHED, 0.0)
    assert core.verdict(OURS, 0.0).reachability == "unknown"


def test_one_server_is_asked_less_often_than_it_would_refuse() -> None:
    world = World(ONE)
    times = []
    for _ in range(100):
        world.ask()
        times.append(world.now_s)
    assert max(b - a for a, b in itertools.pairwise(times)) <= PAUSE_S_MAX * 1.1
    for start_s in times:
        assert sum(start_s <= one < start_s + 60 for one in times) <= 8


answers = st.sampled_from(Answer)


@given(st.lists(st.tuples(st.integers(0, 3), answers, st.floats(0, 100)), max_size=60))
def test_whatever_is_answered_the_asking_goes_on(script: list[tuple[int, Answer, float]]) -> None:
    servers = [server(f"5.6.{number}.1", independent=number % 2 == 0) for number in range(4)]
    core = Verdicts(random.Random(1))
    core.on_candidates({OURS: NOBODY}, 0.0)
    now_s = 0.0
    for count, answer, seconds in script:
        core.on_time(now_s)
        question = core.next_question(servers[: count + 1], now_s)
        if question is not None:
            core.on_answer(question, answer, now_s)
        now_s += seconds
    assert core.wake_at_s(servers) <= now_s + 60
