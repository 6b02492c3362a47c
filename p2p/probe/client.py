"""The asking side of probes: ping, who a peer is, and how fast the way to it is."""

from __future__ import annotations

import os
from dataclasses import dataclass

import trio

from p2p.errors import MessageInvalid, RemoteError, StreamBroken
from p2p.host.stream import Path
from p2p.identity import Identity
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.probe import schema
from p2p.rpc import RpcCall, rpc_client

PING_PROTOCOL = "/ipfs/ping/1.0.0"
_PING_BYTES = 32
# What arrives while a connection gets up to speed says little of the line.
_WARM_UP_SHARE = 0.2


@dataclass(frozen=True)
class Pinged:
    """An answer to a ping."""

    round_trip_s: float
    path: Path


@dataclass(frozen=True)
class Measured:
    """What went through in one direction."""

    size_bytes: int
    seconds: float
    path: Path

    @property
    def bytes_per_s(self) -> float:
        """The rate; 0 when too little came to tell."""
        return self.size_bytes / self.seconds if self.seconds > 0 else 0.0


async def ping(node: Node, peer_id: PeerId) -> Pinged:
    """Send 32 random bytes and wait for them to come back; any libp2p peer answers.

    Raises:
        UnreachableError, StreamBroken, RefusedError: see each.
        RemoteError: other bytes came back.

    Source: libp2p specification, ping.
    """
    stream = await node.open_stream(peer_id, PING_PROTOCOL)
    try:
        sent = os.urandom(_PING_BYTES)
        begun_s = trio.current_time()
        await stream.send_all(sent)
        came = await stream.receive_exactly(_PING_BYTES)
        round_trip_s = trio.current_time() - begun_s
        if came != sent:
            raise RemoteError(f"{short(peer_id)} sent back other bytes than we pinged with")
    except BaseException:
        stream.reset()
        raise
    await stream.aclose()
    return Pinged(round_trip_s, stream.path)


async def ask_about(
    node: Node, peer_id: PeerId, *, subject: Identity | None = None, timeout_s: float = 5.0
) -> schema.Told:
    """What a peer says of itself and of us; with a subject also from where that is connected.

    Raises:
        UnreachableError, RefusedError, RemoteError, StreamBroken, CallTimeout: see each.
    """
    request = schema.About()
    if subject is not None:
        claim = schema.about_claim(peer_id, node.peer_id)
        request = schema.About(subject.peer_id, subject.sign(claim))
    client = rpc_client(node, schema.ABOUT_SERVICE, schema.MAJOR)
    return await client.call(peer_id, schema.ABOUT, request, timeout_s=timeout_s)


async def measure_download(node: Node, peer_id: PeerId, *, seconds: float) -> Measured:
    """How fast the peer's bytes come to us.

    Raises:
        RefusedError: it has measured enough for now, or does not serve this.
        UnreachableError, RemoteError, StreamBroken, CallTimeout: see each.
    """
    client = rpc_client(node, schema.BANDWIDTH_SERVICE, schema.MAJOR)
    arrivals: list[tuple[float, int]] = []
    request = schema.Download(seconds)
    with trio.move_on_after(seconds * 2):
        async with client.open(peer_id, schema.DOWNLOAD, request, timeout_s=seconds) as call:
            path = call.path
            while received := await call.receive():
                arrivals.append((trio.current_time(), len(received[1])))
    if not arrivals:
        raise RemoteError(f"{short(peer_id)} sent nothing to measure by")
    return _steady_part(arrivals, path)


def _steady_part(arrivals: list[tuple[float, int]], path: Path) -> Measured:
    """The rate after the beginning, in which a connection gets up to speed."""
    begun_s, ended_s = arrivals[0][0], arrivals[-1][0]
    steady_s = begun_s + (ended_s - begun_s) * _WARM_UP_SHARE
    steady = [(at_s, size) for at_s, size in arrivals if at_s >= steady_s]
    # The first arrival only starts the clock: its bytes travelled before.
    return Measured(sum(size for _, size in steady[1:]), ended_s - steady[0][0], path)


async def measure_upload(node: Node, peer_id: PeerId, *, seconds: float) -> Measured:
    """How fast our bytes come to the peer, as it tells.

    Raises:
        RefusedError: it has measured enough for now, or does not serve this.
        MessageInvalid: it tells of more than we sent.
        UnreachableError, RemoteError, StreamBroken, CallTimeout: see each.
    """
    client = rpc_client(node, schema.BANDWIDTH_SERVICE, schema.MAJOR)
    sent_bytes = 0
    answers: list[schema.Received] = []

    async def send(call: RpcCall[schema.UploadItem, schema.Received]) -> None:
        nonlocal sent_bytes
        ends_at_s = trio.current_time() + seconds
        try:
            while trio.current_time() < ends_at_s:
                sent_bytes += schema.PIECE_BYTES
                await call.send(schema.Piece(), schema.ZEROS)
            await call.finish_sending()
        except StreamBroken:
            # A peer that has enough says so and closes; its answer tells the rest.
            return

    request = schema.Upload(seconds)
    with trio.move_on_after(seconds * 2 + schema.SECONDS_MAX):
        async with client.open(peer_id, schema.UPLOAD, request, timeout_s=seconds) as call:
            path = call.path
            async with open_service_nursery() as nursery:
                nursery.start_soon(send, call)
                if received := await call.receive():
                    answers.append(received[0])
                nursery.cancel_scope.cancel()
    if not answers:
        raise RemoteError(f"{short(peer_id)} did not tell what came to it")
    if answers[0].size_bytes > sent_bytes:
        raise MessageInvalid(f"{short(peer_id)} tells of more bytes than we sent")
    return Measured(answers[0].size_bytes, answers[0].seconds, path)
