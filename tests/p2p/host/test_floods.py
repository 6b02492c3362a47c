"""Floods from many hosts: whatever strangers do, those who are known find a place."""

import itertools
import sys
from contextlib import suppress

import psutil
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import Identity, Node, open_node
from p2p.host.gate import GRACE_S, KEPT_SHARE, Gate
from p2p.host.inbound import HANDSHAKE_TIMEOUT_S
from tests.p2p.host.peers import RawDialer, until
from tests.p2p.worlds import PROTOCOL, echo

FRIEND = "198.51.100.7"


def gate_of(**more: float) -> Gate:
    return Gate(
        connections_max=64,
        connections_per_host_max=64,
        handshakes_max=16,
        handshakes_per_host_max=8,
        **more,  # type: ignore[arg-type]
    )


def test_strangers_cut_off_no_handshake_of_who_is_known() -> None:
    gate = gate_of()
    # Two friends behind one address: this host holds more places than any other.
    friends = [gate.on_accepted(FRIEND, 0.0, known=True) for _ in range(2)]
    assert all(friends)
    mine = {admission.place for admission in friends if admission}
    cut = set()
    for number in range(400):
        admission = gate.on_accepted(f"192.0.{number % 200}.{number % 256}", number * 0.01)
        if admission is not None and admission.displaced is not None:
            cut.add(admission.displaced)
    assert cut
    assert not cut & mine


def test_one_range_of_addresses_takes_neither_all_places_nor_the_whole_rate() -> None:
    gate = gate_of(handshakes_per_s=20, handshakes_per_s_and_host=5)
    now_s = 0.0
    for number in range(2_000):
        # A flood from 256 addresses of one owner, ten times as fast as we shake hands.
        now_s += 0.005
        gate.on_accepted(f"192.0.2.{number % 256}", now_s)
        if number % 200 == 199:
            newcomer = gate.on_accepted("203.0.113.9", now_s)
            assert newcomer is not None
            gate.on_handshake_over(newcomer.place)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stranger", "neighbour", "over", "prove"]),
            st.integers(0, 40),
            st.sampled_from([0.0, 0.01, 0.4, GRACE_S]),
        ),
        max_size=80,
    )
)
def test_whatever_strangers_do_one_who_is_known_gets_in(
    steps: list[tuple[str, int, float]],
) -> None:
    gate = gate_of(handshakes_per_s=20, handshakes_per_s_and_host=5)
    places: list[int] = []
    now_s = 0.0
    for what, number, passed_s in steps:
        now_s += passed_s
        host = f"192.0.2.{number}" if what == "neighbour" else f"203.{number}.113.9"
        if what in ("stranger", "neighbour"):
            admission = gate.on_accepted(host, now_s)
            if admission is not None:
                places.append(admission.place)
        elif what == "over" and places:
            gate.on_handshake_over(places.pop(number % len(places)))
        elif what == "prove":
            gate.on_proved(host)
        assert gate.handshakes <= 16 - 16 // KEPT_SHARE
        assert gate.connections <= 64 - 64 // KEPT_SHARE
    friend = gate.on_accepted(FRIEND, now_s, known=True)
    assert friend is not None
    assert friend.displaced is None
    # And keeps its place for as long as a slow handshake may take.
    for number in itertools.islice(itertools.count(), 300):
        now_s += 0.02
        admission = gate.on_accepted(f"203.{number % 250}.113.9", now_s)
        assert admission is None or admission.displaced != friend.place
    assert gate.on_proved(FRIEND, known=True)


# On real sockets; on Linux the whole of 127.0.0.0/8 is this machine

SILENT = 500
NEWCOMER = "127.200.0.1"
SOURCES = {
    "one host": ["127.0.5.5"] * SILENT,
    "one range": [f"127.0.5.{1 + number % 250}" for number in range(SILENT)],
    "everywhere": [f"127.{1 + number // 250}.{number % 250}.7" for number in range(SILENT)],
}


async def talk(caller: Node, node: Node) -> None:
    await caller.connect_address(node.addresses[0])
    stream = await caller.open_stream(node.peer_id, PROTOCOL)
    await stream.send_all(b"hello")
    assert await stream.receive_exactly(5) == b"hello"
    await stream.aclose()


async def enters(node: Node, source: str) -> bool:
    """Whether a stranger from this address gets as far as streams."""
    _, _, host, _, port, *_ = node.addresses[0].split("/")
    stream = await trio.open_tcp_stream(host, int(port), local_address=source)
    async with stream:
        try:
            await RawDialer(stream, Identity.generate()).upgrade()
        except (EOFError, trio.BrokenResourceError):
            return False
        return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only 127.0.0.1 is set up elsewhere")
@pytest.mark.parametrize("kind", SOURCES)
async def test_silent_connections_keep_out_nobody_known(kind: str, mock_clock: MockClock) -> None:
    """From one host or range they keep out nobody; from everywhere, strangers for a second."""
    process = psutil.Process()
    closed = 0

    async def stay_silent(node: Node, source: str) -> None:
        nonlocal closed
        _, _, host, _, port, *_ = node.addresses[0].split("/")
        stream = await trio.open_tcp_stream(host, int(port), local_address=source)
        async with stream:
            with suppress(trio.BrokenResourceError):
                assert not await stream.receive_some()
        closed += 1

    async with open_node() as bob, open_node() as friend, trio.open_nursery() as nursery:
        bob.serve(PROTOCOL, echo)
        await bob.connect_address(friend.addresses[0])
        await bob.disconnect(friend.peer_id)
        await friend.wait_disconnected(bob.peer_id)
        await wait_all_tasks_blocked(0.05)
        descriptors = process.num_fds()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for source in SOURCES[kind]:
            nursery.start_soon(stay_silent, bob, source)
        await wait_all_tasks_blocked(0.1)
        assert 0 < SILENT - closed <= 128
        await talk(friend, bob)
        if kind == "everywhere":
            assert not await enters(bob, NEWCOMER)
            mock_clock.jump(GRACE_S)
        assert await enters(bob, NEWCOMER)
        mock_clock.jump(HANDSHAKE_TIMEOUT_S)
        await until(lambda: closed == SILENT)
        await friend.disconnect(bob.peer_id)
        await until(lambda: process.num_fds() <= descriptors)
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)
