"""The gradient of each sample by itself, cut to a length and summed.

Legend of shapes: m = samples of a micro-batch, E = elements of all trained parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_flatten, tree_map

Loss = Callable[[nn.Module, Any], torch.Tensor]
"""The mean loss over a batch's samples; every tensor of a batch has its samples first."""


class PerSampleGradients:
    """Per-sample gradients of a model's trained parameters, by torch.func, some at a time.

    Args:
        model: its parameters that require a gradient are those meant; nothing of it is changed.
        loss: of one batch, here called with batches of one sample.
        samples_at_once: whose gradients are held in memory at the same time, m; the result is the
            same for any.

    Raises:
        ValueError: a layer of the model mixes samples or remembers them, as batch norm does.
    """

    def __init__(self, model: nn.Module, loss: Loss, *, samples_at_once: int = 64) -> None:
        if samples_at_once < 1:
            raise ValueError(f"samples_at_once must be at least 1, not {samples_at_once}")
        for name, module in model.named_modules():
            if _mixes(module):
                raise ValueError(
                    f"layer {name!r} is a {type(module).__name__}, which mixes the samples of a "
                    "batch or keeps their mean, so that they cannot be hidden one by one; use "
                    "nn.GroupNorm"
                )
        self._samples_at_once = samples_at_once
        self._model = model
        whole = _LossOf(model, loss)

        def sample_loss(trained: dict[str, torch.Tensor], sample: Any) -> torch.Tensor:
            alone = tree_map(lambda tensor: tensor.unsqueeze(0), sample)
            return functional_call(whole, trained, (alone,))  # type: ignore[no-any-return]

        # Each sample has dropout of its own, as it has in an ordinary batch.
        self._gradients = vmap(
            grad_and_value(sample_loss), in_dims=(None, 0), randomness="different"
        )

    def clipped_sum(self, batch: Any, clip: float) -> tuple[dict[str, torch.Tensor], float, int]:
        """The sum over all samples of their gradients, each of which is at most so long (L2).

        A sample whose gradient is not finite adds nothing.

        Returns:
            the sum by parameter name, the sum of the losses that are finite, and how many samples
            there were; an empty batch has zeros.
        """
        trained = {n: p.detach() for n, p in _trained(self._model).items()}
        sums = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
        prefixed = {f"model.{name}": parameter for name, parameter in trained.items()}
        loss, count = 0.0, 0
        for piece in _pieces(batch, self._samples_at_once):
            gradients, losses = self._gradients(prefixed, piece)
            count += len(losses)
            loss += float(losses.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).sum())
            factors_m = clipping_factors(list(gradients.values()), clip)
            unusable_m = factors_m == 0
            for name, gradient in gradients.items():
                if unusable_m.any():
                    gradient = gradient.clone()
                    gradient[unusable_m] = 0
                sums[name.removeprefix("model.")] += torch.tensordot(
                    factors_m.to(gradient.dtype), gradient, dims=1
                )
        return sums, loss, count


def clipping_factors(gradients: list[torch.Tensor], clip: float) -> torch.Tensor:
    """By what to multiply each sample's gradients so that it is at most so long; float64, (m).

    Args:
        gradients: (m, …) each. Of a sample with infinite or undefined ones the factor is 0.
    """
    squares_m = sum(
        torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64).square()
        for gradient in gradients
    )
    assert isinstance(squares_m, torch.Tensor), "there is at least one parameter"
    norms_m = squares_m.sqrt()
    factors_m = torch.clamp(clip / norms_m, max=1.0)
    return torch.where(torch.isfinite(norms_m), factors_m, torch.zeros_like(factors_m))


class _LossOf(nn.Module):
    """A model and its loss as one module, so that functional_call can exchange its parameters."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> torch.Tensor:
        """The mean loss."""
        return self._loss(self.model, batch)


def _mixes(module: nn.Module) -> bool:
    """Whether a sample reaches others through this layer, or its buffers."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in sorted(model.named_parameters()) if p.requires_grad}


def _pieces(batch: Any, size: int) -> list[Any]:
    """The batch in pieces of at most so many samples; none of an empty one."""
    tensors, _ = tree_flatten(batch)
    count = len(tensors[0])
    return [
        tree_map(lambda tensor, first=first: tensor[first : first + size], batch)
        for first in range(0, count, size)
    ]
