"""Thresholds that keep about the k largest, without ranking: by a bell curve, or by a sample.

Source: S. Shi, X. Chu, K. Cheung and S. See, "Understanding Top-k Sparsification in Distributed
Deep Learning", 2019: Gaussian_k, algorithm 1; DGC is of Y. Lin et al., "Deep Gradient Compression",
2018.
"""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist
from typing import Final

import torch

from averaging.codecs.sparsifiers.draws import distinct_positions
from averaging.codecs.sparsifiers.scan import (
    above,
    kth_largest,
    largest,
    positions_of,
    square_sum,
)

_PASSES: Final = 10
"""Counts until a threshold is settled. Smooth distributions need one to four."""
_SAMPLED_SHARE: Final = Fraction(1, 100)
_SAMPLED_ABOVE: Final = 16
"""So many of the sample at least are expected above the threshold; fewer would be chance.
The paper has 1 % always, of vectors much longer than a chunk of ours."""


def gaussian_largest(values: torch.Tensor, kept: int) -> torch.Tensor:
    """About so many of the largest, at least 2/3 and at most 4/3 of it rounded up: int64, rising.

    The first threshold is right for a bell curve around 0. Then brackets close in on it, along the
    curve of counts that an exponential tail would have. What does not settle, such as many equal
    magnitudes, is ranked.
    """
    count = values.numel()
    most = gaussian_sent_max(kept)
    sigma = math.sqrt(square_sum(values) / count)
    if not (math.isfinite(sigma) and sigma > 0):
        return largest(values, kept)
    mask = torch.empty_like(values, dtype=torch.bool)
    bracket = _Bracket(count, kept)
    threshold = sigma * NormalDist().inv_cdf(1 - kept / count / 2)
    for _ in range(_PASSES):
        found = above(values, threshold, mask)
        if 3 * found >= 2 * kept and found <= most:
            return positions_of(mask)
        threshold = bracket.next_threshold(threshold, found)
    if not 0 < bracket.low_count < count:
        return largest(values, kept)
    above(values, bracket.low, mask)
    candidates = positions_of(mask)
    return candidates[largest(values[candidates], most)]


def gaussian_sent_max(kept: int) -> int:
    """What `gaussian_largest` finds at most."""
    return -(-4 * kept // 3)


class _Bracket:
    """Two thresholds, one that finds too many and one too few, and which to try between them."""

    def __init__(self, count: int, kept: int) -> None:
        self._kept = kept
        self.low, self.low_count = 0.0, count
        self._high: float | None = None
        self._high_count = 0

    def next_threshold(self, threshold: float, found: int) -> float:
        """What to try after this one, which found too many or too few."""
        older, older_count = self.low, self.low_count
        if found > self._kept:
            self.low, self.low_count = threshold, found
        else:
            self._high, self._high_count = threshold, found
        if self._high is not None:
            # Of none found, at least one may be just below.
            decay = math.log(self.low_count / max(self._high_count, 0.5))
            share = math.log(self.low_count / self._kept) / decay
            # Never at an end, where nothing would be learned.
            return self.low + (self._high - self.low) * min(max(share, 0.1), 0.9)
        if found == older_count:
            return 2 * threshold
        decay = math.log(older_count / found) / (threshold - older)
        return threshold + min(math.log(found / self._kept) / decay, 3 * threshold)


def gaussian_as_published(values: torch.Tensor, kept: int) -> torch.Tensor:
    """What the published loop finds: none at all, or many times too many, for some distributions.

    The mask that counts is the one before the last change of the threshold.

    Returns:
        int64, rising.
    """
    mean = float(values.mean())
    sigma = math.sqrt(square_sum(values, mean) / values.numel())
    threshold = mean + sigma * NormalDist().inv_cdf(1 - kept / values.numel() / 2)
    mask = torch.empty_like(values, dtype=torch.bool)
    for _ in range(3):
        found = above(values, threshold, mask)
        if 3 * found < 2 * kept:
            threshold *= 0.5
        elif 3 * found > 4 * kept:
            threshold *= 1.5
        else:
            break
    return positions_of(mask)


def sampled_largest(values: torch.Tensor, kept: int, seed: int) -> torch.Tensor:
    """About so many of the largest, never more, above a threshold that a random sample tells.

    Returns:
        int64, rising.
    """
    count = values.numel()
    sampled = dgc_sample_size(count, kept)
    drawn = torch.from_numpy(distinct_positions(seed, sampled, count)).to(values.device)
    limit = kth_largest(values[drawn].abs()[None], dgc_sampled_above(count, kept))[0]
    # The one of that rank is kept too.
    below = torch.nextafter(limit, limit.new_tensor(-1.0))
    mask = torch.empty_like(values, dtype=torch.bool)
    if above(values, float(below), mask) <= kept:
        found = positions_of(mask)
        return found[values[found] != 0]
    candidates = positions_of(mask)
    return candidates[largest(values[candidates], kept)]


def dgc_sample_size(count: int, kept: int) -> int:
    """How many elements DGC looks at to find a threshold for so many of count."""
    return min(count, max(math.ceil(_SAMPLED_SHARE * count), -(-_SAMPLED_ABOVE * count // kept)))


def dgc_sampled_above(count: int, kept: int) -> int:
    """How many of the sample are kept for certain."""
    return -(-dgc_sample_size(count, kept) * kept // count)
