"""Session: one group as one member sees it, shared by all tasks that run it or serve from it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import trio
from blake3 import blake3

from averaging.allreduce import manifest
from averaging.allreduce.ballot import Ballot
from averaging.allreduce.bell import Bell
from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.outputs import Ask, End, FetchSpan, SendCommit, SendVote
from averaging.allreduce.partition import Span, partition
from averaging.allreduce.reduction import Reduction
from averaging.allreduce.schema import (
    Abort,
    Answer,
    Commit,
    FromAggregator,
    Hello,
    Promise,
    SpanEnd,
    Vote,
)
from averaging.heavy import run_heavy
from averaging.matchmaking.group import Group, blocking, quorum_reached
from p2p import MessageInvalid, Node, PeerId, short

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
T = TypeVar("T")

# A vote, or a certificate and its repetitions; whoever misses one asks.
_OUTBOX_MAX: Final = 8


@dataclass
class Incoming:
    """A span on its way to us: its first chunks and their digests."""

    chunks: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class HeldSpan:
    """A whole span, verified."""

    end: SpanEnd
    chunks: tuple[bytes, ...]


class Outbox:
    """Small messages for one stream, sent between the large ones."""

    def __init__(self) -> None:
        self.bell = Bell()
        self._messages: deque[Any] = deque(maxlen=_OUTBOX_MAX)

    def put(self, message: Any) -> None:
        """Send this soon; the oldest is dropped when too many wait."""
        self._messages.append(message)
        self.bell.ring()

    def pop(self) -> Any | None:
        """The next message, or None."""
        return self._messages.popleft() if self._messages else None


@dataclass
class Link:
    """A member's stream to us as an aggregator."""

    outbox: Outbox = field(default_factory=Outbox)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    listening_since_s: float | None = 0.0
    """None while the member has to wait, and so cannot be silent."""


