"""Ranks: the same for all who know the same, and nobody joins one behind itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from averaging.matchmaking.keys import rank
from averaging.matchmaking.ranking import Ranking
from p2p import PeerId

PARENT = b"p" * 32
peer_ids = st.integers(0, 255).map(lambda number: PeerId(f"{number:02x}"))


@given(st.lists(peer_ids, min_size=1, max_size=12, unique=True))
def test_all_see_the_same_leader(peers: list[PeerId]) -> None:
    leader = min(peers, key=lambda peer: rank(PARENT, peer))
    for own in peers:
        ranking = Ranking(own, PARENT, can_lead=True, ranked_last=())
        ranking.add(peers)
        assert ranking.best(0.0, besides=()) == (None if own == leader else leader)


@given(st.lists(peer_ids, min_size=2, max_size=8, unique=True), st.data())
def test_whoever_is_joined_comes_before_us(peers: list[PeerId], data: st.DataObject) -> None:
    """Whomever each ranks last, following what each joins never leads in a circle."""
    some = st.lists(st.sampled_from(peers), max_size=3)
    joins = {}
    for own in peers:
        ranked_last = [peer for peer in data.draw(some) if peer != own]
        ranking = Ranking(own, PARENT, can_lead=True, ranked_last=ranked_last)
        ranking.add(peers)
        joins[own] = ranking.best(0.0, besides=())
        assert joins[own] not in ranked_last
    for start in peers:
        peer, steps = joins[start], 0
        while peer is not None:
            peer, steps = joins[peer], steps + 1
            assert steps <= len(peers)


def test_whoever_is_ranked_last_by_others_and_itself_joins_them() -> None:
    first, second = sorted([PeerId("a"), PeerId("b")], key=lambda peer: rank(PARENT, peer))
    ranking = Ranking(first, PARENT, can_lead=True, ranked_last=())
    ranking.add([second])
    assert ranking.best(0.0, besides=()) is None
    ranking.rank_last(first)
    assert ranking.best(0.0, besides=()) == second
    # Ranked last both, the ranks decide again.
    ranking.rank_last(second)
    assert ranking.best(0.0, besides=()) is None
    assert ranking.is_ranked_last(second)


def test_a_client_takes_whom_it_can_get() -> None:
    own, other = sorted([PeerId("a"), PeerId("b")], key=lambda peer: rank(PARENT, peer))
    ranking = Ranking(own, PARENT, can_lead=False, ranked_last=[other])
    ranking.add([own, other])
    assert ranking.best(0.0, besides=()) == other
    assert ranking.best(0.0, besides=[other]) is None


def test_pauses_double_up_to_two_seconds() -> None:
    own, other = sorted(
        [PeerId("a"), PeerId("b")], key=lambda peer: rank(PARENT, peer), reverse=True
    )
    ranking = Ranking(own, PARENT, can_lead=True, ranked_last=())
    ranking.add([other])
    now_s = 0.0
    for pause_s in (0.5, 1.0, 2.0, 2.0):
        ranking.put_off_a_while(other, "busy", now_s)
        assert ranking.best(now_s, besides=()) is None
        assert ranking.next_retry_s(now_s) == now_s + pause_s
        now_s += pause_s
        assert ranking.best(now_s, besides=()) == other
        assert ranking.best(now_s, besides=(), fresh=True) is None
    ranking.on_shown(other)
    assert ranking.best(now_s, besides=(), fresh=True) == other
    ranking.put_off(other, "broke the protocol", final=True)
    ranking.on_shown(other)
    assert ranking.best(1e9, besides=()) is None
    assert ranking.reasons == {other: "broke the protocol"}
