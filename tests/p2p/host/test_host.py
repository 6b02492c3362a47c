"""The host on real sockets: handlers that fail, connections that go, farewells that arrive."""

import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import base58
import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import (
    Identity,
    MessageInvalid,
    Node,
    NodeConfig,
    RefusedError,
    Stream,
    StreamBroken,
    UnreachableError,
    open_node,
)
from p2p.host import shares
from p2p.host.host import CONNECTIONS_PER_PEER_MAX
from p2p.host.muxer import FAREWELL_S
from tests.p2p.host.peers import raw_connection, until
from tests.p2p.host.receiving import next_plains
from tests.p2p.host.wires import pattern
from tests.p2p.worlds import PROTOCOL, echo

FAILING = "/test/failing/1"


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    """Alice, and bob whom she is connected to; bob serves an echo."""
    async with open_node() as alice, open_node() as bob:
        bob.serve(PROTOCOL, echo)
        await alice.connect_address(bob.addresses[0])
        await until(lambda: bool(bob.connections))
        yield alice, bob


async def check_serving(alice: Node, bob: Node) -> None:
    """A small call gets its answer."""
    stream = await alice.open_stream(bob.peer_id, PROTOCOL)
    await stream.send_all(b"hello")
    assert await stream.receive_exactly(5) == b"hello"
    await stream.aclose()


# Handlers that fail

EXPECTED = [
    StreamBroken("gone"),
    RefusedError("busy"),
    MessageInvalid("nonsense"),
    UnreachableError(None),
    trio.TooSlowError(),
    ExceptionGroup("several", [StreamBroken("gone"), ExceptionGroup("", [trio.TooSlowError()])]),
]
BUGS = [
    ValueError("a bug"),
    AssertionError(),
    RecursionError(),
    StopAsyncIteration(),
    trio.ClosedResourceError(),
    ExceptionGroup("several", [ValueError("a bug"), StreamBroken("gone")]),
]


@pytest.mark.parametrize("error", EXPECTED + BUGS, ids=lambda error: type(error).__name__)
async def test_whatever_a_handler_raises_resets_its_stream_only(
    nodes: tuple[Node, Node], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = nodes

    async def fail(stream: Stream) -> None:
        await stream.receive_some()
        raise error

    bob.serve(FAILING, fail)
    witness = await alice.open_stream(bob.peer_id, PROTOCOL)
    stream = await alice.open_stream(bob.peer_id, FAILING)
    await stream.send_all(b"x")
    with pytest.raises(StreamBroken):
        await stream.receive_some()
    await witness.send_all(b"well")
    assert await witness.receive_exactly(4) == b"well"
    # A stranger can provoke the expected ones; they do not fill the operator's log.
    problems = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(problems) == (error in BUGS)


async def test_a_handler_that_fails_while_the_node_closes_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_node() as alice, open_node() as bob:

        async def fail_when_cancelled(stream: Stream) -> None:
            async def cling() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("a bug")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cling)
                nursery.start_soon(trio.sleep_forever)
                await stream.send_all(b"x")

        bob.serve(FAILING, fail_when_cancelled)
        await alice.connect_address(bob.addresses[0])
        stream = await alice.open_stream(bob.peer_id, FAILING)
        assert await stream.receive_exactly(1) == b"x"
    assert [record.getMessage().split()[0] for record in caplog.records if record.exc_info] == [
        "stream_handler_failed"
    ]


