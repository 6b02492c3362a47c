"""What SwAV trains: an encoder, a small network behind it, and prototypes.

B  pictures     F  features of a picture     D  its embedding     K  prototypes
"""

from __future__ import annotations

import torch
from torch import nn


class SwavModel(nn.Module):
    """Gives each picture a unit vector, and scores it against the prototypes, unit vectors, too.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", 2020, section 3. There the prototypes are scaled to length 1 after each step; here
    they are whenever they are used, so nothing but the optimizer changes a parameter.
    """

    def __init__(self, encoder: nn.Module, projection: nn.Module, *, size: int, count: int) -> None:
        """Put the parts together.

        Args:
            encoder: pictures (B, C, H, W) of any size to features (B, F).
            projection: features to (B, size).
            size: D.
            count: K.
        """
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.prototypes = nn.Parameter(nn.functional.normalize(torch.randn(count, size), dim=1))

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Features (B, F): what is of use afterwards."""
        features: torch.Tensor = self.encoder(images_BCHW)
        return features

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of length 1."""
        projected: torch.Tensor = self.projection(self.encode(images_BCHW))
        return nn.functional.normalize(projected, dim=1)

    def score(self, embeddings_BD: torch.Tensor) -> torch.Tensor:
        """How near each is to each prototype, (B, K), from -1 to 1."""
        return embeddings_BD @ nn.functional.normalize(self.prototypes, dim=1).T
