"""Tally: the votes and promises one member knows of, and the certificate of a quorum (core)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, TypeVar

from averaging.allreduce.manifest import Pieces
from averaging.allreduce.schema import Commit, Promise, Vote

Peer = TypeVar("Peer", bound=Hashable)

QuorumRule = Callable[[Sequence[Peer], Collection[Peer]], bool]


class Tally(Generic[Peer]):
    """The first vote of each voter, all verified before they come here.

    Args:
        tolerated_liars: voters that may vote for several results, or though they promised not to.
    """

    def __init__(
        self, voters: Sequence[Peer], quorum_reached: QuorumRule[Peer], tolerated_liars: int = 0
    ) -> None:
        self._voters = tuple(voters)
        self._quorum_reached = quorum_reached
        self._tolerated_liars = tolerated_liars
        self._votes: dict[Peer, Vote] = {}
        self._judged: tuple[int, int] | None = None
        self._undecidable = False
        self.promises: dict[Peer, Promise] = {}
        """Of voters that will never vote."""

    def vote_of(self, voter: Peer) -> Vote | None:
        """The voter's vote, if it is known."""
        return self._votes.get(voter)

    def count(self, voter: Peer, vote: Vote) -> bool:
        """Count a vote; a voter's second one is not, and False if it is for something else."""
        return self._votes.setdefault(voter, vote).pieces == vote.pieces

    def certificate(self) -> Commit | None:
        """The proof that a quorum voted for the same pieces, or None."""
        if not self._quorum_reached(self._voters, self._votes):
            return None
        for pieces in self._manifests():
            agreed = self._voted_for(pieces)
            if self._quorum_reached(self._voters, agreed):
                return Commit(
                    pieces,
                    tuple(self._voters.index(peer) for peer in agreed),
                    tuple(self._votes[peer].signature for peer in agreed),
                )
        return None

    def leading(self) -> Pieces | None:
        """What most of the known votes are for."""
        counts = Counter(vote.pieces for vote in self._votes.values())
        return max(sorted(counts), key=counts.__getitem__, default=None)

    def knows_promise(self, promise: Promise) -> bool:
        """Whether this promise is known already, and need not be verified again."""
        return promise in self.promises.values()

    def against(self, ours: Vote | None) -> list[Peer]:
        """Voters that voted for something else than we did."""
        if ours is None:
            return []
        votes = self._votes
        return [p for p in self._voters if p in votes and votes[p].pieces != ours.pieces]

    def undecidable(self) -> bool:
        """Whether no quorum can come to be, whatever those do who have said nothing."""
        said = len(self._votes), len(self.promises)
        # It is asked after every event, and nothing that was said is ever taken back.
        if said != self._judged:
            self._judged, self._undecidable = said, not self._decidable()
        return self._undecidable

    def _decidable(self) -> bool:
        manifests = self._manifests()
        if not self.promises and len(manifests) <= 1:
            # As nearly always: all may still vote for the same.
            return self._quorum_reached(self._voters, self._voters)
        unknown = [p for p in self._voters if p not in self._votes and p not in self.promises]
        chances = [*map(self._voted_for, manifests), []]
        return any(self._possible([*votes, *unknown]) for votes in chances)

    def _possible(self, votes: list[Peer]) -> bool:
        """Whether these votes, and those that liars may add, commit."""
        others = [p for p in self._voters if p not in votes] if self._tolerated_liars else []
        return self._quorum_reached(self._voters, [*votes, *others[: self._tolerated_liars]])

    def why_blocked(self, liars: Collection[Peer], *, lacking: bool) -> str:
        """Why no quorum can come to be, in words.

        Args:
            lacking: whether a lost piece has not been found.
        """
        if liars:
            return "a member signed two different things"
        if not self.promises:
            return "the members voted for different results"
        if not lacking:
            return "too many members gave up"
        return "too few members are left to average what was lost"

    def _manifests(self) -> list[Pieces]:
        return list(dict.fromkeys(vote.pieces for vote in self._votes.values()))

    def _voted_for(self, pieces: Pieces) -> list[Peer]:
        votes = self._votes
        return [peer for peer in self._voters if peer in votes and votes[peer].pieces == pieces]
