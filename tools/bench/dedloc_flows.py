"""An all-reduce as fluid flows that share links fairly: how long a split takes (core).

What the plan of a round promises is tested here by something that is not a linear program. All
transfers under way share the links max-min fairly, as long-lived TCP connections do on average: no
flow can be faster without slowing another that is no faster than it. Nobody steers them.

As in a round, each contributor has a flow of parts to each owner, and each owner one of averages to
each contributor; both go chunk by chunk, and an average leaves when all parts of its chunk have
come. What an owner keeps for itself passes no link.

Source: D. Bertsekas and R. Gallager, Data Networks, 2nd edition, 1992, section 6.5.2, for max-min
fairness by progressive filling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Numbers: TypeAlias = npt.NDArray[np.int64]

# What rounding leaves of a link that is full, or of a chunk that has passed.
_SLACK: Final = 1e-9
_BUSY, _IDLE, _DONE = 0, 1, 2


@dataclass(frozen=True)
class Transfer:
    """How an all-reduce went."""

    seconds: float
    """Until the last contributor had the whole result."""
    done_at_s: tuple[float, ...]
    """When each member had all that it waits for, and nothing left to send."""
    sent_bytes: tuple[float, ...]
    received_bytes: tuple[float, ...]


def fair_rates(
    up_bytes_per_s: Sequence[float] | Floats,
    down_bytes_per_s: Sequence[float] | Floats,
    sources: Sequence[int] | Numbers,
    targets: Sequence[int] | Numbers,
) -> Floats:
    """The max-min fair rate of each flow from a source to a target.

    The rates of all grow together; where a link is full, its flows have what they get.

    Args:
        up_bytes_per_s, down_bytes_per_s: of each peer's link, shape (peers,), above 0.
        sources, targets: of each flow, by the number of the peer; shape (flows,).
    """
    capacities = np.concatenate([np.asarray(up_bytes_per_s), np.asarray(down_bytes_per_s)])
    ups = np.asarray(sources, dtype=np.int64)
    downs = np.asarray(targets, dtype=np.int64) + len(up_bytes_per_s)
    rates = np.zeros(len(ups))
    left = capacities.astype(np.float64)
    growing = np.ones(len(ups), dtype=bool)
    while growing.any():
        counts = np.bincount(ups[growing], minlength=len(left))
        counts = counts + np.bincount(downs[growing], minlength=len(left))
        shares = np.where(counts > 0, left / np.maximum(counts, 1), math.inf)
        level = float(shares.min())
        full = shares <= level * (1 + _SLACK)
        stopped = growing & (full[ups] | full[downs])
        rates[stopped] = level
        left -= level * np.bincount(ups[stopped], minlength=len(left))
        left -= level * np.bincount(downs[stopped], minlength=len(left))
        np.maximum(left, 0.0, out=left)
        growing &= ~stopped
    return rates


def chunks_of(span_bytes: float, chunk_bytes: float) -> list[float]:
    """The sizes of a span's chunks: whole ones, and what is left."""
    whole = math.floor(span_bytes / chunk_bytes + _SLACK)
    rest = span_bytes - whole * chunk_bytes
    return [chunk_bytes] * whole + ([rest] if rest > chunk_bytes * _SLACK else [])


def transfer(
    up_bytes_per_s: Sequence[float],
    down_bytes_per_s: Sequence[float],
    contributes: Sequence[bool],
    span_bytes: Sequence[float],
    *,
    chunk_bytes: float,
) -> Transfer:
    """Let an all-reduce of these members run.

    Args:
        contributes: whether each sends a vector and waits for the result.
        span_bytes: what each averages, on the wire; 0 for those that average nothing.
    """
    round_ = _Round(up_bytes_per_s, down_bytes_per_s, contributes, span_bytes, chunk_bytes)
    while round_.under_way:
        round_.go_on()
    return Transfer(
        max((at_s for at_s, one in zip(round_.done_at_s, contributes, strict=True) if one)),
        tuple(round_.done_at_s),
        tuple(float(size) for size in round_.sent),
        tuple(float(size) for size in round_.received),
    )


