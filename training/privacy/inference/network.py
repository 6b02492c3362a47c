"""A small network in whole numbers, as private inference computes it.

Features, weights and biases are fixed-point numbers; sums are taken modulo 2³², and a network whose
numbers could run over is refused when it is made. Between layers stand ReLU and a division by a
power of two that keeps the fraction short.

Shapes: B samples, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

RING_BITS = 32
_MAGNITUDE_MAX = 2 ** (RING_BITS - 1)
Ring = NDArray[np.uint32]
"""Whole numbers modulo 2³²; those from 2³¹ on stand for negative ones."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What both parties know of a network: nothing of its weights."""

    sizes: tuple[int, ...]
    """Features, then the outputs of each layer."""
    shifts: tuple[int, ...]
    """Bits dropped after each layer but the last."""
    feature_bits: int
    """Of each feature, its sign included."""
    feature_fraction_bits: int

    def fix_features(self, features_BI: NDArray[np.floating]) -> NDArray[np.int32]:
        """Features as fixed-point numbers.

        Raises:
            ValueError: another number of them, or one that is out of range or not finite.
        """
        if features_BI.ndim != 2 or features_BI.shape[1] != self.sizes[0]:
            raise ValueError(f"features must be of shape (samples, {self.sizes[0]})")
        largest = 2.0 ** (self.feature_bits - 1 - self.feature_fraction_bits)
        scaled = np.round(features_BI.astype(np.float64) * 2.0**self.feature_fraction_bits)
        limit = 2 ** (self.feature_bits - 1)
        if not np.all((scaled >= -limit) & (scaled < limit)):
            raise ValueError(f"features must be from {-largest:g} to below {largest:g}")
        return scaled.astype(np.int32)


@dataclass(frozen=True, eq=False)
class FixedNetwork:
    """Linear layers with ReLU between them, in whole numbers."""

    shape: Shape
    weights: tuple[NDArray[np.int32], ...]
    """Of each layer, shape (O, I)."""
    biases: tuple[NDArray[np.int32], ...]

    def __post_init__(self) -> None:
        bound = 2 ** (self.shape.feature_bits - 1)
        for layer, (weights, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            sums = np.abs(weights.astype(np.int64)).sum(1).astype(object) * bound
            bound = int(max(sums + np.abs(bias.astype(np.int64))))
            if bound >= _MAGNITUDE_MAX:
                raise ValueError(
                    f"layer {layer} could run over {RING_BITS} bits; give fewer fraction bits"
                )
            if layer < len(self.shape.shifts):
                bound >>= self.shape.shifts[layer]

    def logits(self, features_BI: NDArray[np.int32]) -> NDArray[np.int64]:
        """What the last layer gives, computed in the clear."""
        values = features_BI.astype(np.int64)
        for layer, (weights, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = values @ weights.T.astype(np.int64) + bias.astype(np.int64)
            if layer < len(self.shape.shifts):
                values = np.maximum(values, 0) >> self.shape.shifts[layer]
        return values

    def classes(self, features_BI: NDArray[np.int32]) -> NDArray[np.int64]:
        """The class of each sample, computed in the clear."""
        places: NDArray[np.int64] = np.argmax(self.logits(features_BI), axis=1)
        return places


def fix_network(
    model: nn.Sequential | nn.Linear,
    *,
    feature_bits: int = 8,
    feature_fraction_bits: int = 6,
    weight_fraction_bits: int = 10,
    hidden_fraction_bits: int = 8,
) -> FixedNetwork:
    """Turn linear layers with ReLU between them into whole numbers.

    Args:
        feature_bits: of each feature, sign and fraction included; the work grows with them.
        weight_fraction_bits: of weights; results are as good as these and the features' are.
        hidden_fraction_bits: of what goes from layer to layer.

    Raises:
        ValueError: the model is something else, or its numbers could run over 32 bits.
    """
    layers = _layers_of(model)
    if not 2 <= feature_bits <= 24 or not 0 <= feature_fraction_bits < feature_bits:
        raise ValueError("feature_bits must be 2 to 24, with fewer of them behind the point")
    fraction, shifts, weights, biases = feature_fraction_bits, [], [], []
    for place, layer in enumerate(layers):
        fraction += weight_fraction_bits
        weights.append(_fixed(layer.weight, weight_fraction_bits))
        bias: torch.Tensor | None = layer.bias
        biases.append(_fixed(torch.zeros(len(layer.weight)) if bias is None else bias, fraction))
        if place < len(layers) - 1:
            shifts.append(max(0, fraction - hidden_fraction_bits))
            fraction -= shifts[-1]
    shape = Shape(
        sizes=(layers[0].in_features, *(layer.out_features for layer in layers)),
        shifts=tuple(shifts),
        feature_bits=feature_bits,
        feature_fraction_bits=feature_fraction_bits,
    )
    return FixedNetwork(shape, tuple(weights), tuple(biases))


def _layers_of(model: nn.Sequential | nn.Linear) -> Sequence[nn.Linear]:
    modules: list[nn.Module] = []
    modules.extend([model] if isinstance(model, nn.Linear) else model)
    linear, between = modules[::2], modules[1::2]
    layers = [module for module in linear if isinstance(module, nn.Linear)]
    if (
        len(layers) != len(between) + 1
        or len(layers) < len(linear)
        or any(not isinstance(module, nn.ReLU) for module in between)
    ):
        raise ValueError("a private network is Linear layers with one ReLU between each two")
    return layers


def _fixed(values: torch.Tensor, fraction_bits: int) -> NDArray[np.int32]:
    scaled = np.round(values.detach().cpu().double().numpy() * 2.0**fraction_bits)
    if not np.all(np.abs(scaled) < _MAGNITUDE_MAX):
        raise ValueError("a weight is not finite, or too large; give fewer fraction bits")
    return scaled.astype(np.int32)
