"""What is finite: the quick look finds what a look at every number finds."""

from __future__ import annotations

import pytest
import torch

from training.finite import all_finite

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_number_that_is_not_finite_is_found_wherever_it_is(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    # Odd sizes, so that numbers stand in vector registers and in what is left over.
    for size in (1, 7, 33, 4_099):
        values = torch.randn(size, generator=generator).to(dtype)
        assert all_finite([values])
        for place in {0, size // 2, size - 1}:
            for wrong in (float("nan"), float("inf"), -float("inf")):
                spoilt = values.clone()
                spoilt[place] = wrong
                assert not all_finite([spoilt])
                assert not all_finite([values, spoilt.view(1, size).T])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    assert all_finite([torch.tensor([largest, -largest, largest], dtype=dtype)])


def test_what_has_no_numbers_is_finite() -> None:
    assert all_finite([])
    assert all_finite([torch.empty(0), torch.empty(3, 0)])
    assert not all_finite([torch.empty(0), torch.tensor(float("nan"))])


def test_dtypes_may_be_mixed() -> None:
    assert all_finite([torch.ones(2, dtype=dtype) for dtype in DTYPES])


def test_a_sparse_gradient_is_its_sum_in_each_place() -> None:
    places = torch.tensor([[1, 1]])
    # Each is finite, and both together are not.
    values = torch.tensor([3e38, 3e38])
    spoilt = torch.sparse_coo_tensor(places, values, (3,), check_invariants=True)
    assert not all_finite([spoilt])
    assert all_finite([spoilt / 2])
