"""Who is in a round's sum, and when it is closed: the aggregator's rules, without any network.

    waiting --first member admitted--> open --all delivered, or time over--> closed
    closed --a member of a later round admitted--> open

A member is admitted once in each round, and rounds only go forward: nothing can be added twice, and
nothing of an old round to a new one.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2p import PeerId


class Gathering:
    """One group's rounds, one after another."""

    def __init__(self, members: Sequence[PeerId], *, round_s: float) -> None:
        self._members = tuple(members)
        self._round_s = round_s
        self._admitted: dict[PeerId, None] = {}
        self._lost: dict[PeerId, None] = {}
        self._delivered: dict[PeerId, None] = {}
        self.round_number = -1
        """Of the last round that was opened."""
        self.deadline_s: float | None = None
        """When the open round is closed at the latest; None while none is open."""

    @property
    def included(self) -> tuple[int, ...]:
        """The places of those whose ciphertexts are in the sum."""
        return tuple(at for at, member in enumerate(self._members) if member in self._delivered)

    def admit(self, member: PeerId, round_number: int, now_s: float) -> str | None:
        """A member begins to send: why it may not, or None."""
        if member not in self._members:
            return "not a member of this group"
        if self.deadline_s is None:
            if round_number <= self.round_number:
                return f"round {round_number} is over; the last was {self.round_number}"
            self._admitted, self._lost, self._delivered = {}, {}, {}
            self.round_number = round_number
            self.deadline_s = now_s + self._round_s
        elif round_number != self.round_number:
            return f"round {self.round_number} is under way, not {round_number}"
        elif member in self._admitted:
            return f"already in round {round_number}"
        self._admitted[member] = None
        return None

    def on_delivered(self, member: PeerId, round_number: int) -> bool:
        """All of it came and was checked; tells whether it goes into the sum."""
        if self.deadline_s is None or round_number != self.round_number:
            return False
        self._delivered[member] = None
        return True

    def on_lost(self, member: PeerId, round_number: int) -> None:
        """What it sent broke off, or was refused: nobody waits for it in this round."""
        if round_number == self.round_number and member not in self._delivered:
            self._lost[member] = None

    @property
    def is_complete(self) -> bool:
        """Whether nobody is waited for."""
        return len(self._delivered) + len(self._lost) == len(self._members)

    def close(self) -> None:
        """The sum is fixed: what comes later is too late."""
        self.deadline_s = None
