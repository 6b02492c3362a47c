"""How lying members of a simulated group lie; honest ones pass through here unchanged.

weight-over, weight-negative, weight-differs    declares what it may not, or to each another
digests     shows another result to members with odd numbers, each signed
table       names a member in its tables that is not in the mean, or the other way round
votes       votes for something else at each aggregator, and towards each that asks
promises    promises never to vote, and votes
plans       plans all the time
answers     says that it holds what it does not hold, or that it will soon
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from averaging.allreduce.outputs import Hold
from averaging.allreduce.schema import (
    MEMBERS_MAX,
    PLAN_ROUNDS_MAX,
    Answer,
    PieceStatus,
    Plan,
    Promise,
    Vote,
)
from tests.averaging.allreduce.model_messages import Record, Result, twisted, twisted_record

if TYPE_CHECKING:
    from tests.averaging.allreduce.model_member import Member

KINDS = (
    "weight-over",
    "weight-negative",
    "weight-differs",
    "digests",
    "table",
    "votes",
    "promises",
    "plans",
    "answers",
)
VOTING_LIES = ("votes", "promises")
"""What only a quorum rule for liars stands against."""
LIVELY_LIES = ("digests", "table", "plans", "answers", "votes", "promises")
"""What may keep a group from a result."""
_PLAN_INTERVAL_S = 0.7


def start(member: Member) -> None:
    """A member that plans all the time begins to."""
    if "plans" in member.host.lies:
        member.host.after(_PLAN_INTERVAL_S, lambda: _plan(member))


def _plan(member: Member) -> None:
    """Show a plan to whoever listens to us."""
    rng, group = member.world.rng, member.group
    known = member.ballot.plan
    rounds = (known.number // MEMBERS_MAX if known is not None else 0) + 1
    if rounds >= PLAN_ROUNDS_MAX or member.over:
        return
    owners = tuple(rng.randrange(len(member.setup.aggregators)) for _ in group.pieces)
    number = rounds * MEMBERS_MAX + member.setup.members.index(member.me)
    plan = Plan(number, owners, bytes([member.me]) * 64)
    member.ballot.on_plan(plan, member.now_s())
    member.act()
    member.host.after(_PLAN_INTERVAL_S, lambda: _plan(member))


def weight_for(member: Member, peer: int) -> float:
    """The weight that a member declares to an aggregator."""
    if "weight-over" in member.host.lies:
        return 1e9
    if "weight-negative" in member.host.lies:
        return -1.0
    if "weight-differs" in member.host.lies:
        return float(1 + peer % 3)
    return member.weight


def shown(member: Member, peer: int, result: Result | Record) -> Result | Record:
    """What an aggregator sends to a member."""
    if "digests" not in member.host.lies or peer % 2 == 0:
        return result
    if isinstance(result, Result):
        return replace(result, value=twisted(result.value))
    return twisted_record(result)


def table(member: Member, record: Record) -> Record:
    """What an aggregator says of who is in a piece."""
    if "table" not in member.host.lies:
        return record
    whole = len(record.chunks)
    included = list(record.included)
    number = member.world.rng.randrange(len(included))
    included[number] = 0 if included[number] else whole
    return replace(record, included=tuple(included))


def vote_for(member: Member, peer: int, vote: Vote) -> Vote:
    """The vote that a member shows to another."""
    if "votes" not in member.host.lies:
        return vote
    pieces = list(vote.pieces)
    for piece in range(len(pieces)):
        known = [digest for digest, record in member.group.records.items() if record.piece == piece]
        if member.world.rng.random() < 0.5:
            pieces[piece] = member.world.rng.choice(known)
    voted = [
        signed[0]
        for voter, signed in member.group.votes_signed.items()
        if member.group.honest(voter)
    ]
    if voted and member.world.rng.random() < 0.7:
        return Vote(member.world.rng.choice(voted), vote.signature)
    return Vote(tuple(pieces), vote.signature)


def promise_of(member: Member) -> Promise | None:
    """The promise that a member shows when it asks."""
    if "promises" in member.host.lies and member.votes:
        return Promise(member.setup.members.index(member.me), bytes([member.me]) * 64)
    return member.ballot.promise


def answer_for(member: Member, peer: int, answer: Answer) -> Answer:
    """What a member says when it is asked."""
    lies, rng = member.host.lies, member.world.rng
    if answer.vote is not None and "votes" in lies:
        answer = msgspec.structs.replace(answer, vote=vote_for(member, peer, answer.vote))
    promise = promise_of(member)
    if promise is not None and promise not in answer.promises:
        answer = msgspec.structs.replace(answer, promises=(*answer.promises, promise))
    if "answers" in lies:
        digests = [bytes(32), *member.group.records]
        pieces = tuple(
            PieceStatus(int(Hold.HELD), rng.choice(digests))
            if rng.random() < 0.5
            else PieceStatus(int(rng.choice((Hold.COMING, Hold.RUMOUR, Hold.LOST))))
            for _ in answer.pieces
        )
        answer = msgspec.structs.replace(answer, pieces=pieces)
    return answer
