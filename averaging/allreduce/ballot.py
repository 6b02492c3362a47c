"""One member's part in the agreement of one group: when to vote, ask, fetch, give up (core).

    state       event                                            then
    OPEN        all spans held                                   VOTED: one vote, for ever
    OPEN        a span is lost; somebody reachable may get it    ask on; fetch it once they hold it
    OPEN        a span is lost; nobody reachable can have it     ABANDONED: a promise never to vote
    VOTED       nobody answers for a while, coordinator lost     ask everyone (answers bring votes)
    any         certificate, its spans held                      success
    any         certificate, a span of it lacking                fetch it from a holder
    not VOTED   the abandoned block every quorum                 failed, for certain: try again
    VOTED       the same                                         failed, for certain
    any         deadline or cancellation                         undecided if VOTED, else failed

Success means holding exactly the bytes that a quorum voted for. Two quorums share a voter and a
voter signs once, so no two members succeed with different bits. A certificate cannot come to be
once those who promised not to vote block every quorum: only then is a failure certain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from averaging.allreduce.contacts import Contacts
from averaging.allreduce.manifest import Spans
from averaging.allreduce.outputs import (
    Action,
    Ask,
    End,
    FetchSpan,
    Hold,
    SendCommit,
    SendVote,
    Stand,
)
from averaging.allreduce.schema import Answer, Commit, Promise, SpanStatus, Vote
from averaging.allreduce.tally import QuorumRule, Tally

Peer = TypeVar("Peer", bound=Hashable)

_AT_ONCE = float("-inf")


@dataclass(frozen=True, kw_only=True)
class BallotTimes:
    """How patient a member is."""

    ask_interval_s: float = 0.1
    """First pause before asking the same member again; it doubles with each question."""
    ask_interval_s_max: float = 1.0
    """The longest such pause."""
    vote_patience_s: float = 1.0
    """A voter without a certificate for so long asks everyone itself."""


class Ballot(Generic[Peer]):
    """See the table above; a late, repeated or unasked event does nothing.

    Args:
        members: all voters in group order.
        aggregators: who owns span 0, 1, …; the first that is not suspected collects votes.
        askable: members that we can call; clients cannot call each other.
        sign_vote: makes our one vote.
        sign_promise: makes our promise not to vote; never both.
        quorum_reached, blocking: the group's quorum rule.
    """

    def __init__(
        self,
        *,
        me: Peer,
        members: Sequence[Peer],
        aggregators: Sequence[Peer],
        askable: Collection[Peer],
        sign_vote: Callable[[Spans], Vote],
        sign_promise: Callable[[], Promise],
        quorum_reached: QuorumRule[Peer],
        blocking: QuorumRule[Peer],
        times: BallotTimes,
    ) -> None:
        self.stand = Stand.OPEN
        self.end: End | None = None
        self.commit: Commit | None = None
        self.vote: Vote | None = None
        self._me = me
        self._members = tuple(members)
        self._aggregators = tuple(aggregators)
        self._sign_vote = sign_vote
        self._sign_promise = sign_promise
        self._blocking = blocking
        self._times = times
        self._contacts = Contacts(
            [peer for peer in members if peer != me and peer in askable],
            interval_s=times.ask_interval_s,
            interval_s_max=times.ask_interval_s_max,
        )
        self._held: dict[int, bytes] = {}
        self._lost_spans: dict[int, None] = {}
        self._fetching: dict[int, Peer] = {}
        self._suspects: dict[Peer, None] = {}
        self._lost_senders: dict[Peer, None] = {}
        self._promises: dict[Peer, Promise] = {}
        self._gone: dict[Peer, None] = {}
        self._tally = Tally(members, quorum_reached)
        self._voted_at_s: float | None = None
        self._vote_sent_to: dict[Peer, None] = {}
        self._commit_wanted_by: dict[Peer, None] = {}
        self._actions: list[Action[Peer]] = []

    # --- what the service asks -------------------------------------------------------------

    def next_actions(self) -> tuple[Action[Peer], ...]:
        """What to do now; each action is given once."""
        actions, self._actions = tuple(self._actions), []
        return actions

    @property
    def deadline_s(self) -> float | None:
        """When on_deadline() is due; None for never."""
        ask_from_s, due_at_s = self._ask_from_s(), self._contacts.due_at_s
        return None if ask_from_s is None or due_at_s is None else max(ask_from_s, due_at_s)

    def answer(self, *, gone: bool = False) -> Answer:
        """What we say when asked."""
        spans = tuple(self._status(owner) for owner in range(len(self._aggregators)))
        return Answer(spans, self.vote, self.commit, tuple(self._promises.values()), gone)

    @property
    def promise(self) -> Promise | None:
        """Our promise never to vote, if we have given it."""
        return self._promises.get(self._me)

    @property
    def lost(self) -> tuple[Peer, ...]:
        """Members that cannot be reached, or have left; in group order."""
        return tuple(
            peer
            for peer in self._members
            if peer != self._me
            and (
                peer in self._gone
                or self._contacts.unreachable(
                    peer, suspected=peer in self._suspects or peer in self._lost_senders
                )
            )
        )

    def knows_vote(self, peer: Peer) -> bool:
        """Whether this member's vote is known already, and need not be verified again."""
        return self._tally.knows(peer)

    def knows_promise(self, promise: Promise) -> bool:
        """Whether this promise is known already, and need not be verified again."""
        return promise in self._promises.values()

    def wants(self, owner: int) -> bool:
        """Whether on_span() would take this span."""
        return owner not in self._held

    # --- events ----------------------------------------------------------------------------

    def on_span(self, owner: int, digest: bytes, now_s: float) -> None:
        """We hold the whole span, verified: from its aggregator, or fetched."""
        self._held.setdefault(owner, digest)
        self._fetching.pop(owner, None)
        self._decide(now_s)

    def on_suspect(
        self, peer: Peer, now_s: float, *, silent: bool = False, faulty: bool = False
    ) -> None:
        """The stream to an aggregator broke, or it has been silent, or said what it may not."""
        if faulty:
            self._gone[peer] = None
        self._suspects[peer] = None
        self._lost_spans[self._aggregators.index(peer)] = None
        if silent:
            self._contacts.on_silent(peer)
        self._decide(now_s)

    def on_sender_lost(self, peer: Peer) -> None:
        """A member's stream to us broke or fell silent; its own span may yet come."""
        self._lost_senders[peer] = None

    def on_vote(self, voter: Peer, vote: Vote, now_s: float) -> None:
        """A member sent us its vote, already verified, and waits for the certificate."""
        self._commit_wanted_by[voter] = None
        self._tally.count(voter, vote)
        self._decide(now_s)
        self._show_commit()

    def on_commit(self, commit: Commit, now_s: float) -> None:
        """A certificate came, already verified."""
        if self.commit is None:
            self.commit = commit
        self._decide(now_s)
        self._show_commit()

    def on_asked(self, peer: Peer, promise: Promise | None, gone: bool, now_s: float) -> None:
        """A member asks us, and says how it stands; answer() is what it gets."""
        self._learn(peer, () if promise is None else (promise,), gone)
        self._decide(now_s)

    def on_answer(self, peer: Peer, answer: Answer, now_s: float) -> None:
        """A member answered; its vote, promises and certificate are already verified."""
        self._contacts.on_answer(peer, answer, now_s)
        self._learn(peer, answer.promises, answer.gone)
        if answer.vote is not None:
            self._tally.count(peer, answer.vote)
        if answer.commit is not None and self.commit is None:
            self.commit = answer.commit
        self._decide(now_s)

    def on_stranger(self, peer: Peer, now_s: float) -> None:
        """The member is there but knows no such group: it holds nothing, and is not lost."""
        lost = SpanStatus(int(Hold.LOST))
        self.on_answer(peer, Answer((lost,) * len(self._aggregators)), now_s)

    def on_no_answer(self, peer: Peer, now_s: float) -> None:
        """The member could not be asked, or said nothing that counts."""
        self._contacts.on_no_answer(peer, now_s)
        self._decide(now_s)

    def on_fetch_failed(self, peer: Peer, owner: int, now_s: float) -> None:
        """The member did not give us the span."""
        if self._fetching.get(owner) == peer:
            del self._fetching[owner]
            self._contacts.on_fetch_failed(peer, owner, now_s)
        self._decide(now_s)

    def on_deadline(self, now_s: float) -> None:
        """deadline_s has come."""
        self._decide(now_s)

    def on_abort(self, reason: str) -> None:
        """An aggregator says that nobody can average its span, so that nobody can vote."""
        # Whoever voted knows better.
        if self.end is None and self.stand is not Stand.VOTED:
            self._abandon()
            self._finish(End("failed", True, reason, hopeless=True))

    def on_give_up(self, reason: str) -> None:
        """Our step ends now, at its deadline or cancelled."""
        if self.end is None:
            if self.stand is Stand.OPEN:
                self._abandon()
            if self.commit is not None:
                reason = f"{reason}; the others agreed on a result that could not be fetched"
            undecided = self.stand is Stand.VOTED and self.commit is None
            self._finish(End("undecided" if undecided else "failed", False, reason))

    def on_dropped(self) -> None:
        """The bytes are gone; we can serve them no more."""
        self._held.clear()

    # --- decisions -------------------------------------------------------------------------

    def _decide(self, now_s: float) -> None:
        self._certify()
        if self.end is not None:
            return
        if self.commit is None and self.stand is Stand.OPEN:
            self._vote_or_abandon(now_s)
            self._certify()
        if self.commit is not None:
            self._want_spans(self.commit.spans)
            if all(self._held.get(k) == digest for k, digest in enumerate(self.commit.spans)):
                self._finish(End("success", True, ""))
                return
        elif self._blocking(self._members, tuple(self._promises)):
            self._finish(End("failed", True, self._why_blocked()))
            return
        elif self.stand is Stand.VOTED:
            self._send_vote()
        self._ask_all(now_s)

    def _vote_or_abandon(self, now_s: float) -> None:
        count = len(self._aggregators)
        if len(self._held) == count:
            spans = tuple(self._held[owner] for owner in range(count))
            self.vote = self._sign_vote(spans)
            self.stand = Stand.VOTED
            self._voted_at_s = now_s
            self._tally.count(self._me, self.vote)
            return
        lacking = [owner for owner in self._lost_spans if owner not in self._held]
        for owner in lacking:
            self._want_span(owner, None)
        hopeless = any(
            owner not in self._fetching and self._contacts.nobody_has(owner, rumours=True)
            for owner in lacking
        )
        if hopeless or self._blocking(self._members, tuple(self._promises)):
            self._abandon()
            # The promise is worth something only to those who hear of it.
            self._contacts.hurry(now_s)

    def _abandon(self) -> None:
        self.stand = Stand.ABANDONED
        self._promises[self._me] = self._sign_promise()

    def _want_spans(self, spans: Spans) -> None:
        """See that every span of the certificate comes, from its aggregator or from a holder."""
        for owner, digest in enumerate(spans):
            if self._held.get(owner, digest) != digest:
                # Its aggregator told us something else than the quorum.
                del self._held[owner]
                self._lost_spans[owner] = None
            if owner not in self._held and owner in self._lost_spans:
                self._want_span(owner, digest)

    def _want_span(self, owner: int, digest: bytes | None) -> None:
        """Fetch a span from a member that holds it; any digest will do for None."""
        if owner in self._fetching:
            return
        holder = self._contacts.holder_of(owner, digest)
        if holder is not None:
            self._fetching[owner] = holder[0]
            self._actions.append(FetchSpan(holder[0], owner, holder[1]))

    def _ask_from_s(self) -> float | None:
        """From when on everyone must be asked; None while the fault-free path suffices."""
        if self.end is not None:
            return None
        if any(owner not in self._held for owner in self._lost_spans):
            return _AT_ONCE
        if self.commit is not None:
            return None
        if self._promises:
            return _AT_ONCE
        if self._voted_at_s is not None:
            return self._voted_at_s + self._times.vote_patience_s
        return None

    def _ask_all(self, now_s: float) -> None:
        ask_from_s = self._ask_from_s()
        if ask_from_s is None or now_s < ask_from_s:
            return
        self._actions.extend(Ask(peer) for peer in self._contacts.due(now_s))

    # --- votes and promises ----------------------------------------------------------------

    def _learn(self, peer: Peer, promises: Sequence[Promise], gone: bool) -> None:
        for promise in promises:
            self._promises.setdefault(self._members[promise.member], promise)
        if gone:
            self._gone[peer] = None

    def _certify(self) -> None:
        if self.commit is None:
            self.commit = self._tally.certificate()
            if self.commit is not None:
                self._show_commit(self._members)

    def _send_vote(self) -> None:
        assert self.vote is not None
        for peer in self._aggregators:
            if peer not in self._suspects:
                if peer != self._me and peer not in self._vote_sent_to:
                    self._vote_sent_to[peer] = None
                    self._actions.append(SendVote(peer, self.vote))
                return

    def _show_commit(self, peers: Collection[Peer] = ()) -> None:
        """Send the certificate to these members and to those whose votes came to us."""
        if self.commit is not None:
            wanted = {**dict.fromkeys(peers), **self._commit_wanted_by}
            self._commit_wanted_by.clear()
            others = tuple(peer for peer in wanted if peer != self._me)
            if others:
                self._actions.append(SendCommit(others, self.commit))

    def _status(self, owner: int) -> SpanStatus:
        if owner in self._held:
            return SpanStatus(int(Hold.HELD), self._held[owner])
        if self.end is not None:
            return SpanStatus(int(Hold.LOST))
        if owner in self._fetching or owner not in self._lost_spans:
            return SpanStatus(int(Hold.COMING))
        seeking = self.stand is Stand.OPEN or self.commit is not None
        if seeking and not self._contacts.nobody_has(owner, rumours=False):
            return SpanStatus(int(Hold.RUMOUR))
        return SpanStatus(int(Hold.LOST))

    def _finish(self, end: End) -> None:
        self.end = end
        self._actions.append(end)

    def _why_blocked(self) -> str:
        if not self._lost_spans:
            return "too many members gave up"
        return "the averages of lost members are with nobody"
