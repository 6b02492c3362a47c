"""What attack tests share: digits, and decoders that are small enough for them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from training.data import LabelledData
from training.recipes.digits import load_data
from training.split.attacks import Pairs


@functools.cache
def digits() -> LabelledData:
    """Handwritten digits in 32 bits."""
    data = load_data()
    return LabelledData(
        train_inputs=data.train_inputs.float(),
        train_labels=data.train_labels,
        test_inputs=data.test_inputs.float(),
        test_labels=data.test_labels,
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Independent normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def turned(seed: int = 0) -> tuple[Pairs, Pairs]:
    """Auxiliary and victims' pairs whose activations are the pixels, turned, scaled and moved."""
    turn, _ = torch.linalg.qr(noise(64, 64, seed=seed))
    data = digits()
    auxiliary, victims = (
        Pairs(3 * inputs.flatten(1) @ turn + 1, inputs)
        for inputs in (data.train_inputs, data.test_inputs)
    )
    return auxiliary, victims


def unrelated() -> tuple[Pairs, Pairs]:
    """Auxiliary and victims' pairs whose activations are noise."""
    data = digits()
    auxiliary, victims = (
        Pairs(noise(len(inputs), 32, seed=seed), inputs)
        for seed, inputs in enumerate((data.train_inputs, data.test_inputs))
    )
    return auxiliary, victims
