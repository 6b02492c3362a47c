"""Records: who may write them, which is newer, and how far a replay gets."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Identity, RecordInvalid
from p2p.dht.record import (
    CLOCK_SLACK_S,
    SEQUENCE_MAX,
    Record,
    Sequencer,
    check_age,
    check_signature,
    owned_subkey,
    owner_of,
    sign_record,
    signed_bytes,
    supersedes,
)

ALICE = Identity.generate(random.Random(1))
BOB = Identity.generate(random.Random(2))
NOW_S = 1.8e9


def plain(value: bytes = b"v", subkey: str | None = None) -> Record:
    return Record(key="k", subkey=subkey, value=value)


def signed(
    value: bytes = b"v",
    sequence: int = 7,
    *,
    owner: Identity = ALICE,
    life_ms: int = 60_000,
    at_s: float = NOW_S,
) -> Record:
    record = Record(
        key="k",
        subkey=owned_subkey(owner.peer_id),
        value=value,
        sequence=sequence,
        life_ms=life_ms,
        signed_at_ms=int(at_s * 1000),
    )
    return sign_record(record, owner)


def test_the_owner_is_in_the_subkey() -> None:
    assert owner_of(owned_subkey(ALICE.peer_id)) == ALICE.peer_id
    assert owner_of("alice") is None
    assert owner_of(None) is None
    assert signed().owner == ALICE.peer_id
    assert plain().owner is None


def test_a_good_signature_passes() -> None:
    check_signature(signed())
    check_signature(plain())


@pytest.mark.parametrize(
    "change",
    [
        {"key": "other"},
        {"subkey": owned_subkey(BOB.peer_id)},
        {"value": b"other"},
        {"sequence": 8},
        {"life_ms": 60_001},
        {"signed_at_ms": 1},
        {"signature": b""},
        {"signature": bytes(64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_breaks_the_signature(change: dict[str, object]) -> None:
    with pytest.raises(RecordInvalid):
        check_signature(replace(signed(), **change))  # type: ignore[arg-type]


def test_a_signature_of_another_peer_is_no_use() -> None:
    forged = replace(signed(), signature=BOB.sign(signed_bytes(signed())))
    with pytest.raises(RecordInvalid, match="owner"):
        check_signature(forged)


def test_an_owned_subkey_that_names_nobody_is_refused() -> None:
    with pytest.raises(RecordInvalid, match="names no peer"):
        check_signature(replace(signed(), subkey="peer:nobody"))


@pytest.mark.parametrize("life_ms", [0, 3_600_001])
def test_a_signed_life_is_at_most_an_hour(life_ms: int) -> None:
    with pytest.raises(RecordInvalid, match="lives at most"):
        check_signature(signed(life_ms=life_ms))


@pytest.mark.parametrize("sequence", [0, SEQUENCE_MAX + 1])
def test_a_sequence_is_in_range(sequence: int) -> None:
    with pytest.raises(RecordInvalid, match="sequence"):
        check_signature(signed(sequence=sequence))


def test_what_anyone_may_write_carries_no_signature() -> None:
    for change in ({"signature": bytes(64)}, {"sequence": 1}, {"life_ms": 1}, {"signed_at_ms": 1}):
        with pytest.raises(RecordInvalid):
            check_signature(replace(plain(subkey="free"), **change))


def test_age_is_bounded_on_both_sides() -> None:
    record = signed(life_ms=60_000, at_s=NOW_S)
    check_age(record, NOW_S + 60 + CLOCK_SLACK_S - 1)
    check_age(record, NOW_S - CLOCK_SLACK_S + 1)
    with pytest.raises(RecordInvalid, match="longer than it may live"):
        check_age(record, NOW_S + 60 + CLOCK_SLACK_S + 1)
    with pytest.raises(RecordInvalid, match="in the future"):
        check_age(record, NOW_S - CLOCK_SLACK_S - 1)
    check_age(plain(), NOW_S)


def test_the_higher_sequence_wins_whatever_the_expiry() -> None:
    assert supersedes(signed(sequence=8), 10.0, signed(sequence=7), 99.0)
    assert not supersedes(signed(sequence=6), 99.0, signed(sequence=7), 10.0)


def test_the_later_expiry_wins_when_nobody_signs() -> None:
    assert supersedes(plain(b"a"), 11.0, plain(b"b"), 10.0)
    assert not supersedes(plain(b"b"), 10.0, plain(b"a"), 11.0)


@given(
    st.booleans(),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.binary(max_size=2),
    st.binary(max_size=2),
)
def test_of_two_different_records_exactly_one_wins(
    is_signed: bool, ranks: tuple[int, int], left: bytes, right: bytes
) -> None:
    if is_signed:
        a, b = signed(left, ranks[0]), signed(right, ranks[1])
        wins = [supersedes(a, 1.0, b, 1.0), supersedes(b, 1.0, a, 1.0)]
    else:
        a, b = plain(left), plain(right)
        wins = [supersedes(a, ranks[0], b, ranks[1]), supersedes(b, ranks[1], a, ranks[0])]
    same = left == right and ranks[0] == ranks[1]
    assert sum(wins) == (0 if same else 1)


@given(st.lists(st.floats(0, 2e9), min_size=1, max_size=20), st.integers(0, 2**41))
def test_numbers_only_go_up(walls_s: list[float], floor: int) -> None:
    sequencer = Sequencer(floor)
    numbers = [floor, *(sequencer.next(wall_s) for wall_s in walls_s)]
    assert all(later > earlier for earlier, later in itertools.pairwise(numbers))


def test_a_restarted_owner_goes_on_from_what_holders_have_seen() -> None:
    sequencer = Sequencer()
    seen = int(NOW_S * 1000) + 5000
    sequencer.on_seen_untrusted(seen, NOW_S)
    assert sequencer.next(NOW_S) == seen + 1


def test_a_liar_cannot_use_up_the_numbers() -> None:
    sequencer = Sequencer()
    sequencer.on_seen_untrusted(SEQUENCE_MAX, NOW_S)
    assert sequencer.next(NOW_S) == int(NOW_S * 1000)


def test_what_is_signed_never_changes() -> None:
    # Recorded bytes: a change here makes all signatures of older versions void.
    record = Record(
        key="run/progress", subkey="peer:x", value=b"\x01", sequence=2, life_ms=3, signed_at_ms=4
    )
    assert signed_bytes(record).hex() == (
        b"manyhands/dht/record/1\0".hex() + "96ac72756e2f70726f6772657373a6706565723a78c40101020304"
    )
