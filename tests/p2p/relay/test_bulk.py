"""What relays still let our connections carry."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import ConnectionInfo, Path, PeerId, relayed_bytes_needed
from p2p.relay.bulk import RelayedBulk
from p2p.relay.schema import CircuitLimit


def info_of(
    bytes_each_way: int | None, *, path: Path = "relayed", opened_at_s: float = 1.0
) -> ConnectionInfo:
    """A connection to alice."""
    return ConnectionInfo(
        peer_id=PeerId("alice"),
        address="",
        path=path,
        outbound=True,
        opened_at_s=opened_at_s,
        record_layer="",
        limit=CircuitLimit(bytes_each_way=bytes_each_way),
    )


def counting(*infos: ConnectionInfo) -> RelayedBulk:
    """A count for a node with these connections."""
    return RelayedBulk(lambda: infos)


@given(st.integers(0, 2**40))
def test_what_fits_by_one_reckoning_fits_by_the_other(bulk_bytes: int) -> None:
    needed = relayed_bytes_needed(bulk_bytes)
    assert counting().room_bytes(info_of(needed)) >= bulk_bytes
    assert counting().room_bytes(info_of(needed - 1)) <= bulk_bytes


@given(st.integers(0, 2**20), st.lists(st.integers(1, 2**18), max_size=20))
def test_no_more_is_taken_than_there_is_room_for(limit: int, sizes: list[int]) -> None:
    info = info_of(limit)
    bulk = counting(info)
    taken = [size for size in sizes if bulk.take(info.peer_id, size)]
    assert relayed_bytes_needed(sum(taken)) <= limit or not taken
    assert bulk.room_bytes(info) == bulk.room_when_new_bytes(info) - sum(taken)


def test_each_circuit_is_counted_for_itself_until_it_is_closed() -> None:
    first, second, third = (info_of(10**6, opened_at_s=at_s) for at_s in (1.0, 2.0, 3.0))
    connections = [first]
    bulk = RelayedBulk(lambda: tuple(connections))
    room = bulk.room_when_new_bytes(first)
    assert bulk.take(first.peer_id, 500_000)
    assert not bulk.take(first.peer_id, 500_000)
    # The newest carries what is sent now.
    connections.append(second)
    assert bulk.take(first.peer_id, 500_000)
    assert bulk.room_bytes(first) == bulk.room_bytes(second) == room - 500_000
    connections[:] = [third]
    assert bulk.take(first.peer_id, 1)
    assert bulk.room_bytes(first) == room


def test_without_a_circuit_nothing_is_taken() -> None:
    assert not counting().take(PeerId("alice"), 1)
    assert not counting(info_of(None, path="direct")).take(PeerId("alice"), 1)


@pytest.mark.parametrize("info", [info_of(None), info_of(5, path="direct")])
def test_what_has_no_limit_has_room_for_everything(info: ConnectionInfo) -> None:
    assert counting(info).room_bytes(info) == math.inf


def test_a_relay_without_limits_takes_everything() -> None:
    assert counting(info_of(None)).take(PeerId("alice"), 10**15)
