"""What tests of all quantizers share: their names, and a vector to try them on."""

from __future__ import annotations

import torch

NAMES = (
    "float16",
    "bfloat16",
    "float16-scaled",
    "int8",
    "int8-block:4096",
    "int8-block:16",
    "int4-block:64",
    "quantile8",
    "natural",
    "rounding:2",
    "rounding:1.2",
    "rounding:4",
    "nearest:2",
    "nearest:1.2",
    "nearest:5",
    "dither:2,7",
    "dither:2,8,2",
    "dither:3,3,1",
    "dither:2,1",
    "sign",
    "onebit",
)
"""Every kind, with bases above, below and at two, and symbols of 1 to 8 bits."""


def normal(count: int, seed: int = 0, scale: float = 0.01) -> torch.Tensor:
    """Normally distributed, float32."""
    return scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))
