"""What must never happen in a simulated group, and what must happen when all is well again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from averaging.allreduce.outputs import End
from tests.averaging.allreduce.model_lies import LIVELY_LIES, VOTING_LIES
from tests.averaging.allreduce.model_messages import Record

if TYPE_CHECKING:
    from tests.averaging.allreduce.model_group import Group
    from tests.averaging.allreduce.model_member import Member


def after_event(member: Member) -> None:
    """What holds after each event at a member."""
    if not member.host.honest:
        return
    group, me, ballot = member.group, member.me, member.ballot
    votes = group.votes_signed.get(me, ())
    if len(votes) > 1 or (votes and me in group.promised):
        group.world.complain(f"{me} signed {len(votes)} votes, promised: {me in group.promised}")
    if ballot.end is None and member.entered and not _waits_for_something(member):
        group.world.complain(f"{me} waits in group {group.number}, but for nothing")


def _waits_for_something(member: Member) -> bool:
    """Whether a timer, a question, or somebody's stream will wake the member."""
    if member.ballot.deadline_s is not None or member.outstanding:
        return True
    if member.aggregator is not None and member.aggregator.aborted is None:
        return True
    return any(not uplink.closed and not uplink.silent for uplink in member.uplinks.values())


def on_end(member: Member, end: End) -> None:
    """The attempt is over for a member."""
    group, me, ballot = member.group, member.me, member.ballot
    group.world.note(f"{me} ends group {group.number}: {end.outcome}, {end.reason or 'agreed'}")
    group.on_end(member, end)
    if not member.host.honest:
        return
    if end.outcome == "success":
        assert ballot.commit is not None
        group.successes[me] = ballot.commit.pieces
        if member.votes:
            held = {piece: group.digest_of(record) for piece, record in member.held.items()}
            if held != dict(enumerate(ballot.commit.pieces)):
                group.world.complain(f"{me} succeeds, but holds other bytes than agreed")
            member.applied = ballot.commit.pieces
            for record in member.held.values():
                _check_record(group, record)
    elif end.outcome == "failed" and end.certain:
        group.certain_failures[me] = end.reason
    elif end.outcome == "undecided" and ballot.vote is None:
        group.world.complain(f"{me} is undecided, but did not vote")


def _check_record(group: Group, record: Record) -> None:
    """A piece is the weighted mean of exactly those in its table."""
    setup = group.setup
    if not group.honest(setup.aggregators[record.owner]):
        return
    for chunk, value in enumerate(record.chunks):
        weights = [
            int(weight) if included > chunk else 0
            for weight, included in zip(record.weights, record.included, strict=True)
        ]
        code = group.code_of(record.piece, chunk)
        if value != (*weights, code * sum(weights)) or not sum(weights):
            group.world.complain(f"piece {record.piece} is not what its table says: {record}")
    for peer, weight in zip(setup.members, record.weights, strict=True):
        true = 0.0 if peer in setup.helpers else setup.weights[peer]
        if group.honest(peer) and weight not in (0.0, true):
            group.world.complain(f"{peer} has another weight in piece {record.piece}")


def check_group(group: Group, members: dict[int, Member]) -> None:
    """What holds when all is over."""
    world = group.world
    if len(set(group.successes.values())) > 1:
        world.complain(f"honest members of group {group.number} succeed with different bits")
    if group.successes and group.certain_failures and _failures_are_sure(group):
        failed = dict(group.certain_failures)
        world.complain(f"group {group.number} failed for certain at {failed}, but succeeded")
    for me, member in members.items():
        if not member.entered or not member.host.well or not member.host.honest:
            continue
        end = member.ballot.end
        if end is None:
            world.complain(f"{me} never ended group {group.number}")
        if member.applied is not None and (end is None or end.outcome != "success"):
            world.complain(f"{me} applied a result without a success")


def _failures_are_sure(group: Group) -> bool:
    """Whether nobody lied about what others may not check: promises, votes, weights, aborts."""
    voting = [p for p in group.setup.voters if group.world.hosts[p].lies & set(VOTING_LIES)]
    aborted = any("nobody contributed" in why for why in group.certain_failures.values())
    liars = any(not group.honest(peer) for peer in group.setup.members)
    return len(voting) <= group.setup.tolerated_liars and not (aborted and liars)


def check_core(group: Group, members: dict[int, Member], core: tuple[int, ...]) -> None:
    """A quorum and an aggregator that were well and connected all along succeed with everything."""
    world, setup = group.world, group.setup
    if any(world.hosts[peer].lies & set(LIVELY_LIES) for peer in setup.members):
        return
    for me in core:
        end = members[me].ballot.end
        if end is None or end.outcome != "success":
            said = "never ends" if end is None else f"{end.outcome}: {end.reason}"
            world.complain(f"{me} was well all along, but {said}")
            continue
        for record in members[me].held.values():
            if setup.aggregators[record.owner] not in core:
                continue
            for peer in core:
                number = setup.members.index(peer)
                if peer in setup.helpers or not setup.weights[peer]:
                    continue
                if record.included[number] < len(record.chunks):
                    reason = record.reasons[number]
                    world.complain(f"{peer} is not in all of piece {record.piece}: {reason}")
