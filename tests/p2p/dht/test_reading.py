"""Reading: the newest per subkey wins, one bad subkey spoils nothing, laggards are noticed."""

from p2p import PeerId
from p2p.dht.reading import Reading, Sighting
from p2p.dht.record import Record

ALICE, BOB = PeerId("alice"), PeerId("bob")


def signed(subkey: str, sequence: int, *, left_s: float = 10.0) -> Sighting:
    record = Record(
        key="k",
        subkey=f"peer:{subkey}",
        value=b"%d" % sequence,
        sequence=sequence,
        life_ms=60_000,
    )
    return Sighting(record, left_s)


def plain(value: bytes, left_s: float) -> Sighting:
    return Sighting(Record(key="k", subkey=None, value=value), left_s)


def test_the_newest_of_all_replicas_wins() -> None:
    reading = Reading()
    reading.on_answer(ALICE, [signed("a", 2), signed("b", 1)])
    reading.on_answer(BOB, [signed("a", 1), signed("b", 5), signed("c", 1)])
    values = {subkey: s.record.value for subkey, s in reading.newest(0.0).items()}
    assert values == {"peer:a": b"2", "peer:b": b"5", "peer:c": b"1"}


def test_unsigned_values_go_by_expiry() -> None:
    reading = Reading()
    reading.on_answer(ALICE, [plain(b"old", 5.0)])
    reading.on_answer(BOB, [plain(b"new", 9.0)])
    assert reading.newest(0.0)[None].record.value == b"new"
    assert reading.newest(9.0) == {}


def test_of_equal_copies_the_one_with_more_life_is_believed() -> None:
    reading = Reading()
    reading.on_answer(ALICE, [signed("a", 2, left_s=5.0)])
    reading.on_answer(BOB, [signed("a", 2, left_s=8.0)])
    assert reading.newest(0.0)["peer:a"].expires_at_s == 8.0


def test_a_laggard_lacks_what_is_missing_or_old() -> None:
    reading = Reading()
    reading.on_answer(ALICE, [signed("a", 2), signed("b", 1)])
    reading.on_answer(BOB, [signed("a", 1)])
    assert [s.record.sequence for s in reading.lacked_by(BOB, 0.0)] == [2, 1]
    assert reading.lacked_by(ALICE, 0.0) == []
    assert reading.lacked_by(PeerId("carol"), 0.0) == []


def test_what_was_put_just_now_is_lacked_by_nobody_yet() -> None:
    reading = Reading()
    reading.on_answer(ALICE, [signed("a", 2, left_s=59.0)])
    reading.on_answer(BOB, [])
    assert reading.lacked_by(BOB, 0.0) == []
    assert len(reading.lacked_by(BOB, 40.0)) == 1
