"""Assigning a batch to prototypes in equal shares: the iteration of Sinkhorn and Knopp.

    B  samples        K  prototypes

The plain argument of the largest score would put everything in one cluster. Instead each prototype
gets B/K samples in all, and each sample is given away whole, in the softest way that follows the
scores: the matrix exp(scores / ε) is scaled by turns until its sums are right.
"""

from __future__ import annotations

import torch


def assign(scores_BK: torch.Tensor, *, epsilon: float, iterations: int) -> torch.Tensor:
    """How much of each sample belongs to each prototype, (B, K) in the scores' dtype.

    Each sample's row sums to 1; each prototype's column to about B/K, the closer the more
    iterations. It works on logarithms, so that no score is too large, whatever the ε.

    Args:
        epsilon: the smaller, the harder is the assignment.
        iterations: how often columns and then rows are scaled, at least once.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, section 3.1 and appendix A.1; Cuturi, "Sinkhorn Distances", 2013.
    """
    if epsilon <= 0 or iterations < 1:
        raise ValueError(f"no assignment with ε = {epsilon} in {iterations} iterations")
    with torch.no_grad():
        logs_BK = scores_BK.detach() / epsilon
        for _ in range(iterations):
            # Columns to equal sums; how large these are does not matter, as rows come next.
            logs_BK = logs_BK - logs_BK.logsumexp(dim=0, keepdim=True)
            logs_BK = logs_BK - logs_BK.logsumexp(dim=1, keepdim=True)
        return logs_BK.exp()
