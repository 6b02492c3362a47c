"""What a ballot asks its service to do, and how members stand to a group and to its pieces."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Generic, TypeVar

from averaging.allreduce.schema import Commit, Plan, Vote
from averaging.report import Outcome

Peer = TypeVar("Peer", bound=Hashable)


class Stand(Enum):
    """How a member stands in a group."""

    OPEN = "open"
    VOTED = "voted"
    ABANDONED = "abandoned"
    """It promised never to vote in this group."""


class Hold(IntEnum):
    """How a member stands to a piece; the numbers are on the wire."""

    COMING = 0
    """Its aggregator's stream is well, or the piece is being fetched."""
    HELD = 1
    LOST = 2
    RUMOUR = 3
    """Lost here, but somebody whom this member asks may have it."""


@dataclass(frozen=True)
class Ask(Generic[Peer]):
    """Ask this member how it stands; on_answer() or on_no_answer() must follow."""

    peer: Peer


@dataclass(frozen=True)
class FetchPiece(Generic[Peer]):
    """Fetch a piece from this member; on_piece() or on_fetch_failed() must follow."""

    peer: Peer
    piece: int
    digest: bytes


@dataclass(frozen=True)
class Follow:
    """A newer plan holds: send parts to the new owners, reduce what is ours now, pass it on."""

    plan: Plan
    changed: tuple[int, ...]
    """The pieces that have another owner now."""


@dataclass(frozen=True)
class SendVote(Generic[Peer]):
    """Send the vote to this aggregator."""

    peer: Peer
    vote: Vote


@dataclass(frozen=True)
class SendCommit(Generic[Peer]):
    """Show these members the certificate."""

    peers: tuple[Peer, ...]
    commit: Commit


@dataclass(frozen=True)
class End:
    """The attempt is over for this member."""

    outcome: Outcome
    certain: bool
    """Nobody can succeed any more (failed), or everybody may (success)."""
    reason: str
    hopeless: bool = False
    """The same members would fail again."""


Action = Ask[Peer] | FetchPiece[Peer] | Follow | SendVote[Peer] | SendCommit[Peer] | End
