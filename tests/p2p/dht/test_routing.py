"""The routing table: who enters, who stays, who is named, and who makes room."""

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.dht.contact import Contact, choose_diverse, is_diverse, networks_of
from p2p.dht.key import bucket_index
from p2p.dht.routing import SHUN_FIRST_S, RoutingTable

OWN = 0


def contact(key: int, address: str = "") -> Contact:
    return Contact(PeerId(f"peer{key}"), key, (address,) if address else ())


def table(bucket_size: int = 3) -> RoutingTable:
    return RoutingTable(OWN, bucket_size=bucket_size, bits=8)


def happen(routing: RoutingTable, kind: str, key: int, now: float) -> None:
    """A peer is seen, heard of, fails or leaves, by the first letter."""
    if kind == "s":
        routing.on_seen(contact(key), now)
    elif kind == "h":
        routing.on_heard_of([contact(key)], now)
    elif kind == "f":
        routing.on_failed(PeerId(f"peer{key}"), key, now)
    else:
        routing.on_left(PeerId(f"peer{key}"), key)


@given(st.lists(st.integers(1, 255)), st.integers(0, 255))
def test_nearest_is_what_sorting_everybody_gives(keys: list[int], target: int) -> None:
    routing = table(bucket_size=255)
    for now, key in enumerate(keys):
        routing.on_seen(contact(key), now)
    expected = sorted(set(keys), key=lambda key: key ^ target)[:5]
    assert [c.key for c in routing.nearest(target, 5, 1000.0)] == expected


@given(st.lists(st.tuples(st.sampled_from("shfl"), st.integers(1, 255)), max_size=300))
def test_a_bucket_never_overflows_and_nobody_is_there_twice(events: list[tuple[str, int]]) -> None:
    routing = table()
    for now, (kind, key) in enumerate(events):
        happen(routing, kind, key, now)
        buckets: dict[int, list[int]] = {}
        for known in routing.contacts:
            buckets.setdefault(bucket_index(OWN, known.key, 8), []).append(known.key)
        for keys in buckets.values():
            assert len(keys) <= 3
            assert len(set(keys)) == len(keys)


@given(
    st.lists(st.tuples(st.sampled_from("sshfl"), st.integers(1, 255)), max_size=100),
    st.integers(0, 255),
)
def test_nearest_is_up_to_date_whatever_happens(events: list[tuple[str, int]], target: int) -> None:
    routing = table()
    for now, (kind, key) in enumerate(events):
        happen(routing, kind, key, now)
        for confirmed_only in (False, True):
            known = routing.confirmed if confirmed_only else routing.contacts
            usable = [c for c in known if not routing.shunned(c.peer_id, now)]
            usable.sort(key=lambda c: c.key ^ target)
            found = routing.nearest(target, 5, now, confirmed_only=confirmed_only)
            assert found == usable[:5]


def test_we_are_not_our_own_contact() -> None:
    routing = table()
    assert not routing.on_seen(contact(OWN), 0.0)
    routing.on_heard_of([contact(OWN)], 0.0)
    assert len(routing) == 0


def test_only_the_first_word_makes_a_newcomer() -> None:
    routing = table()
    assert routing.on_seen(contact(200), 0.0)
    assert not routing.on_seen(contact(200), 1.0)
    routing.on_heard_of([contact(100)], 1.0)
    assert routing.on_seen(contact(100), 2.0)


def test_hearsay_is_not_passed_on_and_makes_room() -> None:
    routing = table(bucket_size=2)
    routing.on_heard_of([contact(129)], 0.0)
    routing.on_heard_of([contact(130)], 0.0)
    routing.on_heard_of([contact(131)], 0.0)
    assert [c.key for c in routing.nearest(129, 5, 0.0)] == [129, 130]
    assert routing.nearest(129, 5, 0.0, confirmed_only=True) == []
    assert routing.on_seen(contact(140), 1.0)
    assert routing.on_seen(contact(141), 1.0)
    assert {c.key for c in routing.contacts} == {140, 141}


def test_a_replacement_takes_the_place_of_one_that_left() -> None:
    routing = table(bucket_size=1)
    assert routing.on_seen(contact(129), 0.0)
    assert not routing.on_seen(contact(130), 1.0)
    routing.on_left(PeerId("peer129"), 129)
    assert [c.key for c in routing.contacts] == [130]


