"""A swarm of matchers without trio: messages with seeded delays, crashes, freezes and cuts."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from averaging.matchmaking import schema
from averaging.matchmaking.acquaintances import Candidate
from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.group import Group, Join, parse_group_untrusted, parse_join_untrusted
from averaging.matchmaking.matcher import Matcher
from averaging.matchmaking.outputs import (
    Answer,
    Ask,
    AskFailure,
    Found,
    GaveUp,
    Output,
    SendInvite,
    Withdraw,
)
from averaging.matchmaking.request import SeekRequest
from averaging.round_id import RoundId
from p2p import Identity, PeerId

SPEC_HASH = bytes(32)
ROUND = RoundId(7, bytes(31) + b"\7")
# What dials that hang and calls that nobody answers cost in the service.
_DIAL_TIMEOUT_S = 10.0
_INVITE_TIMEOUT_S = 5.0


@dataclass
class Call:
    """A JOIN call under way."""

    call_id: int
    caller: PeerId
    callee: PeerId
    ticket: int
    open: bool = True
    arrived: bool = False


@dataclass
class Peer:
    """One matcher and what came of its searches."""

    peer_id: PeerId
    matcher: Matcher
    role: schema.Role = "node"
    alive: bool = True
    frozen_until_s: float = -math.inf
    started_at_s: float = math.inf
    ended_at_s: float = math.inf
    outcomes: list[Found | GaveUp] = field(default_factory=list)

    @property
    def group(self) -> Group:
        """The group of the newest search; fails if there is none."""
        outcome = self.outcomes[-1]
        assert isinstance(outcome, Found), outcome
        return outcome.group

    @property
    def failure(self) -> GaveUp:
        """Why the newest search failed; fails if it did not."""
        outcome = self.outcomes[-1]
        assert isinstance(outcome, GaveUp), outcome
        return outcome


class Swarm:
    """Peers that find groups, in a time of their own."""

    def __init__(
        self,
        seed: int,
        count: int,
        *,
        client_count: int = 0,
        aux_count: int = 0,
        config: MatchmakingConfig | None = None,
        latency_s: float = 0.02,
        jitter: float = 1.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.peers: dict[PeerId, Peer] = {}
        self._latency_s = latency_s
        self._jitter = jitter
        self._queue: list[tuple[float, int, PeerId | None, Callable[[], None]]] = []
        self._sequence = 0
        self._calls: dict[int, Call] = {}
        self._fifo_s: dict[tuple[int, PeerId], float] = {}
        self._cuts: list[tuple[frozenset[PeerId], float, float]] = []
        self._joins: dict[schema.SignedJoin, Join] = {}
        self._groups: dict[bytes, Group] = {}
        self.config = config or MatchmakingConfig()
        for index in range(count):
            client = index >= count - client_count
            self._add("client" if client else "aux" if index < aux_count else "node")

    def _add(self, role: schema.Role) -> None:
        identity = Identity.generate(self.rng)
        matcher = Matcher(
            identity.peer_id,
            "swarm",
            SPEC_HASH,
            element_count=100_000,
            config=self.config,
            rng=random.Random(self.rng.getrandbits(64)),
            sign=identity.sign,
        )
        self.peers[identity.peer_id] = Peer(identity.peer_id, matcher, role)

    @property
    def ids(self) -> list[PeerId]:
        """All peers, those that can be dialed first."""
        return list(self.peers)

    # --- what happens -------------------------------------------------------------------------

    def seek(
        self,
        peer_id: PeerId,
        *,
        at_s: float = 0.0,
        expected: Iterable[PeerId] | None,
        round_id: RoundId = ROUND,
        lost: Iterable[PeerId] = (),
        previous: bytes = b"",
        abandoned: bool = False,
        follow: bool = False,
        group_size_min: int = 1,
        deadline_s: float = 60.0,
    ) -> None:
        """Let a peer look for a group from then on."""

        def start() -> None:
            peer = self.peers[peer_id]
            peer.started_at_s, peer.ended_at_s = self.now_s, math.inf
            request = SeekRequest(
                previous_failed_at_s=None,
                round=round_id,
                follow=follow,
                role=peer.role,
                weight_cap=0.0 if peer.role == "aux" else 1.0,
                up_bytes_per_s=0,
                down_bytes_per_s=0,
                expected=None if expected is None else tuple(sorted(expected)),
                lost=tuple(sorted(lost)),
                previous=previous,
                abandoned=abandoned,
                attempt=0,
                group_size_min=group_size_min,
                deadline_s=self.now_s + deadline_s,
                addresses=(),
            )
            self._apply(peer, peer.matcher.on_seek(request, self.now_s))

        self._at(at_s, peer_id, start)

    def seek_all(self, *, spread_s: float = 0.0, peers: Collection[PeerId] = ()) -> None:
        """Let all look for a group of all, beginning within a span of time."""
        peers = list(peers or self.ids)
        for peer_id in peers:
            at_s = self.now_s + self.rng.uniform(0.0, spread_s)
            self.seek(peer_id, at_s=at_s, expected=peers)

    def candidates(self, at_s: float, views: dict[PeerId, Collection[PeerId]]) -> None:
        """Let peers read others' records."""
        for peer_id, seen in views.items():

            def read(peer_id: PeerId = peer_id, seen: Collection[PeerId] = seen) -> None:
                peer = self.peers[peer_id]
                records = [Candidate(other, (), 60.0) for other in seen]
                self._apply(peer, peer.matcher.on_candidates(records, self.now_s))

            self._at(at_s, peer_id, read)

    def crash(self, peer_id: PeerId, at_s: float) -> None:
        """Kill a peer: its calls break at the other ends, dials to it are refused."""

        def die() -> None:
            self.peers[peer_id].alive = False
            for call in list(self._calls.values()):
                if call.open and peer_id in (call.caller, call.callee):
                    self._break(call, peer_id)

        self._at(at_s, None, die)

    def freeze(self, peer_id: PeerId, at_s: float, duration_s: float) -> None:
        """Stop a peer for a while: nothing reaches it, it says nothing, its calls stay open."""

        def stop() -> None:
            peer = self.peers[peer_id]
            peer.frozen_until_s = max(peer.frozen_until_s, self.now_s + duration_s)

        self._at(at_s, None, stop)

    def cut(self, a: PeerId, b: PeerId, from_s: float, to_s: float) -> None:
        """Let nothing through between two peers for a while; it arrives afterwards."""
        self._cuts.append((frozenset((a, b)), from_s, to_s))

    def run(self, until_s: float = 1_000.0) -> None:
        """Let time pass until nothing happens any more."""
        while self._queue and self._queue[0][0] <= until_s:
            due_s, sequence, peer_id, action = heapq.heappop(self._queue)
            self.now_s = max(self.now_s, due_s)
            if peer_id is None:
                action()
                continue
            peer = self.peers[peer_id]
            if not peer.alive:
                continue
            if peer.frozen_until_s > self.now_s:
                entry = (peer.frozen_until_s, sequence, peer_id, action)
                heapq.heappush(self._queue, entry)
                continue
            action()

    # --- the network --------------------------------------------------------------------------

    def _at(self, time_s: float, peer_id: PeerId | None, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (max(time_s, self.now_s), self._sequence, peer_id, action))

    def _delay_s(self) -> float:
        return self._latency_s * (1.0 + self.rng.uniform(0.0, self._jitter))

    def _uncut_s(self, a: PeerId, b: PeerId, time_s: float) -> float:
        for pair, from_s, to_s in self._cuts:
            if pair == frozenset((a, b)) and from_s <= time_s < to_s:
                return to_s
        return time_s

    def _deliver(
        self, call: Call, sender: PeerId, receiver: PeerId, action: Callable[[], None]
    ) -> None:
        """In order within the call."""
        arrives_s = self._uncut_s(sender, receiver, self.now_s) + self._delay_s()
        arrives_s = max(arrives_s, self._fifo_s.get((call.call_id, receiver), 0.0))
        self._fifo_s[(call.call_id, receiver)] = arrives_s
        self._at(arrives_s, receiver, action)

    def _break(self, call: Call, dead: PeerId) -> None:
        call.open = False
        if dead == call.caller:
            self._deliver(call, dead, call.callee, lambda: self._left(call))
        else:
            self._deliver(call, dead, call.caller, lambda: self._failed(call, AskFailure.BROKEN))

    def _left(self, call: Call) -> None:
        peer = self.peers[call.callee]
        if call.arrived:
            self._apply(peer, peer.matcher.on_join_left(call.call_id, self.now_s))

    def _failed(self, call: Call, cause: AskFailure) -> None:
        call.open = False
        peer = self.peers[call.caller]
        outputs = peer.matcher.on_ask_failed(call.ticket, cause, cause.value, self.now_s)
        self._apply(peer, outputs)

    # --- carrying out -------------------------------------------------------------------------

    def _apply(self, peer: Peer, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Ask():
                    self._ask(peer, output)
                case Withdraw():
                    self._withdraw(peer, output)
                case Answer():
                    self._answer(peer, output)
                case SendInvite():
                    self._invite(peer, output)
                case Found() | GaveUp():
                    peer.outcomes.append(output)
                    peer.ended_at_s = self.now_s
        due_s = peer.matcher.deadline_s
        if due_s < math.inf:
            self._at(due_s, peer.peer_id, lambda: self._wake(peer, due_s))

    def _wake(self, peer: Peer, due_s: float) -> None:
        if peer.matcher.deadline_s == due_s:
            outputs = peer.matcher.on_deadline(self.now_s)
            assert peer.matcher.deadline_s > self.now_s, "it would spin"
            self._apply(peer, outputs)

    def _ask(self, peer: Peer, ask: Ask) -> None:
        self._sequence += 1
        call = Call(self._sequence, peer.peer_id, ask.peer_id, ask.ticket)
        self._calls[call.call_id] = call
        callee = self.peers[ask.peer_id]
        if self._uncut_s(peer.peer_id, ask.peer_id, self.now_s) > self.now_s + _DIAL_TIMEOUT_S:
            unreachable_s = self.now_s + _DIAL_TIMEOUT_S
        elif not callee.alive:
            unreachable_s = self.now_s + 2 * self._delay_s()
        else:
            request = ask.request

            def arrive() -> None:
                if not call.open:
                    return
                call.arrived = True
                join = self._joins.get(request.join)
                if join is None:
                    join = self._joins[request.join] = parse_join_untrusted(request.join)
                voters = tuple(PeerId(voter) for voter in request.previous_voters)
                outputs = callee.matcher.on_join(
                    call.call_id, join, voters, self.now_s, follows=request.follows
                )
                self._apply(callee, outputs)

            self._deliver(call, peer.peer_id, ask.peer_id, arrive)
            return
        self._at(
            unreachable_s,
            peer.peer_id,
            lambda: self._failed(call, AskFailure.UNREACHABLE) if call.open else None,
        )

    def _withdraw(self, peer: Peer, withdraw: Withdraw) -> None:
        for call in self._calls.values():
            if call.caller == peer.peer_id and call.ticket == withdraw.ticket and call.open:
                call.open = False
                self._deliver(call, call.caller, call.callee, lambda c=call: self._left(c))

    def _answer(self, peer: Peer, answer: Answer) -> None:
        call = self._calls[answer.call_id]
        assert call.callee == peer.peer_id
        if not call.open:
            return
        message = answer.message
        final = not isinstance(message, schema.Wait)

        def arrive() -> None:
            if not call.open and not final:
                return
            caller = self.peers[call.caller]
            if isinstance(message, schema.GroupFormed):
                group = self._groups.get(message.body)
                if group is None:
                    group = self._groups[message.body] = parse_group_untrusted(message.body)
                outputs = caller.matcher.on_group(
                    call.ticket, group, message.last_arrival_s, self.now_s
                )
            else:
                outputs = caller.matcher.on_leader_message(call.ticket, message, self.now_s)
            self._apply(caller, outputs)

        self._deliver(call, call.callee, call.caller, arrive)
        if final:
            call.open = False

    def _invite(self, peer: Peer, output: SendInvite) -> None:
        other = self.peers[output.peer_id]
        sent_at_s = self.now_s
        if not other.alive:
            refused_s = self.now_s + 2 * self._delay_s()
            self._at(refused_s, peer.peer_id, lambda: self._unreachable(peer, other.peer_id))
            return
        arrives_s = self._uncut_s(peer.peer_id, other.peer_id, sent_at_s) + self._delay_s()

        def arrive() -> None:
            if self.now_s > sent_at_s + _INVITE_TIMEOUT_S:
                return
            answer, outputs = other.matcher.on_invite(peer.peer_id, output.invite, self.now_s)
            self._apply(other, outputs)
            back_s = self._uncut_s(peer.peer_id, other.peer_id, self.now_s) + self._delay_s()
            round_id = output.invite.round.round_id()

            def hear() -> None:
                outputs = peer.matcher.on_invite_answer(other.peer_id, round_id, answer, self.now_s)
                self._apply(peer, outputs)

            self._at(back_s, peer.peer_id, hear)

        self._at(arrives_s, other.peer_id, arrive)

    def _unreachable(self, peer: Peer, other: PeerId) -> None:
        self._apply(peer, peer.matcher.on_unreachable(other, self.now_s))
