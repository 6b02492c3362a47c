"""Strangers attack a node's port; it goes on serving others, and nothing of it stays behind."""

import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import Identity, Node, NodeConfig, StreamBroken, UnreachableError, open_node
from p2p.host.inbound import HANDSHAKE_TIMEOUT_S
from p2p.host.multistream import proposal
from p2p.host.noise import NoiseSession
from p2p.host.serve import NEGOTIATION_TIMEOUT_S
from p2p.host.yamux import INBOUND_STREAMS_MAX
from p2p.host.yamux_frame import ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE
from p2p.host.yamux_window import RECEIVE_WINDOW, RECEIVE_WINDOW_MAX
from tests.p2p.host.peers import RawDialer, raw_connection, until
from tests.p2p.host.receiving import next_plains
from tests.p2p.host.wires import wire
from tests.p2p.worlds import PROTOCOL, echo

# How far an attacker's handshake gets.
STAGES = range(6)
MANY = 40


@dataclass
class Target:
    """A node under attack, and an honest peer of it."""

    node: Node
    friend: Node

    @property
    def address(self) -> str:
        return self.node.addresses[0]

    async def check_serving(self) -> None:
        """Who is connected is served, and who is not can connect."""
        await _call(self.friend, self.node)
        async with open_node(NodeConfig(client_mode=True)) as newcomer:
            await newcomer.connect_address(self.address)
            await _call(newcomer, self.node)


async def _call(caller: Node, node: Node) -> None:
    stream = await caller.open_stream(node.peer_id, PROTOCOL)
    await stream.send_all(b"hello")
    assert await stream.receive_exactly(5) == b"hello"
    await stream.aclose()


@asynccontextmanager
async def open_target(config: NodeConfig | None = None) -> AsyncIterator[Target]:
    """The block attacks; afterwards all descriptors and tasks of the attack are gone."""
    process = psutil.Process()
    async with open_node(config) as node, open_node(NodeConfig(client_mode=True)) as friend:
        node.serve(PROTOCOL, echo)
        target = Target(node, friend)
        await friend.connect_address(target.address)
        await target.check_serving()
        await wait_all_tasks_blocked(0.01)
        descriptors = process.num_fds()
        tasks = trio.lowlevel.current_statistics().tasks_living
        yield target
        await target.check_serving()
        await until(lambda: process.num_fds() <= descriptors)
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)
        assert node.connected_peers == (friend.peer_id,)


async def advance(dialer: RawDialer, stage: int) -> NoiseSession | None:
    """An honest handshake up to a stage; a session from the last but one on."""
    if stage >= 1:
        await dialer.agree_on_noise()
    if stage >= 2:
        await dialer.send_message()
    if stage >= 3:
        await dialer.read_message()
    if stage >= 4:
        await dialer.send_message(dialer.proof())
    if stage < 4:
        return None
    if stage >= 5:
        await dialer.session().send([proposal("/yamux/1.0.0")])
    return dialer.session()


async def hang_up_of(dialer: RawDialer) -> None:
    """Read until the node closes the connection."""
    try:
        while await dialer.stream.receive_some():
            pass
    except trio.BrokenResourceError:
        return


# Before an identity is proved


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(5))
async def test_who_stops_midway_is_closed_in_time(stage: int, mock_clock: MockClock) -> None:
    async with open_target() as target, trio.open_nursery() as nursery:

        async def stop_midway() -> None:
            async with raw_connection(target.address) as dialer:
                await advance(dialer, stage)
                await hang_up_of(dialer)

        for _ in range(MANY):
            nursery.start_soon(stop_midway)
        await wait_all_tasks_blocked(0.05)
        await target.check_serving()
        assert len(nursery.child_tasks) == MANY
        mock_clock.jump(HANDSHAKE_TIMEOUT_S + 0.1)


async def test_who_sends_byte_by_byte_is_closed_in_time(mock_clock: MockClock) -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        said = proposal("/noise")
        for second in range(int(HANDSHAKE_TIMEOUT_S)):
            await dialer.stream.send_all(said[second : second + 1])
            await wait_all_tasks_blocked(0.01)
            mock_clock.jump(1.01)
        await hang_up_of(dialer)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
