"""Who of a group brings a vector to the secure sum, and how many of them it needs (core).

A sum of one vector, and others of weight 0, is that vector. So a member says in its signed JOIN
whether it contributes, though not with which weight, and nobody signs a sum of too few who do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from averaging.matchmaking.group import Group


@dataclass(frozen=True)
class Contributors:
    """The members of a group that bring a vector, by their places in it."""

    places: frozenset[int]
    needed: int
    """Fewer in one sum do not hide each other."""

    @classmethod
    def of(cls, group: Group, needed: int) -> Contributors:
        """Those whose JOINs have a weight."""
        places = (place for place, join in enumerate(group.members) if join.weight_cap > 0)
        return cls(frozenset(places), needed)

    def complaint(self, members: Iterable[int]) -> str | None:
        """Why these must not be summed; None if they may be."""
        count = len(self.places.intersection(members))
        if count >= self.needed:
            return None
        return (
            f"only {count} of the members bring a vector, and a sum of fewer than "
            f"{self.needed} would not hide them"
        )
