"""Keepalive: whom silence makes lost, when, and whom nothing does."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.host.keepalive import LOST_BEATS, PING_BEATS, WATCHED_LOST_BEATS, Beat, Keepalive

watching = st.lists(st.booleans(), min_size=60, max_size=60)


def beats_until_lost(kept: Keepalive, watched: list[bool]) -> int:
    """How many beats of silence it takes."""
    for count, is_watched in enumerate(watched, start=1):
        if kept.on_beat(watched=is_watched) is Beat.LOST:
            return count
    raise AssertionError("never noticed")


@given(st.integers(0, 40), watching, watching)
def test_silence_is_noticed_in_the_stated_time_whoever_watches_meanwhile(
    before: int, watched_before: list[bool], watched: list[bool]
) -> None:
    kept = Keepalive()
    for is_watched in watched_before[:before]:
        assert kept.on_beat(watched=is_watched) is not Beat.LOST
        kept.on_heard()
    # The last byte came just before the first of these beats.
    assert WATCHED_LOST_BEATS + 1 <= beats_until_lost(kept, watched) <= LOST_BEATS + PING_BEATS


@given(st.integers(0, 40))
def test_it_takes_fifteen_to_twenty_beats_or_six_while_watched(before: int) -> None:
    for watched, soonest, latest in (
        (False, LOST_BEATS + 1, LOST_BEATS + PING_BEATS),
        (True, WATCHED_LOST_BEATS + 1, WATCHED_LOST_BEATS + 1),
    ):
        kept = Keepalive()
        for _ in range(before):
            kept.on_beat(watched=watched)
            kept.on_heard()
        assert soonest <= beats_until_lost(kept, [watched] * 60) <= latest


@given(watching, st.lists(st.integers(1, WATCHED_LOST_BEATS), min_size=20, max_size=20))
def test_who_answers_within_five_beats_is_never_lost(
    watched: list[bool], pauses: list[int]
) -> None:
    kept, heard_in = Keepalive(), iter(pauses)
    left = next(heard_in)
    for is_watched in watched:
        assert kept.on_beat(watched=is_watched) is not Beat.LOST
        left -= 1
        if not left:
            kept.on_heard()
            left = next(heard_in, 1)


def test_pings_come_at_every_fifth_beat_and_at_each_while_watched() -> None:
    kept = Keepalive()
    beats = []
    for number in range(20):
        beats.append(kept.on_beat(watched=10 <= number < 15))
        kept.on_heard()
    pinged = [number for number, beat in enumerate(beats, start=1) if beat is Beat.PING]
    assert pinged == [5, 10, 11, 12, 13, 14, 15, 20]
