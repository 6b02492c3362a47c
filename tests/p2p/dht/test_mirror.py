"""Dictionaries by difference: a reader that is sent changes only knows what a full read tells."""

from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from p2p import PeerId
from p2p.dht import owned_subkey, schema
from p2p.dht.key import key_to_bytes, record_key
from p2p.dht.mirror import Cursor, DictionaryMirrors
from p2p.dht.reading import Sighting
from p2p.dht.record import Record
from p2p.dht.store import RecordStore, StoreLimits
from tests.p2p.dht.swarms import open_swarm

ALICE, BOB = PeerId("alice"), PeerId("bob")
KEY = record_key("k")


def sighting(subkey: str, value: bytes = b"v", expires_at_s: float = 60.0) -> Sighting:
    return Sighting(Record(key="k", subkey=subkey, value=value), expires_at_s)


def read(mirrors: DictionaryMirrors, store: RecordStore, now_s: float) -> dict[str, Sighting]:
    """What a reader knows after asking a replica for what changed."""
    known = mirrors.cursor(ALICE, KEY)
    same = known is not None and known.boot == store.boot and known.change <= store.change
    since = known.change if known is not None and same else 0
    page, more = store.dictionary(KEY, "", 10**9, now_s, since=since)
    assert not more
    sent = [Sighting(held.record, held.expires_at_s) for held in page]
    held_now = mirrors.on_answer(ALICE, KEY, Cursor(store.boot, store.change), sent, now_s)
    return {str(one.record.subkey): one for one in held_now if one.expires_at_s > now_s}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.integers(1, 60)),
        st.tuples(st.just("sleep"), st.just(0), st.integers(1, 30)),
        st.tuples(st.just("read"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_reading_changes_equals_reading_all(steps: list[tuple[str, int, int]]) -> None:
    store = RecordStore(StoreLimits(), boot=1)
    mirrors = DictionaryMirrors()
    now_s = 0.0
    for number, (step, slot, amount) in enumerate([*steps, ("read", 0, 0)]):
        if step == "put":
            record = Record(key="k", subkey=f"s{slot}", value=b"%d" % number)
            store.put(record, remaining_s=amount, source=ALICE, now_s=now_s)
        elif step == "sleep":
            now_s += amount
        elif step == "restart":
            store = RecordStore(StoreLimits(), boot=store.boot + 1)
        else:
            page, _ = store.dictionary(KEY, "", 10**9, now_s)
            expected = {h.record.subkey: Sighting(h.record, h.expires_at_s) for h in page}
            assert read(mirrors, store, now_s) == expected


def test_only_changes_are_sent() -> None:
    store = RecordStore(StoreLimits())
    for index in range(256):
        record = Record(key="k", subkey=f"s{index}", value=b"v")
        store.put(record, remaining_s=60, source=ALICE, now_s=0.0)
    seen = store.change
    new = Record(key="k", subkey="s7", value=b"new")
    store.put(new, remaining_s=61, source=ALICE, now_s=1.0)
    page, more = store.dictionary(KEY, "", 10**9, 1.0, since=seen)
    assert ([held.record for held in page], more) == ([new], False)
    assert store.dictionary(KEY, "", 10**9, 1.0, since=store.change) == ([], False)


def test_replicas_are_mirrored_apart_and_a_restarted_one_anew() -> None:
    mirrors = DictionaryMirrors()
    assert mirrors.cursor(ALICE, KEY) is None
    mirrors.on_answer(ALICE, KEY, Cursor(1, 5), [sighting("a")], 0.0)
    assert mirrors.cursor(BOB, KEY) is None
    held = mirrors.on_answer(ALICE, KEY, Cursor(1, 6), [sighting("b")], 0.0)
    assert held == [sighting("a"), sighting("b")]
    assert mirrors.on_answer(ALICE, KEY, Cursor(2, 1), [sighting("c")], 0.0) == [sighting("c")]
    assert mirrors.on_answer(ALICE, KEY, Cursor(2, 1), [], 60.0) == []
    # Who counts no changes is read in full each time.
    assert mirrors.on_answer(ALICE, KEY, None, [sighting("d")], 0.0) == [sighting("d")]
    assert mirrors.cursor(ALICE, KEY) is None
    assert mirrors.size_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=50))
def test_mirrors_are_bounded(answers: list[tuple[int, int]]) -> None:
    mirrors = DictionaryMirrors(size_bytes_max=4000)
    for number, (peer, size) in enumerate(answers):
        one = sighting("s", bytes(size))
        name = PeerId(f"peer{peer}")
        assert mirrors.on_answer(name, KEY, Cursor(number + 1, 1), [one], 0.0) == [one]
        assert 0 <= mirrors.size_bytes <= 4000
    if answers:
        assert mirrors.cursor(PeerId(f"peer{answers[-1][0]}"), KEY) is not None


async def test_a_polled_dictionary_is_sent_once(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        node, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        for index in range(30):
            await alice.put("k", b"v", subkey=f"s{index:02}", ttl_s=600)
        sent: list[int] = []
        find = bob._client._find

        async def counted(contact: object, query: schema.Query, count: int) -> schema.Found:
            found = await find(contact, query, count)  # type: ignore[arg-type]
            sent.append(len(found.records))
            return found

        bob._client._find = counted  # type: ignore[method-assign,assignment]
        for _ in range(3):
            assert len(await bob.get_dictionary("k")) == 30
        subkey = owned_subkey(node.peer_id)
        await alice.put("k", b"mine", subkey=subkey, ttl_s=600)
        assert (await bob.get_dictionary("k"))[subkey].value == b"mine"
        assert sent == [30, 0, 0, 1]
        # A cursor from the future is none of this boot.
        store = alice._state.store
        query = schema.Query(key_to_bytes(KEY), None, True, "", store.boot, store.change + 1)
        assert len((await find(alice_contact(bob), query, 0)).records) == 31


def alice_contact(dht: object) -> object:
    """The one contact that this node has."""
    (contact,) = dht._state.table.confirmed  # type: ignore[attr-defined]
    return contact
