"""The pace of an aggregator that others have relieved of its work."""

from averaging.allreduce.pace import Pace


def test_an_aggregator_whose_pieces_all_went_to_others_waits_for_nobody() -> None:
    pace = Pace({"alice": 1.0}, grace_s=1.0, start_patience_s=10.0, allowed_s_max=10.0)
    for now_s in range(10):
        slow = pace.on_tick(
            float(now_s), missing=(), awaited=(), delivered={"alice": 3}, chunk_count=0
        )
        assert slow == {}
