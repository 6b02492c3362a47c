"""The cache of reads: no answer older than its reader allows, and those in use renewed in time."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.dht.cache import Found, Name, ReadCache
from p2p.dht.reading import Sighting
from p2p.dht.record import Record

NAME: Name = ("k", None, False)


def found(value: bytes = b"v", expires_at_s: float = 1000.0) -> Found:
    return {None: Sighting(Record(key="k", subkey=None, value=value), expires_at_s)}


def test_each_reader_says_how_old_an_answer_may_be() -> None:
    cache = ReadCache()
    assert cache.get(NAME, max_age_s=10, now_s=0.0) is None
    cache.on_read(NAME, found(), 0.0)
    assert cache.get(NAME, max_age_s=10, now_s=10.0) == found()
    assert cache.get(NAME, max_age_s=9, now_s=10.0) is None
    assert cache.get(NAME, max_age_s=0, now_s=0.0) is None
    assert cache.get(("k", "s", False), max_age_s=10, now_s=1.0) is None


def test_that_nothing_was_found_is_remembered_too() -> None:
    cache = ReadCache()
    cache.on_read(NAME, {}, 0.0)
    assert cache.get(NAME, max_age_s=5, now_s=5.0) == {}
    assert cache.get(NAME, max_age_s=5, now_s=5.1) is None


def test_nothing_outlives_its_record() -> None:
    cache = ReadCache()
    cache.on_read(NAME, found(expires_at_s=3.0), 0.0)
    assert cache.get(NAME, max_age_s=10, now_s=2.9) is not None
    assert cache.get(NAME, max_age_s=10, now_s=3.0) is None


def test_what_is_in_use_is_due_before_it_is_too_old() -> None:
    cache = ReadCache()
    cache.on_read(NAME, found(), 0.0)
    assert cache.deadline_s is None
    cache.get(NAME, max_age_s=20, now_s=1.0)
    assert cache.deadline_s == 19.0
    cache.get(NAME, max_age_s=2, now_s=1.0)
    assert cache.deadline_s == 1.5
    assert cache.due(1.4) == []
    assert cache.due(1.5) == [NAME]
    # Once only, until somebody uses what was read.
    assert cache.due(30.0) == []
    assert cache.deadline_s is None


def test_what_is_in_use_is_due_before_it_expires() -> None:
    cache = ReadCache()
    cache.on_read(NAME, found(expires_at_s=8.0), 0.0)
    cache.get(NAME, max_age_s=20, now_s=1.0)
    assert cache.deadline_s == 7.0


def test_what_we_wrote_is_read_anew() -> None:
    cache = ReadCache()
    for name in (("k", "s", False), ("k", None, True), ("k", None, False)):
        cache.on_read(name, {}, 0.0)
    cache.on_written("k", "s", 0.0)
    assert cache.get(("k", "s", False), max_age_s=9, now_s=1.0) is None
    assert cache.get(("k", None, True), max_age_s=9, now_s=1.0) is None
    assert cache.get(("k", None, False), max_age_s=9, now_s=1.0) == {}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000)), max_size=80))
def test_the_cache_is_bounded(reads: list[tuple[int, int]]) -> None:
    cache = ReadCache(entries_max=5, size_bytes_max=6000)
    for number, (index, size) in enumerate(reads):
        name: Name = (f"k{index}", None, False)
        cache.on_read(name, found(bytes(size)), float(number))
        assert cache.get(name, max_age_s=1, now_s=float(number)) is not None
        assert len(cache) <= 5
        assert 0 < cache.size_bytes <= 6000
    for index in range(21):
        cache.forget((f"k{index}", None, False))
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_what_was_asked_before_our_own_write_is_not_kept() -> None:
    cache = ReadCache()
    for name in (("k", "s", False), ("k", None, True)):
        cache.on_written("k", "s", 5.0)
        cache.on_read(name, found(b"old"), 4.9)
        assert cache.get(name, max_age_s=30, now_s=6.0) is None
        cache.on_read(name, found(b"new"), 5.0)
        assert cache.get(name, max_age_s=30, now_s=6.0) is not None
    cache.on_read(("k", "other", False), found(), 4.9)
    assert cache.get(("k", "other", False), max_age_s=30, now_s=6.0) is not None


def test_the_memory_of_writes_is_bounded() -> None:
    cache = ReadCache(entries_max=2)
    for number in range(5):
        cache.on_written(f"k{number}", None, float(number))
    # Of which were forgotten is not known: what was asked before any of them may be old.
    cache.on_read(("k0", None, False), found(), -1.0)
    assert len(cache) == 0
    cache.on_read(("k0", None, False), found(), 5.0)
    assert len(cache) == 1