class Session:
    """Everything about one group; the ballot and the reduction decide, the tasks around act."""

    def __init__(
        self,
        node: Node,
        group: Group,
        flat: Array,
        weight: float,
        wire_dtype: np.dtype[Any],
        deadline_s: float,
        config: AllreduceConfig,
    ) -> None:
        self.node = node
        self.config = config
        self.group = group
        self.group_id = group.group_id
        self.me = node.peer_id
        self.members = group.peer_ids
        self.aggregators = group.aggregators
        self.flat = flat
        self.weight = weight
        self.wire_dtype = wire_dtype
        self.deadline_s = deadline_s
        self.spans = partition(len(flat), len(self.aggregators), group.chunk_elements)
        self.own_span = self._own_span()
        self.reduction = None if self.own_span is None else self._reduction(self.own_span)
        self.own_chunks: list[bytes] = []
        self.aborted: Abort | None = None
        self.incoming = [Incoming() for _ in self.spans]
        self.held: dict[int, HeldSpan] = {}
        self.links: dict[PeerId, Link] = {}
        self.uplinks: dict[PeerId, Outbox] = {}
        self.sent_bytes = 0
        self.received_bytes = 0
        self.started_s = trio.current_time()
        self.held_all_s: float | None = None
        self.gone = False
        """Our step ended without the wish to try again with the same members."""
        self.done = trio.Event()
        self.parts_changed = Bell()
        self.room_changed = Bell()
        self.timer_changed = Bell()
        self.link_closed = Bell()
        self.on_ask: Callable[[PeerId], None] = lambda peer: None
        self.on_fetch: Callable[[FetchSpan[PeerId]], None] = lambda fetch: None
        self.ballot = self._ballot()

    def _own_span(self) -> Span | None:
        return self.spans[self.aggregators.index(self.me)] if self.me in self.aggregators else None

    def _reduction(self, span: Span) -> Reduction[PeerId]:
        return Reduction(
            self.members,
            [chunk.element_count for chunk in span.chunks],
            chunks_ahead_max=self.config.chunks_ahead_max,
        )

    def _ballot(self) -> Ballot[PeerId]:
        sign = self.node.identity.sign
        return Ballot(
            me=self.me,
            members=self.members,
            aggregators=self.aggregators,
            askable=self.aggregators if self.node.client_mode else self.members,
            sign_vote=lambda spans: manifest.signed_vote(self.group_id, spans, sign),
            sign_promise=lambda: manifest.signed_promise(
                self.group_id, self.members.index(self.me), sign
            ),
            quorum_reached=self._quorum_reached,
            blocking=blocking,
            times=self.config.times,
        )

    def _quorum_reached(self, voters: Sequence[PeerId], votes: Collection[PeerId]) -> bool:
        return len(votes) >= self.config.votes_min and quorum_reached(voters, votes)

    # --- carrying out what the ballot decides ----------------------------------------------

    def act(self) -> None:
        """Do what the ballot wants; call it after every event."""
        for action in self.ballot.next_actions():
            match action:
                case Ask():
                    self.on_ask(action.peer)
                case FetchSpan():
                    self.on_fetch(action)
                case SendVote():
                    if action.peer in self.uplinks:
                        self.uplinks[action.peer].put(action.vote)
                case SendCommit():
                    self.tell_links(action.peers, action.commit)
                case End():
                    self.done.set()
        self.timer_changed.ring()

    def tell_links(self, peers: tuple[PeerId, ...], message: FromAggregator) -> None:
        """Send a small message to those of the members that have a stream to us."""
        for peer in peers:
            if peer in self.links:
                self.links[peer].outbox.put(message)

    def hold(self, end: SpanEnd, chunks: list[bytes]) -> None:
        """A span is whole and verified."""
        digest = manifest.span_digest(end)
        if self.ballot.wants(end.owner):
            self.held[end.owner] = HeldSpan(end, tuple(chunks))
            if len(self.held) == len(self.spans) and self.held_all_s is None:
                self.held_all_s = trio.current_time()
        self.ballot.on_span(end.owner, digest, trio.current_time())
        self.act()

    def abort(self, reason: str) -> None:
        """Our own span cannot be averaged by anyone."""
        self.aborted = Abort(reason)
        self.tell_links(tuple(self.links), self.aborted)
        self.ballot.on_abort(reason)
        self.act()

    def on_aggregator_lost(
        self, peer: PeerId, cause: str, *, silent: bool = False, faulty: bool = False
    ) -> None:
        """The stream to an aggregator broke, or it has been silent, or said what it may not."""
        if not self.done.is_set():
            logger.info(
                "aggregator_lost group=%s peer=%s cause=%s",
                self.group_id[:4].hex(),
                short(peer),
                cause,
            )
        self.ballot.on_suspect(peer, trio.current_time(), silent=silent, faulty=faulty)
        self.act()

    def exclude(self, sender: PeerId, reason: str, *, lost: bool = False) -> None:
        """A member contributes no more to our span."""
        assert self.reduction is not None
        self.reduction.on_excluded(sender, reason)
        if lost:
            self.ballot.on_sender_lost(sender)
        self.parts_changed.ring()
        self.room_changed.ring()

    # --- checking what others say ----------------------------------------------------------

    def check_hello_untrusted(self, member: PeerId, hello: Hello) -> None:
        """Raise MessageInvalid unless the member signed this hello."""
        if member not in self.members:
            raise MessageInvalid("the caller is not in the group")
        manifest.check_hello_untrusted(hello, member)

    def on_vote_untrusted(self, voter: PeerId, vote: Vote) -> None:
        """A member's vote came to us."""
        if not self.ballot.knows_vote(voter):
            manifest.check_vote_untrusted(vote, self.group_id, voter, len(self.spans))
        self.ballot.on_vote(voter, vote, trio.current_time())
        self.act()

    def on_commit_untrusted(self, commit: Commit) -> None:
        """A certificate came to us."""
        if self.ballot.commit is None:
            self._check_commit_untrusted(commit)
            self.ballot.on_commit(commit, trio.current_time())
            self.act()

    def on_answer_untrusted(self, peer: PeerId, answer: Answer) -> None:
        """A member told us how it stands."""
        if len(answer.spans) != len(self.spans):
            raise MessageInvalid("an answer has a wrong number of spans")
        for promise in answer.promises:
            self.check_promise_untrusted(promise)
        if answer.vote is not None and not self.ballot.knows_vote(peer):
            manifest.check_vote_untrusted(answer.vote, self.group_id, peer, len(self.spans))
        if answer.commit is not None and self.ballot.commit is None:
            self._check_commit_untrusted(answer.commit)
        self.ballot.on_answer(peer, answer, trio.current_time())
        self.act()

    def check_promise_untrusted(self, promise: Promise) -> None:
        """Raise MessageInvalid unless its member signed it."""
        if not self.ballot.knows_promise(promise):
            manifest.check_promise_untrusted(promise, self.group_id, self.members)

    def check_span_end_untrusted(self, end: SpanEnd, owner: int) -> None:
        """Raise MessageInvalid unless the span's aggregator signed it and it fits the group."""
        manifest.check_span_end_untrusted(
            end, self.group_id, self.aggregators, self.spans[owner], len(self.members)
        )

    def _check_commit_untrusted(self, commit: Commit) -> None:
        manifest.check_commit_untrusted(
            commit, self.group_id, self.members, len(self.spans), self._quorum_reached
        )

    # --- the rest --------------------------------------------------------------------------

    async def heavy(self, size_bytes: int, function: Callable[..., T], *args: Any) -> T:
        """Run numeric work on so many bytes: in a thread when it pays."""
        return await run_heavy(self.node, size_bytes, function, *args)

    async def digest_of(self, chunk: bytes) -> bytes:
        """BLAKE3 of a chunk."""
        return await self.heavy(len(chunk), _digest, chunk)

    def drop(self) -> None:
        """Free the bytes; what was agreed stays known."""
        self.held.clear()
        self.own_chunks.clear()
        self.incoming.clear()
        self.flat = self.flat[:0]
        self.ballot.on_dropped()
        for link in self.links.values():
            link.scope.cancel()


def _digest(chunk: bytes) -> bytes:
    return blake3(chunk).digest()
