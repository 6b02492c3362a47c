"""What a relay learns: a hostile one that writes down and changes what it splices."""

from __future__ import annotations

import zlib

import pytest
import trio

from p2p import Node, NodeConfig, Stream, StreamBroken, open_node
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
    decode_hop_untrusted,
    decode_stop_untrusted,
    encode_hop,
    encode_stop,
    read_message_untrusted,
)

PROTOCOL = "/test/confidential/1"
SECRET = b"the weights of layer seven, "
MESSAGE = SECRET * 20_000
"""So repetitive that anything but ciphertext would be compressed to nothing."""


class SpyingRelay:
    """Grants reservations to all, and keeps every byte that it carries."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.seen: list[bytes] = []
        self.flips_at: int | None = None
        """The number of the piece in which a bit is changed, if one is."""
        node.serve(HOP_PROTOCOL, self.serve)

    async def serve(self, source: Stream) -> None:
        request = decode_hop_untrusted(await read_message_untrusted(source))
        status = Hop(
            type=HopType.STATUS, status=Status.OK, reservation=Reservation(expires_at_s=2**40)
        )
        if request.type == HopType.RESERVE:
            await source.send_all(framed(encode_hop(status)))
            return
        assert request.peer_id is not None
        target = await self._node.open_stream(request.peer_id, STOP_PROTOCOL)
        connect = Stop(type=StopType.CONNECT, peer_id=source.peer_id)
        await target.send_all(framed(encode_stop(connect)))
        answer = decode_stop_untrusted(await read_message_untrusted(target))
        assert answer.status == Status.OK
        await source.send_all(framed(encode_hop(status)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.carry, source, target)
            nursery.start_soon(self.carry, target, source)

    async def carry(self, sender: Stream, receiver: Stream) -> None:
        while data := await sender.receive_some():
            self.seen.append(data)
            if self.flips_at is not None and len(self.seen) > self.flips_at:
                data = bytes([*data[:-1], data[-1] ^ 1])
            await receiver.send_all(data)
        await receiver.send_eof()


async def reserve(bob: Node, relay: Node) -> str:
    """Bob's address by the relay."""
    await bob.connect_address(relay.addresses[0])
    assert bob.relay_client is not None
    await bob.relay_client.reserve(relay.peer_id)
    return f"{relay.addresses[0]}/p2p-circuit/p2p/{bob.peer_id}"


@pytest.mark.parametrize("record_layer", ["auto", "noise"])
async def test_a_relay_sees_sizes_and_ciphertext(record_layer: str) -> None:
    config = NodeConfig(client_mode=True, record_layer=record_layer)  # type: ignore[arg-type]
    async with open_node() as relay, open_node(config) as alice, open_node(config) as bob:
        spy = SpyingRelay(relay)
        got: list[bytes] = []
        done = trio.Event()

        async def take(stream: Stream) -> None:
            got.append(await stream.receive_exactly(len(MESSAGE)))
            done.set()

        bob.serve(PROTOCOL, take)
        await alice.connect_address(await reserve(bob, relay))
        before = sum(map(len, spy.seen))
        stream = await alice.open_stream(bob.peer_id, PROTOCOL)
        await stream.send_all(MESSAGE)
        await done.wait()
        assert got == [MESSAGE]
        seen = b"".join(spy.seen)
        # All of it went through the relay, and it grew by little.
        assert len(MESSAGE) < len(seen) - before < 1.1 * len(MESSAGE) + 10_000
        for told in (SECRET, SECRET[:8], PROTOCOL.encode(), b"/yamux", alice.identity.public_key):
            assert told not in seen[before:]
        assert SECRET[:8] not in seen
        # The names of protocols and the identities in the handshake are hidden, too.
        assert PROTOCOL.encode() not in seen
        assert bob.identity.public_key not in seen
        assert len(zlib.compress(seen[before:])) > 0.99 * (len(seen) - before)


async def test_a_relay_that_changes_a_bit_ends_the_connection() -> None:
    client = NodeConfig(client_mode=True)
    async with open_node() as relay, open_node(client) as alice, open_node(client) as bob:
        spy = SpyingRelay(relay)
        got = bytearray()

        async def take(stream: Stream) -> None:
            while data := await stream.receive_some():
                got.extend(data)

        bob.serve(PROTOCOL, take)
        await alice.connect_address(await reserve(bob, relay))
        stream = await alice.open_stream(bob.peer_id, PROTOCOL)
        await stream.send_all(SECRET)
        spy.flips_at = len(spy.seen)
        with pytest.raises(StreamBroken):
            while True:
                await stream.send_all(MESSAGE)
        # What came before the changed bit is as it was sent, and nothing came after it.
        assert bytes(got) == (SECRET * (len(got) // len(SECRET) + 1))[: len(got)]
        assert bob.peer_id not in alice.connected_peers