class _Round:
    """Where every flow is; time passes from one chunk's end to the next."""

    def __init__(
        self,
        up_bytes_per_s: Sequence[float],
        down_bytes_per_s: Sequence[float],
        contributes: Sequence[bool],
        span_bytes: Sequence[float],
        chunk_bytes: float,
    ) -> None:
        self._up = np.asarray(up_bytes_per_s, dtype=np.float64)
        self._down = np.asarray(down_bytes_per_s, dtype=np.float64)
        members = [i for i, one in enumerate(contributes) if one]
        owners = [j for j, size in enumerate(span_bytes) if size > 0]
        self._chunks = {j: chunks_of(span_bytes[j], chunk_bytes) for j in owners}
        # Parts come first, so that a chunk's last part sets off its averages in the same moment.
        pairs = [(i, j) for j in owners for i in members if i != j]
        self._owner = [j for _, j in pairs] * 2
        self._is_part = [True] * len(pairs) + [False] * len(pairs)
        self._sources = np.array([i for i, _ in pairs] + [j for _, j in pairs], dtype=np.int64)
        self._targets = np.array([j for _, j in pairs] + [i for i, _ in pairs], dtype=np.int64)
        self._missing = {j: [sum(i != j for i in members)] * len(self._chunks[j]) for j in owners}
        self._waiting: dict[int, list[int]] = {j: [] for j in owners}
        count = 2 * len(pairs)
        self._number = [0] * count
        self._left = np.zeros(count)
        self._state = np.full(count, _IDLE, dtype=np.int8)
        self._rates = np.zeros(count)
        self._now_s = 0.0
        self.done_at_s = [0.0] * len(self._up)
        self.sent = np.zeros(len(self._up))
        self.received = np.zeros(len(self._up))
        for flow in range(count):
            self._begin_chunk(flow)
        self._share()

    @property
    def under_way(self) -> bool:
        """Whether anything moves."""
        return bool((self._state == _BUSY).any())

    def go_on(self) -> None:
        """Until the next chunk has passed, wherever that is."""
        busy = np.flatnonzero(self._state == _BUSY)
        times = self._left[busy] / self._rates[busy]
        passed_s = float(times.min())
        moved = self._rates[busy] * passed_s
        self._left[busy] -= moved
        np.add.at(self.sent, self._sources[busy], moved)
        np.add.at(self.received, self._targets[busy], moved)
        self._now_s += passed_s
        ended = busy[times <= passed_s * (1 + _SLACK)]
        before = self._state.copy()
        for flow in ended:
            self._end_chunk(int(flow))
        if (before != self._state).any():
            self._share()

    def _end_chunk(self, flow: int) -> None:
        owner, number = self._owner[flow], self._number[flow]
        self._number[flow] += 1
        self._begin_chunk(flow)
        if self._state[flow] == _DONE:
            for peer in (int(self._sources[flow]), int(self._targets[flow])):
                self.done_at_s[peer] = max(self.done_at_s[peer], self._now_s)
        if self._is_part[flow]:
            self._missing[owner][number] -= 1
            if not self._missing[owner][number]:
                waiting, self._waiting[owner] = self._waiting[owner], []
                for other in waiting:
                    self._begin_chunk(other)

    def _begin_chunk(self, flow: int) -> None:
        """Send the flow's next chunk if there is one, and its parts have come if it is averages."""
        owner, number = self._owner[flow], self._number[flow]
        if number == len(self._chunks[owner]):
            self._state[flow] = _DONE
        elif not self._is_part[flow] and self._missing[owner][number]:
            self._state[flow] = _IDLE
            self._waiting[owner].append(flow)
        else:
            self._state[flow] = _BUSY
            self._left[flow] = self._chunks[owner][number]

    def _share(self) -> None:
        busy = self._state == _BUSY
        self._rates[busy] = fair_rates(
            self._up, self._down, self._sources[busy], self._targets[busy]
        )
