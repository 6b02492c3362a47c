"""What routers say, whichever of the three protocols they speak (core).

A refusal is a RefusedError with one of the codes below.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LIFETIME_S = 3_600
"""How long a mapping shall last: what a killed process leaves behind is gone within the hour."""
LIFETIME_S_MIN = 10
"""A router that grants less is not worth the traffic; RFC 6887 recommends at least 120 s."""


class Failure(Enum):
    """Why a question to the router came to nothing; the values are codes of RefusedError."""

    SILENT = "silent"
    """No answer, or none of this protocol's."""
    INVALID = "invalid"
    """Only answers that are none."""
    NO_ADDRESS = "no-address"
    """The router has no address on its outer side that it would map."""
    FORBIDDEN = "forbidden"
    """The router's settings do not allow it."""
    TAKEN = "taken"
    """The outer port leads to somebody else."""
    REFUSED = "refused"
    """Any other no."""
    LOST = "lost"
    """The router knows nothing of the mapping that we asked about."""


@dataclass(frozen=True)
class Granted:
    """The router's word that a port leads to us."""

    host: str
    """The router's outer IPv4 address, as it says."""
    port: int
    lifetime_s: int
    epoch_s: int | None
    """Seconds since the router's table was empty, by its own clock; UPnP has no such thing."""


@dataclass(frozen=True)
class Failed:
    """There was no such word."""

    failure: Failure
    said: str = ""
    """The reason in a few plain words of ours, never the router's own bytes."""


def bounded_lifetime_s(granted_s: int) -> int:
    """A router may promise years; we believe no more than we asked for."""
    return min(granted_s, LIFETIME_S)
