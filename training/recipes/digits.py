"""Handwritten digits: scikit-learn's 1 797 images of 8 × 8 pixels, and a small network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from training.data import LabelledData, stratified_fifth

IMAGE_SIDE = 8
DIGIT_COUNT = 10
PIXEL_MAX = 16.0  # scikit-learn's images hold counts from 0 to 16


def load_data() -> LabelledData:
    """The images with pixels scaled to 0…1; a fixed stratified fifth is the test set."""
    # Imported here: scikit-learn brings scipy along, which nothing else needs.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[stratified_fifth(labels)] = True
    inputs = torch.from_numpy(pixels / PIXEL_MAX).reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
    targets = torch.from_numpy(labels.astype(np.int64))
    test = torch.from_numpy(is_test)
    return LabelledData(
        train_inputs=inputs[~test],
        train_labels=targets[~test],
        test_inputs=inputs[test],
        test_labels=targets[test],
    )


def make_model() -> nn.Module:
    """Two convolutions and a linear layer: 9 930 parameters, about 98 % right after 300 steps."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (IMAGE_SIDE // 2) ** 2, DIGIT_COUNT),
    )
