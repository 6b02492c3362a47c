"""What the grid means for one search: whom to look out for, and who is in another bucket."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from averaging.matchmaking import closing
from averaging.matchmaking.grid import grid_round, in_bucket
from averaging.round_id import RoundId
from p2p import PeerId

if TYPE_CHECKING:
    from averaging.matchmaking.seek import Seek


def expected(seek: Seek, now_s: float) -> tuple[PeerId, ...]:
    """Whom we look out for: the caller's list less the lost; else strangers and old friends.

    In a bucket these are the strangers whose records name this bucket and our round, and while a
    failed group is tried again, its members; without records, those of the caller's list that
    are in no other bucket.
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


def note_later(seek: Seek, now_s: float) -> None:
    """The records of our bucket were read: some peers are in a later round already."""
    bucket = seek.request.bucket
    if bucket:
        rounds = seek.around.acquaintances.rounds_in(now_s, bucket)
        for peer, number in rounds.items():
            if number > seek.round.number and peer not in seek.roster.joined:
                seek.roster.other_rounds[peer] = grid_round(number, bucket)


def left_behind(seek: Seek, now_s: float) -> RoundId | None:
    """The round that the others are in, when it is they who are ahead of us.

    Buckets of a grid do not keep pace with each other: only who would be alone in its bucket
    when the window has passed, while others are there in later rounds, is behind (by two, when
    the caller counts the rounds).
    """
    if not seek.request.bucket:
        return seek.roster.left_behind(expected(seek, now_s))
    waited = now_s >= closing.window_ends_s(seek, now_s) or closing.closes(seek, now_s)
    if seek.asked is not None or seek.roster.joined or not waited:
        return None
    numbers = Counter(seen.number for seen in seek.roster.other_rounds.values())
    tolerated = seek.round.number + (0 if seek.request.follow else 1)
    # Old records stay behind, and some are early for the next round: the newest crowd counts.
    crowd = max(numbers.values(), default=0) / 2
    later = [number for number in numbers if number > tolerated and numbers[number] >= crowd]
    return grid_round(max(later), seek.request.bucket) if later else None


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


def comparable(seek: Seek, round_id: RoundId) -> RoundId:
    """A round that somebody named: in a grid its number alone counts."""
    bucket = seek.request.bucket
    return round_id if bucket is None else grid_round(round_id.number, bucket)