def test_one_failure_shuns_and_the_second_evicts() -> None:
    routing = table()
    routing.on_seen(contact(129), 0.0)
    routing.on_failed(PeerId("peer129"), 129, 1.0)
    assert routing.nearest(129, 5, 2.0) == []
    assert routing.shunned(PeerId("peer129"), 2.0)
    assert [c.key for c in routing.nearest(129, 5, 1.0 + SHUN_FIRST_S)] == [129]
    routing.on_seen(contact(7), 7.0)
    routing.on_failed(PeerId("peer129"), 129, 8.0)
    assert not routing.has_place(contact(129))


def test_nobody_is_evicted_when_our_own_network_is_down() -> None:
    routing = table()
    for key in (129, 65, 33):
        routing.on_seen(contact(key), 0.0)
    for now in range(1, 50):
        for key in (129, 65, 33):
            routing.on_failed(PeerId(f"peer{key}"), key, now)
    assert len(routing) == 3
    routing.on_seen(contact(129), 1000.0)
    assert [c.key for c in routing.nearest(129, 5, 1000.0)] == [129, 33, 65]


def test_the_shunning_grows_and_ends_with_a_word() -> None:
    routing = table()
    peer = PeerId("peer129")
    routing.on_failed(peer, 129, 0.0)
    routing.on_failed(peer, 129, 0.0)
    assert routing.shunned(peer, 9.9)
    assert not routing.shunned(peer, 10.0)
    routing.on_failed(peer, 129, 20.0)
    routing.on_seen(contact(129), 21.0)
    assert not routing.shunned(peer, 21.0)


def test_the_stale_are_those_unheard_or_failing() -> None:
    routing = table()
    for key, now in ((129, 0.0), (65, 50.0), (33, 90.0)):
        routing.on_seen(contact(key), now)
    routing.on_failed(PeerId("peer33"), 33, 91.0)
    assert [c.key for c in routing.stale(100.0, 5, 40.0)] == [129, 65, 33]
    assert [c.key for c in routing.stale(100.0, 1, 40.0)] == [129]
    assert [c.key for c in routing.stale(92.0, 5, 90.0)] == [129]
    connected = {PeerId("peer129")}
    patient = routing.stale(
        95.0, 5, 40.0, connected_idle_s_max=200.0, is_connected=connected.__contains__
    )
    assert [c.key for c in patient] == [65]


def test_a_witness_tells_a_failing_peer_from_a_failing_network() -> None:
    routing = table()
    for key, now in ((129, 0.0), (65, 50.0), (33, 90.0)):
        routing.on_seen(contact(key), now)
    assert routing.witness() is None
    routing.on_failed(PeerId("peer33"), 33, 91.0)
    assert routing.witness() == contact(65)
    routing.on_seen(contact(65), 92.0)
    routing.on_failed(PeerId("peer33"), 33, 100.0)
    assert not routing.has_place(contact(33))
    for key in (65, 129):
        routing.on_failed(PeerId(f"peer{key}"), key, 101.0)
    assert routing.witness() is None


def test_the_unconfirmed_are_to_be_pinged() -> None:
    routing = table()
    routing.on_heard_of([contact(129)], 0.0)
    assert [c.key for c in routing.stale(0.0, 5, 1000.0)] == [129]


def test_refreshing_covers_all_buckets_once_per_period() -> None:
    routing = table(bucket_size=2)
    for key in (200, 201, 100, 50, 20, 3):
        routing.on_seen(contact(key), 0.0)
    targets = routing.refresh_targets(100.0, 10.0, random.Random(0))
    # The two deepest contacts are our neighbours; farther buckets get a key each.
    assert targets[0] == OWN
    assert sorted(bucket_index(OWN, key, 8) for key in targets[1:]) == [0, 1, 2]
    for target in targets:
        routing.on_looked_up(target, 100.0)
    assert routing.refresh_targets(105.0, 10.0, random.Random(0)) == []
    assert len(routing.refresh_targets(110.0, 10.0, random.Random(0))) == 4


def test_networks_are_counted_for_public_addresses_only() -> None:
    assert networks_of(("/ip4/8.8.4.7/tcp/1", "/ip4/10.0.0.1/tcp/1")) == ("8.8.4.0/24",)
    assert networks_of(("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1")) == ()
    assert networks_of(("/ip6/2a00:1450:4001:81b::1/tcp/1",)) == ("2a00:1450:4001::/48",)
    assert networks_of(("/unix/x", "nonsense")) == ()


