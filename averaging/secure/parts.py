"""Masked parts of spans at their aggregator, kept apart until the survivors are known (core)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from p2p import MessageInvalid

Array = np.ndarray[Any, Any]

# Hardly anybody gets more spans than this from those who are lost.
_AHEAD_MAX: Final = 4


@dataclass(frozen=True)
class Span:
    """A run of elements of the masked vector."""

    start: int
    stop: int


class Arriving:
    """A run of elements that comes in order, piece by piece, straight into its place.

    Args:
        place: shape (elements,), 1-D and contiguous; overwritten.
        start: which element of the whole vector the first one is.
    """

    def __init__(self, place: Array, start: int) -> None:
        self.place = place
        self._start = start
        self._come = 0

    @property
    def whole(self) -> bool:
        """Whether all has come."""
        return self._come == len(self.place)

    def buffer_untrusted(self, start: int, size_bytes: int) -> memoryview:
        """Where the next piece goes.

        Raises:
            MessageInvalid: it is not the next, or too long, or no whole number of elements.
        """
        count, rest = divmod(size_bytes, self.place.itemsize)
        left = len(self.place) - self._come
        if start != self._start + self._come or rest or not 0 < count <= left:
            raise MessageInvalid("a payload that does not continue its span")
        return self.place[self._come : self._come + count].view(np.uint8).data

    def on_come(self, size_bytes: int) -> None:
        """The piece for which buffer_untrusted() gave the place has come."""
        self._come += size_bytes // self.place.itemsize


class Parts:
    """All senders' parts of the spans that are ours.

    Args:
        spans: all of them, by their numbers.
        dtype: of the ring.
    """

    def __init__(self, spans: Sequence[Span], dtype: np.dtype[Any]) -> None:
        self._spans = tuple(spans)
        self._dtype = dtype
        self._parts: dict[tuple[int, int], Arriving] = {}
        self._ahead: Counter[int] = Counter()

    def of_untrusted(self, span: int, sender: int, *, ours: bool) -> Arriving:
        """One sender's part of one span; its memory is taken when it is first asked for.

        Args:
            ours: whether the span is ours by the plan that we know; others may know a newer one.

        Raises:
            MessageInvalid: there is no such span, or too many are not ours.
        """
        key = (span, sender)
        if key not in self._parts:
            if span >= len(self._spans):
                raise MessageInvalid("a part of a span that does not exist")
            if not ours:
                self._ahead[sender] += 1
                if self._ahead[sender] > _AHEAD_MAX:
                    raise MessageInvalid("parts of spans that are not ours")
            where = self._spans[span]
            place = np.empty(where.stop - where.start, self._dtype)
            self._parts[key] = Arriving(place, where.start)
        return self._parts[key]

    def whole(self, span: int) -> list[int]:
        """Whose parts of a span are here."""
        return sorted(
            sender for (one, sender), part in self._parts.items() if one == span and part.whole
        )

    def put(self, span: int, sender: int, part: Array) -> None:
        """A whole part, as it is with ourselves; it is kept, not copied."""
        arriving = Arriving(part, self._spans[span].start)
        arriving.on_come(part.nbytes)
        self._parts[span, sender] = arriving

    def masked_sum(self, span: int, survivors: Sequence[int]) -> Array:
        """The sum of the survivors' parts, modulo the ring: shape (elements of the span,)."""
        first, *others = (self._parts[span, member] for member in survivors)
        assert all(part.whole for part in (first, *others))
        total = first.place.copy()
        for part in others:
            np.add(total, part.place, out=total)
        return total

    def drop(self) -> None:
        """Free the memory: what is masked need not be kept longer than it is used."""
        self._parts.clear()
