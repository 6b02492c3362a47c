"""The peerstore: bounded, deaf to nonsense, and not to be talked out of what it has seen."""

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p import Identity
from p2p.address import parse_address
from p2p.peerstore import Peerstore, is_dialable

ALICE, BOB = (Identity.generate(random.Random(seed)).peer_id for seed in range(2))


def texts(store: Peerstore) -> list[str]:
    return [str(address).partition("/p2p/")[0] for address in store.addresses_of(ALICE)]


def test_addresses_are_sorted_by_how_far_they_carry() -> None:
    store = Peerstore()
    store.add_untrusted(
        ALICE, ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.2/tcp/1", "/ip4/8.8.8.8/tcp/1"]
    )
    assert texts(store) == ["/ip4/8.8.8.8/tcp/1", "/ip4/192.168.1.2/tcp/1", "/ip4/127.0.0.1/tcp/1"]


def test_nonsense_and_others_addresses_are_left_out() -> None:
    store = Peerstore()
    store.add_untrusted(
        ALICE,
        [
            "",
            "/quic",
            "/ip4/1.2.3.4/udp/1/quic-v1",
            "/ip4/1.2.3.4/tcp/0",
            "/ip4/0.0.0.0/tcp/4001",
            "/ip6/::/tcp/4001",
            f"/ip4/1.2.3.4/tcp/1/p2p/{BOB}",
            f"/ip4/1.2.3.4/tcp/2/p2p/{ALICE}",
            "/ip4/1.2.3.4/tcp/3",
        ],
    )
    assert texts(store) == ["/ip4/1.2.3.4/tcp/2", "/ip4/1.2.3.4/tcp/3"]
    store.forget(ALICE)
    assert texts(store) == []


def test_the_newest_addresses_stay() -> None:
    store = Peerstore()
    for port in range(1, 21):
        store.add_untrusted(ALICE, [f"/ip4/8.8.8.8/tcp/{port}"])
    assert texts(store) == [f"/ip4/8.8.8.8/tcp/{port}" for port in range(20, 12, -1)]
    store.add_untrusted(ALICE, (f"/ip4/8.8.4.4/tcp/{port}" for port in range(1, 100)))
    assert len(texts(store)) == 8


def test_what_was_proved_is_not_displaced_by_hearsay() -> None:
    store = Peerstore()
    for port in (1, 2, 3):
        store.on_reached(ALICE, parse_address(f"/ip4/8.8.8.8/tcp/{port}"))
    for port in range(10, 100):
        store.add_untrusted(ALICE, [f"/ip4/9.9.9.9/tcp/{port}"])
    assert texts(store)[:2] == ["/ip4/8.8.8.8/tcp/3", "/ip4/8.8.8.8/tcp/2"]
    assert len(texts(store)) == 8
    store.forget(ALICE)
    assert texts(store) == []


def test_the_peers_unused_for_longest_are_forgotten() -> None:
    store = Peerstore(peers_max=10)
    rng = random.Random(0)
    store.on_reached(ALICE, parse_address("/ip4/8.8.8.8/tcp/1"))
    peers = [Identity.generate(rng).peer_id for _ in range(20)]
    for peer_id in peers:
        store.add_untrusted(peer_id, ["/ip4/8.8.8.8/tcp/1"])
    assert texts(store) == []
    assert [bool(store.addresses_of(peer_id)) for peer_id in peers] == [False] * 10 + [True] * 10
    assert store._proven == {}


@given(st.lists(st.text(max_size=40), max_size=30))
def test_any_text_may_come(words: list[str]) -> None:
    store = Peerstore()
    store.add_untrusted(ALICE, words + [f"/ip4/1.2.3.4/tcp/{word}" for word in words])
    assert all(is_dialable(address) for address in store.addresses_of(ALICE))
    assert len(store.addresses_of(ALICE)) <= 8


def test_a_copy_stays_as_it_was() -> None:
    store = Peerstore()
    store.add_untrusted(ALICE, ["/ip4/192.0.2.1/tcp/1"])
    store.on_reached(ALICE, parse_address("/ip4/192.0.2.1/tcp/1"))
    copied = store.copy()
    saved = copied.saved()
    assert saved == store.saved()
    assert list(store.proven()) == [(ALICE, parse_address("/ip4/192.0.2.1/tcp/1").of(ALICE))]
    store.forget(ALICE)
    assert copied.saved() == saved
    assert store.saved() == []


RELAY = Identity.generate(random.Random(77)).peer_id
CIRCUIT = f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}/p2p-circuit"


def test_circuits_are_kept_behind_direct_addresses() -> None:
    store = Peerstore()
    store.add_untrusted(ALICE, [CIRCUIT, "/ip4/10.0.0.1/tcp/1"])
    assert [str(one) for one in store.addresses_of(ALICE)] == [
        f"/ip4/10.0.0.1/tcp/1/p2p/{ALICE}",
        f"{CIRCUIT}/p2p/{ALICE}",
    ]
    restored = Peerstore()
    restored.restore_untrusted(store.saved())
    assert restored.addresses_of(ALICE) == store.addresses_of(ALICE)


def test_circuits_to_the_relay_itself_or_to_others_are_left_out() -> None:
    store = Peerstore()
    store.add_untrusted(RELAY, [CIRCUIT, f"{CIRCUIT}/p2p/{ALICE}"])
    store.add_untrusted(ALICE, [f"{CIRCUIT}{CIRCUIT}", "/ip4/0.0.0.0/tcp/1" + CIRCUIT[21:]])
    assert store.addresses_of(RELAY) == store.addresses_of(ALICE) == ()


def test_a_proven_circuit_displaces_no_proven_direct_address() -> None:
    store = Peerstore()
    for text in ("/ip4/8.8.4.4/tcp/1", "/ip4/10.0.0.1/tcp/1", CIRCUIT):
        store.on_reached(ALICE, parse_address(text))
    assert [str(address) for _, address in store.proven()] == [
        f"/ip4/10.0.0.1/tcp/1/p2p/{ALICE}",
        f"/ip4/8.8.4.4/tcp/1/p2p/{ALICE}",
    ]
