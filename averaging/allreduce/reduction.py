"""Reduction of one span: who delivered which chunk, and the weighted mean of those who did (core).

Each sender delivers its chunks in order and is included in a prefix of them: whoever is excluded
stays out. The next chunk is ready when every sender has delivered it or is excluded; so its
members and weights are settled before anything is added, and adding in member order gives the
same bits whatever the order of arrival.

    sender          event            then
    expected        on_hello         sending (weight 0: nothing is awaited from it)
    expected        on_excluded      excluded from chunk 0
    sending         on_part          one chunk more; several may wait for slower senders
    sending         on_excluded      excluded from the first chunk it has not delivered
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
Peer = TypeVar("Peer", bound=Hashable)

# Weights in these bounds are used as they are, so that whole numbers stay exact in float32;
# others are scaled by the largest, lest products overflow or vanish.
_PLAIN_WEIGHT_MIN = 2.0**-20
_PLAIN_WEIGHT_MAX = 2.0**24


@dataclass(frozen=True)
class Contribution:
    """One sender's values for a chunk."""

    weight: float
    values: Array


@dataclass
class _Sender:
    weight: float | None = None
    delivered: int = 0
    reason: str | None = None
    """Why it is excluded; None while it is not."""

    def awaited(self, chunk: int) -> bool:
        """Whether the chunk must wait for this sender."""
        if self.reason is not None or self.weight == 0:
            return False
        return self.weight is None or self.delivered <= chunk


class Reduction(Generic[Peer]):
    """One span's bookkeeping at its aggregator.

    Args:
        senders: all members in group order.
        chunk_sizes: elements of each chunk.
        chunks_ahead_max: chunks that a sender may deliver beyond the one being awaited.
    """

    def __init__(
        self, senders: Sequence[Peer], chunk_sizes: Sequence[int], *, chunks_ahead_max: int
    ) -> None:
        self._senders = {sender: _Sender() for sender in senders}
        self._sizes = tuple(chunk_sizes)
        self._ahead_max = chunks_ahead_max
        self._waiting: dict[Peer, list[Array]] = {sender: [] for sender in senders}
        self.next_chunk = 0
        """The chunk to be reduced next."""

    @property
    def done(self) -> bool:
        """Whether every chunk has been taken."""
        return self.next_chunk == len(self._sizes)

    @property
    def ready(self) -> bool:
        """Whether the next chunk can be taken."""
        return not self.done and not any(
            sender.awaited(self.next_chunk) for sender in self._senders.values()
        )

    def may_deliver(self, sender: Peer) -> bool:
        """Whether there is room for the sender's next chunk."""
        return self._senders[sender].delivered - self.next_chunk < self._ahead_max

    def on_hello(self, sender: Peer, weight: float, weight_cap: float) -> str | None:
        """The sender declared its weight; returns why it is excluded for it, or None."""
        state = self._senders[sender]
        if state.weight is not None or state.reason is not None:
            return state.reason
        if not math.isfinite(weight) or weight < 0:
            self.on_excluded(sender, "weight is not a number >= 0")
        elif weight > weight_cap:
            self.on_excluded(sender, "weight is over its cap")
        else:
            state.weight = weight
        return state.reason

    def on_part(self, sender: Peer, chunk: int, values: Array) -> str | None:
        """A whole chunk came; returns why the sender is excluded for it, or None.

        The values are kept by reference until the chunk is taken.
        """
        state = self._senders[sender]
        if state.reason is not None or state.weight == 0:
            return state.reason
        if state.weight is None or chunk != state.delivered or chunk >= len(self._sizes):
            self.on_excluded(sender, "chunk out of order")
        elif values.shape != (self._sizes[chunk],):
            self.on_excluded(sender, "chunk of a wrong size")
        elif not all_finite(values):
            self.on_excluded(sender, "non-finite values")
        else:
            assert self.may_deliver(sender), "the caller waits for may_deliver()"
            state.delivered += 1
            self._waiting[sender].append(values)
        return state.reason

    def on_excluded(self, sender: Peer, reason: str) -> None:
        """The sender is lost or broke the rules; what it delivered whole still counts."""
        state = self._senders[sender]
        whole = state.weight is not None and (
            state.weight == 0 or state.delivered == len(self._sizes)
        )
        if state.reason is None and not whole:
            state.reason = reason

    def take(self) -> tuple[Contribution, ...]:
        """The contributions to the next chunk in member order; it counts as taken."""
        assert self.ready
        taken = []
        for sender, state in self._senders.items():
            if self.next_chunk < state.delivered:
                assert state.weight is not None
                taken.append(Contribution(state.weight, self._waiting[sender].pop(0)))
        self.next_chunk += 1
        return tuple(taken)

    def included(self) -> tuple[int, ...]:
        """How many chunks, counted from the first, contain each member."""
        return tuple(state.delivered for state in self._senders.values())

    def weights(self) -> tuple[float, ...]:
        """What each member declared; 0 for those who never did."""
        return tuple(state.weight or 0.0 for state in self._senders.values())

    def reasons(self) -> tuple[str, ...]:
        """Why each member is excluded; empty for the others."""
        return tuple(state.reason or "" for state in self._senders.values())

    def excluded(self) -> Mapping[Peer, str]:
        """The excluded members and why."""
        return {
            sender: state.reason
            for sender, state in self._senders.items()
            if state.reason is not None
        }


def all_finite(values: Array) -> bool:
    """Whether no value is infinite or not a number, without a temporary in the common case."""
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum of finite numbers can overflow, but one bad value always spoils it.
        total = values.sum(dtype=np.result_type(values.dtype, np.float32))
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def weighted_mean(contributions: Sequence[Contribution], dtype: np.dtype[Any]) -> Array | None:
    """The weighted mean in the given dtype, or None when the weights sum to zero.

    Sums are kept in float32, or in float64 for float64. The result is finite when the values are.
    """
    weights = [contribution.weight for contribution in contributions]
    if not any(weight > 0 for weight in weights):
        return None
    largest = max(weights)
    scale = 1.0 if _PLAIN_WEIGHT_MIN <= largest <= _PLAIN_WEIGHT_MAX else largest
    sum_dtype = np.result_type(dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        total = contributions[0].values.astype(sum_dtype)
        if weights[0] != scale:
            total *= sum_dtype.type(weights[0] / scale)
        scratch = np.empty_like(total) if any(weight != scale for weight in weights[1:]) else None
        for contribution in contributions[1:]:
            if contribution.weight == scale:
                total += contribution.values
            else:
                factor = sum_dtype.type(contribution.weight / scale)
                np.multiply(contribution.values, factor, out=scratch, dtype=sum_dtype)
                total += scratch
        total /= sum_dtype.type(math.fsum(weight / scale for weight in weights))
        if not all_finite(total):
            total = _convex_mean(contributions, largest, dtype)
        return total.astype(dtype, copy=False)


def _convex_mean(
    contributions: Sequence[Contribution], largest: float, dtype: np.dtype[Any]
) -> Array:
    """The same, slower, for values so large that their sum overflows: no step exceeds them."""
    whole = math.fsum(contribution.weight / largest for contribution in contributions)
    total = np.zeros(contributions[0].values.shape, np.float64)
    for contribution in contributions:
        total += contribution.values * (contribution.weight / largest / whole)
    limit = np.finfo(dtype).max
    return np.clip(np.nan_to_num(total, copy=False), -limit, limit)
