"""Drift: who has come to hold other parameters than most, told from sketches of them (core).

The same gradients do not give the same bits on all machines, so parameters drift apart a little
between two times at which they are averaged themselves. A *sketch*, 16 numbers for a whole model,
shows how far: the distance of two sketches is about that of the two models. A peer that is farther
from the others than rounding explains has lost something, and takes over their state.

Where at least half of the weight agrees, and we do not, we are the ones who are astray. Each
coordinate's weighted median is what they agree upon: no minority can move it far.

Source: M. Charikar, K. Chen, M. Farach-Colton, "Finding Frequent Items in Data Streams", 2002,
for sums with random signs that keep distances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from p2p import PeerId

SKETCH_SIZE = 16
PEERS_MIN = 3
"""Of two that differ nobody can tell which is right."""
TOLERANCE = 0.01
"""This part of what has changed since all held the same bits may be rounding."""

Sketch = tuple[float, ...]
"""SKETCH_SIZE numbers; empty when unknown."""


def agreeing(
    own_id: PeerId,
    sketches: Mapping[PeerId, Sketch],
    weights: Mapping[PeerId, float],
    *,
    reference: Sketch,
    rounding: float,
) -> tuple[PeerId, ...]:
    """The peers that agree where we do not; nobody while we are with them, or it is unclear.

    Args:
        sketches: of all peers at one step, ourselves included; those of a wrong size do not count.
            A number of ours that is not finite is far from all.
        weights: how much each one's word counts; all the same if they are all zero.
        reference: our sketch when all last held the same bits.
        rounding: how far rounding alone may lead, as a part of the parameters' norm.
    """
    known = {peer: one for peer, one in sorted(sketches.items()) if len(one) == SKETCH_SIZE}
    if len(known) < PEERS_MIN or own_id not in known or len(reference) != SKETCH_SIZE:
        return ()
    counted = {peer: weights.get(peer, 0.0) for peer in known}
    if not any(counted.values()):
        counted = dict.fromkeys(known, 1.0)
    middle = tuple(
        _weighted_median([(sketch[index], counted[peer]) for peer, sketch in known.items()])
        for index in range(SKETCH_SIZE)
    )
    allowed = TOLERANCE * math.dist(middle, reference) + rounding * math.hypot(*middle)
    near = [peer for peer, sketch in known.items() if math.dist(sketch, middle) <= allowed]
    clear = 2 * sum(counted[peer] for peer in near) > sum(counted.values())
    return tuple(near) if clear and own_id not in near else ()


def _weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """The smallest value that half of the weight does not exceed; numbers that are none last."""
    half = sum(weight for _, weight in values) / 2
    reached = 0.0
    for value, weight in sorted(values, key=lambda one: (math.isnan(one[0]), one[0])):
        reached += weight
        if reached >= half:
            return value
    raise AssertionError("all weights together are at least half of them")
