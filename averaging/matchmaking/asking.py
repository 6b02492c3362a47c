"""What the peer that we asked to lead us says, and what that means for the search."""

from __future__ import annotations

import math

from averaging.matchmaking import buckets, schema
from averaging.matchmaking.group import Group
from averaging.matchmaking.outputs import AskFailure
from averaging.matchmaking.roster import Elsewhere
from averaging.matchmaking.seek import LEADER_SILENCE_S, Asked, Phase, Seek
from averaging.second_look import second_look_s
from p2p import PeerId, short


def look_twice(seek: Seek, late_s: float, now_s: float) -> None:
    """Before the asked peer is passed over: not yet, if this is the first time.

    Args:
        late_s: how much later than asked for we were woken.
    """
    asked = seek.asked
    if asked is None or asked.doubted:
        return
    silent_at_s = asked.heard_at_s + LEADER_SILENCE_S
    patience_ends_s = math.inf if asked.ready else seek.patience_ends_s(asked)
    if now_s < min(silent_at_s, patience_ends_s):
        return
    asked.doubted = True
    again_at_s = now_s + second_look_s(late_s)
    asked.heard_at_s += max(again_at_s - silent_at_s, 0.0)
    asked.at_s += max(again_at_s - patience_ends_s, 0.0)


def on_leader_message(
    seek: Seek,
    asked: Asked,
    message: schema.Wait | schema.Redirect | schema.Refuse,
    now_s: float,
) -> None:
    """The asked peer answers."""
    asked.heard_at_s = now_s
    if isinstance(message, schema.Wait):
        asked.obstacle = message.obstacle
        if message.ready:
            asked.ready = True
            seek.follow()
    elif isinstance(message, schema.Redirect):
        _on_redirect(seek, asked.peer_id, message, now_s)
    else:
        _on_refusal(seek, asked.peer_id, message, now_s)
    seek.step(now_s)


def on_group(seek: Seek, asked: Asked, group: Group, last_arrival_s: float, now_s: float) -> None:
    """The asked peer closed a group; its signatures were checked, whether it is ours was not."""
    complaint = _complaint(seek, asked.peer_id, group)
    if complaint:
        seek.ranking.put_off(asked.peer_id, f"sent a bad group: {complaint}", final=True)
        seek.leave_asked(now_s, answered=True)
        seek.step(now_s)
    else:
        seek.around.window.on_closed(last_arrival_s)
        seek.join_group(group)


def on_ask_failed(seek: Seek, asked: Asked, cause: AskFailure, reason: str, now_s: float) -> None:
    """The JOIN call ended without an answer."""
    peer, ranking = asked.peer_id, seek.ranking
    if cause is AskFailure.INVALID:
        ranking.put_off(peer, reason, final=True)
    elif cause is AskFailure.REFUSED or not seek.around.can_lead:
        # A refusal may pass; and who cannot lead has nothing better to do than to try again.
        ranking.put_off_a_while(peer, reason, now_s)
    else:
        ranking.put_off(peer, reason)
    if cause is AskFailure.UNREACHABLE:
        seek.roster.absent[peer] = None
    seek.leave_asked(now_s, answered=True)
    seek.step(now_s)


def _on_redirect(seek: Seek, peer: PeerId, message: schema.Redirect, now_s: float) -> None:
    leader = PeerId(message.peer_id)
    seek.ranking.put_off_a_while(peer, f"follows {short(leader)}", now_s)
    if leader != seek.around.own:
        seek.roster.elsewhere[peer] = Elsewhere.FOLLOWING
    seek.leave_asked(now_s, answered=True)
    seek.learn_leader(leader, message.addresses)


def _on_refusal(seek: Seek, peer: PeerId, refusal: schema.Refuse, now_s: float) -> None:
    reason = f"refused: {refusal.code}{f', {refusal.message}' if refusal.message else ''}"
    seek.leave_asked(now_s, answered=True)
    if refusal.code == "other-round" and refusal.round is not None:
        seek.on_other_round(peer, refusal.round.round_id(), now_s)
    elif refusal.code == "other-bucket":
        seen = refusal.round.round_id() if refusal.round is not None else None
        buckets.on_other_bucket(seek, peer, refusal.bucket, seen, now_s)
    elif refusal.code == "client":
        seek.around.acquaintances.on_role(peer, client=True)
        seek.ranking.put_off(peer, "cannot be dialed, so it cannot lead", final=True)
    elif refusal.code in ("spec-differs", "lost-last-round"):
        seek.ranking.put_off(peer, reason, final=True)
        seek.roster.unfit[peer] = reason
    elif refusal.code == "no-path":
        seek.ranking.put_off(peer, reason)
        seek.roster.elsewhere[peer] = Elsewhere.CLOSED
    elif refusal.code == "closed" and seek.around.can_lead:
        # Invitations tell when that changes.
        seek.ranking.put_off(peer, reason)
        seek.roster.elsewhere[peer] = Elsewhere.CLOSED
    else:
        seek.ranking.put_off_a_while(peer, reason, now_s)


def _complaint(seek: Seek, leader: PeerId, group: Group) -> str | None:
    """Why this group is not one that we asked for, or None."""
    if group.leader != leader:
        return "it is led by somebody else"
    if group.join_of(seek.around.own) != seek.own_join:
        return "our JOIN is missing or altered"
    if len(group.members) > seek.around.config.group_size_max:
        return f"it has {len(group.members)} members"
    assert seek.phase in (Phase.ASKING, Phase.FOLLOWING)
    return None
