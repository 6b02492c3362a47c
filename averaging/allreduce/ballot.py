"""One member's part in the agreement of one group: when to vote, ask, fetch, give up (core).

    state       event                                            then
    OPEN        all pieces held                                  VOTED: one vote, for ever
    OPEN        all held, others voted for what can be fetched   wait for that, fetch it
    OPEN        a piece is lost; somebody reachable may get it   ask on; fetch it once they hold it
    OPEN        a piece is lost and with nobody reachable        the planner plans new owners
    OPEN        a newer plan                                     follow it: send, reduce, await anew
    OPEN        a piece with nobody, no quorum or owner is left  ABANDONED: a promise never to vote
    OPEN        nobody can average a piece, as its owner says    failed, for certain; a promise
    VOTED       nobody answers for a while, coordinator lost     ask everyone (answers bring votes)
    ABANDONED   as long as others may still vote                 ask everyone, tell the promise
    any         certificate, its pieces held                     success
    any         certificate, a piece of it lacking               fetch it from a holder
    any         the same, its holders have let it go             failed: the others are ahead
    any         votes and promises leave no quorum possible      failed, for certain
    VOTED       deadline or cancellation, no certificate seen    undecided
    any         any other deadline or cancellation               failed; if OPEN, with a promise

Success means holding exactly the bytes that a quorum voted for. Two quorums share a voter and a
voter signs once, so no two members succeed with different bits, whatever was planned or reduced
again. A certificate cannot come to be once promises and votes for other results block every
quorum: only then is a failure certain. Auxiliary members own pieces, but neither vote nor plan.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Generic, TypeVar

from averaging.allreduce.config import BallotTimes
from averaging.allreduce.couriers import Couriers
from averaging.allreduce.manifest import Signing
from averaging.allreduce.outputs import Action, Ask, End, Hold, Stand
from averaging.allreduce.repair import Repair
from averaging.allreduce.schema import Answer, Commit, PieceStatus, Plan, Promise, Vote
from averaging.allreduce.tally import QuorumRule, Tally

Peer = TypeVar("Peer", bound=Hashable)

_AT_ONCE = float("-inf")


class Ballot(Generic[Peer]):
    """See the table above; a late, repeated or unasked event does nothing.

    Args:
        members: in group order, auxiliary ones too.
        voters: those whose votes count, in group order.
        aggregators: in group order; the first that is not suspected collects votes.
        owners: for each piece, which aggregator averages it.
        askable: members that we can call; clients cannot call each other.
        quorum_reached: the group's quorum rule.
        tolerated_liars: voters whose second votes and broken promises it stands.
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
        tolerated_liars: int = 0,
    ) -> None:
        self.stand = Stand.OPEN
        self.end: End | None = None
        self.commit: Commit | None = None
        self.vote: Vote | None = None
        self._me = me
        self._members = tuple(members)
        self._signing = signing
        self._times = times
        self._actions: list[Action[Peer]] = []
        self._repair = Repair(
            me=me,
            members=members,
            voters=voters,
            aggregators=aggregators,
            owners=owners,
            askable=askable,
            quorum_reached=quorum_reached,
            times=times,
            fetch=lambda wanted: self._actions.append(wanted),
        )
        self._contacts, self.holdings = self._repair.contacts, self._repair.holdings
        self._couriers = Couriers(me, aggregators, lambda action: self._actions.append(action))
        self._votes = me in voters
        self._passes_on = False
        self._gone: dict[Peer, None] = {}
        self._liars: dict[Peer, None] = {}
        self.tally = Tally(voters, quorum_reached, tolerated_liars)
        self._waiting_since_s: float | None = None
        self._planned_at_s = _AT_ONCE

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
        turn_at_s = self._repair.planning.turn_at_s
        ask_from_s, due_at_s = self._ask_from_s(), self._contacts.due_at_s
        times = [] if turn_at_s is None else [turn_at_s]
        if ask_from_s is not None and due_at_s is not None:
            times.append(max(ask_from_s, due_at_s))
        return min(times, default=None)

    def answer(self, *, gone: bool = False) -> Answer:
        """What we say when asked."""
        ended, seeking = self.end is not None, self.stand is Stand.OPEN or self.commit is not None
        return Answer(
            self._repair.statuses(ended=ended, seeking=seeking),
            self.vote,
            self.commit,
            tuple(self.tally.promises.values()),
            gone,
            self.holdings.plan,
            self._follows,
        )

    @property
    def promise(self) -> Promise | None:
        """Our promise never to vote, if we have given it."""
        return self.tally.promises.get(self._me)

    @property
    def plan(self) -> Plan | None:
        """The newest plan that we follow."""
        return self.holdings.plan

    @property
    def liars(self) -> tuple[Peer, ...]:
        """Members that signed two things which exclude each other."""
        return tuple(self._liars)

    @property
    def lost(self) -> tuple[Peer, ...]:
        """Members that cannot be reached, have left or have lied; in group order."""
        return self._repair.lost(self._gone)

    def wants(self, piece: int, digest: bytes) -> bool:
        """Whether on_piece() would take this version."""
        return self._repair.wants(piece, digest)

    # --- events ----------------------------------------------------------------------------

    def on_piece(self, piece: int, digest: bytes, now_s: float) -> None:
        """We hold the whole piece, verified: from its owner, or fetched."""
        if self.wants(piece, digest):
            self.holdings.on_piece(piece, digest)
        self._decide(now_s)

    def on_missed(self, piece: int, now_s: float) -> None:
        """Its owner sent a part of the piece while, by an older plan, we awaited another's."""
        self.holdings.on_lost(piece)
        self._decide(now_s)

    def on_suspect(
        self,
        peer: Peer,
        now_s: float,
        *,
        silent: bool = False,
        faulty: bool = False,
        slow: bool = False,
    ) -> None:
        """An aggregator's stream broke, or it is silent or slow, or said what it may not."""
        if faulty:
            self._gone[peer] = None
        self._repair.on_suspect(peer, silent=silent, slow=slow)
        self._decide(now_s)

    def on_sender_lost(self, peer: Peer) -> None:
        """A member's stream to us broke or fell silent; its own pieces may yet come."""
        self._repair.on_sender_lost(peer)

    def on_liar(self, peer: Peer) -> None:
        """There is proof that the member signed two things which exclude each other."""
        self._liars[peer] = None
        self._gone[peer] = None

    def on_plan(self, plan: Plan | None, now_s: float) -> None:
        """A plan came, already verified; None for none."""
        if plan is not None and self._follows and plan.number > self.holdings.plan_number:
            self._follow(plan, now_s)
        self._decide(now_s)

    def on_vote(self, voter: Peer, vote: Vote, now_s: float) -> None:
        """A member sent us its vote, already verified, and waits for the certificate."""
        self._couriers.on_vote(voter)
        self._count(voter, vote)
        self._decide(now_s)
        self._couriers.show_commit(self.commit)

    def on_commit(self, commit: Commit, now_s: float) -> None:
        """A certificate came, already verified."""
        if self.commit is None:
            self.commit = commit
        self._decide(now_s)
        self._couriers.show_commit(self.commit)

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
            self._repair.lose_all()
        self.on_plan(plan, now_s)

    def on_answer(self, peer: Peer, answer: Answer, now_s: float) -> None:
        """A member answered; its vote, promises, plan and certificate are already verified."""
        self._repair.on_answer(peer, answer, now_s)
        self._learn(peer, answer.promises, answer.gone)
        if answer.vote is not None:
            self._count(peer, answer.vote)
        if answer.commit is not None and self.commit is None:
            self.commit = answer.commit
        self.on_plan(answer.plan, now_s)

    def on_stranger(self, peer: Peer, now_s: float) -> None:
        """The member is there but knows no such group: it holds nothing, and is not lost."""
        lost = PieceStatus(int(Hold.LOST))
        self.on_answer(peer, Answer((lost,) * len(self.holdings.owners)), now_s)

    def on_no_answer(self, peer: Peer, now_s: float) -> None:
        """The member could not be asked, or said nothing that counts."""
        self._contacts.on_no_answer(peer, now_s)
        self._decide(now_s)

    def on_fetch_failed(self, peer: Peer, piece: int, now_s: float) -> None:
        """The member did not give us the piece."""
        self._repair.on_fetch_failed(peer, piece, now_s)
        self._decide(now_s)

    def on_deadline(self, now_s: float) -> None:
        """deadline_s has come."""
        self._decide(now_s)

    def on_abort(self, reason: str) -> None:
        """An aggregator says that nobody can average its piece, so that nobody can vote."""
        # Whoever voted, or knows that a quorum did, knows better.
        if self.end is None and self.commit is None and self.stand is not Stand.VOTED:
            self._abandon()
            self._finish(End("failed", True, reason, hopeless=True))

    def on_give_up(self, reason: str) -> None:
        """Our step ends now, at its deadline or cancelled."""
        if self.end is None:
            late = "the others agreed on a result that could not be fetched in time"
            self._give_up(reason if self.commit is None else late)

    def on_dropped(self) -> None:
        """The bytes are gone; we can serve them no more."""
        self.holdings.clear()

    # --- decisions -------------------------------------------------------------------------

    @property
    def _follows(self) -> bool:
        """Whether a newer plan would change what we do."""
        # Who promised not to vote may be an owner by the plan, and others may vote.
        return self.stand is not Stand.VOTED and self.end is None and self.commit is None

    def _decide(self, now_s: float) -> None:
        self._certify()
        if self.end is not None:
            return
        if self.commit is None and self.stand is Stand.OPEN:
            self._vote_or_mend(now_s)
            self._certify()
        if self.commit is not None:
            # An auxiliary member needs no pieces, but in trouble clients get theirs through it.
            needed = self._votes or self._passes_on
            if self.holdings.plan is not None:
                # The owners may have got what was agreed from elsewhere, and average no more.
                self._repair.lose_all()
            if not needed or self._repair.take(self.commit.pieces):
                self._finish(End("success", True, ""))
            elif self._repair.too_late(self.commit.pieces):
                self._give_up("the others agreed on a result, and who held it has let it go")
        elif self.tally.undecidable() and self._contacts.heard(self.tally.against(self.vote)):
            why = self.tally.why_blocked(self._liars, lacking=bool(self.holdings.lacking))
            # Without those who gave up, or lied, it may go better.
            hopeless = not (self.tally.promises or self._liars)
            self._finish(End("failed", True, why, hopeless))
        elif self.stand is Stand.VOTED:
            assert self.vote is not None
            self._couriers.send_vote(self.vote, self.holdings.suspected)
        if self.end is None:
            self._ask_all(now_s)

    def _vote_or_mend(self, now_s: float) -> None:
        """Vote when all is there; else see that what is lost comes from somebody."""
        complete = self.holdings.complete
        only_helps = not self._votes and self._repair.averaged_ours()
        if complete is not None or only_helps:
            leading = self.tally.leading()
            if self._votes and not self._repair.prefers(leading, complete or ()):
                self.vote = self._signing.vote(complete or ())
                self.stand = Stand.VOTED
                self._count(self._me, self.vote)
            if self._waiting_since_s is None:
                self._waiting_since_s = now_s
        nowhere = self._repair.mend()
        if not self._votes:
            return
        if not nowhere:
            self._repair.planning.on_hope()
            return
        plan = self._repair.plan(nowhere, self._gone, tuple(self.tally.promises), now_s)
        if plan is not None:
            self._follow(self._signing.plan(*plan), now_s)
        elif not self._repair.planning.possible:
            self._abandon()
            # The promise is worth something only to those who hear of it.
            self._contacts.hurry(now_s)

    def _follow(self, plan: Plan, now_s: float) -> None:
        self._planned_at_s = now_s
        self._actions.append(self._repair.follow(plan))

    def _give_up(self, reason: str) -> None:
        if self.commit is not None and not self._votes:
            self._finish(End("success", True, ""))
            return
        if self.stand is Stand.OPEN:
            self._abandon()
        undecided = self.stand is Stand.VOTED and self.commit is None
        self._finish(End("undecided" if undecided else "failed", False, reason))

    def _abandon(self) -> None:
        self.stand = Stand.ABANDONED
        if self._votes:
            self.tally.promises[self._me] = self._signing.promise()

    def _ask_from_s(self) -> float | None:
        """From when on everyone must be asked; None while the fault-free path suffices."""
        if self.end is not None:
            return None
        prefers = self._repair.preferring and self.stand is Stand.OPEN
        if prefers or self.holdings.lacking:
            return _AT_ONCE
        if self.commit is not None:
            return None
        if self.tally.promises or self.tally.undecidable():
            return _AT_ONCE
        if self.holdings.plan is not None and self.holdings.complete is None:
            # The new owners may have voted before they heard of the plan.
            return self._planned_at_s + self._times.vote_patience_s
        if self._waiting_since_s is not None:
            return self._waiting_since_s + self._times.vote_patience_s
        return None

    def _ask_all(self, now_s: float) -> None:
        ask_from_s = self._ask_from_s()
        if ask_from_s is not None and now_s >= ask_from_s:
            self._actions.extend(Ask(peer) for peer in self._contacts.due(now_s))

    def _count(self, voter: Peer, vote: Vote) -> None:
        if not self.tally.count(voter, vote):
            self.on_liar(voter)

    def _learn(self, peer: Peer, promises: Sequence[Promise], gone: bool) -> None:
        for promise in promises:
            self.tally.promises.setdefault(self._members[promise.member], promise)
        if gone:
            self._gone[peer] = None

    def _certify(self) -> None:
        if self.commit is None:
            self.commit = self.tally.certificate()
            if self.commit is not None:
                self._couriers.show_commit(self.commit, self._members)

    def _finish(self, end: End) -> None:
        self.end = end
        self._actions.append(end)
