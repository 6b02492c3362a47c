"""Assignments in equal shares equal the plain iteration, and have the sums they should have."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.tasks.swav.sinkhorn import assign


def plainly(scores: list[list[float]], epsilon: float, iterations: int) -> np.ndarray:
    """The publication's loop over a matrix of numbers, cell by cell."""
    samples, prototypes = len(scores), len(scores[0])
    cells = [[math.exp(score / epsilon) for score in row] for row in scores]
    for _ in range(iterations):
        for k in range(prototypes):
            total = math.fsum(row[k] for row in cells)
            for row in cells:
                row[k] /= total * prototypes
        for row in cells:
            total = math.fsum(row)
            row[:] = [cell / total / samples for cell in row]
    return np.array(cells) * samples


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    epsilon=st.sampled_from([0.05, 0.3, 1.0]),
    iterations=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_it_equals_the_plain_iteration(
    shape: tuple[int, int], epsilon: float, iterations: int, seed: int
) -> None:
    scores = np.random.default_rng(seed).uniform(-1, 1, shape)
    assigned = assign(torch.from_numpy(scores), epsilon=epsilon, iterations=iterations)
    expected = plainly(scores.tolist(), epsilon, iterations)
    np.testing.assert_allclose(assigned.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_samples_are_given_away_whole_and_prototypes_get_equal_shares() -> None:
    chance = torch.Generator().manual_seed(0)
    scores = torch.rand(60, 12, generator=chance, dtype=torch.float64) * 2 - 1
    scores[:, 0] += 1  # the favourite of all
    few = assign(scores, epsilon=0.2, iterations=3)
    torch.testing.assert_close(few.sum(dim=1), torch.ones(60, dtype=torch.float64))
    many = assign(scores, epsilon=0.2, iterations=500)
    torch.testing.assert_close(many.sum(dim=1), torch.ones(60, dtype=torch.float64))
    torch.testing.assert_close(
        many.sum(dim=0), torch.full((12,), 5.0, dtype=torch.float64), rtol=1e-6, atol=0
    )
    off_before = (few.sum(dim=0) - 5).abs().max()
    assert off_before < (scores.div(0.2).softmax(dim=1).sum(dim=0) - 5).abs().max()


def test_only_rows_and_columns_are_scaled() -> None:
    scores = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = assign(scores, epsilon=0.5, iterations=4).log() - scores / 0.5
    scale = scale - scale[:, :1]
    torch.testing.assert_close(scale, scale[:1].expand_as(scale))


def test_scores_of_any_size_give_finite_shares_without_a_gradient() -> None:
    scores = torch.tensor([[1e4, -1e4], [9e3, 9e3]], requires_grad=True)
    assigned = assign(scores, epsilon=0.05, iterations=3)
    assert torch.isfinite(assigned).all()
    assert not assigned.requires_grad
    torch.testing.assert_close(assigned.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.0, 3), (0.05, 0)])
def test_impossible_numbers_are_refused(epsilon: float, iterations: int) -> None:
    with pytest.raises(ValueError, match="no assignment"):
        assign(torch.zeros(2, 2), epsilon=epsilon, iterations=iterations)
