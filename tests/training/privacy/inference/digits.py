"""A small network for digits, trained once for several tests."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of shape (1797, 64) with values from 0 to 1, and their classes."""
    pictures, classes = load_digits(return_X_y=True)
    return torch.tensor(pictures / 16, dtype=torch.float32), torch.tensor(classes)


@cache
def trained_network() -> nn.Sequential:
    """64-32-10 with ReLU, after some steps on the first 1500 pictures."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pictures, classes = (part[:1500] for part in digits())
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures), classes).backward()
        optimizer.step()
    return model
