"""Verdicts: whether outsiders get through to each address of ours, as peers tell who try (core).

For each candidate address peers are asked in turn to dial it back. What they say is believed so:

    unknown --one independent success, or two others-----> public
    unknown --two failures-------------------------------> private
    public  --two failures, and neither of the two that
              reached it last still does-----------------> private
    private --as from unknown----------------------------> public
    any     --nobody has answered for STALE_S------------> unknown

Two are by two servers, of two networks as soon as servers of two networks can be asked; where there
is only one server, its second answer counts as another's.

Of an address that only observers in certain networks have told us of, servers in those networks
are not believed when they say that they reached it: that would be one party's word.

A success is *independent* if we have no connection to that server that we dialed from our listen
port: otherwise a NAT that filters by address only (RFC 4787, section 5) lets that server in, and
nobody else.

A verdict that stands is checked again after growing pauses of at most 45 s, and everything at once
when our network changes, so that whatever happens outside is noticed within a minute.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from p2p.address import TcpAddress, network_of
from p2p.nat.report import Reachability
from p2p.peer_id import PeerId

PAUSE_S_MIN = 5.0
PAUSE_S_MAX = 40.0
STALE_S = 300.0
CANDIDATES_PER_FAMILY_MAX = 4
"""One server alone can then answer twice for each within a minute."""
_ASIDE_S = 60.0
"""Servers count dial-backs by the minute."""
_JITTER = 0.1
_NEEDED = 2
_SERVERS_MAX = 64


class Answer(Enum):
    """How a server answered when it was asked to dial an address back."""

    REACHED = "reached"
    FAILED = "failed"
    REFUSED = "refused"
    """It does not dial this address, or not now; that says nothing about the address."""
    SILENT = "silent"


@dataclass(frozen=True)
class Server:
    """A peer that dials back, and where it is."""

    peer_id: PeerId
    host: str
    independent: bool
    """Whether no NAT has a reason to let it in that it has not for everybody."""


@dataclass(frozen=True)
class Question:
    """Whom to ask about which address."""

    address: TcpAddress
    server: Server


@dataclass(frozen=True)
class Verdict:
    """What is known of one address."""

    reachability: Reachability
    evidence: str


@dataclass
class _Said:
    """The last that one server said of an address."""

    server: Server
    reached: bool
    at_s: float
    times: int
    """How often in a row it said so."""


@dataclass
class _Candidate:
    """An address of ours, and what was said of it."""

    due_s: float
    told_by: frozenset[str] = frozenset()
    """The networks that alone have told us of it; empty when we know better."""
    pause_s: float = PAUSE_S_MIN
    reachability: Reachability = "unknown"
    said: dict[PeerId, _Said] = field(default_factory=dict)
    is_asked: bool = False
    """A question is under way."""
    last_answer_s: float = -math.inf


class Verdicts:
    """Asks about each candidate in turn, and weighs the answers."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._candidates: dict[TcpAddress, _Candidate] = {}
        self._aside_until_s: dict[tuple[PeerId, TcpAddress | None], float] = {}
        self._asked_at_s: dict[PeerId, float] = {}
        self._present: dict[PeerId, str] = {}
        """The hosts of the servers that can be asked now."""

    def on_candidates(self, addresses: Mapping[TcpAddress, frozenset[str]], now_s: float) -> None:
        """These may be ours now; new ones are asked about at once.

        Args:
            addresses: the likeliest first, each with the networks that alone have told us of it,
                as p2p.address.network_of() names them.
        """
        kept: dict[TcpAddress, _Candidate] = {}
        for kind in ("ip4", "ip6"):
            fit = [one for one in addresses if one.kind == kind]
            for address in fit[:CANDIDATES_PER_FAMILY_MAX]:
                candidate = self._candidates.get(address) or _Candidate(due_s=now_s)
                candidate.told_by = addresses[address]
                kept[address] = candidate
        self._candidates = kept

    def on_changed(self, now_s: float) -> None:
        """Our network has changed: what was said counts no more, and all is asked again."""
        self._aside_until_s.clear()
        for candidate in self._candidates.values():
            candidate.said.clear()
            candidate.due_s, candidate.pause_s = now_s, PAUSE_S_MIN

    def on_connected(self, peer_id: PeerId) -> None:
        """There is a new connection to this peer: what it refused over the last it may now dial."""
        self._aside_until_s = {
            key: until_s for key, until_s in self._aside_until_s.items() if key[0] != peer_id
        }

    def next_question(self, servers: Sequence[Server], now_s: float) -> Question | None:
        """What to ask now, if anything; on_answer() must follow."""
        self._present = {server.peer_id: server.host for server in servers}
        for address, candidate in self._candidates.items():
            if candidate.is_asked or candidate.due_s > now_s:
                continue
            able = [one for one in servers if self._free_at_s(one, address) <= now_s]
            if able:
                server = min(able, key=lambda one: self._order(one, candidate))
                candidate.is_asked = True
                self._asked_at_s.pop(server.peer_id, None)
                self._asked_at_s[server.peer_id] = now_s
                if len(self._asked_at_s) > _SERVERS_MAX:
                    del self._asked_at_s[next(iter(self._asked_at_s))]
                return Question(address, server)
        return None

    def wake_at_s(self, servers: Sequence[Server]) -> float:
        """When there will be something to ask these servers; infinite for never."""
        return min(
            (
                max(candidate.due_s, self._free_at_s(server, address))
                for address, candidate in self._candidates.items()
                if not candidate.is_asked
                for server in servers
                if _speak_one_family(server, address)
            ),
            default=math.inf,
        )

    def _free_at_s(self, server: Server, address: TcpAddress) -> float:
        if not _speak_one_family(server, address):
            return math.inf
        aside = self._aside_until_s
        return max(
            aside.get((server.peer_id, None), -math.inf),
            aside.get((server.peer_id, address), -math.inf),
        )

    def _order(self, server: Server, candidate: _Candidate) -> tuple[int, bool, bool, float]:
        """Who is asked first: who decides most, then the independent, then who waited longest."""
        said = candidate.said.get(server.peer_id)
        in_doubt = any(not one.reached for one in candidate.said.values())
        if in_doubt and candidate.reachability == "public" and said and said.reached:
            rank = 0
        elif said is None and candidate.reachability == "unknown":
            rank = 1
        else:
            rank = 2
        is_teller = network_of(server.host) in candidate.told_by
        return (
            rank,
            is_teller,
            not server.independent,
            self._asked_at_s.get(server.peer_id, -math.inf),
        )

    def on_answer(self, question: Question, answer: Answer, now_s: float) -> None:
        """What became of a question."""
        candidate = self._candidates.get(question.address)
        server = question.server
        is_teller = candidate is not None and network_of(server.host) in candidate.told_by
        if answer is Answer.REACHED and is_teller:
            answer = Answer.REFUSED
        if answer in (Answer.REFUSED, Answer.SILENT):
            whole = answer is Answer.SILENT
            key = (server.peer_id, None if whole else question.address)
            self._aside_until_s = {
                one: until for one, until in self._aside_until_s.items() if until > now_s
            }
            self._aside_until_s[key] = now_s + _ASIDE_S
        if candidate is None:
            return
        candidate.is_asked = False
        if answer in (Answer.REFUSED, Answer.SILENT):
            # Somebody else may be asked at once.
            return
        reached = answer is Answer.REACHED
        last = candidate.said.pop(server.peer_id, None)
        times = last.times + 1 if last and last.reached == reached else 1
        candidate.said[server.peer_id] = _Said(server, reached, now_s, times)
        candidate.last_answer_s = now_s
        before = candidate.reachability
        self._weigh(candidate, reached)
        in_doubt = any(
            one.reached != (candidate.reachability == "public") for one in candidate.said.values()
        )
        if candidate.reachability != before or in_doubt or candidate.reachability == "unknown":
            candidate.pause_s = PAUSE_S_MIN
        jitter = 1 + self._rng.uniform(-_JITTER, _JITTER)
        candidate.due_s = now_s + candidate.pause_s * jitter
        candidate.pause_s = min(2 * candidate.pause_s, PAUSE_S_MAX)

    def _weigh(self, candidate: _Candidate, reached: bool) -> None:
        """The rules that stand atop this file, after an answer."""
        said = candidate.said.values()
        for_it = [one for one in said if one.reached]
        against = [one for one in said if not one.reached]
        if reached:
            if (
                candidate.reachability == "public"
                or any(one.server.independent for one in for_it)
                or self._are_several(for_it)
                or self._is_lone_word(for_it)
            ):
                candidate.reachability = "public"
                candidate.said = {one.server.peer_id: one for one in for_it}
            return
        if not (self._are_several(against) or self._is_lone_word(against)):
            return
        # The two that reached it last have a say, if they can still be asked.
        lately = [one for one in for_it if one.server.peer_id in self._present][-_NEEDED:]
        if candidate.reachability != "public" or not lately:
            candidate.reachability = "private"
            candidate.said = {one.server.peer_id: one for one in against}

    def _are_several(self, said: list[_Said]) -> bool:
        """Whether two servers say so, of two networks where servers of two can be asked."""
        there = {network_of(host) for host in self._present.values()}
        hosts = {one.server.host for one in said}
        networks = {network_of(host) for host in hosts}
        return len(hosts) >= _NEEDED and len(networks) >= min(_NEEDED, len(there))

    def _is_lone_word(self, said: list[_Said]) -> bool:
        """Whether the only server there is has said it twice."""
        return len(self._present) == 1 and any(one.times >= _NEEDED for one in said)

    def on_time(self, now_s: float) -> None:
        """A verdict that nobody has answered for in a long while is none any more."""
        for candidate in self._candidates.values():
            if now_s - candidate.last_answer_s > STALE_S and candidate.reachability != "unknown":
                candidate.reachability = "unknown"
                candidate.said.clear()

    @property
    def candidates(self) -> tuple[TcpAddress, ...]:
        """The addresses that are asked about."""
        return tuple(self._candidates)

    def verdict(self, address: TcpAddress, now_s: float) -> Verdict:
        """What is known of an address, and why."""
        candidate = self._candidates.get(address)
        if candidate is None:
            return Verdict("unknown", "It is not for outsiders.")
        said = candidate.said.values()
        if not said:
            waiting = "nobody who dials back is connected"
            if self._present:
                waiting = "no peer has answered yet"
            return Verdict(candidate.reachability, f"Not known from outside: {waiting}.")
        parts = []
        for reached, words in ((True, "dialed it back"), (False, "could not dial it")):
            those = [one for one in said if one.reached == reached]
            if those:
                ago_s = now_s - max(one.at_s for one in those)
                peers = "1 peer" if len(those) == 1 else f"{len(those)} peers"
                parts.append(f"{peers} {words}, the last {ago_s:.0f} s ago")
        return Verdict(candidate.reachability, "; ".join(parts) + ".")


def _speak_one_family(server: Server, address: TcpAddress) -> bool:
    """Whether the server is connected over the address's IP family: it dials no other."""
    return (":" in server.host) == (address.kind == "ip6")