async def test_a_connection_that_goes_while_a_handler_runs(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    outcomes: list[str] = []
    running = trio.Event()

    async def handle(stream: Stream) -> None:
        running.set()
        try:
            await stream.receive_some()
        except StreamBroken:
            outcomes.append("broken")
        # A handler may have other things to do; it hinders nobody.
        await trio.sleep_forever()

    bob.serve(FAILING, handle)
    await alice.open_stream(bob.peer_id, FAILING)
    await running.wait()
    await alice.disconnect(bob.peer_id)
    await bob.wait_disconnected(alice.peer_id)
    await until(lambda: outcomes == ["broken"])
    await check_serving(alice, bob)


async def test_serving_can_end_while_a_stream_is_being_agreed_on(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    bob.stop_serving(PROTOCOL)
    stream = await alice.open_stream(bob.peer_id, PROTOCOL)
    with pytest.raises(RefusedError):
        await stream.receive_some()


# Streams


async def test_an_opening_that_is_cancelled_leaves_no_stream(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    for _ in range(300):
        with trio.CancelScope() as scope:
            scope.cancel()
            await alice.open_stream(bob.peer_id, PROTOCOL)
    await check_serving(alice, bob)


async def test_two_hundred_cancelled_writes_on_one_connection(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes

    async def sleep(stream: Stream) -> None:
        await stream.wait_broken()

    bob.serve("/test/sleep/1", sleep)
    for _ in range(200):
        stream = await alice.open_stream(bob.peer_id, "/test/sleep/1")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(6_000_000))
                await trio.lowlevel.checkpoint()
                scope.cancel()
        assert scope.cancelled_caught
    await check_serving(alice, bob)
    assert len(alice.connections) == 1


# Farewells


async def test_an_answer_that_was_queued_arrives_though_its_node_closes() -> None:
    answer = pattern(3, 250_000)
    async with open_node() as alice:
        async with open_node() as bob:
            answered = trio.Event()

            async def reply(stream: Stream) -> None:
                await stream.send_all(answer)
                await stream.send_eof()
                answered.set()
                await trio.sleep_forever()

            bob.serve(PROTOCOL, reply)
            await alice.connect_address(bob.addresses[0])
            async with trio.open_nursery() as nursery:
                # Bytes that nobody reads any more must not make the kernel throw the answer away.
                noisy = await alice.open_stream(bob.peer_id, "/test/nothing/1")

                async def make_noise() -> None:
                    with pytest.raises(StreamBroken):
                        while True:
                            await noisy.send_all(bytes(10_000))

                nursery.start_soon(make_noise)
                stream = await alice.open_stream(bob.peer_id, PROTOCOL)
                await answered.wait()
        assert await stream.receive_exactly(len(answer)) == answer
        assert await stream.receive_some() == b""


async def test_a_node_that_says_farewell_takes_nobody_in_any_more(mock_clock: MockClock) -> None:
    closed = trio.Event()

    async def close_when(told: trio.Event, addresses: list[str]) -> None:
        async with open_node() as bob:
            addresses += bob.addresses
            await until(lambda: bool(bob.connections))
            await told.wait()
        closed.set()

    async with open_node() as alice, trio.open_nursery() as nursery:
        told = trio.Event()
        addresses: list[str] = []
        nursery.start_soon(close_when, told, addresses)
        await until(lambda: bool(addresses))
        # A peer that never hangs up, so that the farewell takes its time.
        async with raw_connection(addresses[0]) as dialer:
            await dialer.upgrade()
            told.set()
            await wait_all_tasks_blocked(0.01)
            nursery.start_soon(check_refused, alice, addresses[0])
            await wait_all_tasks_blocked(0.01)
            assert not closed.is_set()
            mock_clock.jump(FAREWELL_S)
            await closed.wait()


async def check_refused(node: Node, address: str) -> None:
    """Nobody lets us in there."""
    with pytest.raises(UnreachableError):
        await node.connect_address(address)


# Connections


async def test_a_peer_that_came_back_is_reached_on_its_newest_connection() -> None:
    identity = Identity.generate()
    async with open_node() as bob, raw_connection(bob.addresses[0], identity) as dialer:
        # This one never answers anything, and has not been noticed to be dead.
        await dialer.upgrade()
        await until(lambda: identity.peer_id in bob.connected_peers)
        async with raw_connection(bob.addresses[0], identity) as newer:
            session = await newer.upgrade()
            await until(lambda: len(bob.connections) == 2)
            await bob.open_stream(identity.peer_id, PROTOCOL)
            received = b""
            while b"/multistream/1.0.0" not in received:
                received += b"".join(await next_plains(session))


async def test_one_peer_cannot_hold_connections_without_end() -> None:
    identity = Identity.generate()
    async with open_node() as bob, trio.open_nursery() as nursery:

        async def hold() -> None:
            async with raw_connection(bob.addresses[0], identity) as dialer:
                session = await dialer.upgrade()
                while await next_plains(session):
                    pass

        for count in range(1, CONNECTIONS_PER_PEER_MAX + 4):
            nursery.start_soon(hold)
            await until(
                lambda count=count: len(bob.connections) == min(count, CONNECTIONS_PER_PEER_MAX)
            )
        nursery.cancel_scope.cancel()


async def test_we_do_not_connect_to_ourselves() -> None:
    async with open_node() as alice:
        for action in (
            lambda: alice.connect_address(alice.addresses[0]),
            lambda: alice.connect(alice.peer_id),
            lambda: alice.open_stream(alice.peer_id, PROTOCOL),
        ):
            with pytest.raises(UnreachableError, match="ourselves"):
                await action()


async def test_another_process_with_our_key_is_not_a_peer(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "key")
    async with (
        open_node(NodeConfig(identity_path=tmp_path / "key")) as bob,
        raw_connection(bob.addresses[0], identity) as twin,
    ):
        session = await twin.shake_hands()
        assert await next_plains(session) == []
        assert bob.connections == ()


async def test_the_log_has_one_line_for_a_connection_and_no_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = Identity.load_or_create(tmp_path / "key")
    with caplog.at_level(logging.DEBUG):
        async with open_node(NodeConfig(identity_path=tmp_path / "key")) as bob:
            bob.serve(PROTOCOL, echo)
            async with open_node() as alice:
                await alice.connect_address(bob.addresses[0])
                await check_serving(alice, bob)
    ours = [record for record in caplog.records if record.name.startswith("p2p")]
    lines = [record.getMessage() for record in ours if record.levelno >= logging.INFO]
    assert [line.split()[0] for line in lines] == ["connected", "connected"]
    secret = identity._key.private_bytes_raw()
    for record in caplog.records:
        for shape in (secret.hex(), base58.b58encode(secret).decode(), repr(secret)[2:-1]):
            assert shape not in record.getMessage()


# What libp2p peers expect


async def test_identify_says_who_we_are_and_how_we_see_the_other(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    stream = await alice.open_stream(bob.peer_id, "/ipfs/id/1.0.0")
    data = b""
    while part := await stream.receive_some():
        data += part
    # The length is a varint of one or two bytes.
    size_bytes = 1 if data[0] < 0x80 else 2
    message = Identify.FromString(data[size_bytes:])
    assert message.public_key[4:] == bob.identity.public_key
    assert PROTOCOL in message.protocols
    assert [str(Multiaddr(raw)) for raw in message.listen_addrs] == [
        bob.addresses[0].partition("/p2p/")[0]
    ]
    assert str(Multiaddr(message.observed_addr)) == bob.connections[0].address


async def test_ping_sends_back_what_it_gets(
    nodes: tuple[Node, Node], mock_clock: MockClock
) -> None:
    alice, bob = nodes
    stream = await alice.open_stream(bob.peer_id, "/ipfs/ping/1.0.0")
    for start in range(3):
        await stream.send_all(pattern(start, 32))
        assert await stream.receive_exactly(32) == pattern(start, 32)
    await stream.send_all(b"half")
    await wait_all_tasks_blocked(0.01)
    mock_clock.jump(61)
    with pytest.raises(StreamBroken):
        await stream.receive_some()


@pytest.mark.slow
async def test_handlers_that_outlive_a_connection_count_against_its_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shares, "INBOUND_STREAMS_MAX", 2)
    over = trio.Event()
    served = 0

    async def linger(stream: Stream) -> None:
        nonlocal served
        served += 1
        await over.wait()

    async with open_node() as alice, open_node() as bob:
        bob.serve("/test/linger/1", linger)
        for visit in (1, 2):
            await alice.connect_address(bob.addresses[0])
            for _ in range(2):
                await alice.open_stream(bob.peer_id, "/test/linger/1")
            await wait_all_tasks_blocked(0.01)
            assert served == 2, f"visit {visit}"
            await alice.disconnect(bob.peer_id)
            await bob.wait_disconnected(alice.peer_id)
            gc.collect()
        over.set()
        await wait_all_tasks_blocked(0.01)
        await alice.connect_address(bob.addresses[0])
        await alice.open_stream(bob.peer_id, "/test/linger/1")
        await until(lambda: served == 3)
