"""Which codec a group takes: the one with which its slowest member is done soonest (core).

All members compute it from the same numbers, those in their signed JOINs, and so choose alike. A
codec may lose no more than the budget says, however much time it saves: what error feedback brings
back later is late. On a fast network encoding costs more than it saves, and floats are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Candidate:
    """A codec that may be chosen, and what it costs."""

    codec: str
    """Its name; empty for floats."""
    error: float
    """What parts and results lose: ‖C(x) − x‖ / ‖x‖ of normally distributed values, both ways
    together."""
    seconds_per_element: float
    """What a member computes for each element: it encodes once, and decodes about three times."""


CANDIDATES: Final = (
    Candidate("", 0.0, 0.0),
    Candidate("float16-scaled", 0.0003, 4e-9),
    Candidate("int8-block", 0.0123, 5e-9),
    Candidate("int4-block", 0.108, 6e-9),
    Candidate("topk:0.05", 0.848, 10e-9),
    Candidate("topk:0.01", 0.957, 7e-9),
)
"""In order of what they lose. Measured with one thread on chunks of 131 072 elements; on a machine
twice as fast or slow another would be best only where two are close."""


def within(error_max: float) -> tuple[Candidate, ...]:
    """The candidates that lose no more than this."""
    return tuple(candidate for candidate in CANDIDATES if candidate.error <= error_max)


def choose(
    candidates: Sequence[Candidate],
    bytes_per_element: Sequence[float],
    element_count: int,
    seconds_of: Callable[[float], float],
) -> int:
    """The number of the candidate with which a round takes least time; of equals the first.

    Args:
        candidates: at least one.
        bytes_per_element: on the wire with each of them, the mean of both ways.
        seconds_of: how long the group's transfers take with so many bytes for each element.
    """
    seconds = [
        seconds_of(size) + element_count * candidate.seconds_per_element
        for candidate, size in zip(candidates, bytes_per_element, strict=True)
    ]
    return seconds.index(min(seconds))