async def test_random_bytes(stage: int) -> None:
    rng = random.Random(stage)
    async with open_target() as target:
        for _ in range(MANY):
            async with raw_connection(target.address) as dialer:
                session = await advance(dialer, stage)
                noise = rng.randbytes(rng.choice((1, 3, 100, 70_000)))
                try:
                    if session is not None and rng.random() < 0.7:
                        # The record layer holds, what is inside is noise.
                        await session.send([noise])
                    else:
                        await dialer.stream.send_all(noise)
                    await dialer.stream.send_eof()
                except (StreamBroken, trio.BrokenResourceError):
                    continue
                await hang_up_of(dialer)


async def test_oversized_handshake_messages(mock_clock: MockClock) -> None:
    async with open_target() as target:
        for stage in (1, 3):
            async with raw_connection(target.address) as dialer:
                await advance(dialer, stage)
                await dialer.stream.send_all(b"\xff\xff" + bytes(65_535))
                await hang_up_of(dialer)


# Floods


@pytest.mark.skipif(sys.platform != "linux", reason="only 127.0.0.1 is set up elsewhere")
async def test_a_flood_of_connections_from_elsewhere_keeps_nobody_out() -> None:
    config = NodeConfig(handshakes_max=16, handshakes_per_host_max=8)
    async with open_target(config) as target, trio.open_nursery() as nursery:
        _, _, host, _, port, *_ = target.address.split("/")

        async def flood(source: str) -> None:
            stream = await trio.open_tcp_stream(host, int(port), local_address=source)
            async with stream:
                await trio.sleep_forever()

        for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            for _ in range(30):
                nursery.start_soon(flood, source)
        await wait_all_tasks_blocked(0.05)
        for _ in range(5):
            await target.check_serving()
        nursery.cancel_scope.cancel()


async def test_a_flood_from_ones_own_host_passes_with_its_oldest(mock_clock: MockClock) -> None:
    config = NodeConfig(handshakes_max=16, handshakes_per_host_max=4)
    async with open_target(config) as target, trio.open_nursery() as nursery:

        async def flood() -> None:
            async with raw_connection(target.address) as dialer:
                await hang_up_of(dialer)

        for _ in range(4):
            nursery.start_soon(flood)
        await wait_all_tasks_blocked(0.01)
        async with open_node(NodeConfig(client_mode=True)) as newcomer:
            with pytest.raises(UnreachableError):
                await newcomer.connect_address(target.address)
        mock_clock.jump(1)
        await target.check_serving()
        mock_clock.jump(HANDSHAKE_TIMEOUT_S)


async def test_proved_connections_have_a_limit_and_places_come_free() -> None:
    config = NodeConfig(inbound_connections_max=3)
    async with (
        open_node(config) as node,
        open_node() as first,
        open_node() as second,
        open_node() as third,
        open_node() as fourth,
    ):
        for peer in (first, second, third):
            await peer.connect_address(node.addresses[0])
        await until(lambda: len(node.connections) == 3)
        with pytest.raises(UnreachableError, match="closed during the handshake"):
            await fourth.connect_address(node.addresses[0])
        await first.disconnect(node.peer_id)
        await node.wait_disconnected(first.peer_id)
        await fourth.connect_address(node.addresses[0])


async def test_connections_that_are_closed_at_once() -> None:
    # Here the newcomers come from the attacker's own host, so its rate would keep them out, too.
    config = NodeConfig(handshakes_per_s_max=10_000, handshakes_per_s_and_host_max=10_000)
    async with open_target(config) as target:
        for _ in range(200):
            async with raw_connection(target.address) as dialer:
                await trio.aclose_forcefully(dialer.stream)


# After an identity is proved

