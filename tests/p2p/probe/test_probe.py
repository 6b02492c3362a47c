"""Probes between real and simulated nodes: what is told, what is refused, and what is measured."""

import pytest
import trio

from p2p import (
    BandwidthLimits,
    Identity,
    MessageInvalid,
    Node,
    NodeConfig,
    RefusedError,
    RpcCall,
    RpcService,
    ask_about,
    measure_download,
    measure_upload,
    open_node,
    ping,
    rpc_client,
)
from p2p.host.identify import PING_PROTOCOL as HOSTS_PING
from p2p.probe import schema
from p2p.probe.client import PING_PROTOCOL
from p2p.probe.service import open_probe
from tests.p2p.worlds import KINDS, World, open_pair


async def knows(alice: Node, bob: Node) -> None:
    await alice.connect(bob.peer_id, bob.addresses)


async def test_a_ping_tells_time_and_path() -> None:
    assert PING_PROTOCOL == HOSTS_PING
    async with open_pair(World("real")) as (alice, bob):
        answer = await ping(alice, bob.peer_id)
    assert answer.path == "direct"
    assert 0 < answer.round_trip_s < 10


async def test_a_peer_tells_who_it_is_and_how_it_sees_us() -> None:
    config = NodeConfig(relay=True)
    async with open_node(config) as bob, open_node(NodeConfig(client_mode=True)) as alice:
        await knows(alice, bob)
        told = await ask_about(alice, bob.peer_id)
        assert (told.agent, told.is_relay, told.is_client) == ("manyhands", True, False)
        assert told.connections == 1
        assert told.sees_you_at.startswith("/ip4/127.0.0.1/tcp/")
        assert abs(told.wall_ms / 1000 - alice.wall_time_s()) < 30
        assert told.subject_at == ()


async def test_where_an_identity_is_in_use_is_told_to_its_owner_only() -> None:
    async with open_node() as bob, open_node() as twin, open_node() as alice:
        await knows(twin, bob)
        await knows(alice, bob)
        told = await ask_about(alice, bob.peer_id, subject=twin.identity)
        assert [place.split("/")[2] for place in told.subject_at] == ["127.0.0.1"]
        unused = await ask_about(alice, bob.peer_id, subject=Identity.generate())
        assert unused.subject_at == ()
        client = rpc_client(alice, schema.ABOUT_SERVICE)
        stranger = alice.identity.sign(schema.about_claim(bob.peer_id, alice.peer_id))
        for_others = twin.identity.sign(schema.about_claim(bob.peer_id, twin.peer_id))
        for signature in (stranger, for_others, b""):
            request = schema.About(twin.peer_id, signature)
            with pytest.raises(RefusedError, match="not the subject"):
                await client.call(bob.peer_id, schema.ABOUT, request, timeout_s=5)
        with pytest.raises(RefusedError, match="not an Ed25519 peer id"):
            request = schema.About("nobody", b"")
            await client.call(bob.peer_id, schema.ABOUT, request, timeout_s=5)


@pytest.mark.parametrize("kind", KINDS)
async def test_both_directions_are_measured_within_the_limits(kind: str) -> None:
    size = 1_000_000
    limits = BandwidthLimits(measurement_bytes_max=size, peer_bytes_per_hour_max=2 * size)
    async with open_pair(World(kind)) as (alice, bob), open_probe(bob, limits):
        down = await measure_download(alice, bob.peer_id, seconds=5.0)
        up = await measure_upload(alice, bob.peer_id, seconds=5.0)
        for measured in (down, up):
            assert measured.path == "direct"
            # What was granted, up to the last piece.
            assert 0 < measured.size_bytes <= size + schema.PIECE_BYTES
        for measure in (measure_download, measure_upload):
            with pytest.raises(RefusedError, match="enough was measured"):
                await measure(alice, bob.peer_id, seconds=1.0)


async def test_no_second_measurement_beside_the_first() -> None:
    # So small that those measured before the upload is heard of do not use up the hour.
    limits = BandwidthLimits(measurement_bytes_max=20_000)
    async with open_node(NodeConfig(bandwidth_limits=limits)) as bob, open_node() as alice:
        await knows(alice, bob)
        client = rpc_client(alice, schema.BANDWIDTH_SERVICE)
        upload = schema.Upload(5.0)
        async with client.open(bob.peer_id, schema.UPLOAD, upload, timeout_s=5) as call:
            await call.send(schema.Piece(), b"1")
            with (
                pytest.raises(RefusedError, match="one measurement at a time"),
                trio.fail_after(20),
            ):
                # The first ones may come before the upload is heard of.
                while True:
                    await measure_download(alice, bob.peer_id, seconds=0.1)
            await call.finish_sending()
            answer = await call.receive()
        assert answer is not None
        assert answer[0].size_bytes == 1


async def test_an_upload_begins_with_its_length() -> None:
    async with open_pair(World("real")) as (alice, bob):
        client = rpc_client(alice, schema.BANDWIDTH_SERVICE)
        async with client.open(bob.peer_id, schema.UPLOAD, schema.Piece(), timeout_s=5) as call:
            with pytest.raises(RefusedError, match="begins with its length"):
                await call.receive()


async def test_a_peer_that_boasts_is_not_believed() -> None:
    async def boast(call: RpcCall[schema.Received, schema.UploadItem]) -> None:
        await call.send(schema.Received(2**50, 0.001))

    service = RpcService(schema.BANDWIDTH_SERVICE)
    service.stream(schema.UPLOAD, boast)
    world = World("simulated")
    async with open_pair(world) as (alice, bob), service.serving(bob):
        with pytest.raises(MessageInvalid, match="more bytes than we sent"):
            await measure_upload(alice, bob.peer_id, seconds=1.0)
