"""The next attempt after a failed group: at once if that group is out of the way, else patience."""

from __future__ import annotations

import pytest

from averaging.matchmaking.group import Group
from averaging.matchmaking.keys import rank
from p2p import PeerId
from tests.averaging.matchmaking.swarm import ROUND, Swarm

PATIENCE_S = 60.0
AT_ONCE_S = 0.5


def swarm_with_group(count: int, seed: int = 1) -> tuple[Swarm, Group]:
    """A swarm that has found its first group."""
    swarm = Swarm(seed, count)
    swarm.seek_all()
    swarm.run()
    return swarm, next(iter(swarm.peers.values())).group


def retry(
    swarm: Swarm,
    peers: list[PeerId],
    failed: Group,
    *,
    lost: list[PeerId],
    voted: tuple[PeerId, ...] = (),
    deadline_s: float = 200.0,
) -> None:
    """Let members of a failed group look for the next one."""
    for peer_id in peers:
        swarm.seek(
            peer_id,
            expected=failed.peer_ids,
            lost=lost,
            previous=failed.group_id,
            abandoned=peer_id not in voted,
            deadline_s=deadline_s,
        )
    begun_s = swarm.now_s
    swarm.run()
    for peer_id in peers:
        assert swarm.peers[peer_id].started_at_s == begun_s


def seconds(swarm: Swarm, peer_id: PeerId) -> float:
    """How long the newest search took."""
    peer = swarm.peers[peer_id]
    return peer.ended_at_s - peer.started_at_s


def test_a_majority_that_abandoned_goes_on_at_once() -> None:
    swarm, failed = swarm_with_group(4)
    *survivors, lost = failed.peer_ids
    swarm.crash(lost, swarm.now_s)
    retry(swarm, survivors, failed, lost=[lost])
    for peer_id in survivors:
        group = swarm.peers[peer_id].group
        assert set(group.peer_ids) == set(survivors)
        assert group.previous == failed.group_id
        assert group.group_id != failed.group_id
        assert seconds(swarm, peer_id) <= AT_ONCE_S


def test_half_with_the_first_voter_goes_on_at_once() -> None:
    swarm, failed = swarm_with_group(4)
    first, second, *lost = failed.peer_ids
    retry(swarm, [first, second], failed, lost=lost)
    assert set(swarm.peers[first].group.peer_ids) == {first, second}
    assert seconds(swarm, first) <= AT_ONCE_S


def test_half_without_the_first_voter_waits_and_goes_on_as_a_fork() -> None:
    swarm, failed = swarm_with_group(4)
    *lost, third, fourth = failed.peer_ids
    retry(swarm, [third, fourth], failed, lost=lost)
    for peer_id in (third, fourth):
        assert set(swarm.peers[peer_id].group.peer_ids) == {third, fourth}
        assert seconds(swarm, peer_id) == pytest.approx(PATIENCE_S, abs=AT_ONCE_S)


def test_the_wait_ends_with_the_deadline_and_says_so() -> None:
    swarm, failed = swarm_with_group(4)
    *lost, third, fourth = failed.peer_ids
    retry(swarm, [third, fourth], failed, lost=lost, deadline_s=20.0)
    reasons = [swarm.peers[peer_id].failure.reason for peer_id in (third, fourth)]
    assert any("may have succeeded" in reason for reason in reasons)
    assert all(seconds(swarm, peer_id) == 20.0 for peer_id in (third, fourth))


def test_a_vote_is_no_abandonment() -> None:
    swarm, failed = swarm_with_group(3)
    first, second, lost = failed.peer_ids
    retry(swarm, [first, second], failed, lost=[lost], voted=(second,))
    # The second and the lost one could have committed it, for all that is known.
    assert seconds(swarm, first) == pytest.approx(PATIENCE_S, abs=AT_ONCE_S)


def test_the_rest_of_a_pair_waits_unless_it_was_first() -> None:
    for survivor_index, wait_s in ((0, 0.0), (1, PATIENCE_S)):
        swarm, failed = swarm_with_group(2)
        survivor = failed.peer_ids[survivor_index]
        lost = failed.peer_ids[1 - survivor_index]
        retry(swarm, [survivor], failed, lost=[lost])
        assert swarm.peers[survivor].group.peer_ids == (survivor,)
        assert seconds(swarm, survivor) == wait_s


def test_a_leader_that_was_not_in_the_failed_group_keeps_to_its_quorum() -> None:
    swarm = Swarm(2, 5)
    newcomer, *old = sorted(swarm.ids, key=lambda peer: rank(ROUND.parent, peer))
    swarm.seek_all(peers=old)
    swarm.run()
    failed = swarm.peers[old[0]].group
    *lost, third, fourth = failed.peer_ids
    swarm.seek(newcomer, expected=[newcomer, third, fourth], deadline_s=200.0)
    retry(swarm, [third, fourth], failed, lost=lost)
    group = swarm.peers[third].group
    assert group.leader == newcomer
    assert group.previous == failed.group_id
    assert seconds(swarm, third) == pytest.approx(PATIENCE_S, abs=1.0)


def test_whoever_was_lost_is_refused_for_the_retry() -> None:
    swarm, failed = swarm_with_group(4)
    *survivors, lost = failed.peer_ids
    swarm.seek(
        lost,
        expected=failed.peer_ids,
        previous=failed.group_id,
        abandoned=True,
        deadline_s=5.0,
    )
    # One survivor is late, so that the group is open when the lost one comes.
    late = survivors[-1]
    for peer_id in survivors:
        swarm.seek(
            peer_id,
            at_s=swarm.now_s + (0.3 if peer_id == late else 0.0),
            expected=failed.peer_ids,
            lost=[lost],
            previous=failed.group_id,
            abandoned=True,
        )
    swarm.run()
    assert set(swarm.peers[survivors[0]].group.peer_ids) == set(survivors)
    assert any("lost-last-round" in why for why in swarm.peers[lost].failure.refusals.values())


def test_whoever_was_lost_is_taken_back_where_too_few_are_left() -> None:
    swarm, failed = swarm_with_group(4)
    *survivors, one, other = failed.peer_ids
    for peer_id in failed.peer_ids:
        survives = peer_id in survivors
        swarm.seek(
            peer_id,
            at_s=swarm.now_s + (0.0 if survives else 1.0),
            expected=failed.peer_ids,
            lost=[one, other] if survives else (),
            previous=failed.group_id if survives else b"",
            abandoned=survives,
            group_size_min=3,
            deadline_s=30.0,
        )
    swarm.run()
    group = swarm.peers[survivors[0]].group
    assert set(survivors) < set(group.peer_ids)
    assert max(seconds(swarm, peer_id) for peer_id in group.peer_ids) < 3.0


def test_early_retries_wait_for_those_still_in_the_failed_group() -> None:
    swarm, failed = swarm_with_group(3)
    for index, peer_id in enumerate(reversed(failed.peer_ids)):
        # The leader comes last.
        swarm.seek(
            peer_id,
            at_s=swarm.now_s + index,
            expected=failed.peer_ids,
            previous=failed.group_id,
            abandoned=True,
        )
    begun_s = swarm.now_s
    swarm.run()
    groups = {peer.group.group_id for peer in swarm.peers.values()}
    assert len(groups) == 1
    assert {peer.ended_at_s for peer in swarm.peers.values()} != {begun_s}
    assert max(peer.ended_at_s for peer in swarm.peers.values()) <= begun_s + 2 + AT_ONCE_S
