"""Downloading a state from several donors at once, each chunk checked as it comes.

All donors are asked for a manifest. Shortly after the first answer, or when all have answered, the
manifest that most of them share is taken; its holders are asked for different chunks, and whoever
answers later helps with the chunks that it has in common with it. A donor that breaks, falls silent
or sends wrong bytes is left, and others take over its chunks; when a chunk is left that nobody
holds, the next manifest is tried, and what has come of it is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import trio

from averaging.errors import StateUnavailable
from averaging.naming import service_name
from averaging.state import schema
from averaging.state.manifest import (
    ChunkPlan,
    Manifest,
    Snapshot,
    StateBytes,
    choose_manifest,
    chunk_hash,
    manifest_untrusted,
)
from averaging.state.schema import ChunkAnswer, ChunkRequest, ManifestRequest
from averaging.tensors import Array
from p2p import (
    MessageInvalid,
    Node,
    P2PError,
    PeerId,
    RpcCall,
    open_service_nursery,
    rpc_client,
    short,
)

logger = logging.getLogger(__name__)

Check = Callable[[Manifest], str | None]
"""Says why an offered state cannot be used, or None; asked before anything is allocated."""


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How a download is spread."""

    donors_max: int = 8
    """Asked at once; more would not be faster."""
    grace_s: float = 0.25
    """How long further manifests are awaited after the first one."""
    silence_s: float = 10.0
    """A donor that sends nothing for this long is left."""
    requests_ahead: int = 4
    """Chunks asked of a donor at once, so that it never waits for us."""

    def __post_init__(self) -> None:
        if self.donors_max < 1 or self.requests_ahead < 1:
            raise ValueError("donors_max and requests_ahead must be at least 1")
        if self.grace_s < 0 or self.silence_s <= 0:
            raise ValueError("grace_s and silence_s must be positive")


async def fetch_state(
    node: Node,
    group_name: str,
    donors: Sequence[PeerId],
    *,
    check: Check,
    minimum_version: int = 0,
    timeout_s: float,
    config: FetchConfig | None = None,
) -> Snapshot:
    """Download a state of at least this version.

    Args:
        donors: who may have it; the first few of them are asked.
        check: sees each manifest before anything is allocated for it, and says what is wrong
            with it: an unknown tensor, a wrong shape, metadata that makes no sense.
        timeout_s: it is given up when nothing new has come for so long, neither an offer nor a
            chunk. A large state from slow donors takes as long as it takes.

    Raises:
        StateUnavailable: nobody gave it whole in time; it names the cause for each donor.
    """
    fetch = _Fetch(node, group_name, donors, check, minimum_version, timeout_s, config)
    with fetch.patience:
        snapshot = await fetch.run()
        if snapshot is not None:
            return snapshot
        raise StateUnavailable("no donor gave a whole state", fetch.reasons)
    raise StateUnavailable(f"nothing new came for {timeout_s:g} s", fetch.reasons)


@dataclass
class _Download:
    """One manifest on its way to become arrays."""

    manifest: Manifest
    arrays: dict[str, Array]
    content: StateBytes
    plan: ChunkPlan
    nursery: trio.Nursery
    """Of those who take chunks from one donor each."""
    donors: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def is_hopeless(self) -> bool:
        """Whether those who are left cannot give the rest."""
        return not self.donors or self.plan.is_hopeless

    def on_change(self) -> None:
        """Wake whoever waits for something to do, or for the end."""
        self.changed.set()
        self.changed = trio.Event()


def _begun(manifest: Manifest, last: _Download | None, nursery: trio.Nursery) -> _Download:
    """A download of this state; what came of the last one, and is the same here, is there."""
    if last is None or last.manifest.table != manifest.table:
        arrays = manifest.table.empty_arrays()
        come_C = np.zeros(len(manifest.digests), np.bool_)
    else:
        arrays = last.arrays
        come_C = last.plan.come_C & manifest.shared_C(last.manifest)
    content = StateBytes(manifest.table, arrays)
    return _Download(manifest, arrays, content, ChunkPlan(come_C), nursery)


