"""Back-off: failed addresses rest, never so that nothing is tried, and are forgiven in time."""

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p import NodeConfig, UnreachableError, open_node
from p2p.address import TcpAddress
from p2p.dial.backoff import FIRST_PAUSE_S, PAUSE_S_MAX, BackOff

ONE, OTHER = (TcpAddress("ip4", "192.0.2.1", port) for port in (1, 2))


def test_a_failed_address_rests_while_there_is_another() -> None:
    kept = BackOff(random.Random(0))
    kept.on_failed(ONE, "refused", 10.0)
    due, paused = kept.split((ONE, OTHER), 10.5)
    assert due == (OTHER,)
    assert [(one.address, one.cause) for one in paused] == [
        (str(ONE), "refused, 0 s ago; not tried again yet")
    ]
    assert kept.split((ONE, OTHER), 10.0 + 2 * FIRST_PAUSE_S) == ((ONE, OTHER), ())


def test_pauses_double_up_to_their_limit() -> None:
    kept = BackOff(random.Random(0))
    now_s, pauses = 0.0, []
    for _ in range(20):
        kept.on_failed(ONE, "refused", now_s)
        pauses.append(kept._failures[ONE].until_s - now_s)
        now_s += pauses[-1]
    assert all(0.7 * FIRST_PAUSE_S <= pause <= 1.3 * PAUSE_S_MAX for pause in pauses)
    assert 1.1 < pauses[1] / pauses[0] < 3.5
    assert pauses[-1] > 0.7 * PAUSE_S_MAX


def test_it_is_forgiven_by_name_and_when_the_network_changes() -> None:
    kept = BackOff(random.Random(0))
    for forgive in (lambda: kept.forgive((ONE,)), kept.forgive_all):
        kept.on_failed(ONE, "refused", 0.0)
        assert kept.split((ONE, OTHER), 0.0)[0] == (OTHER,)
        forgive()
        assert kept.split((ONE, OTHER), 0.0) == ((ONE, OTHER), ())


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 400)), max_size=30),
    st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True),
)
def test_something_is_always_tried_and_everything_is_accounted_for(
    failures: list[tuple[int, float]], asked: list[int]
) -> None:
    addresses = [TcpAddress("ip4", "192.0.2.1", port) for port in range(1, 6)]
    kept, now_s = BackOff(random.Random(1)), 0.0
    for index, passed_s in failures:
        now_s += passed_s
        kept.on_failed(addresses[index], "refused", now_s)
    wanted = tuple(addresses[index] for index in asked)
    due, paused = kept.split(wanted, now_s)
    assert due
    assert sorted([*map(str, due), *(one.address for one in paused)]) == sorted(map(str, wanted))


async def test_a_peer_is_found_at_its_good_address_and_the_bad_one_rests() -> None:
    async with open_node() as bob, open_node(NodeConfig(client_mode=True)) as alice:
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener[0].socket.getsockname()[1]
        await listener[0].aclose()
        dead = f"/ip4/127.0.0.1/tcp/{port}/p2p/{bob.peer_id}"
        with pytest.raises(UnreachableError, match="refused"):
            await alice.connect(bob.peer_id, (dead,))
        await alice.connect(bob.peer_id, bob.addresses)
        await alice.disconnect(bob.peer_id)
        # Nobody named it, and there is another: the dead one is not dialed now.
        failures = alice._dialer.back_off._failures
        [failure] = failures.values()
        await alice.connect(bob.peer_id)
        assert list(failures.values()) == [failure]
        # Named, it is tried again at once.
        await alice.disconnect(bob.peer_id)
        await bob.wait_disconnected(alice.peer_id)
        alice.on_network_changed()
        assert not failures


async def test_a_peer_whose_addresses_all_rest_is_tried_all_the_same() -> None:
    async with open_node(NodeConfig(client_mode=True)) as alice:
        async with open_node() as bob:
            address, peer_id = bob.addresses[0], bob.peer_id
        for _ in range(3):
            with pytest.raises(UnreachableError, match="refused"):
                await alice.connect(peer_id, (address,))
            with pytest.raises(UnreachableError) as caught:
                await alice.connect(peer_id)
            assert [attempt.address for attempt in caught.value.attempts] == [address]
            assert "not tried again" not in str(caught.value)
