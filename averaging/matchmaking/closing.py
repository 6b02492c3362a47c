"""When a leader closes its group, what the group says, and what a failed search says instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from averaging.matchmaking import schema
from averaging.matchmaking.grid import in_bucket
from averaging.matchmaking.group import (
    Group,
    capacities_of,
    choose_chunk_elements,
    form_group,
    in_order,
    span_seconds,
)
from averaging.matchmaking.lineup import Lineup, line_up
from averaging.matchmaking.outputs import Answer
from averaging.matchmaking.plan import plan_spans
from averaging.matchmaking.roster import Elsewhere
from averaging.round_id import RoundId
from p2p import PeerId, relayed_bytes_needed, short

if TYPE_CHECKING:
    from averaging.matchmaking.seek import Seek


# A sentence that names hundreds of peers tells nothing; the exception has them all.
_REFUSALS_TOLD = 8


def closes(seek: Seek, now_s: float) -> bool:
    """Whether the group closes now.

    It is due when it is full, or all who are looked out for are here, or the window has passed.
    It must not close while a failed group that a member names may have succeeded out of sight,
    nor with fewer contributors than its least size, nor when at least half of those alive are in
    another group, or have yet to come: that would be a fork.
    """
    config, expected = seek.around.config, seek.expected(now_s)
    size_min = seek.request.group_size_min
    if not seek.around.can_lead:
        # A client leads nobody, but alone it needs nobody either.
        return seek.request.expected is not None and not expected and size_min == 1
    if seek.voter_count() < max(size_min, 1):
        return False
    full = seek.size() >= config.group_size_max
    if not full and not _all_here(seek, now_s) and now_s < window_ends_s(seek, now_s):
        return False
    if _few(seek, expected) or (seek.request.expected is not None and _would_fork(seek, expected)):
        return False
    return not _blocked(seek) or now_s >= _patience_ends_s(seek)


def held_up(seek: Seek, now_s: float) -> bool:
    """Whether the window has passed, but the larger part has yet to come."""
    return now_s >= window_ends_s(seek, now_s) and _few(seek, seek.expected(now_s))


def spares_lost(seek: Seek, now_s: float) -> bool:
    """Whether enough may come without those that were lost in the attempt before."""
    peers = {seek.around.own, *seek.expected(now_s), *seek.roster.joined}
    return len(peers.difference(seek.request.lost)) >= seek.request.group_size_min


def lineup(seek: Seek) -> Lineup:
    """Who of those that are here can average together, by the paths that there are now."""
    entries = seek.roster.joined
    own = seek.around.make_join(seek.round, seek.request, tuple(entries))
    chosen = line_up((own, *(entry.join for entry in entries.values())))
    voters = sum(join.role != "aux" for join in chosen.joins)
    return chosen if voters >= seek.request.group_size_min else replace(chosen, too_few=True)


def close(seek: Seek, lineup: Lineup, now_s: float) -> tuple[Group, list[Answer]]:
    """Form the group, and the messages that tell its members, and those that are left out."""
    members = in_order(lineup.joins)
    seek.own_join = members[0]
    element_count = seek.around.element_count
    capacities = capacities_of(members, over_relay=lineup.over_relay)
    span_elements = plan_spans(capacities, element_count)
    owner_count = sum(1 for length in span_elements if length)
    group, body = form_group(
        members,
        chunk_elements=choose_chunk_elements(
            element_count,
            owner_count,
            seek.around.config.chunk_elements_max,
            span_seconds(capacities, seek.around.vector_bytes / max(owner_count, 1)),
        ),
        span_elements=span_elements,
        deadline_s=min(max(seek.request.deadline_s - now_s, 1e-3), schema.DEADLINE_S_MAX),
        attempt=seek.request.attempt,
        previous=seek.roster.common_previous(seek.own_join),
        over_relay=lineup.over_relay,
    )
    last_arrival_s = max(seek.roster.last_arrival_s(seek.open_since_s), 0.0)
    message = schema.GroupFormed(body, min(last_arrival_s, schema.DEADLINE_S_MAX))
    refusal = schema.Refuse("no-path", no_path(seek))
    answers = [
        Answer(entry.call_id, refusal if peer in lineup.left_out else message)
        for peer, entry in seek.roster.joined.items()
    ]
    if seek.expected(now_s):
        seek.around.window.on_closed(last_arrival_s)
    return group, answers


def obstacle(seek: Seek, now_s: float) -> str:
    """Why the group cannot be closed though it is due, as far as paths are to blame; or empty."""
    if not seek.roster.joined or not closes(seek, now_s) or lineup(seek).most_are_in:
        return ""
    return no_path(seek)


def no_path(seek: Seek) -> str:
    """Why those that are reached through relays only cannot take part."""
    ways = seek.around.ways()
    relayed = [ways.to[peer] for peer in seek.roster.joined if peer in ways.to]
    limits = [way.bytes_each_way for way in relayed if way.relayed and way.bytes_each_way]
    needed = relayed_bytes_needed(seek.around.vector_bytes)
    carried = f" carries {min(limits)} bytes each way, and the round" if limits else ""
    return (
        f"no member can be reached by all without a relay, and the relay between us{carried} "
        f"needs {needed}"
    )


def hopeless(seek: Seek, now_s: float) -> bool:
    """Whether a peer that cannot lead has found nobody in the time that it gives others."""
    return not seek.around.can_lead and now_s >= seek.open_since_s + seek.around.window.upper_s


def window_ends_s(seek: Seek, now_s: float) -> float:
    """Until when a leader waits for members that may still come."""
    window = seek.around.window
    length_s = window.window_s
    if seek.request.expected is None and _would_fork(seek, seek.expected(now_s)):
        # They are in groups of their own; their next round is worth some waiting.
        length_s = window.upper_s
    # What comes after needs time too.
    half_s = (seek.request.deadline_s - seek.open_since_s) / 2
    return seek.open_since_s + min(max(length_s, seek.window_s_min), half_s)


def times_s(seek: Seek, now_s: float) -> tuple[float, ...]:
    """The moments at which the answers above may change."""
    return (
        window_ends_s(seek, now_s),
        seek.open_since_s + seek.around.window.upper_s,  # for those that cannot lead
        _patience_ends_s(seek),
    )


def refusals(seek: Seek) -> dict[PeerId, str]:
    """What is known of each peer that is not here."""
    roster = seek.roster
    said = dict.fromkeys(roster.absent, "cannot be reached")
    said |= roster.unfit
    said |= {peer: f"is in another round ({seen})" for peer, seen in roster.other_rounds.items()}
    for peer, where in roster.elsewhere.items():
        closed = where is Elsewhere.CLOSED
        said[peer] = "is in a group that is closed" if closed else "follows another leader"
    said |= {peer: in_bucket(bucket) for peer, bucket in roster.other_buckets.items()}
    said |= seek.ranking.reasons
    return dict(sorted(said.items()))


def reason_behind(seek: Seek, behind: RoundId) -> str:
    """Why a search ended whose round is not the others'."""
    if behind.number > seek.round.number:
        return f"the others are in round {behind.number}, we are behind in {seek.round.number}"
    return (
        f"the others build round {behind.number} on another result "
        f"({behind.parent[:4].hex()}) than we ({seek.round.parent[:4].hex()})"
    )


