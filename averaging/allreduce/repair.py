"""Repair: how one member gets the pieces that were lost on their way to it (core).

It asks those that may hold a lost piece, fetches it once somebody does, says the same of its own
pieces when asked, and when a piece is with nobody, plans who averages it again, or waits for the
plan of another. Whether and for what the member votes is the ballot's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, TypeVar

from averaging.allreduce.config import BallotTimes
from averaging.allreduce.contacts import Contacts
from averaging.allreduce.holdings import Holdings
from averaging.allreduce.manifest import Pieces
from averaging.allreduce.outputs import FetchPiece, Follow, Hold
from averaging.allreduce.planning import Planning
from averaging.allreduce.schema import Answer, PieceStatus, Plan
from averaging.allreduce.tally import QuorumRule

Peer = TypeVar("Peer", bound=Hashable)


class Repair(Generic[Peer]):
    """What the ballot knows of pieces; its parts are open to the ballot.

    Args:
        fetch: told to fetch a piece.
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
        quorum_reached: QuorumRule[Peer],
        times: BallotTimes,
        fetch: Callable[[FetchPiece[Peer]], None],
    ) -> None:
        self.contacts = Contacts(
            [peer for peer in members if peer != me and peer in askable],
            interval_s=times.ask_interval_s,
            interval_s_max=times.ask_interval_s_max,
        )
        self.holdings = Holdings(owners, aggregators)
        self.planning = Planning(
            me, members, voters, aggregators, quorum_reached, times.plan_patience_s
        )
        self.preferring = False
        """Whether we wait for a result that others voted for, though we hold one."""
        self._me = me
        self._members = tuple(members)
        self._fetch = fetch
        self._lost_senders: dict[Peer, None] = {}

    def wants(self, piece: int, digest: bytes) -> bool:
        """Whether this version of the piece would be taken."""
        held = self.holdings.digest_of(piece)
        return held is None or (piece in self.holdings.fetching and held != digest)

    def averaged_ours(self) -> bool:
        """Whether we hold all that is ours to average."""
        holdings = self.holdings
        return all(holdings.digest_of(piece) is not None for piece in holdings.owned_by(self._me))

    def lost(self, gone: Collection[Peer]) -> tuple[Peer, ...]:
        """Members that cannot be reached, or are gone; in group order."""
        holdings, contacts = self.holdings, self.contacts
        return tuple(
            peer
            for peer in self._members
            if peer != self._me
            and (
                peer in gone
                or contacts.unreachable(
                    peer, suspected=holdings.suspected(peer) or peer in self._lost_senders
                )
            )
        )

    def on_suspect(self, peer: Peer, *, silent: bool, slow: bool) -> None:
        """Nothing more comes from this aggregator's stream."""
        self.holdings.on_suspect(peer)
        if silent:
            self.contacts.on_silent(peer)
        if slow:
            self.contacts.on_slow(peer)

    def on_sender_lost(self, peer: Peer) -> None:
        """A member's stream to us broke or fell silent; its own pieces may yet come."""
        self._lost_senders[peer] = None

    def on_answer(self, peer: Peer, answer: Answer, now_s: float) -> None:
        """A member answered."""
        self.contacts.on_answer(peer, answer, now_s)
        followed = answer.plan.number if answer.plan is not None else 0
        if not answer.open and followed < self.holdings.plan_number:
            # It voted before it heard of the plan, so it averages nothing by it.
            for piece in self.holdings.owned_by(peer):
                self.holdings.on_lost(piece)

    def on_fetch_failed(self, peer: Peer, piece: int, now_s: float) -> None:
        """The member did not give us the piece."""
        if self.holdings.fetching.get(piece) == peer:
            del self.holdings.fetching[piece]
            self.contacts.on_fetch_failed(peer, piece, now_s)

    def lose_all(self) -> None:
        """Get whatever we lack from anybody, whether its owner is well or not."""
        for piece in range(len(self.holdings.owners)):
            if self.holdings.digest_of(piece) is None:
                self.holdings.on_lost(piece)

    def take(self, agreed: Pieces) -> bool:
        """Get the agreed pieces from whoever holds them; whether all are held."""
        # What is agreed on is not planned anew, so no turn of ours to plan stays due. And it may be
        # our own link that was slow.
        self.planning.on_hope()
        self.contacts.forgive_slowness(len(agreed))
        if self.holdings.complete == agreed:
            return True
        for piece, digest in enumerate(agreed):
            if self.holdings.digest_of(piece) not in (None, digest):
                # Its owner told us something else than the quorum, or a plan came between.
                self.holdings.drop(piece)
        for piece in self.holdings.lacking:
            self._want(piece, agreed[piece])
        return self.holdings.complete == agreed

    def too_late(self, agreed: Pieces) -> bool:
        """Whether an agreed piece that we lack was let go, and nobody who is there has it."""
        # Who cannot be reached may yet come back with a piece; while nobody has let go of it, that
        # is worth waiting for.
        return any(
            piece not in self.holdings.fetching
            and self.contacts.let_go(piece, agreed[piece])
            and self._nobody_has(piece, rumours=True, digest=agreed[piece])
            for piece in self.holdings.lacking
        )

    def mend(self) -> list[int]:
        """Fetch lost pieces from members that hold them; returns those that are with nobody."""
        lacking = self.holdings.lacking
        for piece in lacking:
            self._want(piece, None)
        return [
            piece
            for piece in lacking
            if piece not in self.holdings.fetching and self._nobody_has(piece, rumours=True)
        ]

    def plan(
        self, nowhere: Sequence[int], gone: Collection[Peer], promised: Sequence[Peer], now_s: float
    ) -> tuple[int, tuple[int, ...]] | None:
        """The number and owners of our plan for these pieces, or None; see Planning."""
        return self.planning.on_nowhere(
            nowhere,
            self.holdings,
            reachable=self.contacts.known_reachable,
            lost=lambda peer: self.contacts.known_unreachable(peer) or peer in gone,
            promised=promised,
            now_s=now_s,
        )

    def follow(self, plan: Plan) -> Follow:
        """A newer plan holds."""
        changed = self.holdings.on_plan(plan)
        self.planning.on_hope()
        return Follow(plan, changed)

    def prefers(self, leading: Pieces | None, complete: Pieces) -> bool:
        """Whether others voted for a result that we can still get; then we wait for it.

        Args:
            leading: what most others voted for, as far as we know.
            complete: what we hold; empty at an auxiliary member that lacks pieces.
        """
        self.preferring = leading not in (None, complete)
        if leading is None or not self.preferring:
            return False
        others = [piece for piece, digest in enumerate(leading) if digest != complete[piece]]
        for piece in others:
            self._want(piece, leading[piece])
        self.preferring = all(
            piece in self.holdings.fetching
            or not self._nobody_has(piece, rumours=True, digest=leading[piece])
            for piece in others
        )
        return self.preferring

    def statuses(self, *, ended: bool, seeking: bool) -> tuple[PieceStatus, ...]:
        """How we stand to each piece, for those who ask.

        Args:
            ended: whether we do nothing more in this group.
            seeking: whether we would take a piece from whoever holds it.
        """
        return tuple(
            self._status(piece, ended, seeking) for piece in range(len(self.holdings.owners))
        )

    def _status(self, piece: int, ended: bool, seeking: bool) -> PieceStatus:
        holdings = self.holdings
        digest = holdings.digest_of(piece)
        if digest is not None:
            return PieceStatus(int(Hold.HELD), digest)
        if ended:
            return PieceStatus(int(Hold.LOST))
        if piece in holdings.fetching or piece not in holdings.lacking:
            return PieceStatus(int(Hold.COMING))
        if seeking and not self._nobody_has(piece, rumours=False):
            return PieceStatus(int(Hold.RUMOUR))
        return PieceStatus(int(Hold.LOST))

    def _nobody_has(self, piece: int, *, rumours: bool, digest: bytes | None = None) -> bool:
        number = self.holdings.plan_number
        return self.contacts.nobody_has(piece, number, rumours=rumours, digest=digest)

    def _want(self, piece: int, digest: bytes | None) -> None:
        """Fetch a piece from a member that holds it; any digest will do for None."""
        if piece in self.holdings.fetching:
            return
        holder = self.contacts.holder_of(piece, digest, self.holdings.plan_number)
        if holder is not None:
            self.holdings.fetching[piece] = holder[0]
            self._fetch(FetchPiece(holder[0], piece, holder[1]))
