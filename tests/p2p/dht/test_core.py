"""The core of a node whose role changes: a client holds nothing, and nobody counts on it."""

import random

from p2p import Identity, PeerId
from p2p.dht import DhtConfig, chores
from p2p.dht.contact import Contact
from p2p.dht.core import DhtCore
from p2p.dht.key import node_key, record_key
from p2p.dht.record import Record
from p2p.dht.store import StoreCode

CONFIG = DhtConfig(replicas=3)
RECORD = Record(key="k", subkey=None, value=b"v")


def an_id(number: int) -> PeerId:
    return Identity.generate(random.Random(number)).peer_id


class Role:
    """What a core asks when it matters."""

    is_client = False


def core_of(role: Role) -> DhtCore:
    return DhtCore(an_id(0), CONFIG, is_client=lambda: role.is_client, boot=1)


def meet(core: DhtCore, *numbers: int) -> list[bool]:
    return [
        core.on_spoke(Contact(an_id(number), node_key(an_id(number)), ()), 0.0)
        for number in numbers
    ]


def test_the_role_is_asked_each_time() -> None:
    role = Role()
    core = core_of(role)
    target = record_key("k")
    assert meet(core, 1) == [True]
    assert core.knows_everybody(0.0)
    assert None in core.replicas_of(target, 0.0)
    role.is_client = True
    assert meet(core, 2) == [False]
    assert set(core.take_newcomers(0.0)) == {an_id(1)}
    assert not core.knows_everybody(0.0)
    assert None not in core.replicas_of(target, 0.0)
    assert None not in core.with_ourselves(core.table.confirmed, target)
    role.is_client = False
    assert meet(core, 3) == [True]
    assert None in core.with_ourselves(core.table.confirmed, target)


def test_a_client_is_no_replica_that_a_read_waits_for() -> None:
    role = Role()
    core = core_of(role)
    _, reading = core.reading_lookup(record_key("k"), [], 0.0)
    assert reading.heard
    role.is_client = True
    _, reading = core.reading_lookup(record_key("k"), [], 0.0)
    assert not reading.heard


def test_who_becomes_a_client_bequeaths_all_and_forgets_it() -> None:
    role = Role()
    core = core_of(role)
    meet(core, *range(1, 20))
    before = core.store
    for number in range(20):
        record = Record(key=f"k{number}", subkey=None, value=b"v")
        stored = core.accept(record, 60, None, source=core.own_id, now_s=0.0, wall_s=0.0)
        assert stored.code is StoreCode.STORED
    # Of most keys it is no replica: those are with others.
    as_replica = sum(bool(one) for one in chores.bequeathed(core, 0.0))
    assert 0 < as_replica < 20
    role.is_client = True
    assert sum(bool(one) for one in chores.bequeathed(core, 0.0)) == 20
    core.forget_records(2)
    assert core.store is not before
    assert (len(core.store), core.store.boot) == (0, 2)
    assert list(chores.bequeathed(core, 0.0)) == []


def test_a_refused_record_is_not_stored() -> None:
    core = core_of(Role())
    refused = core.accept(RECORD, 60, "because", source="somebody", now_s=0.0, wall_s=0.0)
    assert (refused.code, refused.reason, len(core.store)) == (StoreCode.REFUSED, "because", 0)
    assert (
        core.accept(RECORD, 60, None, source="somebody", now_s=0.0, wall_s=0.0).code
        is StoreCode.STORED
    )


def test_replicas_that_were_silent_are_replicas_still() -> None:
    core = core_of(Role())
    meet(core, *range(1, 6))
    target = record_key("k")
    by_distance = sorted(core.table.contacts, key=lambda one: one.key ^ target)
    lookup = core.lookup(target, 3, 0.0)
    first, *others = by_distance[:3]
    assert set(lookup.next_queries(0.0)) == {first, *others}
    for one in others:
        lookup.on_answer(one.peer_id, [])
    lookup.on_deadline(CONFIG.stall_s)
    assert lookup.silent == [first]
    assert first not in lookup.answered()
    assert core.nearest_found(lookup) == by_distance[:3]


def test_who_comes_back_at_once_is_not_handed_everything_again() -> None:
    core = core_of(Role())
    contact = Contact(an_id(1), node_key(an_id(1)), ())
    assert core.on_spoke(contact, 0.0)
    assert list(core.take_newcomers(0.0)) == [contact.peer_id]
    core.table.on_left(contact.peer_id, contact.key)
    assert not core.on_spoke(contact, CONFIG.republish_s - 1)
    assert core.take_newcomers(CONFIG.republish_s - 1) == {}
    core.table.on_left(contact.peer_id, contact.key)
    assert core.on_spoke(contact, CONFIG.republish_s)


def test_one_who_leaves_before_its_turn_is_handed_nothing() -> None:
    core = core_of(Role())
    contact = Contact(an_id(1), node_key(an_id(1)), ())
    assert core.on_spoke(contact, 0.0)
    core.table.on_left(contact.peer_id, contact.key)
    assert core.take_newcomers(1.0) == {}
    assert core.on_spoke(contact, 2.0)


def test_replicas_are_of_different_ranges_while_there_are_any() -> None:
    core = core_of(Role())
    target = record_key("k")
    keys = sorted((node_key(an_id(n)) ^ target, an_id(n)) for n in range(1, 12))
    for rank, (distance, peer_id) in enumerate(keys):
        # The nearest seven are of one range.
        host = f"20.0.0.{rank}" if rank < 7 else f"20.0.{rank}.1"
        core.on_spoke(Contact(peer_id, distance ^ target, (f"/ip4/{host}/tcp/1",)), 0.0)
    by_distance = sorted(core.table.contacts, key=lambda one: one.key ^ target)
    diverse = [*by_distance[:2], *by_distance[7:], *by_distance[2:7]]
    assert core.others_near(target, 3, 0.0) == diverse[:3]
    assert core.others_near(target, 11, 0.0) == diverse
    lookup = core.lookup(target, 11, 0.0)
    while not lookup.done:
        for one in lookup.next_queries(0.0):
            lookup.on_answer(one.peer_id, [])
    assert core.nearest_found(lookup) == diverse[:3]
    # We stand among those that are not of a crowded range, by distance.
    farther = [one for one in diverse[:6] if one.key ^ target > core.own_key ^ target]
    replicas = core.replicas_of(target, 0.0, spare=9)
    assert replicas.index(None) == 6 - len(farther)
    assert [one for one in replicas if one is not None] == diverse
