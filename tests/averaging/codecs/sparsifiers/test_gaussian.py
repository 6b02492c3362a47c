"""How many elements thresholds by a bell curve and by a sample select."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.codecs.sparsifiers.gaussian import (
    dgc_sampled_above,
    gaussian_as_published,
    gaussian_largest,
    gaussian_sent_max,
    sampled_largest,
)
from averaging.codecs.sparsifiers.scan import largest
from tests.averaging.codecs.sparsifiers.vectors import drawn

COUNT = 1_000_000


@pytest.mark.parametrize(
    ("distribution", "kept", "published"),
    [
        ("normal", 100_000, 1.00),
        ("normal", 10_000, 0.99),
        ("normal", 1000, 0.99),
        ("laplace", 10_000, 6.5),
        ("student-3", 10_000, 0.68),
        ("uniform", 10_000, 0.0),
        ("shifted", 1000, 9.96),
    ],
)
def test_selected_of_wanted(distribution: str, kept: int, published: float) -> None:
    values = drawn(distribution, COUNT)
    as_published = gaussian_as_published(values, kept)
    # A thousand are selected give or take 3 %, ten thousand 1 %.
    assert len(as_published) / kept == pytest.approx(published, rel=0.05, abs=0.01)
    found = gaussian_largest(values, kept)
    assert 2 * kept <= 3 * len(found) <= 4 * kept + 2
    assert torch.equal(found, largest(values, len(found)))


@pytest.mark.parametrize(
    "values",
    [
        torch.full((5000,), -0.25),  # no threshold divides it
        torch.zeros(5000),
        torch.full((5000,), 1e-30),  # squares vanish
        torch.full((5000,), 1e30),  # squares overflow
        torch.cat((torch.full((2000,), 2.0), drawn("normal", 3000) * 0.01)),  # too many equal
        torch.cat((torch.zeros(4990), torch.ones(10))),  # fewer than wanted
        torch.cat((torch.zeros(4999), torch.full((1,), 1e15))),  # all in one
        10 + drawn("normal", 5000),  # far from 0
    ],
)
def test_what_does_not_settle_is_ranked(values: torch.Tensor) -> None:
    found = gaussian_largest(values, 50)
    least = min(34, int(values.count_nonzero()))
    assert least <= len(found) <= gaussian_sent_max(50) == 67
    if len(found):
        assert torch.equal(found, largest(values, len(found)))


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60),
    seed=st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_what_is_found_is_largest_and_enough(
    numbers: list[float], seed: int, data: st.DataObject
) -> None:
    values = torch.tensor(numbers)
    kept = data.draw(st.integers(1, len(numbers)))
    nonzero = int(values.count_nonzero())
    by_curve = gaussian_largest(values, kept)
    assert min(-(-2 * kept // 3), nonzero) <= len(by_curve) <= gaussian_sent_max(kept)
    by_sample = sampled_largest(values, kept, seed)
    assert min(dgc_sampled_above(len(numbers), kept), nonzero) <= len(by_sample) <= kept
    for found in (by_curve, by_sample):
        left = values.abs()
        least = float(left[found].min()) if len(found) else 0.0
        left[found] = 0
        assert float(left.max()) <= least or not nonzero


def test_a_sample_finds_about_as_many_as_wanted() -> None:
    values = drawn("normal", COUNT)
    for kept in (1000, 10_000, 100_000):
        # The threshold rests on 16 of the sample at least, so give or take a quarter.
        assert kept / 2 <= len(sampled_largest(values, kept, 5)) <= kept


def test_few_are_sampled_where_many_would_be_chance() -> None:
    assert dgc_sampled_above(1_000_000, 10_000) == 100
    assert dgc_sampled_above(100_000, 100) == 16
    assert dgc_sampled_above(100, 1) == 1
