"""Invitations: how leaders find out where missing members are, and two leaders of each other."""

from __future__ import annotations

from averaging.matchmaking import buckets, schema
from averaging.matchmaking.roster import Elsewhere
from averaging.matchmaking.seek import Phase, Seek
from averaging.tensors import describe_difference
from p2p import PeerId


def on_invite(seek: Seek, peer: PeerId, invite: schema.Invite, now_s: float) -> schema.InviteAnswer:
    """A leader of our spec misses us: say what we do, and learn that it leads."""
    round_id = buckets.comparable(seek, invite.round.round_id())
    if round_id != seek.round:
        seek.on_other_round(peer, round_id, now_s, follows=invite.follows)
    if round_id != seek.round:
        seek.step(now_s)
        return schema.InviteAnswer("other-round", schema.round_on_wire(seek.round))
    seek.on_shown(peer, invite.addresses)
    if invite.ranked_last:
        seek.ranking.rank_last(seek.around.own)
    seek.learn_leader(peer, invite.addresses)
    seek.step(now_s)
    ranked_last = seek.ranking.is_ranked_last(peer)
    if seek.phase is Phase.FOLLOWING and seek.asked is not None:
        leader = seek.asked.peer_id
        addresses = seek.around.acquaintances.addresses_of(leader)
        return schema.InviteAnswer("following", None, leader, addresses, ranked_last)
    state: schema.InviteState = "leading" if seek.around.can_lead else "idle"
    return schema.InviteAnswer(state, ranked_last=ranked_last)


def on_invite_answer(seek: Seek, peer: PeerId, answer: schema.InviteAnswer, now_s: float) -> None:
    """An invited peer says what it does."""
    roster, ranking = seek.roster, seek.ranking
    if answer.ranked_last:
        ranking.rank_last(seek.around.own)
    if answer.state == "other-round" and answer.round is not None:
        seek.on_other_round(peer, answer.round.round_id(), now_s)
    elif answer.state == "closed":
        roster.elsewhere[peer] = Elsewhere.CLOSED
    elif answer.state == "spec-differs":
        reason = "has another spec"
        if answer.spec_hash:
            reason = describe_difference(seek.own_join.spec_hash, answer.spec_hash)
        ranking.put_off(peer, reason, final=True)
        roster.unfit[peer] = reason
    elif answer.state == "other-bucket":
        seen = answer.round.round_id() if answer.round is not None else None
        buckets.on_other_bucket(seek, peer, answer.bucket, seen, now_s)
    elif answer.state == "following":
        if answer.leader != seek.around.own and peer not in roster.joined:
            roster.elsewhere[peer] = Elsewhere.FOLLOWING
            seek.learn_leader(PeerId(answer.leader), answer.leader_addresses)
    elif answer.state == "leading":
        seek.on_shown(peer, ())
        seek.learn_leader(peer, ())
    else:
        roster.on_shown(peer)
    seek.step(now_s)


def on_unreachable(seek: Seek, peer: PeerId, now_s: float) -> None:
    """An invited peer cannot be dialed, or does not answer: it does not come."""
    if peer not in seek.roster.joined:
        seek.roster.absent[peer] = None
        seek.step(now_s)
