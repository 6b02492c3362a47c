"""An aggregator of a simulated group: does for reduction and pace what the services do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from averaging.allreduce.mean import Contribution
from averaging.allreduce.pace import Pace
from averaging.allreduce.reduction import LOST_REASONS, SLOW_REASONS, Reduction, Senders
from averaging.allreduce.schema import Plan, Vote
from tests.averaging.allreduce import model_lies
from tests.averaging.allreduce.model_group import SILENCE_S, ModelPiece
from tests.averaging.allreduce.model_messages import (
    Abort,
    Closed,
    Excluded,
    Part,
    Record,
    Result,
    Value,
    Weight,
)

if TYPE_CHECKING:
    from tests.averaging.allreduce.model_member import Member, Uplink

WEIGHT_CAP = 8.0
NORM = 1e6
"""What everyone declares; no value of the model is longer."""
AHEAD_MAX = 2
PACE_TICK_S = 0.2
PLANNED_S = 0.5
OPEN_PATIENCE_S = 2.75
REDUCE_S = 0.002


@dataclass(eq=False)
class Link:
    """A member's stream to an aggregator, at the aggregator."""

    peer: int
    uplink: Uplink
    inbox: deque[Any] = field(default_factory=deque)
    served: bool = False
    closed: bool = False
    silent: bool = False
    blocked: bool = False
    """A part waits for room, and everything behind it."""
    heard_at_s: float = 0.0
    sent: int = 0
    """Results that went down."""


@dataclass(eq=False)
class Work:
    """A piece that is ours to average."""

    piece: ModelPiece
    plan: int
    reduction: Reduction[int]
    chunks: list[Value] = field(default_factory=list)


