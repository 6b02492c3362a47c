"""One member's part in the agreement of one group: when to vote, ask, fetch, give up (core).

    state       event                                            then
    OPEN        all pieces held                                  VOTED: one vote, for ever
    OPEN        a piece is lost; somebody reachable may get it   ask on; fetch it once they hold it
    OPEN        a piece is lost and with nobody reachable        planner: a plan with new owners
    OPEN        a newer plan                                     follow it: send, reduce, await anew
    OPEN        the same, but no quorum or no aggregator is left ABANDONED: a promise never to vote
    VOTED       nobody answers for a while, coordinator lost     ask everyone (answers bring votes)
    any         certificate, its pieces held                     success
    any         certificate, a piece of it lacking               fetch it from a holder
    any         votes and promises leave no quorum possible      failed, for certain
    any         deadline or cancellation                         undecided if VOTED, else failed

Success means holding exactly the bytes that a quorum voted for. Two quorums share a voter and a
voter signs once, so no two members succeed with different bits, whatever was planned or reduced
again. A certificate cannot come to be once promises and votes for other results block every
quorum: only then is a failure certain. Auxiliary members own pieces, but neither vote nor plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from averaging.allreduce.contacts import Contacts
from averaging.allreduce.holdings import Holdings
from averaging.allreduce.manifest import Pieces
from averaging.allreduce.outputs import (
    Action,
    Ask,
    End,
    FetchPiece,
    Follow,
    Hold,
    SendCommit,
    SendVote,
    Stand,
)
from averaging.allreduce.planning import Planning
from averaging.allreduce.schema import Answer, Commit, PieceStatus, Plan, Promise, Vote
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
    plan_patience_s: float = 1.0
    """How long a member waits for the plan of one that comes before it."""


@dataclass(frozen=True, kw_only=True)
class Signing:
    """How our words are signed; a vote and a promise never both in one group."""

    vote: Callable[[Pieces], Vote]
    promise: Callable[[], Promise]
    plan: Callable[[int, Sequence[int]], Plan]


class Ballot(Generic[Peer]):
    """See the table above; a late, repeated or unasked event does nothing.

    Args:
        members: in group order, auxiliary ones too.
        voters: those whose votes count, in group order.
        aggregators: in group order; the first that is not suspected collects votes.
        owners: for each piece, which aggregator averages it.
        askable: members that we can call; clients cannot call each other.
        quorum_reached: the group's quorum rule.
    """

    def __init__(
        self,
        *,
        me: Peer,
        members: Sequence[Peer],
        voters: Sequence[Peer],
        aggregators: Sequence[Peer],
        owners: Sequence[int],
        askable: Collection[Peer],
        signing: Signing,
        quorum_reached: QuorumRule[Peer],
        times: BallotTimes,
    ) -> None:
        self.stand = Stand.OPEN
        self.end: End | None = None
        self.commit: Commit | None = None
        self.vote: Vote | None = None
        self._me = me
        self._members = tuple(members)
        self._aggregators = tuple(aggregators)
        self._signing = signing
        self._times = times
        self._contacts = Contacts(
            [peer for peer in members if peer != me and peer in askable],
            interval_s=times.ask_interval_s,
            interval_s_max=times.ask_interval_s_max,
        )
        self._holdings = Holdings(owners, aggregators)
        self._planning = Planning(
            me, members, voters, aggregators, quorum_reached, times.plan_patience_s
        )
        self._votes = me in voters
        self._passes_on = False
        self._lost_senders: dict[Peer, None] = {}
        self._promises: dict[Peer, Promise] = {}
        self._gone: dict[Peer, None] = {}
        self._liars: dict[Peer, None] = {}
        self._tally = Tally(voters, quorum_reached)
        self._waiting_since_s: float | None = None
        self._preferring = False
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
        if self.end is not None:
            return None
        ask_from_s, due_at_s = self._ask_from_s(), self._contacts.due_at_s
        times = [] if self._planning.turn_at_s is None else [self._planning.turn_at_s]
        if ask_from_s is not None and due_at_s is not None:
            times.append(max(ask_from_s, due_at_s))
        return min(times, default=None)

    def answer(self, *, gone: bool = False) -> Answer:
        """What we say when asked."""
        return Answer(
            tuple(self._status(piece) for piece in range(len(self._holdings.owners))),
            self.vote,
            self.commit,
            tuple(self._promises.values()),
            gone,
            self._holdings.plan,
            self._follows,
        )

    @property
    def promise(self) -> Promise | None:
        """Our promise never to vote, if we have given it."""
        return self._promises.get(self._me)

    @property
    def plan(self) -> Plan | None:
        """The newest plan that we follow."""
        return self._holdings.plan

    @property
    def owners(self) -> tuple[int, ...]:
        """For each piece, which aggregator averages it by that plan."""
        return self._holdings.owners

    @property
    def liars(self) -> tuple[Peer, ...]:
        """Members that signed two things which exclude each other."""
        return tuple(self._liars)

    @property
    def lost(self) -> tuple[Peer, ...]:
        """Members that cannot be reached, have left or have lied; in group order."""
        return tuple(
            peer
            for peer in self._members
            if peer != self._me
            and (
                peer in self._gone
                or self._contacts.unreachable(
                    peer, suspected=self._holdings.suspected(peer) or peer in self._lost_senders
                )
            )
        )

    def knows_vote(self, peer: Peer, vote: Vote) -> bool:
        """Whether exactly this vote is known already, and need not be verified again."""
        return self._tally.vote_of(peer) == vote

    def knows_promise(self, promise: Promise) -> bool:
        """Whether this promise is known already, and need not be verified again."""
        return promise in self._promises.values()

    def wants(self, piece: int, digest: bytes) -> bool:
        """Whether on_piece() would take this version."""
        return self._holdings.digest_of(piece) is None or (
            piece in self._holdings.fetching and self._holdings.digest_of(piece) != digest
        )

    def wants_any(self, piece: int) -> bool:
        """Whether we hold no version of this piece."""
        return self._holdings.digest_of(piece) is None

    # --- events ----------------------------------------------------------------------------

    def on_piece(self, piece: int, digest: bytes, now_s: float) -> None:
        """We hold the whole piece, verified: from its owner, or fetched."""
        if self.wants(piece, digest):
            self._holdings.on_piece(piece, digest)
        self._decide(now_s)

    def on_suspect(
        self, peer: Peer, now_s: float, *, silent: bool = False, faulty: bool = False
    ) -> None:
        """The stream to an aggregator broke, or it has been silent, or said what it may not."""
        if faulty:
            self._gone[peer] = None
        self._holdings.on_suspect(peer)
        if silent:
            self._contacts.on_silent(peer)
        self._decide(now_s)

    def on_sender_lost(self, peer: Peer) -> None:
        """A member's stream to us broke or fell silent; its own pieces may yet come."""
        self._lost_senders[peer] = None

    def on_liar(self, peer: Peer) -> None:
        """There is proof that the member signed two things which exclude each other."""
        self._liars[peer] = None
        self._gone[peer] = None

    def on_plan(self, plan: Plan, now_s: float) -> None:
        """A plan came, already verified."""
        if self._follows and plan.number > self._holdings.plan_number:
            self._follow(plan)
        self._decide(now_s)

    def on_vote(self, voter: Peer, vote: Vote, now_s: float) -> None:
        """A member sent us its vote, already verified, and waits for the certificate."""
        self._commit_wanted_by[voter] = None
        self._count(voter, vote)
        self._decide(now_s)
        self._show_commit()

    def on_commit(self, commit: Commit, now_s: float) -> None:
        """A certificate came, already verified."""
        if self.commit is None:
            self.commit = commit
        self._decide(now_s)
        self._show_commit()

    def on_asked(
        self,
        peer: Peer,
        now_s: float,
        *,
        promise: Promise | None = None,
        gone: bool = False,
        plan: Plan | None = None,
    ) -> None:
        """A member asks us, and says how it stands; answer() is what it gets."""
        self._learn(peer, () if promise is None else (promise,), gone)
        if not self._votes and self.end is None:
            # Somebody is in trouble: what one member has may have to go through us.
            self._passes_on = True
            for piece in range(len(self._holdings.owners)):
                if self._holdings.digest_of(piece) is None:
                    self._holdings.on_lost(piece)
        if plan is not None:
            self.on_plan(plan, now_s)
        else:
            self._decide(now_s)

    def on_answer(self, peer: Peer, answer: Answer, now_s: float) -> None:
        """A member answered; its vote, promises, plan and certificate are already verified."""
        self._contacts.on_answer(peer, answer, now_s)
        self._learn(peer, answer.promises, answer.gone)
        if answer.vote is not None:
            self._count(peer, answer.vote)
        if answer.commit is not None and self.commit is None:
            self.commit = answer.commit
        if answer.plan is not None:
            self.on_plan(answer.plan, now_s)
        else:
            self._decide(now_s)

    def on_stranger(self, peer: Peer, now_s: float) -> None:
        """The member is there but knows no such group: it holds nothing, and is not lost."""
        lost = PieceStatus(int(Hold.LOST))
        self.on_answer(peer, Answer((lost,) * len(self._holdings.owners)), now_s)

    def on_no_answer(self, peer: Peer, now_s: float) -> None:
        """The member could not be asked, or said nothing that counts."""
        self._contacts.on_no_answer(peer, now_s)
        self._decide(now_s)

    def on_fetch_failed(self, peer: Peer, piece: int, now_s: float) -> None:
        """The member did not give us the piece."""
        if self._holdings.fetching.get(piece) == peer:
            del self._holdings.fetching[piece]
            self._contacts.on_fetch_failed(peer, piece, now_s)
        self._decide(now_s)

    def on_deadline(self, now_s: float) -> None:
        """deadline_s has come."""
        self._decide(now_s)

    def on_abort(self, reason: str) -> None:
        """An aggregator says that nobody can average its piece, so that nobody can vote."""
        # Whoever voted knows better.
        if self.end is None and self.stand is not Stand.VOTED:
            self._abandon()
            self._finish(End("failed", True, reason, hopeless=True))

    def on_give_up(self, reason: str) -> None:
        """Our step ends now, at its deadline or cancelled."""
        if self.end is None:
            if self.commit is not None and not self._votes:
                self._finish(End("success", True, ""))
                return
            if self.stand is Stand.OPEN:
                self._abandon()
            if self.commit is not None:
                reason = f"{reason}; the others agreed on a result that could not be fetched"
            undecided = self.stand is Stand.VOTED and self.commit is None
            self._finish(End("undecided" if undecided else "failed", False, reason))

    def on_dropped(self) -> None:
        """The bytes are gone; we can serve them no more."""
        self._holdings.clear()

    # --- decisions -------------------------------------------------------------------------

    @property
    def _follows(self) -> bool:
        """Whether a newer plan would change what we do."""
        return self.stand is Stand.OPEN and self.end is None and self.commit is None

    def _decide(self, now_s: float) -> None:
        self._certify()
        if self.end is not None:
            return
        if self.commit is None and self.stand is Stand.OPEN:
            self._vote_or_mend(now_s)
            self._certify()
        if self.commit is not None:
            self._decide_committed()
        elif self._tally.undecidable(tuple(self._promises)) and self._all_heard():
            self._finish(End("failed", True, self._why_blocked(), hopeless=not self._promises))
        elif self.stand is Stand.VOTED:
            self._send_vote()
        if self.end is None:
            self._ask_all(now_s)

    def _decide_committed(self) -> None:
        assert self.commit is not None
        # An auxiliary member needs no pieces, but in trouble clients get theirs through it.
        needs_none = not self._votes and not self._passes_on
        if needs_none or self._holdings.complete == self.commit.pieces:
            self._finish(End("success", True, ""))
            return
        for piece, digest in enumerate(self.commit.pieces):
            if self._holdings.digest_of(piece) not in (None, digest):
                # Its owner told us something else than the quorum, or a plan came between.
                self._holdings.drop(piece)
        for piece in self._holdings.lacking:
            self._want(piece, self.commit.pieces[piece])
        if self._holdings.complete == self.commit.pieces:
            self._finish(End("success", True, ""))

    def _vote_or_mend(self, now_s: float) -> None:
        """Vote when all is there; else see that what is lost comes from somebody."""
        complete, holdings = self._holdings.complete, self._holdings
        if complete is not None or self._only_helps():
            if self._votes and not self._prefers_another(complete or ()):
                self.vote = self._signing.vote(complete or ())
                self.stand = Stand.VOTED
                self._count(self._me, self.vote)
            if self._waiting_since_s is None:
                self._waiting_since_s = now_s
            if complete is not None:
                return
        lacking = holdings.lacking
        for piece in lacking:
            self._want(piece, None)
        nowhere = [
            piece
            for piece in lacking
            if piece not in holdings.fetching
            and self._contacts.nobody_has(piece, holdings.plan_number, rumours=True)
        ]
        if not self._votes:
            return
        if not nowhere:
            self._planning.on_hope()
            return
        plan = self._planning.on_nowhere(
            nowhere,
            holdings,
            reachable=self._contacts.known_reachable,
            lost=lambda peer: self._contacts.known_unreachable(peer) or peer in self._gone,
            promised=tuple(self._promises),
            now_s=now_s,
        )
        if plan is not None:
            self._follow(self._signing.plan(*plan))
        elif not self._planning.possible:
            self._abandon()
            # The promise is worth something only to those who hear of it.
            self._contacts.hurry(now_s)

    def _only_helps(self) -> bool:
        """Whether we are auxiliary and have averaged what is ours."""
        owned = self._holdings.owned_by(self._me)
        return not self._votes and all(self._holdings.digest_of(p) is not None for p in owned)

    def _prefers_another(self, complete: Pieces) -> bool:
        """Whether others voted for a result that we can still get; then we wait for it."""
        leading, plan = self._tally.leading(), self._holdings.plan_number
        self._preferring = leading not in (None, complete)
        if leading is None or not self._preferring:
            return False
        others = [piece for piece, digest in enumerate(leading) if digest != complete[piece]]
        for piece in others:
            self._want(piece, leading[piece])
        self._preferring = all(
            piece in self._holdings.fetching
            or not self._contacts.nobody_has(piece, plan, rumours=True, digest=leading[piece])
            for piece in others
        )
        return self._preferring

    def _follow(self, plan: Plan) -> None:
        changed = self._holdings.on_plan(plan)
        self._planning.on_hope()
        self._actions.append(Follow(plan, changed))

    def _abandon(self) -> None:
        self.stand = Stand.ABANDONED
        if self._votes:
            self._promises[self._me] = self._signing.promise()

    def _want(self, piece: int, digest: bytes | None) -> None:
        """Fetch a piece from a member that holds it; any digest will do for None."""
        if piece in self._holdings.fetching:
            return
        holder = self._contacts.holder_of(piece, digest, self._holdings.plan_number)
        if holder is not None:
            self._holdings.fetching[piece] = holder[0]
            self._actions.append(FetchPiece(holder[0], piece, holder[1]))

    def _ask_from_s(self) -> float | None:
        """From when on everyone must be asked; None while the fault-free path suffices."""
        if self.end is not None:
            return None
        if self._preferring and self.stand is Stand.OPEN:
            return _AT_ONCE
        if self._holdings.lacking:
            return _AT_ONCE
        if self.commit is not None:
            return None
        if self._promises or self._tally.undecidable(()):
            return _AT_ONCE
        if self._waiting_since_s is not None:
            return self._waiting_since_s + self._times.vote_patience_s
        return None

    def _ask_all(self, now_s: float) -> None:
        ask_from_s = self._ask_from_s()
        if ask_from_s is None or now_s < ask_from_s:
            return
        self._actions.extend(Ask(peer) for peer in self._contacts.due(now_s))

    # --- votes and promises ----------------------------------------------------------------

    def _count(self, voter: Peer, vote: Vote) -> None:
        if not self._tally.count(voter, vote):
            self.on_liar(voter)

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

    def _all_heard(self) -> bool:
        """Whether those whose votes are not ours had the chance to show what they were given."""
        if self.vote is None:
            return True
        return all(
            self._contacts.shown_vote(peer) or not self._contacts.can_ask(peer)
            for peer in self._members
            if (vote := self._tally.vote_of(peer)) is not None
            and peer != self._me
            and vote.pieces != self.vote.pieces
        )

    def _send_vote(self) -> None:
        assert self.vote is not None
        for peer in self._aggregators:
            if not self._holdings.suspected(peer):
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

    def _status(self, piece: int) -> PieceStatus:
        holdings = self._holdings
        digest = holdings.digest_of(piece)
        if digest is not None:
            return PieceStatus(int(Hold.HELD), digest)
        if self.end is not None:
            return PieceStatus(int(Hold.LOST))
        if piece in holdings.fetching or piece not in holdings.lacking:
            return PieceStatus(int(Hold.COMING))
        seeking = self.stand is Stand.OPEN or self.commit is not None
        if seeking and not self._contacts.nobody_has(piece, holdings.plan_number, rumours=False):
            return PieceStatus(int(Hold.RUMOUR))
        return PieceStatus(int(Hold.LOST))

    def _finish(self, end: End) -> None:
        self.end = end
        self._actions.append(end)

    def _why_blocked(self) -> str:
        if self._liars:
            return "a member signed two different things"
        if not self._promises:
            return "the members voted for different results"
        if not self._holdings.lacking:
            return "too many members gave up"
        return "too few members are left to average what was lost"
