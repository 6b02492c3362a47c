"""The serving side of probes: tells who we are, and lets others measure the line within limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import trio

from p2p.errors import MessageInvalid, RefusedError
from p2p.identity import parse_peer_id_untrusted, verify_signature
from p2p.node import Node
from p2p.peer_id import PeerId
from p2p.probe import schema
from p2p.probe.limits import BandwidthGuard, BandwidthLimits, Grant
from p2p.rpc import RpcCall, RpcService

AGENT = "manyhands"
_SLACK_S = 5.0


@lru_cache(maxsize=1)
def our_version() -> str:
    """The version of this package as it was installed."""
    try:
        return version("manyhands")
    except PackageNotFoundError:
        return "unknown"


@asynccontextmanager
async def open_probe(node: Node, limits: BandwidthLimits | None = None) -> AsyncIterator[None]:
    """Answer other peers' probes while the block lasts."""
    probe = _Probe(node, BandwidthGuard(limits or BandwidthLimits()))
    about = RpcService(schema.ABOUT_SERVICE, schema.MAJOR, calls_per_peer_max=4)
    about.unary(schema.ABOUT, probe.tell)
    bandwidth = RpcService(schema.BANDWIDTH_SERVICE, schema.MAJOR, calls_per_peer_max=4)
    bandwidth.stream(schema.DOWNLOAD, probe.send)
    bandwidth.stream(schema.UPLOAD, probe.take)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(about.serving(node))
        await stack.enter_async_context(bandwidth.serving(node))
        yield


class _Probe:
    """The handlers, and the guard that they share."""

    def __init__(self, node: Node, guard: BandwidthGuard) -> None:
        self._node = node
        self._guard = guard

    async def tell(self, caller: PeerId, request: schema.About) -> schema.Told:
        """Who we are, and from where the caller, or who it can sign for, is connected."""
        node = self._node
        seen = self._places_of(caller)
        return schema.Told(
            agent=AGENT,
            version=our_version(),
            wall_ms=max(0, int(node.wall_time_s() * 1000)),
            is_client=node.client_mode,
            is_relay=node.relay_server is not None,
            connections=len(node.connections),
            sees_you_at=seen[-1] if seen else "",
            subject_at=self._places_of_subject(caller, request),
        )

    def _places_of_subject(self, caller: PeerId, request: schema.About) -> tuple[str, ...]:
        if not request.subject:
            return ()
        subject = parse_peer_id_untrusted(request.subject)
        claim = schema.about_claim(self._node.peer_id, caller)
        if not verify_signature(subject, claim, request.signature):
            raise MessageInvalid("the signature is not the subject's")
        return self._places_of(subject)

    def _places_of(self, peer_id: PeerId) -> tuple[str, ...]:
        """Where the direct connections of a peer come from, the newest last."""
        places = [
            info.address[:256]
            for info in self._node.connections
            if info.peer_id == peer_id and info.path != "relayed"
        ]
        return tuple(places[-schema.PLACES_MAX :])

    def _granted(self, peer_id: PeerId) -> Grant:
        answer = self._guard.on_asked(peer_id, trio.current_time())
        if isinstance(answer, str):
            raise RefusedError("busy", answer)
        return answer

    async def send(self, call: RpcCall[Any, Any]) -> None:
        """Send as much as goes through in the time that the caller asked for."""
        grant = self._granted(call.peer_id)
        moved_bytes = 0
        try:
            # A send that is cut off breaks the call, so the time is looked at between two.
            ends_at_s = trio.current_time() + call.request.seconds
            with trio.move_on_at(ends_at_s + _SLACK_S):
                while trio.current_time() < ends_at_s and moved_bytes < grant.size_bytes_max:
                    # Counted before, since what is cut off may be half out.
                    moved_bytes += schema.PIECE_BYTES
                    await call.send(schema.Piece(), schema.ZEROS)
        finally:
            self._guard.on_ended(grant, moved_bytes, trio.current_time())

    async def take(self, call: RpcCall[Any, Any]) -> None:
        """Take what comes, and tell how much it was and how long it took."""
        if not isinstance(call.request, schema.Upload):
            raise MessageInvalid("an upload begins with its length")
        grant = self._granted(call.peer_id)
        moved_bytes = 0
        begun_s = ended_s = trio.current_time()
        try:
            with trio.move_on_after(call.request.seconds + _SLACK_S):
                while moved_bytes < grant.size_bytes_max:
                    received = await call.receive()
                    if received is None:
                        break
                    ended_s = trio.current_time()
                    if not moved_bytes:
                        begun_s = ended_s
                    moved_bytes += max(1, len(received[1]))
            await call.send(schema.Received(moved_bytes, ended_s - begun_s))
        finally:
            self._guard.on_ended(grant, moved_bytes, trio.current_time())
