"""Where simulated nodes are, and how long a message takes from one to another."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import hypot

# Corner to corner is 99 ms one way: with the heights, two nodes are 90 ms of round trip apart in
# the middle, as hosts all over the world are.
_ACROSS_S = 0.07
_HEIGHT_MEAN_S = 0.004
_HEIGHT_MAX_S = 0.05
_JITTER = 0.25


@dataclass(frozen=True, slots=True)
class Place:
    """A point of the plane, and the delay of the access line below it.

    Source: F. Dabek et al., Vivaldi: A Decentralized Network Coordinate System, 2004, §5.4.
    """

    x: float
    y: float
    height_s: float


def random_place(rng: random.Random) -> Place:
    """Somewhere."""
    height_s = min(rng.expovariate(1 / _HEIGHT_MEAN_S), _HEIGHT_MAX_S)
    return Place(rng.random(), rng.random(), height_s)


def one_way_s(here: Place, there: Place, luck: float) -> float:
    """How long one message takes; luck from 0 to 1 is its jitter, seldom long."""
    away_s = hypot(here.x - there.x, here.y - there.y) * _ACROSS_S
    return (away_s + here.height_s + there.height_s) * (1 + _JITTER * luck * luck)
