"""The coordinator's board: each span's owner, whose parts it has, and who holds its sum (core)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from averaging.secure.schema import SumEnd


class Board:
    """The spans of one group.

    Args:
        owners: for each span the index of the aggregator that adds it up.
        need: how many members are enough.
    """

    def __init__(self, owners: Sequence[int], need: int) -> None:
        self.owners = list(owners)
        self.plan = 0
        """How often spans were given to others."""
        self.complete: list[set[int]] = [set() for _ in owners]
        """Whose parts of each span its owner has."""
        self.ends: dict[int, SumEnd] = {}
        """What the owners signed of each span's masked sum."""
        self.holders: list[set[int]] = [set() for _ in owners]
        """Who holds each span's masked sum."""
        self._aggregators = sorted(set(owners))
        self._need = need

    def slow_owners(self, gathered: Sequence[Collection[int]]) -> list[int]:
        """Owners of spans that fewer than enough members are done with."""
        both = zip(self.owners, gathered, strict=True)
        return sorted({owner for owner, members in both if len(members) < self._need})

    def mostly(self, gathered: Sequence[Collection[int]]) -> bool:
        """Whether enough members are done with most of the spans.

        So a slow owner does not hide behind its span, which keeps everybody from being done.
        """
        whole = sum(len(members) >= self._need for members in gathered)
        return 2 * whole > len(gathered)

    def replan(self, lost: Collection[int], holding: Collection[int] | None) -> bool:
        """Give the spans of lost owners to those with the fewest; whether that was needed.

        Args:
            holding: who is to hold the masked sums. What all of them hold needs no owner any more,
                unless other sums are made anew. None before there are sums.
        """
        orphans = [span for span, owner in enumerate(self.owners) if owner in lost]
        if holding is not None and all(self.holders[span].issuperset(holding) for span in orphans):
            return False
        there = [peer for peer in self._aggregators if peer not in lost]
        for span in orphans:
            self.owners[span] = min(there, key=self.owners.count)
            self.complete[span] = set()
        if orphans:
            self.plan += 1
            self.ends.clear()
            self.holders = [set() for _ in self.owners]
        return bool(orphans)
