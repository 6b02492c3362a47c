"""Who has joined a leader, whom it still misses, and whether the group may close."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from averaging.matchmaking.group import Join, blocking
from averaging.round_id import RoundId
from p2p import PeerId


@dataclass(frozen=True)
class Joined:
    """A member that waits for us to close the group."""

    call_id: int
    join: Join
    arrived_at_s: float


class Elsewhere(Enum):
    """Where a peer is instead of here."""

    FOLLOWING = "following"  # it follows another leader, whose group is open
    CLOSED = "closed"  # its group for this round is closed


class Roster:
    """What one peer knows of who comes, who is elsewhere, and who does not come in a round."""

    def __init__(self, own: PeerId, round_id: RoundId) -> None:
        self.joined: dict[PeerId, Joined] = {}
        self.elsewhere: dict[PeerId, Elsewhere] = {}
        self.other_rounds: dict[PeerId, RoundId] = {}
        self.absent: dict[PeerId, None] = {}
        """Peers that cannot be reached or do not answer, and leaders that were passed over."""
        self.idle: dict[PeerId, None] = {}
        """Leaders that were passed over since they are there, but have not begun the round."""
        self.unfit: dict[PeerId, str] = {}
        """Peers whose spec differs, and in what."""
        self.other_buckets: dict[PeerId, str] = {}
        """Peers that are elsewhere in the grid."""
        self.coming: dict[PeerId, None] = {}
        """Peers that were told of our round, and come again for it."""
        self._own = own
        self._round = round_id

    def on_shown(self, peer: PeerId) -> None:
        """A peer showed that it looks for a group in this round."""
        self.elsewhere.pop(peer, None)
        self.other_rounds.pop(peer, None)
        self.absent.pop(peer, None)
        self.idle.pop(peer, None)
        self.other_buckets.pop(peer, None)
        self.coming.pop(peer, None)

    def by_call(self, call_id: int) -> PeerId | None:
        """The member that joined with this call."""
        return next((peer for peer, entry in self.joined.items() if entry.call_id == call_id), None)

    def missing(self, expected: Sequence[PeerId]) -> list[PeerId]:
        """Those of the expected that have not joined, and of whom we know no reason."""
        return [
            peer
            for peer in expected
            if peer != self._own
            and peer not in self.joined
            and peer not in self.absent
            and peer not in self.idle
            and peer not in self.unfit
            and peer not in self.other_rounds
            and self.elsewhere.get(peer) is not Elsewhere.CLOSED
        ]

    def to_invite(self, expected: Sequence[PeerId]) -> list[PeerId]:
        """The missing that do not know yet that we are here."""
        return [peer for peer in self.missing(expected) if peer not in self.coming]

    def others_alive(self, expected: Sequence[PeerId]) -> list[PeerId]:
        """Everyone else who, as far as we know, is alive and of our kind."""
        peers = dict.fromkeys((*expected, *self.joined, *self.elsewhere, *self.other_rounds))
        return [
            peer
            for peer in peers
            if peer != self._own and peer not in self.absent and peer not in self.unfit
        ]

    def mostly_elsewhere(self, expected: Sequence[PeerId]) -> bool:
        """Whether at least half of those alive are in another group or round: we would fork."""
        alive = self.others_alive(expected)
        elsewhere = sum(1 for peer in alive if peer in self.elsewhere or self._is_ahead(peer))
        return elsewhere > 0 and 2 * elsewhere >= len(alive) + 1

    def left_behind(self, expected: Sequence[PeerId]) -> RoundId | None:
        """The round that the others are in, when it is they who are ahead of us.

        Half of those alive, ourselves included, must be in later rounds; or most must build on
        another parent (exactly half, if theirs is the smaller digest: one side has to yield).
        """
        ahead = [seen for peer, seen in self.other_rounds.items() if self._is_ahead(peer)]
        alive_count = len(self.others_alive(expected)) + 1
        if ahead and 2 * len(ahead) >= alive_count:
            return _most_common(ahead)
        forked = [seen for seen in self.other_rounds.values() if seen.number == self._round.number]
        if not forked:
            return None
        most = _most_common(forked)
        if 2 * len(forked) > alive_count:
            return most
        yields = most.parent < self._round.parent
        return most if 2 * len(forked) == alive_count and yields else None

    def _is_ahead(self, peer: PeerId) -> bool:
        seen = self.other_rounds.get(peer)
        return seen is not None and seen.number > self._round.number

    def last_arrival_s(self, since_s: float) -> float:
        """How long after this moment the last member came."""
        return max((entry.arrived_at_s - since_s for entry in self.joined.values()), default=0.0)

    def unblocked_previous(
        self,
        own_join: Join,
        voters_of: Callable[[bytes], Sequence[PeerId]],
        tolerated_liars: int = 0,
    ) -> list[bytes]:
        """Failed groups named by members that could, for all we know, still succeed.

        A group is out of the way when those of its voters that are here and promised never to
        vote in it leave the others without a quorum.
        """
        joins = [own_join, *(entry.join for entry in self.joined.values())]
        open_groups = []
        for previous in dict.fromkeys(join.previous for join in joins if join.previous):
            abandoned = [
                join.peer_id for join in joins if join.previous == previous and join.abandoned
            ]
            voters = voters_of(previous)
            if not voters or not blocking(voters, abandoned, tolerated_liars):
                open_groups.append(previous)
        return open_groups

    def common_previous(self, own_join: Join) -> bytes:
        """The failed group that this one replaces: our own, else the one most members name."""
        if own_join.previous:
            return own_join.previous
        named = [entry.join.previous for entry in self.joined.values() if entry.join.previous]
        return max(sorted(named), key=named.count) if named else b""


def _most_common(rounds: list[RoundId]) -> RoundId:
    return max(sorted(rounds), key=lambda seen: (rounds.count(seen), seen))
