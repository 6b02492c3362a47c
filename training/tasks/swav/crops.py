"""Random crops of pictures: some large ones, and more small ones that cost little.

    B  pictures        C  channels        H, W  height and width

Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", 2020, section 3.2 (multi-crop). Of the publication's distortions of colour, here are
brightness, contrast and grey; its blur is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

_ASPECT_MAX = 4 / 3
_GREY_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class CropPlan:
    """How many crops of which size are made of each picture."""

    large_count: int = 2
    """Crops whose assignments are computed; at least two."""
    large_side: int = 224
    """Pixels of their sides."""
    large_area: tuple[float, float] = (0.14, 1.0)
    """The least and the largest share of the picture in one."""
    small_count: int = 6
    """Crops that only have to agree with the large ones' assignments."""
    small_side: int = 96
    small_area: tuple[float, float] = (0.05, 0.14)
    flip: bool = True
    """Mirror half of the crops left to right."""
    jitter: float = 0.8
    """How far brightness and contrast go, as a share of themselves."""
    noise: float = 0.0
    """Standard deviation of what is added to each pixel."""

    def __post_init__(self) -> None:
        if self.large_count < 2 or self.small_count < 0:
            raise ValueError("at least two large crops are needed; small_count is 0 or more")
        if min(self.large_side, self.small_side) < 1:
            raise ValueError("a crop has at least one pixel")
        for least, most in (self.large_area, self.small_area):
            if not 0 < least <= most <= 1:
                raise ValueError(f"a crop's area is a share from above 0 to 1, not {least}–{most}")
        if not 0 <= self.jitter <= 1 or self.noise < 0:
            raise ValueError(f"jitter {self.jitter} is not from 0 to 1, or noise {self.noise} < 0")


def make_crops(
    images_BCHW: torch.Tensor, plan: CropPlan, chance: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """First the large crops, then the small ones, each (B, C, side, side), pixels from 0 to 1."""
    kinds = [(plan.large_side, plan.large_area)] * plan.large_count
    kinds += [(plan.small_side, plan.small_area)] * plan.small_count
    return tuple(_crop(images_BCHW, side, area, plan, chance) for side, area in kinds)


def _crop(
    images_BCHW: torch.Tensor,
    side: int,
    area: tuple[float, float],
    plan: CropPlan,
    chance: torch.Generator,
) -> torch.Tensor:
    count, channels = images_BCHW.shape[:2]
    dtype = images_BCHW.dtype

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=chance, dtype=dtype)

    stretch = torch.exp(uniform(-math.log(_ASPECT_MAX), math.log(_ASPECT_MAX)) / 2)
    length = uniform(*area).sqrt()
    # Sides and middle in the units of affine_grid, where the picture goes from -1 to 1.
    width, height = (length * stretch).clamp(max=1), (length / stretch).clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    if plan.flip:
        width = width * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0).to(dtype)
    zero = torch.zeros(count, dtype=dtype)
    place = torch.stack(
        [torch.stack([width, zero, x], dim=1), torch.stack([zero, height, y], dim=1)], dim=1
    )
    grid = nn.functional.affine_grid(place, [count, channels, side, side], align_corners=False)
    crops = nn.functional.grid_sample(images_BCHW, grid, padding_mode="border", align_corners=False)
    if plan.jitter:
        crops = crops * (1 + plan.jitter * uniform(-1, 1)).view(-1, 1, 1, 1)
        middle = crops.mean(dim=(1, 2, 3), keepdim=True)
        crops = middle + (crops - middle) * (1 + plan.jitter * uniform(-1, 1)).view(-1, 1, 1, 1)
        if channels > 1:
            grey = (uniform(0, 1) < _GREY_SHARE).view(-1, 1, 1, 1)
            crops = torch.where(grey, crops.mean(dim=1, keepdim=True), crops)
    if plan.noise:
        crops = crops + plan.noise * torch.randn(crops.shape, generator=chance, dtype=dtype)
    return crops.clamp(0, 1)
