"""Guests: allow and deny lists, known peers, and the places that are kept for them."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p import Identity, Node, NodeConfig, PeerId, UnreachableError, open_node
from p2p.host import guests
from p2p.host.gate import KEPT_SHARE, Gate
from p2p.host.guests import Guests
from p2p.host.host import Host
from tests.p2p.host.peers import RawDialer, raw_connection, until
from tests.p2p.host.receiving import next_plains
from tests.p2p.worlds import PROTOCOL, echo

ALICE, BOB, EVE = (Identity.generate().peer_id for _ in range(3))


def test_the_deny_list_has_the_last_word() -> None:
    kept = Guests(allowed=[ALICE, BOB], denied=[BOB])
    assert kept.refusal(ALICE) is None
    assert kept.refusal(BOB) == "on our deny list"
    assert kept.refusal(EVE) == "not on our allow list"
    assert Guests().refusal(EVE) is None


def test_known_is_whom_we_reached_and_they_are_bounded() -> None:
    kept = Guests(allowed=[ALICE])
    assert kept.knows_peer(ALICE)
    assert not kept.knows_peer(BOB)
    kept.on_reached(BOB, "192.0.2.1")
    assert kept.knows_peer(BOB)
    assert kept.knows_host("192.0.2.1")
    for number in range(guests._KNOWN_MAX):
        kept.on_reached(PeerId(f"peer {number}"), f"host {number}")
    assert not kept.knows_peer(BOB)
    assert not kept.knows_host("192.0.2.1")


def test_strangers_leave_places_to_those_who_are_known() -> None:
    gate = Gate(
        connections_max=16,
        connections_per_host_max=100,
        handshakes_max=100,
        handshakes_per_host_max=100,
    )
    strangers = sum(gate.on_proved(f"192.0.{number}.1") for number in range(100))
    assert strangers == 16 - 16 // KEPT_SHARE
    assert gate.on_accepted("198.51.100.1", 0.0) is None
    assert gate.on_accepted("198.51.100.1", 0.0, known=True) is not None
    assert [gate.on_proved("198.51.100.1", known=True) for _ in range(3)] == [True, True, False]


def test_a_range_of_addresses_has_a_limit_of_its_own() -> None:
    gate = Gate(
        connections_max=100,
        connections_per_host_max=100,
        handshakes_max=100,
        handshakes_per_host_max=100,
        connections_per_range_max=4,
    )
    assert sum(gate.on_proved(f"192.0.2.{number}") for number in range(10)) == 4
    assert gate.on_accepted("192.0.2.200", 0.0) is None
    assert gate.on_proved("192.0.3.1")
    gate.on_disconnected("192.0.2.0")
    assert gate.on_proved("192.0.2.77")
    assert sum(gate.on_proved(f"2001:db8:1:{number}::1") for number in range(10)) == 4


def test_strangers_cannot_use_up_the_rate_of_those_who_are_known() -> None:
    gate = Gate(
        connections_max=1_000,
        connections_per_host_max=1_000,
        handshakes_max=80,
        handshakes_per_host_max=80,
        handshakes_per_s=10,
        handshakes_per_s_and_host=10,
    )
    taken = 0
    for number in range(300):
        admission = gate.on_accepted(f"192.0.{number % 200}.1", 0.0)
        if admission is not None:
            taken += 1
            gate.on_handshake_over(admission.place)
    assert taken == 80
    assert gate.on_accepted("198.51.100.1", 0.0, known=True) is not None


@asynccontextmanager
async def open_friends(**of_bob: object) -> AsyncIterator[tuple[Node, Node]]:
    async with (
        open_node() as alice,
        open_node(NodeConfig(**of_bob)) as bob,  # type: ignore[arg-type]
    ):
        bob.serve(PROTOCOL, echo)
        yield alice, bob


async def test_who_is_not_allowed_cannot_connect_either_way() -> None:
    async with open_friends(allow_peers=(ALICE,)) as (eve, bob):
        with pytest.raises(UnreachableError):
            await eve.connect_address(bob.addresses[0])
        await until(lambda: not eve.connections)
        with pytest.raises(UnreachableError, match="not on our allow list"):
            await bob.connect_address(eve.addresses[0])
        assert not bob.connections


async def test_who_is_allowed_is_served() -> None:
    identity = Identity.generate()
    async with open_friends(allow_peers=(identity.peer_id,)) as (_, bob):
        _, _, host, _, port, *_ = bob.addresses[0].split("/")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            session = await RawDialer(stream, identity).upgrade()
            assert await next_plains(session)


async def test_who_is_denied_cannot_connect() -> None:
    async with open_node() as eve, open_node(NodeConfig(deny_peers=(eve.peer_id,))) as bob:
        with pytest.raises(UnreachableError):
            await eve.connect_address(bob.addresses[0])
        with pytest.raises(UnreachableError, match="on our deny list"):
            await bob.connect_address(eve.addresses[0])


def test_a_list_with_what_is_no_peer_id_is_refused() -> None:
    with pytest.raises(ValueError, match="deny_peers"):
        NodeConfig(deny_peers=(PeerId("nobody"),))


async def test_who_was_known_before_the_last_stop_still_is(tmp_path: Path) -> None:
    config = NodeConfig(peerstore_path=tmp_path / "peers", inbound_connections_max=8)
    async with open_node() as friend, open_node() as first:
        async with open_node(config) as bob:
            await bob.connect_address(friend.addresses[0])
        async with open_node(config) as bob, AsyncExitStack() as stack:
            # All seven places of strangers are taken: one by first, the others by more like it.
            await first.connect_address(bob.addresses[0])
            for _ in range(6):
                stranger = await stack.enter_async_context(open_node(NodeConfig(client_mode=True)))
                await stranger.connect_address(bob.addresses[0])
            await until(lambda: len(bob.connections) == 7)
            late = await stack.enter_async_context(open_node(NodeConfig(client_mode=True)))
            # It comes from a known host, so it may prove who it is, and is sent away then.
            with suppress(UnreachableError):
                await late.connect_address(bob.addresses[0])
            await until(lambda: not late.connections)
            assert late.peer_id not in bob.connected_peers
            await friend.connect_address(bob.addresses[0])
            await until(lambda: friend.peer_id in bob.connected_peers)


async def test_who_is_turned_away_leaves_nothing_in_the_budget_of_buffers() -> None:
    async with open_node(NodeConfig(inbound_connections_max=8)) as bob, AsyncExitStack() as stack:
        host = bob._transport
        assert isinstance(host, Host)
        # Its host is known, so all who come from there may prove who they are.
        host.remember(Identity.generate().peer_id, "127.0.0.1")
        for _ in range(7):
            dialer = await stack.enter_async_context(raw_connection(bob.addresses[0]))
            await dialer.upgrade()
        await until(lambda: len(bob.connections) == 7)
        for _ in range(3):
            async with raw_connection(bob.addresses[0]) as late:
                session = await late.upgrade()
                while await next_plains(session):
                    pass
        assert len(bob.connections) == 7
        held = sum(connection.session._held.used for connection in host._open_connections())
        assert host._buffers.used == held


async def test_a_known_peer_that_moved_is_known_there() -> None:
    friend = Identity.generate()
    async with open_node(NodeConfig(allow_peers=(friend.peer_id,))) as bob:
        assert isinstance(bob._transport, Host)
        guests_of_bob = bob._transport._guests
        assert not guests_of_bob.knows_host("127.0.0.1")
        async with raw_connection(bob.addresses[0], friend) as dialer:
            await dialer.upgrade()
            await until(lambda: guests_of_bob.knows_host("127.0.0.1"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only 127.0.0.1 is set up elsewhere")
async def test_five_hundred_silent_connections_keep_nobody_out() -> None:
    """They get the places that one host may have; others get in meanwhile, and at the end all."""
    async with (
        open_node() as bob,
        open_node(NodeConfig(client_mode=True)) as friend,
        trio.open_nursery() as nursery,
    ):
        bob.serve(PROTOCOL, echo)
        await friend.connect_address(bob.addresses[0])
        _, _, host, _, port, *_ = bob.addresses[0].split("/")
        closed = 0

        async def stay_silent(source: str) -> None:
            nonlocal closed
            stream = await trio.open_tcp_stream(host, int(port), local_address=source)
            async with stream:
                with suppress(trio.BrokenResourceError):
                    assert not await stream.receive_some()
            closed += 1

        for number in range(500):
            nursery.start_soon(stay_silent, f"127.0.0.{2 + number % 5}")
        await wait_all_tasks_blocked(0.05)
        # Who is connected is served; who comes from elsewhere gets in.
        stream = await friend.open_stream(bob.peer_id, PROTOCOL)
        await stream.send_all(b"hello")
        assert await stream.receive_exactly(5) == b"hello"
        async with open_node(NodeConfig(client_mode=True)) as newcomer:
            await newcomer.connect_address(bob.addresses[0])
        # Each of them is closed in the ten seconds that a handshake may take, without a word.
        with trio.fail_after(15):
            await until(lambda: closed == 500)
        await newcomer_gets_in(bob)


async def newcomer_gets_in(bob: Node) -> None:
    async with open_node(NodeConfig(client_mode=True)) as newcomer:
        await newcomer.connect_address(bob.addresses[0])
