"""The store: merging, expiry, replay, and every limit."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.key import record_key
from p2p.dht.record import CLOCK_SLACK_S, Record, owned_subkey
from p2p.dht.store import (
    DICTIONARY_BYTES_MAX,
    RecordStore,
    StoreCode,
    StoreLimits,
    StoreResult,
)

ALICE = PeerId("alice")
MALLORY = PeerId("mallory")
KEY = record_key("k")


def plain(value: bytes = b"v", subkey: str | None = None, key: str = "k") -> Record:
    return Record(key=key, subkey=subkey, value=value)


def signed(value: bytes = b"v", sequence: int = 1, life_s: float = 60.0) -> Record:
    # The store trusts its validators: an empty signature will do.
    return Record(
        key="k",
        subkey=owned_subkey(ALICE),
        value=value,
        sequence=sequence,
        life_ms=int(life_s * 1000),
    )


def put(
    store: RecordStore,
    record: Record,
    *,
    remaining_s: float = 60.0,
    source: PeerId = ALICE,
    now_s: float = 0.0,
) -> StoreResult:
    return store.put(record, remaining_s=remaining_s, source=source, now_s=now_s)


def value_of(store: RecordStore, subkey: str | None = None, now_s: float = 0.0) -> bytes | None:
    held = store.get(KEY, subkey, now_s)
    return held.record.value if held is not None else None


def test_a_record_lives_until_it_expires() -> None:
    store = RecordStore(StoreLimits())
    assert put(store, plain()).code is StoreCode.STORED
    assert value_of(store, now_s=59.9) == b"v"
    assert value_of(store, now_s=60.0) is None
    store.expire(60.0)
    assert len(store) == 0
    assert store.size_bytes == 0


def test_subkeys_expire_one_by_one_beside_the_plain_value() -> None:
    store = RecordStore(StoreLimits())
    put(store, plain(b"0"))
    put(store, plain(b"1", "a"), remaining_s=10.0)
    put(store, plain(b"2", "b"), remaining_s=20.0)
    assert [h.record.value for h in store.dictionary(KEY, "", 10**6, 0.0)[0]] == [b"1", b"2"]
    assert [h.record.value for h in store.dictionary(KEY, "", 10**6, 10.0)[0]] == [b"2"]
    assert value_of(store, now_s=30.0) == b"0"


def test_a_dictionary_comes_in_pages() -> None:
    store = RecordStore(StoreLimits())
    for index in range(10):
        put(store, plain(bytes(100), f"s{index}"))
    seen: list[str | None] = []
    after, more = "", True
    while more:
        page, more = store.dictionary(KEY, after, 1000, 0.0)
        assert 0 < len(page) <= 3
        seen += [held.record.subkey for held in page]
        after = seen[-1] or ""
    assert seen == [f"s{index}" for index in range(10)]


@given(st.permutations(range(5)), st.booleans())
def test_the_order_of_arrival_does_not_matter(order: list[int], is_signed: bool) -> None:
    store = RecordStore(StoreLimits())
    for rank in order:
        if is_signed:
            put(store, signed(bytes([rank]), rank + 1), remaining_s=60.0 - rank)
        else:
            put(store, plain(bytes([rank])), remaining_s=50.0 + rank)
    assert value_of(store, owned_subkey(ALICE) if is_signed else None) == bytes([4])


def test_an_older_one_is_told_so() -> None:
    store = RecordStore(StoreLimits())
    put(store, signed(sequence=9))
    assert put(store, signed(sequence=8)) == StoreResult(StoreCode.OLDER, 9)
    put(store, plain(b"b"))
    assert put(store, plain(b"a"), remaining_s=59.0).code is StoreCode.OLDER


def test_a_signed_record_never_outlives_its_first_arrival_plus_its_life() -> None:
    store = RecordStore(StoreLimits())
    put(store, signed(life_s=60.0), remaining_s=10.0)
    # Each holder passes on what is left; a liar passes on more.
    for now_s in range(0, 60, 5):
        assert put(store, signed(life_s=60.0), remaining_s=60.0, now_s=now_s).code is (
            StoreCode.STORED
        )
    assert value_of(store, owned_subkey(ALICE), 59.0) == b"v"
    assert value_of(store, owned_subkey(ALICE), 60.0) is None
    assert put(store, signed(life_s=60.0), now_s=61.0).code is StoreCode.OLDER


def test_a_short_lived_copy_does_not_kill_the_true_one() -> None:
    store = RecordStore(StoreLimits())
    put(store, signed(life_s=60.0), remaining_s=0.001)
    assert put(store, signed(life_s=60.0), remaining_s=50.0, now_s=5.0).code is StoreCode.STORED
    assert value_of(store, owned_subkey(ALICE), 54.0) == b"v"


def test_an_expired_sequence_is_remembered_for_a_while() -> None:
    store = RecordStore(StoreLimits())
    put(store, signed(sequence=9, life_s=60.0))
    store.expire(61.0)
    assert len(store) == 0
    assert put(store, signed(sequence=8), now_s=62.0) == StoreResult(StoreCode.OLDER, 9)
    assert put(store, signed(sequence=10), now_s=62.0).code is StoreCode.STORED
    late_s = 62.0 + 60.0 + CLOCK_SLACK_S
    store.expire(late_s)
    store.expire(late_s + CLOCK_SLACK_S + 60.0)
    assert put(store, signed(sequence=1), now_s=late_s + CLOCK_SLACK_S + 61).code is (
        StoreCode.STORED
    )


def test_passing_an_unsigned_record_on_does_not_prolong_it() -> None:
    store = RecordStore(StoreLimits())
    put(store, plain(), remaining_s=60.0)
    for step in range(100):
        put(store, plain(), remaining_s=60.5 - step / 2, now_s=step / 2)
    assert value_of(store, now_s=60.0) is None
    put(store, plain(), remaining_s=60.0, now_s=61.0)
    put(store, plain(), remaining_s=60.0, now_s=71.0)
    assert value_of(store, now_s=130.0) == b"v"


@pytest.mark.parametrize(
    ("record", "remaining_s", "reason"),
    [
        (plain(bytes(101)), 1.0, "larger"),
        (plain(), 0.0, "may live"),
        (plain(), 86_401.0, "may live"),
        (signed(life_s=60.0), 61.0, "may live"),
        (plain(key=""), 1.0, "key"),
        (plain(key="k" * 257), 1.0, "key"),
        (plain(subkey="s" * 129), 1.0, "subkey"),
    ],
)
def test_limits_of_one_record(record: Record, remaining_s: float, reason: str) -> None:
    result = put(RecordStore(StoreLimits(value_bytes_max=100)), record, remaining_s=remaining_s)
    assert result.code is StoreCode.REFUSED
    assert reason in result.reason


def test_a_key_holds_only_so_many_bytes_and_unsigned_ones_give_way() -> None:
    store = RecordStore(StoreLimits())
    count = 0
    while put(store, plain(bytes(16_000), f"s{count:03}"), remaining_s=60.0 - count / 10).code is (
        StoreCode.STORED
    ):
        count += 1
    assert store.size_bytes <= DICTIONARY_BYTES_MAX < store.size_bytes + 17_000
    assert "bytes, as many as it may" in put(store, plain(bytes(16_000), "more")).reason
    # Other keys are not concerned.
    assert put(store, plain(bytes(16_000), key="other")).code is StoreCode.STORED
    # The signed one takes the place of those that would go first, of as few as it needs.
    assert put(store, signed(bytes(16_000))).code is StoreCode.STORED
    assert value_of(store, owned_subkey(ALICE)) is not None
    assert value_of(store, f"s{count - 1:03}") is None
    assert value_of(store, f"s{count - 3:03}") is not None


def test_a_full_dictionary_prefers_signed_subkeys() -> None:
    store = RecordStore(StoreLimits(subkeys_per_key_max=3))
    for index in range(3):
        put(store, plain(subkey=f"s{index}"), remaining_s=60.0 - index)
    assert put(store, plain(subkey="s3")).code is StoreCode.REFUSED
    assert put(store, plain(subkey="s1", value=b"w"), remaining_s=70.0).code is StoreCode.STORED
    assert put(store, signed()).code is StoreCode.STORED
    held, _ = store.dictionary(KEY, "", 10**6, 0.0)
    assert [item.record.subkey for item in held] == [owned_subkey(ALICE), "s0", "s1"]


def test_one_peer_brings_a_bounded_number() -> None:
    store = RecordStore(StoreLimits(records_per_peer_max=2))
    assert put(store, plain(key="1"), source=MALLORY).code is StoreCode.STORED
    assert put(store, plain(key="2"), source=MALLORY).code is StoreCode.STORED
    assert put(store, plain(key="3"), source=MALLORY).code is StoreCode.REFUSED
    assert put(store, plain(key="2", value=b"w"), source=MALLORY).code is StoreCode.STORED
    assert put(store, plain(key="3"), source=ALICE).code is StoreCode.STORED


def test_a_flood_displaces_itself_only() -> None:
    store = RecordStore(StoreLimits(total_bytes_max=10_000))
    for index in range(1000):
        put(store, plain(key=f"flood{index}"), source=MALLORY)
    assert store.size_bytes <= 10_000
    for index in range(10):
        assert put(store, plain(key=f"k{index}"), source=ALICE).code is StoreCode.STORED
    for index in range(1000):
        put(store, plain(key=f"more{index}"), source=MALLORY)
    assert store.size_bytes <= 10_000
    assert all(store.get(record_key(f"k{index}"), None, 0.0) for index in range(10))


def test_a_sweep_is_bounded_and_goes_round() -> None:
    store = RecordStore(StoreLimits(records_per_peer_max=10_000))
    for index in range(6000):
        put(store, plain(key=f"k{index}"))
    store.expire(100.0)
    assert 0 < len(store) < 6000
    store.expire(100.0)
    assert len(store) == 0


@given(st.integers())
def test_the_books_balance(seed: int) -> None:
    rng = random.Random(seed)
    store = RecordStore(
        StoreLimits(total_bytes_max=5000, subkeys_per_key_max=4, records_per_peer_max=8)
    )
    for step in range(200):
        record = rng.choice(
            [
                plain(
                    rng.randbytes(rng.randrange(50)),
                    rng.choice([None, "a", "b", "c", "d"]),
                    rng.choice("kxyz"),
                ),
                signed(rng.randbytes(5), rng.randrange(1, 9)),
            ]
        )
        remaining_s = rng.uniform(0.1, 60.0)
        source = PeerId(rng.choice("abc"))
        store.put(record, remaining_s=remaining_s, source=source, now_s=step)
        if rng.random() < 0.1:
            store.expire(step)
        held = [item for _, _, items in store.living(-1.0) for item in items]
        assert len(store) == len(held)
        assert store.size_bytes == sum(item.record.size_bytes for item in held) <= 5000


@pytest.mark.parametrize(
    "options",
    [{"value_bytes_max": 40_000}, {"subkeys_per_key_max": 0}, {"ttl_s_max": 10.0}],
)
def test_limits_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|is from"):
        StoreLimits(**options)  # type: ignore[arg-type]
