"""Requests of several parties that belong together, by their numbers (core)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


class PartiesDiffer(ValueError):
    """The parties do not ask for the same thing, or not about the same entities."""


@dataclass
class _Gathered(Generic[T]):
    same: tuple[object, ...]
    items: dict[int, T] = field(default_factory=dict)


class Lineup(Generic[T]):
    """Gathers what each of so many parties brings for each number; one party is always complete.

    Args:
        T: what a party brings.
    """

    def __init__(self, parties: int) -> None:
        self._parties = parties
        self._gathered: dict[int, _Gathered[T]] = {}

    def on_request(
        self, number: int, party: int, item: T, *, kind: str, rows: int, entities: bytes
    ) -> list[T] | None:
        """A party's request; all of that number in the order of parties, once the last came.

        Args:
            kind, rows, entities: in which all parties must agree; empty entities agree with any.

        Raises:
            PartiesDiffer: they do not.
        """
        gathered = self._gathered.setdefault(number, _Gathered((kind, rows, entities)))
        mine, theirs = (kind, rows, entities), gathered.same
        for what, one, other in zip(("kind", "number of rows"), mine, theirs, strict=False):
            if one != other:
                raise PartiesDiffer(f"the parties' requests {number} differ in their {what}")
        if entities and theirs[2] and entities != theirs[2]:
            raise PartiesDiffer(f"the parties' requests {number} are about different entities")
        if entities:
            gathered.same = mine
        assert party not in gathered.items
        gathered.items[party] = item
        if len(gathered.items) < self._parties:
            return None
        del self._gathered[number]
        return [gathered.items[index] for index in range(self._parties)]