def test_one_address_range_does_not_crowd_out_others() -> None:
    crowd = [contact(key, f"/ip4/8.8.8.{key}/tcp/1") for key in range(1, 6)]
    others = [contact(key, f"/ip4/9.9.{key}.1/tcp/1") for key in range(6, 9)]
    assert [c.key for c in choose_diverse(crowd + others, 5)] == [1, 2, 6, 7, 8]
    assert [c.key for c in choose_diverse(crowd, 4)] == [1, 2, 3, 4]
    private = [contact(key, f"/ip4/10.0.0.{key}/tcp/1") for key in range(1, 6)]
    assert choose_diverse(private, 4) == private[:4]


def test_a_full_bucket_prefers_other_address_ranges() -> None:
    routing = table(bucket_size=4)
    for key in range(128, 132):
        routing.on_seen(contact(key, f"/ip4/8.8.8.{key}/tcp/1"), key)
    assert routing.on_seen(contact(140, "/ip4/9.9.9.9/tcp/1"), 140.0)
    assert {c.key for c in routing.contacts} == {128, 129, 130, 140}
    assert not routing.on_seen(contact(141, "/ip4/8.8.8.1/tcp/1"), 141.0)
    assert routing.on_seen(contact(142, "/ip4/9.9.8.9/tcp/1"), 142.0)
    assert not routing.on_seen(contact(143, "/ip4/9.9.7.9/tcp/1"), 143.0)


def test_a_contact_moves_with_its_addresses() -> None:
    routing = table()
    routing.on_seen(contact(129, "/ip4/1.1.1.1/tcp/1"), 0.0)
    routing.on_seen(contact(129, "/ip4/2.2.2.2/tcp/2"), 1.0)
    assert routing.contacts[0].addresses == ("/ip4/2.2.2.2/tcp/2",)


def test_we_believe_what_a_peer_itself_told_us() -> None:
    routing = table()
    told, hearsay = contact(129, "/ip4/1.1.1.1/tcp/1"), contact(129, "/ip4/6.6.6.6/tcp/6")
    assert routing.known(hearsay) == hearsay
    routing.on_heard_of([told], 0.0)
    assert routing.known(hearsay) == hearsay
    routing.on_seen(told, 1.0)
    assert routing.known(hearsay) == told
    assert routing.confirmed == [told]


def test_a_replacement_of_a_crowded_range_waits_for_others() -> None:
    routing = table(bucket_size=4)
    for key in range(128, 132):
        routing.on_seen(contact(key, f"/ip4/{key}.1.1.1/tcp/1"), float(key))
    routing.on_seen(contact(140, "/ip4/9.9.9.9/tcp/1"), 140.0)
    for key in range(141, 144):
        routing.on_seen(contact(key, f"/ip4/8.8.8.{key}/tcp/1"), float(key))
    for key in range(128, 131):
        routing.on_left(contact(key).peer_id, key)
    assert {c.key for c in routing.contacts} == {131, 140, 142, 143}
    # There is nobody else: better a crowded range than an empty place.
    routing.on_left(contact(131).peer_id, 131)
    assert {c.key for c in routing.contacts} == {140, 141, 142, 143}


def test_a_peer_is_of_the_range_that_we_see_it_in_whatever_it_says() -> None:
    says = [(f"/ip4/{key}.1.1.1/tcp/1",) for key in range(1, 7)]
    fakes = [Contact(PeerId(f"f{k}"), k, says[k - 1], "6.6.6.0/24") for k in range(1, 7)]
    others = [contact(key, f"/ip4/9.9.{key}.1/tcp/1") for key in range(7, 11)]
    assert [c.key for c in choose_diverse(fakes + others, 5)] == [1, 2, 7, 8, 9]
    assert not is_diverse(fakes[:3])
    assert is_diverse(fakes[:2] + others)
    assert all(fake.elsewhere for fake in fakes)
    assert not Contact(PeerId("a"), 1, ("/ip4/6.6.6.7/tcp/1", *says[0]), "6.6.6.0/24").elsewhere
    assert not others[0].elsewhere
    routing = table(bucket_size=4)
    for key in range(128, 132):
        routing.on_seen(contact(key, f"/ip4/{key}.1.1.1/tcp/1"), float(key))
        # It has moved, or its connection has.
        moved = Contact(contact(key).peer_id, key, contact(key).addresses or says[0], "6.6.6.0/24")
        routing.on_seen(moved, float(key))
    assert routing.on_seen(contact(150, "/ip4/9.9.9.9/tcp/1"), 150.0)