def reason_no_group(seek: Seek, now_s: float) -> str:
    """One sentence that says why there is no group."""
    roster, expected = seek.roster, seek.expected(now_s)
    details = _details(seek, now_s)
    if seek.asked is not None and seek.asked.ready:
        leader = short(seek.asked.peer_id)
        why = f": {seek.asked.obstacle}" if seek.asked.obstacle else ""
        return f"the leader {leader} did not close its group by our deadline{why}{details}"
    if seek.asked is not None:
        return f"{short(seek.asked.peer_id)} did not begin the round by our deadline{details}"
    if not seek.around.can_lead:
        nobody = "nobody that can be dialed was found, and we cannot be dialed ourselves"
        return f"{nobody}{details}"
    if _blocked(seek):
        return (
            "the failed group before may have succeeded at members that are out of sight; "
            f"too few of them are here to rule it out{details}"
        )
    if _would_fork(seek, expected):
        return f"most of the others are in a group without us{details}"
    if not seek.voter_count():
        return f"nobody came that contributes{details}"
    if why := obstacle(seek, now_s):
        return f"{why}{details}"
    if seek.voter_count() < seek.request.group_size_min:
        missing = _short_list(roster.missing(expected))
        least = f"{seek.voter_count()} of at least {seek.request.group_size_min} members came"
        return f"{least}{f', missing {missing}' if missing else ''}{details}"
    if _few(seek, expected):
        coming = _yet_to_come(seek, expected)
        return (
            f"{seek.voter_count()} came, and {len(coming)} that may be alive did not: "
            f"{_short_list(coming)}{details}"
        )
    return f"no group could be closed by the deadline{details}"