BAD_FRAMES = {
    "unknown type": wire((7, 0, 1, 0)),
    "unknown version": b"\x09" + wire((PING, SYN, 0, 0))[1:],
    "wrong parity": wire((WINDOW_UPDATE, SYN, 2, 0)),
    "stream zero": wire((WINDOW_UPDATE, SYN, 0, 0)),
    "opened twice": wire((WINDOW_UPDATE, SYN, 1, 0), (WINDOW_UPDATE, SYN, 1, 0)),
    "used again": wire((DATA, SYN | RST, 1, 0), (DATA, SYN, 1, 0)),
    "window overrun": wire((WINDOW_UPDATE, SYN, 1, 0), (DATA, 0, 1, RECEIVE_WINDOW + 1)),
    "window overrun by far": wire((WINDOW_UPDATE, SYN, 1, 0), (DATA, 0, 1, RECEIVE_WINDOW_MAX + 1)),
    "4 GiB of data": wire((DATA, SYN, 1, 2**32 - 1)),
    "4 GiB of data for nobody": wire((DATA, 0, 99, 2**32 - 1)),
    "text": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_FRAMES)
async def test_frames_against_the_rules_end_their_connection(kind: str) -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        await session.send([BAD_FRAMES[kind]])
        await hang_up_of(dialer)


async def test_strange_but_harmless_frames() -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        for stream_id in (0, 1, 2, 3, 2**32 - 1):
            for flags in (0, ACK, FIN, RST, FIN | RST | ACK):
                await session.send([wire((DATA, flags, stream_id, 3), b"abc")])
                await session.send([wire((WINDOW_UPDATE, flags, stream_id, 2**32 - 1))])
        await session.send([wire((WINDOW_UPDATE, SYN, 1, 2**32 - 1), (GO_AWAY, 0, 0, 99))])
        await session.send([wire((PING, SYN, 0, 5))])
        received = b""
        while wire((PING, ACK, 0, 5)) not in received:
            received += b"".join(await next_plains(session))
        assert dialer.identity.peer_id not in target.node.connected_peers
        await target.check_serving()


async def test_more_streams_than_allowed_are_refused(mock_clock: MockClock) -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        ids = range(1, 4 * INBOUND_STREAMS_MAX, 2)
        await session.send([wire(*((WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in ids))])
        refused = wire((WINDOW_UPDATE, RST, ids[-1], 0))
        received = b""
        while refused not in received:
            received += b"".join(await next_plains(session))
        await target.check_serving()
        # Who says nothing on a stream loses it.
        mock_clock.jump(NEGOTIATION_TIMEOUT_S + 0.1)
        while wire((WINDOW_UPDATE, RST, 1, 0)) not in received:
            received += b"".join(await next_plains(session))


async def test_streams_opened_and_reset_without_end() -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up_of, dialer)
            for start in range(1, 40_000, 4_000):
                frames = [
                    frame
                    for stream_id in range(start, start + 4_000, 2)
                    for frame in ((WINDOW_UPDATE, SYN, stream_id, 0), (DATA, RST, stream_id, 0))
                ]
                await session.send([wire(*frames)])
            await target.check_serving()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", ["/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", PROTOCOL, "/none"])
async def test_garbage_on_every_protocol(protocol: str) -> None:
    rng = random.Random(protocol)
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up_of, dialer)
            for stream_id in range(1, 61, 2):
                said = proposal(protocol) + rng.randbytes(rng.choice((1, 33, 5_000)))
                flags = rng.choice((0, FIN, RST))
                await session.send(
                    [wire((DATA, SYN, stream_id, len(said)), said, (DATA, flags, stream_id, 0))]
                )
            await target.check_serving()
            nursery.cancel_scope.cancel()


async def test_who_never_reads_is_held_to_its_bounds() -> None:
    async with open_target() as target:
        identity = Identity.generate()
        async with raw_connection(target.address, identity) as dialer:
            session = await dialer.upgrade()
            # A hundred streams whose echoes nobody takes.
            for stream_id in range(1, 201, 2):
                said = proposal(PROTOCOL) + bytes(60_000)
                await session.send(
                    [
                        wire((WINDOW_UPDATE, SYN, stream_id, 2**31)),
                        wire((DATA, 0, stream_id, len(said)), said),
                    ]
                )
            await wait_all_tasks_blocked(0.05)
            await target.check_serving()
            assert identity.peer_id in target.node.connected_peers
