"""RoundId: which round is meant, and on which result it builds."""

from __future__ import annotations

from dataclasses import dataclass

PARENT_SIZE_BYTES = 32


@dataclass(frozen=True, order=True)
class RoundId:
    """One round of averaging: its number and the digest of the result that it builds on."""

    number: int
    parent: bytes = bytes(PARENT_SIZE_BYTES)

    def __post_init__(self) -> None:
        if self.number < 0 or len(self.parent) != PARENT_SIZE_BYTES:
            raise ValueError("a round has a number >= 0 and a parent digest of 32 bytes")

    def __str__(self) -> str:
        return f"{self.number}@{self.parent[:4].hex()}"
