"""What the model's hosts send each other: as in schema.py, but bare, and with values as sums.

A chunk's value is a tuple of integers: for each member its weight, if it is in the chunk, and
last the chunk's number times the sum of the weights. So what is in a mean can be read from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Value = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A member declares its weight."""

    weight: float


@dataclass(frozen=True)
class Part:
    """A member's values for one chunk."""

    piece: int
    chunk: int


@dataclass(frozen=True)
class Result:
    """The mean of one chunk."""

    piece: int
    chunk: int
    value: Value


@dataclass(frozen=True)
class Record:
    """A piece's end: what it is and who is in it."""

    piece: int
    owner: int
    plan: int
    chunks: tuple[Value, ...]
    included: tuple[int, ...]
    weights: tuple[float, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Excluded:
    """The aggregator takes no more."""


@dataclass(frozen=True)
class Abort:
    """The aggregator cannot average its piece."""

    reason: str
    certain: bool


@dataclass(frozen=True)
class Closed:
    """The other end closed the stream."""


def twisted(value: Value) -> Value:
    """Another value than the true one."""
    return (*value[:-1], value[-1] + 1)


def twisted_record(record: Record) -> Record:
    """Another record than the true one, consistent in itself."""
    return replace(record, chunks=tuple(twisted(value) for value in record.chunks))


def contradict(one: Record, other: Record) -> bool:
    """Whether two records prove that their owner lies."""
    same = (one.piece, one.owner, one.plan) == (other.piece, other.owner, other.plan)
    return same and one != other
