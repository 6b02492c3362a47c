"""Couriers: to whom a member's vote and the certificate are sent, each once (core)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, TypeVar

from averaging.allreduce.outputs import SendCommit, SendVote
from averaging.allreduce.schema import Commit, Vote

Peer = TypeVar("Peer", bound=Hashable)


class Couriers(Generic[Peer]):
    """Votes go to the first aggregator that is not suspected; certificates to who waits for them.

    Args:
        send: told what to send.
    """

    def __init__(
        self,
        me: Peer,
        aggregators: Sequence[Peer],
        send: Callable[[SendVote[Peer] | SendCommit[Peer]], None],
    ) -> None:
        self._me = me
        self._aggregators = tuple(aggregators)
        self._send = send
        self._vote_sent_to: dict[Peer, None] = {}
        self._commit_wanted_by: dict[Peer, None] = {}

    def on_vote(self, voter: Peer) -> None:
        """A member's vote came to us: it waits for the certificate."""
        self._commit_wanted_by[voter] = None

    def send_vote(self, vote: Vote, suspected: Callable[[Peer], bool]) -> None:
        """Send our vote to the member that collects them now, unless it has it."""
        for peer in self._aggregators:
            if not suspected(peer):
                if peer != self._me and peer not in self._vote_sent_to:
                    self._vote_sent_to[peer] = None
                    self._send(SendVote(peer, vote))
                return

    def show_commit(self, commit: Commit | None, peers: Collection[Peer] = ()) -> None:
        """Send the certificate, if any, to these members and to those whose votes came to us."""
        if commit is None:
            return
        wanted = {**dict.fromkeys(peers), **self._commit_wanted_by}
        self._commit_wanted_by.clear()
        others = tuple(peer for peer in wanted if peer != self._me)
        if others:
            self._send(SendCommit(others, commit))
