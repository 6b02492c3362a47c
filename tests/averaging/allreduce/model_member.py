"""A member of a simulated group: does for the ballot what session, member and recovery do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from averaging.allreduce.ballot import Ballot
from averaging.allreduce.config import BallotTimes
from averaging.allreduce.manifest import Pieces, Signing
from averaging.allreduce.outputs import Ask, End, FetchPiece, Follow, SendCommit, SendVote
from averaging.allreduce.schema import MEMBERS_MAX, Commit, Plan, Promise, Vote
from tests.averaging.allreduce import model_checks, model_lies
from tests.averaging.allreduce.model import DUPLICATE_SHARE, Pipe
from tests.averaging.allreduce.model_aggregator import Aggregator, Link
from tests.averaging.allreduce.model_asking import ask, fetch
from tests.averaging.allreduce.model_group import DEADLINE_S, SILENCE_S, Group
from tests.averaging.allreduce.model_messages import (
    Abort,
    Closed,
    Excluded,
    Part,
    Record,
    Result,
    Value,
    Weight,
    contradict,
)

TICK_S = 0.5
WINDOW_PARTS = 4
WINDOW_RETRY_S = 0.05
CLOSE_S = 0.01


@dataclass
class Uplink:
    """A member's stream to one aggregator."""

    owner: int
    peer: int
    up: Pipe
    down: Pipe
    pieces: deque[int]
    outbox: deque[Any] = field(default_factory=deque)
    part: tuple[int, int] | None = None
    """The piece and chunk to be sent next."""
    declared: bool = False
    wanted: bool = True
    busy: bool = False
    closed: bool = False
    silent: bool = False
    heard_at_s: float = 0.0
    link: Link | None = None
    """The other end, once it is served."""


