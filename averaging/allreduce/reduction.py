"""Reduction at one aggregator: who may contribute, and who delivered which chunk of a piece (core).

    sender      event                             then
    expected    its weight and norm               sending; of weight 0 nothing is awaited
    expected    a weight or norm that is refused  excluded: from every chunk
    expected    lost, or does not begin           excluded: from every chunk
    sending     all norms known, its own too high excluded: from every chunk, though some came
    sending     a chunk                           in that chunk; several may wait for slow senders
    sending     a chunk with bad values           excluded: from that chunk on
    sending     lost, slow, or breaks a rule      excluded: from the first chunk not delivered

Each sender delivers the chunks of a piece in order and is in a prefix of them: whoever is excluded
stays out, of all later pieces too. A chunk is ready when every sender has delivered it or is
excluded; so its members and weights are settled before anything is added, and adding in member
order gives the same bits whatever the order of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np

from averaging.allreduce.mean import Contribution
from averaging.robust.norms import NORM_REFUSED, refused_norms, rough_square_sum

Array = np.ndarray[Any, Any]
Peer = TypeVar("Peer", bound=Hashable)

LOST_REASONS: Final = ("did not come", "silent", "connection lost", "left")
"""Exclusions that say something of a member's presence, not of what it sent."""
SLOW_REASONS: Final = ("too slow", "did not begin")
_NON_FINITE: Final = "non-finite values"
_OVER_NORM: Final = "values over the declared norm"

# Rounding to 16 bits moves a norm by less than a thousandth.
_NORM_SLACK: Final = 1.01
# Of subnormals, which rounding may double.
_SQUARES_MIN: Final = 1e-6


def refuses_values(reason: str) -> bool:
    """Whether a sender is excluded for what its values say, so that they are of no use later."""
    return reason in (_NON_FINITE, _OVER_NORM) or reason.startswith(NORM_REFUSED)


@dataclass
class _Sender:
    weight: float | None = None
    norm: float = 0.0
    reason: str | None = None
    """Why it is excluded; None while it is not."""
    void: bool = False
    """Whether nothing that it delivered counts."""
    delivered: int = 0
    """Chunks of all pieces."""


class Senders(Generic[Peer]):
    """Who contributes at this aggregator, with which weight, and who is excluded for what.

    Args:
        senders: all members in group order.
        weight_caps: the most that each may declare.
        norm_factor_max: a norm over so many times the median of all is refused; 0 for any.
    """

    def __init__(
        self, senders: Sequence[Peer], weight_caps: Sequence[float], *, norm_factor_max: float
    ) -> None:
        self._senders = {sender: _Sender() for sender in senders}
        self._caps = dict(zip(senders, weight_caps, strict=True))
        self._norm_factor_max = norm_factor_max
        self._settled = False

    @property
    def settled(self) -> bool:
        """Whether everyone has declared its weight or is excluded."""
        return self._settled

    def declared(self, sender: Peer) -> bool:
        """Whether the sender has begun."""
        return self._senders[sender].weight is not None

    def excluded(self, sender: Peer) -> bool:
        """Whether the sender is excluded."""
        return self._senders[sender].reason is not None

    def void(self, sender: Peer) -> bool:
        """Whether the sender was refused for its norm: then nothing that it delivered counts."""
        return self._senders[sender].void

    def awaited(self, sender: Peer) -> bool:
        """Whether chunks wait for this sender."""
        state = self._senders[sender]
        return state.reason is None and state.weight != 0

    def weight_of(self, sender: Peer) -> float:
        """What the sender declared; 0 for those who never did."""
        return self._senders[sender].weight or 0.0

    def norm_of(self, sender: Peer) -> float:
        """What the sender declared; 0 for those who never did, or of weight 0, or made no sense."""
        state = self._senders[sender]
        return state.norm if state.weight and 0 <= state.norm < math.inf else 0.0

    def delivered(self, sender: Peer) -> int:
        """Chunks that came from this sender."""
        return self._senders[sender].delivered

    def on_weight(self, sender: Peer, weight: float, norm: float) -> str | None:
        """The sender declared its weight and norm; returns why it is excluded for it, or None."""
        state = self._senders[sender]
        if state.weight is not None or state.reason is not None:
            return state.reason
        if not math.isfinite(weight) or weight < 0:
            state.reason = "weight is not a number >= 0"
        elif weight > self._caps[sender]:
            state.reason = "weight is over its cap"
        elif weight and not math.isfinite(norm):
            state.reason = _NON_FINITE
        else:
            state.weight, state.norm = weight, norm
        self._settle()
        return state.reason

    def on_excluded(self, sender: Peer, reason: str) -> None:
        """The sender is lost or broke the rules; what it delivered whole still counts."""
        state = self._senders[sender]
        if state.reason is None:
            state.reason = reason
            self._settle()

    def check_chunk(self, sender: Peer, values: Array) -> str | None:
        """Why the values of a whole chunk are refused, or None."""
        state = self._senders[sender]
        squares = rough_square_sum(values)
        if not math.isfinite(squares) and not np.isfinite(values).all():
            return _NON_FINITE
        if self._norm_factor_max and squares > (state.norm * _NORM_SLACK) ** 2 + _SQUARES_MIN:
            return _OVER_NORM
        return None

    def on_delivered(self, sender: Peer) -> None:
        """A whole chunk came."""
        self._senders[sender].delivered += 1

    def reasons(self) -> dict[Peer, str]:
        """The excluded and why."""
        return {p: s.reason for p, s in self._senders.items() if s.reason is not None}

    def _settle(self) -> None:
        """Once all norms are known, every aggregator refuses the same ones."""
        states = self._senders.items()
        if self._settled or any(s.weight is None and s.reason is None for _, s in states):
            return
        self._settled = True
        if not self._norm_factor_max:
            return
        norms = {peer: s.norm for peer, s in states if s.reason is None and s.weight}
        weights = {peer: self.weight_of(peer) for peer in norms}
        for peer, reason in refused_norms(norms, weights, factor_max=self._norm_factor_max).items():
            # No chunk was taken before; what came of this one already must not depend on how soon.
            self._senders[peer].reason, self._senders[peer].void = reason, True