class _Fetch:
    def __init__(
        self,
        node: Node,
        group_name: str,
        donors: Sequence[PeerId],
        check: Check,
        minimum_version: int,
        timeout_s: float,
        config: FetchConfig | None,
    ) -> None:
        config = config or FetchConfig()
        self.reasons: dict[PeerId, str] = {}
        self.patience = trio.CancelScope(deadline=trio.current_time() + timeout_s)
        """Ends the download when nothing new has come for too long."""
        self._timeout_s = timeout_s
        self._node = node
        self._client = rpc_client(node, service_name(schema.SERVICE, group_name), schema.MAJOR)
        self._donors = tuple(dict.fromkeys(donors))[: config.donors_max]
        self._check = check
        self._minimum_version = minimum_version
        self._config = config
        self._manifests: dict[PeerId, Manifest] = {}
        self._answers = 0
        self._answered = trio.Event()
        self._download: _Download | None = None

    async def run(self) -> Snapshot | None:
        """The state; None when no donor is left."""
        async with open_service_nursery() as nursery:
            for donor in self._donors:
                nursery.start_soon(self._ask, donor)
            await self._wait_for_answers()
            last: _Download | None = None
            while (manifest := choose_manifest(self._manifests)) is not None:
                async with open_service_nursery() as taking:
                    self._download = download = _begun(manifest, last, taking)
                    for donor, offered in sorted(self._manifests.items()):
                        self._help(download, donor, offered)
                    while not download.plan.is_done and not download.is_hopeless:
                        await download.changed.wait()
                    taking.cancel_scope.cancel()
                if download.plan.is_done:
                    nursery.cancel_scope.cancel()
                    return Snapshot(manifest.version, manifest.metadata, download.arrays)
                self._download, last = None, download
                await self._wait_for_answers()
        return None

    async def _wait_for_answers(self) -> None:
        """Until all have answered, or a moment after somebody offered something."""
        while not self._manifests and self._answers < len(self._donors):
            await self._answered.wait()
        with trio.move_on_after(self._config.grace_s):
            while self._answers < len(self._donors):
                await self._answered.wait()

    def _on_news(self) -> None:
        self.patience.deadline = trio.current_time() + self._timeout_s

    async def _ask(self, donor: PeerId) -> None:
        timeout_s = self._timeout_s
        wait_s = min(timeout_s, schema.WAIT_S_MAX)
        request = ManifestRequest(self._minimum_version, wait_s)
        self.reasons[donor] = "did not answer"
        try:
            answer = await self._client.call(donor, schema.MANIFEST, request, timeout_s=timeout_s)
            manifest = manifest_untrusted(answer)
            if manifest.version < self._minimum_version:
                raise MessageInvalid(f"offered version {manifest.version}, which is too old")
            complaint = self._check(manifest)
        except P2PError as exc:
            complaint = str(exc)
        if complaint is None:
            self.reasons[donor] = "was not finished in time"
            self._manifests[donor] = manifest
            self._on_news()
            if self._download:
                self._help(self._download, donor, manifest)
        else:
            self.reasons[donor] = complaint
        self._answers += 1
        self._answered.set()
        self._answered = trio.Event()

    def _help(self, download: _Download, donor: PeerId, offered: Manifest) -> None:
        """Take from this donor what it has of the download's state, if anything."""
        holds_C = download.manifest.shared_C(offered)
        if holds_C.any():
            download.donors += 1
            download.plan.on_donor(donor, holds_C)
            download.nursery.start_soon(self._take_from, download, donor, offered.snapshot_id)

    async def _take_from(self, download: _Download, donor: PeerId, snapshot_id: bytes) -> None:
        try:
            await self._take_chunks(download, donor, snapshot_id)
        except (P2PError, trio.TooSlowError) as exc:
            silent = f"sent nothing for {self._config.silence_s:g} s"
            self.reasons[donor] = silent if isinstance(exc, trio.TooSlowError) else str(exc)
            logger.info("state_donor_lost peer=%s cause=%s", short(donor), self.reasons[donor])
            self._manifests.pop(donor, None)
            download.plan.on_donor_lost(donor)
        finally:
            download.donors -= 1
            download.on_change()

    async def _take_chunks(self, download: _Download, donor: PeerId, snapshot_id: bytes) -> None:
        """Ask for chunks until none is left that this donor could give."""
        plan = download.plan
        while not plan.is_done:
            index = plan.next_request(donor)
            if index is None:
                await download.changed.wait()
                continue
            async with self._client.open(
                donor,
                schema.CHUNKS,
                ChunkRequest(snapshot_id, index),
                timeout_s=self._config.silence_s,
            ) as call:
                await self._run_stream(download, donor, call, ChunkRequest(snapshot_id, index))
                await call.finish_sending()

    async def _run_stream(
        self,
        download: _Download,
        donor: PeerId,
        call: RpcCall[ChunkRequest, ChunkAnswer],
        first: ChunkRequest,
    ) -> None:
        asked, waits_told = [first.index], 0
        while asked:
            with trio.fail_after(self._config.silence_s):
                while len(asked) < self._config.requests_ahead:
                    index = download.plan.next_request(donor)
                    if index is None:
                        break
                    await call.send(ChunkRequest(first.snapshot_id, index))
                    asked.append(index)
                received = await call.receive()
            if received is None:
                raise MessageInvalid("ended before all chunks were sent")
            answer, data = received
            if answer.index != asked[0]:
                raise MessageInvalid(f"sent chunk {answer.index}, which was not asked for now")
            if not data and waits_told < schema.WAITS_TOLD_MAX:
                waits_told += 1
                continue
            asked.pop(0)
            waits_told = 0
            await self._keep(download, answer.index, data)

    async def _keep(self, download: _Download, index: int, data: bytes) -> None:
        start, end = download.manifest.span(index)
        if len(data) != end - start:
            raise MessageInvalid(f"sent {len(data)} bytes as chunk {index}")
        if await self._node.offload(chunk_hash, data) != download.manifest.digests[index]:
            raise MessageInvalid("sent bytes that do not match its manifest")
        if download.plan.on_chunk(index):
            download.content.write(start, data)
            self._on_news()
            download.on_change()
