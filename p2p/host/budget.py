"""Budget: one limit shared by many, where whoever takes much still leaves room to others (core).

Each sharer may hold half of what is free, counting its own. So one alone gets a third of all,
and a hundred greedy ones leave a hundredth part to the next.

Source: A. K. Choudhury, E. L. Hahne: Dynamic queue length thresholds for shared-memory packet
switches, IEEE/ACM Transactions on Networking 6(2), 1998.
"""

from __future__ import annotations


class Budget:
    """What all sharers hold together, in whatever unit: bytes, streams."""

    def __init__(self, *, total_max: int, share_max: int) -> None:
        self.total_max = total_max
        self.share_max = share_max
        self.used = 0

    def open_share(self) -> Share:
        """A new sharer that holds nothing yet."""
        return Share(self)


class Share:
    """What one sharer holds of a budget, or one of several parts of what a sharer holds."""

    def __init__(self, budget: Budget, whole: Share | None = None) -> None:
        self._budget = budget
        self._whole = whole
        self._closed = False
        self.used = 0

    @classmethod
    def alone(cls, limit: int) -> Share:
        """A share that has a budget to itself, and all of the limit."""
        return cls(Budget(total_max=3 * limit, share_max=limit))

    def open_part(self) -> Share:
        """A part that counts here too; closing it leaves the others as they are."""
        return Share(self._budget, self)

    @property
    def room(self) -> int:
        """How much more this sharer, all its parts together, may take now."""
        if self._whole is not None:
            return self._whole.room
        budget = self._budget
        fair = (budget.total_max - budget.used) // 2
        return max(0, min(budget.share_max, fair) - self.used)

    def take(self, amount: int) -> None:
        """Hold more; the owner has looked at the room, or has reason to exceed it."""
        self.used += amount
        if not self._closed:
            self._count(amount)

    def give(self, amount: int) -> None:
        """Hold less."""
        self.used -= amount
        if not self._closed:
            self._count(-amount)

    def close(self) -> None:
        """Leave the budget: what is still held counts no more."""
        if not self._closed:
            self._closed = True
            self._count(-self.used)

    def _count(self, amount: int) -> None:
        if self._whole is not None:
            self._whole.take(amount)
        else:
            self._budget.used += amount
