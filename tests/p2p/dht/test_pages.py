"""Pages of a dictionary: each subkey once, the signed ones before what a stranger can add."""

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.key import record_key
from p2p.dht.pages import BYTES_MAX, PAGES_MAX, RECORDS_MAX, Pages
from p2p.dht.record import OWNED_PREFIX, Record
from p2p.dht.schema import PAGE_BYTES_MAX
from p2p.dht.store import DICTIONARY_BYTES_MAX, RecordStore, StoreLimits

KEY = record_key("k")
subkeys = st.sampled_from(("!", "a", OWNED_PREFIX, "q")).flatmap(
    lambda start: st.integers(0, 30).map(lambda number: f"{start}{number:02}")
)


def filled(names: set[str]) -> RecordStore:
    store = RecordStore(StoreLimits())
    for name in sorted(names):
        record = Record(
            key="k", subkey=name, value=b"", sequence=1, life_ms=60_000 * name.startswith("peer:")
        )
        store.put(record, remaining_s=60, source=PeerId("alice"), now_s=0.0)
    return store


def turned(store: RecordStore, page_records: int) -> list[list[str]]:
    """The pages as a reader turns them."""
    pages, read = Pages(), []
    while True:
        held, more = store.dictionary(KEY, pages.after, 10**9, 0.0)
        more = more or len(held) > page_records
        read.append([str(one.record.subkey) for one in held[:page_records]])
        if not pages.on_page(((name, 1) for name in read[-1]), more=more):
            assert pages.is_complete
            return read


@settings(max_examples=50)
@given(st.sets(subkeys, max_size=40), st.integers(1, 15))
def test_all_is_read_and_the_signed_after_the_first_page(
    names: set[str], page_records: int
) -> None:
    read = turned(filled(names), page_records)
    assert {name for page in read for name in page} == names
    unsigned = [name for name in sorted(names) if name < OWNED_PREFIX]
    owned = [name for name in sorted(names) if name >= OWNED_PREFIX]
    if len(unsigned) >= page_records:
        after_first = [name for page in read[1:] for name in page]
        assert after_first[: len(owned)] == owned
    # A part of a page is the price, and only of what does not fit into one.
    assert len(read) <= max(1, -(-len(names) // page_records)) + 2


def test_what_fits_into_a_page_takes_one() -> None:
    names = {"!a", "peer:a", "q"}
    assert turned(filled(names), 3) == [sorted(names)]
    assert turned(filled(set()), 3) == [[]]


def test_the_fullest_key_of_an_honest_holder_is_read_whole() -> None:
    for value_bytes_max in (StoreLimits().value_bytes_max, 32_768):
        largest = Record(key="k" * 256, subkey="s" * 128, value=bytes(value_bytes_max)).size_bytes
        pages = -(-DICTIONARY_BYTES_MAX // (PAGE_BYTES_MAX - largest))
        assert pages + 2 <= PAGES_MAX
    assert DICTIONARY_BYTES_MAX < BYTES_MAX
    assert StoreLimits().subkeys_per_key_max < RECORDS_MAX


def cut_off_after(sizes_bytes: list[int], names_per_page: int) -> int:
    """How many pages of these are turned, when more are promised each time."""
    pages = Pages()
    for number, size_bytes in enumerate(sizes_bytes):
        names = [f"q{number:05}-{index:05}" for index in range(names_per_page)]
        if not pages.on_page(((name, size_bytes) for name in names), more=True):
            assert not pages.is_complete
            return number + 1
    raise AssertionError("never cut off")


def test_who_pages_on_for_ever_is_cut_off() -> None:
    assert cut_off_after([1] * 1000, 1) == PAGES_MAX
    assert cut_off_after([1] * 1000, 512) == RECORDS_MAX // 512
    assert cut_off_after([250_000] * 1000, 1) == -(-BYTES_MAX // 250_000)
    # The same page again is no progress.
    pages = Pages()
    assert pages.on_page([("q", 1)], more=True)
    assert not pages.on_page([("q", 1)], more=True)
    assert not pages.is_complete
