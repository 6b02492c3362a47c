"""Descent of several workers on a convex problem, with steps that pass a codec."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from tools.bench.compression.problems import Problem
from tools.bench.compression.uplinks import Uplinks


@dataclass(frozen=True)
class Place:
    """Where descent is after some steps."""

    step: int
    excess: float
    """f(x) − f*, of which f* is the least."""
    bits: float
    """Sent by each worker so far, in real frames."""


def descend(
    problem: Problem,
    codec: str,
    feedback: str,
    *,
    rate: float,
    steps: int,
    looks: Collection[int],
    enough: float = 0.0,
) -> list[Place]:
    """x ← x − mean of C(η·gradient), with or without error feedback.

    The step is inside the compressor, as in the paper.

    Args:
        codec, feedback: as `Uplinks` has them.
        rate: η.
        looks: the steps after which it is said where descent is, the last one beside.
        enough: end when f(x) − f* is no more than this.

    Returns:
        The places, of which the last may be infinitely far: then it diverged.

    Source: Beznosikov et al., "On Biased Compression for Distributed Learning", algorithm 1.
    """
    point = problem.start()
    uplinks = Uplinks(codec, feedback, problem.workers, len(point))
    places = []
    for step in range(1, steps + 1):
        vectors = [
            torch.from_numpy((rate * problem.gradient(point, worker)).astype(np.float32))
            for worker in range(problem.workers)
        ]
        point = point - uplinks.mean(vectors).double().numpy()
        if step not in looks and step < steps:
            continue
        excess = problem.loss(point) - problem.lowest
        places.append(Place(step, excess, uplinks.sent_bits_per_worker))
        if not math.isfinite(excess) or excess <= enough:
            break
    return places