class Reduction(Generic[Peer]):
    """One piece's bookkeeping at its aggregator.

    Args:
        members: in group order.
        chunk_sizes: elements of each chunk.
        ahead_max: chunks that a sender may deliver beyond the one being awaited; None for all.
        strict: whether a sender that leaves out a chunk is excluded. Not when a plan made the
            piece ours: what was sent by a plan before it may still come.
    """

    def __init__(
        self,
        members: Sequence[Peer],
        senders: Senders[Peer],
        chunk_sizes: Sequence[int],
        *,
        ahead_max: int | None,
        strict: bool = True,
    ) -> None:
        self._strict = strict
        self._members = tuple(members)
        self._senders = senders
        self._sizes = tuple(chunk_sizes)
        self._ahead_max = len(self._sizes) if ahead_max is None else ahead_max
        self._delivered = dict.fromkeys(members, 0)
        self._waiting: dict[Peer, list[Array]] = {member: [] for member in members}
        self.next_chunk = 0
        """The chunk to be reduced next."""
        self.waiting_bytes = 0
        """Of chunks that came and are not taken."""

    @property
    def done(self) -> bool:
        """Whether every chunk has been taken."""
        return self.next_chunk == len(self._sizes)

    @property
    def ready(self) -> bool:
        """Whether the next chunk can be taken."""
        return not self.done and self._senders.settled and not self.awaited()

    def awaited(self) -> list[Peer]:
        """The senders for whom the next chunk waits."""
        return [
            member
            for member in self._members
            if self._delivered[member] <= self.next_chunk and self._senders.awaited(member)
        ]

    def may_deliver(self, sender: Peer) -> bool:
        """Whether there is room for the sender's next chunk."""
        return self._delivered[sender] - self.next_chunk < self._ahead_max

    def on_part(self, sender: Peer, chunk: int, values: Array) -> str | None:
        """A whole chunk came; returns why the sender is excluded for it, or None.

        The values are kept by reference until the chunk is taken.
        """
        senders = self._senders
        if senders.excluded(sender) or senders.weight_of(sender) == 0:
            if not senders.declared(sender):
                senders.on_excluded(sender, "values before their weight")
            return senders.reasons().get(sender)
        if chunk < self._delivered[sender] or (
            chunk > self._delivered[sender] and not self._strict
        ):
            # A sender that followed other plans than we did on the way to this one sends twice.
            return None
        reason = None
        if chunk != self._delivered[sender] or chunk >= len(self._sizes):
            reason = "chunk out of order"
        elif values.shape != (self._sizes[chunk],):
            reason = "chunk of a wrong size"
        else:
            reason = senders.check_chunk(sender, values)
        if reason is not None:
            senders.on_excluded(sender, reason)
            return reason
        assert self.may_deliver(sender), "the caller waits for may_deliver()"
        self._delivered[sender] += 1
        senders.on_delivered(sender)
        self._waiting[sender].append(values)
        self.waiting_bytes += values.nbytes
        return None

    def take(self) -> tuple[Contribution, ...]:
        """The contributions to the next chunk in member order; it counts as taken."""
        assert self.ready
        taken = [
            Contribution(self._senders.weight_of(member), self._waiting[member].pop(0))
            for member in self._members
            if self.next_chunk < self._counted(member)
        ]
        self.next_chunk += 1
        self.waiting_bytes -= sum(contribution.values.nbytes for contribution in taken)
        return tuple(taken)

    def included(self) -> tuple[int, ...]:
        """How many chunks, counted from the first, contain each member; to be asked when done."""
        return tuple(self._counted(member) for member in self._members)

    def reasons(self) -> tuple[str, ...]:
        """Why each member is not in all chunks; empty for the others."""
        excluded: Mapping[Peer, str] = self._senders.reasons()
        return tuple(
            excluded.get(member, "") if count < len(self._sizes) else ""
            for member, count in zip(self._members, self.included(), strict=True)
        )

    def _counted(self, member: Peer) -> int:
        """How many of the member's chunks count."""
        return 0 if self._senders.void(member) else self._delivered[member]
