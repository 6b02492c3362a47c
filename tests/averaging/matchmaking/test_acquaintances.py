"""What outlives a search: who fell silent, for eight rounds, and who was lost, until it is back."""

from __future__ import annotations

from dataclasses import replace

from averaging.matchmaking.acquaintances import Acquaintances, Candidate
from p2p import PeerId

ALICE, BOB = PeerId("alice"), PeerId("bob")
RECORD = Candidate(BOB, (), 60.0, sequence=7, round_number=3, bucket="01")


def test_whoever_fell_silent_is_ranked_last_for_the_next_eight_rounds() -> None:
    known = Acquaintances()
    known.on_round_begun()
    known.on_silent(BOB)
    assert known.ranked_last == (BOB,)
    for _ in range(8):
        known.on_round_begun()
        assert known.ranked_last == (BOB,)
    known.on_round_begun()
    assert known.ranked_last == ()


def test_whoever_was_lost_does_not_count_until_its_record_is_renewed() -> None:
    known = Acquaintances()
    known.on_strangers([RECORD], 0.0)
    known.on_lost([BOB])
    known.on_strangers([RECORD], 1.0)
    assert known.strangers(1.0) == ()
    known.on_strangers([replace(RECORD, sequence=8)], 2.0)
    assert known.strangers(2.0) == (BOB,)


def test_whoever_was_lost_counts_again_when_it_says_something() -> None:
    known = Acquaintances()
    known.on_lost([BOB])
    known.on_strangers([RECORD], 0.0)
    assert known.strangers(0.0) == ()
    known.on_heard(BOB)
    assert known.strangers(0.0) == (BOB,)


def test_strangers_are_told_apart_by_bucket_and_round() -> None:
    known = Acquaintances()
    known.on_strangers([RECORD, replace(RECORD, peer_id=ALICE, bucket="11")], 0.0)
    assert known.strangers(0.0) == (BOB, ALICE)
    assert known.strangers(0.0, "01") == (BOB,)
    assert known.strangers(0.0, "01", 3) == (BOB,)
    # It was last heard of in an earlier round: by now it is in another bucket.
    assert known.strangers(0.0, "01", 4) == ()
    assert known.rounds_in(0.0, "01") == {BOB: 3}
    assert known.strangers(61.0) == ()


def test_the_directory_replaces_what_was_heard_of_depths() -> None:
    known = Acquaintances()
    known.on_bucket(ALICE, "0")
    known.on_bucket(BOB, "00")
    assert list(known.depths) == [1, 2]
    known.on_directory([replace(RECORD, bucket="010")])
    assert list(known.depths) == [3]
