"""One averaging group in the simulated world: who is in it, and what came of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from averaging.allreduce.manifest import Pieces
from averaging.allreduce.outputs import End
from averaging.matchmaking.group import quorum_reached
from tests.averaging.allreduce.model import World
from tests.averaging.allreduce.model_messages import Record

DEADLINE_S = 40.0
SILENCE_S = 2.5


@dataclass(frozen=True)
class ModelPiece:
    """A piece of the vector."""

    number: int
    owner: int
    """Counted among the aggregators."""
    chunk_count: int


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the members of a group agree on."""

    members: tuple[int, ...]
    """Host numbers in group order."""
    clients: frozenset[int]
    helpers: frozenset[int]
    """Auxiliary members."""
    aggregators: tuple[int, ...]
    chunks_of_pieces: tuple[tuple[int, ...], ...]
    """For each aggregator, the chunks in each of its pieces."""
    tolerated_liars: int
    weights: dict[int, float]
    previous: bytes = b""

    @property
    def voters(self) -> tuple[int, ...]:
        """Those that contribute."""
        return tuple(peer for peer in self.members if peer not in self.helpers)

    def quorum_reached(self, voters: Sequence[int], votes: Collection[int]) -> bool:
        """Whether so many votes commit."""
        return quorum_reached(voters, votes, self.tolerated_liars)  # type: ignore[arg-type]


@dataclass
class Group:
    """A group that runs, and everything that its members have signed and claimed."""

    world: World
    number: int
    setup: Setup
    fork: bool = False
    """Whether it was formed without proof that the group before it cannot succeed."""
    pieces: list[ModelPiece] = field(default_factory=list)
    digests: dict[Record, bytes] = field(default_factory=dict)
    records: dict[bytes, Record] = field(default_factory=dict)
    votes_signed: dict[int, list[Pieces]] = field(default_factory=dict)
    promised: dict[int, None] = field(default_factory=dict)
    successes: dict[int, Pieces] = field(default_factory=dict)
    certain_failures: dict[int, str] = field(default_factory=dict)
    on_end: Callable[[Any, End], None] = lambda member, end: None
    """Told when a member's attempt is over."""

    def __post_init__(self) -> None:
        numbers = itertools.count()
        self.pieces = [
            ModelPiece(next(numbers), owner, chunk_count)
            for owner, counts in enumerate(self.setup.chunks_of_pieces)
            for chunk_count in counts
        ]
        self.group_id = self.number.to_bytes(32, "big")
        self.first_chunks = list(
            itertools.accumulate((p.chunk_count for p in self.pieces), initial=0)
        )

    def digest_of(self, record: Record) -> bytes:
        """The digest of a piece; the same for the same content only."""
        digest = self.digests.get(record)
        if digest is None:
            digest = (len(self.digests) + 1).to_bytes(32, "big")
            self.digests[record] = digest
            self.records[digest] = record
        return digest

    def code_of(self, piece: int, chunk: int) -> int:
        """A number of its own for each chunk of the vector, at least 1."""
        return self.first_chunks[piece] + chunk + 1

    def honest(self, peer: int) -> bool:
        """Whether a member never lies."""
        return self.world.hosts[peer].honest
