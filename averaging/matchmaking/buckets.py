"""What the grid means for one search: whom to look out for, and who is in another bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from averaging.matchmaking.grid import grid_round
from averaging.round_id import RoundId
from p2p import PeerId

if TYPE_CHECKING:
    from averaging.matchmaking.seek import Seek


def expected(seek: Seek, now_s: float) -> tuple[PeerId, ...]:
    """Whom we look out for: the caller's list less the lost; else strangers and old friends.

    In a bucket these are the strangers whose records name this bucket and our round or a later
    one, and while a failed group is tried again, its members; without records, those of the
    caller's list that are in no other bucket.
    """
    request, known = seek.request, seek.around.acquaintances
    peers = request.expected
    if peers is None and not request.bucket:
        peers = (*known.friends, *known.strangers(now_s, request.bucket))
    elif peers is None:
        friends = known.friends if request.previous else ()
        peers = (*friends, *known.strangers(now_s, request.bucket, seek.round.number))
    out = (seek.around.own, *request.lost, *seek.roster.other_buckets)
    return tuple(dict.fromkeys(peer for peer in peers if peer not in out))


def on_other_bucket(
    seek: Seek, peer: PeerId, bucket: str, round_id: RoundId | None, now_s: float
) -> None:
    """A peer is in another bucket: not one of us in this round, unless it has yet to come to it."""
    seek.around.acquaintances.on_bucket(peer, bucket)
    older = seek.roster.joined.pop(peer, None)
    if older is not None:
        seek.refuse(older.call_id, "not-looking", "you are in another bucket by now")
    if round_id is not None and round_id.number < seek.round.number:
        reason = f"is still in round {round_id.number}"
        seek.ranking.put_off_a_while(peer, reason, now_s)
    else:
        seek.roster.on_shown(peer)
        seek.roster.other_buckets[peer] = bucket
        seek.ranking.put_off(peer, in_bucket(bucket))


def in_bucket(bucket: str) -> str:
    """Where a peer is, in words."""
    return f"is in bucket {bucket} of the grid" if bucket else "is in a grid of one bucket"


def comparable(seek: Seek, round_id: RoundId) -> RoundId:
    """A round that somebody named: in a grid its number alone counts."""
    bucket = seek.request.bucket
    return round_id if bucket is None else grid_round(round_id.number, bucket)
