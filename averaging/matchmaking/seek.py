"""One search for a group, from find_group() to a group or a reason.

    phase      event                                    -> phase (action)
    OPEN       a candidate before us may be asked       -> ASKING (Ask)
               all are here | full | window passed      -> DONE (GROUP to all, Found)
    ASKING     WAIT, ready                              -> FOLLOWING (REDIRECT those who joined us)
               GROUP                                    -> DONE (Found)
               REDIRECT | REFUSE | lost | silent
               | not ready within the window            -> OPEN (that peer is put off)
    FOLLOWING  GROUP                                    -> DONE (Found)
               REDIRECT | REFUSE | lost | silent        -> OPEN (that peer is put off)
    any        deadline | others are in a later round   -> DONE (GaveUp with the reason)

OPEN and ASKING take JOINs in, FOLLOWING sends them on to its leader: whoever waits, waits for a
peer that waits for nobody. OPEN and no better peer means leading. Members that are missing are
invited each half second, by which two leaders that did not know of each other find out.

This file holds the state, the phases and others' JOINs; what the asked peer says is in asking,
invitations are in inviting, and when a group closes is in closing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from averaging.matchmaking import buckets, closing, schema
from averaging.matchmaking.group import Group, Join, join_on_wire
from averaging.matchmaking.invitation import invitation, invited
from averaging.matchmaking.outputs import Answer, Ask, Found, GaveUp, Output, Withdraw
from averaging.matchmaking.ranking import Ranking
from averaging.matchmaking.request import SeekRequest, Surroundings
from averaging.matchmaking.roster import Joined, Roster
from averaging.round_id import RoundId
from p2p import PeerId

LEADER_SILENCE_S: Final = 1.5
"""A leader says WAIT three times in this time; whoever says nothing is passed over."""
WAIT_INTERVAL_S: Final = 0.5
_BUCKET_WAIT_S: Final = 1.5
_INVITE_DELAY_S: Final = 0.25
_INVITE_INTERVAL_S: Final = 0.5
# An answer that quick takes nothing from the time our own members have to come.
_QUICK_ANSWER_S: Final = 0.25


class Phase(Enum):
    """See the table above."""

    OPEN = "open"
    ASKING = "asking"
    FOLLOWING = "following"
    DONE = "done"


@dataclass
class Asked:
    """The peer that we asked to lead us."""

    ticket: int
    peer_id: PeerId
    at_s: float
    heard_at_s: float
    ready: bool = False
    obstacle: str = ""
    """Why it cannot close its group, as it says."""
    doubted: bool = False
    """Whether it was due to be passed over once; it is at a second look."""


class Seek:
    """The state of one search; the matcher feeds it and takes its outputs."""

    def __init__(self, around: Surroundings, request: SeekRequest, now_s: float) -> None:
        self.around = around
        self.request = request
        self.phase = Phase.OPEN
        self.outputs: list[Output] = []
        self.asked: Asked | None = None
        self.started_at_s = now_s
        self.open_since_s = now_s
        self.window_s_min = _BUCKET_WAIT_S if request.bucket else 0.0
        """The shortest wait for our members: others may need so long to pass over a leader, or to
        find out that we are in their bucket of the grid."""
        self.polled = False
        """Whether the strangers' records were read since the start."""
        self._wait_due_s = now_s + WAIT_INTERVAL_S
        self._invite_due_s = now_s + _INVITE_DELAY_S
        self.invitations = 0
        """How often members that are missing were invited."""
        self._begin(request.round, now_s)

    def _begin(self, round_id: RoundId, now_s: float) -> None:
        around = self.around
        self.round = round_id
        self.own_join = around.make_join(round_id, self.request, None)
        self.roster = Roster(around.own, round_id)
        self.rivals: dict[PeerId, None] = {}
        """Peers that lead this round though we come before them."""
        lapsed = (*around.acquaintances.ranked_last, *self.request.lost)
        self.ranking = Ranking(
            around.own, round_id.parent, can_lead=around.can_lead, ranked_last=lapsed
        )
        self.ranking.add(self.expected(now_s))

    def adopt_round(self, round_id: RoundId, now_s: float) -> None:
        """Others are in a later round, and we follow: start over in theirs."""
        self.leave_asked(now_s)
        for entry in self.roster.joined.values():
            self.refuse(entry.call_id, "other-round", "its leader went on", round_id)
        self._begin(round_id, now_s)
        self.open_since_s = now_s

    def expected(self, now_s: float) -> tuple[PeerId, ...]:
        """Whom we look out for."""
        return buckets.expected(self, now_s)

    # --- others' JOINs ------------------------------------------------------------------------

    def on_joins(self, joins: Iterable[tuple[int, Join, bool]], now_s: float) -> None:
        """Peers of our spec, some of which follow, ask us to lead them: all are heard first."""
        calls = []
        for call_id, join, follows in joins:
            self._hear(call_id, join, now_s, follows=follows)
            calls.append(call_id)
        self.step(now_s)
        if self.phase in (Phase.OPEN, Phase.ASKING):
            for entry in self.roster.joined.values():
                if entry.call_id in calls:
                    self.outputs.append(Answer(entry.call_id, self._wait(now_s)))

    def _hear(self, call_id: int, join: Join, now_s: float, *, follows: bool) -> None:
        peer = join.peer_id
        if join.round != self.round:
            self.on_other_round(peer, join.round, now_s, follows=follows)
        if join.round != self.round:
            self.refuse(call_id, "other-round", "", self.round)
            return
        self.on_shown(peer, join.addresses)
        self.around.acquaintances.on_role(peer, client=join.role == "client")
        older = self.roster.joined.pop(peer, None)
        if older is not None:
            self.refuse(older.call_id, "not-looking", "you joined again since")
        if self.phase is Phase.FOLLOWING and self.asked is not None:
            leader = self.asked.peer_id
            addresses = self.around.acquaintances.addresses_of(leader)
            self.outputs.append(Answer(call_id, schema.Redirect(leader, addresses)))
        elif not self.around.can_lead:
            self.refuse(call_id, "client", "it cannot be dialed")
        elif (
            peer in self.request.lost and self.request.previous and closing.spares_lost(self, now_s)
        ):
            self.refuse(call_id, "lost-last-round", "it was lost in the attempt before")
        elif self.size() >= self.around.config.group_size_max:
            self.refuse(call_id, "full", f"{self.size()} members")
        else:
            if closing.held_up(self, now_s):
                # Those for whom it waited beyond its window come together.
                self.open_since_s = now_s
            self.roster.joined[peer] = Joined(call_id, join, now_s)

    def on_join_left(self, call_id: int, now_s: float) -> None:
        """A member broke off its JOIN: it died, or found us too slow and went elsewhere."""
        peer = self.roster.by_call(call_id)
        if peer is not None:
            del self.roster.joined[peer]
            # Ask at once: a dead peer is unreachable, one alive says where it went.
            self.outputs.append(invitation(self, peer))
            self.step(now_s)

    # --- what we hear of others ---------------------------------------------------------------

    def on_shown(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """A peer showed that it is alive and looks for a group in our round."""
        self.around.acquaintances.on_addresses(peer, addresses)
        self.roster.on_shown(peer)
        self.ranking.on_shown(peer)

    def learn_leader(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Somebody said that this peer leads."""
        if peer == self.around.own:
            return
        self.around.acquaintances.on_addresses(peer, addresses)
        self.ranking.add((peer,))
        if self.around.can_lead and not self.ranking.better(peer, self.around.own):
            self.rivals[peer] = None

    def on_other_round(
        self, peer: PeerId, round_id: RoundId, now_s: float, *, follows: bool = False
    ) -> None:
        """A peer is in another round: follow it there, or remember that, unless it follows us."""
        round_id = buckets.comparable(self, round_id)
        if self.request.follow and round_id > self.round and not self.request.bucket:
            self.adopt_round(round_id, now_s)
        elif round_id != self.round:
            older = self.roster.joined.pop(peer, None)
            if older is not None:
                self.refuse(older.call_id, "other-round", "", self.round)
            self.roster.on_shown(peer)
            if follows and round_id < self.round and not self.request.bucket:
                self.roster.coming[peer] = None
            else:
                self.roster.other_rounds[peer] = round_id
            self.ranking.put_off(peer, f"is in another round ({round_id})")

    def on_unfit(self, peer: PeerId, difference: str, now_s: float) -> None:
        """A peer of another spec wants to join us: it need not be waited for."""
        self.roster.unfit[peer] = difference
        self.ranking.put_off(peer, difference, final=True)
        self.step(now_s)

    def on_candidates(self, unfit: Mapping[PeerId, str], now_s: float) -> None:
        """The strangers' records were read; some have other tensors."""
        self.polled = True
        self.roster.unfit.update(unfit)
        buckets.note_later(self, now_s)
        self.ranking.add(self.expected(now_s))
        self.step(now_s)

    # --- the decision -------------------------------------------------------------------------

    def step(self, now_s: float) -> None:
        """Decide what to do next; called after every event."""
        if self.phase is Phase.DONE:
            return
        behind = buckets.left_behind(self, now_s)
        if behind is not None and self.request.follow and self.request.bucket:
            self.adopt_round(behind, now_s)
        elif behind is not None:
            self.give_up(closing.reason_behind(self, behind), now_s, behind)
            return
        if now_s >= self.request.deadline_s:
            self.give_up(closing.reason_no_group(self, now_s), now_s)
            return
        if self.phase is Phase.FOLLOWING:
            return
        best = self._best_candidate(now_s)
        if self.asked is not None:
            # It may be a while until it begins the round: only news is a reason to leave it.
            if best is None or not self.ranking.better(best, self.asked.peer_id):
                return
            self.leave_asked(now_s)
        if best is not None:
            self._ask(best, now_s)
        elif closing.closes(self, now_s) and (lineup := closing.lineup(self)).most_are_in:
            group, answers = closing.close(self, lineup, now_s)
            self.outputs.extend(answers)
            self._finish(Found(group))
        elif closing.hopeless(self, now_s):
            self.give_up(closing.reason_no_group(self, now_s), now_s)

    def _best_candidate(self, now_s: float) -> PeerId | None:
        is_client = self.around.acquaintances.is_client
        while True:
            best = self.ranking.best(
                now_s, besides=self.roster.joined, fresh=self.asked is not None
            )
            if best is None or not is_client(best):
                return best
            self.ranking.put_off(best, "cannot be dialed, so it cannot lead", final=True)

    def _ask(self, peer: PeerId, now_s: float) -> None:
        ticket = self.around.next_ticket()
        self.asked = Asked(ticket, peer, now_s, now_s)
        self.phase = Phase.ASKING
        known = self.around.acquaintances
        voters = known.voters_of(self.request.previous)
        join = join_on_wire(self.own_join)
        request = schema.JoinRequest(join, tuple(voters), self.request.follow)
        self.outputs.append(Ask(ticket, peer, known.addresses_of(peer), request))

    def follow(self) -> None:
        """The asked peer leads: send whoever joined us on to it."""
        assert self.asked is not None
        if self.phase is Phase.ASKING:
            self.phase = Phase.FOLLOWING
            leader = self.asked.peer_id
            redirect = schema.Redirect(leader, self.around.acquaintances.addresses_of(leader))
            self._answer_all(redirect)

    def leave_asked(self, now_s: float, *, answered: bool = False) -> None:
        """We do not wait for the asked peer any longer; answered: its call has ended by itself."""
        asked, self.asked = self.asked, None
        if asked is None:
            return
        if not answered:
            self.outputs.append(Withdraw(asked.ticket))
        if (asked.ready or not answered) and now_s - asked.at_s > _QUICK_ANSWER_S:
            # Our own members start to come only now: those who waited with us for that peer.
            self.open_since_s = now_s
            self._invite_due_s = now_s + _INVITE_DELAY_S
        if self.phase is not Phase.DONE:
            self.phase = Phase.OPEN

    def _pass_over(self, peer: PeerId, reason: str, now_s: float) -> None:
        """The asked peer does not lead, nor is it waited for; those who asked it too may come."""
        self.ranking.put_off(peer, reason)
        self.window_s_min = LEADER_SILENCE_S
        self.leave_asked(now_s)

    def give_up(self, reason: str, now_s: float, behind: RoundId | None = None) -> None:
        """End without a group."""
        refusals = closing.refusals(self)
        self.leave_asked(now_s)
        self._answer_all(schema.Refuse("not-looking", "it gave up the search"))
        self._finish(GaveUp(reason, behind, refusals))

    def join_group(self, group: Group) -> None:
        """The asked peer took us into its group; who joined us meanwhile came too late."""
        self._answer_all(schema.Refuse("closed", "its group for this round is formed already"))
        self._finish(Found(group))

    def _finish(self, outcome: Found | GaveUp) -> None:
        self.asked = None
        self.phase = Phase.DONE
        self.outputs.append(outcome)

    # --- time ---------------------------------------------------------------------------------

    def on_deadline(self, now_s: float) -> None:
        """Time has passed: pass over who is silent, decide, say WAIT, invite."""
        asked = self.asked
        if asked is not None and now_s >= asked.heard_at_s + LEADER_SILENCE_S:
            self.around.acquaintances.on_silent(asked.peer_id)
            self.ranking.rank_last(asked.peer_id)
            self.roster.absent[asked.peer_id] = None
            self._pass_over(asked.peer_id, f"was silent for {LEADER_SILENCE_S:g} s", now_s)
        elif asked is not None and not asked.ready and now_s >= self.patience_ends_s(asked):
            self.roster.idle[asked.peer_id] = None
            self._pass_over(asked.peer_id, "did not begin the round in time", now_s)
        self.step(now_s)
        if now_s >= self._wait_due_s and self.phase is not Phase.DONE:
            self._wait_due_s = now_s + WAIT_INTERVAL_S
            for entry in self.roster.joined.values():
                self.outputs.append(Answer(entry.call_id, self._wait(now_s)))
        if now_s >= self._invite_due_s and self.phase is Phase.OPEN:
            self._invite_due_s = now_s + _INVITE_INTERVAL_S
            for peer in invited(self, now_s):
                self.outputs.append(invitation(self, peer))

    def deadline_s(self, now_s: float) -> float:
        """When on_deadline is due; in the past if it is overdue."""
        times = [self.request.deadline_s]
        asked = self.asked
        if asked is not None:
            times.append(asked.heard_at_s + LEADER_SILENCE_S)
            if not asked.ready:
                times.append(self.patience_ends_s(asked))
        if self.roster.joined:
            times.append(self._wait_due_s)
        # What these decide was decided already where they are past.
        moments: list[float] = []
        if self.phase is Phase.OPEN:
            times.append(self._invite_due_s)
            moments.extend(closing.times_s(self, now_s))
        if self.phase is not Phase.FOLLOWING:
            moments.append(self.ranking.next_retry_s(now_s))
        return min(*times, *(time_s for time_s in moments if time_s > now_s))

    def patience_ends_s(self, asked: Asked) -> float:
        """Until when the asked peer may begin the round."""
        # Whoever leads in its place needs time too.
        half_s = (self.request.deadline_s - asked.at_s) / 2
        return asked.at_s + min(self.around.config.join_window_s, half_s)

    # --- words --------------------------------------------------------------------------------

    def size(self) -> int:
        """Members so far, ourselves included."""
        return 1 + len(self.roster.joined)

    def voter_count(self) -> int:
        """Members so far that contribute, and so vote."""
        joins = (self.own_join, *(entry.join for entry in self.roster.joined.values()))
        return sum(1 for join in joins if join.role != "aux")

    def refuse(
        self,
        call_id: int,
        code: schema.RefusalCode,
        message: str,
        round_id: RoundId | None = None,
    ) -> None:
        """Answer a JOIN with no."""
        on_wire = schema.round_on_wire(round_id) if round_id is not None else None
        self.outputs.append(Answer(call_id, schema.Refuse(code, message, on_wire)))

    def _answer_all(self, message: schema.LeaderMessage) -> None:
        for entry in self.roster.joined.values():
            self.outputs.append(Answer(entry.call_id, message))
        self.roster.joined.clear()

    def _wait(self, now_s: float) -> schema.Wait:
        missing = self.roster.missing(self.expected(now_s))
        return schema.Wait(True, self.size(), len(missing), closing.obstacle(self, now_s))
