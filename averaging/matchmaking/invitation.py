"""What a leader tells the peers that it misses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from averaging.matchmaking import schema
from averaging.matchmaking.outputs import SendInvite
from p2p import PeerId

if TYPE_CHECKING:
    from averaging.matchmaking.seek import Seek


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
