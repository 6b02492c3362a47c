"""What the matchmaking core asks its service to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from averaging.matchmaking.group import Group
from averaging.matchmaking.schema import Invite, JoinRequest, LeaderMessage
from averaging.round_id import RoundId
from p2p import PeerId


@dataclass(frozen=True)
class Ask:
    """Open a JOIN call to this peer; its messages are reported under the ticket."""

    ticket: int
    peer_id: PeerId
    addresses: tuple[str, ...]
    request: JoinRequest


@dataclass(frozen=True)
class Withdraw:
    """Break off the JOIN call of this ticket."""

    ticket: int


@dataclass(frozen=True)
class Answer:
    """Send a message on a JOIN call that somebody opened to us; all but Wait end the call."""

    call_id: int
    message: LeaderMessage


@dataclass(frozen=True)
class SendInvite:
    """Call INVITE at this peer and report the answer."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    invite: Invite


@dataclass(frozen=True)
class Found:
    """The search is over: this is our group."""

    group: Group


@dataclass(frozen=True)
class GaveUp:
    """The search is over without a group."""

    reason: str
    behind: RoundId | None = None
    refusals: Mapping[PeerId, str] = field(default_factory=dict)


Output: TypeAlias = Ask | Withdraw | Answer | SendInvite | Found | GaveUp


class AskFailure(Enum):
    """How a JOIN call ended without a message that ends it."""

    UNREACHABLE = "unreachable"  # none of its addresses leads to it
    NO_ADDRESS = "no address"  # perhaps a client, that comes by itself
    BROKEN = "broken"  # it went away
    REFUSED = "refused"  # it does not serve this group name, or is busy
    INVALID = "invalid"  # it broke the protocol