class Aggregator:
    """The part of a member that averages for the others."""

    def __init__(self, member: Member) -> None:
        self.member, self.group, self.setup = member, member.group, member.setup
        self.me, self.host, self.world = member.me, member.host, member.world
        members = self.setup.members
        self.senders: Senders[int] = Senders(
            members, [WEIGHT_CAP] * len(members), norm_factor_max=10.0
        )
        for peer in self.setup.helpers:
            self.senders.on_weight(peer, 0.0, 0.0)
        self.owner = self.setup.aggregators.index(self.me)
        self.work = [self._work(p, 0) for p in self.group.pieces if p.owner == self.owner]
        self.results: list[Result | Record] = []
        self.links: dict[int, Link] = {}
        self.aborted: Abort | None = None
        self._contributed: list[Work] = []
        self._contributing: tuple[Work, int] | None = None
        self._reducing = False
        self._pace: Pace[int] | None = None

    def _work(self, piece: ModelPiece, plan: int) -> Work:
        sizes = [len(self.setup.members) + 1] * piece.chunk_count
        ahead_max = None if plan else AHEAD_MAX
        reduction = Reduction(
            self.setup.members, self.senders, sizes, ahead_max=ahead_max, strict=not plan
        )
        return Work(piece, plan, reduction)

    def start(self) -> None:
        """Begin to average."""
        self.host.after(SILENCE_S, self._expect_links)
        self._pace = Pace(
            dict.fromkeys(self.setup.voters, PLANNED_S),
            grace_s=1.0,
            start_patience_s=10.0,
            allowed_s_max=10.0,
        )
        self.host.after(PACE_TICK_S, self._keep_pace)

    # --- averaging -------------------------------------------------------------------------

    def values(self, peer: int, piece: int, chunk: int) -> np.ndarray[Any, Any]:
        """What a member contributes: one in its own place, and the number of the chunk."""
        values = np.zeros(len(self.setup.members) + 1)
        values[self.setup.members.index(peer)] = 1.0
        values[-1] = self.group.code_of(piece, chunk)
        return values

    def contribute(self) -> None:
        """Our values are final: our own parts take the same way as the others'."""
        if self.member.votes:
            self.senders.on_weight(self.me, model_lies.weight_for(self.member, self.me), NORM)
        self.on_change()

    def on_change(self) -> None:
        """There may be room for more, or something to average, or somebody to go on with."""
        if self.member.over:
            return
        self._contribute()
        for link in list(self.links.values()):
            if link.blocked:
                self._process(link)
        self._reduce()

    def _contribute(self) -> None:
        while self.member.begun:
            if self._contributing is None:
                work = next((w for w in self.work if w not in self._contributed), None)
                if work is None:
                    return
                self._contributed.append(work)
                self._contributing = (work, 0)
            work, chunk = self._contributing
            done = chunk == work.piece.chunk_count or not self.senders.awaited(self.me)
            if not done and not work.reduction.may_deliver(self.me):
                if work in self.work:
                    return
                done = True
            if done:
                self._contributing = None
                continue
            work.reduction.on_part(self.me, chunk, self.values(self.me, work.piece.number, chunk))
            self._contributing = (work, chunk + 1)

    def _reduce(self) -> None:
        if self._reducing or self.aborted is not None or self.member.over:
            return
        work = next((work for work in self.work if work.reduction.ready), None)
        if work is None:
            return
        self._reducing = True
        chunk = work.reduction.next_chunk
        taken = work.reduction.take()
        self.host.after(REDUCE_S, lambda: self._reduced(work, chunk, taken))
        self.on_change()

    def _reduced(self, work: Work, chunk: int, taken: tuple[Contribution, ...]) -> None:
        self._reducing = False
        if self.member.over:
            return
        if not sum(contribution.weight for contribution in taken):
            self._abort()
            return
        total = sum(contribution.weight * contribution.values for contribution in taken)
        value = tuple(int(number) for number in total)  # type: ignore[union-attr]
        work.chunks.append(value)
        self.results.append(Result(work.piece.number, chunk, value))
        if work.reduction.done and work in self.work:
            record = self._record(work)
            self.results.append(record)
            self.member.hold(record)
        for link in list(self.links.values()):
            self._push(link)
        self.on_change()

    def _record(self, work: Work) -> Record:
        record = Record(
            work.piece.number,
            self.owner,
            work.plan,
            tuple(work.chunks),
            work.reduction.included(),
            tuple(self.senders.weight_of(peer) for peer in self.setup.members),
            work.reduction.reasons(),
        )
        return model_lies.table(self.member, record)

    def _abort(self) -> None:
        reasons = self.senders.reasons().values()
        certain = not any(reason in (*LOST_REASONS, *SLOW_REASONS) for reason in reasons)
        self.aborted = Abort("nobody contributed", certain)
        self.world.note(f"{self.me} aborts group {self.group.number}, certain={certain}")
        self.tell_links(tuple(self.links), self.aborted)
        if certain:
            self.member.ballot.on_abort(self.aborted.reason)
        else:
            self.member.ballot.on_suspect(self.me, self.member.now_s())
        self.member.act()

    def change_owner(self, number: int, owner: int, plan: int) -> None:
        """A plan gave a piece to another owner."""
        self.work = [work for work in self.work if work.piece.number != number]
        if owner == self.me:
            self.work.append(self._work(self.group.pieces[number], plan))

    def exclude(self, sender: int, reason: str, *, lost: bool = False) -> None:
        """A member contributes no more to what is ours."""
        told = self.senders.excluded(sender)
        self.senders.on_excluded(sender, reason)
        if lost:
            self.member.ballot.on_sender_lost(sender)
        elif not told:
            self.tell_links((sender,), Excluded())
            if self.group.honest(sender) and reason not in SLOW_REASONS:
                self.world.complain(f"{self.me} excludes the honest {sender}: {reason}")
        self.on_change()

    def _expect_links(self) -> None:
        if self.member.over:
            return
        for peer in self.setup.voters:
            if peer != self.me and peer not in self.links:
                self.exclude(peer, "did not come", lost=True)

    def _keep_pace(self) -> None:
        if self.member.over:
            return
        assert self._pace is not None
        senders = self.senders
        works = [work for work in self.work if not work.reduction.done]
        slow = self._pace.on_tick(
            self.member.now_s(),
            missing=[
                peer
                for peer in self.setup.voters
                if not senders.declared(peer) and not senders.excluded(peer)
            ],
            awaited=[p for work in works[:1] for p in work.reduction.awaited() if p != self.me],
            delivered={peer: senders.delivered(peer) for peer in self.setup.voters},
            chunk_count=sum(work.piece.chunk_count for work in self.work),
        )
        for peer, reason in slow.items():
            self.exclude(peer, reason)
        self.host.after(PACE_TICK_S, self._keep_pace)

    # --- serving members -------------------------------------------------------------------

    def receiver(self, link: Link) -> Callable[[Any], None]:
        """What takes the messages of a member's stream."""

        def receive(message: Any) -> None:
            link.inbox.append(message)
            self._process(link)

        return receive

    def _open(self, link: Link) -> None:
        """A stream comes in; before we know of the group it has to wait."""
        waits_until_s = self.world.now_s + OPEN_PATIENCE_S
        if self.member.entered:
            self._serve(link)
            return

        def look() -> None:
            if self.member.entered:
                self._serve(link)
            elif self.world.now_s >= waits_until_s:
                link.closed = True
                link.uplink.down.send(Closed())
            else:
                self.host.after(0.1, look)

        look()

    def _serve(self, link: Link) -> None:
        if self.member.gone:
            link.closed = True
            link.uplink.down.send(Closed())
            return
        link.served, link.uplink.link = True, link
        link.heard_at_s = self.world.now_s
        self.links[link.peer] = link
        ballot = self.member.ballot
        for known in (self.aborted, ballot.plan, ballot.commit):
            if known is not None:
                link.uplink.down.send(known)
        self._push(link)
        self._process(link)

    def _push(self, link: Link) -> None:
        """Send the results that the member has not got."""
        if link.closed or link.peer not in self.setup.voters:
            return
        while link.sent < len(self.results):
            result = model_lies.shown(self.member, link.peer, self.results[link.sent])
            link.uplink.down.send(result, self.host.result_interval_s)
            link.sent += 1

    def tell_links(self, peers: tuple[int, ...], message: Any) -> None:
        """Send a small message to those of the members that have a stream to us."""
        for peer in peers:
            if peer in self.links:
                self.links[peer].uplink.down.send(message)

    def close_links(self) -> None:
        """Nothing more comes from us."""
        for link in list(self.links.values()):
            link.uplink.down.send(Closed())
            self.on_link_closed(link, "left")

    def on_link_closed(self, link: Link, reason: str) -> None:
        """The stream is no more."""
        if not link.closed:
            link.closed = True
            self.links.pop(link.peer, None)
            self.exclude(link.peer, reason, lost=True)

    def look_for_silence(self) -> None:
        """Which members have said nothing for too long while we listened."""
        for link in list(self.links.values()):
            well = self.world.hosts[link.peer].well and not self.world.is_cut(link.peer, self.me)
            if link.blocked or (well and not link.uplink.closed):
                link.heard_at_s = self.world.now_s
            elif not link.silent and self.world.now_s >= link.heard_at_s + SILENCE_S:
                link.silent = True
                self.exclude(link.peer, "silent", lost=True)
                if self.member.over:
                    self.on_link_closed(link, "silent")

    def _process(self, link: Link) -> None:
        """Deal with what came, as far as there is room."""
        while link.inbox and not link.closed:
            message = link.inbox[0]
            if message is not link and not link.served:
                return
            if isinstance(message, Part) and self._must_wait(link.peer, message.piece):
                link.blocked = True
                return
            link.blocked = False
            link.inbox.popleft()
            link.uplink.up.pending -= 1
            if message is link:
                self._open(link)
            else:
                self._receive(link, message)

    def _must_wait(self, peer: int, piece: int) -> bool:
        work = next((work for work in self.work if work.piece.number == piece), None)
        if work is None or self.senders.excluded(peer):
            return False
        return not work.reduction.may_deliver(peer)

    def _receive(self, link: Link, message: Any) -> None:
        member, peer = self.member, link.peer
        match message:
            case Weight():
                if self.senders.on_weight(peer, message.weight, NORM) is not None:
                    self.tell_links((peer,), Excluded())
                self.on_change()
            case Part():
                self._take_part(peer, message)
            case Vote():
                member.ballot.on_vote(peer, message, member.now_s())
                member.act()
            case Plan():
                member.ballot.on_plan(message, member.now_s())
                member.act()
            case Closed():
                self.on_link_closed(link, "left")

    def _take_part(self, peer: int, part: Part) -> None:
        if self.senders.excluded(peer):
            return
        work = next((work for work in self.work if work.piece.number == part.piece), None)
        if work is None:
            return
        values = self.values(peer, part.piece, part.chunk)
        reason = work.reduction.on_part(peer, part.chunk, values)
        if reason is not None:
            self.exclude(peer, reason)
            self.tell_links((peer,), Excluded())
            if self.group.honest(peer):
                self.world.complain(f"{self.me} excludes the honest {peer}: {reason}")
        self.on_change()
