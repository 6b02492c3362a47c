"""The keeper among real relays on loopback: finds, holds, replaces, and gives up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from p2p import AddressInvalid, Identity, Node, NodeConfig, RelayLimits, Stream, open_node
from p2p.address import parse_tcp_address
from p2p.host.host import Host
from p2p.nat.report import RelayReport
from p2p.relay.keeper import RelayKeeper, open_relay_keeper

ECHO = "/test/echo/1"
PATIENCE_S = 20.0


class Told:
    """What the keeper has told of its reservations."""

    def __init__(self) -> None:
        self.now: tuple[RelayReport, ...] = ()
        self._news = trio.Event()

    def __call__(self, reports: tuple[RelayReport, ...]) -> None:
        self.now = reports
        self._news.set()
        self._news = trio.Event()

    async def until(self, is_so: Callable[[set[str]], bool]) -> tuple[RelayReport, ...]:
        """Wait until the relays that are told fulfil this."""
        with trio.fail_after(PATIENCE_S):
            while not is_so({one.peer_id for one in self.now}):
                await self._news.wait()
        return self.now


def relay_config(network: int, **limits: int) -> NodeConfig:
    """A relay whose address is in a network of its own; all of 127/8 is loopback."""
    return NodeConfig(
        listen=(f"/ip4/127.0.{network}.1/tcp/0",), relay=True, relay_limits=RelayLimits(**limits)
    )


@asynccontextmanager
async def keeping(
    told: Told, *relays: str, wanted: int = 2
) -> AsyncIterator[tuple[Node, RelayKeeper]]:
    """Bob, who cannot be dialed, and his keeper."""
    async with open_node(NodeConfig(client_mode=True)) as bob:
        host, client = bob._transport, bob.relay_client
        assert isinstance(host, Host)
        assert client is not None
        async with open_relay_keeper(
            bob, host, client, on_change=told, relays=relays, wanted=wanted
        ) as keeper:
            yield bob, keeper


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def test_relays_among_connected_peers_are_found_and_reach_us() -> None:
    told = Told()
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(open_node(relay_config(n))) for n in (1, 2)]
        plain = await stack.enter_async_context(open_node())
        bob, keeper = await stack.enter_async_context(keeping(told))
        bob.serve(ECHO, echo)
        for node in (plain, *relays):
            await bob.connect_address(node.addresses[0])
        ids = {node.peer_id for node in relays}
        reports = await told.until(lambda held: held == ids)
        assert not keeper.is_short
        for report in reports:
            assert 3_000 < report.expires_in_s <= 3_600
            assert report.round_trip_s is not None
            assert 0 < report.round_trip_s < PATIENCE_S
        alice = await stack.enter_async_context(open_node())
        assert await alice.connect_address(reports[0].address) == bob.peer_id
        stream = await alice.open_stream(bob.peer_id, ECHO)
        await stream.send_all(b"hello")
        assert await stream.receive_exactly(5) == b"hello"
        assert stream.path == "relayed"


async def run_relay(
    network: int, scope: trio.CancelScope, task_status: trio.TaskStatus[Node]
) -> None:
    """A relay until the scope is cancelled."""
    with scope:
        async with open_node(relay_config(network)) as relay:
            task_status.started(relay)
            await trio.sleep_forever()


async def test_a_relay_that_dies_is_replaced() -> None:
    told, life = Told(), trio.CancelScope()
    async with (
        open_node(relay_config(1)) as one,
        open_node(relay_config(2)) as other,
        trio.open_nursery() as nursery,
    ):
        mortal: Node = await nursery.start(run_relay, 3, life)
        # The operator's own comes first.
        async with keeping(told, mortal.addresses[0]) as (bob, keeper):
            await told.until(lambda held: held == {mortal.peer_id})
            keeper.add_candidates({node.peer_id: node.addresses for node in (one, other)})
            await told.until(lambda held: mortal.peer_id in held and len(held) == 2)
            life.cancel()
            await told.until(lambda held: held == {one.peer_id, other.peer_id})
            assert mortal.peer_id not in bob.connected_peers


async def test_a_full_relay_is_passed_over() -> None:
    told = Told()
    async with (
        open_node(relay_config(1, reservations_max=1)) as full,
        open_node(relay_config(2)) as spacious,
        open_node(NodeConfig(client_mode=True)) as first,
        keeping(told, wanted=1) as (bob, keeper),
    ):
        assert first.relay_client is not None
        await first.relay_client.reserve(await first.connect_address(full.addresses[0]))
        # The operator names the full one, so it is tried first.
        keeper.on_named(parse_tcp_address(full.addresses[0]))
        keeper.add_candidates({spacious.peer_id: spacious.addresses})
        await told.until(lambda held: held == {spacious.peer_id})
        assert full.peer_id in bob.connected_peers


async def test_what_is_no_relay_or_nowhere_harms_nobody() -> None:
    told = Told()
    nobody = Identity.generate().peer_id
    async with (
        open_node() as plain,
        open_node(relay_config(1)) as relay,
        keeping(told, wanted=1) as (bob, keeper),
    ):
        keeper.add_candidates(
            {
                plain.peer_id: plain.addresses,
                nobody: ("/ip4/127.0.0.1/tcp/9", "nonsense", "/ip4/1.2.3.4/udp/1"),
                bob.peer_id: relay.addresses,
                relay.peer_id: relay.addresses,
            }
        )
        await told.until(lambda held: held == {relay.peer_id})


@pytest.mark.slow
async def test_what_is_no_longer_wanted_is_given_up() -> None:
    told = Told()
    async with (
        open_node(relay_config(1)) as one,
        open_node(relay_config(2)) as other,
        keeping(told, one.addresses[0], other.addresses[0]) as (bob, keeper),
    ):
        await told.until(lambda held: len(held) == 2)
        keeper.want(0)
        await told.until(lambda held: not held)
        assert bob.relay_client is not None
        assert bob.relay_client.relays == ()
        keeper.want(1)
        await told.until(lambda held: len(held) == 1)


async def test_a_relays_address_without_its_peer_is_refused() -> None:
    with pytest.raises(AddressInvalid, match="lacks the peer id"):
        async with keeping(Told(), "/ip4/127.0.0.1/tcp/1"):
            pass
