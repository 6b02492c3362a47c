"""Client weights that go round, at the client: taken over before a turn, handed on after it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import nn
from torch.optim import Optimizer

from averaging import Snapshot
from p2p import (
    Message,
    MessageInvalid,
    Node,
    PeerId,
    Portal,
    RefusedError,
    decode_untrusted,
    encode,
    parse_peer_id_untrusted,
)
from training.errors import SplitFailed
from training.model_state import ModelState
from training.split.handover import WeightsKeeper, weights_digest
from training.split.schema import Turn

_METADATA_BYTES_MAX = 1 << 20

Text = Annotated[str, Meta(max_length=512)]


class _Kept(Message, frozen=True):
    """What the optimizer keeps beside tensors."""

    scalars: Annotated[
        tuple[tuple[Text, Text, bool | int | float | Text | None], ...], Meta(max_length=65_536)
    ]


class OwnWeights:
    """This client's parameters, and what its optimizer keeps; for the thread that trains."""

    def __init__(
        self, modules: nn.Module, optimizer: Optimizer, node: Node, keeper: WeightsKeeper
    ) -> None:
        self._state = ModelState(modules, optimizer)
        self._node = node
        self._keeper = keeper
        self._version = 0

    def take_over(self, portal: Portal, turn: Turn) -> int:
        """Make the newest weights ours; returns how many bytes came.

        Raises:
            SplitFailed: they cannot be had, or are others than promised.
        """
        if turn.version in (0, self._version):
            return 0
        try:
            keeper = parse_peer_id_untrusted(turn.keeper)
            snapshot: Snapshot = portal.call(self._fetch, keeper, turn)
            kept = decode_untrusted(snapshot.metadata, _Kept, size_bytes_max=_METADATA_BYTES_MAX)
        except RefusedError as exc:
            raise SplitFailed(exc.code, exc.message) from exc
        except MessageInvalid as exc:
            raise SplitFailed("weights", f"the client weights are not in order: {exc}") from exc
        self._state.load(snapshot.arrays, kept.scalars)
        self._version = turn.version
        return sum(array.nbytes for array in snapshot.arrays.values())

    def hand_on(self, portal: Portal, version: int) -> bytes:
        """Let others have our weights; returns their hash."""
        metadata = encode(_Kept(self._state.scalars()))
        snapshot = Snapshot(version, metadata, self._state.arrays())
        self._version = version
        portal.call(self._publish, snapshot)
        return weights_digest(snapshot)

    async def _fetch(self, keeper: PeerId, turn: Turn) -> Snapshot:
        self._node.add_addresses(keeper, turn.addresses)
        return await self._keeper.fetch(keeper, turn.version, turn.digest, self._state.complaint)

    async def _publish(self, snapshot: Snapshot) -> None:
        self._keeper.publish(snapshot)
