"""The median clock: a few liars do not move it."""

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.skew import MedianClock


def test_without_peers_our_own_clock_is_right() -> None:
    assert MedianClock().offset_s == 0.0


def test_the_newest_word_of_each_peer_counts() -> None:
    clock = MedianClock()
    clock.on_answer(PeerId("a"), 5000.0, 1000.0)
    assert clock.offset_s == 4000.0
    clock.on_answer(PeerId("a"), 1001.0, 1000.0)
    assert clock.offset_s == 1.0


@given(
    st.lists(st.floats(-60, 60), min_size=5, max_size=40),
    st.lists(st.floats(-1e9, 1e9), max_size=2),
)
def test_a_minority_of_liars_stays_within_the_honest(
    honest: list[float], lies: list[float]
) -> None:
    clock = MedianClock()
    for index, offset_s in enumerate(honest + lies):
        clock.on_answer(PeerId(f"peer{index}"), 1e6 + offset_s, 1e6)
    assert min(honest) - 1e-6 <= clock.offset_s <= max(honest) + 1e-6


def test_the_number_of_peers_remembered_is_bounded() -> None:
    clock = MedianClock()
    for index in range(1000):
        clock.on_answer(PeerId(f"peer{index}"), float(index), 0.0)
    assert clock.offset_s > 900
