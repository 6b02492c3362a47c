"""SwAV, which learns from pictures without labels: ResNet-50 in full size, and a tiny one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from training.errors import RecipeError
from training.extra import load_extra
from training.recipes.digits import load_data as load_digits
from training.tasks.swav import CropPlan, StoredImages, Swav, SwavConfig, SwavModel
from training.tasks.swav.images import ImageFolder


class PooledEncoder(nn.Module):
    """A network of transformers' kind as one that gives features (B, F)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The pooled output of the network."""
        pooled: torch.Tensor = self.network(pixel_values=images_BCHW).pooler_output
        return pooled.flatten(1)


def make_tiny_model(width: int = 32, embedding: int = 32, prototypes: int = 30) -> nn.Module:
    """Two convolutions, each picture's mean over its places, and a projection."""
    encoder = nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return SwavModel(
        encoder,
        _projection(2 * width, embedding),
        size=embedding,
        count=prototypes,
    )


def _projection(features: int, embedding: int) -> nn.Module:
    """Two layers. Without the norm between them all embeddings look alike at the beginning."""
    return nn.Sequential(
        nn.Linear(features, features),
        nn.BatchNorm1d(features),
        nn.ReLU(),
        nn.Linear(features, embedding),
    )


def load_tiny_data(
    queue_size: int = 256,
    queue_after: int = 2048,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Swav:
    """scikit-learn's digits; the labels only judge. The test set is that of the recipe digits."""
    digits = load_digits()
    plan = CropPlan(
        large_side=8,
        large_area=(0.7, 1.0),
        small_count=2,
        small_side=6,
        small_area=(0.4, 0.7),
        flip=False,
        jitter=0.2,
        noise=0.02,
    )
    config = SwavConfig(
        temperature=temperature,
        epsilon=epsilon,
        iterations=iterations,
        queue_size=queue_size,
        queue_after=queue_after,
    )
    train = StoredImages(digits.train_inputs.float(), digits.train_labels.numpy())
    test = StoredImages(digits.test_inputs.float(), digits.test_labels.numpy())
    return Swav(train, test, plan, config)


def make_model(
    layers: Sequence[int] = (3, 4, 6, 3), embedding: int = 128, prototypes: int = 3000
) -> nn.Module:
    """ResNet-50 by default, with a projection of two layers and 3 000 prototypes.

    Args:
        layers: blocks in each of the four stages.

    Raises:
        RecipeError: transformers is not installed.
    """
    transformers = load_extra("transformers")
    config = transformers.ResNetConfig(
        layer_type="bottleneck", depths=list(layers), hidden_sizes=[256, 512, 1024, 2048]
    )
    return SwavModel(
        PooledEncoder(transformers.ResNetModel(config)),
        _projection(config.hidden_sizes[-1], embedding),
        size=embedding,
        count=prototypes,
    )


def load_data(
    images: str = "",
    side: int = 256,
    large_side: int = 224,
    small_side: int = 96,
    small_count: int = 6,
    queue_size: int = 3840,
    queue_after: int = 6_272_000,
    temperature: float = 0.1,
    epsilon: float = 0.03,
    iterations: int = 3,
) -> Swav:
    """Pictures of your own, below `train` and `val` in one folder for each class.

    Args:
        images: the folder that holds train and val, such as ImageNet's.
        side: pictures are scaled and cut to squares of so many pixels.

    Raises:
        RecipeError: there are no pictures, or Pillow is not installed.
    """
    if not images:
        raise RecipeError(
            "data_options: images: is missing; it must be the path of a folder that holds the "
            "folders train and val, and these one folder for each class"
        )
    folder = Path(images).expanduser()
    train = ImageFolder(folder / "train", side=side)
    test = ImageFolder(folder / "val", side=side, classes=train.classes)
    plan = CropPlan(large_side=large_side, small_side=small_side, small_count=small_count)
    config = SwavConfig(
        temperature=temperature,
        epsilon=epsilon,
        iterations=iterations,
        queue_size=queue_size,
        queue_after=queue_after,
    )
    return Swav(train, test, plan, config)
