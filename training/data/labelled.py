"""What a recipe's data function returns: inputs and labels to train and to test on."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """A classification task that fits into memory; N examples of any one shape.

    The test examples are the same on every peer, and no peer ever trains on them.
    """

    train_inputs: torch.Tensor
    """(N, …) floating point, on the CPU."""
    train_labels: torch.Tensor
    """(N) int64, from 0."""
    test_inputs: torch.Tensor
    """(M, …) like the training inputs."""
    test_labels: torch.Tensor
    """(M) int64."""

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            inputs, labels = getattr(self, f"{part}_inputs"), getattr(self, f"{part}_labels")
            if len(inputs) == 0 or len(inputs) != len(labels):
                raise ValueError(
                    f"{part}: as many inputs as labels are needed, and at least one; "
                    f"got {len(inputs)} and {len(labels)}"
                )
