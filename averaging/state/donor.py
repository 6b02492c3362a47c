"""Serving this peer's state to newcomers, without stopping what it does.

A snapshot is made when somebody asks, not before: `source` is awaited for one, and whoever asks
while it is current gets the same. A snapshot lives while it is being downloaded and a little
longer; there are at most two, so that a newer one can be asked for meanwhile. What all downloads
together may take of our uplink is limited.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from averaging.naming import service_name
from averaging.state import schema
from averaging.state.cap import UploadCap
from averaging.state.manifest import Manifest, Snapshot, StateBytes, StateTable
from averaging.state.schema import ChunkAnswer, ChunkRequest, ManifestAnswer, ManifestRequest
from p2p import Node, PeerId, RefusedError, RpcCall, RpcService, open_service_nursery, short

logger = logging.getLogger(__name__)

SnapshotSource = Callable[[int], Awaitable[Snapshot]]
"""Gives a snapshot of at least this version, waiting until there is one."""

Uplink = Callable[[], float | None]
"""What our uplink carries, in bytes per second, if something else needs it at the moment."""

_SNAPSHOTS_MAX = 2
# Hashing this much takes a few milliseconds, so a cancelled download never waits long.
_HASH_BATCH_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class DonorConfig:
    """How much a donor does for newcomers."""

    chunk_size_bytes: int = 1 << 18
    """Unit of transfer and of checking; small enough to pass a slow home uplink in seconds."""
    downloads_max: int = 8
    """Downloads served at once; further ones are refused as busy."""
    keep_s: float = 20.0
    """How long a snapshot is kept after its last use."""
    idle_timeout_s: float = 15.0
    """A newcomer that asks for nothing and takes nothing for this long is cut off."""
    bandwidth_bytes_per_s: float | None = None
    """The most that all newcomers together are sent; None is no such limit. They need all of the
    state before the swarm has gone `SwarmConfig.rounds_kept_max` rounds on."""
    uplink_share: float | None = 0.5
    """What newcomers together are sent while our own round is under way, as a part of what rounds
    have shown our uplink to carry; None is no such limit. A round is as slow as its slowest member,
    so a donor that is slowed down slows down everybody."""

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_size_bytes <= schema.CHUNK_SIZE_BYTES_MAX:
            raise ValueError(f"chunk_size_bytes must be 1 to {schema.CHUNK_SIZE_BYTES_MAX}")
        if self.downloads_max < 1 or self.keep_s <= 0 or self.idle_timeout_s <= 0:
            raise ValueError("downloads_max, keep_s and idle_timeout_s must be positive")
        bandwidth = self.bandwidth_bytes_per_s
        if bandwidth is not None and not 0 < bandwidth < math.inf:
            raise ValueError("bandwidth_bytes_per_s must be positive, or None for no limit")
        if self.uplink_share is not None and not 0 < self.uplink_share <= 1:
            raise ValueError("uplink_share must be above 0 and at most 1, or None for no limit")


class _Served:
    """A snapshot that can be downloaded."""

    def __init__(self, snapshot: Snapshot, manifest: Manifest, content: StateBytes) -> None:
        self.snapshot = snapshot
        self.manifest = manifest
        self.content = content
        self.downloads = 0
        self.used_at_s = 0.0


class StateDonor:
    """Serves the newest snapshot, and the one being downloaded."""

    def __init__(
        self,
        node: Node,
        source: SnapshotSource | None,
        config: DonorConfig,
        uplink: Uplink | None,
    ) -> None:
        self._node = node
        self._source = source
        self._config = config
        self._uplink = uplink or (lambda: None)
        self._cap = UploadCap(
            config.bandwidth_bytes_per_s, config.uplink_share, trio.current_time()
        )
        self._published: Snapshot | None = None
        self._changed = trio.Event()
        self._serving: dict[bytes, _Served] = {}
        self._packing = trio.Lock()

    def publish(self, snapshot: Snapshot) -> None:
        """Serve this snapshot from now on, where no source was given to ask."""
        self._published = snapshot
        self._changed.set()
        self._changed = trio.Event()

    @property
    def downloads(self) -> int:
        """Downloads under way."""
        return sum(served.downloads for served in self._serving.values())

    async def on_manifest(self, caller: PeerId, request: ManifestRequest) -> ManifestAnswer:
        """Tell what can be had, waiting for it if need be."""
        snapshot: Snapshot | None = None
        with trio.move_on_after(request.wait_s):
            snapshot = await self._snapshot(request.minimum_version)
        if snapshot is None:
            raise RefusedError(
                "not-found", f"no state of version {request.minimum_version} or later yet"
            )
        served = await self._pack(snapshot)
        logger.info("state_offered peer=%s version=%d", short(caller), snapshot.version)
        answer = served.manifest.answer()
        # It goes at once, since nobody can begin without it.
        size_bytes = len(answer.digests) + len(answer.metadata)
        self._cap.on_sent(size_bytes, self._uplink(), trio.current_time())
        return answer

    async def on_chunks(self, call: RpcCall[ChunkAnswer, ChunkRequest]) -> None:
        """Send one chunk after another."""
        request: ChunkRequest = call.request
        served = self._serving.get(request.snapshot_id)
        if served is None:
            raise RefusedError("not-found", "this snapshot is no longer kept; ask for a manifest")
        if self.downloads >= self._config.downloads_max:
            raise RefusedError("busy", f"{self.downloads} downloads are under way")
        served.downloads += 1
        try:
            while True:
                served.used_at_s = trio.current_time()
                if request.index >= len(served.manifest.digests):
                    raise RefusedError("invalid", f"there is no chunk {request.index}")
                start, end = served.manifest.span(request.index)
                await self._wait_turn(call, request.index, end - start)
                data = served.content.read(start, end)
                with trio.fail_after(self._config.idle_timeout_s):
                    relayed = call.path == "relayed"
                    if relayed and not self._node.relayed_bulk.take(call.peer_id, len(data)):
                        raise RefusedError("no-path", "the relay between us carries no more")
                    await call.send(ChunkAnswer(request.index), data)
                    received = await call.receive()
                if received is None:
                    return
                request = received[0]
                if request.snapshot_id != served.manifest.snapshot_id:
                    raise RefusedError("invalid", "one stream serves one snapshot")
        except trio.TooSlowError:
            raise RefusedError("idle", "nothing was asked or taken for too long") from None
        finally:
            served.downloads -= 1
            served.used_at_s = trio.current_time()

    async def _wait_turn(
        self, call: RpcCall[ChunkAnswer, ChunkRequest], index: int, size_bytes: int
    ) -> None:
        """Return when so much may be sent; until then tell the newcomer that we are there."""
        turn, told_at_s = self._cap.on_wanted(size_bytes), trio.current_time()
        try:
            while wait_s := self._cap.take(turn, self._uplink(), trio.current_time()):
                await trio.sleep(min(wait_s, schema.WAITS_TOLD_EVERY_S))
                if trio.current_time() >= told_at_s + schema.WAITS_TOLD_EVERY_S:
                    told_at_s = trio.current_time()
                    with trio.fail_after(self._config.idle_timeout_s):
                        await call.send(ChunkAnswer(index))
        finally:
            self._cap.on_left(turn)

    async def drop_unused(self) -> None:
        """Free snapshots that nobody has used for a while, for ever."""
        while True:
            await trio.sleep(self._config.keep_s / 4)
            oldest_s = trio.current_time() - self._config.keep_s
            for snapshot_id, served in list(self._serving.items()):
                if served.downloads == 0 and served.used_at_s < oldest_s:
                    del self._serving[snapshot_id]

    async def _snapshot(self, minimum_version: int) -> Snapshot:
        if self._source is not None:
            return await self._source(minimum_version)
        while self._published is None or self._published.version < minimum_version:
            await self._changed.wait()
        return self._published

    async def _pack(self, snapshot: Snapshot) -> _Served:
        async with self._packing:
            for served in self._serving.values():
                if served.snapshot is snapshot:
                    break
            else:
                served = await self._packed(snapshot)
                self._make_room()
                self._serving[served.manifest.snapshot_id] = served
            served.used_at_s = trio.current_time()
            return served

    async def _packed(self, snapshot: Snapshot) -> _Served:
        table = StateTable.of(snapshot.arrays)
        content = StateBytes(table, snapshot.arrays)
        size_bytes, chunk = table.size_bytes, self._config.chunk_size_bytes
        spans = [(at, min(at + chunk, size_bytes)) for at in range(0, size_bytes, chunk)]
        batch = max(1, _HASH_BATCH_BYTES // chunk)
        digests: list[bytes] = []
        for first in range(0, len(spans), batch):
            digests += await self._node.offload(content.hashes, spans[first : first + batch])
        manifest = Manifest(snapshot.version, snapshot.metadata, table, chunk, tuple(digests))
        return _Served(snapshot, manifest, content)

    def _make_room(self) -> None:
        """Two snapshots at most, else a large model would fill the memory: the idlest goes."""
        while len(self._serving) >= _SNAPSHOTS_MAX:
            idlest = min(
                self._serving,
                key=lambda key: (self._serving[key].downloads > 0, self._serving[key].used_at_s),
            )
            del self._serving[idlest]


@asynccontextmanager
async def open_state_donor(
    node: Node,
    group_name: str,
    *,
    source: SnapshotSource | None = None,
    config: DonorConfig | None = None,
    uplink: Uplink | None = None,
) -> AsyncIterator[StateDonor]:
    """Serve states under a group name while the block lasts.

    Args:
        source: asked for a snapshot when a newcomer wants one; without it, publish() gives them.
            It returns the same object as long as the state is the same.
        uplink: asked before each chunk what our uplink carries, for the config's `uplink_share`;
            None while nothing else needs it. Without it there is no such limit.
    """
    donor = StateDonor(node, source, config or DonorConfig(), uplink)
    service = RpcService(service_name(schema.SERVICE, group_name), schema.MAJOR)
    service.unary(schema.MANIFEST, donor.on_manifest)
    handler: Any = donor.on_chunks
    service.stream(schema.CHUNKS, handler)
    async with open_service_nursery() as nursery, service.serving(node):
        nursery.start_soon(donor.drop_unused)
        yield donor
