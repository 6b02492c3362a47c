"""Offers: as many replicas as are wanted, while anybody is left to ask."""

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
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