def _short_list(peers: Sequence[PeerId]) -> str:
    return ", ".join(short(peer) for peer in peers)


def _details(seek: Seek, now_s: float) -> str:
    """What is known of those that are not here, in brackets; and whether there is anybody."""
    bucket = seek.request.bucket
    why = [f"we are in bucket {bucket} of the grid"] if bucket else []
    said = refusals(seek)
    if not said and not seek.roster.joined and not seek.expected(now_s):
        why.append("nobody else is known under this group's name")
    why.extend(f"{short(peer)} {said[peer]}" for peer in list(said)[:_REFUSALS_TOLD])
    if len(said) > _REFUSALS_TOLD:
        why.append(f"and {len(said) - _REFUSALS_TOLD} more")
    return f" ({'; '.join(why)})" if why else ""


def _all_here(seek: Seek, now_s: float) -> bool:
    expected = seek.expected(now_s)
    if seek.roster.missing(expected):
        return False
    if seek.request.expected is not None:
        return True
    # Among strangers more may come, unless it has gone like this before. In a bucket they come
    # from groups that end at different times: as many as usual must be here.
    usual = seek.size() >= seek.request.bucket_size if seek.request.bucket else bool(expected)
    return usual and seek.polled and seek.around.window.experienced


def _would_fork(seek: Seek, expected: Sequence[PeerId]) -> bool:
    """Whether most are in another group; in a grid, where a bucket may be too full, they may be."""
    return not seek.request.bucket and seek.roster.mostly_elsewhere(expected)


def _few(seek: Seek, expected: Sequence[PeerId]) -> bool:
    """Whether those still missing could be the larger part; of two halves the first by rank goes.

    They are expected, and as far as we know alive and of our kind, if perhaps not ready yet.
    """
    missing = _yet_to_come(seek, expected)
    lead = seek.voter_count() - len(missing)
    if seek.request.expected is None or seek.request.bucket or lead > 0:
        return False
    own = seek.around.own
    return lead < 0 or not all(seek.ranking.better(own, peer) for peer in missing)


def _yet_to_come(seek: Seek, expected: Sequence[PeerId]) -> list[PeerId]:
    roster = seek.roster
    return [*roster.missing(expected), *(peer for peer in expected if peer in roster.idle)]


def _blocked(seek: Seek) -> bool:
    voters_of = seek.around.acquaintances.voters_of
    liars = seek.around.config.tolerated_liars
    return bool(seek.roster.unblocked_previous(seek.own_join, voters_of, liars))


def _patience_ends_s(seek: Seek) -> float:
    failed_at_s = seek.request.previous_failed_at_s
    since_s = seek.started_at_s if failed_at_s is None else failed_at_s
    return since_s + seek.around.config.partition_patience_s
