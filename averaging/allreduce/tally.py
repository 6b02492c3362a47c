"""Tally: the votes one member knows of, and the certificate that a quorum of them makes (core)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, TypeVar

from averaging.allreduce.manifest import Spans
from averaging.allreduce.schema import Commit, Vote

Peer = TypeVar("Peer", bound=Hashable)

QuorumRule = Callable[[Sequence[Peer], Collection[Peer]], bool]


class Tally(Generic[Peer]):
    """The first vote of each voter, all verified before they come here."""

    def __init__(self, voters: Sequence[Peer], quorum_reached: QuorumRule[Peer]) -> None:
        self._voters = tuple(voters)
        self._quorum_reached = quorum_reached
        self._votes: dict[Peer, Vote] = {}

    def knows(self, voter: Peer) -> bool:
        """Whether this voter's vote has been counted."""
        return voter in self._votes

    def count(self, voter: Peer, vote: Vote) -> None:
        """Count a vote; a voter's second one is ignored."""
        self._votes.setdefault(voter, vote)

    def certificate(self) -> Commit | None:
        """The proof that a quorum voted for the same spans, or None."""
        for spans in dict.fromkeys(vote.spans for vote in self._votes.values()):
            agreed = [peer for peer in self._voters if self._voted_for(peer, spans)]
            if self._quorum_reached(self._voters, agreed):
                return Commit(
                    spans,
                    tuple(self._voters.index(peer) for peer in agreed),
                    tuple(self._votes[peer].signature for peer in agreed),
                )
        return None

    def _voted_for(self, peer: Peer, spans: Spans) -> bool:
        vote = self._votes.get(peer)
        return vote is not None and vote.spans == spans