class Member:
    """One member; everything it does, its host does."""

    def __init__(self, group: Group, me: int, members: dict[int, Member]) -> None:
        self.group, self.setup, self.me = group, group.setup, me
        self.world = group.world
        self.host = self.world.hosts[me]
        self.members = members
        """All of the group."""
        self.votes = me in self.setup.voters
        self.weight = self.setup.weights[me] if self.votes else 0.0
        self.entered = False
        self.begun = False
        self.over = False
        """Its part in the group is closed: it only answers now."""
        self.gone = False
        self.deadline_s = float("inf")
        self.outstanding = 0
        """Questions and fetches that are out."""
        self.uplinks: dict[int, Uplink] = {}
        self.incoming: dict[int, list[Value]] = {piece.number: [] for piece in group.pieces}
        self.held: dict[int, Record] = {}
        self.applied: Pieces | None = None
        self.aggregator = Aggregator(self) if me in self.setup.aggregators else None
        self._timer_at_s = float("inf")
        self.ballot = self._ballot()

    def _ballot(self) -> Ballot[int]:
        setup, signature = self.setup, bytes([self.me]) * 64
        number = setup.members.index(self.me)

        def sign_plan(plan: int, owners: Any) -> Plan:
            return Plan(plan, tuple(owners), signature)

        def sign_vote(pieces: Pieces) -> Vote:
            self.group.votes_signed.setdefault(self.me, []).append(pieces)
            return Vote(pieces, signature)

        def sign_promise() -> Promise:
            self.group.promised[self.me] = None
            return Promise(number, signature)

        return Ballot(
            me=self.me,
            members=setup.members,
            voters=setup.voters,
            aggregators=setup.aggregators,
            owners=[piece.owner for piece in self.group.pieces],
            askable=setup.aggregators if self.me in setup.clients else setup.members,
            signing=Signing(vote=sign_vote, promise=sign_promise, plan=sign_plan),
            quorum_reached=setup.quorum_reached,
            times=BallotTimes(),
            tolerated_liars=setup.tolerated_liars,
        )

    def now_s(self) -> float:
        """What this member believes to be the time."""
        return self.host.clock_s()

    # --- beginning and end -----------------------------------------------------------------

    def enter(self) -> None:
        """The member hears of the group: it opens its streams."""
        self.entered = True
        self.deadline_s = self.world.now_s + DEADLINE_S
        self.host.after(DEADLINE_S, lambda: self.give_up("no agreement before the deadline"))
        if self.votes:
            for owner, peer in enumerate(self.setup.aggregators):
                if peer != self.me:
                    self._open_uplink(owner, peer)
        if self.aggregator is not None:
            self.aggregator.start()
        self.host.after(TICK_S * self.world.rng.random(), self._tick)
        model_lies.start(self)
        self.act()

    def begin(self) -> None:
        """The member's values are final."""
        if not self.entered:
            self.host.after(0.1, self.begin)
            return
        if not self.over:
            self.begun = True
            for uplink in self.uplinks.values():
                self.send_next(uplink)
            if self.aggregator is not None:
                self.aggregator.contribute()

    def give_up(self, reason: str) -> None:
        """The step ends at its deadline, or is cancelled."""
        self.ballot.on_give_up(reason)
        self.act()

    def _close(self) -> None:
        """The step is over: nothing is sent or reduced any more, but for what others ask."""
        end = self.ballot.end
        assert end is not None
        self.over = True
        self.gone = not end.certain
        for uplink in self.uplinks.values():
            if not uplink.closed:
                uplink.up.send(Closed())
                uplink.closed = True
        if self.gone and self.aggregator is not None:
            self.aggregator.close_links()

    def _tick(self) -> None:
        """Look for silent streams."""
        if self.over and self.aggregator is None:
            return
        for uplink in self.uplinks.values():
            if uplink.closed or uplink.silent:
                continue
            if self._flows(uplink):
                uplink.heard_at_s = self.world.now_s
            elif self.world.now_s >= uplink.heard_at_s + SILENCE_S:
                uplink.silent = True
                self.ballot.on_suspect(uplink.peer, self.now_s(), silent=True)
                self.act()
        if self.aggregator is not None:
            self.aggregator.look_for_silence()
        self.host.after(TICK_S, self._tick)

    def _flows(self, uplink: Uplink) -> bool:
        """Whether the aggregator's pings come."""
        well = self.world.hosts[uplink.peer].well and not self.world.is_cut(uplink.peer, self.me)
        return well and uplink.link is not None and not uplink.link.closed

    # --- carrying out what the ballot decides ----------------------------------------------

    def act(self) -> None:
        """Do what the ballot wants; to be called after every event."""
        for action in self.ballot.next_actions():
            match action:
                case Ask(peer=peer):
                    ask(self, peer)
                case FetchPiece():
                    fetch(self, action)
                case Follow():
                    self._follow(action)
                case SendVote(peer=peer, vote=vote):
                    if peer in self.uplinks:
                        vote = model_lies.vote_for(self, peer, vote)
                        self.tell_owner(self.uplinks[peer], vote)
                case SendCommit(peers=peers, commit=commit):
                    if self.aggregator is not None:
                        self.aggregator.tell_links(peers, commit)
                case End():
                    model_checks.on_end(self, action)
                    self.host.after(CLOSE_S * self.world.rng.random(), self._close)
        self._set_timer()
        model_checks.after_event(self)

    def _set_timer(self) -> None:
        due_s = self.ballot.deadline_s
        if due_s is None:
            return
        due_s = max(due_s, self.world.now_s)
        if due_s < self._timer_at_s:
            self._timer_at_s = due_s
            self.world.at(due_s, lambda: self.host.do(self._on_timer))

    def _on_timer(self) -> None:
        self._timer_at_s = float("inf")
        due_s, now_s = self.ballot.deadline_s, self.now_s()
        if due_s is not None and due_s <= now_s and not self.over:
            self.ballot.on_deadline(now_s)
            if (due_s := self.ballot.deadline_s) is not None and due_s <= now_s:
                self.world.complain(f"{self.me} asks to be woken at {due_s} when it is {now_s}")
            self.act()
        elif due_s is not None:
            self._timer_at_s = max(due_s, self.world.now_s + 1e-3)
            self.world.at(self._timer_at_s, lambda: self.host.do(self._on_timer))

    def _follow(self, follow: Follow) -> None:
        plan = follow.plan
        planner = self.setup.members[plan.number % MEMBERS_MAX]
        self.world.note(
            f"{self.me} follows plan {plan.number // MEMBERS_MAX} of {planner} in group "
            f"{self.group.number}: {plan.owners}"
        )
        for uplink in self.uplinks.values():
            self.tell_owner(uplink, plan)
        if self.aggregator is not None:
            self.aggregator.tell_links(tuple(self.aggregator.links), plan)
        for number in follow.changed:
            owner = self.setup.aggregators[plan.owners[number]]
            self.held.pop(number, None)
            self.incoming[number] = []
            if self.aggregator is not None:
                self.aggregator.change_owner(number, owner, plan.number)
            if owner in self.uplinks:
                self.uplinks[owner].pieces.append(number)
                self.send_next(self.uplinks[owner])
        if self.aggregator is not None:
            self.aggregator.on_change()

    def hold(self, record: Record) -> None:
        """A piece is whole."""
        digest = self.group.digest_of(record)
        before = self.held.get(record.piece)
        if before is not None and contradict(before, record):
            self.ballot.on_liar(self.setup.aggregators[record.owner])
        if self.ballot.wants(record.piece, digest):
            self.held[record.piece] = record
        self.ballot.on_piece(record.piece, digest, self.now_s())
        self.act()

    # --- our streams to aggregators ---------------------------------------------------------

    def _open_uplink(self, owner: int, peer: int) -> None:
        owners = self.ballot.holdings.owners
        pieces = deque(p.number for p in self.group.pieces if owners[p.number] == owner)
        theirs = self.members[peer]
        assert theirs.aggregator is not None
        uplink = Uplink(owner, peer, None, None, pieces)  # type: ignore[arg-type]
        link = Link(self.me, uplink)
        serve: Callable[[Any], None] = theirs.aggregator.receiver(link)
        uplink.up = Pipe(self.world, self.me, peer, serve)
        uplink.down = Pipe(self.world, peer, self.me, lambda m: self._receive(uplink, m))
        uplink.heard_at_s = self.world.now_s
        self.uplinks[peer] = uplink
        uplink.up.send(link)

    def tell_owner(self, uplink: Uplink, message: Any) -> None:
        """Send a small message to an aggregator, between parts."""
        if not uplink.closed:
            uplink.outbox.append(message)
            if self.world.rng.random() < DUPLICATE_SHARE:
                uplink.outbox.append(message)
            self._flush(uplink)

    def _flush(self, uplink: Uplink) -> bool:
        """Send what is small; False while the aggregator takes nothing."""
        while uplink.up.pending < WINDOW_PARTS:
            if not uplink.outbox:
                return True
            uplink.up.send(uplink.outbox.popleft())
        if not uplink.busy:
            uplink.busy = True
            self.host.after(WINDOW_RETRY_S, lambda: self._sent(uplink))
        return False

    def _sent(self, uplink: Uplink) -> None:
        uplink.busy = False
        self.send_next(uplink)

    def send_next(self, uplink: Uplink) -> None:
        """Send the next part, if there is one and there is room."""
        if uplink.busy or uplink.closed or not self._flush(uplink) or not self.begun:
            return
        if not uplink.declared:
            uplink.declared = True
            uplink.up.send(Weight(model_lies.weight_for(self, uplink.peer)))
        if not uplink.wanted or not self.weight:
            uplink.part = None
            return
        if uplink.part is None:
            if not uplink.pieces:
                return
            uplink.part = (uplink.pieces.popleft(), 0)
        piece, chunk = uplink.part
        uplink.up.send(Part(piece, chunk))
        last = chunk + 1 == self.group.pieces[piece].chunk_count
        uplink.part = None if last else (piece, chunk + 1)
        uplink.busy = True
        self.host.after(self.host.part_interval_s, lambda: self._sent(uplink))
        self.host.part_interval_s *= self.host.trickle

    def on_broken(self, uplink: Uplink, *, faulty: bool = False) -> None:
        """The stream broke."""
        if not uplink.closed:
            uplink.closed = True
            self.ballot.on_suspect(uplink.peer, self.now_s(), faulty=faulty)
            self.act()

    def _receive(self, uplink: Uplink, message: Any) -> None:
        if uplink.closed:
            return
        match message:
            case Result():
                self._take_result(uplink, message)
            case Record():
                if self._awaits(message.piece, uplink) and not self._missed(
                    message.piece, len(message.chunks)
                ):
                    if tuple(self.incoming[message.piece]) != message.chunks:
                        self._blame(uplink, "a piece end that does not fit its chunks")
                    else:
                        self.hold(message)
            case Excluded():
                uplink.wanted = False
            case Plan():
                self.ballot.on_plan(message, self.now_s())
                self.act()
            case Commit():
                self.ballot.on_commit(message, self.now_s())
                self.act()
            case Abort():
                contributes = self.weight or (self.votes and not self.begun)
                if message.certain and not (contributes and uplink.wanted):
                    self.ballot.on_abort(message.reason)
                    self.act()
                else:
                    self.on_broken(uplink)
            case Closed():
                self.on_broken(uplink)

    def _awaits(self, piece: int, uplink: Uplink) -> bool:
        holdings = self.ballot.holdings
        return holdings.owners[piece] == uplink.owner and not holdings.holds(piece)

    def _missed(self, piece: int, next_chunk: int) -> bool:
        if self.ballot.plan is None or next_chunk == len(self.incoming[piece]):
            return False
        self.incoming[piece] = []
        self.ballot.on_missed(piece, self.now_s())
        self.act()
        return True

    def _take_result(self, uplink: Uplink, result: Result) -> None:
        if not self._awaits(result.piece, uplink) or self._missed(result.piece, result.chunk):
            return
        chunks = self.incoming[result.piece]
        if result.chunk != len(chunks):
            self._blame(uplink, f"chunk {result.chunk} of piece {result.piece} out of order")
        else:
            chunks.append(result.value)

    def _blame(self, uplink: Uplink, what: str) -> None:
        if self.host.honest and self.group.honest(uplink.peer):
            self.world.complain(f"{self.me} calls the honest {uplink.peer} faulty: {what}")
        self.on_broken(uplink, faulty=True)
