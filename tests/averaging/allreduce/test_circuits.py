"""What relays still let our connections carry."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.circuits import Circuits, relayed_bytes_needed
from p2p import ConnectionInfo, Path, PeerId
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


@given(st.integers(0, 2**40))
def test_what_fits_by_one_reckoning_fits_by_the_other(bulk_bytes: int) -> None:
    needed = relayed_bytes_needed(bulk_bytes)
    assert Circuits().room_bytes(info_of(needed)) >= bulk_bytes
    assert Circuits().room_bytes(info_of(needed - 1)) <= bulk_bytes


@given(st.integers(0, 2**20), st.lists(st.integers(1, 2**18), max_size=20))
def test_no_more_is_taken_than_there_is_room_for(limit: int, sizes: list[int]) -> None:
    circuits, info = Circuits(), info_of(limit)
    taken = [size for size in sizes if circuits.take(info, size)]
    assert relayed_bytes_needed(sum(taken)) <= limit or not taken
    assert circuits.room_bytes(info) == circuits.room_when_new_bytes(info) - sum(taken)


def test_each_circuit_is_counted_for_itself_until_it_is_closed() -> None:
    circuits = Circuits()
    first, second = info_of(10**6), info_of(10**6, opened_at_s=2.0)
    room = circuits.room_when_new_bytes(first)
    assert circuits.take(first, 500_000)
    assert not circuits.take(first, 500_000)
    assert circuits.room_bytes(second) == room
    circuits.on_connections([first, second])
    assert circuits.room_bytes(first) == room - 500_000
    circuits.on_connections([second])
    assert circuits.room_bytes(first) == room


@pytest.mark.parametrize("info", [info_of(None), info_of(5, path="direct")])
def test_what_has_no_limit_takes_everything(info: ConnectionInfo) -> None:
    circuits = Circuits()
    assert circuits.take(info, 10**15)
    assert circuits.room_bytes(info) == math.inf
