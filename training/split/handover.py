"""Client weights that go round: published by one client, checked and taken over by the next.

They travel as state downloads do (averaging.state): in chunks that are hashed, resumed when a
stream breaks, served without stopping anything. Whoever takes them over knows from the server what
hash they must have, so the keeper cannot give out others.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from averaging import (
    DonorConfig,
    Manifest,
    Snapshot,
    StateDonor,
    StateTable,
    StateUnavailable,
    fetch_state,
    open_state_donor,
)
from p2p import Node, PeerId, RefusedError

_FETCH_S = 120.0
Complaint = Callable[[StateTable], str | None]
"""Why a state with these tensors cannot be taken, or None."""


class WeightsKeeper:
    """Gives out the weights that it holds, and fetches those of others."""

    def __init__(self, node: Node, name: str, donor: StateDonor) -> None:
        self._node = node
        self._name = name
        self._donor = donor

    def publish(self, snapshot: Snapshot) -> None:
        """Give these to whoever asks."""
        self._donor.publish(snapshot)

    async def fetch(
        self, keeper: PeerId, version: int, digest: bytes, complaint: Complaint
    ) -> Snapshot:
        """Take over weights from a peer.

        Raises:
            RefusedError: it does not have them, or has others.
        """

        def check(manifest: Manifest) -> str | None:
            if manifest.version != version:
                return f"has version {manifest.version} where {version} was due"
            return complaint(manifest.table)

        try:
            snapshot = await fetch_state(
                self._node,
                self._name,
                [keeper],
                check=check,
                minimum_version=version,
                timeout_s=_FETCH_S,
            )
        except StateUnavailable as exc:
            raise RefusedError("weights", f"the client weights could not be had: {exc}") from exc
        if await self._node.offload(weights_digest, snapshot) != digest:
            raise RefusedError("weights", "the client weights are not those that were promised")
        return snapshot

    async def take_over(
        self, keeper: PeerId, version: int, digest: bytes, size_bytes_max: int
    ) -> None:
        """Fetch weights and give them out from now on.

        Raises:
            RefusedError: as fetch() does.
        """

        def complaint(table: StateTable) -> str | None:
            too_large = table.size_bytes > size_bytes_max
            return f"has {table.size_bytes} bytes of weights" if too_large else None

        self.publish(await self.fetch(keeper, version, digest, complaint))


def weights_digest(snapshot: Snapshot) -> bytes:
    """SHA-256 of names, kinds and values, and of what lies beside them."""
    digest = hashlib.sha256(snapshot.metadata)
    for name, array in sorted(snapshot.arrays.items()):
        digest.update(f"{name}\0{array.dtype.name}{array.shape}\0".encode())
        digest.update(array.data)
    return digest.digest()


@asynccontextmanager
async def open_weights_keeper(
    node: Node, run: str, config: DonorConfig
) -> AsyncIterator[WeightsKeeper]:
    """Be able to give out and to fetch client weights while the block lasts."""
    name = f"{run}/split"
    async with open_state_donor(node, name, config=config) as donor:
        yield WeightsKeeper(node, name, donor)
