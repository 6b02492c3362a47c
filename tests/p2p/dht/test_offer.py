"""Offers: as many replicas as are wanted, while anybody is left to ask."""

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.contact import Contact
from p2p.dht.offer import Offer
from p2p.dht.store import StoreCode

answers = st.sampled_from([StoreCode.STORED, StoreCode.OLDER, StoreCode.REFUSED, None])


@given(st.lists(answers, max_size=12), st.integers(1, 5))
def test_places_are_filled_in_order_until_nobody_is_left(
    answers: list[StoreCode | None], replicas: int
) -> None:
    peers = [PeerId(f"peer{index:02}") for index in range(len(answers))]
    says = dict(zip(peers, answers, strict=True))
    offer = Offer(peers, replicas=replicas)
    asked: list[PeerId] = []
    while batch := offer.next_peers():
        assert len(batch) <= replicas
        asked += batch
        for peer_id in batch:
            code = says[peer_id]
            if code is None:
                offer.on_failure(peer_id, "gone")
            else:
                offer.on_answer(peer_id, code, 7 if code is StoreCode.OLDER else 0, "no")
    assert asked == peers[: len(asked)]
    good = [says[one] for one in asked if says[one] in (StoreCode.STORED, StoreCode.OLDER)]
    assert len(good) == replicas or asked == peers
    assert len(good) <= replicas
    report = offer.report(9)
    assert (report.replicas, report.newer) == (
        good.count(StoreCode.STORED),
        good.count(StoreCode.OLDER),
    )
    assert offer.newer_sequence == (7 if report.newer else 0)
    assert set(report.refused) == set(asked) - {
        one for one in asked if says[one] in (StoreCode.STORED, StoreCode.OLDER)
    }
    assert report.sequence == 9


def test_who_is_late_gives_its_place_but_may_still_confirm() -> None:
    alice, bob, carol = PeerId("alice"), PeerId("bob"), PeerId("carol")
    offer = Offer([alice, bob, carol], replicas=2)
    assert offer.next_peers() == [alice, bob]
    offer.on_answer(alice, StoreCode.STORED, 0, "")
    offer.on_late(bob)
    assert not offer.settled
    assert offer.next_peers() == [carol]
    offer.on_answer(carol, StoreCode.STORED, 0, "")
    assert offer.settled
    assert offer.next_peers() == []
    assert offer.report(0).refused == {bob: "no answer in time"}
    offer.on_answer(bob, StoreCode.STORED, 0, "")
    offer.on_answer(bob, StoreCode.STORED, 0, "")
    report = offer.report(0)
    assert (report.replicas, report.refused) == (3, {})


def test_the_last_one_left_is_waited_for() -> None:
    alice = PeerId("alice")
    offer = Offer([alice], replicas=2)
    offer.next_peers()
    offer.on_late(alice)
    assert not offer.settled
    offer.on_failure(alice, "gone")
    assert offer.settled
    assert offer.report(0).replicas == 0


def test_who_said_nothing_is_known() -> None:
    alice, bob, carol, dave = (
        Contact(PeerId(name), 0) for name in ("alice", "bob", "carol", "dave")
    )
    offer = Offer([alice.peer_id, bob.peer_id, carol.peer_id], replicas=3)
    offer.next_peers()
    offer.on_answer(alice.peer_id, StoreCode.STORED, 0, "")
    offer.on_answer(bob.peer_id, StoreCode.REFUSED, 0, "no room")
    offer.on_failure(carol.peer_id, "silent")
    assert offer.unheard([alice, bob, carol, dave]) == [carol, dave]
