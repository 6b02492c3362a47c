"""Whom a leader misses, and what it tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from averaging.matchmaking import closing, schema
from averaging.matchmaking.outputs import SendInvite
from p2p import PeerId

if TYPE_CHECKING:
    from averaging.matchmaking.seek import Seek

_INVITES_MAX: Final = 64
_INVITATIONS_PER_SURVEY: Final = 4


def invitation(seek: Seek, peer: PeerId) -> SendInvite:
    """That we gather for this round, and how we rank the peer."""
    own = seek.own_join
    invite = schema.Invite(
        schema.round_on_wire(seek.round),
        own.spec_hash,
        own.addresses,
        seek.request.previous,
        seek.ranking.is_ranked_last(peer),
        own.bucket,
        seek.request.follow,
    )
    return SendInvite(peer, seek.around.acquaintances.addresses_of(peer), invite)


def invited(seek: Seek, now_s: float) -> list[PeerId]:
    """Whom a leader asks now: those who are missing, and each few times those who may not come."""
    if not seek.around.can_lead:
        return []
    roster = seek.roster
    peers = [*roster.to_invite(seek.expected(now_s)), *seek.rivals]
    if not closing.spares_lost(seek, now_s):
        peers.extend(seek.request.lost)
    if seek.invitations % _INVITATIONS_PER_SURVEY == 0:
        # Those in other groups, to learn where we are; and those that we lost sight of or passed
        # over, who may think the same of us.
        peers.extend((*roster.elsewhere, *roster.absent, *roster.idle))
    seek.invitations += 1
    others = [peer for peer in dict.fromkeys(peers) if peer not in roster.joined]
    return others[:_INVITES_MAX]
