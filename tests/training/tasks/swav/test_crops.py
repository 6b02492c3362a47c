"""Crops: their number and size, what is in them, and that the seed decides them."""

import dataclasses
from typing import Any

import pytest
import torch

from training.tasks.swav.crops import CropPlan, make_crops

PLAIN = CropPlan(
    large_side=8,
    small_count=3,
    small_side=5,
    large_area=(1.0, 1.0),
    small_area=(0.25, 0.25),
    flip=False,
    jitter=0.0,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp() -> torch.Tensor:
    """Pictures whose brightness is the place from left to right, 0 to 1."""
    return torch.linspace(0, 1, 16).view(1, 1, 1, 16).expand(20, 1, 16, 16).contiguous()


def test_sizes_and_range() -> None:
    plan = dataclasses.replace(PLAIN, jitter=0.8, noise=0.5, flip=True, large_area=(0.14, 1.0))
    crops = make_crops(torch.rand(4, 3, 20, 30, generator=generator()), plan, generator())
    assert [tuple(crop.shape) for crop in crops] == [(4, 3, 8, 8)] * 2 + [(4, 3, 5, 5)] * 3
    for crop in crops:
        assert crop.min() >= 0
        assert crop.max() <= 1


def test_the_seed_decides_and_crops_differ() -> None:
    plan = dataclasses.replace(PLAIN, large_area=(0.2, 0.9))
    images = torch.rand(3, 1, 16, 16, generator=generator())
    one, same, other = (make_crops(images, plan, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])


def test_a_crop_of_the_whole_area_is_nearly_the_picture() -> None:
    images = torch.rand(6, 1, 8, 8, generator=generator())
    plan = dataclasses.replace(PLAIN, large_side=8)
    large = make_crops(images, plan, generator())[0]
    # The aspect varies, so one side may be a little shorter; what is in the middle stays.
    spread = ramp()
    crop = make_crops(spread, plan, generator())[0]
    assert large.shape == images.shape
    assert ((crop[:, 0, :, -1] - crop[:, 0, :, 0]) > 0.7).all()


def test_a_crop_of_a_quarter_of_the_area_spans_about_half_of_the_width() -> None:
    crop = make_crops(ramp(), PLAIN, generator())[2]
    widths = (crop[:, 0, 0, -1] - crop[:, 0, 0, 0]) * 5 / 4
    assert widths.min() > 0.42
    assert widths.max() < 0.65
    places = crop[:, 0, 0].mean(dim=1)
    assert places.max() - places.min() > 0.2, "they lie in different places"


def test_half_of_them_are_mirrored() -> None:
    plan = dataclasses.replace(PLAIN, flip=True)
    crop = make_crops(ramp().repeat(10, 1, 1, 1), plan, generator())[0]
    falling = (crop[:, 0, 0, -1] < crop[:, 0, 0, 0]).double().mean()
    assert 0.4 < falling < 0.6


@pytest.mark.parametrize(
    "changes",
    [
        {"large_count": 1},
        {"small_count": -1},
        {"small_side": 0},
        {"large_area": (0.0, 1.0)},
        {"small_area": (0.5, 0.2)},
        {"jitter": 2.0},
        {"noise": -1.0},
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crop|jitter"):
        dataclasses.replace(PLAIN, **changes)
