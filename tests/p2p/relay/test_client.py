"""Holding reservations, and who may come in through a relay."""

from __future__ import annotations

import contextlib

import pytest
import trio

from p2p import Identity, NodeConfig, RefusedError, RelayLimits, Stream, StreamBroken, open_node
from p2p.host.connection import Rules, upgrade
from p2p.host.host import Host
from p2p.host.transport import DialError
from p2p.protobuf import framed
from p2p.relay.client import REFRESH_S_MAX, REFRESH_S_MIN, open_relay_client, refresh_delay_s
from p2p.relay.schema import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    Hop,
    HopType,
    Reservation,
    Status,
    Stop,
    StopType,
    decode_stop_untrusted,
    encode_hop,
    encode_stop,
    read_message_untrusted,
)
from p2p.relay.server import open_relay_server
from p2p.testing import SimNetwork, run_sim


def test_a_reservation_is_kept_until_the_relay_goes() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            network.open_node() as relay,
            network.open_node(client_mode=True) as bob,
            open_relay_server(
                relay._transport, relay.identity, RelayLimits(reservation_life_s=100)
            ) as server,
            open_relay_client(bob._transport, bob.peer_id) as client,
        ):
            await bob.connect(relay.peer_id, relay.addresses)
            await client.reserve(relay.peer_id)
            for _ in range(20):
                await trio.sleep(49)
                assert server.holders == (bob.peer_id,)
                assert client.relays == (relay.peer_id,)
            await relay.disconnect(bob.peer_id)
            await bob.wait_disconnected(relay.peer_id)
            await trio.testing.wait_all_tasks_blocked()
            assert client.relays == ()
            assert server.holders == ()
            with pytest.raises(StreamBroken):
                await client.reserve(relay.peer_id)

    run_sim(1, main)


def test_a_relay_that_is_full_or_none_refuses() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            network.open_node() as relay,
            network.open_node(client_mode=True) as bob,
            open_relay_client(bob._transport, bob.peer_id) as client,
        ):
            await bob.connect(relay.peer_id, relay.addresses)
            with pytest.raises(RefusedError):
                await client.reserve(relay.peer_id)
            assert client.relays == ()

    run_sim(1, main)


async def pass_on(relay: Stream, source: Identity) -> Stop:
    """What a relay does to pass a peer on; returns the answer."""
    message = Stop(type=StopType.CONNECT, peer_id=source.peer_id)
    await relay.send_all(framed(encode_stop(message)))
    return decode_stop_untrusted(await read_message_untrusted(relay))


async def test_circuits_come_from_relays_only_where_we_have_reserved() -> None:
    async with open_node() as stranger, open_node() as bob:
        await stranger.connect(bob.peer_id, bob.addresses)
        stream = await stranger.open_stream(bob.peer_id, STOP_PROTOCOL)
        answer = await pass_on(stream, Identity.generate())
        assert answer.status == Status.PERMISSION_DENIED


async def test_a_relay_cannot_pass_itself_off_as_another() -> None:
    carol = Identity.generate()

    async def grant(stream: Stream) -> None:
        await read_message_untrusted(stream)
        granted = Hop(
            type=HopType.STATUS,
            status=Status.OK,
            reservation=Reservation(expires_at_s=2**40),
        )
        await stream.send_all(framed(encode_hop(granted)))

    async with open_node() as relay, open_node(NodeConfig(client_mode=True)) as bob:
        relay.serve(HOP_PROTOCOL, grant)
        await bob.connect(relay.peer_id, relay.addresses)
        assert bob.relay_client is not None
        await bob.relay_client.reserve(relay.peer_id)
        stream = await relay.open_stream(bob.peer_id, STOP_PROTOCOL)
        assert (await pass_on(stream, carol)).status == Status.OK
        # Bob may be gone before the last answer of the handshake.
        with contextlib.suppress(DialError):
            session = await upgrade(stream, relay.identity, bob.peer_id, rules=Rules())
            assert session.peer_id == bob.peer_id
        await stream.wait_broken()
        assert bob.connected_peers == (relay.peer_id,)
        assert bob.net_report.connections_relayed == 0
        # Nor does the relay wear bob's budget of buffers down with it.
        assert isinstance(bob._transport, Host)
        [with_relay] = bob._transport._open_connections()
        assert bob._transport._buffers.used == with_relay.session._held.used


def test_refreshing_heeds_no_absurd_clock() -> None:
    assert refresh_delay_s(100.0, 0.0) == 50.0
    assert refresh_delay_s(0.0, 1e9) == REFRESH_S_MIN
    assert refresh_delay_s(2.0**63, 0.0) == REFRESH_S_MAX
