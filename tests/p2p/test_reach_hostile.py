"""What hostile peers try with relays, dial-back and punching: refused, logged once, no traces."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from p2p import (
    Identity,
    MessageInvalid,
    Node,
    NodeConfig,
    PeerId,
    RelayLimits,
    Stream,
    StreamBroken,
    open_node,
    wall_time_s,
)
from p2p.address import TcpAddress
from p2p.dial import dcutr
from p2p.dial.hole_puncher import open_hole_puncher
from p2p.host.host import Host
from p2p.nat.autonat import AUTONAT_PROTOCOL, schema
from p2p.nat.autonat.server import serving_dial_back
from p2p.protobuf import framed
from p2p.relay.schema import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    Hop,
    HopType,
    Reservation,
    Status,
    Stop,
    StopType,
    encode_hop,
    encode_stop,
    read_message_untrusted,
    voucher,
)

TIMES = 20
REQUESTS_MAX = 5
RECORD_BYTES = 512
"""What may be there of a record that is being read; less than the deeds would leave."""
VICTIM = TcpAddress("ip4", "5.6.7.8", 4001)
TOO_LONG = b"\xff\xff\x7f" + bytes(10_000)
RESERVE = framed(encode_hop(Hop(type=HopType.RESERVE)))
SYNC = dcutr.framed(dcutr.PunchMessage(type=dcutr.PunchType.SYNC))


@dataclass
class Scene:
    """Alice serves all there is on loopback; mallory is connected to her."""

    alice: Node
    host: Host
    mallory: Node
    probed: list[TcpAddress] = field(default_factory=list)

    async def probe(self, peer_id: PeerId, address: TcpAddress) -> None:
        """Alice dials somebody because she was asked to."""
        self.probed.append(address)

    async def say(self, protocol: str, data: bytes) -> bytes:
        """All that alice answers, to the end of the stream."""
        stream = await self.mallory.open_stream(self.alice.peer_id, protocol)
        answer = bytearray()
        try:
            await stream.send_all(data)
            while part := await stream.receive_some():
                answer += part
        except StreamBroken:
            pass
        finally:
            stream.reset()
        return bytes(answer)

    async def held_bytes(self, *, most: int = 1 << 62) -> int:
        """What alice holds of others, once all streams have ended and it is no more than that."""

        def is_quiet() -> bool:
            streams = sum(one.muxer.stream_count for one in self.host._open_connections())
            return streams == 0 and self.host._buffers.used <= most

        with trio.fail_after(10):
            while not is_quiet():  # noqa: ASYNC110 - streams tell nobody of their end
                await trio.sleep(0.01)
        return self.host._buffers.used


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    limits = RelayLimits(requests_per_minute_and_peer=REQUESTS_MAX)
    async with (
        open_node(NodeConfig(relay=True, relay_limits=limits)) as alice,
        open_node(NodeConfig(client_mode=True)) as mallory,
    ):
        host = alice._transport
        assert isinstance(host, Host)
        scene = Scene(alice, host, mallory)
        with serving_dial_back(host, scene.probe):
            async with open_hole_puncher(alice, host):
                await mallory.connect(alice.peer_id, alice.addresses)
                yield scene


def dial_back(peer_id: PeerId, *addresses: TcpAddress) -> bytes:
    return framed(schema.encode_request(schema.DialRequest(peer_id, addresses)))


# What is sent, where, and the event that tells of it; given mallory's and another's peer id.
DEEDS: dict[str, tuple[str, Callable[[PeerId, PeerId], bytes], str]] = {
    "dial-back to a victim": (
        AUTONAT_PROTOCOL,
        lambda mallory, _: dial_back(mallory, *([VICTIM] * 8)),
        "dial_back_refused",
    ),
    "dial-back for another peer": (
        AUTONAT_PROTOCOL,
        lambda _, other: dial_back(other, TcpAddress("ip4", "127.0.0.1", 4001)),
        "dial_back_refused",
    ),
    "dial-back in garbage": (AUTONAT_PROTOCOL, lambda *_: TOO_LONG, "dial_back_refused"),
    "a flood of reservations": (HOP_PROTOCOL, lambda *_: RESERVE, "relay_refuses"),
    "a circuit to oneself": (
        HOP_PROTOCOL,
        lambda mallory, _: framed(encode_hop(Hop(type=HopType.CONNECT, peer_id=mallory))),
        "relay_refuses",
    ),
    "garbage for the relay": (HOP_PROTOCOL, lambda *_: TOO_LONG, "relay_refuses"),
    "a circuit that nobody asked for": (
        STOP_PROTOCOL,
        lambda _, other: framed(encode_stop(Stop(type=StopType.CONNECT, peer_id=other))),
        "relay_distrusted",
    ),
    "garbage instead of a circuit": (STOP_PROTOCOL, lambda *_: TOO_LONG, "relay_distrusted"),
    "a punch without a relay": (dcutr.DCUTR_PROTOCOL, lambda *_: SYNC, "punch_refused"),
    "a huge punch": (dcutr.DCUTR_PROTOCOL, lambda *_: TOO_LONG, "punch_refused"),
}


@pytest.mark.slow
@pytest.mark.parametrize("deed", DEEDS)
async def test_it_is_refused_logged_once_and_leaves_no_trace(
    deed: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    protocol, make, event = DEEDS[deed]
    async with open_scene() as scene:
        if deed == "a circuit to oneself":
            await scene.say(HOP_PROTOCOL, RESERVE)
        data = make(scene.mallory.peer_id, Identity.generate().peer_id)
        await scene.say(protocol, data)
        before = await scene.held_bytes()
        for _ in range(TIMES):
            await scene.say(protocol, data)
        await scene.held_bytes(most=before + RECORD_BYTES)
        assert scene.probed == []
        assert scene.alice.connected_peers == (scene.mallory.peer_id,)
        # She goes on serving others.
        async with open_node(NodeConfig(client_mode=True)) as carol:
            await carol.connect(scene.alice.peer_id, scene.alice.addresses)
            assert carol.relay_client is not None
            await carol.relay_client.reserve(scene.alice.peer_id)
    told = [record.getMessage() for record in caplog.records]
    assert [one.partition(" ")[0] for one in told] == [event], told


VOUCHERS: dict[str, Callable[[Identity, PeerId], bytes]] = {
    "expired": lambda relay, me: voucher(relay, me, int(wall_time_s()) - 3_600),
    "of another peer": lambda relay, _: voucher(
        relay, Identity.generate().peer_id, int(wall_time_s()) + 60
    ),
    "did not sign": lambda _, me: voucher(Identity.generate(), me, int(wall_time_s()) + 60),
}


@pytest.mark.parametrize("complaint", VOUCHERS)
async def test_a_reservation_with_a_bad_voucher_is_none(
    complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_node() as relay, open_node(NodeConfig(client_mode=True)) as bob:

        async def grant(stream: Stream) -> None:
            await read_message_untrusted(stream)
            granted = Reservation(
                expires_at_s=int(wall_time_s()) + 60,
                voucher=VOUCHERS[complaint](relay.identity, bob.peer_id),
            )
            answer = Hop(type=HopType.STATUS, status=Status.OK, reservation=granted)
            await stream.send_all(framed(encode_hop(answer)))

        relay.serve(HOP_PROTOCOL, grant)
        await bob.connect(relay.peer_id, relay.addresses)
        assert bob.relay_client is not None
        for _ in range(3):
            with pytest.raises(MessageInvalid, match=complaint):
                await bob.relay_client.reserve(relay.peer_id)
        assert bob.relay_client.relays == ()
    told = [one.getMessage() for one in caplog.records if "relay_distrusted" in one.getMessage()]
    assert len(told) == 1
    assert complaint in told[0]
