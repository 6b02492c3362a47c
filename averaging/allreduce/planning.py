"""Planning: who takes over the pieces that nobody has, and who decides it (core).

The planner is the first voter that is there, aggregators before clients; if its plan does not come
for a while, the next one plans, too, and the higher number holds. The new owners are the
aggregators that are there, in turns.

    state       event                                       then
    calm        a piece is with nobody reachable            waiting: for those that come before us
    waiting     each of those had plan_patience_s           calm: our plan, signed
    waiting     another's plan, or the piece turns up       calm
    waiting     no quorum, no aggregator, or 32 plans made  hopeless: the ballot abandons the group
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, TypeVar

from averaging.allreduce.holdings import Holdings
from averaging.allreduce.schema import MEMBERS_MAX, PLAN_ROUNDS_MAX
from averaging.allreduce.tally import QuorumRule

Peer = TypeVar("Peer", bound=Hashable)


class Planning(Generic[Peer]):
    """Told by the ballot when pieces are nowhere, it says when we plan, and what."""

    def __init__(
        self,
        me: Peer,
        members: Sequence[Peer],
        voters: Sequence[Peer],
        aggregators: Sequence[Peer],
        quorum_reached: QuorumRule[Peer],
        patience_s: float,
    ) -> None:
        self._me = me
        self._members = tuple(members)
        self._voters = tuple(voters)
        self._aggregators = tuple(aggregators)
        self._quorum_reached = quorum_reached
        self._patience_s = patience_s
        self._since_s: float | None = None
        self.possible = True
        """Whether a quorum and an aggregator were left when it was last asked for."""
        self.turn_at_s: float | None = None
        """When it will be our turn to plan, if the others do not."""

    def on_hope(self) -> None:
        """No piece is with nobody any more."""
        self._since_s = self.turn_at_s = None

    def on_nowhere(
        self,
        pieces: Sequence[int],
        holdings: Holdings[Peer],
        *,
        reachable: Callable[[Peer], bool],
        lost: Callable[[Peer], bool],
        promised: Collection[Peer],
        now_s: float,
    ) -> tuple[int, tuple[int, ...]] | None:
        """The number and owners of our plan, or None while it is another's turn or hopeless."""
        owners = [
            owner
            for owner, peer in enumerate(self._aggregators)
            # We suspect ourselves when nobody contributes to what is ours.
            if not holdings.suspected(peer)
            and (peer == self._me or (reachable(peer) and not lost(peer)))
        ]
        alive = [
            peer
            for peer in self._voters
            if peer == self._me or (peer not in promised and not lost(peer))
        ]
        rounds = holdings.plan_number // MEMBERS_MAX
        quorum = self._quorum_reached(self._voters, alive)
        self.possible = bool(owners) and quorum and rounds < PLAN_ROUNDS_MAX
        if not self.possible:
            self.on_hope()
            return None
        planners = sorted(alive, key=lambda peer: peer not in self._aggregators)
        since_s = self._since_s = now_s if self._since_s is None else self._since_s
        self.turn_at_s = since_s + planners.index(self._me) * self._patience_s
        if now_s < self.turn_at_s:
            return None
        plan = list(holdings.owners)
        for turn, piece in enumerate(pieces):
            plan[piece] = owners[turn % len(owners)]
        number = (rounds + 1) * MEMBERS_MAX + self._members.index(self._me)
        return number, tuple(plan)
